/* SPDX-License-Identifier: BSD-2-Clause */
/* A port type of the tests: a datagram socket on which a virtio-net header precedes each frame, both ways. */
#ifndef VSW_TEST_VNET_PORT_H
#define VSW_TEST_VNET_PORT_H

#include <sys/uio.h>

#include "lab.h"
#include "offload.h"

struct vnet_datagram {
	struct offload_header header;
	uint8_t bytes[FRAME_MAX];
	uint32_t len; /* of bytes */
};

static int vnet_open(struct port *port)
{
	port->offloads = true;
	return 0;
}

static void vnet_collect(struct port *port)
{
	uint8_t *data = port->engine->scratch + 16;
	struct offload_header header;
	struct offload offload;
	struct iovec pieces[2] = { { &header, sizeof(header) }, { data, FRAME_MAX } };
	ssize_t got = readv(port->fds[0], pieces, 2);
	struct frame frame;

	if (got < (ssize_t)sizeof(header) + FRAME_MIN)
		return;
	frame_set_prefix(data, (uint32_t)got - (uint32_t)sizeof(header));
	frame = frame_whole(data, (uint32_t)got - (uint32_t)sizeof(header));
	if (vsw_offload_read(&header, 0, &frame, &offload))
		vsw_switch_input(port, &frame, 1);
	else
		vsw_port_drop_in(port, DROP_BAD_OFFLOAD, frame.len);
}

static void vnet_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct offload_header header;
		struct iovec pieces[3] = { { &header, sizeof(header) } };

		vsw_offload_write(&frames[i], &header);
		CHECK(writev(port->fds[0], pieces, (int)(1 + frame_pieces(&frames[i], 0, pieces + 1))) > 0);
		vsw_traffic_add_frames(&port->tx, &frames[i], 1);
	}
}

static void vnet_close(struct port *port)
{
	(void)port;
}

static const struct port_ops vnet_ops = {
	.name = "vnet",
	.min_fds = 1,
	.max_fds = 1,
	.open = vnet_open,
	.collect = vnet_collect,
	.deliver = vnet_deliver,
	.close = vnet_close,
};

static inline struct peer lab_add_vnet_peer(void)
{
	struct peer peer;
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair));
	CHECK(!vsw_port_new(sw, &vnet_ops, &pair[1], 1, NULL, &peer.port));
	peer.fd = pair[0];
	return peer;
}

static inline void vnet_send(struct peer peer, const struct vnet_datagram *datagram)
{
	struct iovec pieces[2] = { { (void *)(uintptr_t)&datagram->header, sizeof(datagram->header) },
				   { (void *)(uintptr_t)datagram->bytes, datagram->len } };

	CHECK(writev(peer.fd, pieces, 2) == (ssize_t)(sizeof(datagram->header) + datagram->len));
	lab_settle();
}

/* Return false when there is none. */
static inline bool vnet_receive(struct peer peer, struct vnet_datagram *datagram)
{
	struct iovec pieces[2] = { { &datagram->header, sizeof(datagram->header) },
				   { datagram->bytes, sizeof(datagram->bytes) } };
	ssize_t got = readv(peer.fd, pieces, 2);

	datagram->len = got > 0 ? (uint32_t)got - (uint32_t)sizeof(datagram->header) : 0;
	return got > 0;
}

#endif
