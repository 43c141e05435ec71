/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Running a program that leaves children behind when it is killed, as User-Mode Linux does, so that it leaves nothing.
 *
 * Where the kernel lets us, the program gets a PID namespace of its own: two processes of ours, the one the coordinator
 * started and PID 1, wait for it, and the death of any one of them ends everything in the namespace. It also gets a
 * tmpfs that only it sees on the directory it is given: files in it take memory only, of which /dev/shm may have little,
 * and they go with the last process.
 *
 * Where namespaces are forbidden, the program leads a session and is killed with its process group.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t victim; /* what SIGTERM kills: a process, or (negative) a process group */

static void kill_victim(int signal_number)
{
	(void)signal_number;
	if (victim)
		kill(victim, SIGKILL);
}

static int shell_status(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Wait until `child` has ended, and reap whoever else ends meanwhile. */
static int wait_for(pid_t child)
{
	int status;

	for (;;) {
		pid_t pid = waitpid(-1, &status, 0);
		if (pid == child)
			return shell_status(status);
		if (pid < 0 && errno != EINTR)
			return 1;
	}
}

/* `parent` is a pidfd of the process to die with; the caller has just been forked by it. */
static void die_with(int parent)
{
	struct pollfd gone = { .fd = parent, .events = POLLIN };

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || poll(&gone, 1, 0) != 0)
		_exit(1);
}

static void exec_program(char **argv, int parent)
{
	sigset_t none;

	setsid();
	die_with(parent);
	/* User-Mode Linux counts what lies between its program and its heap, a random GiB at most, as memory it manages. */
	personality(ADDR_NO_RANDOMIZE);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	execvp(argv[0], argv);
	fprintf(stderr, "vswitch-agent: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static pid_t start_program(char **argv)
{
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	pid_t child = self < 0 ? -1 : fork();

	if (child == 0)
		exec_program(argv, self);
	if (child < 0)
		fprintf(stderr, "vswitch-agent: starting %s: %s\n", argv[0], strerror(errno));
	if (self >= 0)
		close(self);
	return child;
}

/* PID 1 of the namespace. */
static void first_process(char **argv, int parent)
{
	die_with(parent);
	close(parent);
	pid_t program = start_program(argv);
	_exit(program < 0 ? 1 : wait_for(program));
}

static bool own_namespaces(const char *directory)
{
	if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
		return false;
	/* Without the tmpfs the directory's own file system holds the files. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		mount("vswitch", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=700");
	return true;
}

int run_contained(const char *directory, char **argv)
{
	const struct sigaction on_term = { .sa_handler = kill_victim };
	bool contained = own_namespaces(directory);
	sigset_t term;
	pid_t child;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL); /* until there is somebody to kill */
	sigaction(SIGTERM, &on_term, NULL);
	if (contained) {
		int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
		child = self < 0 ? -1 : fork();
		if (child == 0)
			first_process(argv, self);
		if (self >= 0)
			close(self);
	} else {
		child = start_program(argv);
	}
	if (child < 0)
		return 1;
	victim = contained ? child : -child;
	sigprocmask(SIG_UNBLOCK, &term, NULL);
	int status = wait_for(child);
	if (!contained)
		kill(victim, SIGKILL);
	return status;
}
