/* SPDX-License-Identifier: BSD-2-Clause */
#include <fcntl.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>

#include "lab.h"
#include "pause.h"

#define A 0x525400000001ULL
#define B 0x525400000002ULL
#define C 0x525400000003ULL

/* The two framings: whose peers are `type`s, and the longest frame in it. */
static const struct framing {
	const char *type;
	uint32_t prefix, longest;
} framings[] = { { "stream", 4, FRAME_MAX }, { "vdestream", 2, 65535 } };

static struct peer add_peer(const struct framing *framing)
{
	return lab_add_framed_peer(framing->type, framing->prefix);
}

/* Frames cut anywhere arrive whole: `step` bytes at a time, each read on its own. They come in one framing and leave in
 * the other, or the same.
 */
static void reassembles(size_t step, const struct framing *in, const struct framing *out)
{
	uint32_t lens[] = { 18, 60,   1514, 65535, in->longest < out->longest ? in->longest : out->longest,
			    19, 9000, 63,   64,    65 };
	enum { FRAMES = sizeof(lens) / sizeof(lens[0]) };
	static uint8_t wire[FRAMES * (FRAME_MAX + 4)], one[FRAME_MAX + 4];
	struct peer a, b;
	size_t size = 0;

	lab_start(false, 8192);
	a = add_peer(in), b = add_peer(out);
	for (uint32_t i = 0; i < FRAMES; i++) {
		size_t n = make_frame(one, B, A, lens[i], i) - (4 - in->prefix);

		memcpy(wire + size, one + 4 - in->prefix, n);
		size += n;
	}
	for (size_t at = 0; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		CHECK(write(a.fd, wire + at, n) == (ssize_t)n);
		vsw_engine_step(engine, 0);
	}
	for (int i = 0; i < FRAMES; i++)
		CHECK(lab_receive(b) == i);
	CHECK(lab_receive(b) == -1);
	CHECK(a.port->rx.frames == FRAMES && b.port->tx.frames == FRAMES);
	lab_stop();
}

static void reassembles_frames_cut_anywhere(void)
{
	static const size_t steps[] = { 1, 2, 3, 5, 63, 64, 1000, 4096, 65536, 100000 };

	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		for (unsigned j = 0; j < 4; j++)
			reassembles(steps[i], &framings[j / 2], &framings[j % 2]);
}

static void passes_on_many_frames_sent_at_once(void)
{
	enum { FRAMES = 3000 };
	static uint8_t wire[FRAMES * 64];
	struct peer a, b;
	size_t size = 0;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer();
	for (uint32_t i = 0; i < FRAMES; i++)
		size += make_frame(wire + size, B, A, 60, i);
	CHECK(write(a.fd, wire, size) == (ssize_t)size);
	lab_settle();
	for (int i = 0; i < FRAMES; i++)
		CHECK(lab_receive(b) == i);
	CHECK(a.port->rx.frames == FRAMES && b.port->tx.frames == FRAMES && b.port->tx.bytes == FRAMES * 60ULL);
	lab_stop();
}

static void neighbours_with_short_lengths_are_left_alone(void)
{
	enum { FRAMES = 1000 };
	static uint8_t wire[FRAMES * 70], one[100];
	struct peer a, b;
	size_t size = 0;

	lab_start(false, 8192);
	a = lab_add_framed_peer("vdestream", 2), b = lab_add_peer();
	for (uint32_t i = 0; i < FRAMES; i++) {
		size_t n = make_frame(one, B, A, 60 + i % 9, i) - 2;

		memcpy(wire + size, one + 2, n);
		size += n;
	}
	CHECK(write(a.fd, wire, size) == (ssize_t)size);
	lab_settle();
	for (int i = 0; i < FRAMES; i++)
		CHECK(lab_receive(b) == i);
	lab_stop();
}

static void a_frame_its_length_cannot_say_goes_no_further(void)
{
	static uint8_t wire[3 * (FRAME_MAX + 4)];
	struct peer a, b;
	size_t size;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_framed_peer("vdestream", 2);
	size = make_frame(wire, B, A, 65536, 1);
	size += make_frame(wire + size, B, A, 60, 2);
	size += make_frame(wire + size, B, A, 65535, 3);
	for (size_t at = 0; at < size;) {
		ssize_t n = write(a.fd, wire + at, size - at);

		CHECK(n > 0);
		at += (size_t)n;
		lab_settle();
	}
	CHECK(lab_receive(b) == 2 && lab_receive(b) == 3 && lab_receive(b) == -1);
	CHECK(b.port->drops[DROP_TOO_LONG] == 1 && b.port->tx.frames == 2 && b.port->state == PORT_UP);
	lab_stop();
}

static void discards_empty_frames_and_runts_of_short_lengths(void)
{
	static const uint8_t runts[] = { 0, 0, 0, 1, 9, 0, 13, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 };
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_framed_peer("vdestream", 2), b = lab_add_peer();
	CHECK(write(a.fd, runts, sizeof(runts)) == sizeof(runts));
	lab_send(a, B, A, 60, 1);
	lab_settle();
	CHECK(lab_receive(b) == 1 && lab_receive(b) == -1);
	CHECK(a.port->drops[DROP_RUNT] == 3 && a.port->state == PORT_UP);
	lab_stop();
}

static void discards_empty_frames_and_runts(void)
{
	static const uint8_t runts[] = { 0, 0, 0, 0, 0, 0, 0, 1, 9, 0,  0,  0,  13,
					 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 };
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer();
	CHECK(write(a.fd, runts, sizeof(runts)) == sizeof(runts));
	lab_send(a, B, A, 60, 1);
	lab_settle();
	CHECK(lab_receive(b) == 1 && lab_receive(b) == -1);
	CHECK(a.port->drops[DROP_RUNT] == 3 && a.port->state == PORT_UP);
	lab_stop();
}

static void an_oversize_length_fails_that_port_alone(void)
{
	static const uint8_t oversize[] = { 0, 1, 0x10, 1 }; /* 69633 */
	struct peer a, b, c;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(a, B, A, 60, 1);
	CHECK(write(a.fd, oversize, sizeof(oversize)) == sizeof(oversize));
	lab_settle();
	CHECK(a.port->state == PORT_ERROR && a.port->drops[DROP_OVERSIZE] == 1);
	CHECK(strstr(a.port->reason, "69633"));
	CHECK(read(a.fd, &(char){ 0 }, 1) == 0); /* it was hung up on */
	CHECK(lab_receive(b) == 1);              /* what came before counts */
	lab_send(b, ANYBODY, B, 60, 2);
	lab_settle();
	CHECK(lab_receive(c) == 1 && lab_receive(c) == 2);
	lab_stop();
}

static void half_a_frame_at_the_end_is_no_frame(void)
{
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer();
	CHECK(write(a.fd, "\0\0\0\100half", 8) == 8);
	lab_settle();
	close(a.fd);
	lab_settle();
	CHECK(a.port->state == PORT_CLOSED && strstr(a.port->reason, "mid-frame"));
	CHECK(lab_receive(b) == -1);
	lab_stop();
}

/* A frame that could only be sent in part. */
static uint8_t begun[FRAME_PREFIX + FRAME_MAX];
static size_t begun_at, begun_size;

static void go_on_sending(struct peer from)
{
	while (begun_at < begun_size) {
		ssize_t n = write(from.fd, begun + begun_at, begun_size - begun_at);

		lab_settle();
		if (n < 0)
			return;
		begun_at += (size_t)n;
	}
}

/* Send to `to` until the switch takes no more, or `limit` frames were sent. Return how many; the last may be in part. */
static uint32_t send_until_stuck(struct peer from, uint64_t to, uint64_t source, uint32_t len, uint32_t limit)
{
	uint32_t n = 0;

	while (n < limit && begun_at == begun_size) {
		begun_size = make_frame(begun, to, source, len, n);
		begun_at = 0;
		go_on_sending(from);
		if (!begun_at) {
			begun_size = 0;
			break;
		}
		n++;
	}
	return n;
}

/* Take one record, which must be a whole frame with its length. Return its tag, -1 if there is none. */
static int64_t receive_record(struct peer peer, uint32_t len)
{
	static uint8_t record[FRAME_MAX];
	uint32_t tag;
	ssize_t n = recv(peer.fd, record, sizeof(record), 0);

	if (n < 0)
		return -1;
	CHECK(n == (ssize_t)len + 2 && record[0] == len >> 8 && record[1] == (len & 0xff));
	memcpy(&tag, record + 2 + 14, sizeof(tag));
	CHECK(record[n - 1] == (uint8_t)tag);
	return tag;
}

static void a_frame_is_a_record_however_slow_its_receiver_is(uint32_t len)
{
	struct peer a, b;
	uint32_t n;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer_on(SOCK_SEQPACKET, "vdestream", 2);
	lab_send(b, ANYBODY, B, 60, 0);
	lab_settle();
	n = send_until_stuck(a, B, A, len, 100000);
	CHECK(n < 100000 && a.port->waits_for == b.port);
	for (uint32_t i = 0; i < n; i++) {
		CHECK(receive_record(b, len) == i);
		lab_settle();
		go_on_sending(a);
	}
	CHECK(receive_record(b, len) == -1 && !a.port->waits_for);
	CHECK(b.port->tx.frames == n && b.port->tx.bytes == (uint64_t)n * len && !b.port->drops[DROP_OVERFLOW]);
	lab_stop();
}

static void frames_are_records_where_the_socket_has_them(void)
{
	static const uint32_t lens[] = { 60, 1514, 9000, 65000 };

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
		a_frame_is_a_record_however_slow_its_receiver_is(lens[i]);
}

static void records_that_are_cut_anywhere_are_put_together(void)
{
	static uint8_t wire[10 * 70];
	struct peer a, b;
	size_t size = 0;

	lab_start(false, 8192);
	a = lab_add_peer_on(SOCK_SEQPACKET, "vdestream", 2), b = lab_add_peer();
	for (uint32_t i = 0; i < 10; i++) {
		uint8_t one[70];
		size_t n = make_frame(one, B, A, 60, i) - 2;

		memcpy(wire + size, one + 2, n);
		size += n;
	}
	for (size_t at = 0; at < size; at += 7) {
		size_t n = size - at < 7 ? size - at : 7;

		CHECK(write(a.fd, wire + at, n) == (ssize_t)n);
		lab_settle();
	}
	for (int i = 0; i < 10; i++)
		CHECK(lab_receive(b) == i);
	close(a.fd);
	lab_settle();
	CHECK(a.port->state == PORT_CLOSED);
	lab_stop();
}

static void loses_nothing(uint32_t len, bool hub, const struct framing *out)
{
	struct peer a, b;
	uint32_t n;

	lab_start(hub, 8192);
	a = lab_add_peer(), b = add_peer(out);
	lab_send(b, ANYBODY, B, 60, 0);
	lab_settle();
	n = send_until_stuck(a, B, A, len, 100000);
	CHECK(n < 100000 && a.port->waits_for == b.port); /* the sender had to wait */
	for (uint32_t i = 0; i < n; i++) {
		CHECK(lab_receive(b) == i);
		lab_settle();
		go_on_sending(a);
	}
	CHECK(!a.port->waits_for && a.port->pauses > 0 && b.port->congestion == CONGESTION_CLEAR);
	CHECK(b.port->tx.frames == n && b.port->tx.bytes == (uint64_t)n * len && !b.port->drops[DROP_OVERFLOW]);
	lab_stop();
}

static void a_slow_receiver_pauses_its_sender_and_loses_nothing(void)
{
	static const uint32_t lens[] = { 60, 1514, 9000, 65000 };

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
		for (unsigned j = 0; j < 2; j++)
			loses_nothing(lens[i], i % 2, &framings[j]); /* a hub of two is no different */
}

static void a_stuck_receiver_holds_its_senders_up_only_for_the_limit(void)
{
	struct peer a, b, c;
	uint32_t n, sent;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(b, A, B, 60, 0);
	lab_send(c, A, C, 60, 0);
	lab_settle();
	sent = send_until_stuck(a, B, A, 1514, 100000);
	CHECK(a.port->waits_for == b.port);
	test_clock_ns += PAUSE_LIMIT_NS;
	lab_settle();
	go_on_sending(a);
	CHECK(!a.port->waits_for && b.port->congestion == CONGESTION_GIVEN_UP);
	/* From now on nobody waits: what does not fit is dropped, and counted. */
	n = send_until_stuck(a, B, A, 1514, 5000);
	CHECK(n == 5000);
	lab_settle();
	CHECK(a.port->pauses == 1);
	CHECK(b.port->drops[DROP_OVERFLOW] > 4000);
	while (lab_receive(c) >= 0)
		;
	lab_send(a, C, A, 60, 77);
	lab_settle();
	CHECK(lab_receive(c) == 77);
	/* Once it has caught up it is like any other again. */
	while (lab_receive(b) >= 0)
		lab_settle();
	CHECK(b.port->congestion == CONGESTION_CLEAR);
	CHECK(b.port->tx.frames + b.port->drops[DROP_OVERFLOW] == sent + n + 1); /* 1: C's flood */
	lab_stop();
}

static void floods_do_not_wait_for_a_stuck_receiver(void)
{
	struct peer a, b, c, d;
	uint32_t n = 0;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer(), d = lab_add_peer();
	for (; n < 3000; n++) {
		lab_send(a, ANYBODY, A, 1514, n);
		lab_settle();
		CHECK(lab_receive(c) == n);
	}
	CHECK(a.port->pauses == 0 && b.port->drops[DROP_OVERFLOW] > 0 && d.port->drops[DROP_OVERFLOW] > 0);
	CHECK(c.port->tx.frames == n && c.port->drops[DROP_OVERFLOW] == 0);
	lab_stop();
}

static void forget_what_was_begun(void)
{
	begun_at = begun_size = 0;
}

static void a_congested_port_that_ends_lets_its_senders_go(void)
{
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer();
	lab_send(b, ANYBODY, B, 60, 0);
	lab_settle();
	send_until_stuck(a, B, A, 1514, 100000);
	CHECK(a.port->waits_for == b.port);
	close(b.fd);
	lab_settle();
	CHECK(b.port->state == PORT_CLOSED && b.port->drops[DROP_CLOSED] > 0);
	CHECK(!a.port->waits_for && TAILQ_EMPTY(&engine->congested));
	forget_what_was_begun();
	lab_stop();
}

static void a_paused_sender_that_ends_waits_no_more(void)
{
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer();
	lab_send(b, ANYBODY, B, 60, 0);
	lab_settle();
	send_until_stuck(a, B, A, 1514, 100000);
	CHECK(a.port->waits_for == b.port);
	vsw_port_free(a.port);
	CHECK(TAILQ_EMPTY(&b.port->waiting));
	lab_settle();
	forget_what_was_begun();
	lab_stop();
}

static void wants_a_connected_stream_socket(void)
{
	const struct port_ops *ops = vsw_port_ops_find("stream");
	struct port *port;
	int pair[2], fd;

	lab_start(false, 8192);
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)); /* 32 bits of length have no reason to want one */
	CHECK(vsw_port_new(sw, ops, &pair[0], 1, NULL, &port) == -EPROTOTYPE);
	close(pair[1]);
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	CHECK(vsw_port_new(sw, ops, &pair[0], 1, NULL, &port) == -EPROTOTYPE);
	CHECK(fcntl(pair[0], F_GETFD) == -1); /* closed on failure */
	close(pair[1]);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(vsw_port_new(sw, ops, &fd, 1, NULL, &port) == -ENOTCONN);
	CHECK(sw->n_ports == 0);
	lab_stop();
}

/* A TCP connection that whoever gave it to us has told to keep the time at which each part was sent, for itself. */
static void a_queue_of_errors_does_not_keep_the_loop_busy(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
	int times = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
	struct peer a, b = { .prefix = 4 };
	struct pollfd full = { .fd = fd };

	lab_start(false, 8192);
	CHECK(!bind(listener, (struct sockaddr *)&address, size) && !listen(listener, 1));
	CHECK(!getsockname(listener, (struct sockaddr *)&address, &size));
	CHECK(!connect(fd, (struct sockaddr *)&address, size));
	b.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	CHECK(b.fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &times, sizeof(times)));
	CHECK(!vsw_port_new(sw, vsw_port_ops_find("stream"), &fd, 1, NULL, &b.port));
	a = lab_add_peer();
	for (uint32_t i = 0; i < 3; i++) {
		struct pollfd arrived = { .fd = b.fd, .events = POLLIN };

		lab_send(a, ANYBODY, A, 60, i);
		vsw_engine_step(engine, 0);
		CHECK(poll(&full, 1, 10000) == 1 && full.revents == POLLERR);
		CHECK(lab_is_quiet_after(10) && b.port->state == PORT_UP);
		CHECK(poll(&arrived, 1, 10000) == 1 && lab_receive(b) == i);
	}
	lab_stop();
	close(a.fd), close(b.fd), close(listener);
}

int main(void)
{
	RUN(reassembles_frames_cut_anywhere);
	RUN(passes_on_many_frames_sent_at_once);
	RUN(neighbours_with_short_lengths_are_left_alone);
	RUN(a_frame_its_length_cannot_say_goes_no_further);
	RUN(frames_are_records_where_the_socket_has_them);
	RUN(records_that_are_cut_anywhere_are_put_together);
	RUN(discards_empty_frames_and_runts_of_short_lengths);
	RUN(discards_empty_frames_and_runts);
	RUN(an_oversize_length_fails_that_port_alone);
	RUN(half_a_frame_at_the_end_is_no_frame);
	RUN(a_slow_receiver_pauses_its_sender_and_loses_nothing);
	RUN(a_stuck_receiver_holds_its_senders_up_only_for_the_limit);
	RUN(floods_do_not_wait_for_a_stuck_receiver);
	RUN(a_congested_port_that_ends_lets_its_senders_go);
	RUN(a_paused_sender_that_ends_waits_no_more);
	RUN(wants_a_connected_stream_socket);
	RUN(a_queue_of_errors_does_not_keep_the_loop_busy);
	return 0;
}
