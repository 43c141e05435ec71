/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libvswitch_uml.so, loaded into User-Mode Linux with LD_PRELOAD, mends two things there.
 *
 * Kernels such as Debian 12's 6.1 do not run on processors with AMX: they hand ptrace(PTRACE_SETREGSET, NT_X86_XSTATE)
 * the registers they know, 2,696 bytes of them, and the host's kernel takes all there are (11,008 bytes) or none
 * (EFAULT). We make up the rest with zeros, which is what registers that nobody has used hold: a process must ask its
 * kernel for AMX's, and cannot ask the host's from within User-Mode Linux.
 *
 * And a vector interface with transport=fd closes its descriptor when it is set down, so it never comes up again. The
 * descriptors in $VSWITCH_KEEP_FDS ("5 7") stay open.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

/* Not on the stack: User-Mode Linux calls from its guest kernel's, of 16 KiB. It has one thread that traces. */
static char whole[64 * 1024];
static size_t whole_size; /* of this host's registers; 0: not asked yet */

static long set_all_registers(pid_t pid, const struct iovec *part)
{
	struct iovec all = { whole, sizeof(whole) };
	void *set = (void *)NT_X86_XSTATE;

	if (!whole_size) {
		if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, set, &all) < 0)
			return -1;
		whole_size = all.iov_len;
		memset(whole, 0, sizeof(whole));
	}
	if (part->iov_len >= whole_size) {
		errno = EFAULT; /* it was not the size */
		return -1;
	}
	memcpy(whole, part->iov_base, part->iov_len);
	all.iov_len = whole_size;
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, set, &all);
}

__attribute__((visibility("default"))) long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	long word = 0, result;

	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);
	/* The C library returns what was peeked, the kernel stores it. */
	if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {
		result = syscall(SYS_ptrace, request, pid, address, &word);
		if (result < 0)
			return result;
		errno = 0;
		return word;
	}
	result = syscall(SYS_ptrace, request, pid, address, data);
	if (result < 0 && errno == EFAULT && request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
		result = set_all_registers(pid, data);
	return result;
}

#define MAX_KEPT 1024

static bool kept[MAX_KEPT]; /* by descriptor */

__attribute__((constructor)) static void read_kept(void)
{
	const char *next = getenv("VSWITCH_KEEP_FDS");

	while (next && *next) {
		char *end;
		unsigned long fd = strtoul(next, &end, 10);
		if (end == next)
			break;
		if (fd < MAX_KEPT)
			kept[fd] = true;
		next = end;
	}
}

__attribute__((visibility("default"))) int close(int fd)
{
	return fd >= 0 && fd < MAX_KEPT && kept[fd] ? 0 : (int)syscall(SYS_close, fd);
}
