/* SPDX-License-Identifier: BSD-2-Clause */
/* Sends or receives frames as fast as it can, for benchmarks/stream.py.
 *
 *	stream_load send stream|dgram FD LEN FRAMES_PER_CALL
 *	stream_load receive stream|dgram FD LEN WARM_UP_MS MEASURE_MS
 *
 * `stream` is QEMU's framing on a stream socket, `dgram` one frame per datagram. The receiver first sends one frame, so
 * that a learning switch knows where it is; it checks the length of what arrives, prints frames received per second once
 * it has measured, and ends.
 */
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_FRAMES 256
#define BUFFER     (256U << 10)

static const uint8_t sender_mac[6] = { 0x52, 0x54, 0, 0, 0, 1 };
static const uint8_t receiver_mac[6] = { 0x52, 0x54, 0, 0, 0, 2 };
static const uint8_t broadcast_mac[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static uint8_t buffer[BUFFER + (256U << 10)];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

static uint8_t *put_frame(uint8_t *at, const uint8_t *to, const uint8_t *from, uint32_t len)
{
	uint32_t wire = htobe32(len);

	memcpy(at, &wire, 4);
	memset(at + 4, 0x5a, len);
	memcpy(at + 4, to, 6);
	memcpy(at + 10, from, 6);
	at[16] = 0x88; /* an EtherType for experiments */
	at[17] = 0xb5;
	return at + 4 + len;
}

static void send_all(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

		if (n < 0)
			fail("send");
		data += n;
		size -= (size_t)n;
	}
}

static void send_stream(int fd, uint32_t len, unsigned frames)
{
	uint8_t *block = malloc((size_t)frames * (len + 4));
	uint8_t *at = block;

	if (!block)
		fail("malloc");
	for (unsigned i = 0; i < frames; i++)
		at = put_frame(at, receiver_mac, sender_mac, len);
	for (;;)
		send_all(fd, block, (size_t)(at - block));
}

static void send_dgram(int fd, uint32_t len, unsigned frames)
{
	struct mmsghdr messages[MAX_FRAMES] = { 0 };
	struct iovec piece = { buffer + 4, len };

	put_frame(buffer, receiver_mac, sender_mac, len);
	for (unsigned i = 0; i < frames; i++) {
		messages[i].msg_hdr.msg_iov = &piece;
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;)
		if (sendmmsg(fd, messages, frames, 0) < 0)
			fail("sendmmsg");
}

static void check(uint32_t got, uint32_t len)
{
	if (got == len)
		return;
	fprintf(stderr, "a frame of %u bytes arrived, %u were sent\n", got, len);
	exit(1);
}

/* Return how many frames end in the next piece of the stream. */
static uint64_t receive_stream(int fd, uint32_t len)
{
	static size_t have; /* bytes of an unfinished frame at the beginning of buffer */
	size_t at = 0;
	uint64_t frames = 0;
	ssize_t n = recv(fd, buffer + have, BUFFER, 0);

	if (n <= 0)
		fail("recv");
	have += (size_t)n;
	while (have - at >= 4) {
		uint32_t wire;

		memcpy(&wire, buffer + at, 4);
		check(be32toh(wire), len);
		if (have - at - 4 < len)
			break;
		at += 4 + len;
		frames++;
	}
	memmove(buffer, buffer + at, have - at);
	have -= at;
	return frames;
}

static uint64_t receive_dgram(int fd, uint32_t len)
{
	static struct mmsghdr messages[64];
	static struct iovec pieces[64];
	int n;

	for (unsigned i = 0; i < 64; i++) {
		pieces[i] = (struct iovec){ buffer + i * 2048, 2048 };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &pieces[i], .msg_iovlen = 1 };
	}
	n = recvmmsg(fd, messages, 64, MSG_WAITFORONE, NULL);
	if (n < 0)
		fail("recvmmsg");
	for (int i = 0; i < n; i++)
		check(messages[i].msg_len, len);
	return (uint64_t)n;
}

static void receive(int fd, int stream, uint32_t len, uint64_t warm_up, uint64_t measure)
{
	uint64_t (*take)(int, uint32_t) = stream ? receive_stream : receive_dgram;
	uint64_t frames = 0, begun, now;
	const uint8_t *end = put_frame(buffer, broadcast_mac, receiver_mac, 60);

	send_all(fd, stream ? buffer : buffer + 4, (size_t)(end - buffer) - (stream ? 0 : 4));
	puts("ready");
	fflush(stdout);
	take(fd, len);
	begun = now_ns();
	while (now_ns() - begun < warm_up)
		take(fd, len);
	begun = now_ns();
	do {
		frames += take(fd, len);
		now = now_ns();
	} while (now - begun < measure);
	printf("%.0f\n", (double)frames * 1e9 / (double)(now - begun));
}

int main(int argc, char **argv)
{
	int fd, stream;

	if (argc < 6)
		return 2;
	stream = !strcmp(argv[2], "stream");
	fd = atoi(argv[3]);
	if (!strcmp(argv[1], "receive") && argc == 7)
		receive(fd, stream, (uint32_t)atol(argv[4]), (uint64_t)atol(argv[5]) * 1000000,
			(uint64_t)atol(argv[6]) * 1000000);
	else if (stream)
		send_stream(fd, (uint32_t)atol(argv[4]), (unsigned)atoi(argv[5]));
	else
		send_dgram(fd, (uint32_t)atol(argv[4]), (unsigned)atoi(argv[5]));
	return 0;
}
