/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `l2tpv3`: Ethernet in static L2TPv3 sessions (RFC 3931, 4719), over UDP or directly over IP, as of Linux and of
 * QEMU's `l2tpv3` netdev. A datagram is, in network order:
 *
 *	UDP only: 0x0003 0x0000   a data message, version 3
 *	session                   32 bits
 *	cookie                    none, 32 or 64 bits: random, so that frames cannot be slipped in blindly
 *	counter                   none or 32 bits: Linux's default L2-specific sublayer
 *	padding                   as many bytes as are agreed on; of undefined content
 *	frame
 *
 * The first descriptor is connected, so only the peer's datagrams come in. A raw IPv4 socket gives the IP header, too.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "datagram_port.h"

#define OFFSET_MAX 256
#define DATA       0x00030000U /* first word over UDP */
#define CONTROL    0x80        /* of its first byte: not data, but a message between L2TP daemons */

/* What Python packs, see l2tpv3.py. */
struct options {
	uint32_t tx_session, rx_session;
	uint64_t tx_cookie, rx_cookie;
	uint8_t tx_cookie_size, rx_cookie_size; /* bytes: 0, 4 or 8 */
	uint8_t counter;                        /* whether there is one */
	uint8_t pinned;                         /* whether it stays 0 */
	uint16_t offset;                        /* bytes of padding */
	uint16_t unused;
};
_Static_assert(sizeof(struct options) == 32, "l2tpv3.py packs something else");

/* The first part of a header: all that is the same in each. */
struct front {
	uint8_t bytes[4 + 4 + 8];
	uint32_t len;
};

struct l2tpv3 {
	struct datagram_port datagram;
	bool udp, ip_header;
	struct front sent, expected;
	bool counter, pinned;
	uint32_t offset;
	uint32_t counters[FRAME_BATCH]; /* as they go out with one batch */
};

static const uint8_t padding[OFFSET_MAX];

static void put(struct front *front, uint64_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		front->bytes[front->len++] = (uint8_t)(value >> (size - 1 - i) * 8);
}

static bool cookie_size_is_one(unsigned size)
{
	return size == 0 || size == 4 || size == 8;
}

static int set_up(struct port *port, struct l2tpv3 *l2tpv3)
{
	const struct options *options = port->options;
	int type, domain, ret = vsw_datagram_open(port, &l2tpv3->datagram);
	socklen_t size = sizeof(int);

	if (ret)
		return ret;
	if (getsockopt(port->fds[0], SOL_SOCKET, SO_TYPE, &type, &size) ||
	    getsockopt(port->fds[0], SOL_SOCKET, SO_DOMAIN, &domain, &size))
		return -errno;
	if (domain == AF_UNIX)
		return -EAFNOSUPPORT;
	if (options->offset > OFFSET_MAX || !cookie_size_is_one(options->tx_cookie_size) ||
	    !cookie_size_is_one(options->rx_cookie_size))
		return -EINVAL;
	l2tpv3->udp = type == SOCK_DGRAM;
	l2tpv3->ip_header = type == SOCK_RAW && domain == AF_INET;
	if (l2tpv3->udp)
		put(&l2tpv3->sent, DATA, 4);
	put(&l2tpv3->sent, options->tx_session, 4);
	put(&l2tpv3->sent, options->tx_cookie, options->tx_cookie_size);
	put(&l2tpv3->expected, options->rx_session, 4);
	put(&l2tpv3->expected, options->rx_cookie, options->rx_cookie_size);
	l2tpv3->counter = options->counter;
	l2tpv3->pinned = options->pinned;
	l2tpv3->offset = options->offset;
	return 0;
}

static unsigned make_header(struct port *port, unsigned nth, struct iovec pieces[DATAGRAM_HEADER_PIECES])
{
	struct l2tpv3 *l2tpv3 = port->private;
	unsigned n = 0;

	pieces[n++] = (struct iovec){ l2tpv3->sent.bytes, l2tpv3->sent.len };
	if (l2tpv3->counter) {
		l2tpv3->counters[nth] = l2tpv3->pinned ? 0 : htobe32(l2tpv3->datagram.settled + nth + 1);
		pieces[n++] = (struct iovec){ &l2tpv3->counters[nth], sizeof(l2tpv3->counters[nth]) };
	}
	if (l2tpv3->offset)
		pieces[n++] = (struct iovec){ (void *)(uintptr_t)padding, l2tpv3->offset };
	return n;
}

/* Return the size of the IP header at `datagram`, 0 if that is none. */
static uint32_t ip_header_size(const uint8_t *datagram, uint32_t len)
{
	uint32_t size = len ? (datagram[0] & 15U) * 4 : 0;

	return size <= len ? size : 0;
}

static int refuse(struct port *port, enum drop why, uint32_t len)
{
	vsw_port_drop_in(port, why, len);
	return -1;
}

static int strip_header(struct port *port, const uint8_t *datagram, uint32_t len)
{
	const struct l2tpv3 *l2tpv3 = port->private;
	const struct front *expected = &l2tpv3->expected;
	uint32_t at = 0, size;

	if (l2tpv3->ip_header) {
		at = ip_header_size(datagram, len);
		if (!at)
			return refuse(port, DROP_RUNT, len);
	}
	if (l2tpv3->udp) {
		if (len && (datagram[0] & CONTROL))
			return refuse(port, DROP_BAD_SESSION, len);
		at += 4;
	}
	size = at + expected->len + (l2tpv3->counter ? 4 : 0) + l2tpv3->offset;
	if (len < size)
		return refuse(port, DROP_RUNT, len);
	if (memcmp(datagram + at, expected->bytes, 4) != 0)
		return refuse(port, DROP_BAD_SESSION, len);
	if (memcmp(datagram + at, expected->bytes, expected->len) != 0)
		return refuse(port, DROP_BAD_COOKIE, len);
	return (int)size;
}

static int l2tpv3_open(struct port *port)
{
	struct l2tpv3 *l2tpv3 = calloc(1, sizeof(*l2tpv3));
	int ret = l2tpv3 ? set_up(port, l2tpv3) : -ENOMEM;

	if (ret) {
		free(l2tpv3);
		return ret;
	}
	l2tpv3->datagram.header = make_header;
	l2tpv3->datagram.strip = strip_header;
	port->private = l2tpv3;
	return 0;
}

const struct port_ops vsw_l2tpv3_ops = {
	.name = "l2tpv3",
	.min_fds = 1,
	.max_fds = 1,
	.options_size = sizeof(struct options),
	.open = l2tpv3_open,
	.collect = vsw_datagram_collect,
	.deliver = vsw_datagram_deliver,
	.drain = vsw_datagram_drain,
	.tick = vsw_datagram_tick,
	.close = vsw_datagram_close,
};
