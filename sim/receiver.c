/* SPDX-License-Identifier: ISC */
/*
 * The other side: who takes which domains' mail, on which hosts, what it puts up with, and what it
 * answers. What it counts it counts for each of our source addresses, as providers do, or for all
 * of them together.
 *
 * The last receiver has no entry in the file: it stands for hosts that the configuration
 * leads mail to by other ways than the domains' MX, and takes everything.
 */
#include "common/hosts.h"
#include "sim/impl.h"
#include <stdio.h>
#include <stdlib.h>

enum {
	ROUTE_LATENCY_MS = 20,
	ROUTE_TTL_S = 3600,
	FIRST_ADDRESS = 0x0a000001, /* 10.0.0.1 */
	LEVEL_STEP = 100,	    /* preferences between two levels of smtp-hosts */
};

/* ---- making them ---- */

static void set_reply(struct receiver *r, unsigned i, const char *text)
{
	struct reply_row *row = &r->replies[i];
	unsigned a, b, c;

	row->text = xstrdup(text);
	row->variable = strchr(text, '{') != NULL;
	if (!conf_reply_code(text, &row->code) && i == REPLY_OK)
		row->code = 250;
	if (strlen(text) > 4 && sscanf(text + 4, "%1u.%3u.%3u", &a, &b, &c) == 3)
		snprintf(row->status, sizeof(row->status), "%u.%u.%u", a, b, c);
	else
		snprintf(row->status, sizeof(row->status), "%u.0.0", row->code / 100u);
}

static void set_replies(struct receiver *r)
{
	set_reply(r, REPLY_OK, "250 2.0.0 OK");
	set_reply(r, REPLY_FULL, "421 4.7.0 Too many messages on this connection");
	set_reply(r, REPLY_RCPTS, "452 4.5.3 Too many recipients");
	if (!r->conf)
		return;
	set_reply(r, REPLY_CONNECT, conf_text(r->conf, CO_RECEIVER_connect_reply));
	set_reply(r, REPLY_RATE, conf_text(r->conf, CO_RECEIVER_msg_rate_reply));
	set_reply(r, REPLY_DEFER, conf_text(r->conf, CO_RECEIVER_defer_reply));
	set_reply(r, REPLY_BOUNCE, conf_text(r->conf, CO_RECEIVER_bounce_reply));
}

static void set_answers(struct receiver *r)
{
	static const enum smtp_stage stages[] = {
	    STAGE_RCPT, STAGE_CONNECT, STAGE_GREETING, STAGE_MAIL, STAGE_DATA, STAGE_DOT};
	const struct conf_node *n = NULL;
	size_t i = 0;

	while (r->conf && (n = conf_next(r->conf, CONF_ANSWER, n))) {
		const char *reply = conf_text(n, CO_ANSWER_reply);
		int64_t until = conf_num(n, CO_ANSWER_until);

		r->answers[i] = (struct answer_row){.stage = stages[conf_num(n, CO_ANSWER_stage)],
		    .timeout = strcmp(reply, "timeout") == 0,
		    .percent = (unsigned)conf_num(n, CO_ANSWER_percent),
		    .from_ms = SIM_START + conf_num(n, CO_ANSWER_from),
		    .until_ms = until < 0 ? INT64_MAX : SIM_START + until,
		    .tenant = conf_text(n, CO_ANSWER_tenant),
		    .campaign = conf_text(n, CO_ANSWER_campaign),
		    .source = conf_text(n, CO_ANSWER_source)};
		set_reply(r, (unsigned)(REPLY_ANSWERS + i), reply);
		i++;
	}
}

static struct speed speed_of(const struct conf_node *n, enum conf_opt opt)
{
	const struct conf_value *v = conf_get(n, opt);

	if (v->num <= 0)
		return (struct speed){0};
	return (struct speed){(double)v->num, (double)v->nums[1], (double)v->nums[0]};
}

static void read_receiver(struct receiver *r, const struct conf_node *n)
{
	r->name = conf_text(n, CO_RECEIVER_name);
	r->conf = n;
	r->latency_ms = conf_num(n, CO_RECEIVER_latency);
	r->connect_ms = conf_num(n, CO_RECEIVER_connect_latency);
	r->penalty_ms = conf_num(n, CO_RECEIVER_penalty);
	r->jitter = (unsigned)conf_num(n, CO_RECEIVER_jitter);
	r->defer = (unsigned)conf_num(n, CO_RECEIVER_defer);
	r->bounce = (unsigned)conf_num(n, CO_RECEIVER_bounce);
	r->max_connections = (uint32_t)conf_num(n, CO_RECEIVER_max_connections);
	r->max_messages = (uint32_t)conf_num(n, CO_RECEIVER_max_msg_per_connection);
	r->max_rcpts = (uint32_t)conf_num(n, CO_RECEIVER_max_rcpt_per_message);
	r->together = conf_num(n, CO_RECEIVER_per) == 1;
	r->connects = speed_of(n, CO_RECEIVER_max_connect_rate);
	r->recipients = speed_of(n, CO_RECEIVER_max_msg_rate);
	n = NULL;
	while ((n = conf_next(r->conf, CONF_ANSWER, n)))
		r->answer_count++;
}

static struct host *host_find(const struct sim *s, struct str name)
{
	uint64_t hash = hash_bytes(1, name);

	for (struct node *n = table_first(&s->hosts, hash); n; n = table_next(n))
		if (str_eq(str_of(OWNER(n, struct host, node)->name), name))
			return OWNER(n, struct host, node);
	return NULL;
}

static struct host *host_add(struct sim *s, struct str name, struct receiver *r, uint32_t address)
{
	struct host *h = host_find(s, name);

	if (h)
		return h; /* of two receivers the first */
	h = xcalloc(1, sizeof(*h));
	h->name = str_dup(name);
	h->receiver = r;
	h->address = address;
	table_add(&s->hosts, &h->node, hash_bytes(1, name));
	return h;
}

static uint32_t new_address(struct sim *s)
{
	s->next_address += ROUTE_ADDRESSES_MAX;
	return FIRST_ADDRESS + s->next_address;
}

static unsigned addresses_of(const struct receiver *r)
{
	return r->conf ? (unsigned)conf_num(r->conf, CO_RECEIVER_addresses) : 1;
}

static void add_hosts(struct sim *s, struct receiver *r)
{
	const struct conf_value *mx = conf_get(r->conf, CO_RECEIVER_mx);
	const char *first = conf_text(r->conf, CO_RECEIVER_first_address);
	struct route_address a;
	uint32_t address = 0;
	uint16_t preference;
	char name[256];

	if (first[0]) {
		must(route_address_parse(&a, str_of(first)) == 0);
		address = (uint32_t)a.bytes[0] << 24 | (uint32_t)a.bytes[1] << 16 |
			  (uint32_t)a.bytes[2] << 8 | a.bytes[3];
	}
	for (size_t i = 0; i < mx->count; i++) {
		must(conf_sim_host(name, &preference, mx->texts[i]));
		host_add(s, str_of(name), r,
		    address ? address + (uint32_t)i * addresses_of(r) : new_address(s));
	}
}

void receiver_all(struct sim *s)
{
	const struct conf_node *n = NULL;
	size_t count = 1;

	while ((n = conf_next(s->conf_sim, CONF_RECEIVER, n)))
		count++;
	s->receivers = xcalloc(count, sizeof(*s->receivers));
	while ((n = conf_next(s->conf_sim, CONF_RECEIVER, n)))
		read_receiver(&s->receivers[s->receiver_count++], n);
	s->receivers[s->receiver_count++] =
	    (struct receiver){.name = "elsewhere", .latency_ms = 200, .connect_ms = 150};
	for (size_t i = 0; i < s->receiver_count; i++) {
		struct receiver *r = &s->receivers[i];

		r->replies = xcalloc(REPLY_ANSWERS + r->answer_count, sizeof(*r->replies));
		r->answers = xcalloc(r->answer_count + 1, sizeof(*r->answers));
		set_replies(r);
		set_answers(r);
		if (r->conf)
			add_hosts(s, r);
	}
}

void receiver_fini(struct sim *s)
{
	struct node *n;

	while ((n = table_any(&s->hosts))) {
		struct host *h = OWNER(n, struct host, node);

		table_remove(&s->hosts, n);
		free(h->name);
		free(h);
	}
	for (size_t i = 0; i < s->receiver_count; i++) {
		struct receiver *r = &s->receivers[i];

		for (size_t k = 0; k < REPLY_ANSWERS + r->answer_count; k++)
			free(r->replies[k].text);
		free(r->replies);
		free(r->answers);
		free(r->peers);
		free(r->series_backlog);
		free(r->series_taken);
	}
	free(s->receivers);
}

struct receiver *receiver_of(struct sim *s, const char *domain)
{
	const struct conf_node *n = conf_receiver(s->conf_sim, domain);

	for (size_t i = 0; n && i < s->receiver_count; i++)
		if (s->receivers[i].conf == n)
			return &s->receivers[i];
	return &s->receivers[s->receiver_count - 1];
}

/* ---- routes ---- */

struct question {
	struct str domain, fixed;
	char p[];
};

void receiver_route(struct sim *s, struct str domain, struct str fixed)
{
	struct question *q = xcalloc(1, sizeof(*q) + domain.n + fixed.n + 1);

	memcpy(q->p, domain.p, domain.n);
	if (fixed.n)
		memcpy(q->p + domain.n, fixed.p, fixed.n);
	q->domain = (struct str){q->p, domain.n};
	q->fixed = (struct str){q->p + domain.n, fixed.n};
	sim_at(s, s->now + ROUTE_LATENCY_MS, HAPPENS_ROUTE, q);
}

struct answer_hosts {
	struct route_host at[ROUTE_HOSTS_MAX];
	size_t n;
};

static void put_host(
    struct answer_hosts *out, struct str name, uint16_t preference, uint16_t port, struct host *h)
{
	struct route_host *to;

	if (out->n == ROUTE_HOSTS_MAX)
		return;
	to = &out->at[out->n++];
	*to = (struct route_host){.preference = preference, .port = port};
	str_copy(to->name, sizeof(to->name), name);
	to->address_count = (uint8_t)addresses_of(h->receiver);
	for (uint32_t i = 0; i < to->address_count; i++) {
		uint32_t a = h->address + i;

		to->address[i] = (struct route_address){.family = 4,
		    .bytes = {
			(uint8_t)(a >> 24), (uint8_t)(a >> 16), (uint8_t)(a >> 8), (uint8_t)a}};
	}
}

static void put_domain(
    struct sim *s, struct answer_hosts *out, const char *domain, uint16_t level, uint16_t port)
{
	struct receiver *r = receiver_of(s, domain);
	const struct conf_value *mx = r->conf ? conf_get(r->conf, CO_RECEIVER_mx) : NULL;
	char name[300];
	uint16_t preference;

	for (size_t i = 0; mx && i < mx->count; i++) {
		must(conf_sim_host(name, &preference, mx->texts[i]));
		put_host(out, str_of(name), (uint16_t)(level + preference), port,
		    host_find(s, str_of(name)));
	}
	if (mx && mx->count)
		return;
	snprintf(name, sizeof(name), "mx.%.250s", domain);
	put_host(out, str_of(name), level, port,
	    host_add(s, str_of(name), r, host_find(s, str_of(name)) ? 0 : new_address(s)));
}

static void put_named(struct sim *s, struct answer_hosts *out, const struct hosts_entry *e)
{
	uint16_t level = (uint16_t)(e->level * LEVEL_STEP);
	struct host *h = host_find(s, str_of(e->name));

	if (e->kind == HOSTS_LOOKUP_MX) {
		put_domain(s, out, e->name, level, e->port);
		return;
	}
	if (!h)
		h = host_add(s, str_of(e->name), receiver_of(s, e->name), new_address(s));
	put_host(out, str_of(e->name), level, e->port, h);
	if (e->kind == HOSTS_ADDRESS) {
		out->at[out->n - 1].address_count = 1;
		out->at[out->n - 1].address[0] = e->address;
	}
}

static int by_preference(const void *a, const void *b)
{
	const struct route_host *x = a, *y = b;

	if (x->preference != y->preference)
		return x->preference < y->preference ? -1 : 1;
	return strcmp(x->name, y->name);
}

void receiver_answer(struct sim *s, void *question)
{
	struct question *q = question;
	struct answer_hosts *hosts = xcalloc(1, sizeof(*hosts));
	struct hosts_entry entries[HOSTS_MAX];
	char domain[256], why[200];
	size_t n = 0;

	str_copy(domain, sizeof(domain), q->domain);
	if (q->fixed.n && hosts_parse(q->fixed, entries, &n, why) != 0)
		n = 0; /* the configuration's check has refused it */
	for (size_t i = 0; i < n && hosts->n < ROUTE_HOSTS_MAX; i++)
		put_named(s, hosts, &entries[i]);
	if (!q->fixed.n)
		put_domain(s, hosts, domain, 0, 0);
	qsort(hosts->at, hosts->n, sizeof(hosts->at[0]), by_preference);
	core_route(s->core,
	    &(struct core_answer){.domain = q->fixed.n ? STR("") : q->domain,
		.fixed = q->fixed,
		.class = hosts->n ? ROUTE_OK : ROUTE_NO_HOST,
		.ttl_s = ROUTE_TTL_S,
		.text = hosts->n ? STR("") : STR("no hosts"),
		.hosts = hosts->at,
		.host_count = hosts->n},
	    s->now);
	free(hosts);
	free(q);
}

struct host *receiver_host(struct sim *s, struct str name)
{
	struct host *h = host_find(s, name);

	must(h); /* the core knows no host that we did not name */
	return h;
}

/* ---- what it counts ---- */

size_t receiver_peer(struct receiver *r, struct str source)
{
	struct peer *p;

	if (r->together)
		source = STR("");
	for (size_t i = 0; i < r->peer_count; i++)
		if (str_eq(str_of(r->peers[i].source), source))
			return i;
	if ((r->peer_count & (r->peer_count - 1)) == 0)
		r->peers =
		    xrealloc(r->peers, (r->peer_count ? 2 * r->peer_count : 1) * sizeof(*r->peers));
	p = &r->peers[r->peer_count];
	*p = (struct peer){.connects = {r->connects.burst, SIM_START},
	    .recipients = {r->recipients.burst, SIM_START}};
	str_copy(p->source, sizeof(p->source), source);
	return r->peer_count++;
}

/* Takes n if there is room for one; so a transaction may overdraw it. */
bool receiver_allows(struct allowance *a, const struct speed *speed, double n, int64_t now)
{
	if (speed->n <= 0)
		return true;
	a->tokens += (double)(now - a->at_ms) * speed->n / speed->per_ms;
	a->at_ms = now;
	if (a->tokens > speed->burst)
		a->tokens = speed->burst;
	if (a->tokens < 1)
		return false;
	a->tokens -= n;
	return true;
}

/* ---- what it says ---- */

static bool applies(const struct sim *s, const struct answer_row *a, enum smtp_stage stage,
    const char *source, struct str tenant, struct str campaign)
{
	return a->stage == stage && a->from_ms <= s->now && s->now < a->until_ms &&
	       (!a->tenant[0] || str_eq(tenant, str_of(a->tenant))) &&
	       (!a->campaign[0] || str_eq(campaign, str_of(a->campaign))) &&
	       (!a->source[0] || strcmp(source, a->source) == 0);
}

unsigned receiver_says(struct sim *s, struct receiver *r, enum smtp_stage stage, const char *source,
    struct str tenant, struct str campaign)
{
	for (size_t i = 0; i < r->answer_count; i++)
		if (applies(s, &r->answers[i], stage, source, tenant, campaign) &&
		    (r->answers[i].percent == 100 || sim_chance(s) * 100 < r->answers[i].percent))
			return (unsigned)(REPLY_ANSWERS + i);
	return REPLY_OK;
}
