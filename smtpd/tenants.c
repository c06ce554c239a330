/* SPDX-License-Identifier: ISC */
/*
 * Tenants, as acceptance sees them. The stronger evidence wins: the header X-Tenant, a tenant's
 * own `match` header, the listener, the client's address, the sender's domain, default-tenant.
 * Every question costs a binary search; a sender's domain one for each of its labels. Networks of
 * clients are walked, once a connection.
 */
#include "smtpd/tenants.h"

#include <search.h>
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

struct tenants *tenants_new(struct conf *conf)
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
	for (size_t i = 0; i < t->count; i++)
		t->all[i].index = i;
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

const struct tenant *tenants_match(const struct tenants *t, int header, struct str value)
{
	return find(t->values, t->value_count, header, value);
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

/* The address of a From value with exactly one: between < and >, or bare. RFC 5322 3.6.2. Quoted
 * strings and comments are passed over, so that an address in a display name counts for nothing. */
static bool one_address(struct str value, struct str *address)
{
	size_t begin = 0, commas = 0, angles = 0;
	int depth = 0;
	bool quoted = false;
	struct str bare = value;

	for (size_t i = 0; i < value.n; i++) {
		char c = value.p[i];

		if (c == '\\' && (quoted || depth)) {
			i++;
		} else if (quoted || (c == '"' && !depth)) {
			quoted = quoted != (c == '"');
		} else if (c == '(' || (c == ')' && depth)) {
			depth += c == '(' ? 1 : -1;
		} else if (depth == 0 && c == '<') {
			angles++;
			begin = i + 1;
		} else if (depth == 0 && c == '>' && angles) {
			*address = (struct str){value.p + begin, i - begin};
		} else if (depth == 0 && c == ',') {
			commas++;
		}
	}
	if (angles == 0) {
		while (bare.n && (bare.p[bare.n - 1] == ' ' || bare.p[bare.n - 1] == '\t'))
			bare.n--;
		*address = bare;
	}
	return commas == 0 && angles <= 1 && domain_of(*address).n > 0;
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
	struct str address = STR("");

	if (facts->count[SINGLETON_FROM] == 0)
		find_fault(v, t->from, "no From header", "");
	else if (facts->count[SINGLETON_FROM] > 1)
		find_fault(v, t->from, "more than one From header", "");
	else if (!one_address(facts->from, &address))
		find_fault(v, t->from, "From is not one address", "");
	else if (!is_aligned(t, domain_of(address)))
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
