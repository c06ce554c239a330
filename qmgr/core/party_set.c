/* SPDX-License-Identifier: ISC */
/*
 * What rules set for a tenant or campaign at a destination (`set NAME=VALUE`), and its end.
 *
 * A factor is of the tightest rate configured for that tenant or campaign there, else
 * (max-msg-rate) of what it sent there in the last minute, (max-smtp-out) of what it has in flight;
 * the number is fixed when the rule fires. What is set again lasts longer, and what was on its way
 * back holds again. When the time is over a limit returns in steps (party_bound.c) and then goes.
 *
 * A party keeps PARTY_SETTINGS at most: another one replaces that which ends first. Settings are
 * part of their party's state.
 */
#include "qmgr/core/party.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static bool kind_of(struct str option, enum limit_kind *kind, enum conf_opt *opt)
{
	static const struct {
		enum conf_opt opt;
		enum limit_kind kind;
	} known[] = {{CO_DOMAIN_max_smtp_out, LIMIT_CONNS},
	    {CO_DOMAIN_max_connect_rate, LIMIT_CONNECTS}, {CO_DOMAIN_max_msg_rate, LIMIT_MSGS},
	    {CO_DOMAIN_max_data_volume_rate, LIMIT_BYTES}};

	for (size_t i = 0; i < COUNT_OF(known); i++)
		if (str_eq(str_of(conf_opt_key(known[i].opt)), option)) {
			*kind = known[i].kind;
			*opt = known[i].opt;
			return true;
		}
	return false;
}

static uint32_t in_flight(const struct core *core, const struct party *p, const struct share *s)
{
	uint32_t n = 0;

	for (struct link *l = s->queue->conns.next; l != &s->queue->conns; l = l->next) {
		const struct conn *c = OWNER(l, struct conn, in_queue);

		for (uint32_t i = 0; i < c->tx_count; i++) {
			const struct lane *lane = party_lane_of(core, c->tx[i]);

			n += lane && lane->share == s &&
			     (!p->campaign || lane->campaign == p->campaign);
		}
	}
	return n;
}

/* What it sends there now, over all virtual MTAs. */
static void measure(const struct core *core, const struct party *p, uint64_t *rcpts, uint32_t *txs)
{
	const struct tenant *t = tenant_find(core, name_str(p->tenant));

	*rcpts = *txs = 0;
	for (struct link *l = t ? t->shares.next : NULL; l && l != &t->shares; l = l->next) {
		struct share *s = OWNER(l, struct share, in_tenant);

		if (s->queue->dest->name != p->at)
			continue;
		*txs += in_flight(core, p, s);
		if (!p->campaign)
			*rcpts += party_pace(&s->pace, core->now);
		for (struct link *k = s->lanes.next; p->campaign && k != &s->lanes; k = k->next)
			if (OWNER(k, struct lane, in_owner)->campaign == p->campaign)
				*rcpts +=
				    party_pace(&OWNER(k, struct lane, in_owner)->pace, core->now);
	}
}

static int part_of(
    const struct core *core, const struct party *p, struct party_setting *s, uint32_t permille)
{
	const struct share *at = party_home(core, p);
	const struct budget *of[] = {at ? at->of->budget : NULL, at ? at->at[AT_PROVIDER] : NULL,
	    at ? at->at[AT_DOMAIN] : NULL};
	uint64_t rcpts;
	uint32_t txs;

	measure(core, p, &rcpts, &txs);
	if (s->kind == LIMIT_CONNS) {
		for (size_t i = 0; i < COUNT_OF(of); i++)
			if (of[i] && of[i]->of[LIMIT_CONNS] &&
			    (s->max == 0 || of[i]->of[LIMIT_CONNS]->max < s->max))
				s->max = of[i]->of[LIMIT_CONNS]->max;
		s->max = (uint32_t)((uint64_t)(s->max ? s->max : txs) * permille / 1000);
		s->max = s->max ? s->max : 1;
		return 0;
	}
	s->rate = party_configured_rate(p, at, s->kind);
	if (s->rate.n == 0 && s->kind == LIMIT_MSGS)
		s->rate = (struct rate){
		    rcpts ? rcpts : 1, (rcpts + 59) / 60 ? (rcpts + 59) / 60 : 1, MINUTE};
	if (s->rate.n == 0)
		return -ENODATA;
	s->rate = party_rate_times(&s->rate, permille, 1000);
	return 0;
}

static int read_value(const struct core *core, const struct party *p, struct party_setting *s,
    const struct rule_action *a)
{
	struct conf_value v = {0};
	enum conf_opt opt;
	char why[200];
	int rc = 0;

	if (!kind_of(str_of(a->name), &s->kind, &opt))
		return -ENOTSUP;
	if (a->factor_permille)
		return part_of(core, p, s, a->factor_permille);
	if (conf_parse_value(opt, str_of(a->value), &v, why))
		return -ENOTSUP;
	if (s->kind == LIMIT_CONNS)
		s->max = v.num > 0 ? (uint32_t)v.num : 0;
	else
		s->rate = rate_read(&v);
	if (s->max == 0 && s->rate.n == 0) /* unlimited: nothing to be strict about */
		rc = -ENODATA;
	conf_value_fini(&v);
	return rc;
}

static void setting_fini(struct party_setting *s)
{
	free(s->what);
	free(s->rule);
	free(s->text);
}

void party_setting_drop(struct party *p, uint32_t i)
{
	setting_fini(&p->set[i]);
	p->set[i] = p->set[--p->set_count];
}

struct party_setting *party_setting_find(const struct party *p, struct str what)
{
	for (uint32_t i = 0; i < p->set_count; i++)
		if (str_eq(str_of(p->set[i].what), what))
			return &p->set[i];
	return NULL;
}

void party_setting_put(struct party *p, const struct party_setting *s)
{
	uint32_t first = 0;

	for (uint32_t i = 1; i < p->set_count; i++)
		if (p->set[i].until_ms < p->set[first].until_ms)
			first = i;
	if (p->set_count == PARTY_SETTINGS)
		party_setting_drop(p, first);
	p->set = xrealloc(p->set, (p->set_count + 1) * sizeof(*p->set));
	p->set[p->set_count++] = *s;
}

struct str party_shorten(struct str text)
{
	text.n = text.n > PARTY_TEXT_MAX ? PARTY_TEXT_MAX : text.n;
	return text;
}

/* What lives lasts longer; what was on its way back holds again. Not every match is given out. */
static void renew(struct core *core, struct party *p, struct party_setting *s, int64_t until_ms)
{
	bool again = s->step != 0;

	if (!again && until_ms - s->until_ms < SECOND)
		return;
	s->until_ms = until_ms;
	s->step = 0;
	party_changed(core, p);
	party_apply(core, p);
}

static int set(struct core *core, struct party *p, const struct party_request *r, struct str what)
{
	struct party_setting s = {.since_ms = core->now, .until_ms = r->until_ms};
	struct party_setting *old = party_setting_find(p, what);
	int rc = old ? 0 : read_value(core, p, &s, r->action);

	if (old) {
		renew(core, p, old, r->until_ms);
		return 0;
	}
	if (rc == 0) {
		s.what = str_dup(what);
		s.rule = str_dup(party_shorten(r->why->rule));
		s.text = str_dup(party_shorten(r->why->text));
		party_setting_put(p, &s);
		party_changed(core, p);
	}
	party_apply(core, p); /* without any setting it goes */
	return rc;
}

int party_set(struct core *core, const struct party_request *r)
{
	struct party *p = party_get(core, r->tenant, r->campaign, r->at);
	const struct rule_action *a = r->action;
	struct buf what;
	int rc;

	if (!p)
		return -ENOSPC;
	buf_init(&what, PARTY_TEXT_MAX);
	if (a->factor_permille)
		buf_printf(&what, "%s=*%u.%03u", a->name, a->factor_permille / 1000,
		    a->factor_permille % 1000);
	else
		buf_printf(&what, "%s=%s", a->name, a->value ? a->value : "");
	rc = set(core, p, r, (struct str){(const char *)what.p, what.n});
	buf_fini(&what);
	return rc;
}

/* Its time is over, or that of a step of its return. True: it is gone. */
bool party_setting_step(struct core *core, struct party *p, uint32_t i)
{
	struct party_setting *s = &p->set[i];
	const struct conf_value *steps = party_steps(party_home(core, p));
	char text[PARTY_TEXT_MAX + 40];

	s->step = s->step ? s->step + 1 : 2;
	if (steps && s->step <= steps->count) {
		s->until_ms = core->now + steps->num;
		return false;
	}
	snprintf(text, sizeof(text), "%s is over", s->what);
	party_say(core, p, text, str_of(s->rule));
	party_setting_drop(p, i);
	return true;
}
