/* SPDX-License-Identifier: ISC */
/*
 * Limiters: one counter of one dimension, and the lines of those that wait for it. Connections are
 * counted (used, max); connects, messages and volume are buckets of tokens.
 *
 * Nothing is polled. What is held back stands in one line, of the limiter that will free last, and
 * sleeps. When a limiter has room again, only the first of its line is woken; having taken what it
 * wanted, or not needing it any more, it leaves and the next is woken, as long as there is room.
 * Where any one of several may be enough (sources, addresses), it stands in the line of each.
 * Nobody overtakes a line: limit_check() refuses whoever stands behind its first. A line is a heap
 * by rank (queues without any connection, then priority) and ticket; the ticket is kept from line
 * to line until it is served, so that the oldest gets there first wherever it has to wait next.
 *
 * Invariant, whenever every queue on the list of those to look at has been looked at:
 * - who stands in a line has ready mail, is not held, and has what it wants to use (an idle
 *   connection in a send line) or may have one more (in a line for connections); a lane stands in
 *   a line if and only if it is parked for it;
 * - where a line is not empty and its limiter has room, its first one is a claim whose end lies
 *   ahead, or it was lanes that were called; the limiter's timer is set for then, at the latest;
 * - where there is no room and time brings it, the timer is set for that time at the latest; where
 *   a connection's end brings it, that end calls limit_used().
 * So whoever takes a waiter out of a line, changes its rank or a limit, or leaves room, calls
 * limiter_wake(); and a look at a queue ends in send_next() and grant_next() with each of its two
 * waiters in the lines that hold it now, or in none. tests/unit/qmgr/lines.h checks it.
 *
 * Claims: who needs tokens of two contended budgets would hardly find both at once. The next in
 * line at one limiter therefore keeps its place, as a claim, at those that it could pass already
 * and whose tokens come more slowly, if what it waits for comes within the time of one such token:
 * nobody passes there meanwhile. As ranks and tickets are the same in all lines, the oldest waits
 * for tokens only, never for another's claim, and claims cannot block each other. A claim costs
 * one token's time at most, which is lost only where the burst is 1, and the queue gets at least
 * half of what it would if both were shared alike. Claims concern rates; slots of connections they
 * keep for a second divided by their number only, and those of MX hosts and addresses not at all.
 *
 * A queue that opens a connection takes no message token yet: it may open one if the tokens of the
 * next second exceed the connections that are being opened. So a connection stands ready when its
 * token comes, and a hundred thousand queues that wait for one rate open only what it can serve.
 * Lanes are called out of their line, as many as there are tokens, and a second later others: their
 * queue may not come to send.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>

#define TICKETS ((UINT64_C(1) << 56) - 1) /* a newcomer's: behind all others of its rank */
#define NOT_STARVED (UINT64_C(1) << 63)
enum { PRIORITY_MOST = 127 };

/* ---- lines ---- */

static void put(struct line *ln, uint32_t i, struct waiter *w)
{
	ln->heap[i] = w;
	w->place = i;
}

static void sift_up(struct line *ln, uint32_t i, struct waiter *w)
{
	for (; i && ln->heap[(i - 1) / 2]->key > w->key; i = (i - 1) / 2)
		put(ln, i, ln->heap[(i - 1) / 2]);
	put(ln, i, w);
}

static void sift_down(struct line *ln, uint32_t i, struct waiter *w)
{
	uint32_t child;

	for (; (child = 2 * i + 1) < ln->n; i = child) {
		if (child + 1 < ln->n && ln->heap[child + 1]->key < ln->heap[child]->key)
			child++;
		if (ln->heap[child]->key >= w->key)
			break;
		put(ln, i, ln->heap[child]);
	}
	put(ln, i, w);
}

static void line_add(struct line *ln, struct waiter *w)
{
	if (ln->n == ln->cap) {
		struct waiter **old = ln->heap;

		ln->cap = 2 * ln->cap;
		ln->heap =
		    xrealloc(old == &ln->one ? NULL : old, ln->cap * sizeof(struct waiter *));
		if (old == &ln->one)
			ln->heap[0] = ln->one;
	}
	ln->starved += !(w->key & NOT_STARVED);
	sift_up(ln, ln->n++, w);
}

static void line_remove(struct line *ln, struct waiter *w)
{
	struct waiter *last = ln->heap[--ln->n];
	uint32_t i = w->place;

	ln->starved -= !(w->key & NOT_STARVED);
	if (last == w)
		return;
	if (i && ln->heap[(i - 1) / 2]->key > last->key)
		sift_up(ln, i, last);
	else
		sift_down(ln, i, last);
}

static struct line *line_of(const struct waiter *w)
{
	return &w->at->line[w->line];
}

static void set_key(struct waiter *w, uint64_t key)
{
	if (w->at)
		line_remove(line_of(w), w);
	w->key = key;
	if (w->at)
		line_add(line_of(w), w);
}

void limit_rank(struct waiter *w, bool starved, uint32_t priority)
{
	uint64_t rank = PRIORITY_MOST - (priority < PRIORITY_MOST ? priority : PRIORITY_MOST);
	uint64_t key = (starved ? 0 : NOT_STARVED) | rank << 56 | (w->ticket ? w->ticket : TICKETS);

	if (w->key == key)
		return;
	set_key(w, key);
	for (uint32_t i = 0; i < w->more_count; i++)
		set_key(&w->more[i], key);
}

/* ---- room ---- */

/* Tokens that one more needs to find, and when it counts them. */
static uint64_t needed(const struct limiter *l, enum limit_line line)
{
	uint64_t each = l->kind == LIMIT_BYTES ? CORE_LEAD_BYTES : 1;

	if (line == LINE_SEND || l->kind == LIMIT_CONNECTS || l->kind == LIMIT_RAMPUP)
		return 1;
	return l->budget->opening * each + 1;
}

static int64_t lead(const struct limiter *l, enum limit_line line)
{
	if (line == LINE_OPEN && (l->kind == LIMIT_MSGS || l->kind == LIMIT_BYTES))
		return CORE_LEAD;
	return 0;
}

static bool has_room(const struct core *core, const struct limiter *l, enum limit_line line)
{
	if (l->kind == LIMIT_CONNS)
		return l->budget->used < l->max;
	return bucket_tokens(&l->bucket, core->now + lead(l, line)) >= needed(l, line);
}

int64_t limiter_frees_ms(const struct core *core, const struct limiter *l, enum limit_line line)
{
	int64_t at;

	if (has_room(core, l, line))
		return core->now;
	if (l->kind == LIMIT_CONNS)
		return NEVER;
	at = bucket_when(&l->bucket, needed(l, line), core->now);
	if (at == NEVER)
		return NEVER;
	at -= lead(l, line);
	return at > core->now ? at : core->now;
}

/* Of a tenant or campaign transactions are counted, not connections. */
static bool is_sending(const struct limiter *l)
{
	return l->kind == LIMIT_MSGS || l->kind == LIMIT_BYTES ||
	       (l->kind == LIMIT_CONNS && scope_is_party(l->budget->scope));
}

static bool matters(const struct limiter *l, enum limit_line line)
{
	return line == LINE_OPEN || is_sending(l);
}

struct limiter *limit_check(const struct core *core, const struct budget *b, enum limit_line line,
    const struct waiter *w, struct limiter *worst, int64_t *worst_ms)
{
	for (int kind = 0; kind < LIMIT_KINDS; kind++) {
		struct limiter *l = b->of[kind];
		const struct line *ln;
		int64_t at;

		if (!l || !matters(l, line))
			continue;
		ln = &l->line[line];
		if (has_room(core, l, line) && (ln->n == 0 || w->key <= ln->heap[0]->key))
			continue;
		at = limiter_frees_ms(core, l, line);
		if (worst && at <= *worst_ms)
			continue;
		worst = l;
		*worst_ms = at;
	}
	return worst;
}

/* ---- waking ---- */

static struct queue *queue_of(struct waiter *w)
{
	if (w->of)
		w = w->of;
	return w->kind == WAITER_GRANT ? OWNER(w, struct queue, grant)
				       : OWNER(w, struct queue, send);
}

/* How many may send now. */
static uint64_t room(const struct core *core, const struct limiter *l)
{
	if (l->kind == LIMIT_CONNS)
		return l->budget->used < l->max ? l->max - l->budget->used : 0;
	return bucket_tokens(&l->bucket, core->now);
}

/* Lanes leave the line when they are called; true: they, and perhaps more, were. */
static bool call_lanes(struct core *core, struct limiter *l, struct line *ln)
{
	while (ln->n && ln->heap[0]->kind == WAITER_LANE) {
		struct lane *lane = OWNER(ln->heap[0], struct lane, wait);

		if ((lane->ready > 0) && ln->woken >= room(core, l))
			return true;
		ln->woken += (lane->ready > 0);
		line_remove(ln, &lane->wait);
		lane->wait.at = NULL;
		l->budget->refs--; /* limiter_wake() holds one */
		lane_unpark(core, lane, PARK_LIMIT);
		queue_dirty(core, lane->share->queue);
	}
	return false;
}

static int64_t wake_line(struct core *core, struct limiter *l, enum limit_line line)
{
	struct line *ln = &l->line[line];

	if (ln->n == 0)
		return NEVER;
	if (!has_room(core, l, line))
		return limiter_frees_ms(core, l, line);
	if (ln->heap[0]->claim_ms > core->now)
		return ln->heap[0]->claim_ms;
	if (call_lanes(core, l, ln))
		return core->now + CORE_CALL;
	if (ln->n)
		queue_dirty(core, queue_of(ln->heap[0]));
	return NEVER;
}

void limiter_wake(struct core *core, struct limiter *l)
{
	struct budget *b = budget_keep(l->budget);
	int64_t at = wake_line(core, l, LINE_OPEN), send = wake_line(core, l, LINE_SEND);

	if (send < at)
		at = send;
	if (at == NEVER)
		wheel_cancel(core->wheel, &l->timer.node);
	else if (!wheel_armed(&l->timer.node) || l->timer.node.at_ms != at)
		wheel_add(core->wheel, &l->timer.node, at);
	budget_release(core, b);
}

void limiter_timer(struct core *core, struct timer *t)
{
	struct limiter *l = OWNER(t, struct limiter, timer);

	l->line[LINE_SEND].woken = 0;
	limiter_wake(core, l);
}

void limit_used(struct core *core, struct budget *b)
{
	budget_keep(b);
	for (int kind = 0; kind < LIMIT_KINDS; kind++)
		if (b->of[kind] &&
		    (b->of[kind]->line[LINE_OPEN].n || b->of[kind]->line[LINE_SEND].n))
			limiter_wake(core, b->of[kind]);
	budget_release(core, b);
}

/* ---- waiting ---- */

static void leave_more(struct core *core, struct waiter *w)
{
	struct waiter *more = w->more;
	uint32_t n = w->more_count;

	w->more = NULL;
	w->more_count = 0;
	for (uint32_t i = 0; i < n; i++)
		limit_leave(core, &more[i], true);
	free(more);
}

void limit_leave(struct core *core, struct waiter *w, bool done)
{
	struct limiter *l = w->at;
	struct budget *b;

	if (done)
		w->ticket = 0;
	if (w->more)
		leave_more(core, w);
	if (!l)
		return;
	line_remove(line_of(w), w);
	w->at = NULL;
	b = l->budget;
	limiter_wake(core, l);
	budget_release(core, b); /* it may go with its last waiter */
}

void limit_wait(struct core *core, struct limiter *l, enum limit_line line, struct waiter *w)
{
	if (w->more)
		leave_more(core, w);
	if (w->at != l || w->line != line) {
		limit_leave(core, w, false);
		if (!w->ticket)
			w->ticket = ++core->tickets;
		w->key = (w->key & ~TICKETS) | w->ticket;
		w->at = l;
		w->line = (uint8_t)line;
		budget_keep(l->budget);
		line_add(&l->line[line], w);
	}
	if (l->kind == LIMIT_CONNS && line == LINE_OPEN)
		conn_room(core, l);
	limiter_wake(core, l);
}

void limit_alternative(struct alternatives *any, struct limiter *l, int64_t when)
{
	for (uint32_t i = 0; i < any->n; i++)
		if (any->limit[i] == l)
			return;
	if (any->n == ALTERNATIVES) {
		any->cut = true;
		return;
	}
	any->limit[any->n] = l;
	any->when[any->n++] = when;
	for (uint32_t i = any->n - 1; i && any->when[i] < any->when[i - 1]; i--) {
		struct limiter *other = any->limit[i - 1];
		int64_t later = any->when[i - 1];

		any->limit[i - 1] = any->limit[i];
		any->when[i - 1] = any->when[i];
		any->limit[i] = other;
		any->when[i] = later;
	}
}

/* ---- claims ---- */

void limit_candidate(struct claims *also, const struct budget *b, enum limit_line line)
{
	for (int kind = 0; b && kind < LIMIT_KINDS; kind++)
		if (b->of[kind] && matters(b->of[kind], line) && also->n < CLAIMS)
			also->limit[also->n++] = b->of[kind];
}

static bool is_first(const struct line *ln, const struct waiter *w)
{
	return ln->n == 0 || w->key <= ln->heap[0]->key;
}

/* What a claim may cost: the time in which one token comes, or of all connections together a
 * second. */
static int64_t worth_ms(const struct limiter *l)
{
	uint64_t each = l->kind == LIMIT_BYTES ? CORE_LEAD_BYTES : 1;
	level_t ms;

	if (l->kind == LIMIT_CONNS)
		return SECOND / (l->max ? l->max : 1);
	ms = ((level_t)each * l->bucket.rate.per_ms + (level_t)l->bucket.rate.n - 1) /
	     (level_t)l->bucket.rate.n;
	return ms < DAY ? (int64_t)ms : DAY;
}

static bool has_place(const struct waiter *w, const struct limiter *l)
{
	bool has = w->at == l;

	for (uint32_t i = 0; i < w->more_count; i++)
		has |= w->more[i].at == l;
	return has;
}

static void also_at(struct core *core, struct waiter *w, struct limiter *l, int64_t claim_ms)
{
	struct waiter *also = &w->more[w->more_count++];

	also->kind = w->kind;
	also->of = w;
	also->key = w->key;
	also->ticket = w->ticket;
	also->claim_ms = claim_ms;
	limit_wait(core, l, (enum limit_line)w->line, also);
}

/* w is the next one where it waits: it keeps its place where it could go, if what it waits for
 * comes faster. Nobody else takes what its queue's own limits let through. */
static void claim(struct core *core, struct waiter *w, const struct claims *candidates)
{
	enum limit_line line = (enum limit_line)w->line;
	int64_t until = limiter_frees_ms(core, w->at, line), waits = until - core->now;

	if (waits <= 0 || line_of(w)->heap[0] != w || w->at->budget->scope == SCOPE_QUEUE)
		return;
	for (uint32_t i = 0; i < candidates->n; i++) {
		struct limiter *l = candidates->limit[i];

		if (waits <= worth_ms(l) && worth_ms(w->at) <= worth_ms(l) &&
		    has_room(core, l, line) && is_first(&l->line[line], w) && !has_place(w, l))
			also_at(core, w, l, until);
	}
}

void limit_wait_any(struct core *core, const struct alternatives *any, enum limit_line line,
    struct waiter *w, const struct claims *also)
{
	uint32_t most = any->n - 1 + (also ? also->n : 0);

	limit_wait(core, any->limit[0], line, w);
	if (any->cut)
		queue_wake_at(core, queue_of(w), core->now + CORE_CALL);
	if (most == 0)
		return;
	w->more = xcalloc(most, sizeof(*w->more));
	for (uint32_t i = 1; i < any->n; i++)
		also_at(core, w, any->limit[i], 0);
	if (also)
		claim(core, w, also);
	if (w->more_count)
		return;
	free(w->more);
	w->more = NULL;
}

/* ---- life ---- */

static bool is_party_connects(const struct limiter *l)
{
	return l->kind == LIMIT_CONNECTS && scope_is_party(l->budget->scope);
}

struct limiter *limiter_new(struct core *core, struct budget *b, enum limit_kind kind)
{
	struct limiter *l = xcalloc(1, sizeof(*l));

	l->budget = b;
	l->kind = kind;
	l->timer.kind = TIMER_LIMIT;
	for (int i = 0; i < LIMIT_LINES; i++) {
		l->line[i].heap = &l->line[i].one;
		l->line[i].cap = 1;
	}
	b->of[kind] = l;
	core->rates += is_sending(l);
	core->party_connects += is_party_connects(l);
	return l;
}

static void dissolve(struct core *core, struct line *ln)
{
	while (ln->n) {
		struct waiter *w = ln->heap[ln->n - 1];
		struct budget *b = w->at->budget;

		line_remove(ln, w);
		w->at = NULL;
		if (w->kind == WAITER_LANE) {
			struct lane *lane = OWNER(w, struct lane, wait);

			lane_unpark(core, lane, PARK_LIMIT);
			queue_dirty(core, lane->share->queue);
		} else {
			queue_dirty(core, queue_of(w));
		}
		b->refs--; /* the caller holds one */
	}
	if (ln->heap != &ln->one)
		free(ln->heap);
}

void limiter_free(struct core *core, struct limiter **at)
{
	struct limiter *l = *at;

	*at = NULL;
	core->rates -= is_sending(l);
	core->party_connects -= is_party_connects(l);
	wheel_cancel(core->wheel, &l->timer.node);
	for (int i = 0; i < LIMIT_LINES; i++)
		dissolve(core, &l->line[i]);
	free(l);
}
