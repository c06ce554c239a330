/* SPDX-License-Identifier: ISC */
/*
 * Levels of buckets that outlive what they belong to. A bucket that goes (its queue was idle for
 * long, its rate is unlimited now) leaves its level here until it would be full again; whoever
 * makes that bucket anew finds it. At a clean stop every level is given out as a state, "bucket
 * KIND KEY", and comes back by core_restore(). After an unclean one nobody knows what was sent:
 * all buckets, also those made later, count as empty at that time (core->empty_ms), which is kept
 * as "bucket epoch", for else a clean stop soon afterwards would fill them.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct level {
	struct node node;
	char *key; /* owned: "messages queue google/mta1" */
	struct bucket bucket;
	bool stored;
	struct timer timer;
};

static const char *const words[LIMIT_KINDS] = {[LIMIT_CONNS] = "connections",
    [LIMIT_CONNECTS] = "connects",
    [LIMIT_RAMPUP] = "rampup",
    [LIMIT_MSGS] = "messages",
    [LIMIT_BYTES] = "volume"};

static char *key_of(const struct limiter *l)
{
	size_t a = strlen(words[l->kind]), b = strlen(l->budget->key);
	char *key = xmalloc(a + b + 2);

	memcpy(key, words[l->kind], a);
	key[a] = ' ';
	memcpy(key + a + 1, l->budget->key, b + 1);
	return key;
}

static struct level *level_find(const struct core *core, struct str key)
{
	for (struct node *i = table_first(&core->levels, hash_bytes(core->seed, key)); i;
	     i = table_next(i))
		if (str_eq(str_of(OWNER(i, struct level, node)->key), key))
			return OWNER(i, struct level, node);
	return NULL;
}

/* Takes the key. */
static struct level *level_new(struct core *core, char *key)
{
	struct level *v = xcalloc(1, sizeof(*v));

	v->key = key;
	v->timer.kind = TIMER_LEVEL;
	table_add(&core->levels, &v->node, hash_bytes(core->seed, str_of(key)));
	return v;
}

static void level_free(struct core *core, struct level *v)
{
	wheel_cancel(core->wheel, &v->timer.node);
	table_remove(&core->levels, &v->node);
	free(v->key);
	free(v);
}

static void arm(struct core *core, struct level *v)
{
	wheel_add(core->wheel, &v->timer.node, bucket_full_ms(&v->bucket, core->now));
}

void level_timer(struct core *core, struct timer *t)
{
	struct level *v = OWNER(t, struct level, timer);

	if (bucket_full_ms(&v->bucket, core->now) > core->now) {
		arm(core, v);
		return;
	}
	if (v->stored)
		state_changed(core, STR("bucket"), str_of(v->key));
	level_free(core, v);
}

void level_park(struct core *core, const struct limiter *l)
{
	char *key;
	struct level *v;

	if (l->kind == LIMIT_CONNS)
		return;
	key = key_of(l);
	if (bucket_full_ms(&l->bucket, core->now) <= core->now) {
		if (l->stored)
			state_changed(core, STR("bucket"), str_of(key));
		free(key);
		return;
	}
	v = level_new(core, key);
	v->bucket = l->bucket;
	v->stored = l->stored;
	arm(core, v);
}

void level_unpark(struct core *core, struct limiter *l, const struct rate *rate)
{
	char *key = key_of(l);
	struct level *v = level_find(core, str_of(key));

	free(key);
	if (!v) {
		bucket_init(&l->bucket, rate, core->empty_ms, core->now);
		return;
	}
	l->bucket = v->bucket;
	l->stored = v->stored;
	bucket_change(&l->bucket, rate, core->now);
	level_free(core, v);
}

/* ---- as states ---- */

static struct limiter *limiter_of(const struct core *core, struct str key)
{
	for (int kind = 0; kind < LIMIT_KINDS; kind++) {
		size_t n = strlen(words[kind]);
		const struct budget *b;

		if (key.n <= n || memcmp(key.p, words[kind], n) != 0 || key.p[n] != ' ')
			continue;
		b = budget_of_key(core, (struct str){key.p + n + 1, key.n - n - 1});
		return b ? b->of[kind] : NULL;
	}
	return NULL;
}

bool level_encode(struct core *core, struct str name, struct buf *out)
{
	const struct level *v = level_find(core, name);
	const struct limiter *l = v ? NULL : limiter_of(core, name);

	if (str_eq(name, STR("epoch"))) {
		buf_u64(out, (uint64_t)core->empty_ms);
		return core->empty_ms != NEVER;
	}
	if (v)
		bucket_encode(&v->bucket, out);
	else if (l && l->stored && l->kind != LIMIT_CONNS)
		bucket_encode(&l->bucket, out);
	else
		return false;
	return true;
}

static void save(struct core *core, struct limiter *l)
{
	bool full = bucket_full_ms(&l->bucket, core->now) <= core->now;
	char *key;

	if (full && !l->stored)
		return;
	l->stored = !full;
	key = key_of(l);
	state_changed(core, STR("bucket"), str_of(key));
	free(key);
}

void level_save(struct core *core)
{
	struct node **all = table_list(&core->levels);

	for (size_t i = 0; all[i]; i++) {
		struct level *v = OWNER(all[i], struct level, node);

		v->stored = true;
		state_changed(core, STR("bucket"), str_of(v->key));
	}
	free(all);
	for (uint32_t i = 1; i <= core->budget_count; i++)
		for (int kind = 0; core->budget_at[i] && kind < LIMIT_KINDS; kind++)
			if (core->budget_at[i]->of[kind] && kind != LIMIT_CONNS)
				save(core, core->budget_at[i]->of[kind]);
	if (core->empty_ms != NEVER)
		state_changed(core, STR("bucket"), STR("epoch"));
}

/* What was kept, but never more than if it had been empty at the epoch. */
static void bound(const struct core *core, struct bucket *b)
{
	struct bucket empty;

	if (b->at_ms > core->now) /* the clock was set back: it would stand still for as long */
		b->at_ms = core->now;
	bucket_fill(b, core->now);
	bucket_init(&empty, &b->rate, core->empty_ms, core->now);
	if (b->level > empty.level)
		b->level = empty.level;
}

int level_restore(struct core *core, struct str name, struct rd *value)
{
	struct limiter *l = limiter_of(core, name);
	struct bucket b;
	struct level *v;

	if (str_eq(name, STR("epoch"))) {
		int64_t at = (int64_t)rd_u64(value);

		if (value->bad || value->n || at < 0)
			return -EBADMSG;
		if (core->empty_ms == NEVER)
			core->empty_ms = at < core->now ? at : core->now;
		return 0;
	}
	if (bucket_decode(&b, value) != 0)
		return -EBADMSG;
	bound(core, &b);
	if (l && l->kind != LIMIT_CONNS) { /* a budget of the configuration has it already */
		struct rate rate = l->bucket.rate;

		l->bucket = b;
		l->stored = true;
		bucket_change(&l->bucket, &rate, core->now);
		limiter_wake(core, l);
		return 0;
	}
	v = level_find(core, name);
	if (!v)
		v = level_new(core, xstrndup(name.p, name.n));
	v->bucket = b;
	v->stored = true;
	arm(core, v);
	return 0;
}

static void empty(struct bucket *b, int64_t now)
{
	bucket_fill(b, now);
	if (b->level > 0)
		b->level = 0;
}

void core_unclean(struct core *core, int64_t now_ms)
{
	struct node **all = table_list(&core->levels);

	core_clock(core, now_ms);
	core->empty_ms = core->now;
	for (size_t i = 0; all[i]; i++) {
		empty(&OWNER(all[i], struct level, node)->bucket, core->now);
		arm(core, OWNER(all[i], struct level, node));
	}
	free(all);
	for (uint32_t i = 1; i <= core->budget_count; i++)
		for (int kind = 0; core->budget_at[i] && kind < LIMIT_KINDS; kind++)
			if (core->budget_at[i]->of[kind] && kind != LIMIT_CONNS)
				empty(&core->budget_at[i]->of[kind]->bucket, core->now);
}

void level_fini(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->levels)))
		level_free(core, OWNER(n, struct level, node));
}
