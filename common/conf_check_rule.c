/* SPDX-License-Identifier: ISC */
/*
 * Rules on replies: their texts parse (common/rule.h, common/match.h), what they name is there, and
 * what they ask for can be done where they ask for it. An empty list of actions is fine: so a later
 * file switches a named rule off.
 */
#include "common/conf_check.h"
#include "common/match.h"
#include "common/rule.h"

/* All actions of one rule, as bits 1 << kind. */
typedef uint32_t action_set;

static bool needs_time(enum rule_action_kind kind)
{
	return kind == ACTION_SUSPEND_QUEUE || kind == ACTION_SUSPEND_TENANT ||
	       kind == ACTION_SUSPEND_CAMPAIGN || kind == ACTION_SET;
}

static bool is_mode(enum rule_action_kind kind)
{
	return kind == ACTION_MODE_BACKOFF || kind == ACTION_MODE_NORMAL;
}

static bool is_of_tenant(int64_t scope)
{
	return scope == RULE_TENANT || scope == RULE_CAMPAIGN || scope == RULE_SENDER_DOMAIN;
}

/* What a tenant or campaign can have a limit of its own for. */
static bool is_of_budget(struct str name)
{
	int opt = rule_set_opt(name);
	return opt == CO_DOMAIN_max_smtp_out || opt == CO_DOMAIN_max_connect_rate ||
	       opt == CO_DOMAIN_max_msg_rate || opt == CO_DOMAIN_max_data_volume_rate;
}

static void check_action(
    struct check *k, const struct conf_node *rule, const struct rule_action *a, bool *timeless)
{
	int64_t scope = conf_num(rule, CO_RULE_scope);
	const char *name = rule_action_name(a->kind);
	bool has_time = conf_num(rule, CO_RULE_for_) >= 0 || check_touched(rule, CO_RULE_for_);
	if (needs_time(a->kind) && !has_time && !*timeless) {
		*timeless = true;
		check_value(
		    k, rule, CO_RULE_actions, "%s needs \"for\": how long does it last?", name);
	}
	if (is_mode(a->kind) && (scope == RULE_PATH || scope == RULE_SOURCE))
		check_value(k, rule, CO_RULE_actions,
		    "%s cannot act on scope \"%s\": modes belong to queues", name,
		    rule_scope_name((unsigned)scope));
	if (a->kind == ACTION_SET && is_of_tenant(scope) && !is_of_budget(str_of(a->name)))
		check_value(k, rule, CO_RULE_actions,
		    "set %s cannot act on scope \"%s\": the queue is others', too; what a tenant or "
		    "campaign can be limited by is max-smtp-out, max-connect-rate, max-msg-rate, "
		    "max-data-volume-rate",
		    a->name, rule_scope_name((unsigned)scope));
	if (a->kind == ACTION_REROUTE && check_sender(k, a->name) == NULL)
		check_value(k, rule, CO_RULE_actions,
		    "reroute: no virtual MTA or pool is named \"%s\"", a->name);
}

static void check_actions(struct check *k, const struct conf_node *rule)
{
	const struct conf_value *v = conf_get(rule, CO_RULE_actions);
	action_set seen = 0;
	bool timeless = false;
	char why[200];
	for (size_t i = 0; i < v->count; i++) {
		struct rule_action a;
		if (rule_action_parse(str_of(v->texts[i]), &a, why) != 0) {
			check_value(k, rule, CO_RULE_actions, "%s", why);
			continue;
		}
		seen |= 1u << a.kind;
		check_action(k, rule, &a, &timeless);
		rule_action_fini(&a);
	}
	if ((seen & 1u << ACTION_MODE_BACKOFF) != 0 && (seen & 1u << ACTION_MODE_NORMAL) != 0)
		check_value(k, rule, CO_RULE_actions, "mode=backoff and mode=normal at once");
}

static void check_rule(struct check *k, const struct conf_node *rule)
{
	const struct conf_value *stages = conf_get(rule, CO_RULE_stage);
	const char *reply = conf_text(rule, CO_RULE_reply);
	struct rule_trigger trigger;
	uint32_t bit;
	char why[200];
	const char *wrong =
	    check_given(rule, CO_RULE_reply) != NULL ? match_pattern_error(str_of(reply)) : NULL;
	if (wrong != NULL)
		check_value(k, rule, CO_RULE_reply, "%s", wrong);
	for (size_t i = 0; i < stages->count; i++)
		if (rule_stage_parse(str_of(stages->texts[i]), &bit, why) != 0)
			check_value(k, rule, CO_RULE_stage, "%s", why);
	if (rule_trigger_parse(str_of(conf_text(rule, CO_RULE_trigger)), &trigger, why) != 0)
		check_value(k, rule, CO_RULE_trigger, "%s", why);
	check_actions(k, rule);
}

void check_rules(struct check *k)
{
	const struct conf_node *list = NULL, *rule = NULL;
	while ((list = conf_next(k->conf->root, CONF_PATTERN_LIST, list)) != NULL)
		while ((rule = conf_next(list, CONF_RULE, rule)) != NULL)
			check_rule(k, rule);
}
