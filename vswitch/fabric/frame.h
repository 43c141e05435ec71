/* SPDX-License-Identifier: BSD-2-Clause */
/* What the data plane calls a frame, and the sizes everything is bounded by. */
#ifndef VSW_FRAME_H
#define VSW_FRAME_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define FRAME_MIN      14    /* bytes: an Ethernet header; shorter is a runt */
#define FRAME_MAX      69632 /* bytes: the most QEMU's socket netdevs take (its NET_BUFSIZE) */
#define FRAME_BATCH    256   /* most frames handed over at once */
#define FRAME_PREFIX   4     /* bytes before each frame that hold its length, see struct frame */
#define FRAME_VLAN_TAG 4     /* bytes of an 802.1Q tag */
#define FRAME_MAC_PAIR 12    /* bytes of destination and source address */

/* A borrowed view of one Ethernet frame without FCS; valid until the call it was passed to returns.
 * The FRAME_PREFIX bytes before `data` always hold `len` in network order: QEMU's stream framing, so that a stream port
 * sends header and frame, and frames that lie side by side, as one piece. Whoever collects a frame writes them.
 */
struct frame {
	const uint8_t *data;
	uint32_t len;
};

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
	return frame_mac(frame->data);
}

static inline uint64_t frame_source(const struct frame *frame)
{
	return frame_mac(frame->data + 6);
}

/* The first bit on the wire marks a group (multicast or broadcast) address. */
static inline int frame_is_group(uint64_t mac)
{
	return (int)(mac >> 40) & 1;
}

#endif
