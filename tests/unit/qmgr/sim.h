/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * A world for the core, in virtual time: a resolver, workers, and remote hosts that answer late,
 * refuse, hang, defer, bounce, drop the line or break TLS; workers die, and the core itself is
 * restarted from what a journal would know. Every decision of the core is checked against what the
 * world knows: see sim_check_*(). Included by the tests of the core; one world at a time is no
 * requirement.
 */
#include "common/buf.h"
#include "common/match.h"
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define SIM_DEAD __attribute__((unused))
#define SIM_START INT64_C(1900000000000)

enum sim_mode { /* of a host */
	HOST_OK,
	HOST_REFUSES,
	HOST_HANGS,	 /* until connect-timeout */
	HOST_421,	 /* at the greeting */
	HOST_554,	 /* at the greeting */
	HOST_BREAKS_TLS, /* serves without TLS */
	HOST_DROPS,	 /* ready, then gone before the first transaction's end */
	HOST_NO_SOURCE	 /* connect fails on our side */
};
struct sim_host {
	char name[64];
	enum sim_mode mode;
	int64_t latency_ms;	/* 1 .. this, each step */
	unsigned defer, bounce; /* percent of recipients */
	unsigned refuse, drop;	/* percent of connections, of transactions */
	uint32_t rcpt_max, mail_max;
	int addresses; /* IPv4; of them the first `bad` refuse */
	int bad;
	bool ipv6; /* its addresses are */
	uint64_t connects, delivered;
};
struct sim_domain {
	char name[64];
	enum route_class class;
	uint32_t ttl_s;
	int64_t latency_ms;
	size_t host_count;
	size_t host[ROUTE_HOSTS_MAX];
	uint16_t preference[ROUTE_HOSTS_MAX];
	bool asking;
	bool fixed;    /* its name is a text of smtp-hosts */
	bool implicit; /* no MX record */
	uint64_t asked;
};
enum sim_state { SIM_QUEUED, SIM_IN_FLIGHT, SIM_ENDED };
struct sim_job {
	uint64_t id;
	uint16_t rcpt;
	uint32_t domain;
	job_ref ref;
	uint8_t state, outcome;
	uint8_t accepted; /* how often the remote took it */
	bool told;	  /* a core was told of the delivery */
	uint16_t attempts, delays;
	int64_t arrived_ms, not_before_ms, deferred_ms, sent_ms, ended_ms;
	char status[12];
};
struct sim_conn {
	struct node node;
	uint64_t id;
	unsigned worker;
	char queue[200];
	char source[64];
	size_t host;
	uint32_t domain;
	struct route_address address;
	uint16_t port;
	enum tls_policy tls;
	bool ready, closing;
	bool ghost; /* its worker is dead, and the peer does not know yet */
	uint32_t sent, answered, outstanding;
	int64_t busy_until_ms;
};
struct sim_tx {
	struct node node;
	uint64_t id, message;
	struct sim_conn *conn;
	uint32_t n;
	uint32_t *jobs; /* owned: indexes of jobs */
};
enum sim_kind { SIM_ROUTE, SIM_READY, SIM_CLOSED, SIM_RESULT, SIM_CALL };
struct sim_event {
	int64_t at;
	uint64_t order, a;
	enum sim_kind kind;
	struct core_failure failure;
	void (*call)(void *sim);
};
struct sim_kept {
	char *key, *value; /* owned */
	size_t key_n, value_n;
};
struct sim {
	struct core *core;
	struct conf *conf;
	uint64_t seed, random, order;
	int64_t now;
	struct sim_event *events; /* a heap */
	size_t event_count, event_cap;
	struct sim_host host[400];
	size_t host_count;
	struct sim_domain *domain;
	size_t domain_count, domain_cap;
	struct sim_job *job;
	size_t job_count, job_cap;
	uint32_t *first_of; /* message id - 1 -> its first job */
	size_t message_count, message_cap;
	struct table conns, txs;
	unsigned workers;
	bool up[64];
	uint32_t total_max, queue_max, msg_max, rcpt_max; /* what the configuration says */
	uint64_t decisions, sends, grants, closes, resolves, done, delayed, changed, duplicates;
	void (*on_decision)(struct sim *sim, const struct core_decision *d); /* a test's own eye */
	void (*on_quiet)(struct sim *sim); /* and when all decisions of an event are taken */
	bool quiet; /* no decision is carried out */
	bool clean; /* the core stops in order: levels of buckets are kept */
	int64_t flushed_ms;
	struct sim_kept *kept; /* owned: what a journal would know of states */
	size_t kept_count;
	uint64_t states, events_told;
	struct matcher *matcher;	      /* owned; NULL: nobody looks at replies */
	const char *lists;		      /* what it runs */
	const char *defer_text, *bounce_text; /* of replies to RCPT; NULL: as always */
	bool placed; /* mail takes other routes than its domains': smtp-hosts, queue-to */
	bool moving; /* domains change their hosts: an old route may serve for a while */
};

/* ---- small things ---- */

static SIM_DEAD uint64_t sim_random(struct sim *s)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return s->random;
}
static SIM_DEAD bool sim_chance(struct sim *s, unsigned percent)
{
	return sim_random(s) % 100 < percent;
}
static SIM_DEAD struct conf *sim_conf(const char *text)
{
	static const char rest[] = "\nhost-name = \"out.example.com\";\n"
				   "listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n";
	char path[] = "/tmp/postern-sim-XXXXXX";
	int fd = mkstemp(path);
	struct buf errors;
	struct conf *conf;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(write(fd, rest, strlen(rest)), (ssize_t)strlen(rest));
	close(fd);
	buf_init(&errors, 65536);
	conf = conf_load(path, &errors);
	unlink(path);
	if (!conf)
		fail_msg("%.*s", (int)errors.n, errors.p);
	buf_fini(&errors);
	return conf;
}

/* ---- events ---- */

static bool sim_before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at != b->at ? a->at < b->at : a->order < b->order;
}
static void sim_at(struct sim *s, struct sim_event e)
{
	size_t i = s->event_count++;

	if (i == s->event_cap) {
		s->event_cap = s->event_cap ? 2 * s->event_cap : 64;
		s->events = xrealloc(s->events, s->event_cap * sizeof(e));
	}
	e.order = ++s->order;
	for (; i && sim_before(&e, &s->events[(i - 1) / 2]); i = (i - 1) / 2)
		s->events[i] = s->events[(i - 1) / 2];
	s->events[i] = e;
}
static struct sim_event sim_pop(struct sim *s)
{
	struct sim_event top = s->events[0], last = s->events[--s->event_count];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < s->event_count) {
		if (child + 1 < s->event_count &&
		    sim_before(&s->events[child + 1], &s->events[child]))
			child++;
		if (!sim_before(&s->events[child], &last))
			break;
		s->events[i] = s->events[child];
		i = child;
	}
	s->events[i] = last;
	return top;
}
static SIM_DEAD void sim_call_at(struct sim *s, int64_t at, void (*call)(void *sim))
{
	sim_at(s, (struct sim_event){.at = at, .kind = SIM_CALL, .call = call});
}

/* ---- making a world ---- */

static SIM_DEAD struct sim *sim_new(uint64_t seed, unsigned workers, const char *conf)
{
	struct sim *s = xcalloc(1, sizeof(*s));

	s->seed = seed;
	s->random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
	s->now = SIM_START;
	s->workers = workers;
	s->conf = sim_conf(conf);
	s->total_max = 20000;
	s->queue_max = 10;
	s->msg_max = 100;
	s->rcpt_max = 100;
	table_init(&s->conns);
	table_init(&s->txs);
	s->core = core_new(seed, s->now);
	core_configure(s->core, s->conf, s->now);
	for (unsigned i = 0; i < workers; i++) {
		s->up[i] = true;
		core_worker_up(s->core, i, s->now);
	}
	return s;
}
static void sim_tx_free(struct sim *s, struct sim_tx *tx)
{
	table_remove(&s->txs, &tx->node);
	free(tx->jobs);
	free(tx);
}
static SIM_DEAD void sim_free(struct sim *s)
{
	struct node *n;

	while ((n = table_any(&s->txs)))
		sim_tx_free(s, OWNER(n, struct sim_tx, node));
	while ((n = table_any(&s->conns))) {
		table_remove(&s->conns, n);
		free(OWNER(n, struct sim_conn, node));
	}
	table_fini(&s->conns);
	table_fini(&s->txs);
	core_free(&s->core);
	conf_free(&s->conf);
	matcher_free(&s->matcher);
	for (size_t i = 0; i < s->kept_count; i++) {
		free(s->kept[i].key);
		free(s->kept[i].value);
	}
	free(s->kept);
	free(s->events);
	free(s->domain);
	free(s->job);
	free(s->first_of);
	free(s);
}
static SIM_DEAD size_t sim_host(struct sim *s, const char *name, enum sim_mode mode)
{
	struct sim_host *h = &s->host[s->host_count];

	assert_true(s->host_count < COUNT_OF(s->host));
	snprintf(h->name, sizeof(h->name), "%s", name);
	h->mode = mode;
	h->latency_ms = 50;
	h->addresses = 1;
	return s->host_count++;
}
static SIM_DEAD struct sim_domain *sim_domain(struct sim *s, const char *name)
{
	struct sim_domain *d;

	if (s->domain_count == s->domain_cap) {
		s->domain_cap = s->domain_cap ? 2 * s->domain_cap : 16;
		s->domain = xrealloc(s->domain, s->domain_cap * sizeof(*d));
	}
	d = &s->domain[s->domain_count++];
	*d = (struct sim_domain){.ttl_s = 3600, .latency_ms = 20};
	snprintf(d->name, sizeof(d->name), "%s", name);
	return d;
}
static SIM_DEAD void sim_mx(struct sim_domain *d, uint16_t preference, size_t host)
{
	assert_true(d->host_count < COUNT_OF(d->host));
	d->host[d->host_count] = host;
	d->preference[d->host_count++] = preference;
}
static SIM_DEAD uint64_t sim_message(struct sim *s)
{
	if (s->message_count == s->message_cap) {
		s->message_cap = s->message_cap ? 2 * s->message_cap : 1024;
		s->first_of = xrealloc(s->first_of, s->message_cap * sizeof(*s->first_of));
	}
	s->first_of[s->message_count++] = (uint32_t)s->job_count;
	return s->message_count;
}
struct sim_mail {
	uint32_t domain;
	const char *vmta, *tenant, *campaign;
	uint8_t flags;
	int64_t age_ms;
};
/* One more recipient of message `id`, which is the last one made. */
static SIM_DEAD struct sim_job *sim_rcpt(struct sim *s, uint64_t id, struct sim_mail m)
{
	struct sim_job *j;
	struct core_add a;

	if (s->job_count == s->job_cap) {
		s->job_cap = s->job_cap ? 2 * s->job_cap : 1024;
		s->job = xrealloc(s->job, s->job_cap * sizeof(*s->job));
	}
	j = &s->job[s->job_count];
	*j = (struct sim_job){.id = id,
	    .rcpt = (uint16_t)(s->job_count - s->first_of[id - 1]),
	    .domain = m.domain,
	    .arrived_ms = s->now - m.age_ms};
	s->job_count++;
	a = (struct core_add){.id = id,
	    .segment = id >> 10,
	    .offset = (id & 1023) * 64,
	    .bytes = 4096,
	    .rcpt = j->rcpt,
	    .flags = m.flags,
	    .arrived_ms = j->arrived_ms,
	    .domain = str_of(s->domain[m.domain].name),
	    .vmta = str_of(m.vmta),
	    .tenant = str_of(m.tenant),
	    .campaign = str_of(m.campaign)};
	j->ref = core_add(s->core, &a, s->now);
	return j;
}
static SIM_DEAD size_t sim_mail(struct sim *s, uint32_t domain)
{
	uint64_t id = sim_message(s);

	sim_rcpt(s, id, (struct sim_mail){.domain = domain});
	return s->job_count - 1;
}

/* ---- finding ---- */

static struct sim_conn *sim_conn(struct sim *s, uint64_t id)
{
	for (struct node *n = table_first(&s->conns, hash_mix(id, 1)); n; n = table_next(n))
		if (OWNER(n, struct sim_conn, node)->id == id)
			return OWNER(n, struct sim_conn, node);
	return NULL;
}
static SIM_DEAD void sim_configure(struct sim *s, const char *conf)
{
	conf_free(&s->conf);
	s->conf = sim_conf(conf);
	if (s->matcher) {
		matcher_free(&s->matcher);
		s->matcher = matcher_new(s->conf);
	}
	core_configure(s->core, s->conf, s->now);
}
static struct sim_tx *sim_tx(struct sim *s, uint64_t id)
{
	for (struct node *n = table_first(&s->txs, hash_mix(id, 1)); n; n = table_next(n))
		if (OWNER(n, struct sim_tx, node)->id == id)
			return OWNER(n, struct sim_tx, node);
	return NULL;
}
static uint32_t sim_job_of(struct sim *s, job_ref ref)
{
	struct job_view v;
	uint32_t i;

	assert_true(core_job(s->core, ref, &v));
	assert_true(v.id >= 1 && v.id <= s->message_count);
	i = s->first_of[v.id - 1] + v.rcpt;
	assert_true(i < s->job_count && s->job[i].id == v.id);
	return i;
}
static uint32_t sim_domain_of(struct sim *s, struct str name)
{
	for (uint32_t i = 0; i < s->domain_count; i++)
		if (str_eq(str_of(s->domain[i].name), name))
			return i;
	fail_msg("no domain %.*s", STR_ARG(name));
	return 0;
}
static size_t sim_host_of(struct sim *s, struct str name)
{
	for (size_t i = 0; i < s->host_count; i++)
		if (str_eq(str_of(s->host[i].name), name))
			return i;
	fail_msg("no host %.*s", STR_ARG(name));
	return 0;
}
static struct route_address sim_address(const struct sim *s, size_t host, int k)
{
	struct route_address a = {.family = s->host[host].ipv6 ? 6 : 4};

	a.bytes[0] = 10;
	a.bytes[1] = (uint8_t)(host >> 8);
	a.bytes[2] = (uint8_t)host;
	a.bytes[3] = (uint8_t)k;
	return a;
}

/* ---- the resolver ---- */

static void sim_resolve(struct sim *s, const struct core_decision *d)
{
	uint32_t i = sim_domain_of(s, d->hosts.n ? d->hosts : d->domain);
	struct sim_domain *m = &s->domain[i];

	assert_true(m->fixed == (d->hosts.n > 0));

	assert_false(m->asking); /* one question in flight */
	m->asking = true;
	m->asked++;
	s->resolves++;
	sim_at(s, (struct sim_event){
		      .at = s->now + 1 + (int64_t)(sim_random(s) % (uint64_t)m->latency_ms),
		      .kind = SIM_ROUTE,
		      .a = i});
}
static SIM_DEAD void sim_route(struct sim *s, uint32_t i)
{
	static struct route_host hosts[ROUTE_HOSTS_MAX];
	struct sim_domain *m = &s->domain[i];

	m->asking = false;
	for (size_t k = 0; k < m->host_count; k++) {
		const struct sim_host *h = &s->host[m->host[k]];

		hosts[k] = (struct route_host){.preference = m->preference[k]};
		snprintf(hosts[k].name, sizeof(hosts[k].name), "%s", h->name);
		hosts[k].address_count = (uint8_t)h->addresses;
		for (int a = 0; a < h->addresses; a++)
			hosts[k].address[a] = sim_address(s, m->host[k], a);
	}
	core_route(s->core,
	    &(struct core_answer){.domain = m->fixed ? STR("") : str_of(m->name),
		.fixed = m->fixed ? str_of(m->name) : STR(""),
		.class = m->class,
		.implicit = m->implicit,
		.ttl_s = m->ttl_s,
		.text = m->class == ROUTE_OK ? STR("") : STR("the resolver says no"),
		.hosts = hosts,
		.host_count = m->class == ROUTE_OK ? m->host_count : 0},
	    s->now);
}

/* ---- connections ---- */

static void sim_check_limits(struct sim *s, const struct sim_conn *c)
{
	uint32_t in_queue = 0;

	assert_true(s->conns.count <= s->total_max);
	for (size_t i = 0; i < s->conns.base + s->conns.split; i++)
		for (struct node *n = s->conns.segments[i / 512][i % 512]; n; n = n->next)
			in_queue += strcmp(OWNER(n, struct sim_conn, node)->queue, c->queue) == 0;
	if (in_queue > s->queue_max)
		fail_msg("%u connections of %s", in_queue, c->queue);
}
static void sim_fail_later(struct sim *s, const struct sim_conn *c, enum conn_cause cause,
    enum smtp_stage stage, uint16_t code, const char *text, int64_t in_ms)
{
	sim_at(s,
	    (struct sim_event){.at = s->now + in_ms,
		.kind = SIM_CLOSED,
		.a = c->id,
		.failure = {.cause = cause, .stage = stage, .code = code, .text = str_of(text)}});
}
static void sim_connect(struct sim *s, struct sim_conn *c)
{
	struct sim_host *h = &s->host[c->host];
	int64_t late = 1 + (int64_t)(sim_random(s) % (uint64_t)h->latency_ms);

	h->connects++;
	if (h->mode == HOST_OK && (c->address.bytes[3] < h->bad || sim_chance(s, h->refuse)))
		sim_fail_later(s, c, CONN_REFUSED, STAGE_CONNECT, 0, "connection refused", late);
	else if (h->mode == HOST_REFUSES)
		sim_fail_later(s, c, CONN_REFUSED, STAGE_CONNECT, 0, "connection refused", late);
	else if (h->mode == HOST_HANGS)
		sim_fail_later(s, c, CONN_TIMEOUT, STAGE_CONNECT, 0, "connection timed out", 30000);
	else if (h->mode == HOST_421)
		sim_fail_later(s, c, CONN_REPLY, STAGE_GREETING, 421, "421 4.3.2 too busy", late);
	else if (h->mode == HOST_554)
		sim_fail_later(s, c, CONN_REPLY, STAGE_GREETING, 554, "554 go away", late);
	else if (h->mode == HOST_BREAKS_TLS && c->tls != TLS_OFF)
		sim_fail_later(s, c, CONN_TLS, STAGE_STARTTLS, 0, "handshake failed", late);
	else if (h->mode == HOST_NO_SOURCE)
		sim_fail_later(s, c, CONN_LOCAL, STAGE_CONNECT, 0, "cannot bind", 1);
	else
		sim_at(s, (struct sim_event){.at = s->now + late, .kind = SIM_READY, .a = c->id});
}
static void sim_grant(struct sim *s, const struct core_decision *d)
{
	struct sim_conn *c = xcalloc(1, sizeof(*c));
	const struct sim_domain *m;
	bool known = s->moving || s->placed;

	assert_true(d->worker < s->workers && s->up[d->worker]);
	assert_null(sim_conn(s, d->conn));
	c->id = d->conn;
	c->worker = d->worker;
	str_copy(c->queue, sizeof(c->queue), d->grant.queue);
	str_copy(c->source, sizeof(c->source), d->grant.source);
	c->host = sim_host_of(s, d->grant.host);
	c->domain = sim_domain_of(s, d->grant.domain);
	c->address = d->grant.address;
	c->port = d->grant.port;
	c->tls = d->grant.tls;
	m = &s->domain[c->domain];
	for (size_t i = 0; i < m->host_count; i++)
		known |= m->host[i] == c->host;
	assert_true(known);
	table_add(&s->conns, &c->node, hash_mix(c->id, 1));
	s->grants++;
	sim_check_limits(s, c);
	sim_connect(s, c);
}
static bool sim_best(const struct sim_domain *m, size_t host)
{
	for (size_t i = 0; i < m->host_count; i++)
		if (m->host[i] == host && m->preference[i] == m->preference[0])
			return true;
	return false;
}

/* ---- transactions ---- */

static void sim_check_send(struct sim *s, struct sim_conn *c, const struct core_decision *d)
{
	uint32_t domain = sim_domain_of(s, d->domain);

	assert_non_null(c);
	assert_true(c->ready && !c->closing);
	assert_true(c->outstanding < CORE_DEPTH);
	assert_true(c->sent < s->msg_max);
	if (s->host[c->host].mail_max)
		assert_true(c->sent < s->host[c->host].mail_max);
	assert_true(d->job_count >= 1 && d->job_count <= s->rcpt_max);
	assert_true(c->domain == domain || s->placed || sim_best(&s->domain[domain], c->host));
}
static void sim_check_job(struct sim *s, uint32_t i, uint32_t domain, uint64_t id)
{
	struct sim_job *j = &s->job[i];
	struct job_view v;

	assert_true(core_job(s->core, j->ref, &v));
	assert_int_equal(v.state, JOB_IN_FLIGHT);
	assert_int_equal(j->state, SIM_QUEUED); /* never twice at once, never after its end */
	assert_int_equal(j->domain, domain);
	assert_true(j->id == id);
	/* its retry time was kept, but for a flush since */
	assert_true(s->now >= j->not_before_ms || j->deferred_ms <= s->flushed_ms);
	if (j->accepted && !(v.flags & JOB_UNCERTAIN))
		fail_msg("message %llu sent again without being uncertain", (unsigned long long)id);
}
static int64_t sim_busy(struct sim *s, struct sim_conn *c)
{
	int64_t from = c->busy_until_ms > s->now ? c->busy_until_ms : s->now;

	c->busy_until_ms =
	    from + 1 + (int64_t)(sim_random(s) % (uint64_t)s->host[c->host].latency_ms);
	return c->busy_until_ms;
}
static void sim_send(struct sim *s, const struct core_decision *d)
{
	struct sim_conn *c = sim_conn(s, d->conn);
	struct sim_tx *tx = xcalloc(1, sizeof(*tx));

	sim_check_send(s, c, d);
	tx->id = d->transaction;
	tx->conn = c;
	tx->n = (uint32_t)d->job_count;
	tx->jobs = xcalloc(tx->n, sizeof(*tx->jobs));
	for (uint32_t i = 0; i < tx->n; i++) {
		tx->jobs[i] = sim_job_of(s, d->jobs[i]);
		if (i == 0)
			tx->message = s->job[tx->jobs[0]].id;
		sim_check_job(s, tx->jobs[i], sim_domain_of(s, d->domain), tx->message);
		s->job[tx->jobs[i]].state = SIM_IN_FLIGHT;
		s->job[tx->jobs[i]].sent_ms = s->now;
	}
	table_add(&s->txs, &tx->node, hash_mix(tx->id, 1));
	c->sent++;
	c->outstanding++;
	s->sends++;
	sim_at(s, (struct sim_event){.at = sim_busy(s, c), .kind = SIM_RESULT, .a = tx->id});
}
static struct rcpt_result sim_answer(
    struct sim *s, const struct sim_host *h, struct sim_job *j, uint32_t k)
{
	struct rcpt_result r = {.ordinal = j->rcpt,
	    .stage = STAGE_DOT,
	    .code = 250,
	    .status = STR("2.0.0"),
	    .text = STR("250 2.0.0 ok")};

	if (h->rcpt_max && k >= h->rcpt_max) {
		r.verdict = VERDICT_RETRY_NOW;
		r.stage = STAGE_RCPT;
		r.code = 452;
		r.status = STR("4.5.3");
		r.text = STR("452 4.5.3 too many recipients");
	} else if (sim_chance(s, h->bounce)) {
		r.verdict = VERDICT_FAILED;
		r.stage = STAGE_RCPT;
		r.code = 550;
		r.status = STR("5.1.1");
		r.text = s->bounce_text ? str_of(s->bounce_text) : STR("550 5.1.1 no such user");
	} else if (sim_chance(s, h->defer)) {
		r.verdict = VERDICT_DEFERRED;
		r.stage = STAGE_RCPT;
		r.code = 450;
		r.status = STR("4.2.1");
		r.text = s->defer_text ? str_of(s->defer_text) : STR("450 4.2.1 later");
	} else {
		j->accepted++;
		s->duplicates += j->accepted > 1;
	}
	return r;
}
/* ---- rules: smtp-out's part ---- */

static SIM_DEAD void sim_rules(struct sim *s, const char *lists)
{
	s->matcher = matcher_new(s->conf);
	s->lists = lists;
}
static void sim_hits(struct sim *s, const struct rcpt_result *r, size_t n)
{
	static char objects[HITS_MAX * 4][HIT_OBJECT_MAX + 1];
	struct rule_hit hits[HITS_MAX * 4], found[HITS_MAX];
	size_t count = 0;

	if (!s->matcher)
		return;
	for (size_t i = 0; i < n && count + HITS_MAX < COUNT_OF(hits); i++) {
		size_t k = r[i].verdict == VERDICT_DELIVERED
			       ? 0
			       : matcher_run(s->matcher, str_of(s->lists), r[i].text, r[i].stage,
				     r[i].code == 0, found, COUNT_OF(found));

		for (size_t j = 0; j < k; j++) {
			found[j].ordinal = r[i].ordinal;
			str_copy(objects[count], sizeof(objects[count]), found[j].object);
			found[j].object = str_of(objects[count]); /* it was the matcher's */
			hits[count++] = found[j];
		}
	}
	core_hits(s->core, hits, count);
}
static void sim_conn_hits(struct sim *s, const struct core_failure *f)
{
	struct rule_hit found[HITS_MAX];
	size_t n;

	if (!s->matcher || f->cause == CONN_DONE)
		return;
	n = matcher_run(
	    s->matcher, str_of(s->lists), f->text, f->stage, f->code == 0, found, COUNT_OF(found));
	for (size_t i = 0; i < n; i++)
		found[i].ordinal = HIT_ALL;
	core_hits(s->core, found, n);
}
static void sim_drop_txs(struct sim *s, struct sim_conn *c)
{
	struct node **all = table_list(&s->txs);

	for (size_t i = 0; all[i]; i++) {
		struct sim_tx *tx = OWNER(all[i], struct sim_tx, node);

		if (tx->conn == c)
			sim_tx_free(s, tx);
	}
	free(all);
}
static void sim_drop_conn(struct sim *s, struct sim_conn *c)
{
	sim_drop_txs(s, c);
	table_remove(&s->conns, &c->node);
	free(c);
}
static void sim_result(struct sim *s, struct sim_tx *tx)
{
	struct sim_conn *c = tx->conn;
	struct sim_host *h = &s->host[c->host];
	struct rcpt_result *r;

	if (h->mode == HOST_DROPS || sim_chance(s, h->drop)) {
		sim_fail_later(s, c, CONN_LOST, STAGE_MAIL, 0, "connection lost", 0);
		return; /* not begun */
	}
	r = xcalloc(tx->n, sizeof(*r));
	for (uint32_t i = 0; i < tx->n; i++) {
		uint32_t k =
		    (i * 7 + 3) % tx->n; /* results out of order, where 7 does not divide n */

		k = tx->n % 7 ? k : i;
		r[i] = sim_answer(s, h, &s->job[tx->jobs[k]], i);
		h->delivered += r[i].verdict == VERDICT_DELIVERED;
	}
	c->outstanding--;
	c->answered++;
	sim_hits(s, r, tx->n);
	assert_int_equal(core_result(s->core, tx->id, r, tx->n, s->now), 1);
	sim_tx_free(s, tx);
	free(r);
}

/* ---- decisions ---- */

static bool sim_final(enum core_outcome o)
{
	return o != OUTCOME_DEFERRED && o != OUTCOME_RETRY;
}
static void sim_done(struct sim *s, const struct core_decision *d)
{
	struct sim_job *j = &s->job[sim_job_of(s, d->job)];
	struct job_view v;

	assert_int_not_equal(j->state, SIM_ENDED); /* one end */
	assert_true(core_job(s->core, d->job, &v));
	s->done++;
	str_copy(j->status, sizeof(j->status), d->status);
	j->state = sim_final(d->outcome) ? SIM_ENDED : SIM_QUEUED;
	j->outcome = (uint8_t)d->outcome;
	if (sim_final(d->outcome))
		j->ended_ms = s->now;
	if (d->outcome == OUTCOME_DELIVERED)
		assert_true(j->accepted >= 1 || str_eq(d->text, STR("discarded")));
	if (d->outcome == OUTCOME_DEFERRED) {
		j->attempts++;
		assert_int_equal(v.attempts, j->attempts);
		j->not_before_ms = v.due_ms;
		j->deferred_ms = s->now;
	}
}
static void sim_changed(struct sim *s, const struct core_decision *d)
{
	struct sim_job *j = &s->job[sim_job_of(s, d->job)];
	struct job_view v;

	assert_true(core_job(s->core, d->job, &v));
	j->state = SIM_QUEUED;
	if (v.state == JOB_WAITING) /* maybe another time to be sent */
		j->not_before_ms = v.due_ms;
}
static void sim_close(struct sim *s, const struct core_decision *d)
{
	struct sim_conn *c = sim_conn(s, d->conn);

	assert_non_null(c);
	assert_false(c->closing);
	assert_int_equal(c->outstanding, 0);
	c->closing = true;
	s->closes++;
	sim_at(s, (struct sim_event){.at = s->now + 5,
		      .kind = SIM_CLOSED,
		      .a = c->id,
		      .failure = {.cause = CONN_DONE, .stage = STAGE_QUIT, .was_ready = true}});
}
/* ---- states: what a journal would know ---- */

static SIM_DEAD struct sim_kept *sim_kept(struct sim *s, struct str key)
{
	for (size_t i = 0; i < s->kept_count; i++)
		if (str_eq((struct str){s->kept[i].key, s->kept[i].key_n}, key))
			return &s->kept[i];
	return NULL;
}
static void sim_keep(struct sim *s, const struct core_decision *d)
{
	struct sim_kept *k = sim_kept(s, d->key);

	s->states++;
	if (d->gone) {
		if (!k)
			return;
		free(k->key);
		free(k->value);
		*k = s->kept[--s->kept_count];
		return;
	}
	if (!k) {
		s->kept = xrealloc(s->kept, (s->kept_count + 1) * sizeof(*s->kept));
		k = &s->kept[s->kept_count++];
		*k = (struct sim_kept){.key = str_dup(d->key), .key_n = d->key.n};
	}
	free(k->value);
	k->value = str_dup(d->state);
	k->value_n = d->state.n;
}
static SIM_DEAD void sim_restore(struct sim *s, struct core *to)
{
	for (size_t i = 0; i < s->kept_count; i++)
		assert_int_equal(core_restore(to, (struct str){s->kept[i].key, s->kept[i].key_n},
				     (struct str){s->kept[i].value, s->kept[i].value_n}, s->now),
		    0);
}
static void sim_decide(struct sim *s, const struct core_decision *d)
{
	s->decisions++;
	if (s->on_decision)
		s->on_decision(s, d);
	if (s->quiet)
		return;
	switch (d->kind) {
	case DECIDE_RESOLVE:
		sim_resolve(s, d);
		break;
	case DECIDE_GRANT:
		sim_grant(s, d);
		break;
	case DECIDE_SEND:
		sim_send(s, d);
		break;
	case DECIDE_CLOSE:
		sim_close(s, d);
		break;
	case DECIDE_DONE:
		sim_done(s, d);
		break;
	case DECIDE_DELAYED:
		s->job[sim_job_of(s, d->job)].delays++;
		s->delayed++;
		break;
	case DECIDE_CHANGED:
		sim_changed(s, d);
		s->changed++;
		break;
	case DECIDE_STATE:
		sim_keep(s, d);
		break;
	case DECIDE_EVENT:
		s->events_told++;
		break;
	}
}
static SIM_DEAD void sim_drain(struct sim *s)
{
	struct core_decision d;

	while (core_next(s->core, &d))
		sim_decide(s, &d);
	if (s->on_quiet)
		s->on_quiet(s);
}

/* ---- time ---- */

static void sim_happen(struct sim *s, const struct sim_event *e)
{
	struct core_failure failure = e->failure;
	struct sim_conn *c;
	struct sim_tx *tx;

	switch (e->kind) {
	case SIM_ROUTE:
		sim_route(s, (uint32_t)e->a);
		break;
	case SIM_READY:
		if (!(c = sim_conn(s, e->a)) || c->ghost)
			break;
		c->ready = true;
		core_conn_ready(s->core, c->id, 0, s->host[c->host].mail_max, s->now);
		break;
	case SIM_CLOSED:
		if (!(c = sim_conn(s, e->a)))
			break;
		failure.was_ready = c->ready;
		if (!c->ghost) {
			sim_conn_hits(s, &failure);
			core_conn_closed(s->core, c->id, &failure, s->now);
		}
		sim_drop_conn(s, c);
		break;
	case SIM_RESULT:
		if ((tx = sim_tx(s, e->a)))
			sim_result(s, tx);
		break;
	case SIM_CALL:
		e->call(s);
		break;
	}
}
/* Until nothing happens before `until`, or (`until` 0) until the queue is empty. */
static SIM_DEAD void sim_run(struct sim *s, int64_t until)
{
	for (;;) {
		int64_t next, tick;

		sim_drain(s);
		if (!until && s->core->jobs.live == 0)
			return;
		tick = core_next_ms(s->core);
		next = s->event_count ? s->events[0].at : INT64_MAX;
		if (tick < next)
			next = tick;
		if (next == INT64_MAX || (until && next > until))
			break;
		if (next > s->now)
			s->now = next;
		if (tick <= s->now)
			core_tick(s->core, s->now);
		while (s->event_count && s->events[0].at <= s->now) {
			struct sim_event e = sim_pop(s);

			sim_happen(s, &e);
			sim_drain(s);
		}
	}
	if (until > s->now)
		s->now = until;
}
static SIM_DEAD void sim_start(struct sim *s)
{
	core_start(s->core, s->now);
}

/* ---- accidents ---- */

static void sim_make_ghost(struct sim *s, struct sim_conn *c)
{
	sim_drop_txs(s, c);
	c->ghost = true;
	sim_at(s,
	    (struct sim_event){
		.at = s->now + 1 + (int64_t)(sim_random(s) % 999), .kind = SIM_CLOSED, .a = c->id});
}
/* The worker is killed; what it had past its dot may have arrived, and nobody will know. Its peers
 * notice within a second, and count its connections until then. */
static SIM_DEAD void sim_kill_worker(struct sim *s, unsigned worker)
{
	struct node **all = table_list(&s->txs);

	for (size_t i = 0; all[i]; i++) {
		struct sim_tx *tx = OWNER(all[i], struct sim_tx, node);

		for (uint32_t k = 0; tx->conn->worker == worker && k < tx->n; k++) {
			struct sim_job *j = &s->job[tx->jobs[k]];

			if (sim_chance(s, 30))
				s->duplicates += ++j->accepted > 1;
		}
	}
	free(all);
	all = table_list(&s->conns);
	for (size_t i = 0; all[i]; i++)
		if (OWNER(all[i], struct sim_conn, node)->worker == worker &&
		    !OWNER(all[i], struct sim_conn, node)->ghost)
			sim_make_ghost(s, OWNER(all[i], struct sim_conn, node));
	free(all);
	s->up[worker] = false;
}
static SIM_DEAD void sim_export(struct sim *s, struct core *to)
{
	struct core_cursor cursor = {0, 0};
	job_ref refs[100];
	bool more = true;

	while (more) {
		size_t n = core_jobs(s->core, &cursor, refs, COUNT_OF(refs), 1000, &more);

		for (size_t i = 0; i < n; i++) {
			struct sim_job *j = &s->job[sim_job_of(s, refs[i])];
			struct core_add a;
			struct job_view v;

			assert_true(core_job(s->core, refs[i], &v));
			a = (struct core_add){.id = v.id,
			    .segment = v.segment,
			    .offset = v.offset,
			    .bytes = v.bytes,
			    .rcpt = v.rcpt,
			    .attempts = v.attempts,
			    .flags = v.flags,
			    .arrived_ms = v.arrived_ms,
			    .due_ms = v.due_ms,
			    .domain = v.domain,
			    .vmta = v.vmta,
			    .tenant = v.tenant,
			    .campaign = v.campaign,
			    .pool = v.pool};
			if (v.state == JOB_IN_FLIGHT)
				a.flags |= JOB_IN_DOUBT;
			j->ref = core_add(to, &a, s->now);
			if (j->state == SIM_IN_FLIGHT)
				j->state = SIM_QUEUED;
		}
	}
}
static SIM_DEAD void sim_report(struct sim *s, struct core *to)
{
	struct node **all = table_list(&s->conns);

	for (size_t i = 0; all[i]; i++) {
		struct sim_conn *c = OWNER(all[i], struct sim_conn, node);

		if (c->ghost) { /* nobody knows of it any more */
			sim_drop_conn(s, c);
			continue;
		}
		core_have_conn(to, c->worker, c->id, str_of(c->queue),
		    str_of(s->domain[c->domain].name), str_of(c->source),
		    str_of(s->host[c->host].name), &c->address, c->port, c->ready, s->now);
		if (c->closing)
			c->closing = false;
	}
	free(all);
	all = table_list(&s->txs);
	for (size_t i = 0; all[i]; i++) {
		struct sim_tx *tx = OWNER(all[i], struct sim_tx, node);
		uint16_t *rcpts = xcalloc(tx->n, sizeof(*rcpts));

		for (uint32_t k = 0; k < tx->n; k++) {
			rcpts[k] = s->job[tx->jobs[k]].rcpt;
			s->job[tx->jobs[k]].state = SIM_IN_FLIGHT;
		}
		assert_int_equal(
		    core_have_job(to, tx->conn->id, tx->id, tx->message, rcpts, tx->n, s->now), 0);
		free(rcpts);
	}
	free(all);
}
/* The core is killed and made anew from its journal; the workers that live report what they have.
 */
static SIM_DEAD void sim_restart(struct sim *s)
{
	struct core *to = core_new(s->seed + (uint64_t)s->now, s->now);

	if (s->clean)
		core_save(s->core, s->now);
	sim_drain(s);
	core_configure(to, s->conf, s->now);
	for (unsigned i = 0; i < s->workers; i++)
		if (s->up[i])
			core_worker_up(to, i, s->now);
	sim_restore(s, to);
	if (!s->clean)
		core_unclean(to, s->now);
	sim_export(s, to);
	sim_report(s, to);
	core_free(&s->core);
	s->core = to;
	for (size_t i = 0; i < s->domain_count; i++)
		s->domain[i].asking = false;
	core_start(to, s->now);
}
