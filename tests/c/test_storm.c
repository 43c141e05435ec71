/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"
#include "storm.h"

#define SECOND 1000000000ULL

static uint32_t admitted(struct storm *storm, uint32_t rate, uint64_t now, uint32_t tries)
{
	uint32_t n = 0;

	while (tries--)
		n += vsw_storm_admits(storm, rate, now);
	return n;
}

static void admits_a_tenth_of_a_second_at_once(void)
{
	struct storm storm;

	vsw_storm_start(&storm, 1000, 0);
	CHECK(admitted(&storm, 1000, 0, 500) == 100);
	CHECK(admitted(&storm, 1000, SECOND / 100, 500) == 10);
	CHECK(admitted(&storm, 1000, 10 * SECOND, 500) == 100);
}

static void admits_one_frame_at_least(void)
{
	struct storm storm;

	vsw_storm_start(&storm, 1, 0);
	CHECK(admitted(&storm, 1, 0, 5) == 1);
	CHECK(admitted(&storm, 1, SECOND - 1, 5) == 0);
	CHECK(admitted(&storm, 1, SECOND, 5) == 1);
}

/* Over time the rate is kept to the frame, at rates that no clock divides, however often it is asked. */
static void keeps_its_rate(void)
{
	static const uint32_t rates[] = { 1, 3, 7, 999, 14881, 333333, 4000000000U };

	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		uint32_t rate = rates[i];
		uint64_t burst = rate / 10 ? rate / 10 : 1, n = 0;
		uint64_t step = rate < 1000 ? 1234567 : 1000;
		uint64_t now = 0;
		struct storm storm;

		vsw_storm_start(&storm, rate, now);
		storm.credit = 0; /* as after a burst */
		while (now < 2 * SECOND) {
			now += step;
			n += admitted(&storm, rate, now, (uint32_t)(rate / 1000000 * 2 + 2));
		}
		CHECK(n <= 2ULL * rate * now / (2 * SECOND) && n + burst + 1 >= 2ULL * rate);
	}
}

static void a_long_silence_overflows_nothing(void)
{
	struct storm storm;

	vsw_storm_start(&storm, UINT32_MAX, 0);
	CHECK(admitted(&storm, UINT32_MAX, UINT64_MAX, 10) == 10);
	CHECK(storm.credit <= UINT32_MAX / 10 * STORM_FRAME);
}

int main(void)
{
	RUN(admits_a_tenth_of_a_second_at_once);
	RUN(admits_one_frame_at_least);
	RUN(keeps_its_rate);
	RUN(a_long_silence_overflows_nothing);
	return 0;
}
