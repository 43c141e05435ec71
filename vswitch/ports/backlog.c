/* SPDX-License-Identifier: BSD-2-Clause */
#include "backlog.h"

#include <sys/epoll.h>

#include "../fabric/pause.h"

#define MARK_BYTES  (OUTQUEUE_SIZE / 4) /* a longer queue pauses its sources, until it is below half of this */
#define MARK_FRAMES (OUTQUEUE_FRAMES / 4)

void vsw_backlog_add(struct port *port, struct outqueue *queue, const struct frame *frames, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!vsw_outqueue_push(queue, &frames[i], 0))
			port->drops[DROP_OVERFLOW]++;
	vsw_port_watch(port, port->events | EPOLLOUT);
	if (!port->settings.overflow_drop && (vsw_outqueue_bytes(queue) > MARK_BYTES || queue->frames > MARK_FRAMES))
		vsw_pause_congested(port);
}

void vsw_backlog_drained(struct port *port, const struct outqueue *queue)
{
	if (!queue->frames)
		vsw_port_watch(port, port->events & ~(uint32_t)EPOLLOUT);
	if (vsw_outqueue_bytes(queue) <= MARK_BYTES / 2 && queue->frames <= MARK_FRAMES / 2)
		vsw_pause_relieved(port, !queue->frames);
}
