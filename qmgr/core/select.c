/* SPDX-License-Identifier: ISC */
/*
 * Which jobs a command is about, without looking at the others: those of a queue, tenant or
 * campaign are found through its lanes, and each lane links all that it has (lane.c, due.c). Only
 * where nothing exact is given are all lanes looked at, and of those that match, all jobs.
 *
 * A selection is a stream: the caller keeps a cursor, and between two calls jobs come and go, are
 * ended by the caller, change their lists; lanes and batches are freed. The cursor is a place: the
 * lane, the list in it, and the job that comes next, with a sum by which it is recognized. If that
 * one is where it was, the stream goes on with it. If not, the list is begun again: what leaves a
 * list of its own accord leaves from its head, so what had been given out before is gone as well.
 * So what stands still is given out once, whatever happens around it (twice, if another command
 * takes away the one that comes next); waiting jobs go before ready ones, as the mail does, so that
 * what becomes due meanwhile is met, at worst twice.
 */
#include "qmgr/core/internal.h"
#include <string.h>

enum {
	SELECT_STEPS = 4096, /* that is_in() takes: more are not worth what they spare */
	DOMAIN_BYTES = 255,  /* of a domain: longer names are none */
};

/* What a filter means, looked up once a call. */
struct select {
	const struct core *core;
	bool none;	       /* nothing can match */
	struct str queue, at;  /* a pattern for it, where it is a domain's; or: */
	const struct queue *q; /* exactly this one */
	struct str tenant, campaign, vmta, domain; /* empty: any */
	const struct link *ring;		   /* of lanes; NULL: all there are */
	size_t member;				   /* offset of its links in struct lane */
	uint32_t skipped;
};

bool core_is_pattern(struct str s)
{
	return s.n && memchr(s.p, '*', s.n);
}

/* ---- names ---- */

static struct str cut(struct str *rest)
{
	const char *slash = rest->n ? memchr(rest->p, '/', rest->n) : NULL;
	struct str head = *rest;

	if (slash)
		head.n = (size_t)(slash - rest->p);
	rest->p += head.n + (slash != NULL);
	rest->n -= head.n + (slash != NULL);
	return head;
}

/* Where a domain's mail goes, however it is written; "": it is none, or has no route. */
static struct str destination_of(const struct core *core, struct str domain)
{
	char low[DOMAIN_BYTES];

	if (domain.n > sizeof(low))
		return STR("");
	for (size_t i = 0; i < domain.n; i++) {
		bool upper = domain.p[i] >= 'A' && domain.p[i] <= 'Z';

		low[i] = (char)(domain.p[i] + (upper ? 'a' - 'A' : 0));
	}
	return core_destination(core, (struct str){low, domain.n});
}

struct str queue_meant(const struct core *core, struct str name, char out[QUEUE_NAME_MAX])
{
	struct str vmta = name, domain = cut(&vmta);
	struct str dest = destination_of(core, domain);

	if (!dest.n || !vmta.n || dest.n + vmta.n + 1 > QUEUE_NAME_MAX)
		return name;
	memcpy(out, dest.p, dest.n);
	out[dest.n] = '/';
	memcpy(out + dest.n + 1, vmta.p, vmta.n);
	return (struct str){out, dest.n + 1 + vmta.n};
}

struct str queue_destination(const struct core *core, struct str pattern)
{
	return core_is_pattern(pattern) ? STR("") : destination_of(core, pattern);
}

bool queue_is_like(const struct queue *q, struct str pattern, struct str at)
{
	struct str destination = name_str(q->dest->name);

	return core_glob(pattern, str_of(q->name)) || core_glob(pattern, destination) ||
	       (at.n && str_eq(at, destination));
}

/* By its name, its destination, or a domain whose mail goes there. */
bool queue_matches(const struct core *core, const struct queue *q, struct str pattern)
{
	return queue_is_like(q, pattern, queue_destination(core, pattern));
}

static size_t add_dest(const struct dest *dest, const struct dest *out[DESTS_NAMED], size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (out[i] == dest)
			return n;
	if (dest && n < DESTS_NAMED)
		out[n++] = dest;
	return n;
}

/* A provider's, a site's, a domain's own, and where the domain's mail goes. */
size_t dests_named(const struct core *core, struct str name, const struct dest *out[DESTS_NAMED])
{
	struct str at = destination_of(core, name);
	const struct domain *d;
	char low[DOMAIN_BYTES];
	size_t n = add_dest(dest_find(core, name), out, 0);

	if (name.n > sizeof(low))
		return n;
	for (size_t i = 0; i < name.n; i++)
		low[i] = (char)(name.p[i] + (name.p[i] >= 'A' && name.p[i] <= 'Z' ? 'a' - 'A' : 0));
	name = (struct str){low, name.n};
	n = add_dest(dest_find(core, name), out, n);
	d = domain_find(core, name);
	n = add_dest(d ? d->own : NULL, out, n);
	return at.n ? add_dest(dest_find(core, at), out, n) : n;
}

/* Splits DESTINATION/VMTA/TENANT[/CAMPAIGN]; what the filter says besides goes first. */
static void split_lane(struct select *s, const struct core_filter *f)
{
	struct str rest = f->queue, dest = cut(&rest), vmta = cut(&rest), tenant = cut(&rest);

	s->queue = f->queue;
	s->tenant = f->tenant;
	s->campaign = f->campaign;
	if (!tenant.n && !rest.n)
		return;
	s->queue.n = dest.n + 1 + vmta.n;
	if (!s->tenant.n)
		s->tenant = tenant;
	if (!s->campaign.n)
		s->campaign = rest;
}

static void set_ring(struct select *s, const struct link *ring, size_t member)
{
	s->ring = ring;
	s->member = member;
}

/* The smallest ring that has all of it. */
static void choose_ring(struct select *s)
{
	const struct core *core = s->core;
	const struct tenant *t = NULL;
	const struct share *share;

	if (s->tenant.n && !core_is_pattern(s->tenant)) {
		t = tenant_find(core, s->tenant);
		s->none = s->none || !t;
	}
	if (s->none)
		return;
	if (s->q) {
		set_ring(s, &s->q->lanes, offsetof(struct lane, in_queue));
		share = t ? share_find(core, s->q, t->name) : NULL;
		if (share)
			set_ring(s, &share->lanes, offsetof(struct lane, in_owner));
		s->none = t && !share;
	} else if (t) {
		const struct name *name = name_find(core, s->campaign);
		const struct campaign *c =
		    s->campaign.n && name ? campaign_find(core, t, name) : NULL;

		set_ring(s, &t->lanes, offsetof(struct lane, in_tenant));
		if (c)
			set_ring(s, &c->lanes, offsetof(struct lane, in_campaign));
	}
}

static struct select plan(const struct core *core, const struct core_filter *f)
{
	struct select s = {.core = core, .vmta = f->vmta, .domain = f->domain};
	char name[QUEUE_NAME_MAX];

	split_lane(&s, f);
	if (s.queue.n && !core_is_pattern(s.queue) && memchr(s.queue.p, '/', s.queue.n)) {
		s.q = queue_find(core, queue_meant(core, s.queue, name));
		if (!s.q) /* what is left in a domain's own queue, its route being known */
			s.q = queue_find(core, s.queue);
		s.none = !s.q;
	}
	if (!s.q && s.queue.n)
		s.at = queue_destination(core, s.queue);
	choose_ring(&s);
	return s;
}

static bool fits(struct str pattern, struct str text)
{
	return !pattern.n || core_glob(pattern, text);
}

static bool lane_fits(const struct select *s, const struct lane *lane)
{
	const struct queue *q = lane->share->queue;

	if (lane->jobs == 0 || (s->q && q != s->q))
		return false;
	return fits(s->tenant, name_str(lane->share->tenant)) &&
	       fits(s->campaign, name_str(lane->campaign)) &&
	       fits(s->vmta, name_str(q->vmta->name)) &&
	       (s->q || !s->queue.n || queue_is_like(q, s->queue, s->at));
}

/* ---- places ---- */

struct spot {
	uint32_t lane;	/* its seq in the ring; without one, its index */
	uint32_t which; /* the batch's seq; or the list */
	bool listed;	/* in one of the lane's own lists */
	job_ref ref;	/* comes next; 0: the head does */
	uint32_t sum;	/* of what it was */
};
#define SPOT_LISTED UINT64_C(0x80000000)

static struct spot spot_of(const struct core_cursor *c)
{
	return (struct spot){.lane = (uint32_t)(c->a >> 32),
	    .which = (uint32_t)c->a,
	    .listed = (c->b >> 32 & SPOT_LISTED) != 0,
	    .ref = (job_ref)(c->b >> 32 & ~SPOT_LISTED),
	    .sum = (uint32_t)c->b};
}

static struct core_cursor cursor_of(const struct spot *p)
{
	return (struct core_cursor){.a = (uint64_t)p->lane << 32 | p->which,
	    .b = (p->ref | (p->listed ? SPOT_LISTED : 0)) << 32 | p->sum};
}

static uint32_t sum_of(const struct job *j)
{
	return (uint32_t)hash_mix(j->id ^ j->due_ms << 8, (uint64_t)j->attempts << 8 | j->state);
}

static const struct lane *lane_of(const struct select *s, const struct link *l)
{
	return (const struct lane *)(const void *)((const char *)l - s->member);
}

static const struct link *link_of(const struct select *s, const struct lane *lane)
{
	return (const struct link *)(const void *)((const char *)lane + s->member);
}

/* The lane of that place or the first behind it, or NULL. */
static const struct lane *lane_from(const struct select *s, uint32_t at)
{
	if (!s->ring) {
		for (uint32_t i = at ? at : 1; i <= s->core->lane_count; i++)
			if (s->core->lane_at[i])
				return s->core->lane_at[i];
		return NULL;
	}
	for (const struct link *l = s->ring->next; l != s->ring; l = l->next)
		if ((int32_t)(lane_of(s, l)->seq - at) >= 0 || at == 0)
			return lane_of(s, l);
	return NULL;
}

static const struct lane *lane_after(const struct select *s, const struct lane *lane)
{
	const struct link *l;

	if (!s->ring)
		return lane_from(s, lane->index + 1);
	l = link_of(s, lane)->next;
	return l == s->ring ? NULL : lane_of(s, l);
}

static uint32_t lane_place(const struct select *s, const struct lane *lane)
{
	return s->ring ? lane->seq : lane->index;
}

/* ---- the jobs of a lane ---- */

/* Its first batch that was made no earlier than seq, or NULL. */
static struct batch *batch_from(const struct lane *lane, uint32_t seq)
{
	for (struct link *l = lane->waiting.next; l != &lane->waiting; l = l->next) {
		struct batch *b = OWNER(l, struct batch, in_lane);

		if (seq == 0 || (int32_t)(b->seq - seq) >= 0)
			return b;
	}
	return NULL;
}

/* The job stands in that batch, as a walk to the end of its list shows; not known: no. */
static bool is_in(const struct core *core, const struct batch *b, job_ref ref)
{
	unsigned steps = SELECT_STEPS;

	while (!(ref & LIST_END) && steps--)
		ref = core_at(core, ref)->next;
	return ref == (LIST_END | LIST_BATCH | b->number);
}

/* What comes next is still there, in that list. */
static bool still_there(const struct core *core, const struct lane *lane, const struct spot *p)
{
	const struct job *j = p->ref ? job_valid(core, p->ref) : NULL;
	const struct batch *b;

	if (!j || j->lane != lane->index || j->state == JOB_ENDED || sum_of(j) != p->sum)
		return false;
	if (p->listed)
		return true;
	b = batch_from(lane, p->which);
	return b && b->seq == p->which &&
	       (!due_falls(&core->due, lane, b) || is_in(core, b, p->ref));
}

/* The head of the list at that place, or of the next one that has jobs; 0: the lane is done. */
static job_ref next_head(const struct lane *lane, struct spot *p)
{
	if (!p->listed) {
		const struct batch *b = batch_from(lane, p->which);

		if (b) {
			p->which = b->seq;
			return b->list.head;
		}
		p->listed = true;
		p->which = 0;
	}
	for (; p->which < LANE_LISTS; p->which++)
		if (lane->list[p->which].head)
			return lane->list[p->which].head;
	return 0;
}

static void set_next(const struct core *core, struct spot *p, job_ref ref)
{
	p->ref = ref;
	p->sum = ref ? sum_of(core_at(core, ref)) : 0;
}

static void step(const struct core *core, struct spot *p)
{
	uint32_t next = core_at(core, p->ref)->next;

	if (next & LIST_END)
		p->which++; /* the list is through */
	set_next(core, p, next & LIST_END ? 0 : next);
}

static bool job_fits(const struct select *s, const struct job *j)
{
	return j->state != JOB_ENDED && j->state != JOB_FREE &&
	       (!s->domain.n ||
		   core_glob(s->domain, name_str(s->core->domain_at[j->domain]->name)));
}

/* Fills `out` from this lane, from the spot on. True: the lane is done. */
static bool take_lane(const struct select *s, const struct lane *lane, struct spot *p, job_ref *out,
    size_t n, size_t *found, unsigned *budget)
{
	if (!still_there(s->core, lane, p))
		p->ref = 0;
	while (*found < n && *budget) {
		if (!p->ref)
			set_next(s->core, p, next_head(lane, p));
		if (!p->ref)
			return true;
		--*budget;
		if (job_fits(s, core_at(s->core, p->ref)))
			out[(*found)++] = p->ref;
		step(s->core, p);
	}
	return false;
}

enum { LANES_A_STEP = 16 }; /* lanes passed over cost a job's look together */

size_t core_select(const struct core *core, const struct core_filter *filter,
    struct core_cursor *cursor, job_ref *out, size_t n, unsigned budget, bool *more)
{
	struct select s = plan(core, filter);
	struct spot p = spot_of(cursor);
	const struct lane *lane = s.none ? NULL : lane_from(&s, p.lane);
	size_t found = 0;

	while (lane && found < n && budget) {
		if (lane_place(&s, lane) != p.lane)
			p = (struct spot){.lane = lane_place(&s, lane)};
		if (!lane_fits(&s, lane))
			budget -= ++s.skipped % LANES_A_STEP == 0;
		else if (!take_lane(&s, lane, &p, out, n, &found, &budget))
			break;
		lane = lane_after(&s, lane);
		if (lane)
			p = (struct spot){.lane = lane_place(&s, lane)};
	}
	*more = lane != NULL;
	*cursor = cursor_of(&p);
	return found;
}
