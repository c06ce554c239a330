/* SPDX-License-Identifier: ISC */
/* Values of several numbers: rates, steps of recovery, plans, names; what is read and how it comes
 * back from printing and from encoding. */
#include "common/conf_impl.h"
#include "tests/unit/common/conf_files.h"
#include <inttypes.h>

static const struct {
	enum conf_opt opt;
	const char *text;
	const char *want; /* "num: nums…", or the error */
} cases[] = {
    {CO_DOMAIN_max_msg_rate, "100/m", "100: 60000 2"},
    {CO_DOMAIN_max_msg_rate, "60/m", "60: 60000 1"},
    {CO_DOMAIN_max_msg_rate, "61/m", "61: 60000 2"},
    {CO_DOMAIN_max_msg_rate, "1/s", "1: 1000 1"},
    {CO_DOMAIN_max_msg_rate, "1000/15m", "1000: 900000 2"},
    {CO_DOMAIN_max_msg_rate, "20000/d burst 200", "20000: 86400000 200"},
    {CO_DOMAIN_max_msg_rate, " 5 / 1h30m  burst  7 ", "5: 5400000 7"},
    {CO_DOMAIN_max_msg_rate, "5/500ms", "5: 500 10"},
    {CO_DOMAIN_max_msg_rate, "5/2hr", "5: 7200000 1"},
    {CO_DOMAIN_max_msg_rate, "5/day", "5: 86400000 1"},
    {CO_DOMAIN_max_msg_rate, "5/min", "5: 60000 1"},
    {CO_DOMAIN_max_msg_rate, "5/10sec", "5: 10000 1"},
    {CO_DOMAIN_max_msg_rate, "1099511627776/ms", "not"},
    {CO_DOMAIN_max_msg_rate, "1099511627776/1ms", "1099511627776: 1 1099511627776000"},
    {CO_DOMAIN_max_msg_rate, "unlimited", "-1:"},
    {CO_DOMAIN_max_msg_rate, "auto", "not"},
    {CO_DOMAIN_backoff_max_msg_rate, "auto", "-2:"},
    {CO_DOMAIN_backoff_max_msg_rate, "unlimited", "-1:"},
    {CO_DOMAIN_max_data_volume_rate, "10M/h", "10485760: 3600000 2913"},
    {CO_DOMAIN_max_data_volume_rate, "1G/d burst 1M", "1073741824: 86400000 1048576"},
    {CO_DOMAIN_max_msg_rate, "", "not"},
    {CO_DOMAIN_max_msg_rate, "10", "not"},
    {CO_DOMAIN_max_msg_rate, "10/", "not"},
    {CO_DOMAIN_max_msg_rate, "/m", "not"},
    {CO_DOMAIN_max_msg_rate, "10/fortnight", "not"},
    {CO_DOMAIN_max_msg_rate, "10/0m", "not"},
    {CO_DOMAIN_max_msg_rate, "10/2y", "not"},
    {CO_DOMAIN_max_msg_rate, "10/400d", "not"},
    {CO_DOMAIN_max_msg_rate, "-1/m", "not"},
    {CO_DOMAIN_max_msg_rate, "1.5/m", "not"},
    {CO_DOMAIN_max_msg_rate, "10K/m", "not"}, /* would be 10,240 messages */
    {CO_DOMAIN_max_msg_rate, "10/m burst", "not"},
    {CO_DOMAIN_max_msg_rate, "10/m burst 0", "not"},
    {CO_DOMAIN_max_msg_rate, "10/m burst 5 5", "not"},
    {CO_DOMAIN_max_msg_rate, "10/m 5", "not"},
    {CO_DOMAIN_max_msg_rate, "10/m/s", "not"},
    {CO_DOMAIN_max_msg_rate, "0",
	"\"0\" is not a rate: 0 would stop all mail; use \"unlimited\", or pause the queue"},
    {CO_DOMAIN_max_msg_rate, "0/m",
	"\"0/m\" is not a rate: 0 would stop all mail; use \"unlimited\", or pause the queue"},
    {CO_DOMAIN_max_msg_rate, "1099511627777/d",
	"\"1099511627777/d\" is not a rate of at most 1T (1099511627776)"},
    {CO_DOMAIN_max_msg_rate, "99999999999999999999999/d",
	"\"99999999999999999999999/d\" is not a rate of at most 1T (1099511627776)"},

    {CO_DOMAIN_backoff_recovery, "10%,25%,50%,100% every 10m", "600000: 10 25 50 100"},
    {CO_DOMAIN_backoff_recovery, " 1% , 2%  every  1s ", "1000: 1 2"},
    {CO_DOMAIN_backoff_recovery, "off", "0:"},
    {CO_DOMAIN_backoff_recovery, "100% every 1h30m", "5400000: 100"},
    {CO_DOMAIN_backoff_recovery, "", "not"},
    {CO_DOMAIN_backoff_recovery, "10%", "not"},
    {CO_DOMAIN_backoff_recovery, "10% every", "not"},
    {CO_DOMAIN_backoff_recovery, " every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "10%, every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "10%,,20% every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "10,20 every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "20%,10% every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "10%,10% every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "0% every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "101% every 10m", "not"},
    {CO_DOMAIN_backoff_recovery, "10% every 999ms", "not"},
    {CO_DOMAIN_backoff_recovery, "10% every 366d", "not"},

    {CO_WARMUP_plan, "50,100,250", "0: 50 100 250"},
    {CO_WARMUP_plan, " 5 ", "0: 5"},
    {CO_WARMUP_plan, "", "not"},
    {CO_WARMUP_plan, "5,", "not"},
    {CO_WARMUP_plan, ",5", "not"},
    {CO_WARMUP_plan, "5,,6", "not"},
    {CO_WARMUP_plan, "5x", "not"},
    {CO_WARMUP_plan, "5,0", "0 is out of range: 1 to 1000000000"},
    {CO_WARMUP_plan, "99999999999999999999",
	"99999999999999999999 is out of range: 1 to 1000000000"},

    {CO_DOMAIN_smtp_pattern_list, "a,b.c", "names a b.c"},
    {CO_DOMAIN_smtp_pattern_list, "a, b", "names a b"},
    {CO_DOMAIN_smtp_pattern_list, "", "names"},
    {CO_DOMAIN_smtp_pattern_list, "a b", "not"},
    {CO_DOMAIN_smtp_pattern_list, "a,,b", "not"},
};

static void describe(const struct conf_value *v, char out[600])
{
	size_t n = 0;
	if (v->texts != NULL || (v->count == 0 && v->text == NULL)) {
		n = (size_t)snprintf(out, 600, "names");
		for (size_t i = 0; i < v->count; i++)
			n += (size_t)snprintf(out + n, 600 - n, " %s", v->texts[i]);
		return;
	}
	n = (size_t)snprintf(out, 600, "%" PRId64 ":", v->num);
	for (size_t i = 0; i < v->count; i++)
		n += (size_t)snprintf(out + n, 600 - n, " %" PRId64, v->nums[i]);
}

static void test_texts(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct conf_value v;
		char why[200], got[600];
		if (conf_parse_value(cases[i].opt, str_of(cases[i].text), &v, why) == 0)
			describe(&v, got);
		else if (strcmp(cases[i].want, "not") == 0 && why[0] != 0)
			snprintf(got, sizeof got, "not");
		else
			snprintf(got, sizeof got, "%s", why);
		if (strcmp(got, cases[i].want) != 0)
			fail_msg("\"%s\": %s, not %s", cases[i].text, got, cases[i].want);
		conf_value_fini(&v);
	}
}

static void same_value(const struct conf_value *a, const struct conf_value *b)
{
	char x[600], y[600];
	describe(a, x);
	describe(b, y);
	assert_string_equal(x, y);
}

/* What is read prints to something that reads the same, and prints the same again. */
static void test_printed_again(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct conf_value v;
		char why[200];
		if (conf_parse_value(cases[i].opt, str_of(cases[i].text), &v, why) != 0)
			continue;
		struct buf first, file;
		buf_init(&first, 4096);
		buf_init(&file, 8192);
		conf_print_value(&first, cases[i].opt, &v);
		buf_u8(&first, 0);
		bool plan = cases[i].opt == CO_WARMUP_plan;
		if (plan)
			buf_printf(&file,
			    LISTEN "virtual-mtas = ( { name = \"m\"; sources = ( { address = "
				   "\"127.0.0.1\"; warmup = { plan = %s; }; } ); } );\n",
			    (const char *)first.p);
		else
			buf_printf(&file,
			    LISTEN
			    "smtp-pattern-lists = ( { name = \"a\"; }, { name = \"b\"; }, { name "
			    "= \"b.c\"; } );\ndomains = ( { name = \"*\"; %s = %s; } );\n",
			    conf_opt_key(cases[i].opt), (const char *)first.p);
		put_bytes("c", (const char *)file.p, file.n);
		struct conf *c = load_good("c"), *copy = conf_clone(c);
		for (int round = 0; round < 2; round++) { /* read, and encoded and decoded */
			const struct conf_node *n = conf_next(
			    (round == 0 ? c : copy)->root, plan ? CONF_VMTA : CONF_DOMAIN, NULL);
			if (plan)
				n = conf_next(conf_next(n, CONF_SOURCE, NULL), CONF_WARMUP, NULL);
			same_value(conf_get(n, cases[i].opt), &v);
		}
		char *text = printed(c), *again = printed(copy);
		assert_string_equal(text, again);
		free(text);
		free(again);
		conf_free(&c);
		conf_free(&copy);
		buf_fini(&first);
		buf_fini(&file);
		conf_value_fini(&v);
	}
}

static uint64_t seed = 88172645463325252u;
static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Any rate that is written well: N, T and B are what stands there, and without B the burst is the
 * least whole number that is no less than one second's worth. */
static void test_random_rates(void **state)
{
	static const struct {
		const char *unit;
		int64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"sec", 1000}, {"m", 60000}, {"min", 60000},
	    {"h", 3600000}, {"hr", 3600000}, {"d", 86400000}, {"day", 86400000}};
	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t unit = next_random() % COUNT_OF(units);
		int64_t n = (int64_t)(next_random() % (1u << (next_random() % 31))) + 1;
		int64_t times = (int64_t)(next_random() % 300) + 1;
		int64_t burst = next_random() % 2 == 0 ? 0 : (int64_t)(next_random() % 100000) + 1;
		char text[100], tail[40] = "", why[200];
		struct conf_value v;
		if (burst > 0)
			snprintf(tail, sizeof tail, " burst %" PRId64, burst);
		snprintf(text, sizeof text, "%" PRId64 "/%" PRId64 "%s%s", n, times,
		    units[unit].unit, tail);
		int64_t ms = times * units[unit].ms;
		assert_int_equal(
		    conf_parse_value(CO_DOMAIN_max_msg_rate, str_of(text), &v, why), 0);
		assert_int_equal(v.num, n);
		assert_int_equal(v.count, 2);
		assert_int_equal(v.nums[0], ms);
		if (burst > 0) {
			assert_int_equal(v.nums[1], burst);
		} else {
			assert_true(v.nums[1] >= 1 && v.nums[1] * ms >= n * 1000);
			assert_true((v.nums[1] - 1) * ms < n * 1000);
		}
		conf_value_fini(&v);
	}
}

/* No text makes the parser do anything but read or refuse; changed texts of the table. */
static void test_random_bytes(void **state)
{
	(void)state;
	for (int i = 0; i < 100000; i++) {
		size_t which = next_random() % COUNT_OF(cases);
		char text[64], why[200];
		size_t n = str_copy(text, sizeof text, str_of(cases[which].text));
		for (int k = 0; k < 2 && n > 0; k++)
			text[next_random() % n] = "0159 ,%/burstevyadhmKMGT-."[next_random() % 26];
		struct conf_value v;
		if (conf_parse_value(cases[which].opt, str_of(text), &v, why) != 0) {
			assert_true(why[0] != 0);
			continue;
		}
		if (v.num > 0 && v.count == 2 && cases[which].opt == CO_DOMAIN_max_msg_rate)
			assert_true(v.nums[0] > 0 && v.nums[1] > 0);
		conf_value_fini(&v);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_texts),
	    cmocka_unit_test_setup_teardown(test_printed_again, setup, teardown),
	    cmocka_unit_test(test_random_rates),
	    cmocka_unit_test(test_random_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
