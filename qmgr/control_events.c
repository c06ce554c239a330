/* SPDX-License-Identifier: ISC */
/*
 * events: the last ones, and with --follow those to come. A follower is told in the turn in which
 * it happens; one that takes nothing for a minute is dropped by the control socket, so that nobody
 * keeps memory by looking away.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

enum { EVENTS_A_CALL = 64 };

struct events_state {
	struct qmgr *q;
	struct control_reply *reply;
	struct event_follower follower;
	uint64_t seq;	      /* shown so far */
	char *pattern, *kind; /* owned; NULL: any */
};

static json_t *wall_or_null(uint64_t wall_ms)
{
	return wall_ms > 0 ? say_time((int64_t)wall_ms) : json_null();
}

static json_t *event_row(const struct event_view *v)
{
	const struct j_event *e = &v->e;
	return json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "at",
	    say_time((int64_t)e->wall_ms), "kind", core_event_name(e->kind), "scope",
	    say_text_or_null(e->scope), "from", say_text_or_null(e->from), "to",
	    say_text_or_null(e->to), "text", say_text_or_null(e->text), "rule",
	    say_text_or_null(e->rule), "who", say_text_or_null(e->who), "notify",
	    say_text_or_null(e->notify), "until", wall_or_null(e->until_wall_ms), "seq",
	    say_num(v->seq));
}

static bool event_wanted(const struct events_state *s, const struct event_view *v)
{
	return (s->pattern == NULL || core_glob(str_of(s->pattern), v->e.scope)) &&
	       (s->kind == NULL || core_glob(str_of(s->kind), str_of(core_event_name(v->e.kind))));
}

static void show_event(struct events_state *s, const struct event_view *v)
{
	s->seq = v->seq;
	if (event_wanted(s, v))
		control_row(s->reply, event_row(v));
}

static bool show_kept(struct events_state *s)
{
	struct event_view views[EVENTS_A_CALL];
	size_t n = events_since(s->q, s->seq, views, EVENTS_A_CALL);
	for (size_t i = 0; i < n; i++)
		show_event(s, &views[i]);
	return n > 0;
}

static bool next_events(void *state, struct control_reply *r)
{
	if (show_kept(state))
		return true;
	control_end(r, EX_OK, "%s", "");
	return false;
}

static void drop_events(void *state)
{
	struct events_state *s = state;
	events_unfollow(s->q, &s->follower);
	free(s->pattern);
	free(s->kind);
	free(s);
}

static void on_event(void *ctx, const struct event_view *v)
{
	show_event(ctx, v);
}

void verb_events(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct events_state *s = xcalloc(1, sizeof(*s));
	struct str pattern = said_arg(args, 0);
	const char *kind = control_option(options, "kind");
	s->q = q;
	s->reply = reply;
	s->follower = (struct event_follower){.told = on_event, .ctx = s};
	s->pattern = pattern.n > 0 ? filter_queue_named(q, pattern, NULL) : NULL;
	s->kind = kind != NULL ? xstrdup(kind) : NULL;
	if (control_option(options, "follow") == NULL) {
		control_stream(reply, next_events, drop_events, s);
		return;
	}
	while (show_kept(s)) /* a thousand at most: they fit */
		;
	events_follow(q, &s->follower);
	control_later(reply, drop_events, s);
}
