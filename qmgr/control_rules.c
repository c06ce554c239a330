/* SPDX-License-Identifier: ISC */
/*
 * rules [LIST]: the rules on replies as the configuration has them, in order.
 */
#include "common/rule.h"
#include "common/log.h"
#include "qmgr/control.h"
#include <stdlib.h>
#include <sysexits.h>

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
