/* SPDX-License-Identifier: BSD-2-Clause */
/* Bounded back-pressure: a source is not read while the port it sends unicast to has a long queue.
 *
 * A fast sender and a slow receiver then run at the receiver's speed with nothing lost and no work wasted on frames
 * that would be dropped. Frames flooded to several ports never pause anybody. The bound, see enum congestion: a port that
 * takes nothing for PAUSE_LIMIT_NS is not waited for any more. One that goes on taking, slowly, sets the pace of those who
 * send to it, also of what they send elsewhere: where that is not wanted, it is to drop (port_settings.overflow_drop).
 *
 * When a port has room again its sources go on one after the other, a turn each, for as long as there is room: all at once
 * they would bring more than fits.
 */
#ifndef VSW_PAUSE_H
#define VSW_PAUSE_H

#include <stdint.h>

#include "port.h"

#define PAUSE_LIMIT_NS 20000000ULL

/* `port`'s queue has passed its mark. Idempotent. */
void vsw_pause_congested(struct port *port);

/* `port` takes frames, if not so many that its queue is short: wait for it as long again. */
void vsw_pause_go_on_waiting(struct port *port);

/* `port`'s queue has fallen below its mark (`empty`: to nothing): go on reading the sources that waited. */
void vsw_pause_relieved(struct port *port, bool empty);

/* Stop reading `source` while `destination` is CONGESTED. */
void vsw_pause_source(struct port *source, struct port *destination);

/* Let one more source go on for each port that has room again. Called once a turn. */
void vsw_pause_resume_some(struct engine *engine);

/* `port` is going away, as source and as destination. */
void vsw_pause_forget(struct port *port);

/* Give up on ports that have been CONGESTED for the limit. */
void vsw_pause_expire(struct engine *engine);

/* Return when vsw_pause_expire() has something to do next, in ns, UINT64_MAX for never. */
uint64_t vsw_pause_deadline(const struct engine *engine);

#endif
