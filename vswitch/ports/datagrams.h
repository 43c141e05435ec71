/* SPDX-License-Identifier: BSD-2-Clause */
/* Sending many frames, each a datagram, by one system call. */
#ifndef VSW_DATAGRAMS_H
#define VSW_DATAGRAMS_H

#include "../fabric/port.h"

/* Send `n` (1..FRAME_BATCH) frames on the connected or bound socket `fd` of `port`; count each one as sent or dropped.
 * If the port has offloads, a virtio-net header goes before each.
 * Return 0, or the positive errno that says the device is gone, with what is left counted as dropped.
 */
int vsw_datagrams_send(struct port *port, int fd, const struct frame *frames, unsigned n);

#endif
