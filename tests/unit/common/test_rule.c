/* SPDX-License-Identifier: ISC */
/*
 * The texts of rules, good and bad, as tables; that a rule keeps its identity over reloads and that
 * no two rules share one; codecs of hits and alerts, and what they refuse.
 */
#include "common/conf_impl.h"
#include "common/rule.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_actions(void **state)
{
	static const struct {
		const char *text, *printed;
	} good[] = {
	    {"mode=backoff", "mode=backoff"},
	    {"MODE=Normal", "mode=normal"},
	    {"skip-mx", "skip-mx"},
	    {"bounce-queue", "bounce-queue"},
	    {"bounce-recipient", "bounce-recipient"},
	    {"bounce-rcpt", "bounce-recipient"},
	    {" defer-recipient ", "defer-recipient"},
	    {"defer-queue", "defer-queue"},
	    {"disable-source-ip", "disable-source-ip"},
	    {"suspend-queue", "suspend-queue"},
	    {"suspend-tenant", "suspend-tenant"},
	    {"suspend-campaign", "suspend-campaign"},
	    {"bounce-tenant", "bounce-tenant"},
	    {"bounce-campaign", "bounce-campaign"},
	    {"reroute=mta2", "reroute=mta2"},
	    {"require-tls", "require-tls"},
	    {"set max-msg-rate=10/m", "set max-msg-rate=10/m"},
	    {"set  max-smtp-out = 3", "set max-smtp-out=3"},
	    {"set max-smtp-out=*0.5", "set max-smtp-out=*0.5"},
	    {"set max-msg-rate=*.125", "set max-msg-rate=*0.125"},
	    {"set retry-after=1h,2h", "set retry-after=1h,2h"},
	    {"alert=Post.Master@Example.COM", "alert=Post.Master@example.com"},
	};
	static const char *const bad[] = {"", "mode", "mode=", "mode=panic", "skip", "skip-mx=1",
	    "bounce-recipients", "reroute", "reroute=", "reroute=a b", "alert", "alert=", "alert=x",
	    "set", "set ", "set x", "set x=1", "set max-smtp-out",
	    "set max-smtp-out=", "set max-smtp-out=0", "set max-smtp-out=lots",
	    "set max-msg-rate=unlimited", "set source-ip-max-smtp-out=auto", "set max-smtp-out=*1",
	    "set max-smtp-out=*0", "set max-smtp-out=*0.0", "set max-smtp-out=*0.0001",
	    "set max-smtp-out=*-0.5", "set retry-after=*0.5", "set smtp-hosts=x",
	    "set type=discard", "set=max-smtp-out=1", "require-tls now"};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(good); i++) {
		struct rule_action a, again;
		char why[200];
		struct buf b;
		buf_init(&b, 1000);
		assert_int_equal(rule_action_parse(str_of(good[i].text), &a, why), 0);
		rule_action_print(&b, &a);
		buf_u8(&b, 0);
		assert_string_equal((char *)b.p, good[i].printed);
		assert_int_equal(rule_action_parse(str_of((char *)b.p), &again, why), 0);
		assert_int_equal(again.kind, a.kind);
		assert_int_equal(again.factor_permille, a.factor_permille);
		rule_action_fini(&a);
		rule_action_fini(&again);
		buf_fini(&b);
	}
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		struct rule_action a;
		char why[200] = "";
		if (rule_action_parse(str_of(bad[i]), &a, why) != -EINVAL || why[0] == '\0')
			fail_msg("\"%s\" was taken", bad[i]);
	}
}

static void test_settable_options(void **state)
{
	(void)state;
	size_t n = 0;
	for (int opt = 0; opt < CONF_OPT_COUNT; opt++)
		n += rule_set_opt(str_of(conf_opt_key((enum conf_opt)opt))) == opt;
	assert_int_equal(n, 12);
	assert_int_equal(rule_set_opt(STR("smtp-hosts")), -1);
	assert_int_equal(rule_set_opt(STR("")), -1);
}

static void test_triggers(void **state)
{
	static const struct {
		const char *text;
		struct rule_trigger t;
	} good[] = {
	    {"immediate", {TRIGGER_IMMEDIATE, 1, 0, 0}},
	    {" Immediate", {TRIGGER_IMMEDIATE, 1, 0, 0}},
	    {"3/10m", {TRIGGER_COUNT, 3, 0, 600000}},
	    {"3 / 1h30m", {TRIGGER_COUNT, 3, 0, 5400000}},
	    {"10/h", {TRIGGER_COUNT, 10, 0, 3600000}},
	    {"100000/1s", {TRIGGER_COUNT, 100000, 0, 1000}},
	    {"20% of 50 in 10m", {TRIGGER_SHARE, 50, 20, 600000}},
	    {"100 % of  1  in  1d", {TRIGGER_SHARE, 1, 100, 86400000}},
	};
	static const char *const bad[] = {"", "3", "3/", "/10m", "0/10m", "-1/10m", "100001/1m",
	    "3/0s", "3/never", "3/10", "3/10x", "0% of 5 in 1m", "101% of 5 in 1m", "5% of 0 in 1m",
	    "5% 5 in 1m", "5% of 5", "5% of 5 in", "% of 5 in 1m", "5% of 5 at 1m", "3/10m%",
	    "99999999999999999999/1m"};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(good); i++) {
		struct rule_trigger t;
		char why[200];
		assert_int_equal(rule_trigger_parse(str_of(good[i].text), &t, why), 0);
		assert_int_equal(t.kind, good[i].t.kind);
		assert_int_equal(t.n, good[i].t.n);
		assert_int_equal(t.percent, good[i].t.percent);
		assert_int_equal(t.window_ms, good[i].t.window_ms);
	}
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		struct rule_trigger t;
		char why[200] = "";
		if (rule_trigger_parse(str_of(bad[i]), &t, why) != -EINVAL || why[0] == '\0')
			fail_msg("\"%s\" was taken", bad[i]);
	}
}

static void test_stages(void **state)
{
	(void)state;
	char why[200];
	uint32_t bit = 0, all = 0;
	for (unsigned i = 0; i < STAGE_COUNT; i++) {
		int rc = rule_stage_parse(str_of(stage_name(i)), &bit, why);
		assert_int_equal(rc, i == STAGE_QUIT ? -EINVAL : 0);
		if (rc == 0)
			all |= bit;
	}
	assert_int_equal(all, ((1u << STAGE_COUNT) - 1) & ~(1u << STAGE_QUIT));
	assert_int_equal(rule_stage_parse(STR(""), &bit, why), -EINVAL);
	assert_int_equal(rule_stage_parse(STR("rcpt to"), &bit, why), -EINVAL);
	for (unsigned i = 0; i < RULE_SCOPE_COUNT; i++)
		assert_string_not_equal(rule_scope_name(i), "?");
	assert_string_equal(rule_scope_name(RULE_SCOPE_COUNT), "?");
}

/* --- lists ------------------------------------------------------------------------------------ */

struct spec {
	const char *reply, *stages;
};

static struct conf *conf_of(const char *list, const struct spec *rules, size_t n)
{
	struct conf *c = conf_new();
	struct conf_node *l = conf_node_new(CONF_PATTERN_LIST, 0, 1);
	conf_node_add(c->root, l);
	conf_set_text(l, CO_PATTERN_LIST_name, list, 0, 1);
	for (size_t i = 0; i < n; i++) {
		struct conf_node *r = conf_node_new(CONF_RULE, 0, (uint32_t)i + 2);
		conf_node_add(l, r);
		conf_set_text(r, CO_RULE_reply, rules[i].reply, 0, 1);
		conf_set_text(r, CO_RULE_actions, "skip-mx,defer-queue", 0, 1);
		conf_set_text(r, CO_RULE_trigger, "3/10m", 0, 1);
		if (rules[i].stages)
			conf_set_text(r, CO_RULE_stage, rules[i].stages, 0, 1);
	}
	return c;
}

static void test_ids_tell_rules_apart_and_survive_edits(void **state)
{
	static const struct spec before[] = {
	    {"a", NULL}, {"b", NULL}, {"a", "rcpt"}, {"a", NULL}, {"a", "internal"}};
	static const struct spec after[] = {{"new", NULL}, {"b", NULL}, {"a", "rcpt"}, {"a", NULL}};
	(void)state;
	size_t n = 0, m = 0;
	struct conf *c = conf_of("l", before, COUNT_OF(before));
	struct conf *d = conf_of("l", after, COUNT_OF(after));
	struct conf *e = conf_of("other", before, COUNT_OF(before));
	struct rule_list *x = rule_lists(c, &n), *y = rule_lists(d, &m), *z = rule_lists(e, &m);
	assert_int_equal(n, 1);
	assert_int_equal(x->count, 5);
	for (size_t i = 0; i < x->count; i++) {
		assert_int_equal(x->rules[i].index, i + 1);
		assert_int_equal(x->rules[i].action_count, 2);
		assert_int_equal(x->rules[i].trigger.n, 3);
		assert_int_equal(x->rules[i].for_ms, -1);
		for (size_t j = 0; j < i; j++)
			assert_true(x->rules[i].id != x->rules[j].id);
		assert_true(x->rules[i].id != z->rules[i].id);
	}
	assert_true(x->rules[1].id == y->rules[1].id);
	assert_true(x->rules[2].id == y->rules[2].id);
	assert_true(x->rules[0].id == y->rules[3].id);
	assert_int_equal(x->rules[2].stages, 1u << STAGE_RCPT);
	assert_int_equal(x->rules[4].stages, 1u << STAGE_INTERNAL);
	assert_true((x->rules[0].stages & 1u << STAGE_DOT) != 0);
	assert_int_equal(x->rules[0].stages & (1u << STAGE_INTERNAL | 1u << STAGE_CONNECT), 0);
	rule_lists_free(&x, 1);
	rule_lists_free(&y, 1);
	rule_lists_free(&z, 1);
	assert_null(x);
	conf_free(&c);
	conf_free(&d);
	conf_free(&e);
}

/* --- codecs ----------------------------------------------------------------------------------- */

static void test_hits_pass_and_bad_ones_do_not(void **state)
{
	(void)state;
	struct buf b;
	struct rule_hit hit = {UINT64_C(0x0123456789abcdef), 7, STAGE_RCPT, HIT_DOMAIN,
			    STR("x.example")},
			got;
	buf_init(&b, 100000);
	hit_put(&b, &hit);
	hit_put(
	    &b, &(struct rule_hit){1, HIT_ALL, STAGE_DOT, HIT_IP, STR("a\nb")}); /* told without */
	struct rd r = rd_of(b.p, b.n);
	assert_int_equal(hit_take(&r, &got), 1);
	assert_true(got.rule == hit.rule && got.ordinal == 7 && got.stage == STAGE_RCPT);
	assert_true(got.object_kind == HIT_DOMAIN && str_eq(got.object, hit.object));
	assert_int_equal(hit_take(&r, &got), 1);
	assert_int_equal(got.object_kind, HIT_NOTHING);
	assert_int_equal(hit_take(&r, &got), 0);
	for (size_t cut = 1; cut < 14 + hit.object.n; cut++) {
		r = rd_of(b.p, cut);
		assert_int_equal(hit_take(&r, &got), -EBADMSG);
		assert_int_equal(hit_take(&r, &got), -EBADMSG); /* sticky */
	}
	static const struct {
		size_t at;
		unsigned char byte;
	} wrong[] = {{10, STAGE_COUNT}, {11, HIT_OBJECT_COUNT}, {11, HIT_NOTHING}, {12, 1}, {14, 0},
	    {14, '\n'}, {14, 0x7f}};
	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		unsigned char saved = b.p[wrong[i].at];
		b.p[wrong[i].at] = wrong[i].byte;
		r = rd_of(b.p, 14 + hit.object.n);
		assert_int_equal(hit_take(&r, &got), -EBADMSG);
		b.p[wrong[i].at] = saved;
	}
	buf_fini(&b);
}

static void test_alerts_are_cut_and_checked(void **state)
{
	(void)state;
	struct buf b, to, text;
	struct alert got;
	buf_init(&b, 100000);
	alert_put(&b, &(struct alert){STR("a@x.example,b@y.example"), STR("one\nline"),
			  STR("first\nsecond\r\n\x01\n")});
	assert_int_equal(alert_take((struct str){(char *)b.p, b.n}, &got), 0);
	assert_true(str_eq(got.to, STR("a@x.example,b@y.example")));
	assert_true(str_eq(got.subject, STR("one?line")));
	assert_true(str_eq(got.text, STR("first\nsecond?\n?\n")));
	for (size_t cut = 0; cut < b.n; cut++)
		assert_int_equal(alert_take((struct str){(char *)b.p, cut}, &got), -EBADMSG);
	buf_u8(&b, 0);
	assert_int_equal(alert_take((struct str){(char *)b.p, b.n}, &got), -EBADMSG);

	buf_reset(&b);
	buf_init(&to, 100000);
	buf_init(&text, 100000);
	for (int i = 0; i < 500; i++)
		buf_cstr(&to, i > 0 ? ",someone@example" : "someone@example");
	for (int i = 0; i < 20000; i++)
		buf_cstr(&text, "\xc3\xa4");
	alert_put(&b,
	    &(struct alert){{(char *)to.p, to.n}, {(char *)text.p, 301}, {(char *)text.p, text.n}});
	assert_int_equal(alert_take((struct str){(char *)b.p, b.n}, &got), 0);
	assert_true(got.to.n <= ALERT_TO_MAX && got.to.n > ALERT_TO_MAX - 32);
	assert_true(got.to.p[got.to.n - 1] == 'e' && got.to.n % 16 == 15);
	assert_int_equal(got.subject.n, ALERT_SUBJECT_MAX);
	assert_int_equal(got.text.n, ALERT_TEXT_MAX);
	buf_fini(&b);
	buf_fini(&to);
	buf_fini(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_actions),
	    cmocka_unit_test(test_settable_options),
	    cmocka_unit_test(test_triggers),
	    cmocka_unit_test(test_stages),
	    cmocka_unit_test(test_ids_tell_rules_apart_and_survive_edits),
	    cmocka_unit_test(test_hits_pass_and_bad_ones_do_not),
	    cmocka_unit_test(test_alerts_are_cut_and_checked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
