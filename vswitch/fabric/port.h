/* SPDX-License-Identifier: BSD-2-Clause */
/* A port: a switch's side of a link. What all port types share, and what each has to provide.
 *
 * Everything here runs in the engine's thread and never blocks.
 */
#ifndef VSW_PORT_H
#define VSW_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "fdb.h"
#include "frame.h"
#include "settings.h"
#include "storm.h"
#include "traffic.h"

struct engine;
struct vsw_switch;
struct port;

/* POLL_BUSY    there was something to do.
 * POLL_IDLE    there was not, but poll again.
 * POLL_SLEEPS  there was not, and the next thing to do will be an event.
 */
enum poll_result { POLL_SLEEPS, POLL_IDLE, POLL_BUSY };

/* What a port type provides. To add one: a file that exports `const struct port_ops vsw_<name>_ops`, and a line in
 * vswitch/ports/port_types.def. See docs/porting-a-port.md.
 */
struct port_ops {
	const char *name;
	unsigned min_fds, max_fds; /* how many descriptors `open` takes; the first is the one that is polled */
	size_t options_size; /* bytes of a struct of the type's own that says more, see port->options; 0 for none */

	/* Check the descriptors in port->fds and set up port->private. Return 0 or -errno; on failure the caller closes
	 * the descriptors. Descriptors are non-blocking already.
	 */
	int (*open)(struct port *port);

	/* The descriptor is readable, or hung up: take one burst of frames, pass them to vsw_switch_input() in batches of
	 * at most FRAME_BATCH, and return. Bad input and end of file are reported with vsw_port_end().
	 */
	void (*collect)(struct port *port);

	/* Send or queue `n` (1..FRAME_BATCH) frames, in order, or count the reason why not. The views end on return. All are
	 * finished unless `open` has set port->offloads.
	 */
	void (*deliver)(struct port *port, const struct frame *frames, unsigned n);

	/* The descriptor is writable: send what is queued. NULL for a type that never queues. */
	void (*drain)(struct port *port);

	/* For a port that has called vsw_engine_warm(): called once per turn of the loop instead of waiting for an event, until
	 * it returns POLL_SLEEPS. NULL for a type whose descriptor tells.
	 */
	enum poll_result (*poll)(struct port *port);

	/* For a port that has called vsw_engine_flush_later(): at the end of the turn, once. NULL for a type that never does. */
	void (*flush)(struct port *port);

	/* About once a second: count or notice what no event tells. NULL for a type that has nothing of the kind. */
	void (*tick)(struct port *port);

	/* The port is about to be removed while it is UP: take what the peer had sent before. NULL for a type whose peer's end
	 * is seen only after its last frame.
	 */
	void (*finish)(struct port *port);

	/* Free port->private, counting what was still queued. The caller closes the descriptors. */
	void (*close)(struct port *port);
};

/* Why a frame went no further. Counted on the port it came in by (IN) or should have gone out by (OUT). */
#define VSW_DROPS(X)                                                                                                   \
	X(RUNT, "runt")               /* IN: shorter than an Ethernet header */                                        \
	X(OVERSIZE, "oversize")       /* IN: longer than FRAME_MAX or the port's MTU, or cut by its port */            \
	X(BAD_SOURCE, "bad_source")   /* IN: sent from a group address */                                              \
	X(NO_CHECKSUM, "no_checksum") /* IN: left for hardware to finish that is not there */                          \
	X(BAD_OFFLOAD, "bad_offload") /* IN: left for us to finish in a way that we do not know, or makes no sense */  \
	X(BAD_SESSION, "bad_session") /* IN: of another L2TPv3 session, or of none */                                  \
	X(BAD_COOKIE, "bad_cookie")   /* IN: without the L2TPv3 session's secret */                                    \
	X(MISSED, "missed")           /* IN: the kernel had no room for it until we came to read it */                 \
	X(VLAN, "vlan")               /* IN: this port, or the one its destination is on, is not in its VLAN */        \
	X(RESERVED, "reserved")       /* IN: for an address bridges keep to themselves, and the switch is told to */   \
	X(MOVED, "moved")             /* IN: its source is sticky or static on another port */                         \
	X(MAC_LIMIT, "mac_limit")     /* IN: one more source than the port may have */                                 \
	X(STORM, "storm")             /* IN: to be flooded, beyond the port's limit */                                 \
	X(ISOLATED, "isolated")       /* IN: its destination is on an isolated port, as it came from one */            \
	X(SAME_PORT, "same_port")     /* IN: its destination is where it came from */                                  \
	X(NOWHERE, "nowhere")         /* IN: to be flooded, but there is no port to take it */                         \
	X(OVERFLOW, "overflow")       /* OUT: the queue is full */                                                     \
	X(TOO_LONG, "too_long")       /* OUT: longer than this port can carry, or its MTU */                           \
	X(LINK_DOWN, "link_down")     /* OUT: the device is not up */                                                  \
	X(UNWANTED, "unwanted")       /* OUT: this port only sends: it plays a capture */                              \
	X(REFUSED, "refused")         /* OUT: the kernel would not take it, for another reason */                      \
	X(CLOSED, "closed")           /* OUT: still queued, or just routed here, when it closed */

enum drop {
#define X(symbol, name) DROP_##symbol,
	VSW_DROPS(X)
#undef X
		NUM_DROPS
};

extern const char *const vsw_drop_names[NUM_DROPS];

/* UP       frames move. -> CLOSED, ERROR
 * CLOSED   the peer has gone, as peers may. Descriptors are closed, counters remain.
 * ERROR    the peer broke the rules or the kernel failed us. Like CLOSED.
 * Nothing leads back to UP: a returning peer gets a new port, so that no state of the old one lingers.
 */
enum port_state { PORT_UP, PORT_CLOSED, PORT_ERROR, NUM_PORT_STATES };

extern const char *const vsw_port_state_names[NUM_PORT_STATES];

/* CLEAR       the queue is short.
 * CONGESTED   the queue has passed its mark: a source that sends unicast here is paused. Until a time limit only.
 * GIVEN_UP    the limit passed: nobody waits for this port until its queue has been empty once; what does not fit is
 *             dropped. So a port that takes nothing cannot hold up the others.
 */
enum congestion { CONGESTION_CLEAR, CONGESTION_CONGESTED, CONGESTION_GIVEN_UP };

#define PORT_MAX_FDS 17 /* 16 queues and what polls them */

struct port {
	const struct port_ops *ops;
	struct engine *engine;
	struct vsw_switch *sw;
	void *private;
	enum port_state state;
	uint16_t chain_first, chain_last; /* switch.c: frames of the batch at hand bound for this port */
	bool plain;                       /* switch.c: no setting asks for a closer look at what comes in here */
	bool direct;   /* switch.c: nor at what leaves: it has no MTU, and nothing is to be finished */
	bool offloads; /* set by `open`: frames come and go as they are, unfinished ones too, see offload.h */
	uint32_t id;
	uint32_t events; /* what epoll watches for */
	unsigned n_fds;  /* given to `open`, which may add to them */
	int fds[PORT_MAX_FDS];
	const void *options; /* ops->options_size bytes, from Python; gone when `open` returns */

	struct traffic rx; /* taken from the peer */
	struct traffic tx; /* given to the peer */
	uint64_t drops[NUM_DROPS];
	uint64_t unlearnt; /* frames whose source address found no room in the FDB */
	uint64_t pauses;   /* times this port was not read because a destination was congested */
	char reason[160];  /* why it is not UP */

	enum congestion congestion;
	uint64_t congested_until;   /* ns; only while CONGESTED */
	TAILQ_HEAD(, port) waiting; /* sources paused because of this port */
	struct port *waits_for;     /* NULL: not paused */
	TAILQ_ENTRY(port) in_waiting;
	TAILQ_ENTRY(port) in_congested; /* engine->congested */
	TAILQ_ENTRY(port) in_warm;      /* engine->warm */
	TAILQ_ENTRY(port) in_unflushed; /* engine->unflushed */
	TAILQ_ENTRY(port) in_relieving; /* engine->relieving */
	bool warm, unflushed, relieving;
	bool held;                   /* the engine is in one of its operations: it ends when that returns */
	STAILQ_ENTRY(port) in_ended; /* engine->ended, until Python has heard of it */
	bool unreported;

	struct fdb_holding addresses; /* the FDB's entries for this port */
	struct storm storm;
	struct port_settings settings; /* set by vsw_switch_configure_port() */
};

/* Look a port type up by name; NULL when there is none. */
const struct port_ops *vsw_port_ops_find(const char *name);

/* All port types, NULL at the end. */
extern const struct port_ops *const vsw_port_types[];

/* Make a port of switch `sw`. Takes over `fds` (closed on failure too). `options` points to ops->options_size bytes; NULL
 * where that is 0. Return 0 or -errno.
 */
int vsw_port_new(struct vsw_switch *sw, const struct port_ops *ops, const int *fds, unsigned n_fds, const void *options,
		 struct port **made);

/* Remove and free a port in any state. */
void vsw_port_free(struct port *port);

/* End an UP port: descriptors closed, addresses forgotten, its sources resumed, the reason (printf) kept and reported.
 * The struct stays, so a caller in mid-burst may go on; it must not touch private state afterwards. Called from within the
 * port's own collect, drain or poll, also by way of the switch, this only sets the state; the rest follows on return.
 */
__attribute__((format(printf, 3, 4))) void vsw_port_end(struct port *port, enum port_state state, const char *reason,
							...);

/* End the port if it is UP: whoever knows its peer says that it has gone, which the port itself may be unable to see. What the
 * peer had sent before is taken. Not from within the port's own operations.
 */
void vsw_port_peer_gone(struct port *port, const char *reason);

/* Count a frame of `len` bytes that came in and goes no further. */
static inline void vsw_port_drop_in(struct port *port, enum drop why, uint32_t len)
{
	port->rx.frames++;
	port->rx.bytes += len;
	port->rx.unsorted_frames++;
	port->rx.unsorted_bytes += len;
	port->drops[why]++;
}

/* Run one of an UP port's own operations; drain and collect if epoll's `events` say so. */
void vsw_port_handle(struct port *port, uint32_t events);
enum poll_result vsw_port_poll(struct port *port);

/* End the port for `error` (positive errno) that a system call on its descriptor gave; "reset by peer" and the like
 * are CLOSED, the rest is ERROR.
 */
void vsw_port_end_errno(struct port *port, const char *what, int error);

/* Return the reason to count when a system call would not send a frame. */
enum drop vsw_drop_for_errno(int error);

/* Have epoll watch for `events` (EPOLLIN, EPOLLOUT) on an UP port's first descriptor. Cheap when nothing changes. */
void vsw_port_watch(struct port *port, uint32_t events);

#endif
