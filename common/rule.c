/* SPDX-License-Identifier: ISC */
/*
 * What the texts of a rule mean. One parser each for actions, triggers and stages, which the check
 * of the configuration, smtp-out, qmgr and the bouncer share: what one accepts, all understand
 * alike.
 *
 * A rule's identity is a hash of what it looks for, not its place: when a list is edited while
 * replies are on their way, a hit finds the rule that made it or none. Two rules of a list that
 * look for the same are told apart by their order.
 *
 * hit_take() and alert_take() read what another process wrote and trust none of it.
 */
#include "common/rule.h"
#include "common/addr.h"
#include "common/utf8.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	SHOWN_MAX = 60,	   /* bytes of a wrong text that an error repeats */
	FACTOR_ONE = 1000, /* permille */
	/* Stages of the dialogue: where nothing is named, the peer's replies in all of these. */
	PEER_STAGES = (1u << STAGE_GREETING) | (1u << STAGE_EHLO) | (1u << STAGE_STARTTLS) |
		      (1u << STAGE_AUTH) | (1u << STAGE_MAIL) | (1u << STAGE_RCPT) |
		      (1u << STAGE_DATA) | (1u << STAGE_DOT),
};

static int refuse(char why[200], struct str s, const char *what)
{
	struct str shown = {s.p, s.n < SHOWN_MAX ? s.n : SHOWN_MAX};
	if (!utf8_printable(shown))
		shown = STR("(unprintable)");
	snprintf(why, 200, "\"%.*s\" %s", STR_ARG(shown), what);
	return -EINVAL;
}

static struct str trim(struct str s)
{
	while (s.n > 0 && s.p[0] == ' ')
		s.p++, s.n--;
	while (s.n > 0 && s.p[s.n - 1] == ' ')
		s.n--;
	return s;
}

/* --- actions ---------------------------------------------------------------------------------- */

enum { /* of actions that exclude each other */
	GROUP_MODE = 1,
	GROUP_RECIPIENT = 2,
	GROUP_QUEUE = 4,
	GROUP_TENANT = 8,
	GROUP_CAMPAIGN = 16,
	GROUP_REROUTE = 32,
};
enum argument { ARG_NONE, ARG_NAME, ARG_ADDRESS, ARG_SETTING };
static const struct action_def {
	const char *name;
	enum argument argument;
	unsigned groups;
} actions[ACTION_COUNT] = {
    [ACTION_MODE_BACKOFF] = {"mode=backoff", ARG_NONE, GROUP_MODE},
    [ACTION_MODE_NORMAL] = {"mode=normal", ARG_NONE, GROUP_MODE},
    [ACTION_SKIP_MX] = {"skip-mx", ARG_NONE, GROUP_RECIPIENT},
    [ACTION_BOUNCE_QUEUE] = {"bounce-queue", ARG_NONE, GROUP_QUEUE | GROUP_RECIPIENT},
    [ACTION_BOUNCE_RECIPIENT] = {"bounce-recipient", ARG_NONE, GROUP_RECIPIENT},
    [ACTION_DEFER_RECIPIENT] = {"defer-recipient", ARG_NONE, GROUP_RECIPIENT},
    [ACTION_DEFER_QUEUE] = {"defer-queue", ARG_NONE, GROUP_QUEUE},
    [ACTION_DISABLE_SOURCE_IP] = {"disable-source-ip", ARG_NONE, 0},
    [ACTION_SUSPEND_QUEUE] = {"suspend-queue", ARG_NONE, GROUP_QUEUE},
    [ACTION_SUSPEND_TENANT] = {"suspend-tenant", ARG_NONE, GROUP_TENANT},
    [ACTION_SUSPEND_CAMPAIGN] = {"suspend-campaign", ARG_NONE, GROUP_CAMPAIGN},
    [ACTION_BOUNCE_TENANT] = {"bounce-tenant", ARG_NONE, GROUP_TENANT},
    [ACTION_BOUNCE_CAMPAIGN] = {"bounce-campaign", ARG_NONE, GROUP_CAMPAIGN},
    [ACTION_REROUTE] = {"reroute", ARG_NAME, GROUP_REROUTE},
    [ACTION_REQUIRE_TLS] = {"require-tls", ARG_NONE, 0},
    [ACTION_SET] = {"set", ARG_SETTING, 0},
    [ACTION_ALERT] = {"alert", ARG_ADDRESS, 0},
};

/* Options of a queue of which one value is stricter than another. */
static const enum conf_opt settable[] = {
    CO_DOMAIN_max_smtp_out,
    CO_DOMAIN_max_connect_rate,
    CO_DOMAIN_max_msg_rate,
    CO_DOMAIN_max_data_volume_rate,
    CO_DOMAIN_max_msg_per_connection,
    CO_DOMAIN_max_rcpt_per_message,
    CO_DOMAIN_smtp_out_rampup_interval,
    CO_DOMAIN_source_ip_max_smtp_out,
    CO_DOMAIN_source_ip_max_connect_rate,
    CO_DOMAIN_source_ip_max_msg_rate,
    CO_DOMAIN_retry_after,
    CO_DOMAIN_retry_recipients_after,
};

const char *rule_action_name(enum rule_action_kind kind)
{
	return (unsigned)kind < COUNT_OF(actions) ? actions[kind].name : "?";
}

unsigned rule_action_groups(enum rule_action_kind kind)
{
	return (unsigned)kind < COUNT_OF(actions) ? actions[kind].groups : 0;
}

int rule_set_opt(struct str name)
{
	for (size_t i = 0; i < COUNT_OF(settable); i++)
		if (str_eq(name, str_of(conf_opt_key(settable[i]))))
			return (int)settable[i];
	return -1;
}

void rule_action_fini(struct rule_action *a)
{
	free(a->name);
	free(a->value);
	*a = (struct rule_action){0};
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* "0.5", ".25", "0.333": more than nothing, less than one. */
static int factor_parse(struct str s, uint32_t *permille)
{
	uint32_t value = 0, place = FACTOR_ONE;
	if (s.n > 0 && s.p[0] == '0')
		s.p++, s.n--;
	if (s.n < 2 || s.n > 4 || s.p[0] != '.')
		return -EINVAL;
	for (size_t i = 1; i < s.n; i++) {
		if (!is_digit(s.p[i]))
			return -EINVAL;
		place /= 10;
		value += (uint32_t)(s.p[i] - '0') * place;
	}
	if (value == 0)
		return -EINVAL;
	*permille = value;
	return 0;
}

static bool takes_factor(enum conf_opt opt)
{
	enum conf_kind kind = conf_opt_kind(opt);
	return kind == KIND_INT || kind == KIND_AUTO_INT || kind == KIND_RATE;
}

static int parse_setting(struct str text, struct rule_action *a, char why[200])
{
	struct str value = text, name = trim(str_cut(&value, '='));
	struct conf_value parsed;
	char problem[200];
	int opt = rule_set_opt(name);
	value = trim(value);
	if (opt < 0 || value.n == 0)
		return refuse(why, text,
		    "is not a setting that a rule may change, such as max-msg-rate=10/m");
	if (value.p[0] == '*') {
		if (!takes_factor((enum conf_opt)opt) ||
		    factor_parse((struct str){value.p + 1, value.n - 1}, &a->factor_permille) != 0)
			return refuse(
			    why, text, "has no factor between 0 and 1 for a limit, such as *0.5");
	} else if (conf_parse_value((enum conf_opt)opt, value, &parsed, problem) != 0) {
		snprintf(why, 200, "%.199s", problem);
		return -EINVAL;
	} else {
		/* "auto" and "unlimited" are no limits; in numbers they stand as 0, -1, -2. */
		bool no_limit = takes_factor((enum conf_opt)opt) && parsed.num <= 0;
		conf_value_fini(&parsed);
		if (no_limit)
			return refuse(why, text, "is no limit, and a rule never raises one");
		a->value = str_dup(value);
	}
	a->name = str_dup(name);
	return 0;
}

static int parse_name(struct str text, struct rule_action *a, char why[200])
{
	struct conf_value v;
	char problem[200];
	if (text.n == 0 || conf_parse_value(CO_VMTA_name, text, &v, problem) != 0)
		return refuse(why, text, "is not the name of a virtual MTA or pool");
	conf_value_fini(&v);
	a->name = str_dup(text);
	return 0;
}

static int parse_address(struct str text, struct rule_action *a, char why[200])
{
	struct mailbox m;
	char printed[ADDRESS_MAX + 1];
	if (text.n > ADDRESS_MAX || mailbox_parse(&m, text, false) != 0)
		return refuse(why, text, "is not a mail address");
	mailbox_print(printed, &m);
	a->name = xstrdup(printed);
	return 0;
}

/* What stands behind the action's word: "=X" of most, " X" of set. */
static bool take_word(struct str text, const struct action_def *d, struct str *argument)
{
	struct str name = str_of(d->name);
	char sign = d->argument == ARG_SETTING ? ' ' : '=';
	if (!str_starts_nocase(text, name))
		return false;
	*argument = (struct str){text.p + name.n, text.n - name.n};
	if (d->argument == ARG_NONE)
		return argument->n == 0;
	if (argument->n == 0 || argument->p[0] != sign)
		return false;
	*argument = trim((struct str){argument->p + 1, argument->n - 1});
	return true;
}

int rule_action_parse(struct str text, struct rule_action *a, char why[200])
{
	struct str whole = trim(text), argument;
	*a = (struct rule_action){0};
	why[0] = '\0';
	if (str_eq_nocase(whole, STR("bounce-rcpt"))) { /* PowerMTA's name */
		a->kind = ACTION_BOUNCE_RECIPIENT;
		return 0;
	}
	for (unsigned i = 0; i < COUNT_OF(actions); i++) {
		if (!take_word(whole, &actions[i], &argument))
			continue;
		a->kind = (enum rule_action_kind)i;
		switch (actions[i].argument) {
		case ARG_NAME:
			return parse_name(argument, a, why);
		case ARG_ADDRESS:
			return parse_address(argument, a, why);
		case ARG_SETTING:
			return parse_setting(argument, a, why);
		case ARG_NONE:
			return 0;
		}
	}
	return refuse(why, whole, "is not an action");
}

void rule_action_print(struct buf *out, const struct rule_action *a)
{
	buf_cstr(out, rule_action_name(a->kind));
	if (a->kind == ACTION_REROUTE || a->kind == ACTION_ALERT)
		buf_printf(out, "=%s", a->name);
	if (a->kind == ACTION_SET) {
		buf_printf(out, " %s=", a->name);
		if (a->factor_permille == 0)
			buf_cstr(out, a->value);
		else
			buf_printf(out, "*0.%03u", a->factor_permille);
	}
	/* 500 permille were written as 0.5. */
	while (a->kind == ACTION_SET && a->factor_permille != 0 && !out->failed &&
	       out->p[out->n - 1] == '0')
		out->n--;
}

/* --- triggers, stages, scopes ----------------------------------------------------------------- */

/* "10m"; "m" and "h" alone are one of them, as in rates. */
static int window_parse(struct str s, int64_t *ms)
{
	struct conf_value v;
	char why[200], one[8];
	s = trim(s);
	if (s.n == 1 && !is_digit(s.p[0])) {
		snprintf(one, sizeof(one), "1%c", s.p[0]);
		s = str_of(one);
	}
	if (s.n == 0 || conf_parse_value(CO_RULE_for_, s, &v, why) != 0)
		return -EINVAL;
	*ms = v.num;
	conf_value_fini(&v);
	return *ms > 0 ? 0 : -EINVAL;
}

static int number_parse(struct str s, uint32_t max, uint32_t *n)
{
	unsigned long long value = 0;
	if (str_number(trim(s), max, &value) != 0 || value == 0)
		return -EINVAL;
	*n = (uint32_t)value;
	return 0;
}

static int share_parse(struct str s, struct rule_trigger *t)
{
	t->kind = TRIGGER_SHARE;
	if (number_parse(str_cut(&s, '%'), 100, &t->percent) != 0)
		return -EINVAL;
	s = trim(s);
	if (!str_eq_nocase(str_cut(&s, ' '), STR("of")))
		return -EINVAL;
	s = trim(s);
	if (number_parse(str_cut(&s, ' '), RULE_TRIGGER_MAX, &t->n) != 0)
		return -EINVAL;
	s = trim(s);
	if (!str_eq_nocase(str_cut(&s, ' '), STR("in")))
		return -EINVAL;
	return window_parse(s, &t->window_ms);
}

static int count_parse(struct str s, struct rule_trigger *t)
{
	t->kind = TRIGGER_COUNT;
	if (number_parse(str_cut(&s, '/'), RULE_TRIGGER_MAX, &t->n) != 0)
		return -EINVAL;
	return window_parse(s, &t->window_ms);
}

int rule_trigger_parse(struct str text, struct rule_trigger *t, char why[200])
{
	struct str s = trim(text);
	*t = (struct rule_trigger){.kind = TRIGGER_IMMEDIATE, .n = 1};
	why[0] = '\0';
	if (str_eq_nocase(s, STR("immediate")))
		return 0;
	bool share = s.n > 0 && memchr(s.p, '%', s.n) != NULL;
	if ((share ? share_parse(s, t) : count_parse(s, t)) == 0)
		return 0;
	return refuse(
	    why, s, "is not a trigger: immediate, 3/10m, or 20% of 50 in 10m; at most 100000");
}

int rule_stage_parse(struct str text, uint32_t *bit, char why[200])
{
	struct str s = trim(text);
	why[0] = '\0';
	for (unsigned i = 0; i < STAGE_COUNT; i++)
		if (i != STAGE_QUIT && str_eq_nocase(s, str_of(stage_name(i)))) {
			*bit = 1u << i;
			return 0;
		}
	return refuse(why, s,
	    "is not a stage: connect, greeting, ehlo, starttls, auth, mail, rcpt, data, dot, "
	    "internal");
}

const char *rule_scope_name(unsigned scope)
{
	static const char *const names[RULE_SCOPE_COUNT] = {"queue", "path", "source",
	    "virtual-mta", "provider", "tenant", "campaign", "sender-domain"};
	return scope < COUNT_OF(names) ? names[scope] : "?";
}

/* --- rules and lists -------------------------------------------------------------------------- */

static uint32_t read_stages(const struct conf_node *node)
{
	const struct conf_value *v = conf_get(node, CO_RULE_stage);
	uint32_t stages = 0;
	for (size_t i = 0; i < v->count; i++) {
		uint32_t bit = 0;
		char why[200];
		if (rule_stage_parse(str_of(v->texts[i]), &bit, why) == 0)
			stages |= bit;
	}
	return v->count > 0 ? stages : PEER_STAGES;
}

static uint64_t hash(uint64_t h, const void *p, size_t n)
{
	const unsigned char *byte = p;
	for (size_t i = 0; i < n; i++)
		h = (h ^ byte[i]) * UINT64_C(1099511628211); /* FNV-1a */
	return h;
}

/* Rules of the list that look for the same and stand before this one. */
static uint32_t same_before(const struct conf_node *node, uint32_t stages)
{
	const char *reply = conf_text(node, CO_RULE_reply);
	uint32_t n = 0;
	for (size_t i = 0; node->parent && i < node->parent->child_count; i++) {
		const struct conf_node *other = node->parent->children[i];
		if (other == node)
			break;
		n += other->type == CONF_RULE &&
		     strcmp(conf_text(other, CO_RULE_reply), reply) == 0 &&
		     read_stages(other) == stages;
	}
	return n;
}

static uint64_t rule_hash(const char *list, const struct conf_node *node, uint32_t stages)
{
	const char *reply = conf_text(node, CO_RULE_reply);
	uint32_t nth = same_before(node, stages);
	uint64_t h = hash(UINT64_C(14695981039346656037), list, strlen(list) + 1);
	h = hash(h, reply, strlen(reply) + 1);
	h = hash(h, &stages, sizeof(stages));
	return hash(h, &nth, sizeof(nth));
}

void rule_read(struct rule *r, const char *list, const struct conf_node *node, size_t index)
{
	const struct conf_value *v = conf_get(node, CO_RULE_actions);
	char why[200];
	*r = (struct rule){.node = node,
	    .index = index,
	    .stages = read_stages(node),
	    .scope = (enum rule_scope)conf_num(node, CO_RULE_scope),
	    .for_ms = conf_num(node, CO_RULE_for_)};
	r->id = rule_hash(list, node, r->stages);
	if (rule_trigger_parse(str_of(conf_text(node, CO_RULE_trigger)), &r->trigger, why) != 0)
		r->trigger = (struct rule_trigger){.kind = TRIGGER_IMMEDIATE, .n = 1};
	r->actions = xcalloc(v->count, sizeof(*r->actions));
	for (size_t i = 0; i < v->count; i++)
		if (rule_action_parse(str_of(v->texts[i]), &r->actions[r->action_count], why) == 0)
			r->action_count++;
}

void rule_fini(struct rule *r)
{
	for (size_t i = 0; i < r->action_count; i++)
		rule_action_fini(&r->actions[i]);
	free(r->actions);
	*r = (struct rule){0};
}

static void read_list(struct rule_list *l, const struct conf_node *node)
{
	const struct conf_node *n = NULL;
	size_t count = 0;
	while ((n = conf_next(node, CONF_RULE, n)) != NULL)
		count++;
	*l = (struct rule_list){.name = conf_text(node, CO_PATTERN_LIST_name),
	    .rules = xcalloc(count, sizeof(struct rule))};
	while ((n = conf_next(node, CONF_RULE, n)) != NULL) {
		rule_read(&l->rules[l->count], l->name, n, l->count + 1);
		l->count++;
	}
}

struct rule_list *rule_lists(const struct conf *c, size_t *count)
{
	const struct conf_node *n = NULL;
	size_t lists = 0;
	while ((n = conf_next(c->root, CONF_PATTERN_LIST, n)) != NULL)
		lists++;
	struct rule_list *all = xcalloc(lists, sizeof(*all));
	*count = 0;
	while ((n = conf_next(c->root, CONF_PATTERN_LIST, n)) != NULL)
		read_list(&all[(*count)++], n);
	return all;
}

void rule_lists_free(struct rule_list **lists, size_t count)
{
	for (size_t i = 0; *lists && i < count; i++) {
		for (size_t j = 0; j < (*lists)[i].count; j++)
			rule_fini(&(*lists)[i].rules[j]);
		free((*lists)[i].rules);
	}
	free(*lists);
	*lists = NULL;
}

/* --- hits ------------------------------------------------------------------------------------- */

static bool is_control(char c)
{
	return (unsigned char)c < ' ' || c == 0x7f;
}

static bool has_control(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (is_control(s.p[i]))
			return true;
	return false;
}

void hit_put(struct buf *b, const struct rule_hit *hit)
{
	bool object = hit->object_kind != HIT_NOTHING && hit->object.n > 0 &&
		      hit->object.n <= HIT_OBJECT_MAX && !has_control(hit->object);
	buf_u64(b, hit->rule);
	buf_u16(b, hit->ordinal);
	buf_u8(b, hit->stage);
	buf_u8(b, object ? hit->object_kind : HIT_NOTHING);
	buf_str16(b, object ? hit->object : STR(""));
}

int hit_take(struct rd *r, struct rule_hit *hit)
{
	if (r->n == 0 && !r->bad)
		return 0;
	hit->rule = rd_u64(r);
	hit->ordinal = rd_u16(r);
	hit->stage = rd_u8(r);
	hit->object_kind = rd_u8(r);
	hit->object = rd_str16(r);
	if (r->bad || hit->stage >= STAGE_COUNT || hit->object_kind >= HIT_OBJECT_COUNT ||
	    hit->object.n > HIT_OBJECT_MAX || has_control(hit->object) ||
	    (hit->object_kind == HIT_NOTHING) != (hit->object.n == 0)) {
		r->bad = true;
		return -EBADMSG;
	}
	return 1;
}

/* --- notices to operators --------------------------------------------------------------------- */

/* What fits into max bytes, whole characters only. */
static struct str cut_text(struct str s, size_t max)
{
	if (s.n <= max)
		return s;
	s.n = max;
	while (s.n > 0 && ((unsigned char)s.p[s.n] & 0xC0) == 0x80)
		s.n--;
	return s;
}

/* Whole addresses only. */
static struct str cut_addresses(struct str s, size_t max)
{
	if (s.n <= max)
		return s;
	s.n = max + 1; /* a comma may stand right behind what fits */
	while (s.n > 0 && s.p[s.n - 1] != ',')
		s.n--;
	s.n -= s.n > 0;
	return s;
}

static void put_text(struct buf *b, struct str s, bool lines)
{
	unsigned char *to = buf_reserve(b, 2 + s.n);
	if (!to)
		return;
	buf_u16(b, (uint16_t)s.n);
	for (size_t i = 0; i < s.n; i++)
		to[2 + i] =
		    (unsigned char)(!is_control(s.p[i]) || (lines && s.p[i] == '\n') ? s.p[i]
										     : '?');
	b->n += s.n;
}

static struct str take_text(struct rd *r, size_t max, bool lines)
{
	struct str s = rd_str16(r);
	if (s.n > max)
		r->bad = true;
	for (size_t i = 0; i < s.n && !r->bad; i++)
		if (is_control(s.p[i]) && !(lines && s.p[i] == '\n'))
			r->bad = true;
	return s;
}

void alert_put(struct buf *b, const struct alert *a)
{
	put_text(b, cut_addresses(a->to, ALERT_TO_MAX), false);
	put_text(b, cut_text(a->subject, ALERT_SUBJECT_MAX), false);
	put_text(b, cut_text(a->text, ALERT_TEXT_MAX), true);
}

int alert_take(struct str bytes, struct alert *a)
{
	struct rd r = rd_of(bytes.p, bytes.n);
	a->to = take_text(&r, ALERT_TO_MAX, false);
	a->subject = take_text(&r, ALERT_SUBJECT_MAX, false);
	a->text = take_text(&r, ALERT_TEXT_MAX, true);
	return r.bad || r.n != 0 || a->to.n == 0 ? -EBADMSG : 0;
}
