/* SPDX-License-Identifier: BSD-2-Clause */
#include "datagrams.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "../fabric/offload.h"

int vsw_datagrams_send(struct port *port, int fd, const struct frame *frames, unsigned n)
{
	struct mmsghdr messages[FRAME_BATCH];
	struct iovec pieces[FRAME_BATCH][3];
	struct offload_header headers[FRAME_BATCH];
	unsigned skipped = port->offloads ? 0 : 1, i = 0;

	for (unsigned j = 0; j < n; j++) {
		pieces[j][0] = (struct iovec){ &headers[j], sizeof(headers[j]) };
		if (port->offloads)
			vsw_offload_write(&frames[j], &headers[j]);
		messages[j].msg_hdr = (struct msghdr){
			.msg_iov = pieces[j] + skipped,
			.msg_iovlen = 1 - skipped + frame_pieces(&frames[j], 0, pieces[j] + 1),
		};
	}
	while (i < n) {
		int sent = sendmmsg(fd, messages + i, n - i, MSG_DONTWAIT);

		for (int j = 0; j < sent; j++, i++)
			vsw_traffic_add(&port->tx, frame_destination(&frames[i]), frames[i].len);
		if (sent > 0)
			continue;
		if (errno == ENXIO) {
			port->drops[DROP_CLOSED] += n - i;
			return ENXIO;
		}
		port->drops[vsw_drop_for_errno(errno)]++; /* concerns the frame at i; those after it may do */
		i++;
	}
	return 0;
}
