/* SPDX-License-Identifier: BSD-2-Clause */
#include "storm.h"

static uint64_t most(uint32_t rate)
{
	return (rate > STORM_BURST ? rate / STORM_BURST : 1) * STORM_FRAME;
}

void vsw_storm_start(struct storm *storm, uint32_t rate, uint64_t now)
{
	*storm = (struct storm){ .credit = most(rate), .at = now };
}

bool vsw_storm_admits(struct storm *storm, uint32_t rate, uint64_t now)
{
	uint64_t passed = now - storm->at;

	/* After a second any bucket is full, and the product does not overflow. */
	if (passed >= STORM_FRAME || storm->credit + passed * rate >= most(rate))
		storm->credit = most(rate);
	else
		storm->credit += passed * rate;
	storm->at = now;
	if (storm->credit < STORM_FRAME)
		return false;
	storm->credit -= STORM_FRAME;
	return true;
}
