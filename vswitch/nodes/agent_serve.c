/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The protocol's serving side: one poll loop over the channel, the children's pipes and terminals, and their deaths.
 * Single-threaded. The channel's peer is trusted (it is the coordinator), so its frames are checked only as far as a
 * version mix-up needs; what commands do is not trusted: they are read in bounded pieces and never waited for.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HEADER       9
#define MAX_SESSIONS 256
#define OUT_SIZE     (192 * 1024)
#define READ_SIZE    (32 * 1024)
#define LINGER_MS    100
#define KILL_MS      500
#define LINGER_BYTES (1024 * 1024)
#define NEVER        INT64_MAX

struct session {
	bool used, tty, in_eof, hung_up;
	uint32_t id;
	pid_t pid; /* 0 once reaped */
	int fd[3]; /* our ends; of a terminal the master, in IN and (a duplicate) OUT; -1 once closed */
	struct pollfd *polled[3];
	uint32_t unacked; /* bytes of output sent and not acknowledged, at most WINDOW_OUT */
	uint8_t *in;      /* WINDOW_IN bytes, of which [in_start, in_end) wait to be written */
	size_t in_start, in_end;
	int code;
	size_t after_exit; /* bytes of output since the process ended */
	int64_t deadline;  /* when to stop lingering, or to kill what was hung up */
};

static struct session sessions[MAX_SESSIONS];
static int channel;
static bool channel_lost;
static uint8_t out[OUT_SIZE];
static size_t out_start, out_end;
static uint8_t in[HEADER + MAX_PAYLOAD];
static size_t in_len;
static char warnings[1024];
static size_t warnings_len;

void warn(const char *format, ...)
{
	va_list arguments;
	size_t room = sizeof(warnings) - warnings_len;

	va_start(arguments, format);
	int len = vsnprintf(warnings + warnings_len, room, format, arguments);
	va_end(arguments);
	if (len >= 0 && (size_t)len < room)
		warnings_len += (size_t)len + 1;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static void put32(uint8_t *p, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(value >> 8 * i);
}

/* --- the channel ------------------------------------------------------------------------------------------------- */

static void flush(void)
{
	while (out_start < out_end && !channel_lost) {
		ssize_t n = write(channel, out + out_start, out_end - out_start);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			channel_lost = errno != EAGAIN;
			return;
		}
		out_start += (size_t)n;
	}
	out_start = out_end = 0;
}

static size_t out_room(void)
{
	return OUT_SIZE - (out_end - out_start);
}

/* Make `need` contiguous bytes free at out + out_end, waiting for the coordinator to read if it must. */
static void make_room(size_t need)
{
	while (out_room() < need && !channel_lost) {
		struct pollfd wait = { .fd = channel, .events = POLLOUT };
		poll(&wait, 1, -1);
		flush();
	}
	if (channel_lost)
		out_start = out_end = 0;
	if (OUT_SIZE - out_end < need) {
		memmove(out, out + out_start, out_end - out_start);
		out_end -= out_start;
		out_start = 0;
	}
}

/* Account for a frame whose payload is already at its place, out + out_end + HEADER. */
static void commit_frame(uint32_t session, enum frame_type type, size_t len)
{
	put32(out + out_end, (uint32_t)len);
	put32(out + out_end + 4, session);
	out[out_end + 8] = (uint8_t)type;
	out_end += HEADER + len;
}

static void put_frame(uint32_t session, enum frame_type type, const void *payload, size_t len)
{
	make_room(HEADER + len);
	memcpy(out + out_end + HEADER, payload, len);
	commit_frame(session, type, len);
}

static void put_number(uint32_t session, enum frame_type type, uint32_t number)
{
	uint8_t payload[4];

	put32(payload, number);
	put_frame(session, type, payload, sizeof(payload));
}

static void put_hello(void)
{
	uint8_t payload[4 + sizeof(warnings)];

	put32(payload, AGENT_VERSION);
	memcpy(payload + 4, warnings, warnings_len);
	put_frame(0, FRAME_HELLO, payload, 4 + warnings_len);
}

/* --- starting commands ------------------------------------------------------------------------------------------- */

static void close_session_fds(struct session *s)
{
	for (int i = IN; i <= ERR; i++)
		close_fd(&s->fd[i]);
}

static void resize(struct session *s, const uint8_t *size)
{
	if (s->tty)
		set_terminal_size(s->fd[OUT], get16(size), get16(size + 2));
}

/* Point `count` entries of a NULL-terminated array at the C strings from `*at` on; false if they end early. */
static bool take_strings(char **array, size_t count, char **at, const char *end)
{
	for (size_t i = 0; i < count; i++) {
		char *nul = *at < end ? memchr(*at, 0, (size_t)(end - *at)) : NULL;
		if (!nul)
			return false;
		array[i] = *at;
		*at = nul + 1;
	}
	array[count] = NULL;
	return true;
}

/* End a session that never began, as a shell would. */
/* End a command that cannot be run as a shell would: `code` is 127 for a missing program, else 126. */
static void refuse(uint32_t id, uint32_t code, const char *what, int error)
{
	char text[512];
	int len = snprintf(text, sizeof(text), "vswitch: %.400s: %s\n", what, strerror(error));

	put_frame(id, FRAME_STDERR, text, (size_t)len);
	put_number(id, FRAME_EXIT, code);
}

static void handle_exec(uint32_t id, const uint8_t *payload, size_t len)
{
	char *at = (char *)payload + 9, *end = (char *)payload + len;
	size_t argc = get16(payload + 5), envc = get16(payload + 7);
	char *directory[2], **argv = calloc(argc + 1, sizeof(*argv)), **changes = calloc(envc + 1, sizeof(*changes));
	char **env = NULL;
	struct session *s = sessions;
	struct stat status;
	int error;

	while (s < sessions + MAX_SESSIONS && s->used)
		s++;
	if (s == sessions + MAX_SESSIONS) {
		refuse(id, 126, "too many commands at once", EAGAIN);
	} else if (!argv || !changes || argc == 0 || !take_strings(directory, 1, &at, end) ||
		   !take_strings(argv, argc, &at, end) || !take_strings(changes, envc, &at, end)) {
		refuse(id, 126, "malformed request", EINVAL);
	} else if (directory[0][0] && stat(directory[0], &status) < 0) {
		refuse(id, 126, directory[0], errno);
	} else if (directory[0][0] && !S_ISDIR(status.st_mode)) {
		refuse(id, 126, directory[0], ENOTDIR);
	} else {
		*s = (struct session){ .id = id, .tty = payload[0], .fd = { -1, -1, -1 }, .deadline = NEVER };
		const char *into = directory[0][0] ? directory[0] : NULL;
		env = merged_environment(changes, envc);
		s->in = malloc(WINDOW_IN);
		if (!env || !s->in)
			error = ENOMEM;
		else if (s->tty)
			error = spawn_on_terminal(&s->pid, argv, env, into, get16(payload + 1), get16(payload + 3),
						  s->fd);
		else
			error = spawn_on_pipes(&s->pid, argv, env, into, s->fd);
		s->used = !error;
		if (error) {
			close_session_fds(s);
			free(s->in);
			refuse(id, error == ENOENT ? 127 : 126, argv[0], error);
		}
	}
	free(argv);
	free(changes);
	free(env);
}

/* --- sessions ---------------------------------------------------------------------------------------------------- */

static void end_session(struct session *s)
{
	put_number(s->id, FRAME_EXIT, (uint32_t)s->code);
	close_session_fds(s);
	free(s->in);
	s->used = false;
}

static void hang_up(struct session *s)
{
	if (s->pid)
		kill(-s->pid, SIGHUP);
	close_session_fds(s); /* of a terminal: the kernel sends SIGHUP to its foreground job as well */
	s->hung_up = true;
	s->deadline = now_ms() + KILL_MS;
}

/* Throw `len` bytes of waiting input away, written or not, and tell the coordinator they are gone. */
static void input_taken(struct session *s, size_t len)
{
	s->in_start += len;
	if (len)
		put_number(s->id, FRAME_ACK, (uint32_t)len);
}

static void write_input(struct session *s)
{
	static const uint8_t end_of_file = 4; /* Ctrl-D, what a terminal takes for it */

	if (s->fd[IN] >= 0 && s->in_start < s->in_end) {
		ssize_t n = write(s->fd[IN], s->in + s->in_start, s->in_end - s->in_start);
		if (n >= 0)
			input_taken(s, (size_t)n);
		else if (errno != EAGAIN && errno != EINTR)
			close_fd(&s->fd[IN]); /* nobody reads it any more */
	}
	if (s->fd[IN] < 0)
		input_taken(s, s->in_end - s->in_start);
	if (s->in_start == s->in_end && s->in_eof && s->fd[IN] >= 0) {
		if (s->tty && write(s->fd[IN], &end_of_file, 1) < 0 && errno == EAGAIN)
			return;
		close_fd(&s->fd[IN]);
	}
}

static void take_input(struct session *s, const uint8_t *data, size_t len)
{
	memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
	s->in_end -= s->in_start;
	s->in_start = 0;
	if (len > WINDOW_IN - s->in_end)
		return; /* beyond the window: a coordinator of another version */
	memcpy(s->in + s->in_end, data, len);
	s->in_end += len;
	write_input(s);
}

/* Read one piece of output, straight into a frame. */
static void forward_output(struct session *s, int which)
{
	size_t most = WINDOW_OUT - s->unacked;

	if (out_room() < HEADER + READ_SIZE)
		return; /* the coordinator reads slowly; poll() will offer this again */
	make_room(HEADER + READ_SIZE);
	if (most > READ_SIZE)
		most = READ_SIZE;
	ssize_t n = read(s->fd[which], out + out_end + HEADER, most);
	if (n > 0) {
		commit_frame(s->id, which == OUT ? FRAME_STDOUT : FRAME_STDERR, (size_t)n);
		s->unacked += (uint32_t)n;
		if (!s->pid)
			s->after_exit += (size_t)n;
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		close_fd(&s->fd[which]); /* a terminal nobody has open any more gives EIO */
	}
}

static bool output_waits(const struct session *s)
{
	int len = 0, total = 0;

	for (int i = OUT; i <= ERR; i++) {
		if (s->fd[i] >= 0 && ioctl(s->fd[i], FIONREAD, &len) == 0)
			total += len;
	}
	return total > 0;
}

/* Do what the passing of time asks for. */
static void tick(struct session *s, int64_t now)
{
	if (s->pid) {
		if (s->hung_up && now >= s->deadline) {
			kill(-s->pid, SIGKILL);
			s->deadline = NEVER;
		}
		return;
	}
	bool drained = s->fd[OUT] < 0 && s->fd[ERR] < 0;
	bool lingered = now >= s->deadline && (!output_waits(s) || s->after_exit >= LINGER_BYTES);
	if (drained || lingered)
		end_session(s);
}

static void reap(const struct role *role)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct session *s = sessions;
		while (s < sessions + MAX_SESSIONS && !(s->used && s->pid == pid))
			s++;
		if (s < sessions + MAX_SESSIONS) {
			s->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			s->pid = 0;
			s->deadline = now_ms() + LINGER_MS;
		} else if (role->child_ended) {
			role->child_ended(pid);
		}
	}
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

static struct session *find_session(uint32_t id)
{
	for (struct session *s = sessions; s < sessions + MAX_SESSIONS; s++) {
		if (s->used && s->id == id)
			return s;
	}
	return NULL;
}

static void handle_frame(uint32_t id, uint8_t type, const uint8_t *payload, size_t len)
{
	static const size_t shortest[] = { [FRAME_EXEC] = 9, [FRAME_RESIZE] = 4, [FRAME_SIGNAL] = 1, [FRAME_ACK] = 4 };
	struct session *s = find_session(id);

	if (type < sizeof(shortest) / sizeof(*shortest) && len < shortest[type])
		return;
	if (type == FRAME_EXEC)
		handle_exec(id, payload, len);
	if (!s)
		return; /* it has ended, and EXIT is on its way */
	switch (type) {
	case FRAME_STDIN:
		take_input(s, payload, len);
		break;
	case FRAME_STDIN_EOF:
		s->in_eof = true;
		write_input(s);
		break;
	case FRAME_RESIZE:
		resize(s, payload);
		break;
	case FRAME_SIGNAL:
		if (s->pid)
			kill(-s->pid, payload[0]);
		break;
	case FRAME_ACK:
		s->unacked -= get32(payload) < s->unacked ? get32(payload) : s->unacked;
		break;
	case FRAME_CLOSE:
		hang_up(s);
		break;
	}
}

static void read_channel(bool acknowledge)
{
	ssize_t n = read(channel, in + in_len, sizeof(in) - in_len);

	if (n <= 0) {
		channel_lost = n == 0 || (errno != EAGAIN && errno != EINTR);
		return;
	}
	in_len += (size_t)n;
	if (acknowledge)
		put_number(0, FRAME_TAKEN, (uint32_t)n);
	size_t at = 0;
	while (in_len - at >= HEADER) {
		size_t len = get32(in + at);
		if (len > MAX_PAYLOAD) {
			channel_lost = true;
			return;
		}
		if (in_len - at < HEADER + len)
			break;
		handle_frame(get32(in + at + 4), in[at + 8], in + at + HEADER, len);
		at += HEADER + len;
	}
	memmove(in, in + at, in_len - at);
	in_len -= at;
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void read_signals(int fd, const struct role *role)
{
	struct signalfd_siginfo info;

	while (read(fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo != SIGCHLD && role->stop)
			role->stop((int)info.ssi_signo);
	}
	reap(role);
}

/* Add the descriptors of one session that can move something now. */
static struct pollfd *poll_session(struct session *s, struct pollfd *next)
{
	memset(s->polled, 0, sizeof(s->polled));
	if (s->fd[IN] >= 0 && (s->in_start < s->in_end || s->in_eof)) {
		*next = (struct pollfd){ .fd = s->fd[IN], .events = POLLOUT };
		s->polled[IN] = next++;
	}
	for (int i = OUT; i <= ERR; i++) {
		if (s->fd[i] >= 0 && s->unacked < WINDOW_OUT && out_room() >= HEADER + READ_SIZE) {
			*next = (struct pollfd){ .fd = s->fd[i], .events = POLLIN };
			s->polled[i] = next++;
		}
	}
	return next;
}

static void serve_session(struct session *s)
{
	if (s->polled[IN] && s->polled[IN]->revents)
		write_input(s);
	for (int i = OUT; i <= ERR; i++) {
		if (s->polled[i] && s->polled[i]->revents && s->fd[i] >= 0 && s->unacked < WINDOW_OUT)
			forward_output(s, i);
	}
}

void serve(int fd, const struct role *role)
{
	static struct pollfd polled[3 + 3 * MAX_SESSIONS];
	int signals = open_signals();
	size_t first = 0;

	channel = fd;
	channel_lost = false;
	in_len = out_start = out_end = 0;
	fcntl(channel, F_SETFL, O_NONBLOCK);
	put_hello();
	flush();
	while (!channel_lost) {
		int64_t now = now_ms(), until = NEVER;
		struct pollfd *next = polled;
		*next++ = (struct pollfd){ .fd = channel, .events = (short)(POLLIN | (out_end ? POLLOUT : 0)) };
		*next++ = (struct pollfd){ .fd = signals, .events = POLLIN };
		*next++ = (struct pollfd){ .fd = role->watch_fd ? role->watch_fd() : -1, .events = POLLIN };
		for (struct session *s = sessions; s < sessions + MAX_SESSIONS; s++) {
			if (!s->used)
				continue;
			next = poll_session(s, next);
			if (s->deadline > now && s->deadline < until)
				until = s->deadline;
		}
		if (poll(polled, (nfds_t)(next - polled), until == NEVER ? -1 : (int)(until - now)) < 0)
			continue;
		/* A different session begins each time, so that none starves when the channel is the bottleneck. */
		first = (first + 1) % MAX_SESSIONS;
		for (size_t i = 0; i < MAX_SESSIONS; i++) {
			struct session *s = &sessions[(first + i) % MAX_SESSIONS];
			if (s->used)
				serve_session(s);
		}
		if (polled[2].revents)
			role->watch_ready();
		if (polled[1].revents)
			read_signals(signals, role);
		if (polled[0].revents & ~POLLOUT)
			read_channel(role->line);
		now = now_ms();
		for (struct session *s = sessions; s < sessions + MAX_SESSIONS; s++) {
			if (s->used)
				tick(s, now);
		}
		flush();
	}
	for (struct session *s = sessions; s < sessions + MAX_SESSIONS; s++) {
		if (s->used && s->pid)
			kill(-s->pid, SIGKILL);
		if (s->used)
			close_session_fds(s);
	}
	close(signals);
}
