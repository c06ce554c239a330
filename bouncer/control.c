/* SPDX-License-Identifier: ISC */
/* posternctl bouncer. */
#include "bouncer/bouncer.h"
#include <sysexits.h>

static void set_number(json_t *row, const char *key, uint64_t value)
{
	json_object_set_new(row, key, json_integer((json_int_t)value));
}

static void verb_status(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	const struct bouncer *b = ctx;
	json_t *row = json_object();
	(void)args;
	(void)options;
	set_number(row, "requests", b->stats.asked);
	set_number(row, "waiting", b->waiting.count);
	set_number(row, "waiting_bytes", b->waiting.bytes);
	set_number(row, "writing", b->writing);
	set_number(row, "failed", b->stats.reports[DSN_FAILED]);
	set_number(row, "delayed", b->stats.reports[DSN_DELAYED]);
	set_number(row, "success", b->stats.reports[DSN_SUCCESS]);
	set_number(row, "alerts", b->stats.reports[DSN_ALERT]);
	set_number(row, "none", b->stats.none);
	set_number(row, "write_refused", b->stats.refused);
	set_number(row, "unreadable", b->stats.unreadable);
	json_object_set_new(row, "qmgr", json_boolean(b->qmgr != NULL));
	control_row(reply, row);
	control_end(reply, EX_OK, "%s", "");
}

static const char *name_of_stage(const json_t *options)
{
	const char *stage = control_option(options, "stage");
	return stage ? stage : "rcpt";
}

static void verb_match(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	const struct bouncer *b = ctx;
	struct str lists = str_of(control_arg(args, 0)), unknown;
	char line[REPLY_TEXT_MAX + 1], why[200];
	uint32_t bit = 0;
	if (rule_stage_parse(str_of(name_of_stage(options)), &bit, why) != 0) {
		control_end(reply, EX_USAGE, "--stage: %s", why);
		return;
	}
	if (rules_check_lists(&b->rules, lists, &unknown) != 0) {
		control_end(reply, EX_USAGE, "no smtp-pattern-list is named %.*s",
		    (int)(unknown.n < 100 ? unknown.n : 100), unknown.p);
		return;
	}
	struct str seen = {line, match_line(line, str_of(control_arg(args, 1)))};
	json_t *rows = json_array(), *row;
	size_t i;
	rules_match(&b->rules, lists, seen, (enum smtp_stage)__builtin_ctz(bit), rows);
	json_array_foreach(rows, i, row) control_row(reply, json_incref(row));
	json_decref(rows);
	control_end(reply, EX_OK, "%s", "");
}

/* The enhanced code of a reply, if it has one. */
static struct str status_of(struct str line, char status[16])
{
	struct reply_parser p;
	char text[REPLY_TEXT_MAX + 2];
	size_t n = str_copy(text, sizeof(text) - 1, line);
	text[n] = '\n';
	struct str in = {text, n + 1};
	reply_parser_init(&p);
	if (reply_parse(&p, &in, NULL, NULL) != 1 || !p.reply.has_status)
		return STR("");
	str_copy(status, 16, str_of(p.reply.status));
	return str_of(status);
}

static void verb_classify(
    void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct bouncer *b = ctx;
	char line[REPLY_TEXT_MAX + 1], status[16], why[200];
	uint32_t bit = 0;
	unsigned stage = STAGE_COUNT;
	const char *name = control_option(options, "stage");
	if (name && rule_stage_parse(str_of(name), &bit, why) != 0) {
		control_end(reply, EX_USAGE, "--stage: %s", why);
		return;
	}
	if (name)
		stage = (unsigned)__builtin_ctz(bit);
	if (!b->classifier)
		b->classifier = classifier_new();
	struct str seen = {line, match_line(line, str_of(control_arg(args, 0)))};
	struct str code = status_of(seen, status);
	enum bounce_category c = classify(b->classifier, code, seen, stage);
	control_row(reply, json_pack("{s:s, s:s%, s:s%}", "category", bounce_category_name(c),
			       "status", code.p, code.n, "line", seen.p, seen.n));
	control_end(reply, EX_OK, "%s", "");
}

const struct control_verb bouncer_verbs[] = {
    {"status", "status", "requests for reports and what became of them", 0, 0, verb_status},
    {"classify", "classify TEXT [--stage=STAGE]", "the category of a bounce with that reply", 1, 1,
	verb_classify},
    {"match", "match LIST TEXT [--stage=STAGE]",
	"which rules of the list a reply would fire, and what they would do", 2, 2, verb_match},
};
const size_t bouncer_verb_count = COUNT_OF(bouncer_verbs);
