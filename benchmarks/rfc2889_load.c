/* SPDX-License-Identifier: BSD-2-Clause */
/* The tester of benchmarks/rfc2889.py: one process, one thread, that sends and receives on all ports of a switch.
 *
 *	rfc2889_load trial [-l LEN] [-r RATE] [-d MS] [-q PORT:RATE] -f FLOWS PORT...
 *	rfc2889_load learn [-c COUNT] [-r RATE] LEARNING_PORT TEST_PORT MONITORING_PORT
 *	rfc2889_load raw [-c COUNT] [-l LEN] FROM_PORT TO_PORT
 *
 * FLOWS says for each sending port where its frames go, in turn: "0>1,2,3;1>0" ('*': to everybody). RATE is in frames/s
 * of each sending port, 0: whatever there is room for. -q has a port release no more than RATE frames/s. Every frame says
 * which port sent it, its number there, and when. `raw` sends frames of any length at all, cut into slots by hand.
 * Each prints one line of JSON.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "libvswitch.h"

#define MAX_PORTS   64U
#define BATCH       64U
#define MAX_LEN     69632U
#define SECOND_NS   1000000000ULL
#define SETTLE_NS   50000000ULL /* a trial is over once nothing has come for so long */
#define BUCKET_NS   100U
#define BUCKETS     100000U
#define TO_EVERYONE UINT16_MAX

struct stamp {
	uint64_t sent_at; /* ns */
	uint64_t number;
	uint16_t from, to;
} __attribute__((packed));

#define STAMP_AT 14
#define LEN_MIN  (STAMP_AT + (uint32_t)sizeof(struct stamp))

struct station {
	struct vsw_ring *ring;
	uint16_t to[MAX_PORTS];
	unsigned n_to;
	uint64_t offered, sent; /* frames it had time for, frames there was room for */
	uint64_t received, flooded;
	uint64_t next[MAX_PORTS];   /* by sender: the least number that is not out of order */
	uint64_t drain_rate, taken; /* frames/s, 0: no limit */
};

static struct station stations[MAX_PORTS];
static unsigned n_stations;
static uint64_t late_frames; /* out of order */
static uint32_t histogram[BUCKETS];
static uint8_t frames[BATCH][MAX_LEN];
static uint32_t frame_len = 60, count = 1, duration_ms = 200;
static uint64_t rate;

static void fail(const char *what)
{
	fprintf(stderr, "rfc2889_load: %s\n", what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

static void put_mac(uint8_t *at, uint32_t number)
{
	const uint8_t mac[6] = {
		2, 0, (uint8_t)(number >> 24), (uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number
	};

	memcpy(at, mac, sizeof(mac));
}

static void open_ports(char **names, unsigned n)
{
	char error[VSW_ERROR_SIZE];

	if (n > MAX_PORTS)
		fail("too many ports");
	for (unsigned i = 0; i < n; i++) {
		stations[i].ring = vsw_ring_open(names[i], NULL, error);
		if (!stations[i].ring)
			fail(error);
	}
	n_stations = n;
}

/* The switch may be waiting for this very core. */
static void wait_a_moment(struct vsw_ring *ring)
{
	sched_yield();
	vsw_ring_sync(ring, VSW_TX);
}

/* How much may have been done by `now` at `per_second`. */
static uint64_t allowance(uint64_t per_second, uint64_t begun, uint64_t now)
{
	return (uint64_t)((double)(now - begun) * (double)per_second / (double)SECOND_NS);
}

/* --- a trial --- */

static void parse_flows(char *text)
{
	char *rest, *flow = strtok_r(text, ";", &rest);

	for (; flow; flow = strtok_r(NULL, ";", &rest)) {
		unsigned from = (unsigned)strtoul(flow, &flow, 10);
		struct station *station = &stations[from % MAX_PORTS];

		if (from >= MAX_PORTS || *flow != '>')
			fail("FLOWS are such as 0>1,2;1>0");
		do {
			flow++;
			if (station->n_to == MAX_PORTS)
				fail("too many destinations");
			station->to[station->n_to++] = *flow == '*' ? TO_EVERYONE : (uint16_t)strtoul(flow, &flow, 10);
		} while (*flow == ',');
	}
}

/* Have the switch learn where everybody is: frames to oneself go nowhere. */
static void announce(void)
{
	uint8_t frame[60] = { 0 };
	struct iovec piece = { frame, sizeof(frame) };

	for (unsigned i = 0; i < n_stations; i++) {
		struct netmap_ring *tx = vsw_ring_tx(stations[i].ring, 0);

		put_mac(frame, i);
		put_mac(frame + 6, i);
		vsw_ring_send(stations[i].ring, &piece, 1);
		while (nmr_distance(tx->head, tx->tail, tx->num_slots) != tx->num_slots - 1)
			wait_a_moment(stations[i].ring);
	}
}

/* Send what station `i` should have sent by `now`, as far as there is room. Return how many frames. */
static unsigned send_due(unsigned i, uint64_t begun, uint64_t now)
{
	struct station *station = &stations[i];
	struct iovec pieces[BATCH];
	uint64_t due = BATCH;
	int sent;

	if (rate) {
		station->offered = allowance(rate, begun, now);
		due = station->offered - station->sent;
		if (due > BATCH)
			due = BATCH;
	}
	for (unsigned j = 0; j < due; j++) {
		uint16_t to = station->to[(station->sent + j) % station->n_to];
		struct stamp stamp = { now, station->sent + j, (uint16_t)i, to };

		if (to == TO_EVERYONE)
			memset(frames[j], 0xff, 6);
		else
			put_mac(frames[j], to);
		put_mac(frames[j] + 6, i);
		memcpy(frames[j] + STAMP_AT, &stamp, sizeof(stamp));
		pieces[j] = (struct iovec){ frames[j], frame_len };
	}
	sent = due ? vsw_ring_send(station->ring, pieces, (unsigned)due) : 0;
	if (sent < 0)
		fail("vsw_ring_send");
	station->sent += (uint64_t)sent;
	if (!rate)
		station->offered = station->sent;
	return (unsigned)sent;
}

static void take(struct station *station, unsigned i, const struct iovec *frame, uint64_t now)
{
	struct stamp stamp;
	uint64_t bucket;

	if (frame->iov_len != frame_len)
		fail("a frame of another length arrived");
	memcpy(&stamp, (uint8_t *)frame->iov_base + STAMP_AT, sizeof(stamp));
	if (stamp.to != i && stamp.to != TO_EVERYONE) {
		station->flooded++;
		return;
	}
	station->received++;
	if (stamp.number < station->next[stamp.from])
		late_frames++;
	else
		station->next[stamp.from] = stamp.number + 1;
	bucket = (now - stamp.sent_at) / BUCKET_NS;
	histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

/* Return how many frames came. */
static unsigned receive_due(unsigned i, uint64_t begun)
{
	struct station *station = &stations[i];
	struct iovec pieces[BATCH];
	uint64_t limit = BATCH, now = now_ns();
	unsigned n;

	if (station->drain_rate) {
		limit = allowance(station->drain_rate, begun, now) - station->taken;
		if (!limit) {
			vsw_ring_release(station->ring);
			return 0;
		}
	}
	n = vsw_ring_receive(station->ring, pieces, limit < BATCH ? (unsigned)limit : BATCH);
	now = now_ns();
	for (unsigned j = 0; j < n; j++)
		take(station, i, &pieces[j], now);
	station->taken += n;
	return n;
}

/* Return the latency below which a share of frames stayed, in us. */
static double percentile(double share)
{
	uint64_t all = 0, seen = 0;
	unsigned i;

	for (i = 0; i < BUCKETS; i++)
		all += histogram[i];
	for (i = 0; i < BUCKETS - 1 && (double)(seen += histogram[i]) < share * (double)all; i++)
		;
	return (double)(i + 1) * BUCKET_NS / 1000;
}

static void print_counts(const char *name, size_t offset)
{
	printf("\"%s\": [", name);
	for (unsigned i = 0; i < n_stations; i++)
		printf("%s%llu", i ? ", " : "",
		       (unsigned long long)*(uint64_t *)(void *)((uint8_t *)&stations[i] + offset));
	printf("], ");
}

static void trial(void)
{
	uint64_t begun, now, end, heard, sent_by = 0;

	memset(frames, 0x5a, sizeof(frames));
	announce();
	begun = heard = now_ns();
	end = begun + duration_ms * 1000000ULL;
	for (;;) {
		unsigned n = 0, sent = 0;

		now = now_ns();
		for (unsigned i = 0; now < end && i < n_stations; i++)
			if (stations[i].n_to)
				sent += send_due(i, begun, now);
		if (now < end)
			sent_by = now;
		for (unsigned i = 0; i < n_stations; i++)
			n += receive_due(i, begun);
		if (n)
			heard = now;
		else if (now >= end && now - heard > SETTLE_NS)
			break;
		if (!n && !sent)
			sched_yield(); /* the switch may be waiting for this very core */
	}
	printf("{\"seconds\": %.6f, ", (double)(sent_by - begun) / (double)SECOND_NS);
	printf("\"until_last\": %.6f, ", (double)(heard - begun) / (double)SECOND_NS);
	print_counts("offered", offsetof(struct station, offered));
	print_counts("sent", offsetof(struct station, sent));
	print_counts("received", offsetof(struct station, received));
	print_counts("flooded", offsetof(struct station, flooded));
	printf("\"out_of_order\": %llu, \"p50\": %.1f, \"p99\": %.1f}\n", (unsigned long long)late_frames,
	       percentile(0.50), percentile(0.99));
}

/* --- addresses --- */

#define FIRST_LEARNT 0x10000U

/* Throw away what has come to a station, and return how many frames that was. */
static uint64_t drain(struct station *station)
{
	struct iovec pieces[BATCH];
	uint64_t all = 0;
	unsigned n;

	while ((n = vsw_ring_receive(station->ring, pieces, BATCH)))
		all += n;
	return all;
}

/* Send `count` frames from station `i`, number by number, while all stations receive. Return how long that took, in ns. */
static uint64_t send_numbered(unsigned i, bool learning)
{
	struct vsw_ring *ring = stations[i].ring;
	struct netmap_ring *tx = vsw_ring_tx(ring, 0);
	struct iovec piece = { frames[0], 60 };
	uint64_t begun = now_ns(), took, idle_since;

	for (uint32_t number = 0; number < count;) {
		bool early = rate && number >= allowance(rate, begun, now_ns());

		put_mac(frames[0], learning ? 1 : FIRST_LEARNT + number);
		put_mac(frames[0] + 6, learning ? FIRST_LEARNT + number : 1);
		if (!early && vsw_ring_send(ring, &piece, 1) == 1)
			number++;
		else
			wait_a_moment(ring);
		for (unsigned j = 0; j < n_stations; j++)
			stations[j].received += drain(&stations[j]);
	}
	while (nmr_distance(tx->head, tx->tail, tx->num_slots) != tx->num_slots - 1)
		wait_a_moment(ring);
	took = now_ns() - begun;
	for (idle_since = now_ns(); now_ns() - idle_since < SETTLE_NS;)
		for (unsigned j = 0; j < n_stations; j++) {
			uint64_t n = drain(&stations[j]);

			stations[j].received += n;
			if (n)
				idle_since = now_ns();
		}
	return took;
}

static void learn(void)
{
	struct iovec piece = { frames[0], 60 };
	uint64_t took;

	put_mac(frames[0], 1);
	put_mac(frames[0] + 6, 1);
	vsw_ring_send(stations[1].ring, &piece, 1); /* where the test port's station is */
	took = send_numbered(0, true);
	for (unsigned i = 0; i < n_stations; i++)
		stations[i].received = 0;
	send_numbered(1, false);
	printf("{\"learning_rate\": %.0f, \"found\": %llu, \"flooded\": %llu}\n",
	       (double)count * SECOND_NS / (double)took, (unsigned long long)stations[0].received,
	       (unsigned long long)stations[2].received);
}

/* --- frames that are none --- */

static void send_raw(struct vsw_ring *ring)
{
	struct netmap_ring *tx = vsw_ring_tx(ring, 0);
	uint32_t left = frame_len, at;

	while (nmr_distance(tx->head, tx->tail, tx->num_slots) != tx->num_slots - 1)
		wait_a_moment(ring);
	at = tx->head;
	do {
		struct netmap_slot *slot = &tx->slot[at];
		uint32_t len = left < tx->nr_buf_size ? left : tx->nr_buf_size;

		memset(vsw_ring_buf(tx, slot->buf_idx), 0, len);
		if (left == frame_len) {
			put_mac(frames[0], 1);
			put_mac(frames[0] + 6, 0);
			memcpy(vsw_ring_buf(tx, slot->buf_idx), frames[0], len < 14 ? len : 14);
		}
		left -= len;
		slot->len = (uint16_t)len;
		slot->flags = left ? NS_MOREFRAG : 0;
		at = nmr_next(at, tx->num_slots);
	} while (left);
	tx->head = tx->cur = at;
	vsw_ring_sync(ring, VSW_TX);
}

static void raw(void)
{
	uint64_t received = 0, heard;

	announce();
	for (uint32_t i = 0; i < count; i++) {
		send_raw(stations[0].ring);
		received += drain(&stations[1]);
	}
	for (heard = now_ns(); now_ns() - heard < SETTLE_NS;)
		received += drain(&stations[1]);
	printf("{\"sent\": %u, \"received\": %llu}\n", count, (unsigned long long)received);
}

/* --- */

static void parse_drain(const char *text)
{
	char *colon;
	unsigned long port = strtoul(text, &colon, 10);

	if (port >= MAX_PORTS || *colon != ':')
		fail("-q PORT:RATE");
	stations[port].drain_rate = strtoul(colon + 1, NULL, 10);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	int option;

	while ((option = getopt(argc - 1, argv + 1, "l:r:d:q:f:c:")) != -1) {
		uint32_t value = (uint32_t)strtoul(optarg, NULL, 10);

		switch (option) {
		case 'l':
			frame_len = value;
			break;
		case 'r':
			rate = value;
			break;
		case 'd':
			duration_ms = value;
			break;
		case 'c':
			count = value;
			break;
		case 'q':
			parse_drain(optarg);
			break;
		case 'f':
			parse_flows(optarg);
			break;
		default:
			return 2;
		}
	}
	open_ports(argv + 1 + optind, (unsigned)(argc - 1 - optind));
	if (!strcmp(mode, "trial") && frame_len >= LEN_MIN && frame_len <= MAX_LEN)
		trial();
	else if (!strcmp(mode, "learn") && n_stations == 3)
		learn();
	else if (!strcmp(mode, "raw") && n_stations == 2)
		raw();
	else
		return 2;
	return 0;
}
