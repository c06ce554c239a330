/* SPDX-License-Identifier: ISC */
/*
 * Rules on replies: triggers against a count by brute force, and what each action does to
 * recipients, hosts, queues and source addresses.
 */
#include "qmgr/core/rules.h"
#include "tests/unit/qmgr/sim.h"

static struct {
	unsigned fired, alerts, sources, errors;
	unsigned bounced, deferred, retried, delivered;
	char rule[300], text[300], done_rule[300], status[20], notify[100], to[100];
} told;

static void listen(struct sim *s, const struct core_decision *d)
{
	const struct core_event *e = &d->event;

	(void)s;
	if (d->kind == DECIDE_DONE) {
		told.bounced += d->outcome == OUTCOME_BOUNCED;
		told.deferred += d->outcome == OUTCOME_DEFERRED;
		told.retried += d->outcome == OUTCOME_RETRY;
		told.delivered += d->outcome == OUTCOME_DELIVERED;
		str_copy(told.done_rule, sizeof(told.done_rule), d->rule);
		str_copy(told.status, sizeof(told.status), d->status);
	}
	if (d->kind != DECIDE_EVENT)
		return;
	told.fired += e->kind == EVENT_RULE;
	told.alerts += e->kind == EVENT_ALERT;
	told.sources += e->kind == EVENT_SOURCE;
	told.errors += e->kind == EVENT_ERROR;
	if (e->kind == EVENT_RULE)
		str_copy(told.rule, sizeof(told.rule), e->rule);
	if (e->kind == EVENT_ALERT || e->kind == EVENT_SOURCE)
		str_copy(told.notify, sizeof(told.notify), e->notify);
	if (e->kind == EVENT_SOURCE)
		str_copy(told.to, sizeof(told.to), e->to);
}

#define DOMAINS                                                                                    \
	"virtual-mtas = ( { name = \"m\"; sources = ( { address = \"192.0.2.1\"; }, "              \
	"{ address = \"192.0.2.2\"; } ); } );\n"                                                   \
	"domains = ( { name = \"*\"; max-smtp-out = 4; retry-after = \"10m,20m\"; "                \
	"retry-recipients-after = \"1m\"; smtp-pattern-list = \"l\"; backoff-retry-after = "       \
	"\"1h\"; disabled-source-ip-notify = [ \"ops@out.example.com\" ]; "                        \
	"reenable-source-ip-after = \"2h\"; %s } );\n"                                             \
	"smtp-pattern-lists = ( { name = \"l\"; rules = ( %s ); } );\n"

static char conf_text_of[4096];
static const char *conf_of(const char *options, const char *rules)
{
	snprintf(conf_text_of, sizeof(conf_text_of), DOMAINS, options, rules);
	return conf_text_of;
}

static struct sim *world(const char *options, const char *rules)
{
	struct sim *s = sim_new(5, 2, conf_of(options, rules));
	struct sim_domain *d;

	memset(&told, 0, sizeof(told));
	s->on_decision = listen;
	s->queue_max = 4;
	sim_rules(s, "l");
	d = sim_domain(s, "a.example");
	sim_mx(d, 10, sim_host(s, "mx1.a.example", HOST_OK));
	sim_mx(d, 20, sim_host(s, "mx2.a.example", HOST_OK));
	sim_start(s);
	return s;
}

static struct queue *the_queue(struct sim *s)
{
	struct queue *q = queue_find(s->core, STR("[mx1.a.example]/m"));

	assert_non_null(q);
	return q;
}

static void feed(struct sim *s, unsigned n)
{
	while (n--)
		sim_mail(s, 0);
}

static void says(struct sim *s, const char *text)
{
	s->host[0].defer = text && text[0] == '4' ? 100 : 0;
	s->host[0].bounce = text && text[0] == '5' ? 100 : 0;
	s->host[1].defer = s->host[0].defer;
	s->host[1].bounce = s->host[0].bounce;
	s->defer_text = s->bounce_text = text;
}

/* ---- windows ---- */

struct seen {
	int64_t at;
	bool match;
};

static void compare(const struct rule_trigger *t, uint64_t seed, int64_t gap, bool restarts)
{
	static struct seen seen[20000];
	struct sim *s = world("", "{ reply = \"x\"; actions = [ \"mode=normal\" ]; "
				  "trigger = \"3/10m\"; }");
	struct known *k = rules_find(s->core, s->core->rules->lists[0].rules[0].id);
	struct rule rule = *k->rule;
	size_t n = 0;

	k->rule = &rule;
	rule.trigger = *t;
	s->random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
	for (int i = 0; i < 3000; i++) {
		struct window *w = window_get(s->core, k, STR("it"));
		bool match = t->kind == TRIGGER_COUNT || sim_chance(s, t->percent);
		uint64_t all = 0, matches = 0;
		bool fires;

		s->now += (int64_t)(sim_random(s) % (uint64_t)gap);
		core_clock(s->core, s->now);
		window_add(s->core, w, t, t->kind == TRIGGER_SHARE, match);
		seen[n++] = (struct seen){s->now, match};
		for (size_t j = n; j-- > 0 && s->now - seen[j].at < t->window_ms;) {
			all++;
			matches += seen[j].match;
		}
		fires = t->kind == TRIGGER_COUNT ? matches >= t->n
						 : all >= t->n && matches * 100 >= t->percent * all;
		assert_int_equal(window_fires(w, t), fires);
		if (restarts && w->n <= WINDOW_SAVED && sim_chance(s, 5)) {
			struct buf value;
			struct rd rd;
			char name[64];

			snprintf(name, sizeof(name), "%016llx it", (unsigned long long)rule.id);
			buf_init(&value, 100000);
			assert_true(trigger_encode(s->core, str_of(name), &value));
			window_free(s->core, w);
			rd = rd_of(value.p, value.n);
			assert_int_equal(trigger_restore(s->core, str_of(name), &rd), 0);
			buf_fini(&value);
		}
	}
	sim_free(s);
}

static void windows_count(void **state)
{
	static const struct rule_trigger triggers[] = {
	    {TRIGGER_COUNT, 1, 0, 1000},
	    {TRIGGER_COUNT, 3, 0, 600000},
	    {TRIGGER_COUNT, 50, 0, 60000},
	    {TRIGGER_COUNT, 400, 0, 3600000},
	    {TRIGGER_SHARE, 10, 20, 60000},
	    {TRIGGER_SHARE, 100, 50, 300000},
	};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(triggers); i++)
		for (uint64_t seed = 1; seed <= 3; seed++)
			/* about 200 in the window: exact */
			compare(&triggers[i], seed, triggers[i].window_ms / 100 + 1, seed > 1);
}

/* Beyond what is exact, an attempt is forgotten early by a WINDOW_EXACT-th of the time at most. */
static void windows_are_bounded(void **state)
{
	static const struct rule_trigger t = {TRIGGER_COUNT, 5000, 0, 600000};
	struct sim *s = world("", "{ reply = \"x\"; actions = [ \"mode=normal\" ]; "
				  "trigger = \"5000/10m\"; }");
	struct known *k = rules_find(s->core, s->core->rules->lists[0].rules[0].id);
	struct window *w = window_get(s->core, k, STR("it"));

	(void)state;
	for (int i = 0; i < 60000; i++) {
		s->now += 50; /* 12,000 in the window */
		core_clock(s->core, s->now);
		window_add(s->core, w, &t, 0, 1);
		assert_true(w->n <= 2 * WINDOW_EXACT + 1);
		if (i > 5100)
			assert_true(window_fires(w, &t));
		if (i < 4999)
			assert_false(window_fires(w, &t));
	}
	sim_free(s);
}

/* ---- recipients ---- */

static void bounce_recipient(void **state)
{
	struct sim *s =
	    world("", "{ reply = \"over quota\"; actions = [ \"bounce-recipient\" ]; }");

	(void)state;
	says(s, "452 4.2.2 over quota");
	feed(s, 3);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.bounced, 3);
	assert_string_equal(told.status, "5.2.1"); /* the world's status is 4.2.1 */
	assert_non_null(strstr(told.done_rule, "l:1 ("));
	assert_int_equal(told.fired, 3);
	sim_free(s);
}

static void defer_recipient(void **state)
{
	struct sim *s = world("", "{ reply = \"rate\"; actions = [ \"defer-recipient\" ]; }");

	(void)state;
	says(s, "550 5.7.1 rate limited");
	feed(s, 3);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.bounced, 0);
	assert_int_equal(told.deferred, 3);
	assert_string_equal(told.status, "4.1.1");
	says(s, NULL);
	sim_run(s, 0);
	assert_int_equal(told.delivered, 3);
	sim_free(s);
}

static void first_of_conflicting(void **state)
{
	struct sim *s = world("", "{ reply = \"rate\"; actions = [ \"defer-recipient\" ]; }, "
				  "{ reply = \"limited\"; actions = [ \"bounce-recipient\", "
				  "\"mode=backoff\" ]; }, "
				  "{ reply = \"550\"; actions = [ \"mode=normal\" ]; }");

	(void)state;
	says(s, "450 4.7.1 rate limited, was 550");
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.deferred, 1);
	assert_int_equal(told.bounced, 0);
	assert_true(mode_is_backoff(the_queue(s)));
	assert_int_equal(told.fired, 3); /* each fires; what was taken is left out */
	sim_free(s);
}

static void skip_mx(void **state)
{
	struct sim *s = world("", "{ reply = \"blocked\"; actions = [ \"skip-mx\" ]; }");

	(void)state;
	s->host[0].bounce = 100;
	s->bounce_text = "554 5.7.1 blocked";
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.delivered, 1);
	assert_int_equal(told.bounced, 0);
	assert_int_equal(told.retried, 1);
	assert_int_equal(s->job[0].attempts, 0);
	feed(s, 20); /* the first host is passed over */
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.delivered, 21);
	assert_int_equal(told.retried, 1);
	s->host[1].bounce = 100; /* no other left: a deferral */
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.bounced, 0);
	assert_int_equal(told.deferred, 1);
	sim_free(s);
}

/* A hostile set of hosts, all of which refuse: each is passed over once, then the mail waits. */
static void skip_mx_of_very_many_addresses(void **state)
{
	struct sim *s = world("", "{ reply = \"blocked\"; actions = [ \"skip-mx\" ]; }");
	char name[64];

	(void)state;
	s->host[0].bounce = s->host[1].bounce = 100;
	while (s->domain[0].host_count < ROUTE_HOSTS_MAX) {
		snprintf(name, sizeof(name), "h%zu.a.example", s->host_count);
		sim_mx(&s->domain[0], 30, sim_host(s, name, HOST_OK));
		s->host[s->host_count - 1].bounce = 100;
	}
	for (size_t i = 0; i < s->host_count; i++)
		s->host[i].addresses = ROUTE_ADDRESSES_MAX;
	s->bounce_text = "554 5.7.1 blocked";
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_in_range(told.retried, 0, ROUTE_HOSTS_MAX);
	assert_int_equal(told.deferred, 1);
	sim_free(s);
}

/* Forty queues, or forty names that a hostile remote makes up: not forty mails. */
static void alerts_of_one_rule(void **state)
{
	struct sim *s =
	    world("", "{ reply = \"blocked\"; actions = [ \"alert=ops@out.example.com\" ]; }");
	char name[64];

	(void)state;
	s->bounce_text = "554 5.7.1 blocked";
	for (uint32_t i = 1; i <= 40; i++) {
		snprintf(name, sizeof(name), "d%u.example", i);
		sim_mx(sim_domain(s, name), 10, sim_host(s, name, HOST_OK));
		s->host[s->host_count - 1].bounce = 100;
		sim_mail(s, i);
	}
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.fired, 40);
	assert_int_equal(told.alerts, RULE_ALERTS);
	sim_run(s, s->now + 10 * MINUTE);
	sim_mail(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.alerts, RULE_ALERTS + 1);
	sim_free(s);
}

/* ---- queues ---- */

static void bounce_queue(void **state)
{
	struct sim *s = world("", "{ reply = \"gone for good\"; actions = [ \"bounce-queue\" ]; }");

	(void)state;
	says(s, "450 4.2.1 later");
	feed(s, 10);
	sim_run(s, s->now + MINUTE); /* these wait */
	assert_int_equal(told.deferred, 10);
	says(s, "450 4.2.1 gone for good");
	feed(s, 500);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.bounced, 510);
	assert_int_equal(s->core->jobs.live, 0);
	says(s, NULL);
	feed(s, 5); /* what comes later is not concerned */
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.delivered, 5);
	sim_free(s);
}

static void defer_queue(void **state)
{
	struct sim *s = world("", "{ reply = \"closed\"; actions = [ \"defer-queue\" ]; }");
	uint64_t connects;

	(void)state;
	says(s, "550 5.3.2 closed");
	feed(s, 300);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(told.bounced, 0);
	assert_in_range(told.deferred, 1, 20); /* what was in flight, and no more */
	connects = s->host[0].connects + s->host[1].connects;
	assert_in_range(the_queue(s)->hold_ms - s->now, 9 * MINUTE, 11 * MINUTE);
	feed(s, 10);
	sim_run(s, s->now + 9 * MINUTE);
	assert_int_equal(s->host[0].connects + s->host[1].connects, connects);
	sim_free(s);
}

static void greeting_bounces(void **state)
{
	struct sim *s = world("bounce-upon-5xx-greeting = true;", "");

	(void)state;
	s->host[0].mode = s->host[1].mode = HOST_554;
	feed(s, 20);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.bounced, 20);
	sim_free(s);
}

/* Without the option a 421 speaks of the whole site. */
static void a_421_and_the_next_mx(void **state)
{
	struct sim *s = world("", "");

	(void)state;
	s->host[0].mode = HOST_421;
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(s->host[1].connects, 0);
	assert_true(the_queue(s)->hold_ms > s->now);
	sim_free(s);
	s = world("smtp-421-means-mx-unavailable = true;", "");
	s->host[0].mode = HOST_421;
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.delivered, 1);
	sim_free(s);
}

static void connection_errors(void **state)
{
	struct sim *s = world("", "{ reply = \"too busy\"; actions = [ \"mode=backoff\" ]; }, "
				  "{ reply = \"refused\"; stage = [ \"connect\" ]; "
				  "actions = [ \"alert=ops@out.example.com\" ]; }");

	(void)state;
	s->host[0].mode = s->host[1].mode = HOST_421;
	feed(s, 1);
	sim_run(s, s->now + 5 * SECOND);
	assert_true(mode_is_backoff(the_queue(s)));
	s->host[0].mode = s->host[1].mode = HOST_REFUSES;
	sim_run(s, s->now + 3 * HOUR);
	assert_true(told.alerts > 0 && told.fired > 2 * told.alerts); /* a round is one mail */
	assert_string_equal(told.notify, "ops@out.example.com");
	sim_free(s);
}

static void counts(void **state)
{
	struct sim *s = world("", "{ reply = \"slow\"; trigger = \"3/10m\"; "
				  "actions = [ \"mode=backoff\" ]; }");

	(void)state;
	says(s, "450 4.7.0 slow");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(told.fired, 0);
		feed(s, 1);
		sim_run(s, s->now + MINUTE);
		if (i == 1)
			sim_restart(s);
	}
	assert_int_equal(told.fired, 1);
	assert_true(mode_is_backoff(the_queue(s)));
	sim_free(s);
}

static void shares(void **state)
{
	struct sim *s = world("", "{ reply = \"slow\"; trigger = \"50% of 20 in 10m\"; "
				  "actions = [ \"mode=backoff\" ]; }");

	(void)state;
	feed(s, 100);
	sim_run(s, s->now + MINUTE);
	says(s, "450 4.7.0 slow");
	feed(s, 90);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.fired, 0);
	feed(s, 20); /* the 100th of 200 fires */
	sim_run(s, s->now + MINUTE);
	assert_true(told.fired > 0);
	sim_free(s);
}

/* On every queue of the virtual MTA, and on none of another. */
static void wide_scope(void **state)
{
	struct sim *s = world("", "{ reply = \"slow\"; scope = \"virtual-mta\"; "
				  "actions = [ \"mode=backoff\" ]; }");
	struct queue *other, *foreign;

	(void)state;
	sim_mx(sim_domain(s, "b.example"), 10, sim_host(s, "mx.b.example", HOST_OK));
	sim_mail(s, 1);
	sim_rcpt(s, sim_message(s), (struct sim_mail){.domain = 1, .vmta = "elsewhere"});
	sim_run(s, s->now + 5 * SECOND);
	other = queue_find(s->core, STR("[mx.b.example]/m"));
	foreign = queue_find(s->core, STR("[mx.b.example]/elsewhere"));
	assert_true(other && foreign && !other->mode);
	says(s, "450 4.7.0 slow");
	feed(s, 3);
	sim_run(s, s->now + 5 * SECOND);
	assert_true(mode_is_backoff(the_queue(s)));
	assert_true(mode_is_backoff(other));
	assert_false(mode_is_backoff(foreign));
	sim_free(s);
}

static void listen_for_clear_text(struct sim *s, const struct core_decision *d)
{
	listen(s, d);
	if (d->kind == DECIDE_SEND && the_queue(s)->e.tls_required)
		assert_int_equal(conn_find(s->core, d->conn)->tls, TLS_REQUIRED);
}

/* Connections without TLS that are open already are not used any more. */
static void require_tls_of_open_connections(void **state)
{
	struct sim *s =
	    world("", "{ reply = \"few\"; for = \"1h\"; actions = [ \"require-tls\" ]; }");

	(void)state;
	s->on_decision = listen_for_clear_text;
	feed(s, 100);
	sim_run(s, s->now + 2 * SECOND);
	says(s, "550 5.7.0 few");
	feed(s, 100);
	sim_run(s, s->now + SECOND / 4);
	assert_true(the_queue(s)->e.tls_required);
	says(s, NULL);
	feed(s, 100);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(told.delivered + told.bounced, 300);
	sim_free(s);
}

static void settings(void **state)
{
	struct sim *s = world("", "{ reply = \"few\"; for = \"1h\"; actions = [ \"set "
				  "max-smtp-out=1\", \"set max-msg-per-connection=*0.1\", \"set "
				  "max-smtp-out=9\", \"require-tls\" ]; }");
	struct core_cursor cursor = {0, 0};
	struct hold_view v[8];

	(void)state;
	says(s, "450 4.7.0 few");
	feed(s, 10);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(the_queue(s)->e.max_smtp_out, 1);
	assert_int_equal(the_queue(s)->e.max_msg, 10);
	assert_true(the_queue(s)->e.tls_required);
	assert_int_equal(core_holds(s->core, &cursor, v, COUNT_OF(v)), 4);
	assert_true(str_eq(v[0].kind, STR("set")) && v[0].until_ms > s->now);
	assert_int_equal(core_holds(s->core, &cursor, v, COUNT_OF(v)), 0);
	sim_restart(s);
	assert_int_equal(the_queue(s)->e.max_smtp_out, 1);
	assert_int_equal(the_queue(s)->e.max_msg, 10);
	says(s, NULL);
	sim_run(s, s->now + 65 * MINUTE);
	feed(s, 1);
	sim_run(s, s->now + SECOND);
	assert_int_equal(the_queue(s)->e.max_smtp_out, 4);
	assert_int_equal(the_queue(s)->e.max_msg, 100);
	assert_null(the_queue(s)->mode);
	sim_free(s);
}

/* ---- source addresses ---- */

static unsigned from_first, from_second;
static void watch(struct sim *s, const struct core_decision *d)
{
	listen(s, d);
	if (d->kind != DECIDE_GRANT)
		return;
	from_first += str_eq(d->grant.source, STR("192.0.2.1"));
	from_second += str_eq(d->grant.source, STR("192.0.2.2"));
}

static void source_by_rule(void **state)
{
	struct sim *s =
	    world("", "{ reply = \"your address\"; actions = [ \"disable-source-ip\" ]; }");

	(void)state;
	says(s, "450 4.7.0 your address");
	feed(s, 1);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(told.sources, 1);
	assert_string_equal(told.notify, "ops@out.example.com");
	assert_string_equal(told.to, "disabled");
	says(s, NULL);
	from_first = from_second = 0;
	s->on_decision = watch;
	feed(s, 300);
	sim_restart(s);
	sim_run(s, s->now + HOUR);
	assert_true((from_first == 0) != (from_second == 0)); /* one of them only */
	from_first = from_second = 0;
	sim_run(s, s->now + 2 * HOUR); /* its time is over: one transaction as a probe */
	feed(s, 300);
	sim_run(s, s->now + MINUTE);
	assert_true(from_first && from_second);
	assert_string_equal(told.to, "enabled");
	assert_int_equal(told.sources, 2);
	assert_int_equal(s->core->disabled.count, 0);
	sim_free(s);
}

static void all_sources_gone(void **state)
{
	struct sim *s = world("backoff-upon-all-sources-disabled = true;", "");
	uint64_t grants;

	(void)state;
	core_source_bindable(s->core, STR("192.0.2.1"), false, s->now);
	core_source_bindable(s->core, STR("192.0.2.2"), false, s->now);
	feed(s, 10);
	sim_run(s, s->now + 10 * SECOND);
	assert_int_equal(s->grants, 0);
	assert_true(mode_is_backoff(the_queue(s)));
	assert_false(wheel_armed(&the_queue(s)->wake.node)); /* nothing is polled */
	core_source_bindable(s->core, STR("192.0.2.2"), true, s->now);
	sim_run(s, s->now + MINUTE);
	grants = s->grants;
	assert_true(grants > 0);
	assert_true(told.delivered > 0);
	sim_free(s);
}

/* Nothing is left to probe with, and so nothing is kept. */
static void source_of_a_queue_that_is_gone(void **state)
{
	struct sim *s =
	    world("", "{ reply = \"your address\"; actions = [ \"disable-source-ip\" ]; }");

	(void)state;
	says(s, "450 4.7.0 your address");
	feed(s, 1);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(s->core->disabled.count, 1);
	says(s, NULL);
	sim_run(s, s->now + 5 * HOUR); /* delivered from the other one, long ago */
	assert_int_equal(told.delivered, 1);
	assert_int_equal(s->core->disabled.count, 0);
	assert_int_equal(s->kept_count, 0);
	sim_free(s);
}

static void source_by_command(void **state)
{
	struct sim *s = world("", "");
	const struct str one = STR("192.0.2.1"), me = STR("me");
	struct core_cursor cursor = {0, 0};
	struct hold_view v;

	(void)state;
	assert_int_equal(
	    core_disable_source(s->core, STR("192.0.2.9"), STR(""), 0, me, s->now), -ENOENT);
	assert_int_equal(core_disable_source(s->core, one, STR(""), 0, me, s->now), 0);
	assert_int_equal(core_holds(s->core, &cursor, &v, 1), 1);
	assert_true(str_eq(v.kind, STR("disable-source")));
	assert_true(str_eq(v.who, me) && str_eq(v.name, one) && v.until_ms == 0);
	assert_int_equal(core_holds(s->core, &cursor, &v, 1), 0);
	from_first = from_second = 0;
	s->on_decision = watch;
	sim_run(s, s->now + SECOND);
	sim_restart(s);
	feed(s, 300);
	sim_run(s, s->now + 10 * DAY / 4);
	assert_true(from_first == 0 && from_second > 0);
	assert_int_equal(core_enable_source(s->core, one, STR(""), me, s->now), 1);
	feed(s, 300);
	sim_run(s, s->now + MINUTE);
	assert_true(from_first > 0);
	assert_int_equal(s->kept_count, 0);
	sim_free(s);
}

/* A configuration without the address keeps its entry; with it again, the entry holds. */
static void a_slip_costs_nothing(void **state)
{
	struct sim *s = world("", "");
	struct conf *with = s->conf;

	(void)state;
	assert_int_equal(
	    core_disable_source(s->core, STR("192.0.2.1"), STR(""), 0, STR("me"), s->now), 0);
	sim_run(s, s->now + SECOND);
	s->conf = sim_conf("virtual-mtas = ( { name = \"m\"; } );");
	sim_restart(s);
	assert_int_equal(s->core->disabled.count, 0);
	conf_free(&s->conf);
	s->conf = with;
	core_configure(s->core, s->conf, s->now);
	assert_int_equal(s->core->disabled.count, 1);
	sim_free(s);
}

static void notes(void **state)
{
	struct sim *s = world("", "{ reply = \"slow\"; actions = [ \"mode=backoff\" ]; }");
	struct queue_note n[40];
	size_t count, errors = 0, modes = 0, events = 0;

	(void)state;
	says(s, "450 4.7.0 slow");
	feed(s, 60);
	sim_run(s, s->now + 30 * MINUTE);
	count = core_queue_notes(s->core, STR("[mx1.a.example]/m"), n, COUNT_OF(n));
	for (size_t i = 0; i < count; i++) {
		errors += str_eq(n[i].kind, STR("error"));
		modes += str_eq(n[i].kind, STR("mode"));
		events += str_eq(n[i].kind, STR("event"));
		assert_true(i == 0 || n[i].at_ms <= n[i - 1].at_ms);
	}
	assert_int_equal(errors, 1); /* the same one */
	assert_int_equal(modes, 1);
	assert_int_equal(events, NOTES_EACH);
	sim_free(s);
}

/* ---- all at once ---- */

static const char *const storms[] = {
    "{ reply = \"slow\"; actions = [ \"mode=backoff\", \"alert=ops@out.example.com\" ]; for = "
    "\"10m\"; }, "
    "{ reply = \"blocked\"; actions = [ \"skip-mx\" ]; }, "
    "{ reply = \"address\"; trigger = \"3/10m\"; actions = [ \"disable-source-ip\" ]; for = "
    "\"15m\"; }",
    "{ reply = \"slow\"; actions = [ \"set max-smtp-out=1\", \"defer-queue\" ]; for = \"20m\"; }, "
    "{ reply = \"blocked\"; actions = [ \"defer-recipient\", \"mode=backoff\" ]; }, "
    "{ reply = \"busy|refused\"; stage = [ \"connect\", \"greeting\" ]; trigger = \"30% of 10 in "
    "10m\"; "
    "actions = [ \"mode=backoff\" ]; }, "
    "{ reply = \"address\"; actions = [ \"bounce-recipient\" ]; }",
};

static void change_the_world(struct sim *s)
{
	static const char *const says_it[] = {"450 4.7.0 slow", "554 5.7.1 blocked",
	    "450 4.7.0 your address", "421 4.3.2 busy", "550 5.1.1 no such user"};
	static const enum sim_mode modes[] = {
	    HOST_OK, HOST_OK, HOST_OK, HOST_421, HOST_REFUSES, HOST_554, HOST_DROPS};

	s->defer_text = s->bounce_text = says_it[sim_random(s) % COUNT_OF(says_it)];
	for (size_t i = 0; i < 2; i++) {
		s->host[i].mode = modes[sim_random(s) % COUNT_OF(modes)];
		s->host[i].defer = (unsigned)(sim_random(s) % 80);
		s->host[i].bounce = (unsigned)(sim_random(s) % 20);
		s->host[i].drop = (unsigned)(sim_random(s) % 10);
	}
}

/* The world checks every decision: nothing is sent twice, too early or after its end, and no limit
 * is passed, whatever rules do; all mail ends, and what the last rules left behind ends, too. */
static void storm(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct sim *s = world("", storms[0]);

		s->random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
		for (int i = 0; i < 120; i++) {
			feed(s, (unsigned)(sim_random(s) % 40));
			change_the_world(s);
			sim_run(s, s->now + (int64_t)(sim_random(s) % (8 * MINUTE)));
			if (sim_chance(s, 20))
				sim_restart(s);
			if (sim_chance(s, 10))
				sim_configure(s, conf_of("", storms[sim_random(s) & 1]));
			if (sim_chance(s, 5))
				assert_in_range(-core_reset(s->core, STR("[mx1.a.example]/m"),
						    STR("me"), s->now),
				    0, ENOENT);
		}
		says(s, NULL);
		s->host[0].mode = s->host[1].mode = HOST_OK;
		s->host[0].drop = s->host[1].drop = 0;
		sim_run(s, s->now + 5 * DAY);
		assert_int_equal(s->core->jobs.live, 0);
		for (size_t i = 0; i < s->job_count; i++)
			assert_int_equal(s->job[i].state, SIM_ENDED);
		sim_free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(windows_count),
	    cmocka_unit_test(windows_are_bounded),
	    cmocka_unit_test(bounce_recipient),
	    cmocka_unit_test(defer_recipient),
	    cmocka_unit_test(first_of_conflicting),
	    cmocka_unit_test(skip_mx),
	    cmocka_unit_test(skip_mx_of_very_many_addresses),
	    cmocka_unit_test(alerts_of_one_rule),
	    cmocka_unit_test(bounce_queue),
	    cmocka_unit_test(defer_queue),
	    cmocka_unit_test(greeting_bounces),
	    cmocka_unit_test(a_421_and_the_next_mx),
	    cmocka_unit_test(connection_errors),
	    cmocka_unit_test(counts),
	    cmocka_unit_test(shares),
	    cmocka_unit_test(settings),
	    cmocka_unit_test(require_tls_of_open_connections),
	    cmocka_unit_test(wide_scope),
	    cmocka_unit_test(source_by_rule),
	    cmocka_unit_test(all_sources_gone),
	    cmocka_unit_test(source_of_a_queue_that_is_gone),
	    cmocka_unit_test(source_by_command),
	    cmocka_unit_test(a_slip_costs_nothing),
	    cmocka_unit_test(notes),
	    cmocka_unit_test(storm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
