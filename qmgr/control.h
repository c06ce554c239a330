/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/control.h"
#include "qmgr/shell.h"
/*
 * What the files control*.c share: the verbs of `posternctl qmgr`. Nobody else includes it.
 */

/* How much is done in one call, so that mail waits no longer than about a millisecond. */
enum {
	QUEUES_A_CALL = 64,
	QUEUES_LOOKED_AT = 4096, /* a call, for those that match */
	ENVELOPES_A_CALL = 64, /* files read in one call: a few milliseconds when they are cached */
	LOOK_A_CALL = 20000,   /* jobs looked at in one call: about a millisecond */
	CHANGES_A_CALL = 2000,
};

/* ---- control_say.c: values as answers have them ---- */
json_t *say_text(struct str s);			      /* control characters are replaced */
json_t *say_text_or_null(struct str s);		      /* empty: null */
json_t *say_time(int64_t wall_ms);		      /* 2026-11-23T01:02:03Z; null before 1970 */
json_t *say_steady(const struct qmgr *q, int64_t ms); /* the core's time; null: none */
json_t *say_id(uint64_t id);
static inline json_int_t say_num(uint64_t n)
{
	return (json_int_t)n;
}
json_t *say_steady_exact(const struct qmgr *q, int64_t ms);	      /* with milliseconds */
json_t *say_origin(const struct qmgr *q, const struct conf_value *v); /* FILE:LINE, default; null */
json_t *say_value(enum conf_opt opt, const struct conf_value *v);     /* as in the file, unquoted */
struct str said_arg(const json_t *args, size_t i); /* "" where nothing was given */
struct str said_option(const json_t *options, const char *name);
/* An option --NAME=TIME in milliseconds; 0: not given. False: the answer is ended. */
bool said_time(
    struct control_reply *reply, const json_t *options, const char *name, int64_t *ms) MUST_USE;
/* False: the answer is ended, since recovery is not through or we stop. */
bool control_is_serving(const struct qmgr *q, struct control_reply *reply);

/* ---- control_filter.c: which mail is meant ---- */
struct filter { /* all that are given must match; NULL: any */
	char *queue, *tenant, *campaign, *sender, *rcpt, *domain; /* owned; patterns with * */
	char *where;						  /* owned; domain or destination */
	char *core_queue;					  /* owned; filter_for_core()'s */
	unsigned pass;						  /* see there */
	uint64_t id;						  /* 0: any */
	int64_t before_ms;					  /* arrived by then; 0: any */
	bool held;						  /* what was set aside, alone */
	bool all; /* --all or ALL: the empty one is meant */
};
/*
 * DOMAIN/VMTA is the queue where the domain's mail waits now, which may be a whole site's, such as
 * [mx.example.net]/main: then *domain, where wanted, becomes the domain, to choose its mail alone.
 * Other names, and patterns, stay as they are. The caller frees.
 */
char *filter_queue_named(const struct qmgr *q, struct str given, char **domain);
/* False: the answer is ended. */
bool filter_options(struct filter *f, const struct qmgr *q, const json_t *options,
    struct control_reply *reply) MUST_USE;
/* FILTER: an id, a queue, a domain or destination, or the options of `messages`. */
bool filter_args(struct filter *f, const struct qmgr *q, const json_t *args, const json_t *options,
    struct control_reply *reply) MUST_USE;
void filter_fini(struct filter *f);
bool filter_job(const struct filter *f, const struct job_view *v);
bool filter_needs_envelope(const struct filter *f);
bool filter_envelope(const struct filter *f, const struct envelope *e, uint16_t rcpt);
bool filter_is_empty(const struct filter *f);
/* A queue, domain or destination is named, not a pattern: finding nothing there is an error. */
bool filter_names_one(const struct filter *f);
const char *filter_named(const struct filter *f);
/* What the core can choose by itself, for core_select(): views into f. What it finds is asked
 * filter_job() nonetheless. When it is through: filter_next_pass(), and again while that is true.
 */
void filter_for_core(struct filter *f, struct core_filter *out);
bool filter_next_pass(struct filter *f);

/* Envelopes from the spool. The one read last stays: a message's recipients come in a row. */
struct reader {
	struct buf bytes;
	struct envelope e;
	uint64_t id;
};
void reader_init(struct reader *r);
const struct envelope *reader_get(struct qmgr *q, struct reader *r, const struct job_view *v);
void reader_fini(struct reader *r);

/* ---- control_list.c ---- */
json_t *control_queue_row(const struct qmgr *q, const struct queue_view *v);

/* ---- control_why.c ---- */
enum { WHY_LIMITS = 64 }; /* that apply to one queue or recipient; there are 13 scopes */
json_t *control_limit_row(const struct qmgr *q, const struct core_limit_view *v);
/* Members state, binding, until, text, origin and limits. */
void control_why_set(const struct qmgr *q, json_t *row, const struct core_why *why,
    const struct core_limit_view *limits, size_t n);

/* ---- control_queue.c ---- */
/* The end of an answer about the queues that match: an error where there was none. */
void control_end_queues(struct control_reply *r, const char *pattern, size_t found);

/* ---- control_hold.c ---- */
json_t *control_hold_row(const struct qmgr *q, const struct hold_view *v);
const char *control_scope_name(enum core_scope scope);

/* ---- the verbs ---- */
control_verb_fn verb_queues, verb_messages, verb_message;	    /* control_list.c */
control_verb_fn verb_queue;					    /* control_queue.c */
control_verb_fn verb_flush, verb_release, verb_delete, verb_bounce; /* control_change.c */
control_verb_fn verb_pause, verb_resume, verb_suspensions;	    /* control_hold.c */
control_verb_fn verb_mode, verb_reset, verb_reroute;		    /* control_steer.c */
control_verb_fn verb_why, verb_limits;				    /* control_why.c */
control_verb_fn verb_explain;					    /* control_explain.c */
control_verb_fn verb_tenants;					    /* control_tenant.c */
control_verb_fn verb_rules;					    /* control_rules.c */
control_verb_fn verb_events;					    /* control_events.c */
