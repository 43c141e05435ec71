/* SPDX-License-Identifier: BSD-2-Clause */
/* Counters of one direction of a port. Unicast is what is left of the totals: it has most frames, so it costs nothing. */
#ifndef VSW_TRAFFIC_H
#define VSW_TRAFFIC_H

#include "frame.h"

struct traffic {
	uint64_t frames, bytes; /* all */
	uint64_t multicast_frames, multicast_bytes;
	uint64_t broadcast_frames, broadcast_bytes;
	uint64_t unsorted_frames, unsorted_bytes; /* dropped before anybody looked where they were bound */
};

/* Count one frame of `len` bytes for `destination`. */
static inline void vsw_traffic_add(struct traffic *traffic, uint64_t destination, uint32_t len)
{
	traffic->frames++;
	traffic->bytes += len;
	if (!frame_is_group(destination))
		return;
	if (destination == FRAME_BROADCAST) {
		traffic->broadcast_frames++;
		traffic->broadcast_bytes += len;
	} else {
		traffic->multicast_frames++;
		traffic->multicast_bytes += len;
	}
}

/* Count `n` frames. */
static inline void vsw_traffic_add_frames(struct traffic *traffic, const struct frame *frames, unsigned n)
{
	uint64_t bytes = 0;
	uint8_t first = 0;

	for (unsigned i = 0; i < n; i++) {
		bytes += frames[i].len;
		first |= frames[i].head[0];
	}
	traffic->frames += n;
	traffic->bytes += bytes;
	if (!(first & 1))
		return;
	/* Floods go to many ports, so this is done many times a frame: without a branch. */
	for (unsigned i = 0; i < n; i++) {
		uint64_t destination = frame_destination(&frames[i]);
		uint64_t broadcast = destination == FRAME_BROADCAST;
		uint64_t multicast = (destination >> 40 & 1) - broadcast;

		traffic->multicast_frames += multicast;
		traffic->multicast_bytes += multicast * frames[i].len;
		traffic->broadcast_frames += broadcast;
		traffic->broadcast_bytes += broadcast * frames[i].len;
	}
}

#endif
