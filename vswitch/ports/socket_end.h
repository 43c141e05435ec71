/* SPDX-License-Identifier: BSD-2-Clause */
/* What port types do about a socket for which epoll has an event, but which has nothing to receive: what would make the same
 * event come again and again has to go.
 */
#ifndef VSW_SOCKET_END_H
#define VSW_SOCKET_END_H

#include "../fabric/port.h"

/* Discard what is in the queue of errors of `fd`, an internet or packet socket. Whoever gave us the socket may have asked for
 * one (IP_RECVERR, SO_TIMESTAMPING). It tells of frames that were sent, of which an error of the socket's own has told too.
 */
void vsw_socket_discard_errors(int fd);

/* Do so for the datagram socket `fd`, and end the port if the socket was shut down. */
void vsw_socket_look_for_end(struct port *port, int fd);

#endif
