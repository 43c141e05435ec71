/* SPDX-License-Identifier: BSD-2-Clause */
/* What port types share whose peer gets each frame as a datagram of its own, behind a header or not, over a connected socket
 * that keeps a datagram together (unix, UDP or raw IP).
 *
 * An empty datagram stops QEMU's reader for good: none is ever sent (frames have FRAME_MIN bytes), those received are runts.
 */
#ifndef VSW_DATAGRAM_PORT_H
#define VSW_DATAGRAM_PORT_H

#include "../fabric/port.h"
#include "outqueue.h"

#define DATAGRAM_HEADER_PIECES 3

/* First in the port's private state. */
struct datagram_port {
	bool late_errors; /* a call may fail for an earlier datagram: news of those sent over IP come back after a while */
	bool lumps_in;    /* the kernel may hand over a lump of datagrams of one size at once: UDP with UDP_GRO */
	uint32_t lumps_out; /* bytes: it takes lumps of datagrams up to this size (UDP_SEGMENT); 0: it does not */
	uint32_t settled;   /* datagrams sent, or given up, so far */
	struct outqueue queue;

	/* Point `pieces` at what goes before the frame that is the `nth` (0..FRAME_BATCH - 1) to be sent after those settled.
	 * Return how many there are. NULL for a type without a header.
	 */
	unsigned (*header)(struct port *port, unsigned nth, struct iovec pieces[DATAGRAM_HEADER_PIECES]);

	/* Return where in a datagram of `len` bytes its frame begins; -1, with the reason counted, when there is none.
	 * NULL for a type without a header.
	 */
	int (*strip)(struct port *port, const uint8_t *datagram, uint32_t len);
};

/* Set up `datagram`, for the socket that is the port's first descriptor. Return 0, or -errno if it is of another kind. */
int vsw_datagram_open(struct port *port, struct datagram_port *datagram);

/* The port's operations. */
void vsw_datagram_collect(struct port *port);
void vsw_datagram_deliver(struct port *port, const struct frame *frames, unsigned n);
void vsw_datagram_drain(struct port *port);
void vsw_datagram_tick(struct port *port);
void vsw_datagram_close(struct port *port); /* frees port->private */

#endif
