/* SPDX-License-Identifier: BSD-2-Clause */
/* Does to Linux's network stack what bridge_oracle_linux.py says, one command after the other, and says what came of it.
 *
 * Runs in a network namespace of its own, on this machine or in a guest, so it is one static program that needs nothing.
 * Commands come on stdin, answers go to stdout, all numbers in the machine's order:
 *
 *     command   u8 verb, u8 argument, u16 length, bytes
 *     answer    i32 errno or 0, u32 length, bytes
 *
 * After one that fails, the rest, up to FLUSH, is answered with ECANCELED and not done.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* NAMESPACE  begin in a new network namespace.
 * NETLINK    send a rtnetlink request; what it is refused for is the answer.
 * PATIENTLY  the same, again and again while the answer is ENETDOWN: links come up when a kernel thread gets to it.
 * OPEN       open a packet socket on the device named; it is port `argument`.
 * FRAME      send a frame by port `argument`. The answer is a u8 port, a u16 length and bytes for each frame received.
 * WAIT       for the u32 of milliseconds given.
 * FLUSH      write what has been answered.
 */
enum verb { NAMESPACE, NETLINK, PATIENTLY, OPEN, FRAME, WAIT, FLUSH };

#define PORTS       16
#define MARK_FROM   14 /* the two ends of a veth pair that has nothing to do with the bridge */
#define MARK_TO     15
#define HOPS        2 /* receive queues that a frame passes through: the bridge's port's, and the one it leaves by */
#define MAC_PAIR    ((size_t)2 * ETH_ALEN)
#define TAG         4 /* bytes */
#define MAX_COMMAND 65536
#define MAX_ANSWER  (1 << 20)
#define PATIENCE_MS 5000

static int sockets[PORTS], netlink = -1;
static uint8_t command[MAX_COMMAND + 1], answer[MAX_ANSWER];
static uint32_t answer_len;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void require(int ok, const char *what)
{
	if (!ok)
		die(what);
}

/* --- commands about the namespace --- */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 && errno == ENOENT)
		return; /* a kernel without IPv6, say */
	require(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
	close(fd);
}

static int enter_namespace(void)
{
	for (unsigned i = 0; i < PORTS; i++) {
		if (sockets[i] >= 0)
			close(sockets[i]);
		sockets[i] = -1;
	}
	if (netlink >= 0)
		close(netlink);
	if (unshare(CLONE_NEWNET) && (errno != EPERM || unshare(CLONE_NEWUSER | CLONE_NEWNET)))
		return errno;
	write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	return netlink >= 0 ? 0 : errno;
}

static int request(void *message, size_t size)
{
	union {
		struct nlmsghdr header;
		uint8_t bytes[8192];
	} reply;

	require(send(netlink, message, size, 0) == (ssize_t)size, "netlink");
	for (;;) {
		ssize_t got = recv(netlink, &reply, sizeof(reply), 0);

		require(got >= (ssize_t)sizeof(reply.header), "netlink");
		if (reply.header.nlmsg_type == NLMSG_ERROR)
			return -((struct nlmsgerr *)NLMSG_DATA(&reply.header))->error;
	}
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int request_patiently(void *message, size_t size)
{
	int64_t end = now_ms() + PATIENCE_MS;
	int error;

	while ((error = request(message, size)) == ENETDOWN && now_ms() < end)
		poll(NULL, 0, 1);
	return error;
}

static int open_port(unsigned port, const char *name)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int on = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	require(fd >= 0, "packet socket");
	sockets[port] = fd;
	address.sll_ifindex = (int)if_nametoindex(name);
	if (!address.sll_ifindex || setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		return errno;
	return 0;
}

/* --- frames --- */

/* Receive one frame, with the tag that the kernel has taken out put back. Return its length, or -1 when there is none. */
static int receive(int fd, uint8_t *data, size_t size)
{
	_Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
	struct iovec piece = { .iov_base = data + TAG, .iov_len = size - TAG };
	struct msghdr message = {
		.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
	struct tpacket_auxdata auxdata;
	struct cmsghdr *header;
	uint16_t tag[2];

	if (got < 0)
		return -1;
	header = CMSG_FIRSTHDR(&message);
	if (!header || got < (ssize_t)MAC_PAIR || message.msg_flags & MSG_TRUNC)
		die("receiving");
	memcpy(&auxdata, CMSG_DATA(header), sizeof(auxdata));
	if (!(auxdata.tp_status & TP_STATUS_VLAN_VALID)) {
		memmove(data, data + TAG, (size_t)got);
		return (int)got;
	}
	tag[0] = htons(auxdata.tp_status & TP_STATUS_VLAN_TPID_VALID ? auxdata.tp_vlan_tpid : ETH_P_8021Q);
	tag[1] = htons(auxdata.tp_vlan_tci);
	memmove(data, data + TAG, MAC_PAIR);
	memcpy(data + MAC_PAIR, tag, TAG);
	return (int)got + TAG;
}

/* Return when all receive queues of this core are through with what was in them: they are first in, first out, and a
 * frame of our own that goes the same number of hops has come through after it.
 */
static void settle(void)
{
	static const uint8_t mark[60] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5 };
	struct pollfd readable = { .fd = sockets[MARK_TO], .events = POLLIN };
	uint8_t data[2048];

	for (unsigned i = 0; i < HOPS; i++) {
		require(send(sockets[MARK_FROM], mark, sizeof(mark), 0) == sizeof(mark), "mark");
		require(poll(&readable, 1, PATIENCE_MS) == 1 && receive(readable.fd, data, sizeof(data)) > 0, "mark");
	}
}

static void collect(unsigned port)
{
	int len;

	for (;;) {
		uint8_t *at = answer + answer_len;
		uint16_t length;

		require(answer_len + 3 + 65536 < MAX_ANSWER, "too many frames");
		len = receive(sockets[port], at + 3, 65536);
		if (len < 0)
			return;
		length = (uint16_t)len;
		at[0] = (uint8_t)port;
		memcpy(at + 1, &length, sizeof(length));
		answer_len += 3 + (uint32_t)len;
	}
}

static int send_frame(unsigned port, size_t size)
{
	int error = send(sockets[port], command, size, 0) < 0 ? errno : 0;

	settle();
	for (unsigned i = 0; i < MARK_FROM; i++)
		if (sockets[i] >= 0)
			collect(i);
	return error;
}

/* --- the loop --- */

static int wait_ms(void)
{
	uint32_t ms;

	memcpy(&ms, command, sizeof(ms));
	poll(NULL, 0, (int)ms);
	return 0;
}

static int obey(enum verb verb, unsigned argument, size_t size)
{
	switch (verb) {
	case NAMESPACE:
		return enter_namespace();
	case NETLINK:
		return request(command, size);
	case PATIENTLY:
		return request_patiently(command, size);
	case OPEN:
		return open_port(argument, (const char *)command);
	case FRAME:
		return send_frame(argument, size);
	case WAIT:
		return wait_ms();
	case FLUSH:
		return 0; /* done with the answer */
	}
	return EINVAL;
}

int main(void)
{
	cpu_set_t cpus;
	struct {
		uint8_t verb, argument;
		uint16_t len;
	} head;
	bool failed = false;

	/* A frame is received on the core it is sent on: on one core there is one queue, and one order. */
	CPU_ZERO(&cpus);
	CPU_SET((unsigned)sched_getcpu(), &cpus);
	require(!sched_setaffinity(0, sizeof(cpus), &cpus), "affinity");
	memset(sockets, -1, sizeof(sockets));
	while (fread(&head, sizeof(head), 1, stdin) == 1 && head.argument < PORTS) {
		int32_t error;

		if (fread(command, 1, head.len, stdin) != head.len)
			break;
		command[head.len] = 0;
		answer_len = 0;
		error = failed ? ECANCELED : obey(head.verb, head.argument, head.len);
		failed = error && head.verb != FLUSH;
		fwrite(&error, sizeof(error), 1, stdout);
		fwrite(&answer_len, sizeof(answer_len), 1, stdout);
		fwrite(answer, 1, answer_len, stdout);
		if (head.verb == FLUSH)
			fflush(stdout);
	}
	return 0;
}
