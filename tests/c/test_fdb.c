/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"
#include "fdb.h"
#include "port.h"

#define SECOND 1000000000ULL

static struct port ports[4];

static void learns_moves_and_refreshes(void)
{
	struct fdb fdb;

	vsw_fdb_init(&fdb, 100, 300 * SECOND);
	CHECK(!vsw_fdb_lookup(&fdb, 1, 0));
	CHECK(vsw_fdb_learn(&fdb, 1, &ports[0], 0) == FDB_NEW);
	CHECK(vsw_fdb_lookup(&fdb, 1, 0) == &ports[0]);
	CHECK(!vsw_fdb_lookup(&fdb, 2, 0));
	CHECK(vsw_fdb_learn(&fdb, 1, &ports[0], SECOND) == FDB_KNOWN);
	CHECK(vsw_fdb_learn(&fdb, 1, &ports[1], SECOND) == FDB_MOVED);
	CHECK(vsw_fdb_lookup(&fdb, 1, SECOND) == &ports[1]);
	CHECK(fdb.used == 1);
	vsw_fdb_free(&fdb);
}

static void forgets_after_the_ageing_time(void)
{
	struct fdb fdb;

	vsw_fdb_init(&fdb, 100, 300 * SECOND);
	vsw_fdb_learn(&fdb, 1, &ports[0], 0);
	vsw_fdb_learn(&fdb, 2, &ports[0], 200 * SECOND);
	CHECK(vsw_fdb_lookup(&fdb, 1, 300 * SECOND - 1) == &ports[0]);
	CHECK(!vsw_fdb_lookup(&fdb, 1, 300 * SECOND));
	vsw_fdb_age(&fdb, 300 * SECOND);
	CHECK(fdb.used == 1);
	CHECK(vsw_fdb_lookup(&fdb, 2, 300 * SECOND) == &ports[0]);
	vsw_fdb_free(&fdb);
}

static void when_full_keeps_what_it_knows(void)
{
	struct fdb fdb;

	vsw_fdb_init(&fdb, 10, 300 * SECOND);
	for (uint64_t key = 0; key < 10; key++)
		CHECK(vsw_fdb_learn(&fdb, key, &ports[0], 0) == FDB_NEW);
	CHECK(vsw_fdb_learn(&fdb, 10, &ports[1], 0) == FDB_FULL);
	CHECK(!vsw_fdb_lookup(&fdb, 10, 0));
	CHECK(vsw_fdb_learn(&fdb, 9, &ports[1], 0) == FDB_MOVED); /* a known one may still move */
	vsw_fdb_flush(&fdb, &ports[0]);
	CHECK(fdb.used == 1);
	CHECK(vsw_fdb_learn(&fdb, 10, &ports[1], 0) == FDB_NEW);
	vsw_fdb_free(&fdb);
}

/* The same as a plain array, whatever the order of operations: erasing must not break probing. */
static void agrees_with_a_plain_table(void)
{
	enum { KEYS = 600, LIMIT = 510, STEPS = 200000 };
	static struct port *where[KEYS];
	static uint64_t keys[KEYS], seen[KEYS];
	struct fdb fdb;
	uint64_t now = 0;
	uint32_t used = 0;

	srandom(1);
	for (unsigned i = 0; i < KEYS; i++)
		keys[i] = (uint64_t)random() << 17 ^ (uint64_t)random();
	vsw_fdb_init(&fdb, LIMIT, 3000);
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned key = (unsigned)random() % KEYS;
		uint64_t mac = keys[key];
		struct port *port = &ports[random() % 4];

		now += (uint64_t)random() % 3;
		if (step % 997 == 0) {
			vsw_fdb_flush(&fdb, port);
			for (unsigned i = 0; i < KEYS; i++)
				if (where[i] == port)
					where[i] = NULL, used--;
		} else if (step % 331 == 0) {
			vsw_fdb_age(&fdb, now);
			for (unsigned i = 0; i < KEYS; i++)
				if (where[i] && now - seen[i] >= 3000)
					where[i] = NULL, used--;
		} else if (random() % 2) {
			bool full = !where[key] && used == LIMIT;

			CHECK((vsw_fdb_learn(&fdb, mac, port, now) == FDB_FULL) == full);
			if (!full) {
				used += !where[key];
				where[key] = port;
				seen[key] = now;
			}
		} else {
			CHECK(vsw_fdb_lookup(&fdb, mac, now) ==
			      (where[key] && now - seen[key] < 3000 ? where[key] : NULL));
		}
		CHECK(fdb.used == used);
	}
	vsw_fdb_free(&fdb);
}

int main(void)
{
	RUN(learns_moves_and_refreshes);
	RUN(forgets_after_the_ageing_time);
	RUN(when_full_keeps_what_it_knows);
	RUN(agrees_with_a_plain_table);
	return 0;
}
