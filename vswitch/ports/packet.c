/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `packet`: AF_PACKET raw sockets bound to one network device, packet(7); the way to a veth pair where TAP
 * devices are not to be had. What the local stack sends through the other end arrives here. Several sockets are to be a
 * fanout group (PACKET_FANOUT), or each would get all.
 *
 * The kernel takes an 802.1Q tag out of the frame and hands it over beside it: it is put back.
 *
 * A frame whose checksum was left to the device has none. With PACKET_VNET_HDR a header before each frame says so, and it
 * is passed on as it is. Without, whoever sends through the device must have its offloads off (ethtool -K); if they are on the
 * frame is dropped and counted rather than passed on broken.
 */
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "../fabric/engine.h"
#include "../fabric/offload.h"
#include "../fabric/switch.h"
#include "datagrams.h"
#include "queues.h"
#include "socket_end.h"

#define BURST          64 /* frames per system call */
#define BURST_LONG     8  /* when each may be of 64 KiB: no more than other ports' queues have room for */
#define HEADROOM       16 /* bytes before each frame: the header, then its length prefix and room to put a tag back */
#define SLOT_ALIGNMENT 64 /* bytes */
#define CONTROL_SIZE   CMSG_SPACE(sizeof(struct tpacket_auxdata))

_Static_assert(HEADROOM >= sizeof(struct offload_header) && HEADROOM >= FRAME_PREFIX + FRAME_VLAN_TAG,
	       "not enough room before a frame");
_Static_assert((BURST_LONG) * (HEADROOM + FRAME_MAX + SLOT_ALIGNMENT) <= ENGINE_SCRATCH, "slots do not fit");

struct packet {
	uint32_t header; /* bytes: of the virtio-net header, if there is one */
	uint32_t slot;   /* bytes of scratch memory per frame */
	unsigned burst;
};

static int set_option(int fd, int option)
{
	int on = 1;

	return setsockopt(fd, SOL_PACKET, option, &on, sizeof(on)) ? -errno : 0;
}

/* Make the slots as large as the device's frames, which may be unfinished. Return 0 or -errno. */
static int size_slots(struct port *port)
{
	struct packet *packet = port->private;
	struct sockaddr_ll address = { 0 };
	socklen_t size = sizeof(address);
	struct ifreq request = { 0 };

	if (getsockname(vsw_queue(port, 0), (struct sockaddr *)&address, &size))
		return -errno;
	if (address.sll_family != AF_PACKET)
		return -EPROTOTYPE;
	if (address.sll_ifindex <= 0)
		return -ENODEV;
	request.ifr_ifindex = address.sll_ifindex;
	if (ioctl(vsw_queue(port, 0), SIOCGIFNAME, &request) || ioctl(vsw_queue(port, 0), SIOCGIFMTU, &request))
		return -errno;
	if (request.ifr_mtu < 0 || request.ifr_mtu > FRAME_MAX - ETH_HLEN - FRAME_VLAN_TAG)
		return -EMSGSIZE;
	packet->slot = HEADROOM;
	packet->slot += port->offloads ? FRAME_MAX : ETH_HLEN + FRAME_VLAN_TAG + (uint32_t)request.ifr_mtu;
	packet->slot = (packet->slot + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
	packet->burst = ENGINE_SCRATCH / packet->slot;
	if (packet->burst > (port->offloads ? BURST_LONG : BURST))
		packet->burst = port->offloads ? BURST_LONG : BURST;
	return 0;
}

/* Set the sockets up, all of them with a virtio-net header or none. Return 0 or -errno. */
static int set_up_sockets(struct port *port)
{
	for (unsigned i = 0; i < port->n_fds; i++) {
		int header, ret;
		socklen_t size = sizeof(header);

		ret = set_option(port->fds[i], PACKET_AUXDATA);
		ret = ret ? ret : set_option(port->fds[i], PACKET_IGNORE_OUTGOING);
		if (ret)
			return ret;
		if (getsockopt(port->fds[i], SOL_PACKET, PACKET_VNET_HDR, &header, &size))
			return -errno;
		if (i && port->offloads != !!header)
			return -EPROTOTYPE;
		port->offloads = header;
	}
	return 0;
}

static int packet_open(struct port *port)
{
	int ret = set_up_sockets(port);
	struct packet *packet;

	ret = ret ? ret : vsw_queues_open(port);
	if (ret)
		return ret;
	packet = calloc(1, sizeof(*packet));
	if (!packet)
		return -ENOMEM;
	packet->header = port->offloads ? sizeof(struct offload_header) : 0;
	port->private = packet;
	ret = size_slots(port);
	if (ret)
		free(packet);
	return ret;
}

static void packet_close(struct port *port)
{
	free(port->private);
	port->private = NULL;
}

static bool read_auxdata(struct msghdr *message, struct tpacket_auxdata *auxdata)
{
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level == SOL_PACKET && header->cmsg_type == PACKET_AUXDATA) {
			memcpy(auxdata, CMSG_DATA(header), sizeof(*auxdata));
			return true;
		}
	}
	return false;
}

/* Put the tag the kernel took out back before the EtherType. Return the frame's new beginning, FRAME_VLAN_TAG earlier. */
static uint8_t *insert_tag(uint8_t *data, const struct tpacket_auxdata *auxdata)
{
	uint16_t protocol = auxdata->tp_status & TP_STATUS_VLAN_TPID_VALID ? auxdata->tp_vlan_tpid : ETH_P_8021Q;
	uint16_t tag[2] = { htobe16(protocol), htobe16(auxdata->tp_vlan_tci) };

	memmove(data - FRAME_VLAN_TAG, data, FRAME_MAC_PAIR);
	data -= FRAME_VLAN_TAG;
	memcpy(data + FRAME_MAC_PAIR, tag, sizeof(tag));
	return data;
}

/* Make a frame of a received message. Return false if it was dropped. */
static bool accept_frame(struct port *port, struct mmsghdr *message, struct frame *frame, struct offload *offload)
{
	const struct packet *packet = port->private;
	struct tpacket_auxdata auxdata;
	struct offload_header header = { 0 };
	uint8_t *data = (uint8_t *)message->msg_hdr.msg_iov->iov_base + packet->header;
	uint32_t len = message->msg_len > packet->header ? message->msg_len - packet->header : 0;
	uint32_t inserted = 0;

	if (!read_auxdata(&message->msg_hdr, &auxdata) || message->msg_hdr.msg_flags & MSG_TRUNC) {
		vsw_port_drop_in(port, DROP_OVERSIZE, len);
		size_slots(port); /* the MTU may have grown; what that says can wait until the device is used next */
		return false;
	}
	if (!port->offloads && auxdata.tp_status & TP_STATUS_CSUMNOTREADY) {
		vsw_port_drop_in(port, DROP_NO_CHECKSUM, len);
		return false;
	}
	if (len < FRAME_MIN) {
		vsw_port_drop_in(port, DROP_RUNT, len);
		return false;
	}
	memcpy(&header, data - packet->header, packet->header);
	if (auxdata.tp_status & TP_STATUS_VLAN_VALID) {
		data = insert_tag(data, &auxdata);
		inserted = FRAME_VLAN_TAG;
		len += inserted;
	}
	frame_set_prefix(data, len);
	*frame = frame_whole(data, len);
	if (vsw_offload_read(&header, inserted, frame, offload))
		return true;
	vsw_port_drop_in(port, DROP_BAD_OFFLOAD, len);
	return false;
}

static bool device_is_gone(const struct port *port)
{
	struct sockaddr_ll address = { 0 };
	socklen_t size = sizeof(address);

	return getsockname(vsw_queue(port, 0), (struct sockaddr *)&address, &size) || address.sll_ifindex <= 0;
}

/* Handle an error of the socket. The device going down is one, too; it may come up again. */
static void handle_error(struct port *port, const char *what, int error)
{
	if (error == EAGAIN || error == EINTR)
		return;
	if (error != ENETDOWN && error != ENXIO)
		vsw_port_end_errno(port, what, error);
	else if (device_is_gone(port))
		vsw_port_end(port, PORT_CLOSED, "the device is gone");
}

/* A device goes down, with an event, before it goes for good, without one. */
static void packet_tick(struct port *port)
{
	for (unsigned i = 0; i < port->n_fds; i++) {
		struct tpacket_stats stats; /* since they were last read */
		socklen_t size = sizeof(stats);

		if (!getsockopt(vsw_queue(port, i), SOL_PACKET, PACKET_STATISTICS, &stats, &size))
			port->drops[DROP_MISSED] += stats.tp_drops;
	}
	if (device_is_gone(port))
		vsw_port_end(port, PORT_CLOSED, "the device is gone");
}

static void packet_collect(struct port *port)
{
	struct packet *packet = port->private;
	struct mmsghdr messages[BURST];
	struct iovec pieces[BURST];
	_Alignas(struct cmsghdr) uint8_t control[BURST][CONTROL_SIZE];
	struct frame frames[BURST];
	struct offload offloads[BURST];
	int fd = vsw_queues_readable(port);
	unsigned n = 0;
	int got;

	if (fd < 0)
		return;
	for (unsigned i = 0; i < packet->burst; i++) {
		pieces[i].iov_base = port->engine->scratch + (size_t)i * packet->slot + HEADROOM - packet->header;
		pieces[i].iov_len = packet->slot - HEADROOM + packet->header;
		messages[i].msg_hdr = (struct msghdr){
			.msg_iov = &pieces[i],
			.msg_iovlen = 1,
			.msg_control = control[i],
			.msg_controllen = CONTROL_SIZE,
		};
	}
	got = recvmmsg(fd, messages, packet->burst, MSG_DONTWAIT, NULL);
	if (got < 0 && errno == EINVAL && port->offloads) {
		vsw_port_drop_in(port, DROP_BAD_OFFLOAD,
				 0); /* the kernel has no header to say what is left to do for it */
		return;
	}
	if (got < 0) {
		if (errno == EAGAIN)
			vsw_socket_discard_errors(fd);
		else
			handle_error(port, "receiving", errno);
		return;
	}
	for (int i = 0; i < got; i++)
		n += accept_frame(port, &messages[i], &frames[n], &offloads[n]);
	if (n)
		vsw_switch_input(port, frames, n);
}

static void packet_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	int error = vsw_datagrams_send(port, vsw_queue(port, 0), frames, n);

	if (error)
		handle_error(port, "sending", error);
}

const struct port_ops vsw_packet_ops = {
	.name = "packet",
	.min_fds = 1,
	.max_fds = QUEUES_MAX,
	.open = packet_open,
	.collect = packet_collect,
	.deliver = packet_deliver,
	.tick = packet_tick,
	.close = packet_close,
};
