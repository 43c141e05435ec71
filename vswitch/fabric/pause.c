/* SPDX-License-Identifier: BSD-2-Clause */
#include "pause.h"

#include <sys/epoll.h>

#include "engine.h"

static bool resume_first_source(struct port *port)
{
	struct port *source = TAILQ_FIRST(&port->waiting);

	if (!source)
		return false;
	TAILQ_REMOVE(&port->waiting, source, in_waiting);
	source->waits_for = NULL;
	if (source->ops->poll)
		vsw_engine_warm(source);
	else
		vsw_port_watch(source, source->events | EPOLLIN);
	return true;
}

static void stop_relieving(struct port *port)
{
	if (port->relieving)
		TAILQ_REMOVE(&port->engine->relieving, port, in_relieving);
	port->relieving = false;
}

static void leave_congested(struct port *port, enum congestion next)
{
	if (port->congestion == CONGESTION_CONGESTED)
		TAILQ_REMOVE(&port->engine->congested, port, in_congested);
	port->congestion = next;
}

static void resume_all_sources(struct port *port)
{
	stop_relieving(port);
	while (resume_first_source(port))
		;
}

void vsw_pause_resume_some(struct engine *engine)
{
	struct port *port, *next;

	for (port = TAILQ_FIRST(&engine->relieving); port; port = next) {
		next = TAILQ_NEXT(port, in_relieving);
		if (port->congestion != CONGESTION_CLEAR || !resume_first_source(port))
			stop_relieving(port);
	}
}

void vsw_pause_congested(struct port *port)
{
	if (port->congestion != CONGESTION_CLEAR)
		return;
	port->congestion = CONGESTION_CONGESTED;
	port->congested_until = port->engine->now + PAUSE_LIMIT_NS; /* one limit for all: the list stays in order */
	TAILQ_INSERT_TAIL(&port->engine->congested, port, in_congested);
}

void vsw_pause_go_on_waiting(struct port *port)
{
	if (port->congestion != CONGESTION_CONGESTED)
		return;
	TAILQ_REMOVE(&port->engine->congested, port, in_congested);
	port->congested_until = port->engine->now + PAUSE_LIMIT_NS;
	TAILQ_INSERT_TAIL(&port->engine->congested, port, in_congested);
}

void vsw_pause_relieved(struct port *port, bool empty)
{
	if (port->congestion != CONGESTION_CONGESTED && !(empty && port->congestion == CONGESTION_GIVEN_UP))
		return;
	leave_congested(port, CONGESTION_CLEAR);
	if (resume_first_source(port) && !port->relieving) {
		port->relieving = true;
		TAILQ_INSERT_TAIL(&port->engine->relieving, port, in_relieving);
	}
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
	resume_all_sources(port);
}

void vsw_pause_expire(struct engine *engine)
{
	struct port *port;

	while ((port = TAILQ_FIRST(&engine->congested)) && port->congested_until <= engine->now) {
		leave_congested(port, CONGESTION_GIVEN_UP);
		resume_all_sources(port);
	}
}

uint64_t vsw_pause_deadline(const struct engine *engine)
{
	const struct port *port = TAILQ_FIRST(&engine->congested);

	return port ? port->congested_until : UINT64_MAX;
}
