/* SPDX-License-Identifier: BSD-2-Clause */
#include "engine.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "pause.h"
#include "switch.h"

#define MAX_EVENTS 64

/* Facts about epoll this relies on:
 *  - EPOLLHUP and EPOLLERR are reported whatever one asks for. So a paused port whose peer has gone is read after all,
 *    down to the end of file, and cannot make the loop spin.
 *  - An event may be about a port that an earlier event of the same round has ended. Ports are freed only by calls, and
 *    calls run after all events of the round, so the pointer is good and the state tells.
 */

static uint64_t monotonic(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

int vsw_engine_new(struct engine **made)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	struct epoll_event event = { .events = EPOLLIN };
	int error;

	if (!engine)
		return -ENOMEM;
	engine->clock = monotonic;
	engine->now = monotonic();
	engine->linger = ENGINE_LINGER_NS;
	engine->next_tick = engine->now + ENGINE_TICK_NS;
	TAILQ_INIT(&engine->congested);
	TAILQ_INIT(&engine->warm);
	TAILQ_INIT(&engine->unflushed);
	TAILQ_INIT(&engine->relieving);
	STAILQ_INIT(&engine->ended);
	STAILQ_INIT(&engine->calls);
	pthread_mutex_init(&engine->mutex, NULL);
	pthread_cond_init(&engine->called, NULL);
	engine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	engine->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	engine->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	engine->scratch = aligned_alloc(64, ENGINE_SCRATCH);
	engine->heads = aligned_alloc(64, ENGINE_HEADS);
	if (engine->epoll_fd >= 0 && engine->call_fd >= 0 && engine->event_fd >= 0 && engine->scratch &&
	    engine->heads && !epoll_ctl(engine->epoll_fd, EPOLL_CTL_ADD, engine->call_fd, &event)) {
		*made = engine;
		return 0;
	}
	error = errno;
	vsw_engine_free(engine);
	return -error;
}

/* Return how long to wait for events, in ms: until the next thing is due, rounded up, at most `limit` (-1: no limit). */
static int time_to_wait(const struct engine *engine, int limit)
{
	uint64_t due = vsw_pause_deadline(engine);
	uint64_t ms;

	if (!TAILQ_EMPTY(&engine->warm) || !TAILQ_EMPTY(&engine->relieving))
		return 0;

	if (engine->n_switches && engine->next_tick < due)
		due = engine->next_tick;
	if (due == UINT64_MAX)
		return limit;
	ms = due > engine->now ? (due - engine->now + 999999) / 1000000 : 0;
	if (ms > INT_MAX)
		ms = INT_MAX;
	return limit >= 0 && (uint64_t)limit < ms ? limit : (int)ms;
}

static void tick(struct engine *engine)
{
	if (engine->now < engine->next_tick)
		return;
	engine->next_tick = engine->now + ENGINE_TICK_NS;
	for (uint32_t i = 0; i < engine->n_switches; i++)
		if (engine->switches[i])
			vsw_fdb_age(&engine->switches[i]->fdb, engine->now);
	for (uint32_t i = 0; i < engine->n_ports; i++) {
		struct port *port = engine->ports[i];

		if (port && port->state == PORT_UP && port->ops->tick)
			port->ops->tick(port);
	}
}

static void run_calls(struct engine *engine)
{
	struct engine_call *call;
	uint64_t count;

	if (read(engine->call_fd, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&engine->mutex);
	while ((call = STAILQ_FIRST(&engine->calls))) {
		STAILQ_REMOVE_HEAD(&engine->calls, next);
		pthread_mutex_unlock(&engine->mutex);
		call->run(engine, call->arg);
		pthread_mutex_lock(&engine->mutex);
		call->done = true; /* from here on its owner may free it */
		pthread_cond_broadcast(&engine->called);
	}
	pthread_mutex_unlock(&engine->mutex);
}

/* Poll each warm port once; one that is polled may cool or warm others. Return whether any was busy. */
static bool poll_warm(struct engine *engine)
{
	struct port *port;
	bool busy = false;

	for (uint32_t n = engine->n_warm; n && (port = TAILQ_FIRST(&engine->warm)); n--) {
		enum poll_result result;

		vsw_engine_cool(port);
		result = vsw_port_poll(port);
		if (result != POLL_SLEEPS)
			vsw_engine_warm(port);
		busy |= result == POLL_BUSY;
	}
	return busy;
}

static void flush(struct engine *engine)
{
	struct port *port;

	while ((port = TAILQ_FIRST(&engine->unflushed))) {
		TAILQ_REMOVE(&engine->unflushed, port, in_unflushed);
		port->unflushed = false;
		port->ops->flush(port);
	}
}

void vsw_engine_step(struct engine *engine, int timeout_ms)
{
	struct epoll_event events[MAX_EVENTS];
	bool called = false, busy;
	int n = 0;

	if (!engine->busy_turns)
		n = epoll_wait(engine->epoll_fd, events, MAX_EVENTS, time_to_wait(engine, timeout_ms));
	engine->now = engine->clock();
	for (int i = 0; i < n; i++) {
		struct port *port = events[i].data.ptr;

		if (!port)
			called = true;
		else if (port->state == PORT_UP)
			vsw_port_handle(port, events[i].events);
	}
	vsw_pause_resume_some(engine);
	busy = poll_warm(engine);
	engine->busy_turns = busy ? (engine->busy_turns + 1) % ENGINE_BUSY_TURNS : 0;
	vsw_pause_expire(engine);
	tick(engine);
	flush(engine);
	if (engine->n_warm && !busy && n <= 0)
		sched_yield(); /* those we poll may be waiting for this very core */
	if (called)
		run_calls(engine);
}

static void *loop(void *arg)
{
	struct engine *engine = arg;

	while (!engine->stopping)
		vsw_engine_step(engine, -1);
	return NULL;
}

int vsw_engine_start(struct engine *engine)
{
	sigset_t all, before;
	pthread_t thread;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Python's main thread */
	ret = pthread_create(&thread, NULL, loop, engine);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ret)
		return -ret;
	engine->thread = thread;
	engine->running = true;
	pthread_setname_np(thread, "vswitch-engine");
	return 0;
}

static void set_stopping(struct engine *engine, void *arg)
{
	(void)arg;
	engine->stopping = true;
}

void vsw_engine_free(struct engine *engine)
{
	if (engine->running) {
		vsw_engine_call(engine, set_stopping, NULL);
		pthread_join(engine->thread, NULL);
	}
	for (uint32_t i = 0; i < engine->n_switches; i++)
		if (engine->switches[i])
			vsw_switch_free(engine->switches[i]);
	for (unsigned i = 0; i < 3; i++) {
		int fd = i == 0 ? engine->epoll_fd : i == 1 ? engine->call_fd : engine->event_fd;

		if (fd >= 0)
			close(fd);
	}
	pthread_cond_destroy(&engine->called);
	pthread_mutex_destroy(&engine->mutex);
	free(engine->scratch);
	free(engine->heads);
	free(engine->switches);
	free(engine->ports);
	free(engine);
}

void vsw_engine_call(struct engine *engine, void (*run)(struct engine *engine, void *arg), void *arg)
{
	struct engine_call call = { .run = run, .arg = arg };

	if (!engine->running) {
		run(engine, arg);
		return;
	}
	pthread_mutex_lock(&engine->mutex);
	STAILQ_INSERT_TAIL(&engine->calls, &call, next);
	eventfd_write(engine->call_fd, 1);
	while (!call.done)
		pthread_cond_wait(&engine->called, &engine->mutex);
	pthread_mutex_unlock(&engine->mutex);
}

/* Put `item` in the first free place of a table that grows. Return its index, or -errno. */
static int64_t adopt(void ***table, uint32_t *n, void *item)
{
	void **grown;
	uint32_t i = 0;

	while (i < *n && (*table)[i])
		i++;
	if (i == *n) {
		uint32_t n_grown = *n ? *n * 2 : 16;

		grown = reallocarray(*table, n_grown, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		for (uint32_t j = *n; j < n_grown; j++)
			grown[j] = NULL;
		*table = grown;
		*n = n_grown;
	}
	(*table)[i] = item;
	return i;
}

int64_t vsw_engine_adopt_port(struct engine *engine, struct port *port)
{
	return adopt((void ***)&engine->ports, &engine->n_ports, port);
}

int64_t vsw_engine_adopt_switch(struct engine *engine, struct vsw_switch *sw)
{
	return adopt((void ***)&engine->switches, &engine->n_switches, sw);
}

struct port *vsw_engine_port(const struct engine *engine, uint32_t id)
{
	return id < engine->n_ports ? engine->ports[id] : NULL;
}

struct vsw_switch *vsw_engine_switch(const struct engine *engine, uint32_t id)
{
	return id < engine->n_switches ? engine->switches[id] : NULL;
}

void vsw_engine_warm(struct port *port)
{
	if (port->warm || port->state != PORT_UP)
		return;
	port->warm = true;
	port->engine->n_warm++;
	TAILQ_INSERT_TAIL(&port->engine->warm, port, in_warm);
}

void vsw_engine_cool(struct port *port)
{
	if (!port->warm)
		return;
	port->warm = false;
	port->engine->n_warm--;
	TAILQ_REMOVE(&port->engine->warm, port, in_warm);
}

void vsw_engine_flush_later(struct port *port)
{
	if (port->unflushed)
		return;
	port->unflushed = true;
	TAILQ_INSERT_TAIL(&port->engine->unflushed, port, in_unflushed);
}

void vsw_engine_report(struct engine *engine, struct port *port)
{
	port->unreported = true;
	STAILQ_INSERT_TAIL(&engine->ended, port, in_ended);
	eventfd_write(engine->event_fd, 1);
}

struct port *vsw_engine_next_ended(struct engine *engine)
{
	struct port *port = STAILQ_FIRST(&engine->ended);

	if (port) {
		STAILQ_REMOVE_HEAD(&engine->ended, in_ended);
		port->unreported = false;
	}
	return port;
}
