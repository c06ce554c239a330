/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "common/addr.h"

#define A64 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define L63 "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static const struct {
	const char *text, *printed; /* NULL: refused */
} mailboxes[] = {
    {"a@b.test", "a@b.test"}, {"A.B+c@B.TEST", "A.B+c@b.test"},
    {"!#$%&'*+-/=?^_`{|}~@b.test", "!#$%&'*+-/=?^_`{|}~@b.test"}, {"\"joe\"@b.test", "joe@b.test"},
    {"\"j\\oe\"@b.test", "joe@b.test"}, {"\"j oe\"@b.test", "\"j oe\"@b.test"},
    {"\"j\\\"o\\\\e\"@b.test", "\"j\\\"o\\\\e\"@b.test"},
    {"\"a@c>.test\"@b.test", "\"a@c>.test\"@b.test"}, {"\"\"@b.test", "\"\"@b.test"},
    {"\"a..b\"@b.test", "\"a..b\"@b.test"}, {"@x.test,@y.test:a@b.test", "a@b.test"},
    {"a%c@b.test", "a%c@b.test"}, {"a@[192.0.2.1]", "a@[192.0.2.1]"},
    {"a@[IPv6:2001:DB8::0:1]", "a@[IPv6:2001:db8::1]"}, {"a@localhost", "a@localhost"},
    {"a@x_y.b-c.test", "a@x_y.b-c.test"}, {"\xc3\xbc@b.test", "\xc3\xbc@b.test"},
    {"a@b\xc3\xbc"
     "cher.test",
	"a@xn--bcher-kva.test"},
    {"a@B\xc3\x9c"
     "cher.test",
	"a@xn--bcher-kva.test"},
    {A64 A64 A64 "@b.test", A64 A64 A64 "@b.test"}, /* VERP */
    {"a@" L63 ".test", "a@" L63 ".test"}, {"", NULL}, {"a", NULL}, {"@b.test", NULL}, {"a@", NULL},
    {"a@b.test.", NULL}, {"a@.test", NULL}, {"a@b..test", NULL}, {"a@-b.test", NULL},
    {"a@b-.test", NULL}, {"a@b.test-", NULL}, {"a@b c.test", NULL}, {"a@1.2.3.4", NULL},
    {"a@[1.2.3.4", NULL}, {"a@[1.2.3]", NULL}, {"a@[1.2.3.4]x", NULL}, {"a@[]", NULL},
    {"a@[IPv6:1.2.3.4]", NULL}, {"a@[tag:x]", NULL}, {"a@b@c.test", NULL}, {"a b@c.test", NULL},
    {".a@b.test", NULL}, {"a.@b.test", NULL}, {"a..b@b.test", NULL}, {"a<b@b.test", NULL},
    {"\"a@b.test", NULL}, {"\"a\\\"@b.test", NULL}, {"\"a\"b@b.test", NULL}, {"a\n@b.test", NULL},
    {"\"a\n\"@b.test", NULL}, {"a@b\n.test", NULL}, {"a\x7f@b.test", NULL}, {"a\xff@b.test", NULL},
    {"\xc2\x85@b.test", NULL},	   /* NEL, a control of its own */
    {"\xed\xa0\x80@b.test", NULL}, /* a surrogate */
    {"\xc0\xaf@b.test", NULL},	   /* overlong */
    {"a@b\xff.test", NULL}, {"@x.test a@b.test", NULL}, {"@x.test\n:a@b.test", NULL},
    {"a@" L63 "b.test", NULL}, {"a@" L63 "." L63 "." L63 "." L63 ".test", NULL},
    {A64 A64 A64 A64 "a@b.test", NULL},
    {A64 A64 A64 A64 "@" L63 ".test", NULL}, /* each part fits, the whole does not */
};

static void test_mailboxes(void **state)
{
	struct mailbox m;
	char printed[ADDRESS_MAX + 1];
	(void)state;
	for (size_t i = 0; i < COUNT_OF(mailboxes); i++) {
		int r = mailbox_parse(&m, str_of(mailboxes[i].text), false);
		if ((r == 0) != (mailboxes[i].printed != NULL))
			print_error("case %zu: '%s'\n", i, mailboxes[i].text);
		assert_int_equal(r, mailboxes[i].printed ? 0 : -EINVAL);
		if (r != 0)
			continue;
		mailbox_print(printed, &m);
		assert_string_equal(printed, mailboxes[i].printed);
		/* what is printed is parsed to the same */
		assert_int_equal(mailbox_parse(&m, str_of(printed), false), 0);
		mailbox_print(printed, &m);
		assert_string_equal(printed, mailboxes[i].printed);
	}
}

static void test_null_and_nul(void **state)
{
	struct mailbox m;
	char printed[ADDRESS_MAX + 1];
	(void)state;
	assert_int_equal(mailbox_parse(&m, STR(""), true), 0);
	mailbox_print(printed, &m);
	assert_string_equal(printed, "");
	assert_int_equal(mailbox_parse(&m, STR("a\0b@c.test"), false), -EINVAL);
	assert_int_equal(mailbox_parse(&m, STR("\"a\0b\"@c.test"), false), -EINVAL);
	assert_int_equal(mailbox_parse(&m, STR("a@c.test\0x"), false), -EINVAL);
	assert_int_equal(mailbox_parse(&m, STR("a@\xc3\xbc\0.test"), false), -EINVAL);
	assert_int_equal(mailbox_parse(&m, STR("\xc3\xbc@c.test"), false), 0);
	assert_true(m.utf8);
	assert_int_equal(mailbox_parse(&m, STR("a@\xc3\xbc.test"), false), 0);
	assert_false(m.utf8);
}

static void test_helo(void **state)
{
	static const char *const good[] = {
	    "a", "a.b.test", "a_b", "[127.0.0.1]", "[IPv6:::1]", "1.2.3.4", "a."};
	static const char *const bad[] = {
	    "", "a b", "a\nb", "a\x80", "a(b", "a;b", "a<b", "a\"", "a\\b"};
	char big[DOMAIN_MAX + 2];
	(void)state;
	for (size_t i = 0; i < COUNT_OF(good); i++)
		assert_true(helo_valid(str_of(good[i])));
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_false(helo_valid(str_of(bad[i])));
	assert_false(helo_valid(STR("a\0b")));
	memset(big, 'a', sizeof(big));
	assert_true(helo_valid((struct str){big, DOMAIN_MAX}));
	assert_false(helo_valid((struct str){big, DOMAIN_MAX + 1}));
}

static void test_domains(void **state)
{
	char out[DOMAIN_MAX + 1];
	(void)state;
	assert_int_equal(domain_normalise(out, STR("Ex.TEST.")), 0);
	assert_string_equal(out, "ex.test");
	assert_int_equal(domain_normalise(out, STR("b\xc3\xbc"
						   "cher.example")),
	    0);
	assert_string_equal(out, "xn--bcher-kva.example");
	assert_int_equal(domain_normalise(out, STR(".")), -EINVAL);
	assert_int_equal(domain_normalise(out, STR("a..")), -EINVAL);
	assert_int_equal(domain_normalise(out, STR("a.b\0")), -EINVAL);
	assert_int_equal(domain_normalise(out, STR("*.b")), -EINVAL);
}

static void test_xtext(void **state)
{
	static const struct {
		const char *text;
		int r;
		const char *out;
	} cases[] = {
	    {"", 0, ""},
	    {"abc", 0, "abc"},
	    {"a+2Bb+3D", 0, "a+b="},
	    {"+20", 0, " "},
	    {"a=b", -EINVAL, ""},
	    {"a b", -EINVAL, ""},
	    {"+", -EINVAL, ""},
	    {"+2", -EINVAL, ""},
	    {"+2b", -EINVAL, ""},
	    {"+00", -EINVAL, ""},
	    {"+0A", -EINVAL, ""},
	    {"+0D", -EINVAL, ""},
	    {"+1B", -EINVAL, ""},
	    {"+7F", -EINVAL, ""},
	    {"+80", -EINVAL, ""},
	    {"\x80", -EINVAL, ""},
	    {"\n", -EINVAL, ""},
	    {"1234567", 0, "1234567"},
	    {"12345678", -E2BIG, ""},
	};
	char out[8];
	struct buf b;
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		assert_int_equal(xtext_decode(out, sizeof(out), str_of(cases[i].text)), cases[i].r);
		if (cases[i].r == 0)
			assert_string_equal(out, cases[i].out);
	}
	buf_init(&b, 1000);
	xtext_encode(&b, STR("a+b= \n\xff"));
	assert_int_equal(b.n, 17);
	assert_memory_equal(b.p, "a+2Bb+3D+20+0A+FF", 17);
	buf_fini(&b);
}

static bool has(const char *network, const char *address)
{
	struct network n;
	uint8_t bytes[16] = {[10] = 0xff, [11] = 0xff};
	assert_int_equal(network_parse(&n, str_of(network)), 0);
	if (inet_pton(AF_INET, address, bytes + 12) != 1)
		assert_int_equal(inet_pton(AF_INET6, address, bytes), 1);
	return network_has(&n, bytes);
}

static void test_networks(void **state)
{
	static const char *const bad[] = {"", "/", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129",
	    "a", "10.0.0.0/-1", "10.0.0.0/8/8", "1.2.3.4 "};
	struct network n;
	(void)state;
	assert_true(has("10.0.0.0/8", "10.255.0.1"));
	assert_false(has("10.0.0.0/8", "11.0.0.1"));
	assert_true(has("10.1.2.3/8", "10.9.9.9"));
	assert_true(has("127.0.0.1", "127.0.0.1"));
	assert_false(has("127.0.0.1", "127.0.0.2"));
	assert_true(has("0.0.0.0/0", "1.2.3.4"));
	assert_false(has("0.0.0.0/0", "::1"));
	assert_true(has("192.0.2.128/25", "192.0.2.200"));
	assert_false(has("192.0.2.128/25", "192.0.2.127"));
	assert_true(has("2001:db8::/33", "2001:db8:7fff::1"));
	assert_false(has("2001:db8::/33", "2001:db8:8000::1"));
	assert_true(has("::1", "::1"));
	assert_true(has("::/0", "10.0.0.1"));
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(network_parse(&n, str_of(bad[i])), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mailboxes),
	    cmocka_unit_test(test_null_and_nul),
	    cmocka_unit_test(test_helo),
	    cmocka_unit_test(test_domains),
	    cmocka_unit_test(test_xtext),
	    cmocka_unit_test(test_networks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
