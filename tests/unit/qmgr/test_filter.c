/* SPDX-License-Identifier: ISC */
/* Which mail a command means: options, words, lanes, and the passes over the core. */
#include "qmgr/control.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

static struct qmgr q; /* no core: names stay as they are given */

/* options: "name=value" pairs; word NULL: none. */
static void make(struct filter *f, const char *word, const char *const *options)
{
	json_t *o = json_object(), *args = json_array();
	*f = (struct filter){0};
	for (size_t i = 0; options != NULL && options[i] != NULL; i++) {
		const char *equals = strchr(options[i], '=');
		char name[40];
		str_copy(
		    name, sizeof(name), (struct str){options[i], (size_t)(equals - options[i])});
		json_object_set_new(o, name, json_string(equals + 1));
	}
	if (word != NULL)
		json_array_append_new(args, json_string(word));
	assert_true(filter_args(f, &q, args, o, NULL));
	json_decref(o);
	json_decref(args);
}

static struct job_view view(
    const char *queue, const char *domain, const char *tenant, const char *campaign)
{
	return (struct job_view){.id = 7,
	    .arrived_ms = 1000,
	    .queue = str_of(queue),
	    .domain = str_of(domain),
	    .tenant = str_of(tenant),
	    .campaign = str_of(campaign)};
}

/* In how many passes it is chosen; each pass asks the core for what which says. */
static unsigned passes(struct filter *f, const struct job_view *v)
{
	unsigned n = 0;
	do
		n += filter_job(f, v);
	while (filter_next_pass(f));
	return n;
}

static void test_words(void **state)
{
	static const struct {
		const char *word;
		const char *options[4];
		bool chosen; /* of the job below */
	} cases[] = {
	    {"[mx.a.test]/main", {NULL}, true},
	    {"[MX.a.test]/*", {NULL}, true},
	    {"*/spare", {NULL}, false},
	    {"[mx.a.test]", {NULL}, true},
	    {"b.test", {NULL}, true},
	    {"a.test", {NULL}, false},
	    {"*.test", {NULL}, true},
	    {"[mx*", {NULL}, true},
	    {"[mx.a.test]/main/acme", {NULL}, true},
	    {"[mx.a.test]/main/acme/news", {NULL}, true},
	    {"[mx.a.test]/main/acme/", {NULL}, false}, /* the lane of no campaign */
	    {"[mx.a.test]/main/beta", {NULL}, false},
	    {"[mx.a.test]/main/acme", {"tenant=beta", NULL}, false}, /* never the wider one */
	    {"[mx.a.test]/main/acme", {"tenant=acme", NULL}, false},
	    {"0000000000000007", {NULL}, true},
	    {"0000000000000008", {NULL}, false},
	    {"ALL", {NULL}, true},
	    {"ALL", {"tenant=beta", NULL}, false},
	    {"b.test", {"all=true", NULL}, true},
	    {"a.test", {"all=true", NULL}, false}, /* --all widens nothing */
	    {NULL, {"tenant=acme", "campaign=n*", NULL}, true},
	    {NULL, {"tenant=", NULL}, false},
	    {NULL, {"queue=", NULL}, false},
	    {NULL, {"domain=B.TEST", "queue=*/main", NULL}, true},
	    {NULL, {"older-than=1s", NULL}, true},
	    {NULL, {NULL}, true},
	};
	struct job_view v = view("[mx.a.test]/main", "b.test", "acme", "news");
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct filter f;
		make(&f, cases[i].word, cases[i].options);
		unsigned n = passes(&f, &v);
		if (n != (cases[i].chosen ? 1 : 0))
			fail_msg(
			    "%s: %u times", cases[i].word ? cases[i].word : cases[i].options[0], n);
		filter_fini(&f);
	}
}

static void test_age(void **state)
{
	static const char *const options[] = {"older-than=1h", NULL};
	struct job_view v = view("a/b", "a", "", "");
	struct filter f;
	(void)state;
	make(&f, NULL, options);
	assert_false(filter_is_empty(&f));
	v.arrived_ms = clock_wall_ms() - 3601000;
	assert_true(filter_job(&f, &v));
	v.arrived_ms = clock_wall_ms() - 3590000;
	assert_false(filter_job(&f, &v));
	filter_fini(&f);
}

static void test_empty(void **state)
{
	static const char *const sender[] = {"sender=", NULL}, *const all[] = {"all=true", NULL};
	struct filter f;
	(void)state;
	make(&f, NULL, NULL);
	assert_true(filter_is_empty(&f) && !f.all);
	filter_fini(&f);
	make(&f, "ALL", NULL);
	assert_true(filter_is_empty(&f) && f.all);
	filter_fini(&f);
	make(&f, NULL, all);
	assert_true(filter_is_empty(&f) && f.all);
	filter_fini(&f);
	make(&f, NULL, sender); /* the null sender is a choice */
	assert_true(!filter_is_empty(&f) && filter_needs_envelope(&f));
	filter_fini(&f);
}

/* The core is never asked for less than what the filter means: what filter_job() takes in some pass
 * is inside of what filter_for_core() asked for in that pass. Over all words and jobs of a small
 * world, against a plain reading of the manual. */
static bool core_gives(const struct core_filter *w, const struct job_view *v)
{
	return (w->queue.n == 0 || core_glob(w->queue, v->queue)) &&
	       (w->tenant.n == 0 || str_eq(w->tenant, v->tenant)) &&
	       (w->campaign.n == 0 || str_eq(w->campaign, v->campaign)) &&
	       (w->domain.n == 0 || str_eq_nocase(w->domain, v->domain));
}

static bool means(const char *word, const char *tenant, const struct job_view *v)
{
	struct str w = str_of(word), destination = v->queue;
	destination.n = (size_t)((const char *)memrchr(v->queue.p, '/', v->queue.n) - v->queue.p);
	bool there = memchr(w.p, '/', w.n) != NULL
			 ? core_glob(w, v->queue)
			 : core_glob(w, destination) || core_glob(w, v->domain);
	bool pattern = tenant != NULL && strchr(tenant, '*') != NULL;
	return there && (tenant == NULL || (pattern ? core_glob(str_of(tenant), v->tenant)
						    : str_eq(str_of(tenant), v->tenant)));
}

static void test_core_is_asked_for_all_of_it(void **state)
{
	static const char *const queues[] = {"a.test/m", "b.test/m", "prov/m", "prov/n", "[mx]/m"};
	static const char *const domains[] = {"a.test", "b.test", "prov", "c.test"};
	static const char *const tenants[] = {"", "t", "u"};
	static const char *const words[] = {
	    "a.test", "prov", "[mx]", "c.test", "prov/m", "*/m", "*", "p*", "prov/*", "none"};
	static const char *const wanted[] = {NULL, "", "t", "*", "U"};
	unsigned chosen = 0;
	(void)state;
	for (size_t i = 0; i < COUNT_OF(words) * COUNT_OF(wanted); i++) {
		const char *word = words[i / COUNT_OF(wanted)],
			   *tenant = wanted[i % COUNT_OF(wanted)];
		char option[20];
		snprintf(option, sizeof(option), "tenant=%s", tenant != NULL ? tenant : "");
		const char *const options[] = {tenant != NULL ? option : NULL, NULL};
		for (size_t k = 0; k < COUNT_OF(queues) * COUNT_OF(domains) * COUNT_OF(tenants);
		     k++) {
			struct job_view v = view(queues[k % COUNT_OF(queues)],
			    domains[k / COUNT_OF(queues) % COUNT_OF(domains)],
			    tenants[k / COUNT_OF(queues) / COUNT_OF(domains)], "");
			struct filter f;
			struct core_filter which;
			unsigned n = 0;
			make(&f, word, options);
			do {
				filter_for_core(&f, &which);
				n += core_gives(&which, &v) && filter_job(&f, &v);
			} while (filter_next_pass(&f));
			assert_int_equal(n, means(word, tenant, &v) ? 1 : 0);
			chosen += n;
			filter_fini(&f);
		}
	}
	assert_true(chosen > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_words),
	    cmocka_unit_test(test_age),
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_core_is_asked_for_all_of_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
