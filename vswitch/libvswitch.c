/* SPDX-License-Identifier: BSD-2-Clause */
#include "libvswitch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MIN         14
#define FRAME_MAX         69632
#define DEFAULT_TIMEOUT   5000  /* ms */
#define DEFAULT_LINGER    50    /* us */
#define RETRY_FIRST       10000 /* us between attempts to reopen; doubles, jittered, up to the next */
#define RETRY_LAST        500000
#define RETRIES_TO_OPEN   2   /* when the fabric hung up instead of answering */
#define LOOK_UP           100 /* ms that we sleep at most before we see whether another thread has interrupted us */
#define BELLS_AT_ONCE     64
#define EXPORT            __attribute__((visibility("default")))
#define MILLISECOND_IN_NS ((uint64_t)1000000)

/* One direction of one ring. `at` is where we are: tx, next slot to fill; rx, next slot to give to the user. */
struct line {
	struct netmap_ring *ring;
	struct nm_csb_atok *atok;
	struct nm_csb_ktoa *ktoa;
	/* In a pipe: the ring at the other end, which we copy slots from (rx) or whose releases make room (tx). */
	struct netmap_ring *peer_ring;
	struct nm_csb_atok *peer_atok;
	uint32_t arming, kicked;
	uint32_t published; /* head when last published */
	uint32_t needs;     /* tx: slots that vsw_ring_send() found too few of for its next frame; 0: it did not */
};

struct vsw_ring {
	struct nmr_area area;
	struct vsw_ring_options options;
	char *name; /* NULL: adopted */
	int socket; /* doorbell towards us, and sign of life */
	int kick;   /* eventfd towards the fabric; -1 in a pipe, where a byte on the socket does it */
	/* Held to change `socket`, which only the ring's own thread does, and to use it in any other. */
	pthread_mutex_t socket_lock;
	bool interrupted; /* set by any thread, never cleared; relaxed: it stands for nothing but itself */
	uint32_t half;
	uint32_t n; /* ring pairs */
	uint32_t next_tx, next_rx;
	bool borrowed;   /* vsw_ring_receive() has given out slots */
	uint8_t *joined; /* frames of several slots, put together, from vsw_ring_receive() */
	size_t joined_size;
	struct line tx[NMR_MAX_RINGS], rx[NMR_MAX_RINGS];
};

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000 * MILLISECOND_IN_NS + (uint64_t)time.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void explain(char *error, const char *format, ...)
{
	va_list args;

	if (!error)
		return;
	va_start(args, format);
	vsnprintf(error, VSW_ERROR_SIZE, format, args);
	va_end(args);
}

/* --- opening --- */

/* A try to open a ring. */
struct attempt {
	struct vsw_ring *ring;
	uint64_t end;         /* ns; when it is given up */
	bool by_signal;       /* or when a signal comes */
	const sigset_t *mask; /* for signals while we sleep; NULL: as it is */
	char *error;          /* where to say why it failed; may be NULL */
};

static bool is_interrupted(const struct vsw_ring *ring)
{
	return __atomic_load_n(&ring->interrupted, __ATOMIC_RELAXED);
}

/* Return how many ms to sleep next, at most LOOK_UP; 0: it is over. */
static int nap(const struct attempt *attempt, uint64_t end)
{
	uint64_t now = now_ns();
	uint64_t left;

	end = end < attempt->end ? end : attempt->end;
	left = now < end ? (end - now + MILLISECOND_IN_NS - 1) / MILLISECOND_IN_NS : 0;
	return left < LOOK_UP ? (int)left : LOOK_UP;
}

/* Sleep until `fd` is readable (-1: none is), or until `end`. Return 0, -ETIMEDOUT, -ECANCELED, -EINTR or another -errno. */
static int sleep_until(const struct attempt *attempt, int fd, uint64_t end)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	for (;;) {
		int ms = nap(attempt, end);
		int found;

		if (is_interrupted(attempt->ring))
			return -ECANCELED;
		found = ppoll(&poll_fd, 1, &(struct timespec){ .tv_nsec = ms * (long)MILLISECOND_IN_NS },
			      attempt->mask);
		if (found > 0)
			return 0;
		if (found < 0 && (errno != EINTR || attempt->by_signal))
			return -errno;
		if (!ms)
			return -ETIMEDOUT;
	}
}

/* Connect, for which we may have to wait until the fabric has accepted those who came before. */
static int connect_within(const struct attempt *attempt, int fd, const struct sockaddr_un *address)
{
	for (;;) {
		int ms = nap(attempt, UINT64_MAX);
		/* 0 would stand for ever. */
		struct timeval wait = { .tv_usec = (ms ? ms : 1) * 1000 };

		int ret = sleep_until(attempt, -1, 0); /* to hear signals that are blocked otherwise */

		if (ret != -ETIMEDOUT)
			return ret;
		if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)))
			return -errno;
		if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)))
			return 0;
		if (errno != EAGAIN && (errno != EINTR || attempt->by_signal))
			return -errno;
		if (!ms)
			return -ETIMEDOUT;
	}
}

static int connect_to(const struct attempt *attempt, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer;
	socklen_t size = sizeof(peer);
	int fd, ret;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	ret = connect_within(attempt, fd, &address);
	if (!ret && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		ret = -errno;
	/* A directory in /tmp may be somebody else's: frames go to our own fabrics only. */
	if (!ret && peer.uid != geteuid() && peer.uid != 0 && geteuid() != 0)
		ret = -EPERM;
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

/* Connect to the fabric of the lab called by the first `n` bytes of `lab`, wherever labs are kept. */
static int connect_to_lab(const struct attempt *attempt, const char *lab, int n)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char path[256];
	int fd = -ENOENT;

	if (runtime && runtime[0] == '/' &&
	    snprintf(path, sizeof(path), "%s/vswitch/%.*s/ring", runtime, n, lab) < (int)sizeof(path))
		fd = connect_to(attempt, path);
	if (fd < 0 && snprintf(path, sizeof(path), "/tmp/vswitch-%u/%.*s/ring", (unsigned)geteuid(), n, lab) <
			      (int)sizeof(path)) {
		int second = connect_to(attempt, path);

		if (second >= 0 || fd == -ENOENT)
			fd = second;
	}
	return fd;
}

/* Connect to where `name` says. Return the socket, with `port` pointing at the NETWORK:PORT part, or -errno. */
static int connect_by_name(const struct attempt *attempt, const char **port)
{
	const char *name = attempt->ring->name;
	const char *colon = strrchr(name, ':');
	const char *slash = strchr(name, '/');
	const char *lab = getenv("VSWITCH_LAB");
	char *error = attempt->error;
	char path[256];
	int fd;

	*port = name;
	if (!colon || colon == name) {
		explain(error, "%s: a port's name is LAB/NETWORK:PORT, such as duo/vale0:p1", name);
		return -EINVAL;
	}
	if (name[0] == '/') {
		while (--colon > name && *colon != ':')
			;
		if (colon == name || colon - name >= (ptrdiff_t)sizeof(path)) {
			explain(error, "%s: after the socket's path comes :NETWORK:PORT", name);
			return -EINVAL;
		}
		*port = colon + 1;
		snprintf(path, sizeof(path), "%.*s", (int)(colon - name), name);
		fd = connect_to(attempt, path);
		if (fd < 0)
			explain(error, "%s: no fabric serves rings at %s: %s", name, path, strerror(-fd));
		return fd;
	}
	if (slash) {
		*port = slash + 1;
		fd = connect_to_lab(attempt, name, (int)(slash - name));
	} else if (lab && *lab) {
		fd = connect_to_lab(attempt, lab, (int)strlen(lab));
	} else {
		explain(error, "%s: say which lab: LAB/%s, or set VSWITCH_LAB", name, name);
		return -EINVAL;
	}
	if (fd == -ENOENT || fd == -ECONNREFUSED)
		explain(error, "%s: no lab of that name is up (see: lab ls)", name);
	else if (fd < 0)
		explain(error, "%s: %s", name, strerror(-fd));
	return fd;
}

/* Receive the answer and its descriptors. Return how many came, or -errno. */
static int receive_answer(int fd, struct nmr_opened *answer, int fds[2])
{
	struct iovec piece = { answer, sizeof(*answer) };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	struct cmsghdr *header = got < 0 ? NULL : CMSG_FIRSTHDR(&message);
	int n = 0;

	if (got < 0)
		return -errno;
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		n = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(header), (size_t)n * sizeof(int));
	}
	if (got == sizeof(*answer) && answer->magic == NMR_MAGIC && answer->version == NMR_VERSION)
		return n;
	for (int i = 0; i < n; i++)
		close(fds[i]);
	return got ? -EPROTO : -ECONNRESET;
}

/* Replace the socket, which is closed. Nobody is shutting it down meanwhile, nor whatever gets its number next. */
static void set_socket(struct vsw_ring *ring, int fd)
{
	pthread_mutex_lock(&ring->socket_lock);
	if (ring->socket >= 0)
		close(ring->socket);
	ring->socket = fd;
	pthread_mutex_unlock(&ring->socket_lock);
}

static void set_up_line(struct vsw_ring *ring, struct line *line, unsigned half, unsigned number)
{
	const struct nmr_area *area = &ring->area;

	*line = (struct line){
		.ring = nmr_ring(area, half, number),
		.atok = nmr_atok(area, half, number),
		.ktoa = nmr_ktoa(area, half, number),
	};
	if (area->header.n_halves == 2) {
		unsigned theirs = (number + ring->n) % (2 * ring->n);

		line->peer_ring = nmr_ring(area, !half, theirs);
		line->peer_atok = nmr_atok(area, !half, theirs);
	}
}

/* Ask over the socket for the port, and wait for the answer. Return how many descriptors came with it, or -errno. */
static int ask(const struct attempt *attempt, const struct nmr_open *request, struct nmr_opened *answer, int fds[2])
{
	int fd = attempt->ring->socket;
	int ret;

	if (send(fd, request, sizeof(*request), MSG_NOSIGNAL) < 0)
		ret = errno == EPIPE ? -ECONNRESET : -errno; /* hung up before or after: all the same */
	else
		ret = sleep_until(attempt, fd, attempt->end);
	return ret ? ret : receive_answer(fd, answer, fds);
}

/* Ask over the socket for the port, and map it. The socket is the ring's own, also on failure. */
static int attach(const struct attempt *attempt, const char *port)
{
	struct vsw_ring *ring = attempt->ring;
	char *error = attempt->error;
	const struct vsw_ring_options *options = &ring->options;
	struct nmr_open request = {
		.magic = NMR_MAGIC,
		.version = NMR_VERSION,
		.rings = options->rings,
		.slots = options->slots,
		.buf_size = options->buf_size,
	};
	struct nmr_opened answer;
	int fds[2] = { -1, -1 };
	int n, ret;

	if (strlen(port) >= sizeof(request.name)) {
		explain(error, "%s: a name has at most %zu bytes", port, sizeof(request.name) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(request.name, port);
	n = ask(attempt, &request, &answer, fds);
	if (n < 0) {
		explain(error, "%s: the fabric did not answer: %s", port, strerror(-n));
		return n;
	}
	answer.error[NMR_ERROR_SIZE - 1] = 0;
	if (answer.error[0] || n != 2 || answer.half > 1) {
		explain(error, "%s", answer.error[0] ? answer.error : "the fabric's answer makes no sense");
		ret = answer.error[0] ? -ECONNREFUSED : -EPROTO;
		goto close;
	}
	ret = nmr_map(fds[0], &ring->area);
	if (ret || answer.half >= ring->area.header.n_halves) {
		ret = ret ? ret : -EPROTO;
		explain(error, "%s: the fabric's memory cannot be used: %s", port, strerror(-ret));
		nmr_unmap(&ring->area);
		goto close;
	}
	close(fds[0]);
	if (ring->area.header.n_halves == 2) {
		set_socket(ring, fds[1]); /* the fabric's part is done; the other end of the pipe takes its place */
	} else {
		ring->kick = fds[1];
	}
	ring->half = answer.half;
	ring->n = ring->area.header.rings;
	for (unsigned i = 0; i < ring->n; i++) {
		set_up_line(ring, &ring->tx[i], answer.half, i);
		set_up_line(ring, &ring->rx[i], answer.half, ring->n + i);
	}
	return 0;
close:
	for (int i = 0; i < n; i++)
		close(fds[i]);
	return ret;
}

EXPORT void vsw_ring_leave(struct vsw_ring *ring)
{
	if (!ring)
		return;
	set_socket(ring, -1);
	if (ring->kick >= 0)
		close(ring->kick);
	ring->kick = -1;
	ring->n = ring->next_tx = ring->next_rx = 0;
	ring->borrowed = false;
}

static void detach(struct vsw_ring *ring)
{
	vsw_ring_leave(ring);
	nmr_unmap(&ring->area);
}

static struct vsw_ring *new_ring(const struct vsw_ring_options *options, char *error)
{
	struct vsw_ring *ring = calloc(1, sizeof(*ring));

	if (!ring) {
		explain(error, "out of memory");
		return NULL;
	}
	if (options)
		ring->options = *options;
	if (!ring->options.linger_us)
		ring->options.linger_us = DEFAULT_LINGER;
	if (ring->options.linger_us == VSW_NO_LINGER)
		ring->options.linger_us = 0;
	ring->socket = ring->kick = -1;
	pthread_mutex_init(&ring->socket_lock, NULL);
	return ring;
}

static struct attempt new_attempt(struct vsw_ring *ring, char *error)
{
	uint32_t timeout_ms = ring->options.timeout_ms ? ring->options.timeout_ms : DEFAULT_TIMEOUT;

	return (struct attempt){
		.ring = ring,
		.end = now_ns() + timeout_ms * MILLISECOND_IN_NS,
		.error = error,
	};
}

static int open_by_name(const struct attempt *attempt)
{
	const char *port;
	int ret = connect_by_name(attempt, &port);

	if (ret < 0)
		return ret;
	set_socket(attempt->ring, ret);
	ret = attach(attempt, port);
	if (ret)
		detach(attempt->ring);
	return ret;
}

/* How long to wait before the next try, and twice as long the next time. Many clients lose one fabric, or find it busy, at
 * the same time; they should not all come back at the same time.
 */
static uint64_t pause_ns(useconds_t *pause, unsigned *seed)
{
	useconds_t half = *pause / 2;

	*pause = *pause * 2 < RETRY_LAST ? *pause * 2 : RETRY_LAST;
	return (half + (useconds_t)rand_r(seed) % half) * (MILLISECOND_IN_NS / 1000);
}

static unsigned new_seed(void)
{
	return (unsigned)getpid() ^ (unsigned)now_ns();
}

EXPORT struct vsw_ring *vsw_ring_open(const char *name, const struct vsw_ring_options *options, char *error)
{
	struct vsw_ring *ring = new_ring(options, error);
	unsigned seed = new_seed(), retries = 0;
	useconds_t pause = RETRY_FIRST;
	struct attempt attempt;
	int ret;

	if (!ring)
		return NULL;
	attempt = new_attempt(ring, error);
	ring->name = strdup(name);
	if (!ring->name) {
		explain(error, "out of memory");
		vsw_ring_close(ring);
		return NULL;
	}
	/* A fabric that more ask than it can listen to hangs up on some. */
	while ((ret = open_by_name(&attempt)) == -ECONNRESET && retries++ < RETRIES_TO_OPEN)
		if (sleep_until(&attempt, -1, now_ns() + pause_ns(&pause, &seed)) != -ETIMEDOUT ||
		    now_ns() >= attempt.end)
			break;
	if (ret) {
		vsw_ring_close(ring);
		return NULL;
	}
	return ring;
}

EXPORT struct vsw_ring *vsw_ring_adopt(int fd, const struct vsw_ring_options *options, char *error)
{
	struct vsw_ring *ring = new_ring(options, error);
	struct attempt attempt;

	if (!ring) {
		close(fd);
		return NULL;
	}
	set_socket(ring, fd);
	attempt = new_attempt(ring, error);
	if (attach(&attempt, "")) {
		vsw_ring_close(ring);
		return NULL;
	}
	return ring;
}

EXPORT int vsw_ring_preopen(struct vsw_ring *ring, int timeout_ms, const sigset_t *mask, char *error)
{
	uint64_t end = now_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * MILLISECOND_IN_NS;
	useconds_t pause = RETRY_FIRST;
	unsigned seed = new_seed();

	if (!ring->name) {
		explain(error, "a ring that was handed down cannot be reopened");
		return -EINVAL;
	}
	detach(ring);
	for (;;) {
		struct attempt attempt = new_attempt(ring, error);
		int ret, woken;

		attempt.end = attempt.end < end ? attempt.end : end;
		attempt.by_signal = true;
		attempt.mask = mask;
		ret = open_by_name(&attempt);
		if (!ret || ret == -EINTR || ret == -ECANCELED)
			return ret;
		attempt.end = end;
		woken = sleep_until(&attempt, -1, now_ns() + pause_ns(&pause, &seed));
		if (woken != -ETIMEDOUT)
			return woken;
		if (now_ns() >= end)
			return ret;
	}
}

EXPORT int vsw_ring_reopen(struct vsw_ring *ring, int timeout_ms, char *error)
{
	return vsw_ring_preopen(ring, timeout_ms, NULL, error);
}

EXPORT void vsw_ring_interrupt(struct vsw_ring *ring)
{
	__atomic_store_n(&ring->interrupted, true, __ATOMIC_RELAXED);
	pthread_mutex_lock(&ring->socket_lock);
	if (ring->socket >= 0)
		shutdown(ring->socket, SHUT_RDWR); /* wakes whoever sleeps on it, now or later */
	pthread_mutex_unlock(&ring->socket_lock);
}

EXPORT void vsw_ring_close(struct vsw_ring *ring)
{
	if (!ring)
		return;
	detach(ring);
	pthread_mutex_destroy(&ring->socket_lock);
	free(ring->joined);
	free(ring->name);
	free(ring);
}

/* --- publishing --- */

static void kick(struct vsw_ring *ring)
{
	uint64_t one = 1;

	/* A full counter or socket: the other side has been told already. */
	if (ring->kick >= 0)
		(void)!write(ring->kick, &one, sizeof(one));
	else
		send(ring->socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Where frames are said to be by pointer, fetch them: the other side sees only our own buffers. */
static void resolve_indirect(struct line *line)
{
	struct netmap_ring *ring = line->ring;

	for (uint32_t i = line->published; i != ring->head; i = nmr_next(i, ring->num_slots)) {
		struct netmap_slot *slot = &ring->slot[i];

		if (slot->flags & NS_INDIRECT) {
			uint16_t len = slot->len < ring->nr_buf_size ? slot->len : (uint16_t)ring->nr_buf_size;

			memcpy(vsw_ring_buf(ring, slot->buf_idx), (void *)(uintptr_t)slot->ptr, len);
			slot->flags = (uint16_t)(slot->flags & ~NS_INDIRECT);
		}
	}
}

/* In a pipe, whether a sender at the other end has as much room as it waits for. To be asked after the fence: either we see
 * the cur with which it armed, or it sees what we have just released.
 */
static bool peer_has_room(const struct line *line)
{
	uint32_t slots = line->ring->num_slots;
	uint32_t head = nmr_take(&line->peer_atok->head);
	uint32_t wanted = __atomic_load_n(&line->peer_atok->cur, __ATOMIC_RELAXED);

	return nmr_tail_passed_cur(head, wanted, nmr_previous(line->published, slots), slots);
}

/* Whether the other side is to be told of what we have just published. In a pipe the word is the other application's. */
static bool must_kick(struct line *line)
{
	if (!line->peer_atok)
		return nmr_must_kick(&line->ktoa->kern_need_kick, &line->kicked);
	nmr_fence();
	return (!line->ring->dir || peer_has_room(line)) &&
	       nmr_take_kick(&line->peer_atok->appl_need_kick, &line->kicked);
}

/* Put head and cur of a ring back to where they were published, unless the user may have moved them to where they are: head
 * within the slots that are the user's, cur anywhere in the ring. Return 0, or -EINVAL.
 */
static int check_user(struct line *line)
{
	struct netmap_ring *ring = line->ring;
	uint32_t slots = ring->num_slots;

	if (ring->head < slots && ring->cur < slots &&
	    nmr_distance(line->published, ring->head, slots) <= nmr_distance(line->published, ring->tail, slots))
		return 0;
	ring->head = ring->cur = line->published;
	return -EINVAL;
}

/* Publish what the user did to one ring, which has been checked. Return whether the other side must be kicked. */
static bool publish(struct line *line)
{
	struct netmap_ring *ring = line->ring;

	if (line->published == ring->head) {
		__atomic_store_n(&line->atok->cur, ring->cur, __ATOMIC_RELAXED);
		return false;
	}
	line->published = ring->head;
	nmr_publish_appl(line->atok, ring->cur, ring->head);
	return must_kick(line);
}

static void update_tx(struct line *line)
{
	struct netmap_ring *ring = line->ring;

	if (line->peer_atok)
		ring->tail = nmr_previous(nmr_take(&line->peer_atok->head), ring->num_slots);
	else
		ring->tail = nmr_take(&line->ktoa->hwtail);
}

static void update_rx(struct line *line)
{
	struct netmap_ring *ring = line->ring;

	if (!line->peer_atok) {
		ring->tail = nmr_take(&line->ktoa->hwtail);
		return;
	}
	for (uint32_t head = nmr_take(&line->peer_atok->head); ring->tail != head && head < ring->num_slots;
	     ring->tail = nmr_next(ring->tail, ring->num_slots)) {
		uint64_t word = nmr_read_slot(&line->peer_ring->slot[ring->tail]);

		/* The same buffer by the same number: ring i of theirs and ours name the same ones. */
		nmr_write_slot(&ring->slot[ring->tail], word);
	}
}

EXPORT int vsw_ring_sync(struct vsw_ring *ring, int which)
{
	bool told = false;
	int ret = 0;

	for (uint32_t i = 0; i < ring->n; i++) {
		if (which & VSW_TX) {
			ret = check_user(&ring->tx[i]) ? -EINVAL : ret;
			resolve_indirect(&ring->tx[i]);
			told |= publish(&ring->tx[i]);
			update_tx(&ring->tx[i]);
		}
		if (which & VSW_RX) {
			ret = check_user(&ring->rx[i]) ? -EINVAL : ret;
			told |= publish(&ring->rx[i]);
			update_rx(&ring->rx[i]);
		}
	}
	if (told)
		kick(ring);
	return ret;
}

/* --- waiting --- */

static uint32_t available(const struct line *line)
{
	return nmr_distance(line->ring->head, line->ring->tail, line->ring->num_slots);
}

/* Whether what could not be sent can be, or there is room at all. */
static bool may_send(const struct vsw_ring *ring)
{
	const struct line *sending = &ring->tx[ring->next_tx];

	if (ring->n && sending->needs)
		return available(sending) >= sending->needs;
	for (uint32_t i = 0; i < ring->n; i++)
		if (available(&ring->tx[i]))
			return true;
	return false;
}

static int ready(struct vsw_ring *ring, int which)
{
	int found = 0;

	for (uint32_t i = 0; i < ring->n; i++) {
		if (which & VSW_TX)
			update_tx(&ring->tx[i]);
		if (which & VSW_RX) {
			update_rx(&ring->rx[i]);
			if (available(&ring->rx[i]))
				found |= VSW_RX;
		}
	}
	return which & VSW_TX && may_send(ring) ? found | VSW_TX : found;
}

EXPORT int vsw_ring_fd(const struct vsw_ring *ring)
{
	return ring->socket;
}

EXPORT int vsw_ring_arm(struct vsw_ring *ring, int which)
{
	if (ring->socket < 0)
		return -ENOTCONN;
	for (uint32_t i = 0; i < ring->n; i++) {
		struct line *tx = &ring->tx[i], *rx = &ring->rx[i];

		if (which & VSW_TX) {
			uint32_t slots = tx->ring->num_slots;
			/* Woken for each slot we would do little else than sleep and wake. */
			uint32_t ahead = tx->needs > slots / 2 ? tx->needs - 1 : slots / 2;

			__atomic_store_n(&tx->atok->cur, nmr_advance(tx->ring->head, ahead, slots), __ATOMIC_RELAXED);
			nmr_arm(&tx->atok->appl_need_kick, &tx->arming);
		}
		if (which & VSW_RX)
			nmr_arm(&rx->atok->appl_need_kick, &rx->arming);
	}
	return ready(ring, which);
}

EXPORT int vsw_ring_disarm(struct vsw_ring *ring)
{
	char bells[BELLS_AT_ONCE];
	ssize_t got;

	for (uint32_t i = 0; i < ring->n; i++) {
		nmr_disarm(&ring->tx[i].atok->appl_need_kick);
		nmr_disarm(&ring->rx[i].atok->appl_need_kick);
	}
	while ((got = recv(ring->socket, bells, sizeof(bells), MSG_DONTWAIT)) > 0)
		;
	return got == 0 || (errno != EAGAIN && errno != EINTR) ? -ENOTCONN : 0;
}

/* Look again for a while, not beyond `until`, before sleeping. Whoever we wait for may need this very core. */
static int linger(struct vsw_ring *ring, int which, uint64_t until)
{
	uint64_t end = now_ns() + ring->options.linger_us * (MILLISECOND_IN_NS / 1000);
	int found;

	end = end < until ? end : until;
	while (!(found = ready(ring, which)) && now_ns() < end && !is_interrupted(ring))
		sched_yield();
	return found;
}

/* Sleep until the bell rings, `end` (ns, UINT64_MAX: never) has come, or there is a signal. Return 0 or -errno. */
static int sleep_for_bell(const struct vsw_ring *ring, uint64_t end, const sigset_t *mask)
{
	struct pollfd poll_fd = { .fd = ring->socket, .events = POLLIN };
	uint64_t now = end == UINT64_MAX ? 0 : now_ns();
	uint64_t left = now < end ? end - now : 0;
	struct timespec timeout = { (time_t)(left / (1000 * MILLISECOND_IN_NS)),
				    (long)(left % (1000 * MILLISECOND_IN_NS)) };

	return ppoll(&poll_fd, 1, end == UINT64_MAX ? NULL : &timeout, mask) < 0 ? -errno : 0;
}

EXPORT int vsw_ring_pwait(struct vsw_ring *ring, int which, int timeout_ms, const sigset_t *mask)
{
	uint64_t end = timeout_ms >= 0 ? now_ns() + (uint64_t)timeout_ms * MILLISECOND_IN_NS : UINT64_MAX;
	int found;

	if (which & VSW_RX)
		vsw_ring_release(ring);
	found = ready(ring, which);
	if (!found && timeout_ms)
		found = linger(ring, which, end);
	while (!found) {
		int error = 0;

		found = vsw_ring_arm(ring, which);
		if (found < 0)
			return found;
		if (!found)
			error = sleep_for_bell(ring, end, mask);
		if (vsw_ring_disarm(ring)) {
			found = ready(ring, which & VSW_RX); /* what came before the end */
			return found ? found : is_interrupted(ring) ? -ECANCELED : -ENOTCONN;
		}
		if (error)
			return error;
		found = ready(ring, which);
		if (!found && end != UINT64_MAX && now_ns() >= end)
			return 0;
	}
	return found;
}

EXPORT int vsw_ring_wait(struct vsw_ring *ring, int which, int timeout_ms)
{
	return vsw_ring_pwait(ring, which, timeout_ms, NULL);
}

/* --- whole frames --- */

/* Return how many slots a frame of `len` bytes takes; 0 when it can never be sent. */
static uint32_t slots_for(const struct netmap_ring *tx, size_t len, uint32_t part_max)
{
	if (len < FRAME_MIN || len > FRAME_MAX || len > nmr_frame_max(tx->num_slots, tx->nr_buf_size))
		return 0;
	return (uint32_t)((len + part_max - 1) / part_max);
}

/* Copy one frame into `parts` free slots. */
static void put(struct netmap_ring *ring, const struct iovec *frame, uint32_t parts, uint32_t part_max)
{
	const uint8_t *from = frame->iov_base;
	uint32_t left = (uint32_t)frame->iov_len;
	uint32_t at = ring->head;

	while (parts--) {
		struct netmap_slot *slot = &ring->slot[at];
		uint32_t len = left < part_max ? left : part_max;

		memcpy(vsw_ring_buf(ring, slot->buf_idx), from, len);
		nmr_write_slot(slot, nmr_slot_word(slot->buf_idx, (uint16_t)len, parts ? NS_MOREFRAG : 0));
		from += len;
		left -= len;
		at = nmr_next(at, ring->num_slots);
	}
	ring->head = ring->cur = at;
}

EXPORT int vsw_ring_send(struct vsw_ring *ring, const struct iovec *frames, unsigned n)
{
	struct line *line;
	struct netmap_ring *tx;
	uint32_t part_max, room, parts = 0;
	unsigned i;

	if (!ring->n)
		return -ENOTCONN;
	line = &ring->tx[ring->next_tx];
	tx = line->ring;
	part_max = nmr_part_max(tx->nr_buf_size);
	if (check_user(line))
		return -EINVAL;
	room = available(line);
	line->needs = 0;
	for (i = 0; i < n; i++) {
		parts = slots_for(tx, frames[i].iov_len, part_max);
		if (!parts)
			break;
		if (parts > room) {
			update_tx(line);
			room = available(line);
			if (parts > room) {
				line->needs = parts;
				break;
			}
		}
		put(tx, &frames[i], parts, part_max);
		room -= parts;
	}
	if (i && publish(line))
		kick(ring);
	return !i && n && !parts ? -EMSGSIZE : (int)i;
}

EXPORT void vsw_ring_release(struct vsw_ring *ring)
{
	if (!ring->borrowed)
		return;
	ring->borrowed = false;
	vsw_ring_sync(ring, VSW_RX);
}

/* Put the slots from `at` to the end of their frame together behind `*used` bytes of ring->joined. Return the slot after
 * them; the frame's length, 0 for one that is too long or not all there, goes to `frame`.
 */
static uint32_t join(struct vsw_ring *ring, const struct netmap_ring *rx, uint32_t at, size_t *used,
		     struct iovec *frame)
{
	uint8_t *start = ring->joined + *used;
	size_t len = 0;
	bool more = true;

	while (more && at != rx->tail) {
		uint64_t word = nmr_read_slot(&rx->slot[at]);

		if (len + nmr_word_len(word) <= FRAME_MAX)
			memcpy(start + len, vsw_ring_buf(rx, nmr_word_buf(word)), nmr_word_len(word));
		len += nmr_word_len(word);
		more = nmr_word_flags(word) & NS_MOREFRAG;
		at = nmr_next(at, rx->num_slots);
	}
	*frame = (struct iovec){ start, more || len > FRAME_MAX ? 0 : len };
	*used += frame->iov_len;
	return at;
}

/* Make sure another frame of several slots can be joined. */
static bool room_to_join(struct vsw_ring *ring, size_t used)
{
	if (!ring->joined) {
		ring->joined_size = 4 * (size_t)FRAME_MAX;
		ring->joined = malloc(ring->joined_size);
	}
	return ring->joined && used + FRAME_MAX <= ring->joined_size;
}

static unsigned receive_from(struct vsw_ring *ring, struct line *line, struct iovec *frames, unsigned n, size_t *used)
{
	struct netmap_ring *rx = line->ring;
	uint32_t at = rx->head;
	unsigned i = 0;

	while (i < n && at != rx->tail) {
		uint64_t word = nmr_read_slot(&rx->slot[at]);

		if (nmr_word_flags(word) & NS_MOREFRAG) {
			if (!room_to_join(ring, *used))
				break;
			at = join(ring, rx, at, used, &frames[i]);
			if (frames[i].iov_len)
				i++;
			continue;
		}
		frames[i++] = (struct iovec){ vsw_ring_buf(rx, nmr_word_buf(word)), nmr_word_len(word) };
		at = nmr_next(at, rx->num_slots);
	}
	if (at != rx->head) {
		rx->head = rx->cur = at; /* published by vsw_ring_release() */
		ring->borrowed = true;
	}
	return i;
}

EXPORT unsigned vsw_ring_receive(struct vsw_ring *ring, struct iovec *frames, unsigned n)
{
	size_t used = 0;
	unsigned i = 0;

	if (!ring->n)
		return 0;
	vsw_ring_release(ring);
	for (uint32_t j = 0; j < ring->n && i < n; j++) {
		struct line *line = &ring->rx[ring->next_rx];

		check_user(line);
		if (line->ring->head == line->ring->tail)
			update_rx(line);
		i += receive_from(ring, line, frames + i, n - i, &used);
		ring->next_rx = ring->next_rx + 1 == ring->n ? 0 : ring->next_rx + 1;
	}
	return i;
}

/* --- the memory itself --- */

EXPORT uint32_t vsw_ring_count(const struct vsw_ring *ring)
{
	return ring->n;
}

EXPORT struct netmap_if *vsw_ring_if(const struct vsw_ring *ring)
{
	return ring->n ? nmr_nifp(&ring->area, ring->half) : NULL;
}

EXPORT struct netmap_ring *vsw_ring_tx(const struct vsw_ring *ring, uint32_t i)
{
	return i < ring->n ? ring->tx[i].ring : NULL;
}

EXPORT struct netmap_ring *vsw_ring_rx(const struct vsw_ring *ring, uint32_t i)
{
	return i < ring->n ? ring->rx[i].ring : NULL;
}
