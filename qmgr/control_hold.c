/* SPDX-License-Identifier: ISC */
/*
 * pause, resume and suspensions: what stands still, by whose word, and until when. The core keeps
 * holds and gives them out as state, so each survives a restart; here are only their names in
 * commands and answers.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

enum { HOLDS_A_CALL = 64, NAME_MAX_BYTES = 700 /* DESTINATION/VMTA at most */ };

static const char *const scopes[] = {
    [CORE_QUEUE] = "queue",
    [CORE_TENANT] = "tenant",
    [CORE_CAMPAIGN] = "campaign",
    [CORE_VMTA] = "vmta",
    [CORE_PROVIDER] = "provider",
    [CORE_SOURCE] = "source",
};

const char *control_scope_name(enum core_scope scope)
{
	return (size_t)scope < COUNT_OF(scopes) ? scopes[scope] : "?";
}

static bool scope_parse(struct str word, enum core_scope *scope)
{
	for (size_t i = 0; i < COUNT_OF(scopes); i++)
		if (i != CORE_SOURCE && str_eq(word, str_of(scopes[i]))) {
			*scope = (enum core_scope)i;
			return true;
		}
	return false;
}

json_t *control_hold_row(const struct qmgr *q, const struct hold_view *v)
{
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "scope",
	    control_scope_name(v->scope), "name", say_text_or_null(v->name), "at",
	    say_text_or_null(v->at), "kind", say_text(v->kind), "what", say_text_or_null(v->what),
	    "who", say_text_or_null(v->who), "rule", say_text_or_null(v->rule), "text",
	    say_text_or_null(v->text), "since", say_steady(q, v->since_ms), "until",
	    say_steady(q, v->until_ms));
}

/* --- suspensions ------------------------------------------------------------------------------ */

struct holds_state {
	struct qmgr *q;
	struct core_cursor cursor;
	bool modes; /* the holds are through: queues whose mode is not normal */
};

/* A mode holds nothing by itself, but is a change that lasts, with a cause and an end. */
static json_t *mode_row(const struct qmgr *q, const struct queue_view *v)
{
	return json_pack("{s:s, s:o, s:n, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "scope", "queue",
	    "name", say_text(v->name), "at", "kind", "mode", "what", say_text(v->mode), "who",
	    say_text_or_null(v->mode_who), "rule", say_text_or_null(v->mode_rule), "text",
	    say_text_or_null(v->mode_cause), "since", say_steady(q, v->mode_since_ms), "until",
	    say_steady(q, v->mode_until_ms));
}

static bool next_modes(struct holds_state *s, struct control_reply *r)
{
	struct queue_view views[QUEUES_A_CALL];
	size_t n = core_queues(s->q->core, STR("*"), &s->cursor, views, QUEUES_A_CALL);
	for (size_t i = 0; i < n; i++)
		if (!str_eq(views[i].mode, STR("normal")))
			control_row(r, mode_row(s->q, &views[i]));
	if (n > 0)
		return true;
	control_end(r, EX_OK, "%s", "");
	return false;
}

static bool next_holds(void *state, struct control_reply *r)
{
	struct holds_state *s = state;
	struct hold_view views[HOLDS_A_CALL];
	if (s->modes)
		return next_modes(s, r);
	size_t n = core_holds(s->q->core, &s->cursor, views, HOLDS_A_CALL);
	for (size_t i = 0; i < n; i++)
		control_row(r, control_hold_row(s->q, &views[i]));
	if (n == 0) {
		s->modes = true;
		s->cursor = (struct core_cursor){0};
	}
	return true;
}

void verb_suspensions(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct holds_state *s = xcalloc(1, sizeof(*s));
	(void)args, (void)options;
	s->q = ctx;
	control_stream(reply, next_holds, free, s);
}

/* --- pause, resume ---------------------------------------------------------------------------- */

struct held { /* what a command is about, with names as the core has them */
	enum core_scope scope;
	char name[NAME_MAX_BYTES], at[NAME_MAX_BYTES];
	char who[CONTROL_WHO_BYTES];
};

/* A domain is accepted wherever a destination is. */
static void destination(const struct qmgr *q, char out[NAME_MAX_BYTES], struct str given)
{
	struct str found = core_destination(q->core, given);
	str_copy(out, NAME_MAX_BYTES, found.n > 0 ? found : given);
}

/* A queue's name; without a virtual MTA, all queues of that destination. */
static void queue(const struct qmgr *q, char out[NAME_MAX_BYTES], struct str given)
{
	if (memchr(given.p, '/', given.n) != NULL || str_eq(given, STR("*"))) {
		char *named = filter_queue_named(q, given, NULL);
		str_copy(out, NAME_MAX_BYTES, str_of(named));
		free(named);
		return;
	}
	destination(q, out, given);
	size_t n = strlen(out);
	snprintf(out + n, NAME_MAX_BYTES - n, "/*");
}

/* False: the answer is ended. */
static bool read_held(struct held *h, const struct qmgr *q, struct control_reply *reply,
    const json_t *args, const json_t *options)
{
	struct str name = said_arg(args, 1), at = said_option(options, "at");
	*h = (struct held){0};
	if (!control_is_serving(q, reply))
		return false;
	if (!scope_parse(said_arg(args, 0), &h->scope)) {
		control_end(
		    reply, EX_USAGE, "one of queue, tenant, campaign, vmta, provider, then a name");
		return false;
	}
	if (name.n == 0 || name.n + 3 > NAME_MAX_BYTES || at.n + 3 > NAME_MAX_BYTES) {
		control_end(reply, EX_USAGE, "a name of 1 to %d bytes", NAME_MAX_BYTES - 3);
		return false;
	}
	if (control_option(options, "at") != NULL &&
	    (at.n == 0 || (h->scope != CORE_TENANT && h->scope != CORE_CAMPAIGN))) {
		control_end(reply, EX_USAGE, "--at=DESTINATION goes with tenant or campaign");
		return false;
	}
	if (h->scope == CORE_QUEUE)
		queue(q, h->name, name);
	else if (h->scope == CORE_PROVIDER)
		destination(q, h->name, name);
	else
		str_copy(h->name, sizeof(h->name), name);
	/* The core follows a domain to its destination, wherever that is later. */
	str_copy(h->at, sizeof(h->at), at);
	control_who(reply, h->who);
	return true;
}

static json_t *held_row(const struct held *h)
{
	return json_pack("{s:s, s:o, s:o}", "scope", control_scope_name(h->scope), "name",
	    say_text(str_of(h->name)), "at", say_text_or_null(str_of(h->at)));
}

/* What a slip of the pen would make up is accepted, since its mail may come yet, but told. */
static bool is_known(const struct qmgr *q, const struct held *h)
{
	struct core_cursor cursor = {0};
	struct queue_view v;
	struct core_why why;
	struct core_limit_view limits[1];
	size_t n = 1;
	if (h->scope == CORE_QUEUE)
		return core_queues(q->core, str_of(h->name), &cursor, &v, 1) > 0;
	if (h->scope == CORE_TENANT)
		return conf_find(q->conf->root, CONF_TENANT, CO_TENANT_name, h->name) != NULL ||
		       core_why_queue(q->core, str_of(h->name), &why, limits, &n) == 0;
	return true; /* virtual MTAs and providers are checked by the core */
}

static void refused(struct control_reply *reply, const struct held *h, int error)
{
	if (error == -ENOENT)
		control_end(
		    reply, EX_UNAVAILABLE, "no %s %s", control_scope_name(h->scope), h->name);
	else if (error == -ENOSPC)
		control_end(reply, EX_TEMPFAIL, "too many pauses and suspensions; see suspensions");
	else
		control_end(
		    reply, EX_USAGE, "cannot pause %s %s", control_scope_name(h->scope), h->name);
}

void verb_pause(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct held h;
	int64_t for_ms;
	if (!read_held(&h, q, reply, args, options) || !said_time(reply, options, "for", &for_ms))
		return;
	q->now_ms = clock_steady_ms();
	int64_t until_ms = for_ms > 0 ? q->now_ms + for_ms : 0;
	int r = core_pause(
	    q->core, h.scope, str_of(h.name), str_of(h.at), until_ms, str_of(h.who), q->now_ms);
	decisions_drain(q, NULL);
	if (r != 0) {
		refused(reply, &h, r);
		return;
	}
	json_t *row = held_row(&h);
	json_object_set_new(row, "until", say_steady(q, until_ms));
	json_object_set_new(row, "known", json_boolean(is_known(q, &h)));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}

void verb_resume(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct held h;
	if (!read_held(&h, q, reply, args, options))
		return;
	q->now_ms = clock_steady_ms();
	size_t n =
	    core_resume(q->core, h.scope, str_of(h.name), str_of(h.at), str_of(h.who), q->now_ms);
	decisions_drain(q, NULL);
	if (n == 0) {
		control_end(reply, EX_UNAVAILABLE, "nothing holds %s %s%s%s; see suspensions",
		    control_scope_name(h.scope), h.name, h.at[0] ? " at " : "", h.at);
		return;
	}
	json_t *row = held_row(&h);
	json_object_set_new(row, "ended", json_integer(say_num(n)));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}
