/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "check.h"
#include "fdb.h"
#include "port.h"

#define SECOND 1000000000ULL

enum { PORTS = 7 };

static struct port ports[PORTS];
static struct fdb fdb;

static void start(uint32_t limit)
{
	for (unsigned i = 0; i < PORTS; i++)
		ports[i] = (struct port){ 0 };
	CHECK(!vsw_fdb_init(&fdb, limit, 300 * SECOND));
}

static enum fdb_result learn(uint64_t key, struct port *port, uint64_t now)
{
	return vsw_fdb_learn(&fdb, key, vsw_fdb_hash(&fdb, key), port, now);
}

static enum fdb_result check(uint64_t key, struct port *port, uint64_t now)
{
	return vsw_fdb_check(&fdb, key, vsw_fdb_hash(&fdb, key), port, now);
}

static struct port *look_up(uint64_t key, uint64_t now)
{
	return vsw_fdb_lookup(&fdb, key, vsw_fdb_hash(&fdb, key), now);
}

static void learns_moves_and_refreshes(void)
{
	start(100);
	CHECK(!look_up(1, 0));
	CHECK(check(1, &ports[0], 0) == FDB_NEW && learn(1, &ports[0], 0) == FDB_NEW);
	CHECK(look_up(1, 0) == &ports[0]);
	CHECK(!look_up(2, 0));
	CHECK(check(1, &ports[0], SECOND) == FDB_KNOWN && learn(1, &ports[0], SECOND) == FDB_KNOWN);
	CHECK(check(1, &ports[1], SECOND) == FDB_MOVED && learn(1, &ports[1], SECOND) == FDB_MOVED);
	CHECK(look_up(1, SECOND) == &ports[1]);
	CHECK(fdb.used == 1 && !ports[0].addresses.dynamic.n && ports[1].addresses.dynamic.n == 1);
	vsw_fdb_free(&fdb);
}

static void an_address_of_another_vlan_is_another_one(void)
{
	start(100);
	learn(vsw_fdb_key(10, 1), &ports[0], 0);
	learn(vsw_fdb_key(20, 1), &ports[1], 0);
	CHECK(look_up(vsw_fdb_key(10, 1), 0) == &ports[0] && look_up(vsw_fdb_key(20, 1), 0) == &ports[1]);
	CHECK(!look_up(1, 0) && fdb.used == 2);
	vsw_fdb_free(&fdb);
}

static void forgets_after_the_ageing_time(void)
{
	start(100);
	learn(1, &ports[0], 0);
	learn(2, &ports[0], 200 * SECOND);
	CHECK(look_up(1, 299900000000ULL) == &ports[0] && look_up(1, 300 * SECOND - 1) == &ports[0]);
	CHECK(!look_up(1, 300 * SECOND));
	vsw_fdb_age(&fdb, 300 * SECOND);
	CHECK(fdb.used == 1);
	CHECK(look_up(2, 300 * SECOND) == &ports[0]);
	vsw_fdb_free(&fdb);
}

static void ages_every_port_at_once(void)
{
	start(1000);
	for (uint64_t key = 0; key < 600; key++)
		learn(key, &ports[key % (key % 5 + 1)], 0);
	for (uint64_t key = 0; key < 600; key += 7)
		learn(key, &ports[key % (key % 5 + 1)], 200 * SECOND);
	vsw_fdb_age(&fdb, 300 * SECOND);
	CHECK(fdb.used == 600 / 7 + 1);
	for (uint64_t key = 0; key < 600; key++)
		CHECK(!!look_up(key, 300 * SECOND) == !(key % 7));
	vsw_fdb_free(&fdb);
}

/* Also those whose rank another one takes meanwhile: here the fourth port goes, and the seventh displaces the second. */
static void ages_every_port_whatever_its_rank(void)
{
	static const unsigned n[PORTS] = { 100, 10, 90, 5, 5, 80, 80 };

	start(1000);
	for (unsigned i = 0; i < PORTS; i++)
		for (uint64_t key = 0; key < n[i]; key++)
			learn(1000 * i + key, &ports[i], 0);
	for (unsigned i = 0; i < PORTS; i++)
		for (uint64_t key = i == 1; key < n[i] && i != 3; key++)
			learn(1000 * i + key, &ports[i], 200 * SECOND);
	vsw_fdb_age(&fdb, 300 * SECOND);
	CHECK(!ports[3].addresses.dynamic.n && ports[1].addresses.dynamic.n == 9);
	CHECK(fdb.used == 100 + 9 + 90 + 5 + 80 + 80);
	vsw_fdb_free(&fdb);
}

/* A port that invents addresses displaces its own. */
static void when_full_a_flooding_port_displaces_its_own(void)
{
	start(100);
	for (uint64_t key = 0; key < 50; key++)
		CHECK(learn(key, &ports[key % 5], 0) == FDB_NEW);
	for (uint64_t key = 1000; key < 3000; key++)
		CHECK(learn(key, &ports[5], key * SECOND / 100) == FDB_NEW);
	CHECK(fdb.used == 100);
	for (uint64_t key = 0; key < 50; key++)
		CHECK(look_up(key, 30 * SECOND) == &ports[key % 5]);
	for (uint64_t key = 1000; key < 3000; key++)
		CHECK(!!look_up(key, 30 * SECOND) == (key >= 2950)); /* the last 50 heard */
	vsw_fdb_free(&fdb);
}

static void when_full_the_port_with_the_most_gives_way(void)
{
	start(10);
	for (uint64_t key = 0; key < 8; key++)
		learn(key, &ports[0], key * SECOND);
	learn(8, &ports[1], 8 * SECOND);
	learn(9, &ports[2], 9 * SECOND);
	learn(0, &ports[0], 10 * SECOND); /* heard again: 1 is the oldest now */
	CHECK(learn(20, &ports[1], 11 * SECOND) == FDB_NEW);
	CHECK(!look_up(1, 11 * SECOND) && look_up(0, 11 * SECOND) && look_up(2, 11 * SECOND));
	CHECK(look_up(8, 11 * SECOND) && look_up(9, 11 * SECOND) && fdb.used == 10);
	vsw_fdb_free(&fdb);
}

/* Who gives way from time to time: as in Open vSwitch, the result is even. */
static void many_flooding_ports_share_the_table(void)
{
	start(100);
	for (uint64_t key = 0; key < 5000; key++)
		learn(key, &ports[key % 7 % 5], key * FDB_EPOCH_NS);
	for (unsigned i = 0; i < 5; i++)
		CHECK(ports[i].addresses.dynamic.n >= 19 && ports[i].addresses.dynamic.n <= 21);
	vsw_fdb_free(&fdb);
}

static void a_lower_limit_evicts_at_once(void)
{
	start(100);
	for (uint64_t key = 0; key < 60; key++)
		learn(key, &ports[key < 50 ? 0 : 1], key * SECOND);
	CHECK(!vsw_fdb_pin(&fdb, 1000, &ports[2], 0));
	vsw_fdb_set_limit(&fdb, 21);
	CHECK(fdb.used == 21 && ports[0].addresses.dynamic.n == 10 && ports[1].addresses.dynamic.n == 10);
	CHECK(look_up(49, 60 * SECOND) && !look_up(39, 60 * SECOND));
	vsw_fdb_set_limit(&fdb, 0);
	CHECK(fdb.used == 1 && look_up(1000, 60 * SECOND) == &ports[2]); /* static ones never go */
	CHECK(learn(5, &ports[0], 60 * SECOND) == FDB_FULL);
	CHECK(vsw_fdb_pin(&fdb, 1001, &ports[2], 0) == -ENOSPC);
	vsw_fdb_free(&fdb);
}

static void static_entries_stay_where_they_are(void)
{
	start(100);
	learn(1, &ports[1], 0);
	CHECK(!vsw_fdb_pin(&fdb, 1, &ports[0], 0)); /* in place of the dynamic one */
	CHECK(!ports[1].addresses.dynamic.n && ports[0].addresses.lasting.n == 1);
	CHECK(learn(1, &ports[1], SECOND) == FDB_PINNED && check(1, &ports[1], SECOND) == FDB_PINNED);
	CHECK(learn(1, &ports[0], SECOND) == FDB_KNOWN);
	CHECK(look_up(1, 10000 * SECOND) == &ports[0]);
	vsw_fdb_age(&fdb, 10000 * SECOND);
	vsw_fdb_flush_dynamic(&fdb, &ports[0]);
	CHECK(fdb.used == 1);
	CHECK(!vsw_fdb_pin(&fdb, 1, &ports[2], 0)); /* by hand it moves */
	CHECK(look_up(1, 0) == &ports[2] && !ports[0].addresses.lasting.n);
	CHECK(vsw_fdb_remove(&fdb, 1) && !vsw_fdb_remove(&fdb, 1) && !fdb.used);
	vsw_fdb_free(&fdb);
}

static void sticky_ports_keep_what_they_learn(void)
{
	start(100);
	ports[0].settings.sticky = true;
	CHECK(learn(1, &ports[0], 0) == FDB_NEW);
	CHECK(learn(1, &ports[1], 0) == FDB_PINNED);
	CHECK(look_up(1, 10000 * SECOND) == &ports[0]);
	learn(2, &ports[1], 0);
	CHECK(learn(2, &ports[0], 0) == FDB_MOVED && learn(2, &ports[1], 0) == FDB_PINNED);
	vsw_fdb_flush_dynamic(&fdb, &ports[0]);
	CHECK(fdb.used == 2);
	vsw_fdb_flush_all(&fdb, &ports[0]);
	CHECK(!fdb.used);
	vsw_fdb_free(&fdb);
}

static void stickiness_comes_and_goes_for_what_is_learnt(void)
{
	start(100);
	learn(1, &ports[0], 0);
	learn(2, &ports[1], 0);
	CHECK(!vsw_fdb_pin(&fdb, 3, &ports[0], 0));
	ports[0].settings.sticky = true;
	CHECK(!vsw_fdb_restick(&fdb, &ports[0], SECOND));
	CHECK(look_up(1, 10000 * SECOND) && !look_up(2, 10000 * SECOND));
	ports[0].settings.sticky = false;
	CHECK(!vsw_fdb_restick(&fdb, &ports[0], 1000 * SECOND));
	CHECK(look_up(1, 1299 * SECOND) && !look_up(1, 1300 * SECOND)); /* its ageing began then */
	CHECK(look_up(3, 10000 * SECOND));
	vsw_fdb_free(&fdb);
}

/* The order of a port's addresses is only as fine as an epoch: the oldest may hide behind one heard since. */
static void what_is_too_old_does_not_become_sticky(void)
{
	start(100);
	for (uint64_t key = 1; key <= 50; key++)
		learn(key, &ports[0], 0);
	for (uint64_t key = 1; key <= 25; key++)
		learn(key, &ports[0], FDB_EPOCH_NS - 1); /* heard again, and not relinked */
	ports[0].settings.sticky = true;
	CHECK(!vsw_fdb_restick(&fdb, &ports[0], 300 * SECOND));
	CHECK(fdb.used == 25 && ports[0].addresses.lasting.n == 25 && !ports[0].addresses.dynamic.n);
	for (uint64_t key = 1; key <= 50; key++)
		CHECK((look_up(key, 300 * SECOND) == &ports[0]) == (key <= 25));
	vsw_fdb_free(&fdb);
}

static void a_port_takes_no_more_addresses_than_its_limit(void)
{
	start(100);
	ports[0].settings.mac_limit = 2;
	CHECK(!vsw_fdb_pin(&fdb, 1, &ports[0], 0)); /* counts */
	learn(2, &ports[0], 0);
	CHECK(learn(3, &ports[0], 0) == FDB_BEYOND && check(3, &ports[0], 0) == FDB_BEYOND);
	CHECK(learn(2, &ports[0], SECOND) == FDB_KNOWN);
	learn(4, &ports[1], SECOND);
	CHECK(learn(4, &ports[0], SECOND) == FDB_BEYOND && look_up(4, SECOND) == &ports[1]);
	CHECK(learn(3, &ports[0], 301 * SECOND) == FDB_NEW); /* 2 is too old, although nobody has swept */
	CHECK(!look_up(2, 301 * SECOND));
	vsw_fdb_free(&fdb);
}

/* Return how many slots are looked at to find an entry, on average. */
static double probes(void)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < fdb.n_slots; i++)
		if (fdb.slots[i].port)
			n += 1 + ((i - vsw_fdb_home(&fdb, vsw_fdb_hash(&fdb, fdb.slots[i].key))) & (fdb.n_slots - 1));
	return (double)n / fdb.used;
}

/* Addresses are given out in sequence, and are the same in many VLANs; no multiplier may make heaps of them. */
static void addresses_in_sequence_make_no_heaps(void)
{
	for (unsigned turn = 0; turn < 200; turn++) {
		start(10000);
		for (uint64_t i = 0; i < 2048; i++) {
			uint64_t ones[] = {
				vsw_fdb_key(0, 0x020000000000ULL + i),
				vsw_fdb_key(0, 0x020000000000ULL + (i << 8)),
				vsw_fdb_key((uint16_t)(1 + i % 64), 0x525400000000ULL + i / 64),
				vsw_fdb_key((uint16_t)(1 + i), 0x525400000000ULL),
			};

			learn(ones[turn % 4], &ports[0], 0);
		}
		CHECK(fdb.used == 2048 && probes() < 2);
		vsw_fdb_free(&fdb);
	}
}

/* --- against the plainest model --- */

enum { KEYS = 600, LIMIT = 250, STEPS = 300000 };

struct known {
	struct port *port; /* NULL: not known */
	uint64_t seen;
	enum fdb_kind kind;
};

static struct known model[KEYS];
static uint64_t keys[KEYS];

static unsigned count_known(const struct port *port, bool dynamic_only)
{
	unsigned n = 0;

	for (unsigned i = 0; i < KEYS; i++)
		if (model[i].port && (!port || model[i].port == port) &&
		    (!dynamic_only || model[i].kind == FDB_DYNAMIC))
			n++;
	return n;
}

static bool is_old(const struct known *known, uint64_t now)
{
	return known->port && known->kind == FDB_DYNAMIC && now - known->seen >= fdb.ageing;
}

static void model_age(const struct port *port, uint64_t now)
{
	for (unsigned i = 0; i < KEYS; i++)
		if ((!port || model[i].port == port) && is_old(&model[i], now))
			model[i].port = NULL;
}

/* Who loses an entry is not fixed among equals, so the model asks the table which one went, and whether it might. */
static void model_evict(struct port *learner, unsigned new_key)
{
	unsigned most = 0, gone = KEYS;

	for (unsigned i = 0; i < PORTS; i++)
		if (count_known(&ports[i], true) > most)
			most = count_known(&ports[i], true);
	for (unsigned i = 0; i < KEYS; i++) {
		if (i == new_key || !model[i].port || vsw_fdb_find(&fdb, keys[i], vsw_fdb_hash(&fdb, keys[i]))->port)
			continue;
		CHECK(gone == KEYS);
		gone = i;
	}
	CHECK(gone < KEYS && model[gone].kind == FDB_DYNAMIC);
	CHECK(count_known(model[gone].port, true) == most);
	if (count_known(learner, true) == most)
		CHECK(model[gone].port == learner);
	for (unsigned i = 0; i < KEYS; i++)
		if (model[i].port == model[gone].port && model[i].kind == FDB_DYNAMIC)
			CHECK(model[i].seen >> FDB_EPOCH_SHIFT >= model[gone].seen >> FDB_EPOCH_SHIFT);
	model[gone].port = NULL;
}

static void model_learn(unsigned key, struct port *port, uint64_t now)
{
	struct known *known = &model[key];
	uint32_t limit = port->settings.mac_limit;
	enum fdb_result expected;

	if (known->port == port) {
		expected = FDB_KNOWN;
	} else if (known->port && known->kind != FDB_DYNAMIC) {
		expected = FDB_PINNED;
	} else {
		if (limit && count_known(port, false) >= limit)
			model_age(port, now);
		if (limit && count_known(port, false) >= limit)
			expected = FDB_BEYOND;
		else if (known->port)
			expected = FDB_MOVED;
		else
			expected = count_known(NULL, false) >= LIMIT && !count_known(NULL, true) ? FDB_FULL : FDB_NEW;
	}
	CHECK(check(keys[key], port, now) == expected || expected == FDB_FULL);
	CHECK(learn(keys[key], port, now) == expected);
	if (expected == FDB_PINNED || expected == FDB_BEYOND || expected == FDB_FULL)
		return;
	if (expected == FDB_NEW && count_known(NULL, false) >= LIMIT)
		model_evict(port, key);
	if (expected != FDB_KNOWN)
		known->kind = port->settings.sticky ? FDB_STICKY : FDB_DYNAMIC;
	known->port = port;
	known->seen = now;
}

static void model_pin(unsigned key, struct port *port, uint64_t now)
{
	bool full = !model[key].port && count_known(NULL, false) >= LIMIT;

	if (full && !count_known(NULL, true)) {
		CHECK(vsw_fdb_pin(&fdb, keys[key], port, now) == -ENOSPC);
		return;
	}
	CHECK(!vsw_fdb_pin(&fdb, keys[key], port, now));
	if (full)
		model_evict(port, key);
	model[key] = (struct known){ port, now, FDB_STATIC };
}

static void model_flush(const struct port *port, bool dynamic_only)
{
	for (unsigned i = 0; i < KEYS; i++)
		if (model[i].port == port && (!dynamic_only || model[i].kind == FDB_DYNAMIC))
			model[i].port = NULL;
}

/* Each port's lists hold its entries, newest first. */
static void check_lists(void)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < PORTS; i++) {
		const struct fdb_list *lists[] = { &ports[i].addresses.dynamic, &ports[i].addresses.lasting };

		CHECK(lists[0]->n == count_known(&ports[i], true));
		CHECK(lists[0]->n + lists[1]->n == count_known(&ports[i], false));
		for (unsigned j = 0; j < 2; j++) {
			uint64_t epoch = UINT64_MAX;
			uint32_t newer = 0, at = lists[j]->newest;

			for (n = 0; at; n++) {
				const struct fdb_entry *entry = &fdb.slots[at - 1];

				CHECK(entry->port == &ports[i] && entry->newer == newer);
				CHECK((entry->kind == FDB_DYNAMIC) == !j);
				CHECK(j || entry->seen >> FDB_EPOCH_SHIFT <= epoch);
				epoch = entry->seen >> FDB_EPOCH_SHIFT;
				newer = at;
				at = entry->older;
			}
			CHECK(n == lists[j]->n && newer == lists[j]->oldest);
		}
	}
}

static struct port *random_port(void)
{
	return &ports[random() % PORTS];
}

/* A step of one second is more than an epoch, so that what is old is known to have gone. */
static void agrees_with_a_plain_table(void)
{
	uint64_t now = 1000 * SECOND;

	srandom(1);
	start(LIMIT);
	ports[4].settings.sticky = true;
	ports[5].settings.mac_limit = 20;
	for (unsigned i = 0; i < KEYS; i++)
		keys[i] = ((uint64_t)random() << 17 ^ (uint64_t)random()) & FDB_KEY_MASK;
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned key = (unsigned)random() % KEYS;
		struct port *port = random_port();

		if (!(random() % 40))
			now += SECOND;
		if (step % 5003 == 0) {
			vsw_fdb_flush_all(&fdb, port);
			model_flush(port, false);
		} else if (step % 997 == 0) {
			vsw_fdb_flush_dynamic(&fdb, port);
			model_flush(port, true);
		} else if (step % 331 == 0) {
			vsw_fdb_age(&fdb, now);
			model_age(NULL, now);
		} else if (step % 211 == 0) {
			model_pin(key, port, now);
		} else if (step % 89 == 0) {
			CHECK(vsw_fdb_remove(&fdb, keys[key]) == !!model[key].port);
			model[key].port = NULL;
		} else if (random() % 2) {
			model_learn(key, port, now);
		} else {
			CHECK(look_up(keys[key], now) == (is_old(&model[key], now) ? NULL : model[key].port));
		}
		CHECK(fdb.used == count_known(NULL, false));
		if (step % 101 == 0)
			check_lists();
	}
	vsw_fdb_free(&fdb);
}

int main(void)
{
	RUN(learns_moves_and_refreshes);
	RUN(an_address_of_another_vlan_is_another_one);
	RUN(forgets_after_the_ageing_time);
	RUN(ages_every_port_at_once);
	RUN(ages_every_port_whatever_its_rank);
	RUN(when_full_a_flooding_port_displaces_its_own);
	RUN(when_full_the_port_with_the_most_gives_way);
	RUN(many_flooding_ports_share_the_table);
	RUN(a_lower_limit_evicts_at_once);
	RUN(static_entries_stay_where_they_are);
	RUN(sticky_ports_keep_what_they_learn);
	RUN(stickiness_comes_and_goes_for_what_is_learnt);
	RUN(what_is_too_old_does_not_become_sticky);
	RUN(a_port_takes_no_more_addresses_than_its_limit);
	RUN(addresses_in_sequence_make_no_heaps);
	RUN(agrees_with_a_plain_table);
	return 0;
}
