/* SPDX-License-Identifier: ISC */
/*
 * A hostile reply against rules as operators write them, and against some that are careless.
 * Objects are always clean; the line is always bounded; and a category is found for everything.
 * Where the input holds a NUL, what stands before it is a pattern of its own.
 */
#include "common/classify.h"
#include "common/conf_impl.h"
#include "common/match.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const patterns[] = {"4\\.7\\.28 .*IP (?<ip>\\S+)",
    "domain \\[?(?<domain>[^] ]+)", "(?<netblock>[0-9a-f:./]+)", "(a+)+$", "(.*a){12}b",
    "(?:(a|aa)*)*c", "^[45]..", "\\bspam\\b"};

static struct matcher *make(void)
{
	struct conf *c = conf_new();
	struct conf_node *l = conf_node_new(CONF_PATTERN_LIST, 0, 1);
	conf_node_add(c->root, l);
	conf_set_text(l, CO_PATTERN_LIST_name, "l", 0, 1);
	for (size_t i = 0; i < COUNT_OF(patterns); i++) {
		struct conf_node *r = conf_node_new(CONF_RULE, 0, 1);
		conf_node_add(l, r);
		conf_set_text(r, CO_RULE_reply, patterns[i], 0, 1);
		conf_set_text(r, CO_RULE_actions, "skip-mx", 0, 1);
	}
	struct matcher *m = matcher_new(c);
	conf_free(&c);
	return m;
}

static void own_pattern(struct str text)
{
	const char *nul = text.n > 0 ? memchr(text.p, 0, text.n) : NULL;
	if (!nul || nul - text.p > 60) /* compiling is bounded by the option's length */
		return;
	struct str pattern = {text.p, (size_t)(nul - text.p)};
	const char *why = match_pattern_error(pattern);
	struct str line = {nul + 1, text.n - pattern.n - 1};
	bool found = match_one(pattern, line);
	must(!found || !why || pattern.n == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct matcher *m;
	static struct classifier *c;
	char line[REPLY_TEXT_MAX + 1];
	struct rule_hit hits[HITS_MAX];
	struct str text = {(const char *)data, size};
	if (!m)
		m = make();
	if (!c)
		c = classifier_new();
	size_t n = match_line(line, text);
	must(n <= REPLY_TEXT_MAX && strlen(line) == n);
	size_t count =
	    matcher_run(m, STR("l"), (struct str){line, n}, STAGE_RCPT, false, hits, HITS_MAX);
	for (size_t i = 0; i < count; i++) {
		struct buf b;
		struct rule_hit back;
		buf_init(&b, 1000);
		hit_put(&b, &hits[i]);
		struct rd r = rd_of(b.p, b.n);
		must(hit_take(&r, &back) == 1 && back.object_kind == hits[i].object_kind);
		must(str_eq(back.object, hits[i].object));
		buf_fini(&b);
	}
	must(classify(c, STR(""), (struct str){line, n}, STAGE_MAIL) != BOUNCE_BAD_MAILBOX);
	must(classify(c, STR("5.1.1"), (struct str){line, n}, STAGE_RCPT) < BOUNCE_CATEGORY_COUNT);
	own_pattern(text);
	return 0;
}
