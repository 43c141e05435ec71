/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Starting programs on pipes and terminals. posix_spawn() shares memory with the child until it has exec'd, which
 * matters in an emulated guest, where copying page tables is dear.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

extern char **environ;

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* On the terminal `tty`, or where it is NULL on the descriptors `fd`. */
static int spawn(pid_t *pid, char *const argv[], char *const env[], const char *directory, const char *tty,
		 const int fd[3])
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, ignored;
	char **own_environ = environ;

	sigemptyset(&none);
	sigemptyset(&ignored);
	sigaddset(&ignored, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &ignored);
	if (directory)
		posix_spawn_file_actions_addchdir_np(&actions, directory);
	/* A session leader that opens a terminal gets it as its controlling terminal. */
	if (tty)
		posix_spawn_file_actions_addopen(&actions, 0, tty, O_RDWR, 0);
	else
		posix_spawn_file_actions_adddup2(&actions, fd[IN], 0);
	posix_spawn_file_actions_adddup2(&actions, tty ? 0 : fd[OUT], 1);
	posix_spawn_file_actions_adddup2(&actions, tty ? 0 : fd[ERR], 2);
	environ = (char **)env; /* posix_spawnp() searches the caller's PATH */
	int error = posix_spawnp(pid, argv[0], &actions, &attributes, argv, env);
	environ = own_environ;
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return error;
}

int spawn_on_tty(pid_t *pid, char *const argv[], char *const env[], const char *directory, const char *tty)
{
	return spawn(pid, argv, env, directory, tty, NULL);
}

static int open_pipe(int *read_end, int *write_end)
{
	int fd[2];

	if (pipe2(fd, O_CLOEXEC) < 0)
		return errno;
	*read_end = fd[0];
	*write_end = fd[1];
	return 0;
}

int spawn_on_pipes(pid_t *pid, char *const argv[], char *const env[], const char *directory, int ours[3])
{
	int theirs[3] = { -1, -1, -1 };
	int error = open_pipe(&theirs[IN], &ours[IN]);

	if (!error)
		error = open_pipe(&ours[OUT], &theirs[OUT]);
	if (!error)
		error = open_pipe(&ours[ERR], &theirs[ERR]);
	if (!error)
		error = spawn(pid, argv, env, directory, NULL, theirs);
	for (int i = IN; i <= ERR; i++) {
		close_fd(&theirs[i]);
		if (ours[i] >= 0)
			fcntl(ours[i], F_SETFL, O_NONBLOCK);
	}
	return error;
}

int spawn_on_terminal(pid_t *pid, char *const argv[], char *const env[], const char *directory, uint16_t rows,
		      uint16_t columns, int ours[3])
{
	char slave[64];

	ours[OUT] = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (ours[OUT] < 0 || unlockpt(ours[OUT]) < 0 || ptsname_r(ours[OUT], slave, sizeof(slave)) != 0)
		return errno;
	ours[IN] = fcntl(ours[OUT], F_DUPFD_CLOEXEC, 0);
	if (ours[IN] < 0)
		return errno;
	set_terminal_size(ours[OUT], rows, columns);
	return spawn(pid, argv, env, directory, slave, NULL);
}

void set_terminal_size(int master, uint16_t rows, uint16_t columns)
{
	struct winsize size = { .ws_row = rows, .ws_col = columns };

	ioctl(master, TIOCSWINSZ, &size);
}

char **merged_environment(char **changes, size_t count)
{
	size_t own = 0, used = 0;

	while (environ[own])
		own++;
	char **merged = calloc(own + count + 1, sizeof(*merged));
	if (!merged)
		return NULL;
	for (size_t i = 0; i < own; i++) {
		size_t name = strcspn(environ[i], "=") + 1, j = 0;
		while (j < count && strncmp(environ[i], changes[j], name) != 0)
			j++;
		if (j == count)
			merged[used++] = environ[i];
	}
	memcpy(merged + used, changes, count * sizeof(*merged));
	return merged;
}
