/* SPDX-License-Identifier: BSD-2-Clause */
/* What a port does with frames its peer does not take yet: queued while there is room, and whoever sends them held up. */
#ifndef VSW_BACKLOG_H
#define VSW_BACKLOG_H

#include "../fabric/port.h"
#include "outqueue.h"

/* Queue `n` frames, or count as overflow those there is no room for, and have the port drained once its descriptor is
 * writable. A long queue pauses its sources.
 */
void vsw_backlog_add(struct port *port, struct outqueue *queue, const struct frame *frames, unsigned n);

/* The port's `drain` has sent what could be sent: go on with the sources when the queue is short again. */
void vsw_backlog_drained(struct port *port, const struct outqueue *queue);

#endif
