/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * What the files of sim/ share. Times are virtual, in milliseconds of the core's clock; those that
 * are told to people count from the beginning.
 */
#include "common/match.h"
#include "common/result.h"
#include "common/route.h"
#include "qmgr/core/core.h"
#include "qmgr/core/table.h"
#include "sim/sim.h"

#define SIM_START INT64_C(1767225600000) /* 2026-01-01, a midnight: days of warm-up begin there */
#define SIM_MINUTE INT64_C(60000)
#define SIM_HOUR INT64_C(3600000)

enum {				/* bounds, each with what it stops */
	SIM_POINTS = 2000,	/* of the series: more are no clearer on a screen */
	SIM_PROBES = 5000,	/* looks at all queues: their share of the time stays small */
	SIM_PROBE_QUEUES = 200, /* a look at more than that many counts as several */
	SIM_EVENTS = 2000,	/* kept for the report; all are counted */
	SIM_CAUSES = 12,	/* of one queue; the rest is one more */
	SIM_QUEUES = 20000,	/* queues with a row; the rest is one more */
	SIM_MATCHES = 4096,	/* replies whose rules are remembered */
	SIM_TEXT = 160,
	SIM_BUCKETS = 512, /* of delays: eight for each power of two */
	SIM_DEPTH = 2,	   /* transactions outstanding on a connection, as the core has them */
};

/* ---- receivers: receiver.c ---- */
enum reply_kind { /* of a receiver's replies; its `answers` follow */
	REPLY_OK,
	REPLY_CONNECT,
	REPLY_RATE,
	REPLY_FULL,
	REPLY_RCPTS,
	REPLY_DEFER,
	REPLY_BOUNCE,
	REPLY_ANSWERS
};
struct reply_row {
	char *text; /* owned; with its variables */
	char status[12];
	uint16_t code;
	bool variable;	/* has {…} in it */
	uint64_t given; /* recipients, or connections */
};
struct answer_row { /* of `answers` */
	enum smtp_stage stage;
	bool timeout; /* at the stage connect */
	unsigned percent;
	int64_t from_ms, until_ms;
	const char *tenant, *campaign, *source; /* "": any */
};
struct allowance { /* what a rate still allows */
	double tokens;
	int64_t at_ms;
};
struct peer { /* what a receiver counts: one of our source addresses, or all of them */
	char source[64];
	uint32_t open;
	struct allowance connects, recipients;
	int64_t blocked_ms;  /* penalty: until then; */
	unsigned blocked_by; /* a reply */
};
struct speed { /* n each per_ms, at most burst at once; n 0: no limit */
	double n, burst, per_ms;
};
struct receiver {
	const char *name;
	const struct conf_node *conf; /* NULL: of mail that the file has no receiver for */
	int64_t latency_ms, connect_ms, penalty_ms;
	unsigned jitter, defer, bounce;
	uint32_t max_connections, max_messages, max_rcpts;
	bool together; /* per = "all" */
	struct speed connects, recipients;
	struct reply_row *replies;  /* owned */
	struct answer_row *answers; /* owned */
	size_t answer_count;
	struct peer *peers; /* owned; pointers to pointers are not kept: by number */
	size_t peer_count;
	/* what it saw */
	uint64_t connections, refused, transactions, attempted, taken;
	uint32_t open, open_peak, peer_peak;
	int64_t open_peak_ms;
	uint64_t minute, minute_peak; /* recipients attempted within a minute */
	int64_t minute_ms, minute_peak_ms;
	/* the mail for it */
	uint64_t in, delivered, bounced, deferrals, backlog, backlog_peak;
	int64_t backlog_peak_ms, last_ms;	 /* last_ms: its last recipient left */
	uint64_t *series_backlog, *series_taken; /* owned: by point */
};
struct host {
	struct node node;
	char *name; /* owned */
	struct receiver *receiver;
	uint32_t address; /* of its first, IPv4 */
};

/* ---- connections and transactions: session.c ---- */
struct sim_tx {
	uint64_t id;
	job_ref *jobs; /* owned */
	uint32_t n, cap;
};
struct session {
	struct node node;
	uint64_t id;
	unsigned worker;
	struct receiver *receiver;
	size_t peer;
	const char *patterns; /* of s->names */
	char source[64];
	bool ready, gone, counted;
	uint32_t done;	 /* transactions answered */
	unsigned events; /* on the heap: it is not freed before they are */
	struct sim_tx tx[SIM_DEPTH];
	unsigned tx_count;
	int64_t busy_ms;
	struct core_failure end; /* of the end that is under way */
	char text[REPLY_TEXT_MAX + 1];
	struct session *next_free;
};

/* ---- loads: load.c ---- */
struct load_to {
	const struct conf_node *conf;
	char domain[256]; /* "": one of many */
	int64_t count;
	uint64_t until; /* sum of the shares up to this one */
	struct receiver *receiver;
};
struct load {
	const struct conf_node *conf;
	const char *campaign, *vmta;
	struct tenant_row *tenant;
	struct load_to *to; /* owned */
	size_t to_count;
	double per_ms, at; /* at: of the next message, before its bit of chance */
	int64_t from_ms, until_ms;
	uint64_t left;
	uint32_t bytes, rcpts;
	const struct conf_value *hours;
};

/* ---- what happened: tally.c ---- */
struct cause {
	char text[SIM_TEXT];
	int64_t ms;
	int64_t first_ms, last_ms;
};
struct queue_row {
	struct node node;
	char *name; /* owned */
	uint64_t in_queue, peak, delivered, bounced, deferrals;
	int64_t peak_ms, last_ms; /* last_ms: a recipient of it left */
	int64_t oldest_ms;	  /* the longest that one was in it, or is */
	int64_t seen_ms;
	int64_t mode_ms[3]; /* normal, backoff, recovery */
	uint32_t connections_peak;
	struct cause causes[SIM_CAUSES + 1];
	size_t cause_count;
};
struct tenant_row {
	struct node node;
	const char *name;
	uint64_t in, delivered, bounced, deferrals;
	uint64_t delays[SIM_BUCKETS];
	int64_t delay_max_ms;
};
struct event_row {
	struct node node; /* of those that are told once, with how often */
	int64_t at_ms, until_ms, last_ms;
	uint64_t times;
	enum core_event_kind kind;
	char *scope, *from, *to, *text, *rule; /* owned */
};
struct rule_row {
	struct node node;
	char *name; /* owned: LIST:INDEX (FILE:LINE) */
	uint64_t fired;
	int64_t first_ms, last_ms;
};

enum happening_kind { HAPPENS_MAIL, HAPPENS_ROUTE, HAPPENS_READY, HAPPENS_RESULT, HAPPENS_CLOSED };
struct happening {
	int64_t at_ms;
	uint64_t order;
	enum happening_kind kind;
	void *what;
};
struct match_row { /* rules that match a reply */
	struct node node;
	char *key; /* owned */
	size_t key_n;
	size_t count;
	struct rule_hit hits[HITS_MAX];
	char *objects; /* owned */
};
struct sim {
	const struct conf *conf;
	const struct conf_node *conf_sim;
	struct core *core;
	struct matcher *matcher;
	uint64_t random, order, next_message;
	int64_t now, end_ms;
	struct happening *heap; /* owned */
	size_t heap_count, heap_cap;
	struct receiver *receivers; /* owned; the last one takes what no other does */
	size_t receiver_count;
	struct load *loads; /* owned */
	size_t load_count, loads_left;
	struct table conns, hosts, queues, tenants, rules, matches, names, repeats;
	struct session *free_conns;
	uint32_t next_address;
	struct rcpt_result *results; /* owned: of the transaction at hand */
	size_t result_cap;
	struct rule_hit *hits; /* owned */
	size_t hit_count, hit_cap;
	char (*texts)[REPLY_TEXT_MAX + 1]; /* owned: expanded replies of the transaction at hand */
	size_t text_cap;
	/* what happened */
	uint64_t messages, in, delivered, bounced, expired, deferrals, grants, sends;
	uint64_t event_counts[EVENT_KINDS];
	struct event_row *events; /* owned */
	size_t event_count;
	struct event_row *modes; /* owned: changes of modes alone, for the plot */
	size_t mode_count;
	struct queue_row *more_queues; /* owned: those beyond SIM_QUEUES, together */
	struct queue_row *recent[256]; /* by their names' place in memory */
	int64_t sample_ms, probe_ms, probed_ms, next_probe_ms;
	size_t points;
	uint64_t delays[SIM_BUCKETS];
	uint64_t *series_backlog, *series_delivered; /* owned */
	uint64_t left;
	int64_t left_oldest_ms;
};

/* sim.c */
uint64_t sim_random(struct sim *s);
double sim_chance(struct sim *s); /* [0, 1) */
void sim_at(struct sim *s, int64_t at_ms, enum happening_kind kind, void *what);
const char *sim_name(struct sim *s, struct str text); /* one copy of it, which lasts */

/* load.c */
void load_all(struct sim *s);
void load_fini(struct sim *s);
void load_come(struct sim *s, struct load *l);

/* receiver.c */
void receiver_all(struct sim *s);
void receiver_fini(struct sim *s);
struct receiver *receiver_of(struct sim *s, const char *domain);
struct host *receiver_host(struct sim *s, struct str name);
size_t receiver_peer(struct receiver *r, struct str source);
bool receiver_allows(struct allowance *a, const struct speed *speed, double n, int64_t now);
void receiver_route(struct sim *s, struct str domain, struct str fixed);
void receiver_answer(struct sim *s, void *question); /* of HAPPENS_ROUTE; frees it */
/* The first of its answers that applies now; 0: none. tenant NULL: a connection's. */
unsigned receiver_says(struct sim *s, struct receiver *r, enum smtp_stage stage, const char *source,
    struct str tenant, struct str campaign);

/* session.c */
void session_grant(struct sim *s, const struct core_decision *d);
void session_send(struct sim *s, const struct core_decision *d);
void session_close(struct sim *s, const struct core_decision *d);
void session_ready(struct sim *s, struct session *c);
void session_result(struct sim *s, struct session *c);
void session_closed(struct sim *s, struct session *c);
void session_fini(struct sim *s);

/* hits.c: smtp-out's part */
void hits_match(struct sim *s, const char *lists, struct str text, enum smtp_stage stage, bool own,
    uint16_t ordinal);
void hits_tell(struct sim *s); /* what matched, to the core */
void hits_fini(struct sim *s);

/* tally.c */
void tally_init(struct sim *s);
void tally_fini(struct sim *s);
void tally_in(struct sim *s, struct load *l, struct receiver *r);
void tally_done(struct sim *s, const struct core_decision *d);
void tally_event(struct sim *s, const struct core_event *e);
void tally_probe(struct sim *s);
void tally_end(struct sim *s);
struct tenant_row *tally_tenant(struct sim *s, const char *name);
size_t tally_point(const struct sim *s); /* of now */
void tally_delay_add(uint64_t delays[SIM_BUCKETS], int64_t ms);
int64_t tally_delay(const uint64_t delays[SIM_BUCKETS], double part); /* ms; -1: none */
struct queue_row **tally_queues(const struct sim *s, size_t *n); /* by their peaks; caller frees */
struct tenant_row **tally_tenants(const struct sim *s, size_t *n);
struct rule_row **tally_rules(const struct sim *s, size_t *n);
