/* SPDX-License-Identifier: BSD-2-Clause */
#include "socket_end.h"

#include <poll.h>
#include <sys/socket.h>

#define DISCARDED 64 /* messages at a time; for what is left the event comes again */

/* Whether `fd` has a queue of errors. Of others, a unix socket for one, we would read frames instead. */
static bool has_errors(int fd)
{
	int domain;
	socklen_t size = sizeof(domain);

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) &&
	       (domain == AF_INET || domain == AF_INET6 || domain == AF_PACKET);
}

void vsw_socket_discard_errors(int fd)
{
	ssize_t got = has_errors(fd) ? 0 : -1;

	for (unsigned i = 0; i < DISCARDED && got >= 0; i++)
		got = recvmsg(fd, &(struct msghdr){ 0 }, MSG_ERRQUEUE | MSG_DONTWAIT);
}

void vsw_socket_look_for_end(struct port *port, int fd)
{
	struct pollfd end = { .fd = fd, .events = POLLRDHUP };

	if (poll(&end, 1, 0) <= 0)
		return;
	if (end.revents & POLLERR)
		vsw_socket_discard_errors(fd);
	if (end.revents & (POLLRDHUP | POLLHUP))
		vsw_port_end(port, PORT_CLOSED, "the socket was shut down");
}
