/* SPDX-License-Identifier: BSD-2-Clause */
/* A client of a ring port, over the raw memory, for test_rings.py:
 *
 *     hostile_ring scribble SOCKET NETWORK:PORT SEED MILLISECONDS
 *         writes to its memory from two threads what may and what may not be there, kicks all the time, and opens its port
 *         anew whenever the fabric has ended it; prints how often that was
 *     hostile_ring echo SOCKET NETWORK:PORT STEP
 *         sends each frame it gets back where it came from; from its second frame on it stops itself (SIGSTOP) once, at
 *         STEP, after having said so
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "netmap_ring.h"

#define SLOTS    64
#define BUF_SIZE 256

struct ring {
	struct nmr_area area;
	struct nm_csb_atok *tx_atok, *rx_atok;
	struct nm_csb_ktoa *tx_ktoa, *rx_ktoa;
	struct netmap_slot *tx, *rx;
	int kick, socket;
	uint32_t tx_arming, rx_arming, tx_kicked, rx_kicked;
};

static void die(const char *what)
{
	fprintf(stderr, "hostile_ring: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void receive_answer(int fd, int fds[2])
{
	struct nmr_opened answer;
	struct iovec piece = { &answer, sizeof(answer) };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	if (recvmsg(fd, &message, 0) != sizeof(answer))
		die("no answer");
	if (answer.error[0]) {
		fprintf(stderr, "hostile_ring: %s\n", answer.error);
		exit(1);
	}
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), 2 * sizeof(int));
}

static struct ring ring_open(const char *path, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct nmr_open request = {
		.magic = NMR_MAGIC, .version = NMR_VERSION, .rings = 1, .slots = SLOTS, .buf_size = BUF_SIZE
	};
	struct ring ring = { .socket = socket(AF_UNIX, SOCK_SEQPACKET, 0) };
	int fds[2];

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	snprintf(request.name, sizeof(request.name), "%s", name);
	if (connect(ring.socket, (struct sockaddr *)&address, sizeof(address)))
		die(path);
	if (send(ring.socket, &request, sizeof(request), 0) < 0)
		die("request");
	receive_answer(ring.socket, fds);
	if (nmr_map(fds[0], &ring.area))
		die("map");
	close(fds[0]);
	ring.kick = fds[1];
	ring.tx_atok = nmr_atok(&ring.area, 0, 0);
	ring.rx_atok = nmr_atok(&ring.area, 0, 1);
	ring.tx_ktoa = nmr_ktoa(&ring.area, 0, 0);
	ring.rx_ktoa = nmr_ktoa(&ring.area, 0, 1);
	ring.tx = nmr_ring(&ring.area, 0, 0)->slot;
	ring.rx = nmr_ring(&ring.area, 0, 1)->slot;
	return ring;
}

static void ring_close(struct ring *ring)
{
	close(ring->socket);
	close(ring->kick);
	nmr_unmap(&ring->area);
}

static uint64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* --- scribble --- */

static struct ring shared;
static bool over;

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return *state >> 24;
}

/* Frames from addresses of its own to nobody, or to everybody. */
static void fill_slots(uint64_t *state)
{
	uint32_t head = __atomic_load_n(&shared.tx_atok->head, __ATOMIC_RELAXED) % SLOTS;
	uint32_t n = (uint32_t)(next_random(state) % 20);

	while (n--) {
		uint32_t index = NMR_FIRST_BUF + head;
		uint8_t *buf = nmr_buf(&shared.area, index);

		memset(buf, 0x06, 12);
		if (next_random(state) % 4 == 0)
			memset(buf, 0xff, 6);
		buf[11] = (uint8_t)next_random(state);
		nmr_write_slot(&shared.tx[head], nmr_slot_word(index, (uint16_t)(next_random(state) % (BUF_SIZE + 1)),
							       next_random(state) % 8 ? 0 : NS_MOREFRAG));
		head = nmr_next(head, SLOTS);
	}
	nmr_publish(&shared.tx_atok->head, head);
}

static void break_a_rule(uint64_t *state)
{
	uint64_t garbage = next_random(state) << 32 ^ next_random(state);

	switch (next_random(state) % 6) {
	case 0: /* only the buffer is wrong, or everything */
		nmr_write_slot(&shared.tx[next_random(state) % SLOTS],
			       garbage & 1 ? garbage : nmr_slot_word((uint32_t)(garbage >> 8), 60, 0));
		break;
	case 1:
		nmr_write_slot(&shared.rx[next_random(state) % SLOTS], garbage);
		break;
	case 2:
		nmr_publish(&shared.tx_atok->head, (uint32_t)garbage);
		break;
	case 3:
		nmr_publish(&shared.rx_atok->head, (uint32_t)garbage % (2 * SLOTS));
		break;
	case 4: /* what the fabric has written for us, and the geometry */
		memset(shared.area.base + (garbage & 1 ? 0 : shared.area.header.halves[0].ktoa_ofs), (int)garbage, 512);
		break;
	default:
		memset((void *)nmr_ring(&shared.area, 0, garbage & 1), (int)(garbage >> 8), sizeof(struct netmap_ring));
	}
}

static void *scribble(void *arg)
{
	uint64_t state = *(const uint64_t *)arg;

	while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
		uint64_t choice = next_random(&state) % 4096;

		if (choice == 0) {
			break_a_rule(&state);
			usleep(1000); /* before it is made good again by what follows */
		} else if (choice < 2048)
			fill_slots(&state);
		else if (choice < 3000)
			nmr_publish(&shared.rx_atok->head, nmr_take(&shared.rx_ktoa->hwtail) % SLOTS);
		else
			shared.rx_atok->appl_need_kick = (uint32_t)choice;
	}
	return NULL;
}

/* Change slots to and fro that the fabric may be looking at, and kick. */
static void *flicker(void *arg)
{
	uint64_t state = *(const uint64_t *)arg + 1;

	while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
		uint32_t at = (uint32_t)(next_random(&state) % SLOTS);
		uint64_t before = nmr_read_slot(&shared.tx[at]);

		for (unsigned i = 0; i < 20; i++) {
			nmr_write_slot(&shared.tx[at], nmr_slot_word(NMR_FIRST_BUF + at, (uint16_t)(14 + i * 12), 0));
			nmr_write_slot(&shared.tx[at], before);
		}
		eventfd_write(shared.kick, 1);
		usleep(20);
	}
	return NULL;
}

/* Scribble until the fabric has ended the port, or the time is up. Return whether it has. */
static bool scribble_until(uint64_t seed, uint64_t end)
{
	struct pollfd poll_fd = { .fd = shared.socket, .events = POLLIN };
	pthread_t threads[2];
	char bells[64];
	ssize_t got = 1;

	over = false;
	pthread_create(&threads[0], NULL, scribble, &seed);
	pthread_create(&threads[1], NULL, flicker, &seed);
	while (got > 0 && now_ms() < end)
		if (poll(&poll_fd, 1, 50) == 1)
			got = recv(shared.socket, bells, sizeof(bells), MSG_DONTWAIT);
	__atomic_store_n(&over, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	return got <= 0;
}

static void run_scribble(const char *path, const char *name, uint64_t seed, uint64_t ms)
{
	uint64_t end = now_ms() + ms;
	unsigned ended = 0;

	while (now_ms() < end) {
		shared = ring_open(path, name);
		ended += scribble_until(seed + ended, end);
		/* The fabric hears of the close before it hears of the next open: one thread reads both. */
		ring_close(&shared);
	}
	printf("%u\n", ended);
}

/* --- echo --- */

static const char *stop_at;
static unsigned echoed;

/* Stop here, if this is the place and has not been before. */
static void step(const char *name)
{
	if (!stop_at || strcmp(name, stop_at) != 0 || (echoed == 0 && strcmp(name, "opened") != 0))
		return;
	stop_at = NULL;
	printf("%s\n", name);
	fflush(stdout);
	raise(SIGSTOP);
}

/* For what cannot stop itself: a child stops its parent once that sleeps. */
static void stop_when_asleep(void)
{
	char path[64], stat[512];
	pid_t self = getpid(), child;

	if (!stop_at || strcmp(stop_at, "asleep") != 0 || echoed == 0)
		return;
	stop_at = NULL;
	printf("asleep\n");
	fflush(stdout);
	child = fork();
	if (child)
		return;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)self);
	do {
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, stat, sizeof(stat) - 1);

		stat[n > 0 ? n : 0] = 0;
		close(fd);
	} while (!strstr(stat, ") S "));
	kill(self, SIGSTOP);
	_exit(0);
}

static void kick(struct ring *ring, bool rx)
{
	if (rx ? nmr_must_kick(&ring->rx_ktoa->kern_need_kick, &ring->rx_kicked)
	       : nmr_must_kick(&ring->tx_ktoa->kern_need_kick, &ring->tx_kicked))
		eventfd_write(ring->kick, 1);
}

/* Send the frame in rx slot `at` back in two slots. */
static void send_back(struct ring *ring, uint32_t at)
{
	uint64_t word = nmr_read_slot(&ring->rx[at]);
	const uint8_t *from = nmr_buf(&ring->area, nmr_word_buf(word));
	uint32_t len = nmr_word_len(word), head = ring->tx_atok->head, second = nmr_next(head, SLOTS);
	uint8_t *to = nmr_buf(&ring->area, NMR_FIRST_BUF + head);

	memcpy(to, from + 6, 6);
	memcpy(to + 6, from, 6);
	memcpy(to + 12, from + 12, 8);
	step("copied");
	memcpy(nmr_buf(&ring->area, NMR_FIRST_BUF + second), from + 20, len - 20);
	nmr_write_slot(&ring->tx[head], nmr_slot_word(NMR_FIRST_BUF + head, 20, NS_MOREFRAG));
	nmr_write_slot(&ring->tx[second], nmr_slot_word(NMR_FIRST_BUF + second, (uint16_t)(len - 20), 0));
	step("slots-written");
	nmr_publish(&ring->tx_atok->head, second);
	kick(ring, false);
	step("half-a-frame-published");
	nmr_publish(&ring->tx_atok->head, nmr_next(second, SLOTS));
	step("published");
	kick(ring, false);
	step("kicked");
}

static bool has_room(const struct ring *ring)
{
	return nmr_distance(ring->tx_atok->head, nmr_take(&ring->tx_ktoa->hwtail), SLOTS) >= 2;
}

/* Sleep until there is a frame, or room for one while there is a frame to send back. */
static void sleep_for(struct ring *ring, bool full)
{
	struct pollfd poll_fd = { .fd = ring->socket, .events = POLLIN };
	char bells[64];

	ring->tx_atok->cur = ring->tx_atok->head;
	nmr_arm(full ? &ring->tx_atok->appl_need_kick : &ring->rx_atok->appl_need_kick,
		full ? &ring->tx_arming : &ring->rx_arming);
	step("armed");
	if (full ? !has_room(ring) : nmr_take(&ring->rx_ktoa->hwtail) == ring->rx_atok->head) {
		stop_when_asleep();
		while (poll(&poll_fd, 1, -1) < 0)
			;
	}
	step("woken");
	nmr_disarm(&ring->tx_atok->appl_need_kick);
	nmr_disarm(&ring->rx_atok->appl_need_kick);
	if (recv(ring->socket, bells, sizeof(bells), MSG_DONTWAIT) == 0)
		exit(0);
}

static void run_echo(const char *path, const char *name)
{
	struct ring ring = ring_open(path, name);

	step("opened");
	printf("open\n");
	fflush(stdout);
	while (true) {
		uint32_t head = ring.rx_atok->head;
		bool full = !has_room(&ring);

		if (full || nmr_take(&ring.rx_ktoa->hwtail) == head) {
			sleep_for(&ring, full);
			continue;
		}
		step("received");
		send_back(&ring, head);
		nmr_publish_appl(ring.rx_atok, nmr_next(head, SLOTS), nmr_next(head, SLOTS));
		step("released");
		kick(&ring, true);
		echoed++;
	}
}

int main(int argc, char **argv)
{
	signal(SIGCHLD, SIG_IGN);
	if (argc == 6 && !strcmp(argv[1], "scribble")) {
		run_scribble(argv[2], argv[3], strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
	} else if (argc == 5 && !strcmp(argv[1], "echo")) {
		stop_at = argv[4];
		run_echo(argv[2], argv[3]);
	} else {
		return 2;
	}
	return 0;
}
