/* SPDX-License-Identifier: BSD-2-Clause */
/* A test is a program: it ends at the first CHECK that does not hold, with status 1. */
#ifndef VSW_TEST_CHECK_H
#define VSW_TEST_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #condition);        \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

/* Call `test` and say so. */
#define RUN(test)                                                                                                      \
	do {                                                                                                           \
		puts(#test);                                                                                           \
		fflush(stdout);                                                                                        \
		test();                                                                                                \
	} while (0)

#endif
