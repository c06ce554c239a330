/* SPDX-License-Identifier: ISC */
/*
 * Buckets of tenants, found by name in a chained table that grows with them. A tenant without a
 * limit never has an entry. Entries that are full again say nothing that a new one would not: each
 * message looks at a few chains in turn and frees them, so neither a timer nor a walk is needed,
 * and there are at most as many as tenants that sent within the time their buckets take to fill.
 *
 * The process' end forgets all: its successor begins with full buckets, a burst more at most.
 */
#include "smtpd/rates.h"

#include "common/bucket.h"

#include <stdlib.h>
#include <string.h>

enum {
	CHAINS_FIRST = 64, /* chains of an empty table */
	SWEEP = 2,	   /* chains looked at for each message: more than it can add */
};

struct entry {
	struct entry *next;
	char *name; /* owned */
	struct bucket of[IN_RATES];
	bool used[IN_RATES]; /* the others are not limited */
};
struct rates {
	struct entry **chains; /* owned */
	size_t chain_count, count, hand;
};

struct rates *rates_new(void)
{
	struct rates *r = xcalloc(1, sizeof(*r));

	r->chain_count = CHAINS_FIRST;
	r->chains = xcalloc(r->chain_count, sizeof(struct entry *));
	return r;
}

static void entry_free(struct entry **at)
{
	struct entry *e = *at;

	*at = e->next;
	free(e->name);
	free(e);
}

void rates_free(struct rates **rates)
{
	struct rates *r = *rates;

	*rates = NULL;
	if (!r)
		return;
	for (size_t i = 0; i < r->chain_count; i++)
		while (r->chains[i])
			entry_free(&r->chains[i]);
	free(r->chains);
	free(r);
}

size_t rates_count(const struct rates *r)
{
	return r->count;
}

/* FNV-1a. The names are the configuration's, not a stranger's. */
static struct entry **chain_of(const struct rates *r, const char *name)
{
	uint64_t hash = UINT64_C(14695981039346656037);

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * UINT64_C(1099511628211);
	return &r->chains[(hash ^ hash >> 32) & (r->chain_count - 1)];
}

static void grow(struct rates *r)
{
	struct rates old = *r;

	r->chain_count *= 2;
	r->chains = xcalloc(r->chain_count, sizeof(struct entry *));
	r->hand = 0;
	for (size_t i = 0; i < old.chain_count; i++)
		while (old.chains[i]) {
			struct entry *e = old.chains[i], **to = chain_of(r, e->name);

			old.chains[i] = e->next;
			e->next = *to;
			*to = e;
		}
	free(old.chains);
}

static bool is_full(const struct entry *e, int64_t now)
{
	for (int i = 0; i < IN_RATES; i++)
		if (e->used[i] && bucket_full_ms(&e->of[i], now) > now)
			return false;
	return true;
}

static void sweep(struct rates *r, int64_t now)
{
	for (int i = 0; i < SWEEP; i++) {
		struct entry **at = &r->chains[r->hand];

		while (*at)
			if (is_full(*at, now)) {
				entry_free(at);
				r->count--;
			} else {
				at = &(*at)->next;
			}
		r->hand = (r->hand + 1) & (r->chain_count - 1);
	}
}

/* What the tenant's limits are now, whatever they were. */
static void follow(struct entry *e, const struct tenant *t, int64_t now)
{
	for (int i = 0; i < IN_RATES; i++) {
		const struct rate *want = &t->in[i].rate;

		if (want->n == 0)
			e->used[i] = false;
		else if (!e->used[i])
			bucket_init(&e->of[i], want, INT64_MAX, now);
		else if (e->of[i].rate.n != want->n || e->of[i].rate.burst != want->burst ||
			 e->of[i].rate.per_ms != want->per_ms)
			bucket_change(&e->of[i], want, now);
		e->used[i] = want->n != 0;
	}
}

static struct entry *find(const struct rates *r, const struct tenant *t)
{
	struct entry *e = *chain_of(r, t->name);

	while (e && strcmp(e->name, t->name) != 0)
		e = e->next;
	return e;
}

static bool is_limited(const struct tenant *t)
{
	for (int i = 0; i < IN_RATES; i++)
		if (t->in[i].rate.n)
			return true;
	return false;
}

static bool is_short(const struct bucket *b, uint64_t want, int64_t now)
{
	uint64_t most = b->rate.burst ? b->rate.burst : 1;

	return bucket_tokens(b, now) < (want < most ? want : most);
}

enum in_rate rates_check(
    struct rates *r, const struct tenant *t, uint64_t messages, uint64_t rcpts, int64_t now)
{
	uint64_t want[IN_RATES] = {[IN_MSG] = messages, [IN_RCPT] = rcpts, [IN_DATA] = 1};
	struct entry *e = is_limited(t) ? find(r, t) : NULL;

	if (!e)
		return IN_RATES; /* its buckets are full */
	follow(e, t, now);
	for (int i = 0; i < IN_RATES; i++)
		if (e->used[i] && is_short(&e->of[i], want[i], now))
			return (enum in_rate)i;
	return IN_RATES;
}

void rates_take(
    struct rates *r, const struct tenant *t, uint64_t rcpts, uint64_t bytes, int64_t now)
{
	uint64_t taken[IN_RATES] = {[IN_MSG] = 1, [IN_RCPT] = rcpts, [IN_DATA] = bytes};
	struct entry *e, **at;

	if (!is_limited(t))
		return;
	sweep(r, now);
	e = find(r, t);
	if (!e) {
		if (r->count >= r->chain_count)
			grow(r);
		at = chain_of(r, t->name);
		e = xcalloc(1, sizeof(*e));
		*e = (struct entry){.next = *at, .name = xstrdup(t->name)};
		*at = e;
		r->count++;
	}
	follow(e, t, now);
	for (int i = 0; i < IN_RATES; i++)
		if (e->used[i])
			bucket_take(&e->of[i], taken[i], now);
}
