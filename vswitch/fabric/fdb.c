/* SPDX-License-Identifier: BSD-2-Clause */
#include "fdb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "port.h"

#define FIRST_SLOTS 64
#define CACHE_LINE  64
#define HUGE_PAGE   (2U << 20)

const char *const vsw_fdb_kind_names[NUM_FDB_KINDS] = {
	[FDB_DYNAMIC] = "dynamic",
	[FDB_STICKY] = "sticky",
	[FDB_STATIC] = "static",
};

static struct fdb_entry *new_slots(uint32_t n)
{
	size_t size = n * sizeof(struct fdb_entry);
	struct fdb_entry *slots = aligned_alloc(size < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE, size);

	if (!slots)
		return NULL;
	if (size >= HUGE_PAGE)
		madvise(slots, size, MADV_HUGEPAGE); /* a tenth faster, if the kernel has any */
	memset(slots, 0, size);
	return slots;
}

int vsw_fdb_init(struct fdb *fdb, uint32_t limit, uint64_t ageing)
{
	*fdb = (struct fdb){ .limit = limit, .ageing = ageing, .n_slots = FIRST_SLOTS };
	if (getrandom(&fdb->multiplier, sizeof(fdb->multiplier), GRND_NONBLOCK) != sizeof(fdb->multiplier))
		fdb->multiplier = 0x9e3779b97f4a7c15ULL ^ (uintptr_t)fdb; /* early boot: better than nothing */
	fdb->multiplier |= 1;
	fdb->slots = new_slots(fdb->n_slots);
	return fdb->slots ? 0 : -ENOMEM;
}

void vsw_fdb_free(struct fdb *fdb)
{
	free(fdb->slots);
	vsw_ranking_free(&fdb->ranking);
	fdb->slots = NULL;
	fdb->n_slots = fdb->used = 0;
}

/* --- the ports' lists --- */

static uint32_t name_of(const struct fdb *fdb, const struct fdb_entry *entry)
{
	return (uint32_t)(entry - fdb->slots) + 1;
}

static struct fdb_entry *named(const struct fdb *fdb, uint32_t name)
{
	return &fdb->slots[name - 1];
}

static struct fdb_list *list_of(const struct fdb_entry *entry)
{
	struct fdb_holding *holding = &entry->port->addresses;

	return entry->kind == FDB_DYNAMIC ? &holding->dynamic : &holding->lasting;
}

/* What names the entry newer (or older) than this one names `name` from now on. */
static void link_newer(struct fdb *fdb, const struct fdb_entry *entry, uint32_t name)
{
	if (entry->newer)
		named(fdb, entry->newer)->older = name;
	else
		list_of(entry)->newest = name;
}

static void link_older(struct fdb *fdb, const struct fdb_entry *entry, uint32_t name)
{
	if (entry->older)
		named(fdb, entry->older)->newer = name;
	else
		list_of(entry)->oldest = name;
}

static void unlink_entry(struct fdb *fdb, const struct fdb_entry *entry)
{
	link_newer(fdb, entry, entry->older);
	link_older(fdb, entry, entry->newer);
}

static void link_newest(struct fdb *fdb, struct fdb_entry *entry)
{
	struct fdb_list *list = list_of(entry);

	entry->newer = 0;
	entry->older = list->newest;
	link_newer(fdb, entry, name_of(fdb, entry));
	link_older(fdb, entry, name_of(fdb, entry));
}

void vsw_fdb_refile(struct fdb *fdb, struct fdb_entry *entry)
{
	unlink_entry(fdb, entry);
	link_newest(fdb, entry);
}

static void count(struct fdb *fdb, const struct fdb_entry *entry, int change)
{
	list_of(entry)->n += (uint32_t)change;
	if (entry->kind == FDB_DYNAMIC)
		vsw_ranking_update(&fdb->ranking, entry->port);
}

/* Put an entry with key, kind and port into its list. vsw_ranking_reserve() has said yes. */
static void file(struct fdb *fdb, struct fdb_entry *entry)
{
	link_newest(fdb, entry);
	count(fdb, entry, 1);
}

static void unfile(struct fdb *fdb, const struct fdb_entry *entry)
{
	unlink_entry(fdb, entry);
	count(fdb, entry, -1);
}

/* --- the table --- */

static struct fdb_entry *find(const struct fdb *fdb, uint64_t key)
{
	return vsw_fdb_find(fdb, key, vsw_fdb_hash(fdb, key));
}

static bool grow(struct fdb *fdb)
{
	struct fdb_entry *old = fdb->slots;
	uint32_t n_old = fdb->n_slots;
	struct fdb_entry *slots = new_slots(n_old * 2);

	if (!slots)
		return false;
	fdb->slots = slots;
	fdb->n_slots = n_old * 2;
	/* Where an old entry has gone is kept in it until all links are translated. */
	for (uint32_t i = 0; i < n_old; i++) {
		struct fdb_entry *entry;

		if (!old[i].port)
			continue;
		entry = find(fdb, old[i].key);
		*entry = old[i];
		old[i].seen = name_of(fdb, entry);
	}
	for (uint32_t i = 0; i < fdb->n_slots; i++) {
		struct fdb_entry *entry = &slots[i];

		if (!entry->port)
			continue;
		if (entry->newer)
			entry->newer = (uint32_t)old[entry->newer - 1].seen;
		else
			list_of(entry)->newest = i + 1;
		if (entry->older)
			entry->older = (uint32_t)old[entry->older - 1].seen;
		else
			list_of(entry)->oldest = i + 1;
	}
	free(old);
	return true;
}

/* Free a slot and close the gap: an entry further on moves into it unless that would put it before its home. */
static void erase(struct fdb *fdb, struct fdb_entry *entry)
{
	uint32_t mask = fdb->n_slots - 1;
	uint32_t i = (uint32_t)(entry - fdb->slots);

	unfile(fdb, entry);
	fdb->used--;
	for (uint32_t j = (i + 1) & mask; fdb->slots[j].port; j = (j + 1) & mask) {
		const struct fdb_entry *next = &fdb->slots[j];

		/* Distances are taken modulo the table's size. */
		if (((j - vsw_fdb_home(fdb, vsw_fdb_hash(fdb, next->key))) & mask) >= ((j - i) & mask)) {
			fdb->slots[i] = *next;
			link_newer(fdb, next, i + 1);
			link_older(fdb, next, i + 1);
			i = j;
		}
	}
	fdb->slots[i].port = NULL;
}

/* --- room --- */

/* Forget a dynamic entry of `learner` if it holds as many as any port, else of one that holds the most. */
static bool evict(struct fdb *fdb, struct port *learner)
{
	struct port *port = vsw_ranking_first(&fdb->ranking);

	if (!port)
		return false;
	if (learner && learner->addresses.dynamic.n == port->addresses.dynamic.n)
		port = learner;
	erase(fdb, named(fdb, port->addresses.dynamic.oldest));
	return true;
}

/* Return a free slot for `key`, which is not in the table; NULL with *error set when there is none. */
static struct fdb_entry *make_room(struct fdb *fdb, uint64_t key, struct port *port, int *error)
{
	*error = -ENOSPC;
	if (fdb->used >= fdb->limit && !evict(fdb, port))
		return NULL;
	*error = -ENOMEM;
	if (!vsw_ranking_reserve(&fdb->ranking) || ((fdb->used + 1) * 4 > fdb->n_slots && !grow(fdb)))
		return NULL;
	return find(fdb, key);
}

void vsw_fdb_set_limit(struct fdb *fdb, uint32_t limit)
{
	fdb->limit = limit;
	while (fdb->used > limit && evict(fdb, NULL))
		;
}

/* Return whether any of `port`'s entries was too old. */
static bool age_port(struct fdb *fdb, struct port *port, uint64_t now)
{
	const struct fdb_list *list = &port->addresses.dynamic;
	uint32_t before = list->n;

	while (list->n && !vsw_fdb_is_alive(fdb, named(fdb, list->oldest), now))
		erase(fdb, named(fdb, list->oldest));
	return list->n != before;
}

/* --- learning --- */

static uint32_t n_entries(const struct port *port)
{
	return port->addresses.dynamic.n + port->addresses.lasting.n;
}

static bool may_have_more(struct fdb *fdb, struct port *port, uint64_t now)
{
	uint32_t limit = port->settings.mac_limit;

	return !limit || n_entries(port) < limit || (age_port(fdb, port, now) && n_entries(port) < limit);
}

enum fdb_result vsw_fdb_check(struct fdb *fdb, uint64_t key, uint32_t hash, struct port *port, uint64_t now)
{
	const struct fdb_entry *entry = vsw_fdb_find(fdb, key, hash);
	bool known = entry->port;

	if (entry->port == port)
		return FDB_KNOWN;
	if (known && entry->kind != FDB_DYNAMIC)
		return FDB_PINNED;
	if (!may_have_more(fdb, port, now)) /* may move entries about */
		return FDB_BEYOND;
	return known ? FDB_MOVED : FDB_NEW;
}

static enum fdb_kind kind_on(const struct port *port)
{
	return port->settings.sticky ? FDB_STICKY : FDB_DYNAMIC;
}

enum fdb_result vsw_fdb_learn_new(struct fdb *fdb, uint64_t key, uint32_t hash, struct port *port, uint64_t now)
{
	enum fdb_result result = vsw_fdb_check(fdb, key, hash, port, now);
	struct fdb_entry *entry;
	int error;

	switch (result) {
	case FDB_NEW:
		entry = make_room(fdb, key, port, &error);
		if (!entry)
			return FDB_FULL;
		fdb->used++;
		break;
	case FDB_MOVED:
		if (!vsw_ranking_reserve(&fdb->ranking))
			return FDB_FULL;
		entry = find(fdb, key);
		unfile(fdb, entry);
		break;
	default:
		return result;
	}
	*entry = (struct fdb_entry){ .key = key & FDB_KEY_MASK, .kind = kind_on(port), .seen = now, .port = port };
	file(fdb, entry);
	return result;
}

int vsw_fdb_pin(struct fdb *fdb, uint64_t key, struct port *port, uint64_t now)
{
	struct fdb_entry *entry = find(fdb, key);
	int error;

	if (entry->port) {
		unfile(fdb, entry);
	} else {
		entry = make_room(fdb, key, port, &error);
		if (!entry)
			return error;
		fdb->used++;
	}
	*entry = (struct fdb_entry){ .key = key & FDB_KEY_MASK, .kind = FDB_STATIC, .seen = now, .port = port };
	file(fdb, entry);
	return 0;
}

/* --- forgetting --- */

bool vsw_fdb_remove(struct fdb *fdb, uint64_t key)
{
	struct fdb_entry *entry = find(fdb, key);

	if (!entry->port)
		return false;
	erase(fdb, entry);
	return true;
}

void vsw_fdb_age(struct fdb *fdb, uint64_t now)
{
	uint32_t rank = fdb->ranking.n;

	/* When a port loses entries, another may take its rank: one with fewer, already seen to, or its forerunner. */
	while (rank)
		if (rank > fdb->ranking.n || !age_port(fdb, fdb->ranking.ports[rank], now))
			rank--;
}

void vsw_fdb_flush_dynamic(struct fdb *fdb, struct port *port)
{
	while (port->addresses.dynamic.n)
		erase(fdb, named(fdb, port->addresses.dynamic.oldest));
}

void vsw_fdb_flush_all(struct fdb *fdb, struct port *port)
{
	vsw_fdb_flush_dynamic(fdb, port);
	while (port->addresses.lasting.n)
		erase(fdb, named(fdb, port->addresses.lasting.oldest));
}

uint32_t vsw_fdb_forget(struct fdb *fdb, bool (*doomed)(const struct fdb_entry *entry, const void *arg),
			const void *arg)
{
	uint32_t before = fdb->used;

	for (uint32_t i = 0; i < fdb->n_slots; i++)
		/* Look at the slot again: erase() may have moved another entry into it. */
		while (fdb->slots[i].port && doomed(&fdb->slots[i], arg))
			erase(fdb, &fdb->slots[i]);
	return before - fdb->used;
}

int vsw_fdb_restick(struct fdb *fdb, struct port *port, uint64_t now)
{
	if (!n_entries(port))
		return 0;
	if (!vsw_ranking_reserve(&fdb->ranking))
		return -ENOMEM;
	for (uint32_t i = 0; i < fdb->n_slots; i++) {
		struct fdb_entry *entry = &fdb->slots[i];

		/* What is too old must not become sticky. After erase() another entry may be here. */
		while (entry->port == port && !vsw_fdb_is_alive(fdb, entry, now))
			erase(fdb, entry);
		if (entry->port != port || entry->kind == FDB_STATIC || entry->kind == kind_on(port))
			continue;
		unfile(fdb, entry);
		entry->kind = kind_on(port);
		entry->seen = now;
		file(fdb, entry);
	}
	return 0;
}
