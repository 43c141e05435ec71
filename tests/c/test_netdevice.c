/* SPDX-License-Identifier: BSD-2-Clause */
/* Ports on devices of a network namespace that is this program's own. */
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "lab.h"
#include "offload.h"

#define A 0x525400000001ULL
#define B 0x525400000002ULL

#define DEVICE     "tap0"
#define TAP_BURST  64  /* as in tap.c */
#define BAD_FRAMES 150 /* fewer than the device keeps for its reader */

/* Ends the program where namespaces or TAP devices are not to be had. */
static int new_tap(void)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	bool alone = !unshare(CLONE_NEWNET) || !unshare(CLONE_NEWNET | CLONE_NEWUSER);
	int fd, sock;

	if (!alone || (fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK)) < 0) {
		puts("needs a network namespace and /dev/net/tun");
		exit(77);
	}
	memcpy(request.ifr_name, DEVICE, sizeof(DEVICE));
	CHECK(!ioctl(fd, TUNSETIFF, &request));
	sock = socket(AF_INET, SOCK_DGRAM, 0);
	request.ifr_flags = IFF_UP;
	CHECK(!ioctl(sock, SIOCSIFFLAGS, &request));
	close(sock);
	return fd;
}

/* A packet socket on the device. */
static int new_packet_socket(unsigned protocol)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_ifindex = (int)if_nametoindex(DEVICE),
		.sll_protocol = htobe16((uint16_t)protocol),
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);

	CHECK(fd >= 0 && !bind(fd, (struct sockaddr *)&address, sizeof(address)));
	return fd;
}

/* Send a frame through the device, of which a sum is left to be written among its tags. */
static void send_bad(int fd)
{
	struct {
		struct offload_header header;
		uint8_t frame[60];
	} __attribute__((packed)) sent = { .header.flags = OFFLOAD_NEEDS_CSUM, .header.csum_start = htole16(20) };

	put_mac(sent.frame, B);
	put_mac(sent.frame + 6, A);
	memcpy(sent.frame + 12, "\x81\x00\x00\x00\x81\x00\x00\x00", 8);
	CHECK(write(fd, &sent, sizeof(sent)) == sizeof(sent));
}

static struct port *add(const char *type, int fd)
{
	struct port *port;

	CHECK(!vsw_port_new(sw, vsw_port_ops_find(type), &fd, 1, NULL, &port));
	return port;
}

/* A guest that sends nothing else has no more of a turn than one whose frames are good. */
static void tap_frames_that_are_dropped_count_as_work(void)
{
	int on = 1, sender;
	struct port *port;

	lab_start(false, 100);
	port = add("tap", new_tap());
	sender = new_packet_socket(0x88b5);
	CHECK(!setsockopt(sender, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)));
	lab_settle(); /* what the kernel says on a new device */
	for (unsigned i = 0; i < BAD_FRAMES; i++)
		send_bad(sender);
	vsw_engine_step(engine, 0);
	CHECK(port->drops[DROP_BAD_OFFLOAD] > 0 && port->drops[DROP_BAD_OFFLOAD] <= TAP_BURST);
	lab_settle();
	CHECK(port->drops[DROP_BAD_OFFLOAD] == BAD_FRAMES && port->state == PORT_UP);
	lab_stop();
	close(sender);
}

/* Whoever gave us the socket may have asked for the times at which frames were sent. */
static void a_packet_socket_with_a_queue_of_errors_does_not_keep_the_loop_busy(void)
{
	int times = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
	int tap = new_tap(), fd = new_packet_socket(ETH_P_ALL);
	struct pollfd told = { .fd = fd };
	struct port *port;
	struct peer peer;

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &times, sizeof(times)));
	lab_start(false, 100);
	port = add("packet", fd);
	peer = lab_add_peer();
	lab_settle();
	lab_send(peer, B, A, 60, 1);
	vsw_engine_step(engine, 0);
	CHECK(port->tx.frames == 1);
	CHECK(poll(&told, 1, 10000) == 1 && told.revents == POLLERR);
	CHECK(lab_is_quiet_after(10) && port->state == PORT_UP);
	lab_stop();
	close(peer.fd), close(tap);
}

int main(void)
{
	RUN(tap_frames_that_are_dropped_count_as_work);
	RUN(a_packet_socket_with_a_queue_of_errors_does_not_keep_the_loop_busy);
	return 0;
}
