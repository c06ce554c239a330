/* SPDX-License-Identifier: ISC */
/* The text of smtp-hosts. */
#include "common/hosts.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void texts(void **state)
{
	static const struct {
		const char *spec, *want; /* "LEVEL KIND NAME PORT; …", or what is wrong with it */
	} cases[] = {
	    {"mx.example", "0 name mx.example 0"},
	    {" MX.Example.:26 ", "0 name mx.example 26"},
	    {"[192.0.2.1]", "0 address [192.0.2.1] 0"},
	    {"[192.0.2.1]:2525", "0 address [192.0.2.1] 2525"},
	    {"[ipv6:2001:DB8:0::1]:25", "0 address [IPv6:2001:db8::1] 25"},
	    {"lookup-mx:Example.COM", "0 mx example.com 0"},
	    {"LOOKUP-MX:example.com:65535", "0 mx example.com 65535"},
	    {"a.example,b.example ; lookup-mx:c.example,[192.0.2.1]",
		"0 name a.example 0; 0 name b.example 0; 1 mx c.example 0; 1 address [192.0.2.1] "
		"0"},
	    {"", "\"\": a host is missing beside a comma or semicolon"},
	    {"a.example;", "\"\": a host is missing beside a comma or semicolon"},
	    {";a.example", "\"\": a host is missing beside a comma or semicolon"},
	    {"a.example,,b.example", "\"\": a host is missing beside a comma or semicolon"},
	    {"a.example,", "\"a.example\": a host is missing beside a comma or semicolon"},
	    {"192.0.2.1", "\"192.0.2.1\": write an address in brackets: [192.0.2.1]"},
	    {"192.0.2.1:25", "\"192.0.2.1:25\": write an address in brackets: [192.0.2.1]:25"},
	    {"2001:db8::1", "\"2001:db8::1\": write an address in brackets: [192.0.2.1]"},
	    {"[2001:db8::1]",
		"\"[2001:db8::1]\": is not [192.0.2.1] or [IPv6:2001:db8::1], perhaps with :port"},
	    {"[192.0.2.1",
		"\"[192.0.2.1\": is not [192.0.2.1] or [IPv6:2001:db8::1], perhaps with :port"},
	    {"[192.0.2.1]25", "\"[192.0.2.1]25\": only :port may stand behind the bracket"},
	    {"[192.0.2.1]:", "\"[192.0.2.1]:\": only :port may stand behind the bracket"},
	    {"a.example:", "\"a.example:\": a port is missing behind the colon"},
	    {"a.example:0", "\"a.example:0\": the port is not a number from 1 to 65535"},
	    {"a.example:65536", "\"a.example:65536\": the port is not a number from 1 to 65535"},
	    {"a.example:2 5", "\"a.example:2 5\": the port is not a number from 1 to 65535"},
	    {"lookup-mx:", "\"lookup-mx:\": is not a host name"},
	    {"lookup-mx:[192.0.2.1]", "\"lookup-mx:[192.0.2.1]\": is not a host name"},
	    {"a b", "\"a b\": is not a host name"},
	};
	static const char *const kinds[] = {"name", "address", "mx"};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct hosts_entry e[HOSTS_MAX];
		char why[200], got[1000] = "";
		size_t n, used = 0;
		if (hosts_parse(str_of(cases[i].spec), e, &n, why) != 0)
			snprintf(got, sizeof got, "%s", why);
		else
			for (size_t k = 0; k < n; k++)
				used += (size_t)snprintf(got + used, sizeof got - used,
				    "%s%u %s %s %u", k > 0 ? "; " : "", e[k].level,
				    kinds[e[k].kind], e[k].name, e[k].port);
		assert_string_equal(got, cases[i].want);
	}
}

static void too_many(void **state)
{
	struct hosts_entry e[HOSTS_MAX];
	char text[1024] = "", why[200];
	size_t n;
	(void)state;
	for (int i = 0; i < HOSTS_MAX; i++)
		strcat(text, i == 0 ? "[192.0.2.1]" : ";[192.0.2.1]");
	assert_int_equal(hosts_parse(str_of(text), e, &n, why), 0);
	assert_int_equal(n, HOSTS_MAX);
	assert_int_equal(e[n - 1].level, HOSTS_MAX - 1);
	strcat(text, ",a.example");
	assert_int_not_equal(hosts_parse(str_of(text), e, &n, why), 0);
	assert_string_equal(why, "\"a.example\": more than 50 hosts");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(texts), cmocka_unit_test(too_many)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
