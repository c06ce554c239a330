/* SPDX-License-Identifier: ISC */
/*
 * A fast SMTP server that takes everything and keeps nothing, for bench and tests: one thread,
 * epoll, many connections, PIPELINING. It counts at the receiving end, which is where limits are
 * promised.
 *
 *   smtp-sink [options] ADDRESS:PORT...
 *   -l FILE   ledger: one line a message when its final dot has come, before the answer:
 *             "X-Ledger value, client address, recipients, microseconds", written at once
 *   -d MS     wait before the answer to the final dot
 *   -n        do not offer PIPELINING
 *   -r TEXT   answer RCPT with TEXT ("451 4.7.1 not now") for local parts that begin with "defer-",
 *             and "550 5.1.1 no such user" for those that begin with "fail-" (these two always)
 *   -g TEXT   greet with TEXT and close (e.g. "421 4.3.2 not now")
 *   -s FILE   rewrite FILE each 100 ms: "messages N recipients N connections N peak N bytes N
 *             accepted N"; connections: open now; peak: most at once; accepted: since the start
 *
 * A connection that the peer has reset is gone at once, also while it waits for its answer; those
 * that end are counted before those that begin.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN_MAX = 65536, OUT_MAX = 16384, LEDGER_ID = 64, LISTENERS_MAX = 64 };

struct conn {
	int fd;
	bool listener, in_data, quitting, waiting;
	struct conn *next_waiting;
	int64_t answer_at_us;
	unsigned rcpts;
	unsigned dot_state; /* how much of CRLF . CRLF has been seen */
	char peer[64];
	char ledger[LEDGER_ID];
	size_t line_n; /* the current content line, as far as it is kept for the ledger header */
	char line[96];
	size_t in_n, out_n;
	char in[IN_MAX];
	char out[OUT_MAX];
};

static int epoll_fd, ledger_fd = -1;
static int64_t delay_us;
static bool no_pipelining;
static const char *rcpt_reply = "451 4.7.1 not now", *greeting, *stats_file;
static uint64_t messages, recipients, connections, peak, bytes, accepted;
static struct conn *waiting_head, *waiting_tail;
static volatile sig_atomic_t stopping;

static int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void on_signal(int signo)
{
	(void)signo;
	stopping = 1;
}

static void say(struct conn *c, const char *text)
{
	size_t n = strlen(text);

	if (c->out_n + n <= OUT_MAX) {
		memcpy(c->out + c->out_n, text, n);
		c->out_n += n;
	}
}

static void close_conn(struct conn *c)
{
	if (c->waiting) {
		c->quitting = true; /* freed when its turn comes */
		c->out_n = 0;
		if (c->fd >= 0) {
			close(c->fd);
			c->fd = -1;
			connections--;
		}
		return;
	}
	if (c->fd >= 0) {
		close(c->fd);
		connections--;
	}
	free(c);
}

/* False when the connection is gone. */
static bool flush(struct conn *c)
{
	size_t done = 0;

	while (done < c->out_n) {
		ssize_t n = send(c->fd, c->out + done, c->out_n - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			close_conn(
			    c); /* our answers are tiny: a peer that cannot take them is gone */
			return false;
		}
		done += (size_t)n;
	}
	c->out_n = 0;
	if (c->quitting) {
		close_conn(c);
		return false;
	}
	return true;
}

static void record(struct conn *c)
{
	char line[256];
	int n;

	messages++;
	recipients += c->rcpts;
	if (ledger_fd < 0)
		return;
	n = snprintf(line, sizeof(line), "%s %s %u %lld\n", c->ledger[0] ? c->ledger : "-", c->peer,
	    c->rcpts, (long long)now_us());
	if (n > 0 && write(ledger_fd, line, (size_t)n) != n)
		abort();
}

static void command(struct conn *c, const char *line, size_t n)
{
	char verb[5] = {0};

	memcpy(verb, line, n < 4 ? n : 4);
	if (!strcasecmp(verb, "EHLO")) {
		say(c, no_pipelining ? "250-sink\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n"
				     : "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-"
				       "SMTPUTF8\r\n250 DSN\r\n");
	} else if (!strcasecmp(verb, "MAIL")) {
		c->rcpts = 0;
		c->ledger[0] = 0;
		say(c, "250 2.1.0 ok\r\n");
	} else if (!strcasecmp(verb, "RCPT")) {
		const char *at = memchr(line, '<', n);
		size_t left = at ? n - (size_t)(at - line) : 0;
		if (left > 6 && !memcmp(at, "<defer-", left < 7 ? left : 7)) {
			say(c, rcpt_reply);
			say(c, "\r\n");
		} else if (left > 5 && !memcmp(at, "<fail-", 6)) {
			say(c, "550 5.1.1 no such user\r\n");
		} else {
			c->rcpts++;
			say(c, "250 2.1.5 ok\r\n");
		}
	} else if (!strcasecmp(verb, "DATA")) {
		if (c->rcpts == 0) {
			say(c, "554 5.5.1 no valid recipients\r\n");
			return;
		}
		say(c, "354 go on\r\n");
		c->in_data = true;
		c->dot_state = 2;
		c->line_n = 0;
	} else if (!strcasecmp(verb, "QUIT")) {
		say(c, "221 2.0.0 bye\r\n");
		c->quitting = true;
	} else {
		say(c, "250 2.0.0 ok\r\n");
	}
}

/* Keeps what the ledger wants of a content line. */
static void content_line(struct conn *c)
{
	if (c->line_n > 10 && !strncasecmp(c->line, "X-Ledger: ", 10) && !c->ledger[0]) {
		size_t n = c->line_n - 10;
		if (n >= LEDGER_ID)
			n = LEDGER_ID - 1;
		memcpy(c->ledger, c->line + 10, n);
		c->ledger[n] = 0;
		c->ledger[strcspn(c->ledger, "\r\n")] = 0;
	}
}

static void finish_message(struct conn *c)
{
	record(c);
	c->in_data = false;
	if (delay_us == 0) {
		say(c, "250 2.0.0 taken\r\n");
		return;
	}
	c->waiting = true;
	c->answer_at_us = now_us() + delay_us;
	c->next_waiting = NULL;
	if (waiting_tail)
		waiting_tail->next_waiting = c;
	else
		waiting_head = c;
	waiting_tail = c;
}

/* Content up to the final dot; returns bytes used. Whole lines at a time where they are whole. */
static size_t content(struct conn *c, const char *p, size_t n)
{
	size_t used = 0;

	while (used < n) {
		const char *nl = memchr(p + used, '\n', n - used);
		size_t piece = nl ? (size_t)(nl - (p + used)) + 1 : n - used;
		size_t room = sizeof(c->line) - c->line_n;
		if (room > 0) {
			size_t keep = piece < room ? piece : room;
			memcpy(c->line + c->line_n, p + used, keep);
		}
		c->line_n += piece;
		used += piece;
		if (!nl)
			break;
		if (c->line_n == 3 && !memcmp(c->line, ".\r\n", 3)) {
			finish_message(c);
			return used;
		}
		if (c->line_n < sizeof(c->line))
			content_line(c);
		c->line_n = 0;
	}
	return used;
}

static bool process(struct conn *c)
{
	size_t used = 0;

	while (used < c->in_n && !c->waiting && !c->quitting) {
		char *p = c->in + used, *nl;
		if (c->in_data) {
			used += content(c, p, c->in_n - used);
			continue;
		}
		nl = memchr(p, '\n', c->in_n - used);
		if (!nl)
			break;
		command(c, p, (size_t)(nl - p));
		used += (size_t)(nl - p) + 1;
		if (c->out_n > OUT_MAX / 2 && !flush(c))
			return false;
	}
	memmove(c->in, c->in + used, c->in_n - used);
	c->in_n -= used;
	return c->out_n == 0 && !c->quitting ? true : flush(c);
}

static void on_readable(struct conn *c)
{
	while (c->in_n < IN_MAX) {
		ssize_t n = recv(c->fd, c->in + c->in_n, IN_MAX - c->in_n, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			close_conn(c);
			return;
		}
		bytes += (uint64_t)n;
		c->in_n += (size_t)n;
		if (!process(c) || (size_t)n < IN_MAX / 4)
			return;
		if (c->waiting)
			return;
	}
}

static void on_accept(struct conn *l)
{
	for (int i = 0; i < 64; i++) {
		struct sockaddr_in a;
		socklen_t len = sizeof(a);
		int fd = accept4(l->fd, (struct sockaddr *)&a, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct epoll_event e = {.events = EPOLLIN};
		struct conn *c;
		int one = 1;

		if (fd < 0)
			return;
		c = malloc(sizeof(*c));
		if (!c)
			abort();
		memset(c, 0, offsetof(struct conn, in));
		c->fd = fd;
		inet_ntop(AF_INET, &a.sin_addr, c->peer, sizeof(c->peer));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		accepted++;
		if (++connections > peak)
			peak = connections;
		say(c, greeting ? greeting : "220 sink ESMTP");
		say(c, "\r\n");
		c->quitting = greeting != NULL;
		e.data.ptr = c;
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
		flush(c);
	}
}

static int answer_waiting(void)
{
	int64_t now = now_us();

	while (waiting_head && waiting_head->answer_at_us <= now) {
		struct conn *c = waiting_head;
		waiting_head = c->next_waiting;
		if (!waiting_head)
			waiting_tail = NULL;
		c->waiting = false;
		if (c->fd < 0) {
			free(c);
			continue;
		}
		say(c, "250 2.0.0 taken\r\n");
		process(c);
	}
	if (!waiting_head)
		return 100;
	return (int)((waiting_head->answer_at_us - now) / 1000) + 1;
}

static void write_stats(void)
{
	char text[200], temporary[4096];
	int fd, n;

	n = snprintf(text, sizeof(text),
	    "messages %llu recipients %llu connections %llu peak %llu bytes %llu accepted %llu\n",
	    (unsigned long long)messages, (unsigned long long)recipients,
	    (unsigned long long)connections, (unsigned long long)peak, (unsigned long long)bytes,
	    (unsigned long long)accepted);
	snprintf(temporary, sizeof(temporary), "%s.new", stats_file);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, (size_t)n) != n || close(fd) != 0 ||
	    rename(temporary, stats_file) != 0)
		perror(stats_file);
}

static struct conn *listen_on(char *where)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	struct conn *l = calloc(1, sizeof(*l));
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
	char *colon = strrchr(where, ':');
	int one = 1;

	if (!l || !colon) {
		fprintf(stderr, "smtp-sink: %s is no ADDRESS:PORT\n", where);
		exit(64);
	}
	*colon = 0;
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	l->listener = true;
	l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (inet_pton(AF_INET, where, &a.sin_addr) != 1 ||
	    bind(l->fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(l->fd, 4096) != 0) {
		fprintf(stderr, "smtp-sink: %s:%s: %s\n", where, colon + 1, strerror(errno));
		exit(71);
	}
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, l->fd, &e);
	return l;
}

static void on_event(struct conn *c, uint32_t events)
{
	if (!c->waiting)
		on_readable(c);
	else if (events & (EPOLLHUP | EPOLLERR))
		close_conn(c); /* reset */
	/* else busy with its answer: level-triggered, looked at again after */
}

static void run(void)
{
	struct epoll_event events[256];
	int64_t stats_at = 0;

	while (!stopping) {
		int n = epoll_wait(epoll_fd, events, 256, answer_waiting());
		struct conn *listeners[LISTENERS_MAX];
		int m = 0;
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			if (c->listener)
				listeners[m++] = c;
			else
				on_event(c, events[i].events);
		}
		while (m > 0)
			on_accept(listeners[--m]);
		if (stats_file && now_us() >= stats_at) {
			write_stats();
			stats_at = now_us() + 100000;
		}
	}
	if (stats_file)
		write_stats();
}

int main(int argc, char **argv)
{
	struct rlimit files = {1048576, 1048576};
	int o;

	while ((o = getopt(argc, argv, "l:d:nr:g:s:")) != -1) {
		if (o == 'l')
			ledger_fd = open(optarg, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		else if (o == 'd')
			delay_us = atoll(optarg) * 1000;
		else if (o == 'n')
			no_pipelining = true;
		else if (o == 'r')
			rcpt_reply = optarg;
		else if (o == 'g')
			greeting = optarg;
		else if (o == 's')
			stats_file = optarg;
		else
			return 64;
	}
	if (optind == argc || optind + LISTENERS_MAX < argc) {
		fprintf(stderr,
		    "usage: smtp-sink [-n] [-l FILE] [-d MS] [-r TEXT] [-g TEXT] [-s FILE] "
		    "ADDRESS:PORT...\n");
		return 64;
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	if (setrlimit(RLIMIT_NOFILE, &files) != 0)
		fprintf(stderr, "smtp-sink: descriptors stay at the old limit\n");
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	for (int i = optind; i < argc; i++)
		listen_on(argv[i]);
	run();
	return 0;
}
