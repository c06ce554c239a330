/* SPDX-License-Identifier: ISC */
#include "master/master.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/*
 * systemd's notification protocol: one datagram a message to the socket that NOTIFY_SOCKET names, a
 * path or, with '@' first, a name in the abstract space (sd_notify(3)). Nothing is ever waited for:
 * a service manager that does not read costs us a message, not the service.
 */
enum { NOTIFY_MAX = 1024 };

static int connect_to(const char *name)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	size_t n = strlen(name);
	if ((name[0] != '/' && name[0] != '@') || n >= sizeof(a.sun_path))
		return -1;
	memcpy(a.sun_path, name, n);
	if (name[0] == '@')
		a.sun_path[0] = '\0';
	socklen_t length =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (name[0] == '/'));
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, length) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int64_t watchdog_from_environment(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	unsigned long long us = 0, whose = 0;
	if (!usec || str_number(str_of(usec), INT64_MAX, &us) != 0)
		return 0;
	if (pid && (str_number(str_of(pid), INT32_MAX, &whose) != 0 || (pid_t)whose != getpid()))
		return 0;
	return (int64_t)(us / 1000);
}

void notify_open(struct notify *n)
{
	const char *name = getenv("NOTIFY_SOCKET");
	n->fd = name ? connect_to(name) : -1;
	n->watchdog_ms = n->fd >= 0 ? watchdog_from_environment() : 0;
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void notify_send(const struct notify *n, const char *fmt, ...)
{
	char text[NOTIFY_MAX];
	va_list ap;
	if (n->fd < 0)
		return;
	va_start(ap, fmt);
	int length = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (length < 0)
		return;
	size_t bytes = (size_t)length < sizeof(text) ? (size_t)length : sizeof(text) - 1;
	while (send(n->fd, text, bytes, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}
