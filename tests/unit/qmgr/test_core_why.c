/* SPDX-License-Identifier: ISC */
/*
 * Why mail waits: each limit and each other cause is arranged in turn, and the core must name it,
 * what it is of, when it frees, and the line of the configuration that says so.
 */
#include "tests/unit/qmgr/sim.h"

/* ---- arranging ---- */

enum { PLAIN, IPV6, REFUSES, UNROUTED };
enum { FREES_SOON = 1, ASKS_TENANT = 2 };
struct arranged {
	const char *conf;  /* '@': what follows, on its line, is the origin */
	const char *state; /* of why */
	const char *binding;
	int world;
	unsigned flags;
};

#define A "virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.1\"; } ); } );\n"
#define D0(text) "domains = ( { name = \"d0.test\";\n" text " } );\n"
#define ONCE " max-msg-per-connection = 1;"

static const struct arranged limits[] = {
    {A D0("@max-smtp-out = 1;"), "sending", "max-smtp-out of queue d0.test/a", PLAIN, 0},
    {A D0("@max-msg-rate = \"2/m burst 1\";"), "limit", "max-msg-rate of queue d0.test/a", PLAIN,
	FREES_SOON},
    {A D0("@max-connect-rate = \"1/m\";" ONCE), "limit", "max-connect-rate of queue d0.test/a",
	PLAIN, FREES_SOON},
    {A D0("@smtp-out-rampup-interval = \"1m\";" ONCE), "limit",
	"smtp-out-rampup-interval of queue d0.test/a", PLAIN, FREES_SOON},
    {A D0("@max-data-volume-rate = \"1K/m\";"), "limit", "max-data-volume-rate of queue d0.test/a",
	PLAIN, FREES_SOON},
    {A D0("@source-ip-max-smtp-out = 1;"), "limit",
	"source-ip-max-smtp-out of path d0.test 192.0.2.1", PLAIN, 0},
    {A D0("@source-ip-max-msg-rate = \"2/m\";"), "limit",
	"source-ip-max-msg-rate of path d0.test 192.0.2.1", PLAIN, FREES_SOON},
    {A D0("@source-ip-max-connect-rate = \"1/m\";" ONCE), "limit",
	"source-ip-max-connect-rate of path d0.test 192.0.2.1", PLAIN, FREES_SOON},
    {A D0("") "\n@total-max-smtp-out = 1;\n", "limit", "total-max-smtp-out of total", PLAIN, 0},
    {A D0("") "mx-connection-limit = ( { mx = \"*.test\";\n@limit = 1; } );\n", "limit",
	"mx-connection-limit of mx mx0.test", PLAIN, 0},
    {A D0("") "ip-connection-limit = ( { ip = \"10.0.0.0/8\";\n@limit = 1; } );\n", "limit",
	"ip-connection-limit of ip 10.0.0.0", PLAIN, 0},
    {"virtual-mtas = ( { name = \"a\"; sources = ( { address = \"2001:db8::1\"; } ); } );\n" D0(
	 "") "ip-connection-limit = ( { ip = \"::/0\";\n@limit = 1; } );\n",
	"limit", "ip-connection-limit of ip ", IPV6, 0},
    {A D0("budget = {\n@max-msg-rate = \"2/m\"; };"), "limit", "max-msg-rate of domain d0.test",
	PLAIN, FREES_SOON},
    {A D0("budget = {\n@max-smtp-out = 1; };"), "limit", "max-smtp-out of domain d0.test", PLAIN,
	0},
    {"virtual-mtas = ( { name = \"a\"; budget = {\n@max-connect-rate = \"1/m\"; }; } );\n" D0(ONCE),
	"limit", "max-connect-rate of vmta a", PLAIN, FREES_SOON},
    {"virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.1\"; budget = {\n"
     "@max-msg-rate = \"2/m\"; }; } ); } );\n" D0(""),
	"limit", "max-msg-rate of source 192.0.2.1", PLAIN, FREES_SOON},
    {A D0("") "virtual-mta-pools = ( { name = \"p\"; members = ( { virtual-mta = \"a\"; } );\n"
	      "budget = {\n@max-msg-rate = \"2/m\"; }; } );\n",
	"limit", "max-msg-rate of pool p", PLAIN, FREES_SOON},
    {A "providers = ( { name = \"big\"; mx = ( \"mx0.test\" );\nbudget = {\n@max-msg-rate = "
       "\"2/m\"; }; } );\n",
	"limit", "max-msg-rate of provider big", PLAIN, FREES_SOON},
    {A D0("") "tenants = ( { name = \"t\"; budget = {\n@max-msg-rate = \"2/m\"; }; } );\n", "limit",
	"max-msg-rate of tenant t", PLAIN, FREES_SOON | ASKS_TENANT},
    {A D0("") "tenants = ( { name = \"t\"; campaigns = ( { name = \"c\";\n@max-msg-rate = "
	      "\"2/m\"; } ); } );\n",
	"limit", "max-msg-rate of campaign t/c", PLAIN, FREES_SOON | ASKS_TENANT},
    {A D0("") "tenants = ( { name = \"t\"; at = ( { domain = \"d0.test\";\n@max-msg-rate = "
	      "\"2/m\"; } ); } );\n",
	"limit", "max-msg-rate of tenant t at ", PLAIN, FREES_SOON | ASKS_TENANT},
    {A D0(""), "retry", "failed connections", REFUSES, FREES_SOON},
    {A D0(""), "route", "no answer of the name servers yet", UNROUTED, 0},
    {A D0(""), "sending", "max-smtp-out of queue d0.test/a", PLAIN, 0}, /* by default */
};

static uint32_t origin_line(const char *conf, char plain[4000])
{
	uint32_t line = 1, found = 0;
	size_t n = 0;

	for (; *conf; conf++) {
		line += *conf == '\n';
		if (*conf == '@')
			found = line;
		else
			plain[n++] = *conf;
		assert_true(n < 4000);
	}
	plain[n] = 0;
	return found;
}

static struct sim *arrange(const char *conf, int world)
{
	struct sim *s = sim_new(1, 1, conf);
	size_t host = sim_host(s, "mx0.test", world == REFUSES ? HOST_REFUSES : HOST_OK);

	s->queue_max = s->total_max = s->msg_max = s->rcpt_max = 1000000;
	s->host[host].latency_ms = 200;
	s->host[host].addresses = 1;
	s->host[host].ipv6 = world == IPV6;
	sim_mx(sim_domain(s, "d0.test"), 10, host);
	if (world == UNROUTED)
		s->domain[0].latency_ms = HOUR;
	for (int i = 0; i < 2000; i++)
		sim_rcpt(s, sim_message(s),
		    (struct sim_mail){.domain = 0, .vmta = "a", .tenant = "t", .campaign = "c"});
	sim_start(s);
	sim_run(s, s->now + 4321);
	return s;
}

static bool is(struct str found, const char *wanted)
{
	return found.n >= strlen(wanted) && memcmp(found.p, wanted, strlen(wanted)) == 0 &&
	       (found.n == strlen(wanted) || wanted[strlen(wanted) - 1] == ' ' ||
		   strstr(wanted, " of ip ") != NULL);
}

static const struct core_limit_view *binding_row(const struct core_limit_view *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].binding)
			return &v[i];
	return NULL;
}

static void check(const struct sim *s, const struct arranged *a, const struct core_why *why,
    const struct core_limit_view *rows, size_t n, uint32_t line)
{
	const struct core_limit_view *row = binding_row(rows, n);

	if (!str_eq(why->state, str_of(a->state)) || !is(why->binding, a->binding))
		fail_msg("%s: \"%.*s\", \"%.*s\"", a->binding, STR_ARG(why->state),
		    STR_ARG(why->binding));
	if (a->flags & FREES_SOON)
		assert_in_range(why->until_ms, s->now + 1, s->now + HOUR);
	else
		assert_int_equal(why->until_ms, 0);
	if (!line) {
		assert_null(why->origin);
		return;
	}
	if (!why->origin || why->origin->line != line || !row || row->origin != why->origin)
		fail_msg("%s: line %u, not %u; %s", a->binding, why->origin ? why->origin->line : 0,
		    line, row ? "a row" : "no row");
	if (row->per_ms == 0) /* connections: all are used; else it says when */
		assert_int_equal(row->used, row->limit);
	else
		assert_int_equal(row->frees_ms, why->until_ms);
}

/* The same of all that is limited: some row of that name is in use. */
static void check_listed(const struct sim *s, const struct arranged *a)
{
	struct core_cursor cursor = {0, 0};
	struct core_limit_view rows[3];
	char text[200];
	size_t n;

	while ((n = core_limits(s->core, STR("*"), &cursor, rows, COUNT_OF(rows))))
		for (size_t i = 0; i < n; i++) {
			snprintf(text, sizeof(text), "%.*s of %.*s", STR_ARG(rows[i].name),
			    STR_ARG(rows[i].key));
			if (rows[i].binding && is(str_of(text), a->binding))
				return;
		}
	fail_msg("%s is not among the limits", a->binding);
}

static void each_limit(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(limits); i++) {
		const struct arranged *a = &limits[i];
		static char plain[4000];
		uint32_t line = origin_line(a->conf, plain);
		struct sim *s = arrange(plain, a->world);
		struct core_limit_view rows[40];
		const char *target = strstr(plain, "providers") ? "big/a" : "d0.test/a";
		struct core_why why;
		size_t n = COUNT_OF(rows);

		target = a->flags & ASKS_TENANT ? "d0.test/a/t/c" : target;
		assert_int_equal(core_why_queue(s->core, str_of(target), &why, rows, &n), 0);
		check(s, a, &why, rows, n, line);
		n = COUNT_OF(rows); /* a job that waits says the same as where it waits */
		assert_int_equal(
		    core_why_job(s->core, s->job[s->job_count - 1].ref, &why, rows, &n), 0);
		check(s, a, &why, rows, n, line);
		if (line)
			check_listed(s, a);
		sim_free(s);
	}
}

/* ---- other causes ---- */

static struct core_why ask(struct sim *s)
{
	struct core_limit_view rows[40];
	struct core_why why;
	size_t n = COUNT_OF(rows);

	assert_int_equal(core_why_queue(s->core, STR("d0.test/a"), &why, rows, &n), 0);
	return why;
}

static void other_causes(void **state)
{
	struct sim *s = arrange(A D0("max-msg-rate = \"2/m\";"), PLAIN);
	int64_t until = s->now + HOUR;
	struct core_why why = ask(s);

	(void)state;
	assert_true(str_eq(why.state, STR("limit")));
	assert_int_equal(
	    core_pause(s->core, CORE_QUEUE, STR("d0.test/a"), STR(""), until, STR("op"), s->now),
	    0);
	sim_run(s, s->now + 10);
	why = ask(s); /* what holds all of it goes before what holds the next one */
	assert_true(str_eq(why.state, STR("paused")) && str_eq(why.who, STR("op")));
	assert_int_equal(why.until_ms, until);
	assert_int_equal(
	    core_resume(s->core, CORE_QUEUE, STR("d0.test/a"), STR(""), STR("op"), s->now), 1);
	sim_run(s, s->now + 10);
	why = ask(s);
	assert_true(str_eq(why.state, STR("limit")));
	assert_int_equal(core_disable_source(
			     s->core, STR("192.0.2.1"), STR("d0.test/a"), until, STR("op"), s->now),
	    0);
	sim_run(s, s->now + MINUTE);
	why = ask(s);
	assert_true(str_eq(why.state, STR("source")));
	assert_int_equal(
	    core_enable_source(s->core, STR("192.0.2.1"), STR("d0.test/a"), STR("op"), s->now), 1);
	sim_run(s, s->now + 10);
	assert_false(str_eq(ask(s).state, STR("source")));
	sim_free(s);
}

/* ---- arithmetic ---- */

static void arithmetic(void **state)
{
	static const struct {
		const char *conf, *binds;
		double per_hour;
	} cases[] = {
	    {D0("max-smtp-out = 3; max-msg-rate = \"100/s\";"), "max-smtp-out", 3 * 3600},
	    {D0("max-smtp-out = 30; max-msg-rate = \"100/m\";"), "max-msg-rate", 6000},
	    {D0("max-connect-rate = \"2/m\"; max-msg-per-connection = 5;"), "max-connect-rate",
		600},
	    {D0("smtp-out-rampup-interval = \"1m\"; max-connect-rate = \"2/m\"; "
		"max-msg-per-connection = 5;"),
		"smtp-out-rampup-interval", 300},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		static char text[1000];
		struct core_arithmetic a;
		struct sim *s;

		snprintf(text, sizeof(text), "%s%s", A, cases[i].conf);
		s = sim_new(1, 1, text);
		core_arithmetic(s->core, STR("d0.test"), STR("a"), &a);
		assert_string_equal(a.binds, cases[i].binds);
		assert_true(a.per_hour > cases[i].per_hour * 0.999 &&
			    a.per_hour < cases[i].per_hour * 1.001);
		sim_free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_limit),
	    cmocka_unit_test(other_causes),
	    cmocka_unit_test(arithmetic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
