/* SPDX-License-Identifier: ISC */
/*
 * The small parsers of rules and the decoders of hits and alerts, chosen by the first byte. What
 * parses prints to what parses to the same; what decodes encodes to the same bytes.
 */
#include "common/rule.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_action(struct str text)
{
	struct rule_action a, again;
	char why[200] = "";
	struct buf b;
	if (rule_action_parse(text, &a, why) != 0) {
		must(why[0] != '\0' && strlen(why) < sizeof(why));
		return;
	}
	must(a.kind < ACTION_COUNT && (a.kind != ACTION_SET || rule_set_opt(str_of(a.name)) >= 0));
	must(a.factor_permille < 1000);
	buf_init(&b, 10000);
	rule_action_print(&b, &a);
	must(rule_action_parse((struct str){(const char *)b.p, b.n}, &again, why) == 0);
	must(again.kind == a.kind && again.factor_permille == a.factor_permille);
	must(str_eq(str_of(a.name), str_of(again.name)));
	must(str_eq(str_of(a.value), str_of(again.value)));
	rule_action_fini(&a);
	rule_action_fini(&again);
	buf_fini(&b);
}

static void fuzz_trigger(struct str text)
{
	struct rule_trigger t;
	char why[200];
	uint32_t bit = 0;
	if (rule_trigger_parse(text, &t, why) == 0) {
		must(t.n >= 1 && t.n <= RULE_TRIGGER_MAX && t.percent <= 100);
		must(t.kind == TRIGGER_IMMEDIATE || t.window_ms >= 1000);
	}
	if (rule_stage_parse(text, &bit, why) == 0)
		must(bit != 0 && (bit & (bit - 1)) == 0 && bit < 1u << STAGE_COUNT);
}

static void fuzz_hits(const uint8_t *data, size_t size)
{
	struct rd r = rd_of(data, size);
	struct rule_hit hit;
	struct buf b;
	size_t before = r.n;
	buf_init(&b, 1000);
	while (hit_take(&r, &hit) == 1) {
		buf_reset(&b);
		hit_put(&b, &hit);
		must(b.n == before - r.n && memcmp(b.p, data + (size - before), b.n) == 0);
		before = r.n;
	}
	buf_fini(&b);
}

static void fuzz_alert(struct str bytes)
{
	struct alert a;
	struct buf b;
	if (alert_take(bytes, &a) != 0)
		return;
	buf_init(&b, 100000);
	alert_put(&b, &a);
	must(b.n == bytes.n && memcmp(b.p, bytes.p, b.n) == 0);
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	struct str rest = {(const char *)data + 1, size - 1};
	switch (data[0] % 4) {
	case 0:
		fuzz_action(rest);
		break;
	case 1:
		fuzz_trigger(rest);
		break;
	case 2:
		fuzz_hits(data + 1, size - 1);
		break;
	default:
		fuzz_alert(rest);
	}
	return 0;
}
