/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * What remotes said, and what follows: a queue's mode and what rules have set for it, disabled
 * sources, rules and their verdicts, notes, and the states by which the core survives a restart
 * (mode.c, setting.c, sources.c, rules.c, window.c, clock.c, notes.c, state.c).
 */
#include "common/buf.h"
#include "qmgr/core/base.h"

struct conn;
struct lane;
struct queue;

/* ---- mode.c, setting.c ---- */
enum mode_kind { MODE_NORMAL, MODE_BACKOFF, MODE_RECOVERY };
enum {
	MODE_SETTINGS =
	    32, /* live settings of a queue: what is more replaces the one that ends first */
	NOTES_EACH = 10,    /* notes of a kind that a queue keeps */
	NOTES_ALL = 100000, /* of all queues: then the oldest go */
	NOTE_MAX = 200,	    /* bytes of a note */
};
struct setting {		    /* what a rule has set for a time */
	bool tls;		    /* require-tls; else: */
	enum conf_opt opt;	    /* of DOMAIN */
	struct conf_value value;    /* owned; absolute */
	uint32_t permille;	    /* of the configured value; 0: absolute */
	int64_t since_ms, until_ms; /* 0: without end */
	char *what, *rule, *text;   /* owned; what: NAME=VALUE, the key */
};
/* Of a queue that does not simply follow its configuration; all others have none. */
struct mode {
	struct queue *queue;
	enum mode_kind kind;
	bool told;	   /* a mail about this episode went out */
	uint32_t step;	   /* of recovery: 0 is the probe */
	uint32_t probes;   /* that failed in a row */
	uint64_t first_tx; /* only transactions from here on say something of this mode */
	int64_t since_ms, until_ms, saved_ms; /* saved: the end as it was given out */
	char *cause, *rule, *who;	      /* owned */
	char *reroute;			      /* owned: by a rule, for a time */
	int64_t reroute_ms;		      /* 0: without end */
	struct setting *set;		      /* owned */
	uint32_t set_count;
	struct timer timer; /* the next end of any of these */
	struct link in_all;
};
struct why { /* why something was done, for people */
	struct str text, rule, who;
};
void mode_backoff(struct core *core, struct queue *q, const struct why *why, int64_t for_ms);
void mode_normal(struct core *core, struct queue *q, const struct why *why, bool at_once);
struct mode *mode_get(struct core *core, struct queue *q);
void mode_free(struct core *core, struct queue *q);
void mode_arm(struct core *core, struct mode *m); /* after any change; may free it */
bool mode_is_backoff(const struct queue *q);
struct str mode_name(const struct queue *q);
/* What a transaction said of its queue: recipients delivered, and deferred. */
void mode_answer(
    struct core *core, struct queue *q, uint64_t tx, uint32_t delivered, uint32_t deferred);
void mode_timer(struct core *core, struct timer *t);
void mode_restored(struct core *core, struct queue *q);
void mode_effect(struct core *core, struct queue *q); /* values have changed: connections, too */
bool mode_encode(struct core *core, struct str name, struct buf *out);
int mode_restore(struct core *core, struct str name, struct rd *value);
void setting_apply(struct queue *q); /* tightens q->v, which has just been resolved */
bool setting_tls(const struct queue *q);
/* By a rule: an action of kind SET or REQUIRE_TLS. until 0: without end. */
void setting_add(struct core *core, struct queue *q, const struct rule_action *a, int64_t until_ms,
    const struct why *why);
void setting_reroute(struct core *core, struct queue *q, struct str vmta, int64_t until_ms);
void setting_expire(struct core *core, struct mode *m);
void setting_clear(struct core *core, struct mode *m);
int64_t setting_next_ms(const struct mode *m);
bool setting_encode(struct core *core, struct str name, struct buf *out);
int setting_restore(struct core *core, struct str name, struct rd *value);
/* Where a rule or the mode sends the queue's mail now; "": nowhere else. */
const char *mode_reroute(const struct queue *q);
void mode_apply(struct core *core, struct queue *q); /* q->v has changed, or the mode: makes q->e */
void mode_recover(struct core *core, struct queue *q); /* its suspension is over: a probe first */

/* ---- sources.c ---- */
/* q NULL: everywhere. */
bool source_disabled(const struct core *core, const struct queue *q, const struct name *address);
bool source_all_disabled(const struct core *core, struct queue *q);
/* No source may be used: true, all are disabled, and it is woken when one is enabled. */
bool source_wait(struct core *core, struct queue *q);
/* By a rule; queue NULL: everywhere. until 0: without end. */
void source_disable(struct core *core, struct str address, struct queue *q, int64_t until_ms,
    const struct why *why);
void source_opened(struct core *core, struct conn *c); /* a connection from it: maybe its probe */
void source_closed(struct core *core, struct conn *c);
void source_works(struct core *core, struct conn *c); /* it delivered */
void source_timer(struct core *core, struct timer *t);
void source_fini(struct core *core);
bool source_encode(struct core *core, struct str name, struct buf *out);
int source_restore(struct core *core, struct str name, struct rd *value);
/* What core_holds() shows of these, from the *from-th on. */
size_t source_views(const struct core *core, uint64_t *from, struct hold_view *out, size_t n);
size_t setting_views(const struct core *core, uint64_t *from, struct hold_view *out, size_t n);

/* ---- rules.c ---- */
void rules_init(struct core *core);
void rules_fini(struct core *core);
void rules_configured(struct core *core); /* core->conf is new */
bool rules_have_shares(const struct core *core, const struct conf_value *lists);
/* One that acts upon a tenant or campaign. */
bool rules_have_tenants(const struct core *core, const struct conf_value *lists);
/* What the hits that came last are about. */
struct rule_reply {
	struct queue *queue;
	struct conn *conn;
	const struct lane *lane; /* whose mail it was; NULL: none */
	const struct rcpt_result *results;
	size_t count;
	struct str text; /* of a connection's end */
};
/* Counts the attempt and acts upon the hits, which are then forgotten. */
void rules_reply(struct core *core, const struct rule_reply *reply);
struct rule_verdict {		      /* what a rule says of a recipient */
	enum rule_action_kind action; /* bounce, defer, or skip-mx: again at once elsewhere */
	char rule[300];		      /* its place */
};
/* After rules_reply(), until the next one. False: nothing. */
bool rules_verdict(struct core *core, uint16_t ordinal, struct rule_verdict *v);
void rules_forget(struct core *core); /* hits about nothing that is known */
bool trigger_encode(struct core *core, struct str name, struct buf *out);
int trigger_restore(struct core *core, struct str name, struct rd *value);

/* ---- state.c ---- */
struct states { /* see state.c */
	struct table marks;
	struct link due, kept;
	size_t kept_count;
	struct buf out; /* what core_next() gave out last */
};

/* The state named `kind name` has changed: DECIDE_STATE will give it out. */
void state_changed(struct core *core, struct str kind, struct str name);
void event_push(struct core *core, const struct core_event *event); /* texts are copied */
/* For state.c's table; see there. */
bool clock_encode(struct core *core, struct str name, struct buf *out);
int clock_restore(struct core *core, struct str name, struct rd *value);
void clock_changed(struct core *core, const struct queue *q);
/* The queue of a state's name, made if need be. 0, -EBADMSG, -EAGAIN: its virtual MTA is not
 * configured. */
int state_queue(struct core *core, struct str name, struct queue **q);
char *state_text(struct rd *value); /* a text as buf_str16() wrote it; NULL: empty */
void state_init(struct core *core);
void state_fini(struct core *core);
void state_timer(struct core *core, struct timer *t);
bool state_next(struct core *core, struct core_decision *out); /* before any other decision */
void state_configured(struct core *core); /* offers what could not be taken so far */

/* ---- notes.c ---- */
enum note_kind { NOTE_ERROR, NOTE_MODE, NOTE_EVENT };
void note_add(struct core *core, struct queue *q, enum note_kind kind, struct str text);
void notes_free(struct core *core, struct queue *q);
