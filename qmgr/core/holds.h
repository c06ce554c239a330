/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * Whose mail a job is and whether it may go: tenants and campaigns over all queues, their shares
 * and lanes in one, what holds them, what limits them beside the queue, and passes over their jobs
 * (tenant.c, lane.c, hold*.c, select.c, party*.c, sweep.c).
 */
#include "common/buf.h"
#include "qmgr/core/base.h"
#include "qmgr/core/jobs.h"
#include "qmgr/core/limits.h"

struct queue;
struct tx;
struct vmta;
struct why;

/* ---- tenants, campaigns, lanes, shares ---- */
/* What a tenant or one of its campaigns has, over all queues. */
struct counts {
	uint64_t n[8]; /* jobs by state */
	uint64_t delivered, deferred, bounced;
};
struct tenant {
	struct node node;
	struct name *name;
	uint32_t number;		/* of core_tenants() */
	uint32_t campaigns;		/* those with lanes of their own */
	uint32_t weight;		/* its part of a queue */
	struct link shares, lanes, all; /* all: its campaigns */
	struct counts tally;
	const struct conf_node *conf; /* its section; NULL: none */
	struct budget *budget;	      /* NULL: none */
};
enum lane_class { CLASS_BULK, CLASS_TRANSACTIONAL };
struct campaign {
	struct node node;
	struct tenant *tenant;
	struct name *name;
	uint32_t number;
	uint32_t weight; /* its part of its tenant's share */
	enum lane_class class;
	struct link lanes, in_tenant;
	struct counts tally;
	const struct conf_node *conf; /* its section; NULL: none */
	struct budget *budget;	      /* NULL: none */
};
struct pace { /* recipients sent in this minute and the one before */
	uint32_t minute, n, last;
};
struct lane {
	struct node node;
	uint32_t index;
	uint32_t seq; /* of its making: all rings of lanes stand in this order, but the turns */
	struct share *share;
	struct name *campaign; /* of->name */
	struct name *pool;     /* from which the virtual MTA of its mail was drawn; NULL: none */
	struct campaign *of;
	struct job_list list[LANE_LISTS];
	struct link waiting;  /* its batches */
	uint32_t jobs, ready; /* in any state; in the lists of ready ones */
	uint32_t credit;
	uint8_t parked;			/* reasons */
	uint8_t since_last;		/* transactions since uncertain mail had one */
	struct link in_queue, in_share; /* in_share: only with ready jobs and not parked */
	struct link in_owner, in_tenant, in_campaign;
	struct link in_release; /* its hold is over: see hold_effect.c */
	int64_t empty_ms;
	struct waiter wait; /* for a limit of its campaign or tenant */
	struct budget *at;  /* its campaign's at this destination, by rules; NULL: none */
	struct pace pace;
};
enum share_at { /* a tenant's budgets at a destination */
	AT_PROVIDER,
	AT_DOMAIN,
	AT_PARTY, /* by rules */
	SHARE_AT
};
enum { LANE_BUDGETS = 2 + SHARE_AT + 1 }; /* campaign, tenant, at a destination */
struct share {				  /* a tenant's part of a queue */
	struct node node;
	struct queue *queue;
	struct name *tenant; /* of->name */
	struct tenant *of;
	struct budget *at[SHARE_AT]; /* the tenant's at this destination; NULL: none */
	struct pace pace;
	uint32_t credit;
	uint8_t parked;		    /* reasons */
	uint8_t favoured;	    /* transactions in a row of its urgent lanes */
	struct link lanes;	    /* all */
	struct link active, urgent; /* lanes with ready jobs, the one whose turn it is first */
	struct link in_active, in_queue, in_tenant, in_release;
};

/* ---- lane.c ---- */
void lane_free(struct core *core, struct lane *lane);
/* pool: from which its virtual MTA was drawn, or NULL. */
struct lane *lane_get(struct core *core, struct queue *q, struct name *tenant,
    struct name *campaign, struct name *pool);
bool lane_is(const struct lane *lane, const struct queue *q, const struct name *tenant,
    const struct name *campaign, const struct name *pool);
void lane_push(struct core *core, job_ref ref, bool front); /* READY, at its lane */
void lane_take(struct core *core, job_ref ref);		    /* out of its list; loose */
void lane_fly(struct core *core, job_ref ref);		    /* READY: it is sent, IN_FLIGHT */
struct lane *lane_turn(const struct queue *q);		    /* whose turn it is, or NULL */
void lane_spend(struct lane *lane, bool last);		    /* it had a transaction */
job_ref lane_head(const struct lane *lane);
void lane_move(struct core *core, struct job *j, struct lane *to);

/* ---- lane.c: out of the turn ---- */
struct share *share_find(const struct core *core, const struct queue *q, const struct name *tenant);
struct lane *lane_find(const struct core *core, const struct queue *q, const struct name *tenant,
    const struct name *campaign, const struct name *pool);
static inline bool lane_parked(const struct lane *lane)
{
	return lane->parked || lane->share->parked;
}
enum park {		/* why a lane or a tenant's share is out of the turn, whatever it has */
	PARK_HOLD = 1,	/* hold_effect.c */
	PARK_LIMIT = 2, /* limits: a budget of its tenant or campaign */
};
void lane_park(struct core *core, struct lane *lane, enum park why);   /* in the turn again when */
void lane_unpark(struct core *core, struct lane *lane, enum park why); /* no reason is left */
void share_park(struct core *core, struct share *share, enum park why);
void share_unpark(struct core *core, struct share *share, enum park why);

/* ---- hold.c, hold_match.c, hold_effect.c ---- */
bool hold_queue(const struct queue *q); /* paused or suspended as a whole: no grant, nothing sent */
bool hold_vmta(const struct core *core, const struct vmta *v); /* paused everywhere */
struct hold_request {
	enum core_scope scope;
	struct str name, at;
	struct str who;	       /* of an operator's pause */
	struct str rule, text; /* of a rule's suspension: which, and the reply */
	int64_t until_ms;      /* 0: without end */
};
/* A rule's suspension; one that lives is renewed. -ENOENT: nothing can have that name. */
int hold_add(struct core *core, const struct hold_request *request) MUST_USE;
struct hold;
bool hold_everywhere(const struct core *core, enum core_scope scope, const struct name *tenant,
    const struct name *campaign);
bool hold_now(const struct core *core, const struct queue *q); /* as hold_queue(), looked up */
/* The hold that lasts the longest: state, binding, text, until. False: none. lane may be NULL. */
bool hold_why(
    const struct core *core, const struct queue *q, const struct lane *lane, struct core_why *why);
void hold_init(struct core *core);
void hold_fini(struct core *core);
void hold_look(struct core *core, struct queue *q); /* before a decision of it */
bool hold_run(struct core *core, unsigned *budget); /* true: there is more to do */
void hold_timer(struct core *core, struct timer *t);
bool hold_encode(struct core *core, struct str key, struct buf *out);
int hold_restore(struct core *core, struct str key, struct rd *value);
void hold_new_queue(struct core *core, struct queue *q);
void hold_new_share(struct core *core, struct share *s);
void hold_new_lane(struct core *core, struct lane *lane);
void hold_moved(struct core *core, struct queue *q); /* its provider has changed */
void hold_domain_moved(struct core *core, const struct name *domain);

struct holds {				     /* see hold.c */
	struct table keys, subjects, places; /* places: those at one destination, by it */
	struct slots slots;
	struct link wide; /* those about many queues */
	uint32_t wide_count;
	uint64_t generation;	   /* of the wide ones */
	uint32_t walk;		   /* queues up to this slot have seen it; 0: all have */
	struct link shares, lanes; /* to be released, one after the other */
	uint32_t releasing, pace;  /* how many; how many a step */
	struct timer timer;
};

/* ---- tenant.c ---- */
struct tenant *tenant_find(const struct core *core, struct str name);
struct tenant *tenant_get(struct core *core, struct name *name);
/* NULL: the tenant has CORE_CAMPAIGNS already. */
struct campaign *campaign_get(struct core *core, struct tenant *t, struct name *name);
struct campaign *campaign_find(
    const struct core *core, const struct tenant *t, const struct name *name);
void campaign_class(struct campaign *c, enum lane_class class); /* lane.c */
void campaign_drop(struct core *core, struct campaign *c);	/* frees it without lanes */
void tenant_drop(struct core *core, struct tenant *t);		/* without shares and campaigns */
void tenant_configure(struct core *core);			/* weights and classes follow */
/* Whose name stands for mail of that tenant ("@domain": a sender's domain, of which there are
 * CORE_SENDER_DOMAINS at most): itself, or "". */
struct str tenant_for(const struct core *core, struct str name);
/* Who has that domain, or one above it, among its sender-domains; else the tenant "@domain", if it
 * has mail; else "". */
struct str tenant_of_domain(const struct core *core, struct str domain);
void tenant_fini(struct core *core);
enum tally_event { TALLY_DELIVERED, TALLY_DEFERRED, TALLY_BOUNCED };
void tenant_tally(struct lane *lane, enum tally_event event);

/* ---- select.c ---- */
bool core_is_pattern(struct str s);
enum { QUEUE_NAME_MAX = 1024 }; /* of DESTINATION/VMTA, both being names of DNS or configuration */
/* Of DESTINATION/VMTA, or a domain in the place of its destination: with the destination. */
struct str queue_meant(const struct core *core, struct str name, char out[QUEUE_NAME_MAX]);
bool queue_matches(const struct core *core, const struct queue *q, struct str pattern);
/* The same for many queues: `at` is queue_destination() of the pattern, asked once. */
struct str queue_destination(const struct core *core, struct str pattern);
bool queue_is_like(const struct queue *q, struct str pattern, struct str at);
/* The destinations that a name, no pattern, may mean; how many. */
enum { DESTS_NAMED = 4 };
size_t dests_named(const struct core *core, struct str name, const struct dest *out[DESTS_NAMED]);

/* ---- party.c: limits of tenants and campaigns ---- */
struct party;
static inline bool scope_is_party(enum budget_scope scope)
{
	return scope == SCOPE_TENANT || scope == SCOPE_TENANT_AT || scope == SCOPE_CAMPAIGN ||
	       scope == SCOPE_PARTY;
}
/* All that a lane's mail must pass beside its queue's: how many. */
unsigned party_budgets(const struct lane *lane, struct budget *out[LANE_BUDGETS]);
void party_new_tenant(struct core *core, struct tenant *t);
void party_new_campaign(struct core *core, struct campaign *c);
void party_new_share(struct core *core, struct share *s);
void party_new_lane(struct core *core, struct lane *lane);
void party_drop_share(struct core *core, struct share *s);
void party_drop_lane(struct core *core, struct lane *lane);
void party_provider(struct core *core, struct queue *q); /* q->provider has changed */
void party_configure(struct core *core);	   /* behind budget_configure() and queues' own */
void party_fly(struct core *core, struct tx *tx);  /* it has its jobs */
void party_land(struct core *core, struct tx *tx); /* it is over */
void party_sent(struct core *core, struct lane *lane, uint32_t rcpts);
/* May a connection be opened for the lane's mail? NULL, or what stands against it until *when. */
struct limiter *party_refuses_open(const struct core *core, const struct lane *lane, int64_t *when);
void party_opened(struct core *core, const struct lane *lane); /* takes the tokens */
/* By a rule: `set NAME=VALUE` for that tenant, or (campaign not empty) campaign, at a destination.
 * 0, -ENOTSUP: not of that option; -ENODATA: a part of nothing; -ENOSPC. */
struct party_request {
	struct str tenant, campaign, at;
	const struct rule_action *action;
	int64_t until_ms;
	const struct why *why;
};
int party_set(struct core *core, const struct party_request *r) MUST_USE;
/* A suspension is over: one transaction as a probe, then backoff-recovery's steps. */
void party_recover(struct core *core, const struct name *tenant, const struct name *campaign,
    const struct name *at, const struct why *why);
/* What a transaction said of the lane. */
void party_answer(
    struct core *core, const struct lane *lane, uint64_t tx, uint32_t delivered, uint32_t deferred);
void party_timer(struct core *core, struct timer *t);
void party_init(struct core *core);
void party_fini(struct core *core);
/* Whose limits a budget of SCOPE_PARTY holds: rule and text. */
void party_why(const struct core *core, const struct budget *b, struct core_why *why);
size_t party_views(const struct core *core, uint64_t *from, struct hold_view *out, size_t n);
bool party_encode(struct core *core, struct str name, struct buf *out);
int party_restore(struct core *core, struct str name, struct rd *value);

/* ---- sweep.c: all jobs of a queue, share or lane, in slices, in the background ---- */
enum visit_kind {
	VISIT_RETIME,  /* outcome_retime() for those that wait, which are then filed anew */
	VISIT_REPLACE, /* moves those that belong elsewhere now; those that wait go on waiting */
	VISIT_REROUTE, /* moves those that were there at the call, but those in flight, to text */
	VISIT_BOUNCE, /* ends those that were there at the call, but those in flight: 5.7.0, text */
};
void queue_visit(struct core *core, struct queue *q, enum visit_kind kind, struct str text);
void share_visit(struct core *core, struct share *s, enum visit_kind kind, struct str text);
void lane_visit(struct core *core, struct lane *lane, enum visit_kind kind, struct str text);
/* The retry list has changed (a mode): outcome_retime() is called, in slices, for each waiting job.
 */
void sweep_retime(struct core *core, struct queue *q);
/* Its due time, anew by the retry list of now; the caller files it. */
void outcome_retime(struct core *core, job_ref ref);

struct visit;
struct pass { /* over a queue's jobs, in slices */
	bool on;
	struct visit *visit; /* first of the queue's; NULL: a sweep */
	struct link *lane;   /* where it is */
	struct link *batch;  /* the next to enter */
	uint32_t stage, end; /* end: batches made later are not entered */
	job_ref job;	     /* the next of this list */
	job_ref last;	     /* its end when it was entered: what comes behind is not met again */
};

/* The pass stands at it, and it leaves its list. */
void sweep_leaves(struct queue *q, job_ref ref, uint32_t next, uint32_t prev);
void sweep_note(struct core *core, struct queue *q, const struct job *j);
void sweep_now(struct core *core, struct queue *q);
void sweep_end(struct core *core, struct queue *q); /* stop, before its lanes go */
bool sweep_run(struct core *core, unsigned *budget);
