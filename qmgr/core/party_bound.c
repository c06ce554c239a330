/* SPDX-License-Identifier: ISC */
/*
 * What a party's budget says: of each kind of limit the strictest of all that lives.
 *
 * A setting of a rule holds as it is until its time is over; then it grows with the shares of the
 * destination's backoff-recovery ("10%,25%,50%,100% every 10m": it is 2.5, 5, 10 times itself) and
 * then goes. A recovery bounds transactions at once and recipients by those same shares of what the
 * destination allows; its probe is one transaction.
 *
 * party_apply() follows any change, whatever it was: it reckons all anew from the settings, the
 * step and the values that hold now, sets the timer, and frees a party of which nothing is left.
 * Nothing else sets a party's budget.
 */
#include "qmgr/core/party.h"

const struct conf_value *party_steps(const struct share *s)
{
	const struct conf_value *r = s ? s->queue->v.recovery : NULL;

	return r && r->count && r->num > 0 ? r : NULL;
}

struct rate party_rate_times(const struct rate *r, int64_t num, int64_t den)
{
	struct rate to = *r;

	to.per_ms = r->per_ms * den / num;
	to.per_ms = to.per_ms > 0 ? to.per_ms : 1;
	to.burst = (r->burst * (uint64_t)num + (uint64_t)den - 1) / (uint64_t)den;
	return to;
}

struct bounds { /* max 0, n 0: none */
	uint32_t max;
	struct rate rate[LIMIT_KINDS];
};

static void bound_conns(struct bounds *b, uint64_t max)
{
	max = max ? max : 1;
	max = max < UINT32_MAX ? max : UINT32_MAX;
	if (b->max == 0 || max < b->max)
		b->max = (uint32_t)max;
}

static void bound_rate(struct bounds *b, enum limit_kind kind, const struct rate *r)
{
	if (r->n && (b->rate[kind].n == 0 || rate_slower(r, &b->rate[kind])))
		b->rate[kind] = *r;
}

static void bound_by(
    struct bounds *b, const struct party_setting *s, const struct conf_value *steps)
{
	int64_t num = 1, den = 1;
	struct rate r;

	if (s->step && steps) {
		size_t at = s->step <= steps->count ? s->step : steps->count;

		num = steps->nums[at - 1];
		den = steps->nums[0];
	}
	r = party_rate_times(&s->rate, num, den);
	if (s->kind == LIMIT_CONNS)
		bound_conns(b, (uint64_t)s->max * (uint64_t)num / (uint64_t)den);
	else
		bound_rate(b, s->kind, &r);
}

/* The tightest that is configured for it there. */
struct rate party_configured_rate(
    const struct party *p, const struct share *s, enum limit_kind kind)
{
	struct rate tightest = {0, 0, 0};
	const struct budget *of[SHARE_AT + 2] = {NULL};
	size_t n = 0;

	if (!s)
		return tightest;
	of[n++] = s->of->budget;
	of[n++] = s->at[AT_PROVIDER];
	of[n++] = s->at[AT_DOMAIN];
	for (struct link *l = s->lanes.next; p->campaign && l != &s->lanes; l = l->next)
		if (OWNER(l, struct lane, in_owner)->campaign == p->campaign)
			of[n] = OWNER(l, struct lane, in_owner)->of->budget;
	for (size_t i = 0; i < COUNT_OF(of); i++) {
		const struct limiter *l = of[i] ? of[i]->of[kind] : NULL;

		if (l && (tightest.n == 0 || rate_slower(&l->bucket.rate, &tightest)))
			tightest = l->bucket.rate;
	}
	return tightest;
}

static void bound_recovery(struct bounds *b, const struct party *p, const struct share *s)
{
	const struct conf_value *steps = party_steps(s);
	struct rate r;
	int64_t part;

	if (!steps)
		return;
	if (p->step == 0) {
		bound_conns(b, 1);
		return;
	}
	part = steps->nums[(p->step <= steps->count ? p->step : steps->count) - 1];
	bound_conns(b, (uint64_t)s->queue->v.max_smtp_out * (uint64_t)part / 100);
	r = party_configured_rate(p, s, LIMIT_MSGS);
	if (r.n == 0)
		r = s->queue->v.msg;
	if (r.n)
		r = party_rate_times(&r, part, 100);
	bound_rate(b, LIMIT_MSGS, &r);
}

static int64_t next_ms(const struct party *p)
{
	int64_t at = p->recovering ? p->until_ms : NEVER;

	for (uint32_t i = 0; i < p->set_count; i++)
		if (p->set[i].until_ms && p->set[i].until_ms < at)
			at = p->set[i].until_ms;
	return at;
}

/* After any change; it goes when nothing is left of it. */
void party_apply(struct core *core, struct party *p)
{
	const struct share *s = party_home(core, p);
	struct bounds b = {0};
	int64_t at;

	for (uint32_t i = 0; i < p->set_count; i++)
		bound_by(&b, &p->set[i], party_steps(s));
	if (p->recovering)
		bound_recovery(&b, p, s);
	budget_conns(core, p->budget, b.max, NULL);
	for (int kind = LIMIT_CONNECTS; kind < LIMIT_KINDS; kind++)
		if (kind != LIMIT_RAMPUP)
			budget_rate(core, p->budget, (enum limit_kind)kind, &b.rate[kind], NULL);
	if (!p->recovering && p->set_count == 0) {
		party_free(core, p);
		return;
	}
	at = next_ms(p);
	wheel_cancel(core->wheel, &p->timer.node);
	if (at != NEVER)
		wheel_add(core->wheel, &p->timer.node, at);
}
