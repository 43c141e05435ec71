/* SPDX-License-Identifier: BSD-2-Clause */
#include "switch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "engine.h"
#include "offload.h"
#include "pause.h"
#include "policy.h"

struct port vsw_nobody;

/* Whether something is not flooded out of `port`. */
static bool floods_some(const struct port *port)
{
	const struct port_settings *settings = &port->settings;

	return !settings->unknown_flood || !settings->broadcast_flood || !settings->multicast_flood;
}

static void settle_plain(struct vsw_switch *sw)
{
	sw->plain = !sw->hub && !sw->settings.vlan_filtering;
	for (unsigned i = 0; i < RESERVED_GROUPS; i++)
		sw->plain &= sw->settings.reserved[i] == RESERVED_FORWARD;
	for (uint32_t i = 0; i < sw->n_ports && sw->plain; i++)
		sw->plain = !floods_some(sw->ports[i]);
}

static void settle_direct(struct port *port)
{
	port->direct = !port->settings.mtu && (port->offloads || !port->sw->n_offloading);
}

/* Ports that may bring unfinished frames are one more or one less. */
static void count_offloading(struct vsw_switch *sw, int32_t change)
{
	sw->n_offloading += (uint32_t)change;
	for (uint32_t i = 0; i < sw->n_ports; i++)
		settle_direct(sw->ports[i]);
}

/* --- life --- */

int vsw_switch_new(struct engine *engine, bool hub, uint64_t ageing, uint32_t fdb_limit, struct vsw_switch **made)
{
	struct vsw_switch *sw = calloc(1, sizeof(*sw));
	int64_t id;
	int ret;

	if (!sw)
		return -ENOMEM;
	sw->engine = engine;
	sw->hub = hub;
	sw->settings = (struct switch_settings){
		.ageing = ageing,
		.fdb_limit = fdb_limit,
		.vlan_protocol = VLAN_8021Q,
	};
	sw->plain = !hub;
	ret = vsw_fdb_init(&sw->fdb, fdb_limit, ageing);
	if (ret)
		goto free;
	id = vsw_engine_adopt_switch(engine, sw);
	if (id < 0) {
		ret = (int)id;
		goto free;
	}
	sw->id = (uint32_t)id;
	*made = sw;
	return 0;
free:
	vsw_fdb_free(&sw->fdb);
	free(sw);
	return ret;
}

void vsw_switch_free(struct vsw_switch *sw)
{
	while (sw->n_ports)
		vsw_port_free(sw->ports[sw->n_ports - 1]);
	sw->engine->switches[sw->id] = NULL;
	vsw_fdb_free(&sw->fdb);
	free(sw->ports);
	free(sw);
}

int vsw_switch_attach(struct vsw_switch *sw, struct port *port)
{
	if (sw->n_ports == sw->max_ports) {
		uint32_t max_ports = sw->max_ports ? sw->max_ports * 2 : 8;
		struct port **ports = reallocarray(sw->ports, max_ports, sizeof(*ports));

		if (!ports)
			return -ENOMEM;
		sw->ports = ports;
		sw->max_ports = max_ports;
	}
	port->sw = sw;
	port->chain_first = CHAIN_END;
	port->plain = true;
	sw->ports[sw->n_ports++] = port;
	settle_direct(port);
	if (port->offloads)
		count_offloading(sw, 1);
	return 0;
}

void vsw_switch_detach(struct vsw_switch *sw, struct port *port)
{
	vsw_fdb_flush_all(&sw->fdb, port);
	for (uint32_t i = 0; i < sw->n_ports; i++) {
		if (sw->ports[i] == port) {
			sw->ports[i] = sw->ports[--sw->n_ports];
			break;
		}
	}
	if (floods_some(port))
		settle_plain(sw);
	if (port->offloads)
		count_offloading(sw, -1);
}

/* --- settings --- */

static bool is_learnt(const struct fdb_entry *entry, const void *unused)
{
	(void)unused;
	return entry->kind != FDB_STATIC;
}

void vsw_switch_configure(struct vsw_switch *sw, const struct switch_settings *settings)
{
	bool other_tags = settings->vlan_filtering != sw->settings.vlan_filtering ||
			  settings->vlan_protocol != sw->settings.vlan_protocol;

	sw->settings = *settings;
	sw->fdb.ageing = settings->ageing;
	vsw_fdb_set_limit(&sw->fdb, settings->fdb_limit);
	if (other_tags)
		vsw_fdb_forget(&sw->fdb, is_learnt, NULL);
	settle_plain(sw);
}

/* Sticky and moved addresses and the limit on addresses need no closer look: the FDB knows, when one is new. */
static bool is_plain(const struct port_settings *settings)
{
	return !settings->isolated && settings->learning && !settings->hairpin && !settings->storm_limit &&
	       !settings->mtu;
}

static bool is_outside(const struct fdb_entry *entry, const void *arg)
{
	const struct port *port = arg;

	return entry->port == port && entry->kind != FDB_STATIC &&
	       !vsw_is_member(&port->settings, (uint16_t)(entry->key >> 48));
}

int vsw_switch_configure_port(struct port *port, const struct port_settings *settings)
{
	struct vsw_switch *sw = port->sw;
	bool other_members = memcmp(port->settings.members, settings->members, sizeof(settings->members)) != 0;
	bool other_sticky = port->settings.sticky != settings->sticky;
	bool other_storm = port->settings.storm_limit != settings->storm_limit;
	int ret = 0;

	port->settings = *settings;
	port->plain = is_plain(settings);
	settle_direct(port);
	settle_plain(sw);
	if (other_members && sw->settings.vlan_filtering)
		vsw_fdb_forget(&sw->fdb, is_outside, port);
	if (other_sticky)
		ret = vsw_fdb_restick(&sw->fdb, port, sw->engine->now);
	if (other_storm)
		vsw_storm_start(&port->storm, settings->storm_limit, sw->engine->now);
	if (settings->overflow_drop)
		vsw_pause_relieved(port, false);
	return ret;
}

/* --- chains and delivery --- */

static void append(struct batch *batch, uint16_t *first, uint16_t *last, uint16_t i)
{
	if (*first == CHAIN_END)
		*first = i;
	else
		batch->next[*last] = i;
	*last = i;
	batch->next[i] = CHAIN_END;
}

void vsw_batch_chain(struct batch *batch)
{
	for (unsigned i = 0; i < batch->n; i++) {
		struct port *to = batch->to[i];

		if (to == VSW_NOBODY)
			continue;
		if (!to) {
			append(batch, &batch->flood_first, &batch->flood_last, (uint16_t)i);
			continue;
		}
		if (to->chain_first == CHAIN_END)
			batch->ports[batch->n_ports++] = to;
		append(batch, &to->chain_first, &to->chain_last, (uint16_t)i);
	}
}

/* Write the frames of two chains to `list`, in the order they came in. Return how many. */
static unsigned merge(const struct batch *batch, uint16_t a, uint16_t b, struct frame *list)
{
	unsigned n = 0;

	while (a != CHAIN_END || b != CHAIN_END) {
		uint16_t *first = a < b ? &a : &b; /* CHAIN_END is greater than any index */

		list[n++] = batch->frames[*first];
		*first = batch->next[*first];
	}
	return n;
}

static unsigned chain_length(const struct batch *batch, uint16_t first)
{
	unsigned n = 0;

	for (; first != CHAIN_END; first = batch->next[first])
		n++;
	return n;
}

static void deliver_carefully(struct port *to, const struct frame *frames, unsigned n)
{
	struct frame list[FRAME_BATCH];

	if (to->settings.mtu) {
		unsigned kept = vsw_policy_fitting(to, frames, n, list);

		to->drops[DROP_TOO_LONG] += n - kept;
		frames = list;
		n = kept;
	}
	if (!n)
		return;
	if (to->offloads)
		to->ops->deliver(to, frames, n);
	else
		vsw_offload_deliver(to, frames, n);
}

void vsw_deliver(struct port *to, const struct frame *frames, unsigned n)
{
	if (to->state != PORT_UP)
		to->drops[DROP_CLOSED] += n; /* it ended while this batch was under way, or has lasting addresses */
	else if (to->direct)
		to->ops->deliver(to, frames, n);
	else
		deliver_carefully(to, frames, n);
}

/* --- forwarding where nothing asks for a closer look: see policy.c for the rest --- */

static void flood(struct port *in, const struct frame *frames, unsigned n)
{
	struct vsw_switch *sw = in->sw;
	struct port *last = NULL;
	unsigned n_ports = 0;

	for (uint32_t i = 0; i < sw->n_ports; i++) {
		struct port *to = sw->ports[i];

		if (to == in || to->state != PORT_UP)
			continue;
		vsw_deliver(to, frames, n);
		last = to;
		n_ports++;
	}
	if (!n_ports)
		in->drops[DROP_NOWHERE] += n;
	else if (n_ports == 1)
		vsw_pause_if_congested(in, last);
}

/* Deliver what has been sorted, each port's frames at once. */
static void deliver_chains(struct batch *batch)
{
	struct port *in = batch->in;
	struct vsw_switch *sw = in->sw;
	uint16_t flood = batch->flood_first;
	struct frame list[FRAME_BATCH];
	bool anywhere = false;

	for (uint32_t i = 0; flood != CHAIN_END && i < sw->n_ports; i++) {
		struct port *to = sw->ports[i];

		if (to == in || to->state != PORT_UP || to->chain_first != CHAIN_END)
			continue;
		anywhere = true;
		vsw_deliver(to, list, merge(batch, CHAIN_END, flood, list));
	}
	for (unsigned i = 0; i < batch->n_ports; i++) {
		struct port *to = batch->ports[i];
		bool up = to->state == PORT_UP; /* one that is not may have lasting addresses */
		unsigned n = merge(batch, to->chain_first, up ? flood : CHAIN_END, list);

		anywhere |= up;
		to->chain_first = CHAIN_END;
		vsw_deliver(to, list, n);
		vsw_pause_if_congested(in, to);
	}
	if (!anywhere)
		in->drops[DROP_NOWHERE] += chain_length(batch, flood);
}

/* Learn where frame `i` and the `run` - 1 after it, between the same two addresses, came from. Return where they go: a
 * port, NULL to flood them, or VSW_NOBODY.
 */
static struct port *route_run(const struct batch *batch, unsigned i, unsigned run)
{
	struct port *in = batch->in;
	struct fdb *fdb = &in->sw->fdb;
	uint64_t now = in->engine->now;
	struct port *to;

	if (frame_is_group(batch->sources[i])) {
		in->drops[DROP_BAD_SOURCE] += run;
		return VSW_NOBODY;
	}
	switch (vsw_fdb_learn(fdb, batch->sources[i], batch->source_hashes[i], in, now)) {
	case FDB_PINNED:
		in->drops[DROP_MOVED] += run;
		return VSW_NOBODY;
	case FDB_BEYOND:
		in->drops[DROP_MAC_LIMIT] += run;
		return VSW_NOBODY;
	case FDB_FULL:
		in->unlearnt += run;
		break;
	default:
		break;
	}
	if (frame_is_group(batch->destinations[i]))
		return NULL;
	to = vsw_fdb_lookup(fdb, batch->destinations[i], batch->destination_hashes[i], now);
	if (to == in) {
		in->drops[DROP_SAME_PORT] += run;
		return VSW_NOBODY;
	}
	return to;
}

/* Read the addresses of frame `i`. */
static inline void read_addresses(struct batch *batch, unsigned i)
{
	const struct fdb *fdb = &batch->in->sw->fdb;

	batch->sources[i] = frame_source(&batch->frames[i]);
	batch->destinations[i] = frame_destination(&batch->frames[i]);
	batch->source_hashes[i] = vsw_fdb_hash(fdb, batch->sources[i]);
	batch->destination_hashes[i] = vsw_fdb_hash(fdb, batch->destinations[i]);
}

static void send_all(struct port *in, struct port *to, const struct frame *frames, unsigned n)
{
	if (!to) {
		flood(in, frames, n);
	} else if (to != VSW_NOBODY) {
		vsw_deliver(to, frames, n);
		vsw_pause_if_congested(in, to);
	}
}

/* Route every frame. Return whether all go the same way. */
static bool route_all(struct batch *batch)
{
	const struct fdb *fdb = &batch->in->sw->fdb;
	bool same = true;
	unsigned run;

	for (unsigned i = 0; i < batch->n; i++) {
		read_addresses(batch, i);
		vsw_fdb_prefetch(fdb, batch->source_hashes[i]);
		vsw_fdb_prefetch(fdb, batch->destination_hashes[i]);
	}
	for (unsigned i = 0; i < batch->n; i += run) {
		struct port *to;

		for (run = 1; i + run < batch->n; run++)
			if (batch->sources[i + run] != batch->sources[i] ||
			    batch->destinations[i + run] != batch->destinations[i])
				break;
		to = route_run(batch, i, run);
		for (unsigned j = i; j < i + run; j++)
			batch->to[j] = to;
		same &= to == batch->to[0];
	}
	return same;
}

static void forward(struct port *in, const struct frame *frames, unsigned n, bool alike)
{
	struct batch batch;

	vsw_batch_start(&batch, in, frames, n);
	batch.to[0] = NULL; /* gcc cannot see that n > 0 */
	if (alike) {
		read_addresses(&batch, 0);
		send_all(in, route_run(&batch, 0, n), frames, n);
	} else if (route_all(&batch)) {
		send_all(in, batch.to[0], frames, n);
	} else {
		vsw_batch_chain(&batch);
		deliver_chains(&batch);
	}
}

/* Count frames. Return whether all are between the same two addresses. */
static bool count_in(struct port *in, const struct frame *frames, unsigned n)
{
	uint64_t source = frame_source(&frames[0]), destination = frame_destination(&frames[0]);
	uint64_t other = 0, groups = 0, bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		uint64_t to = frame_destination(&frames[i]);

		other |= (frame_source(&frames[i]) ^ source) | (to ^ destination);
		groups |= to;
		bytes += frames[i].len;
	}
	if (frame_is_group(groups)) {
		vsw_traffic_add_frames(&in->rx, frames, n);
	} else {
		in->rx.frames += n;
		in->rx.bytes += bytes;
	}
	return !other;
}

static void forward_in_hub(struct port *in, const struct frame *frames, unsigned n)
{
	struct frame list[FRAME_BATCH];
	unsigned kept;

	if (!in->settings.mtu) {
		flood(in, frames, n);
		return;
	}
	kept = vsw_policy_fitting(in, frames, n, list);
	in->drops[DROP_OVERSIZE] += n - kept;
	if (kept)
		flood(in, list, kept);
}

void vsw_switch_input(struct port *in, const struct frame *frames, unsigned n)
{
	bool alike = count_in(in, frames, n);

	if (in->sw->plain && in->plain)
		forward(in, frames, n, alike);
	else if (in->sw->hub)
		forward_in_hub(in, frames, n);
	else
		vsw_policy_forward(in, frames, n);
}
