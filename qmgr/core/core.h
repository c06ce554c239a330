/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf.h"
#include "common/result.h"
#include "common/route.h"
#include "common/rule.h"
#include "common/str.h"
#include "common/types.h"
#include <stdint.h>
/*
 * The pure core of qmgr: destinations, queues, lanes, paths, jobs, limits, fairness, retry. Plain
 * data and functions of (state, event, now); no loop, socket, file or clock in here. The shell
 * feeds events; after each, it drains core_next() and carries the decisions out. now_ms is
 * the steady clock in the daemon and virtual time in tests and in `posternctl simulate`.
 *
 * After each event: drain core_next(), then call core_tick() by core_next_ms(); that may be at
 * once, since long work (a million jobs that are due, moved or expired) is done in slices of about
 * a millisecond, one a core_tick(). All texts and names given to the core are copied.
 *
 * Bounds of fairness, tested in test_core_limits.c:
 * - between two decisions (grant, transaction) of a queue, each other queue with work has at most
 * one;
 * - in a queue with T tenants that have ready jobs, and L lanes of this tenant that have, a lane
 * gets a transaction within T * L transactions of its queue; uncertain mail, behind its lane's
 * other mail, every eighth of the lane's;
 * - where total-max-smtp-out binds, queues without a connection stand in line before those that
 * want one more. While one stands there, idle connections elsewhere are closed, and a busy one ends
 * within 10 transactions more (40, if it is its queue's only one): the n-th in line waits for n
 * such ends.
 *
 * Decided here, where contract and standards leave room:
 * - Two sites whose best MX sets differ but share the lowest host name: the second is named
 *   [HOST~HASH], so that one domain's MX records cannot disturb another's queue.
 * - ROUTE_NO_HOST is permanent, 5.4.4: an authoritative "no address" is no failure of a name
 * server. A domain's old route serves for a day while a new one cannot be had.
 * - Mail of a virtual MTA that was removed from the configuration stays in its queue under the old
 *   name and leaves by the default virtual MTA's sources and settings; the queue's last error says
 * so.
 * - An inherited connection (core_have_conn, ready) gets no further transaction: how many it has
 * had is not known, and max-msg-per-connection is a promise.
 * - A transaction has at most 1000 recipients, whatever max-rcpt-per-message says.
 * - bounce-after of jobs that are ready, unrouted or held by the queue's clock is kept to within a
 * 64th of it, at least 1 s and at most 60 s; of waiting ones to the second.
 *
 * A job is one recipient of one message, 64 bytes. References are small numbers, 0 is none; a freed
 * one may be used again, so the shell keeps none past the decision that ends the job.
 */
struct core;
typedef uint32_t job_ref;

enum job_flags {
	JOB_UNCERTAIN = 1, /* may have been delivered already: retried last, flagged in log */
	JOB_IN_DOUBT = 2,  /* recovered with an intent and no outcome: waits for core_start() */
	JOB_NULL_SENDER = 4,
	JOB_DELAY_ASKED = 8, /* NOTIFY=DELAY given */
	JOB_DELAY_TOLD = 16, /* a delay report was sent */
	JOB_HELD =
	    32, /* set aside (poison): never scheduled, visible, can be deleted or released */
	JOB_STORED = 64, /* the shell's: a row stands in the index */
	JOB_DIRTY = 128, /* the shell's: its row must be written */
};
enum job_state { JOB_FREE, JOB_UNROUTED, JOB_WAITING, JOB_READY, JOB_IN_FLIGHT, JOB_SET_ASIDE };

struct job_view { /* what a job is, unpacked */
	uint64_t id, segment, offset;
	uint16_t rcpt;
	uint16_t attempts;
	uint8_t flags, state;
	int64_t arrived_ms, due_ms;
	uint32_t bytes;
	struct str domain, queue, vmta, tenant, campaign, pool,
	    mode; /* views, valid until the next core call */
};

struct core *core_new(uint64_t seed, int64_t now_ms);
void core_free(struct core **core);
/* Use this configuration from now on (copied). Limits, retry lists, sources follow at once. */
void core_configure(struct core *core, const struct conf *conf, int64_t now_ms);

/* ---- events ---- */
struct core_add {
	uint64_t id, segment, offset;
	uint32_t bytes;
	uint16_t rcpt, attempts;
	uint8_t flags;
	int64_t arrived_ms;
	int64_t due_ms; /* 0: now */
	/* vmta "": the default; it may name a pool: a member is drawn by weight. pool: from which
	 * it was drawn before (recovery). */
	struct str domain, vmta, tenant, campaign, pool;
};
job_ref core_add(struct core *core, const struct core_add *job, int64_t now_ms);
/* Before start nothing is granted or sent: recovery adds jobs, workers report what they still have.
 * core_start(): jobs still JOB_IN_DOUBT become JOB_UNCERTAIN. */
void core_start(struct core *core, int64_t now_ms);
/* The answer to DECIDE_RESOLVE. Copied. */
struct core_answer {
	struct str domain, fixed; /* as in the question's domain and hosts */
	enum route_class class;
	bool implicit; /* it has no MX record: its own address records serve */
	uint32_t ttl_s;
	struct str text;
	const struct route_host *hosts; /* sorted by preference */
	size_t host_count;
};
void core_route(struct core *core, const struct core_answer *answer, int64_t now_ms);
void core_worker_up(struct core *core, unsigned worker, int64_t now_ms); /* an smtp-out instance */
/* It died: its connections are gone, its jobs in flight become uncertain and wait. */
void core_worker_down(struct core *core, unsigned worker, int64_t now_ms);
void core_have_conn(struct core *core, unsigned worker, uint64_t conn, struct str queue,
    struct str domain, struct str source, struct str host, const struct route_address *address,
    uint16_t port, bool ready, int64_t now_ms);
/* 0, or -ENOENT when the connection or a job is not known (the shell then logs it); the known jobs
 * of a known connection are taken over in either case, and wait for the transaction's result. */
int core_have_job(struct core *core, uint64_t conn, uint64_t transaction, uint64_t id,
    const uint16_t *rcpts, size_t n, int64_t now_ms);
void core_conn_ready(
    struct core *core, uint64_t conn, uint32_t rcpt_max, uint32_t mail_max, int64_t now_ms);
struct core_failure {
	enum conn_cause cause;
	enum smtp_stage stage;
	uint16_t code;
	bool was_ready;
	struct str text; /* kept, bounded, as the queue's last error */
};
void core_conn_closed(
    struct core *core, uint64_t conn, const struct core_failure *failure, int64_t now_ms);
/* Results of a transaction: each recipient of it exactly once, else the missing ones are retried.
 * An unknown transaction is ignored (0 is returned; else 1). */
int core_result(struct core *core, uint64_t transaction, const struct rcpt_result *results,
    size_t n, int64_t now_ms);
/* Rules that matched, of the core_result() or core_conn_closed() that follows at once. Copied. */
void core_hits(struct core *core, const struct rule_hit *hits, size_t n);
/* How often a rule of the configuration matched and fired since start or reload. */
bool core_rule(const struct core *core, uint64_t rule, uint64_t *matches, uint64_t *firings);
/* A source address can no longer (or again) be bound on this host. */
void core_source_bindable(struct core *core, struct str address, bool ok, int64_t now_ms);
/* What DECIDE_STATE gave out before the restart; after core_configure(), before core_start(). A
 * state about what is not configured any more is kept for a day or dropped. -EBADMSG: damaged. */
int core_restore(struct core *core, struct str key, struct str value, int64_t now_ms) MUST_USE;
/* The store did not stop cleanly: all buckets start empty. Before core_start(). */
void core_unclean(struct core *core, int64_t now_ms);
/* Before a clean stop: gives out, as DECIDE_STATE, what is only kept then (levels of buckets). */
void core_save(struct core *core, int64_t now_ms);
void core_tick(struct core *core, int64_t now_ms); /* run due timers */
int64_t core_next_ms(const struct core *core); /* when to tick at the latest; INT64_MAX: never */

/* ---- decisions ---- */
enum core_decision_kind {
	DECIDE_RESOLVE, /* domain; hosts: not its MX, but these, as smtp-hosts has them */
	DECIDE_GRANT,	/* worker, conn, grant */
	DECIDE_SEND,  /* worker, conn, transaction, jobs: one message's recipients of one domain */
	DECIDE_CLOSE, /* worker, conn, hard */
	DECIDE_DONE,  /* job, outcome, result (index, or -1 without an attempt), status, text */
	DECIDE_DELAYED, /* job: a delay report is due (the flag is set already) */
	DECIDE_CHANGED, /* job: its row must be written (flags, place, due, virtual MTA) */
	DECIDE_STATE, /* key, state: keep it for core_restore(); gone: forget it. Journalled at once
		       */
	DECIDE_EVENT, /* event: for log, events and alert mail */
};
enum core_event_kind {
	EVENT_MODE,    /* a queue's mode changed */
	EVENT_RULE,    /* a rule fired */
	EVENT_HOLD,    /* paused or suspended */
	EVENT_RELEASE, /* resumed, or its time is over */
	EVENT_SOURCE,  /* a source address was disabled or enabled */
	EVENT_REROUTE,
	EVENT_WARMUP,
	EVENT_ALERT, /* a rule's alert=ADDRESS */
	EVENT_ERROR, /* e.g. a loop of reroutes */
	EVENT_KINDS
};
const char *core_event_name(enum core_event_kind kind); /* "mode", "rule", … */
struct core_event {
	enum core_event_kind kind;
	struct str scope;    /* what it is about: queue, tenant, source …, as named in commands */
	struct str from, to; /* of MODE: modes; of REROUTE: virtual MTAs */
	struct str text;     /* one line for people: the reply, what was done */
	struct str rule;     /* "LIST:INDEX (FILE:LINE)"; empty: none */
	struct str who;	     /* operator; empty: none */
	struct str notify;   /* mail addresses, commas between; empty: nobody */
	int64_t until_ms;    /* 0: none */
};
enum core_outcome {
	OUTCOME_DELIVERED,
	OUTCOME_DEFERRED, /* the job lives on, with a new due time */
	OUTCOME_BOUNCED,
	OUTCOME_EXPIRED,
	OUTCOME_DELETED,
	OUTCOME_RETRY /* lives on, no attempt counted */
};
struct core_grant {
	struct str queue, domain, source, ehlo, host;
	struct route_address address;
	uint16_t port;
	enum tls_policy tls;
	bool ignore_8bitmime;
	struct str patterns; /* names of lists, commas between */
	uint32_t connect_timeout_ms, greeting_timeout_ms, command_timeout_ms, data_timeout_ms,
	    dot_timeout_ms, idle_timeout_ms;
};
struct core_decision {
	enum core_decision_kind kind;
	unsigned worker;
	uint64_t conn, transaction;
	struct str domain, hosts;
	bool hard;
	struct core_grant grant;
	const job_ref *jobs; /* of SEND */
	size_t job_count;
	job_ref job;
	enum core_outcome outcome;
	int result;
	struct str status, text;
	uint8_t report;	 /* 1: a DSN_FAILED is to be asked of the bouncer (null senders: 0) */
	struct str rule; /* of DONE: the rule that decided, as in core_event; else empty */
	struct str key, state;
	bool gone;
	struct core_event event;
};
/* Takes the next decision; its views are valid until the next core call. False: none. A job whose
 * DONE is final is freed at the call after this one: the shell reads it with core_job() before. */
bool core_next(struct core *core, struct core_decision *d);

/* ---- looking and steering ---- */
bool core_job(const struct core *core, job_ref ref, struct job_view *view);
/* When it is returned if nothing takes it: bounce-after as it holds for its queue. 0: no such job.
 */
int64_t core_expires_ms(const struct core *core, job_ref ref);
job_ref core_find(const struct core *core, uint64_t id);    /* a message's first job */
job_ref core_sibling(const struct core *core, job_ref ref); /* its next, or 0 */
void core_set_flags(struct core *core, job_ref ref, uint8_t set, uint8_t clear);
void core_move(struct core *core, job_ref ref, uint64_t segment, uint64_t offset); /* compaction */
void core_delete(struct core *core, job_ref ref, int64_t now_ms); /* in flight: at its result */
void core_hold(struct core *core, job_ref ref, int64_t now_ms);	  /* set aside */
void core_release(struct core *core, job_ref ref, int64_t now_ms);
bool core_glob(struct str pattern, struct str text); /* '*' is any text; ASCII case is ignored */
/* Makes what matches due now and forgets the retry clock. pattern: as in `queues` ("*"). In slices:
 * call until it returns false, at most `budget` jobs a call. */
struct core_cursor {
	uint64_t a, b;
};
bool core_flush(struct core *core, struct str pattern, struct core_cursor *cursor, unsigned budget,
    int64_t now_ms);

/* ---- steering by the operator; who: "name via posternctl", kept with it ---- */
/* What a command or suspension is about. A queue: DESTINATION/VMTA, or a pattern of such names; a
 * tenant or campaign (TENANT/CAMPAIGN) everywhere, or at `at` only (a destination). */
enum core_scope { CORE_QUEUE, CORE_TENANT, CORE_CAMPAIGN, CORE_VMTA, CORE_PROVIDER, CORE_SOURCE };
int core_pause(struct core *core, enum core_scope scope, struct str name, struct str at,
    int64_t until_ms, struct str who, int64_t now_ms) MUST_USE; /* until 0: without end; -ENOENT */
/* Takes pauses and suspensions of exactly this scope and name away: how many. */
size_t core_resume(struct core *core, enum core_scope scope, struct str name, struct str at,
    struct str who, int64_t now_ms);
struct hold_view {
	enum core_scope scope;
	struct str kind; /* "pause", "suspend", "set", "disable-source" */
	struct str name, at;
	struct str what; /* of "set": NAME=VALUE */
	struct str who, rule, text;
	int64_t since_ms, until_ms; /* 0: without end */
};
size_t core_holds(
    const struct core *core, struct core_cursor *cursor, struct hold_view *out, size_t n);
/* Modes: "normal", "backoff". -ENOENT: no such queue; -EINVAL. */
int core_set_mode(struct core *core, struct str queue, struct str mode, int64_t until_ms,
    struct str who, int64_t now_ms) MUST_USE;
/* queue "": everywhere. */
int core_disable_source(struct core *core, struct str address, struct str queue, int64_t until_ms,
    struct str who, int64_t now_ms) MUST_USE;
size_t core_enable_source(
    struct core *core, struct str address, struct str queue, struct str who, int64_t now_ms);
/* Mode, retry clock, disabled sources, last error. */
int core_reset(struct core *core, struct str queue, struct str who, int64_t now_ms) MUST_USE;
/* Moves what is in the queue now, and nothing that comes later, to that virtual MTA or pool. */
int core_reroute(
    struct core *core, struct str queue, struct str vmta, struct str who, int64_t now_ms) MUST_USE;

/* Jobs of one queue, tenant, campaign: only these are walked. Empty texts: any. With none given,
 * all jobs are. queue may be a pattern, or end in lanes: DESTINATION/VMTA/TENANT[/CAMPAIGN]. */
struct core_filter {
	struct str queue, tenant, campaign, vmta, domain;
};
/* As core_jobs(), of those that match. */
size_t core_select(const struct core *core, const struct core_filter *filter,
    struct core_cursor *cursor, job_ref *out, size_t n, unsigned budget, bool *more);
void core_bounce(
    struct core *core, job_ref ref, struct str text, int64_t now_ms); /* 5.7.0 by operator */
void core_flush_job(struct core *core, job_ref ref, int64_t now_ms);

/* ---- why ---- */
struct core_limit_view {
	struct str name; /* the option: "max-smtp-out" */
	struct str key;	 /* whose: "queue google/mta1", "provider google", "mx mx1.example" … */
	uint64_t limit, used; /* rates: tokens a per_ms, and tokens taken of the burst now */
	uint64_t burst;
	int64_t per_ms;	  /* 0: not a rate */
	int64_t frees_ms; /* when one more fits; 0: now; INT64_MAX: when somebody else's ends */
	const struct conf_value *origin; /* NULL: none */
	bool binding;
};
size_t core_limits(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct core_limit_view *out, size_t n);
/* Of a limit named "warmup", by its key: where its plan stands. False: no such plan. */
struct core_warmup {
	uint32_t step, steps; /* from 1 */
	int64_t a_day;	      /* recipients that the plan allows today */
	uint64_t attempts, deferred;
};
bool core_warmup(const struct core *core, struct str key, struct core_warmup *out);
struct core_why {
	struct str target;
	struct str state;   /* "empty", "sending", "ready", "paused", "suspended", "retry", "limit",
			     * "route", "source", "held", "connecting", "in flight" */
	struct str binding; /* the limit's or cause's name, for people with its key */
	struct str text;    /* the last error, the reply or rule behind it */
	struct str who, rule; /* of paused and suspended; as in hold_view */
	int64_t until_ms;     /* 0: not known */
	const struct conf_value *origin;
};
/* target: queue, lane, domain, virtual MTA or tenant. -ENOENT. Limits that apply: at most n. */
int core_why_queue(const struct core *core, struct str target, struct core_why *why,
    struct core_limit_view *limits, size_t *n) MUST_USE;
int core_why_job(const struct core *core, job_ref ref, struct core_why *why,
    struct core_limit_view *limits, size_t *n) MUST_USE;
/* Every option of a destination for a virtual MTA. */
struct core_explain {
	enum conf_opt opt;
	const struct conf_value *value; /* the one that holds */
	const char *layer; /* "virtual MTA's domain", "provider", "*", "default", … */
	const struct conf_value *over[8]; /* what it won against, the nearest first */
	size_t over_count;
};
size_t core_explain(const struct core *core, struct str domain, struct str vmta,
    struct core_explain *out, size_t n);
/* What the numbers together allow, in recipients an hour, and the option that binds. */
struct core_arithmetic {
	double per_hour;
	const char *binds;
	double by_connections, by_connects, by_messages; /* 0: no such limit */
	double seconds_per_message;			 /* what was assumed or measured */
};
void core_arithmetic(
    const struct core *core, struct str domain, struct str vmta, struct core_arithmetic *out);
/* The queue's log: newest first; kind as in core_event_name(), or "error". */
struct queue_note {
	int64_t at_ms;
	struct str kind, text;
};
size_t core_queue_notes(
    const struct core *core, struct str queue, struct queue_note *out, size_t n);

struct queue_view {
	struct str name, destination, vmta, mode, last_error;
	uint64_t recipients, ready, waiting, in_flight, unrouted, held;
	uint32_t connections, connections_max, lanes;
	uint64_t delivered, deferred, bounced; /* since start */
	int64_t next_retry_ms;		       /* 0: none; of the queue's clock or its next job */
	int64_t last_error_ms;
	uint32_t failures; /* consecutive, before MAIL */
	bool paused;
	struct str mode_cause, mode_rule, mode_who; /* of a mode other than normal */
	int64_t mode_since_ms, mode_until_ms;
};
/* Streams queues that match, at most `n` a call; returns how many; 0 = end. */
size_t core_queues(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct queue_view *out, size_t n);
/* The same, looking at no more than so many queues a call: the end is where *more is false. */
size_t core_queues_slice(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct queue_view *out, size_t n, unsigned look, bool *more);
/* Streams tenants that have mail and match, or campaigns, if the pattern is TENANT/CAMPAIGN. */
struct tenant_view {
	struct str tenant, campaign;
	uint64_t recipients, ready, waiting, in_flight, held;
	uint64_t delivered, deferred, bounced; /* since its first mail */
	uint32_t weight, campaigns;
	uint32_t queues,
	    queues_paused; /* where it has lanes; where these are paused or suspended */
	bool paused;	   /* everywhere */
};
size_t core_tenants(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct tenant_view *out, size_t n);
/* Streams live jobs in any order: at most n a call, looking at no more than `budget` of them.
 * Returns how many, and false in *more at the end. */
size_t core_jobs(const struct core *core, struct core_cursor *cursor, job_ref *out, size_t n,
    unsigned budget, bool *more);
struct core_totals {
	uint64_t recipients, messages, queues, lanes, ready, waiting, in_flight, unrouted, held;
	uint64_t connections;
	uint64_t delivered, deferred, bounced;
	uint64_t flushed;	  /* since start: recipients that core_flush() found */
	uint64_t bytes_of_memory; /* of jobs and their indexes */
};
void core_totals(const struct core *core, struct core_totals *t);
struct core_conn_view {
	struct str queue, vmta, domain, source; /* views, valid until the next core call */
};
bool core_conn(const struct core *core, uint64_t conn, struct core_conn_view *view);
/* The n-th queue of a domain that has no route yet, with its virtual MTA: false, there is none. */
bool core_unrouted_queue(
    const struct core *core, struct str domain, size_t n, struct core_conn_view *view);
struct str core_default_vmta(const struct core *core); /* whose mail that names none is */
/* The destination a domain's mail goes to now ("" unrouted), for `resolve` and names in commands.
 */
struct str core_destination(const struct core *core, struct str domain);
