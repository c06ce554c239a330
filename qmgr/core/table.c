/* SPDX-License-Identifier: ISC */
/*
 * Linear hashing (Litwin 1980): the buckets base + split - 1 are in use; bucket `split` is the next
 * to be divided between itself and base + split. One insertion divides at most one bucket and one
 * removal joins at most one, so the dearest single step is one bucket's chain, about one node long.
 * Buckets stand in segments that never move.
 */
#include "qmgr/core/table.h"
#include "common/check.h"
#include <stdlib.h>
#include <string.h>

enum {
	TABLE_SEGMENT = 512, /* buckets of a segment: 4 KiB */
	TABLE_LEAST = 16,    /* buckets of an empty table */
};

static struct node **bucket_at(const struct table *t, size_t i)
{
	return &t->segments[i / TABLE_SEGMENT][i % TABLE_SEGMENT];
}

static struct node **bucket_of(const struct table *t, uint64_t hash)
{
	size_t i = hash & (2 * t->base - 1);

	return bucket_at(t, i < t->base + t->split ? i : (hash & (t->base - 1)));
}

void table_init(struct table *t)
{
	*t = (struct table){.base = TABLE_LEAST, .segment_count = 1};
	t->segments = xcalloc(1, sizeof(*t->segments));
	t->segments[0] = xcalloc(TABLE_SEGMENT, sizeof(**t->segments));
}

void table_fini(struct table *t)
{
	for (size_t i = 0; i < t->segment_count; i++)
		free(t->segments[i]);
	free(t->segments);
	*t = (struct table){0};
}

static void divide(struct table *t)
{
	size_t high = t->base + t->split;
	struct node **from = bucket_at(t, t->split);
	struct node *n = *from, *next;

	if (high / TABLE_SEGMENT >= t->segment_count) {
		t->segments = xrealloc(t->segments, (t->segment_count + 1) * sizeof(*t->segments));
		t->segments[t->segment_count++] = xcalloc(TABLE_SEGMENT, sizeof(**t->segments));
	}
	*from = NULL;
	if (++t->split == t->base) {
		t->base *= 2;
		t->split = 0;
	}
	for (; n; n = next) {
		struct node **to = bucket_of(t, n->hash);

		next = n->next;
		n->next = *to;
		*to = n;
	}
}

static void join(struct table *t)
{
	struct node **low, **high;

	if (t->split == 0) {
		t->base /= 2;
		t->split = t->base;
	}
	t->split--;
	high = bucket_at(t, t->base + t->split);
	low = bucket_at(t, t->split);
	while (*low)
		low = &(*low)->next;
	*low = *high;
	*high = NULL;
	/* One segment is kept in hand, so that a table at a border does not allocate back and
	 * forth. */
	if ((t->base + t->split) / TABLE_SEGMENT + 2 < t->segment_count)
		free(t->segments[--t->segment_count]);
}

void table_add(struct table *t, struct node *n, uint64_t hash)
{
	struct node **b;

	if (t->count >= t->base + t->split)
		divide(t);
	n->hash = hash;
	b = bucket_of(t, hash);
	n->next = *b;
	*b = n;
	t->count++;
}

void table_remove(struct table *t, struct node *n)
{
	struct node **at = bucket_of(t, n->hash);

	while (*at != n) {
		must(*at);
		at = &(*at)->next;
	}
	*at = n->next;
	n->next = NULL;
	t->count--;
	if (t->base + t->split > TABLE_LEAST && t->count < (t->base + t->split) / 2)
		join(t);
}

struct node *table_first(const struct table *t, uint64_t hash)
{
	struct node *n = *bucket_of(t, hash);

	while (n && n->hash != hash)
		n = n->next;
	return n;
}

struct node *table_next(const struct node *n)
{
	uint64_t hash = n->hash;
	struct node *m = n->next;

	while (m && m->hash != hash)
		m = m->next;
	return m;
}

struct node *table_any(const struct table *t)
{
	for (size_t i = 0; t->count && i < t->base + t->split; i++)
		if (*bucket_at(t, i))
			return *bucket_at(t, i);
	return NULL;
}

struct node **table_list(const struct table *t)
{
	struct node **all = xcalloc(t->count + 1, sizeof(struct node *));
	size_t n = 0;

	for (size_t i = 0; i < t->base + t->split; i++)
		for (struct node *node = *bucket_at(t, i); node; node = node->next)
			all[n++] = node;
	return all;
}

/* ---- slots ---- */

uint32_t slots_take(struct slots *s, void *what)
{
	uint32_t i;

	if (s->frees) {
		i = s->free[--s->frees];
	} else {
		i = ++s->count;
		if ((i & (i - 1)) == 0) { /* room for twice as many */
			s->at = xrealloc(s->at, 2 * i * sizeof(*s->at));
			s->free = xrealloc(s->free, 2 * i * sizeof(*s->free));
		}
	}
	s->at[i] = what;
	return i;
}

void slots_give(struct slots *s, uint32_t number)
{
	s->at[number] = NULL;
	s->free[s->frees++] = number;
}

void slots_fini(struct slots *s)
{
	free(s->at);
	free(s->free);
	*s = (struct slots){0};
}

/* One to seven bytes, the first one lowest: by loads that may overlap, since a memcpy() of a length
 * that the compiler does not know costs more than the rest of the hash. */
static uint64_t few_bytes(const char *p, size_t n)
{
	const unsigned char *b = (const unsigned char *)p;
	uint32_t low, high;

	if (n < 4)
		return b[0] | (uint64_t)b[n / 2] << n / 2 * 8 | (uint64_t)b[n - 1] << (n - 1) * 8;
	memcpy(&low, p, 4);
	memcpy(&high, p + n - 4, 4);
	return low | (uint64_t)high << (n - 4) * 8;
}

uint64_t hash_bytes(uint64_t seed, struct str s)
{
	uint64_t h = hash_mix(seed, s.n);

	for (; s.n >= 8; s.p += 8, s.n -= 8) {
		uint64_t v;

		memcpy(&v, s.p, 8);
		h = hash_mix(h ^ v, v);
	}
	if (s.n) {
		uint64_t v = few_bytes(s.p, s.n);

		h = hash_mix(h ^ v, v + 1);
	}
	return hash_mix(h, seed);
}
