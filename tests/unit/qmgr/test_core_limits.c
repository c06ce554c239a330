/* SPDX-License-Identifier: ISC */
/*
 * Limits, precedence and fairness. The bounds that are stated in grant.c, lane.c and core.c are
 * checked here as numbers.
 */
#include "tests/unit/qmgr/sim.h"
#include <errno.h>

static void add_domains(struct sim *s, int n, size_t host)
{
	for (int i = 0; i < n; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d%d.test", i);
		sim_mx(sim_domain(s, name), 10, host);
	}
}

/* ---- values by specificity ---- */

static void precedence(void **state)
{
	static const char text[] =
	    "virtual-mtas = (\n"
	    "  { name = \"v\"; domains = ( { name = \"*\"; max-smtp-out = 3; connect-timeout = "
	    "\"3s\"; "
	    "max-rcpt-per-message = 33; },\n"
	    "    { name = \"both.test\"; max-smtp-out = 1; } ); },\n"
	    "  { name = \"w\"; } );\n"
	    "domains = ( { name = \"*\"; max-smtp-out = 4; bounce-after = \"4d\"; "
	    "connect-timeout = \"4s\"; },\n"
	    "  { name = \"both.test\"; max-smtp-out = 2; connect-timeout = \"2s\"; },\n"
	    "  { name = \"glob.test\"; max-smtp-out = 7; } );\n";
	static const struct {
		const char *domain, *vmta;
		uint32_t smtp_out, rcpt;
		int64_t connect_ms;
	} cases[] = {
	    {"both.test", "v", 1, 33, 2000}, /* its own word on it; the domain before the sender */
	    {"both.test", "w", 2, 100, 2000}, {"glob.test", "v", 7, 33, 3000},
	    {"glob.test", "w", 7, 100, 4000}, {"else.test", "v", 3, 33, 3000},
	    {"else.test", "w", 4, 100, 4000},
	    {"else.test", "removed", 3, 33, 3000}, /* as the default one, which is the first */
	};
	struct sim *s = sim_new(1, 1, text);

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct vmta *vmta = vmta_get(s->core, str_of(cases[i].vmta));
		struct values v;

		value_resolve(
		    s->core, &(struct value_of){str_of(cases[i].domain), STR("")}, vmta, &v);
		assert_int_equal(v.max_smtp_out, cases[i].smtp_out);
		assert_int_equal(v.max_rcpt, cases[i].rcpt);
		assert_int_equal(v.connect_ms, cases[i].connect_ms);
		assert_int_equal(v.bounce_ms, 4 * DAY);
		assert_int_equal(v.max_msg, 100); /* the default */
		vmta_drop(s->core, vmta);
	}
	sim_free(s);
}

static void steps_of_a_list(void **state)
{
	static const int64_t list[] = {10, 20, 30};

	(void)state;
	assert_int_equal(value_step(list, 3, 0), 0);
	assert_int_equal(value_step(list, 3, 1), 10);
	assert_int_equal(value_step(list, 3, 3), 30);
	assert_int_equal(value_step(list, 3, 400), 30);
	assert_int_equal(value_step(list, 0, 1), 0);
}

/* ---- connections ---- */

static uint32_t most_at_once;
static void watch_most(struct sim *s, const struct core_decision *d)
{
	if (d->kind == DECIDE_GRANT && s->conns.count + 1 > most_at_once)
		most_at_once = (uint32_t)s->conns.count + 1;
}

static void slow_start(void **state)
{
	struct sim *s = sim_new(1, 1, "domains = ( { name = \"*\"; max-smtp-out = 6; } );");

	(void)state;
	add_domains(s, 1, sim_host(s, "mx.test", HOST_OK));
	sim_start(s);
	for (int i = 0; i < 200; i++)
		sim_mail(s, 0);
	most_at_once = 0;
	s->on_decision = watch_most;
	while (s->done == 0)
		sim_run(s, s->now + 1);
	assert_in_range(most_at_once, 2, 3); /* two, and one for the transaction just accepted */
	sim_run(s, 0);
	assert_int_equal(most_at_once, 6);
	sim_free(s);
}

static void keeps_the_wire_busy(void **state)
{
	struct sim *s = sim_new(1, 1,
	    "domains = ( { name = \"*\"; max-smtp-out = 1; "
	    "max-msg-per-connection = 40; } );");
	bool two = false;

	(void)state;
	s->msg_max = 40;
	s->queue_max = 1;
	add_domains(s, 1, sim_host(s, "mx.test", HOST_OK));
	sim_start(s);
	for (int i = 0; i < 80; i++)
		sim_mail(s, 0);
	while (s->core->jobs.live) {
		struct node *n = table_any(&s->conns);

		two |= n && OWNER(n, struct sim_conn, node)->outstanding == 2;
		sim_run(s, s->now + 1);
	}
	assert_true(two);
	assert_int_equal(s->grants, 2); /* 40 each, to the last one */
	sim_free(s);
}

/* Nothing waits behind a slow transaction while another connection may be opened. */
static void slow_peer_blocks_nobody(void **state)
{
	struct sim *s = sim_new(1, 1, "");

	(void)state;
	add_domains(s, 1, sim_host(s, "mx.test", HOST_OK));
	sim_start(s);
	sim_mail(s, 0);
	while (s->sends == 0)
		sim_run(s, s->now + 1);
	s->events[0].at += 10 * MINUTE; /* it hangs at the dot */
	sim_mail(s, 0);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(s->done, 1);
	sim_free(s);
}

static void inherited_connections(void **state)
{
	struct sim *s = sim_new(1, 1, "");
	struct core_decision d;

	(void)state;
	add_domains(s, 1, sim_host(s, "mx.test", HOST_OK));
	s->host[0].latency_ms = 3000;
	sim_start(s);
	for (int i = 0; i < 30; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 5 * SECOND);
	assert_true(s->txs.count >= 2);
	sim_restart(s);
	assert_int_equal(s->core->total->used, s->conns.count);
	assert_int_equal(core_have_job(s->core, 12345, 99, 1, NULL, 0, s->now), -ENOENT);
	while (core_next(s->core, &d)) { /* the inherited ones get nothing more */
		assert_int_not_equal(d.kind, DECIDE_SEND);
		sim_decide(s, &d);
	}
	sim_run(s, 0);
	for (size_t i = 0; i < s->job_count; i++) {
		assert_int_equal(s->job[i].outcome, OUTCOME_DELIVERED);
		assert_int_equal(s->job[i].accepted, 1);
	}
	sim_free(s);
}

/* ---- reload ---- */

static struct sim *busy(const char *conf)
{
	struct sim *s = sim_new(1, 2, conf);

	s->msg_max = s->queue_max = 1000000;
	s->host[sim_host(s, "mxa.test", HOST_OK)].latency_ms = 20;
	s->host[sim_host(s, "mxb.test", HOST_OK)].latency_ms = 20;
	sim_mx(sim_domain(s, "a.test"), 10, 0);
	sim_mx(sim_domain(s, "b.test"), 10, 1);
	sim_start(s);
	for (int i = 0; i < 40000; i++)
		sim_mail(s, (uint32_t)i & 1);
	sim_run(s, s->now + 5 * SECOND);
	return s;
}

#define MANY "max-msg-per-connection = 1000000; "

/* A queue that is never idle keeps its connections: a lowered limit must end some. */
static void a_lowered_limit_binds_while_busy(void **state)
{
	struct sim *s = busy("domains = ( { name = \"*\"; " MANY "max-smtp-out = 20; } );");
	uint64_t done;

	(void)state;
	assert_int_equal(s->conns.count, 40);
	sim_configure(s, "domains = ( { name = \"*\"; " MANY "max-smtp-out = 3; } );");
	sim_run(s, s->now + SECOND);
	assert_int_equal(s->conns.count, 6);
	sim_configure(s,
	    "total-max-smtp-out = 2; domains = ( { name = \"*\"; " MANY "max-smtp-out = 3; } );");
	sim_run(s, s->now + SECOND);
	assert_int_equal(s->conns.count, 2);
	done = s->done;
	sim_run(s, s->now + SECOND);
	assert_true(s->done > done + 50); /* and these work on */
	sim_configure(s, "domains = ( { name = \"*\"; " MANY "max-smtp-out = 20; } );");
	sim_run(s, s->now + SECOND);
	assert_int_equal(s->conns.count, 40);
	sim_free(s);
}

/* Idle connections that have had what a lowered max-msg-per-connection allows get nothing more. */
static void lowered_messages_close_idle_connections(void **state)
{
	struct sim *s = busy("domains = ( { name = \"*\"; " MANY
			     "max-smtp-out = 4; connection-idle-timeout = \"10m\"; } );");

	(void)state;
	sim_run(s, 0);
	assert_int_equal(s->conns.count, 8);
	sim_configure(s, "domains = ( { name = \"*\"; max-msg-per-connection = 10; "
			 "max-smtp-out = 4; connection-idle-timeout = \"10m\"; } );");
	sim_run(s, s->now + SECOND);
	assert_int_equal(s->conns.count, 0);
	sim_free(s);
}

/* Named in `domains` at a reload, a domain has a queue of its own: what its site's queue has open
 * for it would come on top of its limit. */
static void a_named_domain_leaves_no_connections_behind(void **state)
{
	static const char named[] =
	    "domains = ( { name = \"*\"; max-smtp-out = 4; connection-idle-timeout = \"10m\"; "
	    "}, { name = \"a.test\"; max-smtp-out = 1; } );";
	static const char not_named[] =
	    "domains = ( { name = \"*\"; max-smtp-out = 4; connection-idle-timeout = \"10m\"; } );";
	struct sim *s = busy(not_named);

	(void)state;
	sim_run(s, 0);
	assert_true(s->conns.count > 4);
	sim_configure(s, named);
	sim_run(s, s->now + SECOND);
	assert_in_range(s->conns.count, 1, 4); /* those of b.test */
	sim_mail(s, 0);
	sim_run(s, s->now + SECOND);
	sim_configure(s, not_named);
	sim_run(s, s->now + SECOND);
	assert_in_range(s->conns.count, 1, 4);
	sim_free(s);
}

/* The peers of a dead worker need a moment to notice: its connections count that long. */
static void a_dead_worker_keeps_its_slots(void **state)
{
	struct sim *s = busy(
	    "total-max-smtp-out = 6; domains = ( { name = \"*\"; " MANY "max-smtp-out = 4; } );");
	int64_t died;

	(void)state;
	s->queue_max = 4;
	s->total_max = 6;
	for (int i = 0; i < 5; i++) {
		uint64_t grants;

		assert_int_equal(s->core->total->used, 6);
		sim_kill_worker(s, 0);
		sim_kill_worker(s, 1);
		died = s->now;
		core_worker_down(s->core, 0, s->now);
		core_worker_down(s->core, 1, s->now);
		s->up[0] = s->up[1] = true;
		core_worker_up(s->core, 0, s->now);
		core_worker_up(s->core, 1, s->now);
		grants = s->grants;
		sim_run(s, died + CORE_SLOT - 1);
		assert_int_equal(s->grants, grants);
		assert_int_equal(s->core->total->used, 6);
		sim_run(s, s->now + 5 * SECOND);
	}
	sim_free(s);
}

/* If only its channel had died, what it says it has counts once. */
static void a_lost_connection_is_reported_again(void **state)
{
	struct sim *s = busy("domains = ( { name = \"*\"; " MANY "max-smtp-out = 4; } );");
	struct conn *c = OWNER(table_any(&s->core->conns), struct conn, node);
	uint64_t id = c->id;
	struct sim_conn *peer = sim_conn(s, id);

	(void)state;
	s->quiet = true;
	core_worker_down(s->core, peer->worker, s->now);
	core_worker_up(s->core, peer->worker, s->now);
	assert_int_equal(s->core->total->used, 8);
	assert_int_equal(
	    core_have_job(s->core, id, UINT64_C(1) << 61, 1, NULL, 0, s->now), -ENOENT);
	core_have_conn(s->core, peer->worker, id, str_of(peer->queue),
	    str_of(s->domain[peer->domain].name), STR(""), str_of(s->host[peer->host].name),
	    &peer->address, peer->port, true, s->now);
	assert_int_equal(s->core->total->used, 8);
	assert_false(conn_find(s->core, id)->lost);
	core_tick(s->core, s->now + CORE_SLOT + 20);
	assert_non_null(conn_find(s->core, id));
	sim_free(s);
}

/* ---- fairness ---- */

static int64_t first_sent[4000];
static uint64_t sent_of[4000], since[4000], worst;
static void watch_domains(struct sim *s, const struct core_decision *d)
{
	uint32_t i;

	if (d->kind != DECIDE_SEND)
		return;
	i = sim_domain_of(s, d->domain);
	if (!sent_of[i]++)
		first_sent[i] = s->now;
}

/*
 * total-max-smtp-out binds: 40 queues with endless work share 10 connections. Nobody has one for
 * longer than 4 * CORE_ROOM_SLICE transactions while others wait, and each gets its turn.
 */
static void queues_share_connections(void **state)
{
	enum { QUEUES = 40, TOTAL = 10 };
	struct sim *s = sim_new(1, 2,
	    "total-max-smtp-out = 10;\n"
	    "domains = ( { name = \"*\"; max-msg-per-connection = 100000; } );");
	uint64_t least = UINT64_MAX, most = 0;

	(void)state;
	s->total_max = TOTAL;
	s->msg_max = 100000;
	memset(sent_of, 0, sizeof(sent_of));
	for (int i = 0; i < QUEUES; i++) {
		char name[32];

		snprintf(name, sizeof(name), "mx%d.test", i);
		sim_host(s, name, HOST_OK);
		snprintf(name, sizeof(name), "d%d.test", i);
		sim_mx(sim_domain(s, name), 10, (size_t)i);
	}
	sim_start(s);
	for (uint32_t i = 0; i < QUEUES; i++)
		for (int k = 0; k < 5000; k++)
			sim_mail(s, i);
	s->on_decision = watch_domains;
	/* One turn: every queue has sent at the latest when the others had 4 slices each, of about
	 * 25 ms a transaction, on 10 connections; opening and closing come on top. */
	sim_run(s, s->now + QUEUES / TOTAL * 4 * CORE_ROOM_SLICE * 25 * 2);
	for (int i = 0; i < QUEUES; i++)
		assert_true(sent_of[i] > 0);
	sim_run(s, s->now + 2 * MINUTE);
	for (int i = 0; i < QUEUES; i++) {
		least = sent_of[i] < least ? sent_of[i] : least;
		most = sent_of[i] > most ? sent_of[i] : most;
	}
	print_message("transactions of a queue: %llu to %llu\n", (unsigned long long)least,
	    (unsigned long long)most);
	assert_true(most <= 2 * least);
	sim_free(s);
}

/* Idle connections elsewhere make room at once. */
static void idle_makes_room(void **state)
{
	struct sim *s = sim_new(1, 1,
	    "total-max-smtp-out = 1;\n"
	    "domains = ( { name = \"*\"; connection-idle-timeout = \"10m\"; } );");

	(void)state;
	s->total_max = 1;
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mxa.test", HOST_OK));
	sim_mx(sim_domain(s, "b.test"), 10, sim_host(s, "mxb.test", HOST_OK));
	sim_start(s);
	sim_mail(s, 0);
	sim_run(s, 0);
	sim_mail(s, 1);
	sim_run(s, s->now + SECOND);
	assert_int_equal(s->job[1].state, SIM_ENDED);
	sim_free(s);
}

/* One round is one transaction a lane: a lane waits for T * L transactions at most. */
static uint32_t lane_of_job[20000];
static uint32_t lanes_of_tenant, tenants_with_work;
static void watch_lanes(struct sim *s, const struct core_decision *d)
{
	uint32_t lane, bound = lanes_of_tenant * tenants_with_work;

	if (d->kind != DECIDE_SEND)
		return;
	lane = lane_of_job[sim_job_of(s, d->jobs[0])];
	for (uint32_t i = 0; i < bound; i++)
		since[i]++;
	worst = since[lane] > worst ? since[lane] : worst;
	since[lane] = 0;
	sent_of[lane]++;
}
static void lanes_in_turn(void **state)
{
	static const char *const tenants[] = {"", "t1", "t2"}, *const campaigns[] = {
								   "", "c1", "c2", "c3"};
	struct sim *s = sim_new(1, 1, "");

	(void)state;
	lanes_of_tenant = COUNT_OF(campaigns);
	tenants_with_work = COUNT_OF(tenants);
	memset(sent_of, 0, sizeof(sent_of));
	memset(since, 0, sizeof(since));
	worst = 0;
	add_domains(s, 1, sim_host(s, "mx.test", HOST_OK));
	for (uint32_t lane = 0; lane < 12; lane++) { /* one after the other, the first has most */
		for (int k = 0; k < (lane ? 300 : 3000); k++) {
			lane_of_job[s->job_count] = lane;
			sim_rcpt(s, sim_message(s),
			    (struct sim_mail){
				.tenant = tenants[lane / 4], .campaign = campaigns[lane % 4]});
		}
	}
	s->on_decision = watch_lanes;
	sim_start(s);
	while (s->done < 2000)
		sim_run(s, s->now + SECOND);
	print_message("a lane waited for %llu transactions at most\n", (unsigned long long)worst);
	assert_true(worst <= 12);
	for (int i = 0; i < 12; i++)
		assert_true(sent_of[i] >= 150);
	sim_run(s, 0);
	sim_free(s);
}

/* One tenant's hundred thousand do not delay another one's one. */
static void one_among_many(void **state)
{
	struct sim *s = sim_new(1, 1, "");

	(void)state;
	add_domains(s, 1, sim_host(s, "mx.test", HOST_OK));
	sim_start(s);
	for (int i = 0; i < 100000; i++)
		sim_rcpt(s, sim_message(s), (struct sim_mail){.tenant = "big"});
	sim_run(s, s->now + 10 * SECOND);
	sim_rcpt(s, sim_message(s), (struct sim_mail){.tenant = "small"});
	sim_run(s, s->now + SECOND);
	assert_int_equal(s->job[100000].state, SIM_ENDED);
	sim_free(s);
}

/* Decisions go round the queues: between two of one queue, at most one of each other. */
static void decisions_in_turn(void **state)
{
	enum { QUEUES = 50 };
	struct sim *s = sim_new(1, 1, "");
	struct core_decision d;
	unsigned of[QUEUES] = {0};

	(void)state;
	s->quiet = true;
	for (int i = 0; i < QUEUES; i++) {
		char name[32];

		snprintf(name, sizeof(name), "mx%d.test", i);
		sim_host(s, name, HOST_OK);
		snprintf(name, sizeof(name), "d%d.test", i);
		sim_mx(sim_domain(s, name), 10, (size_t)i);
		for (int k = 0; k < 100; k++)
			sim_mail(s, (uint32_t)i);
	}
	sim_start(s);
	while (core_next(s->core, &d) && d.kind == DECIDE_RESOLVE)
		;
	for (uint32_t i = 0; i < QUEUES; i++)
		sim_route(s, i);
	for (int i = 0; i < 100; i++)
		core_tick(s->core, s->now);
	for (int i = 0; i < 2 * QUEUES; i++) {
		uint32_t q;

		assert_true(core_next(s->core, &d));
		assert_int_equal(d.kind, DECIDE_GRANT);
		q = sim_domain_of(s, d.grant.domain);
		of[q]++;
		assert_true(of[q] <= (unsigned)(i / QUEUES) + 1);
	}
	assert_false(core_next(s->core, &d)); /* each has its first two connections */
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(precedence),
	    cmocka_unit_test(steps_of_a_list),
	    cmocka_unit_test(slow_start),
	    cmocka_unit_test(keeps_the_wire_busy),
	    cmocka_unit_test(slow_peer_blocks_nobody),
	    cmocka_unit_test(inherited_connections),
	    cmocka_unit_test(a_lowered_limit_binds_while_busy),
	    cmocka_unit_test(lowered_messages_close_idle_connections),
	    cmocka_unit_test(a_named_domain_leaves_no_connections_behind),
	    cmocka_unit_test(a_dead_worker_keeps_its_slots),
	    cmocka_unit_test(a_lost_connection_is_reported_again),
	    cmocka_unit_test(queues_share_connections),
	    cmocka_unit_test(idle_makes_room),
	    cmocka_unit_test(lanes_in_turn),
	    cmocka_unit_test(one_among_many),
	    cmocka_unit_test(decisions_in_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
