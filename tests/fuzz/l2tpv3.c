/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzzes what an L2TPv3 port takes. The input's first two bytes choose the header that is agreed on; datagrams follow, each
 * behind its size in two bytes. What comes out of another port must be what a plain parser finds in them, and every other
 * datagram must be counted for the reason it gives.
 *
 * Raw IP needs root, and UDP cannot be read from step by step: the port's socket is one of a unix pair that claims otherwise.
 */
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "switch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __real_getsockopt(int fd, int level, int option, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *size);

#define REQUIRE(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			__builtin_trap();                                                                              \
	} while (0)

/* As l2tpv3.py packs it. */
struct options {
	uint32_t tx_session, rx_session;
	uint64_t tx_cookie, rx_cookie;
	uint8_t tx_cookie_size, rx_cookie_size, counter, pinned;
	uint16_t offset, unused;
};

static struct engine *engine;
static int claimed_fd = -1, claimed_type, claimed_domain;
static uint64_t expected_drops[NUM_DROPS];
static uint8_t out[FRAME_MAX + 5];

int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *size)
{
	int ret = __real_getsockopt(fd, level, option, value, size);

	if (fd == claimed_fd && level == SOL_SOCKET && option == SO_TYPE)
		memcpy(value, &claimed_type, sizeof(int));
	if (fd == claimed_fd && level == SOL_SOCKET && option == SO_DOMAIN)
		memcpy(value, &claimed_domain, sizeof(int));
	return ret;
}

static struct options choose(const uint8_t *data)
{
	static const uint8_t cookie_sizes[] = { 0, 4, 8, 8 };

	claimed_type = data[0] & 1 ? SOCK_DGRAM : SOCK_RAW;
	claimed_domain = data[0] & 2 ? AF_INET6 : AF_INET;
	return (struct options){
		.tx_session = 1,
		.rx_session = 0x01020304,
		.rx_cookie = 0x05060708090a0b0cULL,
		.rx_cookie_size = cookie_sizes[data[0] >> 2 & 3],
		.counter = data[0] >> 4 & 1,
		.offset = data[1],
	};
}

/* Return how many bytes stand before the frame in a datagram, or -1 after counting why there is none. */
static int find_frame(const struct options *options, const uint8_t *datagram, uint32_t size)
{
	static const uint8_t session[] = { 1, 2, 3, 4 }, cookie[] = { 5, 6, 7, 8, 9, 10, 11, 12 };
	uint32_t skip = 0, cookie_size = options->rx_cookie_size, before;
	enum drop why;

	if (claimed_type == SOCK_RAW && claimed_domain == AF_INET && size)
		skip = 4 * (datagram[0] % 16);
	if (claimed_type == SOCK_DGRAM)
		skip = 4;
	before = skip + 4 + cookie_size + 4 * options->counter + options->offset;
	if (claimed_type == SOCK_DGRAM && size && datagram[0] >= 0x80)
		why = DROP_BAD_SESSION;
	else if (size < before || (claimed_type == SOCK_RAW && claimed_domain == AF_INET && !skip))
		why = DROP_RUNT;
	else if (memcmp(datagram + skip, session, 4) != 0)
		why = DROP_BAD_SESSION;
	else if (memcmp(datagram + skip + 4, cookie + 8 - cookie_size, cookie_size) != 0)
		why = DROP_BAD_COOKIE;
	else if (size - before < FRAME_MIN)
		why = DROP_RUNT;
	else
		return (int)before;
	expected_drops[why]++;
	return -1;
}

static struct port *add(struct vsw_switch *sw, const char *type, int kind, const void *options, int *peer)
{
	struct port *port;
	int pair[2];

	REQUIRE(!socketpair(AF_UNIX, kind | SOCK_NONBLOCK, 0, pair));
	claimed_fd = options ? pair[1] : -1;
	REQUIRE(!vsw_port_new(sw, vsw_port_ops_find(type), &pair[1], 1, options, &port));
	claimed_fd = -1;
	*peer = pair[0];
	return port;
}

static void pass(const struct options *options, int in, int beyond, const uint8_t *datagram, uint32_t size)
{
	int at = find_frame(options, datagram, size);
	uint32_t len = at < 0 ? 0 : size - (uint32_t)at, prefix = htobe32(len);

	REQUIRE(send(in, datagram, size, MSG_NOSIGNAL) == (ssize_t)size);
	vsw_engine_step(engine, 0);
	if (at < 0) {
		REQUIRE(read(beyond, out, sizeof(out)) < 0);
		return;
	}
	REQUIRE(read(beyond, out, sizeof(out)) == (ssize_t)(4 + len));
	REQUIRE(!memcmp(out, &prefix, 4) && !memcmp(out + 4, datagram + at, len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vsw_switch *sw;
	struct options options;
	struct port *port;
	size_t at = 2;
	int in, beyond;

	if (size < 2)
		return 0;
	if (!engine)
		REQUIRE(!vsw_engine_new(&engine));
	REQUIRE(!vsw_switch_new(engine, true, 0, 1, &sw));
	options = choose(data);
	memset(expected_drops, 0, sizeof(expected_drops));
	port = add(sw, "l2tpv3", SOCK_DGRAM, &options, &in);
	add(sw, "stream", SOCK_STREAM, NULL, &beyond);
	while (size - at >= 2) {
		size_t wanted = (size_t)data[at] << 8 | data[at + 1];
		size_t len = wanted < size - at - 2 ? wanted : size - at - 2;

		pass(&options, in, beyond, data + at + 2, (uint32_t)len);
		at += 2 + len;
	}
	REQUIRE(port->state == PORT_UP);
	for (int i = 0; i < NUM_DROPS; i++)
		REQUIRE(port->drops[i] == expected_drops[i]);
	vsw_switch_free(sw);
	close(in);
	close(beyond);
	return 0;
}
