/* SPDX-License-Identifier: ISC */
/*
 * Hints: what is allowed and probably not meant. They stop nothing; `postern-master -n` prints
 * them, and master at a start. Each is about a mistake that operators of such systems really make:
 * a limit that loses to a more specific one, that multiplies by the number of virtual MTAs, a
 * backoff that is no backoff, a pattern that takes one bad recipient for a block, an address that
 * the machine has not.
 */
#include "common/addr.h"
#include "common/conf_check.h"
#include "common/match.h"
#include "common/rule.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { HINTS_MAX = 200 /* a person reads them */ };
struct hints {
	struct check check;
	struct buf *out;
	size_t count;
	bool multiplied; /* told once */
};

static void PRINTF_LIKE(3, 4) hint(struct hints *h, const char *origin, const char *fmt, ...)
{
	char text[700];
	va_list ap;
	if (h->count++ >= HINTS_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	buf_printf(h->out, "%s: %s\n", origin, text);
}

static void PRINTF_LIKE(4, 5)
    hint_value(struct hints *h, const struct conf_node *n, enum conf_opt opt, const char *fmt, ...)
{
	char origin[512], text[600];
	const struct conf_value *v = conf_get(n, opt);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (v->set)
		conf_origin(h->check.conf, v, origin);
	else
		check_where(&h->check, n, origin);
	hint(h, origin, "%s", text);
}

/* --- precedence ---------------------------------------------------------------------------------
 */

/* The first section below `parent` that beats what "*" of another says for opt, and how many do. */
static const struct conf_node *winner_in(
    const struct conf_node *parent, enum conf_opt opt, size_t *count)
{
	const struct conf_node *first = NULL;
	*count = 0;
	for (size_t i = 0; i < parent->child_count; i++) {
		const struct conf_node *n = parent->children[i];
		if ((n->type != CONF_DOMAIN && n->type != CONF_PROVIDER) ||
		    strcmp(check_name(n), "*") == 0 ||
		    check_given(n, check_queue_opt(n, opt)) == NULL)
			continue;
		if (first == NULL)
			first = n;
		++*count;
	}
	return first;
}

/* The more specific destination wins over the more specific sender. */
static void hint_loses(struct hints *h, const struct conf_node *any, const struct conf_node *to)
{
	size_t first = CO_DOMAIN_max_smtp_out;
	size_t end = conf_first_opt(CONF_DOMAIN) + conf_opts_of(CONF_DOMAIN);
	for (size_t i = first; i < end; i++) {
		char more[40] = "", winner[512];
		size_t count;
		enum conf_opt opt = (enum conf_opt)i;
		if (check_given(any, opt) == NULL)
			continue;
		const struct conf_node *n = winner_in(to, opt, &count);
		if (n == NULL)
			continue;
		conf_origin(h->check.conf, conf_get(n, check_queue_opt(n, opt)), winner);
		if (count > 1)
			snprintf(more, sizeof more, ", and %zu more", count - 1);
		hint_value(h, any, opt, "%s does not hold for %s%s: %s is more specific%s",
		    conf_opts[i].key, n->type == CONF_PROVIDER ? "provider " : "", check_name(n),
		    winner, more);
	}
}

static bool has_member(const struct conf_node *pool, const struct conf_node *vmta)
{
	const struct conf_node *m = NULL;
	while ((m = conf_next(pool, CONF_MEMBER, m)) != NULL)
		if (strcmp(conf_text(m, CO_MEMBER_virtual_mta), check_name(vmta)) == 0)
			return true;
	return false;
}

static void hint_precedence(struct hints *h)
{
	const struct conf_node *root = h->check.conf->root, *n = NULL, *pool = NULL, *any;
	while ((n = conf_next(root, CONF_VMTA, n)) != NULL) {
		any = check_find(&h->check, n, CONF_DOMAIN, "*");
		if (any == NULL)
			continue;
		hint_loses(h, any, root);
		while ((pool = conf_next(root, CONF_POOL, pool)) != NULL)
			if (has_member(pool, n))
				hint_loses(h, any, pool);
	}
	while ((n = conf_next(root, CONF_POOL, n)) != NULL) {
		any = check_find(&h->check, n, CONF_DOMAIN, "*");
		if (any != NULL)
			hint_loses(h, any, root);
	}
}

/* --- settings of queues -------------------------------------------------------------------------
 */

static int64_t num_of(const struct conf_node *n, enum conf_opt opt)
{
	return conf_num(n, check_queue_opt(n, opt));
}

/* Is rate a more than rate b? Both must be numbers. */
static bool rate_above(const struct conf_value *a, const struct conf_value *b)
{
	if (a->num <= 0 || b->num <= 0 || a->count < 1 || b->count < 1)
		return false;
	return (double)a->num * (double)b->nums[0] > (double)b->num * (double)a->nums[0];
}

static void hint_backoff(struct hints *h, const struct conf_node *n)
{
	static const enum conf_opt pairs[][2] = {
	    {CO_DOMAIN_backoff_max_connect_rate, CO_DOMAIN_max_connect_rate},
	    {CO_DOMAIN_backoff_max_msg_rate, CO_DOMAIN_max_msg_rate}};
	enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_backoff_max_smtp_out);
	if (check_given(n, opt) != NULL &&
	    num_of(n, CO_DOMAIN_backoff_max_smtp_out) > num_of(n, CO_DOMAIN_max_smtp_out))
		hint_value(h, n, opt,
		    "backoff-max-smtp-out %" PRId64 " is more than max-smtp-out %" PRId64
		    ", which holds in backoff mode too",
		    conf_num(n, opt), num_of(n, CO_DOMAIN_max_smtp_out));
	for (size_t i = 0; i < COUNT_OF(pairs); i++) {
		opt = check_queue_opt(n, pairs[i][0]);
		const struct conf_value *slow = conf_get(n, opt);
		const struct conf_value *normal = conf_get(n, check_queue_opt(n, pairs[i][1]));
		if (slow->set && rate_above(slow, normal))
			hint_value(h, n, opt,
			    "%s %s is more than %s %s, which holds in backoff mode too",
			    conf_opts[opt].key, slow->text, conf_opts[pairs[i][1]].key,
			    normal->text);
	}
}

static void hint_retry(struct hints *h, const struct conf_node *n)
{
	enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_retry_after);
	const struct conf_value *steps = conf_get(n, opt);
	int64_t least = num_of(n, CO_DOMAIN_retry_recipients_after);
	if (steps->set && steps->count > 0 && steps->nums[0] < least)
		hint_value(h, n, opt,
		    "retry-after begins with %" PRId64
		    " s, but a recipient that was deferred waits for "
		    "retry-recipients-after, %" PRId64 " s: the larger one holds",
		    steps->nums[0] / 1000, least / 1000);
	for (size_t i = 1; steps->set && i < steps->count; i++)
		if (steps->nums[i] < steps->nums[i - 1]) {
			hint_value(h, n, opt,
			    "the steps of retry-after fall: %" PRId64 " s, then %" PRId64 " s",
			    steps->nums[i - 1] / 1000, steps->nums[i] / 1000);
			break;
		}
}

/* A limit of each queue is not one of the destination: it counts once for each virtual MTA. */
static void hint_multiplied(struct hints *h, const struct conf_node *n)
{
	static const enum conf_opt rates[] = {
	    CO_DOMAIN_max_msg_rate, CO_DOMAIN_max_connect_rate, CO_DOMAIN_max_data_volume_rate};
	size_t vmtas = h->check.vmta_count;
	if (h->multiplied || n->parent->type != CONF_GLOBAL || strcmp(check_name(n), "*") == 0 ||
	    conf_next(n, CONF_BUDGET, NULL) != NULL)
		return;
	for (size_t i = 0; vmtas > 1 && i < COUNT_OF(rates); i++) {
		enum conf_opt opt = check_queue_opt(n, rates[i]);
		const struct conf_value *rate = check_given(n, opt);
		if (rate == NULL || rate->num <= 0)
			continue;
		h->multiplied = true;
		hint_value(h, n, opt,
		    "%s is for each queue: %zu virtual MTAs together may do %zu times as much at "
		    "%s; budget = { %s = \"%s\"; } limits all of them (likewise elsewhere)",
		    conf_opts[opt].key, vmtas, vmtas, check_name(n), conf_opts[opt].key,
		    rate->text);
		return;
	}
}

static void hint_route(struct hints *h, const struct conf_node *n)
{
	enum conf_opt to = check_queue_opt(n, CO_DOMAIN_queue_to);
	enum conf_opt hosts = check_queue_opt(n, CO_DOMAIN_smtp_hosts);
	if (conf_text(n, to)[0] != 0 && conf_text(n, hosts)[0] != 0)
		hint_value(h, n, hosts,
		    "smtp-hosts is not used: queue-to gives the mail to %s, by its route",
		    conf_text(n, to));
}

static void hint_queue(struct check *k, const struct conf_node *n)
{
	struct hints *h = (struct hints *)(void *)k; /* check stands first */
	enum conf_opt opt = check_queue_opt(n, CO_DOMAIN_max_smtp_out);
	int64_t total = conf_num(k->conf->root, CO_GLOBAL_total_max_smtp_out);
	if (check_given(n, opt) != NULL && conf_num(n, opt) > total)
		hint_value(h, n, opt,
		    "max-smtp-out %" PRId64 " is more than total-max-smtp-out %" PRId64,
		    conf_num(n, opt), total);
	hint_backoff(h, n);
	hint_retry(h, n);
	hint_multiplied(h, n);
	hint_route(h, n);
}

/* --- rules --------------------------------------------------------------------------------------
 */

/* Does it act on more than the recipient that the reply was about? */
static bool acts_on_queue(const struct conf_node *rule)
{
	const struct conf_value *v = conf_get(rule, CO_RULE_actions);
	bool wide = false;
	for (size_t i = 0; i < v->count; i++) {
		struct rule_action a;
		char why[200];
		if (rule_action_parse(str_of(v->texts[i]), &a, why) != 0)
			continue;
		wide |= a.kind == ACTION_MODE_BACKOFF || a.kind == ACTION_BOUNCE_QUEUE ||
			a.kind == ACTION_DEFER_QUEUE || a.kind == ACTION_DISABLE_SOURCE_IP ||
			a.kind == ACTION_SUSPEND_QUEUE || a.kind == ACTION_SUSPEND_TENANT ||
			a.kind == ACTION_BOUNCE_TENANT || a.kind == ACTION_REROUTE ||
			a.kind == ACTION_SET;
		rule_action_fini(&a);
	}
	return wide;
}

static void hint_broad(struct hints *h, const struct conf_node *rule)
{
	/* Said every day of one recipient, or to everybody at first sight. */
	static const char *const common[] = {
	    "450 4.2.0 Greylisted, please try again later",
	    "451 4.7.1 Greylisting in action, please come back later",
	    "550 5.1.1 The email account that you tried to reach does not exist",
	    "452 4.2.2 The recipient's mailbox is over quota",
	};
	struct str reply = str_of(conf_text(rule, CO_RULE_reply));
	if (match_one(reply, STR(""))) {
		hint_value(h, rule, CO_RULE_reply, "this pattern matches every reply");
		return;
	}
	for (size_t i = 0; i < COUNT_OF(common) && acts_on_queue(rule); i++)
		if (match_one(reply, str_of(common[i]))) {
			hint_value(h, rule, CO_RULE_reply,
			    "this pattern also matches \"%s\", which is about one recipient or for "
			    "the moment, but its actions are for the whole queue",
			    common[i]);
			return;
		}
}

static bool same_texts(const struct conf_value *a, const struct conf_value *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->texts[i], b->texts[i]) != 0)
			return false;
	return true;
}

/* Of conflicting actions of rules that match the same reply the first wins. */
static void hint_shadowed(
    struct hints *h, const struct conf_node *list, const struct conf_node *rule)
{
	const struct conf_node *m = NULL;
	const struct conf_value *stages = conf_get(rule, CO_RULE_stage);
	while ((m = conf_next(list, CONF_RULE, m)) != rule && m != NULL) {
		char where[300];
		const struct conf_value *theirs = conf_get(m, CO_RULE_stage);
		if (strcmp(conf_text(m, CO_RULE_reply), conf_text(rule, CO_RULE_reply)) != 0 ||
		    (theirs->count != 0 && !same_texts(theirs, stages)))
			continue;
		hint_value(h, rule, CO_RULE_reply,
		    "%s has the same pattern: where the actions differ, that one wins",
		    check_where(&h->check, m, where));
		return;
	}
}

static void hint_stages(struct hints *h, const struct conf_node *rule)
{
	const struct conf_value *v = conf_get(rule, CO_RULE_stage);
	for (size_t i = 0; i < v->count; i++)
		if (strcmp(v->texts[i], "auth") == 0)
			hint_value(h, rule, CO_RULE_stage,
			    "nothing ever happens at stage auth: no host is authenticated to");
}

static bool list_used(const struct hints *h, const struct conf_node *parent, const char *name)
{
	for (size_t i = 0; i < parent->child_count; i++) {
		const struct conf_node *n = parent->children[i];
		if ((n->type == CONF_VMTA || n->type == CONF_POOL) && list_used(h, n, name))
			return true;
		if (n->type != CONF_DOMAIN && n->type != CONF_PROVIDER)
			continue;
		const struct conf_value *v =
		    conf_get(n, check_queue_opt(n, CO_DOMAIN_smtp_pattern_list));
		for (size_t j = 0; j < v->count; j++)
			if (strcmp(v->texts[j], name) == 0)
				return true;
	}
	return false;
}

static void hint_rules(struct hints *h)
{
	const struct conf_node *root = h->check.conf->root, *list = NULL, *rule = NULL;
	while ((list = conf_next(root, CONF_PATTERN_LIST, list)) != NULL) {
		if (!list_used(h, root, check_name(list)))
			hint_value(h, list, CO_PATTERN_LIST_name,
			    "no smtp-pattern-list names \"%s\": its rules are never looked at",
			    check_name(list));
		while ((rule = conf_next(list, CONF_RULE, rule)) != NULL) {
			hint_broad(h, rule);
			hint_shadowed(h, list, rule);
			hint_stages(h, rule);
		}
	}
}

/* --- addresses ----------------------------------------------------------------------------------
 */

struct local {			  /* of this machine, in the form of struct network */
	uint8_t (*addresses)[16]; /* owned */
	size_t count;
};

static void local_add(struct local *l, const void *bytes, bool v4)
{
	if ((l->count & (l->count - 1)) == 0)
		l->addresses = xrealloc(
		    l->addresses, (l->count == 0 ? 1 : l->count * 2) * sizeof(*l->addresses));
	uint8_t *to = l->addresses[l->count++];
	memset(to, 0, 16);
	if (v4)
		memset(to + 10, 0xff, 2);
	memcpy(to + (v4 ? 12 : 0), bytes, v4 ? 4 : 16);
}

static bool local_read(struct local *l)
{
	struct ifaddrs *list = NULL;
	if (getifaddrs(&list) != 0)
		return false;
	for (const struct ifaddrs *i = list; i != NULL; i = i->ifa_next) {
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		if (i->ifa_addr == NULL)
			continue;
		if (i->ifa_addr->sa_family == AF_INET) {
			memcpy(&v4, i->ifa_addr, sizeof v4);
			local_add(l, &v4.sin_addr, true);
		} else if (i->ifa_addr->sa_family == AF_INET6) {
			memcpy(&v6, i->ifa_addr, sizeof v6);
			local_add(l, &v6.sin6_addr, false);
		}
	}
	freeifaddrs(list);
	return true;
}

static bool is_local(const struct local *l, const struct network *n)
{
	/* All of 127.0.0.0/8 is the machine's. */
	static const uint8_t loopback[13] = {[10] = 0xff, [11] = 0xff, [12] = 127};
	if (memcmp(n->bytes, loopback, sizeof loopback) == 0)
		return true;
	for (size_t i = 0; i < l->count; i++)
		if (memcmp(l->addresses[i], n->bytes, 16) == 0)
			return true;
	return false;
}

static void hint_sources(struct hints *h)
{
	struct local l = {0};
	const struct conf_node *vmta = NULL, *s = NULL;
	if (conf_next(h->check.conf->root, CONF_VMTA, NULL) == NULL || !local_read(&l))
		return;
	while ((vmta = conf_next(h->check.conf->root, CONF_VMTA, vmta)) != NULL)
		while ((s = conf_next(vmta, CONF_SOURCE, s)) != NULL) {
			struct network n;
			const char *text = conf_text(s, CO_SOURCE_address);
			if (network_parse(&n, str_of(text)) == 0 && !is_local(&l, &n))
				hint_value(h, s, CO_SOURCE_address,
				    "this machine has no address %s now: the source is left out "
				    "until "
				    "it has",
				    text);
		}
	free(l.addresses);
}

/* "192.0.2.7/24": is one host meant, or all? */
static void hint_host_bits(struct hints *h, const struct conf_node *n, enum conf_opt opt)
{
	const struct conf_value *v = conf_get(n, opt);
	for (size_t i = 0; i < v->count; i++) {
		struct str rest = str_of(v->texts[i]), address = str_cut(&rest, '/');
		struct network net, host;
		if (rest.n == 0 || network_parse(&net, str_of(v->texts[i])) != 0 ||
		    network_parse(&host, address) != 0)
			continue;
		bool bits = false;
		for (unsigned b = net.bits; b < 128; b++)
			bits |= (host.bytes[b / 8] & (0x80u >> b % 8)) != 0;
		if (bits)
			hint_value(h, n, opt,
			    "%s: %s has bits beyond its prefix: the whole network is meant, not "
			    "that "
			    "address",
			    conf_opts[opt].key, v->texts[i]);
	}
}

static void hint_listeners(struct hints *h)
{
	const struct conf_node *n = NULL;
	while ((n = conf_next(h->check.conf->root, CONF_LISTENER, n)) != NULL) {
		char where[300];
		if (conf_get(n, CO_LISTENER_relay_from)->count == 0)
			hint(h, check_where(&h->check, n, where),
			    "this listener has no relay-from: it refuses every client");
		hint_host_bits(h, n, CO_LISTENER_relay_from);
	}
	while ((n = conf_next(h->check.conf->root, CONF_PROVIDER, n)) != NULL)
		hint_host_bits(h, n, CO_PROVIDER_address);
}

static void hint_pools(struct hints *h)
{
	const struct conf_node *pool = NULL, *m = NULL;
	while ((pool = conf_next(h->check.conf->root, CONF_POOL, pool)) != NULL) {
		int64_t weights = 0;
		while ((m = conf_next(pool, CONF_MEMBER, m)) != NULL)
			weights += conf_num(m, CO_MEMBER_weight);
		if (weights == 0)
			hint_value(h, pool, CO_POOL_name,
			    "every member of pool \"%s\" has weight 0: it takes no new mail",
			    check_name(pool));
	}
}

static void hint_descriptors(struct hints *h)
{
	struct rlimit limit;
	const struct conf_node *root = h->check.conf->root;
	int64_t wanted = conf_num(root, CO_GLOBAL_total_max_smtp_out) +
			 conf_num(root, CO_GLOBAL_total_max_smtp_in);
	char origin[512];
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max >= (rlim_t)wanted)
		return;
	conf_origin(h->check.conf, conf_get(root, CO_GLOBAL_total_max_smtp_out), origin);
	hint(h, origin,
	    "total-max-smtp-out and total-max-smtp-in allow %" PRId64
	    " connections, but this system allows a process %llu open files",
	    wanted, (unsigned long long)limit.rlim_max);
}

static void hint_simulation(struct hints *h)
{
	const struct conf_node *n = conf_next(h->check.conf->root, CONF_SIMULATION, NULL);
	char where[300];
	if (n != NULL)
		hint(h, check_where(&h->check, n, where),
		    "simulation is for posternctl simulate: the "
		    "suite ignores it");
}

void conf_hints(const struct conf *c, struct buf *out)
{
	struct hints h = {.out = out};
	check_init(&h.check, c, NULL);
	hint_listeners(&h);
	check_queue_sections(&h.check, hint_queue);
	hint_precedence(&h);
	hint_pools(&h);
	hint_rules(&h);
	hint_sources(&h);
	hint_descriptors(&h);
	hint_simulation(&h);
	if (h.count > HINTS_MAX)
		buf_printf(out, "and %zu hints more\n", h.count - HINTS_MAX);
	check_fini(&h.check);
}
