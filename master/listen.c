/* SPDX-License-Identifier: ISC */
#include "master/master.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
/*
 * Listening sockets. One for each listener, shared by all smtpd (closing one of several
 * SO_REUSEPORT sockets would reset the clients in its queue), and one for each control socket.
 * master keeps them all open, so that between two generations of a worker clients wait in the queue
 * and none is refused.
 */
enum { BACKLOG = 4096 }; /* the kernel cuts it to net.core.somaxconn */

static socklen_t parse_address(const char *address, uint16_t port, struct sockaddr_storage *out)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	if (inet_pton(AF_INET, address, &v4.sin_addr) == 1) {
		memcpy(out, &v4, sizeof(v4));
		return sizeof(v4);
	}
	if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1) {
		memcpy(out, &v6, sizeof(v6));
		return sizeof(v6);
	}
	return 0;
}

static int give_up(int fd)
{
	int error = errno;
	close(fd);
	return -error;
}

int listen_bind(const char *address, uint16_t port, int *fd)
{
	struct sockaddr_storage a = {0};
	socklen_t length = parse_address(address, port, &a);
	int on = 1;
	if (length == 0)
		return -EINVAL;
	int s = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0)
		return -errno;
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a.ss_family == AF_INET6)
		setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(s, (struct sockaddr *)&a, length) != 0)
		return give_up(s);
	*fd = s;
	return 0;
}

int listen_begin(int fd)
{
	return listen(fd, BACKLOG) == 0 ? 0 : -errno;
}

/* The run directory's lock is ours, so what stands at that path was left by a dead master. */
int listen_control(const char *path, int *fd)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	str_copy(a.sun_path, sizeof(a.sun_path), str_of(path));
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0)
		return -errno;
	unlink(path);
	mode_t old = umask(0177); /* never open to others, not even between bind() and chmod() */
	int rc = bind(s, (struct sockaddr *)&a, sizeof(a));
	umask(old);
	if (rc != 0 || listen(s, BACKLOG) != 0)
		return give_up(s);
	*fd = s;
	return 0;
}
