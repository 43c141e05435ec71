/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames whose sender has left work to hardware: checksums to be filled in, and TCP or UDP data to be cut into segments
 * (TSO, USO). The kernel and virtual machines say so in a virtio-net header before each frame. (Virtio 1.2, 5.1.6.)
 *
 * Between ports with such headers a frame passes unfinished and whole: one copy of 64 KiB instead of 45 of 1.5 KiB each. For
 * all other ports the switch finishes it, here and nowhere else. Until then it counts as one frame, of all its bytes.
 */
#ifndef VSW_OFFLOAD_H
#define VSW_OFFLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"

struct port;

/* The kernel's struct virtio_net_hdr, all little-endian. Not all its constants are in the headers of every kernel. */
struct offload_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};

_Static_assert(sizeof(struct offload_header) == 10, "as in virtio_net.h");

#define OFFLOAD_NEEDS_CSUM 1 /* flags */

#define OFFLOAD_GSO_NONE  0 /* gso_type */
#define OFFLOAD_GSO_TCPV4 1
#define OFFLOAD_GSO_TCPV6 4
#define OFFLOAD_GSO_UDP   5 /* segments are datagrams of their own; 3, IP fragments of one, is not taken from anybody */
#define OFFLOAD_GSO_ECN   0x80 /* flag: the frame has TCP's CWR bit set */

#define OFFLOAD_HEADERS_MAX 512 /* bytes of headers of a frame to be segmented; it may get a tag besides */

/* Segments of one frame. Linux's smallest MSS is 48; less 12 bytes of timestamps it makes 1819 of the longest packet. More
 * would be work that a peer can have us do for every port the frame is flooded to.
 */
#define OFFLOAD_SEGMENTS_MAX 2048

/* What is left to do for a frame: the checksum always, segmentation if gso_size is not 0. Checked against the frame. */
struct offload {
	uint16_t csum_start;  /* bytes into the frame: from here on all is summed */
	uint16_t csum_offset; /* bytes from there: where the sum belongs, and that of the pseudo header is */
	uint16_t gso_size;    /* most bytes of payload in a segment */
	uint16_t hdr_len;     /* bytes before the payload; of a frame to be segmented, as the following */
	uint16_t network;     /* bytes before the IP header */
	uint8_t gso_type;     /* as in the header */
	bool ipv4;
};

/* Read what `header` says of `frame`, all of which is memory of ours, before which `inserted` bytes of VLAN tag were put back
 * since. Point frame->offload at `offload` if anything is left to do. Return false when it says what cannot be.
 */
bool vsw_offload_read(const struct offload_header *header, uint32_t inserted, struct frame *frame,
		      struct offload *offload);

/* Write the header that says what is left to do for `frame`. Of a finished one it says nothing, not even that checksums are
 * good: nobody here has looked.
 */
void vsw_offload_write(const struct frame *frame, struct offload_header *header);

/* Return the same of a frame that has grown by `bytes` before its IP header. */
struct offload vsw_offload_moved(const struct offload *offload, int bytes);

/* Return how long the longest frame is that `frame` is finished to. */
static inline uint32_t vsw_offload_longest(const struct frame *frame)
{
	const struct offload *offload = frame->offload;
	uint32_t longest;

	if (!offload || !offload->gso_size)
		return frame->len;
	longest = (uint32_t)offload->hdr_len + offload->gso_size;
	return longest < frame->len ? longest : frame->len;
}

/* Finish what is unfinished of `n` frames, which stay as they are, and deliver all to `to`, which is UP. */
void vsw_offload_deliver(struct port *to, const struct frame *frames, unsigned n);

#endif
