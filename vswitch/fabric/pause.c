/* SPDX-License-Identifier: BSD-2-Clause */
#include "pause.h"

#include <sys/epoll.h>

#include "engine.h"

static void resume_sources(struct port *port)
{
	struct port *source;

	while ((source = TAILQ_FIRST(&port->waiting))) {
		TAILQ_REMOVE(&port->waiting, source, in_waiting);
		source->waits_for = NULL;
		if (source->ops->poll)
			vsw_engine_warm(source);
		else
			vsw_port_watch(source, source->events | EPOLLIN);
	}
}

static void leave_congested(struct port *port, enum congestion next)
{
	if (port->congestion == CONGESTION_CONGESTED)
		TAILQ_REMOVE(&port->engine->congested, port, in_congested);
	port->congestion = next;
	resume_sources(port);
}

void vsw_pause_congested(struct port *port)
{
	if (port->congestion != CONGESTION_CLEAR)
		return;
	port->congestion = CONGESTION_CONGESTED;
	port->congested_until = port->engine->now + PAUSE_LIMIT_NS; /* one limit for all: the list stays in order */
	TAILQ_INSERT_TAIL(&port->engine->congested, port, in_congested);
}

void vsw_pause_relieved(struct port *port, bool empty)
{
	if (port->congestion == CONGESTION_CONGESTED || (empty && port->congestion == CONGESTION_GIVEN_UP))
		leave_congested(port, CONGESTION_CLEAR);
}

void vsw_pause_source(struct port *source, struct port *destination)
{
	if (source->waits_for)
		return;
	source->waits_for = destination;
	source->pauses++;
	TAILQ_INSERT_TAIL(&destination->waiting, source, in_waiting);
	if (!source->ops->poll) /* one that is polled looks at waits_for */
		vsw_port_watch(source, source->events & ~(uint32_t)EPOLLIN);
}

void vsw_pause_forget(struct port *port)
{
	if (port->waits_for) {
		TAILQ_REMOVE(&port->waits_for->waiting, port, in_waiting);
		port->waits_for = NULL;
	}
	leave_congested(port, CONGESTION_CLEAR);
}

void vsw_pause_expire(struct engine *engine)
{
	struct port *port;

	while ((port = TAILQ_FIRST(&engine->congested)) && port->congested_until <= engine->now)
		leave_congested(port, CONGESTION_GIVEN_UP);
}

uint64_t vsw_pause_deadline(const struct engine *engine)
{
	const struct port *port = TAILQ_FIRST(&engine->congested);

	return port ? port->congested_until : UINT64_MAX;
}
