/* SPDX-License-Identifier: BSD-2-Clause */
/* Port type `pcap`: plays a capture, writes one, or both. No disk is touched here: what is played lies in memory, and what
 * is written goes into a pipe that a thread of Python's empties into the file.
 *
 * fds: a timer (CLOCK_MONOTONIC); to play, a memfd of records; to write, the writing end of a pipe. Playing begins when the
 * timer, which whoever opens the port has armed, first expires; from then on it tells when the next frame is due.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../fabric/engine.h"
#include "../fabric/switch.h"

#define SECOND     1000000000ULL /* ns */
#define NO_SINK    (-1)
#define PIPE_SPARE 2 /* pages of a pipe: one that has been read in part, and the last, just begun */

/* As pcap.py packs them. */
struct pcap_options {
	uint64_t period;  /* ns from the beginning of one loop to that of the next */
	uint64_t loops;   /* 0: for ever */
	uint32_t snaplen; /* most bytes of a frame that are written */
	uint8_t plays, writes;
	uint8_t unused[2];
};

/* Before each frame in the memfd; the next record begins at a multiple of 8 bytes. */
struct record {
	uint64_t due; /* ns since the beginning of the loop */
	uint32_t len;
	uint8_t prefix[FRAME_PREFIX]; /* see frame.h */
};
_Static_assert(sizeof(struct record) == 16, "pcap.py packs it so");

/* Before each frame in the file. (draft-ietf-opsawg-pcap, with nanoseconds) */
struct captured {
	uint32_t seconds, nanoseconds;
	uint32_t captured, len;
};

struct pcap {
	const uint8_t *records; /* NULL: nothing to play, or no more */
	size_t size, at;
	uint64_t start; /* ns: when this loop began; 0: not yet */
	uint64_t period;
	uint64_t loops; /* left, this one included; 0: for ever */
	int sink;       /* a pipe, or NO_SINK */
	uint32_t room;  /* bytes of the pipe that can be filled for sure */
	uint32_t snaplen;
};

static int map_records(struct pcap *pcap, int fd)
{
	struct stat status;
	void *map;

	if (fstat(fd, &status))
		return -errno;
	if (status.st_size <= 0)
		return -EINVAL;
	pcap->size = (size_t)status.st_size;
	map = mmap(NULL, pcap->size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	pcap->records = map;
	return 0;
}

/* What a write leaves over of a page is used by the next one only if the end of that, beyond whole pages, fits there. So of
 * any two pages that are not full one after the other, the two together hold more than one page: at worst a pipe is full
 * when it holds half of its size, not counting the first and the last page.
 */
static int measure_pipe(struct pcap *pcap, int fd)
{
	int size = fcntl(fd, F_GETPIPE_SZ);
	long spare = PIPE_SPARE * sysconf(_SC_PAGESIZE);

	if (size < 0)
		return -errno;
	if (size <= spare)
		return -ENOBUFS;
	pcap->sink = fd;
	pcap->room = (uint32_t)(size - spare) / 2;
	return 0;
}

static int pcap_open(struct port *port)
{
	const struct pcap_options *options = port->options;
	struct pcap *pcap;
	int ret = 0;

	if (port->n_fds != 1U + !!options->plays + !!options->writes || !(options->plays || options->writes))
		return -EINVAL;
	pcap = calloc(1, sizeof(*pcap));
	if (!pcap)
		return -ENOMEM;
	pcap->period = options->period;
	pcap->loops = options->loops;
	pcap->snaplen = options->snaplen;
	pcap->sink = NO_SINK;
	if (options->writes)
		ret = measure_pipe(pcap, port->fds[port->n_fds - 1]);
	if (!ret && options->plays)
		ret = map_records(pcap, port->fds[1]);
	if (ret) {
		free(pcap);
		return ret;
	}
	port->private = pcap;
	return 0;
}

static void stop_playing(struct pcap *pcap)
{
	if (pcap->records)
		munmap((void *)(uintptr_t)pcap->records, pcap->size);
	pcap->records = NULL;
}

static void pcap_close(struct port *port)
{
	stop_playing(port->private);
	free(port->private);
	port->private = NULL;
}

/* --- playing --- */

/* Return the record that is next, NULL if the memory holds none there. */
static const struct record *next_record(const struct pcap *pcap)
{
	size_t left = pcap->size - pcap->at;
	const struct record *record;

	if (left < sizeof(*record))
		return NULL;
	record = (const struct record *)(const void *)(pcap->records + pcap->at);
	if (record->len < FRAME_MIN || record->len > FRAME_MAX || record->len > left - sizeof(*record))
		return NULL;
	return record;
}

/* Go on to the record after `record`, or to the first again. Return false when all has been played. */
static bool advance(struct pcap *pcap, const struct record *record)
{
	pcap->at += (sizeof(*record) + record->len + 7) / 8 * 8;
	if (pcap->at < pcap->size)
		return true;
	pcap->at = 0;
	pcap->start += pcap->period;
	return !pcap->loops || --pcap->loops;
}

/* Take the frames that are due, FRAME_BATCH at most. Return when the next one is (ns), 0 when there is none, -1 when the
 * records are broken.
 */
static int64_t take_due(struct port *port, struct frame *frames, unsigned *n)
{
	struct pcap *pcap = port->private;

	for (;;) {
		const struct record *record = next_record(pcap);

		if (!record)
			return -1;
		if (*n == FRAME_BATCH || pcap->start + record->due > port->engine->now)
			return (int64_t)(pcap->start + record->due);
		frames[(*n)++] = frame_whole((const uint8_t *)(record + 1), record->len);
		if (!advance(pcap, record))
			return 0;
	}
}

/* Have the timer expire at `due`, which may be past; 0: never. */
static int set_timer(int fd, uint64_t due)
{
	struct itimerspec time = { .it_value = { .tv_sec = (time_t)(due / SECOND), .tv_nsec = (long)(due % SECOND) } };

	return timerfd_settime(fd, TFD_TIMER_ABSTIME, &time, NULL) ? -errno : 0;
}

static void pcap_collect(struct port *port)
{
	struct pcap *pcap = port->private;
	struct frame frames[FRAME_BATCH];
	unsigned n = 0;
	int64_t due = 0;
	int ret;

	if (pcap->records) {
		if (!pcap->start)
			pcap->start = port->engine->now;
		due = take_due(port, frames, &n);
	}
	if (n)
		vsw_switch_input(port, frames, n);
	if (due < 0) {
		vsw_port_end(port, PORT_ERROR, "the records of the capture are broken");
		return;
	}
	ret = set_timer(port->fds[0], (uint64_t)due);
	if (ret)
		vsw_port_end_errno(port, "setting the timer", -ret);
	if (due)
		return;
	stop_playing(pcap);
	if (pcap->sink == NO_SINK)
		vsw_port_end(port, PORT_CLOSED, "the capture has been played");
}

/* --- writing --- */

/* Point `pieces` at the part of `frame` that is to be captured, behind its header. Return how many they are. */
static unsigned capture(const struct frame *frame, const struct captured *header, struct iovec *pieces)
{
	uint32_t left = header->captured;
	unsigned n = frame_pieces(frame, 0, pieces + 1), used = 1;

	pieces[0] = (struct iovec){ (void *)(uintptr_t)header, sizeof(*header) };
	for (unsigned i = 1; i <= n && left; i++, used++) {
		if (pieces[i].iov_len > left)
			pieces[i].iov_len = left;
		left -= (uint32_t)pieces[i].iov_len;
	}
	return used;
}

/* Only whole records are written, and only what there is room for: the file is in order whenever all is read that is in
 * the pipe.
 */
static void pcap_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	struct pcap *pcap = port->private;
	struct captured headers[FRAME_BATCH];
	struct iovec pieces[3 * FRAME_BATCH];
	unsigned n_pieces = 0, taken = 0;
	size_t size = 0;
	struct timespec now;
	int used;
	ssize_t wrote;

	if (pcap->sink == NO_SINK) {
		port->drops[DROP_UNWANTED] += n;
		return;
	}
	if (ioctl(pcap->sink, FIONREAD, &used)) {
		vsw_port_end_errno(port, "asking the pipe for room", errno);
		port->drops[DROP_CLOSED] += n;
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	for (; taken < n; taken++) {
		uint32_t len = frames[taken].len;
		uint32_t captured = len < pcap->snaplen ? len : pcap->snaplen;

		if ((size_t)used + size + sizeof(headers[0]) + captured > pcap->room)
			break;
		headers[taken] = (struct captured){ (uint32_t)now.tv_sec, (uint32_t)now.tv_nsec, captured, len };
		n_pieces += capture(&frames[taken], &headers[taken], &pieces[n_pieces]);
		size += sizeof(headers[0]) + captured;
	}
	port->drops[DROP_OVERFLOW] += n - taken;
	if (!taken)
		return;
	wrote = writev(pcap->sink, pieces, (int)n_pieces);
	if (wrote == (ssize_t)size) {
		vsw_traffic_add_frames(&port->tx, frames, taken);
		return;
	}
	if (wrote < 0 && errno == EAGAIN) { /* nothing was written */
		port->drops[DROP_OVERFLOW] += taken;
		return;
	}
	port->drops[DROP_CLOSED] += taken;
	if (wrote < 0)
		vsw_port_end_errno(port, "writing the capture", errno);
	else
		vsw_port_end(port, PORT_ERROR, "the pipe took %zd bytes of %zu", wrote, size);
}

const struct port_ops vsw_pcap_ops = {
	.name = "pcap",
	.min_fds = 2,
	.max_fds = 3,
	.options_size = sizeof(struct pcap_options),
	.open = pcap_open,
	.collect = pcap_collect,
	.deliver = pcap_deliver,
	.close = pcap_close,
};
