/* SPDX-License-Identifier: ISC */
/*
 * Source addresses, as this host and the DNS see them: can each be bound (smtp-out tries), has it a
 * reverse name that leads back to it, does its EHLO name resolve to it, which blocklists name it
 * (the resolver asks).
 *
 * A round asks for all of them, a window at a time: when qmgr begins, after a reload, every hour,
 * and on command. A round that loses its smtp-out or resolver goes on with the next one. An address
 * that cannot be bound is told to the core, which uses it no more until it can be; it is tried
 * again each RETRY_MS, and at once after a connection failed for a reason of ours. What the DNS
 * says changes nothing in delivery: it is kept for `check-sources`, and told in the log when it
 * changes.
 *
 * Nothing of this is stored: the next start asks again, and until the answer is there an address
 * counts as usable.
 */
#include "common/log.h"
#include "qmgr/shell.h"
#include <stdio.h>
#include <stdlib.h>

enum {
	WINDOW = 64, /* questions out at once, of each kind: the resolver has others to serve */
	SOURCES_MAX = 65535, /* that are checked: what a ticket can number */
	ROUND_MS = 3600000,
	RETRY_MS = 30000,  /* a missing address is tried again */
	SUSPECT_MS = 1000, /* the same address is not tried more often, however much fails */
};

/* --- the list ------------------------------------------------------------------------------------
 */

static void free_source(struct source *s)
{
	free(s->why);
	free(s->name);
	free(s->listed);
	free(s);
}

static void free_list(struct source **list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free_source(list[i]);
	free(list);
}

static char *text_of(const char *s)
{
	return str_dup(str_of(s));
}

static struct source *new_source(const char *vmta, const char *address, const char *ehlo)
{
	struct source *s = xcalloc(1, sizeof(*s));
	str_copy(s->address, sizeof(s->address), str_of(address));
	str_copy(s->ehlo, sizeof(s->ehlo), str_of(ehlo));
	str_copy(s->vmta, sizeof(s->vmta), str_of(vmta));
	s->why = text_of("");
	s->name = text_of("");
	s->listed = text_of("");
	return s;
}

/* What was known of it before the reload. */
static struct source *take_old(struct sources *ss, const struct source *like)
{
	for (size_t i = 0; i < ss->count; i++) {
		struct source *s = ss->list[i];
		if (s != NULL && strcmp(s->address, like->address) == 0 &&
		    strcmp(s->ehlo, like->ehlo) == 0 && strcmp(s->vmta, like->vmta) == 0) {
			ss->list[i] = NULL;
			return s;
		}
	}
	return NULL;
}

static void add(struct sources *ss, struct source ***list, size_t *n, struct source *s)
{
	struct source *old = *n < SOURCES_MAX ? take_old(ss, s) : NULL;
	if (*n >= SOURCES_MAX || old != NULL)
		free_source(s);
	if (*n >= SOURCES_MAX)
		return;
	*list = xrealloc(*list, (*n + 1) * sizeof(**list));
	(*list)[(*n)++] = old != NULL ? old : s;
}

void sources_configure(struct qmgr *q)
{
	struct sources *ss = &q->sources;
	struct source **list = NULL;
	size_t n = 0;
	const struct conf_node *root = q->conf->root, *vmta = NULL, *node;
	const char *host = conf_text(root, CO_GLOBAL_host_name);
	while ((vmta = conf_next(root, CONF_VMTA, vmta)) != NULL)
		for (node = NULL; (node = conf_next(vmta, CONF_SOURCE, node)) != NULL;) {
			const char *ehlo = conf_text(node, CO_SOURCE_host_name);
			add(ss, &list, &n,
			    new_source(conf_text(vmta, CO_VMTA_name),
				conf_text(node, CO_SOURCE_address), ehlo[0] ? ehlo : host));
		}
	for (size_t i = 0; i < ss->count; i++)
		if (ss->list[i] != NULL)
			free_source(ss->list[i]);
	free(ss->list);
	ss->list = list;
	ss->count = n;
	if (q->started)
		sources_round(q);
}

/* --- asking --------------------------------------------------------------------------------------
 */

/* A ticket names the round and the source: answers to older rounds say nothing of this list. */
static uint32_t ticket_of(const struct sources *ss, size_t i)
{
	return (uint32_t)ss->round << 16 | (uint32_t)i;
}

static struct source *by_ticket(struct sources *ss, uint32_t ticket, size_t *i)
{
	*i = ticket & 0xffff;
	return ticket >> 16 == ss->round && *i < ss->count ? ss->list[*i] : NULL;
}

static bool ask_bind(struct qmgr *q, size_t i, bool in_pass)
{
	struct peer *out = peers_find(q, PROC_smtp_out, -1);
	struct source *s = q->sources.list[i];
	if (out == NULL)
		return false;
	s->binding = true;
	s->bind_in_pass = in_pass;
	s->tried_ms = q->now_ms;
	chan_send_source_check(
	    out->chan, &(struct msg_source_check){
			   .ticket = ticket_of(&q->sources, i), .address = str_of(s->address)});
	loop_again(q->loop); /* a held channel moves at the turn's end */
	return true;
}

static bool ask_names(struct qmgr *q, size_t i)
{
	struct peer *resolver = peers_find(q, PROC_resolver, -1);
	struct source *s = q->sources.list[i];
	if (resolver == NULL)
		return false;
	s->naming = true;
	chan_send_names_ask(
	    resolver->chan, &(struct msg_names_ask){.ticket = ticket_of(&q->sources, i),
				.address = str_of(s->address),
				.ehlo = str_of(s->ehlo)});
	return true;
}

static void go_on(struct qmgr *q)
{
	struct sources *ss = &q->sources;
	while (ss->bind.next < ss->count && ss->bind.out < WINDOW &&
	       ask_bind(q, ss->bind.next, true)) {
		ss->bind.next++;
		ss->bind.out++;
	}
	while (
	    ss->names.next < ss->count && ss->names.out < WINDOW && ask_names(q, ss->names.next)) {
		ss->names.next++;
		ss->names.out++;
	}
	if (sources_round_is_over(q))
		sources_tell(q, false);
}

bool sources_round_is_over(const struct qmgr *q)
{
	const struct sources *ss = &q->sources;
	return ss->bind.next == ss->count && ss->bind.out == 0 && ss->names.next == ss->count &&
	       ss->names.out == 0;
}

static void on_round(void *arg)
{
	struct qmgr *q = arg;
	q->now_ms = clock_steady_ms();
	sources_round(q);
}

void sources_round(struct qmgr *q)
{
	struct sources *ss = &q->sources;
	ss->round++;
	ss->bind = ss->names = (struct source_pass){0};
	for (size_t i = 0; i < ss->count; i++)
		ss->list[i]->binding = ss->list[i]->bind_in_pass = ss->list[i]->naming = false;
	loop_timer_after(q->loop, &ss->hourly, ROUND_MS, on_round, q);
	go_on(q);
}

/* The questions that an older process took with it are asked of this one. */
void sources_peer_up(struct qmgr *q, enum proc_id process)
{
	struct sources *ss = &q->sources;
	bool lost = false;
	if (!q->started)
		return;
	for (size_t i = 0; i < ss->count; i++)
		lost |= process == PROC_smtp_out ? ss->list[i]->binding : ss->list[i]->naming;
	if (lost)
		sources_round(q);
	else
		go_on(q);
}

static void retry_bind(void *arg)
{
	struct qmgr *q = arg;
	q->now_ms = clock_steady_ms();
	for (size_t i = 0; i < q->sources.count; i++)
		if (q->sources.list[i]->missing && !q->sources.list[i]->binding)
			ask_bind(q, i, false);
	loop_timer_after(q->loop, &q->sources.retry, RETRY_MS, retry_bind, q);
}

void sources_suspect(struct qmgr *q, struct str address)
{
	struct sources *ss = &q->sources;
	for (size_t i = 0; i < ss->count; i++) {
		struct source *s = ss->list[i];
		if (!str_eq(str_of(s->address), address))
			continue;
		if (q->started && !s->binding && q->now_ms - s->tried_ms >= SUSPECT_MS)
			ask_bind(q, i, false);
		return; /* what is found holds for all that name the address */
	}
}

/* --- answers -------------------------------------------------------------------------------------
 */

static bool replace(char **text, struct str s)
{
	char clean[2001];
	log_clean(clean, sizeof(clean), s);
	if (strcmp(*text, clean) == 0)
		return false;
	free(*text);
	*text = text_of(clean);
	return true;
}

static void set_missing(struct qmgr *q, const char *address, struct str why)
{
	struct sources *ss = &q->sources;
	bool missing = why.n > 0, changed = false;
	for (size_t i = 0; i < ss->count; i++) {
		struct source *s = ss->list[i];
		if (strcmp(s->address, address) != 0)
			continue;
		changed |= s->missing != missing;
		s->missing = missing;
		s->bind_known = true;
		replace(&s->why, why);
	}
	if (!changed)
		return;
	if (missing)
		log_error("source %s cannot be used on this host: %.*s; it is tried again every "
			  "%d s",
		    address, STR_ARG(why), RETRY_MS / 1000);
	else
		log_info("source %s can be used again", address);
	core_source_bindable(q->core, str_of(address), !missing, q->now_ms);
	decisions_drain(q, NULL);
	if (missing && !wheel_armed(&ss->retry.node))
		loop_timer_after(q->loop, &ss->retry, RETRY_MS, retry_bind, q);
}

static bool any_missing(const struct sources *ss)
{
	for (size_t i = 0; i < ss->count; i++)
		if (ss->list[i]->missing)
			return true;
	return false;
}

void on_source_checked(void *ctx, struct chan *from_chan, struct msg_source_checked *m)
{
	struct qmgr *q = ctx;
	struct sources *ss = &q->sources;
	size_t i;
	q->now_ms = clock_steady_ms();
	struct source *s = by_ticket(ss, m->ticket, &i);
	(void)from_chan;
	if (s == NULL || !s->binding || !str_eq(str_of(s->address), m->address))
		return;
	s->binding = false;
	if (s->bind_in_pass)
		ss->bind.out--;
	s->bind_in_pass = false;
	char why[301];
	set_missing(q, s->address, str_of(log_clean(why, sizeof(why), m->why)));
	if (!any_missing(ss))
		loop_timer_cancel(q->loop, &ss->retry);
	go_on(q);
}

static void tell_names(const struct source *s)
{
	char reverse[300];
	if (s->name[0] == '\0')
		str_copy(reverse, sizeof(reverse), STR("no reverse name"));
	else
		snprintf(reverse, sizeof(reverse), "reverse name %s%s", s->name,
		    s->confirmed ? "" : ", which does not lead back");
	log_at(s->confirmed && s->ehlo_matches && s->listed[0] == '\0' ? LOG_LEVEL_INFO
								       : LOG_LEVEL_WARN,
	    "source %s (%s): %s; EHLO name %s %s%s%s", s->address, s->vmta, reverse, s->ehlo,
	    s->ehlo_matches ? "resolves to it" : "does not resolve to it",
	    s->listed[0] ? "; listed: " : "", s->listed);
}

void on_names_told(void *ctx, struct chan *from_chan, struct msg_names_told *m)
{
	struct qmgr *q = ctx;
	size_t i;
	q->now_ms = clock_steady_ms();
	struct source *s = by_ticket(&q->sources, m->ticket, &i);
	(void)from_chan;
	if (s == NULL || !s->naming || !str_eq(str_of(s->address), m->address))
		return;
	s->naming = false;
	q->sources.names.out--;
	bool changed = !s->names_known || s->confirmed != (m->confirmed != 0) ||
		       s->ehlo_matches != (m->ehlo_matches != 0);
	s->names_known = true;
	s->confirmed = m->confirmed != 0;
	s->ehlo_matches = m->ehlo_matches != 0;
	changed |= replace(&s->name, m->name);
	changed |= replace(&s->listed, m->listed);
	if (changed)
		tell_names(s);
	go_on(q);
}

void sources_fini(struct qmgr *q)
{
	struct sources *ss = &q->sources;
	loop_timer_cancel(q->loop, &ss->hourly);
	loop_timer_cancel(q->loop, &ss->retry);
	sources_asks_fini(q);
	free_list(ss->list, ss->count);
	ss->list = NULL;
	ss->count = 0;
}
