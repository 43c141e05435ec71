/* SPDX-License-Identifier: BSD-2-Clause */
#include "datagram_port.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "../fabric/engine.h"
#include "../fabric/switch.h"
#include "backlog.h"
#include "socket_end.h"

#define BURST    15    /* datagrams per system call: what the scratch memory holds */
#define HEADROOM 16    /* bytes before each datagram, the end of which is its frame's length prefix */
#define SLOT     69888 /* bytes; no multiple of 4096, so that small datagrams do not share lines of the cache */
#define CONTROL  256   /* bytes for what the kernel tells of a message */
#define DRAINED  64    /* queued frames sent by one call */

/* Of a lump: one that goes out, and one that comes in, of which the latter's datagrams are moved apart for their prefixes. */
#define LUMP_BYTES    65000
#define LUMP_OUT_MOST 64 /* datagrams: UDP_MAX_SEGMENTS of older kernels */
#define LUMP_IN_MOST  1024

_Static_assert(HEADROOM + 65535 + LUMP_IN_MOST * FRAME_PREFIX <= SLOT, "a lump cannot be moved apart");
_Static_assert((BURST) * (SLOT) <= ENGINE_SCRATCH, "slots do not fit");
_Static_assert(HEADROOM + FRAME_MAX <= SLOT, "a datagram does not fit");

/* Between kernels, or sockets, that know lumps, a datagram costs a tenth; where one does not, it is cut by the other. */
static void use_lumps(int fd, struct datagram_port *datagram)
{
	int value = 0;
	socklen_t size = sizeof(value);

	if (!getsockopt(fd, SOL_UDP, UDP_SEGMENT, &value, &size))
		datagram->lumps_out = LUMP_BYTES;
	value = 1;
	datagram->lumps_in = !setsockopt(fd, SOL_UDP, UDP_GRO, &value, sizeof(value));
}

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
	if (domain != AF_UNIX && type == SOCK_DGRAM)
		use_lumps(port->fds[0], datagram);
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
	uint32_t info[SK_MEMINFO_VARS]; /* drops: since the socket was made; a lump may be counted as one */
	socklen_t size = sizeof(info);

	if (!getsockopt(port->fds[0], SOL_SOCKET, SO_MEMINFO, info, &size) && size == sizeof(info))
		port->drops[DROP_MISSED] = info[SK_MEMINFO_DROPS];
}

/* --- receiving --- */

static void receiving_failed(struct port *port, int error)
{
	const struct datagram_port *datagram = port->private;

	if (error == EAGAIN)
		vsw_socket_look_for_end(port, port->fds[0]);
	else if (datagram->late_errors)
		port->drops[vsw_drop_for_errno(error)]++; /* of a frame that was sent, then turned back on its way */
	else if (error != EINTR && error != ENOMEM && error != ENOBUFS)
		vsw_port_end_errno(port, "receiving", error);
}

/* Frames found in a burst, handed over when there are FRAME_BATCH of them. */
struct found {
	struct port *port;
	unsigned n;
	struct frame frames[FRAME_BATCH];
};

static void hand_over(struct found *found)
{
	if (found->n)
		vsw_switch_input(found->port, found->frames, found->n);
	found->n = 0;
}

/* Take the frame in one datagram, before which there is room for the prefix of a frame that begins where it does. */
static void take(struct found *found, uint8_t *data, uint32_t len)
{
	const struct datagram_port *datagram = found->port->private;

	if (datagram->strip) {
		int at = datagram->strip(found->port, data, len);

		if (at < 0)
			return;
		data += at;
		len -= (uint32_t)at;
	}
	if (len < FRAME_MIN) {
		vsw_port_drop_in(found->port, DROP_RUNT, len);
		return;
	}
	frame_set_prefix(data, len);
	found->frames[found->n++] = frame_whole(data, len);
	if (found->n == FRAME_BATCH)
		hand_over(found);
}

/* Take the `size` byte datagrams (the last may be shorter) that lie side by side in a lump. */
static void take_lump(struct found *found, uint8_t *lump, uint32_t len, uint32_t size)
{
	const struct datagram_port *datagram = found->port->private;
	uint32_t n = (len + size - 1) / size;
	uint32_t gap = datagram->strip ? 0 : FRAME_PREFIX; /* the prefix goes over a header, or between two datagrams */

	if (n > LUMP_IN_MOST) {
		vsw_port_drop_in(found->port, DROP_OVERSIZE, len);
		return;
	}
	for (uint32_t i = n - 1; gap && i > 0; i--) {
		uint32_t piece = i < n - 1 ? size : len - i * size;

		memmove(lump + (size_t)i * (size + gap), lump + (size_t)i * size, piece);
	}
	for (uint32_t i = 0; i < n; i++)
		take(found, lump + (size_t)i * (size + gap), i < n - 1 ? size : len - i * size);
}

/* Return the size of the datagrams in a lump, 0 for a single one. It is not the only thing the kernel may be asked to tell
 * of what comes in: whoever gave us the socket may have asked for more.
 */
static uint32_t lump_size(struct msghdr *header)
{
	for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control)) {
		int size;

		if (control->cmsg_level != SOL_UDP || control->cmsg_type != UDP_GRO)
			continue;
		memcpy(&size, CMSG_DATA(control), sizeof(size));
		return size > 0 ? (uint32_t)size : 0;
	}
	return 0;
}

/* Take what one message has brought: one datagram or a lump of them. */
static void take_message(struct found *found, struct mmsghdr *message)
{
	struct msghdr *header = &message->msg_hdr;
	const struct datagram_port *datagram = found->port->private;
	uint8_t *data = header->msg_iov->iov_base;
	uint32_t len = message->msg_len, size = lump_size(header);
	bool untold = datagram->lumps_in && !size && header->msg_flags & MSG_CTRUNC; /* whether it is a lump */

	if (header->msg_flags & MSG_TRUNC || untold)
		vsw_port_drop_in(found->port, DROP_OVERSIZE, len);
	else if (size && size < len)
		take_lump(found, data, len, size);
	else
		take(found, data, len);
}

void vsw_datagram_collect(struct port *port)
{
	const struct datagram_port *datagram = port->private;
	struct mmsghdr messages[BURST];
	struct iovec pieces[BURST];
	_Alignas(struct cmsghdr) uint8_t controls[BURST][CONTROL];
	struct found found = { .port = port };
	int got;

	for (unsigned i = 0; i < BURST; i++) {
		pieces[i].iov_base = port->engine->scratch + (size_t)i * SLOT + HEADROOM;
		pieces[i].iov_len = FRAME_MAX;
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &pieces[i], .msg_iovlen = 1 };
		if (datagram->lumps_in) {
			messages[i].msg_hdr.msg_control = controls[i];
			messages[i].msg_hdr.msg_controllen = sizeof(controls[i]);
		}
	}
	got = recvmmsg(port->fds[0], messages, BURST, MSG_DONTWAIT, NULL);
	if (got < 0) {
		receiving_failed(port, errno);
		return;
	}
	for (int i = 0; i < got; i++)
		take_message(&found, &messages[i]);
	hand_over(&found);
}

/* --- sending --- */

enum verdict {
	DROPPED, /* counted; go on with the next one */
	AGAIN,   /* the same may be sent now */
	LATER,   /* or once epoll says so */
	OVER,    /* counted, and the port has ended: its private state may be gone */
};

/* What to do about a message of `n` frames that could not be sent; `again` if not for the first time. */
static enum verdict sending_failed(struct port *port, int error, unsigned n, bool again)
{
	const struct datagram_port *datagram = port->private;

	switch (error) {
	case EAGAIN: /* the peer's queue is full, or ours */
	case EINTR:
		return LATER;
	case ECONNREFUSED:
	case ECONNRESET:
		if (datagram->late_errors) {
			/* At first it is about an earlier frame; now that it is told, these may go out. */
			port->drops[DROP_REFUSED] += again ? n : 1;
			return again ? DROPPED : AGAIN;
		}
		port->drops[DROP_LINK_DOWN] += n;
		vsw_port_end(port, PORT_CLOSED, "the peer has gone");
		return OVER;
	case EPIPE:
		port->drops[DROP_LINK_DOWN] += n;
		vsw_port_end(port, PORT_CLOSED, "the socket was shut down");
		return OVER;
	case ENOTCONN: /* a unix socket whose peer is yet to come */
		port->drops[DROP_LINK_DOWN] += n;
		return DROPPED;
	default:
		port->drops[vsw_drop_for_errno(error)] += n;
		return DROPPED;
	}
}

/* Whether a lump of datagrams of `size` bytes is not taken as such: the way out has no checksum offload, or a smaller MTU, so
 * that larger datagrams have to go as fragments, one by one. They do from now on.
 */
static bool lump_is_refused(struct datagram_port *datagram, uint32_t size, int error)
{
	if (error == EINVAL || error == EMSGSIZE)
		datagram->lumps_out = size - 1;
	else if (error == EIO || error == EOPNOTSUPP)
		datagram->lumps_out = 0;
	else
		return false;
	return true;
}

/* Datagrams made ready for one call, each message being one of them or a lump. */
struct batch {
	unsigned n_messages, n_pieces;
	struct mmsghdr messages[FRAME_BATCH];
	uint8_t n_frames[FRAME_BATCH]; /* of each message */
	uint32_t sizes[FRAME_BATCH];   /* bytes of a message's datagrams, of the last at most */
	struct iovec pieces[FRAME_BATCH * (DATAGRAM_HEADER_PIECES + 2)];
	_Alignas(struct cmsghdr) uint8_t controls[FRAME_BATCH][CMSG_SPACE(sizeof(uint16_t))];
};

/* Have the kernel cut message `i` into datagrams. */
static void mark_as_lump(struct batch *batch, unsigned i)
{
	struct msghdr *header = &batch->messages[i].msg_hdr;
	uint16_t size = (uint16_t)batch->sizes[i];
	struct cmsghdr *control;

	header->msg_control = batch->controls[i];
	header->msg_controllen = sizeof(batch->controls[i]);
	control = CMSG_FIRSTHDR(header);
	control->cmsg_level = SOL_UDP;
	control->cmsg_type = UDP_SEGMENT;
	control->cmsg_len = CMSG_LEN(sizeof(size));
	memcpy(CMSG_DATA(control), &size, sizeof(size));
}

static void make_ready(struct port *port, struct batch *batch, const struct frame *frames, unsigned n)
{
	const struct datagram_port *datagram = port->private;
	uint32_t last = 0, total = 0; /* bytes of the datagram before, and of its message */

	batch->n_messages = batch->n_pieces = 0;
	for (unsigned j = 0; j < n; j++) {
		struct iovec *pieces = batch->pieces + batch->n_pieces;
		unsigned n_new = datagram->header ? datagram->header(port, j, pieces) : 0;
		unsigned m = batch->n_messages - 1;
		uint32_t size = frames[j].len;

		for (unsigned i = 0; i < n_new; i++)
			size += (uint32_t)pieces[i].iov_len;
		n_new += frame_pieces(&frames[j], 0, pieces + n_new);
		batch->n_pieces += n_new;
		/* All datagrams of a lump are of one size, except that the last may be shorter. */
		if (j && last == batch->sizes[m] && size <= last && size <= datagram->lumps_out &&
		    last <= datagram->lumps_out && total + size <= LUMP_BYTES && batch->n_frames[m] < LUMP_OUT_MOST) {
			if (batch->n_frames[m]++ == 1)
				mark_as_lump(batch, m);
			batch->messages[m].msg_hdr.msg_iovlen += n_new;
			total += size;
		} else {
			m = batch->n_messages++;
			batch->messages[m].msg_hdr = (struct msghdr){ .msg_iov = pieces, .msg_iovlen = n_new };
			batch->n_frames[m] = 1;
			batch->sizes[m] = total = size;
		}
		last = size;
	}
}

/* Send what is ready. Return how many frames are settled: sent, or dropped; the rest is to be made ready AGAIN, or LATER. */
static unsigned send_batch(struct port *port, struct batch *batch, const struct frame *frames, enum verdict *verdict)
{
	unsigned i = 0, m = 0;
	bool again = false;

	while (m < batch->n_messages) {
		int sent =
			sendmmsg(port->fds[0], batch->messages + m, batch->n_messages - m, MSG_DONTWAIT | MSG_NOSIGNAL);
		int error = errno;
		unsigned first = i;

		for (int j = 0; j < sent; j++)
			i += batch->n_frames[m++];
		vsw_traffic_add_frames(&port->tx, frames + first, i - first);
		if (sent > 0) {
			again = false;
			continue;
		}
		if (batch->n_frames[m] > 1 && lump_is_refused(port->private, batch->sizes[m], error)) {
			*verdict = AGAIN;
			return i;
		}
		*verdict = sending_failed(port, error, batch->n_frames[m], again);
		again = *verdict == AGAIN;
		if (*verdict == DROPPED || *verdict == OVER)
			i += batch->n_frames[m++];
		if (*verdict == LATER || *verdict == OVER)
			return i;
	}
	*verdict = DROPPED;
	return i;
}

/* Send frames from where they are, until the socket takes no more. Return how many are settled: sent, or dropped. */
static unsigned send_now(struct port *port, const struct frame *frames, unsigned n)
{
	struct datagram_port *datagram = port->private;
	enum verdict verdict = AGAIN;
	unsigned settled = 0;
	struct batch batch;

	while (settled < n && verdict == AGAIN) {
		unsigned i;

		make_ready(port, &batch, frames + settled, n - settled);
		i = send_batch(port, &batch, frames + settled, &verdict);
		if (verdict != OVER)
			datagram->settled += i;
		settled += i;
	}
	return settled;
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
	vsw_backlog_add(port, queue, frames + i, n - i);
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
	vsw_backlog_drained(port, queue);
}
