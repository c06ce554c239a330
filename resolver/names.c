/* SPDX-License-Identifier: ISC */
/*
 * What the DNS says of our own source addresses: NAMES_ASK from qmgr, NAMES_TOLD back, once for
 * each.
 *
 *   PTR of the address      its name; with several, one that leads back is preferred
 *   A or AAAA of that name  confirmed: the address is among them (FCrDNS)
 *   A or AAAA of the EHLO   ehlo_matches: the address is among them
 *   A of REVERSED.ZONE      a listing, for each of dns-blocklists (RFC 5782)
 *
 * Only an answer in 127.0.0.0/8 is a listing: anything else is a parked domain's wildcard or a
 * provider that rewrites NXDOMAIN. 127.255.255.x is how public blocklists say that they do not
 * serve this name server, and 127.0.0.1 is never a listing. Both are logged, so that nobody takes a
 * list that does not answer for a clean one.
 *
 * All questions go through query.c: its time-outs and its cache hold. A few addresses are at work
 * at once and the others wait, so that a thousand sources do not crowd out the mail's questions.
 */
#include "common/chan.h"
#include "common/log.h"
#include "common/msg.h"
#include "resolver/names.h"
#include "resolver/resolver.h"
#include "resolver/settings.h"
#include <stdio.h>
#include <stdlib.h>

enum {
	AT_WORK_MAX = 50,     /* addresses: times about eight questions, of query.c's 400 */
	WAITING_MAX = 100000, /* more than any host has; stops a peer that asks without end */
	PTR_NAMES_MAX = 4,    /* names of one address that are looked up */
	LISTED_BYTES = 2000,  /* NAMES_TOLD's bound */
	LOOKS_MAX = 2 + ZONES_MAX + PTR_NAMES_MAX,
};
enum look_kind { LOOK_PTR, LOOK_BACK, LOOK_EHLO, LOOK_ZONE };
struct look { /* one question of an address */
	struct query_wait wait;
	enum look_kind kind;
	uint16_t type;
	size_t zone;	       /* LOOK_ZONE: its place in the settings */
	unsigned aliases;      /* followed so far */
	char first[NAME_TEXT]; /* what was asked for: the PTR's name, the zone */
	char name[NAME_TEXT];  /* asked for now */
};
struct address_check {
	struct address_check *next, *prev;
	struct names *all;
	names_fn *fn;
	void *arg;
	uint32_t ticket;
	struct route_address address;
	char text[64], ehlo[NAME_TEXT], name[NAME_TEXT];
	bool confirmed, ehlo_matches;
	struct buf listed;
	size_t look_count, open;
	struct look *looks; /* owned; NULL while it waits */
};
struct check_list {
	struct address_check *first, *last;
	size_t count;
};
enum zone_state { ZONE_ANSWERS, ZONE_SILENT, ZONE_REFUSES };
struct names {
	struct queries *queries;
	enum zone_state zones[ZONES_MAX]; /* as last told in the log */
	const struct settings *settings;
	struct check_list waiting, working;
};

static void list_put(struct check_list *l, struct address_check *c)
{
	c->next = NULL;
	c->prev = l->last;
	*(l->last != NULL ? &l->last->next : &l->first) = c;
	l->last = c;
	l->count++;
}

static void list_take(struct check_list *l, struct address_check *c)
{
	*(c->prev != NULL ? &c->prev->next : &l->first) = c->next;
	*(c->next != NULL ? &c->next->prev : &l->last) = c->prev;
	l->count--;
}

static void check_free(struct address_check *c)
{
	for (size_t i = 0; i < c->look_count; i++)
		queries_cancel(&c->looks[i].wait);
	list_take(c->looks == NULL ? &c->all->waiting : &c->all->working, c);
	buf_fini(&c->listed);
	free(c->looks);
	free(c);
}

/* --- names of addresses ------------------------------------------------------------------------
 */

void names_reverse(char out[NAME_TEXT], const struct route_address *a, const char *zone)
{
	size_t n = 0;
	if (a->family == 4) {
		snprintf(out, NAME_TEXT, "%u.%u.%u.%u.%.200s", a->bytes[3], a->bytes[2],
		    a->bytes[1], a->bytes[0], zone);
		return;
	}
	for (size_t i = 16; i-- > 0;)
		n += (size_t)snprintf(
		    out + n, NAME_TEXT - n, "%x.%x.", a->bytes[i] & 15u, a->bytes[i] >> 4);
	snprintf(out + n, NAME_TEXT - n, "%.180s", zone);
}

static bool has_address(const struct answer *a, const struct route_address *address)
{
	size_t bytes = address->family == 4 ? 4 : 16;
	for (size_t i = 0; a->address != NULL && i < a->count; i++)
		if (a->address[i].family == address->family &&
		    memcmp(a->address[i].bytes, address->bytes, bytes) == 0)
			return true;
	return false;
}

/* --- blocklists ---------------------------------------------------------------------------------
 */

enum names_listing names_listing(const struct route_address *a)
{
	const uint8_t *b = a->bytes;
	if (a->family != 4 || b[0] != 127)
		return LISTING_NONE;
	if (b[1] == 255 && b[2] == 255)
		return LISTING_REFUSED;
	return b[1] == 0 && b[2] == 0 && b[3] <= 1 ? LISTING_NONE : LISTING_YES;
}

/* Said when it changes, not once for each address and hour. */
static void zone_becomes(struct address_check *c, const struct look *look, enum zone_state state)
{
	enum zone_state *known = &c->all->zones[look->zone];
	if (*known == state)
		return;
	*known = state;
	if (state == ZONE_SILENT)
		log_warn(
		    "blocklist %s does not answer (for %s): whether addresses are listed there is "
		    "unknown",
		    look->first, c->text);
	else if (state == ZONE_REFUSES)
		log_warn("blocklist %s does not serve this name server (127.255.255.x for %s): "
			 "whether addresses are listed there is unknown",
		    look->first, c->text);
	else
		log_info("blocklist %s answers again", look->first);
}

static void judge_zone(struct address_check *c, const struct look *look, const struct answer *a)
{
	bool begun = false;
	bool answers =
	    a->status == ANSWER_OK || a->status == ANSWER_NXDOMAIN || a->status == ANSWER_NODATA;
	enum zone_state state = answers ? ZONE_ANSWERS : ZONE_SILENT;
	for (size_t i = 0; a->address != NULL && i < a->count; i++) {
		char code[64];
		enum names_listing listing = names_listing(&a->address[i]);
		route_address_print(code, &a->address[i]);
		if (listing == LISTING_REFUSED)
			state = ZONE_REFUSES;
		/* A whole entry or none. */
		if (listing != LISTING_YES || c->listed.n + NAME_TEXT + 64 > LISTED_BYTES)
			continue;
		if (!begun)
			buf_printf(&c->listed, "%s%s", c->listed.n > 0 ? "; " : "", look->first);
		begun = true;
		buf_printf(&c->listed, " %s", code);
	}
	zone_becomes(c, look, state);
}

/* --- one address --------------------------------------------------------------------------------
 */

static void finish(struct address_check *c)
{
	c->fn(c->arg, &(struct names_told){.ticket = c->ticket,
			  .address = c->text,
			  .name = c->name,
			  .confirmed = c->confirmed,
			  .ehlo_matches = c->ehlo_matches,
			  .listed = {(const char *)c->listed.p, c->listed.n}});
	check_free(c);
}

static void ask(struct address_check *c, struct look *look);

static void want(struct address_check *c, enum look_kind kind, const char *first, const char *name,
    uint16_t type, size_t zone)
{
	if (c->look_count == LOOKS_MAX)
		return;
	struct look *look = &c->looks[c->look_count];
	*look = (struct look){.kind = kind, .type = type, .zone = zone};
	str_copy(look->first, sizeof(look->first), str_of(first));
	if (name_from_text(look->name, str_of(name)) != 0)
		return; /* too long for the DNS, or no name */
	c->look_count++;
	c->open++;
	ask(c, look);
}

/* The names of the address; copied first, since `a` is borrowed until the next question. */
static void take_names(struct address_check *c, const struct answer *a)
{
	char names[PTR_NAMES_MAX][NAME_TEXT];
	size_t n = a->mx == NULL ? 0 : a->count < PTR_NAMES_MAX ? a->count : PTR_NAMES_MAX;
	for (size_t i = 0; i < n; i++)
		str_copy(names[i], NAME_TEXT, str_of(a->mx[i].name));
	if (n > 0)
		memcpy(c->name, names[0], NAME_TEXT);
	for (size_t i = 0; i < n; i++)
		want(c, LOOK_BACK, names[i], names[i], c->address.family == 4 ? RR_A : RR_AAAA, 0);
}

static void answered(struct address_check *c, struct look *look, const struct answer *a)
{
	if (a->status == ANSWER_ALIAS && look->aliases + a->aliases <= ALIAS_MAX) {
		look->aliases += a->aliases;
		str_copy(look->name, sizeof(look->name), str_of(a->alias));
		ask(c, look);
		return;
	}
	switch (look->kind) {
	case LOOK_PTR:
		take_names(c, a);
		break;
	case LOOK_BACK:
		if (!c->confirmed && has_address(a, &c->address)) {
			c->confirmed = true;
			str_copy(c->name, sizeof(c->name), str_of(look->first));
		}
		break;
	case LOOK_EHLO:
		c->ehlo_matches = has_address(a, &c->address);
		break;
	case LOOK_ZONE:
		judge_zone(c, look, a);
		break;
	}
	c->open--;
}

static void start_waiting(struct names *all);

static void on_answer(
    void *arg, struct query_wait *wait, const struct answer *a, uint32_t ttl_s, bool secure)
{
	struct address_check *c = arg;
	struct names *all = c->all;
	(void)ttl_s;
	(void)secure;
	answered(c, &c->looks[wait->slot], a);
	if (c->open > 0)
		return;
	finish(c);
	start_waiting(all);
}

static void ask(struct address_check *c, struct look *look)
{
	uint32_t ttl_s;
	bool secure;
	look->wait =
	    (struct query_wait){.fn = on_answer, .arg = c, .slot = (unsigned)(look - c->looks)};
	const struct answer *a =
	    queries_ask(c->all->queries, look->name, look->type, &look->wait, &ttl_s, &secure);
	if (a == NULL)
		return;
	answered(c, look, a);
}

static void start(struct address_check *c)
{
	char name[NAME_TEXT];
	const struct settings *s = c->all->settings;
	uint16_t type = c->address.family == 4 ? RR_A : RR_AAAA;
	list_take(&c->all->waiting, c);
	list_put(&c->all->working, c);
	c->looks = xcalloc(LOOKS_MAX, sizeof(*c->looks));
	c->open = 1; /* held: answers may come from the cache */
	names_reverse(name, &c->address, c->address.family == 4 ? "in-addr.arpa" : "ip6.arpa");
	want(c, LOOK_PTR, name, name, RR_PTR, 0);
	if (c->ehlo[0] != 0)
		want(c, LOOK_EHLO, c->ehlo, c->ehlo, type, 0);
	for (size_t i = 0; s != NULL && i < s->zone_count; i++) {
		names_reverse(name, &c->address, s->zones[i]);
		want(c, LOOK_ZONE, s->zones[i], name, RR_A, i);
	}
	if (--c->open == 0)
		finish(c);
}

static void start_waiting(struct names *all)
{
	while (all->waiting.first != NULL && all->working.count < AT_WORK_MAX)
		start(all->waiting.first);
}

bool names_ask(struct names *all, const struct names_question *q, names_fn *fn, void *arg)
{
	if (all->waiting.count >= WAITING_MAX)
		return false;
	struct address_check *c = xcalloc(1, sizeof(*c));
	c->all = all;
	c->fn = fn;
	c->arg = arg;
	c->ticket = q->ticket;
	buf_init(&c->listed, LISTED_BYTES);
	str_copy(c->text, sizeof(c->text), q->address);
	str_copy(c->ehlo, sizeof(c->ehlo), q->ehlo);
	list_put(&all->waiting, c);
	if (route_address_parse(&c->address, q->address) != 0)
		finish(c); /* nothing can be said of it */
	else
		start_waiting(all);
	return true;
}

static void on_told(void *arg, const struct names_told *told)
{
	chan_send_names_told(arg, &(struct msg_names_told){.ticket = told->ticket,
				      .address = str_of(told->address),
				      .name = str_of(told->name),
				      .confirmed = told->confirmed,
				      .ehlo_matches = told->ehlo_matches,
				      .listed = told->listed});
}

void on_names_ask(void *ctx, struct chan *from_chan, struct msg_names_ask *m)
{
	const struct resolver *r = ctx;
	const struct names_question q = {m->ticket, m->address, m->ehlo};
	if (!names_ask(r->names, &q, on_told, from_chan))
		chan_close(from_chan, "too many questions about addresses");
}

/* --- the whole ----------------------------------------------------------------------------------
 */

struct names *names_new(struct queries *queries)
{
	struct names *n = xcalloc(1, sizeof(*n));
	n->queries = queries;
	return n;
}

void names_drop(struct names *n)
{
	while (n->waiting.first != NULL)
		check_free(n->waiting.first);
	while (n->working.first != NULL)
		check_free(n->working.first);
}

void names_free(struct names **names)
{
	if (*names == NULL)
		return;
	names_drop(*names);
	free(*names);
	*names = NULL;
}

void names_use(struct names *n, const struct settings *settings)
{
	n->settings = settings;
	memset(n->zones, 0, sizeof(n->zones));
}
