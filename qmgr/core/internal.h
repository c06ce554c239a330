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
 */
#include "common/addr.h"
#include "common/bucket.h"
#include "common/buf.h"
#include "common/check.h"
#include "common/wheel.h"
#include "qmgr/core/core.h"
#include "qmgr/core/table.h"
#include <string.h>

#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define NEVER INT64_MAX

/* Bounds and constants, each with what it stops. */
enum {
	CORE_START_CONNS = 2,  /* a queue's connections before its first accepted transaction */
	CORE_DEPTH = 2,	       /* transactions outstanding on a connection: one works, one waits */
	CORE_TX_RCPTS = 1000,  /* recipients of a transaction, whatever the configuration says */
	CORE_CAMPAIGNS = 1000, /* of a tenant with lanes of their own: contract of counting, 11 */
	CORE_SENDER_DOMAINS = 10000, /* that are tenants of their own: more share the tenant "" */
	CORE_FAVOUR = 9,       /* transactions in a row of transactional lanes while others wait */
	CORE_RETRIES = 3,      /* RETRY_NOW in a row before it counts as an attempt */
	CORE_TARGETS = 1024,   /* addresses of a queue whose failures are remembered */
	CORE_ROUND_TRIES = 64, /* failed connections of a round, however many addresses there are */
	CORE_TLS_MEMORY = 4096, /* hosts whose TLS is known to be broken */
	CORE_WORKERS = 1024,	/* instances of smtp-out */
	CORE_RESOLVES = 1000,	/* questions out at the resolver at once */
	CORE_ROOM_SLICE = 10,	/* transactions of a connection while another queue waits for one */
	CORE_LOOK = 64,		/* jobs looked at for one decision */
	CORE_LOOK_FAR = 1024,	/* at a provider, for a connection that cannot take the next job */
	CORE_SLICE = 2000,	/* jobs handled by one core_tick(): about a millisecond */
	CORE_TEXT_MAX = 300,	/* of a queue's last error */
	CORE_CHOICES = 1000,	/* idle connections looked at where rates apply */
	CORE_TOTAL = 20000,	/* connections, before there is a configuration */
	BUDGET_KEY_MAX = 700,
	CORE_TEXTS = 65536,	 /* of the views of one call */
	PEER_NAME_MAX = 512,	 /* host or address, and source */
	CORE_LEAD_BYTES = 16384, /* of volume that a connection being opened is reckoned to use */
	CORE_UNCERTAIN_EVERY =
	    8, /* of a lane's transactions one may be uncertain mail, others waiting */
};
/* Numbers of connections and transactions from a worker that lies end here: ours never run out. */
#define CORE_ID_END (UINT64_C(1) << 62)
#define CORE_LEAD                                                                                  \
	SECOND		 /* a connection may be opened that long before its message's token comes  \
			  */
#define CORE_CALL SECOND /* lanes that were called for a token and took none: others are called */
#define CORE_WAIT_IDLE MINUTE	  /* a connection that waits for a token that near is kept */
#define CORE_LINGER (10 * MINUTE) /* an idle queue, lane or domain is kept that long */
#define CORE_CLOCK_LINGER HOUR	  /* and a queue with a running failure clock that much longer */
#define CORE_HOST_SKIP_MAX                                                                         \
	(15 * MINUTE) /* a dead MX is probed that often while others of it work */
#define CORE_TLS_FORGET (3 * DAY)
#define CORE_SLOT SECOND		   /* a dead process's connection: then the peer knows */
#define CORE_LOCAL_HOLD (30 * SECOND)	   /* a source address that cannot be bound */
#define CORE_RESOLVE_TIMEOUT (90 * SECOND) /* the resolver always answers; this is if it died */
#define CORE_ROUTE_STALE DAY /* an old route serves that long while a new one cannot be had */
#define CORE_ROUTE_LEAST (5 * SECOND) /* route lifetimes: floor and ceiling */
#define CORE_ROUTE_MOST DAY
#define CORE_DELAY_ASKED (4 * HOUR) /* NOTIFY=DELAY without notify-of-delay-every */

/* ---- names ---- */
struct name { /* interned text with a count of references */
	struct node node;
	uint32_t refs;
	uint16_t n;
	char p[];
};
static inline struct str name_str(const struct name *n)
{
	return n ? (struct str){n->p, n->n} : STR("");
}
struct name *name_get(struct core *core, struct str text); /* one more reference */
struct name *name_keep(struct name *n);
void name_drop(struct core *core, struct name *n);

/* ---- jobs ---- */
enum {		       /* further states of a job, inside only */
	JOB_ENDED = 6, /* its final decision is on the way out */
	JOB_DOUBT = 7, /* in doubt until core_start() */
};
struct job {
	uint64_t id;
	uint64_t segment : 40, rcpt : 16, flags : 8;
	uint64_t offset : 40, attempts : 16, notices : 8; /* notices: delay reports so far */
	uint64_t arrived_ms : 44, bytes_low : 20;
	uint64_t due_ms : 44, bytes_high : 11, state : 3, retries : 2;
	uint64_t
	    head : 1; /* first of its message in the index: sibling_prev is the bucket's next */
	uint64_t doomed : 1;		     /* deleted while in flight */
	uint64_t backed_off : 1;	     /* waits by the list of backoff mode */
	uint64_t last : 1;		     /* stands in the lane's list of uncertain mail */
	uint32_t lane, domain;		     /* index of lane and domain */
	uint32_t next, prev;		     /* in its list; job_ref or LIST_END | list */
	uint32_t sibling_next, sibling_prev; /* jobs of the same message */
};
_Static_assert(sizeof(struct job) == 64, "a job is 64 bytes");

#define LIST_END 0x80000000u   /* marks a list's number among the links of jobs */
#define LIST_BATCH 0x40000000u /* and a batch's among the lists' */
struct job_list {
	job_ref head, tail;
};
enum lane_list { LANE_READY, LANE_UNCERTAIN, LANE_FLIGHT, LANE_ASIDE, LANE_LISTS };
enum { /* numbers of lists: the list of doubt, then LANE_LISTS for each lane */
	LIST_DOUBT,
	LIST_LANES,
	DUE_LEVELS = 3,
	DUE_SLOTS = 512, /* two turns of the next level, see due.c */
	JOB_SLAB = 4096,
	INDEX_SEGMENT = 16384,
};
struct job_store {
	struct job **slabs;	   /* owned */
	uint32_t slab_count, used; /* references below `used` have been handed out once */
	job_ref free;		   /* chain through next */
	uint64_t live;		   /* jobs that are not free */
	uint32_t **index;	   /* owned; buckets of the message index */
	uint32_t index_segments, base, split;
	uint64_t messages;
};
struct batch {		  /* jobs of one lane that wait in one slot of the due wheel */
	struct node node; /* by lane and slot; the hash is the key itself, mixed; 0: in no table */
	struct job_list list;
	uint32_t number; /* its list is LIST_BATCH | number */
	uint32_t seq;	 /* of its making: each lane's batches stand in this order */
	struct link in_slot, in_lane;
};
_Static_assert(sizeof(struct batch) == 64, "one per lane and slot, however few the jobs");
struct due {
	struct link slot[DUE_LEVELS * DUE_SLOTS];
	uint64_t bits[DUE_SLOTS / 64];	       /* of level 0: slots that may hold jobs */
	uint32_t last[DUE_LEVELS * DUE_SLOTS]; /* the lane of a slot's last batch; 0: ask nobody */
	int64_t tick;			       /* the next second to handle */
	struct job_list doubt;
	struct table batches;
	struct batch **slabs; /* owned */
	uint32_t slab_count, used, seq, live;
	struct batch *free; /* chain through node.next */
};
static inline struct job *job_at(const struct job_store *s, job_ref ref)
{
	return &s->slabs[ref / JOB_SLAB][ref % JOB_SLAB];
}
static inline uint32_t job_bytes(const struct job *j)
{
	return (uint32_t)(j->bytes_low | (uint64_t)j->bytes_high << 20);
}
struct job *job_valid(const struct core *core, job_ref ref); /* NULL: no live job */
job_ref job_new(struct core *core);
void job_free(struct core *core, job_ref ref);
void job_store_init(struct job_store *s);
void job_store_fini(struct job_store *s);
uint64_t job_store_bytes(const struct job_store *s);
void job_index(struct core *core, job_ref ref); /* by its id; done by job_free() backwards */
job_ref job_find(const struct core *core, uint64_t id);
void job_ahead(struct core *core, uint64_t id); /* it will be looked for: into the cache */
static inline uint32_t lane_list(uint32_t lane, enum lane_list which)
{
	return LIST_LANES + LANE_LISTS * lane + which;
}
void job_append(struct core *core, uint32_t list, job_ref ref);
void job_prepend(struct core *core, uint32_t list, job_ref ref);
void job_unlink(struct core *core, job_ref ref);
void job_state(struct core *core, job_ref ref, unsigned state); /* keeps all counters right */

struct queue;
void due_init(struct due *due, int64_t now_ms);
void due_fini(struct due *due);
uint64_t due_bytes(const struct due *due);
void due_empty(struct core *core, struct queue *q, uint32_t number); /* a batch has no job left */
static inline struct batch *due_batch(const struct due *due, uint32_t number)
{
	return &due->slabs[number / JOB_SLAB][number % JOB_SLAB];
}
void due_add(struct core *core, job_ref ref);
struct lane;
bool due_falls(const struct due *due, const struct lane *lane, const struct batch *b);
bool due_advance(struct core *core, unsigned *budget); /* true: there is more to do now */
int64_t due_next_ms(const struct core *core);

/* ---- limits ---- */
enum limit_kind {
	LIMIT_CONNS,	/* at once */
	LIMIT_CONNECTS, /* new ones, by rate */
	LIMIT_RAMPUP,	/* new ones, by distance in time */
	LIMIT_MSGS,	/* recipients attempted */
	LIMIT_BYTES,
	LIMIT_KINDS
};
enum limit_line {
	LINE_OPEN, /* queues that want a connection */
	LINE_SEND, /* queues and lanes that want to send on one */
	LIMIT_LINES
};
struct limiter;
enum waiter_kind { WAITER_GRANT, WAITER_SEND, WAITER_LANE };
struct waiter { /* in a queue (twice) and in a lane; stands in one line at most */
	struct limiter *at;
	struct waiter *more; /* owned: where any of several would do, in the lines of the others;
			      * and its claims */
	struct waiter *of;   /* of one of these: whose */
	uint32_t more_count;
	int64_t claim_ms;     /* of a claim: until when the place is kept though there is room */
	uint64_t key, ticket; /* ticket: kept while it goes from line to line; 0: none */
	uint32_t place;
	uint8_t kind, line;
};
enum budget_scope {
	SCOPE_TOTAL,
	SCOPE_PROVIDER,
	SCOPE_DOMAIN,
	SCOPE_MX,
	SCOPE_ADDRESS,
	SCOPE_SOURCE,
	SCOPE_VMTA,
	SCOPE_POOL,
	SCOPE_TENANT,
	SCOPE_TENANT_AT,
	SCOPE_CAMPAIGN,
	SCOPE_QUEUE,
	SCOPE_PATH,
	SCOPE_WARMUP,
	SCOPE_PARTY, /* a tenant or campaign at a destination, by rules: see party.c */
	SCOPE_COUNT
};
enum { ALTERNATIVES = 16 };
struct alternatives { /* limits of which any one that frees may be enough, the first to free first
		       */
	struct limiter *limit[ALTERNATIVES];
	int64_t when[ALTERNATIVES];
	uint32_t n;
	bool cut; /* there were more: whoever waits looks again in CORE_CALL */
};
enum { CLAIMS = 24 };
struct claims { /* what would have to be there as well when the wait is over */
	struct limiter *limit[CLAIMS];
	uint32_t n;
};
struct limit { /* a queue's connections; nobody else waits for these */
	uint32_t used, max;
};

/* ---- configuration ---- */
struct values { /* of a queue; lists point into core->conf */
	struct rate connect, msg, bytes, source_connect, source_msg;
	struct rate backoff_connect, backoff_msg; /* resolved: "auto" is done, never above normal */
	uint32_t source_max_smtp_out;		  /* 0: no limit */
	uint32_t backoff_max_smtp_out, backoff_max_msg;	      /* resolved likewise */
	int64_t rampup_ms, backoff_ms, reenable_ms, no_mx_ms; /* no_mx: -1 never, 0 at once */
	const int64_t *backoff_retry;
	size_t backoff_retry_count;
	const struct conf_value *recovery, *backoff_notify, *source_notify; /* lists of them */
	const struct conf_value *patterns;				    /* names */
	const char *backoff_reroute, *reroute, *smtp_hosts, *queue_to;	    /* "": none */
	uint32_t priority;
	bool backoff_delivery, backoff_sources, mx_421, bounce_5xx_greeting, no_rollup, discard;
	uint32_t max_smtp_out, max_msg, max_rcpt;
	int64_t idle_ms, bounce_ms, retry_rcpt_ms;
	int64_t notify_ms; /* -1: never */
	int64_t connect_ms, greeting_ms, command_ms, data_ms, dot_ms;
	const int64_t *retry, *retry_dns;
	size_t retry_count, retry_dns_count;
	bool ignore_8bitmime, starttls;
};
struct source {
	struct name *address, *ehlo;
	uint8_t family; /* 4 or 6 */
};
struct vmta {
	struct node node;
	struct name *name;
	const struct conf_node *conf; /* NULL: not configured (any more) */
	const struct conf_node *pool; /* whose settings hold for it; NULL: no pool's */
	struct source *sources;	      /* owned */
	size_t source_count, turn;
	uint32_t queues;
};
struct vmta *vmta_get(struct core *core, struct str name);
struct vmta *vmta_find(const struct core *core, struct str name);
/* Of mail that names none; of a pool its first member. NULL: none is configured. */
struct vmta *vmta_default(const struct core *core);
void vmta_drop(struct core *core, struct vmta *v); /* frees it when nobody needs it */
/* Whose sources and settings serve: its own, or the default's when it is not configured (any more).
 */
struct vmta *vmta_acting(const struct core *core, struct vmta *v);
/* Whose values: a domain's by name (""; none), and those of its provider (""; none). */
struct value_of {
	struct str domain, provider;
};
enum { VALUE_LAYERS = 9 }; /* the most specific first, then the default */
void value_layers(const struct core *core, const struct value_of *of, struct vmta *vmta,
    const struct conf_node *layers[VALUE_LAYERS]);
/* The value that holds and its layer; VALUE_LAYERS: the default. opt is one of DOMAIN's. */
int value_pick(
    const struct conf_node *const *layers, enum conf_opt opt, const struct conf_value **value);
const struct conf_value *value_at(const struct conf_node *layer, enum conf_opt opt);
const char *value_layer_name(int layer);
void value_resolve(
    const struct core *core, const struct value_of *of, struct vmta *vmta, struct values *v);
bool value_literal(const struct core *core, struct str domain); /* `domains` names it */
/* Everybody's section of that domain: the holder of its budget. NULL: none. */
const struct conf_node *value_domain(const struct core *core, struct str domain);
void value_learn(struct core *core, const struct conf_node *parent); /* its sections */
void value_configure(struct core *core, struct conf *conf);	     /* takes it */
void value_configured(struct core *core);
void value_fini(struct core *core);
int64_t value_step(const int64_t *list, size_t n, uint32_t failures); /* failures counts from 1 */

/* ---- warmup.c ---- */
struct dest;
struct path;
struct warmup { /* of a source at a destination */
	struct node node;
	struct name *dest, *source;
	const struct conf_node *conf; /* NULL: the source has no plan any more */
	struct budget *budget;
	uint32_t step, paths;	     /* of the plan, from 0; paths that hold it */
	int64_t day;		     /* of UTC, what follows is of that day */
	uint64_t attempts, deferred; /* recipients */
	bool blocked, forgotten;
};
/* Made if need be, and brought to this day; NULL: the source has no plan. */
struct warmup *warmup_of(struct core *core, const struct dest *dest, struct name *source);
bool warmup_is_configured(const struct core *core, const struct name *source);
void warmup_path(struct core *core, const struct dest *dest, struct path *p); /* sets p->warm */
void warmup_take(struct core *core, struct warmup *w, uint32_t rcpts);	      /* they are sent */
void warmup_result(struct core *core, struct warmup *w, uint32_t deferred);
/* A rule says that the peer blocks this source: one step back, once a day. */
void warmup_blocked(struct core *core, const struct dest *dest, struct name *source);
/* Where mail of this queue goes while no source of it may send more today; "": it waits. */
const char *warmup_overflow(struct core *core, const struct queue *q);
void warmup_configure(struct core *core);
void warmup_forget(struct core *core); /* the configuration's part */
void warmup_fini(struct core *core);
bool warmup_encode(struct core *core, struct str name, struct buf *out);
int warmup_restore(struct core *core, struct str name, struct rd *value);

/* ---- pool.c ---- */
struct dest;
struct route;
struct pool;
struct pool *pool_find(const struct core *core, struct str name);
struct name *pool_name(const struct pool *pool);
const struct conf_node *pool_conf(const struct pool *pool);
bool pool_has(const struct pool *pool, const struct vmta *v);
/* A member by weight: one that can send to that destination (NULL: anywhere), else any; NULL: none
 * has a weight, or all are among `not`. */
struct vmta *pool_draw(struct core *core, const struct pool *pool, const struct dest *dest,
    struct vmta *const * not, size_t not_count);
/* For mail of a member that cannot send: another one that can, or NULL. */
struct vmta *pool_redraw(
    struct core *core, const struct pool *pool, const struct dest *dest, struct vmta *v);
/* Not paused, and with a source that is not disabled there. */
bool pool_can_send(const struct core *core, const struct vmta *v, const struct dest *dest);
void pool_configure(struct core *core, const struct conf_node *root);
void pool_forget(struct core *core);

/* ---- provider.c ---- */
/* Whose provider's hosts these are: its name, or NULL. Borrowed until the next configuration. */
struct name *provider_of_route(const struct core *core, const struct route *route);
struct name *provider_of_host(
    const struct core *core, struct name *host, const struct route_address *address);
/* Its section; NULL: none is configured by that name. */
const struct conf_node *provider_conf(const struct core *core, const struct name *name);
bool provider_named(const struct core *core, struct str name); /* one is configured so */
void provider_configure(struct core *core, const struct conf_node *root);
void provider_forget(struct core *core);

/* ---- timers ---- */
enum timer_kind {
	TIMER_WAKE,
	TIMER_SWEEP,
	TIMER_IDLE_QUEUE,
	TIMER_CONN,
	TIMER_DOMAIN,
	TIMER_STATE,
	TIMER_LIMIT,
	TIMER_LEVEL,
	TIMER_MODE,
	TIMER_SOURCE,
	TIMER_HOLD,
	TIMER_RELEASE,
	TIMER_PARTY,
};
struct timer {
	struct wheel_node node;
	enum timer_kind kind;
};

/* ---- limiters and budgets: see limit.c, budget.c ---- */
struct line {
	struct waiter **heap; /* owned, or &one */
	struct waiter *one;
	uint32_t n, cap;
	uint32_t starved; /* of them, queues without any connection */
	uint32_t woken;	  /* lanes called since a token was taken */
};
struct limiter {
	struct budget *budget;
	enum limit_kind kind;
	bool stored;	      /* the store has a level of it */
	uint32_t max;	      /* CONNS */
	struct bucket bucket; /* the others */
	struct line line[LIMIT_LINES];
	struct timer timer;
	const struct conf_value *origin;
};
struct budget {
	struct node node;
	enum budget_scope scope;
	char *key; /* owned: "provider google" */
	uint32_t refs, slot;
	uint32_t used, opening, closing; /* connections that count here, also without a limit */
	uint32_t generation;		 /* of the configuration that has set its limits */
	struct limiter *of[LIMIT_KINDS]; /* NULL: unlimited */
	struct link idle;		 /* seats of idle connections, the longest first */
};
struct seat { /* a connection's place in a budget */
	struct budget *budget;
	struct conn *conn;
	struct link in_idle;
};

/* ---- places ---- */
struct route_entry {
	struct name *name;
	uint16_t preference, port;
	uint8_t address_count;
	struct route_address *address; /* inside the route's block */
};
struct route {
	uint32_t host_count, best_count; /* the first best_count have the best preference */
	uint64_t best_hash, list_hash;
	struct route_entry host[];
};
struct domain {
	struct node node;
	struct name *name;
	uint32_t index;
	uint32_t jobs, conns;
	uint32_t last_lane; /* of the mail that came last, if there still is one of that number */
	bool literal, asking, queued; /* asking: at the resolver; queued: in resolve_fifo */
	bool answered;		      /* class says something */
	bool fixed;		      /* not a domain, but the smtp-hosts that its name is */
	bool implicit;		      /* no MX record: its address records serve */
	struct name *asker;	      /* fixed: the domain that it was first wanted for */
	struct name *provider;	      /* owned; whose the hosts of its route are; NULL: nobody's */
	struct link users;	      /* queues of single domains whose mail takes its route */
	int64_t used_ms;	      /* fixed, or another's route (queue-to): last wanted */
	enum route_class class;
	uint32_t dns_failures;
	int64_t expires_ms, stale_ms; /* of the answer; of the route */
	int64_t ask_ms;		      /* not before */
	struct route *route;	      /* owned; NULL: none */
	char *text;		      /* owned; of a failure */
	struct dest *own, *site;      /* own: its own destination, while it has queues */
	struct link fifo;
	struct timer timer;
};
struct dest {
	struct node node;
	struct name *name;
	struct domain *own;	       /* NULL: a site or provider */
	bool rollup;		       /* a provider's */
	uint32_t domains;	       /* whose site this is */
	uint64_t best_hash, list_hash; /* 0: not known yet */
	bool mixed;		       /* its domains differ in their worse hosts */
	bool paths_limited;	       /* a queue of it has source-ip-* limits */
	struct link queues, paths;
};
struct path { /* destination × source address */
	struct link in_dest;
	struct name *source;
	struct limit conns;
	int64_t blocked_ms;  /* a local failure: not before */
	struct budget *own;  /* of source-ip-*; NULL: none */
	struct warmup *warm; /* NULL: its source has no plan */
	uint32_t generation; /* of the configuration that has set them */
};
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
	struct link in_release; /* its hold is over: see hold.c */
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
enum conn_state { CONN_OPENING, CONN_READY, CONN_CLOSING };
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

struct states { /* see state.c */
	struct table marks;
	struct link due, kept;
	size_t kept_count;
	struct buf out; /* what core_next() gave out last */
};

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

struct domain *domain_get(struct core *core, struct str name);
struct domain *domain_find(const struct core *core, struct str name);
/* The fixed route of that text, made for mail of `asker`. */
struct domain *domain_fixed(struct core *core, struct str hosts, const struct domain *asker);
struct domain *domain_find_fixed(const struct core *core, struct str hosts);
struct dest *domain_own(struct core *core, struct domain *d); /* made if need be */
void domain_want(struct core *core, struct domain *d); /* asks for a route if one is needed */
void domain_idle(
    struct core *core, struct domain *d); /* starts the clock after which it is freed */
bool domain_failed(const struct core *core, const struct domain *d, struct str *status);
void domain_timer(struct core *core, struct domain *d);
bool domain_next(struct core *core, struct core_decision *out);
/* Mail that took its route is looked at anew; from: its site until now, or NULL. */
void domain_moved(struct core *core, struct domain *d, struct dest *from);
void domain_configured(struct core *core, struct domain *d); /* another configuration */
bool domain_best(const struct domain *d, const struct name *host, uint16_t port);
void domain_free(struct core *core, struct domain *d);

/* Of a queue's name: a provider's, or [HOST] a site, anything else a domain's own. */
struct dest *dest_named(struct core *core, struct str name);
struct dest *dest_find(const struct core *core, struct str name);
struct dest *dest_get(struct core *core, struct str name, struct domain *own);
/* The site of that route; `from` is the asking domain's site until now, or NULL. */
struct dest *dest_for_route(
    struct core *core, const struct route *route, struct name *provider, const struct dest *from);
struct dest *dest_provider(struct core *core, struct str name);
struct dest *dest_find_provider(const struct core *core, struct str name);
void dest_drop(struct core *core, struct dest *dest); /* frees it when nobody needs it */
struct path *dest_path(struct core *core, struct dest *dest, struct str source);
void dest_path_drop(struct core *core, struct path *p); /* if it is of no more use */
struct path *dest_path_find(const struct dest *dest, const struct name *source);

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

/* ---- mode.c, setting.c, sources.c, state.c ---- */
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
/* ---- notes.c ---- */
enum note_kind { NOTE_ERROR, NOTE_MODE, NOTE_EVENT };
void note_add(struct core *core, struct queue *q, enum note_kind kind, struct str text);
void notes_free(struct core *core, struct queue *q);
void state_init(struct core *core);
void state_fini(struct core *core);
void state_timer(struct core *core, struct timer *t);
bool state_next(struct core *core, struct core_decision *out); /* before any other decision */
void state_configured(struct core *core); /* offers what could not be taken so far */

/* ---- hold.c ---- */
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
void mode_recover(struct core *core, struct queue *q); /* its suspension is over: a probe first */
void hold_new_queue(struct core *core, struct queue *q);
void hold_new_share(struct core *core, struct share *s);
void hold_new_lane(struct core *core, struct lane *lane);
void hold_moved(struct core *core, struct queue *q); /* its provider has changed */
void hold_domain_moved(struct core *core, const struct name *domain);

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
struct name *name_find(const struct core *core, struct str text); /* no reference; or NULL */

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

/* ---- lane.c: out of the turn ---- */
struct share *share_find(const struct core *core, const struct queue *q, const struct name *tenant);
struct lane *lane_find(const struct core *core, const struct queue *q, const struct name *tenant,
    const struct name *campaign, const struct name *pool);
static inline bool lane_parked(const struct lane *lane)
{
	return lane->parked || lane->share->parked;
}
enum park {		/* why a lane or a tenant's share is out of the turn, whatever it has */
	PARK_HOLD = 1,	/* hold.c */
	PARK_LIMIT = 2, /* limits: a budget of its tenant or campaign */
};
void lane_park(struct core *core, struct lane *lane, enum park why);   /* in the turn again when */
void lane_unpark(struct core *core, struct lane *lane, enum park why); /* no reason is left */
void share_park(struct core *core, struct share *share, enum park why);
void share_unpark(struct core *core, struct share *share, enum park why);
static inline uint64_t queue_ready(const struct queue *q) /* of lanes that are in the turn */
{
	return q->n[JOB_READY] - q->parked;
}

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

/* ---- place.c: where mail goes ---- */
struct place {
	struct dest *dest;
	struct domain *route; /* whose route is taken: the domain itself, a queue-to, smtp-hosts */
	bool routed;	      /* else the mail waits in dest for that route */
	struct vmta *vmta;
	struct name *pool;   /* from which the virtual MTA was drawn, or NULL; borrowed */
	struct queue *queue; /* of place_mail() and place_new() */
};
/* Where mail of that domain goes by that virtual MTA: destination and route. */
void place_find(struct core *core, struct domain *d, struct vmta *vmta, struct place *p);
/* The same without making anything: false, that place does not exist now. */
bool place_look(const struct core *core, struct domain *d, struct vmta *vmta, struct place *p);
/* The same for mail that has that virtual MTA now, drawn from that pool (NULL: none): reroutes are
 * followed, and a member that cannot send is drawn anew. `at`: where it stands now, or NULL. */
void place_mail(struct core *core, struct domain *d, struct vmta *vmta, struct name *pool,
    struct queue *at, struct place *p);
/* The same for mail that comes in, for a virtual MTA or pool ("": the default one). */
void place_new(
    struct core *core, struct domain *d, struct str vmta, struct str pool, struct queue *at,
    struct place *p); /* at: a guess, or NULL */
/* A loose job, into its lane there. Its row is to be written if another virtual MTA has it now. */
void place_move(struct core *core, job_ref ref, const struct place *p);
/* Takes a job that stands ready or waits to a virtual MTA or pool: VISIT_REROUTE. */
void place_reroute(struct core *core, job_ref ref, struct str vmta);
/* Its virtual MTA cannot send here (again): members of its pools take its mail (give theirs). */
void place_lost(struct core *core, struct queue *q);
void place_found(struct core *core, struct queue *q);
void place_changed(struct core *core, struct queue *q); /* its reroute may be another now */
/* Tells people once of what the configuration cannot mean. */
void place_error(struct core *core, struct str scope, const struct vmta *vmta, struct str text);
/* Whose route mail of that domain takes in that queue. */
struct domain *place_route(struct core *core, const struct queue *q, struct domain *d);
/* Mail of that domain may go by this connection. */
bool place_serves(struct core *core, const struct conn *c, struct domain *d);
bool place_is_here(struct core *core, const struct queue *q, const struct job *j);
/* When its address records serve no longer (bounce-upon-no-mx); NEVER: they do, or it has MX. */
int64_t place_no_mx_ms(const struct core *core, const struct queue *q, const struct job *j);

/* ---- budget.c ---- */
/* The budget of that name (the same one however often it is opened, also over reloads), with the
 * limits of holder's `budget` section, or of holder itself where it carries them; holder NULL or
 * without one: none are set. Never NULL. */
struct budget *budget_open(
    struct core *core, enum budget_scope scope, struct str name, const struct conf_node *holder);
/* It says anything of a budget. */
bool budget_holds(const struct conf_node *holder);
void budget_close(struct core *core, struct budget **b);
struct budget *budget_keep(struct budget *b);
void budget_release(struct core *core, struct budget *b);
struct budget *budget_find(const struct core *core, enum budget_scope scope, struct str name);
/* n 0, max 0: no such limit (any more). */
void budget_rate(struct core *core, struct budget *b, enum limit_kind kind, const struct rate *rate,
    const struct conf_value *origin);
void budget_conns(
    struct core *core, struct budget *b, uint32_t max, const struct conf_value *origin);
void budget_configure(struct core *core);
void budget_init(struct core *core);
void budget_fini(struct core *core);
const char *limit_name(const struct limiter *l); /* the option's */
/* What mx-connection-limit and ip-connection-limit say of a peer. */
struct peer_limit {
	const char *text; /* borrowed: the pattern or network */
	struct network network;
	uint32_t limit;
	bool per_source;
	const struct conf_value *origin;
};
const struct peer_limit *peer_limit_mx(const struct core *core, const struct name *host);
const struct peer_limit *peer_limit_ip(
    const struct core *core, const struct route_address *address);
struct str peer_mx_name(char out[PEER_NAME_MAX], const struct peer_limit *p,
    const struct name *host, const struct name *source);
struct str peer_ip_name(char out[PEER_NAME_MAX], const struct peer_limit *p,
    const struct route_address *address, const struct name *source);
void peer_configure(struct core *core);
void peer_fini(struct core *core);
bool level_encode(struct core *core, struct str name, struct buf *out);
int level_restore(struct core *core, struct str name, struct rd *value);
void level_save(struct core *core);
void level_timer(struct core *core, struct timer *t);
void level_park(struct core *core, const struct limiter *l);
void level_unpark(struct core *core, struct limiter *l, const struct rate *rate);
void level_fini(struct core *core);
struct budget *budget_of_key(const struct core *core, struct str key);

/* ---- limit.c ---- */
struct limiter *limiter_new(struct core *core, struct budget *b, enum limit_kind kind);
void limiter_free(struct core *core, struct limiter **l); /* who waits is woken */
void limiter_timer(struct core *core, struct timer *t);
/* Someone else may go now: wakes the first of its lines, or sets the timer. */
void limiter_wake(struct core *core, struct limiter *l);
/* Of the limits of b that matter in that line, one that holds w back and frees after *worst_ms, or
 * worst itself. */
struct limiter *limit_check(const struct core *core, const struct budget *b, enum limit_line line,
    const struct waiter *w, struct limiter *worst, int64_t *worst_ms);
int64_t limiter_frees_ms(const struct core *core, const struct limiter *l, enum limit_line line);
/* Says where w stands among others: before it is checked or waits. */
void limit_rank(struct waiter *w, bool starved, uint32_t priority);
void limit_wait(struct core *core, struct limiter *l, enum limit_line line, struct waiter *w);
/* `also`: may be claimed until the first of them frees; NULL: nothing. */
void limit_wait_any(struct core *core, const struct alternatives *any, enum limit_line line,
    struct waiter *w, const struct claims *also);
void limit_alternative(struct alternatives *any, struct limiter *l, int64_t when);
void limit_candidate(struct claims *also, const struct budget *b, enum limit_line line);
/* Out of its line; done: it got what it waited for, and stands at the end the next time. */
void limit_leave(struct core *core, struct waiter *w, bool done);
void limit_used(struct core *core, struct budget *b); /* counts of connections have changed */

/* ---- seat.c: what applies ---- */
void limit_queue(struct core *core, struct queue *q); /* q->e has changed */
void limit_ceiling(struct queue *q);		      /* q->ceiling has */
void limit_queue_gone(struct core *core, struct queue *q);
void limit_path(struct core *core, struct dest *dest, struct path *p); /* a new path */
struct path *limit_path_of(struct core *core, struct dest *dest, struct name *source);
void seat_conn(struct core *core, struct conn *c);   /* takes its places, or what differs */
void seat_unseat(struct core *core, struct conn *c); /* gives them back */
void seat_state(struct core *core, struct conn *c, enum conn_state state);
void seat_idle(struct core *core, struct conn *c, bool idle);
void seat_connected(struct core *core, struct conn *c); /* takes its tokens of connecting */
bool seat_too_many(const struct conn *c);
bool seat_starves(const struct conn *c);
/* What holds a connection back, whatever its source; then, from that source to there. */
struct limiter *seat_refuses_queue(const struct core *core, const struct queue *q, int64_t *when);
struct limiter *seat_refuses_source(const struct core *core, struct queue *q, struct path *p,
    const struct name *source, int64_t *when);
struct limiter *seat_refuses_peer(const struct core *core, const struct queue *q,
    const struct name *source, const struct name *host, const struct route_address *address,
    int64_t *when);
/* The same for a transaction. *most: recipients there are tokens for. */
struct limiter *send_refuses_lane(const struct core *core, const struct lane *lane, uint64_t *most);
struct limiter *send_refuses_queue(const struct core *core, const struct queue *q, uint64_t *most);
struct limiter *send_refuses_conn(
    const struct core *core, const struct conn *c, uint64_t *most, int64_t *when);
/* What a claim may be laid on while something else holds it: limit.c. c NULL: whichever. */
void send_candidates(const struct queue *q, const struct conn *c, struct claims *also);
void seat_candidates(const struct core *core, const struct queue *q, struct claims *also);
void source_candidates(
    const struct core *core, const struct path *p, const struct name *source, struct claims *also);
bool send_is_limited(const struct core *core, const struct conn *c, const struct lane *lane);
/* Of mail that goes nowhere: the queue's and the lane's. */
void send_spend_queue(struct core *core, const struct queue *q, const struct lane *lane,
    uint32_t rcpts, uint32_t bytes);
void send_spend(struct core *core, const struct conn *c, const struct lane *lane, uint32_t rcpts,
    uint32_t bytes);

/* ---- sweep.c ---- */
/* The pass stands at it, and it leaves its list. */
void sweep_leaves(struct queue *q, job_ref ref, uint32_t next, uint32_t prev);
void sweep_note(struct core *core, struct queue *q, const struct job *j);
void sweep_now(struct core *core, struct queue *q);
void sweep_end(struct core *core, struct queue *q); /* stop, before its lanes go */
bool sweep_run(struct core *core, unsigned *budget);

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
