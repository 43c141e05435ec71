/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzzes the fabric's side of a ring. The input is a program that a hostile client runs: it writes slots, indices, need-kick
 * words and buffers, or anything anywhere, between the steps of the engine and, through a port that runs the program on
 * while a burst is being delivered, in the middle of them. Meanwhile two other clients exchange numbered frames.
 *
 * The settings of its port change as well: hairpin, VLANs, an MTU.
 *
 * Whatever the program: the engine comes to rest, every frame of the two arrives unharmed and in order, their ports stay up,
 * and a port left up has indices the rules allow. What lies around the buffers is poisoned for AddressSanitizer.
 */
#include <fcntl.h>
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../c/lab.h"
#include "../c/ring_client.h"

#define REQUIRE(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                      \
			__builtin_trap();                                                                              \
		}                                                                                                      \
	} while (0)

#define PAGE      4096U
#define MAX_TURNS 20000 /* of the loop, for what one operation can cause */
#define MAX_OPS   400
#define HEADER    18 /* bytes: Ethernet's, and the frame's number */

#define UNNUMBERED UINT32_MAX

enum { HOSTILE, A, B, NOBODY };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- memory: guard pages around each mapping, and poison where no buffer is --- */

void *__real_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t size);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *address, size_t size);

static struct guarded {
	uint8_t *base;
	size_t first, end; /* of the buffers that may be used, from base */
} guarded[8];
static bool unguarded; /* whoever maps memory now may touch all of it */

static void poison(uint8_t *base, size_t size)
{
	const struct nmr_header *header = (const void *)base;
	struct guarded *entry = guarded;

	if (unguarded || header->magic != NMR_MAGIC) /* nmr_create() is about to fill it */
		return;
	while (entry->base)
		REQUIRE(++entry < guarded + 8);
	*entry = (struct guarded){
		.base = base,
		.first = header->bufs_ofs + (size_t)NMR_FIRST_BUF * header->buf_size,
		.end = header->bufs_ofs + (size_t)header->n_bufs * header->buf_size,
	};
	ASAN_POISON_MEMORY_REGION(base + header->bufs_ofs, entry->first - header->bufs_ofs);
	ASAN_POISON_MEMORY_REGION(base + entry->end, size - entry->end);
}

static void unpoison(uint8_t *base, size_t size)
{
	for (unsigned i = 0; i < 8; i++) {
		if (guarded[i].base != base)
			continue;
		ASAN_UNPOISON_MEMORY_REGION(base, guarded[i].first);
		ASAN_UNPOISON_MEMORY_REGION(base + guarded[i].end, size - guarded[i].end);
		guarded[i].base = NULL;
	}
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	uint8_t *base;

	if (!(flags & MAP_SHARED))
		return __real_mmap(address, size, protection, flags, fd, offset);
	base = __real_mmap(NULL, size + 2 * (size_t)PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(base != MAP_FAILED);
	base += PAGE;
	REQUIRE(__real_mmap(base, size, protection, flags | MAP_FIXED, fd, offset) == base);
	poison(base, size);
	return base;
}

int __wrap_munmap(void *address, size_t size)
{
	unpoison(address, size);
	return __real_munmap((uint8_t *)address - PAGE, size + 2 * (size_t)PAGE);
}

/* --- the program --- */

static const uint8_t *program;
static size_t left;

/* Return the next `bytes` (1..8) of the program as a number, 0 after its end. */
static uint64_t take(unsigned bytes)
{
	uint64_t value = 0;

	if (bytes > left)
		bytes = (unsigned)left;
	memcpy(&value, program, bytes);
	program += bytes;
	left -= bytes;
	return value;
}

/* --- the hostile client, which has its memory mapped without any poison --- */

static struct {
	struct nmr_geometry geometry;
	struct nmr_area area;
	struct port *port;
	int kick, socket;
} hostile;

static void hostile_open(void)
{
	int pair[2], fds[3];

	fds[1] = nmr_create(&hostile.geometry, "hostile", 1);
	fds[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	REQUIRE(fds[0] >= 0 && fds[1] >= 0 && !socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	fds[2] = pair[1];
	hostile.socket = pair[0];
	hostile.kick = dup(fds[0]);
	unguarded = true;
	REQUIRE(!nmr_map(fds[1], &hostile.area));
	unguarded = false;
	REQUIRE(!vsw_port_new(sw, vsw_port_ops_find("ring"), fds, 3, NULL, &hostile.port));
}

static void hostile_close(void)
{
	REQUIRE(hostile.port->state == PORT_UP || (hostile.port->state == PORT_ERROR && hostile.port->reason[0]));
	vsw_port_free(hostile.port);
	nmr_unmap(&hostile.area);
	close(hostile.kick);
	close(hostile.socket);
}

/* The eventfd may be blocking and full: that hurts nobody but its client, and here not even that. */
static void kick(void)
{
	struct pollfd poll_fd = { .fd = hostile.kick, .events = POLLOUT };

	if (poll(&poll_fd, 1, 0) == 1)
		eventfd_write(hostile.kick, 1);
}

static unsigned any_ring(void)
{
	return (unsigned)take(1) % (2 * hostile.geometry.rings);
}

static struct netmap_slot *any_slot(void)
{
	unsigned ring = any_ring();

	return &nmr_ring(&hostile.area, 0, ring)->slot[take(2) % hostile.geometry.slots];
}

static void write_buffer(void)
{
	uint32_t size = hostile.geometry.buf_size;
	uint8_t *buf = nmr_buf(&hostile.area, (uint32_t)take(2) % hostile.area.header.n_bufs);
	uint32_t at = (uint32_t)take(2) % size;
	uint32_t n = (uint32_t)take(1) % 65;

	n = n < size - at ? n : size - at;
	for (uint32_t i = 0; i < n; i++)
		buf[at + i] = (uint8_t)take(1);
}

static void write_anywhere(void)
{
	uint64_t at = take(4) % (hostile.area.header.size - sizeof(uint64_t));
	uint64_t value = take(8);

	memcpy(hostile.area.base + at, &value, sizeof(value));
}

/* Slots as they should be, from the published head on, with up to three things wrong. */
static void send_frames(void)
{
	unsigned ring = (unsigned)take(1) % hostile.geometry.rings;
	uint32_t slots = hostile.geometry.slots;
	struct nm_csb_atok *atok = nmr_atok(&hostile.area, 0, ring);
	uint32_t at = atok->head % slots, n = (uint32_t)take(1) % slots;
	uint64_t to = 0x020000000000ULL | (take(1) % 5), choice = take(1);
	uint32_t len = (uint32_t)take(2) % (hostile.geometry.buf_size + 1);

	if (choice & 1)
		to = ANYBODY;
	for (uint32_t i = 0; i < n; i++, at = nmr_next(at, slots)) {
		uint32_t index = NMR_FIRST_BUF + ring * slots + at;
		bool last = i + 1 == n || choice < 128 || i % (1 + (choice & 63)) == 0;

		put_mac(nmr_buf(&hostile.area, index), to);
		put_mac(nmr_buf(&hostile.area, index) + 6, 0x020000000000ULL | HOSTILE);
		nmr_write_slot(&nmr_ring(&hostile.area, 0, ring)->slot[at],
			       nmr_slot_word(index, (uint16_t)len, last ? 0 : NS_MOREFRAG));
	}
	nmr_publish(&atok->head, at);
}

static void release_frames(void)
{
	unsigned ring = hostile.geometry.rings + (unsigned)take(1) % hostile.geometry.rings;

	nmr_publish(&nmr_atok(&hostile.area, 0, ring)->head, nmr_take(&nmr_ktoa(&hostile.area, 0, ring)->hwtail));
}

/* An operation on memory only: also while the engine is in the middle of a step. */
static void run_on_memory(unsigned operation)
{
	unsigned ring;

	switch (operation) {
	case 0:
		nmr_write_slot(any_slot(), take(8));
		break;
	case 1: {
		struct netmap_slot *slot = any_slot();
		uint32_t index = (uint32_t)take(2) % (hostile.area.header.n_bufs + 1);
		uint16_t len = (uint16_t)(take(2) % (hostile.geometry.buf_size + 2));

		nmr_write_slot(slot, nmr_slot_word(index, len, (uint16_t)take(1)));
		break;
	}
	case 2:
		nmr_atok(&hostile.area, 0, any_ring())->head = (uint32_t)take(4);
		break;
	case 3:
		ring = any_ring();
		nmr_atok(&hostile.area, 0, ring)->head = (uint32_t)take(2) % (hostile.geometry.slots + 1);
		break;
	case 4:
		ring = any_ring();
		nmr_atok(&hostile.area, 0, ring)->cur = (uint32_t)take(4);
		break;
	case 5:
		ring = any_ring();
		nmr_atok(&hostile.area, 0, ring)->appl_need_kick = (uint32_t)take(1);
		break;
	case 6:
		write_buffer();
		break;
	case 7:
		write_anywhere();
		break;
	case 8:
		send_frames();
		break;
	default:
		release_frames();
	}
}

/* What its port, and the switch for its sake, are set to. A new port has the defaults. */
static void set_port(unsigned choice)
{
	struct port_settings port_settings = PORT_SETTINGS_DEFAULT;
	struct switch_settings switch_settings = sw->settings;

	port_settings.hairpin = choice & 1;
	switch_settings.vlan_filtering = choice & 2;
	switch_settings.vlan_protocol = choice & 4 ? VLAN_8021AD : VLAN_8021Q;
	port_settings.members[0] = 1U << 1 | 1U << 2; /* the others are in VLAN 1 */
	port_settings.pvid = (1 + (choice >> 3)) % 3;
	port_settings.mtu = choice & 32 ? 200 : 0;
	port_settings.overflow_drop = choice & 64;
	vsw_switch_configure(sw, &switch_settings);
	REQUIRE(!vsw_switch_configure_port(hostile.port, &port_settings));
}

/* --- the others --- */

static struct client good[NOBODY];
static uint32_t sent[NOBODY], received[NOBODY];

static uint32_t frame_len(uint32_t number)
{
	return HEADER + number * 53 % 1400;
}

/* Send a numbered frame that the other must get, or one to the hostile client, which it gets only while that is unknown. */
static void good_send(unsigned from, uint64_t to)
{
	uint32_t number = to == (0x020000000000ULL | HOSTILE) ? UNNUMBERED : sent[from];
	uint8_t data[1500];
	struct iovec frame = { data, frame_len(number) };

	put_mac(data, to);
	put_mac(data + 6, 0x020000000000ULL | from);
	data[12] = 0x88;
	data[13] = 0xb5;
	memcpy(data + 14, &number, sizeof(number));
	memset(data + HEADER, (int)(number & 0xff), frame.iov_len - HEADER);
	if (vsw_ring_send(good[from].ring, &frame, 1) == 1 && number != UNNUMBERED)
		sent[from]++;
}

static void good_receive(unsigned self)
{
	unsigned other = self == A ? B : A, n;
	uint8_t expected[1500];
	struct iovec frames[64];

	while ((n = vsw_ring_receive(good[self].ring, frames, 64))) {
		for (unsigned i = 0; i < n; i++) {
			const uint8_t *data = frames[i].iov_base;
			uint32_t number;

			/* Nobody else can have sent this: the switch knows where that address is. */
			if (frame_mac(data + 6) != (0x020000000000ULL | other))
				continue;
			memcpy(&number, data + 14, sizeof(number));
			if (number == UNNUMBERED)
				continue;
			REQUIRE(number == received[self] && frames[i].iov_len == frame_len(number));
			memset(expected, (int)(number & 0xff), sizeof(expected));
			REQUIRE(!memcmp(data + HEADER, expected, frames[i].iov_len - HEADER));
			received[self]++;
		}
	}
	vsw_ring_release(good[self].ring);
}

/* One turn of the engine, after which the others take what they got: the hostile client may fill their rings otherwise. */
static void step(void)
{
	vsw_engine_step(engine, 0);
	good_receive(A);
	good_receive(B);
}

static void step_until_rest(void)
{
	struct pollfd waiting = { .fd = engine->epoll_fd, .events = POLLIN };
	unsigned turns = 0;

	do {
		REQUIRE(turns++ < MAX_TURNS);
		step();
	} while (engine->n_warm || poll(&waiting, 1, 0) > 0);
}

/* What has been sent arrives; after a while, if its sender is being held up. */
static void expect_all(void)
{
	for (unsigned round = 0; round < 4 && (received[B] < sent[A] || received[A] < sent[B]); round++) {
		step_until_rest();
		test_clock_ns += 25000000;
	}
	REQUIRE(received[B] == sent[A] && received[A] == sent[B]);
	REQUIRE(good[A].port->state == PORT_UP && good[B].port->state == PORT_UP);
}

static void exchange(void)
{
	good_send(A, 0x020000000000ULL | B);
	good_send(B, 0x020000000000ULL | A);
	expect_all();
}

static void run(unsigned operation)
{
	switch (operation) {
	case 10:
		kick();
		break;
	case 11:
		step();
		break;
	case 12:
		step_until_rest();
		break;
	case 13:
		for (unsigned n = (unsigned)take(1) % 64; n; n--)
			good_send(A, 0x020000000000ULL | HOSTILE);
		exchange();
		break;
	case 14:
		for (unsigned n = (unsigned)take(1) % 64; n; n--)
			good_send(A, ANYBODY);
		exchange();
		break;
	case 15:
		test_clock_ns += take(1) * 1000000;
		break;
	case 16:
		fcntl(hostile.kick, F_SETFL, take(1) & 1 ? O_NONBLOCK : 0);
		break;
	case 17:
		fcntl(hostile.kick, F_SETFL, O_NONBLOCK);
		eventfd_write(hostile.kick, UINT64_MAX - 1);
		break;
	case 18:
		hostile_close();
		hostile_open();
		break;
	case 20:
		set_port((unsigned)take(1));
		break;
	default:
		exchange();
	}
}

/* --- a port that lets the hostile client run in the middle of a burst --- */

static int interrupter_open(struct port *port)
{
	(void)port;
	return 0;
}

static void interrupter_ignore(struct port *port)
{
	(void)port;
}

static void interrupter_deliver(struct port *port, const struct frame *frames, unsigned n)
{
	(void)port;
	(void)frames;
	(void)n;
	for (unsigned i = (unsigned)take(1) % 4; i; i--)
		run_on_memory((unsigned)take(1) % 10);
}

static const struct port_ops interrupter_ops = {
	.name = "interrupter",
	.min_fds = 1,
	.max_fds = 1,
	.open = interrupter_open,
	.collect = interrupter_ignore,
	.deliver = interrupter_deliver,
	.close = interrupter_ignore,
};

/* --- all of it --- */

static void set_up(void)
{
	static const struct nmr_geometry geometry = { .rings = 1, .slots = 512, .buf_size = 512 };
	/* A ring's worth of frames from the hostile client always fits what another has, with its queue. */
	static const struct nmr_geometry shapes[] = {
		{ .rings = 1, .slots = 64, .buf_size = 256 },   { .rings = 3, .slots = 65, .buf_size = 320 },
		{ .rings = 2, .slots = 100, .buf_size = 2048 }, { .rings = 1, .slots = 64, .buf_size = 16384 },
		{ .rings = 3, .slots = 64, .buf_size = 256 },   { .rings = 1, .slots = 300, .buf_size = 256 },
	};
	struct port *interrupter;
	int quiet = eventfd(0, EFD_CLOEXEC);

	hostile.geometry = shapes[take(1) % (sizeof(shapes) / sizeof(shapes[0]))];
	hostile.geometry.n_halves = 1;
	lab_start(false, 8);
	hostile_open();
	REQUIRE(!vsw_port_new(sw, &interrupter_ops, &quiet, 1, NULL, &interrupter));
	for (unsigned i = A; i <= B; i++) {
		good[i] = client_open(sw, geometry);
		for (uint16_t vlan = 0; vlan <= 1; vlan++) /* whether VLANs are filtered or not */
			REQUIRE(!vsw_fdb_pin(&sw->fdb, vsw_fdb_key(vlan, 0x020000000000ULL | i), good[i].port,
					     engine->now));
		sent[i] = received[i] = 0;
	}
}

/* What the rules say of the indices of a port that is still up, once the engine has had to look at them all. */
static void final_exam(void)
{
	set_port(0); /* all that is flooded reaches it */
	for (unsigned round = 0; round < hostile.geometry.slots / 60 + 2; round++) {
		for (unsigned i = 0; i < 60; i++)
			good_send(A, ANYBODY);
		expect_all();
	}
	kick();
	test_clock_ns += 25000000; /* nobody is paused any more */
	step_until_rest();
	if (hostile.port->state != PORT_UP)
		return;
	for (unsigned ring = 0; ring < hostile.geometry.rings; ring++)
		REQUIRE(nmr_atok(&hostile.area, 0, ring)->head < hostile.geometry.slots);
	REQUIRE(nmr_atok(&hostile.area, 0, hostile.geometry.rings)->head < hostile.geometry.slots ||
		hostile.geometry.rings > 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int first_free = dup(0), second_free;

	close(first_free);
	program = data;
	left = size;
	set_up();
	for (unsigned n = 0; left && n < MAX_OPS; n++) {
		unsigned operation = (unsigned)take(1) % 21;

		if (operation < 10)
			run_on_memory(operation);
		else
			run(operation);
	}
	left = 0; /* whatever is delivered from here on, the client does nothing more */
	final_exam();
	hostile_close();
	for (unsigned i = A; i <= B; i++)
		client_close(&good[i]);
	lab_stop();
	second_free = dup(0);
	REQUIRE(second_free == first_free);
	close(second_free);
	return 0;
}
