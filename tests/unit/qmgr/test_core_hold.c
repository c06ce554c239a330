/* SPDX-License-Identifier: ISC */
/*
 * Pauses and suspensions against a model of its own that knows names and times only: nothing that
 * is held is sent or granted after the hold, everything else flows, what is released flows again at
 * its time, nothing is lost; over reloads and restarts.
 */
#include "tests/unit/qmgr/sim.h"

static const char conf[] =
    "virtual-mtas = ( { name = \"a\"; }, { name = \"b\"; }, { name = \"c\"; } );\n"
    "providers = ( { name = \"prov\"; mx = [ \"mx0.test\" ]; } );\n"
    "domains = ( { name = \"*\"; max-smtp-out = 6; }, { name = \"d4.test\"; } );\n";
static const char conf2[] =
    "virtual-mtas = ( { name = \"a\"; }, { name = \"b\"; }, { name = \"c\"; } );\n"
    "providers = ( { name = \"prov\"; mx = [ \"mx0.test\" ]; } );\n"
    "domains = ( { name = \"*\"; max-smtp-out = 3; }, { name = \"d4.test\"; } );\n";

enum { DOMAINS = 6, HOLDS_MAX = 40 };
static const char *const vmtas[] = {"a", "b", "c"}, *const tenants[] = {"", "t1", "t2", "t3"},
			 *const campaigns[] = {"", "x", "y"};
static const char *const dests[DOMAINS] = {
    "prov", "prov", "[mx1.test]", "[mx1.test]", "d4.test", "[mx2.test]"};

/* ---- the model ---- */

static struct held {
	bool on, suspension;
	enum core_scope scope;
	char name[80], at[40];
	int64_t until_ms;
} held[HOLDS_MAX];
static uint64_t checked;

static bool same(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

static bool queue_is(const struct held *h, const char *dest, const char *vmta)
{
	char name[100], any_vmta[100], any_dest[100];

	snprintf(name, sizeof(name), "%s/%s", dest, vmta);
	snprintf(any_vmta, sizeof(any_vmta), "%s/*", dest);
	snprintf(any_dest, sizeof(any_dest), "*/%s", vmta);
	return same(h->name, name) || same(h->name, any_vmta) || same(h->name, any_dest);
}

static bool concerns_queue(const struct held *h, const char *dest, const char *vmta)
{
	return (h->scope == CORE_QUEUE && queue_is(h, dest, vmta)) ||
	       (h->scope == CORE_VMTA && same(h->name, vmta)) ||
	       (h->scope == CORE_PROVIDER && same(h->name, dest));
}

static bool concerns(const struct held *h, const char *dest, const char *vmta, const char *tenant,
    const char *campaign)
{
	char both[80];

	snprintf(both, sizeof(both), "%s/%s", tenant, campaign);
	if (h->scope == CORE_TENANT || h->scope == CORE_CAMPAIGN)
		return same(h->name, h->scope == CORE_TENANT ? tenant : both) &&
		       (!h->at[0] || same(h->at, dest));
	return concerns_queue(h, dest, vmta);
}

static bool lives(const struct held *h, int64_t now)
{
	return h->on && (!h->until_ms || now < h->until_ms);
}

static bool is_held(const struct sim *s, uint32_t job)
{
	struct job_view v;
	char dest[80], vmta[40], tenant[40], campaign[40];

	assert_true(core_job(s->core, s->job[job].ref, &v));
	str_copy(dest, sizeof(dest), v.queue);
	*strrchr(dest, '/') = 0;
	str_copy(vmta, sizeof(vmta), v.vmta);
	str_copy(tenant, sizeof(tenant), v.tenant);
	str_copy(campaign, sizeof(campaign), v.campaign);
	for (int i = 0; i < HOLDS_MAX; i++)
		if (lives(&held[i], s->now) && concerns(&held[i], dest, vmta, tenant, campaign))
			return true;
	return false;
}

static void watch(struct sim *s, const struct core_decision *d)
{
	char dest[200], vmta[40];

	if (d->kind == DECIDE_SEND)
		for (size_t i = 0; i < d->job_count; i++, checked++)
			assert_false(is_held(s, sim_job_of(s, d->jobs[i])));
	if (d->kind != DECIDE_GRANT)
		return;
	str_copy(dest, sizeof(dest), d->grant.queue);
	str_copy(vmta, sizeof(vmta), str_of(strrchr(dest, '/') + 1));
	*strrchr(dest, '/') = 0;
	for (int i = 0; i < HOLDS_MAX; i++)
		assert_false(lives(&held[i], s->now) && concerns_queue(&held[i], dest, vmta));
}

/* ---- the world ---- */

static struct sim *world(uint64_t seed)
{
	struct sim *s = sim_new(seed, 2, conf);

	for (int i = 0; i < DOMAINS; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d%d.test", i);
		sim_domain(s, name);
	}
	for (int i = 0; i < 4; i++) {
		char name[32];

		snprintf(name, sizeof(name), "mx%d.test", i);
		s->host[sim_host(s, name, HOST_OK)].latency_ms = 50;
	}
	for (uint32_t i = 0; i < DOMAINS; i++)
		sim_mx(&s->domain[i], 10, (const size_t[]){0, 0, 1, 1, 3, 2}[i]);
	memset(held, 0, sizeof(held));
	s->on_decision = watch;
	sim_start(s);
	return s;
}

static void pour(struct sim *s, int n)
{
	while (n--) {
		uint64_t r = sim_random(s);

		sim_rcpt(s, sim_message(s),
		    (struct sim_mail){.domain = (uint32_t)(r % DOMAINS),
			.vmta = vmtas[(r >> 10) % 3],
			.tenant = tenants[(r >> 20) % 4],
			.campaign = campaigns[(r >> 30) % 3]});
	}
}

static void draw(struct sim *s, struct held *h)
{
	uint64_t r = sim_random(s);
	const char *dest = dests[(r >> 8) % DOMAINS], *vmta = vmtas[(r >> 12) % 3];
	const char *tenant = tenants[1 + (r >> 16) % 3];

	*h = (struct held){.on = true, .suspension = r >> 50 & 1};
	h->scope = (enum core_scope)(r % 5);
	switch (h->scope) {
	case CORE_QUEUE:
		snprintf(h->name, sizeof(h->name), "%s/%s", r >> 24 & 3 ? dest : "*",
		    (r >> 24 & 3) == 1 ? "*" : vmta);
		break;
	case CORE_VMTA:
		snprintf(h->name, sizeof(h->name), "%s", vmta);
		break;
	case CORE_PROVIDER:
		snprintf(h->name, sizeof(h->name), "prov");
		break;
	case CORE_TENANT:
		snprintf(h->name, sizeof(h->name), "%s", tenant);
		break;
	default:
		snprintf(h->name, sizeof(h->name), "%s/%s", tenant, campaigns[(r >> 28) % 3]);
	}
	if ((h->scope == CORE_TENANT || h->scope == CORE_CAMPAIGN) && r >> 40 & 1)
		snprintf(h->at, sizeof(h->at), "%s", dest);
	if (h->suspension || r >> 41 & 1)
		h->until_ms = s->now + 1000 + (int64_t)(sim_random(s) % 100000);
}

static bool equal(const struct held *a, const struct held *b)
{
	return a->scope == b->scope && same(a->name, b->name) && same(a->at, b->at);
}

static void begin(struct sim *s, struct held *slot)
{
	struct held h;
	int rc;

	draw(s, &h);
	for (int i = 0; i < HOLDS_MAX; i++) /* one renewed is the same one */
		if (held[i].on && equal(&held[i], &h) && held[i].suspension == h.suspension)
			slot = &held[i];
	if (h.suspension)
		rc = hold_add(s->core, &(struct hold_request){.scope = h.scope,
					   .name = str_of(h.name),
					   .at = str_of(h.at),
					   .rule = STR("list:0 (f:1)"),
					   .text = STR("451 slow down"),
					   .until_ms = h.until_ms});
	else
		rc = core_pause(
		    s->core, h.scope, str_of(h.name), str_of(h.at), h.until_ms, STR("op"), s->now);
	assert_int_equal(rc, 0);
	*slot = h;
}

static void finish(struct sim *s, struct held *h)
{
	size_t n = 0;

	for (int i = 0; i < HOLDS_MAX; i++)
		if (&held[i] != h && lives(&held[i], s->now) && equal(&held[i], h)) {
			held[i].on = false; /* a pause and a suspension end together */
			n++;
		}
	n += lives(h, s->now);
	assert_int_equal(
	    core_resume(s->core, h->scope, str_of(h->name), str_of(h->at), STR("op"), s->now), n);
	h->on = false;
}

static void compare(const struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	struct hold_view v[3];
	size_t n, found = 0, expected = 0;

	while ((n = core_holds(s->core, &cursor, v, COUNT_OF(v)))) {
		for (size_t k = 0; k < n; k++) {
			bool known = false;

			if (!str_eq(v[k].kind, STR("pause")) && !str_eq(v[k].kind, STR("suspend")))
				continue;
			for (int i = 0; i < HOLDS_MAX; i++)
				known |= lives(&held[i], s->now) && held[i].scope == v[k].scope &&
					 str_eq(v[k].name, str_of(held[i].name)) &&
					 str_eq(v[k].at, str_of(held[i].at)) &&
					 held[i].until_ms == v[k].until_ms &&
					 held[i].suspension == (v[k].rule.n > 0);
			assert_true(known);
			found++;
		}
	}
	for (int i = 0; i < HOLDS_MAX; i++)
		expected += lives(&held[i], s->now);
	assert_int_equal(found, expected);
}

/* A restart takes the end of a renewed suspension as it was given out: a little early. */
static void resync(const struct sim *s)
{
	struct core_cursor cursor = {0, 0};
	struct hold_view v;

	while (core_holds(s->core, &cursor, &v, 1))
		for (int i = 0; i < HOLDS_MAX; i++) {
			struct held *h = &held[i];

			if (!lives(h, s->now) || !h->suspension ||
			    !str_eq(v.kind, STR("suspend")) || h->scope != v.scope ||
			    !str_eq(v.name, str_of(h->name)) || !str_eq(v.at, str_of(h->at)))
				continue;
			assert_true(v.until_ms <= h->until_ms);
			assert_true((h->until_ms - v.until_ms) * 64 <= 101000);
			h->until_ms = v.until_ms;
		}
}

static void restart(struct sim *s)
{
	sim_restart(s);
	resync(s);
}

static uint64_t check_rest(struct sim *s)
{
	uint64_t rest = 0;

	for (uint32_t i = 0; i < s->job_count; i++)
		if (s->job[i].state != SIM_ENDED) {
			if (!is_held(s, i)) {
				struct job_view v;

				core_job(s->core, s->job[i].ref, &v);
				fail_msg("%.*s %.*s/%.*s stands, state %d", STR_ARG(v.queue),
				    STR_ARG(v.tenant), STR_ARG(v.campaign), v.state);
			}
			rest++;
		}
	return rest;
}

static void random_life(void **state)
{
	uint64_t waited = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct sim *s = world(seed);
		bool other = false;

		for (int step = 0; step < 150; step++) {
			struct held *h = &held[sim_random(s) % HOLDS_MAX];
			uint64_t r = sim_random(s) % 100;

			if (h->on && !lives(h, s->now))
				h->on = false;
			if (r < 35 && !h->on)
				begin(s, h);
			else if (r < 60 && h->on)
				finish(s, h);
			else if (r < 64)
				restart(s);
			else if (r < 68)
				sim_configure(s, (other = !other) ? conf2 : conf);
			pour(s, (int)(sim_random(s) % 40));
			sim_run(s, s->now + (int64_t)(sim_random(s) % 4000));
			if (step % 10 == 9) {
				compare(s);
				sim_run(s, s->now + 4 * MINUTE);
				compare(s);
				waited += check_rest(s);
			}
		}
		for (int i = 0; i < HOLDS_MAX; i++)
			if (lives(&held[i], s->now))
				finish(s, &held[i]);
		sim_run(s, s->now + 10 * MINUTE);
		assert_int_equal(check_rest(s), 0);
		for (uint32_t i = 0; i < s->job_count; i++)
			assert_int_equal(s->job[i].outcome, OUTCOME_DELIVERED);
		sim_free(s);
	}
	assert_true(checked > 20000); /* and something was sent, something was held */
	assert_true(waited > 10000);
}

/* ---- single things ---- */

static void connections_close(void **state)
{
	struct sim *s = world(3);

	(void)state;
	for (int i = 0; i < 200; i++)
		sim_rcpt(s, sim_message(s), (struct sim_mail){.domain = 0, .vmta = "a"});
	sim_run(s, s->now + 300);
	assert_true(s->core->conns.count > 0);
	held[0] = (struct held){.on = true, .scope = CORE_QUEUE, .name = "prov/a"};
	/* a domain stands for its destination */
	assert_int_equal(
	    core_pause(s->core, CORE_QUEUE, STR("d0.test/a"), STR(""), 0, STR("op"), s->now), 0);
	compare(s);
	sim_run(s, s->now + 2 * SECOND); /* less than the idle timeout */
	assert_int_equal(s->core->conns.count, 0);
	assert_true(check_rest(s) > 0);
	finish(s, &held[0]);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(check_rest(s), 0);
	sim_free(s);
}

static void held_mail_ages(void **state)
{
	struct sim *s = world(4);

	(void)state;
	held[0] = (struct held){.on = true, .scope = CORE_TENANT, .name = "t1"};
	assert_int_equal(
	    core_pause(s->core, CORE_TENANT, STR("t1"), STR(""), 0, STR("op"), s->now), 0);
	held[1] = (struct held){.on = true, .scope = CORE_VMTA, .name = "b"};
	assert_int_equal(
	    core_pause(s->core, CORE_VMTA, STR("b"), STR(""), 0, STR("op"), s->now), 0);
	for (uint32_t i = 0; i < 100; i++)
		sim_rcpt(s, sim_message(s),
		    (struct sim_mail){.domain = i % DOMAINS,
			.vmta = i % 2 ? "a" : "b",
			.tenant = i % 2 ? "t1" : "t2"});
	sim_run(s, s->now + 4 * DAY);
	assert_int_equal(check_rest(s), 100);
	sim_run(s, s->now + DAY);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(s->job[i].outcome, OUTCOME_EXPIRED);
	sim_free(s);
}

static void unknown_names(void **state)
{
	struct sim *s = world(5);
	struct core *core = s->core;

	(void)state;
	assert_int_equal(
	    core_pause(core, CORE_VMTA, STR("nope"), STR(""), 0, STR(""), s->now), -ENOENT);
	assert_int_equal(
	    core_pause(core, CORE_PROVIDER, STR("nope"), STR(""), 0, STR(""), s->now), -ENOENT);
	assert_int_equal(
	    core_pause(core, CORE_CAMPAIGN, STR("t1"), STR(""), 0, STR(""), s->now), -ENOENT);
	assert_int_equal(
	    core_pause(core, CORE_QUEUE, STR(""), STR(""), 0, STR(""), s->now), -ENOENT);
	assert_int_equal(core_resume(core, CORE_QUEUE, STR("x/a"), STR(""), STR(""), s->now), 0);
	sim_free(s);
}

/* A hundred destinations of a tenant come back one after the other, within seconds. */
static void release_is_spread(void **state)
{
	struct sim *s = world(6);
	uint32_t parked[8];
	struct tenant *t;

	(void)state;
	for (int i = 0; i < 100; i++) {
		char name[32];

		snprintf(name, sizeof(name), "e%d.test", i);
		sim_domain(s, name);
		snprintf(name, sizeof(name), "ex%d.test", i);
		sim_mx(&s->domain[DOMAINS + i], 10, sim_host(s, name, HOST_OK));
	}
	held[0] = (struct held){.on = true, .scope = CORE_TENANT, .name = "t1"};
	assert_int_equal(
	    core_pause(s->core, CORE_TENANT, STR("t1"), STR(""), 0, STR("op"), s->now), 0);
	for (uint32_t i = 0; i < 100; i++)
		sim_rcpt(s, sim_message(s),
		    (struct sim_mail){.domain = DOMAINS + i, .vmta = "a", .tenant = "t1"});
	sim_run(s, s->now + MINUTE);
	assert_int_equal(check_rest(s), 100);
	finish(s, &held[0]);
	t = tenant_find(s->core, STR("t1"));
	for (size_t k = 0; k < COUNT_OF(parked); k++) {
		parked[k] = 0;
		for (struct link *l = t->shares.next; l != &t->shares; l = l->next)
			parked[k] += OWNER(l, struct share, in_tenant)->parked != 0;
		sim_run(s, s->now + 600);
	}
	assert_in_range(parked[0], 180, 199); /* those of the queues without route, too */
	assert_in_range(parked[3], 60, 140);
	assert_int_equal(parked[7], 0);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(check_rest(s), 0);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(random_life),
	    cmocka_unit_test(connections_close),
	    cmocka_unit_test(held_mail_ages),
	    cmocka_unit_test(unknown_names),
	    cmocka_unit_test(release_is_spread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
