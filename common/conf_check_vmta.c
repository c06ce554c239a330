/* SPDX-License-Identifier: ISC */
/*
 * Virtual MTAs, pools, sources and tenants: every name that one of them says must be another's, and
 * mail that is sent on must arrive somewhere.
 *
 * Loops of reroutes are looked for as qmgr would walk them: for each destination that any section
 * names, from each virtual MTA, by the rules of precedence. Only what holds always counts: a target
 * that is a pool of several, and anything that depends on a mode, is qmgr's to judge when it
 * happens.
 */
#include "common/addr.h"
#include "common/conf_check.h"
#include <stdlib.h>

enum {
	CHAIN_MAX = 64,	    /* virtual MTAs on the way of a reroute; then it is a loop */
	WALKS_MAX = 200000, /* destinations times virtual MTAs that are walked: bounds a check */
};

static void name_exists(struct check *k, const struct conf_node *n, enum conf_opt opt)
{
	const char *name = conf_text(n, opt);
	if (name[0] != 0 && check_sender(k, name) == NULL)
		check_value(k, n, opt, "no virtual MTA or pool is named \"%s\"", name);
}

static void names_exist(struct check *k, const struct conf_node *n, enum conf_opt opt)
{
	const struct conf_value *v = conf_get(n, opt);
	for (size_t i = 0; i < v->count; i++)
		if (check_sender(k, v->texts[i]) == NULL)
			check_value(
			    k, n, opt, "no virtual MTA or pool is named \"%s\"", v->texts[i]);
}

/* --- pools ------------------------------------------------------------------------------------ */

static bool has_settings(const struct conf_node *pool)
{
	return conf_next(pool, CONF_DOMAIN, NULL) != NULL ||
	       conf_next(pool, CONF_PROVIDER, NULL) != NULL;
}

static const struct conf_node *member_of(const struct conf_node *pool, const char *vmta)
{
	const struct conf_node *m = NULL;
	while ((m = conf_next(pool, CONF_MEMBER, m)) != NULL)
		if (strcmp(conf_text(m, CO_MEMBER_virtual_mta), vmta) == 0)
			return m;
	return NULL;
}

/* A pool with settings that has this virtual MTA, after `pool`. */
static const struct conf_node *other_pool(
    const struct check *k, const struct conf_node *pool, const char *vmta)
{
	for (size_t i = 0; i < k->pool_count; i++) {
		const struct conf_node *p = k->pools[i];
		bool later = pool == NULL || p->index > pool->index;
		if (later && has_settings(p) && member_of(p, vmta) != NULL)
			return p;
	}
	return NULL;
}

static void check_pool(struct check *k, const struct conf_node *pool)
{
	const struct conf_node *m = NULL, *vmta, *other;
	char where[300];
	vmta = check_find(k, k->conf->root, CONF_VMTA, check_name(pool));
	if (vmta != NULL)
		check_value(k, pool, CO_POOL_name,
		    "\"%s\" is a virtual MTA, too (%s); pools and virtual MTAs share one name "
		    "space",
		    check_name(pool), check_where(k, vmta, where));
	if (conf_next(pool, CONF_MEMBER, NULL) == NULL)
		check_node(k, pool, "members: a pool needs at least one");
	while ((m = conf_next(pool, CONF_MEMBER, m)) != NULL) {
		const char *name = conf_text(m, CO_MEMBER_virtual_mta);
		if (name[0] == 0)
			continue; /* told as missing */
		if (check_find(k, k->conf->root, CONF_VMTA, name) == NULL)
			check_value(k, m, CO_MEMBER_virtual_mta,
			    check_sender(k, name) != NULL
				? "\"%s\" is a pool; members are virtual MTAs"
				: "no virtual MTA is named \"%s\"",
			    name);
		if (member_of(pool, name) != m)
			check_value(
			    k, m, CO_MEMBER_virtual_mta, "\"%s\" is a member already", name);
		other = has_settings(pool) ? other_pool(k, pool, name) : NULL;
		if (other != NULL)
			check_value(k, m, CO_MEMBER_virtual_mta,
			    "\"%s\" is in pool \"%s\" (%s) as well, and both have settings for "
			    "domains or providers: which ones hold?",
			    name, check_name(other), check_where(k, other, where));
	}
}

/* --- reroutes --------------------------------------------------------------------------------- */

struct reroute { /* what holds for a destination from a virtual MTA */
	const struct conf_node *section;
	const char *target;
};

/* The pool with settings that has this virtual MTA: one at most, or that is told as a problem. */
static const struct conf_node *pool_of(const struct check *k, const char *vmta)
{
	return other_pool(k, NULL, vmta);
}

static bool reroute_in(const struct check *k, const struct conf_node *parent,
    enum conf_section_type type, const char *name, struct reroute *out)
{
	const struct conf_node *n = parent == NULL ? NULL : check_find(k, parent, type, name);
	if (n == NULL)
		return false;
	enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_reroute_to_virtual_mta);
	if (check_given(n, opt) == NULL)
		return false;
	*out = (struct reroute){n, conf_text(n, opt)};
	return true;
}

/* By precedence: the destination first, then the sender. */
static bool reroute_of(const struct check *k, const struct conf_node *vmta,
    enum conf_section_type type, const char *name, struct reroute *out)
{
	const struct conf_node *levels[] = {vmta, pool_of(k, check_name(vmta)), k->conf->root};
	for (size_t i = 0; i < COUNT_OF(levels); i++)
		if (reroute_in(k, levels[i], type, name, out))
			return out->target[0] != 0;
	for (size_t i = 0; i < COUNT_OF(levels); i++)
		if (reroute_in(k, levels[i], CONF_DOMAIN, "*", out))
			return out->target[0] != 0;
	return false;
}

/* The one virtual MTA that a target stands for, or NULL: unknown, or a pool of several. */
static const struct conf_node *only_target(const struct check *k, const char *name)
{
	const struct conf_node *n = check_sender(k, name), *m;
	if (n == NULL || n->type == CONF_VMTA)
		return n;
	m = conf_next(n, CONF_MEMBER, NULL);
	if (m == NULL || conf_next(n, CONF_MEMBER, m) != NULL)
		return NULL;
	return check_find(k, k->conf->root, CONF_VMTA, conf_text(m, CO_MEMBER_virtual_mta));
}

/* Follows the reroutes of one destination. A target that is the virtual MTA itself ends the way; it
 * is a problem only where that virtual MTA's own section says it (check_self). */
static void walk_reroutes(
    struct check *k, const struct conf_node *start, enum conf_section_type type, const char *name)
{
	const struct conf_node *at = start, *next;
	struct reroute first = {0}, r;
	for (int i = 0; i < CHAIN_MAX && reroute_of(k, at, type, name, &r); i++) {
		if (i == 0)
			first = r;
		next = only_target(k, r.target);
		if (next == NULL || next == at)
			return;
		at = next;
		if (at == start) {
			check_value(k, first.section,
			    check_queue_opt(first.section, CO_DOMAIN_reroute_to_virtual_mta),
			    "the mail of virtual MTA \"%s\" for %s comes back to it by way of "
			    "\"%s\"",
			    check_name(start), strcmp(name, "*") == 0 ? "any destination" : name,
			    first.target);
			return;
		}
	}
}

struct walk_state { /* destinations that any section reroutes, found once */
	const struct conf_node **sections;
	size_t count;
};

static void gather(struct walk_state *w, const struct conf_node *parent)
{
	for (size_t i = 0; i < parent->child_count; i++) {
		const struct conf_node *n = parent->children[i];
		if (n->type != CONF_DOMAIN && n->type != CONF_PROVIDER)
			continue;
		enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_reroute_to_virtual_mta);
		if (check_given(n, opt) == NULL || check_name(n)[0] == 0)
			continue;
		if (w->count % 64 == 0)
			w->sections = xrealloc(w->sections, (w->count + 64) * sizeof(*w->sections));
		w->sections[w->count++] = n;
	}
}

static int by_destination(const void *a, const void *b)
{
	const struct conf_node *x = *(const struct conf_node *const *)a;
	const struct conf_node *y = *(const struct conf_node *const *)b;
	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	return strcmp(check_name(x), check_name(y));
}

static void check_loops(struct check *k)
{
	struct walk_state w = {0};
	size_t walks = 0;
	gather(&w, k->conf->root);
	for (size_t i = 0; i < k->vmta_count; i++)
		gather(&w, k->vmtas[i]);
	for (size_t i = 0; i < k->pool_count; i++)
		gather(&w, k->pools[i]);
	if (w.count > 0)
		qsort(w.sections, w.count, sizeof(*w.sections), by_destination);
	for (size_t i = 0; i < w.count; i++) {
		if (i > 0 && by_destination(&w.sections[i - 1], &w.sections[i]) == 0)
			continue;
		for (size_t v = 0; v < k->vmta_count && walks++ < WALKS_MAX; v++)
			walk_reroutes(
			    k, k->vmtas[v], w.sections[i]->type, check_name(w.sections[i]));
	}
	free(w.sections);
}

static void self_target(struct check *k, const struct conf_node *n, enum conf_opt opt)
{
	opt = check_queue_opt(n, opt);
	const struct conf_value *v = check_given(n, opt);
	if (v != NULL && v->text != NULL && n->parent->type == CONF_VMTA &&
	    only_target(k, v->text) == n->parent)
		check_value(k, n, opt, "\"%s\" leads to this virtual MTA itself", v->text);
}

static void check_reroutes(struct check *k, const struct conf_node *n)
{
	static const enum conf_opt opts[] = {CO_DOMAIN_backoff_reroute_to_virtual_mta,
	    CO_DOMAIN_backoff_reroute_to_vmta, CO_DOMAIN_reroute_to_virtual_mta};
	for (size_t i = 0; i < COUNT_OF(opts); i++) {
		name_exists(k, n, check_queue_opt(n, opts[i]));
		self_target(k, n, opts[i]);
	}
	enum conf_opt alias = check_queue_opt(n, CO_DOMAIN_backoff_reroute_to_vmta);
	if (check_given(n, alias) != NULL &&
	    check_given(n, check_queue_opt(n, CO_DOMAIN_backoff_reroute_to_virtual_mta)) != NULL)
		check_value(k, n, alias,
		    "backoff-reroute-to-virtual-mta stands beside it, which is "
		    "the same option");
}

/* --- sources ---------------------------------------------------------------------------------- */

static void check_warmup(struct check *k, const struct conf_node *vmta)
{
	const struct conf_node *s = NULL;
	while ((s = conf_next(vmta, CONF_SOURCE, s)) != NULL) {
		const struct conf_node *w = conf_next(s, CONF_WARMUP, NULL);
		if (w == NULL)
			continue;
		name_exists(k, w, CO_WARMUP_overflow);
		if (only_target(k, conf_text(w, CO_WARMUP_overflow)) == vmta)
			check_value(k, w, CO_WARMUP_overflow,
			    "\"%s\" leads to this virtual MTA itself",
			    conf_text(w, CO_WARMUP_overflow));
	}
}

void check_senders(struct check *k)
{
	const struct conf_node *root = k->conf->root, *n = NULL;
	name_exists(k, root, CO_GLOBAL_default_virtual_mta);
	while ((n = conf_next(root, CONF_LISTENER, n)) != NULL)
		name_exists(k, n, CO_LISTENER_virtual_mta);
	while ((n = conf_next(root, CONF_POOL, n)) != NULL)
		check_pool(k, n);
	while ((n = conf_next(root, CONF_VMTA, n)) != NULL)
		check_warmup(k, n);
	check_queue_sections(k, check_reroutes);
	check_loops(k);
}

/* --- tenants ---------------------------------------------------------------------------------- */

static void check_at(struct check *k, const struct conf_node *at)
{
	const char *provider = conf_text(at, CO_TENANT_AT_provider);
	const char *domain = conf_text(at, CO_TENANT_AT_domain);
	if ((provider[0] == 0) == (domain[0] == 0))
		check_node(k, at, "at: give either provider or domain");
	if (provider[0] != 0 && check_find(k, k->conf->root, CONF_PROVIDER, provider) == NULL)
		check_value(k, at, CO_TENANT_AT_provider, "no provider is named \"%s\"", provider);
	if (domain[0] != 0 && check_find(k, k->conf->root, CONF_DOMAIN, domain) == NULL)
		check_value(k, at, CO_TENANT_AT_domain,
		    "\"%s\" is not named in domains, so it has no destination of its own", domain);
}

static void check_at_twice(struct check *k, const struct conf_node *t, const struct conf_node *at)
{
	static const enum conf_opt by[] = {CO_TENANT_AT_provider, CO_TENANT_AT_domain};
	for (size_t i = 0; i < COUNT_OF(by); i++) {
		const struct conf_node *m = conf_next(t, CONF_TENANT_AT, NULL);
		const char *name = conf_text(at, by[i]);
		while (m != at && strcmp(conf_text(m, by[i]), name) != 0)
			m = conf_next(t, CONF_TENANT_AT, m);
		if (m != at && name[0] != 0)
			check_value(k, at, by[i], "\"%s\" stands twice, the first time in line %u",
			    name, m->line);
	}
}

static bool field_name(const char *s)
{
	size_t n = strlen(s);
	for (size_t i = 0; i < n; i++)
		if (s[i] <= ' ' || s[i] > '~' || s[i] == ':')
			return false;
	return n > 0;
}

/* smtpd looks at each header once: it knows so many names. */
static void check_match_headers(struct check *k)
{
	enum { HEADERS_MAX = 16 };
	const char *seen[HEADERS_MAX];
	size_t count = 0;
	const struct conf_node *t = NULL;
	while ((t = conf_next(k->conf->root, CONF_TENANT, t)) != NULL) {
		const struct conf_node *m = conf_next(t, CONF_TENANT_MATCH, NULL);
		const char *name = m == NULL ? "" : conf_text(m, CO_TENANT_MATCH_header);
		size_t i = 0;
		if (name[0] == 0)
			continue;
		if (!field_name(name))
			check_value(k, m, CO_TENANT_MATCH_header,
			    "\"%.60s\" is not the name of a header field", name);
		while (i < count && !str_eq_nocase(str_of(seen[i]), str_of(name)))
			i++;
		if (i < count)
			continue;
		if (count < HEADERS_MAX)
			seen[count++] = name;
		else
			check_value(k, m, CO_TENANT_MATCH_header,
			    "more than %d different header names in the matches of tenants",
			    HEADERS_MAX);
	}
}

static void check_tenant(struct check *k, const struct conf_node *t)
{
	const struct conf_value *v = conf_get(t, CO_TENANT_sender_domains);
	const struct conf_node *at = NULL;
	char name[DOMAIN_MAX + 1];
	name_exists(k, t, CO_TENANT_virtual_mta);
	names_exist(k, t, CO_TENANT_virtual_mtas);
	for (size_t i = 0; i < v->count; i++)
		if (domain_normalise(name, str_of(v->texts[i])) != 0)
			check_value(k, t, CO_TENANT_sender_domains,
			    "\"%.60s\" is not a domain name", v->texts[i]);
	while ((at = conf_next(t, CONF_TENANT_AT, at)) != NULL) {
		check_at(k, at);
		check_at_twice(k, t, at);
	}
}

void check_tenants(struct check *k)
{
	const struct conf_node *root = k->conf->root, *n = NULL;
	check_match_headers(k);
	while ((n = conf_next(root, CONF_TENANT, n)) != NULL)
		check_tenant(k, n);
	while ((n = conf_next(root, CONF_LISTENER, n)) != NULL) {
		const char *name = conf_text(n, CO_LISTENER_tenant);
		if (name[0] != 0 && check_find(k, root, CONF_TENANT, name) == NULL)
			check_value(k, n, CO_LISTENER_tenant, "no tenant is named \"%s\"", name);
	}
}
