/* SPDX-License-Identifier: BSD-2-Clause */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/timerfd.h>

#include "lab.h"

#define A 0x525400000001ULL
#define B 0x525400000002ULL

/* --- what pcap.py hands over --- */

struct options {
	uint64_t period, loops;
	uint32_t snaplen;
	uint8_t plays, writes, unused[2];
};

struct record {
	uint64_t due;
	uint32_t len;
	uint8_t prefix[4];
};

struct captured {
	uint32_t seconds, nanoseconds, captured, len;
};

static const struct options play = { .plays = 1, .loops = 1 };

static _Alignas(struct record) uint8_t memory[4096];
static size_t memory_size;

/* Put a frame of `len` bytes, due `due` ns after the beginning, behind those there are. */
static void put_record(uint64_t due, uint32_t len, uint32_t tag)
{
	struct record record = { .due = due, .len = len };
	uint8_t wire[2000];

	make_frame(wire, B, A, len, tag);
	memcpy(record.prefix, wire, 4);
	memcpy(memory + memory_size, &record, sizeof(record));
	memcpy(memory + memory_size + sizeof(record), wire + 4, len);
	memory_size += (sizeof(record) + len + 7) / 8 * 8;
}

static int new_timer(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);

	CHECK(fd >= 0);
	return fd;
}

/* Have a port's timer expire now, wherever the test's clock stands, and the port called. */
static void expire(const struct port *port)
{
	struct itimerspec past = { .it_value = { .tv_nsec = 1 } };
	struct pollfd timer = { .fd = port->fds[0], .events = POLLIN };

	CHECK(!timerfd_settime(port->fds[0], TFD_TIMER_ABSTIME, &past, NULL));
	CHECK(poll(&timer, 1, 10000) == 1);
	vsw_engine_step(engine, 0);
}

static int try_port(const int *fds, unsigned n, const struct options *options, struct port **port)
{
	return vsw_port_new(sw, vsw_port_ops_find("pcap"), fds, n, options, port);
}

/* A port that plays what is in `memory`. */
static struct port *add_player(const struct options *options)
{
	int fds[2] = { new_timer(), memfd_create("records", MFD_CLOEXEC) };
	struct port *port;

	CHECK(write(fds[1], memory, memory_size) == (ssize_t)memory_size);
	CHECK(!try_port(fds, 2, options, &port));
	return port;
}

/* A port that writes into a pipe of `size` bytes, to be read from *source. */
static struct port *add_writer(int size, uint32_t snaplen, int *source)
{
	struct options options = { .writes = 1, .snaplen = snaplen };
	int ends[2], fds[2] = { new_timer() };
	struct port *port;

	CHECK(!pipe2(ends, O_NONBLOCK));
	CHECK(fcntl(ends[1], F_SETPIPE_SZ, size) == size);
	fds[1] = ends[1];
	*source = ends[0];
	CHECK(!try_port(fds, 2, &options, &port));
	return port;
}

/* Read one record of a capture, and check that it is of the frame `tag`. Return the length of that, 0 if there is none. */
static uint32_t read_captured(int source, uint32_t tag)
{
	static uint8_t frame[FRAME_MAX];
	struct captured header;
	uint32_t got;

	if (read(source, &header, sizeof(header)) != sizeof(header))
		return 0;
	CHECK(header.captured <= header.len && header.len <= FRAME_MAX && header.nanoseconds < 1000000000);
	CHECK(read(source, frame, header.captured) == header.captured);
	memcpy(&got, frame + 14, sizeof(got));
	CHECK(got == tag);
	for (uint32_t i = 18; i < header.captured; i++)
		CHECK(frame[i] == (uint8_t)tag);
	return header.len;
}

/* --- tests: playing --- */

static void plays_each_frame_when_it_is_due(void)
{
	struct peer peer;
	struct port *port;

	lab_start(false, 100);
	peer = lab_add_peer();
	memory_size = 0;
	put_record(0, 60, 1);
	put_record(0, 61, 2);
	put_record(7 * SECOND, 1514, 3);
	port = add_player(&play);
	expire(port);
	CHECK(lab_receive(peer) == 1 && lab_receive(peer) == 2 && lab_receive(peer) == -1);
	expire(port);
	CHECK(lab_receive(peer) == -1 && port->state == PORT_UP);
	test_clock_ns += 7 * SECOND;
	expire(port);
	CHECK(lab_receive(peer) == 3);
	CHECK(port->state == PORT_CLOSED && !strcmp(port->reason, "the capture has been played"));
	CHECK(port->rx.frames == 3 && port->rx.bytes == 60 + 61 + 1514);
	lab_stop();
	close(peer.fd);
}

static void plays_as_often_as_it_is_told(void)
{
	struct options thrice = { .plays = 1, .loops = 3, .period = SECOND };
	struct peer peer;
	struct port *port;

	lab_start(false, 100);
	peer = lab_add_peer();
	memory_size = 0;
	put_record(0, 60, 1);
	put_record(SECOND / 2, 60, 2);
	port = add_player(&thrice);
	for (unsigned i = 0; i < 6; i++) {
		CHECK(port->state == PORT_UP);
		expire(port);
		CHECK(lab_receive(peer) == 1 + i % 2 && lab_receive(peer) == -1);
		test_clock_ns += SECOND / 2;
	}
	CHECK(port->state == PORT_CLOSED);
	lab_stop();
	close(peer.fd);
}

/* Without a pace, for ever: a batch at a time, so that others get their turn. */
static void a_player_without_a_pace_leaves_turns_to_others(void)
{
	struct options ever = { .plays = 1 };
	struct peer peer;
	struct port *port;

	lab_start(false, 100);
	peer = lab_add_peer();
	memory_size = 0;
	put_record(0, 60, 1);
	port = add_player(&ever);
	for (unsigned i = 1; i <= 10; i++) {
		expire(port);
		CHECK(port->rx.frames == (uint64_t)i * FRAME_BATCH && port->state == PORT_UP);
	}
	lab_stop();
	close(peer.fd);
}

/* One frame in order, then a record that cannot be: what can be played is, then the port ends. */
static void broken_records_end_the_port(void)
{
	static const struct {
		uint32_t len, size; /* what the record says, and bytes of it there are */
		uint64_t due;
	} wrongs[] = {
		{ 0, 76, 0 },
		{ 13, 76, 0 },
		{ FRAME_MAX + 1, 76, 0 },
		{ UINT32_MAX, 76, 0 },
		{ UINT32_MAX - 7, 76, 0 },
		{ 61, 76, 0 },
		{ 60, 75, 0 },
		{ 60, 15, 0 },
		{ 60, 1, 0 },
		{ 60, 16, 0 },
		{ 60, 76, 1ULL << 63 },
	};

	for (unsigned i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		struct record *second;
		struct peer peer;
		struct port *port;

		lab_start(false, 100);
		peer = lab_add_peer();
		memory_size = 0;
		put_record(0, 60, 1);
		second = (struct record *)(void *)(memory + memory_size);
		put_record(wrongs[i].due, 60, 2);
		second->len = wrongs[i].len;
		memory_size = 80 + wrongs[i].size;
		port = add_player(&play);
		expire(port);
		CHECK(port->state == PORT_ERROR && strstr(port->reason, "records"));
		CHECK(lab_receive(peer) == 1 && lab_receive(peer) == -1);
		lab_stop();
		close(peer.fd);
	}
}

static void what_cannot_be_played_or_written_is_refused(void)
{
	static const struct options nothing = { 0 }, both = { .plays = 1, .writes = 1 }, write_only = { .writes = 1 };
	struct port *port;
	int fds[3], ends[2];

	lab_start(false, 100);
	fds[0] = new_timer(), fds[1] = memfd_create("empty", 0);
	CHECK(try_port(fds, 2, &play, &port) == -EINVAL);
	fds[0] = new_timer(), fds[1] = new_timer();
	CHECK(try_port(fds, 2, &nothing, &port) == -EINVAL);
	fds[0] = new_timer(), fds[1] = new_timer();
	CHECK(try_port(fds, 2, &both, &port) == -EINVAL);
	fds[0] = new_timer(), fds[1] = new_timer(), fds[2] = new_timer();
	CHECK(try_port(fds, 3, &play, &port) == -EINVAL);
	fds[0] = new_timer(), fds[1] = memfd_create("no pipe", 0);
	CHECK(try_port(fds, 2, &write_only, &port) < 0);
	CHECK(!pipe(ends)); /* too small */
	CHECK(fcntl(ends[1], F_SETPIPE_SZ, 4096) == 4096);
	fds[0] = new_timer(), fds[1] = ends[1];
	CHECK(try_port(fds, 2, &write_only, &port) == -ENOBUFS);
	close(ends[0]);
	lab_stop();
}

static void a_player_takes_nothing(void)
{
	struct peer peer;
	struct port *port;

	lab_start(false, 100);
	peer = lab_add_peer();
	memory_size = 0;
	put_record(0, 60, 1);
	port = add_player(&play);
	lab_send(peer, ANYBODY, A, 60, 1);
	lab_settle();
	CHECK(port->drops[DROP_UNWANTED] == 1 && !port->tx.frames);
	lab_stop();
	close(peer.fd);
}

/* --- tests: writing --- */

static void writes_frames_of_all_sizes(void)
{
	static const uint32_t lens[] = { 18, 60, 64, 65, 1514, 9014, 65535, FRAME_MAX };
	struct peer peer;
	struct port *port;
	int source;

	lab_start(false, 100);
	peer = lab_add_peer();
	port = add_writer(1 << 20, FRAME_MAX, &source);
	for (uint32_t i = 0; i < 8; i++) {
		lab_send(peer, ANYBODY, A, lens[i], i);
		lab_settle();
		CHECK(read_captured(source, i) == lens[i]);
	}
	CHECK(port->tx.frames == 8 && !read_captured(source, 0));
	lab_stop();
	close(peer.fd), close(source);
}

static void writes_no_more_than_it_is_told(void)
{
	static const uint32_t snaplens[] = { 18, 63, 64, 65, 1000 };

	for (unsigned i = 0; i < 5; i++) {
		struct captured header;
		struct peer peer;
		int source;

		lab_start(false, 100);
		peer = lab_add_peer();
		add_writer(1 << 16, snaplens[i], &source);
		lab_send(peer, ANYBODY, A, 1514, i);
		lab_send(peer, ANYBODY, A, snaplens[i], 100);
		lab_settle();
		CHECK(read_captured(source, i) == 1514);
		CHECK(read_captured(source, 100) == snaplens[i]);
		CHECK(read(source, &header, sizeof(header)) < 0);
		lab_stop();
		close(peer.fd), close(source);
	}
}

/* Nobody reads for a while, then in pieces: what is written is whole, in order, and goes on; what is not is counted. The
 * kernel begins a page for each write whose last part does not fit the page before, so sizes around half a page are worst.
 */
static void a_reader_that_pauses_costs_frames_but_not_the_capture(uint32_t len, uint32_t step)
{
	static uint8_t wire[4 << 20];
	size_t size = 0, at = 0;
	uint32_t last = 0, n = 0, records = 0;
	struct peer peer;
	struct port *port;
	int source;

	lab_start(false, 100);
	peer = lab_add_peer();
	port = add_writer(1 << 16, FRAME_MAX, &source);
	for (unsigned round = 0; round < 30; round++) {
		uint64_t dropped = port->drops[DROP_OVERFLOW];
		ssize_t got;

		while (port->drops[DROP_OVERFLOW] < dropped + 3) {
			lab_send(peer, ANYBODY, A, len + step * (n % 7), n + 1);
			n++;
			lab_settle();
			CHECK(port->state == PORT_UP);
		}
		got = read(source, wire + size, round < 29 ? 5000 : sizeof(wire) - size);
		CHECK(got > 0);
		size += (size_t)got;
	}
	CHECK(port->tx.frames + port->drops[DROP_OVERFLOW] == n);
	while (at < size) {
		struct captured header;
		uint32_t tag;

		CHECK(size - at >= sizeof(header));
		memcpy(&header, wire + at, sizeof(header));
		at += sizeof(header);
		CHECK(header.captured == header.len && header.captured <= size - at);
		memcpy(&tag, wire + at + 14, sizeof(tag));
		CHECK(tag > last && tag <= n && header.len == len + step * ((tag - 1) % 7));
		for (uint32_t i = 18; i < header.len; i++)
			CHECK(wire[at + i] == (uint8_t)tag);
		last = tag;
		at += header.len;
		records++;
	}
	CHECK(records == port->tx.frames);
	lab_stop();
	close(peer.fd), close(source);
}

static void a_full_pipe_ends_no_capture(void)
{
	static const uint32_t lens[] = { 60, 700, 1300, 1514, 2033, 2100, 3000, 4079, 4080, 4081, 9014 };

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		a_reader_that_pauses_costs_frames_but_not_the_capture(lens[i], 0);
		a_reader_that_pauses_costs_frames_but_not_the_capture(lens[i], 613);
	}
}

static void a_reader_that_goes_ends_the_port(void)
{
	struct peer peer;
	struct port *port;
	int source;

	lab_start(false, 100);
	peer = lab_add_peer();
	port = add_writer(1 << 16, FRAME_MAX, &source);
	close(source);
	lab_send(peer, ANYBODY, A, 60, 1);
	lab_settle();
	CHECK(port->state == PORT_CLOSED && port->drops[DROP_CLOSED] == 1 && !port->tx.frames);
	lab_stop();
	close(peer.fd);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN); /* as in Python */
	RUN(plays_each_frame_when_it_is_due);
	RUN(plays_as_often_as_it_is_told);
	RUN(a_player_without_a_pace_leaves_turns_to_others);
	RUN(broken_records_end_the_port);
	RUN(what_cannot_be_played_or_written_is_refused);
	RUN(a_player_takes_nothing);
	RUN(writes_frames_of_all_sizes);
	RUN(writes_no_more_than_it_is_told);
	RUN(a_full_pipe_ends_no_capture);
	RUN(a_reader_that_goes_ends_the_port);
	return 0;
}
