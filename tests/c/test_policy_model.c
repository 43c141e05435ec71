/* SPDX-License-Identifier: BSD-2-Clause */
/* Random frames and settings through a switch and through the plainest model of one: the same frames must come out of each
 * port, in the same order, and the same drops be counted. The model takes one frame after the other, knows nothing of
 * batches, and looks for everything by going through all there is.
 */
#include "wire.h"

enum { PORTS = 6, KNOWN_MAX = 400, QUEUE = 64, STEPS = 10000, SEEDS = 4, BURST = 6 };

#define AGEING (300 * SECOND)

struct known {
	uint16_t vlan;
	uint64_t mac;
	unsigned port;
	uint64_t seen;
	enum fdb_kind kind;
};

struct model_port {
	struct peer peer;
	bool up;
	struct port_settings settings;
	double tokens; /* frames */
	uint64_t tokens_at;
	uint64_t drops[NUM_DROPS];
	struct wire expected[QUEUE];
	unsigned n_expected;
};

static struct model_port model[PORTS];
static struct switch_settings model_switch;
static struct known table[KNOWN_MAX];
static unsigned n_known;
static unsigned long sent, moved, delivered, dropped[NUM_DROPS];

static long pick(long n)
{
	return random() % n;
}

static bool rarely(void)
{
	return !pick(8);
}

/* --- the model's table --- */

static void forget(unsigned i)
{
	table[i] = table[--n_known];
}

static void age_table(void)
{
	for (unsigned i = n_known; i-- > 0;)
		if (table[i].kind == FDB_DYNAMIC && test_clock_ns - table[i].seen >= AGEING)
			forget(i);
}

static struct known *find_known(uint16_t vlan, uint64_t mac)
{
	for (unsigned i = 0; i < n_known; i++)
		if (table[i].vlan == vlan && table[i].mac == mac)
			return &table[i];
	return NULL;
}

static unsigned count_on(unsigned port)
{
	unsigned n = 0;

	for (unsigned i = 0; i < n_known; i++)
		n += table[i].port == port;
	return n;
}

static void note(uint16_t vlan, uint64_t mac, unsigned port, enum fdb_kind kind)
{
	struct known *known = find_known(vlan, mac);

	if (!known) {
		CHECK(n_known < KNOWN_MAX);
		known = &table[n_known++];
	}
	*known = (struct known){ vlan, mac, port, test_clock_ns, kind };
}

/* --- the model's frames --- */

static unsigned get16(const uint8_t *at)
{
	return (unsigned)at[0] << 8 | at[1];
}

static uint64_t get_mac(const uint8_t *at)
{
	uint64_t mac = 0;

	for (unsigned i = 0; i < 6; i++)
		mac = mac << 8 | at[i];
	return mac;
}

static bool is_in(const struct model_port *port, unsigned vlan)
{
	return port->settings.members[vlan / 8] & 1 << vlan % 8;
}

static bool is_beyond_mtu(const struct model_port *port, const struct wire *wire)
{
	unsigned type = get16(wire->bytes + 12);
	uint32_t header = type == 0x8100 || type == 0x88a8 ? 18 : 14;

	return port->settings.mtu && wire->len > header + port->settings.mtu;
}

static void count(unsigned i, enum drop drop)
{
	model[i].drops[drop]++;
	dropped[drop]++;
}

static void expect(unsigned to, struct wire wire)
{
	struct model_port *port = &model[to];

	if (!port->up) {
		count(to, DROP_CLOSED);
	} else if (is_beyond_mtu(port, &wire)) {
		count(to, DROP_TOO_LONG);
	} else {
		CHECK(port->n_expected < QUEUE);
		port->expected[port->n_expected++] = wire;
		delivered++;
	}
}

/* What leaves by `to`: `bare` has no tag of the switch's. */
static struct wire dressed(unsigned to, struct wire bare, unsigned tci)
{
	if ((tci & 0xfff) == model[to].settings.pvid)
		return bare;
	return wire_tag(bare, model_switch.vlan_protocol, tci);
}

static bool has_token(struct model_port *port)
{
	double rate = port->settings.storm_limit, burst = rate / 10 >= 1 ? (double)((unsigned)rate / 10) : 1;

	port->tokens += rate * (double)(test_clock_ns - port->tokens_at) / 1e9;
	port->tokens_at = test_clock_ns;
	if (port->tokens > burst)
		port->tokens = burst;
	if (port->tokens < 0.999999)
		return false;
	port->tokens -= 1;
	return true;
}

static bool apart(unsigned a, unsigned b)
{
	return (a == b && !model[a].settings.hairpin) || (model[a].settings.isolated && model[b].settings.isolated);
}

static enum drop trap(unsigned in, const struct wire *wire)
{
	bool anybody = false;

	for (unsigned to = 0; to < PORTS; to++) {
		if (!model[to].up || apart(in, to) || !model[to].settings.control)
			continue;
		expect(to, *wire);
		anybody = true;
	}
	return anybody ? NUM_DROPS : DROP_RESERVED;
}

static enum drop flood(unsigned in, struct wire wire, struct wire bare, uint64_t mac, unsigned tci)
{
	bool anybody = false;

	for (unsigned to = 0; to < PORTS; to++) {
		const struct port_settings *settings = &model[to].settings;

		if (!model[to].up || apart(in, to))
			continue;
		if (mac == ANYBODY && !settings->broadcast_flood)
			continue;
		if (mac != ANYBODY && (mac >> 40 & 1) && !settings->multicast_flood)
			continue;
		if (!(mac >> 40 & 1) && !settings->unknown_flood)
			continue;
		if (model_switch.vlan_filtering && !is_in(&model[to], tci & 0xfff))
			continue;
		expect(to, model_switch.vlan_filtering ? dressed(to, bare, tci) : wire);
		anybody = true;
	}
	return anybody ? NUM_DROPS : DROP_NOWHERE;
}

/* Take one frame. Return NUM_DROPS, or why it was dropped. */
static enum drop take(unsigned in, struct wire wire)
{
	struct model_port *port = &model[in];
	uint64_t to_mac = get_mac(wire.bytes), from_mac = get_mac(wire.bytes + 6);
	struct wire bare = wire;
	struct known *known;
	unsigned tci = 0;
	bool floods, asked;

	age_table();
	if (is_beyond_mtu(port, &wire))
		return DROP_OVERSIZE;
	if (from_mac >> 40 & 1)
		return DROP_BAD_SOURCE;
	if (to_mac >= 0x0180c2000000ULL && to_mac <= 0x0180c200000fULL && !port->settings.control) {
		if (model_switch.reserved[to_mac & 15] == RESERVED_DROP)
			return DROP_RESERVED;
		if (model_switch.reserved[to_mac & 15] == RESERVED_DELIVER)
			return trap(in, &wire);
	}
	if (model_switch.vlan_filtering) {
		if (get16(wire.bytes + 12) == model_switch.vlan_protocol) {
			if (wire.len < 18)
				return DROP_RUNT;
			tci = get16(wire.bytes + 14);
			bare = wire_untag(wire);
		}
		if (!(tci & 0xfff) && !port->settings.pvid)
			return DROP_VLAN;
		if (!(tci & 0xfff))
			tci += port->settings.pvid;
		else if (!is_in(port, tci & 0xfff))
			return DROP_VLAN;
	}
	known = find_known(tci & 0xfff, from_mac);
	if (known && known->port != in && known->kind != FDB_DYNAMIC)
		return DROP_MOVED;
	if (!(known && known->port == in) && port->settings.mac_limit && count_on(in) >= port->settings.mac_limit)
		return DROP_MAC_LIMIT;
	floods = (to_mac >> 40 & 1) || !find_known(tci & 0xfff, to_mac);
	asked = floods && !(port->settings.learning && to_mac == from_mac);
	if (asked && port->settings.storm_limit && !has_token(port))
		return DROP_STORM;
	if (port->settings.learning) {
		moved += known && known->port != in;
		if (known && known->port == in)
			known->seen = test_clock_ns;
		else
			note(tci & 0xfff, from_mac, in, port->settings.sticky ? FDB_STICKY : FDB_DYNAMIC);
	}
	known = to_mac >> 40 & 1 ? NULL : find_known(tci & 0xfff, to_mac);
	if (!known && !asked && port->settings.storm_limit && !has_token(port))
		return DROP_STORM;
	if (!known)
		return flood(in, wire, bare, to_mac, tci);
	if (known->port == in && !port->settings.hairpin)
		return DROP_SAME_PORT;
	if (port->settings.isolated && model[known->port].settings.isolated)
		return DROP_ISOLATED;
	if (model_switch.vlan_filtering && !is_in(&model[known->port], tci & 0xfff))
		return DROP_VLAN;
	expect(known->port, model_switch.vlan_filtering ? dressed(known->port, bare, tci) : wire);
	return NUM_DROPS;
}

/* --- what is done to both --- */

static uint64_t random_mac(void)
{
	return 0x020000000000ULL + (uint64_t)pick(9);
}

static uint64_t random_destination(void)
{
	switch (pick(10)) {
	case 0:
		return ANYBODY;
	case 1:
		return 0x333300000000ULL + (uint64_t)pick(2);
	case 2:
		return 0x0180c2000000ULL + (uint64_t)pick(17);
	default:
		return random_mac();
	}
}

static const uint16_t vlans[] = { 1, 10, 20, 30 };

static struct wire random_wire(void)
{
	static int fill;
	uint64_t from = pick(40) ? random_mac() : random_destination();
	struct wire wire = wire_make(random_destination(), from, (uint32_t)(rarely() ? 18 + pick(6) : 18 + pick(200)),
				     fill++ & 0xff);

	for (long n = pick(3); n > 0; n--) {
		unsigned vlan = rarely() ? (rarely() ? 4095 : 0) : vlans[pick(4)];

		wire = wire_tag(wire, pick(2) ? 0x8100 : 0x88a8, (unsigned)pick(16) << 12 | vlan);
	}
	if (rarely() && rarely())
		wire.len = (uint32_t)(14 + pick(5)); /* perhaps cut within its tag */
	return wire;
}

static struct port_settings random_port_settings(void)
{
	struct port_settings settings = PORT_SETTINGS_DEFAULT;

	settings.isolated = rarely();
	settings.learning = !rarely();
	settings.unknown_flood = !rarely();
	settings.broadcast_flood = !rarely();
	settings.multicast_flood = !rarely();
	settings.sticky = rarely();
	settings.hairpin = rarely();
	settings.control = rarely();
	settings.mtu = rarely() ? 68 + (uint32_t)pick(60) : 0;
	settings.mac_limit = rarely() ? 1 + (uint32_t)pick(4) : 0;
	settings.storm_limit = rarely() ? 1 + (uint32_t)pick(40) : 0;
	memset(settings.members, 0, sizeof(settings.members));
	for (unsigned i = 0; i < 4; i++)
		if (pick(2))
			settings.members[vlans[i] / 8] |= (uint8_t)(1 << vlans[i] % 8);
	settings.pvid = vlans[pick(4)];
	if (!(settings.members[settings.pvid / 8] & 1 << settings.pvid % 8))
		settings.pvid = 0;
	return settings;
}

static void change_port(unsigned i)
{
	struct port_settings before = model[i].settings, after = random_port_settings();

	CHECK(!vsw_switch_configure_port(model[i].peer.port, &after));
	age_table();
	model[i].settings = after;
	if (before.storm_limit != after.storm_limit) {
		model[i].tokens = after.storm_limit / 10 ? after.storm_limit / 10 : 1;
		model[i].tokens_at = test_clock_ns;
	}
	for (unsigned k = n_known; k-- > 0;) {
		if (table[k].port != i || table[k].kind == FDB_STATIC)
			continue;
		if (model_switch.vlan_filtering && memcmp(before.members, after.members, sizeof(after.members)) != 0 &&
		    !is_in(&model[i], table[k].vlan)) {
			forget(k);
		} else if (before.sticky != after.sticky) {
			table[k].kind = after.sticky ? FDB_STICKY : FDB_DYNAMIC;
			table[k].seen = test_clock_ns;
		}
	}
}

static void change_switch(void)
{
	struct switch_settings settings = model_switch;
	bool other;

	settings.vlan_filtering = pick(3);
	settings.vlan_protocol = pick(2) ? VLAN_8021Q : VLAN_8021AD;
	for (unsigned i = 0; i < RESERVED_GROUPS; i++)
		settings.reserved[i] = pick(3) ? RESERVED_FORWARD : (uint8_t)pick(3);
	other = settings.vlan_filtering != model_switch.vlan_filtering ||
		settings.vlan_protocol != model_switch.vlan_protocol;
	vsw_switch_configure(sw, &settings);
	model_switch = settings;
	for (unsigned k = n_known; other && k-- > 0;)
		if (table[k].kind != FDB_STATIC)
			forget(k);
}

/* The peer hangs up; or, if it has, a new port takes the place. */
static void flap(unsigned i)
{
	struct model_port *port = &model[i];

	age_table();
	if (port->up) {
		close(port->peer.fd);
		lab_settle();
		port->up = false;
		for (unsigned k = n_known; k-- > 0;)
			if (table[k].port == i && table[k].kind == FDB_DYNAMIC)
				forget(k);
		return;
	}
	vsw_port_free(port->peer.port);
	for (unsigned k = n_known; k-- > 0;)
		if (table[k].port == i)
			forget(k);
	*port = (struct model_port){ .peer = lab_add_peer(), .up = true, .settings = PORT_SETTINGS_DEFAULT };
}

static void change_static(unsigned i)
{
	uint16_t vlan = model_switch.vlan_filtering ? vlans[pick(4)] : 0;
	uint64_t mac = random_mac();
	struct known *known;

	age_table();
	known = find_known(vlan, mac);
	if (pick(3)) {
		bool was_there = vsw_fdb_remove(&sw->fdb, vsw_fdb_key(vlan, mac));

		CHECK(was_there || !known); /* what is too old may or may not be there still */
		if (known)
			forget((unsigned)(known - table));
		return;
	}
	CHECK(!vsw_fdb_pin(&sw->fdb, vsw_fdb_key(vlan, mac), model[i].peer.port, engine->now));
	note(vlan, mac, i, FDB_STATIC);
}

static void send_burst(unsigned in)
{
	for (long n = 1 + pick(BURST); n > 0; n--) {
		struct wire wire = random_wire();
		enum drop drop;

		sent++;
		wire_send(model[in].peer, &wire);
		drop = take(in, wire);
		if (drop != NUM_DROPS)
			count(in, drop);
	}
	lab_settle();
}

static void compare(void)
{
	for (unsigned i = 0; i < PORTS; i++) {
		struct model_port *port = &model[i];

		CHECK(port->up == (port->peer.port->state == PORT_UP));
		for (unsigned k = 0; k < port->n_expected; k++)
			CHECK(wire_got(port->peer, port->expected[k]));
		CHECK(!port->up || wire_silent(port->peer));
		port->n_expected = 0;
		for (unsigned drop = 0; drop < NUM_DROPS; drop++)
			CHECK(port->peer.port->drops[drop] == port->drops[drop]);
		for (unsigned k = 0; k < n_known; k++)
			CHECK(table[k].port != i ||
			      vsw_fdb_find(&sw->fdb, vsw_fdb_key(table[k].vlan, table[k].mac),
					   vsw_fdb_hash(&sw->fdb, vsw_fdb_key(table[k].vlan, table[k].mac)))
					      ->port == port->peer.port);
	}
}

static void run_steps(unsigned seed)
{
	srandom(seed);
	n_known = 0;
	lab_start(false, 8192);
	model_switch = sw->settings;
	for (unsigned i = 0; i < PORTS; i++)
		model[i] = (struct model_port){ .peer = lab_add_peer(), .up = true, .settings = PORT_SETTINGS_DEFAULT };
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned i = (unsigned)pick(PORTS);

		/* More than an FDB epoch, so that what is too old is known to be. */
		if (rarely())
			test_clock_ns += rarely() ? 150 * SECOND : SECOND;
		engine->now = test_clock_ns;
		switch (pick(40)) {
		case 0:
			change_switch();
			break;
		case 1:
		case 2:
			change_port(i);
			break;
		case 3:
			change_static(i);
			break;
		case 4:
			if (!model[i].up || rarely())
				flap(i);
			break;
		default:
			if (model[i].up)
				send_burst(i);
			break;
		}
		compare();
	}
	for (unsigned i = 0; i < PORTS; i++)
		if (model[i].up)
			close(model[i].peer.fd);
	lab_stop();
}

static void agrees_with_the_plainest_model(void)
{
	/* A matter of ports, not of the switch. */
	static const bool by_ports[NUM_DROPS] = {
		[DROP_NO_CHECKSUM] = true, [DROP_BAD_OFFLOAD] = true, [DROP_BAD_SESSION] = true,
		[DROP_BAD_COOKIE] = true,  [DROP_MISSED] = true,      [DROP_OVERFLOW] = true,
		[DROP_LINK_DOWN] = true,   [DROP_UNWANTED] = true,    [DROP_REFUSED] = true,
	};

	for (unsigned seed = 20; seed < 20 + SEEDS; seed++)
		run_steps(seed);
	printf("%lu frames sent, %lu delivered, %lu addresses moved\n", sent, delivered, moved);
	CHECK(delivered > STEPS * SEEDS && moved > 100);
	for (unsigned drop = 0; drop < NUM_DROPS; drop++) {
		if (by_ports[drop])
			continue;
		printf("%s %lu\n", vsw_drop_names[drop], dropped[drop]);
		CHECK(dropped[drop] > 20); /* or the test has missed what it is for */
	}
}

int main(void)
{
	RUN(agrees_with_the_plainest_model);
	return 0;
}
