/* SPDX-License-Identifier: ISC */
/*
 * Tenants, as acceptance sees them. The stronger evidence wins: the header X-Tenant, a tenant's
 * own `match` header, the listener, the client's address, the sender's domain, default-tenant.
 * Every question costs a binary search; a sender's domain one for each of its labels. Networks of
 * clients are walked, once a connection.
 */
#include "smtpd/tenants.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct by_text {    /* of header values and sender domains, sorted */
	int header; /* its number; of domains 0 */
	char *text; /* owned, lower case */
	const struct tenant *tenant;
};
struct by_client {
	struct network network;
	const struct tenant *tenant;
};
struct tenants {
	struct conf *conf;  /* owned */
	struct tenant *all; /* owned; sorted by name */
	size_t count;
	const char *header[TENANT_HEADERS_MAX];
	size_t header_count;
	struct by_text *values, *domains; /* owned */
	size_t value_count, domain_count;
	struct by_client *clients; /* owned */
	size_t client_count;
	const struct tenant *fallback;
	bool refuses_unknown;
};

static struct tenant *named(const struct tenants *t, struct str name)
{
	size_t low = 0, high = t->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		struct str other = str_of(t->all[middle].name);
		size_t common = other.n < name.n ? other.n : name.n;
		int order = memcmp(other.p, name.p, common);

		if (order == 0 && other.n == name.n)
			return &t->all[middle];
		if (order < 0 || (order == 0 && other.n < name.n))
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* ---- made from a configuration ---- */

static int order_tenants(const void *a, const void *b)
{
	return strcmp(((const struct tenant *)a)->name, ((const struct tenant *)b)->name);
}

static int order_texts(const void *a, const void *b)
{
	const struct by_text *x = a, *y = b;

	if (x->header != y->header)
		return x->header < y->header ? -1 : 1;
	return strcmp(x->text, y->text);
}

static char *lower(struct str s)
{
	char *text = str_dup(s);

	for (char *p = text; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p + 32);
	return text;
}

static void add_text(
    struct by_text **list, size_t *n, int header, struct str text, const struct tenant *tenant)
{
	if ((*n & (*n - 1)) == 0)
		*list = xrealloc(*list, (*n ? 2 * *n : 1) * sizeof(**list));
	(*list)[(*n)++] = (struct by_text){header, lower(text), tenant};
}

static int header_number(struct tenants *t, const char *name)
{
	for (size_t i = 0; i < t->header_count; i++)
		if (str_eq_nocase(str_of(t->header[i]), str_of(name)))
			return (int)i;
	if (t->header_count == TENANT_HEADERS_MAX)
		return -1; /* conf_check() has said so */
	t->header[t->header_count] = name;
	return (int)t->header_count++;
}

static void read_tenant(struct tenants *t, const struct conf_node *n, const struct tenant *tenant)
{
	const struct conf_node *match = conf_next(n, CONF_TENANT_MATCH, NULL);
	const struct conf_value *v = conf_get(n, CO_TENANT_clients);

	if (match) {
		int header = header_number(t, conf_text(match, CO_TENANT_MATCH_header));
		if (header >= 0)
			add_text(&t->values, &t->value_count, header,
			    str_of(conf_text(match, CO_TENANT_MATCH_value)), tenant);
	}
	for (size_t i = 0; i < tenant->domains->count; i++)
		add_text(
		    &t->domains, &t->domain_count, 0, str_of(tenant->domains->texts[i]), tenant);
	for (size_t i = 0; i < v->count; i++) {
		struct by_client c = {.tenant = tenant};
		if (network_parse(&c.network, str_of(v->texts[i])) != 0)
			continue; /* refused when it was read */
		t->clients = xrealloc(t->clients, (t->client_count + 1) * sizeof(c));
		t->clients[t->client_count++] = c;
	}
}

static size_t count_tenants(const struct conf_node *root)
{
	const struct conf_node *n = NULL;
	size_t count = 0;

	while ((n = conf_next(root, CONF_TENANT, n)))
		count++;
	return count;
}

/* The rate of one process: exactly its part of the tokens, and of the burst what is left over goes
 * to the first ones. A bucket that holds nothing would refuse all: each holds one. */
static void read_limit(struct in_limit *l, const struct conf_node *n, enum conf_opt opt,
    unsigned processes, unsigned instance)
{
	const struct conf_value *v = conf_get(n, opt);
	uint64_t burst;

	l->rate = rate_read(v);
	l->text = v->text ? v->text : "";
	if (l->rate.n == 0)
		return;
	burst = l->rate.burst / processes + (instance < l->rate.burst % processes);
	l->rate.per_ms *= processes;
	l->rate.burst = burst ? burst : 1;
}

static void read_limits(
    struct tenants *t, const struct conf_node *n, unsigned processes, unsigned instance)
{
	struct tenant *tenant = named(t, str_of(conf_text(n, CO_TENANT_name)));
	static const enum conf_opt opts[IN_RATES] = {
	    CO_TENANT_max_msg_in_rate, CO_TENANT_max_rcpt_in_rate, CO_TENANT_max_data_in_rate};

	for (int i = 0; i < IN_RATES; i++)
		read_limit(&tenant->in[i], n, opts[i], processes, instance);
}

struct tenants *tenants_new(struct conf *conf, unsigned processes, unsigned instance)
{
	struct tenants *t = xcalloc(1, sizeof(*t));
	const struct conf_node *n = NULL;

	t->conf = conf;
	t->all = xcalloc(count_tenants(conf->root) + 1, sizeof(*t->all));
	while ((n = conf_next(conf->root, CONF_TENANT, n)))
		t->all[t->count++] = (struct tenant){.name = xstrdup(conf_text(n, CO_TENANT_name)),
		    .vmta = conf_text(n, CO_TENANT_virtual_mta),
		    .vmtas = conf_get(n, CO_TENANT_virtual_mtas),
		    .domains = conf_get(n, CO_TENANT_sender_domains),
		    .from = (enum tenant_check)conf_num(n, CO_TENANT_check_from),
		    .headers = (enum tenant_check)conf_num(n, CO_TENANT_check_headers)};
	qsort(t->all, t->count, sizeof(*t->all), order_tenants);
	while ((n = conf_next(conf->root, CONF_TENANT, n)))
		read_limits(t, n, processes ? processes : 1, instance);
	while ((n = conf_next(conf->root, CONF_TENANT, n)))
		read_tenant(t, n, tenants_named(t, str_of(conf_text(n, CO_TENANT_name))));
	if (t->value_count)
		qsort(t->values, t->value_count, sizeof(*t->values), order_texts);
	if (t->domain_count)
		qsort(t->domains, t->domain_count, sizeof(*t->domains), order_texts);
	t->fallback = tenants_named(t, str_of(conf_text(conf->root, CO_GLOBAL_default_tenant)));
	t->refuses_unknown = conf_num(conf->root, CO_GLOBAL_unknown_tenant) != 0;
	return t;
}

static void free_texts(struct by_text *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i].text);
	free(list);
}

void tenants_free(struct tenants **tenants)
{
	struct tenants *t = *tenants;

	*tenants = NULL;
	if (!t)
		return;
	for (size_t i = 0; i < t->count; i++)
		free(t->all[i].name);
	free(t->all);
	free_texts(t->values, t->value_count);
	free_texts(t->domains, t->domain_count);
	free(t->clients);
	conf_free(&t->conf);
	free(t);
}

/* ---- questions ---- */

size_t tenants_count(const struct tenants *t)
{
	return t->count;
}

const struct tenant *tenants_named(const struct tenants *t, struct str name)
{
	return named(t, name);
}

int tenants_header(const struct tenants *t, struct str name)
{
	for (size_t i = 0; i < t->header_count; i++)
		if (str_eq_nocase(str_of(t->header[i]), name))
			return (int)i;
	return -1;
}

static const struct tenant *find(const struct by_text *list, size_t n, int header, struct str text)
{
	char *low;
	struct by_text *found;

	if (n == 0)
		return NULL;
	low = lower(text);
	found = bsearch(&(struct by_text){header, low, NULL}, list, n, sizeof(*list), order_texts);
	free(low);
	return found ? found->tenant : NULL;
}

/* One near the length at which the receiver of content cuts may have been longer. */
const struct tenant *tenants_match(const struct tenants *t, int header, struct str value)
{
	return value.n + 4 > MATCH_VALUE_MAX ? NULL
					     : find(t->values, t->value_count, header, value);
}

const struct tenant *tenants_client(const struct tenants *t, const uint8_t address[16])
{
	for (size_t i = 0; i < t->client_count; i++)
		if (network_has(&t->clients[i].network, address))
			return t->clients[i].tenant;
	return NULL;
}

static struct str domain_of(struct str address)
{
	size_t at = address.n;

	while (at > 0 && address.p[at - 1] != '@')
		at--;
	return at ? (struct str){address.p + at, address.n - at} : STR("");
}

/* The domain itself, then what it lies below. */
const struct tenant *tenants_sender(const struct tenants *t, struct str sender)
{
	struct str domain = domain_of(sender);

	while (t->domain_count && domain.n) {
		const struct tenant *found = find(t->domains, t->domain_count, 0, domain);

		if (found)
			return found;
		(void)str_cut(&domain, '.');
	}
	return NULL;
}

bool tenants_known_early(const struct tenants *t, bool takes_x_tenant)
{
	return !takes_x_tenant && t->header_count == 0;
}

enum answer tenants_choose(
    const struct tenants *t, const struct tenant_evidence *e, const struct tenant **tenant)
{
	const struct tenant *named = e->has_x_tenant ? tenants_named(t, e->x_tenant) : NULL;
	const struct tenant *order[] = {named, e->match, e->listener, e->client};

	*tenant = NULL;
	if (e->has_x_tenant && !named && t->refuses_unknown)
		return ANSWER_UNKNOWN_TENANT;
	for (size_t i = 0; i < COUNT_OF(order) && !*tenant; i++)
		*tenant = order[i];
	if (!*tenant)
		*tenant = tenants_sender(t, e->sender);
	if (!*tenant)
		*tenant = t->fallback;
	return ANSWER_NONE;
}

/* ---- what a message must look like ---- */

/* The From value without comments, and of its addr-spec what stands between < and >, if anything
 * does. RFC 5322 3.4, without groups and routes: what two readers may read in two ways is no
 * address to us. */
struct from_scan {
	char bare[FROM_VALUE_MAX + 1], angle[FROM_VALUE_MAX + 1];
	size_t bare_n, angle_n;
	int depth;
	bool quoted, in_angle, after_angle, bad;
};

static void scan_char(struct from_scan *f, char c)
{
	if (f->depth)
		f->depth += c == '(' ? 1 : c == ')' ? -1 : 0;
	else if (c == '(' && !f->quoted)
		f->depth = 1;
	else if (c == '<' && !f->quoted && !f->in_angle && !f->after_angle)
		f->in_angle = true;
	else if (c == '>' && !f->quoted && f->in_angle)
		f->in_angle = false, f->after_angle = true;
	else if (!f->quoted && strchr(",;:<>", c))
		f->bad = true;
	else if (f->after_angle)
		f->bad = f->bad || (c != ' ' && c != '\t');
	else if (f->in_angle)
		f->angle[f->angle_n++] = c;
	else
		f->bare[f->bare_n++] = c;
	if (c == '"' && !f->depth)
		f->quoted = !f->quoted;
}

/* A pair of backslash and character counts for itself alone. */
static void scan_pair(struct from_scan *f, struct str pair)
{
	for (size_t i = 0; i < pair.n && !f->depth; i++)
		if (f->in_angle)
			f->angle[f->angle_n++] = pair.p[i];
		else
			f->bare[f->bare_n++] = pair.p[i];
}

/* One @ outside quotes, something before it, and a domain without blanks behind it. */
static bool one_at(struct str address, struct str *domain)
{
	bool quoted = false, found = false;

	for (size_t i = 0; i < address.n; i++) {
		char c = address.p[i];

		if (c == '\\' && quoted) {
			i++;
		} else if (c == '"') {
			quoted = !quoted;
			if (found)
				return false;
		} else if (c == '@' && !quoted) {
			if (found || i == 0)
				return false;
			found = true;
			*domain = (struct str){address.p + i + 1, address.n - i - 1};
		} else if ((c == ' ' || c == '\t' || c == '\\') && !quoted) {
			return false;
		}
	}
	return found && domain->n > 0;
}

static struct str trimmed(const char *p, size_t n)
{
	while (n && (p[0] == ' ' || p[0] == '\t'))
		p++, n--;
	while (n && (p[n - 1] == ' ' || p[n - 1] == '\t'))
		n--;
	return (struct str){p, n};
}

/* The domain of a From value with exactly one address, copied to `domain`. One near the length at
 * which the receiver of content cuts is none: what was cut off might be a second. */
static bool one_address(struct str value, char domain[FROM_VALUE_MAX + 1])
{
	struct from_scan f = {.bare_n = 0};
	struct str address, found;

	if (value.n + 4 > FROM_VALUE_MAX)
		return false;
	for (size_t i = 0; i < value.n; i++)
		if (value.p[i] == '\\' && (f.quoted || f.depth) && i + 1 < value.n)
			scan_pair(&f, (struct str){value.p + i++, 2});
		else
			scan_char(&f, value.p[i]);
	if (f.bad || f.quoted || f.depth || f.in_angle)
		return false;
	address = f.after_angle ? trimmed(f.angle, f.angle_n) : trimmed(f.bare, f.bare_n);
	if (!one_at(address, &found))
		return false;
	str_copy(domain, FROM_VALUE_MAX + 1, found);
	return true;
}

static bool is_aligned(const struct tenant *t, struct str domain)
{
	for (size_t i = 0; i < t->domains->count; i++) {
		struct str own = str_of(t->domains->texts[i]);

		if (str_eq_nocase(domain, own))
			return true;
		if (domain.n > own.n && domain.p[domain.n - own.n - 1] == '.' &&
		    str_eq_nocase((struct str){domain.p + domain.n - own.n, own.n}, own))
			return true;
	}
	return false;
}

static void find_fault(
    struct tenant_verdict *v, enum tenant_check action, const char *before, const char *after)
{
	size_t n = strlen(v->why);

	if (action > v->action)
		v->action = action;
	snprintf(v->why + n, sizeof(v->why) - n, "%s%s%s", n ? "; " : "", before, after);
}

static void judge_from(
    const struct tenant *t, const struct header_facts *facts, struct tenant_verdict *v)
{
	char domain[FROM_VALUE_MAX + 1];

	if (facts->count[SINGLETON_FROM] == 0)
		find_fault(v, t->from, "no From header", "");
	else if (facts->count[SINGLETON_FROM] > 1)
		find_fault(v, t->from, "more than one From header", "");
	else if (!one_address(facts->from, domain))
		find_fault(v, t->from, "From is not one address", "");
	else if (!is_aligned(t, str_of(domain)))
		find_fault(v, t->from, "From is not in the tenant's domains", "");
}

void tenant_judge(
    const struct tenant *t, const struct header_facts *facts, struct tenant_verdict *v)
{
	static const char *const names[SINGLETONS] = {
	    "From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID"};

	*v = (struct tenant_verdict){CHECK_OFF, ""};
	if (t->from != CHECK_OFF)
		judge_from(t, facts, v);
	if (t->headers == CHECK_OFF)
		return;
	for (int i = t->from != CHECK_OFF; i < SINGLETONS; i++)
		if (facts->count[i] > 1)
			find_fault(v, t->headers, "more than one header of ", names[i]);
	if (facts->count[SINGLETON_DATE] == 0)
		find_fault(v, t->headers, "no Date header", "");
	if (facts->count[SINGLETON_MESSAGE_ID] == 0)
		find_fault(v, t->headers, "no Message-ID header", "");
}
