/* SPDX-License-Identifier: ISC */
/*
 * posternctl smtp-out trace DOMAIN: somebody listens to the next connection for a domain or queue.
 * It is told what both sides say, line by line with the time since the connection began, and never
 * any content. Listening opens nothing and delays nothing: it waits for the connection that would
 * come anyway, and what the listener does not read in time is dropped with it.
 *
 * It ends with the connection, after LINES_MAX lines, or when its time is over.
 */
#include "common/clock.h"
#include "common/conf.h"
#include "common/log.h"
#include "smtp-out/session_impl.h"
#include <stdlib.h>
#include <sysexits.h>

enum {
	TRACES_MAX = 8,		      /* operators at once; each is a control connection */
	LINES_MAX = 2000,	      /* a connection that never ends */
	LINE_BYTES = 1000,	      /* of a reply or command; the rest is cut */
	TIME_DEFAULT_MS = 300 * 1000, /* for a connection to come, and to end */
	TIME_MAX_MS = 3600 * 1000,
};

struct trace {
	struct trace *next;
	struct out *out;	     /* borrowed */
	struct control_reply *reply; /* borrowed until it ends or its reader leaves */
	char *what;		     /* owned: domain, destination or queue; * is any text */
	struct session *session;     /* NULL: it has not come yet */
	struct loop_timer timer;
	int64_t from_ms;
	unsigned lines;
};

static void forget(struct trace *t)
{
	struct trace **at = &t->out->traces;
	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	if (t->session)
		t->session->trace = NULL;
	loop_timer_cancel(t->out->loop, &t->timer);
	free(t->what);
	free(t);
}

static void end(struct trace *t, int status, const char *why)
{
	control_end(t->reply, status, "%s", why);
	forget(t);
}

static void on_reader_gone(void *arg)
{
	forget(arg);
}

static void on_time(void *arg)
{
	struct trace *t = arg;
	if (t->session)
		end(t, EX_OK, "");
	else
		end(t, EX_UNAVAILABLE, "no such connection was opened in this time");
}

/* The domain, the queue, or the queue's destination: what stands before the virtual MTA. */
static bool is_wanted(const struct trace *t, const struct grant *g)
{
	const char *slash = strrchr(g->queue, '/');
	size_t n = slash ? (size_t)(slash - g->queue) : strlen(g->queue);
	char *destination = xstrndup(g->queue, n);
	bool wanted = control_matches(t->what, g->domain) || control_matches(t->what, g->queue) ||
		      control_matches(t->what, destination);
	free(destination);
	return wanted;
}

void trace_begin(struct session *s)
{
	struct trace *t = s->out->traces;
	while (t && (t->session || !is_wanted(t, &s->grant)))
		t = t->next;
	if (!t)
		return;
	char text[LINE_BYTES];
	s->trace = t;
	t->session = s;
	t->from_ms = clock_mono_ms();
	int n = snprintf(text, sizeof(text), "connecting to %s%s%s, queue %s", s->relay,
	    s->grant.source[0] ? " from " : "", s->grant.source, s->grant.queue);
	trace_said(s, '*', (struct str){text, n < LINE_BYTES ? (size_t)n : LINE_BYTES - 1});
}

void trace_said(void *session, char who, struct str line)
{
	struct session *s = session;
	struct trace *t = s->trace;
	char clean[LINE_BYTES], mark[2] = {who, '\0'};
	if (!t)
		return;
	log_clean(clean, sizeof(clean), line);
	control_row(
	    t->reply, json_pack("{s:I, s:I, s:s, s:s}", "conn", (json_int_t)s->conn, "ms",
			  (json_int_t)(clock_mono_ms() - t->from_ms), "who", mark, "line", clean));
	if (++t->lines == LINES_MAX)
		end(t, EX_OK, "");
}

void trace_end(struct session *s)
{
	const struct dialogue_end *e = &s->dialogue.end;
	if (!s->trace)
		return;
	trace_said(s, '*', e->text && e->text[0] ? str_of(e->text) : STR("closed"));
	if (s->trace)
		end(s->trace, EX_OK, "");
}

void traces_fini(struct out *o)
{
	while (o->traces)
		end(o->traces, EX_UNAVAILABLE, "smtp-out is stopping");
}

static int64_t time_of(const char *text)
{
	struct conf_value v;
	char why[200];
	if (!text)
		return TIME_DEFAULT_MS;
	if (conf_parse_value(CO_RULE_for_, str_of(text), &v, why) != 0)
		return -1;
	int64_t ms = v.num;
	conf_value_fini(&v);
	return ms < TIME_MAX_MS ? ms : TIME_MAX_MS;
}

void verb_trace(void *ctx, struct control_reply *r, const json_t *args, const json_t *options)
{
	struct out *o = ctx;
	int64_t ms = time_of(control_option(options, "for"));
	unsigned count = 0;
	for (const struct trace *t = o->traces; t; t = t->next)
		count++;
	if (ms <= 0) {
		control_end(r, EX_USAGE, "--for: not a time such as 90s");
		return;
	}
	if (count == TRACES_MAX || o->stopping) {
		control_end(r, EX_TEMPFAIL, "%s", o->stopping ? "stopping" : "too many traces");
		return;
	}
	struct trace *t = xcalloc(1, sizeof(*t));
	t->out = o;
	t->reply = r;
	t->what = xstrdup(control_arg(args, 0));
	for (char *c = t->what; *c; c++)
		*c = (char)(*c >= 'A' && *c <= 'Z' ? *c + ('a' - 'A') : *c);
	t->next = o->traces;
	o->traces = t;
	loop_timer_after(o->loop, &t->timer, ms, on_time, t);
	control_later(r, on_reader_gone, t);
}
