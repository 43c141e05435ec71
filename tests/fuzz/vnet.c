/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzzes what is made of frames with a virtio-net header: the input's first byte says how the frame lies in memory, then come
 * the header and the frame. Nothing may be read or written outside; and of what is accepted, each segment must be no longer
 * than asked for, carry the next piece of the payload under the same addresses, and add up as the sender's sum said.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine.h"
#include "offload.h"
#include "vlan.h"

#define SEGMENTS_MAX (2 * OFFLOAD_SEGMENTS_MAX)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct engine *engine;

/* What arrived: copied, as the views end. */
static struct {
	uint8_t *bytes;
	uint32_t len;
} segments[SEGMENTS_MAX];
static unsigned n_segments;

#define REQUIRE(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			__builtin_trap();                                                                              \
	} while (0)

static uint8_t *flatten(const struct frame *frame)
{
	uint8_t *bytes = malloc(frame->len);
	struct iovec pieces[2];
	unsigned n = frame_pieces(frame, 0, pieces);
	size_t at = 0;

	REQUIRE(bytes);
	for (unsigned i = 0; i < n; i++) {
		memcpy(bytes + at, pieces[i].iov_base, pieces[i].iov_len);
		at += pieces[i].iov_len;
	}
	return bytes;
}

static void take(struct port *port, const struct frame *frames, unsigned n)
{
	(void)port;
	REQUIRE(n > 0 && n <= FRAME_BATCH);
	for (unsigned i = 0; i < n; i++) {
		uint32_t prefix;

		REQUIRE(n_segments < SEGMENTS_MAX && !frames[i].offload);
		REQUIRE(frames[i].len >= FRAME_MIN && frames[i].len <= FRAME_MAX + FRAME_VLAN_TAG);
		memcpy(&prefix, frames[i].head - FRAME_PREFIX, sizeof(prefix));
		REQUIRE(be32toh(prefix) == frames[i].len);
		segments[n_segments].bytes = flatten(&frames[i]);
		segments[n_segments++].len = frames[i].len;
	}
}

static const struct port_ops taking_ops = { .name = "taking", .deliver = take };

/* RFC 1071; `n` bytes as big-endian words. */
static unsigned add_words(unsigned sum, const uint8_t *data, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		sum += i % 2 ? data[i] : (unsigned)data[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static unsigned add_length(unsigned sum, uint32_t len)
{
	uint8_t words[4] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len };

	return add_words(sum, words, sizeof(words));
}

/* Sums are right if what was there before the sender's summed fields equals what is there with ours, which makes all ones. */
static void check_sum(const struct frame *frame, const uint8_t *bytes, uint32_t len, const uint8_t field[2])
{
	const struct offload *offload = frame->offload;
	uint32_t start = offload->csum_start;
	unsigned sum = add_words(0, bytes + start, len - start);

	if (offload->csum_offset % 2)
		return; /* nobody has a sum there, nor says what it would be */
	sum = add_words(sum, field, 2);
	sum = add_length(sum, len - start);
	/* Take the old length out: add its complement. */
	sum += ~add_length(0, frame->len - start) & 0xffff;
	sum = (sum & 0xffff) + (sum >> 16);
	REQUIRE(sum == 0xffff || sum == 0);
}

/* See that the segments are what `frame`, also found at `whole`, stands for. */
static void check_segments(const struct frame *frame, const uint8_t *whole)
{
	const struct offload *offload = frame->offload;
	const uint8_t *field = whole + offload->csum_start + offload->csum_offset;
	uint32_t header = offload->gso_size ? offload->hdr_len : 0, done = 0;

	REQUIRE(n_segments > 0);
	for (unsigned i = 0; i < n_segments; i++) {
		uint32_t n = segments[i].len - header;

		REQUIRE(segments[i].len >= header && done + n <= frame->len - header);
		REQUIRE(!memcmp(segments[i].bytes, whole, FRAME_MAC_PAIR));
		check_sum(frame, segments[i].bytes, segments[i].len, field);
		if (offload->gso_size) {
			REQUIRE(n == offload->gso_size || i == n_segments - 1);
			REQUIRE(n <= offload->gso_size && segments[i].len <= vsw_offload_longest(frame));
			REQUIRE(!memcmp(segments[i].bytes + header, whole + header + done, n));
			if (offload->ipv4) {
				const uint8_t *ip = segments[i].bytes + offload->network;

				REQUIRE(add_words(0, ip, (ip[0] & 15) * 4U) == 0xffff);
				REQUIRE((uint32_t)(ip[2] << 8 | ip[3]) == segments[i].len - offload->network);
			}
		} else {
			uint32_t at = (uint32_t)(field - whole);

			REQUIRE(!memcmp(segments[i].bytes, whole, at));
			REQUIRE(!memcmp(segments[i].bytes + at + 2, field + 2, frame->len - at - 2));
		}
		done += n;
	}
	REQUIRE(done == frame->len - header);
}

static void finish(const struct frame *frame)
{
	struct port port = { .ops = &taking_ops, .engine = engine, .state = PORT_UP };
	uint8_t *whole = flatten(frame);

	n_segments = 0;
	vsw_offload_deliver(&port, frame, 1);
	check_segments(frame, whole);
	for (unsigned i = 0; i < n_segments; i++)
		free(segments[i].bytes);
	free(whole);
}

/* The frame as it leaves a switch that changes its tag. */
static void finish_retagged(const struct frame *frame, bool tag)
{
	struct vlan_tag had;
	struct vlan_room room;
	struct frame made;

	if (!vsw_vlan_read(frame, VLAN_8021Q, &had))
		return;
	made = vsw_vlan_retag(frame, had.there, tag ? VLAN_8021Q : 0, 0x123, &room);
	finish(&made);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct offload_header header, again;
	struct offload offload;
	struct frame frame;
	uint8_t *memory, how;
	uint32_t inserted;

	if (size < 1 + sizeof(header) + FRAME_MIN || size > 1 + sizeof(header) + FRAME_MAX)
		return 0;
	if (!engine)
		REQUIRE(!vsw_engine_new(&engine));
	how = data[0];
	memcpy(&header, data + 1, sizeof(header));
	data += 1 + sizeof(header);
	size -= 1 + sizeof(header);
	memory = malloc(FRAME_PREFIX + size); /* its end is where the frame ends, for AddressSanitizer */
	REQUIRE(memory);
	memcpy(memory + FRAME_PREFIX, data, size);
	frame_set_prefix(memory + FRAME_PREFIX, (uint32_t)size);
	frame = frame_whole(memory + FRAME_PREFIX, (uint32_t)size);
	inserted = how & 4;
	if (vsw_offload_read(&header, inserted, &frame, &offload)) {
		vsw_offload_write(&frame, &again);
		if (frame.offload) {
			REQUIRE(le16toh(again.csum_start) == le16toh(header.csum_start) + inserted);
			REQUIRE(again.gso_type == header.gso_type && again.csum_offset == header.csum_offset);
			if (how & 1)
				finish_retagged(&frame, how & 2);
			else
				finish(&frame);
		}
	}
	free(memory);
	return 0;
}
