/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * Random configurations for test_core_chaos.c, and beside each the model of what it allows: the
 * test's own reading of the rules of precedence, by which it counts at the receiving ends.
 *
 * The world has FAMILIES of hosts (a provider's, where the configuration names one), DOMAINS, of
 * which the first LITERALS may be named in `domains` and stay in their family, VMTAS with sources,
 * pools and tenants. Everything is told by its number.
 */
#include "tests/unit/qmgr/sim.h"

enum {
	FAMILIES = 4,
	FAMILY_HOSTS = 4,
	LITERALS = 6,
	DOMAINS = 14, /* then the fixed route of TO_HOSTS */
	TO_HOSTS = 4, /* may have smtp-hosts */
	TO_QUEUE = 5, /* may have queue-to, to TO_HOSTS */
	VMTAS = 5,
	POOLS = 2,
	SOURCES = 3, /* of a virtual MTA: two IPv4, one IPv6 */
	TENANTS = 4, /* 0: none */
	CAMPAIGNS = 3,
	WORDS = 8, /* in replies, for rules */
	EVERYBODY = VMTAS
};
static const char chaos_hosts[] = "fx.test;fy.test";

struct allow { /* a budget; 0: no limit */
	uint32_t conns;
	struct rate connect, msg, bytes;
};
struct section { /* of a destination; 0: not said */
	uint32_t conns, backoff_conns, per_conn, rcpts, source_conns;
	struct rate connect, msg, bytes, ramp, source_connect, source_msg;
	struct allow budget;
};
struct model {
	uint32_t total, mx_limit, ip_limit;
	bool mx_by_source, ip_by_source;
	bool provider[FAMILIES], literal[DOMAINS], member[POOLS][VMTAS];
	bool to_hosts, to_queue;
	struct section any[VMTAS + 1], at_provider[FAMILIES][VMTAS + 1],
	    at_domain[DOMAINS][VMTAS + 1];
	struct allow vmta[VMTAS], pool[POOLS], source[VMTAS][SOURCES], tenant[TENANTS],
	    tenant_at[TENANTS][FAMILIES], campaign[TENANTS][CAMPAIGNS];
	uint32_t plan[VMTAS]; /* most of a day, of its first source; 0: none */
	bool sources[VMTAS][SOURCES];
	char text[60000];
	size_t n;
};

/* A provider that is gone and comes again has another name: its old queues are of nobody then. */
static unsigned provider_of_world[FAMILIES];

static const char *provider_name(unsigned f, char out[32])
{
	snprintf(out, 32, "p-%u.%u", f, provider_of_world[f]);
	return out;
}
static void say(struct model *m, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(struct model *m, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(m->text + m->n, sizeof(m->text) - m->n, fmt, ap);
	va_end(ap);
	assert_true(n >= 0 && m->n + (size_t)n < sizeof(m->text));
	m->n += (size_t)n;
}
static uint64_t pick(struct sim *s, uint64_t n)
{
	return sim_random(s) / 7 % n;
}
static const char *vmta_name(unsigned v)
{
	static const char *const names[] = {"a", "b", "c", "d", "e"};

	return names[v];
}
static const char *source_name(unsigned v, unsigned k, char out[32])
{
	if (k == 2)
		snprintf(out, 32, "2001:db8::%u", v + 1);
	else
		snprintf(out, 32, "192.0.2.%u", 2 * v + k + 1);
	return out;
}

/* ---- limits ---- */

static void say_conns(struct sim *s, struct model *m, const char *option, uint32_t *out)
{
	if (sim_chance(s, 55))
		return;
	*out = 1 + (uint32_t)pick(s, 12);
	say(m, "%s = %u; ", option, *out);
}
/* A token comes at least every three seconds. */
static void say_rate(
    struct sim *s, struct model *m, const char *option, bool bytes, struct rate *out)
{
	static const struct {
		const char *unit;
		int64_t ms;
	} units[] = {{"s", SECOND}, {"m", MINUTE}, {"10s", 10 * SECOND}};
	size_t u = pick(s, COUNT_OF(units));
	uint64_t n = u == 0 ? 1 + pick(s, 10) : u == 1 ? 20 + pick(s, 300) : 4 + pick(s, 100);

	if (sim_chance(s, 75))
		return;
	if (bytes)
		n *= 4096;
	*out = (struct rate){.n = n, .per_ms = units[u].ms};
	out->burst = (n * 1000 + (uint64_t)out->per_ms - 1) / (uint64_t)out->per_ms;
	if (sim_chance(s, 30)) {
		out->burst = (1 + pick(s, 50)) * (bytes ? 4096 : 1);
		say(m, "%s = \"%llu/%s burst %llu\"; ", option, (unsigned long long)n,
		    units[u].unit, (unsigned long long)out->burst);
	} else {
		say(m, "%s = \"%llu/%s\"; ", option, (unsigned long long)n, units[u].unit);
	}
}
static void say_rates(struct sim *s, struct model *m, struct allow *a)
{
	say_rate(s, m, "max-msg-rate", false, &a->msg);
	say_rate(s, m, "max-data-volume-rate", true, &a->bytes);
}
static void say_allow(struct sim *s, struct model *m, struct allow *a)
{
	say_conns(s, m, "max-smtp-out", &a->conns);
	say_rate(s, m, "max-connect-rate", false, &a->connect);
	say_rates(s, m, a);
}
static void say_budget(struct sim *s, struct model *m, struct allow *a)
{
	if (sim_chance(s, 60))
		return;
	say(m, "budget = { ");
	say_allow(s, m, a);
	if (!a->conns && !a->connect.n && !a->msg.n && !a->bytes.n) {
		a->conns = 7;
		say(m, "max-smtp-out = 7; ");
	}
	say(m, "}; ");
}

/* ---- values ---- */

static void say_behaviour(struct sim *s, struct model *m)
{
	static const char *const flags[] = {"smtp-421-means-mx-unavailable",
	    "bounce-upon-5xx-greeting", "backoff-to-normal-after-delivery",
	    "backoff-upon-all-sources-disabled", "disable-mx-rollup"};

	for (size_t i = 0; i < COUNT_OF(flags) - 1; i++)
		if (sim_chance(s, 15))
			say(m, "%s = %s; ", flags[i], sim_chance(s, 70) ? "true" : "false");
	if (sim_chance(s, 30))
		say(m, "retry-after = \"%us,%us\"; ", 5 + (unsigned)pick(s, 60),
		    10 + (unsigned)pick(s, 200));
	if (sim_chance(s, 20))
		say(m, "retry-recipients-after = \"%us\"; ", (unsigned)pick(s, 90));
	if (sim_chance(s, 20))
		say(m, "backoff-retry-after = \"%us,%us\"; ", 5 + (unsigned)pick(s, 100),
		    10 + (unsigned)pick(s, 200));
	if (sim_chance(s, 20))
		say(m, "backoff-to-normal-after = \"%us\"; ", 10 + (unsigned)pick(s, 200));
	if (sim_chance(s, 20))
		say(m, "backoff-recovery = \"%s\"; ",
		    sim_chance(s, 50) ? "off" : "20%,50%,100% every 20s");
	if (sim_chance(s, 10))
		say(m, "reenable-source-ip-after = \"%us\"; ", 10 + (unsigned)pick(s, 200));
	if (sim_chance(s, 20))
		say(m, "queue-priority = %u; ", (unsigned)pick(s, 101));
	if (sim_chance(s, 20))
		say(m, "connection-idle-timeout = \"%us\"; ", (unsigned)pick(s, 20));
	if (sim_chance(s, 8))
		say(m, "backoff-reroute-to-virtual-mta = \"%s\"; ",
		    sim_chance(s, 40) ? "p1" : vmta_name((unsigned)pick(s, VMTAS)));
	if (sim_chance(s, 4))
		say(m, "reroute-to-virtual-mta = \"%s\"; ",
		    sim_chance(s, 40) ? "p0" : vmta_name((unsigned)pick(s, VMTAS)));
	if (sim_chance(s, 40))
		say(m, "smtp-pattern-list = %s; ", sim_chance(s, 50) ? "\"r0\"" : "\"r0,r1\"");
}
static void say_section(struct sim *s, struct model *m, struct section *x, bool paths)
{
	say_conns(s, m, "max-smtp-out", &x->conns);
	if (sim_chance(s, 20))
		say_conns(s, m, "backoff-max-smtp-out", &x->backoff_conns);
	say_rate(s, m, "max-connect-rate", false, &x->connect);
	say_rate(s, m, "max-msg-rate", false, &x->msg);
	say_rate(s, m, "max-data-volume-rate", true, &x->bytes);
	if (sim_chance(s, 15)) {
		x->ramp = (struct rate){1, 1, 1 + (int64_t)pick(s, 3000)};
		say(m, "smtp-out-rampup-interval = \"%lldms\"; ", (long long)x->ramp.per_ms);
	}
	say_conns(s, m, "max-msg-per-connection", &x->per_conn);
	say_conns(s, m, "max-rcpt-per-message", &x->rcpts);
	if (paths) {
		say_conns(s, m, "source-ip-max-smtp-out", &x->source_conns);
		say_rate(s, m, "source-ip-max-connect-rate", false, &x->source_connect);
		say_rate(s, m, "source-ip-max-msg-rate", false, &x->source_msg);
	}
	say_behaviour(s, m);
}

/* ---- sections ---- */

static void say_domain(struct sim *s, struct model *m, unsigned i, unsigned v)
{
	struct section *x = &m->at_domain[i][v];

	say(m, "{ name = \"d%u.test\"; ", i);
	say_section(s, m, x, v == EVERYBODY);
	say_budget(s, m, &x->budget);
	if (v == EVERYBODY && i == TO_HOSTS && (m->to_hosts = sim_chance(s, 50)))
		say(m, "smtp-hosts = \"%s\"; ", chaos_hosts);
	if (v == EVERYBODY && i == TO_QUEUE && m->literal[TO_HOSTS] &&
	    (m->to_queue = sim_chance(s, 50)))
		say(m, "queue-to = \"d%u.test\"; ", TO_HOSTS);
	if (v == EVERYBODY && sim_chance(s, 10))
		say(m, "bounce-upon-no-mx = %s; ", sim_chance(s, 50) ? "true" : "\"1m\"");
	if (v == EVERYBODY && sim_chance(s, 3))
		say(m, "type = \"discard\"; ");
	say(m, "},\n");
}
static void say_provider(struct sim *s, struct model *m, unsigned f, unsigned v)
{
	struct section *x = &m->at_provider[f][v];
	unsigned h = f * FAMILY_HOSTS;
	char name[32];

	say(m, "{ name = \"%s\"; ", provider_name(f, name));
	if (v == EVERYBODY && f % 3 == 0)
		say(m, "mx = [ \"*.f%u.test\" ]; ", f);
	else if (v == EVERYBODY && f % 3 == 1)
		say(m,
		    "mx-set = [ \"h0.f%u.test\", \"h1.f%u.test\", \"h2.f%u.test\", "
		    "\"h3.f%u.test\" ]; ",
		    f, f, f, f);
	else if (v == EVERYBODY)
		say(m, "address = [ \"10.0.%u.0/22\", \"a00:%x00::/22\" ]; ", h, h);
	say_section(s, m, x, v == EVERYBODY);
	say_budget(s, m, &x->budget);
	say(m, "},\n");
}
/* Lists of libconfig take no comma at their end. */
static void end_list(struct model *m, const char *end)
{
	while (m->n && (m->text[m->n - 1] == '\n' || m->text[m->n - 1] == ','))
		m->n--;
	say(m, "%s", end);
}
static void say_places(struct sim *s, struct model *m, unsigned v)
{
	say(m, "domains = (\n");
	if (v == EVERYBODY) {
		say(m, "{ name = \"*\"; retry-after = \"30s,1m,2m\"; retry-recipients-after = "
		       "\"20s\"; retry-after-dns-error = \"20s,40s\"; bounce-after = \"40m\"; ");
		/* what comes twice is refused: these are not said again */
		say_conns(s, m, "max-smtp-out", &m->any[v].conns);
		say_rate(s, m, "max-msg-rate", false, &m->any[v].msg);
		say_rate(s, m, "max-connect-rate", false, &m->any[v].connect);
		say_conns(s, m, "source-ip-max-smtp-out", &m->any[v].source_conns);
		say_rate(s, m, "source-ip-max-msg-rate", false, &m->any[v].source_msg);
		say_conns(s, m, "max-msg-per-connection", &m->any[v].per_conn);
		say(m, "smtp-pattern-list = \"r0\"; backoff-to-normal-after = \"2m\"; "
		       "backoff-retry-after = \"45s\"; connect-timeout = \"20s\"; },\n");
	} else if (sim_chance(s, 30)) {
		say(m, "{ name = \"*\"; ");
		say_section(s, m, &m->any[v], false);
		say(m, "},\n");
	}
	for (unsigned i = 0; i < LITERALS; i++)
		if (m->literal[i] && (v == EVERYBODY || sim_chance(s, 15)))
			say_domain(s, m, i, v);
	end_list(m, ");\n");
	say(m, "providers = (\n");
	for (unsigned f = 0; f < FAMILIES; f++)
		if (m->provider[f] && (v == EVERYBODY || sim_chance(s, 15)))
			say_provider(s, m, f, v);
	end_list(m, ");\n");
}
static void say_vmta(struct sim *s, struct model *m, unsigned v)
{
	char name[32];
	unsigned most = 1 + (unsigned)pick(s, 7);

	say(m, "{ name = \"%s\"; ", vmta_name(v));
	say_budget(s, m, &m->vmta[v]);
	say(m, "sources = ( ");
	for (unsigned k = 0; k < SOURCES; k++) {
		if (!(most >> k & 1))
			continue;
		m->sources[v][k] = true;
		say(m, "{ address = \"%s\"; ", source_name(v, k, name));
		say_budget(s, m, &m->source[v][k]);
		if (k == 0 && v == 1 && sim_chance(s, 40)) {
			m->plan[v] = 2000;
			say(m, "warmup = { plan = \"500,1000,2000\"; %s}; ",
			    sim_chance(s, 50) ? "overflow = \"c\"; " : "");
		}
		say(m, "},");
	}
	end_list(m, " );\n");
	if (sim_chance(s, 50))
		say_places(s, m, v);
	say(m, "},\n");
}
static void say_pools(struct sim *s, struct model *m)
{
	say(m, "virtual-mta-pools = (\n");
	for (unsigned p = 0; p < POOLS; p++) {
		say(m, "{ name = \"p%u\"; ", p);
		say_budget(s, m, &m->pool[p]);
		say(m, "members = ( ");
		for (unsigned v = 0; v < VMTAS; v++)
			if (v == p || sim_chance(s, 50)) {
				m->member[p][v] = true;
				say(m, "{ virtual-mta = \"%s\"; weight = %u; },", vmta_name(v),
				    v == p ? 1 : (unsigned)pick(s, 4));
			}
		end_list(m, " ); },\n");
	}
	end_list(m, ");\n");
}
static void say_tenants(struct sim *s, struct model *m)
{
	say(m, "tenants = (\n");
	for (unsigned t = 1; t < TENANTS; t++) {
		unsigned f = (unsigned)pick(s, FAMILIES);
		char name[32];

		say(m, "{ name = \"t%u\"; weight = %u; ", t, 1 + (unsigned)pick(s, 9));
		if (sim_chance(s, 30))
			say(m, "class = \"transactional\"; ");
		if (sim_chance(s, 40)) {
			say(m, "budget = { ");
			say_rates(s, m, &m->tenant[t]);
			if (!m->tenant[t].msg.n && !m->tenant[t].bytes.n) {
				m->tenant[t].msg = (struct rate){5, 5, SECOND};
				say(m, "max-msg-rate = \"5/s\"; ");
			}
			say(m, "}; ");
		}
		if (m->provider[f] && sim_chance(s, 40)) {
			m->tenant_at[t][f].msg = (struct rate){3, 9, SECOND};
			say(m, "at = ( { provider = \"%s\"; max-msg-rate = \"3/s burst 9\"; } ); ",
			    provider_name(f, name));
		}
		if (sim_chance(s, 50)) {
			say(m, "campaigns = ( { name = \"x1\"; weight = 3; ");
			say_rates(s, m, &m->campaign[t][1]);
			say(m, "} ); ");
		}
		say(m, "},\n");
	}
	end_list(m, ");\n");
}

/* ---- rules ---- */

static void say_rule(struct sim *s, struct model *m)
{
	static const char *const actions[] = {"mode=backoff", "mode=normal", "skip-mx",
	    "bounce-queue", "bounce-recipient", "defer-recipient", "defer-queue",
	    "disable-source-ip", "suspend-queue", "suspend-tenant", "suspend-campaign",
	    "bounce-tenant", "bounce-campaign", "reroute=b", "reroute=p1", "require-tls",
	    "set max-msg-rate=120/m", "set max-smtp-out=1", "set max-smtp-out=*0.5"};
	static const char *const triggers[] = {"immediate", "3/1m", "2/10s", "20% of 10 in 5m"};
	static const char *const scopes[] = {"queue", "queue", "queue", "virtual-mta", "provider",
	    "tenant", "campaign", "source", "path"};
	size_t a = pick(s, COUNT_OF(actions));
	size_t scope = pick(s, COUNT_OF(scopes));

	if ((a == 3 || a == 11 || a == 12) && sim_chance(s, 70))
		a = 0; /* fewer that end all mail */
	if (scope == 5 && a != 9 && a != 11)
		scope = 0;
	if (scope == 6 && a != 10 && a != 12)
		scope = 0;
	if (scope >= 7 && a != 7 && a != 8)
		scope = 0;
	say(m,
	    "{ reply = \"word%u\"; trigger = \"%s\"; scope = \"%s\"; actions = [ \"%s\" ]; "
	    "for = \"%us\"; },\n",
	    (unsigned)pick(s, WORDS), triggers[pick(s, COUNT_OF(triggers))], scopes[scope],
	    actions[a], 5 + (unsigned)pick(s, 120));
}
static void say_rules(struct sim *s, struct model *m, bool rules)
{
	say(m, "smtp-pattern-lists = (\n");
	for (unsigned l = 0; l < 2; l++) {
		say(m, "{ name = \"r%u\"; rules = (\n", l);
		for (unsigned i = 0; rules && i < 4; i++)
			say_rule(s, m);
		say(m, "{ reply = \"nobody says this\"; actions = [ \"mode=backoff\" ]; } ); },\n");
	}
	end_list(m, ");\n");
}

/* ---- all of it ---- */

/* Everything may be in it; rules: these, too. */
static void any_conf(struct sim *s, struct model *m, bool rules)
{
	bool had[FAMILIES];

	memcpy(had, m->provider, sizeof(had));
	memset(m, 0, sizeof(*m));
	m->total = 200;
	if (sim_chance(s, 60)) {
		m->total = 4 + (uint32_t)pick(s, 40);
		say(m, "total-max-smtp-out = %u;\n", m->total);
	} else {
		say(m, "total-max-smtp-out = 200;\n");
	}
	if (sim_chance(s, 40)) {
		m->mx_limit = 1 + (uint32_t)pick(s, 5);
		m->mx_by_source = sim_chance(s, 30);
		say(m,
		    "mx-connection-limit = ( { mx = \"*.test\"; limit = %u; per = \"%s\"; } );\n",
		    m->mx_limit, m->mx_by_source ? "source" : "host");
	}
	if (sim_chance(s, 40)) {
		m->ip_limit = 1 + (uint32_t)pick(s, 5);
		m->ip_by_source = sim_chance(s, 30);
		say(m,
		    "ip-connection-limit = ( { ip = \"10.0.0.0/8\"; limit = %u; per = \"%s\"; } "
		    ");\n",
		    m->ip_limit, m->ip_by_source ? "source" : "address");
	}
	for (unsigned f = 0; f < FAMILIES; f++)
		if ((m->provider[f] = sim_chance(s, 60)) && !had[f])
			provider_of_world[f]++;
	for (unsigned i = 0; i < LITERALS; i++)
		m->literal[i] = sim_chance(s, 50);
	say(m, "virtual-mtas = (\n");
	for (unsigned v = 0; v < VMTAS; v++)
		say_vmta(s, m, v);
	end_list(m, ");\n");
	say_pools(s, m);
	say(m, "default-virtual-mta = \"%s\";\n", sim_chance(s, 50) ? "p0" : "a");
	say_tenants(s, m);
	say_rules(s, m, rules);
	say_places(s, m, EVERYBODY);
}
static bool is_accepted(const struct model *m)
{
	static const char rest[] = "\nhost-name = \"out.example.com\";\n"
				   "listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n";
	char path[] = "/tmp/postern-chaos-XXXXXX";
	int fd = mkstemp(path);
	struct buf errors;
	struct conf *conf;
	bool ok;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, m->text, m->n), (ssize_t)m->n);
	assert_int_equal(write(fd, rest, strlen(rest)), (ssize_t)strlen(rest));
	close(fd);
	buf_init(&errors, 65536);
	conf = conf_load(path, &errors);
	unlink(path);
	if (!conf && getenv("CHAOS_CONF"))
		print_message("%.*s%s", (int)errors.n, errors.p, m->text);
	buf_fini(&errors);
	ok = conf != NULL;
	conf_free(&conf);
	return ok;
}
/* What the check refuses (reroutes in a circle, say) is drawn anew. */
static void chaos_conf(struct sim *s, struct model *m, bool rules)
{
	unsigned tries = 0;

	do {
		assert_true(tries++ < 100);
		any_conf(s, m, rules);
	} while (!is_accepted(m));
}
/* Nothing stands in the way of anything. */
static void plain_conf(struct model *m)
{
	memset(m, 0, sizeof(*m));
	m->total = 200;
	say(m, "total-max-smtp-out = 200;\nvirtual-mtas = (\n");
	for (unsigned v = 0; v < VMTAS; v++) {
		char x[32], y[32];

		m->sources[v][0] = m->sources[v][2] = true;
		say(m,
		    "{ name = \"%s\"; sources = ( { address = \"%s\"; }, { address = \"%s\"; } "
		    "); },\n",
		    vmta_name(v), source_name(v, 0, x), source_name(v, 2, y));
	}
	end_list(m, ");\n");
	say(m, "virtual-mta-pools = (\n");
	for (unsigned p = 0; p < POOLS; p++) {
		m->member[p][p] = m->member[p][2] = true;
		say(m,
		    "{ name = \"p%u\"; members = ( { virtual-mta = \"%s\"; }, { virtual-mta = "
		    "\"c\"; } ); },\n",
		    p, vmta_name(p));
	}
	end_list(m, ");\n");
	say(m,
	    "default-virtual-mta = \"a\";\n"
	    "smtp-pattern-lists = ( { name = \"r0\"; rules = ( ); }, { name = \"r1\"; rules = ( "
	    "); } );\n"
	    "domains = ( { name = \"*\"; retry-after = \"30s\"; retry-recipients-after = \"10s\"; "
	    "retry-after-dns-error = \"20s\"; bounce-after = \"1d\"; } );\n");
}
