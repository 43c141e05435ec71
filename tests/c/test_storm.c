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
	static const uint32_t rates[] = { 1, 3, 7, 999, 14881, 333333, 3999999999U };

	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		uint64_t rate = rates[i], n = 0, now = 0;
		uint64_t step = SECOND / rate / 3 + 1; /* ns: asked more often than it admits */
		struct storm storm;

		vsw_storm_start(&storm, rates[i], now);
		storm.credit = 0; /* as after a burst */
		for (unsigned k = 0; k < 100000; k++) {
			now += step;
			n += admitted(&storm, rates[i], now, 5);
		}
		CHECK(n == rate * now / SECOND);
	}
}

static void a_long_silence_overflows_nothing(void)
{
	struct storm storm;

	vsw_storm_start(&storm, UINT32_MAX, 0);
	CHECK(admitted(&storm, UINT32_MAX, UINT64_MAX, 10) == 10);
	CHECK(storm.credit <= UINT32_MAX / 10 * STORM_FRAME);
	vsw_storm_start(&storm, 2, 0);
	CHECK(admitted(&storm, 2, 0, 5) == 1 && admitted(&storm, 2, 1ULL << 63, 5) == 1);
}

int main(void)
{
	RUN(admits_a_tenth_of_a_second_at_once);
	RUN(admits_one_frame_at_least);
	RUN(keeps_its_rate);
	RUN(a_long_silence_overflows_nothing);
	return 0;
}
