/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzzes the stream ports' re-framing. The input's first byte says how the rest is cut into reads and whether its lengths
 * have 32 or 16 bits; what comes out of a port of the other sort, or the same, must be what a plain parser finds in it:
 * every frame of FRAME_MIN bytes or more, up to the first length over FRAME_MAX, but for those that are too long to go out.
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
static uint8_t expected[1 << 20], received[1 << 20];

#define REQUIRE(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			__builtin_trap();                                                                              \
	} while (0)

static const char *type_of(uint32_t prefix)
{
	return prefix == 2 ? "vdestream" : "stream";
}

static uint32_t length_at(const uint8_t *wire, uint32_t prefix)
{
	uint32_t len = 0;

	while (prefix--)
		len = len << 8 | *wire++;
	return len;
}

static size_t expect(size_t n, const uint8_t *frame, uint32_t len, uint32_t prefix)
{
	uint32_t length = htobe32(len);

	if (prefix == 2 && len > UINT16_MAX)
		return n;
	memcpy(expected + n, (uint8_t *)&length + 4 - prefix, prefix);
	memcpy(expected + n + prefix, frame, len);
	return n + prefix + len;
}

/* Return how many bytes of `expected` the hub has to send; set *broken if the input breaks the rules. */
static size_t parse(const uint8_t *wire, size_t size, uint32_t in, uint32_t out, bool *broken)
{
	size_t at = 0, n = 0;

	while (size - at >= in) {
		uint32_t len = length_at(wire + at, in);

		if (len > FRAME_MAX) {
			*broken = true;
			break;
		}
		if (size - at - in < len)
			break;
		if (len >= FRAME_MIN)
			n = expect(n, wire + at + in, len, out);
		at += in + len;
	}
	return n;
}

static int add_peer(struct vsw_switch *sw, uint32_t prefix, struct port **port)
{
	int pair[2];

	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
	REQUIRE(!vsw_port_new(sw, vsw_port_ops_find(type_of(prefix)), &pair[1], 1, NULL, port));
	return pair[0];
}

static size_t drain(int fd, size_t have)
{
	ssize_t n;

	vsw_engine_step(engine, 0);
	while ((n = read(fd, received + have, sizeof(received) - have)) > 0) {
		have += (size_t)n;
		vsw_engine_step(engine, 0);
	}
	return have;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vsw_switch *sw;
	struct port *a_port, *b_port;
	uint32_t in, out;
	size_t step, want, got = 0, at = 0;
	bool broken = false;
	int a, b;

	if (size < 1 || size > sizeof(received) / 4)
		return 0;
	in = data[0] & 1 ? 2 : 4;
	out = data[0] & 2 ? 2 : 4;
	step = data[0] >> 2 ? (size_t)(data[0] >> 2) * (data[0] >> 2) * 16 : 1;
	data++, size--;
	if (!engine)
		REQUIRE(!vsw_engine_new(&engine));
	REQUIRE(!vsw_switch_new(engine, true, 0, 1, &sw));
	a = add_peer(sw, in, &a_port);
	b = add_peer(sw, out, &b_port);
	want = parse(data, size, in, out, &broken);
	while (at < size) {
		ssize_t n = send(a, data + at, size - at < step ? size - at : step, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break; /* hung up on, after an oversize length */
		at += n > 0 ? (size_t)n : 0;
		got = drain(b, got);
	}
	got = drain(b, got);
	REQUIRE((a_port->state == PORT_ERROR) == broken);
	REQUIRE(got == want && !memcmp(received, expected, got));
	REQUIRE(b_port->state == PORT_UP && b_port->tx.bytes + out * b_port->tx.frames == got);
	vsw_switch_free(sw);
	close(a);
	close(b);
	return 0;
}
