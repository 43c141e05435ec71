/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames as bytes, with any tags, sent and received at a peer's end of a stream port. */
#ifndef VSW_TEST_WIRE_H
#define VSW_TEST_WIRE_H

#include "lab.h"

#define WIRE_MAX 512 /* bytes of a frame here */

struct wire {
	uint32_t len;
	uint8_t bytes[WIRE_MAX];
};

static inline void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* A frame of `len` (>= 18) bytes without a tag, filled with `fill`. */
static inline struct wire wire_make(uint64_t to, uint64_t from, uint32_t len, int fill)
{
	struct wire wire = { .len = len };

	memset(wire.bytes, fill, len);
	put_mac(wire.bytes, to);
	put_mac(wire.bytes + 6, from);
	put16(wire.bytes + 12, 0x88b5);
	return wire;
}

/* The frame with a tag put before what follows its addresses. */
static inline struct wire wire_tag(struct wire wire, unsigned type, unsigned tci)
{
	memmove(wire.bytes + 16, wire.bytes + 12, wire.len - 12);
	put16(wire.bytes + 12, type);
	put16(wire.bytes + 14, tci);
	wire.len += 4;
	return wire;
}

/* The frame without its outermost tag. */
static inline struct wire wire_untag(struct wire wire)
{
	memmove(wire.bytes + 12, wire.bytes + 16, wire.len - 16);
	wire.len -= 4;
	return wire;
}

static inline void wire_send(struct peer peer, const struct wire *wire)
{
	uint8_t framed[4 + WIRE_MAX];
	uint32_t len = htobe32(wire->len);

	memcpy(framed, &len, 4);
	memcpy(framed + 4, wire->bytes, wire->len);
	CHECK(write(peer.fd, framed, wire->len + 4) == (ssize_t)wire->len + 4);
}

/* Read `n` bytes, the last of which may still be queued. Return false when there is not even one. */
static inline bool wire_read(struct peer peer, uint8_t *to, uint32_t n)
{
	uint32_t have = 0;

	while (have < n) {
		ssize_t got = read(peer.fd, to + have, n - have);

		if (got < 0 && !have)
			return false;
		if (got < 0)
			lab_settle();
		CHECK(got != 0);
		have += got > 0 ? (uint32_t)got : 0;
	}
	return true;
}

/* Read one frame. Return false when there is none. */
static inline bool wire_receive(struct peer peer, struct wire *wire)
{
	uint8_t prefix[4];

	if (!wire_read(peer, prefix, 4))
		return false;
	wire->len = (uint32_t)prefix[2] << 8 | prefix[3];
	CHECK(wire->len <= WIRE_MAX && !prefix[0] && !prefix[1]);
	while (!wire_read(peer, wire->bytes, wire->len))
		lab_settle();
	return true;
}

static inline bool wire_same(const struct wire *a, const struct wire *b)
{
	return a->len == b->len && !memcmp(a->bytes, b->bytes, a->len);
}

/* Send, and let it arrive. */
static inline void wire_pass(struct peer peer, struct wire wire)
{
	wire_send(peer, &wire);
	lab_settle();
}

/* Whether the next frame at `peer` is this one. */
static inline bool wire_got(struct peer peer, struct wire wanted)
{
	struct wire got;

	return wire_receive(peer, &got) && wire_same(&got, &wanted);
}

static inline bool wire_silent(struct peer peer)
{
	struct wire got;

	return !wire_receive(peer, &got);
}

#endif
