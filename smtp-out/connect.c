/* SPDX-License-Identifier: ISC */
/*
 * The socket of a grant: one source, one address, one connect(). Another address is qmgr's choice,
 * never ours, or its limits would not be exact. From before connect() until QUIT the socket lingers
 * for 0 s: when this process is killed, the kernel resets the connection and sends nothing more of
 * what it had buffered.
 *
 * Causes: what is wrong with us (no such source address, no descriptors, no free ports) is
 * CONN_LOCAL, what the network or the peer says is CONN_REFUSED or CONN_TIMEOUT.
 */
#include "smtp-out/session_impl.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#	define IP_BIND_ADDRESS_NO_PORT 24
#endif

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* 0 when the text is no address. */
static socklen_t address_parse(union address *a, const char *text, uint16_t port)
{
	memset(a, 0, sizeof(*a));
	if (inet_pton(AF_INET, text, &a->v4.sin_addr) == 1) {
		a->v4.sin_family = AF_INET;
		a->v4.sin_port = htons(port);
		return sizeof(a->v4);
	}
	if (inet_pton(AF_INET6, text, &a->v6.sin6_addr) == 1) {
		a->v6.sin6_family = AF_INET6;
		a->v6.sin6_port = htons(port);
		return sizeof(a->v6);
	}
	return 0;
}

static enum conn_cause cause_of(int error)
{
	switch (error) {
	case ETIMEDOUT:
		return CONN_TIMEOUT;
	case EADDRNOTAVAIL: /* the source's ports are all in use, or it has gone */
	case EADDRINUSE:
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
	case EACCES: /* our own packet filter */
	case EPERM:
	case EINVAL:
	case EAFNOSUPPORT:
		return CONN_LOCAL;
	default:
		return CONN_REFUSED;
	}
}

static enum conn_cause failed(char why[160], const char *what, int error)
{
	snprintf(why, 160, "%s: %s", what, strerror(error));
	return cause_of(error);
}

void connect_set_abortive(struct session *s, bool on)
{
	struct linger linger = {.l_onoff = on, .l_linger = 0};
	if (s->abortive == on)
		return;
	(void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	s->abortive = on;
}

/* The port is chosen at connect(), so that one source can have far more connections than ports. */
static int bind_source(struct session *s, int family)
{
	union address source;
	socklen_t n = address_parse(&source, s->grant.source, 0);
	if (n == 0 || source.any.sa_family != family)
		return -EAFNOSUPPORT;
	int on = 1;
	(void)setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	return bind(s->fd, &source.any, n) == 0 ? 0 : -errno;
}

enum conn_cause connect_begin(struct session *s, char why[160])
{
	union address peer;
	socklen_t n = address_parse(&peer, s->grant.address, s->grant.port);
	if (n == 0)
		return failed(why, "address of the server", EAFNOSUPPORT);
	int family = peer.any.sa_family, on = 1;
	s->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	if (s->fd < 0)
		return failed(why, "socket", errno);
	(void)setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	connect_set_abortive(s, true);
	int error = s->grant.source[0] ? bind_source(s, family) : 0;
	if (error) {
		failed(why, "source address", -error);
		return CONN_LOCAL;
	}
	if (connect(s->fd, &peer.any, n) < 0 && errno != EINPROGRESS)
		return failed(why, "connect", errno);
	return CONN_DONE;
}

static void note_local_address(struct session *s)
{
	union address local;
	socklen_t n = sizeof(local);
	if (getsockname(s->fd, &local.any, &n) != 0)
		return;
	const void *bytes = local.any.sa_family == AF_INET ? (const void *)&local.v4.sin_addr
							   : (const void *)&local.v6.sin6_addr;
	if (!inet_ntop(local.any.sa_family, bytes, s->local, sizeof(s->local)))
		s->local[0] = '\0';
}

enum conn_cause connect_end(struct session *s, char why[160])
{
	int error = 0;
	socklen_t n = sizeof(error);
	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
		error = errno;
	if (error)
		return failed(why, "connect", error);
	note_local_address(s);
	return CONN_DONE;
}
