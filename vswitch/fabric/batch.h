/* SPDX-License-Identifier: BSD-2-Clause */
/* The frames of one burst on their way through a switch: where each goes, and each destination's in a chain, in order. */
#ifndef VSW_BATCH_H
#define VSW_BATCH_H

#include "frame.h"
#include "pause.h"
#include "port.h"

#define CHAIN_END UINT16_MAX

/* Chains link indices into `frames`; a port's is in port->chain_first and chain_last. */
struct batch {
	struct port *in;
	const struct frame *frames;
	unsigned n;
	uint64_t sources[FRAME_BATCH], destinations[FRAME_BATCH]; /* FDB keys */
	uint32_t source_hashes[FRAME_BATCH], destination_hashes[FRAME_BATCH];
	struct port *to[FRAME_BATCH]; /* NULL: flood. VSW_NOBODY: dropped, and counted */
	uint16_t next[FRAME_BATCH];
	uint16_t flood_first, flood_last;
	struct port *ports[FRAME_BATCH]; /* those with a chain */
	unsigned n_ports;
};

extern struct port vsw_nobody;
#define VSW_NOBODY (&vsw_nobody)

static inline void vsw_batch_start(struct batch *batch, struct port *in, const struct frame *frames, unsigned n)
{
	batch->in = in;
	batch->frames = frames;
	batch->n = n;
	batch->flood_first = batch->flood_last = CHAIN_END;
	batch->n_ports = 0;
}

/* Put each frame into the chain of where it goes. */
void vsw_batch_chain(struct batch *batch);

/* Deliver `n` (0..FRAME_BATCH) frames, less those that the port's MTU forbids, and finished if the port needs them so. */
void vsw_deliver(struct port *to, const struct frame *frames, unsigned n);

static inline void vsw_pause_if_congested(struct port *in, struct port *to)
{
	if (to->congestion == CONGESTION_CONGESTED)
		vsw_pause_source(in, to);
}

#endif
