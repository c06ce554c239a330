/* SPDX-License-Identifier: ISC */
/*
 * The mode machine: each transition, with a restart after it; what it does to limits, connections
 * and retry times; and a random walk against a model that knows nothing of the code.
 */
#include "tests/unit/qmgr/sim.h"

#define RULES                                                                                      \
	"smtp-pattern-lists = ( { name = \"l\"; rules = ( "                                        \
	"{ reply = \"slow down\"; actions = [ \"mode=backoff\" ]; }, "                             \
	"{ reply = \"long pause\"; actions = [ \"mode=backoff\" ]; for = \"3h\"; }, "              \
	"{ reply = \"all clear\"; actions = [ \"mode=normal\" ]; } ); } );\n"
static const char plain[] =
    RULES "domains = ( { name = \"*\"; max-smtp-out = 8; retry-after = \"10m,20m\"; "
	  "retry-recipients-after = \"1m\"; backoff-retry-after = \"1h\"; "
	  "backoff-to-normal-after = \"30m\"; backoff-notify = [ \"ops@out.example.com\" ]; "
	  "backoff-max-msg-rate = \"600/m\"; backoff-max-connect-rate = \"600/m\"; "
	  "backoff-recovery = \"25%,50% every 10m\"; smtp-pattern-list = \"l\"; } );";

/* What people were told, in order. */
static struct {
	unsigned entries, exits; /* by mail */
	unsigned changes;	 /* all events of modes */
	char last[64];
	char rule[200], text[200];
} told;

static void listen(struct sim *s, const struct core_decision *d)
{
	const struct core_event *e = &d->event;

	(void)s;
	if (d->kind != DECIDE_EVENT || e->kind != EVENT_MODE)
		return;
	told.changes++;
	str_copy(told.last, sizeof(told.last), e->to);
	str_copy(told.rule, sizeof(told.rule), e->rule);
	str_copy(told.text, sizeof(told.text), e->text);
	if (!e->notify.n)
		return;
	assert_true(str_eq(e->notify, STR("ops@out.example.com")));
	told.entries += str_eq(e->to, STR("backoff"));
	told.exits += str_eq(e->to, STR("normal"));
}

static struct sim *world_of(const char *conf)
{
	struct sim *s = sim_new(11, 2, conf);

	memset(&told, 0, sizeof(told));
	s->on_decision = listen;
	s->queue_max = 8;
	sim_rules(s, "l");
	sim_mx(sim_domain(s, "a.example"), 10, sim_host(s, "mx.a.example", HOST_OK));
	sim_start(s);
	return s;
}

static struct queue *the_queue(struct sim *s)
{
	struct queue *q = queue_find(s->core, STR("[mx.a.example]/default"));

	assert_non_null(q);
	return q;
}

static const char *mode_of(struct sim *s)
{
	return mode_name(the_queue(s)).p;
}

static void feed(struct sim *s, unsigned n)
{
	while (n--)
		sim_mail(s, 0);
}

static void slow_down(struct sim *s, const char *text)
{
	s->host[0].defer = 100;
	s->defer_text = text;
}

/* A restart, after which the route is known again. */
static void again(struct sim *s)
{
	sim_restart(s);
	sim_run(s, s->now + SECOND);
}

static void flush(struct sim *s)
{
	s->flushed_ms = s->now;
	assert_false(core_flush(s->core, STR("*"), &(struct core_cursor){0, 0}, 1000000, s->now));
}

static void enter(struct sim *s)
{
	feed(s, 40);
	slow_down(s, "450 4.7.0 slow down");
	sim_run(s, s->now + 2 * SECOND);
	assert_string_equal(mode_of(s), "backoff");
}

static void a_rule_enters(void **state)
{
	struct sim *s = world_of(plain);
	struct core_cursor cursor = {0, 0};
	struct queue_view v;

	(void)state;
	enter(s);
	assert_int_equal(told.entries, 1);
	assert_int_equal(told.changes, 1);
	assert_non_null(strstr(told.rule, "l:1 ("));
	assert_string_equal(told.text, "450 4.7.0 slow down");
	assert_true(core_queues(s->core, STR("[mx*"), &cursor, &v, 1) == 1);
	assert_true(str_eq(v.mode, STR("backoff")));
	assert_true(str_eq(v.mode_cause, STR("450 4.7.0 slow down")));
	assert_true(v.mode_rule.n > 0 && v.mode_until_ms > s->now);
	assert_int_equal(the_queue(s)->e.max_smtp_out, 1);
	sim_free(s);
}

static uint32_t live(struct sim *s)
{
	uint32_t n = 0;
	struct queue *q = the_queue(s);

	for (struct link *l = q->conns.next; l != &q->conns; l = l->next)
		n += OWNER(l, struct conn, in_queue)->state != CONN_CLOSING;
	return n;
}

static int64_t first_match_ms;
static void no_more_than_one(struct sim *s, const struct core_decision *d)
{
	listen(s, d);
	if (told.changes && !first_match_ms)
		first_match_ms = s->now;
	if (d->kind == DECIDE_GRANT && first_match_ms)
		assert_int_equal(live(s), 1);
}

/* Eight connections work; at the first match seven go, and no grant is made beyond one. */
static void connections_go(void **state)
{
	struct sim *s = world_of(plain);

	(void)state;
	first_match_ms = 0;
	s->on_decision = no_more_than_one;
	feed(s, 3000);
	sim_run(s, s->now + 3 * SECOND);
	assert_true(live(s) >= 4);
	slow_down(s, "450 4.7.0 slow down");
	sim_run(s, s->now + SECOND);
	assert_true(first_match_ms > 0);
	assert_true(live(s) <= 1);
	sim_free(s);
}

static int64_t least_due(struct sim *s)
{
	int64_t least = INT64_MAX;

	for (size_t i = 0; i < s->job_count; i++) {
		struct job_view v;

		if (s->job[i].state != SIM_ENDED && core_job(s->core, s->job[i].ref, &v) &&
		    v.state == JOB_WAITING && v.due_ms < least)
			least = v.due_ms;
	}
	return least;
}

/* Deferred in normal mode, it waits as in backoff mode from when that begins; and back. */
static void retry_follows(void **state)
{
	struct sim *s = world_of(plain);
	int64_t deferred = s->now;

	(void)state;
	slow_down(s, "450 4.2.1 busy");
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_in_range(least_due(s) - deferred, 10 * MINUTE, 11 * MINUTE + 2 * SECOND);
	assert_int_equal(
	    core_set_mode(s->core, STR("a.example/default"), STR("backoff"), 0, STR("me"), s->now),
	    0);
	sim_run(s, s->now + SECOND);
	assert_in_range(least_due(s) - deferred, HOUR, HOUR + 6 * MINUTE + 2 * SECOND);
	assert_int_equal(core_set_mode(s->core, STR("[mx.a.example]/default"), STR("normal"), 0,
			     STR("me"), s->now),
	    0);
	sim_run(s, s->now + SECOND);
	assert_in_range(least_due(s) - deferred, 10 * MINUTE, 11 * MINUTE + 2 * SECOND);
	sim_free(s);
}

/* Through all its states, with a restart after each and in the middle of each. */
static void whole_way(void **state)
{
	struct sim *s = world_of(plain);
	int64_t until, start;

	(void)state;
	enter(s);
	again(s);
	assert_string_equal(mode_of(s), "backoff");
	until = the_queue(s)->mode->until_ms;
	assert_string_equal(the_queue(s)->mode->cause, "450 4.7.0 slow down");
	assert_int_equal(the_queue(s)->e.max_smtp_out, 1);
	s->host[0].defer = 0;
	sim_run(s, until - SECOND);
	assert_string_equal(mode_of(s), "backoff");
	again(s);
	sim_run(s, until + 5);
	assert_string_equal(mode_of(s), "recovery");
	assert_true(the_queue(s)->e.probe);
	assert_int_equal(told.exits, 0);
	again(s);
	assert_string_equal(mode_of(s), "recovery");
	start = s->now;
	flush(s);
	feed(s, 20);
	sim_run(s, s->now + 2 * SECOND);
	assert_int_equal(the_queue(s)->mode->step, 1);
	assert_int_equal(the_queue(s)->e.max_smtp_out, 2);
	again(s);
	assert_int_equal(the_queue(s)->mode->step, 1);
	sim_run(s, start + 10 * MINUTE + 5 * SECOND);
	assert_int_equal(the_queue(s)->mode->step, 2);
	assert_int_equal(the_queue(s)->e.max_smtp_out, 4);
	again(s);
	assert_int_equal(the_queue(s)->mode->step, 2);
	sim_run(s, start + 20 * MINUTE + 10 * SECOND);
	feed(s, 1);
	sim_run(s, s->now + SECOND);
	assert_string_equal(mode_of(s), "normal");
	assert_int_equal(the_queue(s)->e.max_smtp_out, 8);
	again(s);
	feed(s, 1);
	sim_run(s, s->now + SECOND);
	assert_string_equal(mode_of(s), "normal");
	assert_int_equal(told.entries, 1);
	assert_int_equal(told.exits, 1);
	assert_int_equal(told.changes, 3);
	assert_null(sim_kept(s, STR("mode [mx.a.example]/default")));
	sim_free(s);
}

static void to_recovery(struct sim *s)
{
	enter(s);
	sim_run(s, s->now + 10 * SECOND); /* all have been told */
	sim_run(s, the_queue(s)->mode->until_ms + 5);
	assert_string_equal(mode_of(s), "recovery");
}

static uint64_t sends_in(struct sim *s, int64_t ms)
{
	uint64_t before = s->sends;

	sim_run(s, s->now + ms);
	return s->sends - before;
}

/* Something else is wrong: one transaction, then the retry step. */
static void probe_fails(void **state)
{
	struct sim *s = world_of(plain);
	int64_t hold;

	(void)state;
	to_recovery(s);
	slow_down(s, "450 4.2.0 mailbox busy");
	feed(s, 50);
	assert_int_equal(sends_in(s, MINUTE), 1);
	assert_string_equal(mode_of(s), "recovery");
	hold = the_queue(s)->hold_ms;
	assert_in_range(hold - s->now, 8 * MINUTE, 11 * MINUTE);
	again(s);
	assert_int_equal(the_queue(s)->mode->probes, 1);
	assert_int_equal(sends_in(s, hold - s->now - 1), 0);
	assert_int_equal(sends_in(s, MINUTE), 1);
	assert_int_equal(the_queue(s)->mode->probes, 2);
	assert_in_range(the_queue(s)->hold_ms - s->now, 18 * MINUTE, 22 * MINUTE);
	s->host[0].defer = 0;
	sim_run(s, the_queue(s)->hold_ms + MINUTE);
	assert_int_equal(the_queue(s)->mode->step, 1);
	sim_free(s);
}

static void a_match_falls_back(void **state)
{
	struct sim *s = world_of(plain);

	(void)state;
	to_recovery(s);
	feed(s, 5);
	sim_run(s, s->now + 2 * SECOND);
	assert_string_equal(mode_of(s), "backoff"); /* the probe was told to slow down */
	sim_run(s, the_queue(s)->mode->until_ms + 5);
	s->host[0].defer = 0;
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(the_queue(s)->mode->step, 1);
	s->host[0].defer = 100;
	feed(s, 1);
	sim_run(s, s->now + 2 * SECOND);
	assert_string_equal(mode_of(s), "backoff");
	assert_int_equal(told.entries, 1); /* one episode */
	assert_int_equal(told.exits, 0);
	sim_free(s);
}

static void matches_extend(void **state)
{
	struct sim *s = world_of(plain);
	int64_t first;

	(void)state;
	enter(s);
	first = the_queue(s)->mode->until_ms;
	sim_run(s, s->now + 10 * MINUTE);
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_in_range(
	    the_queue(s)->mode->until_ms - first, 10 * MINUTE - 10 * SECOND, 11 * MINUTE);
	s->defer_text = "450 4.7.0 long pause";
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_in_range(the_queue(s)->mode->until_ms - s->now, 3 * HOUR - MINUTE, 3 * HOUR);
	assert_int_equal(told.changes, 1);
	sim_free(s);
}

static void a_rule_leaves(void **state)
{
	struct sim *s = world_of(plain);

	(void)state;
	enter(s);
	s->defer_text = "450 4.7.0 all clear";
	feed(s, 1);
	sim_run(s, s->now + 10 * SECOND);
	assert_string_equal(mode_of(s), "recovery");
	sim_free(s);
}

static void a_delivery_leaves(void **state)
{
	static const char conf[] =
	    RULES "domains = ( { name = \"*\"; max-smtp-out = 8; backoff-recovery = \"off\"; "
		  "backoff-notify = [ \"ops@out.example.com\" ]; "
		  "backoff-to-normal-after-delivery = true; smtp-pattern-list = \"l\"; } );";
	struct sim *s = world_of(conf);

	(void)state;
	enter(s);
	sim_run(s, s->now + 3 * MINUTE);
	assert_string_equal(mode_of(s), "backoff");
	s->host[0].defer = 0;
	feed(s, 1);
	sim_run(s, s->now + MINUTE);
	assert_string_equal(mode_of(s), "normal");
	assert_int_equal(told.entries, 1);
	assert_int_equal(told.exits, 1);
	sim_free(s);
}

static void commands(void **state)
{
	struct sim *s = world_of(plain);
	const struct str q = STR("[mx.a.example]/default"), me = STR("me");

	(void)state;
	feed(s, 1);
	sim_run(s, s->now + SECOND);
	assert_int_equal(
	    core_set_mode(s->core, STR("x/y"), STR("backoff"), 0, me, s->now), -ENOENT);
	assert_int_equal(core_set_mode(s->core, q, STR("odd"), 0, me, s->now), -EINVAL);
	assert_int_equal(core_set_mode(s->core, q, STR("normal"), 0, me, s->now), 0);
	assert_string_equal(mode_of(s), "normal");
	assert_int_equal(core_set_mode(s->core, q, STR("backoff"), s->now + HOUR, me, s->now), 0);
	again(s);
	assert_string_equal(mode_of(s), "backoff");
	assert_string_equal(the_queue(s)->mode->who, "me");
	assert_int_equal(core_set_mode(s->core, q, STR("normal"), 0, me, s->now), 0);
	assert_string_equal(mode_of(s), "recovery");
	assert_int_equal(core_set_mode(s->core, q, STR("normal"), 0, me, s->now), 0);
	assert_string_equal(mode_of(s), "normal");
	assert_int_equal(core_set_mode(s->core, q, STR("backoff"), 0, me, s->now), 0);
	assert_int_equal(core_reset(s->core, q, me, s->now), 0);
	assert_string_equal(mode_of(s), "normal");
	sim_run(s, s->now + SECOND);
	assert_int_equal(told.entries, 2);
	assert_int_equal(told.exits, 2);
	sim_free(s);
}

/* An idle queue in backoff is not forgotten; without mail to probe with, it is normal in the end.
 */
static void nothing_to_probe(void **state)
{
	struct sim *s = world_of(plain);

	(void)state;
	feed(s, 1);
	sim_run(s, s->now + SECOND);
	assert_int_equal(core_set_mode(s->core, STR("[mx.a.example]/default"), STR("backoff"), 0,
			     STR("me"), s->now),
	    0);
	sim_run(s, s->now + 25 * MINUTE);
	assert_string_equal(mode_of(s), "backoff");
	sim_run(s, s->now + 3 * HOUR);
	assert_string_equal(mode_of(s), "recovery");
	sim_run(s, s->now + 25 * HOUR);
	assert_int_equal(s->core->queues.count, 0);
	assert_int_equal(s->kept_count, 0);
	assert_int_equal(told.exits, 1);
	sim_free(s);
}

/* ---- a random walk ---- */

struct model {
	enum mode_kind kind;
	int64_t until;
	unsigned step;
	unsigned entries, exits;
};

static void model_time(struct model *m, int64_t now)
{
	while (m->kind != MODE_NORMAL && m->until <= now) {
		if (m->kind == MODE_BACKOFF) {
			m->kind = MODE_RECOVERY;
			m->step = 0;
			m->until += DAY;
		} else if (m->step == 2) {
			m->kind = MODE_NORMAL;
			m->exits++;
		} else {
			m->step++;
			m->until += 10 * MINUTE;
		}
	}
}

static void model_backoff(struct model *m, int64_t now, int64_t ms)
{
	m->entries += m->kind == MODE_NORMAL;
	if (m->kind != MODE_BACKOFF || m->until < now + ms)
		m->until = now + ms;
	m->kind = MODE_BACKOFF;
}

/* slack: of the end; what a match adds is not given out every time, and a restart loses it. */
static void check(struct sim *s, struct model *m, int64_t slack)
{
	const struct queue *q = queue_find(s->core, STR("[mx.a.example]/default"));
	const struct mode *mode = q ? q->mode : NULL;

	assert_int_equal(mode ? mode->kind : MODE_NORMAL, m->kind);
	if (m->kind == MODE_RECOVERY)
		assert_int_equal(mode->step, m->step);
	if (m->kind != MODE_NORMAL && (m->kind != MODE_RECOVERY || m->step))
		assert_in_range(mode->until_ms, m->until - slack, m->until);
	if (mode) /* the answer came at some moment within these seconds: now it is known */
		m->until = mode->until_ms;
	assert_int_equal(told.entries, m->entries);
	assert_int_equal(told.exits, m->exits);
}

/* One answer to one message, through the core's own doors. */
static void answer(struct sim *s, struct model *m, unsigned what)
{
	static const char *const texts[] = {"450 4.7.0 slow down", "450 4.7.0 long pause",
	    "450 4.7.0 all clear", "450 4.2.0 other"};

	s->host[0].defer = what < 4 ? 100 : 0;
	s->defer_text = texts[what & 3];
	flush(s);
	if (s->core->jobs.live == 0)
		feed(s, 1);
	sim_run(s, s->now + SECOND); /* after a restart, the route leads to another queue */
	flush(s);
	sim_run(s, s->now + 10 * SECOND);
	if (what == 0)
		model_backoff(m, s->now, 30 * MINUTE);
	else if (what == 1)
		model_backoff(m, s->now, 3 * HOUR);
	else if (what == 2 && m->kind == MODE_BACKOFF) {
		m->kind = MODE_RECOVERY;
		m->step = 0;
		m->until = s->now + DAY;
	} else if (what >= 4 && m->kind == MODE_RECOVERY && m->step == 0) {
		m->step = 1;
		m->until = s->now + 10 * MINUTE;
	}
}

/* What waits may be tried again while time passes: that would be an answer, too. */
static void pass(struct sim *s, struct model *m, int64_t ms)
{
	for (size_t k = 0; k < s->job_count; k++)
		if (s->job[k].state != SIM_ENDED)
			core_delete(s->core, s->job[k].ref, s->now);
	sim_run(s, s->now + ms);
	model_time(m, s->now);
	check(s, m, 40 * SECOND);
}

static void walk(uint64_t seed)
{
	struct sim *s = world_of(plain);
	struct model m = {.kind = MODE_NORMAL};

	s->random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
	for (int i = 0; i < 150; i++) {
		if (m.kind != MODE_NORMAL && m.until - s->now < MINUTE)
			pass(s, &m, MINUTE); /* nothing ends while it answers */
		answer(s, &m, (unsigned)(sim_random(s) % 7));
		check(s, &m, 40 * SECOND);
		if (sim_chance(s, 40)) {
			again(s);
			check(s, &m, SECOND + 3 * HOUR / 64);
		}
		if (sim_chance(s, 10)) {
			sim_configure(s, plain);
			check(s, &m, 40 * SECOND);
		}
		if (sim_chance(s, 60))
			pass(s, &m, MINUTE + (int64_t)(sim_random(s) % (20 * MINUTE)));
	}
	sim_free(s);
}

static void random_walks(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++)
		walk(seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_rule_enters),
	    cmocka_unit_test(connections_go),
	    cmocka_unit_test(retry_follows),
	    cmocka_unit_test(whole_way),
	    cmocka_unit_test(probe_fails),
	    cmocka_unit_test(a_match_falls_back),
	    cmocka_unit_test(matches_extend),
	    cmocka_unit_test(a_rule_leaves),
	    cmocka_unit_test(a_delivery_leaves),
	    cmocka_unit_test(commands),
	    cmocka_unit_test(nothing_to_probe),
	    cmocka_unit_test(random_walks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
