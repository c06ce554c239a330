/* SPDX-License-Identifier: ISC */
/*
 * One domain's way to its route. Which failure gets which class:
 *
 *   MX question     NXDOMAIN → ROUTE_NO_DOMAIN; no such records → implicit MX; no answer, SERVFAIL,
 *                   REFUSED, an endless alias → ROUTE_TEMPORARY, never the implicit MX (RFC
 * 5321 5.1) an address      no answer marks its host as temporary; the others are used. Only when
 * no host is left does one temporary host make the route ROUTE_TEMPORARY (mx.c)
 *
 * Aliases are followed inside an answer by answer.c and across answers here, ALIAS_MAX in all for
 * one question. Answers that name their own successor (ANSWER_ALIAS) put the same look-up back into
 * the queue with a new name.
 */
#include "resolver/walk.h"
#include <stdio.h>
#include <stdlib.h>

enum lookup_state { LOOKUP_WANTED, LOOKUP_ASKED, LOOKUP_DONE };
struct lookup {
	enum lookup_state state;
	uint16_t type;
	uint8_t aliases;
	bool absent;	      /* NXDOMAIN */
	char name[NAME_TEXT]; /* asked for now: an alias' target may have replaced the first */
};
struct host { /* its addresses stand in walk.hosts[] of the same index */
	struct lookup a, aaaa;
};
struct walk {
	char domain[NAME_TEXT];
	struct lookup mx;
	bool settled; /* the class is known without addresses */
	bool implicit, secure;
	bool host_only; /* no question for MX */
	enum route_class class;
	char text[ROUTE_TEXT];
	uint32_t ttl_s;
	size_t host_count;
	struct mx_host *hosts; /* owned, sorted by preference */
	struct host *lookups;  /* owned */
	size_t next;	       /* lookups before this one are asked or done: 2 × host + (AAAA) */
	size_t open;	       /* of hosts: not done */
	struct lookup *asked[WALK_PARALLEL];
};

struct walk *walk_new(const char *domain)
{
	struct walk *w = xcalloc(1, sizeof(*w));
	str_copy(w->domain, sizeof(w->domain), str_of(domain));
	w->mx.type = RR_MX;
	memcpy(w->mx.name, w->domain, sizeof(w->domain));
	w->ttl_s = UINT32_MAX;
	return w;
}

void walk_free(struct walk **walk)
{
	struct walk *w = *walk;
	*walk = NULL;
	if (w == NULL)
		return;
	free(w->hosts);
	free(w->lookups);
	free(w);
}

const char *walk_domain(const struct walk *w)
{
	return w->domain;
}

bool walk_done(const struct walk *w)
{
	return w->settled || (w->mx.state == LOOKUP_DONE && w->open == 0);
}

/* --- asking ------------------------------------------------------------------------------ */

static struct lookup *lookup_at(struct walk *w, size_t index)
{
	struct host *h = &w->lookups[index / 2];
	return index % 2 == 0 ? &h->a : &h->aaaa;
}

static struct lookup *next_wanted(struct walk *w)
{
	if (w->mx.state != LOOKUP_DONE)
		return w->mx.state == LOOKUP_WANTED ? &w->mx : NULL;
	for (size_t i = w->next; i < 2 * w->host_count; i++) {
		struct lookup *l = lookup_at(w, i);
		if (l->state == LOOKUP_WANTED) {
			w->next = i;
			return l;
		}
	}
	w->next = 2 * w->host_count;
	return NULL;
}

bool walk_next(struct walk *w, struct walk_question *q)
{
	unsigned slot = 0;
	while (slot < WALK_PARALLEL && w->asked[slot] != NULL)
		slot++;
	struct lookup *l = slot < WALK_PARALLEL && !walk_done(w) ? next_wanted(w) : NULL;
	if (l == NULL)
		return false;
	l->state = LOOKUP_ASKED;
	w->asked[slot] = l;
	*q = (struct walk_question){slot, l->name, l->type};
	return true;
}

/* --- answers ----------------------------------------------------------------------------- */

static void settle(struct walk *w, enum route_class class, const char *what)
{
	w->settled = true;
	w->class = class;
	snprintf(w->text, sizeof(w->text), "%s: %s", w->domain, what);
}

static void lower_ttl(struct walk *w, uint32_t ttl_s)
{
	if (ttl_s < w->ttl_s)
		w->ttl_s = ttl_s;
}

/* Gives each candidate its two look-ups. */
static void want_addresses(struct walk *w)
{
	w->lookups = xcalloc(w->host_count + 1, sizeof(*w->lookups));
	for (size_t i = 0; i < w->host_count; i++) {
		struct host *h = &w->lookups[i];
		h->a.type = RR_A;
		h->aaaa.type = RR_AAAA;
		if (name_is_address(w->hosts[i].name)) {
			h->a.state = h->aaaa.state = LOOKUP_DONE; /* mx.c ignores it */
			continue;
		}
		memcpy(h->a.name, w->hosts[i].name, sizeof(h->a.name));
		memcpy(h->aaaa.name, w->hosts[i].name, sizeof(h->aaaa.name));
		w->open += 2;
	}
}

static void one_host(struct walk *w, bool secure)
{
	w->host_count = 1;
	w->hosts = xcalloc(1, sizeof(*w->hosts));
	w->hosts[0].secure = secure;
	memcpy(w->hosts[0].name, w->domain, sizeof(w->domain));
	want_addresses(w);
}

struct walk *walk_new_host(const char *host)
{
	struct walk *w = walk_new(host);
	w->host_only = true;
	w->mx.state = LOOKUP_DONE;
	one_host(w, true);
	return w;
}

static void mx_hosts(struct walk *w, const struct answer *a, bool secure)
{
	w->hosts = xcalloc(a->count + 1, sizeof(*w->hosts));
	for (size_t i = 0; i < a->count; i++) {
		struct mx_host *h = &w->hosts[w->host_count++];
		h->preference = a->mx[i].preference;
		h->secure = secure;
		str_copy(h->name, sizeof(h->name), str_of(a->mx[i].name));
	}
	want_addresses(w);
}

static void mx_answered(struct walk *w, const struct answer *a, bool secure)
{
	secure = secure && (w->mx.aliases == 0 || w->secure);
	w->mx.state = LOOKUP_DONE;
	switch (a->status) {
	case ANSWER_OK:
		if (a->null_mx)
			settle(w, ROUTE_NULL_MX, "the domain accepts no mail (null MX)");
		else
			mx_hosts(w, a, secure);
		break;
	case ANSWER_NODATA:
		w->implicit = true;
		one_host(w, secure);
		break;
	case ANSWER_NXDOMAIN:
		settle(w, ROUTE_NO_DOMAIN, "no such domain");
		break;
	default:
		settle(w, ROUTE_TEMPORARY, "name servers fail for its MX records");
		break;
	}
}

/* IPv4 stands first, and at most three quarters are of one family: a host with many addresses of
 * one cannot crowd out the other. */
static void add_addresses(struct mx_host *h, const struct answer *a, uint16_t type)
{
	enum { FAMILY_MAX = ROUTE_ADDRESSES_MAX * 3 / 4 };
	size_t n = a->count < FAMILY_MAX ? a->count : FAMILY_MAX;
	size_t room = ROUTE_ADDRESSES_MAX - h->address_count;
	if (n > room)
		n = room;
	size_t at = type == RR_A ? 0 : h->address_count;
	memmove(
	    &h->address[at + n], &h->address[at], (h->address_count - at) * sizeof(*h->address));
	memcpy(&h->address[at], a->address, n * sizeof(*h->address));
	h->address_count += n;
}

/* A host is found by the place of its look-up. */
static size_t host_of(const struct walk *w, const struct lookup *l)
{
	return (size_t)((const char *)l - (const char *)w->lookups) / sizeof(struct host);
}

static void address_answered(struct walk *w, struct lookup *l, const struct answer *a, bool secure)
{
	struct mx_host *h = &w->hosts[host_of(w, l)];
	struct host *pair = &w->lookups[host_of(w, l)];
	l->state = LOOKUP_DONE;
	w->open--;
	h->secure = h->secure && secure;
	if (a->status == ANSWER_OK && a->address != NULL)
		add_addresses(h, a, l->type);
	l->absent = a->status == ANSWER_NXDOMAIN;
	h->temporary |= a->status == ANSWER_FAILED || a->status == ANSWER_ALIAS;
	h->absent = pair->a.absent && pair->aaaa.absent;
}

/* The answer's chain of aliases leads elsewhere: ask there. False: too far. */
static bool follow_alias(struct walk *w, struct lookup *l, const struct answer *a, bool secure)
{
	if (l->aliases + a->aliases > ALIAS_MAX)
		return false;
	if (l->type == RR_MX)
		w->secure = secure && (l->aliases == 0 || w->secure);
	else if (!secure)
		w->hosts[host_of(w, l)].secure = false;
	l->aliases = (uint8_t)(l->aliases + a->aliases);
	str_copy(l->name, sizeof(l->name), str_of(a->alias));
	l->state = LOOKUP_WANTED;
	w->next = 0;
	return true;
}

void walk_answer(struct walk *w, unsigned slot, const struct answer *a, uint32_t ttl_s, bool secure)
{
	must(slot < WALK_PARALLEL && w->asked[slot] != NULL);
	struct lookup *l = w->asked[slot];
	w->asked[slot] = NULL;
	lower_ttl(w, ttl_s);
	if (a->status == ANSWER_ALIAS && follow_alias(w, l, a, secure))
		return;
	if (l == &w->mx)
		mx_answered(w, a, secure);
	else
		address_answered(w, l, a, secure);
}

void walk_give_up(struct walk *w)
{
	if (walk_done(w))
		return;
	for (size_t i = 0; i < WALK_PARALLEL; i++)
		w->asked[i] = NULL;
	lower_ttl(w, 0);
	if (w->mx.state != LOOKUP_DONE) {
		w->mx.state = LOOKUP_DONE;
		settle(w, ROUTE_TEMPORARY, "name servers did not answer in time");
		return;
	}
	for (size_t i = 0; i < 2 * w->host_count; i++) {
		struct lookup *l = lookup_at(w, i);
		if (l->state == LOOKUP_DONE)
			continue;
		l->state = LOOKUP_DONE;
		w->hosts[i / 2].temporary = true;
		w->hosts[i / 2].secure = false;
	}
	w->open = 0;
}

void walk_route(const struct walk *w, const struct mx_rules *rules, struct mx_route *out)
{
	/* Whom the operator named may be private, and is judged as a loop with its port: fixed.c */
	static const struct mx_rules no_rules;
	must(walk_done(w));
	if (w->host_only)
		rules = &no_rules;
	if (w->settled) {
		*out = (struct mx_route){.class = w->class};
		memcpy(out->text, w->text, sizeof(out->text));
	} else {
		mx_route(out, rules, w->domain, w->implicit, w->hosts, w->host_count);
	}
	out->ttl_s = w->ttl_s;
}
