/* SPDX-License-Identifier: BSD-2-Clause */
#include "switch.h"

#include <errno.h>
#include <stdlib.h>

#include "engine.h"
#include "pause.h"

#define NONE   UINT16_MAX   /* end of a chain */
#define NO_MAC (1ULL << 48) /* no address looks like this */

/* The frames of one batch, sorted by where they go. Chains link indices into `frames`, in order. */
struct batch {
	const struct frame *frames;
	uint16_t next[FRAME_BATCH];
	uint16_t flood_first, flood_last;
	struct port *ports[FRAME_BATCH]; /* those with a chain */
	unsigned n_ports;
};

int vsw_switch_new(struct engine *engine, bool hub, uint64_t ageing, uint32_t fdb_limit, struct vsw_switch **made)
{
	struct vsw_switch *sw = calloc(1, sizeof(*sw));
	int64_t id;

	if (!sw)
		return -ENOMEM;
	sw->engine = engine;
	sw->hub = hub;
	vsw_fdb_init(&sw->fdb, fdb_limit, ageing);
	id = vsw_engine_adopt_switch(engine, sw);
	if (id < 0) {
		free(sw);
		return (int)id;
	}
	sw->id = (uint32_t)id;
	*made = sw;
	return 0;
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
	port->chain_first = NONE;
	sw->ports[sw->n_ports++] = port;
	return 0;
}

void vsw_switch_detach(struct vsw_switch *sw, struct port *port)
{
	vsw_fdb_flush(&sw->fdb, port);
	for (uint32_t i = 0; i < sw->n_ports; i++) {
		if (sw->ports[i] == port) {
			sw->ports[i] = sw->ports[--sw->n_ports];
			return;
		}
	}
}

static void deliver(struct port *to, const struct frame *frames, unsigned n)
{
	if (to->state == PORT_UP)
		to->ops->deliver(to, frames, n);
	else
		to->drops[DROP_CLOSED] += n; /* it ended while this batch was under way */
}

static void pause_if_congested(struct port *in, struct port *to)
{
	if (to->congestion == CONGESTION_CONGESTED)
		vsw_pause_source(in, to);
}

static void flood(struct port *in, const struct frame *frames, unsigned n)
{
	struct vsw_switch *sw = in->sw;
	struct port *last = NULL;
	unsigned n_ports = 0;

	for (uint32_t i = 0; i < sw->n_ports; i++) {
		struct port *to = sw->ports[i];

		if (to == in || to->state != PORT_UP)
			continue;
		deliver(to, frames, n);
		last = to;
		n_ports++;
	}
	if (!n_ports)
		in->drops[DROP_NOWHERE] += n;
	else if (n_ports == 1)
		pause_if_congested(in, last);
}

static void append(struct batch *batch, uint16_t *first, uint16_t *last, uint16_t i)
{
	if (*first == NONE)
		*first = i;
	else
		batch->next[*last] = i;
	*last = i;
	batch->next[i] = NONE;
}

/* Write the frames of two chains to `list`, in the order they came in. Return how many. */
static unsigned merge(const struct batch *batch, uint16_t a, uint16_t b, struct frame *list)
{
	unsigned n = 0;

	while (a != NONE || b != NONE) {
		uint16_t *first = a < b ? &a : &b; /* NONE is greater than any index */

		list[n++] = batch->frames[*first];
		*first = batch->next[*first];
	}
	return n;
}

static unsigned chain_length(const struct batch *batch, uint16_t first)
{
	unsigned n = 0;

	for (; first != NONE; first = batch->next[first])
		n++;
	return n;
}

/* Deliver what has been sorted, each port's frames at once. */
static void deliver_batch(struct port *in, struct batch *batch)
{
	struct vsw_switch *sw = in->sw;
	struct frame list[FRAME_BATCH];

	if (batch->flood_first != NONE) {
		bool anywhere = false;

		for (uint32_t i = 0; i < sw->n_ports; i++) {
			struct port *to = sw->ports[i];

			if (to == in || to->state != PORT_UP || to->chain_first != NONE)
				continue;
			anywhere = true;
			deliver(to, list, merge(batch, NONE, batch->flood_first, list));
		}
		if (!anywhere && !batch->n_ports)
			in->drops[DROP_NOWHERE] += chain_length(batch, batch->flood_first);
	}
	for (unsigned i = 0; i < batch->n_ports; i++) {
		struct port *to = batch->ports[i];
		unsigned n = merge(batch, to->chain_first, batch->flood_first, list);

		to->chain_first = NONE;
		deliver(to, list, n);
		pause_if_congested(in, to);
	}
}

/* Return where each frame goes in `to`: a port, NULL to flood, or `in` for nowhere. */
static void look_up(struct port *in, const struct frame *frames, unsigned n, struct port **to)
{
	struct fdb *fdb = &in->sw->fdb;
	uint64_t now = in->engine->now;
	uint64_t source = NO_MAC, destination = NO_MAC;
	struct port *found = NULL;

	/* Runs of frames between the same two addresses are the rule: an address is looked up when it changes. */
	for (unsigned i = 0; i < n; i++) {
		uint64_t frame_src = frame_source(&frames[i]);
		uint64_t frame_dst = frame_destination(&frames[i]);

		if (frame_src != source) {
			if (frame_is_group(frame_src)) {
				in->drops[DROP_BAD_SOURCE]++;
				to[i] = in;
				continue;
			}
			switch (vsw_fdb_learn(fdb, frame_src, in, now)) {
			case FDB_FULL:
				in->unlearnt++; /* and try again with its next frame */
				break;
			case FDB_NEW:
			case FDB_MOVED:
				destination = NO_MAC;
				/* fall through */
			case FDB_KNOWN:
				source = frame_src;
			}
		}
		if (frame_dst != destination) {
			found = frame_is_group(frame_dst) ? NULL : vsw_fdb_lookup(fdb, frame_dst, now);
			destination = frame_dst;
		}
		to[i] = found;
		if (found == in)
			in->drops[DROP_SAME_PORT]++;
	}
}

static bool all_same(struct port *const *to, unsigned n)
{
	for (unsigned i = 1; i < n; i++)
		if (to[i] != to[0])
			return false;
	return true;
}

static void route(struct port *in, const struct frame *frames, unsigned n)
{
	struct port *to[FRAME_BATCH];
	struct batch batch = { .frames = frames, .flood_first = NONE };

	to[0] = NULL; /* gcc cannot see that n > 0 */
	look_up(in, frames, n, to);
	if (all_same(to, n)) {
		if (!to[0]) {
			flood(in, frames, n);
		} else if (to[0] != in) {
			deliver(to[0], frames, n);
			pause_if_congested(in, to[0]);
		}
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		if (to[i] == in)
			continue;
		if (!to[i]) {
			append(&batch, &batch.flood_first, &batch.flood_last, (uint16_t)i);
			continue;
		}
		if (to[i]->chain_first == NONE)
			batch.ports[batch.n_ports++] = to[i];
		append(&batch, &to[i]->chain_first, &to[i]->chain_last, (uint16_t)i);
	}
	deliver_batch(in, &batch);
}

void vsw_switch_input(struct port *in, const struct frame *frames, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += frames[i].len;
	in->rx_frames += n;
	in->rx_bytes += bytes;
	if (in->sw->hub)
		flood(in, frames, n);
	else
		route(in, frames, n);
}
