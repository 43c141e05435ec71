/* SPDX-License-Identifier: BSD-2-Clause */
/* The ports that hold dynamic addresses, the one with the most first: a binary heap, so that a full FDB finds whose entry
 * has to go without looking at every port. A port's place in it is port->addresses.rank.
 */
#ifndef VSW_RANKING_H
#define VSW_RANKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct port;

struct ranking {
	struct port **ports; /* from 1 on; ports[0] is not used */
	uint32_t n, room;
};

void vsw_ranking_free(struct ranking *ranking);

/* See to it that one more port fits. Return false when memory is short. */
bool vsw_ranking_reserve(struct ranking *ranking);

/* The number of `port`'s dynamic addresses has changed. There is room. */
void vsw_ranking_update(struct ranking *ranking, struct port *port);

/* Return a port with the most dynamic addresses; NULL when no port has any. */
static inline struct port *vsw_ranking_first(const struct ranking *ranking)
{
	return ranking->n ? ranking->ports[1] : NULL;
}

#endif
