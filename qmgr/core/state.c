/* SPDX-License-Identifier: ISC */
/*
 * How the core's memory survives a restart: what is not a job (modes, clocks, disabled sources,
 * windows of triggers, suspensions, levels of buckets …) is named by its kind and the name of what
 * it belongs to. Whoever changes such a thing says so with state_changed(); before the next
 * decision of any other sort core_next() gives out its whole present value, however often it
 * changed meanwhile. So the shell has journalled a mode before it hears of a grant that follows
 * from it, and what a crash leaves is always a state that was true, never a half.
 *
 * Kinds that change with every reply are given out once in least_ms: the first change at once, the
 * last one of a burst when that time is over. A crash loses that much of them, a clean stop
 * nothing.
 *
 * A value whose owner cannot take it now (its virtual MTA or rule is not configured) is kept as it
 * is and offered again with each configuration, for a day; so an operator's slip in the
 * configuration costs no state.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	STATE_KEPT =
	    65536, /* values that nobody could take: more are forgotten, the oldest first */
	STATE_VALUE_MAX = 60000, /* bytes of a value; each kind's own bounds keep it far below */
};
#define STATE_KEEP DAY

/* Each owner's row. Encode: false, it is no more. Restore: 0, -EBADMSG, or -EAGAIN, not now. */
static const struct state_kind {
	const char *name;
	int64_t least_ms; /* 0: each change at once */
	bool (*encode)(struct core *core, struct str name, struct buf *out);
	int (*restore)(struct core *core, struct str name, struct rd *value);
	void (*save)(struct core *core); /* NULL, or marks what is only given out at a clean stop */
} kinds[] = {
    {"clock", 0, clock_encode, clock_restore, NULL},
    {"bucket", 0, level_encode, level_restore, level_save},
    {"mode", 0, mode_encode, mode_restore, NULL},
    {"source", 0, source_encode, source_restore, NULL},
    {"trigger", SECOND, trigger_encode, trigger_restore, NULL},
    {"set", 0, setting_encode, setting_restore, NULL},
    {"warmup", MINUTE, warmup_encode, warmup_restore, NULL},
    {"hold", 0, hold_encode, hold_restore, NULL},
    {"party", 0, party_encode, party_restore, NULL},
};

struct mark {
	struct node node;
	struct link in_list; /* due; or kept; or none, while its timer runs */
	struct timer timer;
	const struct state_kind *kind;
	struct name *name;
	bool changed; /* since it was given out, while its timer runs */
	char *value;  /* owned: of a kept one */
	size_t value_n;
	int64_t until_ms; /* of a kept one */
};

void state_init(struct core *core)
{
	table_init(&core->states.marks);
	link_init(&core->states.due);
	link_init(&core->states.kept);
	buf_init(&core->states.out, STATE_VALUE_MAX + UINT16_MAX + 100);
}

int state_queue(struct core *core, struct str name, struct queue **q)
{
	const struct vmta *v;
	size_t slash = name.n;

	while (slash && name.p[slash - 1] != '/')
		slash--;
	if (slash < 2)
		return -EBADMSG;
	name = (struct str){name.p + slash, name.n - slash};
	v = vmta_find(core, name);
	if ((!v || !v->conf) && !str_eq(name, name_str(core->default_vmta)))
		return -EAGAIN;
	*q = queue_named(core, (struct str){name.p - slash, name.n + slash});
	return *q ? 0 : -EBADMSG;
}

char *state_text(struct rd *value)
{
	struct str s = rd_str16(value);

	return s.n ? str_dup(s) : NULL;
}

static const struct state_kind *kind_find(struct str name)
{
	for (size_t i = 0; i < COUNT_OF(kinds); i++)
		if (str_eq(str_of(kinds[i].name), name))
			return &kinds[i];
	return NULL;
}

static uint64_t mark_hash(
    const struct core *core, const struct state_kind *kind, const struct name *name)
{
	return hash_mix(hash_mix(core->seed, (uintptr_t)name), (uintptr_t)kind);
}

/* Takes the reference of the name. */
static struct mark *mark_get(struct core *core, const struct state_kind *kind, struct str text)
{
	struct name *name = name_get(core, text);
	uint64_t hash = mark_hash(core, kind, name);
	struct mark *m;

	for (struct node *i = table_first(&core->states.marks, hash); i; i = table_next(i)) {
		m = OWNER(i, struct mark, node);
		if (m->kind == kind && m->name == name) {
			name_drop(core, name);
			return m;
		}
	}
	m = xcalloc(1, sizeof(*m));
	m->kind = kind;
	m->name = name;
	m->timer.kind = TIMER_STATE;
	link_init(&m->in_list);
	table_add(&core->states.marks, &m->node, hash);
	return m;
}

static void unkeep(struct core *core, struct mark *m)
{
	if (!m->value)
		return;
	free(m->value);
	m->value = NULL;
	m->value_n = 0;
	core->states.kept_count--;
	link_remove(&m->in_list);
}

static void mark_free(struct core *core, struct mark *m)
{
	unkeep(core, m);
	link_remove(&m->in_list);
	wheel_cancel(core->wheel, &m->timer.node);
	table_remove(&core->states.marks, &m->node);
	name_drop(core, m->name);
	free(m);
}

void state_fini(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->states.marks)))
		mark_free(core, OWNER(n, struct mark, node));
	buf_fini(&core->states.out);
}

/* ---- going out ---- */

void state_changed(struct core *core, struct str kind, struct str name)
{
	const struct state_kind *k = kind_find(kind);
	struct mark *m;

	must(k != NULL);
	m = mark_get(core, k, name);
	unkeep(core, m); /* what is true now goes before what was true before the restart */
	if (wheel_armed(&m->timer.node))
		m->changed = true;
	else if (link_alone(&m->in_list))
		link_append(&core->states.due, &m->in_list);
}

void state_timer(struct core *core, struct timer *t)
{
	struct mark *m = OWNER(t, struct mark, timer);

	if (!m->changed) {
		mark_free(core, m);
		return;
	}
	m->changed = false;
	link_append(&core->states.due, &m->in_list);
}

bool state_next(struct core *core, struct core_decision *out)
{
	struct buf *b = &core->states.out;
	struct mark *m;
	size_t key_n;
	bool exists;

	if (link_alone(&core->states.due))
		return false;
	m = OWNER(core->states.due.next, struct mark, in_list);
	link_remove(&m->in_list);
	buf_reset(b);
	buf_cstr(b, m->kind->name);
	buf_u8(b, ' ');
	buf_str(b, name_str(m->name));
	key_n = b->n;
	exists = m->kind->encode(core, name_str(m->name), b);
	must(!b->failed);
	*out = (struct core_decision){.kind = DECIDE_STATE,
	    .key = {(const char *)b->p, key_n},
	    .state = {(const char *)b->p + key_n, exists ? b->n - key_n : 0},
	    .gone = !exists};
	if (m->kind->least_ms)
		wheel_add(core->wheel, &m->timer.node, core->now + m->kind->least_ms);
	else
		mark_free(core, m);
	return true;
}

void core_save(struct core *core, int64_t now_ms)
{
	struct node **all = table_list(&core->states.marks);

	core_clock(core, now_ms);
	for (size_t i = 0; all[i]; i++) {
		struct mark *m = OWNER(all[i], struct mark, node);

		if (!m->changed)
			continue;
		m->changed = false;
		wheel_cancel(core->wheel, &m->timer.node);
		link_append(&core->states.due, &m->in_list);
	}
	free(all);
	for (size_t i = 0; i < COUNT_OF(kinds); i++)
		if (kinds[i].save)
			kinds[i].save(core);
}

/* ---- coming back ---- */

/* Forgets a value that nobody took: the shell is told that it is gone. */
static void give_up(struct core *core, struct mark *m)
{
	unkeep(core, m);
	link_append(&core->states.due, &m->in_list);
}

static void keep(struct core *core, const struct state_kind *k, struct str name, struct str value)
{
	struct mark *m = mark_get(core, k, name);

	unkeep(core, m);
	m->value = xmalloc(value.n + 1);
	if (value.n)
		memcpy(m->value, value.p, value.n);
	m->value_n = value.n;
	m->until_ms = core->now + STATE_KEEP;
	link_append(&core->states.kept, &m->in_list);
	if (++core->states.kept_count > STATE_KEPT)
		give_up(core, OWNER(core->states.kept.next, struct mark, in_list));
}

int core_restore(struct core *core, struct str key, struct str value, int64_t now_ms)
{
	const struct state_kind *k;
	struct rd rd = rd_of(value.p, value.n);
	struct str name;
	size_t space = 0;
	int rc;

	core_clock(core, now_ms);
	while (space < key.n && key.p[space] != ' ')
		space++;
	k = kind_find((struct str){key.p, space});
	if (!k || space == key.n)
		return -EBADMSG;
	name = (struct str){key.p + space + 1, key.n - space - 1};
	rc = k->restore(core, name, &rd);
	if (rc == -EAGAIN) {
		keep(core, k, name, value);
		return 0;
	}
	return rc;
}

void state_configured(struct core *core)
{
	struct link *next;

	for (struct link *l = core->states.kept.next; l != &core->states.kept; l = next) {
		struct mark *m = OWNER(l, struct mark, in_list);
		struct rd rd = rd_of(m->value, m->value_n);
		int rc = m->kind->restore(core, name_str(m->name), &rd);

		next = l->next;
		if (rc == 0)
			mark_free(core, m); /* the shell has it as it is */
		else if (rc != -EAGAIN || m->until_ms <= core->now)
			give_up(core, m);
	}
}
