/* SPDX-License-Identifier: BSD-2-Clause */
/* Both ends of rings as threads of one program, asleep as often as can be, in rings so small that they are always full,
 * empty or wrapping: for ThreadSanitizer, and for wake-ups that get lost. Time stands still for the engine, so nothing
 * but a kick ever wakes it, and no frame is dropped for lateness. A lost wake-up is a program that hangs: the alarm ends it.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "lab.h"
#include "ring_client.h"

#define ALARM       45 /* s */
#define HEADER      18 /* bytes: Ethernet's, and the frame's number */
#define MAX_STATION 8

static const struct vsw_ring_options asleep = { .linger_us = VSW_NO_LINGER };

static unsigned conversing; /* stations that have not finished */

/* One end of a conversation: sends `total` numbered frames to the other station and gets as many. */
struct station {
	struct vsw_ring *ring;
	uint8_t self, other;
	uint32_t total;  /* frames each way */
	uint32_t window; /* how many it sends beyond those it has got */
	bool in_turn; /* they take turns, `window` frames each: one that is not delivered ends it all, no later one helps */
	uint32_t gap; /* ns: it idles up to so long before each burst, to meet the other side falling asleep */
	uint32_t sent, got, sleeps;
	unsigned seed;
	bool by_hand; /* arms, polls and disarms as a program with a poll loop of its own does */
	pthread_t thread;
};

/* --- one mapping for all: ThreadSanitizer goes by addresses, and would see two threads that never meet --- */

#define MAX_MAPPINGS 64

void *__real_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t size);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *address, size_t size);

static pthread_mutex_t mappings_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct mapping {
	void *address;
	ino_t file;
	unsigned users;
} mappings[MAX_MAPPINGS];

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	struct mapping *found = NULL;
	struct stat stat;

	if (!(flags & MAP_SHARED) || fstat(fd, &stat))
		return __real_mmap(address, size, protection, flags, fd, offset);
	pthread_mutex_lock(&mappings_mutex);
	for (unsigned i = 0; i < MAX_MAPPINGS; i++)
		if (mappings[i].users && mappings[i].file == stat.st_ino)
			found = &mappings[i];
	for (unsigned i = 0; !found && i < MAX_MAPPINGS; i++)
		if (!mappings[i].users)
			found = &mappings[i];
	CHECK(found);
	if (!found->users++) {
		found->address = __real_mmap(address, size, protection, flags, fd, offset);
		found->file = stat.st_ino;
	}
	pthread_mutex_unlock(&mappings_mutex);
	return found->address;
}

int __wrap_munmap(void *address, size_t size)
{
	bool last = true;

	pthread_mutex_lock(&mappings_mutex);
	for (unsigned i = 0; i < MAX_MAPPINGS; i++)
		if (mappings[i].users && mappings[i].address == address)
			last = !--mappings[i].users;
	if (last)
		CHECK(!__real_munmap(address, size));
	pthread_mutex_unlock(&mappings_mutex);
	return 0;
}

/* --- conversations --- */

static void hung(int signal)
{
	static const char text[] = "hung: a wake-up was lost\n";

	(void)signal;
	(void)!write(2, text, sizeof(text) - 1);
	_exit(1);
}

/* Frame `number` takes one to three slots of 256 bytes. */
static uint32_t frame_len(uint32_t number)
{
	return HEADER + number * 37 % 700;
}

static struct iovec make(uint8_t *data, uint8_t to, uint8_t from, uint32_t number)
{
	uint32_t len = frame_len(number);

	put_mac(data, 0x020000000000ULL | to);
	put_mac(data + 6, 0x020000000000ULL | from);
	data[12] = 0x88;
	data[13] = 0xb5;
	memcpy(data + 14, &number, sizeof(number));
	for (uint32_t i = HEADER; i < len; i++)
		data[i] = (uint8_t)(number + i);
	return (struct iovec){ data, len };
}

static void check(const struct station *station, const struct iovec *frame, uint32_t number)
{
	uint8_t expected[1024];
	struct iovec want = make(expected, station->self, station->other, number);

	CHECK(frame->iov_len == want.iov_len);
	CHECK(!memcmp(frame->iov_base, want.iov_base, want.iov_len));
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static void idle(uint64_t ns)
{
	uint64_t end = now_ns() + ns;

	while (now_ns() < end)
		;
}

static bool may_send(const struct station *station)
{
	if (station->sent == station->total)
		return false;
	if (!station->in_turn)
		return station->sent < station->got + station->window;
	if (station->sent % station->window)
		return true;
	return station->got == station->sent + (station->self & 1 ? station->window : 0);
}

static bool send_some(struct station *station)
{
	uint8_t data[16][1024];
	struct iovec frames[16];
	uint32_t n = 1 + (uint32_t)rand_r(&station->seed) % 16;
	int done;

	if (station->in_turn)
		n = 1;
	else if (n > station->got + station->window - station->sent)
		n = station->got + station->window - station->sent;
	n = n < station->total - station->sent ? n : station->total - station->sent;
	for (uint32_t i = 0; i < n; i++)
		frames[i] = make(data[i], station->other, station->self, station->sent + i);
	if (station->gap)
		idle((uint64_t)rand_r(&station->seed) % station->gap);
	done = vsw_ring_send(station->ring, frames, n);
	CHECK(done >= 0);
	station->sent += (uint32_t)done;
	return done > 0;
}

static bool receive_some(struct station *station)
{
	struct iovec frames[64];
	unsigned n = vsw_ring_receive(station->ring, frames, 1 + (unsigned)rand_r(&station->seed) % 64);

	for (unsigned i = 0; i < n; i++)
		check(station, &frames[i], station->got++);
	return n > 0;
}

static void sleep_by_hand(struct station *station, int which)
{
	struct pollfd poll_fd = { .fd = vsw_ring_fd(station->ring), .events = POLLIN };
	int ready = vsw_ring_arm(station->ring, which);

	CHECK(ready >= 0);
	while (!ready && poll(&poll_fd, 1, -1) < 0) /* without looking again: the bell has to come */
		CHECK(errno == EINTR);
	CHECK(!vsw_ring_disarm(station->ring));
}

static void *converse(void *arg)
{
	struct station *station = arg;

	while (station->sent < station->total || station->got < station->total) {
		bool sends = may_send(station);
		bool busy = sends && send_some(station);

		busy |= receive_some(station);
		vsw_ring_release(station->ring);
		if (busy || station->got == station->total)
			continue;
		station->sleeps++;
		if (station->by_hand)
			sleep_by_hand(station, sends ? VSW_TX | VSW_RX : VSW_RX);
		else
			CHECK(vsw_ring_wait(station->ring, sends ? VSW_TX | VSW_RX : VSW_RX, -1) > 0);
	}
	__atomic_sub_fetch(&conversing, 1, __ATOMIC_RELAXED);
	return NULL;
}

static void start(struct station *station)
{
	__atomic_add_fetch(&conversing, 1, __ATOMIC_RELAXED);
	station->seed = station->self;
	CHECK(!pthread_create(&station->thread, NULL, converse, station));
}

static void finish(struct station *station)
{
	CHECK(!pthread_join(station->thread, NULL));
	CHECK(station->sent == station->total && station->got == station->total);
}

/* Have the switch learn where the stations are: frames flooded to several ports may be dropped. */
static void introduce(struct client *clients, unsigned n)
{
	uint8_t data[1024];
	struct iovec frames[MAX_STATION];

	for (uint8_t i = 0; i < n; i++) {
		struct iovec frame = make(data, 0xff, i, 0);

		data[0] = 0xff;
		CHECK(vsw_ring_send(clients[i].ring, &frame, 1) == 1);
		lab_settle();
	}
	for (unsigned i = 0; i < n; i++) {
		CHECK(vsw_ring_receive(clients[i].ring, frames, MAX_STATION) == n - 1);
		vsw_ring_release(clients[i].ring);
	}
	lab_settle();
}

/* Pairs of stations converse over a switch in a thread of its own. */
static void converse_over_a_switch(unsigned n, struct nmr_geometry geometry, struct station model)
{
	struct client clients[MAX_STATION];
	struct station stations[MAX_STATION];

	lab_start(false, 100);
	for (unsigned i = 0; i < n; i++)
		clients[i] = client_open_with(sw, geometry, &asleep);
	introduce(clients, n);
	CHECK(!vsw_engine_start(engine));
	for (uint8_t i = 0; i < n; i++) {
		stations[i] = model;
		stations[i].ring = clients[i].ring;
		stations[i].self = i;
		stations[i].other = i ^ 1;
		start(&stations[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		finish(&stations[i]);
		CHECK(!model.in_turn || stations[i].sleeps > model.total / 4);
	}
	lab_stop();
	for (unsigned i = 0; i < n; i++)
		client_close(&clients[i]);
}

static const struct nmr_geometry small = { .rings = 1, .slots = NMR_MIN_SLOTS, .buf_size = NMR_MIN_BUF };

static void switch_wakes_and_is_woken_for_each_frame(void)
{
	converse_over_a_switch(2, small, (struct station){ .total = 10000, .window = 1, .in_turn = true });
}

static void switch_wakes_programs_that_poll_themselves(void)
{
	converse_over_a_switch(2, small,
			       (struct station){ .total = 10000, .window = 1, .in_turn = true, .by_hand = true });
}

/* Frames are sent just when the fabric, or the other station, may be about to fall asleep. */
static void frames_that_meet_a_sleeper_wake_it(void)
{
	converse_over_a_switch(2, small,
			       (struct station){ .total = 10000, .window = 2, .in_turn = true, .gap = 30000 });
}

/* --- threads that stand still between any two instructions, long enough for the others to do whatever they do --- */

#define STALL  20000 /* ns */
#define STALLS 3     /* one each time that this long has passed, on average */

static void stall(int signal)
{
	(void)signal;
	idle(STALL);
}

static void let_signals_in(struct engine *in, void *arg)
{
	sigset_t set;

	(void)in;
	(void)arg;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void stalls_at_any_moment_lose_no_wake_up(void)
{
	struct client clients[2];
	struct station stations[2];
	unsigned seed = 1;

	signal(SIGUSR1, stall);
	lab_start(false, 100);
	for (unsigned i = 0; i < 2; i++)
		clients[i] = client_open_with(sw, small, &asleep);
	introduce(clients, 2);
	CHECK(!vsw_engine_start(engine));
	vsw_engine_call(engine, let_signals_in, NULL);
	for (uint8_t i = 0; i < 2; i++) {
		stations[i] = (struct station){ .ring = clients[i].ring,
						.self = i,
						.other = !i,
						.total = 6000,
						.window = 2,
						.in_turn = true,
						.gap = STALL,
						.by_hand = true };
		start(&stations[i]);
	}
	while (__atomic_load_n(&conversing, __ATOMIC_RELAXED)) {
		unsigned victim = (unsigned)rand_r(&seed) % 4;

		pthread_kill(victim < 2 ? stations[victim].thread : engine->thread, SIGUSR1);
		idle((unsigned)rand_r(&seed) % (2 * STALLS * STALL));
	}
	for (unsigned i = 0; i < 2; i++)
		finish(&stations[i]);
	lab_stop();
	for (unsigned i = 0; i < 2; i++)
		client_close(&clients[i]);
}

static void full_rings_of_many_stations_lose_nothing(void)
{
	converse_over_a_switch(4, small, (struct station){ .total = 10000, .window = 500 });
}

static void several_rings_lose_nothing(void)
{
	struct nmr_geometry geometry = { .rings = 3, .slots = 65, .buf_size = 512 };

	converse_over_a_switch(4, geometry, (struct station){ .total = 10000, .window = 70 });
}

static void converse_over_a_pipe(struct nmr_geometry geometry, struct station model)
{
	struct station stations[2];
	struct vsw_ring *ends[2];

	pipe_open_with(geometry, &asleep, ends);
	for (uint8_t i = 0; i < 2; i++) {
		stations[i] = model;
		stations[i].ring = ends[i];
		stations[i].self = i;
		stations[i].other = !i;
		start(&stations[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		finish(&stations[i]);
		CHECK(!model.in_turn || stations[i].sleeps > model.total / 4);
	}
	for (unsigned i = 0; i < 2; i++)
		vsw_ring_close(ends[i]);
}

static void pipe_ends_wake_each_other_for_each_frame(void)
{
	converse_over_a_pipe(small, (struct station){ .total = 15000, .window = 1, .in_turn = true });
	converse_over_a_pipe(small, (struct station){ .total = 15000, .window = 1, .in_turn = true, .by_hand = true });
}

static void full_pipe_loses_nothing(void)
{
	converse_over_a_pipe(small, (struct station){ .total = 30000, .window = 500 });
	converse_over_a_pipe((struct nmr_geometry){ .rings = 2, .slots = 100, .buf_size = 512 },
			     (struct station){ .total = 10000, .window = 500 });
}

/* --- ports that come and go meanwhile --- */

/* Two ports on a network of their own. */
struct visit {
	struct vsw_switch *hub;
	struct client from, to;
};

static void begin_visit(struct engine *in, void *arg)
{
	struct visit *visit = arg;

	CHECK(!vsw_switch_new(in, true, 0, 1, &visit->hub));
	visit->from = client_open_with(visit->hub, small, &asleep);
	visit->to = client_open_with(visit->hub, small, &asleep);
}

static void end_visit(struct engine *in, void *arg)
{
	struct visit *visit = arg;

	(void)in;
	vsw_switch_free(visit->hub);
}

static void visit_once(uint32_t number)
{
	const struct station expected = { .self = 10, .other = 11 };
	uint8_t data[1024];
	struct iovec got, frame = make(data, 10, 11, number);
	struct visit visit;

	vsw_engine_call(engine, begin_visit, &visit);
	CHECK(vsw_ring_send(visit.from.ring, &frame, 1) == 1);
	CHECK(vsw_ring_wait(visit.to.ring, VSW_RX, -1) == VSW_RX);
	CHECK(vsw_ring_receive(visit.to.ring, &got, 1) == 1);
	check(&expected, &got, number);
	if (number % 2) { /* its client goes first, or the port does */
		client_close(&visit.from);
		vsw_engine_call(engine, end_visit, &visit);
	} else {
		vsw_engine_call(engine, end_visit, &visit);
		CHECK(vsw_ring_wait(visit.from.ring, VSW_RX, -1) == -ENOTCONN);
		client_close(&visit.from);
	}
	CHECK(vsw_ring_wait(visit.to.ring, VSW_RX, -1) == -ENOTCONN);
	client_close(&visit.to);
}

static void ports_come_and_go_beside_a_conversation(void)
{
	struct client clients[2];
	struct station stations[2];

	lab_start(false, 100);
	for (unsigned i = 0; i < 2; i++)
		clients[i] = client_open_with(sw, small, &asleep);
	introduce(clients, 2);
	CHECK(!vsw_engine_start(engine));
	for (uint8_t i = 0; i < 2; i++) {
		stations[i] = (struct station){
			.ring = clients[i].ring, .self = i, .other = !i, .total = 10000, .window = 100
		};
		start(&stations[i]);
	}
	for (uint32_t i = 0; i < 300; i++)
		visit_once(i);
	for (unsigned i = 0; i < 2; i++)
		finish(&stations[i]);
	lab_stop();
	for (unsigned i = 0; i < 2; i++)
		client_close(&clients[i]);
}

int main(void)
{
	signal(SIGALRM, hung);
	alarm(ALARM);
	RUN(switch_wakes_and_is_woken_for_each_frame);
	RUN(switch_wakes_programs_that_poll_themselves);
	RUN(frames_that_meet_a_sleeper_wake_it);
	RUN(stalls_at_any_moment_lose_no_wake_up);
	RUN(full_rings_of_many_stations_lose_nothing);
	RUN(several_rings_lose_nothing);
	RUN(pipe_ends_wake_each_other_for_each_frame);
	RUN(full_pipe_loses_nothing);
	RUN(ports_come_and_go_beside_a_conversation);
	return 0;
}
