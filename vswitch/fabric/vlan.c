/* SPDX-License-Identifier: BSD-2-Clause */
#include "vlan.h"

#define BEFORE_HEAD 16 /* bytes of `room` before the head: more than the prefix, so that the head is aligned */

_Static_assert((BEFORE_HEAD) + (FRAME_HEAD) + (FRAME_VLAN_TAG) <= sizeof(((struct vlan_room *)0)->bytes),
	       "a head with a tag more has room");

bool vsw_vlan_read(const struct frame *frame, uint16_t protocol, struct vlan_tag *tag)
{
	const uint8_t *at = frame->head + FRAME_MAC_PAIR;

	*tag = (struct vlan_tag){ .there = vsw_vlan_type(frame) == protocol };
	if (!tag->there)
		return true;
	if (frame->len < FRAME_MIN + FRAME_VLAN_TAG)
		return false;
	tag->tci = (uint16_t)(at[2] << 8 | at[3]);
	return true;
}

bool vsw_vlan_classify(const struct port_settings *settings, struct vlan_tag *tag)
{
	if (!(tag->tci & VLAN_ID_MASK)) {
		tag->tci |= settings->pvid;
		return settings->pvid;
	}
	return vsw_is_member(settings, tag->tci & VLAN_ID_MASK);
}

struct frame vsw_vlan_retag(const struct frame *frame, bool had_tag, uint16_t protocol, uint16_t tci,
			    struct vlan_room *room)
{
	uint32_t from = FRAME_MAC_PAIR + (had_tag ? FRAME_VLAN_TAG : 0); /* what is kept after the addresses */
	uint32_t to = FRAME_MAC_PAIR + (protocol ? FRAME_VLAN_TAG : 0);
	uint32_t end = frame->head_len < FRAME_HEAD ? frame->head_len : FRAME_HEAD;
	uint8_t *head = room->bytes + BEFORE_HEAD;
	struct frame made = {
		.head = head,
		.rest = frame->head_len == frame->len ? frame->head + end : frame->rest,
		.len = frame->len - from + to,
		.head_len = end - from + to,
	};

	memcpy(head, frame->head, FRAME_MAC_PAIR);
	if (protocol) {
		head[FRAME_MAC_PAIR] = (uint8_t)(protocol >> 8);
		head[FRAME_MAC_PAIR + 1] = (uint8_t)protocol;
		head[FRAME_MAC_PAIR + 2] = (uint8_t)(tci >> 8);
		head[FRAME_MAC_PAIR + 3] = (uint8_t)tci;
	}
	memcpy(head + to, frame->head + from, end - from);
	frame_set_prefix(head, made.len);
	if (frame->offload) {
		room->offload = vsw_offload_moved(frame->offload, (int)to - (int)from);
		made.offload = &room->offload;
	}
	return made;
}
