/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The agent's entry: which role to play, and the netns host's own set-up. The protocol is specified in agent.h.
 *
 * A netns host is two processes. The one the coordinator started enters the host's namespaces, so that
 * /proc/PID/ns/net names them, and then only waits for the other: PID 1 of the host's PID namespace, which serves.
 * Whichever dies takes the other along, and PID 1's death ends everything in the host.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "vswitch-agent: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void die_with_parent(void)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fail("prctl");
}

static void stop(int signal_number)
{
	(void)signal_number;
	_exit(0);
}

/* Do what may be refused inside containers and user namespaces: the host works without, only less well separated. */
static void set_up_mounts(const char *hosts)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		warn("mounts cannot be made private (%s): names do not resolve", strerror(errno));
		return; /* mounting anything now could be seen outside */
	}
	if (hosts && mount(hosts, "/etc/hosts", NULL, MS_BIND, NULL) < 0)
		warn("mounting /etc/hosts: %s: names do not resolve", strerror(errno));
	if (mount("proc", "/proc", "proc", flags, NULL) < 0)
		warn("mounting /proc: %s: processes outside are visible", strerror(errno));
	if (mount("sysfs", "/sys", "sysfs", flags, NULL) < 0)
		warn("mounting /sys: %s: /sys/class/net shows another namespace", strerror(errno));
}

/* PID 1 of the host. `parent` is a pidfd of the waiting process. */
static void host_main(int fd, const char *hostname, const char *hosts, int parent)
{
	static const struct role role = { .stop = stop };
	struct pollfd gone = { .fd = parent, .events = POLLIN };
	int error;

	die_with_parent();
	if (poll(&gone, 1, 0) != 0)
		_exit(1); /* it was gone before we asked to die with it */
	close(parent);
	if (hostname && sethostname(hostname, strlen(hostname)) < 0)
		warn("setting the host name: %s", strerror(errno));
	if ((error = loopback_up()))
		warn("bringing lo up: %s", strerror(error));
	set_up_mounts(hosts);
	serve(fd, &role);
	_exit(0);
}

static int run_host(int fd, const char *hostname, const char *hosts)
{
	int status;

	die_with_parent(); /* were it gone already, the channel would be at its end: see serve() */
	if (unshare(CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC) < 0 || unshare(CLONE_NEWPID) < 0)
		fail("creating namespaces");
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (self < 0)
		fail("pidfd_open");
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0)
		host_main(fd, hostname, hosts, self);
	close(self);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int usage(void)
{
	fputs("usage: vswitch-agent --fd N [--hostname NAME] [--hosts FILE]\n"
	      "       vswitch-agent --die-with PID PROGRAM [ARGUMENT...]\n"
	      "       vswitch-agent --contain PID DIRECTORY PROGRAM [ARGUMENT...]\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	const char *fd = NULL, *hostname = NULL, *hosts = NULL;

	if (getpid() == 1 && strcmp(argv[0], "/init") == 0) /* the kernel adds the words it does not know */
		guest_main();
	bool contain = argc > 4 && strcmp(argv[1], "--contain") == 0;
	if (contain || (argc > 3 && strcmp(argv[1], "--die-with") == 0)) {
		die_with_parent();
		if (getppid() != atoi(argv[2]))
			return 1;
		if (contain)
			return run_contained(argv[3], argv + 4);
		execvp(argv[3], argv + 3);
		fail(argv[3]);
	}
	for (int i = 1; i < argc; i += 2) {
		const char **option = strcmp(argv[i], "--fd") == 0         ? &fd
				      : strcmp(argv[i], "--hostname") == 0 ? &hostname
				      : strcmp(argv[i], "--hosts") == 0    ? &hosts
									   : NULL;
		if (!option || i + 1 == argc)
			return usage();
		*option = argv[i + 1];
	}
	return fd ? run_host(atoi(fd), hostname, hosts) : usage();
}
