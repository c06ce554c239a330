/* SPDX-License-Identifier: ISC */
/* Fixed routes against a small world of names. */
#include "resolver/fixed.h"
#include <stdio.h>

#include "tests/unit/resolver/world.h"

static const struct world_fact facts[] = {
    {"a.example", RR_A, "8.8.8.1"},
    {"a.example", RR_MX, "10 elsewhere.example"},
    {"b.example", RR_A, "8.8.8.2"},
    {"b.example", RR_AAAA, "2001:db8::2"},
    {"private.example", RR_A, "10.0.0.1"},
    {"dom.example", RR_MX, "10 m1.example,20 m2.example,20 m3.example"},
    {"m1.example", RR_A, "8.8.8.11"},
    {"m2.example", RR_A, "8.8.8.12"},
    {"m3.example", RR_A, "8.8.8.13"},
    {"nomx.example", RR_A, "8.8.8.20"},
    {"null.example", RR_MX, "0 "},
    {"broken.example", RR_A, "fail"},
    {"inside.example", RR_MX, "10 private.example"},
    {NULL, 0, NULL},
};
static struct mx_endpoint listeners[] = {{{4, {127, 0, 0, 1}}, 2525}};
static const struct mx_rules rules = {.host_name = "o.example",
    .port = 25,
    .refuse_private = true,
    .listeners = listeners,
    .listener_count = 1};
static char told[2000];
static unsigned told_count;

static void on_route(void *arg, const struct mx_route *route)
{
	size_t n = 0;
	(void)arg;
	told_count++;
	assert_false(route->implicit);
	if (route->class != ROUTE_OK) {
		snprintf(told, sizeof told, "%s: %s", route_class_name(route->class), route->text);
		return;
	}
	told[0] = 0;
	for (size_t i = 0; i < route->host_count; i++) {
		char address[64];
		const struct route_host *h = &route->hosts[i];
		assert_true(h->address_count > 0);
		route_address_print(address, &h->address[0]);
		n += (size_t)snprintf(told + n, sizeof told - n, "%s%u %s %s:%u", i > 0 ? "; " : "",
		    h->preference, h->name, address, h->port);
	}
}

static void each_text(void **state)
{
	static const struct {
		const char *spec, *want;
	} cases[] = {
	    {"a.example", "0 a.example 8.8.8.1:0"},
	    {"A.Example:2526", "0 a.example 8.8.8.1:2526"},
	    {"[192.0.2.7]", "0 [192.0.2.7] 192.0.2.7:0"},
	    {"[IPv6:2001:DB8::7]:26", "0 [IPv6:2001:db8::7] 2001:db8::7:26"},
	    {"b.example, a.example; [192.0.2.7]:27",
		"0 a.example 8.8.8.1:0; 0 b.example 8.8.8.2:0; 100 [192.0.2.7] "
		"192.0.2.7:27"},
	    {"lookup-mx:dom.example",
		"0 m1.example 8.8.8.11:0; 1 m2.example 8.8.8.12:0; 1 m3.example "
		"8.8.8.13:0"},
	    {"a.example;lookup-mx:dom.example:26,b.example",
		"0 a.example 8.8.8.1:0; 100 b.example 8.8.8.2:0; 100 m1.example "
		"8.8.8.11:26; 101 m2.example 8.8.8.12:26; 101 m3.example "
		"8.8.8.13:26"},
	    {"lookup-mx:nomx.example", "0 nomx.example 8.8.8.20:0"},
	    {"private.example", "0 private.example 10.0.0.1:0"}, /* whom the operator named */
	    {"lookup-mx:inside.example", "temporary: smtp-hosts: inside.example: its mail hosts "
					 "have only addresses that are not "
					 "delivered to"},
	    {"broken.example;a.example", "100 a.example 8.8.8.1:0"},
	    {"broken.example", "temporary: smtp-hosts: broken.example: name servers fail for the "
			       "addresses of its mail hosts"},
	    {"missing.example",
		"temporary: smtp-hosts: missing.example: none of its mail hosts has an "
		"address"},
	    {"lookup-mx:null.example",
		"temporary: smtp-hosts: null.example: the domain accepts no mail (null MX)"},
	    {"[127.0.0.1]:2525",
		"temporary: smtp-hosts: the mail would come back to a listener of this host"},
	    {"[127.0.0.1]:2526", "0 [127.0.0.1] 127.0.0.1:2526"},
	    {"[0.0.0.0]", "temporary: smtp-hosts: [0.0.0.0] is not an address to deliver to"},
	    {"a b", "temporary: smtp-hosts: \"a b\": is not a host name"},
	};
	(void)state;
	world_open(facts);
	struct routes *routes = routes_new(world.loop, world.queries);
	struct fixed_routes *fixed = fixed_new(routes);
	routes_use(routes, &rules);
	fixed_use(fixed, &rules);
	for (int round = 0; round < 2; round++) { /* the second from the cache */
		for (size_t i = 0; i < COUNT_OF(cases); i++) {
			struct fixed_wait wait = {.fn = on_route};
			unsigned before = told_count;
			fixed_ask(fixed, str_of(cases[i].spec), &wait);
			while (told_count == before)
				loop_turn(world.loop);
			assert_string_equal(told, cases[i].want);
			assert_null(wait.run);
		}
		if (round == 0)
			world.asked = 0;
	}
	assert_int_equal(world.asked, 0);
	fixed_free(&fixed);
	routes_free(&routes);
	world_close();
}

/* Two who ask for the same text share its questions; one may leave. */
static void shared_and_cancelled(void **state)
{
	struct fixed_wait a = {.fn = on_route}, b = a, c = a;
	(void)state;
	world_open(facts);
	struct routes *routes = routes_new(world.loop, world.queries);
	struct fixed_routes *fixed = fixed_new(routes);
	told_count = 0;
	fixed_ask(fixed, STR("b.example"), &a);
	fixed_ask(fixed, STR("b.example"), &b);
	fixed_ask(fixed, STR("b.example"), &c);
	fixed_cancel(&b);
	fixed_cancel(&b);
	while (told_count < 2)
		loop_turn(world.loop);
	assert_int_equal(world.asked, 2); /* A and AAAA */
	fixed_ask(fixed, STR("a.example"), &a);
	fixed_free(&fixed); /* in the middle */
	assert_null(a.run);
	routes_free(&routes);
	world_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_text),
	    cmocka_unit_test(shared_and_cancelled),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
