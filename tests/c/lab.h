/* SPDX-License-Identifier: BSD-2-Clause */
/* An engine without a thread, one switch, and peers on socket pairs; time stands still unless a test moves it. */
#ifndef VSW_TEST_LAB_H
#define VSW_TEST_LAB_H

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "engine.h"
#include "switch.h"

#define SECOND  1000000000ULL
#define ANYBODY 0xffffffffffffULL

struct peer {
	int fd;
	struct port *port;
	uint32_t prefix; /* bytes of length before each frame: the last ones of 32 bits */
};

static uint64_t test_clock_ns = 1000 * SECOND;
static struct engine *engine;
static struct vsw_switch *sw;

static inline uint64_t test_clock(void)
{
	return test_clock_ns;
}

static inline void lab_start(bool hub, uint32_t fdb_limit)
{
	CHECK(!vsw_engine_new(&engine));
	engine->clock = test_clock;
	engine->now = test_clock_ns;
	engine->linger = 0;
	engine->next_tick = test_clock_ns + ENGINE_TICK_NS;
	CHECK(!vsw_switch_new(engine, hub, 300 * SECOND, fdb_limit, &sw));
}

static inline void lab_stop(void)
{
	vsw_engine_free(engine);
	engine = NULL;
}

static inline struct peer lab_add_peer_on(int socket_type, const char *type, uint32_t prefix)
{
	struct peer peer = { .prefix = prefix };
	int pair[2];

	CHECK(!socketpair(AF_UNIX, socket_type | SOCK_NONBLOCK, 0, pair));
	CHECK(!vsw_port_new(sw, vsw_port_ops_find(type), &pair[1], 1, NULL, &peer.port));
	peer.fd = pair[0];
	return peer;
}

static inline struct peer lab_add_framed_peer(const char *type, uint32_t prefix)
{
	return lab_add_peer_on(SOCK_STREAM, type, prefix);
}

static inline struct peer lab_add_peer(void)
{
	return lab_add_framed_peer("stream", 4);
}

/* Turn the loop until nothing is left to do. */
static inline void lab_settle(void)
{
	struct pollfd waiting = { .fd = engine->epoll_fd, .events = POLLIN };

	do
		vsw_engine_step(engine, 0);
	while (engine->n_warm || poll(&waiting, 1, 0) > 0);
}

/* Turn the loop. Return whether nothing is left to do after so many turns, while nothing happens: it does not spin. */
static inline bool lab_is_quiet_after(unsigned turns)
{
	struct pollfd waiting = { .fd = engine->epoll_fd, .events = POLLIN };

	for (unsigned i = 0; i < turns; i++)
		vsw_engine_step(engine, 0);
	return poll(&waiting, 1, 0) == 0;
}

static inline void put_mac(uint8_t *at, uint64_t mac)
{
	for (int i = 5; i >= 0; i--, mac >>= 8)
		at[i] = (uint8_t)mac;
}

/* Write a framed frame of `len` (>= 18) bytes that carries `tag`; return its size with the prefix. */
static inline size_t make_frame(uint8_t *at, uint64_t to, uint64_t from, uint32_t len, uint32_t tag)
{
	uint32_t wire = htobe32(len);

	memcpy(at, &wire, 4);
	memset(at + 4, (int)(tag & 0xff), len);
	put_mac(at + 4, to);
	put_mac(at + 10, from);
	at[16] = 0x88;
	at[17] = 0xb5;
	memcpy(at + 18, &tag, sizeof(tag));
	return len + 4;
}

static inline void lab_send(struct peer peer, uint64_t to, uint64_t from, uint32_t len, uint32_t tag)
{
	uint8_t *wire = malloc(len + 4);
	size_t size = make_frame(wire, to, from, len, tag);

	wire += 4 - peer.prefix, size -= 4 - peer.prefix;
	CHECK(write(peer.fd, wire, size) == (ssize_t)size);
	free(wire - (4 - peer.prefix));
}

/* Read one frame: return its tag, or -1 if none is there. Checks the content. */
static inline int64_t lab_receive(struct peer peer)
{
	static uint8_t frame[FRAME_MAX];
	uint32_t wire = 0, len, tag;
	size_t have = 0;

	if (read(peer.fd, (uint8_t *)&wire + 4 - peer.prefix, peer.prefix) != peer.prefix)
		return -1;
	len = be32toh(wire);
	CHECK(len >= 18 && len <= FRAME_MAX);
	while (have < len) {
		ssize_t n = read(peer.fd, frame + have, len - have);

		if (n < 0 && errno == EAGAIN) {
			lab_settle(); /* the rest is still queued */
			continue;
		}
		CHECK(n > 0);
		have += (size_t)n;
	}
	memcpy(&tag, frame + 14, sizeof(tag));
	for (uint32_t i = 18; i < len; i++)
		CHECK(frame[i] == (uint8_t)tag);
	return tag;
}

#endif
