/* SPDX-License-Identifier: ISC */
/* From candidates to a route: order, self, literals, addresses that are no place to deliver to. */
#include "resolver/mx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct mx_rules rules = {.host_name = "us.example", .port = 25};

static struct mx_host host(uint16_t preference, const char *name, const char *addresses)
{
	struct mx_host h = {.preference = preference};
	struct str rest = str_of(addresses);
	str_copy(h.name, sizeof(h.name), str_of(name));
	h.temporary = str_eq(rest, STR("slow"));
	h.absent = str_eq(rest, STR("absent"));
	while (rest.n > 0 && !h.temporary && !h.absent) {
		struct str one = str_cut(&rest, ' ');
		assert_int_equal(route_address_parse(&h.address[h.address_count++], one), 0);
	}
	return h;
}

/* "10 a.example 192.0.2.1 …;20 …" of the route, for comparison. */
static void describe(const struct mx_route *r, char out[4096])
{
	size_t used = 0;
	out[0] = '\0';
	for (size_t i = 0; i < r->host_count; i++) {
		used += (size_t)snprintf(out + used, 4096 - used, "%s%u %s", i ? ";" : "",
		    r->hosts[i].preference, r->hosts[i].name);
		for (unsigned a = 0; a < r->hosts[i].address_count; a++) {
			char text[64];
			route_address_print(text, &r->hosts[i].address[a]);
			used += (size_t)snprintf(out + used, 4096 - used, " %s", text);
		}
	}
}

enum { MANY = 6 };
struct route_case {
	const char *what;
	bool implicit, refuse_private;
	struct {
		uint16_t preference;
		const char *name, *addresses; /* or "slow", "absent": no answer, no such host */
	} hosts[MANY];
	enum route_class class;
	const char *want;
};
static const struct route_case cases[] = {
    {"by preference, then name", false, false,
	{{20, "b.example", "8.8.8.2"}, {10, "z.example", "8.8.8.3"}, {10, "a.example", "8.8.8.1"}},
	ROUTE_OK, "10 a.example 8.8.8.1;10 z.example 8.8.8.3;20 b.example 8.8.8.2"},
    {"hosts without addresses are left out", false, false,
	{{10, "a.example", ""}, {20, "b.example", "8.8.8.2"}}, ROUTE_OK, "20 b.example 8.8.8.2"},
    {"implicit", true, false, {{0, "d.example", "8.8.8.2 2001:4860::1"}}, ROUTE_OK,
	"0 d.example 8.8.8.2 2001:4860::1"},
    {"the same address twice", false, false, {{0, "d.example", "8.8.8.2 8.8.8.2"}}, ROUTE_OK,
	"0 d.example 8.8.8.2"},
    {"MX but no address: no way around it", false, false, {{10, "a.example", ""}}, ROUTE_NO_HOST,
	""},
    {"MX that does not exist", false, false, {{10, "a.example", "absent"}}, ROUTE_NO_HOST, ""},
    {"implicit without address", true, false, {{0, "d.example", ""}}, ROUTE_NO_HOST, ""},
    {"implicit that does not exist", true, false, {{0, "d.example", "absent"}}, ROUTE_NO_DOMAIN,
	""},
    {"some time out, the others are used", false, false,
	{{10, "a.example", "slow"}, {20, "b.example", "8.8.8.2"}}, ROUTE_OK,
	"20 b.example 8.8.8.2"},
    {"all time out", false, false, {{10, "a.example", "slow"}, {20, "b.example", ""}},
	ROUTE_TEMPORARY, ""},
    {"a target that is an address", false, false,
	{{10, "192.0.2.1", "8.8.8.8"}, {20, "b.example", "8.8.8.2"}}, ROUTE_OK,
	"20 b.example 8.8.8.2"},
    {"only targets that are addresses", false, false, {{10, "192.0.2.1", "8.8.8.8"}}, ROUTE_NO_HOST,
	""},
    {"ourselves best", false, false, {{10, "us.example", "8.8.8.9"}, {20, "b.example", "8.8.8.2"}},
	ROUTE_SELF, ""},
    {"ourselves and worse dropped", false, false,
	{{10, "a.example", "8.8.8.1"}, {20, "us.example", ""}, {20, "b.example", "8.8.8.2"},
	    {30, "c.example", "8.8.8.3"}},
	ROUTE_OK, "10 a.example 8.8.8.1"},
    {"ourselves by a listener", false, false,
	{{10, "alias.example", "8.8.4.4"}, {20, "b.example", "8.8.8.2"}}, ROUTE_SELF, ""},
    {"ourselves by any address of ours", false, false, {{10, "alias.example", "8.8.4.5"}},
	ROUTE_SELF, ""},
    {"loopback is ours on that port", false, false, {{10, "alias.example", "127.9.9.9"}},
	ROUTE_SELF, ""},
    {"ourselves, but a better one may come back", false, false,
	{{5, "a.example", "slow"}, {10, "us.example", "8.8.8.9"}}, ROUTE_TEMPORARY, ""},
    {"unspecified and multicast addresses", false, false,
	{{10, "a.example", "0.0.0.0 0.1.2.3 224.0.0.1 255.255.255.255 :: ff02::1"}}, ROUTE_NO_HOST,
	""},
    {"private addresses where allowed", false, false, {{10, "a.example", "10.1.2.3 fd00::1"}},
	ROUTE_OK, "10 a.example 10.1.2.3 fd00::1"},
    {"private addresses where refused", false, true,
	{{10, "a.example",
	    "10.1.2.3 172.16.0.1 172.31.0.1 192.168.1.1 169.254.1.1 100.64.0.1 ::1 fd00::1 fe80::1 "
	    "2001:db8::1"}},
	ROUTE_NO_HOST, ""},
    {"one public among private", false, true, {{10, "a.example", "10.1.2.3 8.8.8.1 172.32.0.1"}},
	ROUTE_OK, "10 a.example 8.8.8.1 172.32.0.1"},
};

static void routes(void **state)
{
	struct mx_endpoint listeners[2] = {{.port = 25}, {.port = 25}};
	struct route_address local;
	(void)state;
	assert_int_equal(route_address_parse(&listeners[0].address, STR("8.8.4.4")), 0);
	assert_int_equal(route_address_parse(&local, STR("8.8.4.5")), 0);
	rules.listeners = listeners;
	rules.listener_count = 2;
	rules.local = &local;
	rules.local_count = 1;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		const struct route_case *c = &cases[i];
		struct mx_host hosts[MANY];
		struct mx_route route;
		char got[4096];
		size_t n = 0;
		for (; n < MANY && c->hosts[n].name != NULL; n++) {
			hosts[n] =
			    host(c->hosts[n].preference, c->hosts[n].name, c->hosts[n].addresses);
		}
		rules.refuse_private = c->refuse_private;
		mx_route(&route, &rules, "d.example", c->implicit, hosts, n);
		describe(&route, got);
		if (route.class != c->class || strcmp(got, c->want) != 0)
			fail_msg("%s: class %d, '%s' (%s)", c->what, route.class, got, route.text);
		if (route.class != ROUTE_OK)
			assert_true(route.text[0] != '\0');
		mx_route_fini(&route);
	}
	rules = (struct mx_rules){.host_name = "us.example", .port = 25};
}

static void another_port_is_not_ourselves(void **state)
{
	struct mx_endpoint listener = {.port = 2525};
	struct mx_host h = host(10, "mx.example", "127.0.0.1");
	struct mx_route route;
	(void)state;
	rules.listeners = &listener;
	rules.listener_count = 1;
	mx_route(&route, &rules, "d.example", false, &h, 1);
	assert_int_equal(route.class, ROUTE_OK);
	mx_route_fini(&route);
	rules.listener_count = 0;
}

static void literals(void **state)
{
	static const struct {
		const char *text;
		int is_literal;
		enum route_class class;
		const char *address;
	} table[] = {
	    {"[8.8.8.8]", 1, ROUTE_OK, "8.8.8.8"},
	    {"[IPv6:2001:4860::1]", 1, ROUTE_OK, "2001:4860::1"},
	    {"[ipv6:2001:4860::1]", 1, ROUTE_OK, "2001:4860::1"},
	    {"[2001:4860::1]", 1, ROUTE_BAD_NAME, ""},
	    {"[IPv6:8.8.8.8]", 1, ROUTE_BAD_NAME, ""},
	    {"[8.8.8.256]", 1, ROUTE_BAD_NAME, ""},
	    {"[]", 1, ROUTE_BAD_NAME, ""},
	    {"[0.0.0.0]", 1, ROUTE_NO_HOST, ""},
	    {"d.example", 0, ROUTE_OK, ""},
	    {"[", 0, ROUTE_OK, ""},
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(table); i++) {
		struct mx_route route = {0};
		char got[64] = "";
		int rc = mx_literal(&route, &rules, str_of(table[i].text));
		if (route.host_count == 1)
			route_address_print(got, &route.hosts[0].address[0]);
		if (rc != table[i].is_literal || (rc && route.class != table[i].class) ||
		    strcmp(got, table[i].address) != 0)
			fail_msg("%s: %d, class %d, '%s'", table[i].text, rc, route.class, got);
		mx_route_fini(&route);
	}
}

static void more_hosts_than_a_route_holds(void **state)
{
	enum { N = 300 };
	struct mx_host *hosts = calloc(N, sizeof(*hosts));
	struct mx_route route;
	(void)state;
	for (int i = 0; i < N; i++) {
		char name[32];
		snprintf(name, sizeof(name), "h%d.example", i);
		hosts[i] = host((uint16_t)i, name, "8.8.8.8");
	}
	mx_route(&route, &rules, "d.example", false, hosts, N);
	assert_int_equal(route.host_count, ROUTE_HOSTS_MAX);
	mx_route_fini(&route);
	free(hosts);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(routes),
	    cmocka_unit_test(another_port_is_not_ourselves),
	    cmocka_unit_test(literals),
	    cmocka_unit_test(more_hosts_than_a_route_holds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
