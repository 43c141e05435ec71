/* SPDX-License-Identifier: BSD-2-Clause */
/* libvswitch: a port of a lab's switch, or one end of a pipe, in your program's memory.
 *
 *     struct vsw_ring *ring = vsw_ring_open("duo/vale0:p1", NULL, error);
 *     struct iovec frames[256];
 *
 *     vsw_ring_send(ring, frames, n);                        whole frames, copied
 *     while (vsw_ring_wait(ring, VSW_RX, -1) > 0)
 *             n = vsw_ring_receive(ring, frames, 256);       views, valid until the next receive or wait
 *
 * or, without any copy, netmap's rings themselves (netmap_ring.h): vsw_ring_tx(), vsw_ring_rx(), vsw_ring_sync().
 *
 * A ring belongs to one thread at a time. Functions return -errno on failure and print nothing. Build with
 * `cc $(python3 -m vswitch.ring --cflags --libs) ...`.
 */
#ifndef LIBVSWITCH_H
#define LIBVSWITCH_H

#include <signal.h>
#include <stdint.h>
#include <sys/uio.h>

#include "netmap_ring.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VSW_TX 1
#define VSW_RX 2

#define VSW_ERROR_SIZE 512
#define VSW_NO_LINGER  UINT32_MAX

struct vsw_ring;

/* 0 in any field stands for the default. */
struct vsw_ring_options {
	uint32_t rings;      /* pairs; default 1 */
	uint32_t slots;      /* of each ring; default 512 */
	uint32_t buf_size;   /* bytes; default 2048. A longer frame takes several slots */
	uint32_t timeout_ms; /* to open; default 5000 */
	uint32_t
		linger_us; /* vsw_ring_wait() looks this long, yielding, before it sleeps; default 50, VSW_NO_LINGER: not at all */
};

/* Open a port. `name` is "LAB/NETWORK:PORT", "NETWORK:PORT" in the lab that $VSWITCH_LAB names, or "PATH:NETWORK:PORT" with
 * the path (with a slash in front) of a fabric's ring socket. The port appears in the network, unless the lab file
 * declares it, and goes with the last descriptor of it. "NETWORK:PORT{ID" and "NETWORK:PORT}ID" are the ends of a pipe.
 * Return NULL on failure, with the reason in `error` (VSW_ERROR_SIZE bytes, or NULL).
 */
struct vsw_ring *vsw_ring_open(const char *name, const struct vsw_ring_options *options, char *error);

/* The same over a connected SOCK_SEQPACKET socket that was handed down, which the ring owns from then on. */
struct vsw_ring *vsw_ring_adopt(int fd, const struct vsw_ring_options *options, char *error);

/* Open a ring anew under its name, once its fabric has gone (-ENOTCONN): tries for `timeout_ms`, and no longer. All pointers
 * into the ring are stale afterwards. Return 0, or -errno with the ring still usable for another try: -EINTR after a signal,
 * -ECANCELED after vsw_ring_interrupt(), otherwise why the last try failed.
 */
int vsw_ring_reopen(struct vsw_ring *ring, int timeout_ms, char *error);

/* The same with `mask` for the thread's signals while it sleeps, as in vsw_ring_pwait(). */
int vsw_ring_preopen(struct vsw_ring *ring, int timeout_ms, const sigset_t *mask, char *error);

/* Give the port up, but keep the memory until vsw_ring_close(). */
void vsw_ring_leave(struct vsw_ring *ring);

void vsw_ring_close(struct vsw_ring *ring);

/* The one call that any thread may make while the ring's own is in another: vsw_ring_wait() and vsw_ring_reopen(), now or
 * later, find nothing to wait for and return -ECANCELED, at once or within 100 ms, and the other side sees the port go. The
 * ring is good for vsw_ring_close() then, by its own thread, and not before this has returned.
 */
void vsw_ring_interrupt(struct vsw_ring *ring);

/* The descriptor that becomes readable when the ring should be looked at, for a poll loop of your own:
 * vsw_ring_arm(), if that returns 0 poll, then vsw_ring_disarm().
 */
int vsw_ring_fd(const struct vsw_ring *ring);

/* Ask to be woken for `which`. Return the part of `which` that is ready already, so that you need not sleep, or -errno. */
int vsw_ring_arm(struct vsw_ring *ring, int which);

/* Silence the descriptor. Return 0, or -ENOTCONN when the other side has gone. */
int vsw_ring_disarm(struct vsw_ring *ring);

/* Sleep until frames can be received (VSW_RX), there is room to send (VSW_TX: half a ring, if there was none), or
 * `timeout_ms` have passed (-1: for ever). Return what is ready, 0 after the timeout, or -errno: -ENOTCONN when the other
 * side has gone, -EINTR after a signal.
 */
int vsw_ring_wait(struct vsw_ring *ring, int which, int timeout_ms);

/* The same with `mask` (NULL: as it is) for the thread's signals while it sleeps, as ppoll() has it: none is missed between
 * a look at what its handler has set and the sleep.
 */
int vsw_ring_pwait(struct vsw_ring *ring, int which, int timeout_ms, const sigset_t *mask);

/* Publish head and cur of all rings of `which`, wake the other side if it sleeps, and bring tail up to date. Never blocks.
 * Return 0, or -EINVAL when a head has left the slots that are yours, or a cur the ring: both of that ring are put back to
 * where they were last published, so nothing of it is sent or released. vsw_ring_send() and vsw_ring_receive() put them back,
 * too.
 */
int vsw_ring_sync(struct vsw_ring *ring, int which);

/* Copy whole frames of 14 to 69632 bytes into free slots and publish them. Return how many of `n` there was room for; one
 * that can never be sent ends the call with -EMSGSIZE if it is the first. -EINVAL as in vsw_ring_sync().
 */
int vsw_ring_send(struct vsw_ring *ring, const struct iovec *frames, unsigned n);

/* Release what the last call gave, then point `frames` at up to `n` received ones. Return how many. */
unsigned vsw_ring_receive(struct vsw_ring *ring, struct iovec *frames, unsigned n);

/* Release what vsw_ring_receive() gave. */
void vsw_ring_release(struct vsw_ring *ring);

/* The memory itself. */
uint32_t vsw_ring_count(const struct vsw_ring *ring); /* ring pairs */
struct netmap_if *vsw_ring_if(const struct vsw_ring *ring);
struct netmap_ring *vsw_ring_tx(const struct vsw_ring *ring, uint32_t i);
struct netmap_ring *vsw_ring_rx(const struct vsw_ring *ring, uint32_t i);

/* The buffer a slot names. */
static inline uint8_t *vsw_ring_buf(const struct netmap_ring *ring, uint32_t index)
{
	return (uint8_t *)(uintptr_t)ring + ring->buf_ofs + (size_t)index * ring->nr_buf_size;
}

#ifdef __cplusplus
}
#endif

#endif
