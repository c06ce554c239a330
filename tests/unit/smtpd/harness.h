/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * A whole smtpd but for its main(): a server with one listener, a qmgr that the test plays, clients
 * at the ends of socket pairs, all in one loop. Include after cmocka.h.
 */
#include "common/clock.h"
#include "common/log.h"
#include "common/conf_impl.h"
#include "smtpd/session.h"
#include "smtpd/settings.h"
#include "tests/unit/common/fake_qmgr.h"
#include <errno.h>

struct harness {
	struct loop *loop;
	struct server *server;
	struct fake_qmgr q;
	struct settings *settings; /* borrowed from the server */
	struct listener *listener;
};
struct client {
	struct harness *h;
	int fd;
	struct buf got; /* not yet expected */
	bool closed;
};

static inline void harness_tick(void *arg)
{
	(void)arg;
}

/* A turn that waits no longer than ms. */
static inline void harness_turn(struct harness *h, int64_t ms)
{
	struct loop_timer t = {0};
	loop_timer_after(h->loop, &t, ms, harness_tick, NULL);
	loop_turn(h->loop);
	loop_timer_cancel(h->loop, &t);
}

#define UNTIL(h, cond)                                                                             \
	for (int64_t end_ = clock_mono_ms() + 10000; !(cond);) {                                   \
		harness_turn((h), 20);                                                             \
		assert_true(clock_mono_ms() < end_);                                               \
	}

static inline struct settings *harness_settings(void)
{
	struct settings *s = xcalloc(1, sizeof(*s));
	s->refs = 1;
	s->config = 1;
	s->tenants = tenants_new(conf_new(), 1, 0);
	strcpy(s->host, "mx.test");
	s->max_message = 4 << 20;
	s->connections_max = 100;
	s->listeners = xcalloc(1, sizeof(struct listener));
	s->listener_count = 1;
	s->vmtas = xcalloc(2, sizeof(char *));
	s->vmtas[s->vmta_count++] = xstrdup("mta1");
	*s->listeners = (struct listener){.vmta = xstrdup(""),
	    .relay_from = xcalloc(1, sizeof(struct network)),
	    .relay_count = 1,
	    .command_timeout_ms = 300000,
	    .transaction_timeout_ms = 3600000,
	    .min_data_rate = 500,
	    .max_recipients = 10,
	    .max_hops = 5,
	    .max_errors = 1000,
	    .max_header = 100000};
	assert_int_equal(network_parse(s->listeners->relay_from, STR("127.0.41.0/24")), 0);
	return s;
}

static inline void harness_init_with(struct harness *h, struct settings *settings, bool attach)
{
	int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	log_open("smtpd", null_fd, false);
	h->loop = loop_new();
	h->server = server_new(h->loop);
	h->settings = settings;
	h->listener = settings->listeners;
	server_use(h->server, settings);
	server_start(h->server, NULL, NULL);
	fake_init(&h->q, h->loop, h->server->writer);
	if (!attach)
		return;
	fake_attach(&h->q);
	fake_credit(&h->q, 10000, REFUSE_NONE);
	UNTIL(h, segwriter_state(h->server->writer) == REFUSE_NONE);
}

static inline void harness_init(struct harness *h)
{
	harness_init_with(h, harness_settings(), true);
}

static inline void harness_fini(struct harness *h)
{
	server_free(&h->server);
	chan_free(&h->q.theirs);
	chan_free(&h->q.ours);
	fake_fini(&h->q);
	loop_free(&h->loop);
}

static inline void client_open_from(struct client *c, struct harness *h, uint8_t last, uint8_t net)
{
	uint8_t address[16] = {
	    [10] = 0xff, [11] = 0xff, [12] = 127, [13] = 0, [14] = net, [15] = last};
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*c = (struct client){.h = h, .fd = pair[0]};
	buf_init(&c->got, 1 << 24);
	server_take_client(h->server, 0, pair[1], address);
}

static inline void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	buf_fini(&c->got);
}

static inline void client_read(struct client *c)
{
	char bytes[65536];
	ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	if (n > 0)
		buf_put(&c->got, bytes, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		c->closed = true;
}

/* Sends all, turning the loop when the socket is full. */
static inline void client_send_bytes(struct client *c, const void *p, size_t n)
{
	const char *at = p;
	int64_t end_ms = clock_mono_ms() + 20000;
	while (n > 0) {
		ssize_t sent = send(c->fd, at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent > 0) {
			at += sent;
			n -= (size_t)sent;
			continue;
		}
		if (errno != EAGAIN)
			return; /* it closed: the test sees that when it expects */
		harness_turn(c->h, 20);
		client_read(c);
		assert_true(clock_mono_ms() < end_ms);
	}
}

static inline void client_send(struct client *c, const char *text)
{
	client_send_bytes(c, text, strlen(text));
}

/* The next whole answer (all lines of it) begins with that text. */
static inline void client_expect(struct client *c, const char *start)
{
	const char *p, *last;
	size_t n;
	for (int64_t end_ms = clock_mono_ms() + 10000;;) {
		for (p = (const char *)c->got.p, n = c->got.n, last = NULL; n > 3;) {
			const char *lf = memchr(p, '\n', n);
			if (!lf)
				break;
			if (p[3] == ' ')
				last = lf;
			if (last)
				break;
			n -= (size_t)(lf + 1 - p);
			p = lf + 1;
		}
		if (last || c->closed)
			break;
		harness_turn(c->h, 20);
		client_read(c);
		if (clock_mono_ms() > end_ms)
			break;
	}
	if (!last || strncmp((const char *)c->got.p, start, strlen(start)) != 0)
		print_error(
		    "wanted '%s', got '%.*s'\n", start, (int)c->got.n, (const char *)c->got.p);
	assert_non_null(last);
	assert_int_equal(strncmp((const char *)c->got.p, start, strlen(start)), 0);
	buf_consume(&c->got, (size_t)(last + 1 - (const char *)c->got.p));
}

static inline void client_say(struct client *c, const char *line, const char *answer)
{
	client_send(c, line);
	client_send(c, "\r\n");
	client_expect(c, answer);
}

static inline void client_open(struct client *c, struct harness *h)
{
	client_open_from(c, h, 1, 41);
	client_expect(c, "220 mx.test ESMTP");
}

static inline void client_hello(struct client *c, struct harness *h)
{
	client_open(c, h);
	client_say(c, "EHLO client.test", "250-mx.test\r\n250-PIPELINING");
}

static inline void client_expect_closed(struct client *c)
{
	UNTIL(c->h, (client_read(c), c->closed));
	if (c->got.n > 0)
		print_error("left: '%.*s'\n", (int)c->got.n, (const char *)c->got.p);
	assert_int_equal(c->got.n, 0);
}

/* The k-th accepted message: envelope decoded, headers and content in `data`. */
struct queued {
	struct record record;
	struct buf data;
	struct envelope envelope;
	struct str headers, content;
};
static inline void queued_get(struct harness *h, size_t k, struct queued *m)
{
	UNTIL(h, h->q.accepted > k);
	struct fake_told *t = fake_find(&h->q, TOLD_ACCEPTED, k);
	fake_read(&h->q, t->segment, t->a, &m->record, &m->data);
	const char *p = (const char *)m->data.p;
	assert_int_equal(
	    envelope_decode(&m->envelope, (struct str){p, m->record.envelope_bytes}), 0);
	m->headers = (struct str){p + m->record.envelope_bytes, m->record.headers_bytes};
	m->content = (struct str){m->headers.p + m->headers.n, (size_t)m->record.content_bytes};
}
static inline void queued_fini(struct queued *m)
{
	envelope_fini(&m->envelope);
	buf_fini(&m->data);
}
#define assert_str_equal_to(s, text)                                                               \
	do {                                                                                       \
		struct str s_ = (s);                                                               \
		if (s_.n != strlen(text) || memcmp(s_.p, (text), s_.n) != 0)                       \
			print_error("got '%.*s'\n", (int)s_.n, s_.p);                              \
		assert_int_equal(s_.n, strlen(text));                                              \
		assert_memory_equal(s_.p, (text), s_.n);                                           \
	} while (0)
