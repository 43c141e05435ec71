/* SPDX-License-Identifier: BSD-2-Clause */
#include "outqueue.h"

#include <stdlib.h>

#define MASK (OUTQUEUE_SIZE - 1)

void vsw_outqueue_free(struct outqueue *queue)
{
	free(queue->ring);
	*queue = (struct outqueue){ 0 };
}

/* Append `size` bytes; there is room. */
static void append(struct outqueue *queue, const uint8_t *from, uint32_t size)
{
	uint32_t at = queue->tail & MASK;
	uint32_t before_end = OUTQUEUE_SIZE - at < size ? OUTQUEUE_SIZE - at : size;

	memcpy(queue->ring + at, from, before_end);
	memcpy(queue->ring, from + before_end, size - before_end);
	queue->tail += size;
}

bool vsw_outqueue_push(struct outqueue *queue, const struct frame *frame, uint32_t sent)
{
	uint32_t prefix = vsw_outqueue_prefix(queue);
	uint32_t size = prefix + frame->len - sent;
	struct iovec pieces[2];
	unsigned n_pieces = frame_pieces(frame, prefix, pieces);

	if (queue->frames == OUTQUEUE_FRAMES || OUTQUEUE_SIZE - vsw_outqueue_bytes(queue) < size)
		return false;
	if (!queue->ring) {
		queue->ring = malloc(OUTQUEUE_SIZE); /* touched, and so really taken, only as far as it fills */
		if (!queue->ring)
			return false;
	}
	if (sent) {
		queue->rest = size;
		queue->len = frame->len;
		queue->destination = frame_destination(frame);
	}
	for (unsigned i = 0; i < n_pieces; i++) {
		uint32_t skip = sent < pieces[i].iov_len ? sent : (uint32_t)pieces[i].iov_len;

		append(queue, (uint8_t *)pieces[i].iov_base + skip, (uint32_t)pieces[i].iov_len - skip);
		sent -= skip;
	}
	queue->frames++;
	return true;
}

int vsw_outqueue_peek(const struct outqueue *queue, struct iovec pieces[2])
{
	uint32_t at = queue->head & MASK;
	uint32_t size = vsw_outqueue_bytes(queue);
	uint32_t before_end = OUTQUEUE_SIZE - at < size ? OUTQUEUE_SIZE - at : size;

	if (!size)
		return 0;
	pieces[0] = (struct iovec){ queue->ring + at, before_end };
	pieces[1] = (struct iovec){ queue->ring, size - before_end };
	return before_end < size ? 2 : 1;
}

/* Read `n` bytes from `at` on as a number, first byte highest; they may lie across the ring's end. */
static uint64_t number_at(const struct outqueue *queue, uint64_t at, uint32_t n)
{
	uint64_t number = 0;

	for (uint32_t i = 0; i < n; i++)
		number = number << 8 | queue->ring[(at + i) & MASK];
	return number;
}

static uint32_t length_at(const struct outqueue *queue, uint64_t at)
{
	return (uint32_t)number_at(queue, at, vsw_outqueue_prefix(queue));
}

/* Copy `size` bytes from `at` on, which may lie across the ring's end. */
static void copy_out(const struct outqueue *queue, uint64_t at, uint8_t *to, uint32_t size)
{
	uint32_t start = at & MASK;
	uint32_t before_end = OUTQUEUE_SIZE - start < size ? OUTQUEUE_SIZE - start : size;

	memcpy(to, queue->ring + start, before_end);
	memcpy(to + before_end, queue->ring, size - before_end);
}

uint32_t vsw_outqueue_copy_front(const struct outqueue *queue, uint8_t *to)
{
	uint32_t len;

	if (!queue->frames)
		return 0;
	len = length_at(queue, queue->head);
	copy_out(queue, queue->head, to - FRAME_PREFIX, FRAME_PREFIX + len);
	return len;
}

unsigned vsw_outqueue_views(const struct outqueue *queue, struct frame *frames, unsigned max, uint8_t *spare)
{
	uint32_t prefix = vsw_outqueue_prefix(queue);
	uint64_t at = queue->head;
	unsigned n;

	for (n = 0; n < max && n < queue->frames; n++) {
		uint32_t len = length_at(queue, at);
		const uint8_t *data = queue->ring + (at & MASK) + prefix;

		if ((at & MASK) + prefix + len > OUTQUEUE_SIZE) {
			copy_out(queue, at, spare - prefix, prefix + len);
			data = spare;
		}
		frames[n] = frame_whole(data, len);
		at += prefix + len;
	}
	return n;
}

void vsw_outqueue_consume(struct outqueue *queue, uint64_t n, struct traffic *traffic)
{
	uint32_t prefix = vsw_outqueue_prefix(queue);

	while (n) {
		uint32_t step;

		if (!queue->rest) {
			queue->len = length_at(queue, queue->head);
			queue->rest = prefix + queue->len;
			queue->destination = number_at(queue, queue->head + prefix, 6);
		}
		step = n < queue->rest ? (uint32_t)n : queue->rest;
		queue->rest -= step;
		queue->head += step;
		n -= step;
		if (!queue->rest) {
			queue->frames--;
			vsw_traffic_add(traffic, queue->destination, queue->len);
		}
	}
	if (queue->head == queue->tail)
		queue->head = queue->tail = 0; /* the next backlog uses the same, warm, part of the ring */
}
