/* SPDX-License-Identifier: BSD-2-Clause */
/* Port types `stream` and `vdestream`: a connected stream socket (unix or TCP) on which each frame is preceded by its
 * length in network order. In the framing of QEMU's `stream` and `socket` netdevs that is a 32-bit number (net/socket.c,
 * net/stream_data.c there), in that of libvdestream, which vde_plug speaks on its standard input and output, one of 16.
 *
 * libvdestream loses bytes when what it reads at a time ends between the two of a length, and with them frames. A
 * `vdestream` port may have a SOCK_SEQPACKET socket, on which each frame is a record, so that it never does.
 *
 * A length over FRAME_MAX, which 16 bits cannot say, ends the port, as it does in QEMU. Frames shorter than an Ethernet
 * header are discarded; a length of 0 must not be passed on above all: QEMU 7.2 never receives again after one.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../fabric/engine.h"
#include "../fabric/switch.h"
#include "backlog.h"
#include "socket_end.h"

#define READ_SIZE   (128U << 10)     /* bytes taken by one read */
#define HEADS_AT    (READ_SIZE + 64) /* in the scratch memory, where heads have to be apart from their frames */
#define HEAD_STRIDE (16 + FRAME_HEAD)

/* Receiving: `part` holds the beginning of a frame whose end has not come yet, prefix included. Until the prefix is
 * complete, part_want is 0. Between bursts this is all the memory a port uses for receiving.
 */
struct stream {
	uint8_t *part;
	uint32_t part_size; /* allocated */
	uint32_t part_len;
	uint32_t part_want;
	uint32_t prefix;  /* bytes of a length on the wire: the last ones of FRAME_PREFIX */
	bool records;     /* the socket keeps apart what is sent at a time */
	uint32_t longest; /* bytes of the longest frame that goes out */
	struct outqueue queue;
};

/* Frames found in a burst, handed over when there are FRAME_BATCH of them. */
struct found {
	struct port *port;
	unsigned n;
	struct frame frames[FRAME_BATCH];
};

static uint32_t omitted(const struct stream *stream)
{
	return FRAME_PREFIX - stream->prefix;
}

static int open_framed(struct port *port, uint32_t prefix, uint32_t longest, bool records_too)
{
	struct stream *stream;
	int fd = port->fds[0];
	int type;
	socklen_t size = sizeof(int);
	struct sockaddr_storage peer;
	socklen_t peer_size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || getpeername(fd, (struct sockaddr *)&peer, &peer_size))
		return -errno;
	if (type != SOCK_STREAM && !(type == SOCK_SEQPACKET && records_too))
		return -EPROTOTYPE;
	stream = calloc(1, sizeof(*stream));
	if (!stream)
		return -ENOMEM;
	stream->prefix = prefix;
	stream->longest = longest;
	stream->records = type == SOCK_SEQPACKET;
	stream->queue.omitted = omitted(stream);
	port->private = stream;
	return 0;
}

static int stream_open(struct port *port)
{
	return open_framed(port, FRAME_PREFIX, FRAME_MAX, false);
}

static int vdestream_open(struct port *port)
{
	return open_framed(port, 2, UINT16_MAX, true);
}

static void stream_close(struct port *port)
{
	struct stream *stream = port->private;

	port->drops[DROP_CLOSED] += stream->queue.frames;
	vsw_outqueue_free(&stream->queue);
	free(stream->part);
	free(stream);
	port->private = NULL;
}

/* --- receiving --- */

static uint32_t read_length(const struct stream *stream, const uint8_t *wire)
{
	uint32_t len = 0;

	memcpy((uint8_t *)&len + omitted(stream), wire, stream->prefix);
	return be32toh(len);
}

static void hand_over(struct found *found)
{
	if (found->n)
		vsw_switch_input(found->port, found->frames, found->n);
	found->n = 0;
}

/* Return a view of the frame at `data`. Where its length on the wire is short, what is before that is the end of another
 * frame, and the head has to be elsewhere to have its FRAME_PREFIX.
 */
static struct frame view(const struct found *found, const uint8_t *data, uint32_t len)
{
	const struct stream *stream = found->port->private;
	uint32_t head_len = len < FRAME_HEAD ? len : FRAME_HEAD;
	uint8_t *head;

	if (stream->prefix == FRAME_PREFIX)
		return frame_whole(data, len);
	head = found->port->engine->scratch + HEADS_AT + found->n * HEAD_STRIDE + FRAME_PREFIX;
	memcpy(head, data, head_len);
	frame_set_prefix(head, len);
	return (struct frame){ .head = head, .rest = data + head_len, .len = len, .head_len = head_len };
}

static void add(struct found *found, const uint8_t *data, uint32_t len)
{
	if (len < FRAME_MIN) {
		vsw_port_drop_in(found->port, DROP_RUNT, len);
		return;
	}
	found->frames[found->n] = view(found, data, len);
	found->n++;
	if (found->n == FRAME_BATCH)
		hand_over(found);
}

/* Find the whole frames in `n` bytes. Return how many bytes they took, -1 after a length nobody may send. */
static ssize_t parse(struct found *found, const uint8_t *wire, size_t n)
{
	const struct stream *stream = found->port->private;
	uint32_t prefix = stream->prefix;
	size_t at = 0;

	while (n - at >= prefix) {
		uint32_t len = read_length(stream, wire + at);

		if (len > FRAME_MAX) {
			hand_over(found);
			vsw_port_drop_in(found->port, DROP_OVERSIZE, len);
			vsw_port_end(found->port, PORT_ERROR,
				     "the peer sent a frame of %u bytes; at most %u are allowed", len, FRAME_MAX);
			return -1;
		}
		if (n - at - prefix < len)
			break;
		add(found, wire + at + prefix, len);
		at += prefix + len;
	}
	return (ssize_t)at;
}

/* Keep the beginning of a frame for the next burst; `n` < FRAME_PREFIX + FRAME_MAX bytes, checked by parse(). */
static void keep(struct port *port, const uint8_t *wire, uint32_t n)
{
	struct stream *stream = port->private;
	uint32_t want = n < stream->prefix ? 0 : stream->prefix + read_length(stream, wire);
	uint32_t size = want ? want : stream->prefix;

	stream->part_len = n;
	stream->part_want = want;
	if (!n)
		return;
	if (stream->part_size < size) {
		uint8_t *part = realloc(stream->part, size);

		if (!part) {
			vsw_port_end_errno(port, "keeping half a frame", ENOMEM);
			return;
		}
		stream->part = part;
		stream->part_size = size;
	}
	memcpy(stream->part, wire, n);
}

static void stream_collect(struct port *port)
{
	struct stream *stream = port->private;
	uint8_t *scratch = port->engine->scratch;
	struct found found = { .port = port };
	struct iovec pieces[2];
	uint32_t missing = 0; /* bytes until the kept frame is whole */
	size_t n;
	ssize_t got, used;

	if (stream->part_want) {
		/* The end of a kept frame goes where its beginning is, what follows into the scratch memory. */
		missing = stream->part_want - stream->part_len;
		pieces[0] = (struct iovec){ stream->part + stream->part_len, missing };
		pieces[1] = (struct iovec){ scratch, READ_SIZE };
		got = readv(port->fds[0], pieces, 2);
	} else {
		/* Half a prefix, if any, goes before what follows. */
		for (uint32_t i = 0; i < stream->part_len; i++)
			scratch[i] = stream->part[i];
		got = read(port->fds[0], scratch + stream->part_len, READ_SIZE);
	}
	if (got < 0) {
		if (errno == EAGAIN)
			vsw_socket_discard_errors(port->fds[0]);
		else if (errno != EINTR)
			vsw_port_end_errno(port, "receiving", errno);
		return;
	}
	if (got == 0) {
		vsw_port_end(port, PORT_CLOSED,
			     stream->part_len ? "the peer closed the connection in mid-frame"
					      : "the peer closed the connection");
		return;
	}
	n = (size_t)got;
	if (missing) {
		if (n < missing) {
			stream->part_len += (uint32_t)n;
			return;
		}
		n -= missing;
		add(&found, stream->part + stream->prefix, stream->part_want - stream->prefix);
	} else {
		n += stream->part_len;
	}
	used = parse(&found, scratch, n);
	if (used < 0)
		return;
	hand_over(&found);
	keep(port, scratch + used, (uint32_t)(n - (size_t)used));
}

/* --- sending --- */

/* Send frames straight from where they are. Return how many are settled: sent, or, the last one, sent in part with the
 * rest queued.
 */
static unsigned send_bytes(struct port *port, const struct frame *frames, unsigned n)
{
	struct stream *stream = port->private;
	struct iovec pieces[2 * FRAME_BATCH];
	struct msghdr message = { .msg_iov = pieces };
	unsigned n_pieces = 0, i = 0;
	ssize_t sent;
	size_t left;

	for (unsigned j = 0; j < n; j++) {
		struct iovec *next = &pieces[n_pieces];
		unsigned n_new = frame_pieces(&frames[j], stream->prefix, next);

		if (n_new == 1 && j && (uint8_t *)next[-1].iov_base + next[-1].iov_len == next->iov_base)
			next[-1].iov_len += next->iov_len;
		else
			n_pieces += n_new;
	}
	message.msg_iovlen = n_pieces;
	sent = sendmsg(port->fds[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
			vsw_port_end_errno(port, "sending", errno);
		return 0;
	}
	for (left = (size_t)sent; i < n && left >= stream->prefix + frames[i].len; i++)
		left -= stream->prefix + frames[i].len;
	vsw_traffic_add_frames(&port->tx, frames, i);
	if (left) {
		if (!vsw_outqueue_push(&stream->queue, &frames[i], (uint32_t)left)) {
			port->drops[DROP_CLOSED]++;
			vsw_port_end_errno(port, "keeping half a frame", ENOMEM);
		}
		i++;
	}
	return i;
}

/* Send each frame as a record. Return how many were sent; fewer than `n` when there is no room. */
static unsigned send_records(struct port *port, const struct frame *frames, unsigned n)
{
	const struct stream *stream = port->private;
	struct iovec pieces[FRAME_BATCH][2];
	struct mmsghdr messages[FRAME_BATCH];
	int sent;

	for (unsigned i = 0; i < n; i++)
		messages[i].msg_hdr = (struct msghdr){
			.msg_iov = pieces[i],
			.msg_iovlen = frame_pieces(&frames[i], stream->prefix, pieces[i]),
		};
	sent = sendmmsg(port->fds[0], messages, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
		vsw_port_end_errno(port, "sending", errno);
	return sent > 0 ? (unsigned)sent : 0;
}

static void drain_records(struct port *port)
{
	struct stream *stream = port->private;
	uint8_t *spare = port->engine->scratch + FRAME_PREFIX;
	struct frame frames[FRAME_BATCH];
	unsigned n = vsw_outqueue_views(&stream->queue, frames, FRAME_BATCH, spare);
	uint64_t size = 0;

	n = n ? send_records(port, frames, n) : 0;
	if (port->state != PORT_UP)
		return;
	for (unsigned i = 0; i < n; i++)
		size += stream->prefix + frames[i].len;
	vsw_outqueue_consume(&stream->queue, size, &port->tx);
}

static void drain_bytes(struct port *port)
{
	struct stream *stream = port->private;
	struct iovec pieces[2];
	struct msghdr message = { .msg_iov = pieces };
	ssize_t sent;

	message.msg_iovlen = (size_t)vsw_outqueue_peek(&stream->queue, pieces);
	if (!message.msg_iovlen)
		return;
	sent = sendmsg(port->fds[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent >= 0)
		vsw_outqueue_consume(&stream->queue, (uint64_t)sent, &port->tx);
	else if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
		vsw_port_end_errno(port, "sending", errno);
}

static void send_or_queue(struct port *port, const struct frame *frames, unsigned n)
{
	struct stream *stream = port->private;
	struct outqueue *queue = &stream->queue;
	unsigned i = 0;

	if (!queue->frames) {
		if (stream->records) {
			i = send_records(port, frames, n);
			vsw_traffic_add_frames(&port->tx, frames, i);
		} else {
			i = send_bytes(port, frames, n);
		}
		if (port->state != PORT_UP) {
			port->drops[DROP_CLOSED] += n - i;
			return;
		}
		if (i == n && !queue->frames)
			return;
	}
	vsw_backlog_add(port, queue, frames + i, n - i);
}

/* Return how many frames there are before the first that is too long. */
static unsigned fitting(const struct stream *stream, const struct frame *frames, unsigned n)
{
	unsigned i = stream->longest == FRAME_MAX ? n : 0;

	while (i < n && frames[i].len <= stream->longest)
		i++;
	return i;
}

static void stream_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	unsigned i = 0;

	while (i < n && port->state == PORT_UP) {
		unsigned n_fitting = fitting(port->private, frames + i, n - i);

		if (n_fitting)
			send_or_queue(port, frames + i, n_fitting);
		i += n_fitting;
		if (i < n) {
			port->drops[DROP_TOO_LONG]++;
			i++;
		}
	}
	port->drops[DROP_CLOSED] += n - i;
}

static void stream_drain(struct port *port)
{
	struct stream *stream = port->private;
	struct outqueue *queue = &stream->queue;

	if (stream->records)
		drain_records(port);
	else
		drain_bytes(port);
	if (port->state != PORT_UP)
		return;
	vsw_backlog_drained(port, queue);
}

const struct port_ops vsw_stream_ops = {
	.name = "stream",
	.min_fds = 1,
	.max_fds = 1,
	.open = stream_open,
	.collect = stream_collect,
	.deliver = stream_deliver,
	.drain = stream_drain,
	.close = stream_close,
};

const struct port_ops vsw_vdestream_ops = {
	.name = "vdestream",
	.min_fds = 1,
	.max_fds = 1,
	.open = vdestream_open,
	.collect = stream_collect,
	.deliver = stream_deliver,
	.drain = stream_drain,
	.close = stream_close,
};
