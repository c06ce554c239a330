/* SPDX-License-Identifier: ISC */
/*
 * mode, reset and reroute: changes to queues by name. A name without * is tried as it is first, so
 * that one queue among a hundred thousand is found at once; a pattern, or a destination without a
 * virtual MTA, is applied to each queue that matches, a slice a call.
 */
#include "common/log.h"
#include "qmgr/control.h"
#include <errno.h>
#include <stdlib.h>
#include <sysexits.h>

enum { STEER_A_CALL = 16 /* each may make a queue look at all it holds */ };

struct steer {
	struct qmgr *q;
	struct core_cursor cursor;
	char *pattern; /* owned */
	char *what;    /* owned; mode or virtual MTA */
	const char *member;
	char who[CONTROL_WHO_BYTES];
	int64_t until_ms;
	unsigned found;
	int (*fn)(struct steer *s, struct str queue);
};

static int set_mode(struct steer *s, struct str queue)
{
	return core_set_mode(
	    s->q->core, queue, str_of(s->what), s->until_ms, str_of(s->who), s->q->now_ms);
}

static int reset(struct steer *s, struct str queue)
{
	return core_reset(s->q->core, queue, str_of(s->who), s->q->now_ms);
}

static int reroute(struct steer *s, struct str queue)
{
	return core_reroute(s->q->core, queue, str_of(s->what), str_of(s->who), s->q->now_ms);
}

static int steer_one(struct steer *s, struct control_reply *r, struct str queue)
{
	int e = s->fn(s, queue);
	decisions_drain(s->q, NULL);
	if (e == -ENOENT)
		return e;
	s->found++;
	json_t *row = json_pack("{s:o, s:b}", "queue", say_text(queue), "done", e == 0);
	if (s->member != NULL)
		json_object_set_new(row, s->member, say_text(str_of(s->what)));
	if (s->until_ms > 0)
		json_object_set_new(row, "until", say_steady(s->q, s->until_ms));
	control_row(r, row);
	return e;
}

/* Views of the core last until its next call: names first. */
static size_t take_names(struct steer *s, char *names[STEER_A_CALL], bool *more)
{
	struct queue_view views[STEER_A_CALL];
	size_t n = core_queues_slice(s->q->core, str_of(s->pattern), &s->cursor, views,
	    STEER_A_CALL, QUEUES_LOOKED_AT, more);
	for (size_t i = 0; i < n; i++)
		names[i] = str_dup(views[i].name);
	return n;
}

static bool next_steer(void *state, struct control_reply *r)
{
	struct steer *s = state;
	char *names[STEER_A_CALL];
	bool more;
	s->q->now_ms = clock_steady_ms();
	size_t n = take_names(s, names, &more);
	for (size_t i = 0; i < n; i++) {
		(void)steer_one(s, r, str_of(names[i]));
		free(names[i]);
	}
	if (!more)
		control_end_queues(r, s->pattern, s->found);
	return more;
}

static void drop_steer(void *state)
{
	struct steer *s = state;
	free(s->pattern);
	free(s->what);
	free(s);
}

static struct steer *new_steer(struct qmgr *q, struct control_reply *reply, const json_t *args,
    const char *member, int (*fn)(struct steer *s, struct str queue))
{
	struct steer *s = xcalloc(1, sizeof(*s));
	s->q = q;
	s->pattern = filter_queue_named(q, said_arg(args, 0), NULL);
	s->what = str_dup(said_arg(args, 1));
	s->member = member;
	s->fn = fn;
	control_who(reply, s->who);
	return s;
}

static void run(struct steer *s, struct control_reply *reply)
{
	s->q->now_ms = clock_steady_ms();
	if (strchr(s->pattern, '*') != NULL || strchr(s->pattern, '/') == NULL) {
		control_stream(reply, next_steer, drop_steer, s);
		return;
	}
	int e = steer_one(s, reply, str_of(s->pattern));
	if (e == -ENOENT)
		control_end(reply, EX_UNAVAILABLE, "no queue %s", s->pattern);
	else if (e != 0)
		control_end(reply, EX_DATAERR, "refused for %s", s->pattern);
	else
		control_end(reply, EX_OK, "%s", "");
	drop_steer(s);
}

void verb_mode(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	struct str mode = said_arg(args, 1);
	int64_t for_ms;
	if (!control_is_serving(q, reply))
		return;
	if (!str_eq(mode, STR("normal")) && !str_eq(mode, STR("backoff"))) {
		control_end(reply, EX_USAGE, "a mode is normal or backoff");
		return;
	}
	if (!said_time(reply, options, "for", &for_ms))
		return;
	if (for_ms > 0 && str_eq(mode, STR("normal"))) {
		control_end(reply, EX_USAGE, "--for goes with backoff; normal lasts");
		return;
	}
	struct steer *s = new_steer(q, reply, args, "mode", set_mode);
	s->until_ms = for_ms > 0 ? clock_steady_ms() + for_ms : 0;
	run(s, reply);
}

void verb_reset(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	(void)options;
	if (control_is_serving(q, reply))
		run(new_steer(q, reply, args, NULL, reset), reply);
}

static bool is_vmta(const struct qmgr *q, const char *name)
{
	const struct conf_node *root = q->conf->root;
	return conf_find(root, CONF_VMTA, CO_VMTA_name, name) != NULL ||
	       conf_find(root, CONF_POOL, CO_POOL_name, name) != NULL ||
	       str_eq_nocase(core_default_vmta(q->core), str_of(name));
}

void verb_reroute(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	const char *vmta = control_arg(args, 1);
	(void)options;
	if (!control_is_serving(q, reply))
		return;
	if (!is_vmta(q, vmta)) {
		control_end(reply, EX_UNAVAILABLE, "no virtual MTA or pool %.100s", vmta);
		return;
	}
	run(new_steer(q, reply, args, "vmta", reroute), reply);
}
