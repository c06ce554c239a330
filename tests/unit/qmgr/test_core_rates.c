/* SPDX-License-Identifier: ISC */
/*
 * Every limit, alone and with others, counted where the mail arrives: connections by whatever a
 * limit counts them by, recipients and bytes by meters that hold each window against its rate.
 * No limit is ever exceeded, each is used where there is demand, nobody sleeps who could go, and
 * who waits costs nothing.
 */
#include "tests/unit/qmgr/lines.h"
#include <time.h>

#ifdef POSTERN_SANITIZED
enum { WORLDS = 15 }; /* of random limits; each is ten times as slow */
#else
enum { WORLDS = 60 };
#endif

/* ---- counting at the receiving end ---- */

enum what { COUNT_CONNS, COUNT_CONNECTS, COUNT_RCPTS, COUNT_BYTES };
enum by {
	BY_ALL,
	BY_QUEUE,
	BY_VMTA,
	BY_SOURCE,
	BY_PATH,
	BY_HOST,
	BY_HOST_SOURCE,
	BY_ADDRESS,
	BY_DEST
};
struct count { /* of one limit; each different key has a meter */
	enum what what;
	enum by by;
	const char *only; /* keys that begin so; NULL: all */
	struct rate rate; /* of connections: burst is the limit */
	uint64_t over;	  /* that a volume may exceed it by */
};
struct meter {
	char key[200];
	level_t level; /* what is left of the burst, in parts */
	int64_t at;
	uint64_t taken, most;
};
enum { COUNTS = 40, METERS = 200 };
static struct count counts[COUNTS];
static struct meter meters[COUNTS][METERS];
static size_t count_count, meter_count[COUNTS];

static void count_reset(void)
{
	count_count = 0;
	memset(meter_count, 0, sizeof(meter_count));
}

static void count_add(struct count c)
{
	assert_true(count_count < COUNTS);
	counts[count_count++] = c;
}

static void key_of(const struct sim *s, const struct sim_conn *c, enum by by, char out[200])
{
	const char *slash = strrchr(c->queue, '/'), *host = s->host[c->host].name;
	int n = slash ? (int)(slash - c->queue) : 0;

	switch (by) {
	case BY_ALL:
		snprintf(out, 200, "all");
		break;
	case BY_QUEUE:
		snprintf(out, 200, "%s", c->queue);
		break;
	case BY_VMTA:
		snprintf(out, 200, "%s", slash + 1);
		break;
	case BY_SOURCE:
		snprintf(out, 200, "%s", c->source);
		break;
	case BY_DEST:
		snprintf(out, 200, "%.*s", n, c->queue);
		break;
	case BY_PATH:
		snprintf(out, 200, "%.*s %s", n, c->queue, c->source);
		break;
	case BY_HOST:
		snprintf(out, 200, "%s", host);
		break;
	case BY_HOST_SOURCE:
		snprintf(out, 200, "%s %s", host, c->source);
		break;
	case BY_ADDRESS:
		snprintf(out, 200, "%d.%d.%d.%d", c->address.bytes[0], c->address.bytes[1],
		    c->address.bytes[2], c->address.bytes[3]);
		break;
	}
}

static struct meter *meter_of(size_t i, const char *key, int64_t now)
{
	struct meter *m;

	for (size_t k = 0; k < meter_count[i]; k++)
		if (strcmp(meters[i][k].key, key) == 0)
			return &meters[i][k];
	assert_true(meter_count[i] < METERS);
	m = &meters[i][meter_count[i]++];
	*m = (struct meter){
	    .level = (level_t)counts[i].rate.burst * counts[i].rate.per_ms, .at = now};
	snprintf(m->key, sizeof(m->key), "%s", key);
	return m;
}

static bool concerns(const struct count *c, const char *key)
{
	return !c->only || strncmp(key, c->only, strlen(c->only)) == 0;
}

/* Independent of the core's own arithmetic but for being the same law. */
static void meter_take(struct sim *s, size_t i, struct meter *m, uint64_t n)
{
	const struct rate *r = &counts[i].rate;
	level_t full = (level_t)r->burst * r->per_ms;

	m->level += (level_t)(s->now - m->at) * (level_t)r->n;
	if (m->level > full)
		m->level = full;
	m->at = s->now;
	m->level -= (level_t)n * r->per_ms;
	m->taken += n;
	if (m->level < -(level_t)counts[i].over * r->per_ms)
		fail_msg("rate %zu exceeded at %s", i, m->key);
}

static void count_conns(struct sim *s, size_t i, const char *key)
{
	struct meter *m = meter_of(i, key, s->now);
	uint64_t n = 0;
	char other[200];

	for (size_t b = 0; b < s->conns.base + s->conns.split; b++)
		for (struct node *k = s->conns.segments[b / 512][b % 512]; k; k = k->next) {
			key_of(s, OWNER(k, struct sim_conn, node), counts[i].by, other);
			n += strcmp(other, key) == 0;
		}
	n++; /* the one of this grant */
	if (n > m->most)
		m->most = n;
	if (n > counts[i].rate.burst)
		fail_msg("limit %zu: %llu connections at %s", i, (unsigned long long)n, key);
}

static void count_grant(struct sim *s, const struct core_decision *d)
{
	struct sim_conn c = {.host = sim_host_of(s, d->grant.host), .address = d->grant.address};
	char key[200];

	str_copy(c.queue, sizeof(c.queue), d->grant.queue);
	str_copy(c.source, sizeof(c.source), d->grant.source);
	for (size_t i = 0; i < count_count; i++) {
		key_of(s, &c, counts[i].by, key);
		if (!concerns(&counts[i], key))
			continue;
		if (counts[i].what == COUNT_CONNS)
			count_conns(s, i, key);
		else if (counts[i].what == COUNT_CONNECTS)
			meter_take(s, i, meter_of(i, key, s->now), 1);
	}
}

static void count_decision(struct sim *s, const struct core_decision *d)
{
	const struct sim_conn *c;
	char key[200];

	if (d->kind == DECIDE_GRANT)
		count_grant(s, d);
	if (d->kind != DECIDE_SEND)
		return;
	c = sim_conn(s, d->conn);
	for (size_t i = 0; i < count_count; i++) {
		key_of(s, c, counts[i].by, key);
		if (!concerns(&counts[i], key))
			continue;
		if (counts[i].what == COUNT_RCPTS)
			meter_take(s, i, meter_of(i, key, s->now), d->job_count);
		else if (counts[i].what == COUNT_BYTES)
			meter_take(s, i, meter_of(i, key, s->now), 4096);
	}
}

/* In a line whose first one keeps its place by a claim: until that ends, which lines_check() sees.
 */
static bool behind_a_claim(const struct core *core, const struct waiter *w)
{
	bool behind = w->at && w->at->line[w->line].heap[0]->claim_ms > core->now;

	for (uint32_t i = 0; i < w->more_count; i++)
		behind |= !w->more[i].claim_ms && behind_a_claim(core, &w->more[i]);
	return behind;
}

static bool excused[1000]; /* by the queue's slot */

static void look_at_all(struct core *core)
{
	for (uint32_t i = 1; i <= core->queue_count; i++) {
		struct queue *q = core->queue_at[i];

		if (!q)
			continue;
		assert_true(i < COUNT_OF(excused));
		excused[i] = behind_a_claim(core, &q->send) || behind_a_claim(core, &q->grant);
		queue_dirty(core, q);
	}
}

static bool is_excused(const struct core *core, const struct core_decision *d)
{
	return excused[conn_find(core, d->conn)->queue->slot];
}

/* Whoever is looked at without need decides nothing: nobody slept who could have gone. */
static void nobody_sleeps(struct sim *s)
{
	void (*quiet)(struct sim *) = s->on_quiet;
	struct core_decision d;

	s->on_quiet = NULL;
	sim_drain(s);
	core_tick(s->core, s->now);
	sim_drain(s);
	lines_check(s);
	look_at_all(s->core);
	while (core_next(s->core, &d)) {
		if ((d.kind == DECIDE_GRANT || d.kind == DECIDE_SEND) && !is_excused(s->core, &d))
			fail_msg("%s slept, though it could %s at +%lld ms",
			    d.kind == DECIDE_GRANT ? "a queue" : "a connection",
			    d.kind == DECIDE_GRANT ? "open a connection" : "send",
			    (long long)(s->now - SIM_START));
		sim_decide(s, &d);
	}
	lines_check(s);
	s->on_quiet = quiet;
}

/* ---- worlds ---- */

static struct sim *world_of(uint64_t n, const char *conf, size_t hosts, size_t domains)
{
	struct sim *s = sim_new(n, 2, conf);
	char name[32];

	s->queue_max = s->total_max = s->msg_max = s->rcpt_max = 1000000;
	for (size_t i = 0; i < hosts; i++) {
		snprintf(name, sizeof(name), "mx%zu.test", i);
		s->host[sim_host(s, name, HOST_OK)].latency_ms = 40;
		s->host[i].addresses = 2;
	}
	for (size_t i = 0; i < domains; i++) {
		snprintf(name, sizeof(name), "d%zu.test", i);
		sim_mx(sim_domain(s, name), 10, i % hosts);
	}
	s->on_decision = count_decision;
	return s;
}

static void fill(struct sim *s, size_t messages, size_t domains, const char *const *vmtas, size_t n)
{
	for (size_t i = 0; i < messages; i++) {
		uint64_t id = sim_message(s);
		uint64_t rcpts = i % 5 ? 1 : 1 + i % 7;

		while (rcpts--)
			sim_rcpt(s, id,
			    (struct sim_mail){
				.domain = (uint32_t)(i % domains), .vmta = vmtas[i / domains % n]});
	}
}

static const char *const abc[] = {"a", "b", "c"};
#define VMTAS                                                                                      \
	"virtual-mtas = ("                                                                         \
	" { name = \"a\"; sources = ( { address = \"192.0.2.1\"; }, { address = \"192.0.2.2\"; } " \
	"); },"                                                                                    \
	" { name = \"b\"; sources = ( { address = \"192.0.2.2\"; } ); },"                          \
	" { name = \"c\"; sources = ( { address = \"192.0.2.3\"; } ); } );\n"

/* ---- each alone ---- */

struct alone {
	const char *name, *conf;
	struct count count;
	unsigned keys; /* that have demand */
};
#define DOMAINS_STAR(text) VMTAS "domains = ( { name = \"*\"; max-smtp-out = 30; " text " } );\n"
static const struct alone cases[] = {
    {"max-smtp-out", VMTAS "domains = ( { name = \"*\"; max-smtp-out = 5; } );\n",
	{COUNT_CONNS, BY_QUEUE, NULL, {0, 5, 1}, 0}, 12},
    {"total-max-smtp-out", "total-max-smtp-out = 11;\n" DOMAINS_STAR(""),
	{COUNT_CONNS, BY_ALL, NULL, {0, 11, 1}, 0}, 1},
    {"max-msg-rate", DOMAINS_STAR("max-msg-rate = \"600/m\";"),
	{COUNT_RCPTS, BY_QUEUE, NULL, {600, 10, MINUTE}, 0}, 12},
    {"slow max-msg-rate", DOMAINS_STAR("max-msg-rate = \"10/m\";"),
	{COUNT_RCPTS, BY_QUEUE, NULL, {10, 1, MINUTE}, 0}, 12},
    {"max-msg-rate with a burst", DOMAINS_STAR("max-msg-rate = \"60/m burst 20\";"),
	{COUNT_RCPTS, BY_QUEUE, NULL, {60, 20, MINUTE}, 0}, 12},
    {"max-connect-rate", DOMAINS_STAR("max-connect-rate = \"120/m\"; max-msg-per-connection = 1;"),
	{COUNT_CONNECTS, BY_QUEUE, NULL, {120, 2, MINUTE}, 0}, 12},
    {"smtp-out-rampup-interval",
	DOMAINS_STAR("smtp-out-rampup-interval = \"2s\"; max-msg-per-connection = 1;"),
	{COUNT_CONNECTS, BY_QUEUE, NULL, {1, 1, 2000}, 0}, 12},
    {"max-data-volume-rate", DOMAINS_STAR("max-data-volume-rate = \"64K/s\";"),
	{COUNT_BYTES, BY_QUEUE, NULL, {65536, 65536, 1000}, 4096}, 12},
    {"source-ip-max-smtp-out", DOMAINS_STAR("source-ip-max-smtp-out = 3;"),
	{COUNT_CONNS, BY_PATH, NULL, {0, 3, 1}, 0}, 12},
    {"source-ip-max-msg-rate", DOMAINS_STAR("source-ip-max-msg-rate = \"300/m\";"),
	{COUNT_RCPTS, BY_PATH, NULL, {300, 5, MINUTE}, 0}, 12},
    {"source-ip-max-connect-rate",
	DOMAINS_STAR("source-ip-max-connect-rate = \"60/m\"; max-msg-per-connection = 1;"),
	{COUNT_CONNECTS, BY_PATH, NULL, {60, 1, MINUTE}, 0}, 12},
    {"mx-connection-limit",
	"mx-connection-limit = ( { mx = \"*.test\"; limit = 4; } );\n" DOMAINS_STAR(""),
	{COUNT_CONNS, BY_HOST, NULL, {0, 4, 1}, 0}, 4},
    {"mx-connection-limit per source",
	"mx-connection-limit = ( { mx = \"*.test\"; limit = 2; per = \"source\"; } "
	");\n" DOMAINS_STAR(""),
	{COUNT_CONNS, BY_HOST_SOURCE, NULL, {0, 2, 1}, 0}, 12},
    {"ip-connection-limit",
	"ip-connection-limit = ( { ip = \"10.0.0.0/8\"; limit = 3; } );\n" DOMAINS_STAR(""),
	{COUNT_CONNS, BY_ADDRESS, NULL, {0, 3, 1}, 0}, 8},
    {"a virtual MTA's connections",
	"virtual-mtas = ( { name = \"a\"; budget = { max-smtp-out = 7; }; }, { name = \"b\"; }, "
	"{ name = \"c\"; } );\n",
	{COUNT_CONNS, BY_VMTA, "a", {0, 7, 1}, 0}, 1},
    {"a virtual MTA's messages",
	"virtual-mtas = ( { name = \"a\"; budget = { max-msg-rate = \"20/s\"; }; }, { name = "
	"\"b\"; }, { name = \"c\"; } );\n",
	{COUNT_RCPTS, BY_VMTA, "a", {20, 20, 1000}, 0}, 1},
    {"a source's messages",
	"virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.2\"; budget = { "
	"max-msg-rate = \"20/s\"; }; } ); }, { name = \"b\"; sources = ( { address = "
	"\"192.0.2.2\"; } ); }, { name = \"c\"; } );\n",
	{COUNT_RCPTS, BY_SOURCE, "192.0.2.2", {20, 20, 1000}, 0}, 1},
    {"a source's connections and connects",
	"virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.2\"; budget = { "
	"max-smtp-out = 9; max-connect-rate = \"300/m\"; }; } ); }, { name = \"b\"; sources = ( { "
	"address = \"192.0.2.2\"; } ); }, { name = \"c\"; } );\n",
	{COUNT_CONNS, BY_SOURCE, "192.0.2.2", {0, 9, 1}, 0}, 1},
    {"a pool's messages",
	VMTAS
	"virtual-mta-pools = ( { name = \"p\"; budget = { max-msg-rate = \"30/s\"; }; members "
	"= ( { virtual-mta = \"a\"; }, { virtual-mta = \"b\"; }, { virtual-mta = \"c\"; } ); "
	"} );\n",
	{COUNT_RCPTS, BY_ALL, NULL, {30, 30, 1000}, 0}, 1},
};

static const int64_t span = 3 * MINUTE;

static void check_used(const struct alone *a)
{
	double least = 1e9;

	if (meter_count[0] < a->keys)
		fail_msg("%s: %zu of %u keys", a->name, meter_count[0], a->keys);
	for (size_t k = 0; k < meter_count[0]; k++) {
		const struct meter *m = &meters[0][k];
		const struct rate *r = &a->count.rate;
		double share = a->count.what == COUNT_CONNS ? (double)m->most / (double)r->burst
							    : (double)m->taken * (double)r->per_ms /
								  ((double)r->n * (double)span);

		least = share < least ? share : least;
	}
	print_message(
	    "%-36s %3zu keys, %.1f %% used at least\n", a->name, meter_count[0], 100 * least);
	assert_true(least >= 0.95);
}

static void each_alone(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		const struct alone *a = &cases[i];
		struct sim *s = world_of(i + 1, a->conf, 4, 4);

		count_reset();
		count_add(a->count);
		fill(s, 120000, 4, abc, 3);
		sim_start(s);
		while (s->now < SIM_START + span) {
			sim_run(s, s->now + 500 + (int64_t)(sim_random(s) % 5000));
			nobody_sleeps(s);
		}
		check_used(a);
		sim_free(s);
	}
}

/* ---- all together ---- */

/* A rate as text, and as what is to hold. */
static struct rate some_rate(struct sim *r, char out[64], const char *unit_bytes)
{
	static const struct {
		const char *unit;
		int64_t ms;
	} units[] = {{"s", SECOND}, {"m", MINUTE}, {"10s", 10 * SECOND}};
	size_t u = sim_random(r) % COUNT_OF(units);
	uint64_t n = 1 + sim_random(r) % (u ? 300 : 20), per_s;
	struct rate rate = {*unit_bytes ? n * 16384 : n, 0, units[u].ms};

	per_s = (rate.n * 1000 + (uint64_t)rate.per_ms - 1) / (uint64_t)rate.per_ms;
	rate.burst = per_s ? per_s : 1;
	if (sim_chance(r, 30))
		rate.burst = 1 + sim_random(r) % 50;
	if (*unit_bytes && rate.burst < 4096)
		rate.burst = 4096;
	snprintf(out, 64, "\"%llu/%s burst %llu\"", (unsigned long long)rate.n, units[u].unit,
	    (unsigned long long)rate.burst);
	return rate;
}

struct text {
	char p[8000];
	size_t n;
};
static void say(struct text *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->p + t->n, sizeof(t->p) - t->n, fmt, ap);
	va_end(ap);
	assert_true(n >= 0 && t->n + (size_t)n < sizeof(t->p));
	t->n += (size_t)n;
}

static void say_conns(
    struct sim *r, struct text *t, const char *option, enum by by, const char *only)
{
	uint64_t max = 1 + sim_random(r) % 12;

	if (sim_chance(r, 50))
		return;
	say(t, "%s = %llu; ", option, (unsigned long long)max);
	count_add((struct count){COUNT_CONNS, by, only, {0, max, 1}, 0});
}

static void say_rate(
    struct sim *r, struct text *t, const char *option, enum what what, enum by by, const char *only)
{
	char text[64];
	struct rate rate;

	if (sim_chance(r, 60))
		return;
	rate = some_rate(r, text, what == COUNT_BYTES ? "K" : "");
	say(t, "%s = %s; ", option, text);
	count_add((struct count){what, by, only, rate, what == COUNT_BYTES ? 4096 : 0});
}

static void say_budget(struct sim *r, struct text *t, enum by by, const char *only)
{
	say(t, "budget = { ");
	say_conns(r, t, "max-smtp-out", by, only);
	say_rate(r, t, "max-connect-rate", COUNT_CONNECTS, by, only);
	say_rate(r, t, "max-msg-rate", COUNT_RCPTS, by, only);
	say_rate(r, t, "max-data-volume-rate", COUNT_BYTES, by, only);
	say(t, "}; ");
}

/* The meters follow what it says. */
static void any_conf(struct sim *r, struct text *t)
{
	t->n = 0;
	count_count = 0;
	say_conns(r, t, "total-max-smtp-out", BY_ALL, NULL);
	if (sim_chance(r, 40)) {
		say(t, "mx-connection-limit = ( { mx = \"*.test\"; ");
		say(t, "limit = 3; } );\n");
		count_add((struct count){COUNT_CONNS, BY_HOST, NULL, {0, 3, 1}, 0});
	}
	if (sim_chance(r, 40)) {
		say(t, "ip-connection-limit = ( { ip = \"10.0.0.0/8\"; limit = 2; per = "
		       "\"source\"; }, { ip = \"10.0.1.0/24\"; limit = 2; } );\n");
		count_add((struct count){COUNT_CONNS, BY_ADDRESS, "10.0.1.", {0, 2, 1}, 0});
	}
	say(t, "virtual-mtas = ( { name = \"a\"; ");
	if (sim_chance(r, 50))
		say_budget(r, t, BY_VMTA, "a");
	say(t, "sources = ( { address = \"192.0.2.1\"; ");
	if (sim_chance(r, 50))
		say_budget(r, t, BY_SOURCE, "192.0.2.1");
	say(t, "}, { address = \"192.0.2.2\"; } ); },\n { name = \"b\"; sources = ( { address = "
	       "\"192.0.2.2\"; } ); }, { name = \"c\"; sources = ( { address = \"192.0.2.3\"; } "
	       "); } );\n");
	say(t, "domains = ( { name = \"*\"; max-msg-per-connection = %d; ",
	    1 + (int)(sim_random(r) % 50));
	if (sim_chance(r, 60)) {
		say_conns(r, t, "max-smtp-out", BY_QUEUE, NULL);
		say_rate(r, t, "max-connect-rate", COUNT_CONNECTS, BY_QUEUE, NULL);
		say_rate(r, t, "max-msg-rate", COUNT_RCPTS, BY_QUEUE, NULL);
		say_rate(r, t, "max-data-volume-rate", COUNT_BYTES, BY_QUEUE, NULL);
	}
	if (sim_chance(r, 60)) {
		say_conns(r, t, "source-ip-max-smtp-out", BY_PATH, NULL);
		say_rate(r, t, "source-ip-max-connect-rate", COUNT_CONNECTS, BY_PATH, NULL);
		say_rate(r, t, "source-ip-max-msg-rate", COUNT_RCPTS, BY_PATH, NULL);
	}
	say(t, "}, { name = \"d1.test\"; ");
	if (sim_chance(r, 50))
		say_budget(r, t, BY_DEST, "d1.test");
	say(t, "} );\n");
}

/* What arrives is what the tightest of all that apply lets through, or the mail has been sent:
 * where nobody sleeps and somebody waits, some limit is in use. */
static void check_waiters(struct sim *s)
{
	const struct core *core = s->core;

	for (uint32_t i = 1; i <= core->queue_count; i++) {
		const struct queue *q = core->queue_at[i];

		if (!q || queue_ready(q) == 0 || !q->routed || q->hold_ms > s->now)
			continue;
		if (!q->send.at && !q->grant.at && q->limit.used == 0 &&
		    !wheel_armed(&q->wake.node))
			fail_msg("%s has mail, no connection, and waits for nothing", q->name);
	}
}

/* After a kill a bucket counts as empty, not as overdrawn: nobody knows the last message's size. */
static void forget_overdrafts(const struct sim *s)
{
	for (size_t i = 0; i < count_count; i++)
		for (size_t k = 0; counts[i].what == COUNT_BYTES && k < meter_count[i]; k++) {
			struct meter *m = &meters[i][k];

			m->level += (level_t)(s->now - m->at) * (level_t)counts[i].rate.n;
			m->at = s->now;
			if (m->level < 0)
				m->level = 0;
		}
}

/* Some say more, some less; a restart forgets what was not saved, and connections live on. */
static void all_together(void **state)
{
	uint64_t first = getenv("SIM_SEED") ? strtoull(getenv("SIM_SEED"), NULL, 0) : 1;
	uint64_t worlds = getenv("SIM_WORLDS") ? strtoull(getenv("SIM_WORLDS"), NULL, 0) : WORLDS;
	uint64_t sends = 0, restarts = 0;

	(void)state;
	for (uint64_t n = first; n < first + worlds; n++) {
		struct sim r = {.random = n * UINT64_C(0x9e3779b97f4a7c15) | 1};
		static struct text t;
		struct sim *s;

		count_reset();
		any_conf(&r, &t);
		s = world_of(n, t.p, 4, 4);
		s->host[0].refuse = (unsigned)(sim_random(s) % 30);
		s->host[1].drop = (unsigned)(sim_random(s) % 10);
		s->host[2].defer = (unsigned)(sim_random(s) % 20);
		fill(s, 4000, 4, abc, 3);
		s->on_quiet = n % 4 ? lines_check : nobody_sleeps;
		sim_start(s);
		while (s->now < SIM_START + 40 * SECOND) {
			sim_run(s, s->now + 100 + (int64_t)(sim_random(s) % 3000));
			nobody_sleeps(s);
			check_waiters(s);
			if (sim_chance(s, 5)) {
				s->clean = sim_chance(s, 50);
				if (!s->clean)
					forget_overdrafts(s);
				sim_restart(s);
				restarts++;
			} else if (sim_chance(s, 5)) {
				sim_configure(s, t.p);
			}
		}
		sends += s->sends;
		sim_free(s);
	}
	print_message("%llu transactions, %llu restarts\n", (unsigned long long)sends,
	    (unsigned long long)restarts);
	assert_true(worlds < 100 || sends > 100 * worlds);
}

/* ---- who waits ---- */

/* Twenty queues want what one budget lets through: each gets its part, whoever has more to send. */
static void waiters_share_alike(void **state)
{
	enum { QUEUES = 20 };
	struct sim *s = world_of(7,
	    "virtual-mtas = ( { name = \"a\"; budget = { max-msg-rate = \"40/s\"; }; } );\n",
	    QUEUES, QUEUES);
	uint64_t least = UINT64_MAX, most = 0;

	(void)state;
	count_reset();
	count_add((struct count){COUNT_RCPTS, BY_VMTA, NULL, {40, 40, 1000}, 0});
	count_add((struct count){COUNT_RCPTS, BY_QUEUE, NULL, {40, 40, 1000}, 0});
	for (uint32_t i = 0; i < QUEUES; i++)
		for (int k = 0; k < (i % 2 ? 400 : 2000); k++)
			sim_mail(s, i);
	sim_start(s);
	sim_run(s, s->now + MINUTE);
	for (size_t k = 0; k < meter_count[1]; k++) {
		least = meters[1][k].taken < least ? meters[1][k].taken : least;
		most = meters[1][k].taken > most ? meters[1][k].taken : most;
	}
	print_message(
	    "of one budget: %llu to %llu\n", (unsigned long long)least, (unsigned long long)most);
	assert_int_equal(meter_count[1], QUEUES);
	assert_true(meters[0][0].taken >= 40 * 60 * 95 / 100);
	assert_true(most <= least + least / 5 + 5);
	sim_free(s);
}

/* The higher queue-priority goes first, and an equal one in turn. */
static void priority_goes_first(void **state)
{
	struct sim *s = world_of(7,
	    "virtual-mtas = ( { name = \"a\"; budget = { max-msg-rate = \"10/s\"; }; } );\n"
	    "domains = ( { name = \"d0.test\"; queue-priority = 90; }, { name = \"d1.test\"; }, { "
	    "name = \"d2.test\"; queue-priority = 10; } );\n",
	    3, 3);
	uint64_t ended[3] = {0};

	(void)state;
	count_reset();
	for (uint32_t i = 0; i < 300; i++)
		sim_mail(s, 2 - i % 3);
	sim_start(s);
	sim_run(s, s->now + 12 * SECOND); /* 130 may go */
	for (size_t i = 0; i < s->job_count; i++)
		ended[s->job[i].domain] += s->job[i].state == SIM_ENDED;
	print_message("by priority: %llu, %llu, %llu\n", (unsigned long long)ended[0],
	    (unsigned long long)ended[1], (unsigned long long)ended[2]);
	assert_true(ended[0] >= 95 && ended[1] >= 20 && ended[2] <= 10);
	sim_free(s);
}

/* ---- two budgets at once ---- */

struct pair { /* d0.test/a needs a token of both, d1.test/a of the first, d0.test/b of the second */
	const char *first, *second;
	struct rate rates[2];
	int64_t span;
	bool of_source; /* the first is the source address's, not the virtual MTA's */
	bool connects;
};
static const struct pair pairs[] = {
    {"10/s burst 1", "7/s burst 1", {{10, 1, 1000}, {7, 1, 1000}}, 2 * MINUTE, false, false},
    {"7/s burst 1", "10/s burst 1", {{7, 1, 1000}, {10, 1, 1000}}, 2 * MINUTE, false, false},
    {"10/s burst 1", "7/s burst 1", {{10, 1, 1000}, {7, 1, 1000}}, 2 * MINUTE, true, false},
    {"60/h burst 1", "41/h burst 1", {{60, 1, HOUR}, {41, 1, HOUR}}, DAY, false, false},
    {"41/h burst 1", "60/h burst 1", {{41, 1, HOUR}, {60, 1, HOUR}}, DAY, true, false},
    {"20/s", "20/s", {{20, 20, 1000}, {20, 20, 1000}}, 2 * MINUTE, false, false},
    {"50/s burst 2", "1/s burst 1", {{50, 2, 1000}, {1, 1, 1000}}, 50 * SECOND, true, false},
    {"1/s burst 1", "50/s burst 2", {{1, 1, 1000}, {50, 2, 1000}}, 50 * SECOND, false, false},
    {"10/s burst 1", "7/s burst 1", {{10, 1, 1000}, {7, 1, 1000}}, 2 * MINUTE, false, true},
    {"7/s burst 1", "10/s burst 1", {{7, 1, 1000}, {10, 1, 1000}}, 2 * MINUTE, true, true},
};

static void pair_conf(const struct pair *p, struct text *t)
{
	const char *option = p->connects ? "max-connect-rate" : "max-msg-rate";
	static struct text budget;

	t->n = budget.n = 0;
	say(&budget, "budget = { %s = \"%s\"; }; ", option, p->first);
	say(t,
	    "virtual-mtas = ( { name = \"a\"; %s sources = ( { address = \"192.0.2.1\"; %s} ); }, "
	    "{ name = \"b\"; sources = ( { address = \"192.0.2.2\"; } ); } );\n",
	    p->of_source ? "" : budget.p, p->of_source ? budget.p : "");
	say(t,
	    "domains = ( { name = \"*\"; bounce-after = \"30d\"; %s }, { name = \"d0.test\"; "
	    "budget = { %s = \"%s\"; }; }, { name = \"d1.test\"; } );\n",
	    p->connects ? "max-msg-per-connection = 1;" : "", option, p->second);
}

/* A token that is not there at the same time as the other one is still got: a queue that needs both
 * has at least half of what it would have if each budget were shared alike, and what cannot be used
 * for that is less than an eighth of either. */
static void two_budgets(const struct pair *p)
{
	static const struct {
		uint32_t domain;
		const char *vmta;
	} flows[] = {{0, "a"}, {1, "a"}, {0, "b"}};
	enum what what = p->connects ? COUNT_CONNECTS : COUNT_RCPTS;
	static struct text t;
	struct sim *s;
	double part[2], fair;

	pair_conf(p, &t);
	s = world_of(7, t.p, 2, 2);
	count_reset();
	count_add((struct count){what, BY_QUEUE, "d0.test/a", {1000000, 1000000, 1}, 0});
	count_add((struct count){what, BY_VMTA, "a", p->rates[0], 0});
	count_add((struct count){what, BY_DEST, "d0.test", p->rates[1], 0});
	for (size_t i = 0; i < 9000; i++)
		sim_rcpt(s, sim_message(s),
		    (struct sim_mail){.domain = flows[i % 3].domain, .vmta = flows[i % 3].vmta});
	s->on_quiet = lines_check;
	sim_start(s);
	sim_run(s, s->now + p->span);
	for (int i = 0; i < 2; i++)
		part[i] = (double)p->rates[i].n * (double)p->span / (double)p->rates[i].per_ms;
	fair = (part[0] < part[1] ? part[0] : part[1]) / 2;
	print_message("%s %s and %s: %llu of %.0f, %.1f %% and %.1f %% used\n",
	    p->of_source ? "source" : "virtual MTA", p->first, p->second,
	    (unsigned long long)meters[0][0].taken, fair,
	    100 * (double)meters[1][0].taken / part[0], 100 * (double)meters[2][0].taken / part[1]);
	assert_true((double)meters[0][0].taken >= fair / 2);
	for (int i = 0; i < 2; i++)
		assert_true((double)meters[1 + i][0].taken >= part[i] * 7 / 8);
	sim_free(s);
}

static void two_budgets_at_once(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(pairs); i++)
		two_budgets(&pairs[i]);
}

/* ---- restarts ---- */

/* However often it stops, in order or not, a day's rate is a day's rate. */
static void restarts_refill_nothing(void **state)
{
	(void)state;
	for (int clean = 0; clean < 2; clean++) {
		struct sim *s = world_of(7,
		    "domains = ( { name = \"*\"; max-msg-rate = \"240/d burst 20\"; } );\n", 1, 1);

		count_reset();
		count_add((struct count){COUNT_RCPTS, BY_QUEUE, NULL, {240, 20, DAY}, 0});
		for (int i = 0; i < 2000; i++)
			sim_mail(s, 0);
		s->clean = clean;
		sim_start(s);
		for (int i = 0; i < 50; i++) {
			sim_run(s, s->now + (int64_t)(sim_random(s) % (uint64_t)HOUR));
			sim_restart(s);
			nobody_sleeps(s);
		}
		assert_true(meters[0][0].taken >=
			    (uint64_t)(s->now - SIM_START) * 240 / (uint64_t)DAY * 9 / 10);
		sim_free(s);
	}
}

/* A queue that was empty and gone for a while finds its bucket as it was. */
static void idleness_refills_nothing(void **state)
{
	struct sim *s =
	    world_of(7, "domains = ( { name = \"*\"; max-msg-rate = \"2/d burst 5\"; } );\n", 1, 1);

	(void)state;
	count_reset();
	count_add((struct count){COUNT_RCPTS, BY_QUEUE, NULL, {2, 5, DAY}, 0});
	for (int i = 0; i < 5; i++)
		sim_mail(s, 0);
	sim_start(s);
	sim_run(s, s->now + 2 * HOUR);
	assert_int_equal(s->core->queues.count, 0);
	assert_int_equal(s->core->levels.count, 1);
	for (int i = 0; i < 5; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + HOUR);
	assert_int_equal(meters[0][0].taken, 5);
	sim_run(s, s->now + DAY);
	assert_int_equal(meters[0][0].taken, 7);
	sim_free(s);
}

/* ---- a hundred thousand that wait ---- */

enum { WAIT_HOSTS = 399, WAIT_VMTAS = 250 };
static int64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static struct sim *crowd(bool there)
{
	static struct text t;
	struct sim *s;
	char name[32];

	t.n = 0;
	say(&t, "virtual-mtas = ( { name = \"free\"; }");
	say(&t, ", { name = \"both\"; budget = { max-msg-rate = \"1/d\"; }; }");
	for (int i = 0; i < WAIT_VMTAS; i++)
		say(&t, ",{name=\"v%d\";}", i);
	say(&t,
	    ");\ndomains = ( { name = \"*\"; max-msg-rate = \"1/d\"; bounce-after = \"30d\"; }, "
	    "{ name = \"free.test\"; max-msg-rate = \"1000000/s\"; } );\n");
	s = world_of(3, t.p, WAIT_HOSTS, WAIT_HOSTS);
	count_reset();
	sim_mx(sim_domain(s, "free.test"), 10, sim_host(s, "free.mx.test", HOST_OK));
	for (uint32_t i = 0; there && i < WAIT_HOSTS; i++)
		for (int k = 0; k < WAIT_VMTAS + 1; k++) {
			snprintf(name, sizeof(name), k ? "v%d" : "both", k - 1);
			sim_rcpt(s, sim_message(s), (struct sim_mail){.domain = i, .vmta = name});
		}
	core_unclean(s->core, s->now); /* nothing may be sent for a day */
	sim_start(s);
	sim_run(s, s->now + 25 * MINUTE); /* the queues that waited for a route are gone */
	assert_int_equal(s->sends, 0);
	return s;
}

static int64_t time_free(struct sim *s)
{
	int64_t t0;

	for (int i = 0; i < 30000; i++)
		sim_rcpt(
		    s, sim_message(s), (struct sim_mail){.domain = WAIT_HOSTS, .vmta = "free"});
	t0 = cpu_ns();
	while (s->done < 30000)
		sim_run(s, s->now + SECOND);
	return cpu_ns() - t0;
}

static void waiting_costs_nothing(void **state)
{
	struct sim *s = crowd(true), *alone = crowd(false);
	int64_t t0 = cpu_ns(), from = s->now, hour_ns, with_ns, alone_ns;
	uint64_t at = 0;

	(void)state;
	assert_in_range(s->core->queues.count, 100000, 101000);
	while (s->now < from + HOUR / 6) {
		int64_t next = core_next_ms(s->core);

		at++;
		sim_run(s, next > s->now ? next : s->now + 1);
	}
	hour_ns = cpu_ns() - t0;
	with_ns = time_free(s);
	alone_ns = time_free(alone);
	print_message("%zu queues wait: %lld ms of processor in ten minutes, %llu looks; free mail "
		      "%lld ms with them, %lld ms without\n",
	    s->core->queues.count, (long long)hour_ns / 1000000, (unsigned long long)at,
	    (long long)with_ns / 1000000, (long long)alone_ns / 1000000);
	assert_true(hour_ns < 10 * 60 * INT64_C(1000000000) / 50);
	assert_true(with_ns < 2 * alone_ns);
	sim_free(s);
	sim_free(alone);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_alone),
	    cmocka_unit_test(all_together),
	    cmocka_unit_test(waiters_share_alike),
	    cmocka_unit_test(priority_goes_first),
	    cmocka_unit_test(two_budgets_at_once),
	    cmocka_unit_test(restarts_refill_nothing),
	    cmocka_unit_test(idleness_refills_nothing),
	    cmocka_unit_test(waiting_costs_nothing),
	};

	if (getenv("SIM_SEED") || getenv("SIM_TEST"))
		cmocka_set_test_filter(getenv("SIM_TEST") ? getenv("SIM_TEST") : "all_together");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
