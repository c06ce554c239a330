/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * Limits: a limiter holds one number (connections at once, or a bucket of tokens) and the lines of
 * those that wait for it; a budget is the limiters of one thing with a name; a seat is a
 * connection's place in a budget (limit.c, budget.c, peer.c, level.c, seat.c, send.c).
 */
#include "common/addr.h"
#include "common/bucket.h"
#include "common/buf.h"
#include "qmgr/core/base.h"

struct conn;
struct dest;
struct lane;
struct path;
struct queue;

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

/* what a connection counts as */
enum conn_state { CONN_OPENING, CONN_READY, CONN_CLOSING };

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
