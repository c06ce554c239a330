/* SPDX-License-Identifier: ISC */
/* One domain's walk against a small world of names, its answers given in every order. */
#include "resolver/walk.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* The world: "NAME TYPE VALUE", VALUE: addresses or "PREF HOST,PREF HOST"; nodata, nxdomain, fail,
 * alias TARGET. What is not named does not exist. */
struct fact {
	const char *name;
	uint16_t type;
	const char *value;
	uint32_t ttl;
	bool insecure;
};

static void take_mx(struct answer *a, struct str text)
{
	a->mx = calloc(ANSWER_MX_MAX, sizeof(*a->mx));
	while (text.n > 0) {
		struct str one = str_cut(&text, ','), preference = str_cut(&one, ' ');
		unsigned long long value;
		assert_int_equal(str_number(preference, 65535, &value), 0);
		a->mx[a->count].preference = (uint16_t)value;
		a->mx[a->count++].name = str_dup(one);
	}
	a->null_mx = a->count == 1 && a->mx[0].name[0] == '\0';
}

static void take_addresses(struct answer *a, struct str text)
{
	a->address = calloc(ANSWER_ADDRESSES_MAX, sizeof(*a->address));
	while (text.n > 0)
		assert_int_equal(
		    route_address_parse(&a->address[a->count++], str_cut(&text, ' ')), 0);
}

static struct answer *ask(
    const struct fact *world, const char *name, uint16_t type, const struct fact **fact)
{
	struct answer *a;
	for (; world->name != NULL; world++) {
		if (strcmp(world->name, name) != 0 || (world->type != type && world->type != 0))
			continue;
		*fact = world;
		struct str value = str_of(world->value);
		if (str_eq(value, STR("nodata")))
			return answer_new(ANSWER_NODATA);
		if (str_eq(value, STR("nxdomain")))
			return answer_new(ANSWER_NXDOMAIN);
		if (str_eq(value, STR("fail")))
			return answer_new(ANSWER_FAILED);
		if (str_starts_nocase(value, STR("alias "))) {
			a = answer_new(ANSWER_ALIAS);
			a->alias = strdup(world->value + 6);
			a->aliases = 1;
			return a;
		}
		a = answer_new(ANSWER_OK);
		if (type == RR_MX)
			take_mx(a, value);
		else
			take_addresses(a, value);
		return a;
	}
	*fact = NULL;
	return answer_new(ANSWER_NXDOMAIN);
}

struct outcome {
	enum route_class class;
	uint32_t ttl;
	unsigned questions, at_once;
	bool secure;
	char text[4096];
};

static void describe(const struct mx_route *r, struct outcome *o)
{
	size_t used = 0;
	o->secure = r->host_count > 0;
	for (size_t i = 0; i < r->host_count; i++) {
		o->secure &= r->hosts[i].secure != 0;
		used += (size_t)snprintf(o->text + used, sizeof(o->text) - used, "%s%u %s",
		    i ? ";" : "", r->hosts[i].preference, r->hosts[i].name);
		for (unsigned a = 0; a < r->hosts[i].address_count; a++) {
			char text[64];
			route_address_print(text, &r->hosts[i].address[a]);
			used +=
			    (size_t)snprintf(o->text + used, sizeof(o->text) - used, " %s", text);
		}
	}
}

/* Runs the walk; open questions are answered in an order drawn from the seed. */
static void run(const struct fact *world, const char *domain, uint64_t seed, struct outcome *o)
{
	static const struct mx_rules rules = {.port = 25};
	struct walk_question open[WALK_PARALLEL];
	struct walk *w = walk_new(domain);
	struct mx_route route;
	unsigned n = 0;
	*o = (struct outcome){0};
	while (!walk_done(w)) {
		while (walk_next(w, &open[n])) {
			n++;
			o->questions++;
		}
		assert_true(n > 0 && o->questions < 1000);
		o->at_once = n > o->at_once ? n : o->at_once;
		seed = seed * 6364136223846793005U + 1442695040888963407U;
		unsigned pick = (unsigned)(seed >> 33) % n;
		struct walk_question q = open[pick];
		open[pick] = open[--n];
		const struct fact *fact;
		struct answer *a = ask(world, q.name, q.type, &fact);
		walk_answer(w, q.slot, a, fact != NULL && fact->ttl ? fact->ttl : 600,
		    fact != NULL && !fact->insecure);
		answer_unref(&a);
	}
	walk_route(w, &rules, &route);
	o->class = route.class;
	o->ttl = route.ttl_s;
	describe(&route, o);
	mx_route_fini(&route);
	walk_free(&w);
	assert_null(w);
}

static const struct fact world[] = {
    {"three.example", RR_MX, "10 a.example,20 b.example,20 c.example", 0, false},
    {"a.example", RR_A, "8.8.8.1 8.8.8.2", 300, false},
    {"a.example", RR_AAAA, "2001:4860::1", 0, false},
    {"b.example", RR_A, "8.8.8.3", 0, false},
    {"b.example", RR_AAAA, "nodata", 0, false},
    {"c.example", RR_A, "fail", 0, false},
    {"c.example", RR_AAAA, "nodata", 0, false},
    {"plain.example", RR_MX, "nodata", 120, false},
    {"plain.example", RR_A, "8.8.8.4", 0, false},
    {"plain.example", RR_AAAA, "nodata", 0, false},
    {"null.example", RR_MX, "0 ", 0, false},
    {"none.example", RR_MX, "nodata", 0, false},
    {"none.example", 0, "nodata", 0, false},
    {"fail.example", RR_MX, "fail", 0, false},
    {"fail.example", 0, "8.8.8.5", 0, false}, /* never asked for: no implicit MX after a failure */
    {"slow.example", RR_MX, "10 c.example", 0, false},
    {"gone.example", RR_MX, "10 nowhere.example", 0, false},
    {"part.example", RR_MX, "10 gone.example,20 c.example", 0, false},
    {"literal.example", RR_MX, "10 192.0.2.1,20 b.example", 0, false},
    {"empty.example", RR_MX, "", 0, false}, /* MX records, none of them usable */
    {"empty.example", 0, "8.8.8.5", 0, false},
    {"alias.example", RR_MX, "alias three.example", 0, false},
    {"away.example", RR_MX, "alias plain.example", 0, false},
    {"away.example", RR_A, "alias plain.example", 0, false},
    {"away.example", RR_AAAA, "alias plain.example", 0, false},
    {"ring.example", 0, "alias gnir.example", 0, false},
    {"gnir.example", 0, "alias ring.example", 0, false},
    {"mxring.example", RR_MX, "10 ring.example", 0, false},
    {"dangling.example", 0, "alias nothing.example", 0, false},
    {"unsigned.example", RR_MX, "10 a.example", 0, true},
    {"halfsigned.example", RR_MX, "10 u.example", 0, false},
    {"u.example", RR_A, "8.8.8.6", 0, true},
    {"u.example", RR_AAAA, "nodata", 0, false},
    {"six.example", RR_MX, "10 many.example", 0, false},
    {"many.example", RR_A,
	"8.8.1.1 8.8.1.2 8.8.1.3 8.8.1.4 8.8.1.5 8.8.1.6 8.8.1.7 8.8.1.8 8.8.1.9 "
	"8.8.1.10 8.8.1.11 8.8.1.12 8.8.1.13 8.8.1.14",
	0, false},
    {"many.example", RR_AAAA, "2001:4860::1 2001:4860::2", 0, false},
    {NULL, 0, NULL, 0, false},
};
static const struct {
	const char *domain;
	enum route_class class;
	uint32_t ttl; /* 0: not looked at */
	bool secure;
	const char *want;
} cases[] = {
    {"three.example", ROUTE_OK, 300, true,
	"10 a.example 8.8.8.1 8.8.8.2 2001:4860::1;20 b.example 8.8.8.3"},
    {"plain.example", ROUTE_OK, 120, true, "0 plain.example 8.8.8.4"},
    {"null.example", ROUTE_NULL_MX, 0, false, ""},
    {"none.example", ROUTE_NO_HOST, 0, false, ""},
    {"fail.example", ROUTE_TEMPORARY, 0, false, ""},
    {"slow.example", ROUTE_TEMPORARY, 0, false, ""},
    {"gone.example", ROUTE_NO_HOST, 0, false, ""},
    {"part.example", ROUTE_TEMPORARY, 0, false, ""},
    {"literal.example", ROUTE_OK, 0, true, "20 b.example 8.8.8.3"},
    {"empty.example", ROUTE_NO_HOST, 0, false, ""},
    {"nothing.example", ROUTE_NO_DOMAIN, 0, false, ""},
    {"alias.example", ROUTE_OK, 0, true,
	"10 a.example 8.8.8.1 8.8.8.2 2001:4860::1;20 b.example 8.8.8.3"},
    {"away.example", ROUTE_OK, 0, true, "0 away.example 8.8.8.4"},
    {"ring.example", ROUTE_TEMPORARY, 0, false, ""},
    {"mxring.example", ROUTE_TEMPORARY, 0, false, ""},
    {"dangling.example", ROUTE_NO_DOMAIN, 0, false, ""},
    {"unsigned.example", ROUTE_OK, 0, false, "10 a.example 8.8.8.1 8.8.8.2 2001:4860::1"},
    {"halfsigned.example", ROUTE_OK, 0, false, "10 u.example 8.8.8.6"},
    {"six.example", ROUTE_OK, 0, true,
	"10 many.example 8.8.1.1 8.8.1.2 8.8.1.3 8.8.1.4 8.8.1.5 8.8.1.6 8.8.1.7 8.8.1.8 8.8.1.9 "
	"8.8.1.10 8.8.1.11 8.8.1.12 2001:4860::1 2001:4860::2"},
};

static void classes_in_every_order(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		for (uint64_t seed = 0; seed < 50; seed++) {
			struct outcome o;
			run(world, cases[i].domain, seed, &o);
			if (o.class != cases[i].class || strcmp(o.text, cases[i].want) != 0 ||
			    (cases[i].ttl != 0 && o.ttl != cases[i].ttl) ||
			    (o.class == ROUTE_OK && o.secure != cases[i].secure))
				fail_msg("%s: class %d, ttl %u, secure %d, '%s'", cases[i].domain,
				    o.class, o.ttl, o.secure, o.text);
		}
	}
}

static void a_hundred_hosts_take_their_turn(void **state)
{
	static char mx[4000];
	struct fact many[] = {{"d.example", RR_MX, mx, 0, false}, {NULL, 0, NULL, 0, false}};
	struct outcome o;
	size_t used = 0;
	(void)state;
	for (int i = 0; i < ANSWER_MX_MAX; i++)
		used += (size_t)snprintf(
		    mx + used, sizeof(mx) - used, "%s%d h%d.example", i ? "," : "", i, i);
	run(many, "d.example", 1, &o);
	assert_int_equal(o.class, ROUTE_NO_HOST);
	assert_int_equal(o.questions, 1 + 2 * ANSWER_MX_MAX);
	assert_int_equal(o.at_once, WALK_PARALLEL);
}

static void the_deadline_uses_what_is_known(void **state)
{
	static const struct mx_rules rules = {.port = 25};
	struct walk_question q;
	struct mx_route route;
	(void)state;
	for (int known = 0; known <= 2; known++) {
		struct walk *w = walk_new("three.example");
		const struct fact *fact;
		if (known > 0) {
			assert_true(walk_next(w, &q));
			struct answer *a = ask(world, q.name, q.type, &fact);
			walk_answer(w, q.slot, a, 600, false);
			answer_unref(&a);
		}
		if (known > 1) { /* a's A */
			assert_true(walk_next(w, &q));
			struct answer *a = ask(world, q.name, q.type, &fact);
			walk_answer(w, q.slot, a, 600, false);
			answer_unref(&a);
		}
		assert_true(walk_next(w, &q));
		walk_give_up(w);
		assert_true(walk_done(w));
		assert_false(walk_next(w, &q));
		walk_route(w, &rules, &route);
		assert_int_equal(route.class, known == 2 ? ROUTE_OK : ROUTE_TEMPORARY);
		assert_int_equal(route.host_count, known == 2 ? 1 : 0);
		mx_route_fini(&route);
		walk_free(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(classes_in_every_order),
	    cmocka_unit_test(a_hundred_hosts_take_their_turn),
	    cmocka_unit_test(the_deadline_uses_what_is_known),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
