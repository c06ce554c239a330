/* SPDX-License-Identifier: ISC */
/*
 * After a suspension a party recovers: a probe (one transaction; if it is deferred, the suspension
 * goes on for a retry step), then transactions at once and recipients by the shares of the
 * destination's backoff-recovery, then nothing.
 *
 * Only transactions decided after the suspension's end answer the probe (first_tx): what was still
 * in flight says nothing of now. Step, deferred probes and times are part of the party's state, so
 * that a crash neither repeats a step nor skips one; the probe of before is forgotten, the next
 * transaction is one.
 */
#include "qmgr/core/party.h"
#include <stdio.h>
#include <stdlib.h>

void party_recover(struct core *core, const struct name *tenant, const struct name *campaign,
    const struct name *at, const struct why *why)
{
	struct party *p = party_get(core, name_str(tenant), name_str(campaign), name_str(at));

	if (!p)
		return;
	if (!party_steps(party_home(core, p))) { /* nothing is there, or it is "off" */
		party_apply(core, p);
		return;
	}
	p->recovering = true;
	p->step = 0;
	p->since_ms = core->now;
	p->until_ms = core->now + PARTY_PROBE_LINGER;
	p->first_tx = core->next_id;
	free(p->rule);
	free(p->text);
	p->rule = str_dup(party_shorten(why->rule));
	p->text = str_dup(party_shorten(why->text));
	party_changed(core, p);
	party_apply(core, p);
}

void party_next_step(struct core *core, struct party *p)
{
	const struct conf_value *steps = party_steps(party_home(core, p));
	char text[100];

	p->step++;
	if (!steps || p->step > steps->count || steps->nums[p->step - 1] >= 100) {
		p->recovering = false;
		party_say(core, p, "recovery is over: nothing holds it back", str_of(p->rule));
	} else {
		p->until_ms = core->now + steps->num;
		snprintf(text, sizeof(text), "recovery: %lld %% of what the destination allows",
		    (long long)steps->nums[p->step - 1]);
		party_say(core, p, text, str_of(p->rule));
	}
	party_changed(core, p);
}

/* As long as the next retry of a message of this queue would wait. */
static void suspend_again(struct core *core, struct party *p, const struct queue *q)
{
	struct str name = party_view_name(p);
	int64_t step = value_step(q->e.retry, q->e.retry_count, ++p->probes);
	const struct hold_request h = {.scope = p->campaign ? CORE_CAMPAIGN : CORE_TENANT,
	    .name = name,
	    .at = name_str(p->at),
	    .rule = str_of(p->rule),
	    .text = STR("the probe was deferred"),
	    .until_ms = core->now + core_jitter(core, step)};

	party_changed(core, p);
	if (hold_add(core, &h) != 0) /* too many are held: it goes on probing */
		p->probes--;
}

static void answer(struct core *core, struct party *p, const struct lane *lane, uint64_t tx,
    const uint32_t counts[2])
{
	if (!p || !p->recovering || p->step || tx < p->first_tx)
		return;
	if (counts[0]) {
		p->probes = 0;
		party_next_step(core, p);
		party_apply(core, p);
	} else if (counts[1] && !((lane->parked | lane->share->parked) & PARK_HOLD)) {
		suspend_again(core, p, lane->share->queue);
	}
}

void party_answer(
    struct core *core, const struct lane *lane, uint64_t tx, uint32_t delivered, uint32_t deferred)
{
	const struct share *s = lane->share;
	const struct name *at = s->queue->dest->name;
	const uint32_t counts[2] = {delivered, deferred};

	if (s->at[AT_PARTY])
		answer(core, party_find(core, s->tenant, NULL, at), lane, tx, counts);
	if (lane->at)
		answer(core, party_find(core, s->tenant, lane->campaign, at), lane, tx, counts);
}
