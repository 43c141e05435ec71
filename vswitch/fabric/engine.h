/* SPDX-License-Identifier: BSD-2-Clause */
/* The engine: one thread around epoll that moves all frames of its switches, and never holds Python's GIL.
 *
 * Thread-safety: the loop is the only one that touches switches, ports and tables; nothing on the frame path is locked.
 * Other threads get things done by vsw_engine_call(), which runs a function in the loop, between bursts, and waits for
 * it. Engines share nothing, so there can be several (one per core at most); a switch belongs to exactly one.
 */
#ifndef VSW_ENGINE_H
#define VSW_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "port.h"

#define ENGINE_SCRATCH    (1U << 20) /* bytes */
#define ENGINE_HEADS      (1U << 17) /* bytes */
#define ENGINE_BUSY_TURNS 4          /* epoll is asked at least every so many turns */
#define ENGINE_LINGER_NS  50000
#define ENGINE_TICK_NS    1000000000ULL /* how often addresses are aged */

struct vsw_switch;

struct engine_call {
	void (*run)(struct engine *engine, void *arg);
	void *arg;
	bool done;
	STAILQ_ENTRY(engine_call) next;
};

struct engine {
	/* The loop's own. */
	int epoll_fd;
	uint64_t now;                 /* ns, CLOCK_MONOTONIC unless tests say otherwise; read once per wake-up */
	uint64_t (*clock)(void);      /* where `now` comes from */
	uint64_t next_tick;           /* ns */
	uint8_t *scratch;             /* ENGINE_SCRATCH bytes any port may collect into; contents last for one burst */
	uint8_t *heads;               /* ENGINE_HEADS bytes of frames that offload.c finishes */
	struct vsw_switch **switches; /* by id; NULL where free */
	uint32_t n_switches;
	struct port **ports; /* by id; NULL where free */
	uint32_t n_ports;
	TAILQ_HEAD(, port) congested; /* in order of congested_until */
	TAILQ_HEAD(, port) warm;      /* polled every turn */
	uint32_t n_warm;
	uint32_t busy_turns; /* since a turn without anything to do, or epoll being asked */
	uint64_t linger;     /* ns that an idle port is polled for before it sleeps: waking it costs about as much */
	TAILQ_HEAD(, port) relieving; /* have room again for sources that still wait */
	TAILQ_HEAD(, port) unflushed; /* to be flushed at the end of this turn */
	STAILQ_HEAD(, port) ended;    /* ports Python has not been told about */
	bool stopping;
	bool running; /* the thread exists; written before and after its life only */

	/* Shared with other threads. */
	int call_fd;           /* eventfd: calls are waiting. Written by callers, read by the loop */
	int event_fd;          /* eventfd: `ended` is not empty. Written by the loop, read by Python */
	pthread_mutex_t mutex; /* guards `calls`, and `done` of each */
	pthread_cond_t called;
	STAILQ_HEAD(, engine_call) calls;
	pthread_t thread;
};

/* Make an engine without a thread (tests run it step by step with vsw_engine_step()). Return 0 or -errno. */
int vsw_engine_new(struct engine **made);

/* Start the thread. Return 0 or -errno. */
int vsw_engine_start(struct engine *engine);

/* Stop and join the thread, if any, and free everything, ports and switches included. */
void vsw_engine_free(struct engine *engine);

/* Run `run(engine, arg)` in the loop, between bursts, and wait for it; at once when there is no thread. Any thread but
 * the loop's may call. Cannot fail.
 */
void vsw_engine_call(struct engine *engine, void (*run)(struct engine *engine, void *arg), void *arg);

/* One turn of the loop: wait at most `timeout_ms` (-1: until something is due) and handle what there is. */
void vsw_engine_step(struct engine *engine, int timeout_ms);

/* Put `port` or `sw` into the engine's table. Return its id, or -errno. */
int64_t vsw_engine_adopt_port(struct engine *engine, struct port *port);
int64_t vsw_engine_adopt_switch(struct engine *engine, struct vsw_switch *sw);

/* Look up by id; NULL when there is none. */
struct port *vsw_engine_port(const struct engine *engine, uint32_t id);
struct vsw_switch *vsw_engine_switch(const struct engine *engine, uint32_t id);

/* Have `port` polled every turn from now on, or no more. Idempotent. */
void vsw_engine_warm(struct port *port);
void vsw_engine_cool(struct port *port);

/* Have `port` flushed at the end of this turn. Idempotent. */
void vsw_engine_flush_later(struct port *port);

/* Tell Python, through event_fd, that `port` has ended. */
void vsw_engine_report(struct engine *engine, struct port *port);

/* Take the next port off the list of ended ones; NULL when there is none. */
struct port *vsw_engine_next_ended(struct engine *engine);

#endif
