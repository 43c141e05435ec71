/* SPDX-License-Identifier: BSD-2-Clause */
/* The forwarding database: which port an address is on, in which VLAN.
 *
 * An open-addressing hash table that grows up to its limit. The hash multiplies with a random number, so a peer
 * cannot choose addresses that collide. Time is passed in, in ns; single writer, no locks.
 *
 * Two entries share a cache line, and a frame touches nothing else: each port's entries are linked in the order they were
 * last heard in, but only to FDB_EPOCH_NS, so that one frame in very many has to relink anything.
 *
 * When the table is full, the port with the most dynamic entries loses the one not heard for longest: a port that
 * invents addresses displaces its own, not those of others. (The rule of Open vSwitch's mac-learning.)
 */
#ifndef VSW_FDB_H
#define VSW_FDB_H

#include <stdbool.h>
#include <stdint.h>

#include "ranking.h"

struct port;

#define FDB_EPOCH_SHIFT 27 /* 134 ms */
#define FDB_EPOCH_NS    (1ULL << FDB_EPOCH_SHIFT)
#define FDB_KEY_MASK    ((1ULL << 60) - 1)

/* DYNAMIC   learnt, and forgotten when not heard for the ageing time.
 * STICKY    learnt on a sticky port: neither ages nor moves.
 * STATIC    put there by hand: neither ages, moves nor is flushed.
 */
enum fdb_kind { FDB_DYNAMIC, FDB_STICKY, FDB_STATIC, NUM_FDB_KINDS };

extern const char *const vsw_fdb_kind_names[NUM_FDB_KINDS];

struct fdb_entry {
	uint64_t key : 60; /* vsw_fdb_key() */
	uint64_t kind : 4;
	uint64_t seen;         /* ns */
	struct port *port;     /* NULL: the slot is free */
	uint32_t newer, older; /* neighbours in the port's list: slot number + 1, or 0 */
};
_Static_assert(sizeof(struct fdb_entry) == 32, "two entries fit a cache line");

struct fdb_list {
	uint32_t newest, oldest; /* slot number + 1, or 0 */
	uint32_t n;
};

/* What a port has in the table. All zero to begin with. */
struct fdb_holding {
	struct fdb_list dynamic, lasting; /* lasting: sticky and static */
	uint32_t rank;                    /* among the ports with dynamic entries; 0: has none */
};

struct fdb {
	struct fdb_entry *slots;
	uint32_t n_slots; /* a power of two; at most a quarter of them are in use: probes are short */
	uint32_t used;
	uint32_t limit;      /* entries */
	uint64_t ageing;     /* ns */
	uint64_t multiplier; /* odd */
	struct ranking ranking;
};

enum fdb_result {
	FDB_KNOWN, /* refreshed, same port */
	FDB_NEW,
	FDB_MOVED,  /* was on another port */
	FDB_FULL,   /* not learnt: the table has no room, and nothing in it may go */
	FDB_PINNED, /* not learnt: it is sticky or static on another port, so the frame must go no further */
	FDB_BEYOND, /* not learnt: the port has as many addresses as it may, so the frame must go no further */
};

/* Return 0 or -ENOMEM. */
int vsw_fdb_init(struct fdb *fdb, uint32_t limit, uint64_t ageing);
void vsw_fdb_free(struct fdb *fdb);

/* Evicts what is over the new limit. */
void vsw_fdb_set_limit(struct fdb *fdb, uint32_t limit);

static inline uint64_t vsw_fdb_key(uint16_t vlan, uint64_t mac)
{
	return (uint64_t)vlan << 48 | mac;
}

/* A product spreads the key upwards only, and two in a row keep steps of even width even: hence the folds. */
static inline uint32_t vsw_fdb_hash(const struct fdb *fdb, uint64_t key)
{
	uint64_t product = (key ^ key >> 32) * fdb->multiplier;

	return (uint32_t)(((product ^ product >> 32) * fdb->multiplier) >> 32);
}

/* The first slot where a key with this hash may be: always the first of a cache line. */
static inline uint32_t vsw_fdb_home(const struct fdb *fdb, uint32_t hash)
{
	return hash & (fdb->n_slots - 2);
}

static inline void vsw_fdb_prefetch(const struct fdb *fdb, uint32_t hash)
{
	__builtin_prefetch(&fdb->slots[vsw_fdb_home(fdb, hash)]);
}

/* Return the slot that holds `key`, or the free one where it belongs. */
static inline struct fdb_entry *vsw_fdb_find(const struct fdb *fdb, uint64_t key, uint32_t hash)
{
	uint32_t i = vsw_fdb_home(fdb, hash);
	struct fdb_entry *entry = &fdb->slots[i];

	/* Nearly always it is one of these two; which of them, no branch could predict. */
	entry += (entry[1].key == key) & (entry[1].port != NULL);
	if (entry->key == key && entry->port)
		return entry;
	while (fdb->slots[i].port && fdb->slots[i].key != key)
		i = (i + 1) & (fdb->n_slots - 1);
	return &fdb->slots[i];
}

static inline bool vsw_fdb_is_alive(const struct fdb *fdb, const struct fdb_entry *entry, uint64_t now)
{
	return now - entry->seen < fdb->ageing || entry->kind != FDB_DYNAMIC;
}

/* Return the port `key` is on, else NULL. */
static inline struct port *vsw_fdb_lookup(const struct fdb *fdb, uint64_t key, uint32_t hash, uint64_t now)
{
	const struct fdb_entry *entry = vsw_fdb_find(fdb, key, hash);

	return entry->port && vsw_fdb_is_alive(fdb, entry, now) ? entry->port : NULL;
}

/* Say what vsw_fdb_learn() would, and change nothing (but forget what is too old). */
enum fdb_result vsw_fdb_check(struct fdb *fdb, uint64_t key, uint32_t hash, struct port *port, uint64_t now);

/* vsw_fdb_learn() for what is not known to be on `port`. */
enum fdb_result vsw_fdb_learn_new(struct fdb *fdb, uint64_t key, uint32_t hash, struct port *port, uint64_t now);

/* An entry is heard again for the first time in this epoch. */
void vsw_fdb_refile(struct fdb *fdb, struct fdb_entry *entry);

/* Note that `key` was heard on `port`. */
static inline enum fdb_result vsw_fdb_learn(struct fdb *fdb, uint64_t key, uint32_t hash, struct port *port,
					    uint64_t now)
{
	struct fdb_entry *entry = vsw_fdb_find(fdb, key, hash);

	if (entry->port != port)
		return vsw_fdb_learn_new(fdb, key, hash, port, now);
	if (entry->seen != now) {
		if ((entry->seen ^ now) >> FDB_EPOCH_SHIFT)
			vsw_fdb_refile(fdb, entry);
		entry->seen = now;
	}
	return FDB_KNOWN;
}

/* Put a static entry in place of whatever there is for `key`. Return 0, -ENOMEM, or -ENOSPC when the table is full of
 * entries that may not go.
 */
int vsw_fdb_pin(struct fdb *fdb, uint64_t key, struct port *port, uint64_t now);

/* Forget `key`, whatever its kind. Return false when it is not there. */
bool vsw_fdb_remove(struct fdb *fdb, uint64_t key);

/* Forget what is older than `ageing`. Entries last heard in one epoch go together, so some of them a little later. */
void vsw_fdb_age(struct fdb *fdb, uint64_t now);

/* Forget `port`'s dynamic entries, or all of them. Costs nothing where there are none. */
void vsw_fdb_flush_dynamic(struct fdb *fdb, struct port *port);
void vsw_fdb_flush_all(struct fdb *fdb, struct port *port);

/* Forget every entry that `doomed(entry, arg)` says. Return how many. Looks at the whole table. */
uint32_t vsw_fdb_forget(struct fdb *fdb, bool (*doomed)(const struct fdb_entry *entry, const void *arg),
			const void *arg);

/* What has been learnt on `port` becomes sticky, or dynamic again (and then begins to age), as its settings now say.
 * Return 0 or -ENOMEM.
 */
int vsw_fdb_restick(struct fdb *fdb, struct port *port, uint64_t now);

#endif
