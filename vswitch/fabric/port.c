/* SPDX-License-Identifier: BSD-2-Clause */
#include "port.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine.h"
#include "pause.h"
#include "switch.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

const char *const vsw_drop_names[NUM_DROPS] = {
#define X(symbol, name) [DROP_##symbol] = (name),
	VSW_DROPS(X)
#undef X
};

const char *const vsw_port_state_names[] = {
	[PORT_UP] = "up",
	[PORT_CLOSED] = "closed",
	[PORT_ERROR] = "error",
};
static_assert(ARRAY_SIZE(vsw_port_state_names) == NUM_PORT_STATES, "a port state has no name");

#define PORT_TYPE(name) extern const struct port_ops vsw_##name##_ops;
#include "../ports/port_types.def"
#undef PORT_TYPE

const struct port_ops *const vsw_port_types[] = {
#define PORT_TYPE(name) &vsw_##name##_ops,
#include "../ports/port_types.def"
#undef PORT_TYPE
	NULL,
};

const struct port_ops *vsw_port_ops_find(const char *name)
{
	const struct port_ops *const *ops = vsw_port_types;

	while (*ops && strcmp((*ops)->name, name) != 0)
		ops++;
	return *ops;
}

static void close_fds(struct port *port)
{
	for (unsigned i = 0; i < PORT_MAX_FDS; i++) {
		if (port->fds[i] >= 0)
			close(port->fds[i]);
		port->fds[i] = -1;
	}
}

static int start(struct port *port)
{
	/* What is polled once there has been an event need not hear of it again and again. */
	struct epoll_event event = { .events = port->ops->poll ? EPOLLIN | EPOLLET : EPOLLIN, .data.ptr = port };
	int64_t id;
	int ret;

	for (unsigned i = 0; i < port->n_fds; i++) {
		int flags = fcntl(port->fds[i], F_GETFL);

		if (flags < 0 || fcntl(port->fds[i], F_SETFL, flags | O_NONBLOCK))
			return -errno;
	}
	ret = port->ops->open(port);
	if (ret)
		return ret;
	id = vsw_engine_adopt_port(port->engine, port);
	if (id < 0) {
		ret = (int)id;
		goto close;
	}
	port->id = (uint32_t)id;
	if (epoll_ctl(port->engine->epoll_fd, EPOLL_CTL_ADD, port->fds[0], &event)) {
		ret = -errno;
		goto disown;
	}
	port->events = event.events;
	ret = vsw_switch_attach(port->sw, port);
	if (!ret)
		return 0;
	epoll_ctl(port->engine->epoll_fd, EPOLL_CTL_DEL, port->fds[0], NULL);
disown:
	port->engine->ports[port->id] = NULL;
close:
	port->ops->close(port);
	return ret;
}

int vsw_port_new(struct vsw_switch *sw, const struct port_ops *ops, const int *fds, unsigned n_fds, const void *options,
		 struct port **made)
{
	struct port *port = calloc(1, sizeof(*port));
	int ret;

	if (!port || n_fds < ops->min_fds || n_fds > ops->max_fds) {
		for (unsigned i = 0; i < n_fds; i++)
			close(fds[i]);
		free(port);
		return port ? -EINVAL : -ENOMEM;
	}
	port->ops = ops;
	port->sw = sw;
	port->engine = sw->engine;
	port->settings = PORT_SETTINGS_DEFAULT;
	port->n_fds = n_fds;
	port->options = options;
	TAILQ_INIT(&port->waiting);
	for (unsigned i = 0; i < PORT_MAX_FDS; i++)
		port->fds[i] = i < n_fds ? fds[i] : -1;
	ret = start(port);
	if (ret) {
		close_fds(port);
		free(port);
		return ret;
	}
	port->options = NULL;
	*made = port;
	return 0;
}

void vsw_port_watch(struct port *port, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = port };

	if (port->state != PORT_UP || port->events == events)
		return;
	port->events = events;
	epoll_ctl(port->engine->epoll_fd, EPOLL_CTL_MOD, port->fds[0], &event);
}

static void stop(struct port *port, enum port_state state)
{
	port->state = state;
	vsw_fdb_flush_dynamic(&port->sw->fdb, port);
	vsw_pause_forget(port);
	vsw_engine_cool(port);
	if (port->unflushed)
		TAILQ_REMOVE(&port->engine->unflushed, port, in_unflushed);
	port->unflushed = false;
	/* Closing is not enough where another process still holds the same open file. */
	epoll_ctl(port->engine->epoll_fd, EPOLL_CTL_DEL, port->fds[0], NULL);
	port->ops->close(port);
	close_fds(port);
}

static void finish(struct port *port)
{
	stop(port, port->state);
	vsw_engine_report(port->engine, port);
}

void vsw_port_end(struct port *port, enum port_state state, const char *reason, ...)
{
	va_list args;

	if (port->state != PORT_UP)
		return;
	va_start(args, reason);
	vsnprintf(port->reason, sizeof(port->reason), reason, args);
	va_end(args);
	port->state = state;
	if (!port->held)
		finish(port);
}

static void release(struct port *port)
{
	port->held = false;
	if (port->state != PORT_UP)
		finish(port);
}

void vsw_port_handle(struct port *port, uint32_t events)
{
	port->held = true;
	if (events & EPOLLOUT)
		port->ops->drain(port);
	if (port->state == PORT_UP && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		port->ops->collect(port);
	release(port);
}

enum poll_result vsw_port_poll(struct port *port)
{
	enum poll_result result;

	port->held = true;
	result = port->ops->poll(port);
	release(port);
	return port->state == PORT_UP ? result : POLL_SLEEPS;
}

void vsw_port_end_errno(struct port *port, const char *what, int error)
{
	char buffer[64];

	if (error == EPIPE || error == ECONNRESET)
		vsw_port_end(port, PORT_CLOSED, "the peer closed the connection");
	else
		vsw_port_end(port, PORT_ERROR, "%s: %s", what, strerror_r(error, buffer, sizeof(buffer)));
}

enum drop vsw_drop_for_errno(int error)
{
	switch (error) {
	case EMSGSIZE:
		return DROP_TOO_LONG;
	case EIO: /* a TAP device that is not up */
	case ENETDOWN:
	case ENETUNREACH:
		return DROP_LINK_DOWN;
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		return DROP_OVERFLOW;
	default:
		return DROP_REFUSED;
	}
}

/* Take what the peer had sent before it went, where that would not be seen otherwise. */
static void take_rest(struct port *port)
{
	if (port->state != PORT_UP || !port->ops->finish)
		return;
	port->held = true;
	port->ops->finish(port);
	release(port);
}

void vsw_port_peer_gone(struct port *port, const char *reason)
{
	take_rest(port);
	vsw_port_end(port, PORT_CLOSED, "%s", reason);
}

void vsw_port_free(struct port *port)
{
	take_rest(port);
	if (port->state == PORT_UP)
		stop(port, PORT_CLOSED);
	if (port->unreported)
		STAILQ_REMOVE(&port->engine->ended, port, port, in_ended);
	vsw_switch_detach(port->sw, port);
	port->engine->ports[port->id] = NULL;
	free(port);
}
