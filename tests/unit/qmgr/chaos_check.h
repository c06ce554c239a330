/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * What the world of test_core_chaos.c counts at the receiving ends, and holds against the model of
 * the configuration in force: connections at each grant, recipients and bytes at each transaction
 * by meters, whoever is held or disabled, and the hosts that a domain ever had.
 */
#include "tests/unit/qmgr/chaos_conf.h"

enum { METERS = 16384, HOLDS = 400, PARTY_LIMITS = 1 /* budgets of tenants and campaigns */ };
struct meter {
	uint64_t key; /* 0: free */
	struct rate rate;
	level_t level; /* in parts of a token */
	int64_t at;
};
struct held { /* as the core tells it */
	enum core_scope scope;
	bool source;
	char name[200], at[100];
	int64_t since_ms, until_ms;
};
struct chaos {
	struct sim *sim;
	struct model model;
	struct meter meters[METERS];
	struct held held[HOLDS];
	size_t held_count;
	bool held_stale;
	unsigned family[DOMAINS];
	uint32_t hosts_ever[DOMAINS + 1]; /* bits */
	bool killed_any;		  /* an operator returned mail */
	int64_t progress[64];		  /* of queues, by hash: last grant, send or result */
	uint64_t ticks, idle_ticks;
	int64_t idle_since;
	bool ending;
};
static struct chaos chaos;

/* ---- who a connection is, in numbers ---- */

struct who {
	uint64_t queue, dest, source;
	int vmta, source_of, source_k, provider, domain; /* -1: none */
	size_t host;
	struct route_address address;
	char dest_name[200];
};
static uint64_t text_key(struct str t)
{
	uint64_t h = UINT64_C(1469598103934665603);

	for (size_t i = 0; i < t.n; i++)
		h = (h ^ (unsigned char)t.p[i]) * UINT64_C(1099511628211);
	return h | 1;
}
static int domain_number(struct str name)
{
	unsigned i;
	char text[64];

	str_copy(text, sizeof(text), name);
	return sscanf(text, "d%u.test", &i) == 1 ? (int)i : -1;
}
static int provider_number(struct str name)
{
	char text[32];

	for (unsigned f = 0; f < FAMILIES; f++)
		if (chaos.model.provider[f] && str_eq(name, str_of(provider_name(f, text))))
			return (int)f;
	return -1;
}
static int provider_of(struct sim *s, struct str queue, int domain)
{
	const struct queue *q;
	struct str name;

	if (domain >= 0 && domain < TO_HOSTS)
		return chaos.model.provider[chaos.family[domain]] ? (int)chaos.family[domain] : -1;
	q = queue_find(s->core, queue);
	name = q ? name_str(q->provider) : STR("");
	return provider_number(name);
}
static void who_is(struct sim *s, struct who *w, struct str queue, struct str source, size_t host,
    const struct route_address *address)
{
	const char *slash = memrchr(queue.p, '/', queue.n);
	struct str dest = {queue.p, (size_t)(slash - queue.p)};
	char name[32];

	*w = (struct who){.queue = text_key(queue),
	    .dest = text_key(dest),
	    .source = text_key(source),
	    .source_of = -1,
	    .provider = -1,
	    .domain = -1,
	    .host = host};
	w->vmta = slash[1] - 'a';
	if (address)
		w->address = *address;
	str_copy(w->dest_name, sizeof(w->dest_name), dest);
	if (dest.n > 2 && dest.p[0] == 'p' && dest.p[1] == '-') {
		w->provider = provider_number(dest);
	} else if (dest.p[0] != '[') {
		w->domain = domain_number(dest);
		w->provider = provider_of(s, queue, w->domain);
	}
	for (unsigned v = 0; v < VMTAS; v++)
		for (unsigned k = 0; k < SOURCES; k++)
			if (str_eq(source, str_of(source_name(v, k, name)))) {
				w->source_of = (int)v;
				w->source_k = (int)k;
			}
}
enum by {
	BY_ALL,
	BY_QUEUE,
	BY_VMTA,
	BY_SOURCE,
	BY_PATH,
	BY_HOST,
	BY_HOST_SOURCE,
	BY_ADDRESS,
	BY_ADDRESS_SOURCE,
	BY_PROVIDER,
	BY_PROVIDER_VMTA,
	BY_DOMAIN,
	BY_DOMAIN_VMTA,
	BY_POOL,
	BY_TENANT,
	BY_TENANT_AT,
	BY_CAMPAIGN,
	BY_WARMUP
};
static uint64_t address_key(const struct route_address *a)
{
	return text_key((struct str){(const char *)a->bytes, 16}) + a->family;
}
/* 0: it does not count there. */
static uint64_t key_by(const struct who *w, enum by by, unsigned of)
{
	switch (by) {
	case BY_ALL:
		return 1;
	case BY_QUEUE:
		return w->queue;
	case BY_VMTA:
		return 1 + (uint64_t)w->vmta;
	case BY_SOURCE:
		return w->source;
	case BY_PATH:
		return hash_mix(w->dest, w->source) | 1;
	case BY_HOST:
		return w->host + 1;
	case BY_HOST_SOURCE:
		return hash_mix(w->host + 1, w->source) | 1;
	case BY_ADDRESS:
		return address_key(&w->address);
	case BY_ADDRESS_SOURCE:
		return hash_mix(address_key(&w->address), w->source) | 1;
	case BY_PROVIDER:
		return (uint64_t)(w->provider + 1);
	case BY_PROVIDER_VMTA:
		return w->provider < 0 ? 0 : 1 + (uint64_t)(w->provider * 10 + w->vmta);
	case BY_DOMAIN:
		return (uint64_t)(w->domain + 1);
	case BY_DOMAIN_VMTA:
		return w->domain < 0 ? 0 : 1 + (uint64_t)(w->domain * 10 + w->vmta);
	case BY_POOL:
		return chaos.model.member[of][w->vmta] ? 1 + of : 0;
	case BY_TENANT:
	case BY_TENANT_AT:
	case BY_CAMPAIGN:
		return 1 + of;
	case BY_WARMUP:
		return hash_mix(w->dest, w->source) | 1;
	}
	return 0;
}

/* ---- what holds for it ---- */

/* The sections that speak of it, the most specific first. */
static size_t sections_of(const struct who *w, const struct section *out[6])
{
	const struct model *m = &chaos.model;
	size_t n = 0;

	if (w->domain >= 0 && m->literal[w->domain]) {
		out[n++] = &m->at_domain[w->domain][w->vmta];
		out[n++] = &m->at_domain[w->domain][EVERYBODY];
	}
	if (w->provider >= 0) {
		out[n++] = &m->at_provider[w->provider][w->vmta];
		out[n++] = &m->at_provider[w->provider][EVERYBODY];
	}
	out[n++] = &m->any[w->vmta];
	out[n++] = &m->any[EVERYBODY];
	return n;
}
static uint32_t value_number(const struct who *w, size_t offset, uint32_t none)
{
	const struct section *all[6];
	size_t n = sections_of(w, all);

	for (size_t i = 0; i < n; i++) {
		uint32_t x;

		memcpy(&x, (const char *)all[i] + offset, sizeof(x));
		if (x)
			return x;
	}
	return none;
}
static struct rate value_rate(const struct who *w, size_t offset)
{
	const struct section *all[6];
	size_t n = sections_of(w, all);
	struct rate x = {0, 0, 0};

	for (size_t i = 0; i < n && x.n == 0; i++)
		memcpy(&x, (const char *)all[i] + offset, sizeof(x));
	return x;
}
#define NUMBER(w, field, none) value_number(w, offsetof(struct section, field), none)
#define RATE(w, field) value_rate(w, offsetof(struct section, field))

struct budgets {
	struct {
		const struct allow *a;
		enum by by;
		unsigned of;
	} one[12];
	size_t n;
};
static void budget_add(struct budgets *b, const struct allow *a, enum by by, unsigned of)
{
	b->one[b->n].a = a;
	b->one[b->n].by = by;
	b->one[b->n++].of = of;
}
static void budgets_of(const struct who *w, struct budgets *b)
{
	const struct model *m = &chaos.model;

	b->n = 0;
	if (w->provider >= 0) {
		budget_add(b, &m->at_provider[w->provider][EVERYBODY].budget, BY_PROVIDER, 0);
		budget_add(b, &m->at_provider[w->provider][w->vmta].budget, BY_PROVIDER_VMTA, 0);
	}
	if (w->domain >= 0) {
		budget_add(b, &m->at_domain[w->domain][EVERYBODY].budget, BY_DOMAIN, 0);
		budget_add(b, &m->at_domain[w->domain][w->vmta].budget, BY_DOMAIN_VMTA, 0);
	}
	budget_add(b, &m->vmta[w->vmta], BY_VMTA, 0);
	for (unsigned p = 0; p < POOLS; p++)
		if (m->member[p][w->vmta])
			budget_add(b, &m->pool[p], BY_POOL, p);
	if (w->source_of >= 0)
		budget_add(b, &m->source[w->source_of][w->source_k], BY_SOURCE, 0);
}

/* ---- meters ---- */

static void meter_take(
    uint64_t key, enum by by, unsigned what, const struct rate *r, uint64_t n, uint64_t over)
{
	int64_t now = chaos.sim->now;
	struct meter *m;
	level_t full;

	if (r->n == 0 || key == 0)
		return;
	key = hash_mix(key, by * 8 + what) | 1;
	for (size_t i = key % METERS;; i = (i + 1) % METERS) {
		m = &chaos.meters[i];
		if (m->key == 0 || m->key == key)
			break;
	}
	full = (level_t)r->burst * r->per_ms;
	if (m->key == 0 || m->rate.n != r->n || m->rate.burst != r->burst ||
	    m->rate.per_ms != r->per_ms)
		*m = (struct meter){key, *r, full, now};
	m->level += (level_t)(now - m->at) * (level_t)r->n;
	if (m->level > full)
		m->level = full;
	m->at = now;
	m->level -= (level_t)n * r->per_ms;
	if (m->level < -(level_t)over * r->per_ms)
		fail_msg("+%lld ms: rate %llu/%lldms burst %llu by %d, what %u is exceeded",
		    (long long)(now - SIM_START), (unsigned long long)r->n, (long long)r->per_ms,
		    (unsigned long long)r->burst, (int)by, what);
}
/* After a kill a volume's bucket counts as empty, not as overdrawn. */
static SIM_DEAD void meters_forget_overdrafts(void)
{
	for (size_t i = 0; i < METERS; i++)
		if (chaos.meters[i].key && chaos.meters[i].level < 0) {
			struct meter *m = &chaos.meters[i];

			m->level += (level_t)(chaos.sim->now - m->at) * (level_t)m->rate.n;
			m->at = chaos.sim->now;
			if (m->level < 0)
				m->level = 0;
		}
}

/* ---- grants ---- */

static uint32_t conns_by(struct sim *s, const struct who *w, enum by by, unsigned of)
{
	uint64_t key = key_by(w, by, of);
	uint32_t n = 0;

	for (size_t b = 0; b < s->conns.base + s->conns.split; b++)
		for (struct node *k = s->conns.segments[b / 512][b % 512]; k; k = k->next) {
			const struct sim_conn *c = OWNER(k, struct sim_conn, node);
			struct who o;

			who_is(s, &o, str_of(c->queue), str_of(c->source), c->host, &c->address);
			n += key_by(&o, by, of) == key;
		}
	return n;
}
static void tell_conns(struct sim *s, const struct who *w, enum by by, unsigned of)
{
	struct node **all = table_list(&s->conns);

	for (size_t i = 0; all[i]; i++) {
		const struct sim_conn *c = OWNER(all[i], struct sim_conn, node);
		const struct conn *own = conn_find(s->core, c->id);
		struct who o;

		who_is(s, &o, str_of(c->queue), str_of(c->source), c->host, &c->address);
		if (key_by(&o, by, of) != key_by(w, by, of))
			continue;
		print_message("%s from %s to %s%s%s:", c->queue, c->source, s->host[c->host].name,
		    c->ghost ? ", a ghost" : "",
		    !own	? ", not known"
		    : own->lost ? ", lost"
				: "");
		for (uint32_t k = 0; own && k < own->seat_count; k++)
			print_message(" <%s>", own->seats[k].budget->key);
		print_message("\n");
	}
	free(all);
}
static void check_conns(struct sim *s, const struct who *w, enum by by, unsigned of, uint32_t max)
{
	uint32_t n;

	if (max == 0 || key_by(w, by, of) == 0)
		return;
	n = conns_by(s, w, by, of);
	if (n + 1 > max)
		tell_conns(s, w, by, of);
	if (n + 1 > max)
		fail_msg("+%lld ms: connection %u of %u by %d (%s/%c)",
		    (long long)(s->now - SIM_START), n + 1, max, (int)by, w->dest_name,
		    'a' + w->vmta);
}
static bool hold_matches(const struct held *h, const struct who *w, struct str queue)
{
	char name[8] = {(char)('a' + w->vmta)};

	switch (h->scope) {
	case CORE_QUEUE:
		return core_glob(str_of(h->name), queue) ||
		       (!strchr(h->name, '/') && core_glob(str_of(h->name), str_of(w->dest_name)));
	case CORE_VMTA:
		return strcmp(h->name, name) == 0;
	case CORE_PROVIDER:
		return w->provider >= 0 && provider_number(str_of(h->name)) == w->provider;
	default:
		return false;
	}
}
static bool party_matches(
    const struct held *h, const struct who *w, struct str tenant, struct str campaign)
{
	char both[200];

	if (h->at[0] && strcmp(h->at, w->dest_name) != 0)
		return false;
	if (h->scope == CORE_TENANT)
		return tenant.n && str_eq(str_of(h->name), tenant);
	snprintf(both, sizeof(both), "%.*s/%.*s", STR_ARG(tenant), STR_ARG(campaign));
	return h->scope == CORE_CAMPAIGN && strcmp(both, h->name) == 0;
}
static void read_holds(struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	struct hold_view v[50];
	size_t n;

	chaos.held_count = 0;
	chaos.held_stale = false;
	while ((n = core_holds(s->core, &cursor, v, COUNT_OF(v))))
		for (size_t i = 0; i < n; i++) {
			struct held *h = &chaos.held[chaos.held_count];

			if (!str_eq(v[i].kind, STR("pause")) &&
			    !str_eq(v[i].kind, STR("suspend")) &&
			    !str_eq(v[i].kind, STR("disable-source")))
				continue;
			assert_true(chaos.held_count < HOLDS);
			*h = (struct held){.scope = v[i].scope,
			    .source = str_eq(v[i].kind, STR("disable-source")),
			    .since_ms = v[i].since_ms,
			    .until_ms = v[i].until_ms};
			str_copy(h->name, sizeof(h->name), v[i].name);
			str_copy(h->at, sizeof(h->at), v[i].at);
			chaos.held_count++;
		}
}
/* tenant.n 0: of a connection. */
static void check_held(struct sim *s, const struct who *w, struct str queue, struct str source,
    struct str tenant, struct str campaign, bool send)
{
	if (chaos.held_stale)
		read_holds(s);
	for (size_t i = 0; i < chaos.held_count; i++) {
		const struct held *h = &chaos.held[i];

		if (h->until_ms && h->until_ms <= s->now)
			continue;
		if (h->source) {
			if (str_eq(str_of(h->name), source) &&
			    (h->at[0] == 0 || str_eq(str_of(h->at), queue)))
				fail_msg("+%lld ms: %s by disabled source %s",
				    (long long)(s->now - SIM_START), send ? "sent" : "opened",
				    h->name);
		} else if (hold_matches(h, w, queue) ||
			   (send && party_matches(h, w, tenant, campaign))) {
			fail_msg("+%lld ms: %.*s is held by %s at %s since %+lld ms",
			    (long long)(s->now - SIM_START), STR_ARG(queue), h->name, h->at,
			    (long long)(h->since_ms - s->now));
		}
	}
}
static void check_route(size_t host, int domain)
{
	uint32_t ever;

	if (domain < 0)
		return;
	ever = chaos.hosts_ever[domain];
	if (domain == TO_QUEUE || domain == TO_HOSTS)
		ever |= chaos.hosts_ever[TO_HOSTS] | chaos.hosts_ever[DOMAINS];
	if (!(ever >> host & 1))
		fail_msg("host %zu is none of domain %d", host, domain);
}
static void check_grant(struct sim *s, const struct core_decision *d)
{
	const struct core_grant *g = &d->grant;
	const struct model *m = &chaos.model;
	const struct queue *q = queue_find(s->core, g->queue);
	struct budgets b;
	struct rate r;
	struct who w;

	who_is(s, &w, g->queue, g->source, sim_host_of(s, g->host), &g->address);
	check_held(s, &w, g->queue, g->source, STR(""), STR(""), false);
	check_route(w.host, domain_number(g->domain));
	assert_true(g->source.n == 0 || (w.source_of == w.vmta));
	assert_true(g->source.n == 0 || m->sources[w.source_of][w.source_k]);
	assert_true(g->source.n == 0 || (w.source_k == 2) == (g->address.family == 6));
	check_conns(s, &w, BY_ALL, 0, m->total);
	check_conns(s, &w, BY_QUEUE, 0, NUMBER(&w, conns, 10));
	if (mode_is_backoff(q))
		check_conns(s, &w, BY_QUEUE, 0, NUMBER(&w, backoff_conns, 1));
	check_conns(s, &w, BY_PATH, 0, NUMBER(&w, source_conns, 0));
	check_conns(s, &w, m->mx_by_source ? BY_HOST_SOURCE : BY_HOST, 0, m->mx_limit);
	check_conns(s, &w, m->ip_by_source ? BY_ADDRESS_SOURCE : BY_ADDRESS, 0,
	    g->address.family == 4 ? m->ip_limit : 0);
	budgets_of(&w, &b);
	for (size_t i = 0; i < b.n; i++) {
		check_conns(s, &w, b.one[i].by, b.one[i].of, b.one[i].a->conns);
		meter_take(key_by(&w, b.one[i].by, b.one[i].of), b.one[i].by, 1,
		    &b.one[i].a->connect, 1, 0);
	}
	r = RATE(&w, connect);
	meter_take(w.queue, BY_QUEUE, 1, &r, 1, 0);
	r = RATE(&w, ramp);
	meter_take(w.queue, BY_QUEUE, 2, &r, 1, 0);
	r = RATE(&w, source_connect);
	meter_take(key_by(&w, BY_PATH, 0), BY_PATH, 1, &r, 1, 0);
}

/* ---- transactions ---- */

static void take_allow(uint64_t key, enum by by, const struct allow *a, uint64_t rcpts)
{
	meter_take(key, by, 3, &a->msg, rcpts, 0);
	meter_take(key, by, 4, &a->bytes, 4096, 4096);
}
static void check_party(const struct job_view *v, const struct who *w, uint64_t rcpts)
{
	const struct model *m = &chaos.model;
	unsigned t = v->tenant.n == 2 ? (unsigned)(v->tenant.p[1] - '0') : 0;
	unsigned x = v->campaign.n == 2 ? (unsigned)(v->campaign.p[1] - '0') : 0;

	if (t == 0 || !PARTY_LIMITS)
		return;
	take_allow(1 + t, BY_TENANT, &m->tenant[t], rcpts);
	if (w->provider >= 0 && w->domain < 0)
		take_allow(1 + t * 10 + (unsigned)w->provider, BY_TENANT_AT,
		    &m->tenant_at[t][w->provider], rcpts);
	take_allow(1 + t * 10 + x, BY_CAMPAIGN, &m->campaign[t][x], rcpts);
}
static void check_send(struct sim *s, const struct core_decision *d)
{
	const struct sim_conn *c = sim_conn(s, d->conn);
	struct budgets b;
	struct job_view v;
	struct rate r;
	struct who w;

	assert_non_null(c);
	who_is(s, &w, str_of(c->queue), str_of(c->source), c->host, &c->address);
	check_route(w.host, domain_number(d->domain));
	for (size_t i = 0; i < d->job_count; i++) {
		assert_true(core_job(s->core, d->jobs[i], &v));
		assert_false(v.flags & JOB_HELD);
		assert_true(str_eq(v.queue, str_of(c->queue)));
		assert_true(str_eq(v.domain, d->domain));
		check_held(s, &w, v.queue, str_of(c->source), v.tenant, v.campaign, true);
	}
	assert_true(d->job_count <= NUMBER(&w, rcpts, 100));
	if (c->sent >= NUMBER(&w, per_conn, 100))
		fail_msg("transaction %u of %u", c->sent + 1, NUMBER(&w, per_conn, 100));
	check_party(&v, &w, d->job_count);
	budgets_of(&w, &b);
	for (size_t i = 0; i < b.n; i++)
		take_allow(
		    key_by(&w, b.one[i].by, b.one[i].of), b.one[i].by, b.one[i].a, d->job_count);
	r = RATE(&w, msg);
	meter_take(w.queue, BY_QUEUE, 3, &r, d->job_count, 0);
	r = RATE(&w, bytes);
	meter_take(w.queue, BY_QUEUE, 4, &r, 4096, 4096);
	r = RATE(&w, source_msg);
	meter_take(key_by(&w, BY_PATH, 0), BY_PATH, 3, &r, d->job_count, 0);
	if (w.source_of >= 0 && w.source_k == 0 && chaos.model.plan[w.source_of]) {
		uint64_t day = (uint64_t)(s->now / DAY);

		r = (struct rate){1, chaos.model.plan[w.source_of], 365 * DAY};
		meter_take(key_by(&w, BY_WARMUP, 0) + day * 2, BY_WARMUP, 3, &r, d->job_count, 0);
	}
}
