/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `tap`: a TAP device's descriptor (IFF_TAP | IFF_NO_PI, no vnet header): one read or write is one frame.
 * The descriptor works wherever the device's network namespace is, and fails once the device is gone.
 */
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../fabric/engine.h"
#include "../fabric/switch.h"

#define BURST          64 /* frames taken at once */
#define SLOT_ALIGNMENT 16 /* bytes */

static int tap_open(struct port *port)
{
	struct ifreq request = { 0 };

	if (ioctl(port->fds[0], TUNGETIFF, &request))
		return -errno;
	if ((request.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) != (IFF_TAP | IFF_NO_PI))
		return -EPROTOTYPE;
	return 0;
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

static void tap_collect(struct port *port)
{
	struct frame frames[BURST];
	uint8_t *at = port->engine->scratch;
	const uint8_t *limit = at + ENGINE_SCRATCH - SLOT_ALIGNMENT - FRAME_MAX;
	unsigned n = 0;
	int error = 0;

	while (n < BURST && at <= limit) {
		uint8_t *data = at + SLOT_ALIGNMENT;
		ssize_t got = read(port->fds[0], data, FRAME_MAX);

		if (got < 0) {
			error = errno;
			break;
		}
		if (got < FRAME_MIN) {
			vsw_port_drop_in(port, DROP_RUNT, (uint32_t)got);
			continue;
		}
		frame_set_prefix(data, (uint32_t)got);
		frames[n++] = frame_whole(data, (uint32_t)got);
		at = data + ((size_t)got + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
	}
	if (n)
		vsw_switch_input(port, frames, n);
	if (error && error != EAGAIN && error != EINTR)
		end(port, "receiving", error);
}

static void tap_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct iovec pieces[2];

		if (writev(port->fds[0], pieces, (int)frame_pieces(&frames[i], 0, pieces)) >= 0) {
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
	.max_fds = 1,
	.open = tap_open,
	.collect = tap_collect,
	.deliver = tap_deliver,
	.close = tap_close,
};
