/* SPDX-License-Identifier: ISC */
/*
 * Limits of tenants and campaigns, counted by the one who receives: what is configured, over all
 * queues, with restarts and reloads; what rules set for a time, its return in steps; the probe and
 * the steps after a suspension; mail of senders' domains.
 */
#include "qmgr/core/rules.h"
#include "tests/unit/qmgr/sim.h"

enum { SENT_MOST = 200000 };
static struct sent {
	int64_t at;
	uint64_t transaction;
	uint32_t n;
	char tenant[40], campaign[40], queue[80];
} sent[SENT_MOST];
static size_t sent_count;
static unsigned errors;

static void listen(struct sim *s, const struct core_decision *d)
{
	struct job_view v;
	struct sent *to = &sent[sent_count];

	if (d->kind == DECIDE_EVENT && d->event.kind == EVENT_ERROR)
		errors++;
	if (d->kind != DECIDE_SEND || sent_count == SENT_MOST)
		return;
	assert_true(core_job(s->core, d->jobs[0], &v));
	*to =
	    (struct sent){.at = s->now, .transaction = d->transaction, .n = (uint32_t)d->job_count};
	str_copy(to->tenant, sizeof(to->tenant), v.tenant);
	str_copy(to->campaign, sizeof(to->campaign), v.campaign);
	str_copy(to->queue, sizeof(to->queue), v.queue);
	sent_count++;
}

#define HEAD                                                                                       \
	"virtual-mtas = ( { name = \"m\"; }, { name = \"n\"; } );\n"                               \
	"domains = ( { name = \"*\"; max-smtp-out = 8; retry-after = \"1m\"; "                     \
	"retry-recipients-after = \"1m\"; smtp-pattern-list = \"l\"; "                             \
	"backoff-recovery = \"10%,25%,50%,100% every 1m\"; } );\n"

#define NO_RULES                                                                                   \
	"smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"never\"; actions = [ "       \
	"\"skip-mx\" ]; } ); } );\n"

static struct sim *world(const char *conf, unsigned domains)
{
	struct sim *s = sim_new(7, 2, conf);

	sent_count = errors = 0;
	s->queue_max = 8;
	s->on_decision = listen;
	sim_rules(s, "l");
	for (unsigned i = 0; i < domains; i++) {
		char name[40], host[40];

		snprintf(name, sizeof(name), "d%u.test", i);
		snprintf(host, sizeof(host), "mx%u.test", i);
		sim_mx(sim_domain(s, name), 10, sim_host(s, host, HOST_OK));
		s->host[i].latency_ms = 60;
	}
	sim_start(s);
	return s;
}

static void put(struct sim *s, uint32_t domain, const char *vmta, const char *tenant,
    const char *campaign, unsigned n)
{
	while (n--)
		sim_rcpt(s, sim_message(s),
		    (struct sim_mail){
			.domain = domain, .vmta = vmta, .tenant = tenant, .campaign = campaign});
}

static bool is(const struct sent *e, const char *tenant, const char *campaign, const char *at)
{
	return (!tenant || strcmp(e->tenant, tenant) == 0) &&
	       (!campaign || strcmp(e->campaign, campaign) == 0) &&
	       (!at || strncmp(e->queue, at, strlen(at)) == 0);
}

/* Recipients sent in [from, until). */
static uint64_t count(
    const char *tenant, const char *campaign, const char *at, int64_t from, int64_t until)
{
	uint64_t n = 0;

	for (size_t i = 0; i < sent_count; i++)
		if (sent[i].at >= from && sent[i].at < until && is(&sent[i], tenant, campaign, at))
			n += sent[i].n;
	return n;
}

/* At most k*N+B in any k*T, by brute force. */
static void check_rate(
    const char *tenant, const char *campaign, const char *at, uint64_t n, int64_t per, uint64_t b)
{
	for (int64_t k = 1; k <= 5; k += 2)
		for (size_t i = 0; i < sent_count; i++)
			if (is(&sent[i], tenant, campaign, at))
				assert_true(count(tenant, campaign, at, sent[i].at,
						sent[i].at + k * per) <= (uint64_t)k * n + b);
}

static uint32_t in_flight(const struct sim *s, const char *tenant, const char *campaign)
{
	uint32_t n = 0;

	for (uint32_t i = 1; i <= s->core->queue_count; i++) {
		const struct queue *q = s->core->queue_at[i];

		for (struct link *l = q ? q->conns.next : NULL; l && l != &q->conns; l = l->next) {
			const struct conn *c = OWNER(l, struct conn, in_queue);

			for (uint32_t t = 0; t < c->tx_count; t++) {
				const struct lane *lane = NULL;

				for (uint32_t k = 0; k < c->tx[t]->n; k++)
					if (c->tx[t]->jobs[k])
						lane =
						    s->core->lane_at
							[core_at(s->core, c->tx[t]->jobs[k])->lane];
				n += lane &&
				     str_eq(name_str(lane->share->tenant), str_of(tenant)) &&
				     (!campaign ||
					 str_eq(name_str(lane->campaign), str_of(campaign)));
			}
		}
	}
	return n;
}

static uint64_t recipients(const struct sim *s, const char *tenant)
{
	struct core_cursor cursor = {0, 0};
	struct tenant_view v = {0};

	return core_tenants(s->core, str_of(tenant), &cursor, &v, 1) ? v.recipients : 0;
}

/* ---- what is configured ---- */

static const char budgets[] =
    HEAD "tenants = ( { name = \"a\"; budget = { max-msg-rate = \"20/s burst 2\"; }; },\n"
	 "  { name = \"b\"; budget = { max-smtp-out = 3; }; campaigns = ( { name = \"x\"; "
	 "max-smtp-out = 1; } ); },\n"
	 "  { name = \"c\"; campaigns = ( { name = \"x\"; max-msg-rate = \"5/s burst 1\"; } ); },\n"
	 "  { name = \"e\"; budget = { max-connect-rate = \"10/m burst 2\"; }; } );\n" NO_RULES;
static const char tighter[] =
    HEAD "tenants = ( { name = \"a\"; budget = { max-msg-rate = \"10/s burst 2\"; }; },\n"
	 "  { name = \"b\"; budget = { max-smtp-out = 2; }; },\n"
	 "  { name = \"c\"; }, { name = \"e\"; } );\n" NO_RULES;

static void limits_hold_everywhere(void **state)
{
	struct sim *s = world(budgets, 3);
	int64_t began;

	(void)state;
	for (uint32_t d = 0; d < 3; d++)
		for (int v = 0; v < 2; v++) {
			put(s, d, v ? "m" : "n", "a", "", 400);
			put(s, d, v ? "m" : "n", "b", "x", 600);
			put(s, d, v ? "m" : "n", "b", "y", 600);
			put(s, d, v ? "m" : "n", "c", "x", 200);
			put(s, d, v ? "m" : "n", "c", "y", 200);
		}
	began = s->now;
	for (int i = 0; i < 3000; i++) {
		sim_run(s, s->now + 7);
		assert_in_range(in_flight(s, "b", NULL), 0, 3);
		assert_in_range(in_flight(s, "b", "x"), 0, 1);
		if (i == 700)
			sim_restart(s);
	}
	check_rate("a", NULL, NULL, 20, SECOND, 2);
	check_rate("c", "x", NULL, 5, SECOND, 1);
	assert_true(count("a", NULL, NULL, began + SECOND, began + 21 * SECOND) >= 380);
	assert_true(count("c", "x", NULL, began + SECOND, began + 21 * SECOND) >= 95);
	/* a reload changes them at once, and back */
	sim_configure(s, tighter);
	began = s->now;
	for (int i = 0; i < 300; i++) {
		sim_run(s, s->now + 7);
		assert_in_range(in_flight(s, "b", NULL), 0, i < 30 ? 3 : 2);
	}
	assert_in_range(count("a", NULL, NULL, began, s->now), 17, 24);
	sim_configure(s, budgets);
	sim_drain(s);
	sim_free(s);
}

/* Connections are opened for a tenant at its rate; others are not held up by it. */
static void connects_of_a_tenant(void **state)
{
	struct sim *s = world(budgets, 1);
	uint64_t before;

	(void)state;
	put(s, 0, "m", "e", "", 300);
	sim_run(s, s->now + 3 * SECOND);
	assert_in_range(s->grants, 1, 2); /* the burst */
	before = s->grants;
	put(s, 0, "m", "f", "", 2000);
	sim_run(s, s->now + 3 * SECOND);
	assert_true(s->grants >= before + 4); /* f's */
	sim_drain(s);
	sim_free(s);
}

/* ---- what rules set ---- */

static const char setting[] = HEAD
    "tenants = ( { name = \"a\"; }, { name = \"b\"; } );\n"
    "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"slow\"; scope = \"tenant\"; "
    "actions = [ \"set max-msg-rate=60/m\", \"set max-smtp-out=2\" ]; for = \"5m\"; } ); } );\n";

static void set_for_a_time(void **state)
{
	struct sim *s = world(setting, 2);
	struct core_cursor cursor = {0, 0};
	struct hold_view v[4];
	struct core_why why;
	struct core_limit_view limits[20];
	size_t n = COUNT_OF(limits);
	int64_t set;

	(void)state;
	put(s, 0, "m", "a", "", 6000);
	put(s, 0, "n", "a", "", 6000);
	put(s, 1, "m", "a", "", 30000);
	sim_run(s, s->now + 2 * SECOND);
	s->host[0].defer = 100;
	s->defer_text = "451 4.7.1 slow down";
	sim_run(s, s->now + 200);
	s->host[0].defer = 0;
	s->defer_text = NULL;
	set = s->now + 200; /* what was in flight has come back */
	assert_true(core_holds(s->core, &cursor, v, COUNT_OF(v)) == 2);
	assert_true(str_eq(v[0].name, STR("a")) && str_eq(v[0].at, STR("[mx0.test]")));
	assert_int_equal(core_why_queue(s->core, STR("a"), &why, limits, &n), 0);
	sim_run(s, s->now + 10 * SECOND);
	sim_restart(s);
	sim_run(s, s->now + 2 * MINUTE);
	assert_true(in_flight(s, "a", NULL) > 0);
	assert_in_range(count("a", NULL, "[mx0.test]", set, set + 2 * MINUTE), 90, 122);
	n = COUNT_OF(limits);
	assert_int_equal(core_why_queue(s->core, STR("a"), &why, limits, &n), 0);
	assert_true(str_eq(why.state, STR("limit")));
	assert_non_null(strstr(why.rule.p, "l:1 ("));
	assert_true(count("a", NULL, "[mx1.test]", set + 20 * SECOND, set + 30 * SECOND) > 500);
	/* its time is over: 150 a minute, then 300, then 600, then free */
	sim_run(s, set + 5 * MINUTE + SECOND);
	set = s->now;
	sim_run(s, set + 3 * MINUTE);
	assert_in_range(count("a", NULL, "[mx0.test]", set, set + MINUTE), 130, 160);
	assert_in_range(count("a", NULL, "[mx0.test]", set + MINUTE, set + 2 * MINUTE), 280, 310);
	sim_run(s, set + 4 * MINUTE);
	cursor = (struct core_cursor){0, 0};
	assert_int_equal(core_holds(s->core, &cursor, v, COUNT_OF(v)), 0);
	assert_int_equal(s->core->parties.count, 0);
	sim_drain(s);
	sim_free(s);
}

static void a_part_of_what_it_sends(void **state)
{
	static const char conf[] = HEAD
	    "tenants = ( { name = \"a\"; } );\n"
	    "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"slow\"; scope = "
	    "\"tenant\"; actions = [ \"set max-msg-rate=*0.5\" ]; for = \"1h\"; }, { reply = "
	    "\"bytes\"; scope = \"tenant\"; actions = [ \"set max-data-volume-rate=*0.5\" ]; for "
	    "= \"1h\"; } ); } );\n";
	struct sim *s = world(conf, 1);
	uint64_t before;
	int64_t at;

	(void)state;
	put(s, 0, "m", "a", "", 90000);
	sim_run(s, s->now + 2 * MINUTE);
	before = count("a", NULL, NULL, s->now - MINUTE, s->now);
	s->host[0].defer = 100;
	s->defer_text = "451 4.7.1 slow down";
	sim_run(s, s->now + 100);
	s->defer_text = "451 4.7.1 too many bytes"; /* of nothing: an error, nothing set */
	sim_run(s, s->now + 5 * SECOND);
	s->host[0].defer = 0;
	assert_true(errors > 0);
	at = s->now + SECOND;
	sim_run(s, at + MINUTE);
	assert_in_range(
	    count("a", NULL, NULL, at, at + MINUTE), before * 45 / 100, before * 55 / 100);
	sim_drain(s);
	sim_free(s);
}

/* ---- a suspension, and its end ---- */

static const char suspending[] =
    HEAD "tenants = ( { name = \"a\"; }, { name = \"b\"; sender-domains = [ \"b.example\" ]; } );\n"
	 "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"5\\\\.7\\\\.26 .*domain "
	 "(?<domain>[a-z.]+)\"; scope = \"sender-domain\"; actions = [ \"suspend-tenant\" ]; for = "
	 "\"10m\"; }, { reply = \"5\\\\.7\\\\.26 un\"; actions = [ \"suspend-tenant\" ]; for = "
	 "\"3h\"; } ); } "
	 ");\n";

static void says(struct sim *s, const char *text)
{
	s->host[0].bounce = text ? 100 : 0;
	s->bounce_text = text;
}

static void one_reply_a_connection(void **state)
{
	struct sim *s = world(suspending, 2);
	int64_t at, over;
	uint64_t rate, open;

	(void)state;
	put(s, 0, "m", "a", "", 20000);
	put(s, 1, "m", "a", "", 60000);
	sim_run(s, s->now + 5 * SECOND);
	open = s->core->conns.count;
	says(s, "550 5.7.26 unauthenticated");
	at = s->now;
	sim_run(s, at + 100);
	says(s, NULL);
	assert_true(count("a", NULL, "[mx0.test]", at, at + 5 * SECOND) <= open);
	put(s, 0, "m", "b", "", 60000);
	rate = recipients(s, "a");
	sim_run(s, at + HOUR);
	assert_int_equal(count("a", NULL, "[mx0.test]", at + 200, s->now), 0);
	assert_true(count("b", NULL, NULL, 0, s->now) >= 60000);
	assert_true(count("a", NULL, "[mx1.test]", at, s->now) > 10000);
	for (int i = 0; i < 3; i++)
		sim_restart(s);
	assert_true(rate > recipients(s, "a")); /* elsewhere it goes on */
	sim_run(s, at + 3 * HOUR - MINUTE);
	assert_int_equal(count("a", NULL, "[mx0.test]", at + 200, s->now), 0);
	over = at + 3 * HOUR + 100;
	sim_run(s, over + 5 * MINUTE);
	/* one at a time for the probe and a tenth of eight; two at a time; four */
	assert_in_range(count("a", NULL, "[mx0.test]", over, over + 50 * SECOND), 100, 50000 / 20);
	for (size_t i = 0; i < sent_count; i++)
		if (is(&sent[i], "a", NULL, "[mx0.test]") && sent[i].at > at + 200) {
			assert_true(sent[i].at >= at + 3 * HOUR - SECOND);
			break;
		}
	sim_drain(s);
	for (uint32_t i = 0; i < s->job_count; i++)
		assert_in_range(s->job[i].attempts, 0, 1); /* nothing was burnt */
	sim_free(s);
}

static void the_domain_that_the_reply_names(void **state)
{
	struct sim *s = world(suspending, 1);
	struct core_cursor cursor = {0, 0};
	struct hold_view v[4];

	(void)state;
	put(s, 0, "m", "@x.example", "", 500);
	put(s, 0, "m", "a", "", 3000);
	put(s, 0, "m", "b", "", 10);
	says(s, "550 5.7.26 domain x.example");
	sim_run(s, s->now + 500);
	says(s, "550 5.7.26 domain mail.b.example");
	sim_run(s, s->now + 300);
	says(s, NULL);
	assert_int_equal(core_holds(s->core, &cursor, v, COUNT_OF(v)), 2);
	for (int i = 0; i < 2; i++)
		assert_true(str_eq(v[i].name, STR("@x.example")) || str_eq(v[i].name, STR("b")));
	sim_drain(s);
	sim_free(s);
}

static void senders_domains_have_a_bound(void **state)
{
	struct sim *s = world(suspending, 1);

	(void)state;
	s->quiet = true;
	for (unsigned i = 0; i < CORE_SENDER_DOMAINS + 500; i++) {
		char name[40];

		snprintf(name, sizeof(name), "@s%u.example", i);
		put(s, 0, "m", name, "", 1);
	}
	assert_int_equal(s->core->implicit_tenants, CORE_SENDER_DOMAINS);
	assert_int_equal(tenant_find(s->core, STR(""))->tally.n[JOB_READY] +
			     tenant_find(s->core, STR(""))->tally.n[JOB_UNROUTED] +
			     tenant_find(s->core, STR(""))->tally.n[JOB_WAITING],
	    500);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(limits_hold_everywhere),
	    cmocka_unit_test(connects_of_a_tenant),
	    cmocka_unit_test(set_for_a_time),
	    cmocka_unit_test(a_part_of_what_it_sends),
	    cmocka_unit_test(one_reply_a_connection),
	    cmocka_unit_test(the_domain_that_the_reply_names),
	    cmocka_unit_test(senders_domains_have_a_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
