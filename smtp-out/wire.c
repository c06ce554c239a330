/* SPDX-License-Identifier: ISC */
/*
 * The bytes of a session: from the dialogue and the segment to the socket, from the socket to the
 * dialogue, through TLS when it is on. A wake-up does a bounded amount of work, so that a fast peer
 * cannot hold the loop.
 *
 * Order on the wire: content that is under way, then `out`; the final dot and the next
 * transaction's commands stand in `out` and travel with the content's last bytes in one write. What
 * was written is told to the dialogue exactly, because whether a dot may have reached the peer
 * decides what a repeat is.
 *
 * A failed write is not yet a lost connection: a server that answers 4xx or 5xx and closes while we
 * still write has its last words in our socket's buffer. They are read first; the end of file tells
 * the rest.
 */
#include "smtp-out/session_impl.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
	WRITES_A_TURN = 16, /* of one connection: sendfile() is a megabyte each */
	READS_A_TURN = 4,
	WIRE_ENOUGH = 64 * 1024, /* ciphertext waiting for the socket */
	RECORD = 16 * 1024,
};

static void lose(struct session *s, const char *what)
{
	dialogue_fail(&s->dialogue, CONN_LOST, what);
}

static void content_failed(struct session *s)
{
	dialogue_fail(&s->dialogue, CONN_LOCAL, "the message cannot be read from the spool");
}

static void on_write_error(struct session *s, int error)
{
	if (error != EAGAIN && error != EINTR)
		s->write_failed = true;
}

/* --- content -------------------------------------------------------------------------------------
 */

static void begin_content(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	if (!d->content || s->sending == d->content)
		return;
	s->sending = d->content;
	body_begin(&s->body, &d->content->message);
}

/* The rest of the content is in memory: the dot may stand behind it. */
static void end_content(struct session *s)
{
	if (s->dialogue.content && body_is_last(&s->body)) {
		dialogue_content_end(&s->dialogue);
		s->sending = NULL;
	}
}

/* --- in the clear --------------------------------------------------------------------------------
 */

static void wrote(struct session *s, size_t n)
{
	struct dialogue *d = &s->dialogue;
	size_t content = n < s->body.n ? n : s->body.n;
	body_take(&s->body, content);
	if (content > 0)
		d->since_ms = d->now_ms;
	dialogue_sent(d, n - content);
	buf_consume(&d->out, n - content);
}

/* True: something went out, and more may. */
static bool write_plain(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	struct iovec iov[2] = {{.iov_base = (void *)(uintptr_t)s->body.p, .iov_len = s->body.n},
	    {.iov_base = d->out.p, .iov_len = d->out.n}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
	size_t want = s->body.n + d->out.n;
	int more = d->content ? MSG_MORE : 0;
	ssize_t n = sendmsg(s->fd, &m, MSG_NOSIGNAL | more);
	if (n < 0) {
		on_write_error(s, errno);
		return false;
	}
	wrote(s, (size_t)n);
	return (size_t)n == want;
}

static bool write_file(struct session *s)
{
	ssize_t n = body_sendfile(&s->body, s->fd);
	if (n < 0 && (n == -EIO || n == -EBADF || n == -EINVAL)) {
		content_failed(s);
		return false;
	}
	if (n < 0)
		on_write_error(s, (int)-n);
	else if (n > 0)
		s->dialogue.since_ms = s->dialogue.now_ms;
	return n > 0 || s->body.n > 0;
}

static void push_plain(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	for (int i = 0; i < WRITES_A_TURN && d->state == DIALOGUE_TALKING; i++) {
		begin_content(s);
		end_content(s);
		bool more = false;
		if (s->body.n > 0 || d->out.n > 0)
			more = write_plain(s);
		else if (d->content)
			more = write_file(s);
		if (!more)
			return;
	}
}

/* --- through TLS ---------------------------------------------------------------------------------
 */

/* One record's worth of plaintext into `wire`; false: nothing to encrypt. */
static bool seal(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	unsigned char *record = s->out->scratch;
	size_t content = s->body.n < RECORD ? s->body.n : RECORD, commands = 0;
	if (content == s->body.n && d->out.n <= RECORD - content)
		commands = d->out.n;
	else if (content == 0)
		commands = RECORD;
	if (content + commands == 0)
		return false;
	if (content > 0)
		memcpy(record, s->body.p, content);
	if (commands > 0)
		memcpy(record + content, d->out.p, commands);
	if (tls_write(s->tls, record, content + commands, &s->wire) != 0) {
		dialogue_fail(d, CONN_TLS, "TLS failed");
		return false;
	}
	body_take(&s->body, content);
	if (commands > 0)
		dialogue_sealed(d);
	buf_consume(&d->out, commands);
	s->sealed += commands;
	return true;
}

static bool flush_wire(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	if (s->wire.n == 0)
		return true;
	ssize_t n = send(s->fd, s->wire.p, s->wire.n, MSG_NOSIGNAL);
	if (n < 0) {
		on_write_error(s, errno);
		return false;
	}
	buf_consume(&s->wire, (size_t)n);
	if (d->content)
		d->since_ms = d->now_ms;
	if (s->wire.n > 0)
		return false;
	dialogue_sent(d, s->sealed);
	s->sealed = 0;
	return true;
}

static bool fill_wire(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	while (s->wire.n < WIRE_ENOUGH && d->state == DIALOGUE_TALKING) {
		begin_content(s);
		if (d->content && body_load(&s->body) != 0) {
			content_failed(s);
			return false;
		}
		end_content(s);
		if (!seal(s))
			break;
	}
	return s->wire.n > 0;
}

static void push_tls(struct session *s)
{
	if (!flush_wire(s))
		return;
	for (int i = 0; i < WRITES_A_TURN && fill_wire(s); i++)
		if (!flush_wire(s))
			return;
}

void wire_push(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	if (d->state == DIALOGUE_ENDED || s->fd < 0)
		return;
	if (d->quit_written)
		connect_set_abortive(s, false); /* QUIT must arrive */
	if (!s->write_failed) {
		if (s->tls)
			push_tls(s);
		else
			push_plain(s);
	}
	if (d->state == DIALOGUE_ENDED)
		return;
	bool waiting = s->body.n > 0 || d->content || d->out.n > 0 || s->wire.n > 0;
	loop_mod(&s->io, EPOLLIN | (waiting && !s->write_failed ? EPOLLOUT : 0));
}

/* --- reading -------------------------------------------------------------------------------------
 */

static void feed(struct session *s, struct str bytes)
{
	struct dialogue *d = &s->dialogue;
	if (s->in.n == 0) {
		dialogue_feed(d, &bytes);
		if (d->state != DIALOGUE_ENDED)
			buf_put(&s->in, bytes.p, bytes.n);
		return;
	}
	buf_put(&s->in, bytes.p, bytes.n);
	struct str all = {(const char *)s->in.p, s->in.n};
	dialogue_feed(d, &all);
	buf_consume(&s->in, s->in.n - all.n);
	if (s->in.n == 0)
		buf_fini(&s->in);
}

static void handshake_done(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	if (s->in.n > 0) { /* it speaks before it was asked */
		dialogue_fail(d, CONN_TLS, "data before EHLO");
		return;
	}
	s->out->counters.tls++;
	dialogue_secured(d);
}

/* Decrypts what is in out->cipher and feeds it. One read never fills PLAIN_MAX, so nothing stays.
 */
static void feed_tls(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	struct buf *cipher = &s->out->cipher;
	enum tls_state state = tls_feed(s->tls, cipher, &s->in, &s->wire);
	if (state == TLS_OPEN && d->state == DIALOGUE_STARTTLS)
		handshake_done(s);
	if (s->in.n > 0 && d->state == DIALOGUE_TALKING) {
		struct str all = {(const char *)s->in.p, s->in.n};
		dialogue_feed(d, &all);
		buf_consume(&s->in, s->in.n - all.n);
	}
	if (state == TLS_FAILED) {
		char why[200];
		tls_describe(s->tls, why, sizeof(why));
		dialogue_fail(d, CONN_TLS, why);
	} else if (state == TLS_CLOSED) {
		lose(s, "connection closed by the server");
	}
	if (s->in.n == 0)
		buf_fini(&s->in);
}

void wire_start_tls(struct session *s)
{
	char key[900];
	int n = snprintf(key, sizeof(key), "%s|%s|%u|%s", s->grant.host, s->grant.address,
	    s->grant.port, s->grant.source);
	s->tls = tls_connect(s->out->tls, str_of(s->grant.host),
	    n > 0 && (size_t)n < sizeof(key) ? (struct str){key, (size_t)n} : STR(""));
	buf_reset(&s->out->cipher);
	feed_tls(s); /* makes the first flight */
}

static void take(struct session *s, size_t n)
{
	if (!s->tls) {
		feed(s, (struct str){(const char *)s->out->scratch, n});
		return;
	}
	buf_reset(&s->out->cipher);
	buf_put(&s->out->cipher, s->out->scratch, n);
	feed_tls(s);
}

void wire_read(struct session *s)
{
	struct dialogue *d = &s->dialogue;
	for (int i = 0; i < READS_A_TURN && d->state != DIALOGUE_ENDED; i++) {
		ssize_t n = recv(s->fd, s->out->scratch, READ_SIZE, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			s->peer_closed = true;
			lose(s, n == 0 ? "connection closed by the server" : "connection reset");
			return;
		}
		take(s, (size_t)n);
		if (n < READ_SIZE)
			return;
	}
}
