/* SPDX-License-Identifier: ISC */
/* What the DNS says of our addresses, against a small world of names. */
#include "resolver/names.h"
#include "resolver/settings.h"
#include <stdio.h>

#include "tests/unit/resolver/world.h"

static const struct world_fact facts[] = {
    {"1.2.0.192.in-addr.arpa", RR_PTR, "o1.example"},
    {"o1.example", RR_A, "192.0.2.1"},
    {"1.2.0.192.bl.example", RR_A, "127.0.0.2,127.0.0.10"},
    {"1.2.0.192.odd.example", RR_A, "203.0.113.9"},
    {"1.2.0.192.full.example", RR_A, "127.255.255.254"},
    /* several names, the second leads back */
    {"2.2.0.192.in-addr.arpa", RR_PTR, "a.example,b.example"},
    {"a.example", RR_A, "192.0.2.9"},
    {"b.example", RR_A, "192.0.2.8,192.0.2.2"},
    /* RFC 2317 */
    {"3.2.0.192.in-addr.arpa", RR_CNAME, "3.0/29.2.0.192.in-addr.arpa"},
    {"3.0/29.2.0.192.in-addr.arpa", RR_PTR, "o3.example"},
    {"o3.example", RR_CNAME, "o3.real.example"},
    {"o3.real.example", RR_A, "192.0.2.3"},
    /* a name that leads elsewhere, a server that fails, a name that is none */
    {"4.2.0.192.in-addr.arpa", RR_PTR, "o1.example"},
    {"5.2.0.192.in-addr.arpa", RR_PTR, "fail"},
    {"6.2.0.192.in-addr.arpa", RR_PTR, "a b.example"},
    {"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", RR_PTR,
	"o6.example"},
    {"o6.example", RR_AAAA, "2001:db8::1"},
    {"o6.example", RR_A, "192.0.2.1"},
    {"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example", RR_A,
	"127.0.0.4"},
    {NULL, 0, NULL},
};
static char zones[][NAME_TEXT] = {"bl.example", "odd.example", "full.example"};
static const struct settings settings = {.zones = zones, .zone_count = 3};
static unsigned told_count;
static char told_text[2600];

static void on_told(void *arg, const struct names_told *told)
{
	assert_ptr_equal(arg, &told_count);
	assert_int_equal(told->ticket, 7);
	told_count++;
	snprintf(told_text, sizeof told_text, "%s %s%s [%.*s]", told->name,
	    told->confirmed ? "confirmed" : "unconfirmed", told->ehlo_matches ? " ehlo" : "",
	    STR_ARG(told->listed));
}

static void each_address(void **state)
{
	static const struct {
		const char *address, *ehlo, *want;
	} cases[] = {
	    {"192.0.2.1", "o1.example",
		"o1.example confirmed ehlo [bl.example 127.0.0.2 127.0.0.10]"},
	    {"192.0.2.2", "o1.example", "b.example confirmed []"},
	    {"192.0.2.3", "o3.example", "o3.example confirmed ehlo []"},
	    {"192.0.2.4", "nothing.example", "o1.example unconfirmed []"},
	    {"192.0.2.5", "", " unconfirmed []"},
	    {"192.0.2.6", "a b", " unconfirmed []"},
	    {"192.0.2.7", "o1.example", " unconfirmed []"},
	    {"2001:db8::1", "o6.example", "o6.example confirmed ehlo [bl.example 127.0.0.4]"},
	    {"nonsense", "o1.example", " unconfirmed []"},
	};
	(void)state;
	world_open(facts);
	struct names *names = names_new(world.queries);
	names_use(names, &settings);
	for (int round = 0; round < 2; round++) { /* the second from the cache */
		for (size_t i = 0; i < COUNT_OF(cases); i++) {
			const struct names_question q = {
			    7, str_of(cases[i].address), str_of(cases[i].ehlo)};
			unsigned before = told_count;
			assert_true(names_ask(names, &q, on_told, &told_count));
			while (told_count == before)
				loop_turn(world.loop);
			assert_int_equal(told_count, before + 1);
			assert_string_equal(told_text, cases[i].want);
		}
		if (round == 0)
			world.asked = 0;
	}
	assert_int_equal(world.asked, 0);
	names_free(&names);
	world_close();
}

/* More than are at work at once; then the one who asked is gone in the middle. */
static void many_and_dropped(void **state)
{
	(void)state;
	world_open(facts);
	struct names *names = names_new(world.queries);
	names_use(names, &settings);
	told_count = 0;
	for (unsigned i = 0; i < 200; i++) {
		char address[32];
		snprintf(address, sizeof address, "192.0.2.%u", i);
		const struct names_question q = {7, str_of(address), STR("o1.example")};
		assert_true(names_ask(names, &q, on_told, &told_count));
	}
	while (told_count < 200)
		loop_turn(world.loop);
	for (unsigned i = 0; i < 200; i++) {
		char address[32];
		snprintf(address, sizeof address, "192.0.3.%u", i);
		const struct names_question q = {7, str_of(address), STR("o1.example")};
		assert_true(names_ask(names, &q, on_told, &told_count));
	}
	names_drop(names);
	for (unsigned asked = 0; asked != world.asked; loop_turn(world.loop))
		asked = world.asked;
	assert_int_equal(told_count, 200);
	names_free(&names);
	world_close();
}

static void listings(void **state)
{
	static const struct {
		const char *address;
		enum names_listing want;
	} cases[] = {
	    {"127.0.0.2", LISTING_YES},
	    {"127.0.1.255", LISTING_YES},
	    {"127.1.0.1", LISTING_YES},
	    {"127.0.0.1", LISTING_NONE},
	    {"127.0.0.0", LISTING_NONE},
	    {"128.0.0.2", LISTING_NONE},
	    {"::1", LISTING_NONE},
	    {"127.255.255.0", LISTING_REFUSED},
	    {"127.255.255.255", LISTING_REFUSED},
	    {"127.255.254.255", LISTING_YES},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct route_address a;
		assert_int_equal(route_address_parse(&a, str_of(cases[i].address)), 0);
		assert_int_equal(names_listing(&a), cases[i].want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_address),
	    cmocka_unit_test(many_and_dropped),
	    cmocka_unit_test(listings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
