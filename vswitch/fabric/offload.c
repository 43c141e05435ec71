/* SPDX-License-Identifier: BSD-2-Clause */
#include "offload.h"

#include <assert.h>
#include <netinet/in.h>

#include "engine.h"
#include "vlan.h"

#define BEFORE_HEAD    16 /* bytes before each head: its length prefix */
#define HEAD_ALIGNMENT 64 /* bytes */
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define IPV4_HEADER    20
#define IPV6_HEADER    40
#define TCP_HEADER     20
#define UDP_HEADER     8
#define TCP_FIN_PSH    0x09
#define TCP_CWR        0x80

_Static_assert((BEFORE_HEAD) + (FRAME_MAX) + (HEAD_ALIGNMENT) <= ENGINE_HEADS, "any head has room");

static uint32_t get16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* --- what a header says --- */

/* Return how many bytes precede the network header, after at most two tags. */
static uint32_t find_network(const struct frame *frame)
{
	uint32_t at = FRAME_MIN;

	for (unsigned tags = 0; tags < 2 && at + FRAME_VLAN_TAG <= frame->len; tags++) {
		uint32_t type = get16(frame->head + at - 2);

		if (type != VLAN_8021Q && type != VLAN_8021AD)
			break;
		at += FRAME_VLAN_TAG;
	}
	return at;
}

static bool is_ipv4(const uint8_t *ip, uint32_t header, uint8_t protocol)
{
	return header >= IPV4_HEADER && ip[0] >> 4 == 4 && (ip[0] & 15) * 4U == header && ip[9] == protocol &&
	       !(get16(ip + 6) & 0x3fff); /* no fragment */
}

/* Extension headers are not looked at, but for how long they are together. */
static bool is_ipv6(const uint8_t *ip, uint32_t header, uint8_t protocol)
{
	return header >= IPV6_HEADER && ip[0] >> 4 == 6 && (header > IPV6_HEADER || ip[6] == protocol);
}

/* See that the frame is what its gso_type says. The checksum's place has been checked. */
static bool read_segmentation(const struct frame *frame, struct offload *offload)
{
	bool tcp = offload->gso_type != OFFLOAD_GSO_UDP;
	bool tcpv4 = (offload->gso_type & ~(unsigned)OFFLOAD_GSO_ECN) == OFFLOAD_GSO_TCPV4;
	uint8_t protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	const uint8_t *ip = frame->head + offload->network;
	const uint8_t *transport = frame->head + offload->csum_start;
	uint32_t ethertype = get16(ip - 2);
	uint32_t ip_header = (uint32_t)offload->csum_start - offload->network, hdr_len;

	if (!offload->gso_size || offload->csum_offset != (tcp ? 16 : 6))
		return false;
	offload->ipv4 = ethertype == ETHERTYPE_IPV4;
	if (!offload->ipv4 && ethertype != ETHERTYPE_IPV6)
		return false;
	if (offload->ipv4 ? !is_ipv4(ip, ip_header, protocol) : !is_ipv6(ip, ip_header, protocol))
		return false;
	if (tcp && tcpv4 != offload->ipv4)
		return false;
	hdr_len = offload->csum_start + (tcp ? transport[12] / 16U * 4 : UDP_HEADER);
	if (hdr_len < (uint32_t)offload->csum_start + (tcp ? TCP_HEADER : UDP_HEADER))
		return false;
	if (hdr_len > frame->len || hdr_len > OFFLOAD_HEADERS_MAX)
		return false;
	offload->hdr_len = (uint16_t)hdr_len;
	return frame->len - hdr_len <= (uint32_t)offload->gso_size * OFFLOAD_SEGMENTS_MAX &&
	       vsw_offload_longest(frame) - offload->network <= UINT16_MAX; /* what IP's length can say */
}

bool vsw_offload_read(const struct offload_header *header, uint32_t inserted, struct frame *frame,
		      struct offload *offload)
{
	uint32_t start = le16toh(header->csum_start) + inserted, offset = le16toh(header->csum_offset);
	uint32_t network;

	if (!(header->flags & OFFLOAD_NEEDS_CSUM))
		return header->gso_type == OFFLOAD_GSO_NONE;
	/* The addresses and tags, by which it is forwarded, are not for writing sums into. */
	network = find_network(frame);
	if (start < network || start + offset + 2 > frame->len || start > UINT16_MAX - FRAME_VLAN_TAG)
		return false;
	*offload = (struct offload){
		.csum_start = (uint16_t)start,
		.csum_offset = (uint16_t)offset,
		.network = (uint16_t)network,
		.gso_type = header->gso_type,
	};
	frame->offload = offload;
	switch (header->gso_type) {
	case OFFLOAD_GSO_NONE:
		return true;
	case OFFLOAD_GSO_TCPV4:
	case OFFLOAD_GSO_TCPV4 | OFFLOAD_GSO_ECN:
	case OFFLOAD_GSO_TCPV6:
	case OFFLOAD_GSO_TCPV6 | OFFLOAD_GSO_ECN:
	case OFFLOAD_GSO_UDP:
		offload->gso_size = le16toh(header->gso_size);
		return read_segmentation(frame, offload);
	default:
		return false;
	}
}

void vsw_offload_write(const struct frame *frame, struct offload_header *header)
{
	const struct offload *offload = frame->offload;

	*header = (struct offload_header){ 0 };
	if (!offload)
		return;
	header->flags = OFFLOAD_NEEDS_CSUM;
	header->gso_type = offload->gso_type;
	header->hdr_len = htole16(offload->hdr_len);
	header->gso_size = htole16(offload->gso_size);
	header->csum_start = htole16(offload->csum_start);
	header->csum_offset = htole16(offload->csum_offset);
}

struct offload vsw_offload_moved(const struct offload *offload, int bytes)
{
	struct offload moved = *offload;

	moved.csum_start = (uint16_t)(moved.csum_start + bytes);
	moved.network = (uint16_t)(moved.network + bytes);
	if (moved.gso_size)
		moved.hdr_len = (uint16_t)(moved.hdr_len + bytes);
	return moved;
}

/* --- sums: 16-bit numbers as they lie in memory, whatever the machine's byte order (RFC 1071) --- */

static uint64_t sum(const uint8_t *data, uint32_t n)
{
	uint64_t total = 0;

	for (; n >= 32; n -= 32, data += 32) {
		uint32_t words[8];

		memcpy(words, data, sizeof(words));
		for (unsigned i = 0; i < 8; i++)
			total += words[i];
	}
	for (; n >= 2; n -= 2, data += 2) {
		uint16_t word;

		memcpy(&word, data, sizeof(word));
		total += word;
	}
	if (n) {
		uint16_t word = 0;

		memcpy(&word, data, 1);
		total += word;
	}
	return total;
}

static uint16_t fold(uint64_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

/* Return the sum of all of `frame` from `start` on, which is in its head. */
static uint64_t sum_from(const struct frame *frame, uint32_t start)
{
	uint32_t in_head = frame->head_len - start;
	uint16_t rest = fold(sum(frame->rest, frame->len - frame->head_len));

	if (in_head % 2)
		rest = (uint16_t)(rest << 8 | rest >> 8);
	return sum(frame->head + start, in_head) + rest;
}

static void write_sum(uint8_t *at, uint64_t total)
{
	uint16_t folded = (uint16_t)~fold(total);

	if (!folded)
		folded = 0xffff; /* the same number, and in UDP a 0 would say that there is no sum */
	memcpy(at, &folded, sizeof(folded));
}

/* --- finishing --- */

/* Finished frames on their way to a port. Their heads, with the headers that had to change, are in engine->heads; what follows
 * is where it was.
 */
struct finishing {
	struct port *to;
	unsigned n;
	uint32_t used; /* bytes of engine->heads */
	struct frame list[FRAME_BATCH];
};

static void hand_over(struct finishing *finishing)
{
	struct port *to = finishing->to;

	if (finishing->n && to->state == PORT_UP)
		to->ops->deliver(to, finishing->list, finishing->n);
	else
		to->drops[DROP_CLOSED] += finishing->n;
	finishing->n = 0;
	finishing->used = 0;
}

/* Return the frame's next place. */
static struct frame *next(struct finishing *finishing)
{
	if (finishing->n == FRAME_BATCH)
		hand_over(finishing);
	return &finishing->list[finishing->n++];
}

/* Return a frame of `len` bytes with room for a head of `head_len`, its prefix written. */
static struct frame *start_frame(struct finishing *finishing, uint32_t len, uint32_t head_len)
{
	uint32_t room = (BEFORE_HEAD + head_len + HEAD_ALIGNMENT - 1) / HEAD_ALIGNMENT * HEAD_ALIGNMENT;
	struct frame *made;
	uint8_t *head;

	if (finishing->n == FRAME_BATCH || finishing->used + room > ENGINE_HEADS)
		hand_over(finishing);
	head = finishing->to->engine->heads + finishing->used + BEFORE_HEAD;
	finishing->used += room;
	frame_set_prefix(head, len);
	made = next(finishing);
	*made = (struct frame){ .head = head, .len = len, .head_len = head_len };
	return made;
}

static uint8_t *head_of(const struct frame *made)
{
	return (uint8_t *)(uintptr_t)made->head;
}

/* Return where the frame's bytes from `at` on are, as far as they are in one piece. */
static const uint8_t *bytes_at(const struct frame *frame, uint32_t at)
{
	bool in_head =
		at < frame->head_len || frame->head_len == frame->len; /* there may be no rest, not even an empty one */

	return in_head ? frame->head + at : frame->rest + (at - frame->head_len);
}

/* Copy `n` bytes of the frame from `at` on. */
static void copy_bytes(const struct frame *frame, uint32_t at, uint32_t n, uint8_t *to)
{
	uint32_t in_head = at < frame->head_len ? smaller(n, frame->head_len - at) : 0;

	if (in_head)
		memcpy(to, frame->head + at, in_head);
	if (in_head < n)
		memcpy(to + in_head, bytes_at(frame, at + in_head), n - in_head);
}

/* Return how many of `n` bytes from `at` on have to be copied to the end of a head of `len` bytes, so that what is not is in
 * one piece, and the head long enough for whoever looks at it.
 */
static uint32_t bytes_for_head(const struct frame *frame, uint32_t at, uint32_t n, uint32_t len)
{
	uint32_t wanted = len < FRAME_HEAD ? FRAME_HEAD - len : 0;

	if (at < frame->head_len && frame->head_len < frame->len)
		wanted = larger(wanted, frame->head_len - at);
	return smaller(wanted, n);
}

static void finish_checksum(struct finishing *finishing, const struct frame *frame)
{
	const struct offload *offload = frame->offload;
	uint32_t field = (uint32_t)offload->csum_start + offload->csum_offset;
	uint32_t head_len = field + 2;
	struct frame *made;

	head_len += bytes_for_head(frame, head_len, frame->len - head_len, head_len);
	made = start_frame(finishing, frame->len, head_len);
	copy_bytes(frame, 0, head_len, head_of(made));
	made->rest = bytes_at(frame, head_len);
	write_sum(head_of(made) + field, sum_from(made, offload->csum_start));
}

/* A frame on its way to be segments. */
struct cutting {
	const struct frame *frame;
	uint8_t headers[OFFLOAD_HEADERS_MAX + FRAME_VLAN_TAG]; /* a switch puts one tag before them at most */
	uint64_t pseudo;                                       /* sum of the pseudo header, but for the length */
};

/* The length as it is summed in a pseudo header. */
static uint16_t length_sum(uint32_t len)
{
	return fold(htobe32(len));
}

static void start_cutting(struct cutting *cutting, const struct frame *frame)
{
	const struct offload *offload = frame->offload;
	uint8_t *field = cutting->headers + offload->csum_start + offload->csum_offset;

	assert(offload->hdr_len <= sizeof(cutting->headers));
	cutting->frame = frame;
	copy_bytes(frame, 0, offload->hdr_len, cutting->headers);
	cutting->pseudo = sum(field, 2) + (uint16_t)~length_sum(frame->len - offload->csum_start);
}

static void set_ip_header(uint8_t *ip, const struct offload *offload, uint32_t len, uint32_t index)
{
	if (!offload->ipv4) {
		put16(ip + 4, len - IPV6_HEADER);
		return;
	}
	put16(ip + 2, len);
	put16(ip + 4, get16(ip + 4) + index);
	put16(ip + 10, 0);
	write_sum(ip + 10, sum(ip, (uint32_t)offload->csum_start - offload->network));
}

static void set_tcp_header(uint8_t *tcp, uint32_t done, bool last)
{
	uint32_t seq = (get16(tcp + 4) << 16 | get16(tcp + 6)) + done;

	put16(tcp + 4, seq >> 16);
	put16(tcp + 6, seq);
	if (done)
		tcp[13] &= (uint8_t)~TCP_CWR;
	if (!last)
		tcp[13] &= (uint8_t)~TCP_FIN_PSH;
}

/* Make the segment with `n` bytes of payload after the first `done`. */
static void make_segment(struct finishing *finishing, const struct cutting *cutting, uint32_t done, uint32_t n)
{
	const struct frame *frame = cutting->frame;
	const struct offload *offload = frame->offload;
	uint32_t at = offload->hdr_len + done;
	uint32_t copied = bytes_for_head(frame, at, n, offload->hdr_len);
	struct frame *made = start_frame(finishing, offload->hdr_len + n, offload->hdr_len + copied);
	uint8_t *head = head_of(made), *transport = head + offload->csum_start;
	uint8_t *field = transport + offload->csum_offset;

	memcpy(head, cutting->headers, offload->hdr_len);
	copy_bytes(frame, at, copied, head + offload->hdr_len);
	made->rest = bytes_at(frame, at + copied);
	set_ip_header(head + offload->network, offload, made->len - offload->network, done / offload->gso_size);
	if (offload->gso_type == OFFLOAD_GSO_UDP)
		put16(transport + 4, UDP_HEADER + n);
	else
		set_tcp_header(transport, done, at + n == frame->len);
	put16(field, 0);
	write_sum(field,
		  cutting->pseudo + length_sum(made->len - offload->csum_start) + sum_from(made, offload->csum_start));
}

static void cut(struct finishing *finishing, const struct frame *frame)
{
	const struct offload *offload = frame->offload;
	uint32_t payload = frame->len - offload->hdr_len, done = 0;
	struct cutting cutting;

	start_cutting(&cutting, frame);
	do {
		uint32_t n = smaller(payload - done, offload->gso_size);

		make_segment(finishing, &cutting, done, n);
		done += n;
	} while (done < payload);
}

void vsw_offload_deliver(struct port *to, const struct frame *frames, unsigned n)
{
	struct finishing finishing;

	finishing.to = to;
	finishing.n = 0;
	finishing.used = 0;
	for (unsigned i = 0; i < n; i++) {
		const struct offload *offload = frames[i].offload;

		if (!offload)
			*next(&finishing) = frames[i];
		else if (!offload->gso_size)
			finish_checksum(&finishing, &frames[i]);
		else
			cut(&finishing, &frames[i]);
	}
	hand_over(&finishing);
}
