/* SPDX-License-Identifier: ISC */
/*
 * The provider data of conf/providers against the replies of tests/corpus: for each reply, which
 * rules match, what follows of their actions, and its bounce category are as its entry says. A rule
 * that no reply fires is a failure, and so is a reply about the sender that marks the recipient.
 *
 * An entry of the corpus is a line "PROVIDER STAGE [sender]" and indented lines behind it: source:,
 * the reply's lines as they came (code first), rules:, category:, effect:. PROVIDER is one of the
 * configuration's, or - for a host of none, where the list "generic" alone is asked.
 *
 * POSTERN_CORPUS=table in the environment, or -v, prints every reply and what is made of it.
 */
#include "common/classify.h"
#include "common/conf_impl.h"
#include "common/match.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define CONFIGURATION "tests/corpus/postern.conf"
#define CORPUS "tests/corpus"
enum {
	REPLIES_LEAST = 250,
	PROVIDERS_LEAST = 28,
	RULES_MAX = 1000,
	TEXT_BYTES = 4000,
	LINE_BYTES = 2000,
	SHOWN_BYTES = 64, /* of a reply, in the table */
	NS_MAX = 1000000, /* for all lists over one line */
	RUNS = 7,	  /* the fastest counts: what else the machine does is not ours */
};

struct entry {
	const char *file;
	unsigned line;
	char provider[64], reply[TEXT_BYTES], source[LINE_BYTES];
	enum smtp_stage stage;
	bool of_sender;
	char rules[LINE_BYTES], category[64], effect[LINE_BYTES]; /* expected */
};

struct corpus {
	struct conf *conf;
	struct matcher *matcher;
	struct classifier *classifier;
	struct rule_list *lists;
	size_t list_count;
	uint64_t fired[RULES_MAX]; /* ids of rules that some reply fired */
	size_t fired_count, replies, wrong;
	bool table;
};

/* --- what is made of a reply ------------------------------------------------------------------ */

static const struct rule *find_rule(
    const struct corpus *c, uint64_t id, const struct rule_list **list)
{
	for (size_t i = 0; i < c->list_count; i++)
		for (size_t j = 0; j < c->lists[i].count; j++)
			if (c->lists[i].rules[j].id == id) {
				*list = &c->lists[i];
				return &c->lists[i].rules[j];
			}
	fail_msg("a hit of no rule");
	return NULL;
}

/* The lists of a provider, commas between. */
static void lists_of(const struct corpus *c, const char *provider, struct buf *out)
{
	const struct conf_node *n =
	    conf_find(c->conf->root, CONF_PROVIDER, CO_PROVIDER_name, provider);
	if (strcmp(provider, "-") == 0) {
		buf_str(out, STR("generic"));
		return;
	}
	if (n == NULL)
		fail_msg("no provider %s", provider);
	const struct conf_value *v = conf_get(n, CO_PROVIDER_smtp_pattern_list);
	for (size_t i = 0; i < v->count; i++)
		buf_printf(out, "%s%s", i > 0 ? "," : "", v->texts[i]);
}

static const char *rule_label(const struct rule *rule)
{
	const char *name = conf_text(rule->node, CO_RULE_name);
	assert_true(name[0] != 0); /* so that an operator can change it */
	return name;
}

static void add_action(struct buf *out, const struct rule *rule, const struct rule_action *a)
{
	buf_str(out, STR("; "));
	rule_action_print(out, a);
	buf_printf(out, " (%s", rule_scope_name(rule->scope));
	if (rule->for_ms > 0) {
		buf_str(out, STR(", for "));
		struct buf time;
		buf_init(&time, 100);
		conf_print_value(&time, CO_RULE_for_, conf_get(rule->node, CO_RULE_for_));
		for (size_t i = 0; i < time.n; i++)
			if (time.p[i] != '"')
				buf_u8(out, time.p[i]);
		buf_fini(&time);
	}
	if (rule->trigger.kind != TRIGGER_IMMEDIATE)
		buf_printf(out, ", at %s", conf_text(rule->node, CO_RULE_trigger));
	buf_str(out, STR(")"));
}

static bool of_recipients(enum smtp_stage stage)
{
	return stage == STAGE_MAIL || stage == STAGE_RCPT || stage == STAGE_DATA ||
	       stage == STAGE_DOT;
}

/* What happens to the recipients, then the actions that hold, as if each trigger were met. */
static void print_effect(const struct corpus *c, const struct entry *e, const char *line,
    const struct rule_hit *hits, size_t n, struct buf *out)
{
	const char *outcome =
	    !of_recipients(e->stage) ? "wait" : (line[0] == '4' ? "defer" : "bounce");
	struct buf rest;
	unsigned taken = 0;
	int64_t disabled_ms = -1;
	buf_init(&rest, LINE_BYTES);
	for (size_t i = 0; i < n; i++) {
		const struct rule_list *list;
		const struct rule *rule = find_rule(c, hits[i].rule, &list);
		for (size_t j = 0; j < rule->action_count; j++) {
			const struct rule_action *a = &rule->actions[j];
			unsigned groups = rule_action_groups(a->kind);
			if ((groups & taken) != 0)
				continue;
			taken |= groups;
			/* of several the longest holds */
			if (a->kind == ACTION_DISABLE_SOURCE_IP && rule->for_ms <= disabled_ms)
				continue;
			if (a->kind == ACTION_DISABLE_SOURCE_IP)
				disabled_ms = rule->for_ms;
			if (a->kind == ACTION_DEFER_RECIPIENT ||
			    a->kind == ACTION_BOUNCE_RECIPIENT) {
				if (of_recipients(e->stage))
					outcome =
					    a->kind == ACTION_DEFER_RECIPIENT ? "defer" : "bounce";
			} else {
				add_action(&rest, rule, a);
			}
		}
	}
	buf_printf(out, "%s", outcome);
	buf_str(out, (struct str){(const char *)rest.p, rest.n});
	buf_fini(&rest);
}

static void print_rules(struct corpus *c, const struct rule_hit *hits, size_t n, struct buf *out)
{
	static const char *const kinds[HIT_OBJECT_COUNT] = {"", "ip", "netblock", "domain"};
	for (size_t i = 0; i < n; i++) {
		const struct rule_list *list;
		const struct rule *rule = find_rule(c, hits[i].rule, &list);
		size_t at = 0;
		while (at < c->fired_count && c->fired[at] != rule->id)
			at++;
		assert_true(at < RULES_MAX);
		if (at == c->fired_count)
			c->fired[c->fired_count++] = rule->id;
		buf_printf(out, "%s%s/%s", i > 0 ? " " : "", list->name, rule_label(rule));
		if (hits[i].object_kind != HIT_NOTHING)
			buf_printf(
			    out, "[%s=%.*s]", kinds[hits[i].object_kind], STR_ARG(hits[i].object));
	}
	if (n == 0)
		buf_str(out, STR("none"));
}

static void compare(
    struct corpus *c, const struct entry *e, const char *what, const char *want, struct buf *got)
{
	buf_u8(got, 0);
	if (strcmp(want, (const char *)got->p) == 0)
		return;
	printf("%s:%u: %s\n    expected: %s\n    found:    %s\n", e->file, e->line, what, want,
	    (const char *)got->p);
	c->wrong++;
}

static void judge(struct corpus *c, const struct entry *e)
{
	char line[REPLY_TEXT_MAX + 1];
	struct rule_hit hits[HITS_MAX];
	struct reply_parser p;
	struct buf lists, rules, effect, category;
	struct str in = str_of(e->reply), seen = {line, match_line(line, in)};
	reply_parser_init(&p);
	if (reply_parse(&p, &in, NULL, NULL) != 1 || in.n > 0)
		fail_msg("%s:%u: not one reply", e->file, e->line);
	assert_string_equal(p.reply.text, line); /* as smtp-out gives it to the matcher */
	buf_init(&lists, LINE_BYTES);
	buf_init(&rules, LINE_BYTES);
	buf_init(&effect, LINE_BYTES);
	buf_init(&category, LINE_BYTES);
	lists_of(c, e->provider, &lists);
	size_t n = matcher_run(c->matcher, (struct str){(const char *)lists.p, lists.n}, seen,
	    e->stage, false, hits, HITS_MAX);
	print_rules(c, hits, n, &rules);
	print_effect(c, e, line, hits, n, &effect);
	enum bounce_category is =
	    classify(c->classifier, str_of(p.reply.status), seen, (unsigned)e->stage);
	buf_printf(&category, "%s", bounce_category_name(is));
	if (e->of_sender && (is == BOUNCE_BAD_MAILBOX || is == BOUNCE_INACTIVE_MAILBOX)) {
		printf("%s:%u: is about the sender, and marks the recipient\n", e->file, e->line);
		c->wrong++;
	}
	compare(c, e, "rules", e->rules, &rules);
	compare(c, e, "category", e->category, &category);
	compare(c, e, "effect", e->effect, &effect);
	if (c->table)
		printf("%-13s %-8s %-*.*s %-30s %-17s %s\n", e->provider, stage_name(e->stage),
		    SHOWN_BYTES, SHOWN_BYTES, line, (const char *)rules.p, (const char *)category.p,
		    (const char *)effect.p);
	buf_fini(&lists);
	buf_fini(&rules);
	buf_fini(&effect);
	buf_fini(&category);
	c->replies++;
}

/* --- the corpus's files ----------------------------------------------------------------------- */

static void begin(struct entry *e, char *text)
{
	char *rest = text, *provider = strsep(&rest, " "), *stage = strsep(&rest, " ");
	memset(e->provider, 0, sizeof(*e) - offsetof(struct entry, provider));
	str_copy(e->provider, sizeof(e->provider), str_of(provider));
	e->of_sender = rest != NULL && strcmp(rest, "sender") == 0;
	for (unsigned i = 0; stage != NULL && i < STAGE_COUNT; i++)
		if (strcmp(stage_name(i), stage) == 0) {
			e->stage = (enum smtp_stage)i;
			return;
		}
	fail_msg("%s:%u: no stage %s", e->file, e->line, stage ? stage : "");
}

static void take_field(struct entry *e, const char *text)
{
	static const struct {
		const char *key;
		size_t at, size;
	} fields[] = {
	    {"source: ", offsetof(struct entry, source), sizeof(e->source)},
	    {"rules: ", offsetof(struct entry, rules), sizeof(e->rules)},
	    {"category: ", offsetof(struct entry, category), sizeof(e->category)},
	    {"effect: ", offsetof(struct entry, effect), sizeof(e->effect)},
	};
	for (size_t i = 0; i < COUNT_OF(fields); i++) {
		size_t n = strlen(fields[i].key);
		if (strncmp(text, fields[i].key, n) == 0) {
			str_copy((char *)e + fields[i].at, fields[i].size, str_of(text + n));
			return;
		}
	}
	size_t have = strlen(e->reply);
	snprintf(e->reply + have, sizeof(e->reply) - have, "%s\r\n", text);
}

static void end(struct corpus *c, struct entry *e)
{
	if (e->provider[0] == 0)
		return;
	if (e->source[0] == 0)
		fail_msg("%s:%u: no source", e->file, e->line);
	judge(c, e);
	e->provider[0] = 0;
}

static void read_corpus_file(struct corpus *c, const char *path)
{
	static struct entry e;
	char text[TEXT_BYTES];
	unsigned line = 0;
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	e = (struct entry){.file = path};
	while (fgets(text, sizeof(text), f)) {
		size_t n = strcspn(text, "\n");
		line++;
		text[n] = 0;
		if (n == 0 || text[0] == '#')
			continue;
		if (text[0] == '\t') {
			take_field(&e, text + 1);
			continue;
		}
		end(c, &e);
		e.line = line;
		begin(&e, text);
	}
	end(c, &e);
	fclose(f);
}

static int is_text(const struct dirent *d)
{
	size_t n = strlen(d->d_name);
	return n > 4 && strcmp(d->d_name + n - 4, ".txt") == 0;
}

/* --- the tests -------------------------------------------------------------------------------- */

static void open_corpus(struct corpus *c)
{
	struct buf errors;
	buf_init(&errors, 100000);
	*c = (struct corpus){.conf = conf_load(CONFIGURATION, &errors)};
	if (c->conf == NULL)
		fail_msg("%.*s", (int)errors.n, (const char *)errors.p);
	buf_fini(&errors);
	c->matcher = matcher_new(c->conf);
	c->classifier = classifier_new();
	c->lists = rule_lists(c->conf, &c->list_count);
}

static void close_corpus(struct corpus *c)
{
	rule_lists_free(&c->lists, c->list_count);
	classifier_free(&c->classifier);
	matcher_free(&c->matcher);
	conf_free(&c->conf);
}

static bool show_table;

static void test_every_reply_is_judged_as_its_entry_says(void **state)
{
	struct corpus c;
	struct dirent **names;
	(void)state;
	open_corpus(&c);
	c.table = show_table;
	int n = scandir(CORPUS, &names, is_text, alphasort);
	assert_true(n > 0);
	for (int i = 0; i < n; i++) {
		char path[400];
		snprintf(path, sizeof(path), CORPUS "/%s", names[i]->d_name);
		read_corpus_file(&c, path);
		free(names[i]);
	}
	free(names);
	for (size_t i = 0; i < c.list_count; i++)
		for (size_t j = 0; j < c.lists[i].count; j++) {
			size_t at = 0;
			while (at < c.fired_count && c.fired[at] != c.lists[i].rules[j].id)
				at++;
			if (at < c.fired_count)
				continue;
			printf("%s/%s: no reply of the corpus fires this rule\n", c.lists[i].name,
			    rule_label(&c.lists[i].rules[j]));
			c.wrong++;
		}
	if (c.table)
		printf("%zu replies, %zu rules\n", c.replies, c.fired_count);
	assert_int_equal(c.wrong, 0);
	assert_true(c.replies >= REPLIES_LEAST);
	close_corpus(&c);
}

/* Included as they are: no error and no hint, and each provider says how much it takes. */
static void test_the_data_is_complete(void **state)
{
	struct corpus c;
	struct buf hints;
	const struct conf_node *n = NULL;
	size_t providers = 0;
	(void)state;
	open_corpus(&c);
	buf_init(&hints, 100000);
	conf_hints(c.conf, &hints);
	buf_u8(&hints, 0);
	assert_null(strstr((const char *)hints.p, "providers/"));
	while ((n = conf_next(c.conf->root, CONF_PROVIDER, n)) != NULL) {
		providers++;
		assert_true(conf_get(n, CO_PROVIDER_mx)->count > 0);
		assert_true(conf_get(n, CO_PROVIDER_max_smtp_out)->set);
		assert_true(conf_get(n, CO_PROVIDER_max_msg_per_connection)->set);
		assert_non_null(conf_next(n, CONF_BUDGET, NULL));
		assert_true(conf_get(n, CO_PROVIDER_smtp_pattern_list)->count > 0);
	}
	assert_true(providers >= PROVIDERS_LEAST);
	buf_fini(&hints);
	close_corpus(&c);
}

static int64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A line made to be looked at for long: all lists of all providers together, in a millisecond. */
static void test_no_line_takes_long(void **state)
{
	static const char *const parts[] = {"a", "spam ", "blocked listed ", "1.", "from IP ",
	    "too many ", "URL domains DKIM domain ", "Client host ", "rate limit ", "\\[TS",
	    "messages to deferred ", "OFR00", "sender ", "x@y.example "};
	struct corpus c;
	int64_t worst = 0;
	(void)state;
	open_corpus(&c);
	for (size_t i = 0; i < COUNT_OF(parts) * 2; i++) {
		char text[1000] = "", line[REPLY_TEXT_MAX + 1];
		struct rule_hit hits[HITS_MAX];
		int64_t least = INT64_MAX;
		snprintf(text, sizeof(text), i % 2 ? "550 5.7.1 " : "421 4.7.28 ");
		while (strlen(text) + strlen(parts[i / 2]) < sizeof(text))
			strcat(text, parts[i / 2]);
		struct str seen = {line, match_line(line, str_of(text))};
		for (int run = 0; run < RUNS; run++) {
			int64_t from = cpu_ns();
			for (size_t j = 0; j < c.list_count; j++)
				matcher_run(c.matcher, str_of(c.lists[j].name), seen, STAGE_DOT,
				    false, hits, HITS_MAX);
			int64_t took = cpu_ns() - from;
			least = took < least ? took : least;
		}
		worst = least > worst ? least : worst;
	}
	if (show_table)
		printf("worst line, all lists: %lld us\n", (long long)worst / 1000);
#ifndef POSTERN_SANITIZED
	if (getenv("POSTERN_VALGRIND") == NULL)
		assert_true(worst < NS_MAX);
#endif
	close_corpus(&c);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_every_reply_is_judged_as_its_entry_says),
	    cmocka_unit_test(test_the_data_is_complete),
	    cmocka_unit_test(test_no_line_takes_long),
	};
	const char *wanted = getenv("POSTERN_CORPUS");
	show_table = (argc > 1 && strcmp(argv[1], "-v") == 0) ||
		     (wanted != NULL && strcmp(wanted, "table") == 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
