/* SPDX-License-Identifier: ISC */
/*
 * Fixed routes: smtp-hosts as a list of hosts with addresses.
 *
 * Each host of the text is one question to routes.c: a name's addresses, or with lookup-mx: a
 * domain's whole route. When all are answered the parts are put together: a level of the text is a
 * preference, equals are used in turn; inside a level the MX hosts of one lookup-mx: keep their own
 * order behind its best ones.
 *
 * A fixed route never makes mail bounce: where it leads nowhere, or back to a listener of ours,
 * that is the operator's mistake, so the answer is a temporary failure that says what is wrong. For
 * the same reason refuse-private-mx does not hold for hosts that he named; it does for what
 * lookup-mx: finds, since that is a stranger's.
 */
#include "resolver/fixed.h"
#include "common/hosts.h"
#include "resolver/cache.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

/* Preferences between two levels: a domain has no more MX hosts than this. */
enum { LEVEL_STEP = ROUTE_HOSTS_MAX };

struct part {
	struct route_wait wait;
	struct fixed_run *run;
	struct hosts_entry entry;
	struct mx_route route; /* its own copy, once told */
};
struct fixed_run {
	struct table_node node; /* first */
	struct fixed_routes *all;
	struct fixed_run *next, *prev;
	struct fixed_wait *waits, **waits_end;
	char *spec; /* owned */
	struct part *parts;
	size_t part_count, open;
};
struct fixed_routes {
	struct routes *routes;
	const struct mx_rules *rules;
	struct table table;
	struct fixed_run *first;
};

static void run_free(struct fixed_run *run)
{
	struct fixed_routes *all = run->all;
	while (run->waits != NULL) {
		struct fixed_wait *w = run->waits;
		run->waits = w->next;
		w->run = NULL;
	}
	for (size_t i = 0; i < run->part_count; i++) {
		routes_cancel(&run->parts[i].wait);
		mx_route_fini(&run->parts[i].route);
	}
	*(run->prev != NULL ? &run->prev->next : &all->first) = run->next;
	if (run->next != NULL)
		run->next->prev = run->prev;
	table_remove(&all->table, &run->node);
	free(run->parts);
	free(run->spec);
	free(run);
}

/* --- putting together ------------------------------------------------------------------------ */

/* How far a host stands behind the best of its own route: 0, 1, … for each worse preference. */
static uint16_t rank_in(const struct mx_route *route, size_t host)
{
	uint16_t rank = 0;
	for (size_t i = 1; i <= host; i++)
		rank = (uint16_t)(rank +
				  (route->hosts[i].preference != route->hosts[i - 1].preference));
	return rank;
}

static bool leads_back(const struct mx_rules *rules, const struct route_host *h)
{
	uint16_t port = h->port != 0 ? h->port : rules->port;
	for (size_t i = 0; i < h->address_count; i++)
		if (mx_is_listener(rules, &h->address[i], port))
			return true;
	return false;
}

struct sum { /* what was found on the way, for the text of a failure */
	bool self;
	const char *text;
};

static void add_part(
    const struct fixed_run *run, const struct part *part, struct mx_route *out, struct sum *sum)
{
	if (part->route.class != ROUTE_OK && sum->text == NULL)
		sum->text = part->route.text;
	if (part->route.ttl_s < out->ttl_s)
		out->ttl_s = part->route.ttl_s;
	for (size_t i = 0; i < part->route.host_count && out->host_count < ROUTE_HOSTS_MAX; i++) {
		struct route_host h = part->route.hosts[i];
		h.port = part->entry.port;
		h.preference =
		    (uint16_t)(part->entry.level * LEVEL_STEP + rank_in(&part->route, i));
		if (leads_back(run->all->rules, &h))
			sum->self = true;
		else
			out->hosts[out->host_count++] = h;
	}
}

static int host_order(const void *va, const void *vb)
{
	const struct route_host *a = va, *b = vb;
	if (a->preference != b->preference)
		return a->preference < b->preference ? -1 : 1;
	int name = strcmp(a->name, b->name);
	return name != 0 ? name : (a->port > b->port) - (a->port < b->port);
}

static void combine(const struct fixed_run *run, struct mx_route *out)
{
	struct sum sum = {0};
	*out = (struct mx_route){.class = ROUTE_OK, .ttl_s = CACHE_TTL_CEILING_S};
	out->hosts = xcalloc(ROUTE_HOSTS_MAX, sizeof(*out->hosts));
	for (size_t i = 0; i < run->part_count; i++)
		add_part(run, &run->parts[i], out, &sum);
	if (out->host_count > 0) {
		qsort(out->hosts, out->host_count, sizeof(*out->hosts), host_order);
		snprintf(out->text, sizeof(out->text), "smtp-hosts");
		return;
	}
	out->class = ROUTE_TEMPORARY;
	snprintf(out->text, sizeof(out->text), "smtp-hosts: %.380s",
	    sum.self	       ? "the mail would come back to a listener of this host"
	    : sum.text != NULL ? sum.text
			       : "no host has an address");
}

static void finish(struct fixed_run *run)
{
	struct mx_route route;
	combine(run, &route);
	while (run->waits != NULL) {
		struct fixed_wait *w = run->waits;
		run->waits = w->next;
		w->run = NULL;
		w->fn(w->arg, &route);
	}
	mx_route_fini(&route);
	run_free(run);
}

/* --- asking ----------------------------------------------------------------------------------- */

static void on_part(void *arg, const struct mx_route *route)
{
	struct part *part = arg;
	part->route = *route;
	part->route.hosts = xcalloc(route->host_count + 1, sizeof(*route->hosts));
	if (route->host_count > 0)
		memcpy(part->route.hosts, route->hosts, route->host_count * sizeof(*route->hosts));
	if (--part->run->open == 0)
		finish(part->run);
}

/* An address needs no question. */
static void literal_part(struct part *part)
{
	struct mx_route *r = &part->route;
	*r = (struct mx_route){.class = ROUTE_OK, .ttl_s = CACHE_TTL_CEILING_S, .host_count = 1};
	r->hosts = xcalloc(1, sizeof(*r->hosts));
	str_copy(r->hosts[0].name, sizeof(r->hosts[0].name), str_of(part->entry.name));
	r->hosts[0].address[0] = part->entry.address;
	r->hosts[0].address_count = mx_address_unusable(&part->entry.address) ? 0 : 1;
	if (r->hosts[0].address_count > 0)
		return;
	r->host_count = 0;
	r->class = ROUTE_NO_HOST;
	snprintf(r->text, sizeof(r->text), "%s is not an address to deliver to", part->entry.name);
}

static void ask_parts(struct fixed_run *run)
{
	struct routes *routes = run->all->routes;
	run->open = run->part_count + 1; /* held: answers may come from inside */
	for (size_t i = 0; i < run->part_count; i++) {
		struct part *part = &run->parts[i];
		struct str name = str_of(part->entry.name);
		part->run = run;
		part->wait = (struct route_wait){.fn = on_part, .arg = part};
		if (part->entry.kind == HOSTS_NAME) {
			routes_ask_host(routes, name, &part->wait);
		} else if (part->entry.kind == HOSTS_LOOKUP_MX) {
			routes_ask(routes, name, &part->wait);
		} else {
			literal_part(part);
			run->open--;
		}
	}
	if (--run->open == 0)
		finish(run);
}

static void tell_failure(struct fixed_wait *wait, const char *why)
{
	struct mx_route route = {.class = ROUTE_TEMPORARY, .ttl_s = CACHE_TTL_FLOOR_S};
	snprintf(route.text, sizeof(route.text), "smtp-hosts: %.300s", why);
	wait->fn(wait->arg, &route);
}

static struct fixed_run *run_new(
    struct fixed_routes *all, char *spec, const struct hosts_entry *entries, size_t n)
{
	struct fixed_run *run = xcalloc(1, sizeof(*run));
	run->all = all;
	run->waits_end = &run->waits;
	run->spec = spec;
	run->parts = xcalloc(n, sizeof(*run->parts));
	run->part_count = n;
	for (size_t i = 0; i < n; i++)
		run->parts[i].entry = entries[i];
	run->node.name = run->spec;
	table_insert(&all->table, &run->node);
	run->next = all->first;
	if (run->next != NULL)
		run->next->prev = run;
	all->first = run;
	return run;
}

void fixed_ask(struct fixed_routes *all, struct str spec, struct fixed_wait *wait)
{
	struct hosts_entry entries[HOSTS_MAX];
	char why[200], *key = str_dup(spec);
	size_t n;
	struct fixed_run *run = (struct fixed_run *)(void *)table_find(&all->table, key, 0);
	bool fresh = run == NULL;
	if (fresh && all->table.count >= FIXED_MAX) {
		tell_failure(wait, "the resolver is overloaded");
		free(key);
		return;
	}
	if (fresh && hosts_parse(spec, entries, &n, why) != 0) {
		tell_failure(wait, why);
		free(key);
		return;
	}
	if (fresh)
		run = run_new(all, key, entries, n);
	else
		free(key);
	wait->next = NULL;
	wait->run = run;
	*run->waits_end = wait;
	run->waits_end = &wait->next;
	if (fresh)
		ask_parts(run);
}

void fixed_cancel(struct fixed_wait *wait)
{
	struct fixed_run *run = wait->run;
	if (run == NULL)
		return;
	struct fixed_wait **at = &run->waits;
	while (*at != wait)
		at = &(*at)->next;
	*at = wait->next;
	if (run->waits_end == &wait->next)
		run->waits_end = at;
	wait->run = NULL;
}

struct fixed_routes *fixed_new(struct routes *routes)
{
	static const struct mx_rules no_rules;
	uint8_t key[16];
	struct fixed_routes *f = xcalloc(1, sizeof(*f));
	must(getrandom(key, sizeof(key), 0) == (ssize_t)sizeof(key));
	f->routes = routes;
	f->rules = &no_rules;
	table_init(&f->table, key);
	return f;
}

void fixed_free(struct fixed_routes **fixed)
{
	struct fixed_routes *f = *fixed;
	*fixed = NULL;
	if (f == NULL)
		return;
	while (f->first != NULL)
		run_free(f->first);
	table_fini(&f->table);
	free(f);
}

void fixed_use(struct fixed_routes *f, const struct mx_rules *rules)
{
	f->rules = rules;
}
