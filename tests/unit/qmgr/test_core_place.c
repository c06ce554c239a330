/* SPDX-License-Identifier: ISC */
/* Where mail goes: precedence of values, fixed routes, queue-to, no MX, discard, pools, reroutes.
 */
#include "tests/unit/qmgr/sim.h"
#include <errno.h>

static struct queue *queue(struct sim *s, const char *name)
{
	struct queue *q = queue_find(s->core, str_of(name));

	if (!q)
		fail_msg("no queue %s", name);
	return q;
}

static uint64_t in_queue(struct sim *s, const char *name)
{
	const struct queue *q = queue_find(s->core, str_of(name));
	uint64_t n = 0;

	for (size_t i = 0; q && i < COUNT_OF(q->n); i++)
		n += q->n[i];
	return n;
}

static uint64_t delivered(struct sim *s, const char *name)
{
	const struct queue *q = queue_find(s->core, str_of(name));

	return q ? q->delivered : 0;
}

/* Jobs of that virtual MTA, wherever they stand. */
static uint64_t of_vmta(struct sim *s, const char *vmta)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s->job_count; i++) {
		struct job_view v;

		if (s->job[i].state != SIM_ENDED && core_job(s->core, s->job[i].ref, &v))
			n += str_eq(v.vmta, str_of(vmta));
	}
	return n;
}

static uint64_t errors, reroutes;

static void count_events(struct sim *s, const struct core_decision *d)
{
	(void)s;
	errors += d->kind == DECIDE_EVENT && d->event.kind == EVENT_ERROR;
	reroutes += d->kind == DECIDE_EVENT && d->event.kind == EVENT_REROUTE;
}

static struct sim *world(const char *conf)
{
	struct sim *s = sim_new(20261123, 2, conf);

	errors = reroutes = 0;
	s->on_decision = count_events;
	sim_start(s);
	return s;
}

static size_t mail_by(struct sim *s, uint32_t domain, const char *vmta)
{
	uint64_t id = sim_message(s);

	sim_rcpt(s, id,
	    (struct sim_mail){
		.domain = domain, .vmta = vmta, .tenant = "acme", .campaign = "news"});
	return s->job_count - 1;
}

/* ---- precedence ---- */

/* Nine layers: bit i of a case says whether layer i sets the option; the lowest bit wins. */
enum { LAYERS = 9 };

static void put(struct buf *b, const char *kind, unsigned bits, unsigned at, bool *first)
{
	if (!(bits >> at & 1))
		return;
	buf_printf(b, "%s { name = \"%s\"; max-smtp-out = %u; }", *first ? "" : ",", kind, at + 11);
	*first = false;
}

/* sender: 0 virtual MTA, 1 pool, 2 everybody */
static void sections(struct buf *b, unsigned bits, unsigned sender)
{
	bool first = true;

	buf_cstr(b, "domains = (");
	put(b, "d.test", bits, sender, &first);
	put(b, "*", bits, 6 + sender, &first);
	buf_cstr(b, "); providers = (");
	if (sender == 2)
		buf_cstr(b, "{ name = \"p\"; mx = [ \"*.p.test\" ];");
	else if (bits >> (3 + sender) & 1)
		buf_cstr(b, "{ name = \"p\";");
	if (bits >> (3 + sender) & 1)
		buf_printf(b, " max-smtp-out = %u;", 3 + sender + 11);
	buf_cstr(b, sender == 2 || (bits >> (3 + sender) & 1) ? "} );\n" : ");\n");
}

static void all_nine_layers(void **state)
{
	(void)state;
	for (unsigned bits = 0; bits < 1u << LAYERS; bits++) {
		struct value_of of = {STR("d.test"), STR("p")};
		struct core_explain e[100];
		struct buf b;
		struct sim *s;
		struct values v;
		uint32_t want = bits ? (uint32_t)__builtin_ctz(bits) + 11 : 10;

		buf_init(&b, 8000);
		buf_cstr(&b, "virtual-mtas = ( { name = \"v\"; ");
		sections(&b, bits, 0);
		buf_cstr(&b, "} );\nvirtual-mta-pools = ( { name = \"pool\"; members = ( { "
			     "virtual-mta = \"v\"; } ); ");
		sections(&b, bits, 1);
		buf_cstr(&b, "} );\n");
		sections(&b, bits, 2);
		buf_u8(&b, 0);
		s = sim_new(1, 1, (const char *)b.p);
		value_resolve(s->core, &of, vmta_find(s->core, STR("v")), &v);
		if (v.max_smtp_out != want)
			fail_msg("bits %x: %u, not %u", bits, v.max_smtp_out, want);
		/* explained the same, with all that it won against */
		sim_mx(sim_domain(s, "d.test"), 10, sim_host(s, "mx.p.test", HOST_OK));
		sim_start(s);
		sim_mail(s, 0);
		sim_run(s, 0);
		/* it is named by a section, or the provider's */
		if (bits & 7) {
			size_t n = core_explain(s->core, STR("d.test"), STR("v"), e, 100);
			size_t over = (size_t)__builtin_popcount(bits) - 1;

			assert_true(n > 40);
			assert_int_equal(e[0].opt, CO_DOMAIN_max_smtp_out);
			assert_int_equal(e[0].value->num, want);
			assert_int_equal(e[0].over_count, over);
			for (size_t i = 0; i < over; i++)
				assert_true(e[0].over[i]->num > (i ? e[0].over[i - 1]->num : want));
			assert_non_null(queue_find(s->core, STR("d.test/v")));
			assert_int_equal(queue(s, "d.test/v")->v.max_smtp_out, want);
		} else {
			assert_int_equal(queue(s, "p/v")->v.max_smtp_out, want);
		}
		sim_free(s);
		buf_fini(&b);
	}
}

/* Random options in random layers: each finds its own, as a table of the test says. */
static void each_option_its_own(void **state)
{
	static const struct {
		const char *key;
		enum conf_opt opt;
	} opts[] = {{"max-smtp-out", CO_DOMAIN_max_smtp_out},
	    {"max-msg-per-connection", CO_DOMAIN_max_msg_per_connection},
	    {"max-rcpt-per-message", CO_DOMAIN_max_rcpt_per_message},
	    {"queue-priority", CO_DOMAIN_queue_priority},
	    {"backoff-max-smtp-out", CO_DOMAIN_backoff_max_smtp_out}};
	struct sim *r = sim_new(99, 1, "");

	(void)state;
	for (int round = 0; round < 300; round++) {
		unsigned set[COUNT_OF(opts)];
		struct buf b;
		struct sim *s;
		const struct conf_node *layers[VALUE_LAYERS];
		struct value_of of = {STR("d.test"), STR("p")};

		for (size_t i = 0; i < COUNT_OF(opts); i++)
			set[i] = (unsigned)sim_random(r) & 511;
		buf_init(&b, 20000);
		for (unsigned sender = 0; sender < 3; sender++) {
			static const char *const open[] = {"virtual-mtas = ( { name = \"v\"; ",
			    ("virtual-mta-pools = ( { name = \"pool\"; members = ( { virtual-mta = "
			     "\"v\"; } ); "),
			    ""};
			static const char *const names[] = {"d.test", "p", "*"};

			buf_cstr(&b, open[sender]);
			for (unsigned at = 0; at < 3; at++) {
				if (at == 1)
					continue;
				if (at == 0)
					buf_printf(&b, "domains = ( { name = \"%s\"; ", names[at]);
				else
					buf_printf(&b, ", { name = \"%s\"; ", names[at]);
				for (size_t i = 0; i < COUNT_OF(opts); i++)
					if (set[i] >> (3 * at + sender) & 1)
						buf_printf(&b, "%s = %u; ", opts[i].key,
						    20 + 3 * at + sender);
				buf_cstr(&b, "} ");
			}
			buf_cstr(&b, "); providers = ( { name = \"p\"; ");
			if (sender == 2)
				buf_cstr(&b, "mx = [ \"*.p.test\" ]; ");
			for (size_t i = 0; i < COUNT_OF(opts); i++)
				if (set[i] >> (3 + sender) & 1)
					buf_printf(&b, "%s = %u; ", opts[i].key, 20 + 3 + sender);
			buf_cstr(&b, sender == 2 ? "} );\n" : "} ); } );\n");
		}
		buf_u8(&b, 0);
		s = sim_new(1, 1, (const char *)b.p);
		value_layers(s->core, &of, vmta_find(s->core, STR("v")), layers);
		for (size_t i = 0; i < COUNT_OF(opts); i++) {
			const struct conf_value *v;
			int layer = value_pick(layers, opts[i].opt, &v);
			int want = set[i] ? __builtin_ctz(set[i]) : LAYERS;

			assert_int_equal(layer, want);
			if (set[i])
				assert_int_equal(v->num, 20 + want);
		}
		sim_free(s);
		buf_fini(&b);
	}
	sim_free(r);
}

/* ---- fixed routes ---- */

static struct sim_domain *fixed(struct sim *s, const char *hosts, size_t host)
{
	struct sim_domain *d = sim_domain(s, hosts);

	d->fixed = true;
	sim_mx(d, 1, host);
	s->placed = true;
	return d;
}

static void smtp_hosts(void **state)
{
	struct sim *s = world(
	    "virtual-mtas = ( { name = \"v\"; }, { name = \"w\"; domains = ( { name = \"*\"; "
	    "smtp-hosts = \"relay.test\"; }, { name = \"b.test\"; smtp-hosts = \"\"; } ); } );\n"
	    "domains = ( { name = \"a.test\"; smtp-hosts = \"[10.0.0.9]:2525\"; } );\n");
	size_t mx = sim_host(s, "mx.test", HOST_OK), to = sim_host(s, "[10.0.0.9]", HOST_OK),
	       relay = sim_host(s, "relay.test", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	sim_mx(sim_domain(s, "b.test"), 10, mx);
	sim_mx(sim_domain(s, "c.test"), 10, mx);
	sim_mx(sim_domain(s, "d.test"), 10, mx);
	fixed(s, "[10.0.0.9]:2525", to);
	fixed(s, "relay.test", relay);
	for (int i = 0; i < 50; i++)
		for (uint32_t d = 0; d < 4; d++) {
			mail_by(s, d, "v");
			mail_by(s, d, "w");
		}
	sim_run(s, 0);
	assert_int_equal(s->host[to].delivered, 100);	 /* a.test by both: the domain goes first */
	assert_int_equal(s->host[relay].delivered, 100); /* c and d by w: they share a queue */
	assert_int_equal(delivered(s, "[relay.test]/w"), 100);
	assert_int_equal(delivered(s, "a.test/w"), 50);
	assert_int_equal(delivered(s, "[mx.test]/v"), 100);
	assert_int_equal(delivered(s, "b.test/v") + delivered(s, "b.test/w"), 100);
	assert_int_equal(s->domain[0].asked, 0); /* its MX do not matter */
	assert_int_equal(s->domain[4].asked, 1);
	sim_free(s);
}

/* A smart host for all needs no MX, unless a provider has a word on places. */
static void smart_host(void **state)
{
	static const char *const confs[] = {
	    "domains = ( { name = \"*\"; smtp-hosts = \"relay.test\"; } );",
	    "domains = ( { name = \"*\"; smtp-hosts = \"relay.test\"; } ); providers = ( { name = "
	    "\"p\"; mx = [ \"*.p.test\" ]; smtp-hosts = \"\"; } );"};

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct sim *s = world(confs[i]);
		size_t mx = sim_host(s, "mx.p.test", HOST_OK),
		       relay = sim_host(s, "relay.test", HOST_OK);

		sim_mx(sim_domain(s, "a.test"), 10, mx);
		sim_domain(s, "gone.test")->class = ROUTE_NO_DOMAIN;
		fixed(s, "relay.test", relay);
		sim_mail(s, 0);
		sim_mail(s, 1);
		sim_run(s, 0);
		assert_int_equal(s->domain[0].asked, i);
		assert_int_equal(s->domain[1].asked, i);
		assert_int_equal(s->host[relay].delivered, 2 - i);
		assert_int_equal(s->host[mx].delivered, i);
		assert_int_equal(delivered(s, "[relay.test]/default"), 2 - i);
		assert_int_equal(delivered(s, "p/default"), i);
		sim_free(s);
	}
}

static void fixed_route_fails(void **state)
{
	struct sim *s = world("domains = ( { name = \"a.test\"; smtp-hosts = \"no.test\"; "
			      "retry-after-dns-error = \"1m\"; } );");

	(void)state;
	sim_domain(s, "a.test");
	fixed(s, "no.test", 0)->class = ROUTE_TEMPORARY;
	sim_mail(s, 0);
	sim_run(s, s->now + 3 * MINUTE);
	assert_int_equal(s->job[0].state, SIM_QUEUED);
	assert_int_equal(s->domain[1].asked, 3);
	assert_int_equal(s->domain[0].asked, 0);
	s->domain[1].class = ROUTE_NO_HOST;
	sim_run(s, s->now + 2 * MINUTE);
	assert_int_equal(s->job[0].state, SIM_ENDED);
	assert_string_equal(s->job[0].status, "5.4.4");
	sim_free(s);
}

/* ---- queue-to ---- */

static void queue_to(void **state)
{
	struct sim *s = world(
	    "domains = ( { name = \"a.test\"; queue-to = \"x.test\"; max-smtp-out = 9; },\n"
	    "  { name = \"b.test\"; queue-to = \"a.test\"; },\n"
	    "  { name = \"x.test\"; max-smtp-out = 3; },\n"
	    "  { name = \"l1.test\"; queue-to = \"l2.test\"; }, { name = \"l2.test\"; queue-to = "
	    "\"l3.test\"; }, { name = \"l3.test\"; queue-to = \"l4.test\"; },\n"
	    "  { name = \"l4.test\"; queue-to = \"l5.test\"; }, { name = \"l5.test\"; queue-to = "
	    "\"l6.test\"; }, { name = \"l6.test\"; queue-to = \"l7.test\"; },\n"
	    "  { name = \"l7.test\"; queue-to = \"l8.test\"; }, { name = \"l8.test\"; queue-to = "
	    "\"l9.test\"; }, { name = \"l9.test\"; queue-to = \"x.test\"; } );\n");
	size_t mx = sim_host(s, "mx.test", HOST_OK), x = sim_host(s, "mx.x.test", HOST_OK);
	static const char *const names[] = {"a.test", "b.test", "x.test", "l1.test"};

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		sim_mx(sim_domain(s, names[i]), 10, i == 2 ? x : mx);
	s->placed = true;
	s->queue_max = 10;
	for (uint32_t i = 0; i < 400; i++)
		sim_mail(s, i % 4);
	sim_run(s, 0);
	assert_int_equal(s->host[x].delivered, 300);
	assert_int_equal(delivered(s, "x.test/default"), 300);
	assert_int_equal(delivered(s, "l1.test/default"), 100); /* too long: its own way */
	assert_int_equal(errors, 1);
	assert_int_equal(s->domain[0].asked + s->domain[1].asked, 0);
	sim_free(s);
}

/* What waits for dead hosts goes by those that a new configuration names, at once. */
static void other_hosts_while_mail_waits(void **state)
{
	struct sim *s = world("domains = ( { name = \"a.test\"; smtp-hosts = \"old.test\"; } );");

	(void)state;
	sim_domain(s, "a.test");
	sim_mx(sim_domain(s, "old.test"), 0, sim_host(s, "old.test", HOST_REFUSES));
	sim_mx(sim_domain(s, "new.test"), 0, sim_host(s, "new.test", HOST_OK));
	s->domain[1].fixed = s->domain[2].fixed = true;
	s->placed = true;
	s->queue_max = 10;
	for (int i = 0; i < 10; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(s->host[1].delivered, 0);
	sim_configure(s, "domains = ( { name = \"a.test\"; smtp-hosts = \"new.test\"; } );");
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(s->domain[2].asked, 1);
	sim_run(s, s->now + 12 * MINUTE); /* the failures of the old ones hold it so long */
	assert_int_equal(s->host[1].delivered, 10);
	sim_free(s);
}

/* Connections to hosts that are named no more get nothing more. */
static void other_hosts_while_mail_flows(void **state)
{
	struct sim *s = world("domains = ( { name = \"a.test\"; smtp-hosts = \"old.test\"; } );");
	uint64_t before;

	(void)state;
	sim_domain(s, "a.test");
	sim_mx(sim_domain(s, "old.test"), 0, sim_host(s, "old.test", HOST_OK));
	sim_mx(sim_domain(s, "new.test"), 0, sim_host(s, "new.test", HOST_OK));
	s->domain[1].fixed = s->domain[2].fixed = true;
	s->placed = s->moving = true;
	s->queue_max = 10;
	for (int i = 0; i < 1000; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + 2 * SECOND);
	before = s->host[0].delivered;
	assert_in_range(before, 10, 900);
	sim_configure(s, "domains = ( { name = \"a.test\"; smtp-hosts = \"new.test\"; } );");
	sim_run(s, s->now + 12 * MINUTE);
	assert_int_equal(s->host[0].delivered + s->host[1].delivered, 1000);
	assert_in_range(s->host[0].delivered, before, before + 40); /* what was in flight */
	sim_free(s);
}

/* ---- no MX ---- */

static void no_mx(void **state)
{
	static const char *const confs[] = {"",
	    "domains = ( { name = \"*\"; bounce-upon-no-mx = true; } );",
	    "domains = ( { name = \"*\"; bounce-upon-no-mx = \"1h\"; retry-after = \"10m\"; } );"};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct sim *s = world(confs[i]);

		sim_mx(sim_domain(s, "bare.test"), 0,
		    sim_host(s, "bare.test", i == 2 ? HOST_REFUSES : HOST_OK));
		s->domain[0].implicit = true;
		sim_mx(sim_domain(s, "mx.test"), 0, 0);
		sim_mail(s, 0);
		sim_run(s, s->now + 50 * MINUTE);
		if (i == 0)
			assert_int_equal(s->job[0].outcome, OUTCOME_DELIVERED);
		if (i == 1) {
			assert_int_equal(s->job[0].outcome, OUTCOME_BOUNCED);
			assert_string_equal(s->job[0].status, "5.1.2");
			assert_int_equal(s->grants, 0);
			sim_mail(s, 1); /* one with an MX is not concerned */
			sim_run(s, 0);
			assert_int_equal(s->job[1].outcome, OUTCOME_DELIVERED);
		}
		if (i == 2) {
			assert_true(s->grants > 0); /* so long it is tried */
			assert_int_equal(s->job[0].state, SIM_QUEUED);
			sim_run(s, s->now + 12 * MINUTE);
			assert_int_equal(s->job[0].state, SIM_ENDED);
			assert_int_equal(s->job[0].outcome, OUTCOME_BOUNCED);
			assert_string_equal(s->job[0].status, "5.1.2");
		}
		sim_free(s);
	}
}

/* The records of a domain do not matter to mail that another way is set for. */
static void no_mx_but_a_fixed_route(void **state)
{
	struct sim *s =
	    world("virtual-mtas = ( { name = \"a\"; }, { name = \"b\"; domains = ( { name = "
		  "\"bare.test\"; smtp-hosts = \"relay.test\"; }, { name = \"bare2.test\"; "
		  "queue-to = \"mx.test\"; } ); } ); domains = ( { name = \"*\"; "
		  "bounce-upon-no-mx = true; } );");
	size_t host = sim_host(s, "bare.test", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "bare.test"), 0, host);
	sim_mx(sim_domain(s, "bare2.test"), 0, host);
	sim_mx(sim_domain(s, "mx.test"), 0, sim_host(s, "mx.test", HOST_OK));
	sim_mx(sim_domain(s, "relay.test"), 0, sim_host(s, "relay.test", HOST_OK));
	s->domain[0].implicit = s->domain[1].implicit = true;
	s->domain[3].fixed = true;
	s->placed = true;
	s->queue_max = 10;
	for (uint32_t i = 0; i < 2; i++) {
		mail_by(s, i, "a"); /* its records are known from then on */
		sim_run(s, 0);
		assert_int_equal(s->job[2 * i].outcome, OUTCOME_BOUNCED);
		mail_by(s, i, "b");
		sim_run(s, 0);
		assert_int_equal(s->job[2 * i + 1].outcome, OUTCOME_DELIVERED);
	}
	sim_free(s);
}

/* ---- why ---- */

static struct core_why why_of(struct sim *s, const char *target, struct core_limit_view *binding)
{
	struct core_limit_view limits[16];
	struct core_why why;
	size_t n = COUNT_OF(limits), bound = 0;

	assert_int_equal(core_why_queue(s->core, str_of(target), &why, limits, &n), 0);
	for (size_t i = 0; i < n; i++)
		if (limits[i].binding && !bound++)
			*binding = limits[i];
	assert_in_range(bound, 0, 1); /* one cause is told */
	return why;
}

/* By the name of a domain whose own queue is empty: where its mail waits. */
static void why_of_a_domain_that_was_routed(void **state)
{
	struct sim *s = world("");
	struct core_limit_view limit = {.limit = 0};

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.a.test", HOST_OK));
	s->host[0].defer = 100;
	s->queue_max = 10;
	sim_mail(s, 0);
	sim_run(s, s->now + MINUTE);
	assert_int_equal(in_queue(s, "[mx.a.test]/default"), 1);
	assert_true(str_eq(why_of(s, "a.test", &limit).state, STR("retry")));
	sim_free(s);
}

/* With as many connections open as there may be, what waits still waits for the rate. */
static void why_of_a_rate_that_binds(void **state)
{
	struct sim *s = world("domains = ( { name = \"a.test\"; max-smtp-out = 2; max-msg-rate = "
			      "\"20/3d burst 3\"; } );");
	struct core_limit_view limit = {.limit = 0};

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.a.test", HOST_OK));
	s->queue_max = 2;
	for (int i = 0; i < 10; i++)
		sim_mail(s, 0);
	sim_run(s, s->now + SECOND);
	assert_int_equal(queue(s, "a.test/default")->limit.used, 2);
	assert_true(str_eq(why_of(s, "a.test/default", &limit).state, STR("limit")));
	assert_true(str_eq(limit.name, STR("max-msg-rate")));
	sim_free(s);
}

/* ---- discard ---- */

static void discard(void **state)
{
	struct sim *s =
	    world("domains = ( { name = \"sink.test\"; type = \"discard\"; max-msg-rate "
		  "= \"10/s\"; }, { name = \"fast.test\"; type = \"discard\"; } );");

	(void)state;
	sim_domain(s, "sink.test");
	sim_domain(s, "fast.test");
	s->placed = true;
	for (int i = 0; i < 3000; i++) {
		sim_mail(s, 0);
		sim_mail(s, 1);
	}
	sim_run(s, s->now + 100 * SECOND);
	assert_int_equal(s->resolves + s->grants, 0);
	assert_int_equal(delivered(s, "fast.test/default"), 3000);
	assert_in_range(delivered(s, "sink.test/default"), 950, 1010);
	sim_run(s, 0);
	assert_int_equal(delivered(s, "sink.test/default"), 3000);
	sim_free(s);
}

/* ---- pools ---- */

static const char pool[] =
    "virtual-mtas = ( { name = \"m1\"; sources = ( { address = \"192.0.2.1\"; } ); },\n"
    "  { name = \"m2\"; sources = ( { address = \"192.0.2.2\"; } ); },\n"
    "  { name = \"m0\"; sources = ( { address = \"192.0.2.9\"; } ); } );\n"
    "virtual-mta-pools = ( { name = \"bulk\"; members = ( { virtual-mta = \"m1\"; weight = 3; }, "
    "{ virtual-mta = \"m2\"; weight = 1; }, { virtual-mta = \"m0\"; weight = 0; } ); } );\n"
    "default-virtual-mta = \"bulk\";\n"
    "domains = ( { name = \"*\"; retry-after = \"10m\"; retry-recipients-after = \"10m\"; } );\n";

static void members_by_weight(void **state)
{
	struct sim *s = world(pool);
	struct job_view v;
	double off;

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, sim_host(s, "mx.test", HOST_REFUSES));
	for (int i = 0; i < 4000; i++)
		if (i % 2)
			mail_by(s, 0, "bulk");
		else
			sim_mail(s, 0);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(in_queue(s, "[mx.test]/m0"), 0);
	off = (double)in_queue(s, "[mx.test]/m1") - 3000;
	assert_true(off * off < 750 * 25); /* 5 sigma */
	assert_int_equal(in_queue(s, "[mx.test]/m1") + in_queue(s, "[mx.test]/m2"), 4000);
	assert_true(core_job(s->core, s->job[1].ref, &v));
	assert_true(str_eq(v.pool, STR("bulk")));
	assert_true(str_eq(core_default_vmta(s->core), STR("bulk")));
	sim_free(s);
}

/* A member that is paused or has no source gives its mail to the others, also what waits; without
 * any it stays and waits. A restart in between changes nothing. */
static void mail_is_drawn_anew(void **state)
{
	(void)state;
	for (int how = 0; how < 4; how++) {
		struct sim *s = world(pool);
		size_t mx = sim_host(s, "mx.test", HOST_OK);

		sim_mx(sim_domain(s, "a.test"), 10, mx);
		s->host[mx].defer = 100;
		for (int i = 0; i < 400; i++)
			mail_by(s, 0, "bulk");
		sim_run(s, s->now + 30 * SECOND);
		assert_in_range(in_queue(s, "[mx.test]/m1"), 200, 399);
		s->host[mx].defer = 0;
		if (how & 1)
			assert_int_equal(core_pause(s->core, CORE_VMTA, STR("m1"), STR(""), 0,
					     STR("op"), s->now),
			    0);
		else
			assert_int_equal(core_disable_source(s->core, STR("192.0.2.1"), STR(""), 0,
					     STR("op"), s->now),
			    0);
		if (how & 2)
			sim_restart(s);
		for (int i = 0; i < 100; i++)
			mail_by(s, 0, "bulk");
		sim_run(s, s->now + 60 * MINUTE);
		assert_int_equal(in_queue(s, "[mx.test]/m1"), 0);
		for (size_t i = 0; i < s->job_count; i++)
			assert_int_equal(s->job[i].state, SIM_ENDED);
		/* now the other one, too: mail waits */
		assert_int_equal(
		    core_disable_source(s->core, STR("192.0.2.2"), STR(""), 0, STR("op"), s->now),
		    0);
		for (int i = 0; i < 100; i++)
			mail_by(s, 0, "bulk");
		sim_run(s, s->now + 60 * MINUTE);
		assert_int_equal(in_queue(s, "[mx.test]/m1") + in_queue(s, "[mx.test]/m2"), 100);
		core_enable_source(s->core, STR("192.0.2.2"), STR(""), STR("op"), s->now);
		sim_run(s, s->now + 60 * MINUTE);
		if (how & 1) {
			assert_int_equal(in_queue(s, "[mx.test]/m2"), 0);
			assert_int_equal(
			    core_resume(s->core, CORE_VMTA, STR("m1"), STR(""), STR("op"), s->now),
			    1);
			sim_run(s, s->now + 60 * MINUTE);
		}
		for (size_t i = 0; i < s->job_count; i++)
			assert_int_equal(s->job[i].state, SIM_ENDED);
		sim_free(s);
	}
}

/* ---- reroutes ---- */

static const char routes[] =
    "virtual-mtas = ( { name = \"a\"; domains = ( { name = \"*\"; reroute-to-virtual-mta = \"b\"; "
    "max-smtp-out = 7; } ); },\n"
    "  { name = \"b\"; domains = ( { name = \"*\"; reroute-to-virtual-mta = \"c\"; } ); },\n"
    "  { name = \"c\"; domains = ( { name = \"*\"; max-smtp-out = 2; } ); },\n"
    "  { name = \"l1\"; domains = ( { name = \"*\"; backoff-reroute-to-vmta = \"l2\"; } ); },\n"
    "  { name = \"l2\"; domains = ( { name = \"*\"; backoff-reroute-to-vmta = \"l1\"; } ); },\n"
    "  { name = \"back\"; domains = ( { name = \"*\"; backoff-reroute-to-virtual-mta = \"set\"; "
    "backoff-to-normal-after = \"1h\"; backoff-recovery = \"off\"; } ); } );\n"
    "virtual-mta-pools = ( { name = \"set\"; members = ( { virtual-mta = \"c\"; }, { virtual-mta = "
    "\"back\"; } ); } );\n"
    "domains = ( { name = \"*\"; retry-after = \"10m\"; retry-recipients-after = \"10m\"; } );\n";

static void chains(void **state)
{
	struct sim *s = world(routes);
	struct job_view v;
	size_t mx = sim_host(s, "mx.test", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	s->host[mx].defer = 100;
	s->queue_max = 2;
	for (int i = 0; i < 100; i++)
		mail_by(s, 0, "a");
	sim_run(s, s->now + 30 * SECOND);
	assert_int_equal(in_queue(s, "[mx.test]/c"), 100);
	assert_true(core_job(s->core, s->job[5].ref, &v));
	assert_true(str_eq(v.vmta, STR("c")) && str_eq(v.tenant, STR("acme")) &&
		    str_eq(v.campaign, STR("news")) && v.pool.n == 0);
	sim_restart(s);
	sim_run(s, s->now + 30 * SECOND);
	assert_int_equal(of_vmta(s, "c"), 100);
	assert_int_equal(errors, 0);
	sim_free(s);
}

/* In backoff its mail moves, waiting mail with its time; it stays there; loops are refused. */
static void backoff_reroutes(void **state)
{
	struct sim *s = world(routes);
	size_t mx = sim_host(s, "mx.test", HOST_OK);
	struct job_view v;
	uint16_t attempts;

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	s->host[mx].defer = 100;
	for (int i = 0; i < 100; i++)
		mail_by(s, 0, "back");
	sim_run(s, s->now + 30 * SECOND);
	assert_int_equal(of_vmta(s, "back"), 100);
	assert_true(core_job(s->core, s->job[0].ref, &v));
	attempts = v.attempts;
	assert_int_equal(
	    core_set_mode(s->core, STR("[mx.test]/back"), STR("backoff"), 0, STR("op"), s->now), 0);
	sim_run(s, s->now + 2 * SECOND);
	assert_int_equal(
	    in_queue(s, "[mx.test]/back"), 0); /* not itself, though it is of the pool */
	assert_int_equal(of_vmta(s, "c"), 100);
	assert_true(core_job(s->core, s->job[0].ref, &v));
	assert_true(str_eq(v.pool, STR("set")));
	assert_int_equal(v.attempts, attempts);
	assert_int_equal(v.due_ms, s->job[0].not_before_ms);
	mail_by(s, 0, "back"); /* new mail goes there directly */
	assert_int_equal(of_vmta(s, "c"), 101);
	sim_restart(s);
	mail_by(s, 0, "back");
	sim_run(s, s->now + SECOND);
	assert_int_equal(of_vmta(s, "c"), 102);
	assert_int_equal(reroutes, 1);
	sim_run(s, s->now + 2 * HOUR);
	mail_by(s, 0, "back"); /* it is over: new mail stays, old mail does, too */
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(of_vmta(s, "back"), 1);
	assert_int_equal(of_vmta(s, "c"), 102);
	assert_int_equal(errors, 0);
	sim_free(s);
}

static void loops_are_refused(void **state)
{
	struct sim *s = world(routes);
	size_t mx = sim_host(s, "mx.test", HOST_OK);

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	s->host[mx].defer = 100;
	mail_by(s, 0, "l2");
	for (int i = 0; i < 100; i++)
		mail_by(s, 0, "l1");
	sim_run(s, s->now + 30 * SECOND);
	assert_int_equal(in_queue(s, "[mx.test]/l1"), 100);
	assert_int_equal(
	    core_set_mode(s->core, STR("[mx.test]/l2"), STR("backoff"), 0, STR("op"), s->now), 0);
	sim_run(s, s->now + SECOND);
	assert_int_equal(in_queue(s, "[mx.test]/l1"), 101);
	assert_int_equal(errors, 0);
	assert_int_equal(
	    core_set_mode(s->core, STR("[mx.test]/l1"), STR("backoff"), 0, STR("op"), s->now), 0);
	for (int i = 0; i < 50; i++)
		mail_by(s, 0, "l1");
	sim_run(s, s->now + 30 * SECOND);
	assert_int_equal(in_queue(s, "[mx.test]/l1"), 151); /* left alone, and told of once */
	assert_int_equal(errors, 1);
	sim_free(s);
}

/* By command: what is there now, nothing that comes later; again and back without end. */
static void by_command(void **state)
{
	struct sim *s = world(routes);
	size_t mx = sim_host(s, "mx.test", HOST_REFUSES);

	(void)state;
	sim_mx(sim_domain(s, "a.test"), 10, mx);
	for (int i = 0; i < 5000; i++)
		mail_by(s, 0, "l1");
	sim_run(s, s->now + 30 * SECOND);
	assert_int_equal(
	    core_reroute(s->core, STR("[mx.test]/l1"), STR("nobody"), STR("op"), s->now), -ENOENT);
	assert_int_equal(
	    core_reroute(s->core, STR("[no.test]/l1"), STR("c"), STR("op"), s->now), -ENOENT);
	assert_int_equal(
	    core_reroute(s->core, STR("[mx.test]/l1"), STR("l1"), STR("op"), s->now), -EINVAL);
	assert_int_equal(
	    core_reroute(s->core, STR("[mx.test]/l1"), STR("c"), STR("op"), s->now), 0);
	s->now += 10;
	for (int i = 0; i < 10; i++)
		mail_by(s, 0, "l1");
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(in_queue(s, "[mx.test]/c"), 5000);
	assert_int_equal(in_queue(s, "[mx.test]/l1"), 10);
	sim_restart(s);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(of_vmta(s, "c"), 5000);
	/* two that send to each other: each job moves once a command at the most */
	assert_int_equal(
	    core_reroute(s->core, STR("[mx.test]/l1"), STR("c"), STR("op"), s->now), 0);
	assert_int_equal(
	    core_reroute(s->core, STR("[mx.test]/c"), STR("l1"), STR("op"), s->now), 0);
	sim_run(s, s->now + 5 * SECOND);
	assert_int_equal(in_queue(s, "[mx.test]/c") + in_queue(s, "[mx.test]/l1"), 5010);
	s->host[mx].mode = HOST_OK;
	sim_run(s, 0);
	sim_free(s);
}

/* ---- everything at once ---- */

/* Random mail through pools, chains, fixed routes, providers that move, sources that go and come,
 * restarts: every job ends, once, and where it may. */
static void at_random(void **state)
{
	struct sim *s = world(
	    "virtual-mtas = ( { name = \"a\"; sources = ( { address = \"192.0.2.1\"; } ); domains "
	    "= ( "
	    "{ name = \"*\"; backoff-reroute-to-virtual-mta = \"pool\"; backoff-to-normal-after = "
	    "\"5m\"; } ); },\n"
	    "  { name = \"b\"; sources = ( { address = \"192.0.2.2\"; } ); }, { name = \"c\"; "
	    "sources = "
	    "( { address = \"192.0.2.3\"; } ); domains = ( { name = \"d3.test\"; smtp-hosts = "
	    "\"fix.test\"; } ); } );\n"
	    "virtual-mta-pools = ( { name = \"pool\"; members = ( { virtual-mta = \"b\"; }, { "
	    "virtual-mta = \"c\"; weight = 2; } ); } );\n"
	    "providers = ( { name = \"p\"; mx = [ \"*.p.test\" ]; max-msg-rate = \"100/s\"; } );\n"
	    "domains = ( { name = \"*\"; retry-after = \"1m\"; retry-recipients-after = \"1m\"; "
	    "bounce-after = \"2d\"; }, { name = \"d5.test\"; queue-to = \"d6.test\"; } );\n");
	static const char *const vmtas[] = {"a", "b", "c", "pool"};
	size_t mx[6];
	int done = 0; /* not every queue is there each time */

	(void)state;
	print_message("seed 20261123\n");
	s->placed = s->moving = true;
	for (int i = 0; i < 6; i++) {
		char name[40];

		snprintf(name, sizeof(name), "mx%d.%s.test", i, i < 3 ? "p" : "q");
		mx[i] = sim_host(s, name, HOST_OK);
		s->host[mx[i]].defer = 20;
		s->host[mx[i]].bounce = 2;
		s->host[mx[i]].refuse = 10;
	}
	for (int i = 0; i < 10; i++) {
		char name[40];

		snprintf(name, sizeof(name), "d%d.test", i);
		sim_domain(s, name)->ttl_s = 60;
		sim_mx(&s->domain[i], 10, mx[i % 6]);
		sim_mx(&s->domain[i], 10, mx[(i + 1) % 6]);
	}
	fixed(s, "fix.test", mx[4]);
	for (int round = 0; round < 300; round++) {
		static const char *const addresses[] = {"192.0.2.1", "192.0.2.2", "192.0.2.3"};
		struct str address = str_of(addresses[sim_random(s) % 3]);

		for (int i = 0; i < 30; i++)
			mail_by(s, (uint32_t)(sim_random(s) % 10), vmtas[sim_random(s) % 4]);
		switch (sim_random(s) % 6) {
		case 0:
			assert_int_equal(core_disable_source(s->core, address, STR(""),
					     s->now + 5 * MINUTE, STR("op"), s->now),
			    0);
			break;
		case 1:
			s->domain[sim_random(s) % 10].host[0] = mx[sim_random(s) % 6];
			break;
		case 2:
			done += core_set_mode(s->core,
			    sim_chance(s, 50) ? STR("p/a") : STR("d6.test/a"), STR("backoff"), 0,
			    STR("op"), s->now);
			break;
		case 3:
			done += core_reroute(s->core, STR("p/a"),
			    sim_chance(s, 50) ? STR("pool") : STR("b"), STR("op"), s->now);
			break;
		case 4:
			if (sim_chance(s, 30))
				sim_restart(s);
			break;
		default:
			break;
		}
		sim_run(s, s->now + (int64_t)(sim_random(s) % (uint64_t)MINUTE));
	}
	sim_run(s, s->now + 3 * DAY);
	for (size_t i = 0; i < s->job_count; i++)
		if (s->job[i].state != SIM_ENDED)
			fail_msg("job %zu has not ended", i);
	print_message("%d refused\n", -done / ENOENT);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_nine_layers),
	    cmocka_unit_test(each_option_its_own),
	    cmocka_unit_test(smtp_hosts),
	    cmocka_unit_test(smart_host),
	    cmocka_unit_test(fixed_route_fails),
	    cmocka_unit_test(queue_to),
	    cmocka_unit_test(other_hosts_while_mail_waits),
	    cmocka_unit_test(other_hosts_while_mail_flows),
	    cmocka_unit_test(no_mx),
	    cmocka_unit_test(no_mx_but_a_fixed_route),
	    cmocka_unit_test(why_of_a_domain_that_was_routed),
	    cmocka_unit_test(why_of_a_rate_that_binds),
	    cmocka_unit_test(discard),
	    cmocka_unit_test(members_by_weight),
	    cmocka_unit_test(mail_is_drawn_anew),
	    cmocka_unit_test(chains),
	    cmocka_unit_test(backoff_reroutes),
	    cmocka_unit_test(loops_are_refused),
	    cmocka_unit_test(by_command),
	    cmocka_unit_test(at_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
