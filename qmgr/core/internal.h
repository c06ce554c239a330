/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * The core's own structures. Nobody outside qmgr/core includes this but the core's unit tests.
 *
 *   domain ── route ──▶ destination ──▶ queue (destination × virtual MTA)
 *                            │             ├─ share (a tenant's part) ── lane (…/campaign) ── jobs
 *                            └─ path ◀─────┴─ connections ── transactions ── jobs
 *
 * A job is in exactly one place: one of its lane's lists (READY, IN_FLIGHT, SET_ASIDE), one of its
 * lane's batches on the due wheel (WAITING), the list of doubt, or ended and about to be freed.
 *
 * This file has the queue, its connections and the core itself. The parts that these are made of
 * have headers of their own, which are included here; each includes what it needs.
 *
 *   base.h     units, bounds, names, timers
 *   jobs.h     jobs, lists, the due wheel
 *   limits.h   buckets, limiters, budgets, seats
 *   places.h   values, virtual MTAs, pools, providers, warm-ups, domains, destinations
 *   holds.h    tenants, shares, lanes, holds, selection, parties, passes
 *   modes.h    modes, settings, sources, rules, notes, states
 */
#include "common/check.h"
#include "qmgr/core/base.h"
#include "qmgr/core/holds.h"
#include "qmgr/core/jobs.h"
#include "qmgr/core/limits.h"
#include "qmgr/core/modes.h"
#include "qmgr/core/places.h"
#include <string.h>

/* ---- queues ---- */
struct target { /* an address that failed */
	struct route_address address;
	uint16_t port;
	uint16_t opening;  /* connections being opened to it */
	uint32_t failures; /* consecutive */
	int64_t until_ms;  /* not before; 0: a new round */
};
enum error_of {
	ERROR_OTHER, /* may quote one sender's recipient, or is ours: the operator's only */
	ERROR_CONNECTION,
	ERROR_ROUTE,
};
/* What holds now: the values, changed by mode and by what rules have set for a time. */
struct effective {
	uint32_t max_smtp_out, max_msg;
	struct rate connect, msg, bytes;
	const int64_t *retry;
	size_t retry_count;
	bool probe; /* one connection with one transaction at a time, to see whether it works */
	bool tls_required;
};

struct queue {
	struct node node;
	struct mode *mode;	   /* owned; NULL: normal, and nothing is set */
	struct link in_sourceless; /* waits until one of its sources is enabled */
	struct link notes;	   /* newest first */
	uint8_t noted[3];	   /* how many of each kind */
	bool rated;		   /* its lists have rules on shares of attempts */
	bool stepwise; /* they have rules on tenants: a connection has one transaction at a time */
	uint32_t slot;
	char *name; /* owned: DESTINATION/VMTA */
	struct dest *dest;
	struct vmta *vmta;
	struct values v;
	struct effective e;
	struct link in_dest, in_dirty, in_sweeping, in_unserved;
	struct waiter grant, send;
	struct budget *own;	/* of its rates; NULL: none */
	struct budget **shared; /* owned: all others that apply, whatever the source */
	uint32_t shared_count;
	uint32_t message_us; /* what a transaction takes, on the average; 0: not known */
	uint32_t lane_count;
	struct link lanes, shares, active; /* active: shares with ready jobs, in turn */
	uint64_t n[8];			   /* jobs by state */
	uint64_t delivered, deferred, bounced;
	bool routed;	      /* its mail may go: a site's or provider's, or its route is known */
	struct link in_users; /* of route_of */
	struct domain *route_of; /* of a single domain's queue: whose route its mail takes */
	struct name *provider;	 /* owned; whose values and budget apply; NULL: nobody's */
	struct name *rerouted;	 /* owned: by mode or rule, as people were told; NULL: not */
	/* connections */
	struct link conns, idle, half; /* idle: nothing outstanding; half: room for one more */
	struct limit limit;
	uint32_t ceiling, opening, closing;
	uint32_t tries; /* failed connections since the round began */
	/* the clock of connection failures */
	uint32_t failures;
	int64_t hold_ms;	/* 0: not held */
	uint64_t deferred_from; /* transactions before this do not end the hold of a rule */
	struct target *targets; /* owned */
	uint32_t target_count;
	char *error;		/* owned: the last, for the operator */
	enum error_of error_of; /* what it says something of: who else may be told */
	int64_t error_ms;
	uint64_t parked; /* ready jobs of parked lanes */
	uint64_t hold_generation;
	bool held, suspended; /* suspended: some rule is among the reasons */
	/* passes over its jobs, see sweep.c */
	int64_t event_ms, swept_ms;
	bool sweep_due;
	struct link visits;
	struct pass pass;
	int64_t next_due_ms, last_due_ms; /* of waiting jobs: the earliest known, the last given */
	int64_t idle_ms;		  /* since when nothing happens here */
	struct timer wake, sweep, idle_timer;
};

/* ---- connections ---- */
struct conn {
	struct node node;
	uint64_t id;
	unsigned worker;
	struct queue *queue;
	struct path *path;
	struct domain *domain; /* it was opened for */
	struct name *host;
	struct route_address address;
	uint16_t port;
	enum conn_state state;
	enum tls_policy tls;
	bool general; /* its host is among the destination's best: serves every domain there */
	uint64_t barren_id; /* it found nothing that it can serve: not again before that id */
	bool adopted;	    /* from before our start: how many transactions it had is not known */
	bool lost;	    /* its process died: CLOSING, and freed by its timer */
	bool probe;	    /* counted in its target's `opening` */
	bool single;	    /* the probe of a source address: one transaction */
	bool spent;	    /* its host is passed over: no further transaction */
	bool deferred;	    /* its queue was: likewise */
	uint32_t sent, answered, rcpt_max, mail_max;
	uint32_t tx_count;
	struct tx *tx[CORE_DEPTH];
	struct link in_queue, in_worker, in_ready; /* in_ready: queue's idle or half */
	struct budget *source;			   /* one of its seats', or NULL */
	struct seat *seats;			   /* owned */
	uint32_t seat_count;
	uint64_t ticket;   /* of the waiter that it was opened for */
	int64_t result_ms; /* of its last result */
	struct timer timer;
};
struct tx {
	struct node node;
	uint64_t id, message;
	struct conn *conn;
	uint32_t n, left, cap;
	int64_t sent_ms;
	job_ref *jobs;			 /* owned; 0: has its result */
	struct budget *in[LANE_BUDGETS]; /* of tenants and campaigns: it counts there */
	uint32_t in_count;
	struct tx *next_free;
};
struct worker {
	bool up;
	uint32_t conns;
	struct link list;
};
struct tls_broken {
	struct node node;
	struct name *host;
	int64_t until_ms;
	struct link in_age;
};

struct pending { /* a decision on its way out */
	enum core_decision_kind kind;
	unsigned worker;
	uint64_t conn;
	bool hard;
	job_ref job;
	enum core_outcome outcome;
	int result;
	uint32_t text_at, text_n, status_n; /* in core->text: status, then text */
	uint8_t report;
	struct str rule; /* of DONE: copied by core_push() */
	uint32_t rule_n;
};
/* Nothing decided yet. Of a length that it knows a compiler makes `rep stos` here, which takes
 * longer than all the rest of a decision. */
static inline void decision_clear(struct core_decision *d)
{
	size_t n = sizeof(*d);

	__asm__("" : "+r"(n));
	memset(d, 0, n);
}

struct core {
	uint64_t seed, random;
	int64_t now;
	bool started;
	struct conf *conf;	  /* owned */
	struct conf *conf_before; /* owned: while queues still have values that point into it */
	struct name *default_vmta, *host_name;
	struct vmta *default_at; /* what vmta_default() says, which is asked for every message */
	uint16_t default_port;
	struct table named; /* sections of domains and providers, see value.c */
	struct table providers, entries, pools, warm_sources, warmups;
	int64_t warm_swept;   /* the day on which old warm-ups were forgotten last */
	uint64_t prefixes[3]; /* lengths of networks of providers, see provider.c */
	uint64_t told[256];   /* marks of errors that people were told of, see place_error() */
	bool places, provider_places; /* any section, or a provider's, says where mail goes */
	struct table names, domains, dests, vmtas, queues, lanes, conns, txs, tls;
	struct table shares, tenants, campaigns;
	struct job_store jobs;
	struct due due;
	struct wheel *wheel;
	struct domain **domain_at; /* owned arrays by index, with chains of free places */
	struct lane **lane_at;
	struct queue **queue_at;
	uint32_t domain_count, lane_count, queue_count; /* in use: [1, count] may be NULL */
	struct slots tenant_slots, campaign_slots;
	struct table tenant_confs;	  /* sections of `tenants`, see tenant.c */
	struct table sender_domains;	  /* their sender-domains, likewise */
	uint32_t implicit_tenants;	  /* senders' domains that are tenants now */
	struct table parties, party_keys; /* see party.c */
	struct link all_parties;
	uint32_t party_connects; /* limiters of connects of tenants and campaigns */
	uint32_t lane_seq;
	struct holds holds;
	uint32_t *domain_free, *lane_free, *queue_free; /* owned: stacks of free indexes */
	uint32_t domain_frees, lane_frees, queue_frees;
	struct link dirty, sweeping, resolve_fifo, tls_age;
	struct link unserved; /* queues that may open a connection, but there is no smtp-out */
	struct name *no_source;
	uint32_t resolving;
	/* budgets */
	struct table budgets, levels;
	struct budget *total;
	struct budget **budget_at; /* owned, as queue_at */
	uint32_t *budget_free;	   /* owned */
	uint32_t budget_count, budget_frees;
	struct budget **configured; /* owned: what the configuration holds open */
	size_t configured_count;
	struct peer_limit *mx_limits, *ip_limits; /* owned */
	size_t mx_limit_count, ip_limit_count;
	uint32_t generation; /* of the configuration */
	uint32_t rates;	     /* limiters that a transaction must pass: 0, nobody asks */
	uint64_t tickets;
	int64_t empty_ms;	 /* buckets count as empty at that time; NEVER: they are full */
	struct buf *keys;	 /* owned: texts of views */
	struct worker **workers; /* owned */
	unsigned worker_count;
	uint64_t next_id, flushed;
	struct tx *tx_free;
	struct pending *ring; /* owned; power of two */
	size_t ring_cap, ring_head, ring_count;
	char *text; /* owned: texts of pending decisions */
	size_t text_n, text_cap;
	job_ref ended; /* handed out with its final decision, freed at the next core_next() */
	uint64_t n[8], unrouted;
	uint64_t delivered, deferred, bounced;
	bool more; /* the last tick left work */
	struct states states;
	struct link modes; /* queues that have a struct mode */
	struct link notes; /* of all queues, oldest first */
	uint32_t note_count;
	struct table disabled; /* sources, see sources.c */
	struct link disabled_all, sourceless;
	struct rules *rules; /* owned; see rules.c */
	struct str deciding; /* the place of the rule that decides what is ended now */
};
static inline int64_t core_clock(struct core *core, int64_t now_ms) /* time never runs backwards */
{
	if (now_ms > core->now)
		core->now = now_ms;
	return core->now;
}
uint64_t core_random(struct core *core);
int64_t core_jitter(struct core *core, int64_t ms); /* ms and up to a tenth more */
static inline struct job *core_at(const struct core *core, job_ref ref)
{
	return job_at(&core->jobs, ref);
}
void core_push(struct core *core, const struct pending *p, struct str status, struct str text);

/* ---- queue.c ---- */
struct queue *queue_get(struct core *core, struct dest *dest, struct vmta *vmta);
struct queue *queue_at(const struct core *core, const struct dest *dest, const struct vmta *vmta);
/* DESTINATION/VMTA, as in q->name: the queue, or NULL. */
struct queue *queue_find(const struct core *core, struct str name);
struct queue *queue_named(struct core *core, struct str name); /* made if need be; NULL: no name */
void queue_dirty(struct core *core, struct queue *q);	       /* look at it in core_next() */
void queue_rerouted(struct core *core, struct queue *q);
void queue_adopted(struct core *core, struct queue *q, struct name *provider);
void queue_configured(struct core *core, struct queue *q);
void queue_values(struct core *core, struct queue *q);
void queue_error(struct core *core, struct queue *q, struct str text, enum error_of of);
void queue_hold(struct core *core, struct queue *q, int64_t until_ms);
void queue_defer(struct core *core, struct queue *q, int64_t until_ms); /* nothing goes any more */
void queue_wake_at(struct core *core, struct queue *q, int64_t at_ms);
void queue_unhold(struct core *core, struct queue *q); /* forgets the clock */
void queue_idle(struct core *core, struct queue *q);   /* maybe nothing is left here */
void queue_on_idle(struct core *core, struct queue *q);
void queue_free(struct core *core, struct queue *q);
static inline uint64_t queue_ready(const struct queue *q) /* of lanes that are in the turn */
{
	return q->n[JOB_READY] - q->parked;
}

/* ---- outcome.c ---- */
enum age { AGE_FINE, AGE_NOTICE, AGE_EXPIRED };
int64_t outcome_event_ms(const struct core *core, const struct job *j); /* next expiry or notice */
enum age outcome_age(const struct core *core, const struct job *j);
bool outcome_aged(struct core *core, job_ref ref); /* ends it or tells the delay; true: ended */
void outcome_end(struct core *core, job_ref ref, enum core_outcome outcome, int result,
    struct str status, struct str text, bool report);
void outcome_place(struct core *core, job_ref ref, bool front); /* a loose job that is due */
void outcome_wait(struct core *core, job_ref ref);		/* a loose job until due_ms */
void outcome_loosen(struct core *core, job_ref ref);
void outcome_set_aside(struct core *core, job_ref ref);
void outcome_changed(struct core *core, job_ref ref);
void outcome_unsent(struct core *core, struct tx *tx, bool progress);
void outcome_uncertain(struct core *core, struct tx *tx);
bool outcome_moved(struct core *core, job_ref ref); /* moves or ends it if its domain did */

/* ---- conn.c, grant.c, send.c ---- */
struct conn *conn_find(const struct core *core, uint64_t id);
struct conn *conn_new(struct core *core, uint64_t id, unsigned worker, struct queue *q,
    struct domain *d, struct str source, struct str host, const struct route_address *address,
    uint16_t port);
void conn_free(struct core *core, struct conn *c);
void conn_settle(struct core *core, struct conn *c); /* idle, half, or to be closed */
void conn_close(struct core *core, struct conn *c, bool hard);
void conn_on_timer(struct core *core, struct conn *c);
void conn_start(struct core *core);
void conn_configured(struct core *core);
void conn_room(struct core *core, struct limiter *l); /* make room for those that wait at it */
void conn_offer(struct core *core, struct queue *q);
void conn_measured(struct core *core, const struct tx *tx); /* its result has come */
struct tx *tx_find(const struct core *core, uint64_t id);
struct tx *tx_new(struct core *core, uint64_t id, struct conn *c, uint64_t message);
void tx_put(struct tx *tx, job_ref ref);
void tx_free(struct core *core, struct tx *tx);
/* spare: idle connections wait for a token; only from a source that has none of these. */
bool grant_next(struct core *core, struct queue *q, bool spare, struct core_decision *out);
bool grant_wanted(const struct queue *q);
void grant_unwait(struct core *core, struct queue *q);
void grant_failed(struct core *core, struct conn *c, const struct core_failure *failure);
void grant_works(struct core *core, struct conn *c, uint64_t tx); /* it delivered that */
/* Passes over the connection's host for a retry step. True: its domain has another to go to. */
bool grant_skip(struct core *core, struct conn *c);
void grant_opened(struct core *core, struct conn *c); /* it opens no longer */
void grant_tls_broken(struct core *core, struct name *host);
void grant_tls_forget(struct core *core, bool all);
enum send_found {
	SEND_ONE,
	SEND_NONE,  /* nothing to send, or nothing to send it on */
	SEND_AGAIN, /* much was put aside: look again */
	SEND_HELD,  /* a limit holds the queue, or its lanes */
	SEND_SPARE, /* a limit holds its idle connections: one from another source may serve */
};
enum send_found send_next(struct core *core, struct queue *q, struct core_decision *out);
job_ref send_vet(
    struct core *core, struct queue *q, unsigned *budget); /* the next job, fit to go */
