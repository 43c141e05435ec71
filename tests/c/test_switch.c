/* SPDX-License-Identifier: BSD-2-Clause */
#include "lab.h"

#define A 0x525400000001ULL
#define B 0x525400000002ULL
#define C 0x525400000003ULL

static void unknown_unicast_and_groups_flood_all_but_ingress(void)
{
	struct peer a, b, c;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(a, B, A, 60, 1);
	lab_send(a, ANYBODY, A, 60, 2);
	lab_send(a, 0x3333000000fbULL, A, 60, 3);
	lab_settle();
	for (int tag = 1; tag <= 3; tag++)
		CHECK(lab_receive(b) == tag && lab_receive(c) == tag);
	CHECK(lab_receive(a) == -1);
	CHECK(a.port->rx.frames == 3 && a.port->rx.bytes == 180 && c.port->tx.frames == 3);
	lab_stop();
}

static void known_unicast_goes_to_its_port_alone(void)
{
	struct peer a, b, c;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(b, ANYBODY, B, 60, 1);
	lab_settle();
	CHECK(lab_receive(a) == 1 && lab_receive(c) == 1);
	lab_send(a, B, A, 60, 2);
	lab_settle();
	CHECK(lab_receive(b) == 2);
	CHECK(lab_receive(c) == -1);
	lab_stop();
}

/* Frames to several destinations in one burst keep their order at each. */
static void a_mixed_burst_keeps_its_order_at_each_destination(void)
{
	static const uint64_t to[] = { B, C, ANYBODY, B, B, C, ANYBODY, C, B };
	struct peer a, b, c;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(b, A, B, 60, 0);
	lab_send(c, A, C, 60, 0);
	lab_settle();
	while (lab_receive(a) >= 0 || lab_receive(b) >= 0 || lab_receive(c) >= 0)
		;
	for (uint32_t i = 0; i < 9; i++)
		lab_send(a, to[i], A, 60 + i, i);
	lab_settle();
	for (int i = 0; i < 9; i++) {
		if (to[i] != C)
			CHECK(lab_receive(b) == i);
		if (to[i] != B)
			CHECK(lab_receive(c) == i);
	}
	CHECK(lab_receive(a) == -1 && lab_receive(b) == -1 && lab_receive(c) == -1);
	lab_stop();
}

static void addresses_age_and_are_then_flooded(void)
{
	struct peer a, b, c;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(b, A, B, 60, 1);
	lab_settle();
	CHECK(lab_receive(a) == 1 && lab_receive(c) == 1);
	test_clock_ns += 299 * SECOND;
	lab_send(a, B, A, 60, 2);
	lab_settle();
	CHECK(lab_receive(b) == 2 && lab_receive(c) == -1);
	test_clock_ns += 2 * SECOND;
	lab_send(a, B, A, 60, 3);
	lab_settle();
	CHECK(lab_receive(b) == 3 && lab_receive(c) == 3);
	CHECK(sw->fdb.used == 1); /* the tick has removed B's entry */
	lab_stop();
}

static void an_address_moves_with_its_host(void)
{
	struct peer a, b, c;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(b, A, B, 60, 1);
	lab_send(c, A, B, 60, 2);
	lab_settle();
	lab_send(a, B, A, 60, 3);
	lab_settle();
	CHECK(lab_receive(c) == 1); /* flooded before the move */
	CHECK(lab_receive(c) == 3);
	CHECK(lab_receive(b) == 2 && lab_receive(b) == -1);
	lab_stop();
}

static void nothing_returns_to_where_it_came_from(void)
{
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer();
	lab_send(a, ANYBODY, A, 60, 1);
	lab_send(a, A, B, 60, 2); /* two hosts behind one port */
	lab_settle();
	CHECK(lab_receive(b) == 1 && lab_receive(b) == -1);
	CHECK(lab_receive(a) == -1);
	CHECK(a.port->drops[DROP_SAME_PORT] == 1);
	lab_stop();
}

static void a_group_source_is_dropped_and_not_learnt(void)
{
	struct peer a, b;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer();
	lab_send(a, B, ANYBODY, 60, 1);
	lab_send(a, B, A, 60, 2);
	lab_settle();
	CHECK(lab_receive(b) == 2 && lab_receive(b) == -1);
	CHECK(a.port->drops[DROP_BAD_SOURCE] == 1 && sw->fdb.used == 1);
	lab_stop();
}

static void an_fdb_full_of_static_entries_floods_and_counts(void)
{
	struct peer a, b, c;

	lab_start(false, 1);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	CHECK(!vsw_fdb_pin(&sw->fdb, A, a.port, engine->now));
	lab_send(a, ANYBODY, A, 60, 1);
	lab_send(b, A, B, 60, 2); /* finds no room */
	lab_settle();
	CHECK(b.port->unlearnt == 1 && a.port->unlearnt == 0);
	lab_send(a, B, A, 60, 3);
	lab_settle();
	CHECK(lab_receive(c) == 1 && lab_receive(c) == 3); /* flooded, as B is not known */
	CHECK(lab_receive(a) == 2);                        /* A is */
	lab_stop();
}

static void a_hub_floods_everything_and_learns_nothing(void)
{
	struct peer a, b, c;

	lab_start(true, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(a, B, A, 60, 1);
	lab_send(b, A, B, 60, 2);
	lab_settle();
	CHECK(lab_receive(b) == 1 && lab_receive(c) == 1);
	CHECK(lab_receive(a) == 2 && lab_receive(c) == 2);
	CHECK(sw->fdb.used == 0);
	lab_stop();
}

static void a_port_that_ends_is_forgotten(void)
{
	struct peer a, b, c;
	struct port *ended;

	lab_start(false, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	lab_send(b, A, B, 60, 1);
	lab_settle();
	CHECK(lab_receive(a) == 1 && lab_receive(c) == 1);
	close(b.fd);
	lab_settle();
	CHECK(b.port->state == PORT_CLOSED && sw->fdb.used == 0);
	ended = vsw_engine_next_ended(engine);
	CHECK(ended == b.port && !vsw_engine_next_ended(engine));
	lab_send(a, B, A, 60, 2);
	lab_settle();
	CHECK(lab_receive(c) == 2);
	vsw_port_free(b.port);
	lab_send(a, B, A, 60, 3);
	lab_settle();
	CHECK(lab_receive(c) == 3);
	vsw_port_free(c.port);
	lab_send(a, B, A, 60, 4);
	lab_settle();
	CHECK(a.port->drops[DROP_NOWHERE] == 1);
	lab_stop();
}

int main(void)
{
	RUN(unknown_unicast_and_groups_flood_all_but_ingress);
	RUN(known_unicast_goes_to_its_port_alone);
	RUN(a_mixed_burst_keeps_its_order_at_each_destination);
	RUN(addresses_age_and_are_then_flooded);
	RUN(an_address_moves_with_its_host);
	RUN(nothing_returns_to_where_it_came_from);
	RUN(a_group_source_is_dropped_and_not_learnt);
	RUN(an_fdb_full_of_static_entries_floods_and_counts);
	RUN(a_hub_floods_everything_and_learns_nothing);
	RUN(a_port_that_ends_is_forgotten);
	return 0;
}
