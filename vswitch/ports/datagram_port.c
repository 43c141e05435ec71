/* SPDX-License-Identifier: BSD-2-Clause */
#include "datagram_port.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "../fabric/engine.h"
#include "../fabric/pause.h"
#include "../fabric/switch.h"

#define BURST       15    /* datagrams per system call: what the scratch memory holds */
#define HEADROOM    16    /* bytes before each datagram, the end of which is its frame's length prefix */
#define SLOT        69888 /* bytes; no multiple of 4096, so that small datagrams do not share lines of the cache */
#define DRAINED     64    /* queued frames sent by one call */
#define MARK_BYTES  (OUTQUEUE_SIZE / 4) /* a longer queue pauses its sources, until it is below half of this */
#define MARK_FRAMES (OUTQUEUE_FRAMES / 4)

_Static_assert((BURST) * (SLOT) <= ENGINE_SCRATCH, "slots do not fit");
_Static_assert(HEADROOM + FRAME_MAX <= SLOT, "a datagram does not fit");

int vsw_datagram_open(struct port *port, struct datagram_port *datagram)
{
	int type, domain;
	socklen_t size = sizeof(int);

	if (getsockopt(port->fds[0], SOL_SOCKET, SO_TYPE, &type, &size) ||
	    getsockopt(port->fds[0], SOL_SOCKET, SO_DOMAIN, &domain, &size))
		return -errno;
	if (type != SOCK_DGRAM && type != SOCK_RAW)
		return -EPROTOTYPE;
	if (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6)
		return -EAFNOSUPPORT;
	if (domain != AF_UNIX) {
		struct sockaddr_storage peer;

		/* Without a peer, anybody's datagrams would come in. */
		size = sizeof(peer);
		if (getpeername(port->fds[0], (struct sockaddr *)&peer, &size))
			return -errno;
	}
	datagram->late_errors = domain != AF_UNIX;
	return 0;
}

void vsw_datagram_close(struct port *port)
{
	struct datagram_port *datagram = port->private;

	vsw_datagram_tick(port);
	port->drops[DROP_CLOSED] += datagram->queue.frames;
	vsw_outqueue_free(&datagram->queue);
	free(datagram);
	port->private = NULL;
}

void vsw_datagram_tick(struct port *port)
{
	uint32_t info[SK_MEMINFO_VARS]; /* drops: since the socket was made */
	socklen_t size = sizeof(info);

	if (!getsockopt(port->fds[0], SOL_SOCKET, SO_MEMINFO, info, &size) && size == sizeof(info))
		port->drops[DROP_MISSED] = info[SK_MEMINFO_DROPS];
}

/* --- receiving --- */

/* The socket was said to be readable, or to have failed, but has nothing: is that for good? */
static void look_for_the_end(struct port *port)
{
	struct pollfd end = { .fd = port->fds[0], .events = POLLRDHUP };

	if (poll(&end, 1, 0) > 0 && (end.revents & (POLLRDHUP | POLLHUP)))
		vsw_port_end(port, PORT_CLOSED, "the socket was shut down");
}

static void receiving_failed(struct port *port, int error)
{
	const struct datagram_port *datagram = port->private;

	if (error == EAGAIN)
		look_for_the_end(port);
	else if (datagram->late_errors)
		port->drops[vsw_drop_for_errno(error)]++; /* of a frame that was sent, then turned back on its way */
	else if (error != EINTR && error != ENOMEM && error != ENOBUFS)
		vsw_port_end_errno(port, "receiving", error);
}

void vsw_datagram_collect(struct port *port)
{
	const struct datagram_port *datagram = port->private;
	struct mmsghdr messages[BURST];
	struct iovec pieces[BURST];
	struct frame frames[BURST];
	unsigned n = 0;
	int got;

	for (unsigned i = 0; i < BURST; i++) {
		pieces[i].iov_base = port->engine->scratch + (size_t)i * SLOT + HEADROOM;
		pieces[i].iov_len = FRAME_MAX;
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &pieces[i], .msg_iovlen = 1 };
	}
	got = recvmmsg(port->fds[0], messages, BURST, MSG_DONTWAIT, NULL);
	if (got < 0) {
		receiving_failed(port, errno);
		return;
	}
	for (int i = 0; i < got; i++) {
		uint8_t *data = pieces[i].iov_base;
		uint32_t len = messages[i].msg_len;

		if (messages[i].msg_hdr.msg_flags & MSG_TRUNC) {
			vsw_port_drop_in(port, DROP_OVERSIZE, len);
			continue;
		}
		if (datagram->strip) {
			int at = datagram->strip(port, data, len);

			if (at < 0)
				continue;
			data += at;
			len -= (uint32_t)at;
		}
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

/* --- sending --- */

enum verdict {
	DROPPED, /* counted; go on with the next one */
	AGAIN,   /* the same may be sent now */
	LATER,   /* or once epoll says so */
	OVER,    /* counted, and the port has ended: its private state may be gone */
};

/* What to do about a datagram that could not be sent. */
static enum verdict sending_failed(struct port *port, int error)
{
	const struct datagram_port *datagram = port->private;

	switch (error) {
	case EAGAIN: /* the peer's queue is full, or ours */
	case EINTR:
		return LATER;
	case ECONNREFUSED:
	case ECONNRESET:
		if (datagram->late_errors) {
			port->drops[DROP_REFUSED]++; /* an earlier frame; now that it is told, this one goes out */
			return AGAIN;
		}
		port->drops[DROP_LINK_DOWN]++;
		vsw_port_end(port, PORT_CLOSED, "the peer has gone");
		return OVER;
	case EPIPE:
		port->drops[DROP_LINK_DOWN]++;
		vsw_port_end(port, PORT_CLOSED, "the socket was shut down");
		return OVER;
	case ENOTCONN: /* a unix socket whose peer is yet to come */
		port->drops[DROP_LINK_DOWN]++;
		return DROPPED;
	default:
		port->drops[vsw_drop_for_errno(error)]++;
		return DROPPED;
	}
}

/* Send frames from where they are, until the socket takes no more. Return how many are settled: sent, or dropped. */
static unsigned send_now(struct port *port, const struct frame *frames, unsigned n)
{
	struct datagram_port *datagram = port->private;
	struct mmsghdr messages[FRAME_BATCH];
	struct iovec pieces[FRAME_BATCH][DATAGRAM_HEADER_PIECES + 2];
	enum verdict verdict = DROPPED;
	unsigned i = 0;

	for (unsigned j = 0; j < n; j++) {
		unsigned before = datagram->header ? datagram->header(port, j, pieces[j]) : 0;

		messages[j].msg_hdr = (struct msghdr){
			.msg_iov = pieces[j],
			.msg_iovlen = before + frame_pieces(&frames[j], 0, pieces[j] + before),
		};
	}
	while (i < n && verdict != LATER && verdict != OVER) {
		int sent = sendmmsg(port->fds[0], messages + i, n - i, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0) {
			vsw_traffic_add_frames(&port->tx, frames + i, (unsigned)sent);
			i += (unsigned)sent;
			verdict = DROPPED;
			continue;
		}
		if (verdict == AGAIN)
			verdict = sending_failed(port, errno) == LATER ? LATER : DROPPED; /* once is enough */
		else
			verdict = sending_failed(port, errno);
		i += verdict == DROPPED || verdict == OVER;
	}
	if (verdict != OVER)
		datagram->settled += i;
	return i;
}

void vsw_datagram_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	struct datagram_port *datagram = port->private;
	struct outqueue *queue = &datagram->queue;
	unsigned i = queue->frames ? 0 : send_now(port, frames, n);

	if (port->state != PORT_UP) {
		port->drops[DROP_CLOSED] += n - i;
		return;
	}
	if (i == n)
		return;
	for (; i < n; i++)
		if (!vsw_outqueue_push(queue, &frames[i], 0))
			port->drops[DROP_OVERFLOW]++;
	vsw_port_watch(port, port->events | EPOLLOUT);
	if (!port->settings.overflow_drop && (vsw_outqueue_bytes(queue) > MARK_BYTES || queue->frames > MARK_FRAMES))
		vsw_pause_congested(port);
}

void vsw_datagram_drain(struct port *port)
{
	struct datagram_port *datagram = port->private;
	struct outqueue *queue = &datagram->queue;
	struct frame frames[DRAINED];
	struct traffic counted = { 0 }; /* by send_now() */
	uint64_t bytes = 0;
	unsigned n = vsw_outqueue_views(queue, frames, DRAINED, port->engine->scratch + FRAME_PREFIX);
	unsigned settled = n ? send_now(port, frames, n) : 0;

	for (unsigned i = 0; i < settled; i++)
		bytes += FRAME_PREFIX + frames[i].len;
	vsw_outqueue_consume(queue, bytes, &counted);
	if (port->state != PORT_UP)
		return;
	if (!queue->frames)
		vsw_port_watch(port, port->events & ~(uint32_t)EPOLLOUT);
	if (vsw_outqueue_bytes(queue) <= MARK_BYTES / 2 && queue->frames <= MARK_FRAMES / 2)
		vsw_pause_relieved(port, !queue->frames);
}
