/* SPDX-License-Identifier: BSD-2-Clause */
/* A limit on frames to be flooded: a token bucket that holds what comes in STORM_BURST of a second, at least one frame. */
#ifndef VSW_STORM_H
#define VSW_STORM_H

#include <stdbool.h>
#include <stdint.h>

#define STORM_BURST 10 /* 1/s */

struct storm {
	uint64_t credit; /* frames * STORM_FRAME */
	uint64_t at;     /* ns, when that was the credit */
};

#define STORM_FRAME 1000000000ULL /* ns/s: a rate in frames/s adds rate * ns to the credit */

/* Fill the bucket. */
void vsw_storm_start(struct storm *storm, uint32_t rate, uint64_t now);

/* Take a frame's worth of a bucket that fills with `rate` (> 0) frames/s. Return false when it is not there. */
bool vsw_storm_admits(struct storm *storm, uint32_t rate, uint64_t now);

#endif
