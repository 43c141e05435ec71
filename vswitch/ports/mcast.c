/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `mcast`: a UDP multicast bus, as of QEMU's `socket,mcast=` and User-Mode Linux: one datagram is one frame.
 *
 * The first descriptor is bound to the group and receives what everybody sends, us included; the second, bound to a port
 * of its own and connected to the group, sends. What comes back from the second one's address is our own echo. An empty
 * datagram stops QEMU's reader for good: none is ever sent (frames have FRAME_MIN bytes), those received are ignored.
 */
#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "../fabric/engine.h"
#include "../fabric/switch.h"
#include "datagrams.h"
#include "socket_end.h"

#define BURST        15    /* datagrams per system call: what the scratch memory holds */
#define DATAGRAM_MAX 65507 /* bytes: the most UDP over IPv4 carries */
#define HEADROOM     16    /* bytes before each frame: its length prefix */
#define SLOT         65536 /* bytes */

_Static_assert((BURST) * (SLOT) <= ENGINE_SCRATCH, "slots do not fit");
_Static_assert(HEADROOM + DATAGRAM_MAX <= SLOT, "a datagram does not fit");

struct mcast {
	struct sockaddr_in self; /* what our own echoes come from */
};

static int mcast_open(struct port *port)
{
	struct sockaddr_in group, self = { 0 };
	socklen_t size = sizeof(self);
	struct mcast *mcast;

	if (getsockname(port->fds[1], (struct sockaddr *)&self, &size) || size != sizeof(self) ||
	    self.sin_family != AF_INET || self.sin_addr.s_addr == htonl(INADDR_ANY))
		return -EADDRNOTAVAIL;
	size = sizeof(group);
	if (getpeername(port->fds[1], (struct sockaddr *)&group, &size))
		return -errno;
	mcast = malloc(sizeof(*mcast));
	if (!mcast)
		return -ENOMEM;
	mcast->self = self;
	port->private = mcast;
	return 0;
}

static void mcast_close(struct port *port)
{
	free(port->private);
	port->private = NULL;
}

static void mcast_collect(struct port *port)
{
	const struct mcast *mcast = port->private;
	struct mmsghdr messages[BURST];
	struct iovec pieces[BURST];
	struct sockaddr_in from[BURST];
	struct frame frames[BURST];
	unsigned n = 0;
	int got;

	for (unsigned i = 0; i < BURST; i++) {
		pieces[i].iov_base = port->engine->scratch + (size_t)i * SLOT + HEADROOM;
		pieces[i].iov_len = DATAGRAM_MAX;
		messages[i].msg_hdr = (struct msghdr){
			.msg_iov = &pieces[i],
			.msg_iovlen = 1,
			.msg_name = &from[i],
			.msg_namelen = sizeof(from[i]),
		};
	}
	got = recvmmsg(port->fds[0], messages, BURST, MSG_DONTWAIT, NULL);
	if (got < 0) {
		if (errno == EAGAIN)
			vsw_socket_look_for_end(port, port->fds[0]);
		else if (errno != EINTR)
			vsw_port_end_errno(port, "receiving", errno);
		return;
	}
	for (int i = 0; i < got; i++) {
		uint8_t *data = pieces[i].iov_base;
		uint32_t len = messages[i].msg_len;

		if (from[i].sin_port == mcast->self.sin_port && from[i].sin_addr.s_addr == mcast->self.sin_addr.s_addr)
			continue;
		if (len < FRAME_MIN) {
			vsw_port_drop_in(port, DROP_RUNT, len);
			continue;
		}
		frame_set_prefix(data, len);
		frames[n++] = frame_whole(data, len);
	}
	if (n)
		vsw_switch_input(port, frames, n);
}

static void mcast_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	int error = vsw_datagrams_send(port, port->fds[1], frames, n);

	if (error)
		vsw_port_end_errno(port, "sending", error);
}

static void mcast_tick(struct port *port)
{
	uint32_t info[SK_MEMINFO_VARS]; /* drops: since the socket was made */
	socklen_t size = sizeof(info);

	if (!getsockopt(port->fds[0], SOL_SOCKET, SO_MEMINFO, info, &size) && size == sizeof(info))
		port->drops[DROP_MISSED] = info[SK_MEMINFO_DROPS];
}

const struct port_ops vsw_mcast_ops = {
	.name = "mcast",
	.min_fds = 2,
	.max_fds = 2,
	.open = mcast_open,
	.collect = mcast_collect,
	.deliver = mcast_deliver,
	.tick = mcast_tick,
	.close = mcast_close,
};
