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
struct str said_arg(const json_t *args, size_t i); /* "" where nothing was given */
struct str said_option(const json_t *options, const char *name);
/* False: the answer is ended, since recovery is not through or we stop. */
bool control_is_serving(const struct qmgr *q, struct control_reply *reply);

/* ---- control_filter.c: which mail is meant ---- */
struct filter { /* all that are given must match; NULL: any */
	char *queue, *tenant, *campaign, *sender, *rcpt, *domain; /* owned; patterns with * */
	uint64_t id;						  /* 0: any */
	const char *wrong;					  /* why it is refused, or NULL */
};
/*
 * DOMAIN/VMTA is the queue where the domain's mail waits now, which may be a whole site's, such as
 * [mx.example.net]/main: then *domain, where wanted, becomes the domain, to choose its mail alone.
 * Other names, and patterns, stay as they are. The caller frees.
 */
char *filter_queue_named(const struct qmgr *q, struct str given, char **domain);
void filter_options(struct filter *f, const struct qmgr *q, const json_t *options);
/* FILTER: an id, a queue's name or pattern, or the options of `messages`. */
void filter_args(struct filter *f, const struct qmgr *q, const json_t *args, const json_t *options);
void filter_fini(struct filter *f);
bool filter_job(const struct filter *f, const struct job_view *v);
bool filter_needs_envelope(const struct filter *f);
bool filter_envelope(const struct filter *f, const struct envelope *e, uint16_t rcpt);
bool filter_is_empty(const struct filter *f);

/* Envelopes from the spool. The one read last stays: a message's recipients come in a row. */
struct reader {
	struct buf bytes;
	struct envelope e;
	uint64_t id;
};
void reader_init(struct reader *r);
const struct envelope *reader_get(struct qmgr *q, struct reader *r, const struct job_view *v);
void reader_fini(struct reader *r);

/* ---- the verbs ---- */
control_verb_fn list_queues, list_queue, list_messages, list_message; /* control_list.c */
control_verb_fn change_flush, change_delete;			      /* control_change.c */
