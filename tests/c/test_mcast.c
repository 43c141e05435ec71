/* SPDX-License-Identifier: BSD-2-Clause */
#include <netinet/in.h>

#include "lab.h"

/* A port on the bus of the loopback device, which needs no route to the group. */
static struct port *add_mcast(void)
{
	struct sockaddr_in group = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0xe6000707) };
	struct sockaddr_in self = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(group);
	struct port *port;
	int fds[2];

	for (unsigned i = 0; i < 2; i++)
		CHECK((fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)) >= 0);
	CHECK(!bind(fds[0], (struct sockaddr *)&group, size));
	CHECK(!getsockname(fds[0], (struct sockaddr *)&group, &size));
	CHECK(!setsockopt(fds[1], IPPROTO_IP, IP_MULTICAST_IF, &self.sin_addr, sizeof(self.sin_addr)));
	CHECK(!bind(fds[1], (struct sockaddr *)&self, size));
	CHECK(!connect(fds[1], (struct sockaddr *)&group, size));
	CHECK(!vsw_port_new(sw, vsw_port_ops_find("mcast"), fds, 2, NULL, &port));
	return port;
}

/* Whoever gave us the socket may do so. */
static void a_socket_that_is_shut_down_does_not_keep_the_loop_busy(void)
{
	struct port *port;

	lab_start(false, 100);
	port = add_mcast();
	CHECK(lab_is_quiet_after(1) && port->state == PORT_UP);
	shutdown(port->fds[0], SHUT_RDWR); /* it is not connected, says the kernel, but does it */
	CHECK(lab_is_quiet_after(10));
	CHECK(port->state == PORT_CLOSED && strstr(port->reason, "shut down"));
	lab_stop();
}

int main(void)
{
	RUN(a_socket_that_is_shut_down_does_not_keep_the_loop_busy);
	return 0;
}
