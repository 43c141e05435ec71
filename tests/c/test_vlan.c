/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"
#include "vlan.h"

static uint8_t bytes[16 + FRAME_MAX];

/* A frame in one piece, with this type after the addresses, all bytes told apart. */
static struct frame frame_of(uint32_t len, unsigned type, unsigned tci)
{
	uint8_t *head = bytes + 16;

	for (uint32_t i = 0; i < len; i++)
		head[i] = (uint8_t)(i * 7 + i / 256);
	head[12] = (uint8_t)(type >> 8);
	head[13] = (uint8_t)type;
	head[14] = (uint8_t)(tci >> 8);
	head[15] = (uint8_t)tci;
	frame_set_prefix(head, len);
	return frame_whole(head, len);
}

static struct frame in_two_parts(struct frame frame)
{
	frame.rest = frame.head + FRAME_HEAD;
	frame.head_len = FRAME_HEAD;
	return frame;
}

/* Join the parts in `to`. */
static void flatten(const struct frame *frame, uint8_t *to)
{
	struct iovec pieces[2];
	unsigned n = frame_pieces(frame, FRAME_PREFIX, pieces);

	for (unsigned i = 0; i < n; i++) {
		memcpy(to, pieces[i].iov_base, pieces[i].iov_len);
		to += pieces[i].iov_len;
	}
}

static void reads_only_its_own_tag(void)
{
	struct vlan_tag tag;
	struct frame frame = frame_of(60, 0x8100, 0xe123);

	CHECK(vsw_vlan_read(&frame, VLAN_8021Q, &tag) && tag.there && tag.tci == 0xe123);
	CHECK(vsw_vlan_read(&frame, VLAN_8021AD, &tag) && !tag.there && !tag.tci);
	frame = frame_of(60, 0x0800, 0x4500);
	CHECK(vsw_vlan_read(&frame, VLAN_8021Q, &tag) && !tag.there && !tag.tci);
	frame = frame_of(17, 0x8100, 10);
	CHECK(!vsw_vlan_read(&frame, VLAN_8021Q, &tag)); /* ends within it */
	CHECK(vsw_vlan_read(&frame, VLAN_8021AD, &tag));
	frame = frame_of(18, 0x8100, 10);
	CHECK(vsw_vlan_read(&frame, VLAN_8021Q, &tag));
}

static void classifies_as_ieee_says(void)
{
	struct port_settings trunk = { .members = { [20 >> 3] = 1 << (20 & 7) } };
	struct port_settings access = { .pvid = 10, .members = { [10 >> 3] = 1 << (10 & 7) } };
	struct vlan_tag none = { 0 }, priority = { true, 0xa000 }, ten = { true, 0x600a }, twenty = { true, 20 };

	CHECK(!vsw_vlan_classify(&trunk, &none) && !vsw_vlan_classify(&trunk, &priority));
	CHECK(!vsw_vlan_classify(&trunk, &ten) && vsw_vlan_classify(&trunk, &twenty) && twenty.tci == 20);
	none = (struct vlan_tag){ 0 }, priority = (struct vlan_tag){ true, 0xa000 };
	CHECK(vsw_vlan_classify(&access, &none) && none.tci == 10);
	CHECK(vsw_vlan_classify(&access, &priority) && priority.tci == 0xa00a); /* the priority is kept */
	CHECK(vsw_vlan_classify(&access, &ten) && ten.tci == 0x600a && !vsw_vlan_classify(&access, &twenty));
}

/* With, without and instead of a tag, at every length around the head's, in one part and in two. */
static void retags_without_touching_the_rest(void)
{
	static const uint32_t lens[] = { 18, 19, 59, 60, 61, 63, 64, 65, 66, 67, 68, 69, 72, 128, 1514, FRAME_MAX };
	static uint8_t got[FRAME_PREFIX + FRAME_MAX + 4];
	static struct vlan_room room;

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		for (unsigned variant = 0; variant < 8; variant++) {
			bool had = variant & 1, wanted = variant & 2;
			struct frame frame = frame_of(lens[i], had ? 0x8100 : 0x0800, 0x1234);
			struct frame made;
			uint32_t from = had ? 16 : 12, to = wanted ? 16 : 12, prefix;

			if (variant & 4) {
				if (frame.len <= FRAME_HEAD)
					continue;
				frame = in_two_parts(frame);
			}
			made = vsw_vlan_retag(&frame, had, wanted ? VLAN_8021AD : 0, 0x7fff, &room);
			CHECK(made.len == frame.len - from + to);
			CHECK(made.head_len == made.len || made.head_len + 4 >= FRAME_HEAD);
			CHECK(made.len == made.head_len || made.rest == bytes + 16 + FRAME_HEAD); /* not copied */
			flatten(&made, got);
			memcpy(&prefix, got, 4);
			CHECK(be32toh(prefix) == made.len);
			CHECK(!memcmp(got + 4, bytes + 16, 12));
			CHECK(!wanted || !memcmp(got + 4 + 12, "\x88\xa8\x7f\xff", 4));
			CHECK(!memcmp(got + 4 + to, bytes + 16 + from, frame.len - from));
		}
	}
}

static void payload_is_what_follows_the_header_and_one_tag(void)
{
	struct frame frame = frame_of(1514, 0x0800, 0);

	CHECK(vsw_vlan_payload(&frame) == 1500);
	frame = frame_of(1518, 0x8100, 10);
	CHECK(vsw_vlan_payload(&frame) == 1500);
	frame = frame_of(1518, 0x88a8, 10);
	CHECK(vsw_vlan_payload(&frame) == 1500);
	frame = frame_of(16, 0x8100, 10);
	CHECK(vsw_vlan_payload(&frame) == 0);
}

int main(void)
{
	RUN(reads_only_its_own_tag);
	RUN(classifies_as_ieee_says);
	RUN(retags_without_touching_the_rest);
	RUN(payload_is_what_follows_the_header_and_one_tag);
	return 0;
}
