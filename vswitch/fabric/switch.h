/* SPDX-License-Identifier: BSD-2-Clause */
/* A network: a learning switch (IEEE 802.1D forwarding without spanning tree), or a hub, which floods everything. */
#ifndef VSW_SWITCH_H
#define VSW_SWITCH_H

#include <stdbool.h>
#include <stdint.h>

#include "fdb.h"
#include "port.h"
#include "settings.h"

struct vsw_switch {
	struct engine *engine;
	uint32_t id;
	bool hub;
	struct fdb fdb; /* ageing and limit are the settings' */
	struct switch_settings settings;
	bool plain; /* no setting, of the switch or of a port to flood to, asks for a closer look at each frame */
	struct port **ports; /* all that exist, in any state */
	uint32_t n_ports, max_ports;
	uint32_t n_offloading; /* of them, those that may bring unfinished frames */
};

/* Make a switch of `engine`; `ageing` in ns, `fdb_limit` in entries. Return 0 or -errno. */
int vsw_switch_new(struct engine *engine, bool hub, uint64_t ageing, uint32_t fdb_limit, struct vsw_switch **made);

/* Free it and its ports. */
void vsw_switch_free(struct vsw_switch *sw);

/* Change settings, which have been checked. When tags are to be looked at in another way, what was learnt is forgotten. */
void vsw_switch_configure(struct vsw_switch *sw, const struct switch_settings *settings);

/* Change a port's settings, which have been checked: none of its VLANs is 0 or over VLAN_LAST, pvid is 0 or one of them.
 * What was learnt in VLANs it leaves is forgotten. Return 0 or -ENOMEM.
 */
int vsw_switch_configure_port(struct port *port, const struct port_settings *settings);

/* Attach or detach `port`; only vsw_port_new() and vsw_port_free() call these. */
int vsw_switch_attach(struct vsw_switch *sw, struct port *port);
void vsw_switch_detach(struct vsw_switch *sw, struct port *port);

/* Forward `n` (1..FRAME_BATCH) frames of FRAME_MIN..FRAME_MAX bytes that came in by `in`, in order.
 * Runs to completion: learn and look up all, chain them per destination, deliver each list once. May end other ports
 * and may pause `in`. It ends `in` only where frames may leave by the port they came in by, and as in->held says that
 * this takes effect when the port's operation returns, the caller need not care.
 */
void vsw_switch_input(struct port *in, const struct frame *frames, unsigned n);

#endif
