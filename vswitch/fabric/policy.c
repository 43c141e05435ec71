/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy.h"

#include "batch.h"
#include "engine.h"
#include "switch.h"
#include "vlan.h"

#define RESERVED_PREFIX 0x0180c2000000ULL
#define RESERVED_MASK   0xfffffffffff0ULL

/* How a frame is flooded, if it is. */
enum cast { CAST_UNICAST, CAST_MULTICAST, CAST_BROADCAST, CAST_CONTROL };

enum form { FORM_UNTAGGED, FORM_TAGGED, NUM_FORMS };

/* What is known of each admitted frame beside what the batch says. */
struct careful {
	struct batch batch;
	struct frame frames[FRAME_BATCH]; /* as they came */
	uint8_t casts[FRAME_BATCH];       /* enum cast */
	bool taken[FRAME_BATCH];          /* flooded, and some port was there for it */
	bool flooded_alike;               /* all flooded frames have one cast and one VLAN */

	/* Only on a switch that filters VLANs. A form that no port has asked for yet has no head. */
	struct vlan_tag tags[FRAME_BATCH];
	struct frame forms[NUM_FORMS][FRAME_BATCH];
	struct vlan_room room[NUM_FORMS][FRAME_BATCH];
};

/* --- admitting --- */

unsigned vsw_policy_fitting(const struct port *port, const struct frame *frames, unsigned n, struct frame *list)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++)
		if (vsw_vlan_payload(&frames[i]) <= port->settings.mtu)
			list[kept++] = frames[i];
	return kept;
}

static enum reserved_policy policy_for(const struct port *in, uint64_t destination)
{
	if ((destination & RESERVED_MASK) != RESERVED_PREFIX || in->settings.control)
		return RESERVED_FORWARD;
	return in->sw->settings.reserved[destination & ~RESERVED_MASK];
}

static enum cast cast_of(uint64_t destination)
{
	if (!frame_is_group(destination))
		return CAST_UNICAST;
	return destination == FRAME_BROADCAST ? CAST_BROADCAST : CAST_MULTICAST;
}

/* Read the tag of the frame to be admitted as number `i`, and say which VLAN it is in. Return NUM_DROPS, or why it is not
 * taken.
 */
static enum drop admit_vlan(struct careful *careful, const struct frame *frame, unsigned i)
{
	const struct port *in = careful->batch.in;
	struct vlan_tag *tag = &careful->tags[i];

	if (!vsw_vlan_read(frame, in->sw->settings.vlan_protocol, tag))
		return DROP_RUNT;
	careful->forms[FORM_UNTAGGED][i].head = careful->forms[FORM_TAGGED][i].head = NULL;
	if (!tag->there)
		careful->forms[FORM_UNTAGGED][i] = *frame;
	else if (tag->tci & VLAN_ID_MASK)
		careful->forms[FORM_TAGGED][i] = *frame; /* and a priority tag leaves in neither form */
	return vsw_vlan_classify(&in->settings, tag) ? NUM_DROPS : DROP_VLAN;
}

/* Take a frame in as number `i`. Return NUM_DROPS, or why not. */
static enum drop admit(struct careful *careful, const struct frame *frame, unsigned i)
{
	struct batch *batch = &careful->batch;
	struct port *in = batch->in;
	const struct switch_settings *settings = &in->sw->settings;
	uint64_t source = frame_source(frame), destination = frame_destination(frame);
	uint16_t vlan = 0;

	if (in->settings.mtu && vsw_vlan_payload(frame) > in->settings.mtu)
		return DROP_OVERSIZE;
	if (frame_is_group(source))
		return DROP_BAD_SOURCE;
	careful->frames[i] = *frame;
	careful->taken[i] = false;
	careful->tags[i] = (struct vlan_tag){ 0 };
	switch (policy_for(in, destination)) {
	case RESERVED_DROP:
		return DROP_RESERVED;
	case RESERVED_DELIVER:
		careful->casts[i] = CAST_CONTROL;
		return NUM_DROPS;
	default:
		careful->casts[i] = (uint8_t)cast_of(destination);
	}
	if (settings->vlan_filtering) {
		enum drop reason = admit_vlan(careful, frame, i);

		if (reason != NUM_DROPS)
			return reason;
		vlan = careful->tags[i].tci & VLAN_ID_MASK;
	}
	batch->sources[i] = vsw_fdb_key(vlan, source);
	batch->destinations[i] = vsw_fdb_key(vlan, destination);
	batch->source_hashes[i] = vsw_fdb_hash(&in->sw->fdb, batch->sources[i]);
	batch->destination_hashes[i] = vsw_fdb_hash(&in->sw->fdb, batch->destinations[i]);
	vsw_fdb_prefetch(&in->sw->fdb, batch->source_hashes[i]);
	vsw_fdb_prefetch(&in->sw->fdb, batch->destination_hashes[i]);
	return NUM_DROPS;
}

/* --- routing --- */

static struct port *refuse(struct port *in, enum drop reason)
{
	in->drops[reason]++;
	return VSW_NOBODY;
}

static bool is_isolated_pair(const struct port *in, const struct port *to)
{
	return in->settings.isolated && to->settings.isolated;
}

static uint16_t vlan_of(const struct careful *careful, unsigned i)
{
	return careful->tags[i].tci & VLAN_ID_MASK;
}

/* Frame `i` is for an address known to be on `to`. */
static struct port *route_known(const struct careful *careful, unsigned i, struct port *to)
{
	struct port *in = careful->batch.in;

	if (to == in && !in->settings.hairpin)
		return refuse(in, DROP_SAME_PORT);
	if (is_isolated_pair(in, to))
		return refuse(in, DROP_ISOLATED);
	if (in->sw->settings.vlan_filtering && !vsw_is_member(&to->settings, vlan_of(careful, i)))
		return refuse(in, DROP_VLAN);
	return to;
}

static struct port *look_up(const struct batch *batch, unsigned i, uint64_t now)
{
	if (frame_is_group(batch->destinations[i]))
		return NULL;
	return vsw_fdb_lookup(&batch->in->sw->fdb, batch->destinations[i], batch->destination_hashes[i], now);
}

/* Take a flooded frame's worth of what the port may have flooded, unless that is without limit. */
static bool may_flood(struct port *in, uint64_t now)
{
	uint32_t limit = in->settings.storm_limit;

	return !limit || vsw_storm_admits(&in->storm, limit, now);
}

static struct port *route(struct careful *careful, unsigned i)
{
	struct batch *batch = &careful->batch;
	struct port *in = batch->in;
	struct fdb *fdb = &in->sw->fdb;
	uint64_t now = in->engine->now;
	/* Its destination is about to be learnt here, so that it will not be flooded, if there is room for that. */
	bool teaches_its_way = in->settings.learning && batch->sources[i] == batch->destinations[i];
	bool asked;
	struct port *to;

	if (careful->casts[i] == CAST_CONTROL)
		return NULL;
	switch (vsw_fdb_check(fdb, batch->sources[i], batch->source_hashes[i], in, now)) {
	case FDB_PINNED:
		return refuse(in, DROP_MOVED);
	case FDB_BEYOND:
		return refuse(in, DROP_MAC_LIMIT);
	default:
		to = look_up(batch, i, now);
	}
	asked = !to && !teaches_its_way; /* before it teaches anything */
	if (asked && !may_flood(in, now))
		return refuse(in, DROP_STORM);
	if (in->settings.learning) {
		if (vsw_fdb_learn(fdb, batch->sources[i], batch->source_hashes[i], in, now) == FDB_FULL)
			in->unlearnt++;
		to = look_up(batch, i, now); /* it may just have been learnt, or displaced */
	}
	if (!to && !asked && !may_flood(in, now))
		return refuse(in, DROP_STORM);
	return to ? route_known(careful, i, to) : NULL;
}

/* --- distributing --- */

/* Whether flooded frame `i` leaves by a port with these settings. */
static bool takes(const struct careful *careful, const struct port *to, unsigned i)
{
	switch ((enum cast)careful->casts[i]) {
	case CAST_CONTROL:
		return to->settings.control;
	case CAST_UNICAST:
		if (!to->settings.unknown_flood)
			return false;
		break;
	case CAST_MULTICAST:
		if (!to->settings.multicast_flood)
			return false;
		break;
	case CAST_BROADCAST:
		if (!to->settings.broadcast_flood)
			return false;
		break;
	}
	return !to->sw->settings.vlan_filtering || vsw_is_member(&to->settings, vlan_of(careful, i));
}

/* Return frame `i` in the form in which it leaves by `to`. */
static const struct frame *formed(struct careful *careful, const struct port *to, unsigned i)
{
	const struct switch_settings *settings = &to->sw->settings;
	enum form form = vlan_of(careful, i) == to->settings.pvid ? FORM_UNTAGGED : FORM_TAGGED;
	struct frame *made = &careful->forms[form][i];

	if (!made->head)
		*made = vsw_vlan_retag(&careful->frames[i], careful->tags[i].there,
				       form == FORM_TAGGED ? settings->vlan_protocol : 0, careful->tags[i].tci,
				       &careful->room[form][i]);
	return made;
}

static unsigned add(struct careful *careful, struct port *to, unsigned i, struct frame *list, unsigned n)
{
	const struct frame *frame = &careful->frames[i];

	if (to->sw->settings.vlan_filtering && careful->casts[i] != CAST_CONTROL)
		frame = formed(careful, to, i);
	if (frame->len > FRAME_MAX) {
		to->drops[DROP_TOO_LONG]++; /* by its tag */
		return n;
	}
	list[n] = *frame;
	return n + 1;
}

/* Write what leaves by `to` of two chains, one of them flooded, in the order it came in. Return how many; set *flooded
 * when some of it was flooded.
 */
static unsigned list_for(struct careful *careful, struct port *to, uint16_t own, uint16_t flood, struct frame *list)
{
	const uint16_t *next = careful->batch.next;
	unsigned n = 0;

	if (flood != CHAIN_END && careful->flooded_alike && !takes(careful, to, flood))
		flood = CHAIN_END;
	while (own != CHAIN_END || flood != CHAIN_END) {
		if (own < flood) { /* CHAIN_END is greater than any index */
			n = add(careful, to, own, list, n);
			own = next[own];
			continue;
		}
		if (takes(careful, to, flood)) {
			careful->taken[flood] = true;
			n = add(careful, to, flood, list, n);
		}
		flood = next[flood];
	}
	return n;
}

/* Deliver what leaves by `to`. Return whether that is anything. */
static bool serve(struct careful *careful, struct port *to, bool flooding)
{
	struct port *in = careful->batch.in;
	uint16_t own = to->chain_first;
	uint16_t flood = flooding ? careful->batch.flood_first : CHAIN_END;
	struct frame list[FRAME_BATCH];
	unsigned n;

	to->chain_first = CHAIN_END;
	if ((to == in && !in->settings.hairpin) || is_isolated_pair(in, to) || to->state != PORT_UP)
		flood = CHAIN_END;
	if (own == CHAIN_END && flood == CHAIN_END)
		return false;
	n = list_for(careful, to, own, flood, list);
	if (!n)
		return false;
	vsw_deliver(to, list, n);
	if (own != CHAIN_END)
		vsw_pause_if_congested(in, to);
	return true;
}

static void check_flooded_alike(struct careful *careful)
{
	uint16_t first = careful->batch.flood_first;

	careful->flooded_alike = true;
	for (uint16_t i = first; i != CHAIN_END; i = careful->batch.next[i])
		if (careful->casts[i] != careful->casts[first] || vlan_of(careful, i) != vlan_of(careful, first))
			careful->flooded_alike = false;
}

static void count_untaken(const struct careful *careful)
{
	for (uint16_t i = careful->batch.flood_first; i != CHAIN_END; i = careful->batch.next[i])
		if (!careful->taken[i])
			careful->batch.in->drops[careful->casts[i] == CAST_CONTROL ? DROP_RESERVED : DROP_NOWHERE]++;
}

static void distribute(struct careful *careful)
{
	struct batch *batch = &careful->batch;
	const struct vsw_switch *sw = batch->in->sw;
	struct port *only = NULL;
	unsigned n_served = 0;

	if (batch->flood_first == CHAIN_END) {
		for (unsigned i = 0; i < batch->n_ports; i++)
			serve(careful, batch->ports[i], false);
		return;
	}
	check_flooded_alike(careful);
	for (uint32_t i = 0; i < sw->n_ports; i++) {
		if (serve(careful, sw->ports[i], true)) {
			only = sw->ports[i];
			n_served++;
		}
	}
	count_untaken(careful);
	if (n_served == 1)
		vsw_pause_if_congested(batch->in, only);
}

void vsw_policy_forward(struct port *in, const struct frame *frames, unsigned n)
{
	struct careful careful;
	struct batch *batch = &careful.batch;
	unsigned admitted = 0;

	batch->in = in;
	for (unsigned i = 0; i < n; i++) {
		enum drop reason = admit(&careful, &frames[i], admitted);

		if (reason == NUM_DROPS)
			admitted++;
		else
			in->drops[reason]++;
	}
	vsw_batch_start(batch, in, careful.frames, admitted);
	for (unsigned i = 0; i < admitted; i++)
		batch->to[i] = route(&careful, i);
	vsw_batch_chain(batch);
	distribute(&careful);
}
