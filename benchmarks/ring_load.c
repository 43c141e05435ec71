/* SPDX-License-Identifier: BSD-2-Clause */
/* Sends, receives and relays frames over rings, for benchmarks/rings.py. Each is a process of its own.
 *
 *	ring_load send [-a] [-B] [-m MACS] [-l LEN] [-b BATCH] [-s SLOTS] PORT...	as fast as possible, for ever
 *	ring_load receive [-n] [-m MACS] [-l LEN] [-b BATCH] [-s SLOTS] [-w WARM_UP_MS] [-d MEASURE_MS] PORT...
 *	ring_load hold [-s SLOTS] PORT...		has the ports open and does nothing
 *	ring_load stamp [-g GAP_US] PORT		one frame, with the time in it, every GAP_US
 *	ring_load delays [-c COUNT] PORT		how long those took
 *	ring_load relay FROM_FD TO_FD			the ceiling: copies what one client sends to another, and nothing else
 *	ring_load packets SOCKET_FD INTERFACE...	sends a packet socket on each interface back over SOCKET_FD
 *
 * PORT is a port's name as for vsw_ring_open(), or fd:N for a socket that was handed down.
 *
 * What is touched for each frame: a sender writes the slot; the payload was written once, into every buffer of the ring.
 * With -a it writes both addresses, too, drawn at random from MACS ones per side. A receiver reads each slot and compares
 * the length; in the first frame of every batch it also checks the addresses. -B sends to everybody.
 * Receivers announce their addresses (unless -n), say "ready", then print frames received per second, and end.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "libvswitch.h"

#define HEADER        14
#define ETHERTYPE_LAB 0x88b5      /* for experiments */
#define RANDOM_PAIRS  65536U      /* drawn beforehand, used in turn */
#define LINGER_NS     50000U      /* as libvswitch and the fabric do by default */
#define SECOND_NS     1000000000U /* ns */
#define BATCH_MAX     256U
#define ROUNDS        3U /* times that every slot is used before we measure: by then all memory is there */

enum side { SENDER = 1, RECEIVER = 2 };

struct options {
	uint32_t len, batch, slots, macs;
	uint32_t warm_up_ms, measure_ms;
	uint32_t gap_us, count;
	bool addresses, broadcast, announce;
};

struct ports {
	struct vsw_ring **rings;
	struct pollfd *polls;
	unsigned n;
};

static void fail(const char *what)
{
	fprintf(stderr, "ring_load: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* The other side has gone: so end receivers before senders, too. Whoever waits for a figure misses it, and says so. */
static void gone(void)
{
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

static void say_ready(void)
{
	puts("ready");
	fflush(stdout);
}

/* The address of station `number` behind port `port` of one side. */
static void put_mac(uint8_t *at, enum side side, unsigned port, unsigned number)
{
	const uint8_t mac[6] = {
		2, (uint8_t)side, (uint8_t)(port >> 8), (uint8_t)port, (uint8_t)(number >> 8), (uint8_t)number
	};

	memcpy(at, mac, sizeof(mac));
}

static void put_header(uint8_t *frame, unsigned port, unsigned to, unsigned from)
{
	put_mac(frame, RECEIVER, port, to);
	put_mac(frame + 6, SENDER, port, from);
	frame[12] = ETHERTYPE_LAB >> 8;
	frame[13] = ETHERTYPE_LAB & 0xff;
}

/* --- ports --- */

static struct vsw_ring *open_port(const char *name, const struct vsw_ring_options *options)
{
	char error[VSW_ERROR_SIZE];
	struct vsw_ring *ring;

	if (!strncmp(name, "fd:", 3))
		ring = vsw_ring_adopt(atoi(name + 3), options, error);
	else
		ring = vsw_ring_open(name, options, error);
	if (ring)
		return ring;
	fprintf(stderr, "ring_load: %s\n", error);
	exit(1);
}

static struct ports open_ports(char **names, unsigned n, uint32_t slots, uint32_t linger_us)
{
	struct vsw_ring_options options = { .slots = slots, .linger_us = linger_us };
	struct ports ports = { calloc(n, sizeof(*ports.rings)), calloc(n, sizeof(*ports.polls)), n };
	struct rlimit files;

	if (!ports.rings || !ports.polls)
		fail("calloc");
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (unsigned i = 0; i < n; i++) {
		ports.rings[i] = open_port(names[i], &options);
		ports.polls[i] = (struct pollfd){ .fd = vsw_ring_fd(ports.rings[i]), .events = POLLIN };
	}
	return ports;
}

static uint32_t available(const struct netmap_ring *ring)
{
	return nmr_distance(ring->head, ring->tail, ring->num_slots);
}

static bool any_ready(const struct ports *ports, int which)
{
	for (unsigned i = 0; i < ports->n; i++) {
		struct vsw_ring *ring = ports->rings[i];

		vsw_ring_sync(ring, which);
		if (available(which == VSW_TX ? vsw_ring_tx(ring, 0) : vsw_ring_rx(ring, 0)))
			return true;
	}
	return false;
}

/* vsw_ring_wait() for several ports, for ever. */
static void wait_for_any(struct ports *ports, int which)
{
	uint64_t end = now_ns() + LINGER_NS;
	int ready = 0;

	if (ports->n == 1) {
		if (vsw_ring_wait(ports->rings[0], which, -1) < 0)
			gone();
		return;
	}
	do {
		if (any_ready(ports, which))
			return;
		sched_yield();
	} while (now_ns() < end);
	for (unsigned i = 0; i < ports->n; i++)
		ready |= vsw_ring_arm(ports->rings[i], which);
	if (!ready && poll(ports->polls, ports->n, -1) < 0)
		fail("poll");
	for (unsigned i = 0; i < ports->n; i++)
		if (vsw_ring_disarm(ports->rings[i]))
			gone();
}

/* --- sending --- */

struct pair {
	uint16_t to, from;
};

static struct pair *random_pairs(uint32_t macs)
{
	struct pair *pairs = malloc(RANDOM_PAIRS * sizeof(*pairs));
	uint64_t state = 0x9e3779b97f4a7c15ULL; /* xorshift: the same order each time */

	if (!pairs)
		fail("malloc");
	for (unsigned i = 0; i < RANDOM_PAIRS; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		pairs[i] = (struct pair){ (uint16_t)((state >> 16) % macs), (uint16_t)((state >> 40) % macs) };
	}
	return pairs;
}

/* Write the payload into every buffer of a port's tx ring. */
static void prepare(struct vsw_ring *ring, unsigned port, const struct options *options)
{
	struct netmap_ring *tx = vsw_ring_tx(ring, 0);

	for (uint32_t i = 0; i < tx->num_slots; i++) {
		uint8_t *buf = vsw_ring_buf(tx, tx->slot[i].buf_idx);

		memset(buf, 0x5a, options->len);
		put_header(buf, port, 0, 0);
		if (options->broadcast)
			memset(buf, 0xff, 6);
	}
}

/* Fill up to a batch of free slots. Return how many. */
static uint32_t send_batch(struct vsw_ring *ring, unsigned port, const struct options *options,
			   const struct pair *pairs, uint32_t *next_pair)
{
	struct netmap_ring *tx = vsw_ring_tx(ring, 0);
	uint32_t at = tx->head;
	uint32_t n = available(tx);

	if (n > options->batch)
		n = options->batch;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t index = tx->slot[at].buf_idx;

		if (pairs) {
			struct pair pair = pairs[(*next_pair)++ % RANDOM_PAIRS];

			put_header(vsw_ring_buf(tx, index), port, pair.to, pair.from);
		}
		nmr_write_slot(&tx->slot[at], nmr_slot_word(index, (uint16_t)options->len, 0));
		at = nmr_next(at, tx->num_slots);
	}
	tx->head = tx->cur = at;
	vsw_ring_sync(ring, VSW_TX);
	return n;
}

static void send_for_ever(struct ports *ports, const struct options *options)
{
	const struct pair *pairs = options->addresses ? random_pairs(options->macs) : NULL;
	uint32_t next_pair = 0;

	for (unsigned i = 0; i < ports->n; i++)
		prepare(ports->rings[i], i, options);
	for (;;) {
		uint32_t sent = 0;

		for (unsigned i = 0; i < ports->n; i++)
			sent += send_batch(ports->rings[i], i, options, pairs, &next_pair);
		if (!sent)
			wait_for_any(ports, VSW_TX);
	}
}

/* --- receiving --- */

/* Let the switch learn where this side's stations are: frames from each of them, to themselves, go nowhere else. */
static void announce(struct vsw_ring *ring, unsigned port, uint32_t macs)
{
	struct netmap_ring *tx = vsw_ring_tx(ring, 0);
	uint8_t frame[60] = { 0 };
	struct iovec piece = { frame, sizeof(frame) };

	for (unsigned i = 0; i < macs; i++) {
		put_mac(frame, RECEIVER, port, i);
		put_mac(frame + 6, RECEIVER, port, i);
		while (vsw_ring_send(ring, &piece, 1) < 1)
			if (vsw_ring_wait(ring, VSW_TX, -1) < 0)
				gone();
	}
	while (available(tx) != tx->num_slots - 1) { /* all taken, so all learnt */
		sched_yield();
		vsw_ring_sync(ring, VSW_TX);
	}
}

static void check_first(const uint8_t *frame, unsigned port, const struct options *options)
{
	uint8_t expected[6];

	put_mac(expected, RECEIVER, port, 0);
	if (options->broadcast)
		memset(expected, 0xff, sizeof(expected));
	if (!memcmp(frame, expected, options->addresses ? 4 : 6) && frame[12] == ETHERTYPE_LAB >> 8)
		return;
	fprintf(stderr, "ring_load: a frame arrived at port %u that is for somebody else\n", port);
	exit(1);
}

/* Take what has come, up to a batch. Return how many frames. */
static uint32_t receive_batch(struct vsw_ring *ring, unsigned port, const struct options *options)
{
	struct netmap_ring *rx = vsw_ring_rx(ring, 0);
	uint32_t at = rx->head, n = available(rx), wrong = 0;

	if (!n)
		return 0;
	if (n > options->batch)
		n = options->batch;
	check_first(vsw_ring_buf(rx, rx->slot[at].buf_idx), port, options);
	for (uint32_t i = 0; i < n; i++) {
		wrong |= nmr_word_len(nmr_read_slot(&rx->slot[at])) ^ options->len;
		at = nmr_next(at, rx->num_slots);
	}
	if (wrong) {
		fprintf(stderr, "ring_load: a frame of another length than %u bytes arrived\n", options->len);
		exit(1);
	}
	rx->head = rx->cur = at;
	vsw_ring_sync(ring, VSW_RX);
	return n;
}

static uint32_t receive_all(struct ports *ports, const struct options *options)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < ports->n; i++) {
		vsw_ring_sync(ports->rings[i], VSW_RX);
		n += receive_batch(ports->rings[i], i, options);
	}
	if (!n)
		wait_for_any(ports, VSW_RX);
	return n;
}

static void receive(struct ports *ports, const struct options *options)
{
	uint64_t frames = 0, begun, now;

	for (unsigned i = 0; options->announce && i < ports->n; i++)
		announce(ports->rings[i], i, options->macs);
	say_ready();
	while (!receive_all(ports, options))
		;
	begun = now_ns();
	while (now_ns() - begun < options->warm_up_ms * 1000000ULL || frames < ROUNDS * ports->n * options->slots)
		frames += receive_all(ports, options);
	frames = 0;
	begun = now_ns();
	do {
		frames += receive_all(ports, options);
		now = now_ns();
	} while (now - begun < options->measure_ms * 1000000ULL);
	printf("%.0f\n", (double)frames * SECOND_NS / (double)(now - begun));
}

/* --- one frame at a time --- */

static void stamp(struct vsw_ring *ring, const struct options *options)
{
	struct timespec gap = { .tv_nsec = (long)options->gap_us * 1000 };
	uint8_t frame[60] = { 0 };
	struct iovec piece = { frame, sizeof(frame) };

	put_header(frame, 0, 0, 0);
	for (;;) {
		uint64_t now;

		clock_nanosleep(CLOCK_MONOTONIC, 0, &gap, NULL);
		now = now_ns();
		memcpy(frame + HEADER, &now, sizeof(now));
		vsw_ring_send(ring, &piece, 1);
	}
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void delays(struct vsw_ring *ring, const struct options *options)
{
	uint64_t *taken = calloc(options->count, sizeof(*taken));
	struct iovec frame;

	if (!taken)
		fail("calloc");
	if (options->announce)
		announce(ring, 0, 1);
	say_ready();
	for (uint32_t i = 0; i < options->count; i++) {
		uint64_t sent;

		while (!vsw_ring_receive(ring, &frame, 1))
			if (vsw_ring_wait(ring, VSW_RX, -1) < 0)
				gone();
		memcpy(&sent, (uint8_t *)frame.iov_base + HEADER, sizeof(sent));
		taken[i] = now_ns() - sent;
	}
	qsort(taken, options->count, sizeof(*taken), by_size);
	printf("%.2f %.2f\n", (double)taken[options->count / 2] / 1000,
	       (double)taken[options->count - 1 - options->count / 100] / 1000);
	free(taken);
}

/* --- the ceiling --- */

/* The fabric's end of a client, without anything but what a copy needs. */
struct far_end {
	struct nmr_area area;
	struct netmap_slot *tx, *rx;
	struct nm_csb_atok *tx_atok, *rx_atok;
	struct nm_csb_ktoa *tx_ktoa, *rx_ktoa;
	uint32_t slots;
	uint32_t taken;         /* tx: next slot to take */
	uint32_t released, put; /* rx: the client's head, next slot to fill */
	uint32_t tx_arming, tx_kicked, rx_arming, rx_kicked;
	int socket, kick;
};

static void answer(int fd, int memory, int kick)
{
	struct nmr_opened opened = { .magic = NMR_MAGIC, .version = NMR_VERSION };
	struct iovec piece = { &opened, sizeof(opened) };
	int fds[2] = { memory, kick };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(fds))];
	} control = { .header = {
			      .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fds)) } };
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
	if (sendmsg(fd, &message, 0) < 0)
		fail("sendmsg");
}

static void serve(struct far_end *end, int fd)
{
	struct nmr_geometry geometry = { .rings = 1, .buf_size = NMR_DEFAULT_BUF, .n_halves = 1 };
	struct nmr_open request;
	int memory;

	if (recv(fd, &request, sizeof(request), 0) != sizeof(request))
		fail("recv");
	geometry.slots = request.slots ? request.slots : NMR_DEFAULT_SLOTS;
	memory = nmr_create(&geometry, "ceiling", 1);
	if (memory < 0 || nmr_map(memory, &end->area))
		fail("nmr_map");
	end->kick = eventfd(0, EFD_NONBLOCK);
	end->socket = fd;
	end->slots = geometry.slots;
	end->tx = nmr_ring(&end->area, 0, 0)->slot;
	end->rx = nmr_ring(&end->area, 0, 1)->slot;
	end->tx_atok = nmr_atok(&end->area, 0, 0);
	end->rx_atok = nmr_atok(&end->area, 0, 1);
	end->tx_ktoa = nmr_ktoa(&end->area, 0, 0);
	end->rx_ktoa = nmr_ktoa(&end->area, 0, 1);
	answer(fd, memory, end->kick);
	close(memory);
}

static void ring_bell(const struct far_end *end)
{
	send(end->socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static uint32_t room(const struct far_end *end)
{
	return end->slots - 1 - nmr_distance(end->released, end->put, end->slots);
}

/* Small frames in lines: buffers are whole lines. */
static inline void copy(uint8_t *to, const uint8_t *from, uint32_t len)
{
	if (len > 512) {
		memcpy(to, from, len);
		return;
	}
	for (uint32_t at = 0; at < len; at += NMR_LINE)
		memcpy(to + at, from + at, NMR_LINE);
}

static void publish(struct far_end *from, uint32_t head, struct far_end *to)
{
	uint32_t wanted, left;

	nmr_publish(&to->rx_ktoa->hwtail, to->put);
	if (nmr_must_kick(&to->rx_atok->appl_need_kick, &to->rx_kicked))
		ring_bell(to);
	nmr_publish(&from->tx_ktoa->hwtail, nmr_previous(from->taken, from->slots));
	wanted = __atomic_load_n(&from->tx_atok->cur, __ATOMIC_RELAXED);
	left = nmr_distance(head, nmr_previous(from->taken, from->slots), from->slots);
	if ((left == from->slots - 1 || left > nmr_distance(head, wanted, from->slots)) &&
	    nmr_must_kick(&from->tx_atok->appl_need_kick, &from->tx_kicked))
		ring_bell(from);
}

/* Copy a batch. Return how many frames. */
static uint32_t relay_batch(struct far_end *from, struct far_end *to)
{
	uint64_t words[BATCH_MAX];
	uint32_t head = nmr_take(&from->tx_atok->head);
	uint32_t n = nmr_distance(from->taken, head, from->slots);

	if (n > BATCH_MAX)
		n = BATCH_MAX;
	if (room(to) < n) {
		to->released = nmr_take(&to->rx_atok->head);
		if (room(to) < n)
			n = room(to);
	}
	if (!n)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		words[i] = nmr_read_slot(&from->tx[from->taken]);
		__builtin_prefetch(nmr_buf(&from->area, nmr_word_buf(words[i])));
		from->taken = nmr_next(from->taken, from->slots);
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t index = nmr_word_buf(nmr_read_slot(&to->rx[to->put]));
		uint16_t len = nmr_word_len(words[i]);

		copy(nmr_buf(&to->area, index), nmr_buf(&from->area, nmr_word_buf(words[i])), len);
		nmr_write_slot(&to->rx[to->put], nmr_slot_word(index, len, 0));
		to->put = nmr_next(to->put, to->slots);
	}
	publish(from, head, to);
	return n;
}

static void relay_sleep(struct far_end *from, struct far_end *to)
{
	struct pollfd polls[2] = { { .fd = from->kick, .events = POLLIN }, { .fd = to->kick, .events = POLLIN } };
	uint64_t kicks;

	nmr_arm(&from->tx_ktoa->kern_need_kick, &from->tx_arming);
	if (!room(to))
		nmr_arm(&to->rx_ktoa->kern_need_kick, &to->rx_arming);
	if (room(to) ? nmr_take(&from->tx_atok->head) == from->taken : nmr_take(&to->rx_atok->head) == to->released)
		poll(polls, 2, -1);
	nmr_disarm(&from->tx_ktoa->kern_need_kick);
	nmr_disarm(&to->rx_ktoa->kern_need_kick);
	for (unsigned i = 0; i < 2; i++)
		if ((polls[i].revents & POLLIN) && read(polls[i].fd, &kicks, sizeof(kicks)) < 0)
			fail("read");
}

static void relay(int from_fd, int to_fd)
{
	struct far_end from = { 0 }, to = { 0 };
	uint64_t busy_at = 0;

	serve(&to, to_fd); /* receivers are started first */
	serve(&from, from_fd);
	for (;;) {
		if (relay_batch(&from, &to)) {
			busy_at = 0;
		} else if (!busy_at) {
			busy_at = now_ns();
		} else if (now_ns() - busy_at < LINGER_NS) {
			sched_yield();
		} else {
			relay_sleep(&from, &to);
			busy_at = 0;
		}
	}
}

/* --- packet sockets --- */

static int packet_socket(const char *interface)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETHERTYPE_LAB),
		.sll_ifindex = (int)if_nametoindex(interface),
	};
	int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1, size = 8 << 20;

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		fail(interface);
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)))
		fail("PACKET_QDISC_BYPASS");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)); /* as much as one gets */
	return fd;
}

static void hand_out_packet_sockets(int fd, char **interfaces, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int packets = packet_socket(interfaces[i]);
		struct iovec piece = { "", 1 };
		union {
			struct cmsghdr header;
			char space[CMSG_SPACE(sizeof(packets))];
		} control = { .header = { .cmsg_level = SOL_SOCKET,
					  .cmsg_type = SCM_RIGHTS,
					  .cmsg_len = CMSG_LEN(sizeof(packets)) } };
		struct msghdr message = {
			.msg_iov = &piece,
			.msg_iovlen = 1,
			.msg_control = &control,
			.msg_controllen = sizeof(control),
		};

		memcpy(CMSG_DATA(&control.header), &packets, sizeof(packets));
		if (sendmsg(fd, &message, 0) < 0)
			fail("sendmsg");
	}
}

/* --- */

static struct options parse(int argc, char **argv)
{
	struct options options = {
		.len = 60,
		.batch = BATCH_MAX,
		.slots = NMR_DEFAULT_SLOTS,
		.macs = 1,
		.warm_up_ms = 200,
		.measure_ms = 1000,
		.gap_us = 300,
		.count = 1000,
		.announce = true,
	};
	int option;

	while ((option = getopt(argc, argv, "aBnm:l:b:s:w:d:g:c:")) != -1) {
		uint32_t value = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;

		switch (option) {
		case 'a':
			options.addresses = true;
			break;
		case 'B':
			options.broadcast = true;
			break;
		case 'n':
			options.announce = false;
			break;
		case 'm':
			options.macs = value;
			break;
		case 'l':
			options.len = value;
			break;
		case 'b':
			options.batch = value;
			break;
		case 's':
			options.slots = value;
			break;
		case 'w':
			options.warm_up_ms = value;
			break;
		case 'd':
			options.measure_ms = value;
			break;
		case 'g':
			options.gap_us = value;
			break;
		case 'c':
			options.count = value;
			break;
		default:
			exit(2);
		}
	}
	return options;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	struct options options = parse(argc - 1, argv + 1);
	char **arguments = argv + 1 + optind;
	unsigned n = (unsigned)(argc - 1 - optind);
	bool alone = !strcmp(mode, "stamp") || !strcmp(mode, "delays");
	struct ports ports;

	if (!n || options.len < HEADER || options.len > NMR_DEFAULT_BUF || !options.macs || options.macs > UINT16_MAX)
		return 2;
	if (!strcmp(mode, "relay")) {
		relay(atoi(arguments[0]), atoi(arguments[1]));
		return 0;
	}
	if (!strcmp(mode, "packets")) {
		hand_out_packet_sockets(atoi(arguments[0]), arguments + 1, n - 1);
		return 0;
	}
	ports = open_ports(arguments, n, options.slots, alone ? VSW_NO_LINGER : 0);
	if (!strcmp(mode, "send")) {
		say_ready();
		send_for_ever(&ports, &options);
	} else if (!strcmp(mode, "receive")) {
		receive(&ports, &options);
	} else if (!strcmp(mode, "hold")) {
		say_ready();
		pause();
	} else if (!strcmp(mode, "stamp")) {
		stamp(ports.rings[0], &options);
	} else if (!strcmp(mode, "delays")) {
		delays(ports.rings[0], &options);
	} else {
		return 2;
	}
	return 0;
}
