/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf.h"
#include "common/types.h"
/*
 * The language of smtp-pattern-lists: what the texts of a rule mean. Patterns themselves are run by
 * match.h; here are stages, triggers, actions and the names of rules. Pure.
 */
enum {
	RULE_TRIGGER_MAX = 100000, /* N of a trigger: qmgr remembers as many times */
};
enum rule_action_kind {
	ACTION_MODE_BACKOFF = 0,
	ACTION_MODE_NORMAL,
	ACTION_SKIP_MX,
	ACTION_BOUNCE_QUEUE,
	ACTION_BOUNCE_RECIPIENT, /* alias bounce-rcpt */
	ACTION_DEFER_RECIPIENT,
	ACTION_DEFER_QUEUE,
	ACTION_DISABLE_SOURCE_IP,
	ACTION_SUSPEND_QUEUE,
	ACTION_SUSPEND_TENANT,
	ACTION_SUSPEND_CAMPAIGN,
	ACTION_BOUNCE_TENANT,
	ACTION_BOUNCE_CAMPAIGN,
	ACTION_REROUTE, /* =VMTA: name */
	ACTION_REQUIRE_TLS,
	ACTION_SET,   /* set NAME=VALUE: name is the option's key; value, or factor_percent */
	ACTION_ALERT, /* =ADDRESS: name */
	ACTION_COUNT
};
struct rule_action {
	enum rule_action_kind kind;
	char *name;		  /* owned */
	char *value;		  /* owned; of SET, when absolute */
	uint32_t factor_permille; /* of SET "*0.5": 500; 0: absolute */
};
enum rule_scope { /* in the order of RULE scope's words */
	RULE_QUEUE = 0,
	RULE_PATH,
	RULE_SOURCE,
	RULE_VMTA,
	RULE_PROVIDER,
	RULE_TENANT,
	RULE_CAMPAIGN,
	RULE_SENDER_DOMAIN,
	RULE_SCOPE_COUNT
};
enum rule_trigger_kind { TRIGGER_IMMEDIATE, TRIGGER_COUNT, TRIGGER_SHARE };
struct rule_trigger {
	enum rule_trigger_kind kind;
	uint32_t n;	  /* COUNT: the n-th fires; SHARE: of at least n attempts */
	uint32_t percent; /* SHARE */
	int64_t window_ms;
};
struct rule {
	/* Hash of list name, reply, stages and how many like it stand before it: the same after a
	 * reload that leaves it. */
	uint64_t id;
	const struct conf_node *node; /* borrowed */
	size_t index;		      /* in its list, from 1 */
	uint32_t stages;	      /* bits 1 << STAGE_*; our own messages: CONNECT or INTERNAL */
	struct rule_trigger trigger;
	enum rule_scope scope;
	int64_t for_ms;		     /* -1: not given */
	struct rule_action *actions; /* owned */
	size_t action_count;
};
struct rule_list {
	const char *name;   /* borrowed from the configuration */
	struct rule *rules; /* owned */
	size_t count;
};
int rule_action_parse(struct str text, struct rule_action *a, char why[200]) MUST_USE;
void rule_action_fini(struct rule_action *a);
const char *rule_action_name(enum rule_action_kind kind); /* "mode=backoff", "set", … */
/* Bits of the groups it is of: of the actions of one reply that share one, the first alone holds.
 * 0: nothing excludes it. */
unsigned rule_action_groups(enum rule_action_kind kind);
void rule_action_print(struct buf *out, const struct rule_action *a); /* as in the file */
int rule_trigger_parse(struct str text, struct rule_trigger *t, char why[200]) MUST_USE;
int rule_stage_parse(struct str text, uint32_t *bit, char why[200]) MUST_USE;
const char *rule_scope_name(unsigned scope);
/* The option of `domains` that a SET may change (CO_DOMAIN_*), or -1: those with a stricter side.
 */
int rule_set_opt(struct str name);
/* One rule from its section; what does not parse (conf_check() has refused it) is left out. */
void rule_read(struct rule *r, const char *list, const struct conf_node *node, size_t index);
void rule_fini(struct rule *r);
/* Every list of the configuration; rules point into c, which must outlive them. */
struct rule_list *rule_lists(const struct conf *c, size_t *count);
void rule_lists_free(struct rule_list **lists, size_t count);

/* ---- a match, on its way from smtp-out to qmgr ---- */
enum hit_object { /* what a named group of the pattern said the reply is about */
	HIT_NOTHING = 0,
	HIT_IP,
	HIT_NETBLOCK,
	HIT_DOMAIN,
	HIT_OBJECT_COUNT
};
enum { HIT_ALL = 0xffff, HIT_OBJECT_MAX = 255, HITS_MAX = 32 /* of one reply */ };
struct rule_hit {
	uint64_t rule;	  /* id */
	uint16_t ordinal; /* the recipient it was said of; HIT_ALL: all of the transaction, or the
			     connection */
	uint8_t stage;	  /* enum smtp_stage */
	uint8_t object_kind; /* enum hit_object */
	struct str object;
};
void hit_put(struct buf *b, const struct rule_hit *hit);
int hit_take(struct rd *r, struct rule_hit *hit) MUST_USE; /* 1, 0 = end, -EBADMSG */

/* ---- a notice to operators: BOUNCE's rcpts of kind DSN_ALERT ---- */
struct alert {
	struct str to; /* addresses, commas between; each was checked by conf_check() */
	struct str subject;
	struct str text; /* lines end with LF */
};
enum { ALERT_TO_MAX = 4000, ALERT_SUBJECT_MAX = 300, ALERT_TEXT_MAX = 20000 };
void alert_put(struct buf *b, const struct alert *a);	    /* texts are cut to their bounds */
int alert_take(struct str bytes, struct alert *a) MUST_USE; /* 0 or -EBADMSG; views */
