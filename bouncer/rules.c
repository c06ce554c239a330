/* SPDX-License-Identifier: ISC */
/*
 * posternctl bouncer match: the same lists, the same matcher and the same order as smtp-out and
 * qmgr have them, over a reply that an operator has at hand. Nothing happens; each rule that would
 * match is told with its place, when its trigger fires, and what each of its actions would do or
 * which rule before it has taken its turn.
 */
#include "bouncer/rules.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEXT_MAX = 5000 }; /* of one action or trigger in words */

void rules_init(struct rules *r, const struct conf *conf)
{
	*r = (struct rules){.conf = conf};
	r->lists = rule_lists(conf, &r->count);
	r->matcher = matcher_new(conf);
}

void rules_fini(struct rules *r)
{
	rule_lists_free(&r->lists, r->count);
	matcher_free(&r->matcher);
	*r = (struct rules){0};
}

static const struct rule_list *find_list(const struct rules *r, struct str name)
{
	for (size_t i = 0; i < r->count; i++)
		if (str_eq(name, str_of(r->lists[i].name)))
			return &r->lists[i];
	return NULL;
}

int rules_check_lists(const struct rules *r, struct str lists, struct str *unknown)
{
	do {
		*unknown = str_cut(&lists, ',');
		if (!find_list(r, *unknown))
			return -ENOENT;
	} while (lists.n > 0);
	return 0;
}

static const struct rule *find_rule(
    const struct rules *r, uint64_t id, const struct rule_list **list)
{
	for (size_t i = 0; i < r->count; i++)
		for (size_t j = 0; j < r->lists[i].count; j++)
			if (r->lists[i].rules[j].id == id) {
				*list = &r->lists[i];
				return &r->lists[i].rules[j];
			}
	return NULL;
}

/* --- words ------------------------------------------------------------------------------------ */

/* What an action does, of the object that its rule's scope names. */
static const char *const does[ACTION_COUNT] = {
    [ACTION_MODE_BACKOFF] = "sets backoff mode",
    [ACTION_MODE_NORMAL] = "ends backoff mode",
    [ACTION_SKIP_MX] = "keeps the mail and tries the next MX host",
    [ACTION_BOUNCE_QUEUE] = "returns all mail that is in the queue",
    [ACTION_BOUNCE_RECIPIENT] = "returns the mail for the recipients the reply is about",
    [ACTION_DEFER_RECIPIENT] = "keeps the mail for the recipients the reply is about",
    [ACTION_DEFER_QUEUE] = "lets the queue wait for its next retry time",
    [ACTION_DISABLE_SOURCE_IP] = "sends nothing more from the source address that got the reply",
    [ACTION_SUSPEND_QUEUE] = "stops the queue for a time",
    [ACTION_SUSPEND_TENANT] = "stops the tenant at this destination for a time",
    [ACTION_SUSPEND_CAMPAIGN] = "stops the campaign at this destination for a time",
    [ACTION_BOUNCE_TENANT] = "returns the tenant's mail for this destination",
    [ACTION_BOUNCE_CAMPAIGN] = "returns the campaign's mail for this destination",
    [ACTION_REROUTE] = "gives the queue's mail to that virtual MTA or pool",
    [ACTION_REQUIRE_TLS] = "sends only over TLS",
    [ACTION_SET] = "sets a stricter value for a time",
    [ACTION_ALERT] = "sends a notice by mail",
};

static json_t *text_of(struct buf *b)
{
	return b->n > 0 ? json_stringn((const char *)b->p, b->n) : json_string("");
}

static json_t *action_row(const struct rule_action *a, unsigned *taken)
{
	struct buf text;
	bool late = (rule_action_groups(a->kind) & *taken) != 0;
	*taken |= rule_action_groups(a->kind);
	buf_init(&text, TEXT_MAX);
	rule_action_print(&text, a);
	json_t *row = json_pack("{s:o, s:s, s:b}", "action", text_of(&text), "does",
	    late ? "nothing: an earlier rule or action excludes it" : does[a->kind], "acts", !late);
	buf_fini(&text);
	return row;
}

static json_t *actions_of(const struct rule *rule, unsigned *taken)
{
	json_t *list = json_array();
	/* A rule that counts leaves the turn to the others until it fires: told as if it fired. */
	for (size_t i = 0; i < rule->action_count; i++)
		json_array_append_new(list, action_row(&rule->actions[i], taken));
	return list;
}

/* LIST:INDEX (FILE:LINE), as logs, events and accounting have it. */
static json_t *place_of(const struct rules *r, const struct rule_list *l, const struct rule *rule)
{
	char origin[512], text[700];
	conf_origin(r->conf, conf_get(rule->node, CO_RULE_reply), origin);
	snprintf(text, sizeof(text), "%s:%zu (%s)", l->name, rule->index, origin);
	return json_string(text);
}

static const char *or_none(const char *text, const char *none)
{
	return text[0] ? text : none;
}

static json_t *for_of(const struct rule *rule)
{
	struct buf b;
	buf_init(&b, 100);
	conf_print_value(&b, CO_RULE_for_, conf_get(rule->node, CO_RULE_for_));
	struct str s = {(const char *)b.p, b.n};
	while (s.n > 1 && s.p[0] == '"')
		s = (struct str){s.p + 1, s.n - 2};
	json_t *text = rule->for_ms > 0 ? json_stringn(s.p, s.n) : json_null();
	buf_fini(&b);
	return text;
}

static json_t *object_of(const struct rule_hit *hit)
{
	static const char *const kinds[HIT_OBJECT_COUNT] = {"", "ip", "netblock", "domain"};
	char text[HIT_OBJECT_MAX + 20];
	if (hit->object_kind == HIT_NOTHING)
		return json_null();
	snprintf(text, sizeof(text), "%s %.*s", kinds[hit->object_kind], STR_ARG(hit->object));
	return json_string(text);
}

void rules_match(
    const struct rules *r, struct str lists, struct str line, enum smtp_stage stage, json_t *rows)
{
	struct rule_hit hits[HITS_MAX];
	unsigned taken = 0;
	bool own = stage == STAGE_CONNECT || stage == STAGE_INTERNAL;
	size_t n = matcher_run(r->matcher, lists, line, stage, own, hits, HITS_MAX);
	for (size_t i = 0; i < n; i++) {
		const struct rule_list *l = NULL;
		const struct rule *rule = find_rule(r, hits[i].rule, &l);
		if (!rule)
			continue;
		json_t *row = json_pack("{s:o, s:s, s:s, s:s, s:o, s:o, s:o}", "rule",
		    place_of(r, l, rule), "reply", conf_text(rule->node, CO_RULE_reply), "trigger",
		    or_none(conf_text(rule->node, CO_RULE_trigger), "immediate"), "scope",
		    rule_scope_name(rule->scope), "for", for_of(rule), "object",
		    object_of(&hits[i]), "actions", actions_of(rule, &taken));
		json_array_append_new(rows, row);
	}
}
