/* SPDX-License-Identifier: ISC */
/*
 * Sliding windows of a rule's trigger, one for each thing that it is counted for: attempts and
 * matches of the last so many milliseconds. An attempt of the moment `at` counts while less than
 * the window's length has passed since.
 *
 * A window is a ring of entries. Each moment has an entry of its own while there are fewer than
 * WINDOW_EXACT of them, so counting is exact; beyond that, what comes within a WINDOW_EXACT-th of
 * the window's length goes into the last entry and is forgotten with it: early by at most that
 * part. A count of N keeps no more than what makes N.
 *
 * Windows are bounded in number and in entries together; those not used for longest go first.
 */
#include "qmgr/core/rules.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t window_hash(const struct core *core, const struct known *k, const struct name *name)
{
	return hash_mix(hash_mix(core->seed, k->rule->id), (uintptr_t)name);
}

struct window *window_find(struct core *core, const struct known *k, struct str object)
{
	struct name *name = name_get(core, object);
	uint64_t hash = window_hash(core, k, name);
	struct window *found = NULL;

	for (struct node *i = table_first(&core->rules->windows, hash); i && !found;
	     i = table_next(i)) {
		struct window *w = OWNER(i, struct window, node);

		if (w->rule == k->rule->id && w->object == name)
			found = w;
	}
	name_drop(core, name);
	return found;
}

void window_free(struct core *core, struct window *w)
{
	struct rules *r = core->rules;

	table_remove(&r->windows, &w->node);
	link_remove(&w->in_age);
	r->entries -= w->cap;
	name_drop(core, w->object);
	free(w->ring);
	free(w);
}

static void save(struct core *core, const struct window *w)
{
	char name[RULE_OBJECT_MAX + 32];
	int n = snprintf(name, sizeof(name), "%016llx %.*s", (unsigned long long)w->rule,
	    STR_ARG(name_str(w->object)));

	state_changed(core, STR("trigger"), (struct str){name, (size_t)n});
}

static bool is_full(const struct rules *r)
{
	return r->windows.count > WINDOWS_MAX || r->entries > WINDOW_ENTRIES_ALL;
}

/* The window of that object, the last used from now on. */
struct window *window_get(struct core *core, const struct known *k, struct str object)
{
	struct rules *r = core->rules;
	struct window *w = window_find(core, k, object);

	if (!w) {
		w = xcalloc(1, sizeof(*w));
		w->rule = k->rule->id;
		w->object = name_get(core, object);
		table_add(&r->windows, &w->node, window_hash(core, k, w->object));
	}
	link_append(&r->age, &w->in_age);
	while (is_full(r) && r->age.next != &w->in_age) {
		struct window *old = OWNER(r->age.next, struct window, in_age);

		if (old->n)
			save(core, old); /* gone, when that is given out */
		window_free(core, old);
	}
	return w;
}

/* ---- entries ---- */

static struct window_entry *entry(const struct window *w, uint32_t i)
{
	return &w->ring[(w->head + i) & (w->cap - 1)];
}

static void pop(struct window *w)
{
	w->attempts -= entry(w, 0)->attempts;
	w->matches -= entry(w, 0)->matches;
	w->head = (w->head + 1) & (w->cap - 1);
	w->n--;
}

static void trim(struct window *w, const struct rule_trigger *t, int64_t now)
{
	while (w->n && now - entry(w, 0)->at_ms >= t->window_ms)
		pop(w);
	while (t->kind == TRIGGER_COUNT && w->n && w->matches - entry(w, 0)->matches >= t->n)
		pop(w);
}

static void grow(struct core *core, struct window *w)
{
	uint32_t cap = w->cap ? 2 * w->cap : 4;
	struct window_entry *ring = xcalloc(cap, sizeof(*ring));

	for (uint32_t i = 0; i < w->n; i++)
		ring[i] = *entry(w, i);
	free(w->ring);
	core->rules->entries += cap - w->cap;
	w->ring = ring;
	w->cap = cap;
	w->head = 0;
}

static void put(struct core *core, struct window *w, struct window_entry e)
{
	if (w->n == w->cap)
		grow(core, w);
	*entry(w, w->n++) = e;
	w->attempts += e.attempts;
	w->matches += e.matches;
}

void window_add(struct core *core, struct window *w, const struct rule_trigger *t,
    uint32_t attempts, uint32_t matches)
{
	struct window_entry *last;

	trim(w, t, core->now);
	last = w->n ? entry(w, w->n - 1) : NULL;
	if (last &&
	    (last->at_ms == core->now ||
		(w->n >= WINDOW_EXACT && core->now - last->at_ms < t->window_ms / WINDOW_EXACT))) {
		last->attempts += attempts;
		last->matches += matches;
		w->attempts += attempts;
		w->matches += matches;
	} else {
		put(core, w, (struct window_entry){core->now, attempts, matches});
	}
	trim(w, t, core->now);
	save(core, w);
}

bool window_fires(const struct window *w, const struct rule_trigger *t)
{
	if (t->kind == TRIGGER_COUNT)
		return w->matches >= t->n;
	return w->attempts >= t->n && w->matches * 100 >= (uint64_t)t->percent * w->attempts;
}

/* ---- over a restart ---- */

/* "RULE OBJECT", the rule in hexadecimal digits. NULL: no such rule now. */
static const struct known *rule_named(const struct core *core, struct str name, struct str *object)
{
	uint64_t id = 0;

	if (name.n < 17 || name.p[16] != ' ')
		return NULL;
	for (size_t i = 0; i < 16; i++) {
		char c = name.p[i];

		id = id << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	*object = (struct str){name.p + 17, name.n - 17};
	return rules_find(core, id);
}

bool trigger_encode(struct core *core, struct str name, struct buf *out)
{
	struct str object;
	const struct known *k = rule_named(core, name, &object);
	const struct window *w = k ? window_find(core, k, object) : NULL;
	uint32_t group;

	if (!w || w->n == 0)
		return false;
	group = (w->n + WINDOW_SAVED - 1) / WINDOW_SAVED;
	for (uint32_t i = 0; i < w->n; i += group) {
		struct window_entry sum = *entry(w, i);

		for (uint32_t j = i + 1; j < i + group && j < w->n; j++) {
			sum.attempts += entry(w, j)->attempts;
			sum.matches += entry(w, j)->matches;
		}
		buf_u64(out, (uint64_t)sum.at_ms);
		buf_u32(out, sum.attempts);
		buf_u32(out, sum.matches);
	}
	return true;
}

int trigger_restore(struct core *core, struct str name, struct rd *value)
{
	struct str object;
	const struct known *k = rule_named(core, name, &object);
	struct window *w;
	int64_t last = 0;

	if (value->n == 0 || value->n % 16 || value->n / 16 > WINDOW_SAVED)
		return -EBADMSG;
	if (!k || k->rule->trigger.kind == TRIGGER_IMMEDIATE)
		return name.n < 17 ? -EBADMSG : -EAGAIN;
	w = window_get(core, k, object);
	while (w->n) /* what is said now holds */
		pop(w);
	while (value->n) {
		struct window_entry e = {.at_ms = (int64_t)rd_u64(value)};

		e.attempts = rd_u32(value);
		e.matches = rd_u32(value);
		if (e.at_ms < last) {
			window_free(core, w);
			return -EBADMSG;
		}
		last = e.at_ms;
		put(core, w, e);
	}
	return 0;
}
