/* SPDX-License-Identifier: ISC */
/*
 * The life of a session: bytes in, bytes out, time. What the bytes mean is said in verbs.c and
 * content.c.
 *
 * One run loop, session_run(): while there is input that may be looked at, one step at a time.
 * Callbacks (the socket, the timer, the writer) note what happened, call session_resume() or
 * session_run(), and end in finish_wakeup(), the only place that sends, changes what epoll watches,
 * and frees. Steps never free.
 *
 * Memory: all sessions read into one buffer of the process; what a step does not eat (half a
 * command; commands that came while a message is committed) is kept in `in`. So an idle session
 * holds no buffer. Input is not read while it could not be looked at, so `in` never holds more than
 * one read and a line.
 *
 * A client that does not read its answers: `out` grows to OUTPUT_MAX, then no further command is
 * looked at, and the deadline of the wait for a command runs on.
 *
 * Deadlines. One timer a session. Waiting for a command: command-timeout from the last answer,
 * whatever bytes trickle in. Content: see extend_deadline() in content.c. Above both stands the
 * transaction's own. While we are the ones who are slow (commit) there is none.
 */
#include "smtpd/session.h"

#include "common/clock.h"
#include "common/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN_MAX = 4 * INPUT_BYTES, NET_MAX = 2 * INPUT_BYTES, OUT_KEEP = 4096 };

/* --- what is --------------------------------------------------------------------------------- */

unsigned session_phase(const struct session *s)
{
	if (!s->helo[0])
		return PHASE_START;
	if (!s->txn)
		return PHASE_GREETED;
	if (s->txn->receiving)
		return PHASE_CHUNKS;
	return s->txn->rcpt_count > 0 ? PHASE_RCPTS : PHASE_SENDER;
}

/* May the next byte be looked at? */
static bool can_run(const struct session *s)
{
	bool open = s->mode == MODE_COMMAND || s->mode == MODE_DATA || s->mode == MODE_CHUNK;

	return open && !s->paused && s->out.n + s->reply.n < OUTPUT_MAX;
}

int64_t session_timeout_ms(const struct session *s)
{
	int64_t ms = s->listener->command_timeout_ms;

	return s->server->stress && ms > STRESS_TIMEOUT_MS ? STRESS_TIMEOUT_MS : ms;
}

/* --- answers ---------------------------------------------------------------------------------- */

void session_text(struct session *s, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	must(n > 0 && (size_t)n < sizeof(text));
	buf_put(&s->reply, text, (size_t)n);
}

void session_end(struct session *s)
{
	if (s->mode != MODE_DEAD)
		s->mode = MODE_CLOSING;
	session_wait(s, LINGER_MS);
}

void session_answer(struct session *s, enum answer a)
{
	if (a == ANSWER_TENANT_RATE) {
		char line[ANSWER_LINE_MAX];
		buf_str(&s->reply, answer_with(line, a, s->detail));
		buf_cstr(&s->reply, "\r\n");
	} else {
		answer_put(&s->reply, a);
	}
	if (answer_ends(a)) {
		session_end(s);
		return;
	}
	/* Our own lacks are not the client's errors. */
	if (answer_code(a) < 500 || ++s->errors < s->listener->max_errors)
		return;
	answer_put(&s->reply, ANSWER_TOO_MANY_ERRORS);
	session_end(s);
}

/* Refusals of mail are logged, plain errors of syntax and order are counted only; both are bounded
 * by max-errors a session. */
void session_reject(struct session *s, const char *at, enum answer a, const char *address)
{
	char line[ANSWER_LINE_MAX], quoted[ADDRESS_MAX + 8] = "";
	struct str text = answer_with(line, a, a == ANSWER_TENANT_RATE ? s->detail : "");
	int code = answer_code(a);

	if (code == 500 || code == 501 || code == 502 || code == 503 || code == 555)
		return;
	if (address[0])
		snprintf(quoted, sizeof(quoted), "<%s>: ", address);
	log_info("NOQUEUE: reject: %s from unknown[%s]: %.9s %s%.*s; from=<%s> to=<%s> proto=%s "
		 "helo=<%s>",
	    at, s->client, text.p, quoted, (int)text.n - 10, text.p + 10,
	    s->txn ? s->txn->sender : "", address, s->ehlo ? "ESMTP" : "SMTP", s->helo);
}

/* Sessions keep the settings they began with; limits are the newest, at once. */
enum answer session_tenant_rate(
    struct session *s, const struct tenant *t, uint64_t messages, uint64_t rcpts)
{
	static const enum conf_opt opts[IN_RATES] = {
	    CO_TENANT_max_msg_in_rate, CO_TENANT_max_rcpt_in_rate, CO_TENANT_max_data_in_rate};
	enum in_rate which;

	t = settings_tenant(s->server->settings, t);
	which = rates_check(s->server->rates, t, messages, rcpts, loop_now_ms(s->server->loop));
	if (which == IN_RATES)
		return ANSWER_NONE;
	s->server->counters.over_rate[which]++;
	snprintf(s->detail, sizeof(s->detail), "tenant %.100s may bring %s %.60s", t->name,
	    conf_opt_key(opts[which]), t->in[which].text);
	return ANSWER_TENANT_RATE;
}

void session_drop_txn(struct session *s)
{
	if (s->txn)
		s->server->content_bytes -= s->txn->counted;
	txn_free(&s->txn);
	s->paused = false;
}

/* --- time ------------------------------------------------------------------------------------- */

static void on_timer(void *arg);

static void arm(struct session *s)
{
	if (s->deadline_ms == INT64_MAX)
		return;
	if (wheel_armed(&s->timer.node) && s->timer_at_ms <= s->deadline_ms)
		return; /* looks again when it fires: no work of the wheel for each command */
	s->timer_at_ms = s->deadline_ms;
	loop_timer_at(s->server->loop, &s->timer, s->deadline_ms, on_timer, s);
}

void session_wait(struct session *s, int64_t ms)
{
	s->deadline_ms = ms < 0 ? INT64_MAX : loop_now_ms(s->server->loop) + ms;
	if (ms >= 0 && s->txn && s->deadline_ms > s->txn->deadline_ms && s->mode != MODE_CLOSING)
		s->deadline_ms = s->txn->deadline_ms;
	arm(s);
}

void session_wait_command(struct session *s)
{
	if (s->mode != MODE_CLOSING)
		session_wait(s, session_timeout_ms(s));
}

void session_retime(struct session *s)
{
	int64_t most_ms = loop_now_ms(s->server->loop) + session_timeout_ms(s);

	if (s->deadline_ms != INT64_MAX && s->deadline_ms > most_ms && s->mode <= MODE_CHUNK) {
		s->deadline_ms = most_ms;
		if (s->data_deadline_ms > most_ms)
			s->data_deadline_ms = most_ms;
		arm(s);
	}
}

/* --- output ----------------------------------------------------------------------------------- */

static void die_quietly(struct session *s)
{
	s->mode = MODE_DEAD;
}

static void seal_replies(struct session *s)
{
	/* The 220 to STARTTLS is the last answer in the clear: it was moved to `out` already. */
	if (s->reply.n == 0)
		return;
	if (!s->tls)
		buf_put(&s->out, s->reply.p, s->reply.n);
	else if (tls_write(s->tls, s->reply.p, s->reply.n, &s->out) != 0)
		die_quietly(s);
	buf_reset(&s->reply);
	if (s->out.failed)
		die_quietly(s);
}

static void flush(struct session *s)
{
	seal_replies(s);
	while (s->out.n > 0 && s->mode != MODE_DEAD) {
		ssize_t n = send(s->fd, s->out.p, s->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0)
			buf_consume(&s->out, (size_t)n);
		else if (errno == EAGAIN || errno == EINTR)
			break;
		else
			die_quietly(s);
	}
	if (s->out.n == 0 && s->out.cap > OUT_KEEP)
		buf_fini(&s->out);
}

/* --- input: the steps --------------------------------------------------------------------------
 */

/* Behind STARTTLS nothing may stand in the clear: it would be taken for something said inside TLS.
 */
static void switch_to_tls(struct session *s, struct str *in)
{
	buf_put(&s->out, s->reply.p, s->reply.n);
	buf_reset(&s->reply);
	if (in->n > 0) {
		log_warn("unknown[%s]: plaintext after STARTTLS: closed", s->client);
		die_quietly(s);
	}
}

static void run_line(struct session *s, struct str line, struct str *in)
{
	bool plain = s->tls == NULL;

	if (line.n == 0 || line.p[line.n - 1] != '\r') {
		session_answer(s, ANSWER_BARE_COMMAND);
	} else {
		line.n--;
		verb_run(s, line);
	}
	if (s->mode == MODE_COMMAND)
		session_wait_command(s);
	if (plain && s->tls)
		switch_to_tls(s, in);
}

/* false: more bytes are wanted. */
static bool step_command(struct session *s, struct str *in)
{
	const char *lf = memchr(in->p, '\n', in->n);
	struct str line = {in->p, lf ? (size_t)(lf - in->p) : in->n};

	if (!s->skip_line && command_is_alien(line)) {
		log_info("unknown[%s]: not SMTP: closed", s->client);
		session_answer(s, ANSWER_NOT_SMTP);
		session_end(s);
		return false;
	}
	if (!lf && line.n <= COMMAND_LINE_MAX && !s->skip_line)
		return false;
	in->p += lf ? line.n + 1 : line.n;
	in->n -= lf ? line.n + 1 : line.n;
	if (s->skip_line || line.n > COMMAND_LINE_MAX) {
		s->skip_line = !lf;
		if (lf)
			session_answer(s, ANSWER_LONG_LINE);
	} else {
		run_line(s, line, in);
	}
	return true;
}

static void session_run(struct session *s, struct str *in)
{
	s->stalled = false;
	while (can_run(s)) {
		if (s->mode == MODE_CHUNK && (in->n > 0 || s->chunk_left == 0))
			content_take(s, in);
		else if (in->n == 0)
			return;
		else if (s->mode == MODE_DATA)
			content_take(s, in);
		else if (!step_command(s, in))
			return;
	}
	s->stalled = true;
}

static void run_buffered(struct session *s)
{
	struct str in = {(const char *)s->in.p, s->in.n};

	session_run(s, &in);
	buf_consume(&s->in, s->in.n - in.n);
	if (s->in.n == 0)
		buf_fini(&s->in);
}

/* --- input: the network ------------------------------------------------------------------------
 */

static void feed_tls(struct session *s)
{
	size_t before;

	do {
		before = s->net.n + s->in.n;
		enum tls_state state = tls_feed(s->tls, &s->net, &s->in, &s->out);
		run_buffered(s);
		if (state == TLS_FAILED) {
			char why[200];
			tls_describe(s->tls, why, sizeof(why));
			log_info("unknown[%s]: TLS failed: %s", s->client, why);
			flush(s); /* the alert */
			die_quietly(s);
		} else if (state == TLS_CLOSED && can_run(s)) {
			s->eof = true;
		}
	} while (can_run(s) && !s->eof &&
		 ((s->net.n > 0 && s->net.n + s->in.n != before) || tls_pending(s->tls)));
	if (s->net.n == 0)
		buf_fini(&s->net);
}

static void take_input(struct session *s, const char *p, size_t n)
{
	struct str in = {p, n};

	if (s->tls) {
		buf_put(&s->net, p, n);
		feed_tls(s);
		return;
	}
	if (s->in.n > 0) {
		buf_put(&s->in, p, n);
		run_buffered(s);
	} else {
		session_run(s, &in);
		buf_put(&s->in, in.p, in.n);
	}
	must(!s->in.failed);
}

static void read_socket(struct session *s)
{
	ssize_t n = recv(s->fd, s->server->input, INPUT_BYTES, MSG_DONTWAIT);

	if (n > 0)
		take_input(s, s->server->input, (size_t)n);
	else if (n == 0)
		s->eof = true;
	else if (errno != EAGAIN && errno != EINTR)
		die_quietly(s);
}

static void log_lost(const struct session *s)
{
	s->server->counters.lost++;
	log_info("lost connection after %s from unknown[%s]",
	    s->mode == MODE_DATA ? "DATA"
	    : s->last_verb	 ? verb_name(s->last_verb)
				 : "CONNECT",
	    s->client);
}

/* --- the end of every wake-up ------------------------------------------------------------------
 */

static void log_end(const struct session *s)
{
	char text[512];
	int n = 0;
	unsigned good = 0, all = 0;

	for (int v = VERB_UNKNOWN + 1; v <= VERB_COUNT; v++) {
		int verb =
		    v == VERB_COUNT ? VERB_UNKNOWN : v; /* unknown ones last, as Postfix does */
		const uint32_t *c = s->count[verb];
		char name[12];
		size_t i = 0;
		if (c[1] == 0)
			continue;
		for (const char *p = verb_name((enum verb)verb); *p && i + 1 < sizeof(name); p++)
			name[i++] = (char)(*p >= 'A' && *p <= 'Z' ? *p + 'a' - 'A' : *p);
		name[i] = '\0';
		n += snprintf(text + n, sizeof(text) - (size_t)n,
		    c[0] == c[1] ? " %s=%u" : " %s=%u/%u", name, c[0], c[1]);
		good += c[0];
		all += c[1];
	}
	snprintf(text + n, sizeof(text) - (size_t)n,
	    good == all ? " commands=%u" : " commands=%u/%u", good, all);
	log_info("disconnect from unknown[%s]%s", s->client, text);
}

static void close_socket(struct session *s)
{
	if (s->fd < 0)
		return;
	if (s->tls && tls_state(s->tls) == TLS_OPEN && s->out.n == 0) {
		tls_shutdown(s->tls, &s->out);
		(void)!send(s->fd, s->out.p, s->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	loop_del(&s->io);
	close(s->fd);
	s->fd = -1;
	log_end(s);
}

void session_free(struct session **session)
{
	struct session *s = *session;

	*session = NULL;
	content_forget(s);
	close_socket(s);
	loop_timer_cancel(s->server->loop, &s->timer);
	session_drop_txn(s);
	tls_free(&s->tls);
	buf_fini(&s->net);
	buf_fini(&s->in);
	buf_fini(&s->reply);
	buf_fini(&s->out);
	*s->at = s->next;
	if (s->next)
		s->next->at = s->at;
	struct server *server = s->server;
	settings_unref(&s->settings);
	free(s);
	server_on_session_end(server);
}

static void run_input(struct session *s)
{
	if (s->tls)
		feed_tls(s);
	else
		run_buffered(s);
}

static void watch(struct session *s, bool spurious_input)
{
	uint32_t events = s->io.events & EPOLLIN;

	if (can_run(s))
		events = EPOLLIN;
	else if (spurious_input)
		events = 0; /* only now: most clients send nothing while they wait for an answer */
	if (s->out.n > 0)
		events |= EPOLLOUT;
	loop_mod(&s->io, events);
}

static void finish_wakeup(struct session *s, bool spurious_input)
{
	if (s->eof && s->mode != MODE_DEAD && !s->committing) {
		if (s->mode != MODE_CLOSING)
			log_lost(s);
		die_quietly(s);
	}
	if (s->mode != MODE_DEAD)
		flush(s);
	while (s->stalled && can_run(s)) { /* the answers were too many, and have left */
		run_input(s);
		flush(s);
	}
	if (s->mode == MODE_CLOSING && s->out.n == 0)
		die_quietly(s);
	if (s->mode != MODE_DEAD) {
		watch(s, spurious_input);
		return;
	}
	content_forget(s);
	close_socket(s);
	if (!s->committing)
		session_free(&s);
}

/* Also after output has drained: what was held back by a full `out` goes on. */
void session_resume(struct session *s)
{
	if (can_run(s))
		run_input(s);
	finish_wakeup(s, false);
}

static void on_io(void *arg, uint32_t events)
{
	struct session *s = arg;
	bool readable = (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;

	if (events & EPOLLOUT) {
		flush(s);
		if (can_run(s) && s->stalled) {
			session_resume(s);
			return; /* the rest comes with the next turn */
		}
	}
	bool spurious = readable && !can_run(s);
	if (readable && !spurious)
		read_socket(s);
	else if (events & (EPOLLHUP | EPOLLERR))
		die_quietly(s); /* cannot be masked: it would come again at once */
	finish_wakeup(s, spurious);
}

static void on_timer(void *arg)
{
	struct session *s = arg;
	int64_t now_ms = loop_now_ms(s->server->loop);

	if (now_ms < s->deadline_ms) {
		arm(s);
		return;
	}
	if (s->mode == MODE_PARKED || s->mode == MODE_STREAM) {
		content_timeout(s);
		session_resume(s);
		return;
	}
	s->server->counters.timeouts++;
	if (s->mode == MODE_CLOSING) {
		die_quietly(s);
	} else {
		bool content = s->mode == MODE_DATA || s->mode == MODE_CHUNK;
		log_info("timeout after %s from unknown[%s]",
		    s->last_verb ? verb_name(s->last_verb) : "CONNECT", s->client);
		session_answer(s, content ? ANSWER_SLOW : ANSWER_TIMEOUT);
		flush(s);
		die_quietly(s); /* nobody waits for a client that let us wait */
	}
	finish_wakeup(s, false);
}

/* --- life ------------------------------------------------------------------------------------- */

void session_stop(struct session *s)
{
	if (s->mode != MODE_COMMAND || s->txn)
		return;
	session_answer(s, ANSWER_STOPPING);
	finish_wakeup(s, false);
}

void session_kill(struct session *s)
{
	die_quietly(s);
	finish_wakeup(s, false);
}

static void print_address(struct session *s)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (memcmp(s->address, mapped, sizeof(mapped)) == 0)
		inet_ntop(AF_INET, s->address + 12, s->client, sizeof(s->client));
	else
		inet_ntop(AF_INET6, s->address, s->client, sizeof(s->client));
}

struct session *session_new(struct server *server, struct settings *settings,
    const struct listener *listener, int fd, const uint8_t address[16])
{
	struct session *s = xcalloc(1, sizeof(*s));

	*s = (struct session){
	    .server = server, .settings = settings, .listener = listener, .fd = fd};
	s->number = ++server->next_session;
	s->began_ms = loop_now_ms(server->loop);
	memcpy(s->address, address, sizeof(s->address));
	s->client_tenant = tenants_client(settings->tenants, address);
	print_address(s);
	buf_init(&s->in, IN_MAX);
	buf_init(&s->net, NET_MAX);
	buf_init(&s->reply, 2 * OUTPUT_MAX);
	buf_init(&s->out, 8 * OUTPUT_MAX);
	s->next = server->sessions;
	s->at = &server->sessions;
	if (s->next)
		s->next->at = &s->next;
	server->sessions = s;
	if (loop_add(server->loop, &s->io, fd, EPOLLIN, on_io, s) != 0) {
		session_free(&s);
		return NULL;
	}
	log_info("connect from unknown[%s]", s->client);
	session_text(s, "220 %s ESMTP Postern\r\n", settings->host);
	session_wait_command(s);
	flush(s);
	watch(s, false);
	return s;
}
