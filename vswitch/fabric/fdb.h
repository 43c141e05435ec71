/* SPDX-License-Identifier: BSD-2-Clause */
/* The forwarding database: which port an address was last heard on.
 *
 * An open-addressing hash table that grows up to its limit. The hash is multiplicative with a random multiplier, so a
 * peer cannot choose addresses that collide. Time is passed in, in ns; single writer, no locks.
 */
#ifndef VSW_FDB_H
#define VSW_FDB_H

#include <stdint.h>

struct port;

/* Key: VLAN id << 48 | address. There are no VLANs yet: the upper 16 bits are 0. */
struct fdb_entry {
	uint64_t key;
	uint64_t seen;     /* ns */
	struct port *port; /* NULL: the slot is free */
};

struct fdb {
	struct fdb_entry *slots;
	uint32_t n_slots; /* a power of two, or 0 before the first entry */
	uint32_t used;
	uint32_t limit;      /* entries */
	uint64_t ageing;     /* ns */
	uint64_t multiplier; /* odd */
};

enum fdb_result {
	FDB_KNOWN, /* refreshed, same port */
	FDB_NEW,
	FDB_MOVED, /* was on another port */
	FDB_FULL,  /* not learnt */
};

void vsw_fdb_init(struct fdb *fdb, uint32_t limit, uint64_t ageing);
void vsw_fdb_free(struct fdb *fdb);

/* Note that `key` was heard on `port`. */
enum fdb_result vsw_fdb_learn(struct fdb *fdb, uint64_t key, struct port *port, uint64_t now);

/* Return the port `key` was heard on less than `ageing` ago, else NULL. */
struct port *vsw_fdb_lookup(const struct fdb *fdb, uint64_t key, uint64_t now);

/* Forget what is older than `ageing`. */
void vsw_fdb_age(struct fdb *fdb, uint64_t now);

/* Forget everything heard on `port`. */
void vsw_fdb_flush(struct fdb *fdb, const struct port *port);

#endif
