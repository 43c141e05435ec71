/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"
#include "outqueue.h"

static uint8_t wire[FRAME_PREFIX + FRAME_MAX], rest[FRAME_MAX];

/* Frames filled with an odd byte come in two parts. */
static struct frame frame_of(uint32_t len, uint8_t fill)
{
	struct frame frame = frame_whole(wire + FRAME_PREFIX, len);

	memset(wire + FRAME_PREFIX, fill, len);
	frame_set_prefix(wire + FRAME_PREFIX, len);
	if ((fill & 1) && len > FRAME_HEAD) {
		memset(rest, fill, len - FRAME_HEAD);
		frame.rest = rest;
		frame.head_len = FRAME_HEAD;
	}
	return frame;
}

/* What goes in comes out, in any portions, all the way round the ring. */
static void keeps_bytes(uint32_t omitted)
{
	struct outqueue queue = { .omitted = omitted };
	struct traffic sent = { 0 };
	uint64_t pushed = 0, pushed_bytes = 0;
	uint64_t left_in_frame = 0;
	uint32_t len = 0, next_out = 0;
	unsigned header = 0;

	srandom(1);
	while (pushed < 20000) {
		struct iovec pieces[2];
		int n_pieces;

		for (long n = random() % 40; n > 0; n--) {
			struct frame frame = frame_of(FRAME_MIN + (uint32_t)random() % 3000, (uint8_t)(pushed & 0xff));

			if (!vsw_outqueue_push(&queue, &frame, 0))
				break;
			pushed++;
			pushed_bytes += frame.len;
		}
		n_pieces = vsw_outqueue_peek(&queue, pieces);
		for (int i = 0; i < n_pieces; i++) {
			size_t take = pieces[i].iov_len < 30000 ? pieces[i].iov_len : (size_t)random() % 30000;

			for (size_t j = 0; j < take; j++) {
				uint8_t byte = ((uint8_t *)pieces[i].iov_base)[j];

				if (!left_in_frame) {
					len = len << 8 | byte;
					if (++header == FRAME_PREFIX - omitted) {
						left_in_frame = len;
						header = len = 0;
					}
				} else {
					CHECK(byte == (uint8_t)next_out);
					if (!--left_in_frame)
						next_out++;
				}
			}
			vsw_outqueue_consume(&queue, take, &sent);
			CHECK(sent.frames == next_out);
			if (take < pieces[i].iov_len)
				break;
		}
		CHECK(queue.frames == pushed - sent.frames);
	}
	CHECK(sent.bytes <= pushed_bytes && sent.frames > 10000);
	vsw_outqueue_free(&queue);
}

static void keeps_bytes_and_counts_frames(void)
{
	keeps_bytes(0);
	keeps_bytes(2);
}

static void is_bounded_in_bytes_and_in_frames(void)
{
	struct outqueue queue = { 0 };
	struct frame frame = frame_of(FRAME_MAX, 0);
	uint32_t n = 0;

	while (vsw_outqueue_push(&queue, &frame, 0))
		n++;
	CHECK(n == OUTQUEUE_SIZE / (FRAME_PREFIX + FRAME_MAX));
	vsw_outqueue_free(&queue);
	frame = frame_of(FRAME_MIN, 0);
	for (n = 0; vsw_outqueue_push(&queue, &frame, 0);)
		n++;
	CHECK(n == OUTQUEUE_FRAMES);
	vsw_outqueue_free(&queue);
}

static void counts_a_frame_begun_elsewhere_when_its_end_is_sent(void)
{
	struct outqueue queue = { 0 };
	struct frame frame = frame_of(100, 7);
	struct traffic sent = { 0 };
	struct iovec pieces[2];

	CHECK(vsw_outqueue_push(&queue, &frame, 2)); /* half of the prefix is gone */
	CHECK(vsw_outqueue_push(&queue, &frame, 0));
	CHECK(vsw_outqueue_bytes(&queue) == 102 + 104);
	CHECK(vsw_outqueue_peek(&queue, pieces) == 1 && !memcmp(pieces[0].iov_base, wire + 2, 102));
	vsw_outqueue_consume(&queue, 101, &sent);
	CHECK(sent.frames == 0);
	vsw_outqueue_consume(&queue, 1, &sent);
	CHECK(sent.frames == 1 && sent.bytes == 100 && sent.multicast_frames == 1);
	vsw_outqueue_consume(&queue, 104, &sent);
	CHECK(sent.frames == 2 && sent.bytes == 200 && sent.multicast_bytes == 200 && !queue.frames);
	vsw_outqueue_free(&queue);
	queue.omitted = 2;
	CHECK(vsw_outqueue_push(&queue, &frame, 1)); /* half of what there is of it */
	CHECK(vsw_outqueue_peek(&queue, pieces) == 1 && pieces[0].iov_len == 101 &&
	      !memcmp(pieces[0].iov_base, wire + 3, 101));
	vsw_outqueue_consume(&queue, 101, &sent);
	CHECK(sent.frames == 3 && sent.bytes == 300 && !queue.frames);
	vsw_outqueue_free(&queue);
}

static bool is_filled(const uint8_t *data, uint32_t len, uint8_t fill)
{
	uint32_t i = 0;

	while (i < len && data[i] == fill)
		i++;
	return i == len;
}

/* Frames are found where they are, also the one that lies across the ring's end, with their prefixes. */
static void shows_the_frames_at_its_head(void)
{
	static uint8_t spare[FRAME_PREFIX + FRAME_MAX];
	struct outqueue queue = { 0 };
	struct traffic sent = { 0 };
	uint32_t pushed = 0, copied = 0;

	srandom(2);
	while (copied < 20) {
		struct frame frames[32];
		uint64_t bytes = 0;
		unsigned n, taken = (unsigned)random() % 32;

		for (long todo = random() % 40; todo > 0; todo--) {
			struct frame frame = frame_of(FRAME_MIN + (uint32_t)random() % 9000, (uint8_t)pushed);

			pushed += vsw_outqueue_push(&queue, &frame, 0);
		}
		n = vsw_outqueue_views(&queue, frames, 32, spare + FRAME_PREFIX);
		CHECK(n == (queue.frames < 32 ? queue.frames : 32));
		for (unsigned i = 0; i < n; i++) {
			uint32_t prefix;

			memcpy(&prefix, frames[i].head - FRAME_PREFIX, sizeof(prefix));
			CHECK(be32toh(prefix) == frames[i].len && frames[i].head_len == frames[i].len);
			CHECK(is_filled(frames[i].head, frames[i].len, (uint8_t)(sent.frames + i)));
			copied += frames[i].head == spare + FRAME_PREFIX;
			bytes += i < taken ? FRAME_PREFIX + frames[i].len : 0;
		}
		vsw_outqueue_consume(&queue, bytes, &sent);
		CHECK(queue.frames == pushed - sent.frames);
	}
	vsw_outqueue_free(&queue);
}

int main(void)
{
	RUN(keeps_bytes_and_counts_frames);
	RUN(is_bounded_in_bytes_and_in_frames);
	RUN(counts_a_frame_begun_elsewhere_when_its_end_is_sent);
	RUN(shows_the_frames_at_its_head);
	return 0;
}
