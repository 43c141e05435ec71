/* SPDX-License-Identifier: BSD-2-Clause */
/* What the data plane calls a frame, and the sizes everything is bounded by. */
#ifndef VSW_FRAME_H
#define VSW_FRAME_H

#include <endian.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#define FRAME_MIN      14    /* bytes: an Ethernet header; shorter is a runt */
#define FRAME_MAX      69632 /* bytes: the most QEMU's socket netdevs take (its NET_BUFSIZE) */
#define FRAME_BATCH    256   /* most frames handed over at once */
#define FRAME_PREFIX   4     /* bytes before each frame that hold its length, see struct frame */
#define FRAME_VLAN_TAG 4     /* bytes of an 802.1Q tag */
#define FRAME_HEAD     64    /* bytes of a frame that are at hand in one piece, if it has so many */
#define FRAME_MAC_PAIR 12    /* bytes of destination and source address */

#define FRAME_BROADCAST 0xffffffffffffULL

struct offload; /* offload.h */

/* A borrowed view of one Ethernet frame without FCS; valid until the call it was passed to returns. It is in two parts:
 *
 * `head`, the first `head_len` bytes, is memory of ours that nobody else writes: what is decided by it still holds when
 * the frame is delivered. It holds the whole frame, or FRAME_HEAD bytes, so all protocol headers a switch looks at. (Of a
 * frame that leaves with a tag more or less than it came with, it holds FRAME_VLAN_TAG bytes more or less; of one we
 * finished for its sender, see offload.h, it may hold more.)
 * The FRAME_PREFIX bytes before it always hold `len` in network order: QEMU's stream framing, so that a stream port
 * sends prefix and frame, and frames that lie side by side, as one piece. Whoever collects a frame writes them.
 *
 * `rest`, the other `len - head_len` bytes, may be memory that the sender still writes to: its content is never looked at.
 *
 * `offload` says what the sender left for hardware to do, NULL: nothing. Of such an unfinished frame the rest is memory of
 * ours as well, since we may have to do it.
 */
struct frame {
	const uint8_t *head;
	const uint8_t *rest;
	const struct offload *offload;
	uint32_t len;
	uint32_t head_len;
};

/* Return a view of `len` bytes at `data` that nobody else writes. */
static inline struct frame frame_whole(const uint8_t *data, uint32_t len)
{
	return (struct frame){ .head = data, .len = len, .head_len = len };
}

/* Point `pieces` at the frame with the last `before` bytes of what precedes it (0 or FRAME_PREFIX). Return how many. */
static inline unsigned frame_pieces(const struct frame *frame, uint32_t before, struct iovec pieces[2])
{
	pieces[0] = (struct iovec){ (void *)(uintptr_t)(frame->head - before), before + frame->head_len };
	if (frame->head_len == frame->len)
		return 1;
	pieces[1] = (struct iovec){ (void *)(uintptr_t)frame->rest, frame->len - frame->head_len };
	return 2;
}

/* Write the length prefix of the frame that starts at `data`. */
static inline void frame_set_prefix(uint8_t *data, uint32_t len)
{
	uint32_t wire = htobe32(len);

	memcpy(data - FRAME_PREFIX, &wire, sizeof(wire));
}

/* Return the 48-bit address at `address` (8 readable bytes) as a number, first byte highest. */
static inline uint64_t frame_mac(const uint8_t *address)
{
	uint64_t wire;

	memcpy(&wire, address, sizeof(wire));
	return be64toh(wire) >> 16;
}

static inline uint64_t frame_destination(const struct frame *frame)
{
	return frame_mac(frame->head);
}

static inline uint64_t frame_source(const struct frame *frame)
{
	return frame_mac(frame->head + 6);
}

/* The first bit on the wire marks a group (multicast or broadcast) address. */
static inline int frame_is_group(uint64_t mac)
{
	return (int)(mac >> 40) & 1;
}

#endif
