/* SPDX-License-Identifier: BSD-2-Clause */
/* Ring ports whose client is in the same program: what the fabric's control process does, in a few lines. */
#ifndef VSW_TEST_RING_CLIENT_H
#define VSW_TEST_RING_CLIENT_H

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../vswitch/libvswitch.h"
#include "check.h"
#include "port.h"
#include "switch.h"

struct client {
	struct vsw_ring *ring;
	struct port *port;
	int kick; /* our own copy of the eventfd */
};

static inline void send_answer(int fd, uint32_t half, const int fds[2])
{
	struct nmr_opened answer = { .magic = NMR_MAGIC, .version = NMR_VERSION, .half = half };
	struct iovec piece = { &answer, sizeof(answer) };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control = {
		.header = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(2 * sizeof(int)) }
	};
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	memcpy(CMSG_DATA(&control.header), fds, 2 * sizeof(int));
	CHECK(sendmsg(fd, &message, 0) == sizeof(answer));
}

/* Open a ring port of `geometry` on `sw`, in the engine's thread or without one. `options` may be NULL. */
static inline struct client client_open_with(struct vsw_switch *network, struct nmr_geometry geometry,
					     const struct vsw_ring_options *options)
{
	struct client client;
	int pair[2], fds[3], sent[2];

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	geometry.n_halves = 1;
	fds[1] = nmr_create(&geometry, "test", 1);
	fds[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fds[2] = pair[1];
	CHECK(fds[0] >= 0 && fds[1] >= 0);
	client.kick = dup(fds[0]);
	sent[0] = fds[1];
	sent[1] = fds[0];
	send_answer(pair[1], 0, sent); /* before the question: it waits in the socket */
	client.ring = vsw_ring_adopt(pair[0], options, NULL);
	CHECK(client.ring);
	CHECK(!vsw_port_new(network, vsw_port_ops_find("ring"), fds, 3, NULL, &client.port));
	return client;
}

static inline struct client client_open(struct vsw_switch *network, struct nmr_geometry geometry)
{
	return client_open_with(network, geometry, NULL);
}

static inline struct client client_new(struct vsw_switch *network)
{
	return client_open(network, (struct nmr_geometry){ .rings = 1, .slots = 1024, .buf_size = 2048 });
}

static inline void client_close(struct client *client)
{
	vsw_ring_close(client->ring);
	close(client->kick);
}

/* Both ends of a pipe. `options` may be NULL. */
static inline void pipe_open_with(struct nmr_geometry geometry, const struct vsw_ring_options *options,
				  struct vsw_ring *ends[2])
{
	int peers[2], memory;

	geometry.n_halves = 2;
	memory = nmr_create(&geometry, "pipe", 1);
	CHECK(memory >= 0);
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, peers));
	for (uint32_t i = 0; i < 2; i++) {
		int pair[2];

		CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
		send_answer(pair[1], i, (int[]){ memory, peers[i] });
		ends[i] = vsw_ring_adopt(pair[0], options, NULL);
		CHECK(ends[i]);
		close(pair[1]);
		close(peers[i]);
	}
	close(memory);
}

static inline void pipe_open(struct nmr_geometry geometry, struct vsw_ring *ends[2])
{
	pipe_open_with(geometry, NULL, ends);
}

#endif
