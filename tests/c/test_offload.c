/* SPDX-License-Identifier: BSD-2-Clause */
/* What the switch makes of unfinished frames, against packets made the plain way: one by one, each summed by hand. */
#include "offload.h"
#include "vlan.h"
#include "vnet_port.h"

#define A 0x525400000001ULL
#define B 0x525400000002ULL

#define FIN 0x01
#define PSH 0x08
#define ACK 0x10
#define CWR 0x80

/* --- the model: packets --- */

/* What all packets of a flow have in common. */
struct flow {
	unsigned tags;
	bool ipv4, udp;
	unsigned ip_extra;  /* bytes of IPv4 options or IPv6 extension headers */
	unsigned tcp_extra; /* bytes of TCP options */
};

/* What tells one of them from the next. */
struct packet {
	uint16_t id;
	uint32_t seq;
	uint8_t flags;
	const uint8_t *payload;
	uint32_t n;
};

struct model {
	uint8_t bytes[FRAME_MAX];
	uint32_t len, network, transport, header;
};

static void put_be16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* RFC 1071, word by word. */
static unsigned add_words(unsigned sum, const uint8_t *data, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		sum += i % 2 ? data[i] : (unsigned)data[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static unsigned pseudo_header(const struct flow *flow, const struct model *model)
{
	const uint8_t *ip = model->bytes + model->network;
	uint8_t tail[8] = { 0 };
	uint32_t len = model->len - model->transport;
	unsigned sum = flow->ipv4 ? add_words(0, ip + 12, 8) : add_words(0, ip + 8, 32);

	put_be16(tail, len >> 16);
	put_be16(tail + 2, len);
	tail[7] = flow->udp ? 17 : 6;
	return add_words(sum, tail, 8);
}

/* Make a packet with its checksums; `left`: of the transport's, only the pseudo header's sum. */
static void make_packet(const struct flow *flow, const struct packet *packet, bool left, struct model *model)
{
	uint32_t ip_header = (flow->ipv4 ? 20 : 40) + flow->ip_extra;
	uint32_t transport_header = flow->udp ? 8 : 20 + flow->tcp_extra;
	uint8_t *ip, *transport, *check;
	unsigned sum;

	model->network = 14 + 4 * flow->tags;
	model->transport = model->network + ip_header;
	model->header = model->transport + transport_header;
	model->len = model->header + packet->n;
	memset(model->bytes, 0, model->header);
	put_mac(model->bytes, B);
	put_mac(model->bytes + 6, A);
	for (unsigned i = 0; i < flow->tags; i++) {
		put_be16(model->bytes + 12 + 4 * i, i + 1 < flow->tags ? VLAN_8021AD : VLAN_8021Q);
		put_be16(model->bytes + 14 + 4 * i, 0x2000 + 10 + i);
	}
	ip = model->bytes + model->network;
	put_be16(ip - 2, flow->ipv4 ? 0x0800 : 0x86dd);
	if (flow->ipv4) {
		ip[0] = (uint8_t)(0x40 + ip_header / 4);
		put_be16(ip + 2, model->len - model->network);
		put_be16(ip + 4, packet->id);
		ip[6] = 0x40;
		ip[8] = 64;
		ip[9] = flow->udp ? 17 : 6;
		memcpy(ip + 12, "\x0a\x00\x00\x01\x0a\x00\x00\x02", 8);
		memset(ip + 20, 1, flow->ip_extra);
		put_be16(ip + 10, ~add_words(0, ip, ip_header) & 0xffff);
	} else {
		ip[0] = 0x60;
		put_be16(ip + 4, model->len - model->network - 40);
		ip[6] = flow->ip_extra ? 60 : flow->udp ? 17 : 6;
		ip[7] = 64;
		memset(ip + 8, 0xfd, 32);
		if (flow->ip_extra) { /* destination options, all padding */
			ip[40] = flow->udp ? 17 : 6;
			ip[41] = (uint8_t)(flow->ip_extra / 8 - 1);
			memset(ip + 42, 0, flow->ip_extra - 2);
		}
	}
	transport = model->bytes + model->transport;
	put_be16(transport, 4321);
	put_be16(transport + 2, 1234);
	if (flow->udp) {
		check = transport + 6;
		put_be16(transport + 4, 8 + packet->n);
	} else {
		check = transport + 16;
		put_be16(transport + 4, packet->seq >> 16);
		put_be16(transport + 6, packet->seq);
		memset(transport + 8, 0x5a, 4);
		transport[12] = (uint8_t)(transport_header / 4 << 4);
		transport[13] = packet->flags;
		memset(transport + 20, 1, flow->tcp_extra);
	}
	memcpy(transport + transport_header, packet->payload, packet->n);
	sum = pseudo_header(flow, model);
	if (!left) {
		sum = ~add_words(sum, transport, model->len - model->transport) & 0xffff;
		sum = sum ? sum : 0xffff;
	}
	put_be16(check, sum);
}

/* The same packet left to be finished: with segments of `gso_size` bytes, or 0. */
static void make_unfinished(const struct flow *flow, const struct packet *packet, unsigned gso_size,
			    struct vnet_datagram *datagram)
{
	static struct model model;
	unsigned type = flow->udp ? OFFLOAD_GSO_UDP : flow->ipv4 ? OFFLOAD_GSO_TCPV4 : OFFLOAD_GSO_TCPV6;

	make_packet(flow, packet, true, &model);
	if (packet->flags & CWR && !flow->udp)
		type |= OFFLOAD_GSO_ECN;
	datagram->len = model.len;
	memcpy(datagram->bytes, model.bytes, model.len);
	datagram->header = (struct offload_header){
		.flags = OFFLOAD_NEEDS_CSUM,
		.gso_type = gso_size ? (uint8_t)type : OFFLOAD_GSO_NONE,
		.hdr_len = gso_size ? htole16((uint16_t)model.header) : 0,
		.gso_size = htole16((uint16_t)gso_size),
		.csum_start = htole16((uint16_t)model.transport),
		.csum_offset = htole16(flow->udp ? 6 : 16),
	};
}

/* Return the packet's segment after `done` bytes of payload. */
static struct packet segment_of(const struct packet *packet, uint32_t done, uint32_t gso_size)
{
	bool last = packet->n - done <= gso_size;
	unsigned flags = packet->flags;

	if (done)
		flags &= ~(unsigned)CWR;
	if (!last)
		flags &= ~(unsigned)(FIN | PSH);
	return (struct packet){
		.id = (uint16_t)(packet->id + done / gso_size),
		.seq = packet->seq + done,
		.flags = (uint8_t)flags,
		.payload = packet->payload + done,
		.n = last ? packet->n - done : gso_size,
	};
}

static uint8_t payload[FRAME_MAX];

static void fill_payload(void)
{
	for (uint32_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i * 11 + i / 251);
}

/* --- what comes out --- */

/* Read `n` bytes, some of which may still be queued. Return false when there is not even one. */
static bool receive_bytes(struct peer peer, void *to, uint32_t n)
{
	uint32_t have = 0;

	while (have < n) {
		ssize_t got = read(peer.fd, (uint8_t *)to + have, n - have);

		if (got < 0) {
			lab_settle();
			got = read(peer.fd, (uint8_t *)to + have, n - have);
		}
		if (got < 0 && !have)
			return false;
		CHECK(got > 0);
		have += (uint32_t)got;
	}
	return true;
}

/* Read one frame from a stream peer. Return false when there is none. */
static bool receive(struct peer peer, struct model *got)
{
	uint32_t wire;

	if (!receive_bytes(peer, &wire, sizeof(wire)))
		return false;
	got->len = be32toh(wire);
	CHECK(got->len <= FRAME_MAX);
	return receive_bytes(peer, got->bytes, got->len);
}

static bool next_is(struct peer peer, const struct flow *flow, const struct packet *packet)
{
	static struct model got, wanted;

	make_packet(flow, packet, false, &wanted);
	return receive(peer, &got) && got.len == wanted.len && !memcmp(got.bytes, wanted.bytes, got.len);
}

static bool is_silent(struct peer peer)
{
	static struct model got;

	return !receive(peer, &got);
}

static bool segments_arrive(struct peer peer, const struct flow *flow, const struct packet *packet, uint32_t gso_size)
{
	uint32_t done = 0;

	do {
		struct packet segment = segment_of(packet, done, gso_size);

		if (!next_is(peer, flow, &segment))
			return false;
		done += segment.n;
	} while (done < packet->n);
	return true;
}

static struct port_settings in_vlan(unsigned vlan, bool untagged)
{
	struct port_settings settings = PORT_SETTINGS_DEFAULT;

	memset(settings.members, 0, sizeof(settings.members));
	settings.members[vlan >> 3] = (uint8_t)(1U << (vlan & 7));
	settings.pvid = untagged ? (uint16_t)vlan : 0;
	return settings;
}

/* --- tests --- */

static struct vnet_datagram datagram, again;

static unsigned chance(unsigned n)
{
	return (unsigned)random() % n;
}

static struct flow any_flow(void)
{
	struct flow flow = { .tags = chance(3), .ipv4 = chance(2), .udp = chance(3) == 0 };

	flow.ip_extra = chance(3) ? 0 : flow.ipv4 ? chance(11) * 4 : chance(49) * 8;
	flow.tcp_extra = flow.udp ? 0 : chance(11) * 4;
	return flow;
}

static struct packet any_packet(uint32_t most)
{
	return (struct packet){ .id = (uint16_t)random(),
				.seq = (uint32_t)random() * 3,
				.flags = (uint8_t)random(),
				.payload = payload,
				.n = chance(2) ? chance(most) : chance(100) };
}

/* Any flow, any packet, any segment size: to a port with headers it goes as it is, to one without as what it stands for. */
static void segments_are_what_the_sender_would_have_made(void)
{
	unsigned long segments = 0;
	struct peer in, as_is, finished;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	as_is = lab_add_vnet_peer();
	finished = lab_add_peer();
	srandom(4);
	for (unsigned i = 0; i < 600; i++) {
		struct flow flow = any_flow();
		struct packet packet = any_packet(60000);
		uint32_t gso_size = 1 + chance(chance(2) ? 3000 : 65000);

		if (packet.n / gso_size > 1000)
			gso_size = packet.n / 1000 + 1;
		make_unfinished(&flow, &packet, gso_size, &datagram);
		vnet_send(in, &datagram);
		CHECK(vnet_receive(as_is, &again));
		CHECK(again.len == datagram.len && !memcmp(again.bytes, datagram.bytes, again.len));
		CHECK(!memcmp(&again.header, &datagram.header, sizeof(again.header)));
		CHECK(segments_arrive(finished, &flow, &packet, gso_size));
		segments += packet.n / gso_size + 1;
	}
	CHECK(is_silent(finished) && segments > 10000);
	CHECK(in.port->rx.frames == 600 && as_is.port->tx.frames == 600 && finished.port->tx.frames > 10000);
	lab_stop();
}

static void checksums_are_filled_in(void)
{
	struct peer in, finished;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	srandom(5);
	for (unsigned i = 0; i < 600; i++) {
		struct flow flow = any_flow();
		struct packet packet = any_packet(i % 10 ? 1500 : 60000);

		make_unfinished(&flow, &packet, 0, &datagram);
		vnet_send(in, &datagram);
		CHECK(next_is(finished, &flow, &packet));
	}
	lab_stop();
}

/* A UDP checksum of 0 says that there is none. */
static void a_sum_of_zero_is_written_as_all_ones(void)
{
	struct flow flow = { .ipv4 = true, .udp = true };
	struct packet packet = { .payload = payload, .n = 100 };
	static struct model model;
	struct peer in, finished;
	unsigned sum;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	put_be16(payload, 0);
	make_packet(&flow, &packet, false, &model);
	sum = (unsigned)model.bytes[model.transport + 6] << 8 | model.bytes[model.transport + 7];
	put_be16(payload, sum); /* and now it is 0 */
	make_unfinished(&flow, &packet, 0, &datagram);
	vnet_send(in, &datagram);
	CHECK(receive(finished, &model));
	CHECK(model.bytes[model.transport + 6] == 0xff && model.bytes[model.transport + 7] == 0xff);
	fill_payload();
	lab_stop();
}

/* Wherever a sender has its sum begin, be it at an odd place, and whatever it is a sum of. */
static void sums_may_begin_anywhere(void)
{
	struct peer in, finished;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	for (uint32_t start = 14; start < 200; start++) {
		for (uint32_t offset = 0; offset < 90; offset += 7) {
			static struct model got;
			uint32_t len = start + offset + 2 + start % 5 * offset;

			datagram.len = len;
			memcpy(datagram.bytes, payload, len);
			put_mac(datagram.bytes, B);
			put_mac(datagram.bytes + 6, A);
			datagram.header = (struct offload_header){ .flags = OFFLOAD_NEEDS_CSUM,
								   .csum_start = htole16((uint16_t)start),
								   .csum_offset = htole16((uint16_t)offset) };
			vnet_send(in, &datagram);
			CHECK(receive(finished, &got) && got.len == len);
			CHECK(!memcmp(got.bytes, datagram.bytes, start + offset));
			CHECK(!memcmp(got.bytes + start + offset + 2, datagram.bytes + start + offset + 2,
				      len - start - offset - 2));
			put_be16(datagram.bytes + start + offset,
				 ~add_words(0, datagram.bytes + start, len - start) & 0xffff);
			if (offset % 2) /* the bytes of the sum are then the other way round */
				continue;
			CHECK(!memcmp(got.bytes, datagram.bytes, len));
		}
	}
	lab_stop();
}

static void what_cannot_be_is_dropped_and_counted(void)
{
	static const struct flow tcp = { .ipv4 = true }, tcp6 = { 0 }, udp = { .ipv4 = true, .udp = true };
	static const struct flow tagged = { .ipv4 = true, .tags = 1 };
	static const struct {
		const struct flow *flow;
		unsigned at; /* in the frame, or, from 1000 on, in the header: put this there */
		unsigned value;
	} wrongs[] = {
		{ &tcp, 1000, 0 },       /* to be segmented, but not summed */
		{ &tcp, 1001, 2 },       /* a type that nobody knows */
		{ &tcp, 1001, 3 },       /* IP fragments */
		{ &tcp, 1001, 4 },       /* the other IP version */
		{ &tcp6, 1001, 1 },      /* and the other way round */
		{ &tcp, 1001, 5 },       /* not UDP */
		{ &udp, 1001, 1 },       /* not TCP */
		{ &udp, 1001, 0x85 },    /* congestion bits of UDP */
		{ &tcp, 1001, 0x21 },    /* within a tunnel */
		{ &tcp, 1004, 0 },       /* segments of no size; the upper byte is 0 */
		{ &tcp, 1006, 13 },      /* among the addresses */
		{ &tcp, 1006, 38 },      /* not behind the IP header */
		{ &tcp, 1007, 4 },       /* beyond the end */
		{ &tcp, 1008, 6 },       /* not TCP's checksum */
		{ &tcp, 1009, 4 },       /* beyond the end */
		{ &tcp, 12, 0x81 },      /* not IP */
		{ &tcp, 14, 0x46 },      /* a longer IP header than there is */
		{ &tcp, 14, 0x55 },      /* another IP version */
		{ &tcp, 20, 0x20 },      /* a fragment */
		{ &tcp, 21, 1 },         /* a later fragment */
		{ &tcp, 23, 17 },        /* not TCP */
		{ &tcp, 14 + 32, 0x40 }, /* a TCP header too short */
		{ &tcp6, 14, 0x50 },     { &tcp6, 20, 17 },
	};
	struct packet packet = { .payload = payload, .n = 400, .flags = ACK };
	struct peer in, finished, as_is;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	as_is = lab_add_vnet_peer();
	for (unsigned i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		make_unfinished(wrongs[i].flow, &packet, 100, &datagram);
		if (wrongs[i].at >= 1000)
			((uint8_t *)&datagram.header)[wrongs[i].at - 1000] = (uint8_t)wrongs[i].value;
		else
			datagram.bytes[wrongs[i].at] = (uint8_t)wrongs[i].value;
		vnet_send(in, &datagram);
		CHECK(in.port->drops[DROP_BAD_OFFLOAD] == i + 1);
		CHECK(is_silent(finished) && !vnet_receive(as_is, &again));
	}
	CHECK(in.port->state == PORT_UP);
	in.port->drops[DROP_BAD_OFFLOAD] = 0;
	for (unsigned start = 0; start < 18; start++) { /* sums are not written into addresses and tags */
		make_unfinished(&tagged, &packet, 0, &datagram);
		datagram.header.csum_start = htole16((uint16_t)start);
		vnet_send(in, &datagram);
		CHECK(in.port->drops[DROP_BAD_OFFLOAD] == start + 1);
	}
	packet.n = 0;
	make_unfinished(&tcp, &packet, 100, &datagram);
	datagram.header.gso_size = 0;
	vnet_send(in, &datagram);
	CHECK(in.port->drops[DROP_BAD_OFFLOAD] == 18 + 1);
	CHECK(is_silent(finished) && !vnet_receive(as_is, &again));
	packet.n = 400;
	make_unfinished(&tcp, &packet, 100, &datagram);
	vnet_send(in, &datagram);
	CHECK(segments_arrive(finished, &tcp, &packet, 100));
	lab_stop();
}

/* A frame that would be cut into more than anybody means is refused; so is one whose segments IP cannot carry. */
static void segments_are_bounded_in_number_and_size(void)
{
	struct flow flow = { .ipv4 = true };
	struct packet packet = { .payload = payload, .n = OFFLOAD_SEGMENTS_MAX, .flags = ACK };
	struct peer in, finished;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	make_unfinished(&flow, &packet, 1, &datagram);
	vnet_send(in, &datagram);
	CHECK(segments_arrive(finished, &flow, &packet, 1));
	packet.n++;
	make_unfinished(&flow, &packet, 1, &datagram);
	vnet_send(in, &datagram);
	CHECK(in.port->drops[DROP_BAD_OFFLOAD] == 1);
	packet.n = 65535 - 40;
	make_unfinished(&flow, &packet, 65535, &datagram);
	vnet_send(in, &datagram);
	CHECK(segments_arrive(finished, &flow, &packet, 65535));
	packet.n++;
	make_unfinished(&flow, &packet, 65535, &datagram);
	vnet_send(in, &datagram);
	CHECK(in.port->drops[DROP_BAD_OFFLOAD] == 2 && is_silent(finished));
	lab_stop();
}

/* A sum belongs into the frame, and so that it still can be told where when the frame gets a tag. */
static void sums_end_where_the_frame_does(void)
{
	static const struct {
		uint32_t start, offset, len;
		bool good;
	} cases[] = {
		{ 34, 6, 42, true },         { 34, 7, 42, false },       { 35, 6, 42, false },
		{ 34, 65535, 60, false },    { 65531, 16, 65549, true }, { 65531, 16, 65548, false },
		{ 65532, 16, 65550, false },
	};
	struct peer in, finished;
	unsigned bad = 0;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	memcpy(datagram.bytes, payload, FRAME_MAX);
	put_mac(datagram.bytes, B);
	put_mac(datagram.bytes + 6, A);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		datagram.len = cases[i].len;
		datagram.header = (struct offload_header){ .flags = OFFLOAD_NEEDS_CSUM,
							   .csum_start = htole16((uint16_t)cases[i].start),
							   .csum_offset = htole16((uint16_t)cases[i].offset) };
		vnet_send(in, &datagram);
		bad += !cases[i].good;
		CHECK(is_silent(finished) == !cases[i].good && in.port->drops[DROP_BAD_OFFLOAD] == bad);
	}
	lab_stop();
}

/* Linux sends segments as small as this, for all of which a port of the switch may have to pay; nobody means smaller ones. */
static void as_many_segments_as_linux_makes_are_taken_and_not_many_more(void)
{
	struct flow flow = { .ipv4 = true, .tcp_extra = 12 };
	struct packet packet = { .payload = payload, .n = 65535 - 52, .flags = ACK };
	struct peer in, finished;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	make_unfinished(&flow, &packet, 48 - 12, &datagram);
	vnet_send(in, &datagram);
	CHECK(segments_arrive(finished, &flow, &packet, 48 - 12));
	make_unfinished(&flow, &packet, 24, &datagram);
	vnet_send(in, &datagram);
	CHECK(in.port->drops[DROP_BAD_OFFLOAD] == 1 && is_silent(finished));
	lab_stop();
}

/* However long the headers are, those of a batch have room. */
static void headers_are_bounded_in_length(void)
{
	struct flow flow = { .ip_extra = 384, .tcp_extra = 40 };
	struct packet packet = { .payload = payload, .n = 6000, .flags = ACK };
	struct peer in, finished;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	make_unfinished(&flow, &packet, 10, &datagram);
	vnet_send(in, &datagram);
	CHECK(segments_arrive(finished, &flow, &packet, 10));
	flow.ip_extra += 16;
	make_unfinished(&flow, &packet, 10, &datagram);
	vnet_send(in, &datagram);
	CHECK(in.port->drops[DROP_BAD_OFFLOAD] == 1 && is_silent(finished));
	lab_stop();
}

/* An MTU is about what is sent in the end. */
static void mtu_is_that_of_each_segment(void)
{
	struct flow flow = { .ipv4 = true };
	struct packet packet = { .payload = payload, .n = 20000, .flags = ACK };
	struct peer in, finished, as_is, *limited[2] = { &finished, &as_is };
	struct port_settings settings = PORT_SETTINGS_DEFAULT;

	lab_start(false, 100);
	in = lab_add_vnet_peer();
	finished = lab_add_peer();
	as_is = lab_add_vnet_peer();
	settings.mtu = 1500;
	for (unsigned i = 0; i < 2; i++)
		CHECK(!vsw_switch_configure_port(limited[i]->port, &settings));
	make_unfinished(&flow, &packet, 1460, &datagram);
	vnet_send(in, &datagram);
	CHECK(segments_arrive(finished, &flow, &packet, 1460) && vnet_receive(as_is, &again));
	make_unfinished(&flow, &packet, 1461, &datagram);
	vnet_send(in, &datagram);
	CHECK(is_silent(finished) && finished.port->drops[DROP_TOO_LONG] == 1);
	CHECK(!vnet_receive(as_is, &again) && as_is.port->drops[DROP_TOO_LONG] == 1);
	CHECK(!vsw_switch_configure_port(in.port, &settings));
	vnet_send(in, &datagram);
	CHECK(in.port->drops[DROP_OVERSIZE] == 1);
	make_unfinished(&flow, &packet, 1460, &datagram);
	vnet_send(in, &datagram);
	CHECK(segments_arrive(finished, &flow, &packet, 1460) && vnet_receive(as_is, &again));
	lab_stop();
}

/* From a port in VLAN 10 without tag to ones with, and back: what is left to do moves with the headers. */
static void tags_come_and_go(void)
{
	struct switch_settings settings;
	struct flow tagged = { .ipv4 = true, .tags = 1 }, untagged = { .ipv4 = true };
	struct packet packet = { .payload = payload, .n = 5000, .flags = ACK };
	struct peer access, trunk, finished_access, finished_trunk;
	struct port_settings in_10 = in_vlan(10, true), with_10 = in_vlan(10, false);

	lab_start(false, 100);
	settings = sw->settings;
	settings.vlan_filtering = true;
	vsw_switch_configure(sw, &settings);
	access = lab_add_vnet_peer();
	trunk = lab_add_vnet_peer();
	finished_access = lab_add_peer();
	finished_trunk = lab_add_peer();
	CHECK(!vsw_switch_configure_port(access.port, &in_10) && !vsw_switch_configure_port(trunk.port, &with_10));
	CHECK(!vsw_switch_configure_port(finished_access.port, &in_10));
	CHECK(!vsw_switch_configure_port(finished_trunk.port, &with_10));
	for (unsigned gso_size = 0; gso_size < 2000; gso_size += 1234) {
		static struct vnet_datagram other;

		packet.n = gso_size ? 5000 : 1000;
		make_unfinished(&tagged, &packet, gso_size, &datagram);
		datagram.bytes[14] = 0; /* no priority: one does not leave an access port */
		make_unfinished(&untagged, &packet, gso_size, &other);
		vnet_send(trunk, &datagram);
		CHECK(vnet_receive(access, &again) && again.len == other.len);
		CHECK(!memcmp(again.bytes, other.bytes, again.len));
		CHECK(!memcmp(&again.header, &other.header, sizeof(again.header)));
		CHECK(segments_arrive(finished_access, &untagged, &packet, gso_size ? gso_size : 5000));
		while (!is_silent(finished_trunk))
			;
		vnet_send(access, &other);
		CHECK(vnet_receive(trunk, &again) && again.len == datagram.len);
		CHECK(!memcmp(again.bytes, datagram.bytes, again.len));
		CHECK(!memcmp(&again.header, &datagram.header, sizeof(again.header)));
		while (!is_silent(finished_access))
			;
		for (unsigned done = 0; done < packet.n; done += gso_size ? gso_size : packet.n) {
			static struct model got, wanted;
			struct packet segment = segment_of(&packet, done, gso_size ? gso_size : packet.n);

			make_packet(&tagged, &segment, false, &wanted);
			wanted.bytes[14] = 0;
			CHECK(receive(finished_trunk, &got) && got.len == wanted.len);
			CHECK(!memcmp(got.bytes, wanted.bytes, got.len));
		}
	}
	lab_stop();
}

/* The longest headers there may be, of a frame that goes on with a tag more. */
static void the_longest_headers_have_room_for_a_tag(void)
{
	struct switch_settings settings;
	struct flow flow = { .ip_extra = 400, .tcp_extra = 36 };
	struct packet packet = { .payload = payload, .n = 3000, .flags = ACK };
	struct port_settings in_10 = in_vlan(10, true), with_10 = in_vlan(10, false);
	struct peer in, trunk;

	lab_start(false, 100);
	settings = sw->settings;
	settings.vlan_filtering = true;
	vsw_switch_configure(sw, &settings);
	in = lab_add_vnet_peer();
	trunk = lab_add_peer();
	CHECK(!vsw_switch_configure_port(in.port, &in_10) && !vsw_switch_configure_port(trunk.port, &with_10));
	make_unfinished(&flow, &packet, 1000, &datagram);
	CHECK(le16toh(datagram.header.hdr_len) + 4 > OFFLOAD_HEADERS_MAX);
	vnet_send(in, &datagram);
	flow.tags = 1;
	for (unsigned done = 0; done < packet.n; done += 1000) {
		static struct model got, wanted;
		struct packet segment = segment_of(&packet, done, 1000);

		make_packet(&flow, &segment, false, &wanted);
		wanted.bytes[14] = 0; /* no priority */
		CHECK(receive(trunk, &got) && got.len == wanted.len && !memcmp(got.bytes, wanted.bytes, got.len));
	}
	CHECK(is_silent(trunk));
	lab_stop();
}

/* --- what one delivery makes, without sockets between --- */

static struct frame taken[4 * OFFLOAD_SEGMENTS_MAX];
static unsigned n_taken, n_batches, end_after;

static void take(struct port *port, const struct frame *frames, unsigned n)
{
	CHECK(n > 0 && n <= FRAME_BATCH && port->state == PORT_UP);
	for (unsigned i = 0; i < n; i++) {
		CHECK(!frames[i].offload && (frames[i].head_len == frames[i].len || frames[i].head_len >= FRAME_HEAD));
		taken[n_taken++] = frames[i];
	}
	n_batches++;
	if (n_batches == end_after)
		port->state = PORT_CLOSED;
}

static const struct port_ops taking_ops = { .name = "taking", .deliver = take };

/* Deliver finished and unfinished frames in turn to a port that ends after so many batches (0: none). */
static struct port deliver_in_turn(unsigned batches)
{
	struct flow flow = { .ipv4 = true };
	struct packet packet = { .payload = payload, .n = 60000, .flags = ACK };
	struct port port = { .ops = &taking_ops, .engine = engine, .state = PORT_UP };
	struct frame frames[4];
	struct offload offload;

	make_unfinished(&flow, &packet, 100, &datagram);
	for (unsigned i = 0; i < 4; i++) {
		frames[i] = frame_whole(datagram.bytes, i % 2 ? datagram.len : 60);
		CHECK(i % 2 == 0 || vsw_offload_read(&datagram.header, 0, &frames[i], &offload));
	}
	n_taken = n_batches = 0;
	end_after = batches;
	vsw_offload_deliver(&port, frames, 4);
	return port;
}

static void batches_are_bounded_and_in_order(void)
{
	struct port port;

	lab_start(false, 100);
	port = deliver_in_turn(0);
	CHECK(n_taken == 2 * (1 + 600) && n_batches >= n_taken / FRAME_BATCH && !port.drops[DROP_CLOSED]);
	for (unsigned i = 0; i < n_taken; i++)
		CHECK(taken[i].len == (i % 601 ? 54 + 100 : 60));
	lab_stop();
}

static void what_is_left_when_the_port_ends_is_counted(void)
{
	struct port port;

	lab_start(false, 100);
	port = deliver_in_turn(2);
	CHECK(n_batches == 2 && n_taken + port.drops[DROP_CLOSED] == 2 * (1 + 600));
	lab_stop();
}

/* A switch without ports that bring unfinished frames looks at none. */
static void only_where_there_may_be_unfinished_frames_are_they_looked_for(void)
{
	struct peer a, b, in;

	lab_start(false, 100);
	a = lab_add_peer();
	CHECK(a.port->direct);
	in = lab_add_vnet_peer();
	b = lab_add_peer();
	CHECK(!a.port->direct && !b.port->direct && in.port->direct);
	vsw_port_free(in.port);
	CHECK(a.port->direct && b.port->direct);
	lab_stop();
}

int main(void)
{
	fill_payload();
	RUN(segments_are_what_the_sender_would_have_made);
	RUN(checksums_are_filled_in);
	RUN(a_sum_of_zero_is_written_as_all_ones);
	RUN(sums_may_begin_anywhere);
	RUN(what_cannot_be_is_dropped_and_counted);
	RUN(segments_are_bounded_in_number_and_size);
	RUN(sums_end_where_the_frame_does);
	RUN(as_many_segments_as_linux_makes_are_taken_and_not_many_more);
	RUN(headers_are_bounded_in_length);
	RUN(mtu_is_that_of_each_segment);
	RUN(tags_come_and_go);
	RUN(the_longest_headers_have_room_for_a_tag);
	RUN(batches_are_bounded_and_in_order);
	RUN(what_is_left_when_the_port_ends_is_counted);
	RUN(only_where_there_may_be_unfinished_frames_are_they_looked_for);
	return 0;
}
