/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzzes the stream port's re-framing. The input's first byte says how the rest is cut into reads; what comes out of
 * another port must be what a plain parser finds in it: every frame of FRAME_MIN bytes or more,
 * up to the first length over FRAME_MAX.
 */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "switch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct engine *engine;
static uint8_t expected[1 << 20], out[1 << 20];

#define REQUIRE(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			__builtin_trap();                                                                              \
	} while (0)

static uint32_t length_at(const uint8_t *wire)
{
	return (uint32_t)wire[0] << 24 | (uint32_t)wire[1] << 16 | (uint32_t)wire[2] << 8 | wire[3];
}

/* Return how many bytes of `expected` the hub has to send; set *broken if the input breaks the rules. */
static size_t parse(const uint8_t *wire, size_t size, bool *broken)
{
	size_t at = 0, n = 0;

	while (size - at >= 4) {
		uint32_t len = length_at(wire + at);

		if (len > FRAME_MAX) {
			*broken = true;
			break;
		}
		if (size - at - 4 < len)
			break;
		if (len >= FRAME_MIN) {
			memcpy(expected + n, wire + at, len + 4);
			n += len + 4;
		}
		at += 4 + len;
	}
	return n;
}

static int add_peer(struct vsw_switch *sw, struct port **port)
{
	int pair[2];

	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
	REQUIRE(!vsw_port_new(sw, vsw_port_ops_find("stream"), &pair[1], 1, NULL, port));
	return pair[0];
}

static size_t drain(int fd, size_t have)
{
	ssize_t n;

	vsw_engine_step(engine, 0);
	while ((n = read(fd, out + have, sizeof(out) - have)) > 0) {
		have += (size_t)n;
		vsw_engine_step(engine, 0);
	}
	return have;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vsw_switch *sw;
	struct port *a_port, *b_port;
	size_t step, want, got = 0, at = 0;
	bool broken = false;
	int a, b;

	if (size < 1 || size > sizeof(out) / 2)
		return 0;
	step = data[0] ? (size_t)data[0] * data[0] : 1;
	data++, size--;
	if (!engine)
		REQUIRE(!vsw_engine_new(&engine));
	REQUIRE(!vsw_switch_new(engine, true, 0, 1, &sw));
	a = add_peer(sw, &a_port);
	b = add_peer(sw, &b_port);
	want = parse(data, size, &broken);
	while (at < size) {
		ssize_t n = send(a, data + at, size - at < step ? size - at : step, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break; /* hung up on, after an oversize length */
		at += n > 0 ? (size_t)n : 0;
		got = drain(b, got);
	}
	got = drain(b, got);
	REQUIRE((a_port->state == PORT_ERROR) == broken);
	REQUIRE(got == want && !memcmp(out, expected, got));
	REQUIRE(b_port->state == PORT_UP && b_port->tx.bytes + 4 * b_port->tx.frames == got);
	vsw_switch_free(sw);
	close(a);
	close(b);
	return 0;
}
