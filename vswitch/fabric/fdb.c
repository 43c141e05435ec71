/* SPDX-License-Identifier: BSD-2-Clause */
#include "fdb.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/random.h>

#define FIRST_SLOTS 64

void vsw_fdb_init(struct fdb *fdb, uint32_t limit, uint64_t ageing)
{
	*fdb = (struct fdb){ .limit = limit, .ageing = ageing };
	if (getrandom(&fdb->multiplier, sizeof(fdb->multiplier), GRND_NONBLOCK) != sizeof(fdb->multiplier))
		fdb->multiplier = 0x9e3779b97f4a7c15ULL ^ (uintptr_t)fdb; /* early boot: better than nothing */
	fdb->multiplier |= 1;
}

void vsw_fdb_free(struct fdb *fdb)
{
	free(fdb->slots);
	fdb->slots = NULL;
	fdb->n_slots = fdb->used = 0;
}

/* The upper bits of the product depend on all bits of the key. n_slots >= 2. */
static uint32_t home(const struct fdb *fdb, uint64_t key)
{
	return (uint32_t)((key * fdb->multiplier) >> 32) & (fdb->n_slots - 1);
}

/* Return the slot that holds `key`, or the free one where it belongs. At least half of the slots are free. */
static struct fdb_entry *find(const struct fdb *fdb, uint64_t key)
{
	uint32_t i = home(fdb, key);

	while (fdb->slots[i].port && fdb->slots[i].key != key)
		i = (i + 1) & (fdb->n_slots - 1);
	return &fdb->slots[i];
}

static bool grow(struct fdb *fdb)
{
	struct fdb_entry *old = fdb->slots;
	uint32_t n_old = fdb->n_slots;
	uint32_t n_slots = n_old ? n_old * 2 : FIRST_SLOTS;
	struct fdb_entry *slots = calloc(n_slots, sizeof(*slots));

	if (!slots)
		return false;
	fdb->slots = slots;
	fdb->n_slots = n_slots;
	for (uint32_t i = 0; i < n_old; i++)
		if (old[i].port)
			*find(fdb, old[i].key) = old[i];
	free(old);
	return true;
}

enum fdb_result vsw_fdb_learn(struct fdb *fdb, uint64_t key, struct port *port, uint64_t now)
{
	struct fdb_entry *entry = fdb->n_slots ? find(fdb, key) : NULL;

	if (entry && entry->port) {
		bool moved = entry->port != port;

		entry->port = port;
		entry->seen = now;
		return moved ? FDB_MOVED : FDB_KNOWN;
	}
	if (fdb->used >= fdb->limit)
		return FDB_FULL;
	if (!entry || (fdb->used + 1) * 2 > fdb->n_slots) {
		if (!grow(fdb))
			return FDB_FULL;
		entry = find(fdb, key);
	}
	*entry = (struct fdb_entry){ .key = key, .seen = now, .port = port };
	fdb->used++;
	return FDB_NEW;
}

struct port *vsw_fdb_lookup(const struct fdb *fdb, uint64_t key, uint64_t now)
{
	const struct fdb_entry *entry;

	if (!fdb->used)
		return NULL;
	entry = find(fdb, key);
	return entry->port && now - entry->seen < fdb->ageing ? entry->port : NULL;
}

/* Free slot `i` and close the gap: an entry further on moves into it unless that would put it before its home. */
static void erase(struct fdb *fdb, uint32_t i)
{
	uint32_t mask = fdb->n_slots - 1;

	for (uint32_t j = (i + 1) & mask; fdb->slots[j].port; j = (j + 1) & mask) {
		/* Distances are taken modulo the table's size. */
		if (((j - home(fdb, fdb->slots[j].key)) & mask) >= ((j - i) & mask)) {
			fdb->slots[i] = fdb->slots[j];
			i = j;
		}
	}
	fdb->slots[i].port = NULL;
	fdb->used--;
}

void vsw_fdb_age(struct fdb *fdb, uint64_t now)
{
	for (uint32_t i = 0; i < fdb->n_slots; i++)
		/* Look at the slot again: erase() may have moved another entry into it. */
		while (fdb->slots[i].port && now - fdb->slots[i].seen >= fdb->ageing)
			erase(fdb, i);
}

void vsw_fdb_flush(struct fdb *fdb, const struct port *port)
{
	for (uint32_t i = 0; i < fdb->n_slots; i++)
		while (fdb->slots[i].port && fdb->slots[i].port == port)
			erase(fdb, i);
}
