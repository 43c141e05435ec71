/* SPDX-License-Identifier: BSD-2-Clause */
/* What a stream port could not send yet: a bounded byte ring of length-prefixed frames.
 *
 * Frames go in whole or not at all; what is sent in part stays at the head, so boundaries survive.
 */
#ifndef VSW_OUTQUEUE_H
#define VSW_OUTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "../fabric/frame.h"
#include "../fabric/traffic.h"

#define OUTQUEUE_SIZE   (1U << 20) /* bytes, a power of two */
#define OUTQUEUE_FRAMES 8192       /* most frames in it */

struct outqueue {
	uint8_t *ring;       /* NULL until first used */
	uint64_t head, tail; /* bytes taken out and put in since the start; at most OUTQUEUE_SIZE apart */
	uint32_t frames;
	uint32_t omitted; /* leading bytes of each FRAME_PREFIX that are not sent: 2 where lengths have 16 bits */
	uint32_t rest;    /* bytes of the frame at the head that are still to send; 0: none of it was sent */
	/* Of the frame `rest` is about. */
	uint32_t len;
	uint64_t destination;
};

void vsw_outqueue_free(struct outqueue *queue);

/* Return how many bytes of length precede each frame in the ring. */
static inline uint32_t vsw_outqueue_prefix(const struct outqueue *queue)
{
	return FRAME_PREFIX - queue->omitted;
}

static inline uint32_t vsw_outqueue_bytes(const struct outqueue *queue)
{
	return (uint32_t)(queue->tail - queue->head);
}

/* Put in a frame of which `sent` bytes, prefix included, are on their way already (only when the queue is empty may
 * that be more than 0; there is always room then). Return whether it fitted; false too when memory is short.
 */
bool vsw_outqueue_push(struct outqueue *queue, const struct frame *frame, uint32_t sent);

/* Point `pieces` at what is to be sent. Return how many there are (0..2). */
int vsw_outqueue_peek(const struct outqueue *queue, struct iovec pieces[2]);

/* Copy the frame at the head of a queue that omits nothing, of which nothing has been sent, to `to` (FRAME_MAX bytes, FRAME_PREFIX before them). Return
 * its length; 0 when there is none.
 */
uint32_t vsw_outqueue_copy_front(const struct outqueue *queue, uint8_t *to);

/* Point `frames` at up to `max` frames from the head on, of which nothing has been sent, where they are; the one that lies across
 * the ring's end, if any, is copied to `spare` (as `to` above). Return how many there are. Before each is the prefix that is in
 * the ring.
 */
unsigned vsw_outqueue_views(const struct outqueue *queue, struct frame *frames, unsigned max, uint8_t *spare);

/* `n` bytes of that were sent. Count the frames thereby complete. */
void vsw_outqueue_consume(struct outqueue *queue, uint64_t n, struct traffic *traffic);

#endif
