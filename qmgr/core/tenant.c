/* SPDX-License-Identifier: ISC */
/*
 * Tenants and campaigns as wholes: what one of them has in all queues, found without looking at
 * anybody else's. A tenant links its shares (one a queue) and its lanes, a campaign its lanes, and
 * both count their jobs by state, so that pausing, counting and listing cost what is their own.
 *
 * Mail of nobody known has its sender's domain as its tenant ("@example.com", made by the shell),
 * so that fairness, holds and limits know one sender from another; beyond CORE_SENDER_DOMAINS of
 * these at a time, further ones share the tenant "".
 *
 * They are made with their first lane and freed with their last one. The mail without a tenant is
 * the tenant "", mail without a campaign its tenant's campaign "".
 *
 * A tenant has at most CORE_CAMPAIGNS campaigns with lanes of their own: whoever numbers his
 * mailings gets no lane for each of a million of them. Further ones share the lane of campaign "";
 * their name stays in the envelope.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

enum { NAME_ROOM = 300 /* "@" and a domain */ };

/* ---- what the configuration says of them ---- */

struct tenant_conf { /* found by name: there may be ten thousand */
	struct node node;
	const struct conf_node *conf;
};

static const struct conf_node *conf_of(const struct core *core, struct str name)
{
	const struct table *t = &core->tenant_confs;

	for (struct node *i = table_first(t, hash_bytes(core->seed, name)); i; i = table_next(i)) {
		const struct tenant_conf *c = OWNER(i, struct tenant_conf, node);

		if (str_eq(str_of(conf_text(c->conf, CO_TENANT_name)), name))
			return c->conf;
	}
	return NULL;
}

static void configure_tenant(const struct core *core, struct tenant *t)
{
	const struct conf_node *conf = conf_of(core, name_str(t->name));

	t->conf = conf;
	t->weight = conf ? (uint32_t)conf_num(conf, CO_TENANT_weight) : 1;
}

enum { TENANTS_CLASS, BULK, TRANSACTIONAL }; /* of the option `class` of a campaign */

static void configure_campaign(const struct core *core, struct campaign *c)
{
	const struct conf_node *tenant = conf_of(core, name_str(c->tenant->name)), *n = NULL;
	int64_t class = TENANTS_CLASS;

	c->conf = NULL;
	c->weight = 1;
	while (tenant && (n = conf_next(tenant, CONF_CAMPAIGN, n)))
		if (str_eq(str_of(conf_text(n, CO_CAMPAIGN_name)), name_str(c->name))) {
			c->conf = n;
			c->weight = (uint32_t)conf_num(n, CO_CAMPAIGN_weight);
			class = conf_num(n, CO_CAMPAIGN_class);
			break;
		}
	if (class == TENANTS_CLASS && tenant)
		class = conf_num(tenant, CO_TENANT_class) + BULK;
	campaign_class(c, class == TRANSACTIONAL ? CLASS_TRANSACTIONAL : CLASS_BULK);
}

struct sender_domain { /* of a tenant's sender-domains */
	struct node node;
	char *domain; /* owned, lower case */
	const struct conf_node *tenant;
};

static void lower(char *s)
{
	for (; *s; s++)
		if (*s >= 'A' && *s <= 'Z')
			*s = (char)(*s + 32);
}

static void learn_domains(struct core *core, const struct conf_node *tenant)
{
	const struct conf_value *v = conf_get(tenant, CO_TENANT_sender_domains);

	for (size_t i = 0; i < v->count; i++) {
		struct sender_domain *d = xcalloc(1, sizeof(*d));

		d->domain = xstrdup(v->texts[i]);
		lower(d->domain);
		d->tenant = tenant;
		table_add(
		    &core->sender_domains, &d->node, hash_bytes(core->seed, str_of(d->domain)));
	}
}

static const struct conf_node *owner_of(const struct core *core, struct str domain)
{
	const struct table *t = &core->sender_domains;

	for (; domain.n; (void)str_cut(&domain, '.'))
		for (struct node *i = table_first(t, hash_bytes(core->seed, domain)); i;
		     i = table_next(i))
			if (str_eq(str_of(OWNER(i, struct sender_domain, node)->domain), domain))
				return OWNER(i, struct sender_domain, node)->tenant;
	return NULL;
}

static void forget_confs(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->sender_domains))) {
		table_remove(&core->sender_domains, n);
		free(OWNER(n, struct sender_domain, node)->domain);
		free(OWNER(n, struct sender_domain, node));
	}

	while ((n = table_any(&core->tenant_confs))) {
		table_remove(&core->tenant_confs, n);
		free(OWNER(n, struct tenant_conf, node));
	}
}

void tenant_configure(struct core *core)
{
	const struct conf_node *conf = NULL;

	forget_confs(core);
	while ((conf = conf_next(core->conf->root, CONF_TENANT, conf))) {
		struct tenant_conf *c = xcalloc(1, sizeof(*c));

		c->conf = conf;
		table_add(&core->tenant_confs, &c->node,
		    hash_bytes(core->seed, str_of(conf_text(conf, CO_TENANT_name))));
		learn_domains(core, conf);
	}
	for (uint32_t i = 1; i <= core->tenant_slots.count; i++)
		if (core->tenant_slots.at[i])
			configure_tenant(core, core->tenant_slots.at[i]);
	for (uint32_t i = 1; i <= core->campaign_slots.count; i++)
		if (core->campaign_slots.at[i])
			configure_campaign(core, core->campaign_slots.at[i]);
}

/* ---- tenants ---- */

static struct tenant *find(const struct core *core, const struct name *name)
{
	uint64_t hash = hash_mix(core->seed, (uintptr_t)name);

	for (struct node *i = table_first(&core->tenants, hash); i; i = table_next(i))
		if (OWNER(i, struct tenant, node)->name == name)
			return OWNER(i, struct tenant, node);
	return NULL;
}

struct tenant *tenant_find(const struct core *core, struct str text)
{
	const struct name *name = name_find(core, text);

	return name ? find(core, name) : NULL;
}

/* A sender's domain, that stands for a tenant. No configured name begins so. */
static bool is_implicit(struct str name)
{
	return name.n && name.p[0] == '@';
}

struct str tenant_for(const struct core *core, struct str name)
{
	bool one_too_many = is_implicit(name) && core->implicit_tenants >= CORE_SENDER_DOMAINS &&
			    !tenant_find(core, name);

	return one_too_many ? STR("") : name;
}

struct str tenant_of_domain(const struct core *core, struct str domain)
{
	char text[NAME_ROOM];
	const struct conf_node *owner;
	const struct tenant *t;

	if (domain.n == 0 || domain.n + 2 > sizeof(text))
		return STR("");
	text[0] = '@';
	memcpy(text + 1, domain.p, domain.n);
	text[domain.n + 1] = 0;
	lower(text);
	owner = owner_of(core, (struct str){text + 1, domain.n});
	if (owner)
		return str_of(conf_text(owner, CO_TENANT_name));
	t = tenant_find(core, (struct str){text, domain.n + 1});
	return t ? name_str(t->name) : STR("");
}

struct tenant *tenant_get(struct core *core, struct name *name)
{
	struct tenant *t = find(core, name);

	if (t)
		return t;
	t = xcalloc(1, sizeof(*t));
	t->name = name_keep(name);
	configure_tenant(core, t);
	core->implicit_tenants += is_implicit(name_str(name));
	link_init(&t->shares);
	link_init(&t->lanes);
	link_init(&t->all);
	t->number = slots_take(&core->tenant_slots, t);
	table_add(&core->tenants, &t->node, hash_mix(core->seed, (uintptr_t)name));
	party_new_tenant(core, t);
	return t;
}

void tenant_drop(struct core *core, struct tenant *t)
{
	if (!link_alone(&t->shares) || !link_alone(&t->all))
		return;
	core->implicit_tenants -= is_implicit(name_str(t->name));
	budget_close(core, &t->budget);
	table_remove(&core->tenants, &t->node);
	slots_give(&core->tenant_slots, t->number);
	name_drop(core, t->name);
	free(t);
}

/* ---- campaigns ---- */

static uint64_t campaign_hash(const struct tenant *t, const struct name *name)
{
	return hash_mix((uintptr_t)t, (uintptr_t)name);
}

struct campaign *campaign_find(
    const struct core *core, const struct tenant *t, const struct name *name)
{
	uint64_t hash = campaign_hash(t, name);

	for (struct node *i = table_first(&core->campaigns, hash); i; i = table_next(i)) {
		struct campaign *c = OWNER(i, struct campaign, node);

		if (c->tenant == t && c->name == name)
			return c;
	}
	return NULL;
}

struct campaign *campaign_get(struct core *core, struct tenant *t, struct name *name)
{
	struct campaign *c = campaign_find(core, t, name);

	if (c)
		return c;
	if (name->n && t->campaigns >= CORE_CAMPAIGNS)
		return NULL;
	c = xcalloc(1, sizeof(*c));
	c->tenant = t;
	c->name = name_keep(name);
	t->campaigns += name->n != 0;
	link_init(&c->lanes);
	configure_campaign(core, c);
	link_append(&t->all, &c->in_tenant);
	c->number = slots_take(&core->campaign_slots, c);
	table_add(&core->campaigns, &c->node, campaign_hash(t, name));
	party_new_campaign(core, c);
	return c;
}

void campaign_drop(struct core *core, struct campaign *c)
{
	if (!link_alone(&c->lanes))
		return;
	budget_close(core, &c->budget);
	table_remove(&core->campaigns, &c->node);
	slots_give(&core->campaign_slots, c->number);
	link_remove(&c->in_tenant);
	c->tenant->campaigns -= c->name->n != 0;
	name_drop(core, c->name);
	free(c);
}

/* ---- counting ---- */

static void count(struct counts *tally, enum tally_event event)
{
	tally->delivered += event == TALLY_DELIVERED;
	tally->deferred += event == TALLY_DEFERRED;
	tally->bounced += event == TALLY_BOUNCED;
}

void tenant_tally(struct lane *lane, enum tally_event event)
{
	count(&lane->of->tally, event);
	count(&lane->of->tenant->tally, event);
}

void tenant_fini(struct core *core)
{
	forget_confs(core);
	table_fini(&core->tenant_confs);
	table_fini(&core->sender_domains);
	slots_fini(&core->tenant_slots);
	slots_fini(&core->campaign_slots);
}

/* ---- looking ---- */

static void view_counts(const struct counts *c, struct tenant_view *v)
{
	v->ready = c->n[JOB_READY];
	v->waiting = c->n[JOB_WAITING] + c->n[JOB_DOUBT];
	v->in_flight = c->n[JOB_IN_FLIGHT];
	v->held = c->n[JOB_SET_ASIDE];
	v->recipients = v->ready + v->waiting + v->in_flight + v->held;
	v->delivered = c->delivered;
	v->deferred = c->deferred;
	v->bounced = c->bounced;
}

static void view_tenant(const struct core *core, const struct tenant *t, struct tenant_view *v)
{
	*v = (struct tenant_view){.tenant = name_str(t->name),
	    .weight = t->weight,
	    .campaigns = t->campaigns,
	    .paused = hold_everywhere(core, CORE_TENANT, t->name, NULL)};
	view_counts(&t->tally, v);
	for (struct link *l = t->shares.next; l != &t->shares; l = l->next) {
		v->queues++;
		v->queues_paused += (OWNER(l, struct share, in_tenant)->parked & PARK_HOLD) != 0;
	}
}

static void view_campaign(const struct core *core, const struct campaign *c, struct tenant_view *v)
{
	*v = (struct tenant_view){.tenant = name_str(c->tenant->name),
	    .campaign = name_str(c->name),
	    .weight = c->weight,
	    .paused = hold_everywhere(core, CORE_TENANT, c->tenant->name, NULL) ||
		      hold_everywhere(core, CORE_CAMPAIGN, c->tenant->name, c->name)};
	view_counts(&c->tally, v);
	for (struct link *l = c->lanes.next; l != &c->lanes; l = l->next) {
		const struct lane *lane = OWNER(l, struct lane, in_campaign);

		v->queues++;
		v->queues_paused += ((lane->parked | lane->share->parked) & PARK_HOLD) != 0;
	}
}

static bool campaign_matches(const struct campaign *c, struct str tenant, struct str campaign)
{
	return core_glob(tenant, name_str(c->tenant->name)) && c->name->n &&
	       core_glob(campaign, name_str(c->name));
}

size_t core_tenants(const struct core *core, struct str pattern, struct core_cursor *cursor,
    struct tenant_view *out, size_t n)
{
	const char *slash = pattern.n ? memchr(pattern.p, '/', pattern.n) : NULL;
	const struct slots *slots = slash ? &core->campaign_slots : &core->tenant_slots;
	struct str head = pattern, rest = STR("");
	size_t found = 0;

	if (slash) {
		head.n = (size_t)(slash - pattern.p);
		rest = (struct str){slash + 1, pattern.n - head.n - 1};
	}
	while (found < n && cursor->a < slots->count) {
		const void *one = slots->at[++cursor->a];
		const struct tenant *t = slash ? NULL : one;
		const struct campaign *c = slash ? one : NULL;

		if (c && campaign_matches(c, head, rest))
			view_campaign(core, c, &out[found++]);
		else if (t && t->name->n && core_glob(pattern, name_str(t->name)))
			view_tenant(core, t, &out[found++]);
	}
	return found;
}
