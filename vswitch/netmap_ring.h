/* SPDX-License-Identifier: BSD-2-Clause */
/* The ring: shared memory through which a client and the fabric exchange Ethernet frames. This header is the specification.
 *
 * Structures, flags and their meaning are netmap's (API 14: netmap(4), sys/net/netmap.h), so that code written for netmap
 * reads and fills our rings as they are. Indices travel through netmap's CSB ("communication status block") split: what
 * the application writes and what the other side writes never share a cache line, and neither ever writes the other's.
 *
 * One sealed memfd per client, made by the fabric:
 *
 *   0           struct nmr_header       written once, before the memory is shared
 *   atok_ofs    struct nm_csb_atok[]    one per ring, tx rings first: written by the application only
 *   ktoa_ofs    struct nm_csb_ktoa[]    the same, written by the fabric only
 *   nifp_ofs    struct netmap_if        written once; ring_ofs[] leads to the rings
 *               struct netmap_ring[]    with their slots: the application's; in slots the fabric writes those it owns
 *   bufs_ofs    n_bufs buffers of buf_size bytes; 0 and 1 are never used
 *
 * OWNERSHIP, as in netmap: slots in [head, tail) of a ring, and the buffers they name, are the application's, all others
 * the fabric's. The application moves `head` (release, submit) and `cur` (wake me when tail has passed this); `tail` moves
 * only in a sync, by the application itself, from what the fabric published. An empty tx ring has tail = head - 1.
 *
 * ORDER: each side writes payload, then slots, then publishes an index with release order; the other side reads the
 * index with acquire order, then slots, then payload. nmr_publish()/nmr_take() below are the only places.
 *
 * SLEEPING: who wants to be woken arms a need-kick word, then looks once more; who publishes, looks at the other side's
 * word. nmr_arm() and nmr_must_kick() mirror each other. A word is 0 (do not kick) or a number that changes with each
 * arming, so that one arming gets one kick however many batches are published before the sleeper runs.
 * The kick itself: towards the fabric an eventfd, towards the application a byte on its control socket, which no flag the
 * application might set on its own end can make the fabric block on.
 *
 * The fabric trusts nothing it reads here: it copies, checks, then uses (ports/ring.c). The application trusts the fabric.
 *
 * A *pipe* is one such memory with two halves (atok, ktoa, netmap_if, rings) over the same buffers, mapped by two
 * applications that trust each other: ring i of one's tx is ring i of the other's rx. The receiver copies slots (not
 * frames) in its own rxsync; nobody stands between.
 */
#ifndef VSW_NETMAP_RING_H
#define VSW_NETMAP_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* For C99 and later, and C++11 and later, with the extensions both gcc and clang have. */
#ifdef __cplusplus
#define NMR_ASSERT(condition, text) static_assert(condition, text)
#else
#define NMR_ASSERT(condition, text) __extension__ _Static_assert(condition, text)
#endif

#define NMR_MIN_SLOTS     64
#define NMR_MAX_SLOTS     4096
#define NMR_DEFAULT_SLOTS 512
#define NMR_MAX_RINGS     16 /* pairs */
#define NMR_MIN_BUF       256
#define NMR_DEFAULT_BUF   2048
#define NMR_MAX_BUF       65536
#define NMR_MAX_FRAGMENTS 64 /* slots of one frame */
#define NMR_FIRST_BUF     2  /* 0 and 1 name no buffer */
#define NMR_LINE          64 /* bytes; everything begins at a multiple of it */

/* --- netmap's structures --- */

/* They end in arrays of no given length, which are C's; all C++ compilers have them as well, some say so. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"

/* One frame, or one fragment of it. */
struct netmap_slot {
	uint32_t buf_idx;
	uint16_t len;
	uint16_t flags;
	uint64_t ptr; /* with NS_INDIRECT, where the frame is in the application's memory */
};

/* Flags. Some are there only so that code for netmap compiles; in our slots they mean nothing, whoever sets them:
 *
 *   NS_BUF_CHANGED  another buffer of your own may be put in any slot of yours: each slot is read anew each time
 *   NS_REPORT       a slot is given back as soon as its frame has been forwarded, with or without
 *   NS_FORWARD      there is no host stack behind a port
 *   NS_NO_LEARN     whether addresses are learned is the switch's to decide (`learning` in the lab file), not a client's
 */
#define NS_BUF_CHANGED  0x0001 /* ignored */
#define NS_REPORT       0x0002 /* ignored */
#define NS_FORWARD      0x0004 /* ignored */
#define NS_NO_LEARN     0x0008 /* ignored */
#define NS_INDIRECT     0x0010 /* tx: the frame is at `ptr`; resolved by the client library before the fabric sees it */
#define NS_MOREFRAG     0x0020 /* the frame goes on in the next slot */
#define NS_RFRAGS(slot) ((slot)->flags >> 8) /* rx: slots of this frame */

struct netmap_ring {
	const int64_t buf_ofs; /* from this ring to buffer 0 */
	const uint32_t num_slots;
	const uint32_t nr_buf_size; /* bytes */
	const uint16_t ringid;
	const uint16_t dir; /* 0: tx, 1: rx */
	uint32_t head;      /* the application's, like the next */
	uint32_t cur;
	uint32_t tail; /* moved by sync only */
	/* Up to `sem` netmap's, neither read nor written by us: no time stamps, no offsets. */
	uint32_t flags;
	struct timeval ts;
	uint64_t offset_mask;
	uint64_t buf_align;
	uint8_t sem[128] __attribute__((aligned(NMR_LINE)));
	struct netmap_slot slot[];
};

struct netmap_if {
	char ni_name[16];
	const uint32_t ni_version;
	const uint32_t ni_flags;
	const uint32_t ni_tx_rings;
	const uint32_t ni_rx_rings;
	uint32_t ni_bufs_head; /* 0: there are no extra buffers */
	const uint32_t ni_host_tx_rings;
	const uint32_t ni_host_rx_rings;
	uint32_t ni_spare[3];
	const ptrdiff_t ring_ofs[]; /* from this struct: tx rings, then rx rings */
};

#pragma GCC diagnostic pop

#define NETMAP_API 14

/* Application to fabric: all fields are written by the application only. */
struct nm_csb_atok {
	uint32_t head;
	uint32_t cur;
	uint32_t appl_need_kick;
	uint32_t sync_flags; /* not used */
	uint32_t pad[12];
};

/* Fabric to application: all fields are written by the fabric only. */
struct nm_csb_ktoa {
	uint32_t hwcur;
	uint32_t hwtail;
	uint32_t kern_need_kick;
	uint32_t pad[13];
};

/* --- around them --- */

#define NMR_MAGIC   0x52535756 /* "VWSR" */
#define NMR_VERSION 1

struct nmr_header {
	uint32_t magic, version;
	uint64_t generation; /* differs each time a port of this name is made */
	uint64_t size;       /* bytes in all */
	uint32_t rings;      /* pairs, in each half */
	uint32_t slots;      /* of each ring */
	uint32_t buf_size;   /* bytes */
	uint32_t n_bufs;     /* the reserved two included */
	uint64_t bufs_ofs;
	uint32_t n_halves; /* 1, a pipe has 2 */
	uint32_t pad;
	struct {
		uint64_t atok_ofs, ktoa_ofs, nifp_ofs;
	} halves[2];
};

/* What one may choose. */
struct nmr_geometry {
	uint32_t rings;    /* 1..NMR_MAX_RINGS */
	uint32_t slots;    /* NMR_MIN_SLOTS..NMR_MAX_SLOTS, a power of two not needed */
	uint32_t buf_size; /* NMR_MIN_BUF..NMR_MAX_BUF bytes, a multiple of NMR_LINE */
	uint32_t n_halves; /* 1 or 2 */
};

/* A mapping of the memory, and its header as it was when mapped: nothing of it is read from the memory again. */
struct nmr_area {
	uint8_t *base;
	struct nmr_header header;
};

/* Make, fill and seal a memfd for a port called `name`. Return the descriptor, -EINVAL for a geometry out of bounds,
 * or another -errno.
 */
int nmr_create(const struct nmr_geometry *geometry, const char *name, uint64_t generation);

/* Map `memfd`, made by nmr_create(). Return 0, -EPROTO when it is not what it should be, or another -errno. */
int nmr_map(int memfd, struct nmr_area *area);
void nmr_unmap(struct nmr_area *area);

static inline struct nm_csb_atok *nmr_atok(const struct nmr_area *area, unsigned half, unsigned ring)
{
	return (struct nm_csb_atok *)(void *)(area->base + area->header.halves[half].atok_ofs) + ring;
}

static inline struct nm_csb_ktoa *nmr_ktoa(const struct nmr_area *area, unsigned half, unsigned ring)
{
	return (struct nm_csb_ktoa *)(void *)(area->base + area->header.halves[half].ktoa_ofs) + ring;
}

/* Ring `ring` of a half: tx rings are 0..rings-1, rx rings follow. Computed, not read from the memory. */
struct netmap_ring *nmr_ring(const struct nmr_area *area, unsigned half, unsigned ring);

static inline struct netmap_if *nmr_nifp(const struct nmr_area *area, unsigned half)
{
	return (struct netmap_if *)(void *)(area->base + area->header.halves[half].nifp_ofs);
}

static inline uint8_t *nmr_buf(const struct nmr_area *area, uint32_t index)
{
	return area->base + area->header.bufs_ofs + (size_t)index * area->header.buf_size;
}

/* --- a slot as one word: it is read and written whole, so there is nothing to change between check and use --- */

static inline uint64_t nmr_slot_word(uint32_t buf_idx, uint16_t len, uint16_t flags)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return buf_idx | (uint64_t)len << 32 | (uint64_t)flags << 48;
#else
	return (uint64_t)buf_idx << 32 | (uint64_t)len << 16 | flags;
#endif
}

static inline uint32_t nmr_word_buf(uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (uint32_t)word;
#else
	return (uint32_t)(word >> 32);
#endif
}

static inline uint16_t nmr_word_len(uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (uint16_t)(word >> 32);
#else
	return (uint16_t)(word >> 16);
#endif
}

static inline uint16_t nmr_word_flags(uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (uint16_t)(word >> 48);
#else
	return (uint16_t)word;
#endif
}

typedef uint64_t __attribute__((may_alias)) nmr_alias_word;

/* Relaxed: the index that made the slot ours was read with acquire, or will be published with release. */
static inline uint64_t nmr_read_slot(const struct netmap_slot *slot)
{
	return __atomic_load_n((const nmr_alias_word *)(const void *)slot, __ATOMIC_RELAXED);
}

static inline void nmr_write_slot(struct netmap_slot *slot, uint64_t word)
{
	__atomic_store_n((nmr_alias_word *)(void *)slot, word, __ATOMIC_RELAXED);
}

/* --- frames and slots --- */

/* Bytes of a frame that fit one slot: its length has 16 bits. */
static inline uint32_t nmr_part_max(uint32_t buf_size)
{
	return buf_size < UINT16_MAX ? buf_size : UINT16_MAX;
}

/* Bytes of the longest frame that a ring takes. */
static inline uint32_t nmr_frame_max(uint32_t slots, uint32_t buf_size)
{
	uint32_t parts = slots - 1 < NMR_MAX_FRAGMENTS ? slots - 1 : NMR_MAX_FRAGMENTS;

	return parts * nmr_part_max(buf_size);
}

/* --- indices --- */

/* How many steps from `from` to `to` in a ring of `slots`; both are below it. */
static inline uint32_t nmr_distance(uint32_t from, uint32_t to, uint32_t slots)
{
	return to >= from ? to - from : to + slots - from;
}

static inline uint32_t nmr_next(uint32_t i, uint32_t slots)
{
	return i + 1 == slots ? 0 : i + 1;
}

static inline uint32_t nmr_previous(uint32_t i, uint32_t slots)
{
	return i ? i - 1 : slots - 1;
}

/* Return `i` advanced by `n` <= slots. */
static inline uint32_t nmr_advance(uint32_t i, uint32_t n, uint32_t slots)
{
	return i + n >= slots ? i + n - slots : i + n;
}

/* Whether a sender has the room it waits for: netmap's "tail has passed cur", or everything is free. A `cur` that is no slot
 * waits for nothing.
 */
static inline bool nmr_tail_passed_cur(uint32_t head, uint32_t cur, uint32_t tail, uint32_t slots)
{
	uint32_t room = nmr_distance(head, tail, slots);

	return cur >= slots || room == slots - 1 || room > nmr_distance(head, cur, slots);
}

/* Release: all slots and payload written before are visible to whoever nmr_take()s this value. */
static inline void nmr_publish(uint32_t *index, uint32_t value)
{
	__atomic_store_n(index, value, __ATOMIC_RELEASE);
}

/* Acquire: pairs with nmr_publish(). */
static inline uint32_t nmr_take(const uint32_t *index)
{
	return __atomic_load_n(index, __ATOMIC_ACQUIRE);
}

/* The application's two indices. `cur` goes first, so that whoever sees a head sees the cur that belongs to it. */
static inline void nmr_publish_appl(struct nm_csb_atok *atok, uint32_t cur, uint32_t head)
{
	__atomic_store_n(&atok->cur, cur, __ATOMIC_RELAXED);
	nmr_publish(&atok->head, head);
}

/* --- kicks --- */

/* The one full fence, for "publish, then look at the other's word" and its mirror image "arm, then look".
 * (gcc warns that ThreadSanitizer does not follow fences. All data is published by release stores, which it does.)
 */
static inline void nmr_fence(void)
{
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

/* Ask to be kicked when something is published from now on; afterwards look at the indices once more, then sleep.
 * `arming` is the caller's own count. Mirror image of nmr_must_kick(): of "we arm, then look" and "they publish, then look
 * at our word" at least one sees the other, because both put a full fence in between.
 */
static inline void nmr_arm(uint32_t *need_kick, uint32_t *arming)
{
	*arming += *arming == UINT32_MAX ? 2 : 1;
	__atomic_store_n(need_kick, *arming, __ATOMIC_RELAXED);
	nmr_fence();
}

static inline void nmr_disarm(uint32_t *need_kick)
{
	__atomic_store_n(need_kick, 0, __ATOMIC_RELAXED);
}

/* After nmr_publish() and nmr_fence(): whether the other side armed `need_kick` and has not been kicked for it; `kicked` is the
 * caller's. Whatever else the other side wrote before it armed, such as cur, is to be read between the two: after the fence, or
 * what is read may be older than the arming that is seen.
 */
static inline bool nmr_take_kick(const uint32_t *need_kick, uint32_t *kicked)
{
	uint32_t armed = __atomic_load_n(need_kick, __ATOMIC_RELAXED);

	if (!armed || armed == *kicked)
		return false;
	*kicked = armed;
	return true;
}

/* After nmr_publish(), where nothing but the word decides. */
static inline bool nmr_must_kick(const uint32_t *need_kick, uint32_t *kicked)
{
	nmr_fence();
	return nmr_take_kick(need_kick, kicked);
}

/* --- opening a port: one message each way on a SOCK_SEQPACKET unix socket --- */

#define NMR_NAME_SIZE  128
#define NMR_ERROR_SIZE 256

struct nmr_open {
	uint32_t magic, version;
	uint32_t rings, slots, buf_size; /* 0: the default */
	uint32_t flags;
	char name
		[NMR_NAME_SIZE]; /* NETWORK:PORT, or NETWORK:PORT{ID and }ID for the ends of a pipe; empty on a socket that
				   * was handed down: it stands for a port already */
};

/* With it come, if error is empty, the memfd and the kick eventfd; for a pipe the memfd and a socket to the other end. */
struct nmr_opened {
	uint32_t magic, version;
	uint32_t half; /* which half of the memory is the client's */
	uint32_t pad;
	char error[NMR_ERROR_SIZE]; /* why not, for the user; empty when all is well */
};

NMR_ASSERT(sizeof(struct netmap_slot) == 16, "netmap's slot");
NMR_ASSERT(offsetof(struct netmap_ring, sem) == 128 && offsetof(struct netmap_ring, slot) == 256, "netmap's ring");
NMR_ASSERT(sizeof(struct nm_csb_atok) == NMR_LINE && sizeof(struct nm_csb_ktoa) == NMR_LINE, "netmap's CSB");
NMR_ASSERT(offsetof(struct netmap_if, ring_ofs) == 56, "netmap's interface");

#ifdef __cplusplus
}
#endif

#endif
