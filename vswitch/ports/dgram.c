/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `dgram`: a unix or UDP datagram socket, one datagram a frame, as of QEMU's `dgram` and `socket,udp=` and of VDE.
 *
 * A UDP socket is connected. A unix socket may be connected later, by somebody else who has it open as well.
 */
#include <errno.h>
#include <stdlib.h>

#include "datagram_port.h"

static int dgram_open(struct port *port)
{
	struct datagram_port *datagram = calloc(1, sizeof(*datagram));
	int ret = datagram ? vsw_datagram_open(port, datagram) : -ENOMEM;

	if (ret)
		free(datagram);
	else
		port->private = datagram;
	return ret;
}

const struct port_ops vsw_dgram_ops = {
	.name = "dgram",
	.min_fds = 1,
	.max_fds = 1,
	.open = dgram_open,
	.collect = vsw_datagram_collect,
	.deliver = vsw_datagram_deliver,
	.drain = vsw_datagram_drain,
	.tick = vsw_datagram_tick,
	.close = vsw_datagram_close,
};
