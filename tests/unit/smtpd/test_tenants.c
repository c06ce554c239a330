/* SPDX-License-Identifier: ISC */
/* Whose mail a message is, and what is wrong with its header. */
#include "common/conf_impl.h"
#include "smtpd/policy.h"
#include "smtpd/tenants.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static struct conf *parse(const char *text)
{
	char path[] = "/tmp/postern-tenants-XXXXXX";
	struct buf errors;
	struct conf *c;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	buf_init(&errors, 65536);
	c = conf_load_anyway(path, &errors);
	unlink(path);
	buf_fini(&errors);
	return c;
}

static const char *conf_text_of_tenants =
    "virtual-mtas = ( { name = \"a\"; }, { name = \"b\"; } );\n"
    "tenants = (\n"
    " { name = \"zeta\"; sender-domains = [ \"zeta.example\", \"Zeta.Test\" ]; },\n"
    " { name = \"acme\"; virtual-mta = \"a\"; virtual-mtas = [ \"a\" ];\n"
    "   match = { header = \"X-Customer\"; value = \"Acme Inc\"; };\n"
    "   check-from = \"refuse\"; check-headers = \"tag\"; sender-domains = [ \"acme.example\" ]; "
    "},\n"
    " { name = \"beta\"; match = { header = \"x-customer\"; value = \"beta\"; };\n"
    "   clients = [ \"192.0.2.0/24\" ]; } );\n";

static const char *name_of(const struct tenant *t)
{
	return t ? t->name : "nobody";
}

static const char *chosen(const struct tenants *t, struct tenant_evidence e)
{
	const struct tenant *tenant = NULL;

	if (tenants_choose(t, &e, &tenant) != ANSWER_NONE)
		return "refused";
	return name_of(tenant);
}

static void test_choice(void **state)
{
	struct tenants *t = tenants_new(parse(conf_text_of_tenants), 1, 0);
	const struct tenant *acme = tenants_named(t, STR("acme")),
			    *beta = tenants_named(t, STR("beta"));
	struct str sender = STR("news@mail.zeta.example");

	(void)state;
	assert_string_equal(name_of(acme), "acme");
	assert_null(tenants_named(t, STR("acm")));
	assert_null(tenants_named(t, STR("acme2")));
	assert_string_equal(chosen(t, (struct tenant_evidence){.sender = sender}), "zeta");
	assert_string_equal(
	    chosen(t, (struct tenant_evidence){.sender = STR("x@ZETA.test")}), "zeta");
	assert_string_equal(
	    chosen(t, (struct tenant_evidence){.sender = STR("x@notzeta.example")}), "nobody");
	assert_string_equal(chosen(t, (struct tenant_evidence){.sender = STR("")}), "nobody");
	assert_string_equal(
	    chosen(t, (struct tenant_evidence){.sender = sender, .client = beta}), "beta");
	assert_string_equal(
	    chosen(t, (struct tenant_evidence){.sender = sender, .client = beta, .listener = acme}),
	    "acme");
	assert_string_equal(
	    chosen(t, (struct tenant_evidence){.sender = sender, .match = beta, .listener = acme}),
	    "beta");
	assert_string_equal(chosen(t,
				(struct tenant_evidence){
				    .has_x_tenant = true, .x_tenant = STR("zeta"), .match = beta}),
	    "zeta");
	assert_string_equal(chosen(t, (struct tenant_evidence){.has_x_tenant = true,
					  .x_tenant = STR("nobody"),
					  .match = beta}),
	    "beta");
	tenants_free(&t);
}

static void test_unknown_and_default(void **state)
{
	struct tenants *t =
	    tenants_new(parse("unknown-tenant = \"refuse\"; default-tenant = \"d\";\n"
			      "tenants = ( { name = \"d\"; } );\n"),
		1, 0);

	(void)state;
	assert_string_equal(chosen(t, (struct tenant_evidence){.sender = STR("")}), "d");
	assert_string_equal(
	    chosen(t, (struct tenant_evidence){.has_x_tenant = true, .x_tenant = STR("x")}),
	    "refused");
	tenants_free(&t);
}

static void test_headers_and_clients(void **state)
{
	struct tenants *t = tenants_new(parse(conf_text_of_tenants), 1, 0);
	int h = tenants_header(t, STR("X-CUSTOMER"));
	uint8_t in[16] = {[10] = 0xff, 0xff, 192, 0, 2, 7},
		out[16] = {[10] = 0xff, 0xff, 192, 0, 3, 7};

	(void)state;
	assert_int_equal(h, 0);
	assert_int_equal(tenants_header(t, STR("X-Custome")), -1);
	assert_string_equal(name_of(tenants_match(t, h, STR("acme inc"))), "acme");
	assert_string_equal(name_of(tenants_match(t, h, STR("BETA"))), "beta");
	assert_null(tenants_match(t, h, STR("acme")));
	assert_string_equal(name_of(tenants_client(t, in)), "beta");
	assert_null(tenants_client(t, out));
	tenants_free(&t);
}

static struct tenant_verdict judged(const char *from, uint8_t froms, uint8_t dates, uint8_t ids)
{
	struct tenants *t = tenants_new(parse(conf_text_of_tenants), 1, 0);
	struct header_facts f = {.from = str_of(from)};
	struct tenant_verdict v;

	f.count[SINGLETON_FROM] = froms;
	f.count[SINGLETON_DATE] = dates;
	f.count[SINGLETON_MESSAGE_ID] = ids;
	f.count[SINGLETON_SUBJECT] = 1;
	tenant_judge(tenants_named(t, STR("acme")), &f, &v);
	tenants_free(&t);
	return v;
}

static void test_judgement(void **state)
{
	static const struct {
		const char *from;
		bool good;
	} cases[] = {{"a@acme.example", true}, {"Acme <a@acme.example>", true},
	    {"<a@mail.ACME.example> (us)", true}, {"\"x@evil.test\" <a@acme.example>", true},
	    {"\"a@acme.example\" <a@evil.test>", false}, {"(a@acme.example) b@evil.test", false},
	    {"a@notacme.example", false}, {"a@acme.example.evil.test", false},
	    {"a@acme.example, b@acme.example", false}, {"<a@acme.example> <b@acme.example>", false},
	    {"acme.example", false}, {"", false}, {"\"unterminated <a@acme.example>", false},
	    {"\"a, b\" <a@acme.example>", true}, {"a@acme.example (a comment)", true},
	    {"<a@acme.example> b@evil.test", false}, {"<a@evil.test@acme.example>", false},
	    {"a@acme.example b@evil.test", false}, {"A <a@acme.example", false},
	    {"a@acme.example (b@evil.test", false}, {"\"x@acme.example", false},
	    {"\"x\"@acme.example", true}, {"\"x@evil.test\"@acme.example", true},
	    {"a@evil.test(x)@acme.example", false}, {"\"a\\\"@evil.test,\"@acme.example", true},
	    {"Us: a@acme.example;", false}, {"<@evil.test:a@acme.example>", false},
	    {"@acme.example", false}, {"a@", false}, {"()<>", false}, {"<a@acme.example><>", false},
	    {"(a(b)c) a@acme.example", true}, {"a@\"x\"acme.example", false}};

	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++)
		assert_int_equal(judged(cases[i].from, 1, 1, 1).action,
		    cases[i].good ? CHECK_OFF : CHECK_REFUSE);
	char padded[FROM_VALUE_MAX + 1]; /* as it is cut: what was behind it cannot be known */
	memset(padded, 'x', sizeof(padded) - 1);
	memcpy(padded, "a@acme.example (", 16);
	strcpy(padded + sizeof(padded) - 2, ")");
	assert_int_equal(judged(padded, 1, 1, 1).action, CHECK_REFUSE);
	padded[500] = ')', padded[501] = '\0';
	assert_int_equal(judged(padded, 1, 1, 1).action, CHECK_OFF);
	assert_int_equal(judged("a@acme.example", 2, 1, 1).action, CHECK_REFUSE);
	assert_int_equal(judged("", 0, 1, 1).action, CHECK_REFUSE);
	assert_int_equal(judged("a@acme.example", 1, 0, 1).action, CHECK_TAG);
	assert_int_equal(judged("a@acme.example", 1, 2, 1).action, CHECK_TAG);
	assert_string_equal(
	    judged("a@acme.example", 1, 0, 0).why, "no Date header; no Message-ID header");
}

static void test_virtual_mtas_of_a_tenant(void **state)
{
	struct tenants *t = tenants_new(parse(conf_text_of_tenants), 1, 0);
	const struct tenant *acme = tenants_named(t, STR("acme")),
			    *zeta = tenants_named(t, STR("zeta"));
	char a[] = "a", b[] = "b", *vmtas[] = {a, b}, none[] = "";
	struct settings s = {.vmtas = vmtas, .vmta_count = 2};
	struct listener l = {.vmta = none, .process_x_vmta = true};
	const char *got;

	(void)state;
	assert_int_equal(policy_vmta(&s, &l, acme, "", 0, &got), ANSWER_NONE);
	assert_string_equal(got, "a");
	assert_int_equal(policy_vmta(&s, &l, acme, "a", 1, &got), ANSWER_NONE);
	assert_int_equal(policy_vmta(&s, &l, acme, "b", 1, &got), ANSWER_FOREIGN_VMTA);
	assert_int_equal(policy_vmta(&s, &l, zeta, "b", 1, &got), ANSWER_NONE);
	assert_string_equal(got, "b");
	assert_int_equal(policy_vmta(&s, &l, NULL, "c", 1, &got), ANSWER_UNKNOWN_VMTA);
	tenants_free(&t);
}

/* The processes' parts are together exactly the whole; but each holds one at least. */
static void test_limits_are_divided(void **state)
{
	static const char text[] =
	    "tenants = ( { name = \"a\"; max-msg-in-rate = \"100/m burst 11\";\n"
	    " max-rcpt-in-rate = \"7/s\"; max-data-in-rate = \"1M/s burst 3M\"; } );\n";
	uint64_t burst[IN_RATES] = {0};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct tenants *t = tenants_new(parse(text), 4, i);
		const struct tenant *a = tenants_named(t, STR("a"));

		assert_int_equal(a->in[IN_MSG].rate.n, 100);
		assert_int_equal(a->in[IN_MSG].rate.per_ms, 240000);
		assert_string_equal(a->in[IN_MSG].text, "100/m burst 11");
		for (int k = 0; k < IN_RATES; k++)
			burst[k] += a->in[k].rate.burst;
		tenants_free(&t);
	}
	assert_int_equal(burst[IN_MSG], 11);
	assert_int_equal(burst[IN_RCPT], 7);
	assert_int_equal(burst[IN_DATA], 3 << 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_choice),
	    cmocka_unit_test(test_unknown_and_default),
	    cmocka_unit_test(test_headers_and_clients),
	    cmocka_unit_test(test_judgement),
	    cmocka_unit_test(test_virtual_mtas_of_a_tenant),
	    cmocka_unit_test(test_limits_are_divided),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
