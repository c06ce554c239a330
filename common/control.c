/* SPDX-License-Identifier: ISC */
/*
 * Control sockets: one request, one answer a connection, JSON lines (control.h has the form).
 *
 * A connection goes READING → RUNNING → ENDED and is then closed when the last byte is out. All
 * writing and freeing happens in the connection's own loop callbacks, never inside control_row() or
 * control_end(): a verb may call these from anywhere and its reply stays valid until it ended it,
 * or until `gone` (or drop) told it that the peer left.
 *
 * Bounds: CONNS_MAX connections, so that a forgotten client takes no descriptors from mail;
 * REQUEST_MAX bytes and REQUEST_MS for the request; a reader that takes nothing for STALL_MS is
 * dropped. A stream is asked for rows only while less than OUT_LOW bytes wait; rows given without a
 * stream may reach OUT_MAX, then the answer ends with status 70.
 *
 * A peer may shut down its sending side after the request; only EPOLLHUP or an error means it left.
 */
#include "common/control.h"
#include "common/buf.h"
#include "common/log.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

enum {
	CONNS_MAX = 32,
	UIDS_MAX = 4,
	REQUEST_MAX = 65536,
	REQUEST_MS = 10000,
	STALL_MS = 60000,
	OUT_LOW = 65536,
	OUT_MAX = 16 << 20,
	ACCEPT_RETRY_MS = 1000, /* after EMFILE: the loop must not spin on the waiting client */
	ERROR_MAX = 1000
};
enum state { READING, RUNNING, ENDED };

struct control_reply {
	struct control *control;
	struct control_reply *next;
	struct loop_fd entry;
	struct loop_timer timer;
	enum state state;
	bool later;	       /* an answer will come by itself */
	bool marked, released; /* of a control that holds: its end waits for the second */
	struct buf in;
	struct buf out;
	json_t *request; /* owned; args and options are views into it */
	uid_t uid;	 /* of the peer */
	control_next_fn *next_rows;
	void (*drop)(void *);
	void *stream_state;
	void (*gone)(void *);
	void *gone_arg;
};
struct control {
	struct loop *loop;
	const struct control_verb *verbs;
	size_t verb_count;
	void *ctx;
	struct loop_fd listener;
	int listen_fd;
	struct loop_timer accept_again;
	struct control_reply *replies;
	size_t reply_count;
	uid_t uids[UIDS_MAX];
	size_t uid_count;
	bool holds;
};

/* --- the answer ------------------------------------------------------------------------------- */

/* Rows wait for the socket: the loop calls reply_event() when there is room. */
static void want_write(struct control_reply *r)
{
	if (r->entry.loop != NULL)
		loop_mod(&r->entry, EPOLLOUT);
}

static int dump_to_buf(const char *p, size_t n, void *arg)
{
	buf_put(arg, p, n);
	return 0;
}

static void put_line(struct control_reply *r, const json_t *object)
{
	size_t start = r->out.n;
	if (json_dump_callback(object, dump_to_buf, &r->out, JSON_COMPACT) != 0) {
		r->out.n =
		    start; /* a string that is not UTF-8, refused by jansson when it was made */
		return;
	}
	buf_put(&r->out, "\n", 1);
}

void control_row(struct control_reply *r, json_t *row)
{
	if (row != NULL && r->state == RUNNING && !r->out.failed) {
		put_line(r, row);
		want_write(r);
	}
	json_decref(row);
}

static void end_with(struct control_reply *r, int status, const char *error)
{
	if (r->state == ENDED)
		return;
	if (r->out.failed) { /* the rows did not fit: say so in the room they leave */
		r->out.failed = false;
		r->out.max += ERROR_MAX * 8;
		while (r->out.n > 0 && r->out.p[r->out.n - 1] != '\n')
			r->out.n--;
		status = EX_SOFTWARE;
		error = "the answer is too long";
	}
	json_t *end = json_object();
	json_object_set_new(end, "end", json_true());
	json_object_set_new(end, "status", json_integer(status));
	if (error[0] != 0) {
		char clean[ERROR_MAX + 1];
		json_object_set_new(
		    end, "error", json_string(log_clean(clean, sizeof clean, str_of(error))));
	}
	put_line(r, end);
	json_decref(end);
	r->state = ENDED;
	want_write(r);
	if (r->control->holds)
		loop_again(r->control->loop); /* for the turn's end, which marks it */
}

void control_hold(struct control *c)
{
	if (c != NULL)
		c->holds = true;
}

void control_mark(struct control *c)
{
	for (struct control_reply *r = c ? c->replies : NULL; r != NULL; r = r->next)
		r->marked |= r->state == ENDED;
}

void control_release(struct control *c)
{
	for (struct control_reply *r = c ? c->replies : NULL; r != NULL; r = r->next)
		if (r->marked && !r->released) {
			r->released = true;
			want_write(r);
		}
}

static bool is_held(const struct control_reply *r)
{
	return r->control->holds && r->state == ENDED && !r->released;
}

void control_end(struct control_reply *r, int status, const char *fmt, ...)
{
	char error[ERROR_MAX + 1] = "";
	va_list ap;
	if (fmt != NULL) {
		va_start(ap, fmt);
		vsnprintf(error, sizeof error, fmt, ap);
		va_end(ap);
	}
	end_with(r, status, error);
}

void control_stream(
    struct control_reply *r, control_next_fn *next, void (*drop)(void *), void *state)
{
	must(r->next_rows == NULL);
	r->next_rows = next;
	r->drop = drop;
	r->stream_state = state;
	want_write(r);
}

void control_later(struct control_reply *r, void (*gone)(void *arg), void *arg)
{
	r->later = true;
	r->gone = gone;
	r->gone_arg = arg;
}

const char *control_arg(const json_t *args, size_t i)
{
	return json_string_value(json_array_get(args, i));
}

const char *control_option(const json_t *options, const char *name)
{
	return json_string_value(json_object_get(options, name));
}

/* The name is what the client says, so it is only a help beside the uid, which the kernel says. */
void control_who(const struct control_reply *r, char who[CONTROL_WHO_BYTES])
{
	const char *by = json_string_value(json_object_get(r->request, "by"));
	size_t n = 0;
	for (; by != NULL && *by != 0 && n < CONTROL_NAME_MAX; by++)
		if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-",
			*by) != NULL)
			who[n++] = *by;
	snprintf(who + n, CONTROL_WHO_BYTES - n, n > 0 ? " (uid %lu)" : "uid %lu",
	    (unsigned long)r->uid);
}

/* --- a connection's life ---------------------------------------------------------------------- */

static void reply_free(struct control_reply *r)
{
	struct control *c = r->control;
	struct control_reply **at = &c->replies;
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	c->reply_count--;
	int fd = r->entry.fd;
	loop_del(&r->entry);
	close(fd);
	loop_timer_cancel(c->loop, &r->timer);
	if (r->drop != NULL)
		r->drop(r->stream_state);
	if (r->gone != NULL && r->state != ENDED)
		r->gone(r->gone_arg);
	json_decref(r->request);
	buf_fini(&r->in);
	buf_fini(&r->out);
	free(r);
}

static void on_stalled(void *arg)
{
	reply_free(arg);
}

/* Rows until enough wait. */
static void pull_rows(struct control_reply *r)
{
	while (
	    r->next_rows != NULL && r->state == RUNNING && r->out.n < OUT_LOW && !r->out.failed) {
		size_t before = r->out.n;
		if (!r->next_rows(r->stream_state, r)) {
			if (r->state == RUNNING)
				end_with(r, EX_OK, "");
		} else if (r->out.n == before) {
			loop_again(
			    r->control->loop); /* it looked in vain for a while: others first */
			return;
		}
	}
	if (r->out.failed && !r->later)
		end_with(r, EX_SOFTWARE, "");
}

/* Sends what waits. False: the peer is gone. */
static bool flush_out(struct control_reply *r)
{
	if (is_held(r))
		return true;
	while (r->out.n > 0) {
		ssize_t n = send(r->entry.fd, r->out.p, r->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		buf_consume(&r->out, (size_t)n);
		loop_timer_after(r->control->loop, &r->timer, STALL_MS, on_stalled, r);
	}
	/* Nothing waits for the peer: an answer that comes later may take its time. */
	loop_timer_cancel(r->control->loop, &r->timer);
	return true;
}

/* Moves the answer on; frees the reply when it is over. */
static void advance(struct control_reply *r)
{
	pull_rows(r);
	if (!flush_out(r) || (r->out.n == 0 && r->state == ENDED)) {
		reply_free(r);
		return;
	}
	if (r->out.n > 0 && !wheel_armed(&r->timer.node))
		loop_timer_after(r->control->loop, &r->timer, STALL_MS, on_stalled, r);
	bool wants = !is_held(r) && (r->out.n > 0 || (r->next_rows != NULL && r->state == RUNNING));
	loop_mod(&r->entry, wants ? EPOLLOUT : 0); /* EPOLLHUP and EPOLLERR always come */
}

static void help(struct control_reply *r)
{
	struct control *c = r->control;
	for (size_t i = 0; i < c->verb_count; i++)
		control_row(r, json_pack("{s:s, s:s, s:s}", "verb", c->verbs[i].name, "usage",
				   c->verbs[i].usage, "help", c->verbs[i].help));
	end_with(r, EX_OK, "");
}

static const struct control_verb *find_verb(const struct control *c, const char *name)
{
	for (size_t i = 0; i < c->verb_count; i++)
		if (strcmp(c->verbs[i].name, name) == 0)
			return &c->verbs[i];
	return NULL;
}

static bool all_strings(const json_t *args, const json_t *options)
{
	json_t *value;
	const char *key;
	size_t i;
	if (!json_is_array(args) || !json_is_object(options))
		return false;
	json_array_foreach(args, i, value) if (!json_is_string(value)) return false;
	/* The macro wants its object without const, and only reads it. */
	for (void *it = json_object_iter((json_t *)(uintptr_t)options); it != NULL;
	     it = json_object_iter_next((json_t *)(uintptr_t)options, it)) {
		key = json_object_iter_key(it);
		value = json_object_iter_value(it);
		if (key[0] == 0 || !json_is_string(value))
			return false;
	}
	return true;
}

/* Whether the usage names "--option". A mistyped filter must not leave a verb without its filter.
 */
static bool usage_names(const char *usage, const char *option)
{
	size_t n = strlen(option);
	for (const char *at = usage; (at = strstr(at, "--")) != NULL;) {
		at += 2;
		if (strncmp(at, option, n) == 0 &&
		    strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789-") == n)
			return true;
	}
	return false;
}

/* The first option the verb does not know, or NULL. */
static const char *unknown_option(const char *usage, const json_t *options)
{
	/* jansson wants its object without const, and only reads it. */
	json_t *object = (json_t *)(uintptr_t)options;
	for (void *it = json_object_iter(object); it != NULL;
	     it = json_object_iter_next(object, it))
		if (!usage_names(usage, json_object_iter_key(it)))
			return json_object_iter_key(it);
	return NULL;
}

static void run_verb(
    struct control_reply *r, const char *name, const json_t *args, const json_t *options)
{
	struct control *c = r->control;
	const struct control_verb *verb = find_verb(c, name);
	int given = (int)json_array_size(args);
	const char *usage = verb != NULL ? verb->usage : "help";
	const char *unknown = unknown_option(usage, options);
	if (verb == NULL && strcmp(name, "help") == 0 && unknown == NULL) {
		help(r);
	} else if (verb == NULL && strcmp(name, "help") != 0) {
		control_end(r, EX_USAGE, "no such verb: %s (try help)", name);
	} else if (unknown != NULL) {
		control_end(r, EX_USAGE, "no option --%.64s here; usage: %s", unknown, usage);
	} else if (given < verb->min_args || given > verb->max_args) {
		control_end(r, EX_USAGE, "usage: %s", verb->usage);
	} else {
		verb->fn(c->ctx, r, args, options);
		if (r->state == RUNNING && r->next_rows == NULL && !r->later)
			end_with(r, EX_OK, "");
	}
}

/* One whole line has come. */
static void run_request(struct control_reply *r, size_t line_bytes)
{
	json_error_t error;
	r->state = RUNNING;
	loop_timer_cancel(r->control->loop, &r->timer);
	loop_mod(&r->entry, EPOLLOUT);
	r->request = json_loadb((const char *)r->in.p, line_bytes, JSON_REJECT_DUPLICATES, &error);
	const char *name = json_string_value(json_object_get(r->request, "verb"));
	json_t *args = json_object_get(r->request, "args"),
	       *options = json_object_get(r->request, "options");
	if (json_is_object(r->request) && args == NULL) {
		args = json_array();
		json_object_set_new(r->request, "args", args);
	}
	if (json_is_object(r->request) && options == NULL) {
		options = json_object();
		json_object_set_new(r->request, "options", options);
	}
	if (r->request == NULL)
		control_end(r, EX_DATAERR, "the request is not JSON: %s", error.text);
	else if (name == NULL || !all_strings(args, options))
		control_end(r, EX_DATAERR,
		    "the request is not {\"verb\": \"...\", \"args\": [\"...\"], \"options\": {}}");
	else
		run_verb(r, name, args, options);
}

static void read_request(struct control_reply *r)
{
	unsigned char *p = buf_reserve(&r->in, 4096);
	ssize_t n = p == NULL ? 0 : recv(r->entry.fd, p, 4096, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) { /* left, or too long: there is no request to answer */
		reply_free(r);
		return;
	}
	const unsigned char *end = memchr(p, '\n', (size_t)n);
	r->in.n += (size_t)n;
	if (end != NULL)
		run_request(r, (size_t)(end - r->in.p));
}

static void reply_event(void *arg, uint32_t events)
{
	struct control_reply *r = arg;
	if (r->state == READING && (events & EPOLLIN) != 0)
		read_request(r);
	else if ((events & (EPOLLHUP | EPOLLERR)) != 0)
		reply_free(r);
	else if (r->state != READING)
		advance(r);
}

/* --- accepting -------------------------------------------------------------------------------- */

static bool peer_allowed(const struct control *c, int fd, uid_t *uid)
{
	struct ucred peer;
	socklen_t n = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) != 0)
		return false;
	*uid = peer.uid;
	for (size_t i = 0; i < c->uid_count; i++)
		if (c->uids[i] == peer.uid)
			return true;
	return false;
}

static void turn_away(int fd, int status, const char *error)
{
	char line[200];
	int n = snprintf(
	    line, sizeof line, "{\"end\":true,\"status\":%d,\"error\":\"%s\"}\n", status, error);
	/* Best effort: whoever cannot take a line at once does without. */
	if (send(fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_info("control: a client that was turned away did not listen");
	close(fd);
}

static void take_client(struct control *c, int fd)
{
	uid_t uid;
	if (!peer_allowed(c, fd, &uid)) {
		turn_away(fd, EX_NOPERM, "only root and the user that runs the suite may ask");
		return;
	}
	if (c->reply_count == CONNS_MAX) {
		turn_away(fd, EX_TEMPFAIL, "too many control connections");
		return;
	}
	struct control_reply *r = xcalloc(1, sizeof *r);
	r->control = c;
	r->uid = uid;
	buf_init(&r->in, REQUEST_MAX + 4096);
	buf_init(&r->out, OUT_MAX);
	if (loop_add(c->loop, &r->entry, fd, EPOLLIN, reply_event, r) != 0) {
		buf_fini(&r->in);
		buf_fini(&r->out);
		free(r);
		turn_away(fd, EX_OSERR, "no resources");
		return;
	}
	r->next = c->replies;
	c->replies = r;
	c->reply_count++;
	loop_timer_after(c->loop, &r->timer, REQUEST_MS, on_stalled, r);
}

static void on_accept_again(void *arg)
{
	struct control *c = arg;
	loop_mod(&c->listener, EPOLLIN);
}

static void on_client(void *arg, uint32_t events)
{
	struct control *c = arg;
	(void)events;
	for (int i = 0; i < CONNS_MAX; i++) { /* a turn's share */
		int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			take_client(c, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN) {
			loop_mod(&c->listener, 0);
			loop_timer_after(
			    c->loop, &c->accept_again, ACCEPT_RETRY_MS, on_accept_again, c);
		}
		return;
	}
}

/* jansson would open /dev/urandom for its hash seed, which a worker's filter forbids: the kernel
 * has put random bytes into every process at its start. */
static void seed_json(void)
{
	size_t seed = 1;
	const void *bytes = (const void *)getauxval(AT_RANDOM);
	if (bytes != NULL)
		memcpy(&seed, bytes, sizeof seed);
	json_object_seed(seed | 1);
}

struct control *control_new(
    struct loop *loop, const struct control_verb *verbs, size_t n, void *ctx)
{
	struct control *c = xcalloc(1, sizeof *c);
	seed_json();
	*c = (struct control){
	    .loop = loop, .verbs = verbs, .verb_count = n, .ctx = ctx, .listen_fd = -1};
	control_allow_uid(c, 0);
	control_allow_uid(c, geteuid());
	return c;
}

void control_allow_uid(struct control *c, uid_t uid)
{
	for (size_t i = 0; i < c->uid_count; i++)
		if (c->uids[i] == uid)
			return;
	must(c->uid_count < UIDS_MAX);
	c->uids[c->uid_count++] = uid;
}

static void stop_listening(struct control *c)
{
	loop_timer_cancel(c->loop, &c->accept_again);
	loop_del(&c->listener);
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	c->listen_fd = -1;
}

void control_listen(struct control *c, int fd)
{
	stop_listening(c);
	c->listen_fd = fd;
	int r = loop_add(c->loop, &c->listener, fd, EPOLLIN, on_client, c);
	if (r != 0)
		log_error("control: cannot listen: %s", strerrordesc_np(-r));
}

void control_free(struct control **c)
{
	if (*c == NULL)
		return;
	stop_listening(*c);
	while ((*c)->replies != NULL)
		reply_free((*c)->replies);
	free(*c);
	*c = NULL;
}
