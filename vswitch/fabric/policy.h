/* SPDX-License-Identifier: BSD-2-Clause */
/* Forwarding where settings ask for a closer look at each frame: VLANs, reserved groups, isolation, limits, what is flooded.
 *
 * What a switch without any of that does is in switch.c, and agrees. A frame is first admitted (MTU, reserved group, source,
 * VLAN), then routed (source checked, destination looked up, storm limit, source learnt), then distributed. A frame that
 * is dropped on the way in teaches nothing; one that finds no way out does, as in Linux's bridge.
 */
#ifndef VSW_POLICY_H
#define VSW_POLICY_H

#include "frame.h"
#include "port.h"

/* As vsw_switch_input(), for frames already counted. */
void vsw_policy_forward(struct port *in, const struct frame *frames, unsigned n);

/* Keep those of `n` frames that `port`'s MTU allows, in `list`. Return how many. */
unsigned vsw_policy_fitting(const struct port *port, const struct frame *frames, unsigned n, struct frame *list);

#endif
