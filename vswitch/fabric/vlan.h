/* SPDX-License-Identifier: BSD-2-Clause */
/* VLAN tags: what a frame's says, and frames with another one or none. (IEEE 802.1Q-2022, 9.6; a tag's 16 bits of control
 * information, the TCI, are 3 of priority, 1 of drop eligibility and 12 of VLAN id.)
 */
#ifndef VSW_VLAN_H
#define VSW_VLAN_H

#include "frame.h"
#include "offload.h"
#include "settings.h"

#define VLAN_ID_MASK 0x0fff

/* Holds any head with a tag more, its length prefix before it, and what is left to do for the frame. */
struct vlan_room {
	uint8_t bytes[16 + FRAME_HEAD + 16];
	struct offload offload;
};

struct vlan_tag {
	bool there;
	uint16_t tci; /* 0 when there is none */
};

/* Return the two bytes after the addresses: the frame's type, or that of its tag. */
static inline uint16_t vsw_vlan_type(const struct frame *frame)
{
	return (uint16_t)(frame->head[FRAME_MAC_PAIR] << 8 | frame->head[FRAME_MAC_PAIR + 1]);
}

/* Read the tag of type `protocol`. Return false when the frame ends within it. */
bool vsw_vlan_read(const struct frame *frame, uint16_t protocol, struct vlan_tag *tag);

/* Say what VLAN a frame with this tag is in when it comes in by a port with these settings: put its id into the tag's TCI,
 * keeping the priority. Return false when the port does not take it.
 */
bool vsw_vlan_classify(const struct port_settings *settings, struct vlan_tag *tag);

/* Return the frame without the tag it has (`had_tag`), and with one of type `protocol` if that is not 0. Its head is
 * written to `room`, its rest stays where it is.
 */
struct frame vsw_vlan_retag(const struct frame *frame, bool had_tag, uint16_t protocol, uint16_t tci,
			    struct vlan_room *room);

/* Bytes after the Ethernet header and, if there is one, a tag of either type; once the frame is finished, at most. */
static inline uint32_t vsw_vlan_payload(const struct frame *frame)
{
	uint16_t type = vsw_vlan_type(frame);
	uint32_t header = FRAME_MIN, len = vsw_offload_longest(frame);

	if (type == VLAN_8021Q || type == VLAN_8021AD)
		header += FRAME_VLAN_TAG;
	return len > header ? len - header : 0;
}

#endif
