/* SPDX-License-Identifier: ISC */
/* posternctl simulate: what goes in comes out or waits, nobody sees more than was allowed, chance
 * repeats, and what the report says is what happened. */
#include "sim/impl.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- making one ---- */

static struct conf *load(const char *text, struct buf *errors)
{
	static const char rest[] = "\nhost-name = \"out.example.com\";\n"
				   "listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n";
	char path[] = "/tmp/postern-simulate-XXXXXX";
	int fd = mkstemp(path);
	struct conf *conf;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(write(fd, rest, strlen(rest)), (ssize_t)strlen(rest));
	close(fd);
	conf = conf_load(path, errors);
	unlink(path);
	return conf;
}

static struct sim *play(struct conf **conf, const char *text)
{
	struct buf errors;
	struct sim *s;

	buf_init(&errors, 65536);
	*conf = load(text, &errors);
	if (!*conf)
		fail_msg("%.*s", (int)errors.n, errors.p);
	buf_fini(&errors);
	conf_fill_defaults(*conf);
	s = sim_new(*conf);
	sim_run(s);
	return s;
}

static void end(struct sim **s, struct conf **conf)
{
	sim_free(s);
	conf_free(conf);
}

static struct receiver *receiver(const struct sim *s, const char *name)
{
	for (size_t i = 0; i < s->receiver_count; i++)
		if (strcmp(s->receivers[i].name, name) == 0)
			return &s->receivers[i];
	fail_msg("no receiver %s", name);
	return NULL;
}

/* ---- conservation ---- */

static void check_sums(const struct sim *s)
{
	uint64_t in = 0, delivered = 0, bounced = 0, deferrals = 0, backlog = 0, taken = 0, n = 0;
	size_t count;
	struct tenant_row **tenants = tally_tenants(s, &count);
	struct queue_row **queues;

	assert_int_equal(s->in, s->delivered + s->bounced + s->expired + s->left);
	for (size_t i = 0; i < count; i++) {
		in += tenants[i]->in;
		delivered += tenants[i]->delivered;
		bounced += tenants[i]->bounced;
		deferrals += tenants[i]->deferrals;
	}
	free(tenants);
	assert_int_equal(in, s->in);
	assert_int_equal(delivered, s->delivered);
	assert_int_equal(bounced, s->bounced + s->expired);
	assert_int_equal(deferrals, s->deferrals);
	for (size_t i = 0; i < s->receiver_count; i++) {
		const struct receiver *r = &s->receivers[i];

		assert_int_equal(r->in, r->delivered + r->bounced + r->backlog);
		backlog += r->backlog;
		taken += r->taken;
	}
	assert_int_equal(backlog, s->left);
	assert_int_equal(taken, s->delivered); /* nothing twice, nothing lost */
	queues = tally_queues(s, &count);
	delivered = 0;
	for (size_t i = 0; i < count; i++) {
		delivered += queues[i]->delivered;
		n += queues[i]->in_queue;
	}
	free(queues);
	assert_int_equal(delivered, s->delivered);
	assert_int_equal(n, s->left);
	delivered = 0;
	for (size_t i = 0; i < s->points; i++)
		delivered += s->series_delivered[i];
	assert_int_equal(delivered, s->delivered);
}

/* Many configurations by chance: whatever receivers do, sums agree, and no receiver counts more
 * connections than it lets in or than were configured. */
static void test_conservation(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 60; seed++) {
		char text[4096];
		unsigned conns = 1 + seed % 7, allowed = seed % 3 ? 0 : 1 + seed % 4;
		struct conf *conf;
		struct sim *s;

		snprintf(text, sizeof(text),
		    "virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.1\"; }, "
		    "{ address = \"192.0.2.2\"; } ); }, { name = \"b\"; } );\n"
		    "domains = ( { name = \"*\"; max-smtp-out = %u; retry-after = \"1m\"; "
		    "max-msg-per-connection = %u; max-msg-rate = \"%u/s\"; bounce-after = \"1h\"; "
		    "smtp-pattern-list = \"l\"; backoff-max-smtp-out = 1; } );\n"
		    "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = "
		    "\"4\\\\.7\\\\.28\"; "
		    "trigger = \"3/1m\"; actions = [ \"mode=backoff\" ]; for = \"2m\"; }, { reply "
		    "= "
		    "\"5\\\\.7\\\\.26\"; actions = [ \"defer-recipient\", \"suspend-tenant\" ]; "
		    "for = \"3m\"; } ); } );\n"
		    "simulation = { duration = \"20m\"; sample = \"1m\"; seed = %u; loads = ( "
		    "{ rate = \"%u/s\"; tenant = \"x\"; recipients = %u; until = \"10m\"; to = ( "
		    "{ domain = \"one.example\"; }, { domain = \"s#.example\"; count = 5; } ); },"
		    "{ rate = \"2/s\"; tenant = \"y\"; virtual-mta = \"b\"; from = \"1m\"; "
		    "messages = 100; to = ( { domain = \"one.example\"; } ); } );\n"
		    "receivers = ( { name = \"one\"; domains = [ \"one.example\" ]; mx = [ "
		    "\"mx1.one.example\", \"20 mx2.one.example\" ]; addresses = 2; max-connections "
		    "= "
		    "%u; defer = %u; bounce = %u; max-msg-per-connection = %u; "
		    "max-rcpt-per-message = "
		    "%u; max-msg-rate = \"%u/s\"; penalty = \"%us\"; answers = ( { stage = "
		    "\"dot\"; "
		    "from = \"3m\"; until = \"5m\"; percent = 20; reply = \"550 5.7.26 {tenant}\"; "
		    "}, "
		    "{ stage = \"connect\"; from = \"6m\"; until = \"7m\"; reply = \"%s\"; } ); },"
		    "{ name = \"rest\"; domains = [ \"*\" ]; latency = \"1s\"; } ); };\n",
		    conns, 1 + seed % 5, 1 + seed % 9, seed, 1 + seed % 6, 1 + seed % 3, allowed,
		    seed % 30, seed % 11, seed % 4, seed % 2 ? 0 : 2, 1 + seed % 8, seed % 5,
		    seed % 2 ? "refused" : "timeout");
		s = play(&conf, text);
		check_sums(s);
		assert_true(s->delivered > 0);
		/* max-smtp-out is each queue's: of virtual MTA a over two addresses, of b one more
		 */
		assert_true(receiver(s, "one")->open_peak <= 2 * conns);
		assert_true(allowed == 0 || receiver(s, "one")->peer_peak <= allowed);
		end(&s, &conf);
	}
}

/* ---- limits ---- */

static const char limited[] =
    "domains = ( { name = \"*\"; max-smtp-out = 3; } );\n"
    "providers = ( { name = \"big\"; mx = [ \"*.big.example\" ]; max-smtp-out = 4; "
    "max-msg-rate = \"120/m burst 2\"; } );\n"
    "simulation = { duration = \"2h\"; loads = ( { rate = \"20/s\"; messages = 6000; to = ( "
    "{ domain = \"a.example\"; }, { domain = \"b.example\"; } ); } );\n"
    "receivers = ( { name = \"big\"; domains = [ \"a.example\", \"b.example\" ]; "
    "mx = [ \"mx.big.example\" ]; latency = \"100ms\"; } ); };\n";

static void test_limits_hold_and_are_named(void **state)
{
	struct conf *conf;
	struct sim *s = play(&conf, limited);
	const struct receiver *big = receiver(s, "big");
	size_t n;
	struct queue_row **queues = tally_queues(s, &n);
	const struct cause *most = queues[0]->causes;

	(void)state;
	check_sums(s);
	assert_int_equal(s->left, 0);
	assert_int_equal(s->delivered, 6000);
	assert_true(big->open_peak <= 4);
	assert_true(big->minute_peak <= 122); /* 120 a minute, and the burst */
	assert_int_equal(n, 1);		      /* two domains, one provider, one queue */
	assert_string_equal(queues[0]->name, "big/default");
	/* 6000 at 2 a second take 50 minutes, of which the rate held it all but the first second.
	 */
	assert_in_range(queues[0]->last_ms - SIM_START, 2990000, 3010000);
	for (size_t i = 1; i < queues[0]->cause_count; i++)
		if (queues[0]->causes[i].ms > most->ms)
			most = &queues[0]->causes[i];
	assert_string_equal(most->text, "max-msg-rate");
	assert_in_range(most->ms, 2900000, 3010000);
	/* 20 came in a second for five minutes, 2 went out: 5400 waited then. */
	assert_in_range(big->backlog_peak, 5380, 5420);
	assert_in_range(big->backlog_peak_ms - SIM_START, 295000, 301000);
	free(queues);
	end(&s, &conf);
}

static void test_receiver_refuses_what_is_too_much(void **state)
{
	struct conf *conf;
	struct sim *s = play(&conf,
	    "domains = ( { name = \"*\"; max-smtp-out = 10; } );\n"
	    "simulation = { duration = \"1h\"; loads = ( { rate = \"50/s\"; messages = 5000; "
	    "to = ( { domain = \"a.example\"; } ); } ); receivers = ( { name = \"a\"; domains = [ "
	    "\"a.example\" ]; max-connections = 3; max-msg-rate = \"600/m burst 100\"; "
	    "msg-rate-reply = \"451 4.7.1 slower\"; } ); };\n");
	const struct receiver *a = receiver(s, "a");

	(void)state;
	check_sums(s);
	assert_int_equal(a->peer_peak, 3);
	assert_true(a->refused > 0);
	assert_int_equal(a->refused, a->replies[REPLY_CONNECT].given);
	assert_true(a->replies[REPLY_RATE].given > 0);
	/* What it took in the hour is what its rate allows. */
	assert_true(a->taken <= 600 * 60 + 100);
	end(&s, &conf);
}

/* ---- rules ---- */

static void test_rule_changes_mode(void **state)
{
	struct conf *conf;
	struct sim *s = play(&conf,
	    "domains = ( { name = \"*\"; max-smtp-out = 5; smtp-pattern-list = \"l\"; "
	    "backoff-max-msg-rate = \"60/m\"; retry-after = \"5m\"; } );\n"
	    "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"4\\\\.7\\\\.28 .*192\"; "
	    "trigger = \"3/10m\"; actions = [ \"mode=backoff\" ]; for = \"10m\"; } ); } );\n"
	    "virtual-mtas = ( { name = \"v\"; sources = ( { address = \"192.0.2.1\"; } ); } );\n"
	    "simulation = { duration = \"1h\"; loads = ( { rate = \"10/s\"; until = \"40m\"; to = "
	    "( "
	    "{ domain = \"a.example\"; } ); } ); receivers = ( { name = \"a\"; domains = [ "
	    "\"a.example\" ]; answers = ( { stage = \"dot\"; from = \"10m\"; until = \"11m\"; "
	    "reply = \"450 4.7.28 rate of {source}\"; } ); } ); };\n");
	size_t n;
	struct rule_row **rules = tally_rules(s, &n);
	struct queue_row **queues;

	(void)state;
	check_sums(s);
	assert_int_equal(n, 1);
	assert_true(rules[0]->fired >= 1);
	assert_in_range(rules[0]->first_ms - SIM_START, 600000, 605000);
	free(rules);
	assert_true(s->mode_count >= 2);
	assert_string_equal(s->modes[0].scope, "[mx.a.example]/v");
	assert_string_equal(s->modes[0].from, "normal");
	assert_string_equal(s->modes[0].to, "backoff");
	assert_in_range(s->modes[0].at_ms - SIM_START, 600000, 605000);
	assert_in_range(s->modes[1].at_ms - SIM_START, 1200000, 1265000);
	queues = tally_queues(s, &n);
	assert_in_range(queues[0]->mode_ms[1], 590000, 670000);
	/* one a second in backoff: what the ten minutes took is far below the ten before them */
	assert_true(receiver(s, "a")->series_taken[1] > 2500);
	assert_true(receiver(s, "a")->series_taken[3] < 500);
	free(queues);
	end(&s, &conf);
}

static void test_suspended_tenant_leaves_the_other_alone(void **state)
{
	struct conf *conf;
	struct sim *s = play(&conf,
	    "domains = ( { name = \"*\"; smtp-pattern-list = \"l\"; } );\n"
	    "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"5\\\\.7\\\\.26\"; "
	    "actions = [ \"defer-recipient\", \"suspend-tenant\" ]; scope = \"queue\"; "
	    "for = \"30m\"; } ); } );\n"
	    "simulation = { duration = \"2h\"; loads = ( { tenant = \"a\"; rate = \"1/s\"; until = "
	    "\"1h\"; to = ( { domain = \"x.example\"; } ); }, { tenant = \"b\"; rate = \"1/s\"; "
	    "until "
	    "= \"1h\"; to = ( { domain = \"x.example\"; } ); } ); receivers = ( { name = \"x\"; "
	    "domains = [ \"x.example\" ]; answers = ( { stage = \"dot\"; tenant = \"a\"; from = "
	    "\"10m\"; until = \"11m\"; reply = \"550 5.7.26 unauthenticated\"; } ); } ); };\n");
	const struct tenant_row *a = tally_tenant(s, "a"), *b = tally_tenant(s, "b");

	(void)state;
	check_sums(s);
	assert_int_equal(s->event_counts[EVENT_HOLD] > 0, 1);
	assert_int_equal(a->bounced, 0);
	assert_int_equal(a->delivered, a->in); /* held, and sent when its time was over */
	assert_true(tally_delay(a->delays, 0.99) > 10 * SIM_MINUTE);
	assert_int_equal(b->delivered, b->in);
	assert_true(b->delay_max_ms < 2000);
	end(&s, &conf);
}

/* Days are the core's days: a new address sends by its plan, one step each midnight. */
static void test_warm_up_goes_on_by_days(void **state)
{
	static const uint64_t plan[] = {200, 400, 800};
	struct conf *conf;
	struct sim *s = play(&conf,
	    "virtual-mtas = ( { name = \"new\"; sources = ( { address = \"192.0.2.1\"; warmup = { "
	    "plan = \"200,400,800\"; }; } ); } );\n"
	    "simulation = { duration = \"3d\"; sample = \"1d\"; loads = ( { rate = \"5000/d\"; to "
	    "= "
	    "( { domain = \"a.example\"; } ); } ); receivers = ( { name = \"a\"; domains = [ "
	    "\"a.example\" ]; } ); };\n");

	(void)state;
	check_sums(s);
	for (size_t day = 0; day < COUNT_OF(plan); day++)
		assert_in_range(s->series_delivered[day], plan[day] * 9 / 10, plan[day]);
	end(&s, &conf);
}

/* Mail that is led elsewhere arrives where the hosts say; variables of replies are filled in. */
static void test_fixed_routes_and_variables(void **state)
{
	struct conf *conf;
	struct sim *s = play(&conf,
	    "virtual-mtas = ( { name = \"v\"; sources = ( { address = \"192.0.2.1\"; } ); }, "
	    "{ name = \"w\"; sources = ( { address = \"192.0.2.2\"; } ); } );\n"
	    "domains = ( { name = \"a.example\"; smtp-hosts = "
	    "\"mx1.relay.example;[192.0.2.9]:26\"; "
	    "}, { name = \"b.example\"; queue-to = \"c.example\"; }, { name = \"d.example\"; "
	    "smtp-hosts = \"[192.0.2.9]\"; }, { name = \"c.example\"; smtp-pattern-list = \"l\"; "
	    "} );\nsmtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"blocked "
	    "(?<ip>[0-9.]+) for t1\"; actions = [ \"disable-source-ip\" ]; for = \"1h\"; } ); } "
	    ");\n"
	    "simulation = { duration = \"10m\"; loads = ( { rate = \"1/s\"; tenant = \"t1\"; until "
	    "= "
	    "\"5m\"; to = ( { domain = \"a.example\"; }, { domain = \"b.example\"; }, "
	    "{ domain = \"d.example\"; } ); } ); receivers = ( { name = \"relay\"; domains = [ "
	    "\"relay.example\" ]; mx = [ \"mx1.relay.example\" ]; }, { name = \"c\"; domains = [ "
	    "\"c.example\" ]; per = \"all\"; answers = ( { from = \"2m\"; reply = \"451 4.7.1 "
	    "blocked {source} for {tenant}\"; } ); }, { name = \"rest\"; domains = [ \"*\" ]; } ); "
	    "};\n");

	(void)state;
	check_sums(s);
	assert_true(receiver(s, "relay")->taken > 50);
	assert_true(receiver(s, "c")->taken > 20);
	assert_true(receiver(s, "rest")->taken > 50);  /* whom no entry names by the address */
	assert_int_equal(receiver(s, "relay")->in, 0); /* no domain of it was written to */
	assert_int_equal(s->event_counts[EVENT_SOURCE] > 0, 1);
	end(&s, &conf);
}

/* ---- loads ---- */

static void test_loads_come_as_said(void **state)
{
	struct conf *conf;
	struct sim *s = play(&conf, "simulation = { duration = \"4h\"; sample = \"1h\"; loads = ( "
				    "{ rate = \"1/s\"; hours = "
				    "\"100,0,50\"; to = ( { domain = \"a.example\"; } ); } ); "
				    "receivers = ( { name = \"a\"; "
				    "domains = [ \"a.example\" ]; } ); };\n");

	(void)state;
	check_sums(s);
	assert_in_range(s->series_delivered[0], 3595, 3600);
	assert_in_range(s->series_delivered[1], 0, 5);
	assert_in_range(s->series_delivered[2], 1795, 1801);
	assert_in_range(s->series_delivered[3], 3590, 3605); /* the list begins again */
	assert_in_range(s->in, 8999, 9001);
	end(&s, &conf);
}

/* ---- chance ---- */

static char *report(const char *text)
{
	struct conf *conf;
	struct sim *s = play(&conf, text);
	json_t *o = sim_json(s);
	char *out = json_dumps(o, JSON_COMPACT);

	json_decref(o);
	end(&s, &conf);
	return out;
}

static void test_same_seed_same_report(void **state)
{
	char other[sizeof(limited) + 32];
	char *a = report(limited), *b = report(limited), *c;

	(void)state;
	assert_string_equal(a, b);
	snprintf(other, sizeof(other), "%s", limited);
	memcpy(strstr(other, "duration = \"2h\";"), "seed=2;         ", 16);
	c = report(other);
	assert_string_not_equal(a, c);
	free(a);
	free(b);
	free(c);
}

/* A part of all delays, against the sorted list: within an eighth. */
static void test_delays_are_near(void **state)
{
	enum { N = 2000 };
	uint64_t random = 88172645463325252u;

	(void)state;
	assert_int_equal(tally_delay((uint64_t[SIM_BUCKETS]){0}, 0.5), -1);
	for (int64_t ms = 0; ms < INT64_C(1) << 40; ms = ms * 5 / 4 + 1) { /* alone in its bucket */
		uint64_t one[SIM_BUCKETS] = {0};

		tally_delay_add(one, ms);
		assert_in_range(tally_delay(one, 0.5), ms - ms / 8, ms);
	}
	for (unsigned round = 0; round < 20; round++) {
		uint64_t delays[SIM_BUCKETS] = {0};

		for (unsigned i = 0; i < N; i++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			tally_delay_add(delays, (int64_t)(random % 100000));
		}
		assert_in_range(tally_delay(delays, 0.5), 50000 * 80 / 100, 50000 * 112 / 100);
		assert_in_range(tally_delay(delays, 0.99), 99000 * 86 / 100, 100000);
		assert_in_range(tally_delay(delays, 1), 87000, 100000);
	}
}

/* ---- the picture ---- */

static void test_plot_is_xml(void **state)
{
	struct conf *conf;
	struct sim *s = play(&conf, limited);
	struct buf out;

	(void)state;
	buf_init(&out, 1 << 24);
	sim_plot(s, &out);
	buf_u8(&out, 0);
	assert_false(out.failed);
	assert_non_null(strstr((char *)out.p, "<svg "));
	assert_non_null(strstr((char *)out.p, "</svg>\n"));
	assert_non_null(strstr((char *)out.p, ">big</text>"));
	assert_null(strstr((char *)out.p, "nan"));
	assert_null(strstr((char *)out.p, "inf"));
	buf_fini(&out);
	end(&s, &conf);
}

static void test_report_of_nothing(void **state)
{
	struct conf *conf;
	struct sim *s =
	    play(&conf, "simulation = { duration = \"1s\"; loads = ( { rate = \"1/h\"; from "
			"= \"10s\"; to = ( { domain = \"a.example\"; } ); } ); receivers = "
			"( { name = \"a\"; domains = [ \"*\" ]; } ); };\n");
	struct buf out;

	(void)state;
	assert_int_equal(s->in, 0);
	buf_init(&out, 1 << 20);
	sim_print(s, &out);
	sim_plot(s, &out);
	assert_false(out.failed);
	assert_true(out.n > 0);
	buf_fini(&out);
	end(&s, &conf);
}

/* ---- what is wrong in a file ---- */

static void test_mistakes_are_told(void **state)
{
#define GROUP(loads, receivers)                                                                    \
	"simulation = { loads = ( " loads " ); receivers = ( " receivers " ); };\n"
#define LOAD "{ rate = \"1/s\"; to = ( { domain = \"a.example\"; } ); }"
#define TAKES(more) "{ name = \"a\"; domains = [ \"*\" ]; " more " }"
	static const struct {
		const char *text, *error;
	} cases[] = {
	    {GROUP(LOAD, TAKES("")), NULL},
	    {"simulation = { };\n", "a simulation needs loads"},
	    {GROUP("{ rate = \"1/s\"; }", TAKES("")), "a load needs recipients"},
	    {GROUP("{ rate = \"unlimited\"; to = ( { domain = \"a.example\"; } ); }", TAKES("")),
		"a load needs a rate"},
	    {GROUP("{ to = ( { domain = \"a.example\"; } ); }", TAKES("")), "rate"},
	    {GROUP(LOAD, "{ name = \"b\"; domains = [ \"b.example\" ]; }"),
		"no receiver takes mail for \"a.example\""},
	    {GROUP("{ rate = \"1/s\"; virtual-mta = \"v\"; to = ( { domain = \"a.example\"; } ); }",
		 TAKES("")),
		"no virtual MTA or pool is named \"v\""},
	    {GROUP(
		 "{ rate = \"1/s\"; to = ( { domain = \"a.example\"; count = 3; } ); }", TAKES("")),
		"has no #"},
	    {GROUP("{ rate = \"1/s\"; to = ( { domain = \"a b\"; } ); }", TAKES("")),
		"is not a domain name"},
	    {GROUP("{ rate = \"1/s\"; from = \"2h\"; until = \"1h\"; to = ( { domain = "
		   "\"a.example\"; } ); }",
		 TAKES("")),
		"it ends before it begins"},
	    {GROUP("{ rate = \"1/s\"; hours = \"0,0\"; to = ( { domain = \"a.example\"; } ); }",
		 TAKES("")),
		"nothing comes in"},
	    {GROUP(LOAD, TAKES("defer-reply = \"250 fine\";")), "is no reply of 4xx or 5xx"},
	    {GROUP(LOAD, TAKES("mx = [ \"x mx.example\" ];")), "is no host name"},
	    {GROUP(LOAD, TAKES("first-address = \"::1\";")), "not an IPv4 address"},
	    {GROUP(LOAD, TAKES("defer = 60; bounce = 60;")), "more than 100"},
	    {GROUP(LOAD, TAKES("answers = ( { reply = \"hello\"; } );")), "is no reply"},
	    {GROUP(LOAD, TAKES("answers = ( { stage = \"connect\"; reply = \"421 no\"; } );")),
		"only \"refused\" and \"timeout\""},
	    {GROUP(LOAD, TAKES("answers = ( { stage = \"greeting\"; tenant = \"t\"; reply = \"421 "
			       "no\"; } );")),
		"nobody's yet"},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct buf errors;
		struct conf *conf;

		buf_init(&errors, 65536);
		conf = load(cases[i].text, &errors);
		buf_u8(&errors, 0);
		if ((conf != NULL) != (cases[i].error == NULL))
			fail_msg("case %zu: %s", i, errors.p);
		if (cases[i].error && !strstr((char *)errors.p, cases[i].error))
			fail_msg("case %zu: not \"%s\" but %s", i, cases[i].error, errors.p);
		conf_free(&conf);
		buf_fini(&errors);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_conservation),
	    cmocka_unit_test(test_limits_hold_and_are_named),
	    cmocka_unit_test(test_receiver_refuses_what_is_too_much),
	    cmocka_unit_test(test_rule_changes_mode),
	    cmocka_unit_test(test_suspended_tenant_leaves_the_other_alone),
	    cmocka_unit_test(test_warm_up_goes_on_by_days),
	    cmocka_unit_test(test_fixed_routes_and_variables),
	    cmocka_unit_test(test_loads_come_as_said),
	    cmocka_unit_test(test_same_seed_same_report),
	    cmocka_unit_test(test_delays_are_near),
	    cmocka_unit_test(test_plot_is_xml),
	    cmocka_unit_test(test_report_of_nothing),
	    cmocka_unit_test(test_mistakes_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
