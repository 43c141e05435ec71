/* SPDX-License-Identifier: BSD-2-Clause */
/* A port whose device is reached by several descriptors, its queues: of a TAP device, or sockets of a fanout group.
 *
 * The engine polls a port's first descriptor. Where there are several queues, that is an epoll of them all.
 */
#ifndef VSW_QUEUES_H
#define VSW_QUEUES_H

#include "../fabric/port.h"

#define QUEUES_MAX (PORT_MAX_FDS - 1)

/* Called by `open`, once the queues have been checked: put what polls them first. Return 0 or -errno. */
int vsw_queues_open(struct port *port);

/* Return queue `i` of port->n_fds. */
static inline int vsw_queue(const struct port *port, unsigned i)
{
	return port->fds[port->n_fds > 1 ? i + 1 : 0];
}

/* Return a queue that has something to say, each in turn; -1: none has. */
int vsw_queues_readable(const struct port *port);

/* Return the queue for `frame`: those between the same two stations keep to one, and so stay in order. */
static inline int vsw_queues_choose(const struct port *port, const struct frame *frame)
{
	uint64_t stations;

	if (port->n_fds == 1)
		return port->fds[0];
	stations = frame_destination(frame) * 31 + frame_source(frame);
	return vsw_queue(port, (uint32_t)((stations * 0x9e3779b97f4a7c15ULL) >> 32) % port->n_fds);
}

#endif
