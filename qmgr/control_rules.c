/* SPDX-License-Identifier: ISC */
/*
 * rules [LIST]: the rules on replies as the configuration has them, in order, and how often each
 * has matched since qmgr's start, whatever its trigger made of it. Counters are kept by the rule's
 * id, which a reload that leaves the rule alone does not change.
 */
#include "common/rule.h"
#include "common/log.h"
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

enum { RULES_COUNTED_MAX = 65536 }; /* a broken smtp-out may invent ids: their counters end here */

struct rule_count {
	uint64_t hits;
	int64_t last_ms; /* wall */
};

void rule_counts_add(struct qmgr *q, const struct rule_hit *hits, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct rule_count *c = map_find(&q->rule_counts, hits[i].rule);
		if (c == NULL) {
			if (q->rule_counts.n >= RULES_COUNTED_MAX)
				continue;
			c = xcalloc(1, sizeof(*c));
			map_set(&q->rule_counts, hits[i].rule, c);
		}
		c->hits++;
		c->last_ms = clock_wall_ms();
	}
}

void rule_counts_fini(struct qmgr *q)
{
	size_t at = 0;
	for (struct rule_count *c; (c = map_next(&q->rule_counts, &at)) != NULL;)
		free(c);
	map_fini(&q->rule_counts);
}

static json_t *actions(const struct rule *rule)
{
	json_t *list = json_array();
	struct buf b;
	buf_init(&b, 4096);
	for (size_t i = 0; i < rule->action_count; i++) {
		buf_reset(&b);
		rule_action_print(&b, &rule->actions[i]);
		json_array_append_new(list, say_text((struct str){(const char *)b.p, b.n}));
	}
	buf_fini(&b);
	return list;
}

static json_t *rule_row(const struct qmgr *q, const char *list, const struct rule *rule)
{
	const struct conf_node *n = rule->node;
	const struct conf_value *reply = conf_get(n, CO_RULE_reply);
	json_t *row = json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "list", list,
	    "index", say_num(rule->index), "origin", say_origin(q, reply), "reply",
	    say_text(str_of(conf_text(n, CO_RULE_reply))), "stage",
	    say_value(CO_RULE_stage, conf_get(n, CO_RULE_stage)), "trigger",
	    say_text(str_of(conf_text(n, CO_RULE_trigger))), "scope",
	    say_text(str_of(rule_scope_name(rule->scope))), "actions", actions(rule), "for",
	    rule->for_ms < 0 ? json_null() : say_value(CO_RULE_for_, conf_get(n, CO_RULE_for_)));
	const struct rule_count *c = map_find(&q->rule_counts, rule->id);
	json_object_set_new(row, "hits", json_integer(say_num(c != NULL ? c->hits : 0)));
	json_object_set_new(row, "last_hit", c != NULL ? say_time(c->last_ms) : json_null());
	return row;
}

void verb_rules(void *ctx, struct control_reply *reply, const json_t *args, const json_t *options)
{
	struct qmgr *q = ctx;
	const char *wanted = control_arg(args, 0);
	size_t count, found = 0;
	(void)options;
	if (!control_is_serving(q, reply))
		return;
	struct rule_list *lists = rule_lists(q->conf, &count);
	for (size_t i = 0; i < count; i++) {
		if (wanted != NULL && !core_glob(str_of(wanted), str_of(lists[i].name)))
			continue;
		found++;
		for (size_t k = 0; k < lists[i].count; k++)
			control_row(reply, rule_row(q, lists[i].name, &lists[i].rules[k]));
	}
	rule_lists_free(&lists, count);
	if (found == 0 && wanted != NULL)
		control_end(reply, EX_UNAVAILABLE, "no list of rules %.100s", wanted);
	else
		control_end(reply, EX_OK, "%s", "");
}
