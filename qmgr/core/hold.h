/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * What the files hold*.c share: one hold, a pause or a suspension. What others see is in holds.h.
 */
#include "qmgr/core/internal.h"

enum { HOLD_NAME_MAX = 4096 }; /* bytes of a name, a text or a rule */

struct hold {
	struct node by_key, by_subject, by_at;
	struct link in_wide;
	uint32_t number;
	enum core_scope scope;
	bool suspension;
	struct name *key;	/* of its state */
	struct name *name, *at; /* at "": everywhere */
	struct name *tenant;	/* of a tenant or campaign */
	struct name *campaign;
	char *who, *rule, *text;	      /* owned */
	int64_t since_ms, until_ms, saved_ms; /* saved: the end as it was given out */
	struct timer timer;
};

struct hold_state {
	bool held, suspended;
};

/* ---- hold_match.c ---- */
/* It is about many queues: a pattern, a virtual MTA, a provider. */
bool hold_is_wide(enum core_scope scope, struct str name);
uint64_t hold_subject_hash(const struct core *core, const struct name *name);
/* Nothing can have that name: -ENOENT. What has no mail yet may still be held. */
int hold_check(const struct core *core, const struct hold_request *r);
/* A queue under its own name, however its destination was written. */
struct str hold_own_name(
    const struct core *core, enum core_scope scope, struct str name, char out[QUEUE_NAME_MAX]);
struct hold_state hold_of_queue(const struct core *core, const struct queue *q);
/* Of a tenant (campaign NULL) or campaign, in this queue, or (q NULL) everywhere. */
bool hold_of_party(const struct core *core, enum core_scope scope, const struct name *tenant,
    const struct name *campaign, const struct queue *q);

/* ---- hold_effect.c ---- */
void hold_changed(struct core *core, const struct hold *h); /* it came, or it is over */
void hold_release(struct core *core);			    /* the next step */
