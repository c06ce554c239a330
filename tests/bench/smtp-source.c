/* SPDX-License-Identifier: ISC */
/*
 * A fast SMTP client for bench and tests: one thread, epoll, many connections, MAIL/RCPT/DATA in
 * one write where PIPELINING is offered.
 *
 *   smtp-source [options] ADDRESS:PORT
 *   -c N      connections (10)            -m N    messages (1000)
 *   -b BYTES  size of a message (4096)    -D N    recipient domains d0.DOMAIN … (1: DOMAIN itself)
 *   -d DOMAIN recipient domain (example.test)     -f ADDRESS sender (bench@sender.test)
 *   -u LOCAL  local part of the recipient (user)  -R N recipients of a message (1)
 *   -l FILE   ledger: the X-Ledger value of each message answered 250, one a line, written at once
 *   -p TEXT   prefix of the X-Ledger values (m)
 *   -t SEC    keep trying for that long when refused or disconnected (0: exit 75 at the first)
 *   -r RATE   messages a second at most (0: unlimited)
 *   -i        put the message's number into the recipient's local part (user-NUMBER)
 *   -H LINE   one more header line, such as "X-Virtual-MTA: mta2"; may be given several times
 *   -x N      number of messages a connection sends before QUIT and a new one (0: unlimited)
 * Prints: "messages N seconds S rate R deferred N lost N". lost: no answer to the final dot came.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum state { S_DOWN, S_CONNECTING, S_GREETING, S_EHLO, S_ENVELOPE, S_BODY, S_DOT };
enum { IN_MAX = 8192, ID_BYTES = 20, RETRY_MS = 50 };

struct conn {
	int fd;
	enum state state;
	unsigned expected; /* replies still to come of the group */
	unsigned refused;  /* replies of the group that were no 2xx */
	bool started;	   /* a message is under way */
	uint64_t number;   /* of that message */
	unsigned sent_here;
	int64_t retry_at_ms;
	size_t body_done; /* bytes of the body written so far */
	size_t in_n;
	char in[IN_MAX];
};

static struct sockaddr_in target;
static unsigned conn_count = 10, domain_count = 1, rcpt_count = 1, per_connection;
static char headers[2048]; /* of -H, each with its CRLF */
static uint64_t total = 1000, started, done, deferred, lost, next_number;
static uint64_t *again; /* numbers of messages to send once more */
static size_t again_n, again_cap;
static const char *domain = "example.test", *sender = "bench@sender.test", *local = "user",
		  *prefix = "m";
static size_t size = 4096, id_at;
static char *body;
static int epoll_fd, ledger_fd = -1;
static int64_t keep_trying_ms, give_up_at_ms;
static double rate;
static bool number_in_rcpt;
static int64_t start_us;

static int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void make_body(void)
{
	const char *head =
	    "From: Bench <bench@sender.test>\r\nTo: <user@example.test>\r\n"
	    "Subject: a message of the bench\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
	    "Message-ID: <";
	size_t n = 0, line = 0;

	body = malloc(size + sizeof(headers) + 1024);
	if (!body)
		abort();
	n += (size_t)sprintf(body, "%s%020d@bench.test>\r\nX-Ledger: %s-", head, 0, prefix);
	id_at = n;
	n += (size_t)sprintf(body + n, "%020d\r\n%s\r\n", 0, headers);
	for (; n + 2 < size; line++) {
		if (line % 72 == 71) {
			memcpy(body + n, "\r\n", 2);
			n += 2;
		} else {
			body[n++] = (char)('a' + line % 26);
		}
	}
	memcpy(body + n, "\r\n.\r\n", 5);
	size = n + 5;
}

static void drop(struct conn *c, bool count)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	if (c->started) {
		if (count && c->state == S_DOT)
			lost++;
		if (again_n == again_cap) {
			again_cap = again_cap ? again_cap * 2 : 1024;
			again = realloc(again, again_cap * sizeof(*again));
			if (!again)
				abort();
		}
		/* A message without an answer is sent again under a new number: the ledger of the
		 * receiving side may hold both, only answered ones are promised. */
		again[again_n++] = UINT64_MAX;
		c->started = false;
	}
	c->state = S_DOWN;
	c->retry_at_ms = now_us() / 1000 + RETRY_MS;
	if (keep_trying_ms == 0 && done < total) {
		fprintf(stderr, "smtp-source: connection failed or refused\n");
		exit(75);
	}
}

static void open_conn(struct conn *c)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
	int one = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		abort();
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->in_n = 0;
	c->sent_here = 0;
	c->state = S_CONNECTING;
	if (connect(c->fd, (struct sockaddr *)&target, sizeof(target)) != 0 &&
	    errno != EINPROGRESS) {
		drop(c, false);
		return;
	}
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void want_write(struct conn *c, bool yes)
{
	struct epoll_event e = {.events = yes ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
	epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void send_all(struct conn *c, const char *p, size_t n)
{
	/* command groups are far smaller than a socket buffer */
	if (send(c->fd, p, n, MSG_NOSIGNAL) != (ssize_t)n)
		shutdown(c->fd, SHUT_RDWR);
}

static bool may_start(void)
{
	if (again_n == 0 && started >= total)
		return false;
	return rate <= 0 || (double)(started) < rate * (double)(now_us() - start_us) / 1e6 + 1;
}

static void start_message(struct conn *c)
{
	char group[65536];
	size_t n;

	if (per_connection && c->sent_here >= per_connection) {
		send_all(c, "QUIT\r\n", 6);
		drop(c, false);
		c->retry_at_ms = 0;
		return;
	}
	if (!may_start())
		return;
	if (again_n > 0)
		again_n--;
	else
		started++;
	c->number = next_number++;
	c->started = true;
	c->sent_here++;
	n = (size_t)snprintf(group, sizeof(group), "MAIL FROM:<%s>\r\n", sender);
	for (unsigned i = 0; i < rcpt_count && n < sizeof(group) - 512; i++) {
		n += (size_t)snprintf(group + n, sizeof(group) - n, "RCPT TO:<%s", local);
		if (number_in_rcpt)
			n += (size_t)snprintf(
			    group + n, sizeof(group) - n, "-%llu", (unsigned long long)c->number);
		if (rcpt_count > 1)
			n += (size_t)snprintf(group + n, sizeof(group) - n, "%u", i);
		if (domain_count > 1)
			n += (size_t)snprintf(group + n, sizeof(group) - n, "@d%llu.%s>\r\n",
			    (unsigned long long)(c->number % domain_count), domain);
		else
			n += (size_t)snprintf(group + n, sizeof(group) - n, "@%s>\r\n", domain);
	}
	n += (size_t)snprintf(group + n, sizeof(group) - n, "DATA\r\n");
	c->expected = rcpt_count + 2;
	c->refused = 0;
	c->state = S_ENVELOPE;
	send_all(c, group, n);
}

static void send_body(struct conn *c)
{
	char id[ID_BYTES + 1];
	struct iovec v[3];

	snprintf(id, sizeof(id), "%020llu", (unsigned long long)c->number);
	while (c->body_done < size) {
		size_t at = c->body_done, n = 0;
		ssize_t r;
		if (at < id_at)
			v[n++] = (struct iovec){body + at, id_at - at};
		if (at < id_at + ID_BYTES) {
			size_t skip = at > id_at ? at - id_at : 0;
			v[n++] = (struct iovec){id + skip, ID_BYTES - skip};
		}
		at = at > id_at + ID_BYTES ? at : id_at + ID_BYTES;
		v[n++] = (struct iovec){body + at, size - at};
		struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
		r = sendmsg(c->fd, &m, MSG_NOSIGNAL);
		if (r < 0 && errno == EAGAIN) {
			want_write(c, true);
			return;
		}
		if (r <= 0) {
			shutdown(c->fd, SHUT_RDWR);
			return;
		}
		c->body_done += (size_t)r;
	}
	want_write(c, false);
	c->state = S_DOT;
}

static void record(const struct conn *c)
{
	char line[128];
	int n;

	done++;
	if (ledger_fd < 0)
		return;
	n = snprintf(line, sizeof(line), "%s-%020llu\n", prefix, (unsigned long long)c->number);
	if (write(ledger_fd, line, (size_t)n) != n)
		abort();
}

/* False when the connection was dropped. */
static bool on_reply(struct conn *c, int code)
{
	switch (c->state) {
	case S_GREETING:
		if (code != 220)
			break;
		send_all(c, "EHLO source.test\r\n", 18);
		c->state = S_EHLO;
		return true;
	case S_EHLO:
		if (code != 250)
			break;
		start_message(c);
		return c->fd >= 0;
	case S_ENVELOPE:
		c->refused += code >= 400;
		if (--c->expected > 0)
			return true;
		if (code != 354) {
			deferred++;
			drop(c, false);
			return false;
		}
		c->state = S_BODY;
		c->body_done = 0;
		send_body(c);
		return true;
	case S_DOT:
		if (code != 250) {
			deferred++;
			c->state = S_ENVELOPE;
			break;
		}
		record(c);
		c->started = false;
		c->state = S_EHLO;
		start_message(c);
		return c->fd >= 0;
	default:
		break;
	}
	drop(c, false);
	return false;
}

static void on_readable(struct conn *c)
{
	ssize_t n = recv(c->fd, c->in + c->in_n, IN_MAX - c->in_n, 0);
	size_t used = 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(c, true);
		return;
	}
	c->in_n += (size_t)n;
	while (used < c->in_n) {
		char *line = c->in + used, *nl = memchr(line, '\n', c->in_n - used);
		if (!nl)
			break;
		used += (size_t)(nl - line) + 1;
		if (nl - line >= 4 && line[3] == '-')
			continue;
		if (!on_reply(c, atoi(line)))
			return;
	}
	memmove(c->in, c->in + used, c->in_n - used);
	c->in_n -= used;
}

static void on_event(struct conn *c, uint32_t events)
{
	if (c->fd < 0)
		return;
	if (c->state == S_CONNECTING && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		int error = 0;
		socklen_t len = sizeof(error);
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error) {
			drop(c, false);
			return;
		}
		want_write(c, false);
		c->state = S_GREETING;
	}
	if (c->state == S_BODY && (events & EPOLLOUT))
		send_body(c);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		on_readable(c);
}

static void run(struct conn *conns)
{
	struct epoll_event events[256];

	while (done < total) {
		int64_t now_ms = now_us() / 1000;
		int n, wait = 1000;
		if (give_up_at_ms && now_ms > give_up_at_ms)
			break;
		for (unsigned i = 0; i < conn_count; i++) {
			struct conn *c = &conns[i];
			if (c->fd < 0 && c->retry_at_ms <= now_ms && may_start())
				open_conn(c);
			else if (c->fd >= 0 && c->state == S_EHLO && c->sent_here > 0)
				start_message(c);
			if (c->fd < 0 || rate > 0)
				wait = rate > 0 ? 1 : RETRY_MS;
		}
		n = epoll_wait(epoll_fd, events, 256, wait);
		for (int i = 0; i < n; i++)
			on_event(events[i].data.ptr, events[i].events);
	}
}

int main(int argc, char **argv)
{
	struct conn *conns;
	char *colon;
	double seconds;
	int o;

	while ((o = getopt(argc, argv, "c:m:b:D:d:f:u:R:l:p:t:r:x:iH:")) != -1) {
		switch (o) {
		case 'c':
			conn_count = (unsigned)atoi(optarg);
			break;
		case 'm':
			total = (uint64_t)atoll(optarg);
			break;
		case 'b':
			size = (size_t)atoll(optarg);
			break;
		case 'H':
			if (strlen(headers) + strlen(optarg) + 3 > sizeof(headers))
				return 64;
			strcat(strcat(headers, optarg), "\r\n");
			break;
		case 'D':
			domain_count = (unsigned)atoi(optarg);
			break;
		case 'd':
			domain = optarg;
			break;
		case 'f':
			sender = optarg;
			break;
		case 'u':
			local = optarg;
			break;
		case 'R':
			rcpt_count = (unsigned)atoi(optarg);
			break;
		case 'l':
			ledger_fd = open(optarg, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
			break;
		case 'p':
			prefix = optarg;
			break;
		case 't':
			keep_trying_ms = atoll(optarg) * 1000;
			break;
		case 'r':
			rate = atof(optarg);
			break;
		case 'i':
			number_in_rcpt = true;
			break;
		case 'x':
			per_connection = (unsigned)atoi(optarg);
			break;
		default:
			return 64;
		}
	}
	if (optind + 1 != argc || !(colon = strrchr(argv[optind], ':')) || conn_count == 0) {
		fprintf(stderr,
		    "usage: smtp-source [options] ADDRESS:PORT (see the head of its source)\n");
		return 64;
	}
	*colon = 0;
	target = (struct sockaddr_in){
	    .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
	if (inet_pton(AF_INET, argv[optind], &target.sin_addr) != 1)
		return 64;
	signal(SIGPIPE, SIG_IGN);
	make_body();
	conns = calloc(conn_count, sizeof(*conns));
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	start_us = now_us();
	give_up_at_ms = keep_trying_ms ? start_us / 1000 + keep_trying_ms : 0;
	for (unsigned i = 0; i < conn_count; i++)
		conns[i].fd = -1;
	run(conns);
	seconds = (double)(now_us() - start_us) / 1e6;
	printf("messages %llu seconds %.3f rate %.0f deferred %llu lost %llu\n",
	    (unsigned long long)done, seconds, (double)done / seconds, (unsigned long long)deferred,
	    (unsigned long long)lost);
	free(conns);
	free(body);
	free(again);
	return done == total ? 0 : 75;
}
