/* SPDX-License-Identifier: ISC */
/*
 * Mail that comes in: each load is one happening that makes a message and puts itself at the time
 * of its next one. Messages have even distances by the rate that holds at that time, each moved by
 * chance within its own: so counts are exact, and nothing beats in step.
 *
 * A message's place in the spool is nobody's here: segment and offset carry the numbers of its
 * receiver and its load, so that no end of a job costs a search.
 */
#include "sim/impl.h"
#include <stdio.h>
#include <stdlib.h>

static const char *vmta_of(const struct sim *s, const struct conf_node *load)
{
	const char *own = conf_text(load, CO_SIM_LOAD_virtual_mta);
	const struct conf_node *tenant;

	if (own[0])
		return own;
	tenant = conf_find(
	    s->conf->root, CONF_TENANT, CO_TENANT_name, conf_text(load, CO_SIM_LOAD_tenant));
	return tenant ? conf_text(tenant, CO_TENANT_virtual_mta) : "";
}

static void read_to(struct sim *s, struct load *l)
{
	const struct conf_node *t = NULL;
	uint64_t sum = 0;

	while ((t = conf_next(l->conf, CONF_SIM_TO, t))) {
		const char *text = conf_text(t, CO_SIM_TO_domain);
		struct load_to *to;
		char domain[256];

		l->to = xrealloc(l->to, (l->to_count + 1) * sizeof(*l->to));
		to = &l->to[l->to_count++];
		*to = (struct load_to){.conf = t, .count = conf_num(t, CO_SIM_TO_count)};
		must(conf_sim_domain(domain, text, to->count));
		to->receiver = receiver_of(s, domain);
		if (to->count == 1)
			str_copy(to->domain, sizeof(to->domain), str_of(domain));
		to->until = sum += (uint64_t)conf_num(t, CO_SIM_TO_share);
	}
}

/* The rate at that time; 0: nothing comes in this hour. */
static double rate_at(const struct load *l, double at)
{
	if (!l->hours->count)
		return l->per_ms;
	return l->per_ms * (double)l->hours->nums[(size_t)(at / SIM_HOUR) % l->hours->count] / 100;
}

/* Puts the next message in its place; false: there is none. */
static bool come_again(struct sim *s, struct load *l)
{
	double rate;

	while ((rate = rate_at(l, l->at)) <= 0 && l->at < (double)l->until_ms)
		l->at = (double)((int64_t)(l->at / SIM_HOUR) + 1) * SIM_HOUR;
	if (!l->left || l->at >= (double)l->until_ms)
		return false;
	l->left--;
	sim_at(s, SIM_START + (int64_t)(l->at + sim_chance(s) / rate), HAPPENS_MAIL, l);
	l->at += 1 / rate;
	return true;
}

static void read_load(struct sim *s, struct load *l, const struct conf_node *n)
{
	const struct conf_value *rate = conf_get(n, CO_SIM_LOAD_rate);
	int64_t until = conf_num(n, CO_SIM_LOAD_until),
		messages = conf_num(n, CO_SIM_LOAD_messages);

	*l = (struct load){.conf = n,
	    .campaign = conf_text(n, CO_SIM_LOAD_campaign),
	    .vmta = vmta_of(s, n),
	    .tenant = tally_tenant(s, conf_text(n, CO_SIM_LOAD_tenant)),
	    .per_ms = (double)rate->num / (double)rate->nums[0],
	    .from_ms = conf_num(n, CO_SIM_LOAD_from),
	    .until_ms = until < 0 ? INT64_MAX : until,
	    .left = messages ? (uint64_t)messages : UINT64_MAX,
	    .bytes = (uint32_t)conf_num(n, CO_SIM_LOAD_size),
	    .rcpts = (uint32_t)conf_num(n, CO_SIM_LOAD_recipients),
	    .hours = conf_get(n, CO_SIM_LOAD_hours)};
	if (l->until_ms > s->end_ms - SIM_START)
		l->until_ms = s->end_ms - SIM_START;
	l->at = (double)l->from_ms;
	read_to(s, l);
	s->loads_left += come_again(s, l);
}

void load_all(struct sim *s)
{
	const struct conf_node *n = NULL;
	size_t count = 0;

	while ((n = conf_next(s->conf_sim, CONF_SIM_LOAD, n)))
		count++;
	s->loads = xcalloc(count, sizeof(*s->loads));
	while ((n = conf_next(s->conf_sim, CONF_SIM_LOAD, n)))
		read_load(s, &s->loads[s->load_count++], n);
}

void load_fini(struct sim *s)
{
	for (size_t i = 0; i < s->load_count; i++)
		free(s->loads[i].to);
	free(s->loads);
}

static const struct load_to *draw(struct sim *s, const struct load *l)
{
	uint64_t x;

	if (l->to_count == 1)
		return l->to;
	x = sim_random(s) % l->to[l->to_count - 1].until;
	for (size_t i = 0;; i++)
		if (x < l->to[i].until)
			return &l->to[i];
}

static void add_recipient(struct sim *s, struct load *l, uint64_t id, uint16_t rcpt)
{
	const struct load_to *to = draw(s, l);
	const char *domain = to->domain;
	char drawn[256];

	if (to->count > 1) {
		uint64_t number = 1 + sim_random(s) % (uint64_t)to->count;
		const char *text = conf_text(to->conf, CO_SIM_TO_domain), *mark = strchr(text, '#');

		snprintf(drawn, sizeof(drawn), "%.*s%llu%s", (int)(mark - text), text,
		    (unsigned long long)number, mark + 1);
		domain = drawn;
	}
	tally_in(s, l, to->receiver);
	core_add(s->core,
	    &(struct core_add){.id = id,
		.segment = (uint64_t)(to->receiver - s->receivers),
		.offset = (uint64_t)(l - s->loads),
		.bytes = l->bytes,
		.rcpt = rcpt,
		.arrived_ms = s->now,
		.domain = str_of(domain),
		.vmta = str_of(l->vmta),
		.tenant = str_of(l->tenant->name),
		.campaign = str_of(l->campaign)},
	    s->now);
}

void load_come(struct sim *s, struct load *l)
{
	uint64_t id = ++s->next_message;

	s->messages++;
	for (uint32_t i = 0; i < l->rcpts; i++)
		add_recipient(s, l, id, (uint16_t)i);
	if (!come_again(s, l))
		s->loads_left--;
}
