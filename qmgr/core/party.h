/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * What the files party*.c share: a tenant or campaign at a destination, with what rules have set
 * there for a time.
 */
#include "qmgr/core/internal.h"

enum {
	PARTY_MOST = 100000,   /* all: what rules set stays bounded, whatever remotes answer */
	PARTY_SETTINGS = 16,   /* of one: what is more replaces the one that ends first */
	PARTY_TEXT_MAX = 1000, /* bytes of a rule or text kept */
	PARTY_KEY_MAX = 240,   /* of a state's name: longer ones are told by their hash */
	PARTY_NAME_MAX = 600,  /* of a budget's: tenant, campaign and destination */
};
#define PARTY_PROBE_LINGER DAY /* without mail to probe with: then nothing is left to protect */
#define PARTY_MARK UINT64_C(0x7061727479) /* the same after a restart, unlike core->seed */

struct party_setting {
	enum limit_kind kind;
	struct rate rate; /* of the others: */
	uint32_t max;	  /* of LIMIT_CONNS */
	uint32_t step;	  /* 0: it holds; else its time is over, and it grows: from 2 */
	int64_t since_ms, until_ms;
	char *what, *rule, *text; /* owned; what: NAME=VALUE as the rule has it */
};
struct party {
	struct node node, by_key;
	struct link in_all;
	struct name *key;		     /* of its state */
	struct name *whole;		     /* TENANT/CAMPAIGN */
	struct name *tenant, *campaign, *at; /* campaign NULL: the whole tenant */
	struct budget *budget;		     /* kept */
	struct party_setting *set;	     /* owned */
	uint32_t set_count;
	bool recovering;
	uint32_t step;	 /* of recovery: 0 is the probe */
	uint32_t probes; /* that were deferred, one after the other */
	uint64_t first_tx;
	int64_t since_ms, until_ms; /* of the step; of the probe, if no mail comes */
	char *rule, *text;	    /* owned; of the suspension */
	struct timer timer;
};

/* ---- party_budget.c ---- */
/* Whose mail a transaction is; NULL: it has none left. */
const struct lane *party_lane_of(const struct core *core, const struct tx *tx);
/* Other budgets hang at the queue's lanes now: what is in flight counts there. */
void party_count_queue(struct core *core, const struct queue *q);
/* Recipients of the last sixty seconds, the minute before taken as even. */
uint64_t party_pace(struct pace *p, int64_t now);
/* A lane may wait for what does not hang there any more. */
void party_let_go(struct core *core, struct lane *lane);
/* Names that no key has room for are told apart by a hash. */
struct str party_budget_name(
    char out[PARTY_NAME_MAX], struct str tenant, struct str campaign, struct str at);
/* The tenant's budgets at the share's place, as configured. True: others than before. */
bool party_hang_places(struct core *core, struct share *s);

/* ---- party.c ---- */
struct party *party_find(const struct core *core, const struct name *tenant,
    const struct name *campaign, const struct name *at);
struct party *party_find_key(const struct core *core, struct str key);
/* Made if need be, then party_apply() is to follow; NULL: there are PARTY_MOST. */
struct party *party_get(struct core *core, struct str tenant, struct str campaign, struct str at);
void party_free(struct core *core, struct party *p);
/* A share of it there: its destination's values serve for steps. NULL: it has no mail there. */
struct share *party_home(const struct core *core, const struct party *p);
void party_changed(struct core *core, const struct party *p); /* its state */
void party_say(struct core *core, const struct party *p, const char *text, struct str rule);
struct str party_view_name(const struct party *p); /* TENANT or TENANT/CAMPAIGN */

/* ---- party_bound.c ---- */
/* backoff-recovery; NULL: "off", or no mail is there. */
const struct conf_value *party_steps(const struct share *s);
struct rate party_rate_times(const struct rate *r, int64_t num, int64_t den);
/* The tightest that is configured for it there. */
struct rate party_configured_rate(
    const struct party *p, const struct share *s, enum limit_kind kind);
/* After any change; it goes when nothing is left of it. */
void party_apply(struct core *core, struct party *p);

/* ---- party_set.c ---- */
struct party_setting *party_setting_find(const struct party *p, struct str what);
void party_setting_put(struct party *p, const struct party_setting *s); /* takes its texts */
void party_setting_drop(struct party *p, uint32_t i);
/* Its time is over, or that of a step of its return. True: it is gone. */
bool party_setting_step(struct core *core, struct party *p, uint32_t i);
struct str party_shorten(struct str text); /* to what is kept of one */

/* ---- party_recover.c ---- */
void party_next_step(struct core *core, struct party *p);
