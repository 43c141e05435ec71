/* SPDX-License-Identifier: BSD-2-Clause */
/* Ring ports step by step, without threads: what arrives, what is refused, who waits for whom. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "lab.h"
#include "ring_client.h"

static uint8_t frame_bytes[FRAME_MAX];

/* A frame of `len` bytes from station `from` to station `to`, filled with a pattern that depends on `number`. */
static struct iovec pattern(uint8_t to, uint8_t from, uint32_t len, uint32_t number)
{
	memset(frame_bytes, 0, 14);
	frame_bytes[0] = frame_bytes[6] = 2;
	frame_bytes[5] = to;
	frame_bytes[11] = from;
	frame_bytes[12] = 0x88;
	frame_bytes[13] = 0xb5;
	for (uint32_t i = 14; i < len; i++)
		frame_bytes[i] = (uint8_t)(i * 7 + number);
	return (struct iovec){ frame_bytes, len };
}

static bool is_frame(const struct iovec *got, uint8_t to, uint8_t from, uint32_t len, uint32_t number)
{
	struct iovec want = pattern(to, from, len, number);

	return got->iov_len == len && !memcmp(got->iov_base, want.iov_base, len);
}

static void send_one(struct client *client, struct iovec frame)
{
	CHECK(vsw_ring_send(client->ring, &frame, 1) == 1);
}

/* Have the switch learn that station `number` is at `client`. */
static void introduce(struct client *client, uint8_t number)
{
	send_one(client, pattern(0xff, number, 60, 0));
	lab_settle();
}

static unsigned drain(struct client *client)
{
	struct iovec got[256];
	unsigned n, total = 0;

	while ((n = vsw_ring_receive(client->ring, got, 256)))
		total += n;
	vsw_ring_release(client->ring);
	return total;
}

static void carries_frames_of_all_sizes_unchanged(void)
{
	static const uint32_t buffers[] = { 256, 2048, 4096, 65536 };

	for (unsigned k = 0; k < 4; k++) {
		static const uint32_t sizes[] = {
			14,  15,  17,  31,   32,   33,   59,   60,   63,   64,    65,    66,    127,   128,   255,
			256, 257, 300, 1514, 2047, 2048, 2049, 4096, 9014, 16000, 16384, 40000, 65535, 65536, FRAME_MAX
		};
		struct client a, b;
		struct nmr_geometry geometry = { .rings = 1, .slots = 128, .buf_size = buffers[k] };
		unsigned carried = 0;

		lab_start(false, 100);
		a = client_open(sw, geometry);
		b = client_open(sw, geometry);
		introduce(&b, 2);
		drain(&a);
		for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			struct iovec got, frame = pattern(2, 1, sizes[i], i);
			int sent = vsw_ring_send(a.ring, &frame, 1);

			if (sizes[i] > buffers[k] * 64) {
				CHECK(sent == -EMSGSIZE);
				continue;
			}
			CHECK(sent == 1);
			lab_settle();
			CHECK(vsw_ring_receive(b.ring, &got, 1) == 1);
			CHECK(is_frame(&got, 2, 1, sizes[i], i));
			carried++;
		}
		CHECK(b.port->tx.frames == carried && carried > 20);
		client_close(&a);
		client_close(&b);
		lab_stop();
	}
}

static void does_not_show_what_lies_behind_a_frame(void)
{
	struct client a, b;
	struct iovec got;
	struct netmap_ring *ring;

	lab_start(true, 100);
	a = client_new(sw);
	b = client_new(sw);
	ring = vsw_ring_tx(a.ring, 0);
	memset(vsw_ring_buf(ring, ring->slot[0].buf_idx), 0xee, 2048);
	send_one(&a, pattern(2, 1, 15, 0));
	lab_settle();
	CHECK(vsw_ring_receive(b.ring, &got, 1) == 1 && got.iov_len == 15);
	for (unsigned i = 15; i < 2048; i++)
		CHECK(((uint8_t *)got.iov_base)[i] == 0);
	client_close(&a);
	client_close(&b);
	lab_stop();
}

static void goes_round_the_ring_many_times(void)
{
	struct client a, b;
	uint32_t next_in = 0, next_out = 0;

	lab_start(false, 100);
	a = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 100, .buf_size = 512 });
	b = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 73, .buf_size = 256 });
	introduce(&b, 2);
	drain(&a);
	srandom(1);
	while (next_out < 20000) {
		struct iovec got[40];
		unsigned n;

		for (long i = random() % 40; i > 0 && next_in < next_out + 60; i--) {
			struct iovec frame = pattern(2, 1, 60 + next_in % 700, next_in);

			if (vsw_ring_send(a.ring, &frame, 1) != 1)
				break;
			next_in++;
		}
		lab_settle();
		n = vsw_ring_receive(b.ring, got, (unsigned)random() % 40);
		for (unsigned i = 0; i < n; i++, next_out++)
			CHECK(is_frame(&got[i], 2, 1, 60 + next_out % 700, next_out));
	}
	client_close(&a);
	client_close(&b);
	lab_stop();
}

static void speaks_with_a_stream_port(void)
{
	struct peer stream;
	struct client ring;
	struct iovec got;
	uint8_t wire[4 + 2000];

	lab_start(true, 100);
	stream = lab_add_peer();
	ring = client_new(sw);
	send_one(&ring, pattern(2, 1, 2000, 5));
	lab_settle();
	CHECK(read(stream.fd, wire, sizeof(wire)) == sizeof(wire));
	CHECK(wire[2] == 2000 >> 8 && wire[3] == (2000 & 0xff));
	got = (struct iovec){ wire + 4, 2000 };
	CHECK(is_frame(&got, 2, 1, 2000, 5));
	CHECK(write(stream.fd, wire, sizeof(wire)) == sizeof(wire));
	lab_settle();
	CHECK(vsw_ring_receive(ring.ring, &got, 1) == 1 && is_frame(&got, 2, 1, 2000, 5));
	client_close(&ring);
	close(stream.fd);
	lab_stop();
}

static bool doorbell_rings(const struct client *client)
{
	struct pollfd poll_fd = { .fd = vsw_ring_fd(client->ring), .events = POLLIN };

	return poll(&poll_fd, 1, 0) == 1;
}

static void rings_once_per_arming_and_only_then(void)
{
	struct client a, b;

	lab_start(true, 100);
	a = client_new(sw);
	b = client_new(sw);
	send_one(&a, pattern(2, 1, 60, 0));
	lab_settle();
	CHECK(!doorbell_rings(&b)); /* nobody asked */
	CHECK(drain(&b) == 1);
	CHECK(vsw_ring_arm(b.ring, VSW_RX) == 0);
	for (unsigned i = 0; i < 3; i++) {
		send_one(&a, pattern(2, 1, 60, 0));
		lab_settle();
	}
	CHECK(doorbell_rings(&b));
	CHECK(!vsw_ring_disarm(b.ring));
	CHECK(!doorbell_rings(&b)); /* three batches, one bell */
	CHECK(drain(&b) == 3);
	CHECK(vsw_ring_arm(b.ring, VSW_RX) == 0);
	send_one(&a, pattern(2, 1, 60, 0));
	lab_settle();
	CHECK(doorbell_rings(&b));
	client_close(&a);
	client_close(&b);
	lab_stop();
}

/* Three senders at once, a receiver that takes nothing until they stand still: pausing must lose no frame. */
static void pauses_sources_rather_than_lose_frames(void)
{
	struct client senders[3], receiver;
	unsigned sent = 0, received = 0;

	lab_start(false, 100);
	receiver = client_new(sw);
	for (uint8_t i = 0; i < 3; i++)
		senders[i] = client_new(sw);
	introduce(&receiver, 9);
	for (unsigned round = 0; round < 50; round++) {
		for (uint8_t i = 0; i < 3; i++)
			for (unsigned j = 0; j < 900; j++) {
				struct iovec frame = pattern(9, i, 60 + j % 100, j);

				if (vsw_ring_send(senders[i].ring, &frame, 1) != 1)
					break;
				sent++;
			}
		lab_settle();
		received += drain(&receiver);
		test_clock_ns += 1000000; /* well within the time a port may hold up others */
	}
	for (unsigned i = 0; i < 20; i++) {
		lab_settle();
		received += drain(&receiver);
	}
	CHECK(sent > 20000 && received == sent);
	CHECK(senders[0].port->pauses > 10 && senders[2].port->pauses > 10);
	for (unsigned i = 0; i < 3; i++)
		client_close(&senders[i]);
	client_close(&receiver);
	lab_stop();
}

/* With overflow: drop nobody waits: what does not fit is lost at once, and counted. */
static void drops_at_once_where_it_is_told_to(void)
{
	struct port_settings settings = PORT_SETTINGS_DEFAULT;
	struct client sender, receiver;
	unsigned sent = 0;

	lab_start(false, 100);
	sender = client_new(sw);
	receiver = client_new(sw);
	settings.overflow_drop = true;
	CHECK(!vsw_switch_configure_port(receiver.port, &settings));
	introduce(&receiver, 9);
	for (unsigned round = 0; round < 10; round++) {
		struct iovec frame = pattern(9, 1, 60, round);

		while (vsw_ring_send(sender.ring, &frame, 1) == 1)
			sent++;
		lab_settle();
	}
	CHECK(sent > 9000 && sender.port->pauses == 0 && receiver.port->congestion == CONGESTION_CLEAR);
	CHECK(drain(&receiver) == 1023);
	CHECK(receiver.port->drops[DROP_OVERFLOW] == sent - 1023);
	client_close(&sender);
	client_close(&receiver);
	lab_stop();
}

/* A receiver that never takes anything holds its sender up for a bounded time, and nobody else at all. */
static void gives_up_on_a_receiver_that_takes_nothing(void)
{
	struct client sender, stuck, other;
	unsigned got = 0;

	lab_start(false, 100);
	sender = client_new(sw);
	stuck = client_new(sw);
	other = client_new(sw);
	introduce(&stuck, 8);
	introduce(&other, 9);
	drain(&other);
	for (unsigned round = 0; round < 40; round++) {
		for (unsigned j = 0; j < 500; j++) {
			struct iovec frame = pattern(8, 1, 60, j);

			if (vsw_ring_send(sender.ring, &frame, 1) != 1)
				break;
		}
		lab_settle();
		test_clock_ns += 5000000;
	}
	CHECK(stuck.port->drops[DROP_OVERFLOW] > 1000);
	send_one(&sender, pattern(9, 1, 60, 0));
	lab_settle();
	got = drain(&other);
	CHECK(got == 1);
	/* Once it takes its frames again, it is like any other. */
	for (unsigned i = 0; i < 20; i++) {
		drain(&stuck);
		lab_settle();
	}
	send_one(&sender, pattern(8, 1, 60, 0));
	lab_settle();
	CHECK(drain(&stuck) == 1);
	client_close(&sender);
	client_close(&stuck);
	client_close(&other);
	lab_stop();
}

/* A slow receiver sets the pace of its sender and loses nothing, however long that goes on. */
static void waits_for_a_receiver_that_is_slow_but_steady(void)
{
	struct client sender, receiver;
	struct iovec got[64], frame = pattern(9, 1, 60, 0);

	lab_start(false, 100);
	sender = client_new(sw);
	receiver = client_new(sw);
	introduce(&receiver, 9);
	for (unsigned round = 0; round < 200; round++) {
		while (vsw_ring_send(sender.ring, &frame, 1) == 1)
			;
		lab_settle();
		vsw_ring_receive(receiver.ring, got, 64);
		test_clock_ns += 8000000;
	}
	CHECK(receiver.port->drops[DROP_OVERFLOW] == 0);
	client_close(&sender);
	client_close(&receiver);
	lab_stop();
}

/* One that was slow for a moment and then takes its frames as fast as they come is waited for again, although its ring is
 * never seen empty: it loses nothing more.
 */
static void waits_again_for_a_receiver_that_has_caught_its_breath(void)
{
	struct client sender, receiver;
	struct iovec got[256], frame = pattern(9, 1, 60, 0);
	uint64_t lost = 0;

	lab_start(false, 100);
	sender = client_new(sw);
	receiver = client_new(sw);
	introduce(&receiver, 9);
	for (unsigned ms = 0; ms < 100; ms++) {
		while (vsw_ring_send(sender.ring, &frame, 1) == 1)
			;
		lab_settle();
		if (ms >= 30) /* at first it takes nothing */
			vsw_ring_receive(receiver.ring, got, 256);
		if (ms == 60)
			lost = receiver.port->drops[DROP_OVERFLOW];
		test_clock_ns += 1000000;
	}
	CHECK(lost > 0);
	CHECK(receiver.port->drops[DROP_OVERFLOW] == lost);
	client_close(&sender);
	client_close(&receiver);
	lab_stop();
}

static void wakes_a_sender_when_half_its_ring_is_free(void)
{
	struct client a, b;
	struct iovec frame;

	lab_start(false, 100);
	a = client_new(sw);
	b = client_new(sw);
	introduce(&b, 2);
	drain(&a);
	frame = pattern(2, 1, 60, 0);
	while (vsw_ring_send(a.ring, &frame, 1) == 1)
		;
	CHECK(vsw_ring_arm(a.ring, VSW_TX) == 0);
	vsw_engine_step(engine, 0); /* one batch of 256: not yet half of 1024 */
	CHECK(!doorbell_rings(&a));
	lab_settle();
	CHECK(doorbell_rings(&a));
	client_close(&a);
	client_close(&b);
	lab_stop();
}

/* A program that waits for room must not be told of room that its frame does not fit in, over and over. */
static void waits_for_all_the_slots_a_frame_needs(void)
{
	struct client a, b;
	struct iovec small, large;

	lab_start(false, 100);
	a = client_open(sw, (struct nmr_geometry){ .rings = 2, .slots = 64, .buf_size = 256 });
	b = client_new(sw);
	introduce(&b, 2);
	drain(&a);
	small = pattern(2, 1, 60, 0);
	for (unsigned i = 0; i < 62; i++)
		CHECK(vsw_ring_send(a.ring, &small, 1) == 1);
	CHECK(vsw_ring_wait(a.ring, VSW_TX, 0) == VSW_TX); /* one slot */
	large = pattern(2, 1, 600, 0);
	CHECK(vsw_ring_send(a.ring, &large, 1) == 0);
	CHECK(vsw_ring_wait(a.ring, VSW_TX, 0) == 0);
	lab_settle();
	CHECK(vsw_ring_wait(a.ring, VSW_TX, 0) == VSW_TX);
	CHECK(vsw_ring_send(a.ring, &large, 1) == 1);
	client_close(&a);
	client_close(&b);
	lab_stop();
}

/* One slot of a ring always stays empty. */
static void refuses_a_frame_the_ring_can_never_hold(void)
{
	struct client a;
	struct iovec frame;

	lab_start(false, 100);
	a = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 64, .buf_size = 256 });
	frame = pattern(2, 1, 63 * 256 + 1, 0);
	CHECK(vsw_ring_send(a.ring, &frame, 1) == -EMSGSIZE);
	frame = pattern(2, 1, 63 * 256, 0);
	CHECK(vsw_ring_send(a.ring, &frame, 1) == 1);
	lab_settle();
	CHECK(a.port->rx.frames == 1);
	client_close(&a);
	lab_stop();
}

/* Fifteen saturating senders to one port: once all have been paused, nothing is lost, and all get their share. */
static void shares_a_port_among_many_senders_without_loss(void)
{
	struct client senders[15], receiver;
	uint64_t lost = 0, before[15], least = UINT64_MAX, most = 0;

	lab_start(false, 100);
	receiver = client_new(sw);
	for (unsigned i = 0; i < 15; i++)
		senders[i] = client_new(sw);
	introduce(&receiver, 99);
	for (unsigned round = 0; round < 400; round++) {
		struct iovec got[256];

		for (uint8_t i = 0; i < 15; i++) {
			struct iovec frame = pattern(99, i, 1500, 0);

			while (vsw_ring_send(senders[i].ring, &frame, 1) == 1)
				;
			if (round == 100)
				before[i] = senders[i].port->rx.frames;
		}
		lab_settle();
		vsw_ring_receive(receiver.ring, got, 256);
		if (round == 100)
			lost = receiver.port->drops[DROP_OVERFLOW];
		test_clock_ns += 100000;
	}
	CHECK(receiver.port->drops[DROP_OVERFLOW] == lost);
	for (unsigned i = 0; i < 15; i++) {
		uint64_t sent = senders[i].port->rx.frames - before[i];

		least = sent < least ? sent : least;
		most = sent > most ? sent : most;
		client_close(&senders[i]);
	}
	CHECK(least > 0 && most <= 2 * least);
	client_close(&receiver);
	lab_stop();
}

/* What a client sent before it closed its port is as good as sent by any other. */
static void forwards_what_was_sent_before_a_port_goes(void)
{
	struct client a, b;
	unsigned sent = 0;

	lab_start(true, 100);
	a = client_open(sw, (struct nmr_geometry){ .rings = 2, .slots = 512, .buf_size = 2048 });
	b = client_new(sw);
	for (; sent < 400; sent++)
		send_one(&a, pattern(2, 1, 60, sent));
	vsw_port_free(a.port);
	client_close(&a);
	lab_settle();
	CHECK(drain(&b) == 400);
	client_close(&b);
	lab_stop();
}

/* One ring pair of a client after the other, a burst a turn: the client that has sixteen gets no more than one that has one. */
static void gives_every_client_the_same_share_however_many_rings_it_has(void)
{
	struct client many, one;
	struct netmap_ring *ring;

	lab_start(true, 100);
	many = client_open(sw, (struct nmr_geometry){ .rings = 16, .slots = 512, .buf_size = 256 });
	one = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 512, .buf_size = 256 });
	for (unsigned i = 0; i < 16; i++) {
		ring = vsw_ring_tx(many.ring, i);
		for (unsigned j = 0; j < 300; j++)
			ring->slot[j].len = 60;
		ring->head = ring->cur = 300;
	}
	vsw_ring_sync(many.ring, VSW_TX);
	for (unsigned j = 0; j < 300; j++)
		send_one(&one, pattern(2, 1, 60, j));
	vsw_engine_step(engine, 0);
	CHECK(many.port->rx.frames == 256 && one.port->rx.frames == 256);
	client_close(&many);
	client_close(&one);
	lab_stop();
}

/* Everything that came in is accounted for: forwarded, or dropped for a reason. */
static void counts_what_it_drops_as_received(void)
{
	struct client a, b;
	struct netmap_ring *ring;

	lab_start(true, 100);
	a = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 128, .buf_size = 2048 });
	b = client_new(sw);
	ring = vsw_ring_tx(a.ring, 0);
	for (unsigned i = 0; i < 10; i++)
		ring->slot[i].len = i == 3 ? 13 : 60;
	ring->slot[10].len = 60;
	ring->slot[10].buf_idx = 1; /* ends the port, but not what came before */
	ring->head = ring->cur = 11;
	vsw_ring_sync(a.ring, VSW_TX);
	lab_settle();
	CHECK(a.port->state == PORT_ERROR);
	CHECK(a.port->rx.frames == 10 && a.port->rx.bytes == 9 * 60 + 13 && a.port->drops[DROP_RUNT] == 1);
	CHECK(b.port->tx.frames == 9 && drain(&b) == 9);
	client_close(&a);
	client_close(&b);
	lab_stop();
}

/* --- what a client may not do --- */

/* Have a client that sends well do something wrong; its port must end, with `reason`, and the others go on. */
static void expect_error(void (*mischief)(struct client *client), const char *reason)
{
	struct client bad, a, b;

	lab_start(true, 100);
	bad = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 128, .buf_size = 256 });
	a = client_new(sw);
	b = client_new(sw);
	mischief(&bad);
	lab_settle();
	send_one(&a, pattern(2, 1, 60, 3)); /* flooded to the bad one, too */
	lab_settle();
	if (bad.port->state != PORT_ERROR || !strstr(bad.port->reason, reason)) {
		printf("state %d, reason '%s' instead of '%s'\n", (int)bad.port->state, bad.port->reason, reason);
		CHECK(false);
	}
	CHECK(a.port->state == PORT_UP && b.port->state == PORT_UP);
	CHECK(drain(&b) >= 1);
	client_close(&bad);
	client_close(&a);
	client_close(&b);
	lab_stop();
}

static struct nm_csb_atok *csb(struct client *client, bool rx)
{
	/* The application's lines begin on the second page: tx, then rx. */
	return (struct nm_csb_atok *)((uint8_t *)vsw_ring_if(client->ring) - 8192) + rx;
}

static void publish_raw(struct client *client, uint32_t head)
{
	uint64_t one = 1;

	csb(client, false)->head = head;
	CHECK(write(client->kick, &one, sizeof(one)) == sizeof(one));
}

static void head_out_of_range(struct client *client)
{
	publish_raw(client, 128);
}

static void head_far_out_of_range(struct client *client)
{
	publish_raw(client, UINT32_MAX);
}

static struct netmap_slot *prepare(struct client *client, unsigned n, uint16_t len, uint16_t flags)
{
	struct netmap_ring *ring = vsw_ring_tx(client->ring, 0);

	for (unsigned i = 0; i < n; i++) {
		ring->slot[i].len = len;
		ring->slot[i].flags = flags;
		memset(vsw_ring_buf(ring, ring->slot[i].buf_idx), 2, 256);
	}
	return ring->slot;
}

static void buffer_out_of_range(struct client *client)
{
	prepare(client, 1, 60, 0)->buf_idx = 2 + 2 * 128;
	publish_raw(client, 1);
}

static void buffer_far_out_of_range(struct client *client)
{
	prepare(client, 1, 60, 0)->buf_idx = UINT32_MAX;
	publish_raw(client, 1);
}

static void buffer_zero(struct client *client)
{
	prepare(client, 1, 60, 0)->buf_idx = 1;
	publish_raw(client, 1);
}

static void length_over_the_buffer(struct client *client)
{
	prepare(client, 1, 257, 0);
	publish_raw(client, 1);
}

static void chain_too_long(struct client *client)
{
	prepare(client, 100, 100, NS_MOREFRAG);
	publish_raw(client, 100);
}

static void bad_slot_in_a_chain(struct client *client)
{
	struct netmap_slot *slots = prepare(client, 3, 100, NS_MOREFRAG);

	slots[2].flags = 0;
	slots[2].buf_idx = 0;
	publish_raw(client, 3);
}

static void frame_by_pointer(struct client *client)
{
	prepare(client, 1, 60, NS_INDIRECT);
	publish_raw(client, 1);
}

static void releases_what_it_does_not_have(struct client *client)
{
	/* Noticed when the ring seems full and we look for room. */
	csb(client, true)->head = 77;
}

static void releases_out_of_range(struct client *client)
{
	csb(client, true)->head = 4000000000;
}

static void leaves_no_buffer(struct client *client)
{
	struct netmap_ring *ring = vsw_ring_rx(client->ring, 0);

	ring->slot[0].buf_idx = 100000;
}

static void ends_the_port_of_a_client_that_breaks_the_rules(void)
{
	expect_error(head_out_of_range, "head is 128 in a ring of 128");
	expect_error(head_far_out_of_range, "head is 4294967295");
	expect_error(buffer_out_of_range, "named buffer 258 of 2..257");
	expect_error(buffer_far_out_of_range, "named buffer 4294967295");
	expect_error(buffer_zero, "named buffer 1 of");
	expect_error(length_over_the_buffer, "257 bytes in a buffer of 256");
	expect_error(chain_too_long, "more than 64 slots");
	expect_error(bad_slot_in_a_chain, "named buffer 0 of");
	expect_error(frame_by_pointer, "by a pointer");
	expect_error(leaves_no_buffer, "left buffer 100000");
}

static void fill_up(struct client *from)
{
	for (unsigned i = 0; i < 200; i++) {
		send_one(from, pattern(0xfe, 1, 60, i));
		lab_settle();
	}
}

static void notices_wrong_releases_when_it_needs_room(void)
{
	void (*const mischiefs[])(struct client *) = { releases_what_it_does_not_have, releases_out_of_range };

	for (unsigned i = 0; i < 2; i++) {
		struct client bad, a;

		lab_start(true, 100);
		bad = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 64, .buf_size = 256 });
		a = client_new(sw);
		fill_up(&a);
		CHECK(bad.port->state == PORT_UP);
		/* It has slots 0..62. */
		mischiefs[i](&bad);
		send_one(&a, pattern(2, 1, 60, 0));
		CHECK(!eventfd_write(bad.kick, 1));
		lab_settle();
		CHECK(bad.port->state == PORT_ERROR && strstr(bad.port->reason, "released slots up to"));
		client_close(&bad);
		client_close(&a);
		lab_stop();
	}
}

static void waits_for_the_end_of_a_chain_without_spinning(void)
{
	struct client a, b;
	struct netmap_slot *slots;
	struct iovec got;

	lab_start(true, 100);
	a = client_open(sw, (struct nmr_geometry){ .rings = 1, .slots = 128, .buf_size = 256 });
	b = client_new(sw);
	slots = prepare(&a, 3, 100, NS_MOREFRAG);
	slots[2].flags = 0;
	publish_raw(&a, 2);
	lab_settle(); /* ends: nothing is polled for ever */
	CHECK(!a.port->warm && a.port->state == PORT_UP);
	CHECK(vsw_ring_receive(b.ring, &got, 1) == 0);
	publish_raw(&a, 3);
	lab_settle();
	CHECK(vsw_ring_receive(b.ring, &got, 1) == 1 && got.iov_len == 300);
	client_close(&a);
	client_close(&b);
	lab_stop();
}

/* The counter is at its limit and blocking: nobody who writes to it comes back. We never do. */
static void survives_an_eventfd_filled_to_its_limit(void)
{
	struct client a, b;

	lab_start(true, 100);
	a = client_new(sw);
	b = client_new(sw);
	CHECK(!fcntl(b.kick, F_SETFL, 0));
	CHECK(!eventfd_write(b.kick, UINT64_MAX - 1));
	CHECK(vsw_ring_arm(b.ring, VSW_RX) == 0);
	for (unsigned i = 0; i < 1000; i++) {
		send_one(&a, pattern(2, 1, 60, i));
		lab_settle();
		CHECK(drain(&b) == 1);
	}
	client_close(&a);
	client_close(&b);
	lab_stop();
}

/* Bells that nobody hears fill the socket: the port goes on, and so does everybody else. */
static void survives_a_client_that_never_hears_its_bells(void)
{
	struct client a, b;

	lab_start(true, 100);
	a = client_new(sw);
	b = client_new(sw);
	for (unsigned i = 0; i < 5000; i++) {
		CHECK(vsw_ring_arm(b.ring, VSW_RX) == 0);
		send_one(&a, pattern(2, 1, 60, i));
		lab_settle();
		CHECK(drain(&b) == 1);
	}
	CHECK(b.port->state == PORT_UP && b.port->tx.frames == 5000);
	client_close(&a);
	client_close(&b);
	lab_stop();
}

static void refuses_memory_that_is_not_a_ring(void)
{
	struct nmr_geometry pipe_geometry = { .rings = 1, .slots = 64, .buf_size = 256, .n_halves = 2 };
	struct port *port;
	int fds[3];

	lab_start(true, 100);
	for (unsigned i = 0; i < 3; i++) {
		int pair[2];

		CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
		fds[0] = eventfd(0, 0);
		fds[2] = pair[1];
		fds[1] = i == 0   ? open("/dev/zero", O_RDWR)
			 : i == 1 ? memfd_create("unsealed", MFD_ALLOW_SEALING)
				  : nmr_create(&pipe_geometry, "pipe", 1);
		CHECK(vsw_port_new(sw, vsw_port_ops_find("ring"), fds, 3, NULL, &port) == -EPROTO);
		close(pair[0]);
	}
	CHECK(nmr_create(&(struct nmr_geometry){ 1, 63, 256, 1 }, "", 1) == -EINVAL);
	CHECK(nmr_create(&(struct nmr_geometry){ 17, 64, 256, 1 }, "", 1) == -EINVAL);
	CHECK(nmr_create(&(struct nmr_geometry){ 1, 64, 65600, 1 }, "", 1) == -EINVAL);
	CHECK(nmr_create(&(struct nmr_geometry){ 1, 64, 300, 1 }, "", 1) == -EINVAL);
	lab_stop();
}

/* --- other forms --- */

static void spreads_stations_over_many_rings_in_order(void)
{
	struct client a, b;
	unsigned used = 0, last[64] = { 0 }, total = 0;

	lab_start(true, 100);
	a = client_open(sw, (struct nmr_geometry){ .rings = 4, .slots = 256, .buf_size = 256 });
	b = client_open(sw, (struct nmr_geometry){ .rings = 16, .slots = 256, .buf_size = 256 });
	for (unsigned round = 1; round < 40; round++) {
		struct iovec got[256];
		unsigned n;

		for (uint8_t i = 0; i < 64; i++) {
			struct iovec frame = pattern(200, i, 60, 0);

			memcpy(frame_bytes + 14, &round, sizeof(round));
			CHECK(vsw_ring_send(a.ring, &frame, 1) == 1);
		}
		lab_settle();
		for (unsigned i = 0; i < 16; i++) {
			vsw_ring_sync(b.ring, VSW_RX);
			used |= (unsigned)(vsw_ring_rx(b.ring, i)->tail != vsw_ring_rx(b.ring, i)->head) << i;
		}
		while ((n = vsw_ring_receive(b.ring, got, 256)))
			for (unsigned i = 0; i < n; i++, total++) {
				uint8_t *data = got[i].iov_base;
				unsigned number;

				memcpy(&number, data + 14, sizeof(number));
				CHECK(number == last[data[11]] + 1);
				last[data[11]] = number;
			}
	}
	CHECK(total == 39 * 64);
	CHECK(__builtin_popcount(used) > 8);
	client_close(&a);
	client_close(&b);
	lab_stop();
}

static void resolves_frames_by_pointer_in_the_client(void)
{
	struct client a, b;
	struct netmap_ring *ring;
	struct iovec got, frame = pattern(2, 1, 500, 3);

	lab_start(true, 100);
	a = client_new(sw);
	b = client_new(sw);
	ring = vsw_ring_tx(a.ring, 0);
	ring->slot[0].len = 500;
	ring->slot[0].flags = NS_INDIRECT;
	ring->slot[0].ptr = (uintptr_t)frame.iov_base;
	ring->head = ring->cur = 1;
	vsw_ring_sync(a.ring, VSW_TX);
	lab_settle();
	CHECK(vsw_ring_receive(b.ring, &got, 1) == 1 && is_frame(&got, 2, 1, 500, 3));
	client_close(&a);
	client_close(&b);
	lab_stop();
}

static void pipe_carries_frames_both_ways(void)
{
	struct vsw_ring *ends[2];
	uint32_t next_in[2] = { 0, 0 }, next_out[2] = { 0, 0 };

	pipe_open((struct nmr_geometry){ .rings = 1, .slots = 100, .buf_size = 256 }, ends);
	srandom(2);
	while (next_out[0] < 5000 || next_out[1] < 5000)
		for (unsigned end = 0; end < 2; end++) {
			struct iovec got[40];
			unsigned n;

			for (long i = random() % 40; i > 0; i--) {
				struct iovec frame = pattern(2, (uint8_t)end, 14 + next_in[end] % 1000, next_in[end]);

				if (vsw_ring_send(ends[end], &frame, 1) != 1)
					break;
				next_in[end]++;
			}
			n = vsw_ring_receive(ends[!end], got, (unsigned)random() % 40);
			for (unsigned i = 0; i < n; i++, next_out[end]++)
				CHECK(is_frame(&got[i], 2, (uint8_t)end, 14 + next_out[end] % 1000, next_out[end]));
		}
	vsw_ring_close(ends[0]);
	CHECK(vsw_ring_wait(ends[1], VSW_RX, 1000) != 0); /* frames, then the end; never a timeout */
	vsw_ring_close(ends[1]);
}

int main(void)
{
	RUN(carries_frames_of_all_sizes_unchanged);
	RUN(does_not_show_what_lies_behind_a_frame);
	RUN(goes_round_the_ring_many_times);
	RUN(speaks_with_a_stream_port);
	RUN(rings_once_per_arming_and_only_then);
	RUN(pauses_sources_rather_than_lose_frames);
	RUN(drops_at_once_where_it_is_told_to);
	RUN(gives_up_on_a_receiver_that_takes_nothing);
	RUN(waits_for_a_receiver_that_is_slow_but_steady);
	RUN(waits_again_for_a_receiver_that_has_caught_its_breath);
	RUN(wakes_a_sender_when_half_its_ring_is_free);
	RUN(waits_for_all_the_slots_a_frame_needs);
	RUN(refuses_a_frame_the_ring_can_never_hold);
	RUN(shares_a_port_among_many_senders_without_loss);
	RUN(forwards_what_was_sent_before_a_port_goes);
	RUN(gives_every_client_the_same_share_however_many_rings_it_has);
	RUN(counts_what_it_drops_as_received);
	RUN(ends_the_port_of_a_client_that_breaks_the_rules);
	RUN(notices_wrong_releases_when_it_needs_room);
	RUN(waits_for_the_end_of_a_chain_without_spinning);
	RUN(survives_an_eventfd_filled_to_its_limit);
	RUN(survives_a_client_that_never_hears_its_bells);
	RUN(refuses_memory_that_is_not_a_ring);
	RUN(spreads_stations_over_many_rings_in_order);
	RUN(resolves_frames_by_pointer_in_the_client);
	RUN(pipe_carries_frames_both_ways);
	return 0;
}
