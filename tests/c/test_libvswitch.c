/* SPDX-License-Identifier: BSD-2-Clause */
/* The client library where things go wrong: with its user, with its fabric, with time. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "ring_client.h"

#define SLOTS 64U
#define LONG  60000 /* ms: more than this test may take */

static uint8_t bytes[60] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5 };
static const struct iovec frame = { bytes, sizeof(bytes) };

static int64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* --- its user --- */

static void send_n(struct vsw_ring *ring, unsigned n)
{
	while (n--)
		CHECK(vsw_ring_send(ring, &frame, 1) == 1);
}

/* Both ends of a pipe: the first has been sent six frames, of which it has released two and looked at three more. */
static void open_used(struct vsw_ring *ends[2])
{
	struct iovec got[3];

	pipe_open((struct nmr_geometry){ .rings = 2, .slots = SLOTS, .buf_size = 256 }, ends);
	send_n(ends[0], 5);
	send_n(ends[1], 6);
	CHECK(vsw_ring_receive(ends[0], got, 2) == 2);
	vsw_ring_release(ends[0]);
	CHECK(!vsw_ring_sync(ends[0], VSW_TX | VSW_RX));
}

/* With head and cur of one ring where they may not be, sync refuses, puts them back, and serves the other rings. */
static void expect_refusal(int which, uint32_t head, uint32_t cur)
{
	struct vsw_ring *ends[2];
	struct netmap_ring *wrong, *right;
	uint32_t published;
	struct iovec got[64];

	open_used(ends);
	wrong = which == VSW_TX ? vsw_ring_tx(ends[0], 0) : vsw_ring_rx(ends[0], 0);
	right = vsw_ring_tx(ends[0], 1);
	right->slot[0].len = sizeof(bytes);
	right->head = right->cur = 1;
	published = wrong->head;
	wrong->head = head;
	wrong->cur = cur;
	CHECK(vsw_ring_sync(ends[0], VSW_TX | VSW_RX) == -EINVAL);
	CHECK(wrong->head == published && wrong->cur == published);
	CHECK(vsw_ring_sync(ends[0], VSW_TX | VSW_RX) == 0);
	CHECK(vsw_ring_receive(ends[1], got, 64) == 5 + 1);
	CHECK(vsw_ring_receive(ends[0], got, 64) == 4);
	send_n(ends[0], 1);
	CHECK(vsw_ring_receive(ends[1], got, 64) == 1);
	vsw_ring_close(ends[0]);
	vsw_ring_close(ends[1]);
}

static void puts_a_head_back_that_has_left_its_slots(void)
{
	for (int which = VSW_TX; which <= VSW_RX; which++) {
		uint32_t good = which == VSW_TX ? 5 : 2;
		/* What it has: the slots up to 63 and round to 4 to send, 2 up to 6 to release. */
		uint32_t too_far = which == VSW_TX ? 0 : 7;

		expect_refusal(which, SLOTS, good);
		expect_refusal(which, UINT32_MAX, good);
		expect_refusal(which, too_far, good);
		expect_refusal(which, good - 1, good);
		expect_refusal(which, good, SLOTS);
		expect_refusal(which, good, UINT32_MAX);
	}
}

/* Where all slots are the user's, only the end of the ring says that this is none. */
static void puts_a_head_back_that_has_left_an_empty_ring(void)
{
	struct vsw_ring *ends[2];
	struct iovec got[64];

	open_used(ends);
	CHECK(vsw_ring_receive(ends[1], got, 64) == 5);
	vsw_ring_release(ends[1]);
	CHECK(!vsw_ring_sync(ends[0], VSW_TX));
	vsw_ring_tx(ends[0], 0)->head = SLOTS;
	CHECK(vsw_ring_sync(ends[0], VSW_TX) == -EINVAL);
	vsw_ring_close(ends[0]);
	vsw_ring_close(ends[1]);
}

static void puts_a_head_back_before_it_sends_or_receives(void)
{
	struct vsw_ring *ends[2];
	struct iovec got[64];

	open_used(ends);
	vsw_ring_tx(ends[0], 0)->head = SLOTS;
	CHECK(vsw_ring_send(ends[0], &frame, 1) == -EINVAL);
	CHECK(vsw_ring_send(ends[0], &frame, 1) == 1);
	CHECK(vsw_ring_receive(ends[1], got, 64) == 5 + 1);
	vsw_ring_rx(ends[0], 0)->head = 1000000;
	CHECK(vsw_ring_receive(ends[0], got, 64) == 4);
	vsw_ring_close(ends[0]);
	vsw_ring_close(ends[1]);
}

/* --- time --- */

static void lingers_no_longer_than_it_waits(void)
{
	struct vsw_ring_options options = { .linger_us = LONG * 1000 };
	struct vsw_ring *ends[2];
	int64_t begun = now_ms();

	pipe_open_with((struct nmr_geometry){ .rings = 1, .slots = SLOTS, .buf_size = 256 }, &options, ends);
	CHECK(vsw_ring_wait(ends[0], VSW_RX, 1) == 0);
	CHECK(now_ms() - begun < LONG / 2);
	vsw_ring_close(ends[0]);
	vsw_ring_close(ends[1]);
}

/* --- its fabric --- */

/* A fabric that listens where `name` says, and does to each client what `serve` does, in a thread. */
struct server {
	void (*serve)(int client, unsigned number);
	int listener;
	unsigned accepted;
	char directory[32], path[64], name[96];
	pthread_t thread;
};

static void *accept_clients(void *argument)
{
	struct server *server = argument;
	int client;

	while ((client = accept(server->listener, NULL, NULL)) >= 0)
		server->serve(client, server->accepted++);
	return NULL;
}

static void start(struct server *server, int backlog, void (*serve)(int client, unsigned number))
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	*server = (struct server){ .serve = serve };
	strcpy(server->directory, "/tmp/vst-XXXXXX");
	CHECK(mkdtemp(server->directory));
	snprintf(server->path, sizeof(server->path), "%s/ring", server->directory);
	snprintf(server->name, sizeof(server->name), "%s:lan:p1", server->path);
	strcpy(address.sun_path, server->path);
	server->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK(!bind(server->listener, (struct sockaddr *)&address, sizeof(address)));
	CHECK(!listen(server->listener, backlog));
	if (serve)
		CHECK(!pthread_create(&server->thread, NULL, accept_clients, server));
}

static void stop(struct server *server)
{
	shutdown(server->listener, SHUT_RDWR);
	if (server->serve)
		CHECK(!pthread_join(server->thread, NULL));
	close(server->listener);
	unlink(server->path);
	rmdir(server->directory);
}

/* What the last client may go on asking for, since nobody closes it. */
static int kept = -1;

static void keep(int client)
{
	if (kept >= 0)
		close(kept);
	kept = client;
}

static void answer(int client)
{
	struct nmr_geometry geometry = { .rings = 1, .slots = SLOTS, .buf_size = 256, .n_halves = 1 };
	int fds[2] = { nmr_create(&geometry, "p1", 1), eventfd(0, EFD_CLOEXEC) };

	send_answer(client, 0, fds);
	close(fds[0]);
	close(fds[1]);
	keep(client);
}

static void answer_the_third(int client, unsigned number)
{
	if (number == 2)
		answer(client);
	else
		close(client);
}

static void answer_the_fourth(int client, unsigned number)
{
	if (number == 3)
		answer(client);
	else
		close(client);
}

static void answer_the_first(int client, unsigned number)
{
	if (number == 0)
		answer(client);
	else
		keep(client); /* silence */
}

static void asks_again_when_it_is_hung_up_on(void)
{
	char error[VSW_ERROR_SIZE] = "";
	struct server server;
	struct vsw_ring *ring;

	start(&server, 8, answer_the_third);
	ring = vsw_ring_open(server.name, NULL, error);
	CHECK(ring);
	vsw_ring_close(ring);
	stop(&server);
	start(&server, 8, answer_the_fourth);
	ring = vsw_ring_open(server.name, NULL, error);
	CHECK(!ring && strstr(error, "Connection reset by peer"));
	stop(&server);
	CHECK(server.accepted == 3);
}

/* Whether it hung up before we asked or after is a matter of chance, and all the same. */
static void is_told_that_it_was_hung_up_on(void)
{
	char error[VSW_ERROR_SIZE] = "";
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	close(pair[1]);
	CHECK(!vsw_ring_adopt(pair[0], NULL, error));
	CHECK(strstr(error, "Connection reset by peer"));
}

static void asks_again_only_while_there_is_time(void)
{
	struct vsw_ring_options options = { .timeout_ms = 1 };
	struct server server;

	start(&server, 8, answer_the_fourth);
	CHECK(!vsw_ring_open(server.name, &options, NULL));
	stop(&server);
	CHECK(server.accepted < 3);
}

static void gives_up_on_a_fabric_that_does_not_answer(void)
{
	struct vsw_ring_options options = { .timeout_ms = LONG };
	char error[VSW_ERROR_SIZE] = "";
	int64_t begun = now_ms();
	struct server server;
	struct vsw_ring *ring;

	start(&server, 8, answer_the_first);
	ring = vsw_ring_open(server.name, &options, error);
	CHECK(ring);
	CHECK(vsw_ring_reopen(ring, 150, error) == -ETIMEDOUT);
	CHECK(strstr(error, "the fabric did not answer"));
	CHECK(now_ms() - begun >= 150 && now_ms() - begun < LONG / 2);
	vsw_ring_close(ring);
	stop(&server);
}

/* It listens, but never accepts; its backlog is full. */
static void gives_up_on_a_fabric_that_does_not_accept(void)
{
	struct vsw_ring_options options = { .timeout_ms = 150 };
	char error[VSW_ERROR_SIZE] = "";
	struct server server;
	int64_t begun;

	start(&server, 0, NULL);
	CHECK(!vsw_ring_open(server.name, &options, error)); /* waits in the backlog, and is still there when gone */
	begun = now_ms();
	CHECK(!vsw_ring_open(server.name, &options, error));
	CHECK(strstr(error, "no fabric serves rings at"));
	CHECK(now_ms() - begun >= 150 && now_ms() - begun < LONG / 2);
	stop(&server);
}

/* --- interruptions --- */

static struct vsw_ring *interrupted;

static void *interrupt_soon(void *argument)
{
	struct timespec time = { .tv_nsec = 20000000 };

	nanosleep(&time, NULL); /* to be asleep by then makes it the harder case; either must end */
	if (argument)
		pthread_kill(*(pthread_t *)argument, SIGUSR1);
	else
		vsw_ring_interrupt(interrupted);
	return NULL;
}

static pthread_t interrupt_later(struct vsw_ring *ring)
{
	pthread_t thread;

	interrupted = ring;
	CHECK(!pthread_create(&thread, NULL, interrupt_soon, NULL));
	return thread;
}

static void ends_waits_when_another_thread_says_so(void)
{
	struct vsw_ring_options lingering = { .linger_us = LONG * 1000 };
	const struct vsw_ring_options *options[] = { NULL, &lingering };

	for (unsigned i = 0; i < 2; i++) {
		struct vsw_ring *ends[2];
		pthread_t thread;

		pipe_open_with((struct nmr_geometry){ .rings = 1, .slots = SLOTS, .buf_size = 256 }, options[i], ends);
		thread = interrupt_later(ends[0]);
		CHECK(vsw_ring_wait(ends[0], VSW_RX, -1) == -ECANCELED);
		CHECK(vsw_ring_wait(ends[0], VSW_RX, LONG) == -ECANCELED);
		CHECK(vsw_ring_disarm(ends[1]) == -ENOTCONN);
		CHECK(!pthread_join(thread, NULL));
		vsw_ring_close(ends[0]);
		vsw_ring_close(ends[1]);
	}
}

static void ends_reopening_when_another_thread_says_so(void)
{
	for (unsigned i = 0; i < 2; i++) {
		struct server server;
		struct vsw_ring *ring;
		pthread_t thread;

		start(&server, 8, answer_the_first);
		ring = vsw_ring_open(server.name, NULL, NULL);
		CHECK(ring);
		if (i) /* nothing to connect to */
			CHECK(!unlink(server.path));
		thread = interrupt_later(ring);
		CHECK(vsw_ring_reopen(ring, LONG, NULL) == -ECANCELED);
		CHECK(vsw_ring_reopen(ring, LONG, NULL) == -ECANCELED);
		CHECK(!pthread_join(thread, NULL));
		vsw_ring_close(ring);
		stop(&server);
	}
}

static void on_signal(int number)
{
	(void)number;
}

static void ends_reopening_after_a_signal(void)
{
	CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
	for (unsigned i = 0; i < 2; i++) {
		pthread_t self = pthread_self(), thread;
		struct server server;
		struct vsw_ring *ring;

		start(&server, 8, answer_the_first);
		ring = vsw_ring_open(server.name, NULL, NULL);
		CHECK(ring);
		if (i)
			CHECK(!unlink(server.path));
		CHECK(!pthread_create(&thread, NULL, interrupt_soon, &self));
		CHECK(vsw_ring_reopen(ring, LONG, NULL) == -EINTR);
		CHECK(!pthread_join(thread, NULL));
		vsw_ring_close(ring);
		stop(&server);
	}
}

/* One that came before it slept, and had to wait until then, is not missed: wherever it would sleep. */
static void ends_reopening_after_a_signal_that_was_blocked(void)
{
	sigset_t usr1, before;

	CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	for (unsigned i = 0; i < 3; i++) {
		struct vsw_ring_options options = { .timeout_ms = LONG }, brief = { .timeout_ms = 50 };
		struct server server, full;
		struct vsw_ring *ring;

		start(&server, 8, answer_the_first);
		start(&full, 0, NULL);
		ring = vsw_ring_open(server.name, &options, NULL);
		CHECK(ring);
		if (i)
			CHECK(!unlink(server.path));
		if (i == 2) { /* nor does anybody accept */
			CHECK(!vsw_ring_open(full.name, &brief, NULL));
			CHECK(!rename(full.path, server.path));
		}
		CHECK(!pthread_sigmask(SIG_BLOCK, &usr1, &before));
		CHECK(!raise(SIGUSR1));
		CHECK(vsw_ring_preopen(ring, LONG, &before, NULL) == -EINTR);
		CHECK(!pthread_sigmask(SIG_SETMASK, &before, NULL));
		vsw_ring_close(ring);
		stop(&server);
		stop(&full);
	}
}

int main(void)
{
	RUN(puts_a_head_back_that_has_left_its_slots);
	RUN(puts_a_head_back_that_has_left_an_empty_ring);
	RUN(puts_a_head_back_before_it_sends_or_receives);
	RUN(lingers_no_longer_than_it_waits);
	RUN(asks_again_when_it_is_hung_up_on);
	RUN(is_told_that_it_was_hung_up_on);
	RUN(asks_again_only_while_there_is_time);
	RUN(gives_up_on_a_fabric_that_does_not_answer);
	RUN(gives_up_on_a_fabric_that_does_not_accept);
	RUN(ends_waits_when_another_thread_says_so);
	RUN(ends_reopening_when_another_thread_says_so);
	RUN(ends_reopening_after_a_signal);
	RUN(ends_reopening_after_a_signal_that_was_blocked);
	keep(-1);
	return 0;
}
