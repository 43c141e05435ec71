/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `tap`: the queues of a TAP device (IFF_TAP | IFF_NO_PI): one read or write is one frame. The descriptors work
 * wherever the device's network namespace is, and fail once the device is gone.
 *
 * That is one system call each. io_uring with 64 writes per call was no faster (Linux 6.18: 60 bytes 411 ns instead of 392).
 *
 * With IFF_VNET_HDR a header precedes each frame, and the kernel leaves us its checksums and segmentation, as we leave it
 * those of frames from other such ports.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../fabric/engine.h"
#include "../fabric/offload.h"
#include "../fabric/switch.h"
#include "queues.h"

#define BURST          64           /* frames read at once, unless their bytes are as many as this: */
#define BURST_BYTES    (256U << 10) /* so that a burst fits the second-level cache, and other ports' queues */
#define BEFORE_FRAME   16           /* bytes: the header, then the length prefix */
#define SLOT_ALIGNMENT 16           /* bytes */

_Static_assert((BURST_BYTES) + (BEFORE_FRAME) + (FRAME_MAX) <= ENGINE_SCRATCH, "a last frame has room");

/* Since Linux 6.2. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)

/* Say which frames we take unfinished. What is sent from here the kernel takes all the same: it has left it to somebody. */
static int set_offloads(int fd, bool offloads)
{
	int header = sizeof(struct offload_header), little_endian = 1;

	if (!offloads)
		return ioctl(fd, TUNSETOFFLOAD, 0UL) ? -errno
						     : 0; /* whoever had it before us may have asked for some */
	if (ioctl(fd, TUNSETVNETHDRSZ, &header) || ioctl(fd, TUNSETVNETLE, &little_endian))
		return -errno;
	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)OFFLOADS | TUN_F_USO4 | TUN_F_USO6) &&
	    ioctl(fd, TUNSETOFFLOAD, (unsigned long)OFFLOADS))
		return -errno;
	return 0;
}

static int tap_open(struct port *port)
{
	struct ifreq first = { 0 };
	int ret;

	for (unsigned i = 0; i < port->n_fds; i++) {
		struct ifreq request = { 0 };

		if (ioctl(port->fds[i], TUNGETIFF, &request))
			return -errno;
		if ((request.ifr_flags & (IFF_TAP | IFF_NO_PI)) != (IFF_TAP | IFF_NO_PI))
			return -EPROTOTYPE;
		if (!i)
			first = request;
		else if (strcmp(first.ifr_name, request.ifr_name) != 0)
			return -EXDEV;
	}
	port->offloads = first.ifr_flags & IFF_VNET_HDR;
	ret = set_offloads(port->fds[0], port->offloads);
	return ret ? ret : vsw_queues_open(port);
}

static void tap_close(struct port *port)
{
	(void)port;
}

static void end(struct port *port, const char *what, int error)
{
	if (error == EBADFD)
		vsw_port_end(port, PORT_CLOSED, "the device is gone");
	else
		vsw_port_end_errno(port, what, error);
}

/* Make a frame of what was read: `len` bytes at `data`, the header, if any, before it. Return false if it was dropped. */
static bool accept_frame(struct port *port, uint8_t *data, uint32_t len, struct frame *frame, struct offload *offload)
{
	struct offload_header header;

	memcpy(&header, data - sizeof(header), sizeof(header));
	frame_set_prefix(data, len);
	*frame = frame_whole(data, len);
	if (!port->offloads || vsw_offload_read(&header, 0, frame, offload))
		return true;
	vsw_port_drop_in(port, DROP_BAD_OFFLOAD, len);
	return false;
}

static void tap_collect(struct port *port)
{
	struct frame frames[BURST];
	struct offload offloads[BURST];
	size_t header = port->offloads ? sizeof(struct offload_header) : 0;
	uint8_t *at = port->engine->scratch;
	const uint8_t *limit = at + BURST_BYTES;
	int fd = vsw_queues_readable(port);
	unsigned n = 0;
	int error = 0;

	for (unsigned reads = 0; fd >= 0 && reads < BURST && at < limit; reads++) {
		uint8_t *data = at + BEFORE_FRAME;
		ssize_t got = read(fd, data - header, header + FRAME_MAX);
		uint32_t len;

		if (got < 0) {
			error = errno;
			break;
		}
		len = (size_t)got > header ? (uint32_t)((size_t)got - header) : 0;
		if (len < FRAME_MIN) {
			vsw_port_drop_in(port, DROP_RUNT, len);
			continue;
		}
		if (!accept_frame(port, data, len, &frames[n], &offloads[n]))
			continue;
		n++;
		at = data + (len + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
	}
	if (n)
		vsw_switch_input(port, frames, n);
	if (error && error != EAGAIN && error != EINTR)
		end(port, "receiving", error);
}

static void tap_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct offload_header header;
		struct iovec pieces[3] = { { &header, sizeof(header) } };
		unsigned n_pieces = 1 + frame_pieces(&frames[i], 0, pieces + 1);
		unsigned skipped = port->offloads ? 0 : 1;

		vsw_offload_write(&frames[i], &header);
		if (writev(vsw_queues_choose(port, &frames[i]), pieces + skipped, (int)(n_pieces - skipped)) >= 0) {
			vsw_traffic_add(&port->tx, frame_destination(&frames[i]), frames[i].len);
			continue;
		}
		if (errno == EBADFD) {
			port->drops[DROP_CLOSED] += n - i;
			end(port, "sending", errno);
			return;
		}
		port->drops[vsw_drop_for_errno(errno)]++;
	}
}

const struct port_ops vsw_tap_ops = {
	.name = "tap",
	.min_fds = 1,
	.max_fds = QUEUES_MAX,
	.open = tap_open,
	.collect = tap_collect,
	.deliver = tap_deliver,
	.close = tap_close,
};
