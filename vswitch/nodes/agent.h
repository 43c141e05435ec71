/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The agent: runs commands inside a node on behalf of the coordinator. One program, two roles:
 *
 *   /init                                          PID 1 of the tiny guest, over a virtio-serial port, or over the
 *                                                  terminal that `vswitch.agent=NAME` names on its kernel command line
 *   vswitch-agent --fd N --hostname H [--hosts F]  PID 1 of a netns host, over the inherited socket N
 *
 * and two helpers, for children of process PID, whose death they do not survive:
 *
 *   vswitch-agent --die-with PID PROGRAM ARGS...             exec PROGRAM, so that the kernel kills it with PID
 *   vswitch-agent --contain PID DIRECTORY PROGRAM ARGS...    run PROGRAM so that none of its own children survives it
 *                                                            either, with DIRECTORY to itself; SIGTERM ends it all
 *
 * PROTOCOL, version 1. Both directions carry frames, all integers little-endian:
 *
 *   u32 length of payload, at most 65536 | u32 session | u8 type | payload
 *
 * to the coordinator                        from the coordinator
 *   HELLO   u32 version, warnings as C        EXEC   u8 tty, u16 rows, u16 columns, u16 argc, u16 envc, then C
 *           strings; session 0; first frame          strings: directory ("" for none), argv, NAME=value pairs
 *   STDOUT  bytes (a terminal's, too)         STDIN  bytes; STDIN_EOF ends them
 *   STDERR  bytes                             RESIZE u16 rows, u16 columns
 *   ACK     u32 bytes of STDIN taken          SIGNAL u8 number, for the process group
 *   EXIT    u32 code, 128+N for signal N;     ACK    u32 bytes of STDOUT and STDERR taken
 *           the session's last frame          CLOSE  hang up: SIGHUP, and SIGKILL 500 ms later
 *
 * The coordinator numbers sessions, and uses a number again only after its EXIT. Flow control is per session: at most
 * WINDOW_OUT bytes of output and WINDOW_IN bytes of input are unacknowledged. A program that cannot be started ends as
 * in a shell: the reason on STDERR and EXIT 127 (no such program) or 126. EXIT follows all output written before the
 * command's own process ended. If a background child keeps the output open, what it writes in the next 100 ms is
 * forwarded too, then the session ends without waiting for it.
 *
 * On a serial line (struct role's `line`) what is on its way to the agent is bounded, too: the agent answers whatever it
 * has read with TAKEN, u32 bytes, session 0, and the coordinator keeps at most WINDOW_LINE bytes without an answer. The
 * serial lines of User-Mode Linux 6.1 never again read what comes once 3,968 bytes were waiting to be read.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define AGENT_VERSION 1
#define MAX_PAYLOAD   65536
#define WINDOW_OUT    (256 * 1024)
#define WINDOW_IN     (64 * 1024)
#define WINDOW_LINE   2048

enum frame_type {
	FRAME_HELLO = 1,
	FRAME_EXEC,
	FRAME_STDIN,
	FRAME_STDIN_EOF,
	FRAME_RESIZE,
	FRAME_SIGNAL,
	FRAME_CLOSE,
	FRAME_ACK,
	FRAME_STDOUT,
	FRAME_STDERR,
	FRAME_EXIT,
	FRAME_TAKEN,
};

/* What serve() calls back; members may be NULL. */
struct role {
	/* The channel is a serial line: what was read of it is acknowledged. */
	bool line;
	/* Poll this descriptor too, -1 for none. */
	int (*watch_fd)(void);
	void (*watch_ready)(void);
	/* A child that is no session's has ended. */
	void (*child_ended)(pid_t pid);
	/* Asked to end by a signal (the ones busybox's poweroff, halt and reboot send to PID 1). Does not return. */
	void (*stop)(int signal_number);
};

/* Note something the coordinator should show its user; goes out with HELLO. */
__attribute__((format(printf, 1, 2))) void warn(const char *format, ...);

/* Serve the protocol on `channel` until it hangs up; then all sessions are killed. `channel` becomes non-blocking. */
void serve(int channel, const struct role *role);

/* --- agent_spawn.c: all return 0 or an errno, search env's PATH, and start the program in a session of its own ------ */

enum { IN, OUT, ERR };

/* With the terminal at path `tty` as its controlling terminal, stdin, stdout and stderr. */
int spawn_on_tty(pid_t *pid, char *const argv[], char *const env[], const char *directory, const char *tty);

/* With pipes; `ours` gets our ends, non-blocking, by IN, OUT and ERR. What was opened is there even on failure. */
int spawn_on_pipes(pid_t *pid, char *const argv[], char *const env[], const char *directory, int ours[3]);

/* With a new terminal; `ours` gets its master in IN and, a duplicate, in OUT. What was opened is there on failure. */
int spawn_on_terminal(pid_t *pid, char *const argv[], char *const env[], const char *directory, uint16_t rows,
		      uint16_t columns, int ours[3]);

void set_terminal_size(int master, uint16_t rows, uint16_t columns);

/* Our own environment with `changes` over it, in an array to free; NULL without memory. */
char **merged_environment(char **changes, size_t count);

/* Close what is open and note that it is closed: -1. */
void close_fd(int *fd);

/* --- agent_guest.c ----------------------------------------------------------------------------------------------- */

/* The life of the guest's PID 1. */
void guest_main(void) __attribute__((noreturn));

/* Bring the loopback interface of our network namespace up; returns 0 or an errno. */
int loopback_up(void);

/* --- agent_contain.c ------------------------------------------------------------------------------------------------ */

/* Run `argv` to its end, with all its children, and return its exit code as a shell would. SIGTERM kills it. */
int run_contained(const char *directory, char **argv);
