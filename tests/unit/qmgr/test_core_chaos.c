/* SPDX-License-Identifier: ISC */
/*
 * Everything at once: random worlds in virtual time with limits of every scope, modes, rules,
 * pauses, tenants, pools, providers, reloads, restarts and operators, while receivers and name
 * servers do what they like. The world counts for itself what it gets (chaos_check.h) by its own
 * reading of the configuration (chaos_conf.h). At the end nothing stands in the way any more, and
 * then everything must go out soon.
 *
 * CHAOS_SEED=N runs that world alone and tells of it, CHAOS_WORLDS=N more of them. CHAOS_PRY=1
 * looks, in worlds of odd numbers, whether a queue sleeps that could decide something: this is
 * stricter than what the core promises, since who waits for its next job's sake is not woken when
 * another comes first; CHAOS_AT=MS tells then what each waits for. Addresses of memory have a say
 * in the order of things: under `setarch -R` a world is always the same.
 */
#include "tests/unit/qmgr/chaos_check.h"

#ifdef POSTERN_SANITIZED
enum { CHAOS_WORLDS_USUAL = 8 }; /* each is ten times as slow */
#else
enum { CHAOS_WORLDS_USUAL = 40 };
#endif

static unsigned pouring; /* messages still to come */
static bool loud;
static char words[WORDS][64];

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void note(const char *fmt, ...)
{
	va_list ap;

	if (!loud)
		return;
	va_start(ap, fmt);
	fprintf(stderr, "+%7lld ms: ", (long long)(chaos.sim->now - SIM_START));
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
}

/* ---- decisions ---- */

static int64_t *progress_of(struct str queue)
{
	return &chaos.progress[text_key(queue) / 2 % COUNT_OF(chaos.progress)];
}

/* Returned, expired: for a reason that exists. */
static void check_end(struct sim *s, const struct core_decision *d)
{
	struct sim_job *j = &s->job[sim_job_of(s, d->job)];

	if (d->outcome == OUTCOME_EXPIRED)
		assert_true(s->now - j->arrived_ms >= 39 * MINUTE);
	if (d->outcome == OUTCOME_BOUNCED && d->result < 0 && d->rule.n == 0) {
		bool by_us = str_eq(d->status, STR("5.7.0")), no_mx, greeting;

		no_mx = str_eq(d->status, STR("5.4.4")) || str_eq(d->status, STR("5.1.2")) ||
			str_eq(d->status, STR("5.1.10"));
		greeting = memmem(d->text.p, d->text.n, "554 go away", 11) != NULL ||
			   memmem(d->text.p, d->text.n, "word", 4) != NULL; /* bounce-queue */
		if (!(by_us && chaos.killed_any) && !no_mx && !greeting)
			fail_msg("returned: %.*s %.*s", STR_ARG(d->status), STR_ARG(d->text));
	}
	if (d->outcome == OUTCOME_DELETED)
		assert_true(chaos.killed_any);
}

/* Of a provider that is gone: its queue's name is taken for a domain's. */
static void know(struct sim *s, struct str name)
{
	char text[64];

	str_copy(text, sizeof(text), name);
	for (size_t i = 0; i < s->domain_count; i++)
		if (strcmp(s->domain[i].name, text) == 0)
			return;
	sim_domain(s, text)->class = ROUTE_NO_DOMAIN;
}
static void watch(struct sim *s, const struct core_decision *d)
{
	switch (d->kind) {
	case DECIDE_GRANT:
		note("grant %.*s from %.*s to %.*s", STR_ARG(d->grant.queue),
		    STR_ARG(d->grant.source), STR_ARG(d->grant.host));
		*progress_of(d->grant.queue) = s->now;
		check_grant(s, d);
		break;
	case DECIDE_SEND:
		note("send %zu of %.*s by %s from %s", d->job_count, STR_ARG(d->domain),
		    sim_conn(s, d->conn)->queue, sim_conn(s, d->conn)->source);
		*progress_of(str_of(sim_conn(s, d->conn)->queue)) = s->now;
		check_send(s, d);
		break;
	case DECIDE_RESOLVE:
		if (d->domain.n > 2 && memcmp(d->domain.p, "p-", 2) == 0)
			know(s, d->domain);
		break;
	case DECIDE_DONE:
		check_end(s, d);
		break;
	case DECIDE_EVENT:
		note("event %s %.*s: %.*s", core_event_name(d->event.kind), STR_ARG(d->event.scope),
		    STR_ARG(d->event.text));
		chaos.held_stale = true;
		if (d->event.kind == EVENT_MODE)
			s->flushed_ms = s->now;
		break;
	default:
		break;
	}
}

/* ---- the world ---- */

static void make_world(struct sim *s)
{
	for (unsigned f = 0; f < FAMILIES; f++)
		for (unsigned k = 0; k < FAMILY_HOSTS; k++) {
			char name[32];
			size_t h;

			snprintf(name, sizeof(name), "h%u.f%u.test", k, f);
			h = sim_host(s, name, HOST_OK);
			s->host[h].latency_ms = 1 + (int64_t)pick(s, 2000);
			s->host[h].addresses = 1 + (int)pick(s, 3);
			s->host[h].mail_max = sim_chance(s, 10) ? 1 + (uint32_t)pick(s, 4) : 0;
			s->host[h].ipv6 = k == 3 && sim_chance(s, 50);
		}
	sim_host(s, "fx.test", HOST_OK);
	sim_host(s, "fy.test", HOST_OK);
	for (unsigned i = 0; i < DOMAINS; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d%u.test", i);
		sim_domain(s, name)->ttl_s = 30 + (uint32_t)pick(s, 300);
		chaos.family[i] = (unsigned)pick(s, FAMILIES);
	}
	sim_domain(s, chaos_hosts)->fixed = true;
	sim_mx(&s->domain[DOMAINS], 10, FAMILIES * FAMILY_HOSTS);
	sim_mx(&s->domain[DOMAINS], 20, FAMILIES * FAMILY_HOSTS + 1);
	chaos.hosts_ever[DOMAINS] = 3u << (FAMILIES * FAMILY_HOSTS);
}
static void change_hosts(struct sim *s, unsigned i)
{
	struct sim_domain *d = &s->domain[i];
	unsigned first;

	if (i >= LITERALS && sim_chance(s, 20))
		chaos.family[i] = (unsigned)pick(s, FAMILIES);
	first = chaos.family[i] * FAMILY_HOSTS;
	d->host_count = 0;
	sim_mx(d, 10, first + pick(s, 2));
	if (sim_chance(s, 60))
		sim_mx(d, (uint16_t)(10 + pick(s, 2) * 10), first + 2 + pick(s, 2));
	for (size_t k = 0; k < d->host_count; k++)
		chaos.hosts_ever[i] |= 1u << d->host[k];
}
static void change_dns(struct sim *s)
{
	unsigned i = (unsigned)pick(s, DOMAINS);
	struct sim_domain *d = &s->domain[i];

	if (d->class != ROUTE_OK || sim_chance(s, 60)) {
		d->class = ROUTE_OK;
		d->implicit = sim_chance(s, 10);
		change_hosts(s, i);
	} else {
		d->class = sim_chance(s, 80) ? ROUTE_TEMPORARY : (enum route_class)pick(s, 5);
	}
	note("DNS of d%u: class %d", i, (int)d->class);
}
static void change_host(struct sim *s)
{
	struct sim_host *h = &s->host[pick(s, s->host_count)];

	h->mode = sim_chance(s, 60) ? HOST_OK : (enum sim_mode)pick(s, HOST_NO_SOURCE + 1);
	h->refuse = sim_chance(s, 20) ? (unsigned)pick(s, 60) : 0;
	h->drop = sim_chance(s, 20) ? (unsigned)pick(s, 20) : 0;
	h->defer = sim_chance(s, 40) ? (unsigned)pick(s, 60) : 0;
	h->bounce = sim_chance(s, 20) ? (unsigned)pick(s, 10) : 0;
	h->rcpt_max = sim_chance(s, 10) ? 1 + (uint32_t)pick(s, 4) : 0;
	note("host %s: mode %d, defers %u", h->name, (int)h->mode, h->defer);
}
static void pour(struct sim *s)
{
	static const char *const vmtas[] = {"a", "b", "c", "d", "e", "p0", "p1", ""},
				 *const tenants[] = {"", "t1", "t2", "t3"},
				 *const campaigns[] = {"", "x1", "x2"};

	for (unsigned i = (unsigned)pick(s, 30); i && pouring; i--, pouring--) {
		uint64_t id = sim_message(s);
		struct sim_mail m = {.domain = (uint32_t)pick(s, DOMAINS),
		    .vmta = vmtas[pick(s, COUNT_OF(vmtas))],
		    .tenant = tenants[pick(s, COUNT_OF(tenants))],
		    .flags = sim_chance(s, 10) ? JOB_NULL_SENDER : 0};

		m.campaign = *m.tenant ? campaigns[pick(s, COUNT_OF(campaigns))] : "";
		for (unsigned n = sim_chance(s, 80) ? 1 : 1 + (unsigned)pick(s, 12); n; n--) {
			sim_rcpt(s, id, m);
			if (sim_chance(s, 20))
				m.domain = (uint32_t)pick(s, DOMAINS);
		}
	}
}
/* A 421 at any stage, or an end without a word. */
static void kick(struct sim *s)
{
	struct node **all = table_list(&s->conns);
	size_t n = s->conns.count;

	if (n) {
		struct sim_conn *c = OWNER(all[pick(s, n)], struct sim_conn, node);

		if (!c->ghost && sim_chance(s, 50))
			sim_fail_later(s, c, CONN_REPLY, c->ready ? STAGE_MAIL : STAGE_EHLO, 421,
			    words[pick(s, WORDS)], 0);
		else if (!c->ghost)
			sim_fail_later(s, c, CONN_LOST, c->ready ? STAGE_DATA : STAGE_GREETING, 0,
			    "connection lost", 0);
	}
	free(all);
}

/* ---- operators ---- */

static struct str any_queue(struct sim *s, struct queue_view *v)
{
	struct core_cursor cursor = {0, 0};
	struct queue_view all[100];
	size_t n = core_queues(s->core, STR("*"), &cursor, all, COUNT_OF(all));

	if (n == 0)
		return STR("");
	*v = all[pick(s, n)];
	return v->name;
}
static int64_t some_end(struct sim *s)
{
	return sim_chance(s, 15) ? 0 : s->now + 1 + (int64_t)pick(s, 200 * SECOND);
}
static void pause_something(struct sim *s)
{
	static const char *const patterns[] = {
	    "*", "*/a", "*/b", "p-*", "d*.test/*", "[[]*", "*/c"};
	static const char *const parties[] = {"t1", "t2", "t3", "t1/x1", "t2/x1", "t2/x2", "t3/"};
	struct queue_view v;
	struct str queue = any_queue(s, &v), at = STR("");
	int64_t until = some_end(s);
	const char *party = parties[pick(s, COUNT_OF(parties))];
	char name[32];
	int r = 0;

	if (queue.n && sim_chance(s, 40))
		at = v.destination;
	switch (pick(s, 6)) {
	case 0:
		if (queue.n)
			r = core_pause(
			    s->core, CORE_QUEUE, queue, STR(""), until, STR("op"), s->now);
		note("pause queue %.*s: %d", STR_ARG(queue), r);
		break;
	case 1:
		queue = str_of(patterns[pick(s, COUNT_OF(patterns))]);
		r = core_pause(s->core, CORE_QUEUE, queue, STR(""),
		    s->now + 1 + (int64_t)pick(s, 30000), STR("op"), s->now);
		note("pause pattern %.*s: %d", STR_ARG(queue), r);
		break;
	case 2:
		snprintf(name, sizeof(name), "%s", vmta_name((unsigned)pick(s, VMTAS)));
		r = core_pause(s->core, CORE_VMTA, str_of(name), STR(""), until, STR("op"), s->now);
		note("pause vmta %s: %d", name, r);
		break;
	case 3:
		provider_name((unsigned)pick(s, FAMILIES), name);
		r = core_pause(
		    s->core, CORE_PROVIDER, str_of(name), STR(""), until, STR("op"), s->now);
		note("pause provider %s: %d", name, r);
		break;
	default:
		r = core_pause(s->core, strchr(party, '/') ? CORE_CAMPAIGN : CORE_TENANT,
		    str_of(party), at, until, STR("op"), s->now);
		note("pause %s at %.*s: %d", party, STR_ARG(at), r);
		break;
	}
	chaos.held_stale = true;
}
static void resume_something(struct sim *s, bool all)
{
	struct held old[HOLDS];
	size_t n, i;

	read_holds(s);
	n = chaos.held_count;
	memcpy(old, chaos.held, n * sizeof(old[0]));
	for (i = 0; i < n; i++) {
		size_t k = all ? i : pick(s, n);
		const struct held *h = &old[k];

		note("resume %s at %s", h->name, h->at);
		if (h->source)
			core_enable_source(
			    s->core, str_of(h->name), str_of(h->at), STR("op"), s->now);
		else
			core_resume(
			    s->core, h->scope, str_of(h->name), str_of(h->at), STR("op"), s->now);
		if (!all)
			break;
	}
	chaos.held_stale = true;
}
static void steer_queue(struct sim *s)
{
	static const char *const targets[] = {"a", "b", "c", "p0", "p1"};
	struct core_cursor cursor = {0, 0};
	struct queue_view v;
	struct str queue = any_queue(s, &v), to = str_of(targets[pick(s, COUNT_OF(targets))]);
	char text[300], address[32];
	int r = 0;

	if (queue.n == 0)
		return;
	str_copy(text, sizeof(text), queue);
	queue = str_of(text);
	source_name((unsigned)pick(s, VMTAS), (unsigned)pick(s, SOURCES), address);
	switch (pick(s, 6)) {
	case 0:
		r = core_set_mode(s->core, queue, STR("backoff"), some_end(s), STR("op"), s->now);
		break;
	case 1:
		r = core_set_mode(s->core, queue, STR("normal"), 0, STR("op"), s->now);
		break;
	case 2:
		r = core_disable_source(s->core, str_of(address),
		    sim_chance(s, 50) ? queue : STR(""), some_end(s), STR("op"), s->now);
		break;
	case 3:
		r = core_reset(s->core, queue, STR("op"), s->now);
		break;
	case 4:
		r = core_reroute(s->core, queue, to, STR("op"), s->now);
		break;
	case 5:
		while (core_flush(s->core, queue, &cursor, 500, s->now))
			;
		break;
	}
	note("steered %s: %d", text, r);
	s->flushed_ms = s->now;
	chaos.held_stale = true;
}
static void steer_job(struct sim *s)
{
	struct sim_job *j;

	if (s->job_count == 0)
		return;
	j = &s->job[pick(s, s->job_count)];
	if (j->state == SIM_ENDED)
		return;
	chaos.killed_any = true;
	switch (pick(s, 6)) {
	case 0:
		core_delete(s->core, j->ref, s->now);
		break;
	case 1:
		core_bounce(s->core, j->ref, STR("by the operator"), s->now);
		break;
	case 2:
	case 3:
		core_hold(s->core, j->ref, s->now);
		break;
	case 4:
		core_release(s->core, j->ref, s->now);
		s->flushed_ms = s->now;
		break;
	case 5:
		core_flush_job(s->core, j->ref, s->now);
		s->flushed_ms = s->now;
		break;
	}
}
static void reload(struct sim *s, bool plain)
{
	bool rules = sim_chance(s, 70);

	if (plain)
		plain_conf(&chaos.model);
	else
		chaos_conf(s, &chaos.model, rules);
	note("reload");
	sim_configure(s, chaos.model.text);
	s->flushed_ms = s->now;
}
static void restart(struct sim *s)
{
	s->clean = sim_chance(s, 50);
	note("restart, %s", s->clean ? "clean" : "killed");
	sim_drain(s);
	if (!s->clean)
		meters_forget_overdrafts();
	sim_restart(s);
	for (size_t i = 0; i < s->kept_count; i++)
		note("kept %.*s", (int)s->kept[i].key_n, s->kept[i].key);
	chaos.held_stale = true;
}
static void kill_worker(struct sim *s)
{
	unsigned worker = (unsigned)pick(s, s->workers);

	note("worker %u dies", worker);
	sim_kill_worker(s, worker);
	core_worker_down(s->core, worker, s->now);
	sim_drain(s);
	s->up[worker] = true;
	core_worker_up(s->core, worker, s->now);
}
static void act(struct sim *s)
{
	unsigned r = (unsigned)pick(s, 1000);

	s->defer_text = words[pick(s, WORDS)];
	if (r < 250)
		pour(s);
	else if (r < 400)
		change_host(s);
	else if (r < 500)
		change_dns(s);
	else if (r < 600)
		kick(s);
	else if (r < 660)
		pause_something(s);
	else if (r < 730)
		resume_something(s, false);
	else if (r < 830)
		steer_queue(s);
	else if (r < 900)
		steer_job(s);
	else if (r < 915)
		reload(s, false);
	else if (r < 930)
		restart(s);
	else if (r < 940)
		kill_worker(s);
}

/* ---- counters ---- */

static uint64_t of_tenants(struct sim *s)
{
	uint64_t n = 0;
	struct job_view v;

	for (size_t i = 0; i < s->job_count; i++)
		if (s->job[i].state != SIM_ENDED && core_job(s->core, s->job[i].ref, &v))
			n += v.tenant.n > 0;
	return n;
}
static void check_counters(struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	struct core_totals t;
	struct queue_view q[50];
	struct tenant_view v[50];
	uint64_t live = 0, sum = 0, ready = 0, waiting = 0, flight = 0, held = 0, unrouted = 0;
	uint64_t conns = 0;
	size_t n;

	for (size_t i = 0; i < s->job_count; i++)
		live += s->job[i].state != SIM_ENDED;
	core_totals(s->core, &t);
	assert_int_equal(t.recipients, live);
	while ((n = core_queues(s->core, STR("*"), &cursor, q, COUNT_OF(q))))
		for (size_t i = 0; i < n; i++) {
			sum += q[i].recipients;
			ready += q[i].ready;
			waiting += q[i].waiting;
			flight += q[i].in_flight;
			held += q[i].held;
			unrouted += q[i].unrouted;
			conns += q[i].connections;
		}
	assert_int_equal(sum, t.recipients);
	assert_int_equal(ready, t.ready);
	assert_int_equal(waiting, t.waiting);
	assert_int_equal(flight, t.in_flight);
	assert_int_equal(held, t.held);
	assert_int_equal(unrouted, t.unrouted);
	assert_int_equal(conns, t.connections);
	sum = 0;
	cursor = (struct core_cursor){0, 0};
	while ((n = core_tenants(s->core, STR("*"), &cursor, v, COUNT_OF(v))))
		for (size_t i = 0; i < n; i++)
			sum += v[i].recipients;
	assert_int_equal(sum, of_tenants(s));
}

/* ---- liveness ---- */

static void say_waiter(const struct waiter *w, const char *what)
{
	if (w->at)
		print_message(" %s at %s kind %d (used %u, max %u)", what, w->at->budget->key,
		    (int)w->at->kind, w->at->budget->used, w->at->max);
	for (uint32_t i = 0; i < w->more_count; i++)
		say_waiter(&w->more[i], "or");
}
/* What each queue waits for. */
static void tell_waiters(struct sim *s)
{
	for (uint32_t i = 1; i <= s->core->queue_count; i++) {
		const struct queue *q = s->core->queue_at[i];

		if (!q || q->n[JOB_READY] == 0)
			continue;
		print_message("%s: %llu ready, %llu parked, %u conns of %u, %u opening;", q->name,
		    (unsigned long long)q->n[JOB_READY], (unsigned long long)q->parked,
		    q->limit.used, q->limit.max, q->opening);
		say_waiter(&q->grant, "grant");
		say_waiter(&q->send, "send");
		for (struct link *l = q->lanes.next; l != &q->lanes; l = l->next)
			say_waiter(&OWNER(l, struct lane, in_queue)->wait, "lane");
		if (wheel_armed(&q->wake.node))
			print_message(
			    " wakes in %lld ms", (long long)(q->wake.node.at_ms - s->now));
		if (q->mode)
			print_message(" mode %d", (int)q->mode->kind);
		print_message("\n");
	}
}
static void slept(struct sim *s, const struct core_decision *d)
{
	const struct sim_conn *c = sim_conn(s, d->conn);
	long long at = (long long)(s->now - SIM_START);

	if (d->kind == DECIDE_GRANT)
		fail_msg("+%lld ms: %.*s slept, though it could open from %.*s to %.*s for %.*s",
		    at, STR_ARG(d->grant.queue), STR_ARG(d->grant.source), STR_ARG(d->grant.host),
		    STR_ARG(d->grant.domain));
	/* A second transaction, or what a connection at a provider passed over: see send.c. */
	if (c->outstanding || conn_find(s->core, c->id)->barren_id)
		return;
	fail_msg(
	    "+%lld ms: %s slept, though it could send %zu of %.*s from %s to %s (%u sent, %u out)",
	    at, c->queue, d->job_count, STR_ARG(d->domain), c->source, s->host[c->host].name,
	    c->sent, c->outstanding);
}
/* Whoever is looked at without need decides nothing: nobody slept who could have gone. */
static void nobody_sleeps(struct sim *s)
{
	struct core_decision d;

	sim_drain(s);
	while (core_next_ms(s->core) <= s->now) {
		core_tick(s->core, s->now);
		sim_drain(s);
	}
	if (loud && getenv("CHAOS_AT") &&
	    s->now - SIM_START >= strtoll(getenv("CHAOS_AT"), NULL, 0))
		tell_waiters(s);
	for (uint32_t i = 1; i <= s->core->queue_count; i++)
		if (s->core->queue_at[i])
			queue_dirty(s->core, s->core->queue_at[i]);
	while (core_next(s->core, &d)) {
		if (d.kind == DECIDE_GRANT || d.kind == DECIDE_SEND)
			slept(s, &d);
		sim_decide(s, &d);
	}
}
static void tell_why(struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	struct queue_view v;

	while (core_queues(s->core, STR("*"), &cursor, &v, 1)) {
		char name[300];
		struct core_why why;
		size_t n = 0;

		if (v.recipients == 0)
			continue;
		str_copy(name, sizeof(name), v.name);
		print_message("%s: %llu ready, %llu waiting, %llu in flight, %llu unrouted, %llu "
			      "held, %u connections, mode %.*s\n",
		    name, (unsigned long long)v.ready, (unsigned long long)v.waiting,
		    (unsigned long long)v.in_flight, (unsigned long long)v.unrouted,
		    (unsigned long long)v.held, v.connections, STR_ARG(v.mode));
		if (core_why_queue(s->core, str_of(name), &why, NULL, &n) == 0)
			print_message("    %.*s by %.*s: %.*s until %+lld ms\n", STR_ARG(why.state),
			    STR_ARG(why.binding), STR_ARG(why.text),
			    (long long)(why.until_ms - s->now));
	}
}

/* Nothing stands in the way any more. */
static void everything_goes(struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	int64_t until;
	int r = 0;

	note("the end");
	for (size_t i = 0; i < s->host_count; i++) {
		struct sim_host fine = {.latency_ms = 100, .addresses = 1};

		memcpy(fine.name, s->host[i].name, sizeof(fine.name));
		s->host[i] = fine;
	}
	for (unsigned i = 0; i < DOMAINS; i++) {
		s->domain[i].class = ROUTE_OK;
		s->domain[i].implicit = false;
		change_hosts(s, i);
	}
	reload(s, true);
	resume_something(s, true);
	sim_run(s, s->now + 1000);
	for (uint32_t i = 1; i <= s->core->queue_count; i++)
		if (s->core->queue_at[i])
			r = core_reset(
			    s->core, str_of(s->core->queue_at[i]->name), STR("op"), s->now);
	for (size_t i = 0; i < s->job_count; i++)
		if (s->job[i].state != SIM_ENDED)
			core_release(s->core, s->job[i].ref, s->now);
	note("the last reset: %d", r);
	s->flushed_ms = INT64_MAX;
	while (core_flush(s->core, STR("*"), &cursor, 1000, s->now))
		;
	until = s->now + 10 * MINUTE;
	while (s->now < until && s->core->jobs.live)
		sim_run(s, s->now + 5000);
	if (s->core->jobs.live) {
		tell_why(s);
		fail_msg("%llu recipients are left", (unsigned long long)s->core->jobs.live);
	}
}

/* ---- worlds ---- */

static uint64_t sends, grants, ends;

static void one_world(uint64_t seed)
{
	struct sim r = {.random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1};
	bool pry = getenv("CHAOS_PRY") && seed % 2; /* it might hide what is looked for */
	struct sim *s;

	memset(&chaos, 0, sizeof(chaos));
	memset(provider_of_world, 0, sizeof(provider_of_world));
	chaos_conf(&r, &chaos.model, true);
	s = sim_new(seed, 2, chaos.model.text);
	chaos.sim = s;
	sim_rules(s, "r0,r1");
	s->on_decision = watch;
	s->moving = s->placed = true;
	s->total_max = s->queue_max = s->msg_max = s->rcpt_max = 1000;
	make_world(s);
	for (unsigned i = 0; i < DOMAINS; i++)
		change_hosts(s, i);
	pouring = 1500;
	sim_start(s);
	for (unsigned i = 0; i < 1200; i++) {
		sim_run(s, s->now + (int64_t)pick(s, 3000));
		if (pry)
			nobody_sleeps(s);
		act(s);
		sim_drain(s);
		if (i % 16 == 0)
			check_counters(s);
	}
	everything_goes(s);
	check_counters(s);
	for (size_t i = 0; i < s->job_count; i++)
		assert_int_equal(s->job[i].state, SIM_ENDED);
	sim_run(s, s->now + 30 * HOUR);
	assert_int_equal(s->core->queue_count - s->core->queue_frees, 0);
	assert_int_equal(s->core->lanes.count + s->core->domains.count + s->core->dests.count, 0);
	sends += s->sends;
	grants += s->grants;
	ends += s->job_count;
	sim_free(s);
}

static void worlds(void **state)
{
	const char *one = getenv("CHAOS_SEED"), *many = getenv("CHAOS_WORLDS");
	uint64_t first = one ? strtoull(one, NULL, 0) : 1;
	uint64_t n = many ? strtoull(many, NULL, 0) : one ? 1 : CHAOS_WORLDS_USUAL;

	(void)state;
	loud = one && !many;
	for (unsigned i = 0; i < WORDS; i++)
		snprintf(words[i], sizeof(words[i]), "451 4.7.%u word%u says no", i, i);
	for (uint64_t seed = first; seed < first + n; seed++) {
		print_message("CHAOS_SEED=%llu\n", (unsigned long long)seed);
		one_world(seed);
	}
	print_message("%llu recipients, %llu connections, %llu transactions\n",
	    (unsigned long long)ends, (unsigned long long)grants, (unsigned long long)sends);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(worlds)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
