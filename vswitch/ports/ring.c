/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `ring`: a client in shared memory, see netmap_ring.h.
 *
 * Descriptors: the eventfd the client kicks us with, the memfd, our end of the client's control socket. The eventfd is
 * never read or written here, only watched edge-triggered: whatever the client does to it wakes us at most, or leaves the
 * client itself unheard. The memfd is closed once mapped. On the socket a byte is the doorbell, sent without blocking
 * whatever flags the client has set on its end.
 *
 * The client may write to all of the memory at any time. So every index, slot and header is copied once, then checked,
 * then used from the copy; geometry and our own positions are never read back. What a client gets wrong ends its port.
 *
 * A port with traffic is polled every turn of the loop. When a turn brings nothing it arms its need-kick words, looks once
 * more, and sleeps.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../fabric/engine.h"
#include "../fabric/pause.h"
#include "../fabric/switch.h"
#include "../netmap_ring.h"
#include "outqueue.h"

enum { FD_KICK, FD_MEMORY, FD_SOCKET, N_FDS };

#define HEAD_ROOM   16                                 /* bytes before each head: its length prefix */
#define HEAD_STRIDE (HEAD_ROOM + FRAME_HEAD)           /* bytes of scratch memory per frame */
#define HEADS_SIZE  (FRAME_BATCH * HEAD_STRIDE)        /* bytes; frames of several slots are put together after them */
#define JOIN_STRIDE (HEAD_ROOM + FRAME_MAX + NMR_LINE) /* bytes */

_Static_assert((HEADS_SIZE) + (JOIN_STRIDE) <= ENGINE_SCRATCH, "no room for a frame of several slots");
_Static_assert((FRAME_HEAD) <= (NMR_MIN_BUF), "a head may be read from any buffer");

#define PREFETCH_AHEAD 8 /* slots */
#define PROGRESS                                                                                                       \
	64 /* slots: a client that takes fewer in the time others wait for it counts as one that takes nothing */

#define ROUND_FLAG (1U << 8) /* netmap's count of slots of a received frame, in the upper half of the flags */

/* What the client sends. It owns [cur, head) until we have taken them; all other slots are free for it at once. */
struct tx {
	struct netmap_slot *slots;
	struct nm_csb_atok *atok;
	struct nm_csb_ktoa *ktoa;
	uint32_t cur;  /* next slot to take */
	uint32_t seen; /* head when we last looked */
	uint32_t arming, kicked;
};

/* What the client receives. Those in [head, tail) are filled and the client's; all others are ours. */
struct rx {
	struct netmap_slot *slots;
	struct nm_csb_atok *atok;
	struct nm_csb_ktoa *ktoa;
	uint32_t head;
	uint32_t tail; /* next slot to fill */
	uint32_t arming, kicked;
};

struct ring {
	struct nmr_area area;
	uint32_t rings, n_slots, buf_size, n_bufs;
	uint32_t part_max;       /* bytes of a frame that fit one slot */
	uint64_t busy_at;        /* ns */
	unsigned next_tx;        /* whose turn it is */
	bool armed;              /* some need-kick word of ours is set */
	uint64_t released;       /* slots the client has given back ... */
	uint64_t released_since; /* ... since then, ns */
	uint32_t progress;       /* slots it has given back since it was last granted more time */
	struct outqueue queue;   /* what found no slot; only where sources are paused rather than frames dropped */
	struct tx tx[NMR_MAX_RINGS];
	struct rx rx[NMR_MAX_RINGS];
};

static int ring_open(struct port *port)
{
	struct ring *ring = calloc(1, sizeof(*ring));
	int ret;

	if (!ring)
		return -ENOMEM;
	ret = nmr_map(port->fds[FD_MEMORY], &ring->area);
	if (!ret && ring->area.header.n_halves != 1) {
		nmr_unmap(&ring->area);
		ret = -EPROTO;
	}
	if (ret) {
		free(ring);
		return ret;
	}
	close(port->fds[FD_MEMORY]);
	port->fds[FD_MEMORY] = -1;
	ring->rings = ring->area.header.rings;
	ring->n_slots = ring->area.header.slots;
	ring->buf_size = ring->area.header.buf_size;
	ring->part_max = nmr_part_max(ring->buf_size);
	ring->n_bufs = ring->area.header.n_bufs;
	for (unsigned i = 0; i < ring->rings; i++) {
		unsigned j = ring->rings + i;

		ring->tx[i].slots = nmr_ring(&ring->area, 0, i)->slot;
		ring->tx[i].atok = nmr_atok(&ring->area, 0, i);
		ring->tx[i].ktoa = nmr_ktoa(&ring->area, 0, i);
		ring->rx[i].slots = nmr_ring(&ring->area, 0, j)->slot;
		ring->rx[i].atok = nmr_atok(&ring->area, 0, j);
		ring->rx[i].ktoa = nmr_ktoa(&ring->area, 0, j);
		nmr_arm(&ring->tx[i].ktoa->kern_need_kick, &ring->tx[i].arming);
	}
	ring->armed = true;
	port->private = ring;
	return 0;
}

static void ring_close(struct port *port)
{
	struct ring *ring = port->private;

	port->drops[DROP_CLOSED] += ring->queue.frames;
	vsw_outqueue_free(&ring->queue);
	nmr_unmap(&ring->area);
	free(ring);
	port->private = NULL;
}

static void ring_flush(struct port *port)
{
	/* No room in the socket: the client has bells to hear already. It has gone: whoever watches the socket sees it. */
	send(port->fds[FD_SOCKET], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* --- from the client --- */

/* Frames found in a burst. Single-slot frames have their heads copied one after the other from the start of the scratch
 * memory; frames of several slots are joined, whole, behind them.
 */
struct burst {
	struct port *port;
	unsigned n;
	uint32_t joined; /* bytes of scratch memory in use behind the heads */
	struct frame frames[FRAME_BATCH];
};

static void hand_over(struct burst *burst)
{
	if (burst->n)
		vsw_switch_input(burst->port, burst->frames, burst->n);
	burst->n = 0;
	burst->joined = 0;
}

/* Check a copied slot. Return false, with the port ended, when its client may not have put that there. */
static bool check_slot(struct port *port, uint64_t word)
{
	const struct ring *ring = port->private;
	uint32_t index = nmr_word_buf(word);

	if (index < NMR_FIRST_BUF || index >= ring->n_bufs)
		vsw_port_end(port, PORT_ERROR, "the client named buffer %u of %u..%u", index, NMR_FIRST_BUF,
			     ring->n_bufs - 1);
	else if (nmr_word_len(word) > ring->buf_size)
		vsw_port_end(port, PORT_ERROR, "the client sent %u bytes in a buffer of %u", nmr_word_len(word),
			     ring->buf_size);
	else if (nmr_word_flags(word) & NS_INDIRECT)
		vsw_port_end(port, PORT_ERROR, "the client sent a frame by a pointer");
	else
		return true;
	return false;
}

/* Join the frame whose slots begin the `n` copied ones. Return how many it has; 0: its end has not come yet; -1: the port
 * has ended.
 */
static int join(struct burst *burst, const uint64_t *words, unsigned n)
{
	struct port *port = burst->port;
	const struct ring *ring = port->private;
	uint32_t len = 0;
	unsigned parts = 0;
	uint8_t *data;

	do {
		if (parts == NMR_MAX_FRAGMENTS) {
			vsw_port_end(port, PORT_ERROR, "the client sent a frame of more than %u slots",
				     NMR_MAX_FRAGMENTS);
			return -1;
		}
		if (parts == n)
			return 0;
		if (!check_slot(port, words[parts]))
			return -1;
		len += nmr_word_len(words[parts]);
	} while (nmr_word_flags(words[parts++]) & NS_MOREFRAG);
	if (len < FRAME_MIN || len > FRAME_MAX) {
		vsw_port_drop_in(port, len < FRAME_MIN ? DROP_RUNT : DROP_OVERSIZE, len);
		return (int)parts;
	}
	if (HEADS_SIZE + burst->joined + JOIN_STRIDE > ENGINE_SCRATCH)
		hand_over(burst);
	data = port->engine->scratch + HEADS_SIZE + burst->joined + HEAD_ROOM;
	frame_set_prefix(data, len);
	burst->frames[burst->n++] = frame_whole(data, len);
	burst->joined += (uint32_t)((HEAD_ROOM + len + NMR_LINE - 1) / NMR_LINE * NMR_LINE);
	for (unsigned i = 0; i < parts; i++) {
		memcpy(data, nmr_buf(&ring->area, nmr_word_buf(words[i])), nmr_word_len(words[i]));
		data += nmr_word_len(words[i]);
	}
	return (int)parts;
}

/* Add the frame in one slot that has been checked. */
static inline void add(struct burst *burst, uint64_t word)
{
	const struct ring *ring = burst->port->private;
	const uint8_t *buf = nmr_buf(&ring->area, nmr_word_buf(word));
	uint8_t *head = burst->port->engine->scratch + (size_t)burst->n * HEAD_STRIDE + HEAD_ROOM;
	uint32_t len = nmr_word_len(word);

	if (len < FRAME_MIN) {
		vsw_port_drop_in(burst->port, DROP_RUNT, len);
		return;
	}
	memcpy(head, buf, FRAME_HEAD);
	frame_set_prefix(head, len);
	burst->frames[burst->n++] = (struct frame){
		.head = head,
		.rest = buf + FRAME_HEAD,
		.len = len,
		.head_len = len < FRAME_HEAD ? len : FRAME_HEAD,
	};
}

/* Make frames of `n` copied slots and pass them on. Return how many slots that took, -1 when the port has ended. */
static int forward(struct port *port, const uint64_t *words, unsigned n)
{
	struct burst burst;
	unsigned i = 0;

	burst.port = port;
	burst.n = 0;
	burst.joined = 0;
	while (i < n) {
		int parts = 1;

		if (nmr_word_flags(words[i]) & NS_MOREFRAG)
			parts = join(&burst, words + i, n - i);
		else if (check_slot(port, words[i]))
			add(&burst, words[i]);
		else
			parts = -1;
		if (parts <= 0) {
			hand_over(&burst); /* what came before a mistake was no mistake */
			return parts < 0 ? -1 : (int)i;
		}
		i += (unsigned)parts;
	}
	hand_over(&burst);
	return (int)i;
}

/* Say which slots we have taken, and wake the client if it waits for as much room as that makes. */
static void give_back(struct port *port, struct tx *tx)
{
	const struct ring *ring = port->private;
	uint32_t tail = nmr_previous(tx->cur, ring->n_slots);
	uint32_t wanted;

	__atomic_store_n(&tx->ktoa->hwcur, tx->cur, __ATOMIC_RELAXED);
	nmr_publish(&tx->ktoa->hwtail, tail);
	nmr_fence(); /* before looking at cur: it belongs to the word looked at next */
	wanted = __atomic_load_n(&tx->atok->cur, __ATOMIC_RELAXED);
	if (nmr_tail_passed_cur(tx->seen, wanted, tail, ring->n_slots) &&
	    nmr_take_kick(&tx->atok->appl_need_kick, &tx->kicked))
		vsw_engine_flush_later(port);
}

/* Take one burst from one ring. Return whether there was one. */
static bool collect_ring(struct port *port, struct tx *tx)
{
	struct ring *ring = port->private;
	uint64_t words[FRAME_BATCH];
	uint32_t head = nmr_take(&tx->atok->head);
	uint32_t n, at = tx->cur;
	int taken;

	if (head >= ring->n_slots) {
		vsw_port_end(port, PORT_ERROR, "the client's head is %u in a ring of %u slots", head, ring->n_slots);
		return false;
	}
	tx->seen = head;
	n = nmr_distance(at, head, ring->n_slots);
	if (!n)
		return false;
	if (n > FRAME_BATCH)
		n = FRAME_BATCH;
	for (uint32_t i = 0; i < n; i++) {
		words[i] = nmr_read_slot(&tx->slots[at]);
		if (nmr_word_buf(words[i]) < ring->n_bufs)
			__builtin_prefetch(nmr_buf(&ring->area, nmr_word_buf(words[i])));
		at = nmr_next(at, ring->n_slots);
	}
	taken = forward(port, words, n);
	if (taken <= 0)
		return false;
	tx->cur = nmr_advance(tx->cur, (uint32_t)taken, ring->n_slots);
	give_back(port, tx);
	return true;
}

/* The client has gone: what it had sent before goes on its way. */
static void ring_finish(struct port *port)
{
	struct ring *ring = port->private;

	for (unsigned i = 0; i < ring->rings; i++)
		for (uint32_t taken = 0; taken < ring->n_slots && port->state == PORT_UP; taken += FRAME_BATCH)
			if (!collect_ring(port, &ring->tx[i]))
				break;
}

/* --- to the client --- */

static inline void copy16(uint8_t *to, const uint8_t *from)
{
	memcpy(to, from, 16);
}

/* Copy `n` bytes, FRAME_MIN..64, and nothing beyond them: two overlapping pieces of fixed size. */
static inline void copy_short(uint8_t *to, const uint8_t *from, uint32_t n)
{
	if (n >= 32) {
		memcpy(to, from, 32);
		memcpy(to + n - 32, from + n - 32, 32);
	} else if (n >= 16) {
		copy16(to, from);
		copy16(to + n - 16, from + n - 16);
	} else {
		memcpy(to, from, 8);
		memcpy(to + n - 8, from + n - 8, 8);
	}
}

static inline void copy_frame(uint8_t *to, const struct frame *frame)
{
	if (frame->len <= 64 && frame->head_len == frame->len) {
		copy_short(to, frame->head, frame->len);
		return;
	}
	if (frame->head_len == FRAME_HEAD)
		memcpy(to, frame->head, FRAME_HEAD);
	else
		memcpy(to, frame->head, frame->head_len);
	/* A client may have put one buffer into both of its rings, and a frame may come back to it. */
	if (frame->head_len < frame->len)
		memmove(to + frame->head_len, frame->rest, frame->len - frame->head_len);
}

/* Slots we may still fill. One stays empty, so that full and empty differ. */
static inline uint32_t room_in(const struct ring *ring, const struct rx *rx)
{
	return ring->n_slots - 1 - nmr_distance(rx->head, rx->tail, ring->n_slots);
}

/* See what the client has released. Return whether it was anything; ends the port when it was not the client's. */
static bool take_back(struct port *port, struct rx *rx)
{
	struct ring *ring = port->private;
	uint32_t head = nmr_take(&rx->atok->head);

	if (head == rx->head)
		return false;
	if (head >= ring->n_slots ||
	    nmr_distance(rx->head, head, ring->n_slots) > nmr_distance(rx->head, rx->tail, ring->n_slots)) {
		vsw_port_end(port, PORT_ERROR, "the client released slots up to %u, but has %u to %u", head, rx->head,
			     rx->tail);
		return false;
	}
	ring->released += nmr_distance(rx->head, head, ring->n_slots);
	ring->progress += nmr_distance(rx->head, head, ring->n_slots);
	rx->head = head;
	return true;
}

/* Return the buffer in the slot at `at`, NULL with the port ended when the client has put a wrong one there. */
static inline uint8_t *buffer_at(struct port *port, const struct rx *rx, uint32_t at, uint32_t *index)
{
	const struct ring *ring = port->private;

	*index = nmr_word_buf(nmr_read_slot(&rx->slots[at]));
	if (*index >= NMR_FIRST_BUF && *index < ring->n_bufs)
		return nmr_buf(&ring->area, *index);
	vsw_port_end(port, PORT_ERROR, "the client left buffer %u of %u..%u to receive into", *index, NMR_FIRST_BUF,
		     ring->n_bufs - 1);
	return NULL;
}

/* Fetch a buffer that is filled soon. The client may have put anything there: it is checked again when its turn comes. */
static inline void prefetch_ahead(const struct ring *ring, const struct rx *rx)
{
	uint32_t at = nmr_advance(rx->tail, PREFETCH_AHEAD, ring->n_slots);
	uint32_t index = nmr_word_buf(nmr_read_slot(&rx->slots[at]));

	if (index < ring->n_bufs)
		__builtin_prefetch(nmr_buf(&ring->area, index), 1);
}

/* Put bytes of a frame into slots from `rx->tail` on: `parts` of them, all free. Return false when the port has ended. */
static bool put_long(struct port *port, struct rx *rx, const struct frame *frame, uint32_t parts)
{
	const struct ring *ring = port->private;
	struct iovec pieces[2];
	unsigned piece = 0;
	size_t from = 0;
	uint32_t left = frame->len;
	uint32_t at = rx->tail;

	frame_pieces(frame, 0, pieces);
	for (uint32_t part = 0; part < parts; part++) {
		uint32_t len = left < ring->part_max ? left : ring->part_max;
		uint16_t flags = (uint16_t)(parts * ROUND_FLAG | (part + 1 < parts ? NS_MOREFRAG : 0));
		uint32_t index, done = 0;
		uint8_t *to = buffer_at(port, rx, at, &index);

		if (!to)
			return false;
		while (done < len) {
			size_t n =
				pieces[piece].iov_len - from < len - done ? pieces[piece].iov_len - from : len - done;

			memmove(to + done, (uint8_t *)pieces[piece].iov_base + from, n);
			done += (uint32_t)n;
			from += n;
			if (from == pieces[piece].iov_len) {
				piece++;
				from = 0;
			}
		}
		nmr_write_slot(&rx->slots[at], nmr_slot_word(index, (uint16_t)len, flags));
		left -= len;
		at = nmr_next(at, ring->n_slots);
	}
	rx->tail = at;
	return true;
}

/* Count `n` frames, all given to the client but those `too_long` for it. */
static void count_out(struct port *port, const struct frame *frames, unsigned n, unsigned too_long)
{
	const struct ring *ring = port->private;
	uint32_t longest = nmr_frame_max(ring->n_slots, ring->buf_size);

	port->drops[DROP_TOO_LONG] += too_long;
	if (!too_long) {
		vsw_traffic_add_frames(&port->tx, frames, n);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		if (frames[i].len <= longest)
			vsw_traffic_add_frames(&port->tx, &frames[i], 1);
}

/* Put as many of `n` frames into free slots as fit, and publish them. Return how many; 0 when the port has ended. */
static unsigned fill(struct port *port, struct rx *rx, const struct frame *frames, unsigned n)
{
	const struct ring *ring = port->private;
	uint32_t before = rx->tail, room;
	unsigned too_long = 0, i;

	if (room_in(ring, rx) < n)
		take_back(port, rx);
	if (port->state != PORT_UP)
		return 0;
	room = room_in(ring, rx);
	for (i = 0; i < n && room; i++) {
		uint32_t len = frames[i].len, index;
		uint8_t *to;

		if (len > ring->part_max) {
			uint32_t parts = (len + ring->part_max - 1) / ring->part_max;

			if (len > nmr_frame_max(ring->n_slots, ring->buf_size)) {
				too_long++;
				continue;
			}
			if (parts > room)
				break;
			if (!put_long(port, rx, &frames[i], parts))
				return 0;
			room -= parts;
			continue;
		}
		to = buffer_at(port, rx, rx->tail, &index);
		if (!to)
			return 0;
		prefetch_ahead(ring, rx);
		copy_frame(to, &frames[i]);
		nmr_write_slot(&rx->slots[rx->tail], nmr_slot_word(index, (uint16_t)len, ROUND_FLAG));
		rx->tail = nmr_next(rx->tail, ring->n_slots);
		room--;
	}
	count_out(port, frames, i, too_long);
	if (rx->tail != before) {
		nmr_publish(&rx->ktoa->hwtail, rx->tail);
		if (nmr_must_kick(&rx->atok->appl_need_kick, &rx->kicked))
			vsw_engine_flush_later(port);
	}
	return i;
}

/* Frames between the same two stations stay in one ring, and so in order. */
static struct rx *choose(struct ring *ring, const struct frame *frame)
{
	uint64_t stations = frame_destination(frame) * 31 + frame_source(frame);

	return &ring->rx[(uint32_t)((stations * 0x9e3779b97f4a7c15ULL) >> 32) % ring->rings];
}

/* Put `n` frames into the rings they belong to. Return how many were settled: where one finds no slot, those after it are
 * not tried, to keep the order; or, with `drop`, it and those for the same ring right after it are dropped.
 */
static unsigned spread(struct port *port, const struct frame *frames, unsigned n, bool drop)
{
	struct ring *ring = port->private;
	unsigned i = 0;

	while (i < n) {
		struct rx *rx = ring->rings == 1 ? &ring->rx[0] : choose(ring, &frames[i]);
		unsigned run = 1, done;

		while (i + run < n && (ring->rings == 1 || choose(ring, &frames[i + run]) == rx))
			run++;
		done = fill(port, rx, frames + i, run);
		if (drop && port->state == PORT_UP) {
			port->drops[DROP_OVERFLOW] += run - done;
			done = run;
		}
		i += done;
		if (done < run)
			break;
	}
	return i;
}

/* Whether there is something to do once the client releases slots. */
static bool waits_for_room(const struct port *port)
{
	const struct ring *ring = port->private;

	return ring->queue.frames || port->congestion != CONGESTION_CLEAR;
}

static uint32_t least_room(const struct ring *ring)
{
	uint32_t least = UINT32_MAX;

	for (unsigned i = 0; i < ring->rings; i++)
		if (room_in(ring, &ring->rx[i]) < least)
			least = room_in(ring, &ring->rx[i]);
	return least;
}

/* Sources are paused when less than this is free, so that what they send next still fits. */
static uint32_t mark(const struct ring *ring)
{
	return ring->n_slots / 2 < FRAME_BATCH ? ring->n_slots / 2 : FRAME_BATCH;
}

static void ring_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	struct ring *ring = port->private;
	unsigned i = ring->queue.frames ? 0 : spread(port, frames, n, port->settings.overflow_drop);

	if (port->state != PORT_UP) {
		port->drops[DROP_CLOSED] += n - i;
		return;
	}
	for (; i < n; i++)
		if (!vsw_outqueue_push(&ring->queue, &frames[i], 0))
			port->drops[DROP_OVERFLOW]++;
	if (!port->settings.overflow_drop && (ring->queue.frames || least_room(ring) < mark(ring)))
		vsw_pause_congested(port);
	if (waits_for_room(port))
		vsw_engine_warm(port);
}

/* Whether a client that nobody waits for any more has shown that it is worth it: under load its ring may never be seen
 * empty, but it takes a ring's worth of frames in less time than others would wait for it.
 */
static bool has_recovered(struct port *port)
{
	struct ring *ring = port->private;

	if (port->congestion != CONGESTION_GIVEN_UP)
		return false;
	if (port->engine->now - ring->released_since < PAUSE_LIMIT_NS)
		return ring->released >= ring->n_slots && ring->released >= FRAME_BATCH;
	ring->released_since = port->engine->now;
	ring->released = 0;
	return false;
}

/* Move queued frames into slots the client has released. Return whether there were any. */
static bool drain(struct port *port)
{
	struct ring *ring = port->private;
	bool released = false;

	for (unsigned i = 0; i < ring->rings && port->state == PORT_UP; i++)
		released |= take_back(port, &ring->rx[i]);
	while (port->state == PORT_UP && ring->queue.frames) {
		uint8_t *data = port->engine->scratch + HEAD_ROOM;
		struct frame frame = frame_whole(data, vsw_outqueue_copy_front(&ring->queue, data));
		struct traffic counted = { 0 }; /* by spread() */

		if (!spread(port, &frame, 1, false))
			break;
		vsw_outqueue_consume(&ring->queue, FRAME_PREFIX + frame.len, &counted);
	}
	if (port->state != PORT_UP)
		return false;
	if (!ring->queue.frames && least_room(ring) >= ring->n_slots / 2)
		vsw_pause_relieved(port, least_room(ring) == ring->n_slots - 1);
	else if (has_recovered(port))
		vsw_pause_relieved(port, true);
	if (ring->progress >= PROGRESS) {
		ring->progress = 0;
		vsw_pause_go_on_waiting(port);
	}
	return released;
}

/* --- sleeping and waking --- */

static void disarm(struct ring *ring)
{
	for (unsigned i = 0; ring->armed && i < ring->rings; i++) {
		nmr_disarm(&ring->tx[i].ktoa->kern_need_kick);
		nmr_disarm(&ring->rx[i].ktoa->kern_need_kick);
	}
	ring->armed = false;
}

/* Ask to be kicked for whatever this port waits for. Return whether there is something already. */
static bool arm(struct port *port)
{
	struct ring *ring = port->private;
	bool ready = false;

	ring->armed = true;
	for (unsigned i = 0; i < ring->rings; i++) {
		struct tx *tx = &ring->tx[i];
		struct rx *rx = &ring->rx[i];

		if (!port->waits_for) {
			nmr_arm(&tx->ktoa->kern_need_kick, &tx->arming);
			ready |= nmr_take(&tx->atok->head) != tx->seen;
		}
		if (waits_for_room(port)) {
			nmr_arm(&rx->ktoa->kern_need_kick, &rx->arming);
			ready |= nmr_take(&rx->atok->head) != rx->head;
		}
	}
	return ready;
}

static enum poll_result ring_poll(struct port *port)
{
	struct ring *ring = port->private;
	bool drained = false, busy = false;

	disarm(ring);
	if (waits_for_room(port))
		drained = drain(port);
	/* One burst a turn, however many rings it has: no client gets more than its share. */
	for (unsigned i = 0; i < ring->rings && !busy && port->state == PORT_UP && !port->waits_for; i++) {
		busy = collect_ring(port, &ring->tx[ring->next_tx]);
		ring->next_tx = ring->next_tx + 1 == ring->rings ? 0 : ring->next_tx + 1;
	}
	if (port->state != PORT_UP)
		return POLL_SLEEPS;
	if (busy || drained) {
		ring->busy_at = port->engine->now;
		return POLL_BUSY;
	}
	if (port->engine->now - ring->busy_at < port->engine->linger || arm(port))
		return POLL_IDLE;
	return POLL_SLEEPS;
}

/* The client has kicked us. */
static void ring_collect(struct port *port)
{
	vsw_engine_warm(port);
}

const struct port_ops vsw_ring_ops = {
	.name = "ring",
	.min_fds = N_FDS,
	.max_fds = N_FDS,
	.open = ring_open,
	.collect = ring_collect,
	.deliver = ring_deliver,
	.poll = ring_poll,
	.flush = ring_flush,
	.finish = ring_finish,
	.close = ring_close,
};
