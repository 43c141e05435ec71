/* SPDX-License-Identifier: BSD-2-Clause */
/* What a user may set of a switch and of each of its ports, while frames move. Read by the loop, set by calls into it. */
#ifndef VSW_SETTINGS_H
#define VSW_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#define VLAN_8021Q  0x8100
#define VLAN_8021AD 0x88a8
#define VLAN_LAST   4094 /* ids 0 and 4095 are no VLANs */

/* What becomes of frames for 01:80:c2:00:00:00 to :0f, which a bridge of IEEE 802.1 keeps to itself.
 *
 * FORWARD   flooded like any other group.
 * DROP      counted.
 * DELIVER   flooded to control ports only.
 */
enum reserved_policy { RESERVED_FORWARD, RESERVED_DROP, RESERVED_DELIVER, NUM_RESERVED_POLICIES };

#define RESERVED_GROUPS 16

struct switch_settings {
	uint64_t ageing;    /* ns */
	uint32_t fdb_limit; /* entries */
	bool vlan_filtering;
	uint16_t vlan_protocol;            /* VLAN_8021Q or VLAN_8021AD: the only tag this switch sees */
	uint8_t reserved[RESERVED_GROUPS]; /* enum reserved_policy, by the address's last four bits */
};

struct port_settings {
	bool isolated; /* exchanges nothing with other isolated ports */
	bool learning;
	bool unknown_flood, broadcast_flood, multicast_flood; /* whether such frames are flooded out of it */
	bool sticky;                                          /* what is learnt here neither ages nor moves */
	bool hairpin;                                         /* frames may leave where they came in */
	bool control;                                         /* see enum reserved_policy */
	bool overflow_drop;                                   /* a full queue drops at once and pauses nobody */
	uint16_t pvid;        /* the VLAN of untagged frames, both ways; 0: they are dropped */
	uint32_t mtu;         /* bytes after the Ethernet header and one tag; 0: no limit */
	uint32_t storm_limit; /* frames/s in by this port that would be flooded; 0: no limit */
	uint32_t mac_limit;   /* addresses on this port; 0: no limit */
	uint8_t members[512]; /* bit v & 7 of byte v >> 3: the port is in VLAN v */
};

/* A new port, until told otherwise: in VLAN 1 without a tag, everything allowed. */
#define PORT_SETTINGS_DEFAULT                                                                                          \
	((struct port_settings){ .learning = true,                                                                     \
				 .unknown_flood = true,                                                                \
				 .broadcast_flood = true,                                                              \
				 .multicast_flood = true,                                                              \
				 .pvid = 1,                                                                            \
				 .members = { 1U << 1 } })

static inline bool vsw_is_member(const struct port_settings *settings, uint16_t vlan)
{
	return settings->members[vlan >> 3] >> (vlan & 7) & 1;
}

#endif
