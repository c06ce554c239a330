/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * The stage of the replay tests: smtp-out's real code on real loopback sockets, between a qmgr that
 * the test plays over a socket pair and a server that obeys a script; all in one loop, nothing
 * sleeps.
 *
 * A script is a list of rules: at this line from the client (a prefix; "CONNECT" for the
 * connection, "." for the end of the message, "half" for half of it), send this. The first rule
 * that matches and is not used up counts; without one the server answers as a good one would. In
 * what is sent, a part that begins with '!' is an act: !close, !rst, !silent, !tls, !junk (answers
 * everything that follows with noise), !long (5,200 characters), !lines (300 of them), !again (the
 * rule stays), !default.
 */
#include "common/clock.h"
#include "common/envelope.h"
#include "common/record.h"
#include "common/match.h"
#include "common/result.h"
#include "smtp-out/session.h"
#include "tests/unit/common/test_cert.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum { RULES_MAX = 12, JOBS_MAX = 6, CONN = 77, SEGMENT = 5, GUARD_MS = 60000, PATIENT_MS = 30000 };

#define TEN "xxxxxxxxxx"
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

struct script {
	const char *at, *send;
};

struct peer {
	struct loop *loop;
	int listener, fd;
	struct loop_fd listen_io, io;
	uint16_t port;
	const struct script *rules;
	bool used[RULES_MAX];
	const char *caps; /* lines of EHLO's reply, each ended with '|' */
	bool pipelining;
	bool junk, in_data, half_told, silent, closed, saw_eof, saw_reset, secure, over_pending;
	struct buf in, all, out; /* all: every command line, for assertions; out: ciphertext */
	struct buf message;	 /* the last message, as received, dot line included */
	struct tls_context *tls_context;
	struct tls *tls;
	unsigned connections, messages, resumed;
	size_t half_at;
};

struct stage {
	struct loop *loop;
	struct out out;
	struct peer peer;
	struct chan *qmgr;
	struct loop_timer guard;
	int segment_fd;
	uint64_t offset[JOBS_MAX], id[JOBS_MAX];
	unsigned rcpts;			       /* of each message */
	const char *(*rule_name)(uint64_t id); /* of hits; NULL: they are not looked at */
	char hits[2000], closed_hits[500]; /* "NAME stage ordinal;…" of RESULTs, CONN_CLOSED */
	char checked[200];		   /* "ADDRESS: why" of SOURCE_CHECKED */
	char results[4096];		   /* "delivered dot 250 2.0.0;…", a line a transaction */
	char closed[300];		   /* "done quit 0" */
	char closed_text[1000], last_text[1000], last_said_by[256];
	unsigned readies, result_count, closes, have_conns, have_jobs, state_ends;
	uint32_t rcpt_max, mail_max;
	uint8_t ready_tls;
	bool last_relayed, timed_out;
	uint64_t reports; /* seen on this channel */
	unsigned jobs_at_ready,
	    close_after; /* jobs sent when ready; CONN_CLOSE after so many results */
	unsigned jobs_total, jobs_sent;
	bool hard;
	int64_t closed_at_ms;
	uint32_t timeout_ms; /* of all steps */
};

/* --- the server
 * ----------------------------------------------------------------------------------- */

static void peer_close(struct peer *p, bool reset)
{
	if (p->fd < 0)
		return;
	struct linger linger = {.l_onoff = reset, .l_linger = 0};
	setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	loop_del(&p->io);
	close(p->fd);
	p->fd = -1;
	p->closed = true;
	tls_free(&p->tls);
}

static void peer_write(struct peer *p, const char *bytes, size_t n)
{
	if (p->fd < 0 || n == 0)
		return;
	if (p->tls) {
		buf_reset(&p->out);
		if (tls_write(p->tls, bytes, n, &p->out) != 0)
			return;
		bytes = (const char *)p->out.p;
		n = p->out.n;
	}
	while (n > 0) {
		ssize_t sent = send(p->fd, bytes, n, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN)
			continue;
		if (sent < 0)
			return;
		bytes += sent;
		n -= (size_t)sent;
	}
}

static void peer_act(struct peer *p, const char *send)
{
	while (*send && p->fd >= 0) {
		if (*send != '!') {
			size_t n = strcspn(send, "!");
			peer_write(p, send, n);
			send += n;
		} else if (strncmp(send, "!close", 6) == 0) {
			peer_close(p, false);
		} else if (strncmp(send, "!rst", 4) == 0) {
			peer_close(p, true);
		} else if (strncmp(send, "!silent", 7) == 0) {
			p->silent = true;
			send += 7;
		} else if (strncmp(send, "!tls", 4) == 0) {
			p->tls = tls_accept(p->tls_context);
			send += 4;
		} else if (strncmp(send, "!junk", 5) == 0) {
			p->junk = true;
			send += 5;
		} else if (strncmp(send, "!long", 5) == 0) {
			for (int i = 0; i < 52; i++)
				peer_write(p, HUNDRED, 100);
			send += 5;
		} else if (strncmp(send, "!lines", 6) == 0) {
			for (int i = 0; i < 300; i++)
				peer_write(p, "250-more\r\n", 10);
			send += 6;
		} else if (strncmp(send, "!again", 6) == 0) {
			send += 6;
		} else {
			fail_msg("no such act: %s", send);
		}
	}
}

static const char *peer_rule(struct peer *p, const char *line)
{
	for (size_t i = 0; i < RULES_MAX && p->rules && p->rules[i].at; i++) {
		const struct script *r = &p->rules[i];
		if (p->used[i] || strncasecmp(line, r->at, strlen(r->at)) != 0)
			continue;
		p->used[i] = strncmp(r->send, "!again", 6) != 0;
		return r->send;
	}
	return NULL;
}

static void peer_ehlo(struct peer *p)
{
	peer_write(p, "250-mx.test.example\r\n", 21);
	char caps[2000];
	snprintf(caps, sizeof(caps), "%s", p->caps ? p->caps : "");
	for (char *save = NULL, *cap = strtok_r(caps, "|", &save); cap;
	     cap = strtok_r(NULL, "|", &save)) {
		char line[2100];
		int n = snprintf(line, sizeof(line), "250-%s\r\n", cap);
		peer_write(p, line, (size_t)n);
	}
	if (p->pipelining)
		peer_write(p, "250-PIPELINING\r\n", 16);
	peer_write(p, "250 HELP\r\n", 10);
}

static void peer_default(struct peer *p, const char *line)
{
	if (strncmp(line, "CONNECT", 7) == 0)
		peer_act(p, "220 mx.test.example ESMTP\r\n");
	else if (strncmp(line, "EHLO", 4) == 0)
		peer_ehlo(p);
	else if (strncmp(line, "STARTTLS", 8) == 0)
		peer_act(p, "220 2.0.0 go ahead\r\n!tls");
	else if (strncmp(line, "DATA", 4) == 0)
		peer_act(p, "354 go ahead\r\n");
	else if (strncmp(line, "QUIT", 4) == 0)
		peer_act(p, "221 2.0.0 bye\r\n!close");
	else
		peer_act(p, "250 2.0.0 ok\r\n");
}

static void peer_line(struct peer *p, const char *line)
{
	buf_cstr(&p->all, line);
	buf_cstr(&p->all, "\n");
	const char *send = peer_rule(p, line);
	bool data = strncmp(line, "DATA", 4) == 0;
	if (data && (!send || strncmp(send, "354", 3) == 0 || strcmp(send, "!default") == 0)) {
		p->in_data = true;
		p->half_told = false;
		buf_reset(&p->message);
	}
	if (p->silent)
		return;
	if (send && strcmp(send, "!default") != 0)
		peer_act(p, send);
	else
		peer_default(p, line);
}

static void peer_data(struct peer *p)
{
	struct buf *in = &p->in;
	const unsigned char *end = in->n >= 3 && memcmp(in->p, ".\r\n", 3) == 0 && p->message.n == 0
				       ? in->p
				       : memmem(in->p, in->n, "\r\n.\r\n", 5);
	if (!end) { /* keep what may be the beginning of an end */
		if (!p->half_told && p->half_at && in->n + p->message.n > p->half_at) {
			p->half_told = true;
			const char *send = peer_rule(p, "half");
			if (send && !p->silent)
				peer_act(p, send);
		}
		return;
	}
	size_t n = (size_t)(end - in->p) + (end == in->p ? 3 : 5);
	buf_put(&p->message, in->p, n);
	buf_consume(in, n);
	p->in_data = false;
	p->messages++;
	peer_line(p, ".");
}

static void peer_lines(struct peer *p)
{
	while (p->fd >= 0 && p->in.n > 0 && !p->junk && !(p->silent && !p->in_data)) {
		if (p->in_data) {
			size_t before = p->in.n;
			peer_data(p);
			if (p->in_data && p->in.n == before)
				return;
			continue;
		}
		unsigned char *nl = memchr(p->in.p, '\n', p->in.n);
		if (!nl)
			return;
		char line[2000];
		size_t n = (size_t)(nl - p->in.p);
		assert_true(n > 0 && nl[-1] == '\r' && n < sizeof(line));
		memcpy(line, p->in.p, n - 1);
		line[n - 1] = '\0';
		buf_consume(&p->in, n + 1);
		peer_line(p, line);
	}
}

static void peer_take(struct peer *p, const unsigned char *bytes, size_t n)
{
	static const char junk[] = "JUNK\0\x16\x03JUNK JUNK JUNK JUNK JUNK JUNK\n";
	if (p->junk)
		peer_write(p, junk, sizeof(junk) - 1);
	if (!p->tls) {
		buf_put(&p->in, bytes, n);
		peer_lines(p);
		return;
	}
	struct buf cipher;
	buf_init(&cipher, 1 << 20);
	buf_put(&cipher, bytes, n);
	buf_reset(&p->out);
	enum tls_state state = tls_feed(p->tls, &cipher, &p->in, &p->out);
	buf_fini(&cipher);
	if (p->out.n > 0 && send(p->fd, p->out.p, p->out.n, MSG_NOSIGNAL) < 0)
		return;
	if (state == TLS_OPEN && !p->secure) {
		p->secure = true;
		p->resumed += tls_resumed(p->tls);
	}
	peer_lines(p);
}

static void peer_io(void *arg, uint32_t events)
{
	struct peer *p = arg;
	unsigned char bytes[65536];
	(void)events;
	ssize_t n = recv(p->fd, bytes, sizeof(bytes), 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		p->saw_eof = n == 0;
		p->saw_reset = n < 0;
		peer_close(p, false);
		return;
	}
	peer_take(p, bytes, (size_t)n);
}

static void peer_accept(void *arg, uint32_t events)
{
	struct peer *p = arg;
	(void)events;
	p->fd = accept4(p->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(p->fd >= 0);
	p->closed = p->saw_eof = p->saw_reset = p->in_data = p->silent = p->secure = p->junk =
	    false;
	buf_reset(&p->in);
	int on = 1; /* many small writes: no waiting for acknowledgements */
	setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	p->connections++;
	assert_int_equal(loop_add(p->loop, &p->io, p->fd, EPOLLIN, peer_io, p), 0);
	peer_line(p, "CONNECT");
}

static void peer_init(struct peer *p, struct loop *loop)
{
	memset(p, 0, sizeof(*p));
	p->loop = loop;
	p->fd = -1;
	buf_init(&p->in, 1 << 26);
	buf_init(&p->all, 1 << 20);
	buf_init(&p->out, 1 << 26);
	buf_init(&p->message, 1 << 26);
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t n = sizeof(a);
	inet_pton(AF_INET, "127.0.42.1", &a.sin_addr);
	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(p->listener, 16), 0);
	getsockname(p->listener, (struct sockaddr *)&a, &n);
	p->port = ntohs(a.sin_port);
	assert_int_equal(loop_add(loop, &p->listen_io, p->listener, EPOLLIN, peer_accept, p), 0);
}

static void peer_with_tls(struct peer *p)
{
	char err[256];
	p->tls_context = tls_server_context(str_of(test_cert_pem), str_of(test_key_pem), err);
	assert_non_null(p->tls_context);
}

static void peer_fini(struct peer *p)
{
	peer_close(p, true);
	loop_del(&p->listen_io);
	close(p->listener);
	buf_fini(&p->in);
	buf_fini(&p->all);
	buf_fini(&p->out);
	buf_fini(&p->message);
	tls_context_free(&p->tls_context);
}

/* --- qmgr
 * ----------------------------------------------------------------------------------------- */

static const char *const verdict_names[] = {"delivered", "deferred", "failed", "retry"};
static const char *const cause_names[] = {
    "done", "refused", "timeout", "lost", "reply", "protocol", "local", "tls"};

static void stage_send_job(struct stage *s)
{
	if (s->jobs_sent == s->jobs_total)
		return;
	struct buf rcpts;
	buf_init(&rcpts, 4000);
	for (unsigned i = 0; i < s->rcpts; i++)
		buf_u16(&rcpts, (uint16_t)i);
	unsigned i = s->jobs_sent++;
	chan_send_job(s->qmgr, &(struct msg_job){.conn = CONN,
				   .transaction = 1000 + i,
				   .id = s->id[i],
				   .segment = SEGMENT,
				   .offset = s->offset[i],
				   .rcpts = {(const char *)rcpts.p, rcpts.n}});
	buf_fini(&rcpts);
}

static void stage_close(struct stage *s)
{
	chan_send_conn_close(s->qmgr, &(struct msg_conn_close){.conn = CONN, .hard = s->hard});
}

static void take_hits(struct stage *s, struct str bytes, char *to, size_t size)
{
	struct rd rest = rd_of(bytes.p, bytes.n);
	struct rule_hit hit;
	int more = 0;
	while (s->rule_name && (more = hit_take(&rest, &hit)) == 1) {
		char ordinal[8] = "all";
		size_t at = strlen(to);
		if (hit.ordinal != HIT_ALL)
			snprintf(ordinal, sizeof(ordinal), "%u", hit.ordinal);
		snprintf(to + at, size - at, "%s %s %s;", s->rule_name(hit.rule),
		    stage_name(hit.stage), ordinal);
	}
	assert_int_equal(more, 0);
}

static void take_result(struct stage *s, const struct msg_result *m)
{
	struct rd rest = rd_of(m->results.p, m->results.n);
	struct rcpt_result r;
	unsigned n = 0;
	size_t at = strlen(s->results);
	while (result_take(&rest, &r) == 1) {
		at += (size_t)snprintf(s->results + at, sizeof(s->results) - at,
		    "%s%s %s %u %.*s%s", n++ ? ";" : "", verdict_names[r.verdict],
		    stage_name(r.stage), r.code, STR_ARG(r.status), r.past_dot ? " past" : "");
		assert_true(at < sizeof(s->results));
		assert_true(r.ordinal < s->rcpts && r.text.n <= REPLY_TEXT_MAX);
		s->last_relayed = r.relayed;
		str_copy(s->last_text, sizeof(s->last_text), r.text);
		str_copy(s->last_said_by, sizeof(s->last_said_by), r.said_by);
	}
	take_hits(s, m->hits, s->hits, sizeof(s->hits));
	assert_int_equal(n, s->rcpts); /* one entry a recipient, none missing */
	snprintf(s->results + at, sizeof(s->results) - at, "\n");
	s->result_count++;
	s->reports++;
	if (s->result_count == s->close_after)
		stage_close(s);
	else if (s->jobs_sent < s->jobs_total)
		stage_send_job(s);
}

static void take_closed(struct stage *s, const struct msg_conn_closed *m)
{
	s->closes++;
	s->reports++;
	s->closed_at_ms = clock_mono_ms();
	snprintf(s->closed, sizeof(s->closed), "%s %s %u", cause_names[m->cause],
	    stage_name(m->stage), m->code);
	take_hits(s, m->hits, s->closed_hits, sizeof(s->closed_hits));
	str_copy(s->closed_text, sizeof(s->closed_text), m->text);
	loop_stop(s->loop);
}

static void take_ready(struct stage *s, const struct msg_conn_ready *m)
{
	s->readies++;
	s->rcpt_max = m->rcpt_max;
	s->mail_max = m->mail_max;
	s->ready_tls = m->tls;
	for (unsigned i = 0; i < s->jobs_at_ready; i++)
		stage_send_job(s);
	if (s->jobs_total == 0 && s->close_after == 0)
		stage_close(s);
}

static int qmgr_dispatch(void *ctx, struct chan *from, enum msg_type type, struct str body, int *fd)
{
	struct stage *s = ctx;
	struct msg_result result;
	struct msg_conn_ready ready;
	struct msg_conn_closed closed;
	struct msg_source_checked checked;
	(void)from, (void)fd;
	switch (type) {
	case MSG_RESULT:
		assert_int_equal(msg_decode_result(body, &result), 0);
		take_result(s, &result);
		return 0;
	case MSG_CONN_READY:
		assert_int_equal(msg_decode_conn_ready(body, &ready), 0);
		take_ready(s, &ready);
		return 0;
	case MSG_CONN_CLOSED:
		assert_int_equal(msg_decode_conn_closed(body, &closed), 0);
		take_closed(s, &closed);
		return 0;
	case MSG_SOURCE_CHECKED:
		assert_int_equal(msg_decode_source_checked(body, &checked), 0);
		snprintf(s->checked, sizeof(s->checked), "%u %.*s: %.*s", checked.ticket,
		    STR_ARG(checked.address), STR_ARG(checked.why));
		return 0;
	case MSG_HAVE_CONN:
		s->have_conns++;
		return 0;
	case MSG_HAVE_JOB:
		s->have_jobs++;
		return 0;
	case MSG_OUT_STATE_END:
		s->state_ends++;
		return 0;
	default:
		return -ENOMSG;
	}
}

static void qmgr_closed(void *ctx, struct chan *chan, const char *why)
{
	struct stage *s = ctx;
	(void)chan, (void)why;
	s->qmgr = NULL;
}

static void stage_qmgr(struct stage *s)
{
	static msg_dispatch_fn *const dispatch[] = {qmgr_dispatch, NULL};
	int pair[2];
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	s->reports = 0;
	s->qmgr = chan_new(s->loop, pair[0],
	    &(struct chan_spec){.peer_roles = ROLE_smtp_out | ROLE_reader,
		.dispatch = dispatch,
		.on_close = qmgr_closed,
		.ctx = s});
	out_attach(&s->out, pair[1]);
}

static void stage_segment(struct stage *s)
{
	int fd = fcntl(s->segment_fd, F_DUPFD_CLOEXEC, 0);
	chan_send_segment_open(
	    s->qmgr, &(struct msg_segment_open){
			 .segment = SEGMENT, .nonce_high = 1, .nonce_low = 2, .fd = fd});
	close(fd);
}

/* --- messages
 * ------------------------------------------------------------------------------------- */

struct content {
	unsigned rcpts;
	uint8_t body, notify, ret;
	const char *envid;
	size_t bytes; /* of content; at least some header */
};

/* Content of that many bytes: numbered lines of 64, dot-stuffed where they need it, ended with
 * CRLF. */
static void content_make(struct buf *b, size_t n)
{
	buf_cstr(b, "Subject: test\r\n\r\n..stuffed\r\n");
	for (unsigned i = 0; b->n + 66 < n; i++)
		buf_printf(
		    b, "%08u ....... ....... ....... ....... ....... ....... .......\r\n", i);
	while (b->n + 2 < n)
		buf_u8(b, 'x');
	buf_cstr(b, "\r\n");
}

static void stage_message(struct stage *s, unsigned i, const struct content *c)
{
	struct buf envelope, content, file;
	buf_init(&envelope, 1 << 20);
	buf_init(&content, 1 << 26);
	buf_init(&file, 1 << 26);
	envelope_put(&envelope, ENV_SENDER, STR("sender@from.example"));
	if (c->envid)
		envelope_put(&envelope, ENV_ENVID, str_of(c->envid));
	if (c->ret)
		envelope_put_u8(&envelope, ENV_RET, c->ret);
	if (c->body)
		envelope_put_u8(&envelope, ENV_BODY, c->body);
	for (unsigned r = 0; r < c->rcpts; r++) {
		char address[64];
		snprintf(address, sizeof(address), "user%u@to.example", r);
		envelope_put(&envelope, ENV_RCPT, str_of(address));
		if (c->notify)
			envelope_put_u8(&envelope, ENV_NOTIFY, c->notify);
		if (c->notify)
			envelope_put(&envelope, ENV_ORCPT, STR("rfc822;a+b@to.example"));
	}
	content_make(&content, c->bytes ? c->bytes : 500);
	off_t end = lseek(s->segment_fd, 0, SEEK_END);
	s->offset[i] = record_align((uint64_t)end);
	s->id[i] = RECORD_ID(SEGMENT, i + 1);
	struct record r = {.kind = RECORD_MESSAGE,
	    .nonce_high = 1,
	    .nonce_low = 2,
	    .offset = s->offset[i],
	    .id = s->id[i],
	    .data_offset = s->offset[i] + RECORD_HEAD,
	    .envelope_bytes = (uint32_t)envelope.n,
	    .headers_bytes = 10,
	    .content_bytes = content.n - 10,
	    .arrived_ms = 1,
	    .envelope_crc = crc32c(0, envelope.p, envelope.n),
	    .content_crc = crc32c(0, content.p, content.n)};
	unsigned char head[RECORD_HEAD];
	record_encode(&r, head);
	buf_put(&file, head, sizeof(head));
	buf_put(&file, envelope.p, envelope.n);
	buf_put(&file, content.p, content.n);
	assert_int_equal(
	    pwrite(s->segment_fd, file.p, file.n, (off_t)s->offset[i]), (ssize_t)file.n);
	s->rcpts = c->rcpts;
	buf_fini(&envelope);
	buf_fini(&content);
	buf_fini(&file);
}

/* The last message that the server got is the one that was made, and the dot. */
static void stage_check_message(struct stage *s, size_t bytes)
{
	struct buf want;
	buf_init(&want, 1 << 26);
	content_make(&want, bytes ? bytes : 500);
	buf_cstr(&want, ".\r\n");
	assert_int_equal(s->peer.message.n, want.n);
	assert_memory_equal(s->peer.message.p, want.p, want.n);
	buf_fini(&want);
}

/* --- the stage
 * ------------------------------------------------------------------------------------ */

static void guard_fired(void *arg)
{
	struct stage *s = arg;
	s->timed_out = true;
	loop_stop(s->loop);
}

static struct stage *stage_new(void)
{
	struct stage *s = calloc(1, sizeof(*s));
	s->loop = loop_new();
	s->timeout_ms = PATIENT_MS;
	s->segment_fd = memfd_create("segment", MFD_CLOEXEC);
	assert_true(s->segment_fd >= 0);
	out_init(&s->out, s->loop, NULL);
	s->out.slot_ms = 10;
	str_copy(s->out.ehlo, sizeof(s->out.ehlo), STR("default.example"));
	peer_init(&s->peer, s->loop);
	stage_qmgr(s);
	stage_segment(s);
	return s;
}

static void stage_free(struct stage **sp)
{
	struct stage *s = *sp;
	out_fini(&s->out);
	chan_free(&s->qmgr);
	peer_fini(&s->peer);
	loop_timer_cancel(s->loop, &s->guard);
	loop_free(&s->loop);
	close(s->segment_fd);
	free(s);
	*sp = NULL;
}

static struct msg_grant stage_grant(struct stage *s)
{
	return (struct msg_grant){.conn = CONN,
	    .queue = STR("[mx.test.example]/mta1"),
	    .domain = STR("to.example"),
	    .source = STR("127.0.42.9"),
	    .ehlo = STR("out.example"),
	    .host = STR("mx.test.example"),
	    .address = STR("127.0.42.1"),
	    .port = s->peer.port,
	    .tls = TLS_OPPORTUNISTIC,
	    .ignore_8bitmime = 1,
	    .connect_timeout_ms = s->timeout_ms,
	    .greeting_timeout_ms = s->timeout_ms,
	    .command_timeout_ms = s->timeout_ms,
	    .data_timeout_ms = s->timeout_ms,
	    .dot_timeout_ms = s->timeout_ms,
	    .idle_timeout_ms = 3000};
}

/* Runs until CONN_CLOSED (or anything else that stops the loop). */
static void stage_run(struct stage *s)
{
	loop_timer_after(s->loop, &s->guard, GUARD_MS, guard_fired, s);
	loop_run(s->loop);
	assert_false(s->timed_out);
}
