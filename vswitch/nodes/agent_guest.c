/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PID 1 of the tiny guest: file systems, modules, a shell on the console for whoever presses Enter, and the agent on
 * the virtio-serial port called org.vswitch.agent, or where the kernel is User-Mode Linux on the serial line its
 * command line names. Nothing here forks before the agent answers: under emulation a process costs milliseconds.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME     "org.vswitch.agent"
#define PORTS         "/sys/class/virtio-ports"
#define LINE_WORD     "vswitch.agent="
#define MODULES       "/lib/modules"
#define LOOK_AGAIN_NS 2000000L
#define LOOKS         15000 /* half a minute */

static char console_path[64] = "/dev/console";
static int console = -1; /* open while no shell runs on it */
static pid_t shell;

int loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int error = sock < 0 || ioctl(sock, SIOCSIFFLAGS, &request) < 0 ? errno : 0;

	if (sock >= 0)
		close(sock);
	return error;
}

static void mount_or_say(const char *type, const char *path, const char *options)
{
	mkdir(path, 0755);
	if (mount(type, path, type, MS_NOSUID, options) < 0 && errno != EBUSY)
		fprintf(stderr, "init: mounting %s: %s\n", path, strerror(errno));
}

static void mount_all(void)
{
	mount_or_say("devtmpfs", "/dev", NULL);
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);
	for (int i = 0; fd >= 0 && i <= 2; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
	mount_or_say("proc", "/proc", NULL);
	mount_or_say("sysfs", "/sys", NULL);
	mount_or_say("devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666");
	mount_or_say("tmpfs", "/dev/shm", "mode=1777");
	mount_or_say("tmpfs", "/tmp", "mode=1777");
	mount_or_say("tmpfs", "/run", "mode=755");
}

/* /modules.list holds one path a line, in an order that works. */
static void load_modules(void)
{
	char line[256];
	FILE *list = fopen("/modules.list", "re");

	while (list && fgets(line, sizeof(line), list)) {
		line[strcspn(line, "\n")] = 0;
		int fd = open(line, O_RDONLY | O_CLOEXEC);
		if ((fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0) && errno != EEXIST)
			fprintf(stderr, "init: loading %s: %s\n", line, strerror(errno));
		close_fd(&fd);
	}
	if (list)
		fclose(list);
}

/* The modules of User-Mode Linux are on the host; what it may see of the host with hostfs is just these. */
static void mount_host_modules(void)
{
	mkdir("/lib", 0755);
	mkdir(MODULES, 0755);
	if (mount("none", MODULES, "hostfs", MS_NOSUID | MS_NODEV | MS_RDONLY, NULL) < 0)
		fprintf(stderr, "init: mounting " MODULES " from the host: %s\n", strerror(errno));
}

/* The first line of a file, without its end; false if there is none. */
static bool read_line(const char *path, char *line, int size)
{
	FILE *file = fopen(path, "re");
	bool found = file && fgets(line, size, file);

	if (found)
		line[strcspn(line, "\n")] = 0;
	if (file)
		fclose(file);
	return found;
}

/* Whether the kernel's command line names a serial line for the agent; its device goes into `path`. */
static bool find_line(char *path, size_t size)
{
	char words[4096], *word, *rest = words;

	if (!read_line("/proc/cmdline", words, sizeof(words)))
		return false;
	while ((word = strsep(&rest, " "))) {
		if (strncmp(word, LINE_WORD, strlen(LINE_WORD)) == 0) {
			snprintf(path, size, "/dev/%s", word + strlen(LINE_WORD));
			return true;
		}
	}
	return false;
}

/* Open a serial line so that every byte passes through as it is. */
static int open_line(const char *path)
{
	struct termios settings;
	int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && tcgetattr(fd, &settings) == 0) {
		cfmakeraw(&settings);
		tcsetattr(fd, TCSANOW, &settings);
	} else {
		fprintf(stderr, "init: opening %s: %s\n", path, strerror(errno));
	}
	return fd;
}

/* Whether the machine has a virtio-serial device at all; the driver is bound to it once its module is loaded. */
static bool has_virtio_serial(void)
{
	DIR *driver = opendir("/sys/bus/virtio/drivers/virtio_console");
	struct dirent *entry;
	bool found = false;

	while (driver && !found && (entry = readdir(driver)))
		found = strncmp(entry->d_name, "virtio", 6) == 0;
	if (driver)
		closedir(driver);
	return found;
}

/* Open the agent's port. Its name and the host's connection are announced by messages that arrive after the driver has
 * made the device, so there is nothing to wait on but the next look. */
static int open_port(void)
{
	const struct timespec pause = { .tv_nsec = LOOK_AGAIN_NS };
	int fd = -1;

	for (int look = 0; has_virtio_serial() && look < LOOKS; look++) {
		DIR *ports = fd < 0 ? opendir(PORTS) : NULL;
		struct dirent *entry;
		while (ports && fd < 0 && (entry = readdir(ports))) {
			char path[PATH_MAX], name[64];
			snprintf(path, sizeof(path), PORTS "/%s/name", entry->d_name);
			if (!read_line(path, name, sizeof(name)) || strcmp(name, PORT_NAME) != 0)
				continue;
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		if (ports)
			closedir(ports);
		struct pollfd port = { .fd = fd, .events = POLLOUT };
		if (fd >= 0 && poll(&port, 1, 0) == 1 && !(port.revents & POLLHUP))
			return fd;
		nanosleep(&pause, NULL);
	}
	return -1;
}

/* The console the kernel talks on: the last of "tty0 ttyS0". */
static void find_console(void)
{
	char names[128];

	if (read_line("/sys/class/tty/console/active", names, sizeof(names))) {
		char *last = strrchr(names, ' ');
		snprintf(console_path, sizeof(console_path), "/dev/%.40s", last ? last + 1 : names);
	}
}

static void offer_shell(void)
{
	static const char offer[] = "\r\nPress Enter for a shell.\r\n";

	shell = 0;
	console = open(console_path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (console >= 0 && write(console, offer, sizeof(offer) - 1) < 0)
		close_fd(&console);
}

static int console_fd(void)
{
	return console;
}

/* Somebody typed. What they typed is left for the shell to read. */
static void start_shell(void)
{
	static char *argv[] = { "sh", "-l", NULL };
	extern char **environ;

	close_fd(&console);
	int error = spawn_on_tty(&shell, argv, environ, "/root", console_path);
	if (error)
		fprintf(stderr, "init: starting a shell: %s\n", strerror(error));
}

static void child_ended(pid_t pid)
{
	if (pid == shell)
		offer_shell();
}

/* What busybox's poweroff, halt and reboot send to PID 1. A halted machine is of no use to anybody: power off. */
static void stop(int signal_number)
{
	sync();
	reboot(signal_number == SIGTERM || signal_number == SIGINT ? RB_AUTOBOOT : RB_POWER_OFF);
}

void guest_main(void)
{
	static struct role role = {
		.watch_fd = console_fd, .watch_ready = start_shell, .child_ended = child_ended, .stop = stop
	};

	/* Words of User-Mode Linux's own, which its kernel hands to us as it does all that look like variables. */
	static const char *const foreign[] = { "mem", "uml_dir", "hostfs" };
	char line[64];

	mount_all();
	bool has_line = find_line(line, sizeof(line));
	for (size_t i = 0; has_line && i < sizeof(foreign) / sizeof(*foreign); i++)
		unsetenv(foreign[i]);
	setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("TERM", "linux", 1);
	reboot(RB_DISABLE_CAD);
	if (has_line)
		mount_host_modules();
	else
		load_modules();
	int error = loopback_up();
	if (error)
		fprintf(stderr, "init: bringing lo up: %s\n", strerror(error));
	find_console();
	int port = has_line ? open_line(line) : open_port();
	if (port < 0 && !has_line)
		fputs("init: no virtio-serial port called " PORT_NAME "; no agent\n", stderr);
	offer_shell();
	role.line = has_line && port >= 0;
	for (;;) {
		/* Without a port, a socket stands in that nothing ever arrives on: the console is still served. */
		int stand_in[2];
		if (port < 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stand_in) == 0)
			port = stand_in[0];
		serve(port, &role);
		close_fd(&port);
		role.line = false;
	}
}
