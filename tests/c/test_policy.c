/* SPDX-License-Identifier: BSD-2-Clause */
/* Each setting of a switch and of a port, by what it does to frames. Ports: see struct trio. */
#include "wire.h"

#define A     0x525400000001ULL
#define B     0x525400000002ULL
#define C     0x525400000003ULL
#define GROUP 0x01005e000001ULL
#define LLDP  0x0180c200000eULL
#define STP   0x0180c2000000ULL

struct trio {
	struct peer a, b, c;
};

/* A switch and three ports, each with an address that the switch knows. */
static struct trio start(void)
{
	struct trio lan;

	lab_start(false, 8192);
	lan.a = lab_add_peer(), lan.b = lab_add_peer(), lan.c = lab_add_peer();
	return lan;
}

static bool silent(struct trio lan)
{
	return wire_silent(lan.a) && wire_silent(lan.b) && wire_silent(lan.c);
}

/* Have all three heard, and forget that. */
static void introduce(struct trio lan)
{
	wire_pass(lan.a, wire_make(ANYBODY, A, 60, 0));
	wire_pass(lan.b, wire_make(ANYBODY, B, 60, 0));
	wire_pass(lan.c, wire_make(ANYBODY, C, 60, 0));
	for (unsigned i = 0; i < 6; i++)
		wire_silent(lan.a), wire_silent(lan.b), wire_silent(lan.c);
	CHECK(silent(lan));
}

static void set(struct peer peer, struct port_settings settings)
{
	CHECK(!vsw_switch_configure_port(peer.port, &settings));
}

#define SET(peer, ...)                                                                                                 \
	do {                                                                                                           \
		struct port_settings settings_ = (peer).port->settings;                                                \
		struct port_settings *to = &settings_;                                                                 \
		__VA_ARGS__;                                                                                           \
		set(peer, settings_);                                                                                  \
	} while (0)

static void filter_vlans(uint16_t protocol)
{
	struct switch_settings settings = sw->settings;

	settings.vlan_filtering = true;
	settings.vlan_protocol = protocol;
	vsw_switch_configure(sw, &settings);
}

static void join(struct port_settings *settings, uint16_t vlan)
{
	settings->members[vlan >> 3] |= (uint8_t)(1U << (vlan & 7));
}

/* Access to `vlan`. */
static void make_access(struct peer peer, uint16_t vlan)
{
	SET(peer, memset(to->members, 0, sizeof(to->members)), join(to, vlan), to->pvid = vlan);
}

/* A trunk with VLANs 10 and 20, and a native one unless that is 0. */
static void make_trunk(struct peer peer, uint16_t native)
{
	SET(peer, memset(to->members, 0, sizeof(to->members)), join(to, 10), join(to, 20), to->pvid = native);
	if (native)
		SET(peer, join(to, native));
}

static uint64_t dropped(struct peer peer, enum drop reason)
{
	return peer.port->drops[reason];
}

/* --- vlan_filtering, vlan, trunk, native, vlan_protocol --- */

static void without_vlan_filtering_tags_are_payload(void)
{
	struct trio lan = start();
	struct wire tagged = wire_tag(wire_make(B, A, 60, 1), 0x8100, 10);

	introduce(lan);
	make_access(lan.a, 20);
	wire_pass(lan.a, tagged);
	CHECK(wire_got(lan.b, tagged) && silent(lan));
	lab_stop();
}

static void access_ports_separate_vlans(void)
{
	struct trio lan = start();

	filter_vlans(VLAN_8021Q);
	make_access(lan.a, 10);
	make_access(lan.b, 10);
	make_access(lan.c, 20);
	introduce(lan);
	wire_pass(lan.a, wire_make(ANYBODY, A, 60, 1));
	CHECK(wire_got(lan.b, wire_make(ANYBODY, A, 60, 1)) && silent(lan));
	wire_pass(lan.a, wire_make(C, A, 60, 2)); /* C is not known here: flooded in VLAN 10 */
	CHECK(wire_got(lan.b, wire_make(C, A, 60, 2)) && silent(lan));
	lab_stop();
}

static void an_access_port_takes_its_own_tag_and_no_other(void)
{
	struct trio lan = start();
	struct wire plain = wire_make(ANYBODY, A, 60, 1);

	filter_vlans(VLAN_8021Q);
	make_access(lan.a, 10);
	make_access(lan.b, 10);
	make_access(lan.c, 20);
	wire_pass(lan.a, wire_tag(plain, 0x8100, 20));
	wire_pass(lan.a, wire_tag(plain, 0x8100, 4095));
	CHECK(silent(lan) && dropped(lan.a, DROP_VLAN) == 2);
	CHECK(sw->fdb.used == 0); /* and nothing is learnt from it */
	wire_pass(lan.a, wire_tag(plain, 0x8100, 10));
	CHECK(wire_got(lan.b, plain) && silent(lan));
	wire_pass(lan.a, wire_tag(plain, 0x8100, 0xe000)); /* a priority, and no VLAN */
	CHECK(wire_got(lan.b, plain) && silent(lan));
	lab_stop();
}

static void a_trunk_carries_tags(void)
{
	struct trio lan = start();
	struct wire plain = wire_make(ANYBODY, A, 60, 1), back = wire_make(A, C, 60, 2);

	filter_vlans(VLAN_8021Q);
	make_access(lan.a, 10);
	make_access(lan.b, 20);
	make_trunk(lan.c, 0);
	wire_pass(lan.a, plain);
	CHECK(wire_got(lan.c, wire_tag(plain, 0x8100, 10)) && silent(lan));
	wire_pass(lan.c, wire_tag(back, 0x8100, 10));
	CHECK(wire_got(lan.a, back) && silent(lan));
	wire_pass(lan.c, wire_tag(back, 0x8100, 20)); /* A is in VLAN 10 only */
	CHECK(wire_got(lan.b, back) && silent(lan));
	wire_pass(lan.c, wire_tag(back, 0x8100, 30));
	wire_pass(lan.c, back);
	wire_pass(lan.c, wire_tag(back, 0x8100, 0));
	CHECK(silent(lan) && dropped(lan.c, DROP_VLAN) == 3);
	lab_stop();
}

static void the_native_vlan_of_a_trunk_has_no_tag(void)
{
	struct trio lan = start();
	struct wire plain = wire_make(ANYBODY, A, 60, 1);

	filter_vlans(VLAN_8021Q);
	make_access(lan.a, 5);
	make_access(lan.b, 10);
	make_trunk(lan.c, 5);
	wire_pass(lan.a, plain);
	CHECK(wire_got(lan.c, plain) && silent(lan));
	wire_pass(lan.c, plain);
	CHECK(wire_got(lan.a, plain) && silent(lan));
	wire_pass(lan.c, wire_tag(plain, 0x8100, 5)); /* with its tag, too */
	CHECK(wire_got(lan.a, plain) && silent(lan));
	lab_stop();
}

static void the_priority_of_a_tag_survives(void)
{
	struct trio lan = start();
	struct wire plain = wire_make(ANYBODY, A, 60, 1);

	filter_vlans(VLAN_8021Q);
	make_access(lan.a, 10);
	make_trunk(lan.b, 0);
	make_trunk(lan.c, 10);
	wire_pass(lan.a, wire_tag(plain, 0x8100, 0xb000));
	CHECK(wire_got(lan.b, wire_tag(plain, 0x8100, 0xb00a)) && wire_got(lan.c, plain) && silent(lan));
	wire_pass(lan.b, wire_tag(plain, 0x8100, 0x700a));
	CHECK(wire_got(lan.a, plain) && wire_got(lan.c, plain) && silent(lan));
	lab_stop();
}

static void a_provider_bridge_carries_customers_tags_inside(void)
{
	struct trio lan = start();
	struct wire customers = wire_tag(wire_make(ANYBODY, A, 60, 1), 0x8100, 77);

	filter_vlans(VLAN_8021AD);
	make_access(lan.a, 10);
	make_access(lan.b, 10);
	make_trunk(lan.c, 0);
	wire_pass(lan.a, customers);
	CHECK(wire_got(lan.b, customers) && wire_got(lan.c, wire_tag(customers, 0x88a8, 10)) && silent(lan));
	wire_pass(lan.c, wire_tag(customers, 0x88a8, 10));
	CHECK(wire_got(lan.a, customers) && wire_got(lan.b, customers) && silent(lan));
	wire_pass(lan.c, customers); /* no tag of the switch's own */
	CHECK(silent(lan) && dropped(lan.c, DROP_VLAN) == 1);
	lab_stop();
}

static void a_frame_that_ends_within_its_tag_is_a_runt(void)
{
	struct trio lan = start();
	struct wire cut = wire_tag(wire_make(ANYBODY, A, 18, 1), 0x8100, 1);

	filter_vlans(VLAN_8021Q);
	cut.len = 17;
	wire_pass(lan.a, cut);
	CHECK(silent(lan) && dropped(lan.a, DROP_RUNT) == 1);
	cut.len = 18;
	wire_pass(lan.a, cut);
	CHECK(wire_got(lan.b, wire_untag(cut)) && wire_got(lan.c, wire_untag(cut)) && silent(lan));
	lab_stop();
}

static void an_address_is_known_per_vlan(void)
{
	struct trio lan = start();
	struct wire to_c = wire_make(C, A, 60, 1);

	filter_vlans(VLAN_8021Q);
	make_access(lan.a, 10);
	make_access(lan.b, 20);
	make_trunk(lan.c, 0);
	wire_pass(lan.a, wire_make(ANYBODY, C, 60, 0));                       /* C in VLAN 10 at a */
	wire_pass(lan.c, wire_tag(wire_make(ANYBODY, C, 60, 0), 0x8100, 20)); /* and in VLAN 20 at c */
	wire_silent(lan.c), wire_silent(lan.b);
	CHECK(sw->fdb.used == 2);
	wire_pass(lan.b, to_c);
	CHECK(wire_got(lan.c, wire_tag(to_c, 0x8100, 20)) && silent(lan));
	wire_pass(lan.c, wire_tag(to_c, 0x8100, 10));
	CHECK(wire_got(lan.a, to_c) && silent(lan));
	lab_stop();
}

static void a_port_that_leaves_a_vlan_takes_its_addresses_along(void)
{
	struct trio lan = start();
	struct wire to_c = wire_tag(wire_make(C, A, 60, 1), 0x8100, 10);

	filter_vlans(VLAN_8021Q);
	make_trunk(lan.a, 0);
	make_trunk(lan.b, 0);
	make_trunk(lan.c, 0);
	wire_pass(lan.c, wire_tag(wire_make(ANYBODY, C, 60, 0), 0x8100, 10));
	wire_pass(lan.c, wire_tag(wire_make(ANYBODY, C, 60, 0), 0x8100, 20));
	while (!silent(lan))
		;
	make_access(lan.c, 20);
	CHECK(sw->fdb.used == 1);
	wire_pass(lan.a, to_c);
	CHECK(wire_got(lan.b, to_c) && silent(lan));
	lab_stop();
}

static void a_known_address_in_a_vlan_its_port_left_is_not_reached(void)
{
	struct trio lan = start();

	filter_vlans(VLAN_8021Q);
	CHECK(!vsw_fdb_pin(&sw->fdb, vsw_fdb_key(1, C), lan.c.port, engine->now));
	make_access(lan.c, 20);
	wire_pass(lan.a, wire_make(C, A, 60, 1));
	CHECK(silent(lan) && dropped(lan.a, DROP_VLAN) == 1);
	lab_stop();
}

static void a_tag_more_must_not_make_a_frame_too_long(void)
{
	struct trio lan = start();
	struct peer big = lan.a;

	filter_vlans(VLAN_8021Q);
	make_access(lan.a, 10);
	make_access(lan.b, 10);
	make_trunk(lan.c, 0);
	lab_send(big, ANYBODY, A, FRAME_MAX, 7);
	lab_settle();
	CHECK(lab_receive(lan.b) == 7 && silent(lan));
	CHECK(dropped(lan.c, DROP_TOO_LONG) == 1 && !dropped(lan.a, DROP_NOWHERE));
	lab_stop();
}

static void looking_at_tags_in_another_way_forgets_what_was_learnt(void)
{
	struct trio lan = start();

	introduce(lan);
	CHECK(!vsw_fdb_pin(&sw->fdb, vsw_fdb_key(1, 99), lan.a.port, engine->now));
	CHECK(sw->fdb.used == 4);
	filter_vlans(VLAN_8021Q);
	CHECK(sw->fdb.used == 1);
	introduce(lan);
	filter_vlans(VLAN_8021Q); /* no change */
	CHECK(sw->fdb.used == 4);
	filter_vlans(VLAN_8021AD);
	CHECK(sw->fdb.used == 1);
	lab_stop();
}

/* --- ageing, fdb_limit --- */

static void ageing_may_be_shortened(void)
{
	struct trio lan = start();
	struct switch_settings settings = sw->settings;

	introduce(lan);
	test_clock_ns += 20 * SECOND;
	settings.ageing = 20 * SECOND;
	vsw_switch_configure(sw, &settings);
	wire_pass(lan.a, wire_make(B, A, 60, 1));
	CHECK(wire_got(lan.b, wire_make(B, A, 60, 1)) && wire_got(lan.c, wire_make(B, A, 60, 1)));
	lab_stop();
}

static void ages_at_300_seconds_and_not_before(void)
{
	struct trio lan = start();

	introduce(lan);
	test_clock_ns += 299900000000ULL;
	wire_pass(lan.a, wire_make(B, A, 60, 1));
	CHECK(wire_got(lan.b, wire_make(B, A, 60, 1)) && silent(lan));
	test_clock_ns += 100000000ULL;
	wire_pass(lan.a, wire_make(B, A, 60, 2));
	CHECK(wire_got(lan.b, wire_make(B, A, 60, 2)) && wire_got(lan.c, wire_make(B, A, 60, 2)));
	lab_stop();
}

static void a_flooding_port_does_not_displace_what_others_have(void)
{
	struct switch_settings settings;
	struct trio lan = start();

	settings = sw->settings;
	settings.fdb_limit = 10;
	vsw_switch_configure(sw, &settings);
	introduce(lan);
	for (uint64_t i = 0; i < 1000; i++) {
		wire_pass(lan.c, wire_make(B, 0x020000000000ULL + i, 60, 1));
		CHECK(!wire_silent(lan.b));
	}
	CHECK(sw->fdb.used == 10 && lan.c.port->addresses.dynamic.n == 8);
	wire_pass(lan.c, wire_make(A, 1, 60, 1));
	CHECK(wire_got(lan.a, wire_make(A, 1, 60, 1)) && silent(lan));
	lab_stop();
}

/* --- reserved_multicast, control --- */

static void set_reserved(unsigned last, enum reserved_policy policy)
{
	struct switch_settings settings = sw->settings;

	settings.reserved[last] = (uint8_t)policy;
	vsw_switch_configure(sw, &settings);
}

static void reserved_groups_are_forwarded_by_default(void)
{
	struct trio lan = start();
	struct wire lldp = wire_make(LLDP, A, 60, 1);

	wire_pass(lan.a, lldp);
	CHECK(wire_got(lan.b, lldp) && wire_got(lan.c, lldp) && silent(lan));
	lab_stop();
}

static void each_reserved_group_has_a_policy_of_its_own(void)
{
	for (unsigned dropped_one = 0; dropped_one < 16; dropped_one++) {
		struct trio lan = start();

		set_reserved(dropped_one, RESERVED_DROP);
		for (unsigned i = 0; i < 17; i++) { /* :10 is no reserved one */
			wire_pass(lan.a, wire_make(STP + i, A, 60, 1));
			CHECK(wire_silent(lan.b) == (i == dropped_one));
			CHECK(wire_silent(lan.c) == (i == dropped_one));
		}
		CHECK(dropped(lan.a, DROP_RESERVED) == 1);
		lab_stop();
	}
}

static void a_dropped_reserved_frame_teaches_nothing(void)
{
	struct trio lan = start();

	set_reserved(0xe, RESERVED_DROP);
	wire_pass(lan.a, wire_make(LLDP, A, 60, 1));
	CHECK(silent(lan) && !sw->fdb.used);
	lab_stop();
}

static void delivered_reserved_frames_reach_control_ports_only(void)
{
	struct trio lan = start();
	struct wire lldp = wire_make(LLDP, A, 60, 1), voice = wire_make(LLDP, C, 60, 2);

	set_reserved(0xe, RESERVED_DELIVER);
	wire_pass(lan.a, lldp);
	CHECK(silent(lan) && dropped(lan.a, DROP_RESERVED) == 1); /* there is no control port */
	SET(lan.c, to->control = true);
	wire_pass(lan.a, lldp);
	CHECK(wire_got(lan.c, lldp) && silent(lan) && dropped(lan.a, DROP_RESERVED) == 1);
	wire_pass(lan.c, voice); /* the switch's own */
	CHECK(wire_got(lan.a, voice) && wire_got(lan.b, voice) && silent(lan));
	lab_stop();
}

static void a_control_port_is_told_whatever_the_vlan(void)
{
	struct trio lan = start();
	struct wire lldp = wire_make(LLDP, A, 60, 1);

	filter_vlans(VLAN_8021Q);
	set_reserved(0xe, RESERVED_DELIVER);
	make_trunk(lan.a, 0); /* an untagged frame would be dropped */
	make_access(lan.c, 20);
	SET(lan.c, to->control = true);
	wire_pass(lan.a, lldp);
	CHECK(wire_got(lan.c, lldp) && silent(lan) && !dropped(lan.a, DROP_VLAN));
	lab_stop();
}

/* --- isolated --- */

static void isolated_ports_exchange_nothing(void)
{
	struct trio lan = start();
	struct wire all = wire_make(ANYBODY, A, 60, 1), group = wire_make(GROUP, A, 60, 2);

	introduce(lan);
	SET(lan.a, to->isolated = true);
	SET(lan.b, to->isolated = true);
	wire_pass(lan.a, wire_make(B, A, 60, 3));
	CHECK(silent(lan) && dropped(lan.a, DROP_ISOLATED) == 1);
	wire_pass(lan.a, all);
	wire_pass(lan.a, group);
	CHECK(wire_got(lan.c, all) && wire_got(lan.c, group) && silent(lan));
	wire_pass(lan.a, wire_make(C, A, 60, 4));
	CHECK(wire_got(lan.c, wire_make(C, A, 60, 4)) && silent(lan));
	wire_pass(lan.c, wire_make(B, C, 60, 5));
	CHECK(wire_got(lan.b, wire_make(B, C, 60, 5)) && silent(lan));
	CHECK(dropped(lan.a, DROP_ISOLATED) == 1 && !dropped(lan.a, DROP_NOWHERE));
	lab_stop();
}

/* --- learning, unknown_flood, broadcast_flood, multicast_flood --- */

static void a_port_that_does_not_learn_is_flooded(void)
{
	struct trio lan = start();

	SET(lan.b, to->learning = false);
	introduce(lan);
	CHECK(sw->fdb.used == 2);
	wire_pass(lan.a, wire_make(B, A, 60, 1));
	CHECK(wire_got(lan.b, wire_make(B, A, 60, 1)) && wire_got(lan.c, wire_make(B, A, 60, 1)) && silent(lan));
	lab_stop();
}

static void floods_leave_only_where_they_may(void)
{
	struct wire unknown = wire_make(99, A, 60, 1), all = wire_make(ANYBODY, A, 60, 2);
	struct wire group = wire_make(GROUP, A, 60, 3), known = wire_make(B, A, 60, 4);

	for (unsigned off = 0; off < 3; off++) {
		struct trio lan = start();

		introduce(lan);
		SET(lan.b, to->unknown_flood = off != 0, to->broadcast_flood = off != 1,
		    to->multicast_flood = off != 2);
		wire_pass(lan.a, unknown);
		wire_pass(lan.a, all);
		wire_pass(lan.a, group);
		wire_pass(lan.a, known);
		CHECK(wire_got(lan.c, unknown) && wire_got(lan.c, all) && wire_got(lan.c, group));
		CHECK(off == 0 || wire_got(lan.b, unknown));
		CHECK(off == 1 || wire_got(lan.b, all));
		CHECK(off == 2 || wire_got(lan.b, group));
		CHECK(wire_got(lan.b, known) && silent(lan));
		CHECK(!dropped(lan.a, DROP_NOWHERE));
		lab_stop();
	}
}

static void what_is_flooded_nowhere_is_counted(void)
{
	struct trio lan = start();

	SET(lan.b, to->unknown_flood = false);
	SET(lan.c, to->unknown_flood = false);
	wire_pass(lan.a, wire_make(99, A, 60, 1));
	CHECK(silent(lan) && dropped(lan.a, DROP_NOWHERE) == 1);
	lab_stop();
}

/* --- storm_limit --- */

static void a_storm_is_cut_to_its_limit(void)
{
	struct trio lan = start();
	unsigned n = 0;

	introduce(lan);
	SET(lan.a, to->storm_limit = 100);
	for (unsigned i = 0; i < 8; i++) {
		wire_pass(lan.a, wire_make(ANYBODY, A, 60, 1));
		wire_pass(lan.a, wire_make(GROUP, A, 60, 2));
		wire_pass(lan.a, wire_make(99, A, 60, 3));
		wire_pass(lan.a, wire_make(B, A, 60, 4)); /* known: no storm */
	}
	while (!wire_silent(lan.c))
		n++;
	CHECK(n == 10 && dropped(lan.a, DROP_STORM) == 14); /* a tenth of a second's worth */
	for (n = 0; !wire_silent(lan.b);)
		n++;
	CHECK(n == 18);
	test_clock_ns += 30000000;
	for (unsigned i = 0; i < 8; i++)
		wire_pass(lan.a, wire_make(ANYBODY, A, 60, 1));
	for (n = 0; !wire_silent(lan.c);)
		n++;
	CHECK(n == 3);
	lab_stop();
}

/* Learning would keep such frames from being flooded, but not where it is off, or the table has no room. */
static void frames_from_and_to_one_unlearnt_address_are_limited_like_others(void)
{
	for (unsigned full = 0; full < 2; full++) {
		struct trio lan = start();
		struct switch_settings settings = sw->settings;

		settings.fdb_limit = full ? 0 : 100;
		vsw_switch_configure(sw, &settings);
		SET(lan.a, to->storm_limit = 20, to->learning = full);
		for (unsigned i = 0; i < 5; i++)
			wire_pass(lan.a, wire_make(A, A, 60, 1));
		CHECK(dropped(lan.a, DROP_STORM) == 3);
		CHECK(!wire_silent(lan.b) && !wire_silent(lan.b) && wire_silent(lan.b));
		lab_stop();
	}
}

static void frames_to_and_from_one_address_that_is_learnt_take_nothing_of_the_storm_limit(void)
{
	struct trio lan = start();

	SET(lan.a, to->storm_limit = 1);
	for (unsigned i = 0; i < 5; i++)
		wire_pass(lan.a, wire_make(A, A, 60, 1));
	CHECK(dropped(lan.a, DROP_SAME_PORT) == 5 && silent(lan));
	wire_pass(lan.a, wire_make(ANYBODY, A, 60, 1));
	CHECK(!dropped(lan.a, DROP_STORM) && !wire_silent(lan.b));
	lab_stop();
}

/* A destination that was known until this frame's source took its place in the table. */
static void a_frame_that_displaces_its_own_destination_is_limited_like_others(void)
{
	struct trio lan = start();
	struct switch_settings settings = sw->settings;

	settings.fdb_limit = 1;
	vsw_switch_configure(sw, &settings);
	SET(lan.a, to->storm_limit = 1);
	for (unsigned i = 0; i < 5; i++)
		wire_pass(lan.a, wire_make(i & 1 ? A : B, i & 1 ? B : A, 60, 1));
	CHECK(dropped(lan.a, DROP_STORM) == 4);
	CHECK(!wire_silent(lan.b) && wire_silent(lan.b));
	lab_stop();
}

static void a_frame_the_storm_limit_drops_teaches_nothing(void)
{
	struct trio lan = start();

	SET(lan.a, to->storm_limit = 1);
	wire_pass(lan.a, wire_make(ANYBODY, A, 60, 1));
	wire_pass(lan.a, wire_make(ANYBODY, B, 60, 1));
	CHECK(dropped(lan.a, DROP_STORM) == 1 && sw->fdb.used == 1);
	lab_stop();
}

/* --- mac_limit, static entries, sticky --- */

static void frames_from_beyond_the_mac_limit_are_dropped(void)
{
	for (unsigned careful = 0; careful < 2; careful++) {
		struct trio lan = start();

		SET(lan.a, to->mac_limit = 2, to->mtu = careful ? 9000 : 0);
		CHECK(!vsw_fdb_pin(&sw->fdb, 50, lan.a.port, engine->now)); /* counts */
		wire_pass(lan.a, wire_make(ANYBODY, 1, 60, 1));
		wire_pass(lan.a, wire_make(ANYBODY, 2, 60, 2));
		wire_pass(lan.a, wire_make(ANYBODY, 1, 60, 3));
		wire_pass(lan.a, wire_make(ANYBODY, 50, 60, 4));
		CHECK(wire_got(lan.b, wire_make(ANYBODY, 1, 60, 1)) && wire_got(lan.b, wire_make(ANYBODY, 1, 60, 3)));
		CHECK(wire_got(lan.b, wire_make(ANYBODY, 50, 60, 4)) && wire_silent(lan.b));
		CHECK(dropped(lan.a, DROP_MAC_LIMIT) == 1 && sw->fdb.used == 2);
		lab_stop();
	}
}

static void a_static_address_on_another_port_is_dropped(void)
{
	for (unsigned careful = 0; careful < 3; careful++) {
		struct trio lan = start();

		CHECK(!vsw_fdb_pin(&sw->fdb, B, lan.b.port, engine->now));
		SET(lan.a, to->mtu = careful == 1 ? 9000 : 0, to->learning = careful != 2);
		wire_pass(lan.a, wire_make(ANYBODY, B, 60, 1));
		CHECK(silent(lan) && dropped(lan.a, DROP_MOVED) == 1);
		test_clock_ns += 10000 * SECOND;
		wire_pass(lan.a, wire_make(B, A, 60, 2));
		CHECK(wire_got(lan.b, wire_make(B, A, 60, 2)) && silent(lan));
		lab_stop();
	}
}

static void a_sticky_port_keeps_its_addresses(void)
{
	struct trio lan = start();

	SET(lan.b, to->sticky = true);
	introduce(lan);
	test_clock_ns += 10000 * SECOND;
	wire_pass(lan.a, wire_make(B, A, 60, 1));
	CHECK(wire_got(lan.b, wire_make(B, A, 60, 1)) && silent(lan));
	wire_pass(lan.a, wire_make(ANYBODY, B, 60, 2));
	CHECK(silent(lan) && dropped(lan.a, DROP_MOVED) == 1);
	SET(lan.b, to->sticky = false);
	wire_pass(lan.a, wire_make(ANYBODY, B, 60, 3)); /* now it moves */
	CHECK(wire_got(lan.b, wire_make(ANYBODY, B, 60, 3)));
	CHECK(lan.a.port->addresses.dynamic.n == 2 && !lan.b.port->addresses.lasting.n);
	lab_stop();
}

static void lasting_addresses_of_a_port_that_is_down_are_not_flooded(void)
{
	struct trio lan = start();

	introduce(lan);
	CHECK(!vsw_fdb_pin(&sw->fdb, 50, lan.b.port, engine->now));
	close(lan.b.fd);
	lab_settle();
	CHECK(lan.b.port->state == PORT_CLOSED && !lan.b.port->addresses.dynamic.n);
	wire_pass(lan.a, wire_make(50, A, 60, 1));
	CHECK(wire_silent(lan.c) && dropped(lan.b, DROP_CLOSED) == 1);
	for (uint64_t i = 0; i < 3; i++)
		wire_send(lan.a, &(struct wire){ .len = 60, .bytes = { i ? 0xff : 0, 0, 0, 0, 0, i ? 0xff : 50, 2 } });
	lab_settle(); /* in one burst with what is flooded */
	CHECK(!wire_silent(lan.c) && !wire_silent(lan.c) && wire_silent(lan.c) && dropped(lan.b, DROP_CLOSED) == 2);
	wire_pass(lan.a, wire_make(B, A, 60, 2)); /* learnt: forgotten with the carrier */
	CHECK(wire_got(lan.c, wire_make(B, A, 60, 2)));
	vsw_port_free(lan.b.port);
	CHECK(!vsw_fdb_remove(&sw->fdb, 50));
	lab_stop();
}

/* --- mtu --- */

static void mtu_holds_both_ways(void)
{
	struct trio lan = start();
	struct wire fits = wire_make(ANYBODY, A, 114, 1), tagged = wire_tag(fits, 0x8100, 5);
	struct wire too_long = wire_make(ANYBODY, A, 115, 2);
	struct wire twice = wire_tag(tagged, 0x88a8, 5); /* one tag is allowed for */

	SET(lan.a, to->mtu = 100);
	wire_pass(lan.a, fits);
	wire_pass(lan.a, tagged);
	wire_pass(lan.a, too_long);
	wire_pass(lan.a, twice);
	CHECK(wire_got(lan.b, fits) && wire_got(lan.b, tagged) && wire_silent(lan.b));
	CHECK(dropped(lan.a, DROP_OVERSIZE) == 2);
	while (!silent(lan))
		;
	wire_pass(lan.c, fits);
	wire_pass(lan.c, tagged);
	wire_pass(lan.c, too_long);
	wire_pass(lan.c, twice);
	CHECK(wire_got(lan.a, fits) && wire_got(lan.a, tagged) && wire_silent(lan.a));
	CHECK(dropped(lan.a, DROP_TOO_LONG) == 2 && wire_got(lan.b, fits));
	lab_stop();
}

static void mtu_holds_for_unicast_and_mixed_bursts(void)
{
	struct trio lan = start();
	struct wire first = wire_make(A, B, 60, 1), second = wire_make(A, B, 115, 2), third = wire_make(C, B, 115, 3);

	introduce(lan);
	SET(lan.a, to->mtu = 100);
	wire_send(lan.b, &second);
	wire_send(lan.b, &third);
	wire_send(lan.b, &first);
	lab_settle();
	CHECK(wire_got(lan.a, first) && wire_got(lan.c, third) && silent(lan));
	CHECK(dropped(lan.a, DROP_TOO_LONG) == 1);
	lab_stop();
}

/* --- hairpin --- */

static void hairpin_sends_back_where_it_came_from(void)
{
	struct trio lan = start();
	struct wire between = wire_make(A, 99, 60, 1), all = wire_make(ANYBODY, A, 60, 2);

	introduce(lan);
	wire_pass(lan.a, between);
	CHECK(silent(lan) && dropped(lan.a, DROP_SAME_PORT) == 1);
	SET(lan.a, to->hairpin = true);
	wire_pass(lan.a, between);
	CHECK(wire_got(lan.a, between) && silent(lan));
	wire_pass(lan.a, all);
	CHECK(wire_got(lan.a, all) && wire_got(lan.b, all) && wire_got(lan.c, all) && silent(lan));
	lab_stop();
}

/* The peer leaves in the very burst that would be sent back to it. */
static void hairpin_survives_the_end_of_its_port(void)
{
	struct trio lan = start();

	SET(lan.a, to->hairpin = true);
	for (unsigned i = 0; i < 200; i++)
		wire_send(lan.a, &(struct wire){ .len = 60, .bytes = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2 } });
	close(lan.a.fd);
	lab_settle();
	CHECK(lan.a.port->state == PORT_CLOSED);
	CHECK(!wire_silent(lan.b) && !wire_silent(lan.c));
	lab_stop();
}

/* --- overflow --- */

static void overflow_drop_pauses_nobody(void)
{
	for (unsigned drop = 0; drop < 2; drop++) {
		struct trio lan = start();
		static uint8_t burst[64 * 1518];

		introduce(lan);
		SET(lan.b, to->overflow_drop = drop);
		for (unsigned i = 0; i < 64; i++)
			make_frame(burst + (size_t)i * 1518, B, A, 1514, i);
		for (unsigned i = 0; i < 40; i++) {
			ssize_t n = write(lan.a.fd, burst, sizeof(burst));

			CHECK(n == (ssize_t)sizeof(burst) || !drop);
			lab_settle();
			if (n != (ssize_t)sizeof(burst))
				break;
		}
		CHECK((lan.a.port->pauses == 0) == drop && (dropped(lan.b, DROP_OVERFLOW) > 0) == drop);
		CHECK(drop || lan.a.port->waits_for == lan.b.port);
		SET(lan.b, to->overflow_drop = true); /* lets those go on that wait */
		CHECK(!lan.a.port->waits_for);
		lab_stop();
	}
}

/* --- counters --- */

static void frames_are_counted_by_cast_each_way(void)
{
	struct trio lan = start();
	const struct traffic *rx = &lan.a.port->rx, *tx = &lan.b.port->tx;

	introduce(lan);
	*(struct traffic *)rx = *(struct traffic *)tx = (struct traffic){ 0 };
	wire_pass(lan.a, wire_make(B, A, 60, 1));
	wire_pass(lan.a, wire_make(B, A, 61, 1));
	wire_pass(lan.a, wire_make(GROUP, A, 70, 1));
	wire_pass(lan.a, wire_make(ANYBODY, A, 80, 1));
	CHECK(rx->frames == 4 && rx->bytes == 271);
	CHECK(rx->multicast_frames == 1 && rx->multicast_bytes == 70);
	CHECK(rx->broadcast_frames == 1 && rx->broadcast_bytes == 80);
	CHECK(!memcmp(rx, tx, sizeof(*rx)));
	lab_stop();
}

/* What waits in a queue is counted when it has gone, as what it is. */
static void queued_frames_are_counted_by_cast(void)
{
	struct trio lan = start();
	uint64_t n[3] = { 0 };
	static const uint64_t to[] = { 99, GROUP, ANYBODY };
	struct wire got;

	for (unsigned i = 0; i < 6000; i++) {
		wire_pass(lan.a, wire_make(to[i % 7 % 3], A, 200, 1));
		while (wire_receive(lan.c, &got))
			;
	}
	CHECK(lan.b.port->tx.frames < 6000);
	for (unsigned i = 0; i < 3; i++)
		n[i] = 0;
	for (unsigned turns = 0; turns < 100; turns++) {
		while (wire_receive(lan.b, &got))
			n[got.bytes[0] == 0xff ? 2 : got.bytes[0] & 1]++;
		lab_settle();
	}
	CHECK(n[0] + n[1] + n[2] == lan.b.port->tx.frames && n[0] && n[1] && n[2]);
	CHECK(n[1] == lan.b.port->tx.multicast_frames && n[2] == lan.b.port->tx.broadcast_frames);
	CHECK(lan.b.port->tx.broadcast_bytes == n[2] * 200);
	lab_stop();
}

/* --- hub --- */

static void a_hub_cares_for_mtu_only(void)
{
	struct peer a, b, c;
	struct wire tagged = wire_tag(wire_make(B, A, 60, 1), 0x8100, 9), too_long = wire_make(B, A, 115, 2);

	lab_start(true, 8192);
	a = lab_add_peer(), b = lab_add_peer(), c = lab_add_peer();
	filter_vlans(VLAN_8021Q);
	set_reserved(0, RESERVED_DROP);
	SET(a, to->isolated = true, to->mac_limit = 1, to->storm_limit = 1, to->hairpin = true, to->mtu = 100);
	SET(b, to->isolated = true, to->unknown_flood = false, to->broadcast_flood = false);
	wire_pass(a, tagged);
	wire_pass(a, wire_make(STP, B, 60, 3));
	wire_pass(a, too_long);
	CHECK(wire_got(b, tagged) && wire_got(c, tagged) && wire_got(b, wire_make(STP, B, 60, 3)) && wire_silent(a));
	CHECK(wire_silent(b) && dropped(a, DROP_OVERSIZE) == 1);
	wire_pass(b, too_long);
	CHECK(wire_silent(a) && dropped(a, DROP_TOO_LONG) == 1);
	CHECK(!sw->fdb.used);
	lab_stop();
}

int main(void)
{
	RUN(without_vlan_filtering_tags_are_payload);
	RUN(access_ports_separate_vlans);
	RUN(an_access_port_takes_its_own_tag_and_no_other);
	RUN(a_trunk_carries_tags);
	RUN(the_native_vlan_of_a_trunk_has_no_tag);
	RUN(the_priority_of_a_tag_survives);
	RUN(a_provider_bridge_carries_customers_tags_inside);
	RUN(a_frame_that_ends_within_its_tag_is_a_runt);
	RUN(an_address_is_known_per_vlan);
	RUN(a_port_that_leaves_a_vlan_takes_its_addresses_along);
	RUN(a_known_address_in_a_vlan_its_port_left_is_not_reached);
	RUN(a_tag_more_must_not_make_a_frame_too_long);
	RUN(looking_at_tags_in_another_way_forgets_what_was_learnt);
	RUN(ageing_may_be_shortened);
	RUN(ages_at_300_seconds_and_not_before);
	RUN(a_flooding_port_does_not_displace_what_others_have);
	RUN(reserved_groups_are_forwarded_by_default);
	RUN(each_reserved_group_has_a_policy_of_its_own);
	RUN(a_dropped_reserved_frame_teaches_nothing);
	RUN(delivered_reserved_frames_reach_control_ports_only);
	RUN(a_control_port_is_told_whatever_the_vlan);
	RUN(isolated_ports_exchange_nothing);
	RUN(a_port_that_does_not_learn_is_flooded);
	RUN(floods_leave_only_where_they_may);
	RUN(what_is_flooded_nowhere_is_counted);
	RUN(a_storm_is_cut_to_its_limit);
	RUN(frames_from_and_to_one_unlearnt_address_are_limited_like_others);
	RUN(frames_to_and_from_one_address_that_is_learnt_take_nothing_of_the_storm_limit);
	RUN(a_frame_that_displaces_its_own_destination_is_limited_like_others);
	RUN(a_frame_the_storm_limit_drops_teaches_nothing);
	RUN(frames_from_beyond_the_mac_limit_are_dropped);
	RUN(a_static_address_on_another_port_is_dropped);
	RUN(a_sticky_port_keeps_its_addresses);
	RUN(lasting_addresses_of_a_port_that_is_down_are_not_flooded);
	RUN(mtu_holds_both_ways);
	RUN(mtu_holds_for_unicast_and_mixed_bursts);
	RUN(hairpin_sends_back_where_it_came_from);
	RUN(hairpin_survives_the_end_of_its_port);
	RUN(overflow_drop_pauses_nobody);
	RUN(frames_are_counted_by_cast_each_way);
	RUN(queued_frames_are_counted_by_cast);
	RUN(a_hub_cares_for_mtu_only);
	return 0;
}
