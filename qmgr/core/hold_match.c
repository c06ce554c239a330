/* SPDX-License-Identifier: ISC */
/*
 * What holds are about: which queue, share or lane a hold concerns, and what its name means.
 *
 * Whether something is held is never counted up and down but looked up, by the holds that concern
 * it: those of its exact name by hash, and for queues the wide ones (a pattern, a virtual MTA, a
 * provider: CORE_WIDE at most). So holds may overlap, come in any order, and end in any order.
 *
 * Nothing is changed here, and nothing kept: only hold_why(), which people ask, goes through all.
 */
#include "qmgr/core/hold.h"
#include <errno.h>
#include <string.h>

/* ---- names ---- */

bool hold_is_wide(enum core_scope scope, struct str name)
{
	if (scope == CORE_QUEUE)
		return core_is_pattern(name) || !memchr(name.p, '/', name.n);
	return scope == CORE_VMTA || scope == CORE_PROVIDER;
}

uint64_t hold_subject_hash(const struct core *core, const struct name *name)
{
	return hash_mix(core->seed, (uintptr_t)name);
}

/* Nothing can have that name: -ENOENT. What has no mail yet may still be held. */
int hold_check(const struct core *core, const struct hold_request *r)
{
	const char *slash = memchr(r->name.p, '/', r->name.n);
	struct name *provider;

	if (r->name.n == 0 || r->name.n > HOLD_NAME_MAX || r->at.n > HOLD_NAME_MAX)
		return -ENOENT;
	switch (r->scope) {
	case CORE_TENANT:
		return r->name.n > UINT16_MAX ? -ENOENT : 0;
	case CORE_CAMPAIGN:
		return slash && slash > r->name.p ? 0 : -ENOENT;
	case CORE_VMTA:
		return vmta_find(core, r->name) ? 0 : -ENOENT;
	case CORE_PROVIDER:
		provider = name_find(core, r->name);
		return provider && (provider_conf(core, provider) || dest_find(core, r->name))
			   ? 0
			   : -ENOENT;
	case CORE_QUEUE:
		return 0;
	case CORE_SOURCE:
		break;
	}
	return -ENOENT;
}

/* A queue under its own name, however its destination was written. */
struct str hold_own_name(
    const struct core *core, enum core_scope scope, struct str name, char out[QUEUE_NAME_MAX])
{
	if (scope != CORE_QUEUE || hold_is_wide(scope, name))
		return name;
	return queue_meant(core, name, out);
}

/* ---- what a hold is about ---- */

static bool wide_concerns(const struct core *core, const struct hold *h, const struct queue *q)
{
	struct str name = name_str(h->name);

	if (h->scope == CORE_VMTA)
		return str_eq(name, name_str(q->vmta->name));
	if (h->scope == CORE_PROVIDER)
		return str_eq(name, name_str(q->provider)) || str_eq(name, name_str(q->dest->name));
	return queue_matches(core, q, name);
}

/* A destination, or a domain whose mail goes there. */
static bool is_at(const struct core *core, const struct hold *h, const struct queue *q)
{
	struct str at = name_str(h->at), dest = name_str(q->dest->name);

	return at.n == 0 || str_eq(at, dest) || str_eq(at, name_str(q->provider)) ||
	       str_eq(core_destination(core, at), dest);
}

static void judge(struct hold_state *v, const struct hold *h)
{
	v->held = true;
	v->suspended |= h->suspension;
}

struct hold_state hold_of_queue(const struct core *core, const struct queue *q)
{
	const struct holds *all = &core->holds;
	struct hold_state v = {false, false};
	const struct name *name;

	if (all->keys.count == 0)
		return v;
	for (struct link *l = all->wide.next; l != &all->wide; l = l->next)
		if (wide_concerns(core, OWNER(l, struct hold, in_wide), q))
			judge(&v, OWNER(l, struct hold, in_wide));
	name = name_find(core, str_of(q->name));
	for (struct node *n = name ? table_first(&all->subjects, hold_subject_hash(core, name))
				   : NULL;
	     n; n = table_next(n)) {
		const struct hold *h = OWNER(n, struct hold, by_subject);

		if (h->scope == CORE_QUEUE && h->name == name)
			judge(&v, h);
	}
	return v;
}

/* Of a tenant (campaign NULL) or campaign, in this queue, or (q NULL) everywhere. */
bool hold_of_party(const struct core *core, enum core_scope scope, const struct name *tenant,
    const struct name *campaign, const struct queue *q)
{
	const struct table *t = &core->holds.subjects;

	for (struct node *n = table_first(t, hold_subject_hash(core, tenant)); n;
	     n = table_next(n)) {
		const struct hold *h = OWNER(n, struct hold, by_subject);

		if (h->scope != scope || h->tenant != tenant ||
		    (scope == CORE_CAMPAIGN && h->campaign != campaign))
			continue;
		if (q ? is_at(core, h, q) : h->at->n == 0)
			return true;
	}
	return false;
}

bool hold_everywhere(const struct core *core, enum core_scope scope, const struct name *tenant,
    const struct name *campaign)
{
	return hold_of_party(core, scope, tenant, campaign, NULL);
}

bool hold_vmta(const struct core *core, const struct vmta *v)
{
	const struct link *wide = &core->holds.wide;

	for (struct link *l = wide->next; l != wide; l = l->next) {
		const struct hold *h = OWNER(l, struct hold, in_wide);

		if (h->scope == CORE_VMTA && str_eq(name_str(h->name), name_str(v->name)))
			return true;
	}
	return false;
}

bool hold_now(const struct core *core, const struct queue *q)
{
	return hold_of_queue(core, q).held;
}

/* ---- why ---- */

static bool concerns_lane(const struct core *core, const struct hold *h, const struct lane *lane)
{
	return h->tenant == lane->share->tenant &&
	       (h->scope == CORE_TENANT || h->campaign == lane->campaign) &&
	       is_at(core, h, lane->share->queue);
}

static bool concerns_queue(const struct core *core, const struct hold *h, const struct queue *q)
{
	if (h->tenant)
		return false;
	return hold_is_wide(h->scope, name_str(h->name))
		   ? wide_concerns(core, h, q)
		   : str_eq(name_str(h->name), str_of(q->name));
}

/* Asked by people only: all holds are looked at. */
bool hold_why(
    const struct core *core, const struct queue *q, const struct lane *lane, struct core_why *why)
{
	const struct slots *slots = &core->holds.slots;
	const struct hold *last = NULL;

	for (uint32_t i = 1; i <= slots->count; i++) {
		const struct hold *h = slots->at[i];

		if (!h || !(concerns_queue(core, h, q) ||
			      (lane && h->tenant && concerns_lane(core, h, lane))))
			continue;
		if (!last || (last->until_ms && (!h->until_ms || h->until_ms > last->until_ms)))
			last = h;
	}
	if (!last)
		return false;
	why->state = last->suspension ? STR("suspended") : STR("paused");
	why->binding = name_str(last->key); /* behind its first word, which the state says */
	(void)str_cut(&why->binding, ' ');
	why->text = str_of(last->text);
	why->who = str_of(last->who);
	why->rule = str_of(last->rule);
	why->until_ms = last->until_ms;
	return true;
}
