/* SPDX-License-Identifier: BSD-2-Clause */
#include "queues.h"

#include <errno.h>
#include <sys/epoll.h>

int vsw_queues_open(struct port *port)
{
	int poller;

	if (port->n_fds == 1)
		return 0;
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (poller < 0)
		return -errno;
	for (unsigned i = port->n_fds; i > 0; i--)
		port->fds[i] = port->fds[i - 1];
	port->fds[0] = poller; /* closed with the others */
	for (unsigned i = 0; i < port->n_fds; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.fd = vsw_queue(port, i) };

		if (epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event))
			return -errno;
	}
	return 0;
}

int vsw_queues_readable(const struct port *port)
{
	struct epoll_event event;

	if (port->n_fds == 1)
		return port->fds[0];
	/* One that is still readable after this goes to the end of epoll's list. */
	return epoll_wait(port->fds[0], &event, 1, 0) == 1 ? event.data.fd : -1;
}
