/* SPDX-License-Identifier: ISC */
/*
 * Settings of destinations: providers and what they are recognised by, fixed routes, mail
 * addresses, names of lists, limits by MX host and address.
 *
 * What two providers claim alike is refused: which of them a domain belongs to would depend on the
 * order of files.
 */
#include "common/addr.h"
#include "common/conf_check.h"
#include "common/hosts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int check_mx_pattern(char out[260], const char *text)
{
	bool star = strncmp(text, "*.", 2) == 0;
	char name[DOMAIN_MAX + 1];
	if (domain_normalise(name, str_of(star ? text + 2 : text)) != 0)
		return -EINVAL;
	snprintf(out, 260, "%s%s", star ? "*." : "", name);
	return 0;
}

/* --- providers -------------------------------------------------------------------------------- */

/* 192.0.2.7/24 and 192.0.2.0/24 are one network. */
static int network_of(struct network *n, const char *text)
{
	if (network_parse(n, str_of(text)) != 0)
		return -EINVAL;
	for (unsigned bit = n->bits; bit < 128; bit++)
		n->bytes[bit / 8] = (uint8_t)(n->bytes[bit / 8] & ~(0x80u >> bit % 8));
	return 0;
}

struct claim { /* one thing that a provider is recognised by */
	char key[320];
	const struct conf_node *provider;
	enum conf_opt opt;
};
struct claims {
	struct claim *items; /* owned */
	size_t count;
};

static void claim(
    struct claims *all, const struct conf_node *provider, enum conf_opt opt, const char *key)
{
	if ((all->count & (all->count - 1)) == 0) {
		size_t cap = all->count == 0 ? 1 : all->count * 2;
		all->items = xrealloc(all->items, cap * sizeof(*all->items));
	}
	struct claim *c = &all->items[all->count++];
	*c = (struct claim){.provider = provider, .opt = opt};
	str_copy(c->key, sizeof(c->key), str_of(key));
}

static void claim_names(
    struct check *k, struct claims *all, const struct conf_node *n, enum conf_opt opt)
{
	const struct conf_value *v = conf_get(n, opt);
	for (size_t i = 0; i < v->count; i++) {
		char key[260];
		bool pattern = opt == CO_PROVIDER_mx;
		if (check_mx_pattern(key, v->texts[i]) != 0 || (!pattern && key[0] == '*'))
			check_value(k, n, opt,
			    pattern ? "\"%.60s\" is not a host name, or * and a name such as "
				      "\"*.google.com\""
				    : "\"%.60s\" is not a host name",
			    v->texts[i]);
		else
			claim(all, n, opt, key);
	}
}

static void claim_networks(struct claims *all, const struct conf_node *n)
{
	const struct conf_value *v = conf_get(n, CO_PROVIDER_address);
	for (size_t i = 0; i < v->count; i++) {
		struct network net;
		char key[80];
		size_t used = 0;
		if (network_of(&net, v->texts[i]) != 0)
			continue; /* the value's own parser has told */
		for (size_t b = 0; b < 16; b++)
			used +=
			    (size_t)snprintf(key + used, sizeof key - used, "%02x", net.bytes[b]);
		snprintf(key + used, sizeof key - used, "/%u", net.bits);
		claim(all, n, CO_PROVIDER_address, key);
	}
}

static int by_key(const void *va, const void *vb)
{
	const struct claim *a = va, *b = vb;
	int key = strcmp(a->key, b->key);
	if (key != 0)
		return key;
	if (a->provider->file != b->provider->file)
		return a->provider->file < b->provider->file ? -1 : 1;
	return (a->provider->line > b->provider->line) - (a->provider->line < b->provider->line);
}

static void tell_clashes(struct check *k, struct claims *all)
{
	char where[300];
	if (all->count > 1)
		qsort(all->items, all->count, sizeof(*all->items), by_key);
	for (size_t i = 1; i < all->count; i++) {
		const struct claim *a = &all->items[i - 1], *b = &all->items[i];
		if (strcmp(a->key, b->key) != 0)
			continue;
		bool network = b->opt == CO_PROVIDER_address;
		if (a->provider == b->provider)
			check_value(k, b->provider, b->opt, "%s stands twice",
			    network ? "a network" : b->key);
		else
			check_value(k, b->provider, b->opt,
			    "%s belongs to provider \"%s\" (%s) already",
			    network ? "a network" : b->key, check_name(a->provider),
			    check_where(k, a->provider, where));
	}
}

static void check_nested(struct check *k, const struct conf_node *parent)
{
	static const enum conf_opt by[] = {CO_PROVIDER_mx, CO_PROVIDER_mx_set, CO_PROVIDER_address};
	const struct conf_node *n = NULL;
	while ((n = conf_next(parent, CONF_PROVIDER, n)) != NULL) {
		if (check_name(n)[0] != 0 &&
		    check_find(k, k->conf->root, CONF_PROVIDER, check_name(n)) == NULL)
			check_value(k, n, CO_PROVIDER_name,
			    "no provider is named \"%s\": define it in the global providers, with "
			    "mx",
			    check_name(n));
		for (size_t i = 0; i < COUNT_OF(by); i++)
			if (check_given(n, by[i]) != NULL)
				check_value(k, n, by[i],
				    "belongs into the global entry of the provider: it is the same "
				    "for all virtual MTAs");
	}
}

void check_providers(struct check *k)
{
	struct claims all = {0};
	const struct conf_node *root = k->conf->root, *n = NULL;
	while ((n = conf_next(root, CONF_PROVIDER, n)) != NULL) {
		bool known = conf_get(n, CO_PROVIDER_mx)->count +
				 conf_get(n, CO_PROVIDER_mx_set)->count +
				 conf_get(n, CO_PROVIDER_address)->count >
			     0;
		if (!known && !check_touched(n, CO_PROVIDER_mx))
			check_node(k, n,
			    "provider \"%s\" needs mx, mx-set or address: by what else is it "
			    "known?",
			    check_name(n));
		claim_names(k, &all, n, CO_PROVIDER_mx);
		claim_names(k, &all, n, CO_PROVIDER_mx_set);
		claim_networks(&all, n);
	}
	tell_clashes(k, &all);
	free(all.items);
	while ((n = conf_next(root, CONF_VMTA, n)) != NULL)
		check_nested(k, n);
	while ((n = conf_next(root, CONF_POOL, n)) != NULL)
		check_nested(k, n);
}

/* --- one section ------------------------------------------------------------------------------ */

static void check_addresses(struct check *k, const struct conf_node *n, enum conf_opt opt)
{
	opt = check_queue_opt(n, opt);
	const struct conf_value *v = conf_get(n, opt);
	for (size_t i = 0; i < v->count; i++) {
		struct mailbox m;
		if (mailbox_parse(&m, str_of(v->texts[i]), false) != 0)
			check_value(k, n, opt, "\"%.60s\" is not a mail address", v->texts[i]);
	}
}

static void check_lists(struct check *k, const struct conf_node *n)
{
	enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_smtp_pattern_list);
	const struct conf_value *v = conf_get(n, opt);
	for (size_t i = 0; i < v->count; i++) {
		if (check_find(k, k->conf->root, CONF_PATTERN_LIST, v->texts[i]) == NULL)
			check_value(k, n, opt, "no list of smtp-pattern-lists is named \"%s\"",
			    v->texts[i]);
		for (size_t j = 0; j < i; j++)
			if (strcmp(v->texts[i], v->texts[j]) == 0)
				check_value(k, n, opt, "\"%s\" stands twice", v->texts[i]);
	}
}

static void check_hosts(struct check *k, const struct conf_node *n)
{
	struct hosts_entry entries[HOSTS_MAX];
	enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_smtp_hosts);
	char why[200];
	size_t count;
	const char *text = conf_text(n, opt);
	if (text[0] != 0 && hosts_parse(str_of(text), entries, &count, why) != 0)
		check_value(k, n, opt, "%s", why);
}

/* Domains that are queued to each other, by the global settings; a virtual MTA's own may differ. */
static void check_queue_to(struct check *k, const struct conf_node *n)
{
	enum { CHAIN_MAX = 64 };
	enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_queue_to);
	const char *name = check_name(n), *target = conf_text(n, opt);
	if (target[0] == 0)
		return;
	for (int i = 0; i < CHAIN_MAX; i++) {
		if (n->type == CONF_DOMAIN && strcmp(target, name) == 0) {
			check_value(k, n, opt,
			    i == 0 ? "\"%s\" is this destination itself"
				   : "the mail of \"%s\" comes back to it",
			    name);
			return;
		}
		const struct conf_node *next = check_find(k, n->parent, CONF_DOMAIN, target);
		if (next == NULL)
			next = check_find(k, k->conf->root, CONF_DOMAIN, target);
		if (next == NULL || conf_text(next, CO_DOMAIN_queue_to)[0] == 0)
			return;
		target = conf_text(next, CO_DOMAIN_queue_to);
	}
}

/* It would be looked for as the budget of a domain named so, and limit nothing. */
static void check_budget(struct check *k, const struct conf_node *n)
{
	const struct conf_node *budget = conf_next(n, CONF_BUDGET, NULL);
	if (budget != NULL && strcmp(check_name(n), "*") == 0)
		check_node(k, budget,
		    "budget: \"*\" is no destination to share one; give it to a domain, provider, "
		    "virtual MTA, pool or source, or set total-max-smtp-out");
}

static void check_queue(struct check *k, const struct conf_node *n)
{
	check_budget(k, n);
	check_addresses(k, n, CO_DOMAIN_backoff_notify);
	check_addresses(k, n, CO_DOMAIN_disabled_source_ip_notify);
	check_lists(k, n);
	check_hosts(k, n);
	check_queue_to(k, n);
}

/* --- limits by host and address -----------------------------------------------------------------
 */

static void check_mx_limits(struct check *k)
{
	const struct conf_node *n = NULL, *m;
	while ((n = conf_next(k->conf->root, CONF_MX_LIMIT, n)) != NULL) {
		char mine[260], other[260], where[300];
		const char *text = conf_text(n, CO_MX_LIMIT_mx);
		if (text[0] == 0)
			continue;
		if (check_mx_pattern(mine, text) != 0) {
			check_value(k, n, CO_MX_LIMIT_mx,
			    "\"%.60s\" is not a host name, or * and a name", text);
			continue;
		}
		for (m = conf_next(k->conf->root, CONF_MX_LIMIT, NULL); m != n;
		     m = conf_next(k->conf->root, CONF_MX_LIMIT, m))
			if (check_mx_pattern(other, conf_text(m, CO_MX_LIMIT_mx)) == 0 &&
			    strcmp(mine, other) == 0) {
				check_node(k, n, "this mx stands twice, the first time in %s",
				    check_where(k, m, where));
				break;
			}
	}
}

static void check_ip_limits(struct check *k)
{
	const struct conf_node *n = NULL, *m;
	while ((n = conf_next(k->conf->root, CONF_IP_LIMIT, n)) != NULL) {
		struct network mine, other;
		char where[300];
		const char *text = conf_text(n, CO_IP_LIMIT_ip);
		if (text[0] == 0)
			continue;
		if (network_of(&mine, text) != 0) {
			check_value(k, n, CO_IP_LIMIT_ip,
			    "\"%.60s\" is not an address or a network such as \"192.0.2.0/24\"",
			    text);
			continue;
		}
		for (m = conf_next(k->conf->root, CONF_IP_LIMIT, NULL); m != n;
		     m = conf_next(k->conf->root, CONF_IP_LIMIT, m))
			if (network_of(&other, conf_text(m, CO_IP_LIMIT_ip)) == 0 &&
			    mine.bits == other.bits &&
			    memcmp(mine.bytes, other.bytes, sizeof(mine.bytes)) == 0) {
				check_node(k, n, "this ip stands twice, the first time in %s",
				    check_where(k, m, where));
				break;
			}
	}
}

static void check_blocklists(struct check *k)
{
	enum { ZONE_MAX = 180 }; /* beside 32 nibbles of an IPv6 address */
	const struct conf_value *v = conf_get(k->conf->root, CO_GLOBAL_dns_blocklists);
	char name[DOMAIN_MAX + 1];
	for (size_t i = 0; i < v->count; i++)
		if (domain_normalise(name, str_of(v->texts[i])) != 0 || strlen(name) > ZONE_MAX)
			check_value(k, k->conf->root, CO_GLOBAL_dns_blocklists,
			    "\"%.60s\" is not a domain name", v->texts[i]);
}

void check_queues(struct check *k)
{
	check_queue_sections(k, check_queue);
	check_mx_limits(k);
	check_ip_limits(k);
	check_blocklists(k);
}
