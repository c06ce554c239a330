/* SPDX-License-Identifier: ISC */
/* Providers: which one a route leads to, against a matcher that tries everything; rollup by it. */
#include "common/addr.h"
#include "tests/unit/qmgr/sim.h"

/* ---- routes made by hand ---- */

static struct route *route(struct sim *s, const char *hosts, const char *addresses)
{
	struct route *r = xcalloc(1, sizeof(*r) + 8 * sizeof(r->host[0]));
	struct route_address *a = xcalloc(8, sizeof(*a));
	struct str rest = str_of(hosts), more = str_of(addresses);

	for (uint32_t i = 0; rest.n; i++) {
		struct str address = str_cut(&more, ' ');

		r->host[i].name = name_get(s->core, str_cut(&rest, ' '));
		r->host[i].address = &a[i];
		if (address.n) {
			assert_int_equal(route_address_parse(&a[i], address), 0);
			r->host[i].address_count = 1;
		}
		r->best_count = r->host_count = i + 1;
	}
	return r;
}

static void route_end(struct sim *s, struct route *r)
{
	free(r->host[0].address);
	for (uint32_t i = 0; i < r->host_count; i++)
		name_drop(s->core, r->host[i].name);
	free(r);
}

static void who_wins(void **state)
{
	static const char conf[] =
	    "providers = ( { name = \"com\"; mx = [ \"*.com\" ]; },\n"
	    "  { name = \"google\"; mx = [ \"*.google.com\", \"*.googlemail.com\" ]; },\n"
	    "  { name = \"aspmx\"; mx = [ \"aspmx.l.google.com\" ]; },\n"
	    "  { name = \"set\"; mx-set = [ \"a.google.com\", \"b.google.com\" ]; },\n"
	    "  { name = \"net16\"; address = [ \"10.1.0.0/16\" ]; },\n"
	    "  { name = \"net24\"; address = [ \"10.1.2.0/24\", \"2001:db8::/32\" ]; },\n"
	    "  { name = \"same1\"; mx = [ \"*.same.test\" ]; },\n"
	    "  { name = \"same2\"; mx = [ \"*.b.same.test\", \"*.other.test\" ]; } );\n";
	static const struct {
		const char *hosts, *addresses, *provider;
	} cases[] = {
	    {"mx.google.com", "", "google"},
	    {"mx.l.google.com alt.googlemail.com", "", "google"}, /* either pattern, more labels */
	    {"google.com", "", "com"},				  /* one or more labels */
	    {"mx.google.com mx.other.com", "", "com"},		  /* all must match */
	    {"mx.google.com mx.other.net", "", NULL},
	    {"aspmx.l.google.com", "", "aspmx"}, /* the longer one */
	    {"aspmx.l.google.com b.l.google.com", "", "google"},
	    {"a.google.com b.google.com", "", "set"}, /* a set goes first */
	    {"a.google.com", "", "set"},	      /* some of it */
	    {"a.google.com c.google.com", "", "google"},
	    {"x.test", "10.1.2.3", "net24"},
	    {"x.test y.test", "10.1.2.3 10.1.3.3", "net16"},
	    {"x.test y.test", "10.1.2.3 10.2.3.3", NULL},
	    {"x.test", "2001:db8::5", "net24"},
	    {"x.com", "10.1.2.3", "com"}, /* patterns before networks */
	    {"x.same.test", "", "same1"},
	    {"x.b.same.test y.other.test", "", "same2"},
	    {"x.same.test y.other.test", "", NULL},
	    {"x.b.same.test y.same.test", "", "same1"},
	    {"mygoogle.com", "", "com"},
	    {"xgoogle.net", "", NULL},
	};
	struct sim *s = sim_new(1, 1, conf);

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct route *r = route(s, cases[i].hosts, cases[i].addresses);
		struct name *p = provider_of_route(s->core, r);

		if (!str_eq(name_str(p), str_of(cases[i].provider)))
			fail_msg("%s: %.*s", cases[i].hosts, STR_ARG(name_str(p)));
		route_end(s, r);
	}
	sim_free(s);
}

/* ---- random ones, against brute force ---- */

enum { PROVIDERS = 40, ENTRIES = 3 };
static struct {
	char set[ENTRIES][40], pattern[ENTRIES][40], network[ENTRIES][40];
} made[PROVIDERS];

static void random_name(struct sim *s, char *out, size_t n, bool pattern)
{
	static const char *const labels[] = {"a", "b", "c", "d"};
	int depth = 1 + (int)(sim_random(s) % 4);
	size_t at = 0;

	if (pattern && sim_chance(s, 60))
		at = (size_t)snprintf(out, n, "*.");
	for (int i = 0; i < depth; i++)
		at += (size_t)snprintf(out + at, n - at, "%s.", labels[sim_random(s) % 4]);
	snprintf(out + at, n - at, "test");
}

static bool stands(const char *text)
{
	for (int p = 0; p < PROVIDERS; p++)
		for (int i = 0; i < ENTRIES; i++)
			if (strcmp(made[p].set[i], text) == 0 ||
			    strcmp(made[p].pattern[i], text) == 0 ||
			    strcmp(made[p].network[i], text) == 0)
				return true;
	return false;
}

/* No entry stands twice: the configuration refuses that. */
static void random_entries(struct sim *s, int p)
{
	char text[40];

	for (int i = 0; i < ENTRIES; i++) {
		do
			random_name(s, text, sizeof(text), false);
		while (stands(text));
		if (p % 8) /* sets are rare, else they would win always */
			snprintf(text, sizeof(text), "never%d.p%d.test", i, p);
		memcpy(made[p].set[i], text, sizeof(text));
		do
			random_name(s, text, sizeof(text), true);
		while (stands(text));
		memcpy(made[p].pattern[i], text, sizeof(text));
		do {
			unsigned bits = 12 + 2 * (unsigned)(sim_random(s) % 4);
			unsigned base = (unsigned)(sim_random(s) % 128) << 8;

			base &= 0xffffu << (24 - bits);
			snprintf(
			    text, sizeof(text), "10.%u.%u.0/%u", base >> 8 & 255, base & 255, bits);
		} while (stands(text));
		memcpy(made[p].network[i], text, sizeof(text));
	}
}

static unsigned pattern_length(const char *pattern, struct str host)
{
	size_t n = strlen(pattern);

	if (pattern[0] != '*')
		return str_eq(str_of(pattern), host) ? (unsigned)n : 0;
	return host.n > n - 1 && memcmp(host.p + host.n - (n - 1), pattern + 1, n - 1) == 0
		   ? (unsigned)n
		   : 0;
}

static unsigned network_length(const char *network, const struct route_address *a)
{
	struct network n;
	uint8_t bytes[16] = {0};

	assert_int_equal(network_parse(&n, str_of(network)), 0);
	bytes[10] = bytes[11] = 0xff;
	memcpy(bytes + 12, a->bytes, 4);
	return network_has(&n, bytes) ? n.bits + 1u : 0;
}

static unsigned quality(int kind, int provider, const struct route_entry *host)
{
	unsigned best = 0;

	for (int i = 0; i < ENTRIES; i++) {
		unsigned n = 0;

		if (kind == 0)
			n = str_eq(str_of(made[provider].set[i]), name_str(host->name));
		else if (kind == 1)
			n = pattern_length(made[provider].pattern[i], name_str(host->name));
		else
			n = network_length(made[provider].network[i], &host->address[0]);
		best = n > best ? n : best;
	}
	return best;
}

static int brute(const struct route *r)
{
	for (int kind = 0; kind < 3; kind++) {
		unsigned most = 0;
		int found = -1;

		for (int p = 0; p < PROVIDERS; p++) {
			unsigned least = UINT32_MAX;

			for (uint32_t h = 0; h < r->best_count; h++) {
				unsigned n = quality(kind, p, &r->host[h]);

				least = n < least ? n : least;
			}
			if (least > most) {
				most = least;
				found = p;
			}
		}
		if (found >= 0)
			return found;
	}
	return -1;
}

static void against_brute_force(void **state)
{
	struct sim *s = sim_new(20261123, 1, "");
	struct buf conf;
	unsigned hits = 0;

	(void)state;
	print_message("seed 20261123\n");
	buf_init(&conf, 1 << 20);
	buf_cstr(&conf, "providers = (");
	for (int p = 0; p < PROVIDERS; p++) {
		buf_printf(&conf, "%s{ name = \"p%d\"; ", p ? ", " : "", p);
		random_entries(s, p);
		buf_printf(&conf, "mx-set = [ \"%s\", \"%s\", \"%s\" ]; ", made[p].set[0],
		    made[p].set[1], made[p].set[2]);
		buf_printf(&conf, "mx = [ \"%s\", \"%s\", \"%s\" ]; ", made[p].pattern[0],
		    made[p].pattern[1], made[p].pattern[2]);
		buf_printf(&conf, "address = [ \"%s\", \"%s\", \"%s\" ]; }\n", made[p].network[0],
		    made[p].network[1], made[p].network[2]);
	}
	buf_cstr(&conf, ");\n");
	buf_u8(&conf, 0);
	sim_configure(s, (const char *)conf.p);
	for (int i = 0; i < 20000; i++) {
		char hosts[200] = "", addresses[100] = "", one[40];
		int n = 1 + (int)(sim_random(s) % 3), want;
		struct route *r;
		struct name *got;

		for (int k = 0; k < n; k++) {
			if (sim_chance(s, 50))
				random_name(s, one, sizeof(one), false);
			else
				snprintf(one, sizeof(one), "x%d.elsewhere", k);
			snprintf(hosts + strlen(hosts), sizeof(hosts) - strlen(hosts), "%s%s",
			    k ? " " : "", one);
			snprintf(addresses + strlen(addresses),
			    sizeof(addresses) - strlen(addresses), "%s10.%u.0.%d", k ? " " : "",
			    (unsigned)(sim_random(s) % 160), k);
		}
		r = route(s, hosts, addresses);
		want = brute(r);
		got = provider_of_route(s->core, r);
		one[0] = '\0';
		if (want >= 0)
			snprintf(one, sizeof(one), "p%d", want);
		if (!str_eq(name_str(got), str_of(one)))
			fail_msg(
			    "%s (%s): %.*s, not %s", hosts, addresses, STR_ARG(name_str(got)), one);
		hits += want >= 0;
		route_end(s, r);
	}
	assert_true(hits > 5000 && hits < 19900); /* it was asked something */
	buf_fini(&conf);
	sim_free(s);
}

/* ---- rollup ---- */

static const char google[] =
    "providers = ( { name = \"google\"; mx = [ \"*.google.test\" ]; max-smtp-out = 4; } );\n"
    "domains = ( { name = \"*\"; retry-after = \"5m\"; connection-idle-timeout = \"5s\"; } );\n";

static struct queue_view one_queue(struct sim *s, const char *pattern)
{
	struct core_cursor cursor = {0, 0};
	struct queue_view v[3];

	assert_int_equal(core_queues(s->core, str_of(pattern), &cursor, v, 3), 1);
	return v[0];
}

/* 200 domains with different hosts of one provider: one queue, a few connections; then one of them
 * moves away, and its mail follows. */
static void many_domains_one_queue(void **state)
{
	struct sim *s = sim_new(7, 2, google);
	size_t mx[20], other = sim_host(s, "mx.other.test", HOST_OK);
	uint64_t connects = 0;

	(void)state;
	sim_start(s);
	s->queue_max = 4;
	for (int i = 0; i < 20; i++) {
		char name[40];

		snprintf(name, sizeof(name), "mx%d.google.test", i);
		mx[i] = sim_host(s, name, HOST_OK);
	}
	for (int i = 0; i < 200; i++) {
		char name[40];

		snprintf(name, sizeof(name), "d%d.test", i);
		sim_domain(s, name)->ttl_s = 60;
		sim_mx(&s->domain[i], 10, mx[i % 20]); /* every second domain shares a host more */
		sim_mx(&s->domain[i], 10, mx[(i + i % 2) % 20]);
	}
	for (uint32_t i = 0; i < 2000; i++)
		sim_mail(s, i % 200);
	sim_run(s, 0);
	for (size_t i = 0; i < s->host_count; i++)
		connects += s->host[i].connects;
	for (uint32_t i = 0; i < 200; i++)
		assert_true(
		    str_eq(core_destination(s->core, str_of(s->domain[i].name)), STR("google")));
	assert_int_equal(one_queue(s, "google/*").delivered, 2000);
	print_message("%llu connections for 200 domains\n", (unsigned long long)connects);
	assert_true(connects <= 120);	  /* not one a domain: those of a host share it */
	sim_run(s, s->now + 30 * SECOND); /* no connection is left */
	/* it moves */
	for (size_t i = 0; i < 20; i++)
		s->host[mx[i]].mode = HOST_REFUSES;
	for (uint32_t i = 0; i < 400; i++)
		sim_mail(s, i % 200);
	sim_run(s, s->now + 30 * SECOND);
	s->moving = true;
	s->domain[5].host_count = 1;
	s->domain[5].host[0] = other;
	sim_run(s, s->now + 20 * MINUTE);
	assert_true(str_eq(core_destination(s->core, STR("d5.test")), STR("[mx.other.test]")));
	assert_int_equal(s->host[other].delivered, 2);
	for (size_t i = 2000; i < s->job_count; i++)
		assert_int_equal(s->job[i].state, s->job[i].domain == 5 ? SIM_ENDED : SIM_QUEUED);
	sim_free(s);
}

/* A named domain has its own queue, with the provider's values behind its own. */
static void named_domain_inherits(void **state)
{
	struct sim *s = sim_new(7, 1,
	    "providers = ( { name = \"google\"; mx = [ \"*.google.test\" ]; max-smtp-out = 4; "
	    "max-rcpt-per-message = 7; } );\n"
	    "domains = ( { name = \"own.test\"; max-smtp-out = 3; }, { name = \"*\"; "
	    "max-rcpt-per-message = 50; max-msg-per-connection = 9; },\n"
	    "  { name = \"alone.test\"; disable-mx-rollup = true; } );\n");
	size_t mx = sim_host(s, "mx.google.test", HOST_OK);
	static const char *const names[] = {"own.test", "alone.test", "any.test"};

	(void)state;
	sim_start(s);
	for (uint32_t i = 0; i < 3; i++) {
		struct queue *q;
		char name[60];

		sim_mx(sim_domain(s, names[i]), 10, mx);
		sim_mail(s, i);
		sim_run(s, 0);
		snprintf(name, sizeof(name), "%s/default", i < 2 ? names[i] : "google");
		q = queue_find(s->core, str_of(name));
		assert_non_null(q);
		assert_int_equal(q->delivered, 1);
		assert_true(str_eq(name_str(q->provider), STR("google")));
		assert_int_equal(q->v.max_smtp_out, i == 0 ? 3 : 4);
		assert_int_equal(q->v.max_rcpt, 7);
		assert_int_equal(q->v.max_msg, 9);
	}
	sim_free(s);
}

/* disable-mx-rollup on the provider: every domain its own queue, and still the provider's values.
 */
static void rollup_can_be_disabled(void **state)
{
	struct sim *s = sim_new(7, 1,
	    "providers = ( { name = \"google\"; mx = [ \"*.google.test\" ]; max-smtp-out = 4; "
	    "disable-mx-rollup = true; } );\n");
	size_t mx = sim_host(s, "mx.google.test", HOST_OK),
	       other = sim_host(s, "mx.b.test", HOST_OK);

	(void)state;
	sim_start(s);
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	sim_mx(sim_domain(s, "b.test"), 10, mx);
	sim_mx(sim_domain(s, "c.test"), 10, other);
	for (uint32_t i = 0; i < 3; i++)
		sim_mail(s, i);
	sim_run(s, 0);
	assert_true(str_eq(core_destination(s->core, STR("a.test")), STR("a.test")));
	assert_true(str_eq(core_destination(s->core, STR("b.test")), STR("b.test")));
	assert_true(str_eq(core_destination(s->core, STR("c.test")), STR("[mx.b.test]")));
	assert_int_equal(queue_find(s->core, STR("b.test/default"))->v.max_smtp_out, 4);
	sim_free(s);
}

/* A provider that comes with a reload takes over the mail of its domains, and gives it back. */
static void providers_come_and_go(void **state)
{
	struct sim *s = sim_new(7, 1, "");
	size_t mx = sim_host(s, "mx.google.test", HOST_REFUSES);

	(void)state;
	sim_start(s);
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	for (int i = 0; i < 500; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 30 * SECOND);
	assert_int_equal(one_queue(s, "[mx.google.test]/*").recipients, 500);
	sim_configure(s, google);
	sim_run(s, s->now + 10 * SECOND);
	assert_int_equal(one_queue(s, "google/*").recipients, 500);
	sim_restart(s);
	sim_run(s, s->now + 10 * SECOND);
	assert_int_equal(one_queue(s, "google/*").recipients, 500);
	sim_configure(s, "");
	sim_run(s, s->now + 10 * SECOND);
	assert_int_equal(one_queue(s, "[mx.google.test]/*").recipients, 500);
	s->host[mx].mode = HOST_OK;
	sim_run(s, 0);
	sim_free(s);
}

/* ---- what the random life of test_core_chaos.c has found ---- */

static const char literal[] =
    "virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.1\"; } ); } );\n"
    "providers = ( { name = \"google\"; mx = [ \"*.google.test\" ]; budget = { max-smtp-out = "
    "2; }; } );\n"
    "domains = ( { name = \"a.test\"; max-smtp-out = 2; }, { name = \"b.test\"; } );\n";

/* A named domain turns out to be the provider's only when its route is known. */
static void a_paused_provider_holds_who_comes_later(void **state)
{
	struct sim *s = sim_new(7, 1, literal);

	(void)state;
	sim_start(s);
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.google.test", HOST_OK));
	sim_mail(s, 0);
	assert_int_equal(
	    core_pause(s->core, CORE_PROVIDER, STR("google"), STR(""), 0, STR("op"), s->now), 0);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(s->grants, 0);
	assert_int_equal(
	    core_resume(s->core, CORE_PROVIDER, STR("google"), STR(""), STR("op"), s->now), 1);
	sim_run(s, 0);
	sim_free(s);
}

/* After a restart, connections that live count in the provider's budget before a route is known. */
static void inherited_connections_count_at_the_provider(void **state)
{
	struct sim *s = sim_new(7, 1, literal);
	size_t mx = sim_host(s, "mx.google.test", HOST_OK);

	(void)state;
	s->host[mx].latency_ms = 20000;
	sim_start(s);
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	sim_mx(sim_domain(s, "b.test"), 10, mx);
	s->domain[0].latency_ms = 60000; /* its route is known late */
	for (int i = 0; i < 200; i++)
		sim_mail(s, 0);
	while (s->conns.count < 2)
		sim_run(s, s->now + 100);
	sim_restart(s);
	for (int i = 0; i < 200; i++)
		sim_mail(s, 1);
	for (int i = 0; i < 600; i++) {
		sim_run(s, s->now + 100);
		assert_true(s->conns.count <= 2);
	}
	sim_run(s, 0);
	sim_free(s);
}

static uint64_t by_old; /* transactions from 192.0.2.1 */

static void count_old(struct sim *s, const struct core_decision *d)
{
	if (d->kind == DECIDE_SEND)
		by_old += strcmp(sim_conn(s, d->conn)->source, "192.0.2.1") == 0;
}

static void a_reload_takes_a_source_away(void **state)
{
	static const char other[] =
	    "virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.2\"; } ); } );\n";
	struct sim *s = sim_new(7, 1,
	    "virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.1\"; } ); } );\n");

	(void)state;
	sim_start(s);
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.google.test", HOST_OK));
	for (int i = 0; i < 2000; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 2000);
	assert_true(s->conns.count > 0);
	by_old = 0;
	s->on_decision = count_old;
	sim_configure(s, other);
	sim_run(s, 0);
	assert_int_equal(by_old, 0);
	sim_free(s);
}

/* Ten thousand providers cost a look-up as much as one. */
static void ten_thousand(void **state)
{
	struct buf conf;
	struct sim *s;
	struct route *r;

	(void)state;
	buf_init(&conf, 4 << 20);
	buf_cstr(&conf, "providers = (");
	for (int i = 0; i < 10000; i++)
		buf_printf(
		    &conf, "%s{ name = \"p%d\"; mx = [ \"*.p%d.test\" ]; }\n", i ? "," : "", i, i);
	buf_cstr(&conf, ");\n");
	buf_u8(&conf, 0);
	s = sim_new(1, 1, (const char *)conf.p);
	r = route(s, "a.b.c.p9999.test d.p9999.test", "");
	for (int i = 0; i < 100000; i++)
		assert_true(str_eq(name_str(provider_of_route(s->core, r)), STR("p9999")));
	route_end(s, r);
	buf_fini(&conf);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_wins),
	    cmocka_unit_test(against_brute_force),
	    cmocka_unit_test(many_domains_one_queue),
	    cmocka_unit_test(named_domain_inherits),
	    cmocka_unit_test(rollup_can_be_disabled),
	    cmocka_unit_test(providers_come_and_go),
	    cmocka_unit_test(a_paused_provider_holds_who_comes_later),
	    cmocka_unit_test(inherited_connections_count_at_the_provider),
	    cmocka_unit_test(a_reload_takes_a_source_away),
	    cmocka_unit_test(ten_thousand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
