/* SPDX-License-Identifier: BSD-2-Clause */
#include "ranking.h"

#include <stdlib.h>

#include "port.h"

void vsw_ranking_free(struct ranking *ranking)
{
	free(ranking->ports);
	*ranking = (struct ranking){ 0 };
}

bool vsw_ranking_reserve(struct ranking *ranking)
{
	uint32_t room = ranking->room ? ranking->room * 2 : 16;
	struct port **ports;

	if (ranking->n + 1 < ranking->room)
		return true;
	ports = reallocarray(ranking->ports, room, sizeof(*ports));
	if (!ports)
		return false;
	ranking->ports = ports;
	ranking->room = room;
	return true;
}

static uint32_t weight(const struct ranking *ranking, uint32_t rank)
{
	return ranking->ports[rank]->addresses.dynamic.n;
}

static void put(struct ranking *ranking, uint32_t rank, struct port *port)
{
	ranking->ports[rank] = port;
	port->addresses.rank = rank;
}

static void swap(struct ranking *ranking, uint32_t a, uint32_t b)
{
	struct port *port = ranking->ports[a];

	put(ranking, a, ranking->ports[b]);
	put(ranking, b, port);
}

static void settle(struct ranking *ranking, uint32_t rank)
{
	for (; rank > 1 && weight(ranking, rank / 2) < weight(ranking, rank); rank /= 2)
		swap(ranking, rank, rank / 2);
	for (;;) {
		uint32_t child = 2 * rank;

		if (child < ranking->n && weight(ranking, child + 1) > weight(ranking, child))
			child++;
		if (child > ranking->n || weight(ranking, child) <= weight(ranking, rank))
			return;
		swap(ranking, rank, child);
		rank = child;
	}
}

void vsw_ranking_update(struct ranking *ranking, struct port *port)
{
	uint32_t rank = port->addresses.rank;

	if (port->addresses.dynamic.n) {
		if (!rank) {
			rank = ++ranking->n;
			put(ranking, rank, port);
		}
		settle(ranking, rank);
	} else if (rank) {
		port->addresses.rank = 0;
		if (rank != ranking->n) {
			put(ranking, rank, ranking->ports[ranking->n--]);
			settle(ranking, rank);
		} else {
			ranking->n--;
		}
	}
}
