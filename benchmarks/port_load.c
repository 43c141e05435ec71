/* SPDX-License-Identifier: BSD-2-Clause */
/* Sends frames in at one end of a switch and counts them at the other: for benchmarks/ports.py, stream.py and rings.py.
 *
 *	port_load LEN FRAMES_PER_CALL WINDOW WARM_UP_MS MEASURE_MS SENDER RECEIVER [PID...]
 *
 * Both ends are written KIND:IN_FD:OUT_FD[:HEADER]. Of KIND `stream4` and `stream2` a frame has its length before it, in
 * so many bytes, first byte highest; of `dgram` and `vnet` it is a message of its own, behind HEADER (in hexadecimal).
 * To `vnet`, which is a packet socket, HEADER says how a frame of TCP is to be cut (struct virtio_net_hdr): these are the
 * frames it is sent, LEN bytes long and whole.
 *
 * Two processes. The receiver sends frames to nobody in particular until the sender has seen one: now there is a way, and
 * a learning switch knows the receiver. The sender numbers its frames and sends FRAMES_PER_CALL with each system call, for
 * the time it is given; where nothing holds it up (WINDOW not 0) it keeps so many frames at most under way. The receiver
 * checks length and number of what arrives. After the warm-up it measures and prints: frames a second that arrived, the
 * share of those sent that did not, and the processor time that sender, receiver and each PID took, in seconds a second.
 * In the end it takes what is still under way, so that the same sockets can be measured with again.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_PER_CALL 256
#define MAX_PIDS     8
#define BUFFER       (512U << 10)
#define SHORT        60 /* bytes of a frame that only says where the receiver is */
#define PATIENCE_S   20 /* until a measurement that gets nowhere is given up */
#define RETRY_MS     50
#define IDLE_MS      30      /* nothing for so long: what is missing will not come */
#define STALLED_NS   2000000 /* so long a sender waits for its window before it takes what is missing for lost */
#define NAP_NS       10000

enum kind { STREAM2 = 2, STREAM4 = 4, DGRAM, VNET };

struct end {
	enum kind kind;
	int in, out;
	uint8_t header[64];
	unsigned header_len;
};

/* What the receiver tells the sender. */
struct shared {
	_Atomic uint64_t arrived; /* number after the highest */
	_Atomic int stop;
};

/* In every frame. `run` differs each time: what an earlier run has left behind is not of this one. */
struct mark {
	uint64_t run, number;
};

static const uint8_t sender_mac[6] = { 0x52, 0x54, 0, 0, 0, 1 };
static const uint8_t receiver_mac[6] = { 0x52, 0x54, 0, 0, 0, 2 };
static const uint8_t broadcast_mac[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
/* IPv4 and TCP; the checksum of TCP is to be finished by who cuts it. */
static const uint8_t tcp_ip[40] = { 0x45, 0, 0,  0, 0,    0,    0x40, 0,    64,   6,    0, 0, 10, 0,
				    0,    1, 10, 0, 0,    2,    0x12, 0x34, 0x56, 0x78, 0, 0, 0,  0,
				    0,    0, 0,  0, 0x50, 0x10, 0xff, 0xff, 0,    0,    0, 0 };

static uint8_t buffer[BUFFER];
static struct shared *shared;
static uint64_t run;
static uint32_t len;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;

	if (clock_gettime(clock, &time))
		fail("clock");
	return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static bool is_stream(const struct end *end)
{
	return end->kind == STREAM2 || end->kind == STREAM4;
}

/* Bytes before each frame on the wire. */
static unsigned before(const struct end *end)
{
	return is_stream(end) ? (unsigned)end->kind : end->header_len;
}

/* Bytes of a frame before its mark. */
static unsigned mark_at(const struct end *sender)
{
	return sender->kind == VNET && sender->header[1] ? 14 + sizeof(tcp_ip) : 14;
}

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* Of 20 bytes in which it is 0 as yet. */
static uint16_t ip_checksum(const uint8_t *header)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < 20; i += 2)
		sum += (uint32_t)header[i] << 8 | header[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~(sum + (sum >> 16));
}

/* Write a frame of `size` bytes with what goes before it. Return its end. */
static uint8_t *put_frame(const struct end *end, uint8_t *at, const uint8_t *to, const uint8_t *from, uint32_t size)
{
	uint32_t wire = htobe32(size);

	if (is_stream(end))
		memcpy(at, (uint8_t *)&wire + 4 - end->kind, end->kind);
	else if (end->kind == VNET && size != len)
		memset(at, 0, end->header_len);
	else
		memcpy(at, end->header, end->header_len);
	at += before(end);
	memset(at, 0x5a, size);
	memcpy(at, to, 6);
	memcpy(at + 6, from, 6);
	at[12] = 0x88; /* an EtherType for experiments */
	at[13] = 0xb5;
	if (size == len && mark_at(end) > 14) {
		at[12] = 0x08;
		at[13] = 0x00;
		memcpy(at + 14, tcp_ip, sizeof(tcp_ip));
		put16(at + 16, (uint16_t)(size - 14));
		put16(at + 24, ip_checksum(at + 14));
	}
	return at + size;
}

/* --- the sender --- */

static void send_stream(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t n = write(fd, data, size);

		if (n < 0)
			fail("write");
		data += n;
		size -= (size_t)n;
	}
}

static void send_messages(int fd, uint8_t *block, unsigned size, unsigned n)
{
	struct mmsghdr messages[MAX_PER_CALL];
	struct iovec pieces[MAX_PER_CALL];

	for (unsigned i = 0; i < n; i++) {
		pieces[i] = (struct iovec){ block + (size_t)i * size, size };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &pieces[i], .msg_iovlen = 1 };
	}
	for (unsigned i = 0; i < n;) {
		int sent = sendmmsg(fd, messages + i, n - i, 0);

		if (sent > 0) {
			i += (unsigned)sent;
		} else if (errno == ENOBUFS) { /* a device's queue is full: the frame is lost, and counted as such */
			i++;
		} else if (errno != ECONNREFUSED && errno != EINTR) { /* a peer that is not there yet */
			fail("sendmmsg");
		}
	}
}

/* Wait until no more than `window` frames are under way; what does not arrive in a while is lost. */
static void wait_for_window(uint64_t number, uint64_t window, uint64_t *written_off)
{
	const struct timespec nap = { 0, NAP_NS };
	uint64_t seen = shared->arrived, since = now_ns();

	while (!shared->stop) {
		uint64_t arrived = shared->arrived;

		if (number - (arrived > *written_off ? arrived : *written_off) < window)
			return;
		if (arrived != seen) {
			seen = arrived;
			since = now_ns();
		} else if (now_ns() - since > STALLED_NS) {
			*written_off = number;
			return;
		}
		nanosleep(&nap, NULL);
	}
}

/* Read until a frame of this run says where the receiver is. Exactly that, so that nobody finds half a frame later. */
static void await_announcement(const struct end *end)
{
	static const unsigned at = 14;
	struct mark mark;

	for (;;) {
		uint32_t size = 0;
		ssize_t n;

		if (is_stream(end)) {
			if (recv(end->in, (uint8_t *)&size + 4 - end->kind, end->kind, MSG_WAITALL) != end->kind)
				fail("the sender's end");
			size = be32toh(size);
			if (size > BUFFER || recv(end->in, buffer, size, MSG_WAITALL) != (ssize_t)size)
				fail("the sender's end");
			n = (ssize_t)size;
		} else {
			n = recv(end->in, buffer, BUFFER, 0) - (ssize_t)before(end);
			memmove(buffer, buffer + before(end), n > 0 ? (size_t)n : 0);
		}
		if (n < (ssize_t)(at + sizeof(mark)))
			continue;
		memcpy(&mark, buffer + at, sizeof(mark));
		if (mark.run == run && !memcmp(buffer + 6, receiver_mac, 6))
			return;
	}
}

static void send_frames(const struct end *end, unsigned per_call, uint64_t window, int ready)
{
	unsigned size = before(end) + len;
	uint8_t *block = malloc((size_t)per_call * size), *at = block;
	uint64_t number = 0, written_off = 0;

	if (!block)
		fail("malloc");
	for (unsigned i = 0; i < per_call; i++)
		at = put_frame(end, at, receiver_mac, sender_mac, len);
	await_announcement(end);
	if (write(ready, "", 1) != 1)
		fail("write");
	while (!shared->stop) {
		if (window)
			wait_for_window(number, window, &written_off);
		for (unsigned i = 0; i < per_call; i++) {
			struct mark mark = { run, number++ };

			memcpy(block + (size_t)i * size + before(end) + mark_at(end), &mark, sizeof(mark));
		}
		if (is_stream(end))
			send_stream(end->out, block, (size_t)per_call * size);
		else
			send_messages(end->out, block, size, per_call);
	}
}

/* --- the receiver --- */

struct receiver {
	const struct end *end;
	unsigned mark_at;
	size_t have; /* bytes of an unfinished frame at the beginning of the buffer */
	uint64_t frames;
	uint64_t arrived; /* number after the highest */
};

static void count_frame(struct receiver *receiver, const uint8_t *frame, uint32_t size)
{
	struct mark mark;

	if (size < receiver->mark_at + sizeof(mark) || memcmp(frame, receiver_mac, 6))
		return; /* somebody else's */
	memcpy(&mark, frame + receiver->mark_at, sizeof(mark));
	if (mark.run != run && size == len)
		return; /* of a run before this one */
	if (size != len) {
		fprintf(stderr, "a frame of %u bytes arrived, %u were sent\n", size, len);
		exit(1);
	}
	receiver->frames++;
	if (mark.number >= receiver->arrived)
		receiver->arrived = mark.number + 1;
}

static void take_stream(struct receiver *receiver)
{
	unsigned prefix = before(receiver->end);
	ssize_t n = read(receiver->end->in, buffer + receiver->have, BUFFER - receiver->have);
	size_t at = 0;

	if (n <= 0)
		fail("the receiver's end");
	receiver->have += (size_t)n;
	while (receiver->have - at >= prefix) {
		uint32_t size = 0;

		memcpy((uint8_t *)&size + 4 - prefix, buffer + at, prefix);
		size = be32toh(size);
		if (receiver->have - at - prefix < size)
			break;
		count_frame(receiver, buffer + at + prefix, size);
		at += prefix + size;
	}
	memmove(buffer, buffer + at, receiver->have - at);
	receiver->have -= at;
}

static void take_messages(struct receiver *receiver)
{
	unsigned header = before(receiver->end), slot = (header + len + 256 + 63) / 64 * 64;
	unsigned most = BUFFER / slot < 64 ? BUFFER / slot : 64;
	struct mmsghdr messages[64];
	struct iovec pieces[64];
	int n;

	for (unsigned i = 0; i < most; i++) {
		pieces[i] = (struct iovec){ buffer + (size_t)i * slot, slot };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &pieces[i], .msg_iovlen = 1 };
	}
	n = recvmmsg(receiver->end->in, messages, most, MSG_WAITFORONE, NULL);
	if (n < 0 && errno != ECONNREFUSED)
		fail("recvmmsg");
	for (int i = 0; i < n; i++)
		if (messages[i].msg_len > header)
			count_frame(receiver, buffer + (size_t)i * slot + header, messages[i].msg_len - header);
}

static void take(struct receiver *receiver)
{
	if (is_stream(receiver->end))
		take_stream(receiver);
	else
		take_messages(receiver);
	shared->arrived = receiver->arrived;
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd poll_fd = { fd, POLLIN, 0 };

	return poll(&poll_fd, 1, timeout_ms) > 0;
}

/* Say where the receiver is, until the sender has heard. */
static void announce(const struct end *end, int ready)
{
	struct mark mark = { run, 0 };

	do {
		uint8_t *after = put_frame(end, buffer, broadcast_mac, receiver_mac, SHORT);

		memcpy(after - SHORT + 14, &mark, sizeof(mark));
		if (write(end->out, buffer, (size_t)(after - buffer)) < 0 && errno != ECONNREFUSED)
			fail("announcing");
	} while (!readable(ready, RETRY_MS));
}

static void receive_for(struct receiver *receiver, uint64_t duration_ns)
{
	uint64_t begun = now_ns();

	do {
		take(receiver);
	} while (now_ns() - begun < duration_ns);
}

/* Take what is still under way, once the sender has stopped; leave no half frame behind. */
static void finish(struct receiver *receiver, pid_t sender)
{
	bool ended = false;
	int status = 0;

	shared->stop = 1;
	for (;;) {
		if (readable(receiver->end->in, ended ? IDLE_MS : 1)) {
			take(receiver);
			continue;
		}
		if (ended)
			break;
		ended = waitpid(sender, &status, WNOHANG) == sender;
	}
	if (status || receiver->have)
		exit(1);
}

static void measure(struct receiver *receiver, pid_t sender, uint64_t warm_up, uint64_t duration, char **pids,
		    int n_pids)
{
	clockid_t clocks[MAX_PIDS + 2];
	uint64_t used[MAX_PIDS + 2], begun, first, elapsed;
	int n = 0;

	if (clock_getcpuclockid(sender, &clocks[n++]))
		fail("clock_getcpuclockid");
	clocks[n++] = CLOCK_PROCESS_CPUTIME_ID;
	for (int i = 0; i < n_pids; i++)
		if ((errno = clock_getcpuclockid(atoi(pids[i]), &clocks[n++])))
			fail("clock_getcpuclockid");
	take(receiver);
	receive_for(receiver, warm_up);
	for (int i = 0; i < n; i++)
		used[i] = clock_ns(clocks[i]);
	receiver->frames = 0;
	first = receiver->arrived;
	begun = now_ns();
	receive_for(receiver, duration);
	elapsed = now_ns() - begun;
	for (int i = 0; i < n; i++)
		used[i] = clock_ns(clocks[i]) - used[i];
	printf("%.0f %.4f", (double)receiver->frames * 1e9 / (double)elapsed,
	       receiver->frames ? 1 - (double)receiver->frames / (double)(receiver->arrived - first) : 1.0);
	for (int i = 0; i < n; i++)
		printf(" %.3f", (double)used[i] / (double)elapsed);
	putchar('\n');
}

static struct end parse_end(const char *text)
{
	static const struct {
		const char *name;
		enum kind kind;
	} kinds[] = { { "stream2:", STREAM2 }, { "stream4:", STREAM4 }, { "dgram:", DGRAM }, { "vnet:", VNET } };
	struct end end = { 0 };
	const char *digits;
	int used = 0;

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (!strncmp(text, kinds[i].name, strlen(kinds[i].name))) {
			end.kind = kinds[i].kind;
			text += strlen(kinds[i].name);
		}
	}
	if (!end.kind || sscanf(text, "%d:%d%n", &end.in, &end.out, &used) < 2)
		exit(2);
	digits = text + used + (text[used] == ':');
	while (end.header_len < sizeof(end.header) && sscanf(digits, "%2hhx", &end.header[end.header_len]) == 1) {
		end.header_len++;
		digits += 2;
	}
	return end;
}

int main(int argc, char **argv)
{
	struct end sender_end, receiver_end;
	struct receiver receiver = { .end = &receiver_end };
	int ready[2];
	pid_t sender, parent = getpid();
	unsigned per_call;

	if (argc < 8 || argc > 8 + MAX_PIDS)
		return 2;
	len = (uint32_t)atol(argv[1]);
	per_call = (unsigned)atoi(argv[2]);
	sender_end = parse_end(argv[6]);
	receiver_end = parse_end(argv[7]);
	if (len < SHORT || len > BUFFER / 2 || !per_call || per_call > MAX_PER_CALL)
		return 2;
	receiver.mark_at = mark_at(&sender_end);
	run = now_ns();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pipe(ready))
		fail("set-up");
	alarm(PATIENCE_S);
	signal(SIGPIPE, SIG_IGN);
	sender = fork();
	if (sender < 0)
		fail("fork");
	if (!sender) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_TIMERSLACK, 1UL);
		if (getppid() == parent)
			send_frames(&sender_end, per_call, (uint64_t)atol(argv[3]), ready[1]);
		return 0;
	}
	close(ready[1]);
	announce(&receiver_end, ready[0]);
	measure(&receiver, sender, (uint64_t)atol(argv[4]) * 1000000, (uint64_t)atol(argv[5]) * 1000000, argv + 8,
		argc - 8);
	finish(&receiver, sender);
	return 0;
}
