/* SPDX-License-Identifier: BSD-2-Clause */
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/epoll.h>
#include <sys/un.h>

#include "lab.h"
#include "pause.h"

#define A 0x525400000001ULL
#define B 0x525400000002ULL

static struct port *add_dgram(int fd)
{
	struct port *port;

	CHECK(!vsw_port_new(sw, vsw_port_ops_find("dgram"), &fd, 1, NULL, &port));
	return port;
}

static struct peer add_pair(void)
{
	struct peer peer;
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair));
	peer.fd = pair[0];
	peer.port = add_dgram(pair[1]);
	return peer;
}

/* A socket bound to the abstract name `name`. */
static int bound(const char *name, struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "vswitch-test-%d-%s", getpid(), name);
	CHECK(fd >= 0 && !bind(fd, (struct sockaddr *)address, sizeof(*address)));
	return fd;
}

/* A port connected to a peer that is not connected to it: the peer's queue is then limited by the number of datagrams. */
static struct peer add_one_way(void)
{
	struct sockaddr_un theirs, ours;
	struct peer peer;
	int fd = bound("ours", &ours);

	peer.fd = bound("theirs", &theirs);
	CHECK(!connect(fd, (struct sockaddr *)&theirs, sizeof(theirs)));
	peer.port = add_dgram(fd);
	return peer;
}

static int64_t receive(int fd)
{
	static uint8_t frame[FRAME_MAX + 1];
	ssize_t len = read(fd, frame, sizeof(frame));
	uint32_t tag;

	if (len < 0)
		return -1;
	CHECK(len >= 18);
	memcpy(&tag, frame + 14, sizeof(tag));
	for (ssize_t i = 18; i < len; i++)
		CHECK(frame[i] == (uint8_t)tag);
	return tag;
}

/* Send without the prefix. */
static void send_frame(int fd, uint64_t to, uint64_t from, uint32_t len, uint32_t tag)
{
	static uint8_t wire[FRAME_MAX + 5];

	make_frame(wire, to, from, len, tag);
	CHECK(write(fd, wire + 4, len) == (ssize_t)len);
}

static void passes_frames_of_all_sizes(void)
{
	static const uint32_t lens[] = { 18, 42, 60, 64, 1514, 9014, 65535, FRAME_MAX };
	struct peer a, b;

	lab_start(false, 8192);
	a = add_pair(), b = lab_add_peer();
	for (uint32_t i = 0; i < 8; i++) {
		send_frame(a.fd, B, A, lens[i], i);
		lab_settle();
		CHECK(lab_receive(b) == i);
		lab_send(b, A, B, lens[i], i + 100);
		lab_settle();
		CHECK(receive(a.fd) == i + 100);
	}
	CHECK(a.port->rx.frames == 8 && a.port->tx.frames == 8 && a.port->tx.bytes == a.port->rx.bytes);
	lab_stop();
	close(a.fd), close(b.fd);
}

static void passes_many_frames_in_order(void)
{
	struct peer a, b;

	lab_start(false, 8192);
	a = add_pair(), b = add_pair();
	for (uint32_t i = 0; i < 5000; i += 50) {
		for (uint32_t j = 0; j < 50; j++)
			send_frame(a.fd, B, A, 60 + j, i + j);
		lab_settle();
		for (uint32_t j = 0; j < 50; j++)
			CHECK(receive(b.fd) == i + j);
	}
	CHECK(b.port->tx.frames == 5000);
	lab_stop();
	close(a.fd), close(b.fd);
}

static void counts_what_is_too_short_or_too_long(void)
{
	static uint8_t junk[FRAME_MAX + 1];
	struct peer a, b;

	lab_start(false, 8192);
	a = add_pair(), b = lab_add_peer();
	CHECK(send(a.fd, junk, 0, 0) == 0);
	CHECK(send(a.fd, junk, 13, 0) == 13);
	CHECK(send(a.fd, junk, sizeof(junk), 0) == sizeof(junk));
	send_frame(a.fd, B, A, 60, 7);
	lab_settle();
	CHECK(lab_receive(b) == 7 && lab_receive(b) == -1);
	CHECK(a.port->drops[DROP_RUNT] == 2 && a.port->drops[DROP_OVERSIZE] == 1 && a.port->rx.frames == 4);
	CHECK(a.port->state == PORT_UP);
	lab_stop();
	close(a.fd), close(b.fd);
}

/* Fill the way to `b`, whose address is known, until a sender has to wait; then nothing is lost or comes out of order. */
static void waits_for(struct peer b, uint32_t len)
{
	struct peer a = add_pair();
	uint32_t n = 0, got = 0;

	while (!a.port->waits_for) {
		send_frame(a.fd, B, A, len, n++);
		lab_settle();
		CHECK(n < 10000);
	}
	CHECK(b.port->congestion == CONGESTION_CONGESTED);
	/* A full queue is no event: the loop sleeps. */
	CHECK(poll(&(struct pollfd){ .fd = engine->epoll_fd, .events = POLLIN }, 1, 0) == 0);
	for (; got < n; lab_settle())
		while (got < n && receive(b.fd) == got)
			got++;
	CHECK(!a.port->waits_for && a.port->pauses == 1 && b.port->congestion == CONGESTION_CLEAR);
	CHECK(b.port->tx.frames == n && b.port->tx.bytes == (uint64_t)n * len && !b.port->drops[DROP_OVERFLOW]);
	CHECK(!(b.port->events & EPOLLOUT));
	close(a.fd);
}

static void a_full_socket_pauses_its_senders_and_loses_nothing(void)
{
	static const uint32_t lens[] = { 60, 1514, 9000, 65000 };

	for (unsigned i = 0; i < 4; i++) {
		struct peer b;

		lab_start(false, 8192);
		b = add_pair();
		send_frame(b.fd, ANYBODY, B, 60, 0);
		lab_settle();
		waits_for(b, lens[i]);
		lab_stop();
		close(b.fd);
	}
}

/* As QEMU does: the peer sends without being connected, and so its own queue is limited by the number of datagrams. */
static void a_full_queue_of_a_peer_pauses_its_senders_and_loses_nothing(void)
{
	struct sockaddr_un ours;
	socklen_t size = sizeof(ours);
	uint8_t wire[64];
	struct peer b;

	lab_start(false, 8192);
	b = add_one_way();
	CHECK(!getsockname(b.port->fds[0], (struct sockaddr *)&ours, &size));
	make_frame(wire, ANYBODY, B, 60, 0);
	CHECK(sendto(b.fd, wire + 4, 60, 0, (struct sockaddr *)&ours, size) == 60);
	lab_settle();
	CHECK(b.port->rx.frames == 1);
	waits_for(b, 60);
	lab_stop();
	close(b.fd);
}

static void a_stuck_peer_holds_its_senders_up_only_for_the_limit(void)
{
	struct peer a, b;
	uint32_t n = 0;

	lab_start(false, 8192);
	a = add_pair(), b = add_pair();
	send_frame(b.fd, ANYBODY, B, 60, 0);
	lab_settle();
	while (!a.port->waits_for) {
		send_frame(a.fd, B, A, 1514, n++);
		lab_settle();
	}
	test_clock_ns += PAUSE_LIMIT_NS;
	lab_settle();
	CHECK(!a.port->waits_for && b.port->congestion == CONGESTION_GIVEN_UP);
	for (uint32_t i = 0; i < 2000; i++, n++) {
		send_frame(a.fd, B, A, 1514, n);
		lab_settle();
	}
	CHECK(b.port->drops[DROP_OVERFLOW] > 1000);
	for (uint32_t got = 0; got < n - b.port->drops[DROP_OVERFLOW]; lab_settle())
		while (receive(b.fd) >= 0)
			got++;
	CHECK(b.port->tx.frames + b.port->drops[DROP_OVERFLOW] == n && b.port->congestion == CONGESTION_CLEAR);
	lab_stop();
	close(a.fd), close(b.fd);
}

static void drops_are_counted_until_somebody_connects_the_socket(void)
{
	struct sockaddr_un theirs, ours;
	struct peer a, b;
	int fd, other;

	lab_start(false, 8192);
	a = lab_add_peer();
	b.fd = bound("theirs", &theirs);
	fd = bound("ours", &ours);
	other = dup(fd);
	b.port = add_dgram(fd);
	lab_send(a, ANYBODY, A, 60, 1);
	lab_send(a, ANYBODY, A, 60, 2);
	lab_settle();
	CHECK(b.port->drops[DROP_LINK_DOWN] == 2 && b.port->state == PORT_UP && receive(b.fd) == -1);
	CHECK(!connect(other, (struct sockaddr *)&theirs, sizeof(theirs)));
	lab_send(a, ANYBODY, A, 60, 3);
	lab_settle();
	CHECK(receive(b.fd) == 3 && b.port->tx.frames == 1);
	lab_stop();
	close(a.fd), close(b.fd), close(other);
}

static void a_peer_that_has_gone_ends_the_port(void)
{
	struct peer a, b, c;

	lab_start(false, 8192);
	a = lab_add_peer(), b = add_pair(), c = lab_add_peer();
	close(b.fd);
	for (uint32_t i = 0; i < 3; i++)
		lab_send(a, ANYBODY, A, 60, i);
	lab_settle();
	CHECK(b.port->state == PORT_CLOSED && !strcmp(b.port->reason, "the peer has gone"));
	CHECK(b.port->drops[DROP_LINK_DOWN] == 1 && b.port->drops[DROP_CLOSED] == 2);
	for (uint32_t i = 0; i < 3; i++)
		CHECK(lab_receive(c) == i);
	lab_stop();
	close(a.fd), close(c.fd);
}

static void a_peer_that_goes_with_frames_queued_ends_the_port(void)
{
	struct peer a, b;
	uint32_t n = 0;

	lab_start(false, 8192);
	a = add_pair(), b = add_pair();
	send_frame(b.fd, ANYBODY, B, 60, 0);
	lab_settle();
	while (!a.port->waits_for) {
		send_frame(a.fd, B, A, 1514, n++);
		lab_settle();
	}
	close(b.fd);
	lab_settle();
	CHECK(b.port->state == PORT_CLOSED && !a.port->waits_for);
	/* What the socket had taken was sent; the rest is counted. */
	CHECK(b.port->tx.frames + b.port->drops[DROP_LINK_DOWN] + b.port->drops[DROP_CLOSED] == n);
	lab_stop();
	close(a.fd);
}

static void a_socket_that_is_shut_down_does_not_keep_the_loop_busy(void)
{
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_peer(), b = add_pair();
	CHECK(!shutdown(b.port->fds[0], SHUT_RDWR));
	lab_settle(); /* comes back */
	CHECK(b.port->state == PORT_CLOSED && strstr(b.port->reason, "shut down"));
	lab_stop();
	close(a.fd), close(b.fd);
}

/* A port over UDP, and its peer, on the loopback device: what is sent has arrived when the call returns. */
static struct peer add_udp(void)
{
	struct sockaddr_in addresses[2];
	struct peer peer;
	int fds[2], room = 212992; /* as much as anybody may have */

	for (int i = 0; i < 2; i++) {
		socklen_t size = sizeof(addresses[i]);

		addresses[i] = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
		CHECK(!setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)));
		CHECK(fds[i] >= 0 && !bind(fds[i], (struct sockaddr *)&addresses[i], size));
		CHECK(!getsockname(fds[i], (struct sockaddr *)&addresses[i], &size));
	}
	for (int i = 0; i < 2; i++)
		CHECK(!connect(fds[i], (struct sockaddr *)&addresses[!i], sizeof(addresses[!i])));
	peer.fd = fds[0];
	peer.port = add_dgram(fds[1]);
	return peer;
}

/* Whoever gave us the socket may have asked for a queue of errors; while something is in there, epoll says so. */
static void a_queue_of_errors_does_not_keep_the_loop_busy(void)
{
	struct pollfd failed;
	struct peer a, b;
	int on = 1;

	lab_start(false, 8192);
	a = add_udp(), b = add_pair();
	CHECK(!setsockopt(a.port->fds[0], IPPROTO_IP, IP_RECVERR, &on, sizeof(on)));
	close(a.fd);
	for (uint64_t i = 0; i < 3; i++) {
		send_frame(b.fd, ANYBODY, B, 60, 0);
		vsw_engine_step(engine, 0);
		failed = (struct pollfd){ .fd = a.port->fds[0] };
		CHECK(poll(&failed, 1, 10000) == 1 && failed.revents == POLLERR);
		CHECK(lab_is_quiet_after(10) && a.port->state == PORT_UP);
		CHECK(a.port->drops[DROP_REFUSED] == i + 1);
	}
	lab_stop();
	close(b.fd);
}

/* More frames than a batch has, in lumps that end with a shorter one. The kernel may tell of other things before. */
static void lumps_come_in_and_go_out(bool told_the_time)
{
	enum { IN_LUMP = 50, LUMPS = 6, LEN = 100 };
	static uint8_t wire[LUMPS * IN_LUMP * (LEN + 4)];
	struct peer a, b;
	int len = LEN, on = told_the_time;

	lab_start(false, 8192);
	a = add_udp(), b = add_udp();
	CHECK(!setsockopt(a.port->fds[0], SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)));
	CHECK(!setsockopt(a.fd, SOL_UDP, UDP_SEGMENT, &len, sizeof(len)));
	for (uint32_t lump = 0; lump < LUMPS; lump++) {
		size_t at = 0;

		for (uint32_t i = 0; i < IN_LUMP; i++) {
			uint8_t one[LEN + 4];
			uint32_t size = i < IN_LUMP - 1 ? LEN : 60;

			make_frame(one, B, A, size, lump * IN_LUMP + i);
			memcpy(wire + at, one + 4, size);
			at += size;
		}
		CHECK(send(a.fd, wire, at, 0) == (ssize_t)at);
	}
	lab_settle();
	for (uint32_t i = 0; i < LUMPS * IN_LUMP; i++)
		CHECK(receive(b.fd) == i);
	CHECK(a.port->rx.frames == LUMPS * IN_LUMP && b.port->tx.frames == LUMPS * IN_LUMP);
	CHECK(receive(b.fd) == -1);
	lab_stop();
	close(a.fd), close(b.fd);
}

static void lumps_of_datagrams_come_in_and_go_out(void)
{
	lumps_come_in_and_go_out(false);
	lumps_come_in_and_go_out(true);
}

static void takes_only_datagram_sockets(void)
{
	struct port *port;
	int pair[2];

	lab_start(false, 8192);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CHECK(vsw_port_new(sw, vsw_port_ops_find("dgram"), &pair[0], 1, NULL, &port) == -EPROTOTYPE);
	close(pair[1]);
	pair[0] = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(vsw_port_new(sw, vsw_port_ops_find("dgram"), &pair[0], 1, NULL, &port) == -ENOTCONN);
	CHECK(!pipe(pair));
	CHECK(vsw_port_new(sw, vsw_port_ops_find("dgram"), &pair[0], 1, NULL, &port) == -ENOTSOCK);
	close(pair[1]);
	lab_stop();
}

int main(void)
{
	RUN(passes_frames_of_all_sizes);
	RUN(passes_many_frames_in_order);
	RUN(counts_what_is_too_short_or_too_long);
	RUN(a_full_socket_pauses_its_senders_and_loses_nothing);
	RUN(a_full_queue_of_a_peer_pauses_its_senders_and_loses_nothing);
	RUN(a_stuck_peer_holds_its_senders_up_only_for_the_limit);
	RUN(drops_are_counted_until_somebody_connects_the_socket);
	RUN(a_peer_that_has_gone_ends_the_port);
	RUN(a_peer_that_goes_with_frames_queued_ends_the_port);
	RUN(a_socket_that_is_shut_down_does_not_keep_the_loop_busy);
	RUN(a_queue_of_errors_does_not_keep_the_loop_busy);
	RUN(lumps_of_datagrams_come_in_and_go_out);
	RUN(takes_only_datagram_sockets);
	return 0;
}
