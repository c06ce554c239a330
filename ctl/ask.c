/* SPDX-License-Identifier: ISC */
/*
 * One request over one control socket: a line of JSON out, lines of JSON in, the last of them with
 * "end". Each way this can fail has its sentence and its exit code.
 */
#include "common/buf.h"
#include "ctl/ctl.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

enum {
	WAIT_MS = 60000,	  /* between two pieces of an answer: longer than any verb takes */
	LINE_MAX_BYTES = 32 << 20 /* one row; the service's own limit is half of it */
};

static void PRINTF_LIKE(3, 4) fail(struct answer *a, int status, const char *fmt, ...)
{
	va_list ap;
	a->status = status;
	va_start(ap, fmt);
	vsnprintf(a->error, sizeof a->error, fmt, ap);
	va_end(ap);
}

static void connect_failed(const char *path, int error, struct answer *a)
{
	if (error == EACCES || error == EPERM)
		fail(a, EX_NOPERM,
		    "no permission for %s: ask as root, or as the user that runs postern-master",
		    path);
	else if (error == ENOENT)
		fail(a, EX_UNAVAILABLE,
		    "%s is not there: is postern-master running, and with this configuration?",
		    path);
	else if (error == ECONNREFUSED || error == EAGAIN)
		fail(a, EX_TEMPFAIL,
		    "nobody listens on %s: the service may be restarting, try again", path);
	else
		fail(a, EX_UNAVAILABLE, "%s: %s", path, strerrordesc_np(error));
}

static int open_socket(const char *path, struct answer *a)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	str_copy(to.sun_path, sizeof to.sun_path, str_of(path));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
		connect_failed(path, errno, a);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

static bool send_all(int fd, struct str s)
{
	while (s.n > 0) {
		ssize_t n = send(fd, s.p, s.n, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		s.p += n;
		s.n -= (size_t)n;
	}
	return true;
}

/* True: that was the end of the answer. */
static bool take_line(const char *p, size_t n, ask_row_fn *on_row, void *ctx, struct answer *a)
{
	json_t *row = json_loadb(p, n, 0, NULL);
	bool last = false;
	if (!json_is_object(row)) {
		fail(a, EX_SOFTWARE, "the answer is not JSON objects");
		last = true;
	} else if (json_is_true(json_object_get(row, "end"))) {
		const char *error = json_string_value(json_object_get(row, "error"));
		a->status = (int)json_integer_value(json_object_get(row, "status"));
		snprintf(a->error, sizeof a->error, "%s", error != NULL ? error : "");
		last = true;
	} else {
		on_row(ctx, row);
	}
	json_decref(row);
	return last;
}

/* Whole lines of what has come; true at the end. */
static bool take_lines(
    struct buf *in, size_t fresh, ask_row_fn *on_row, void *ctx, struct answer *a)
{
	size_t start = 0, from = in->n - fresh;
	for (;;) {
		const unsigned char *nl = memchr(in->p + from, '\n', in->n - from);
		if (nl == NULL)
			break;
		size_t end = (size_t)(nl - in->p);
		if (take_line((const char *)in->p + start, end - start, on_row, ctx, a))
			return true;
		start = from = end + 1;
	}
	buf_consume(in, start);
	return false;
}

/* What can be read now. True: that was the end of the answer, good or not. */
static bool read_more(int fd, struct buf *in, ask_row_fn *on_row, void *ctx, struct answer *a)
{
	unsigned char *p = buf_reserve(in, 65536);
	if (p == NULL) {
		fail(a, EX_TEMPFAIL, "an answer of too many bytes");
		return true;
	}
	ssize_t n = read(fd, p, 65536);
	if (n < 0 && errno == EINTR)
		return false;
	if (n <= 0) {
		fail(a, EX_TEMPFAIL,
		    "the service went away before its answer was complete, try again");
		return true;
	}
	in->n += (size_t)n;
	return take_lines(in, (size_t)n, on_row, ctx, a);
}

static void read_answer(int fd, int wait_ms, ask_row_fn *on_row, void *ctx, struct answer *a)
{
	struct buf in;
	buf_init(&in, LINE_MAX_BYTES);
	for (;;) {
		struct pollfd waiting = {fd, POLLIN, 0};
		int ready = poll(&waiting, 1, wait_ms);
		if (ready < 0 && errno == EINTR)
			continue;
		if (ready == 0)
			fail(a, EX_TEMPFAIL, "no answer within a minute");
		if (ready == 0 || read_more(fd, &in, on_row, ctx, a))
			break;
	}
	buf_fini(&in);
}

static void ask_within(const char *path, const char *request, int wait_ms, ask_row_fn *on_row,
    void *ctx, struct answer *a)
{
	*a = (struct answer){0};
	int fd = open_socket(path, a);
	if (fd < 0)
		return;
	/* A service that turns us away has answered and closed: read that also after a failed
	 * write. */
	if (send_all(fd, str_of(request)))
		(void)send_all(fd, STR("\n"));
	read_answer(fd, wait_ms, on_row, ctx, a);
	close(fd);
}

void ask(const char *path, const char *request, ask_row_fn *on_row, void *ctx, struct answer *a)
{
	ask_within(path, request, WAIT_MS, on_row, ctx, a);
}

void ask_and_follow(
    const char *path, const char *request, ask_row_fn *on_row, void *ctx, struct answer *a)
{
	ask_within(path, request, -1, on_row, ctx, a);
}

/* --- the first of several --------------------------------------------------------------------- */

struct runner {
	int fd; /* -1: over */
	struct buf in;
	struct race *race;
};
struct race {
	struct runner *runners; /* owned */
	size_t count, running;
	struct runner *first; /* who had something to say; NULL: nobody yet */
	struct runner *turn;
	ask_row_fn *on_row;
	void *ctx;
};

static void drop(struct runner *r)
{
	if (r->fd < 0)
		return;
	close(r->fd);
	r->fd = -1;
	r->race->running--;
}

/* The others need not go on. */
static void on_first_row(void *ctx, json_t *row)
{
	struct race *race = ctx;
	if (race->first == NULL) {
		race->first = race->turn;
		for (size_t i = 0; i < race->count; i++)
			if (&race->runners[i] != race->first)
				drop(&race->runners[i]);
	}
	race->on_row(race->ctx, row);
}

static void race_begin(
    struct race *race, const struct instance *list, const char *request, struct answer *a)
{
	for (size_t i = 0; i < race->count; i++) {
		struct runner *r = &race->runners[i];
		r->race = race;
		buf_init(&r->in, LINE_MAX_BYTES);
		r->fd = open_socket(list[i].path, a);
		race->running += r->fd >= 0;
		if (r->fd >= 0 && send_all(r->fd, str_of(request)))
			(void)send_all(r->fd, STR("\n"));
	}
}

static void race_turn(struct race *race, struct answer *a)
{
	struct pollfd *waiting = xcalloc(race->count, sizeof(*waiting));
	for (size_t i = 0; i < race->count; i++)
		waiting[i] = (struct pollfd){race->runners[i].fd, POLLIN, 0};
	int ready = poll(waiting, race->count, -1);
	for (size_t i = 0; ready > 0 && i < race->count; i++) {
		struct runner *r = race->turn = &race->runners[i];
		struct answer answer = {0};
		if (waiting[i].revents == 0 || r->fd < 0 ||
		    !read_more(r->fd, &r->in, on_first_row, race, &answer))
			continue;
		drop(r);
		*a = answer;
	}
	free(waiting);
}

void ask_first(const struct instance *list, size_t n, const char *request, ask_row_fn *on_row,
    void *ctx, struct answer *a)
{
	struct race race = {
	    .runners = xcalloc(n, sizeof(struct runner)), .count = n, .on_row = on_row, .ctx = ctx};
	*a = (struct answer){0};
	race_begin(&race, list, request, a);
	while (race.running > 0)
		race_turn(&race, a);
	for (size_t i = 0; i < n; i++)
		buf_fini(&race.runners[i].in);
	free(race.runners);
}
