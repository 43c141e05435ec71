/* SPDX-License-Identifier: BSD-2-Clause */
/* The engine with its thread, called from several others while frames move: above all for ThreadSanitizer. */
#include <pthread.h>
#include <stdatomic.h>

#include "lab.h"

enum { CALLERS = 3, ROUNDS = 300 };

struct add {
	int fd;
	struct port *port;
	uint32_t id;
};

static atomic_bool stop_sending;

static void run_add(struct engine *in, void *arg)
{
	struct add *add = arg;

	(void)in;
	CHECK(!vsw_port_new(sw, vsw_port_ops_find("stream"), &add->fd, 1, NULL, &add->port));
	add->id = add->port->id;
}

static void run_remove(struct engine *in, void *arg)
{
	struct add *add = arg;

	CHECK(vsw_engine_port(in, add->id) == add->port);
	vsw_port_free(add->port);
}

static void run_read_counters(struct engine *in, void *arg)
{
	uint64_t *frames = arg;

	for (uint32_t i = 0; i < in->n_ports; i++)
		if (in->ports[i])
			*frames += in->ports[i]->rx.frames;
}

/* Add a port, send through it, remove it, again and again; every third time by hanging up first. */
static void *churn(void *arg)
{
	uint64_t mac = 0x525400000100ULL + (uint64_t)(uintptr_t)arg;

	for (int round = 0; round < ROUNDS; round++) {
		uint8_t wire[64];
		uint64_t frames = 0;
		struct add add;
		int pair[2];

		CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		add.fd = pair[1];
		vsw_engine_call(engine, run_add, &add);
		CHECK(write(pair[0], wire, make_frame(wire, ANYBODY, mac, 60, 1)) == sizeof(wire));
		vsw_engine_call(engine, run_read_counters, &frames);
		if (round % 3 == 0)
			close(pair[0]);
		vsw_engine_call(engine, run_remove, &add);
		if (round % 3)
			close(pair[0]);
	}
	return NULL;
}

static void *send_frames(void *arg)
{
	int fd = *(int *)arg;
	uint8_t wire[64];
	size_t size = make_frame(wire, ANYBODY, 0x525400000001ULL, 60, 7);

	while (!stop_sending)
		CHECK(write(fd, wire, size) == (ssize_t)size);
	return NULL;
}

static void calls_from_many_threads_run_between_bursts(void)
{
	pthread_t callers[CALLERS], sender;
	struct add add;
	int pair[2];

	CHECK(!vsw_engine_new(&engine));
	CHECK(!vsw_switch_new(engine, false, 300 * SECOND, 8192, &sw));
	CHECK(!vsw_engine_start(engine));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	add.fd = pair[1];
	vsw_engine_call(engine, run_add, &add);
	CHECK(!pthread_create(&sender, NULL, send_frames, &pair[0]));
	for (uintptr_t i = 0; i < CALLERS; i++)
		CHECK(!pthread_create(&callers[i], NULL, churn, (void *)i));
	for (int i = 0; i < CALLERS; i++)
		pthread_join(callers[i], NULL);
	stop_sending = true;
	pthread_join(sender, NULL);
	close(pair[0]);
	vsw_engine_free(engine);
}

static void an_ended_port_makes_the_event_descriptor_readable(void)
{
	struct pollfd event;
	struct add add;
	int pair[2];

	CHECK(!vsw_engine_new(&engine));
	CHECK(!vsw_switch_new(engine, false, 300 * SECOND, 8192, &sw));
	CHECK(!vsw_engine_start(engine));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	add.fd = pair[1];
	vsw_engine_call(engine, run_add, &add);
	event = (struct pollfd){ .fd = engine->event_fd, .events = POLLIN };
	CHECK(poll(&event, 1, 0) == 0);
	close(pair[0]);
	CHECK(poll(&event, 1, 5000) == 1);
	vsw_engine_free(engine);
}

int main(void)
{
	RUN(calls_from_many_threads_run_between_bursts);
	RUN(an_ended_port_makes_the_event_descriptor_readable);
	return 0;
}
