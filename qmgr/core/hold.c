/* SPDX-License-Identifier: ISC */
/*
 * Pauses (an operator's) and suspensions (a rule's): who may not send, since when, until when.
 *
 * Three kinds of things are held, each where it costs the least:
 *   a queue             it makes no decision: nothing granted, nothing sent; its idle connections
 *                       are closed, and busy ones after their last result
 *   a tenant's share    parked: out of the turn of its queue (lane.c), all its lanes at once
 *   a campaign's lane   parked likewise
 * What is in flight ends normally. Held mail burns no retry but ages: sweeps look at parked lanes
 * and held queues like at all others.
 *
 * Whether something is held is never counted up and down but looked up, by the holds that concern
 * it: those of its exact name by hash, and for queues the wide ones (a pattern, a virtual MTA, a
 * provider: CORE_WIDE at most). So holds may overlap, come in any order, and end in any order. A
 * change of a wide one moves a generation on; each queue looks again before its next decision, and
 * a walk in slices brings it to those that have nothing to decide. A tenant's or campaign's hold
 * touches that one's shares or lanes and nothing else; new ones ask when they are made.
 *
 * What is released: a queue that a rule had suspended begins with a probe (mode.c); an operator's
 * pause ends at once; a tenant's shares and a campaign's lanes come back one after the other within
 * RELEASE_STEPS steps, so that a hundred destinations do not see the burst in the same second.
 *
 * Each hold is a state of its own, so a crash leaves those whose command was answered. Its end is a
 * timer that is set anew at a restart; one that ended meanwhile ends, with its probe, at the start.
 * A crash amid a release forgets the rest of the staggering: all of it flows.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	CORE_HOLDS = 100000,  /* all: what rules suspend stays bounded, whatever remotes answer */
	CORE_WIDE = 1000,     /* each queue looks at all of them */
	HOLD_NAME_MAX = 4096, /* bytes of a name, a text or a rule */
	KEY_MAX = 240,	      /* of a state's name: longer ones are told by their hash */
	RELEASE_STEPS = 40,
	HOLD_SAVE_SHARE = 64, /* an extension is given out when it adds that part of the rest */
};
#define RELEASE_STEP 100		 /* ms */
#define HOLD_MARK UINT64_C(0x686f6c6473) /* the same after a restart, unlike core->seed */

struct hold {
	struct node by_key, by_subject, by_at;
	struct link in_wide;
	uint32_t number;
	enum core_scope scope;
	bool suspension;
	struct name *key;	/* of its state */
	struct name *name, *at; /* at "": everywhere */
	struct name *tenant;	/* of a tenant or campaign */
	struct name *campaign;
	char *who, *rule, *text;	      /* owned */
	int64_t since_ms, until_ms, saved_ms; /* saved: the end as it was given out */
	struct timer timer;
};

static const char *const scopes[] = {[CORE_QUEUE] = "queue",
    [CORE_TENANT] = "tenant",
    [CORE_CAMPAIGN] = "campaign",
    [CORE_VMTA] = "vmta",
    [CORE_PROVIDER] = "provider",
    [CORE_SOURCE] = "source"};

void hold_init(struct core *core)
{
	struct holds *h = &core->holds;

	table_init(&h->keys);
	table_init(&h->subjects);
	table_init(&h->places);
	link_init(&h->wide);
	link_init(&h->shares);
	link_init(&h->lanes);
	h->timer.kind = TIMER_RELEASE;
}

bool hold_queue(const struct queue *q)
{
	return q->held;
}

/* ---- what a hold is about ---- */

static bool is_wide(enum core_scope scope, struct str name)
{
	if (scope == CORE_QUEUE)
		return core_is_pattern(name) || !memchr(name.p, '/', name.n);
	return scope == CORE_VMTA || scope == CORE_PROVIDER;
}

static uint64_t subject_hash(const struct core *core, const struct name *name)
{
	return hash_mix(core->seed, (uintptr_t)name);
}

static bool wide_concerns(const struct core *core, const struct hold *h, const struct queue *q)
{
	struct str name = name_str(h->name);

	if (h->scope == CORE_VMTA)
		return str_eq(name, name_str(q->vmta->name));
	if (h->scope == CORE_PROVIDER)
		return str_eq(name, name_str(q->provider)) || str_eq(name, name_str(q->dest->name));
	return queue_matches(core, q, name);
}

/* A destination, or a domain whose mail goes there. */
static bool is_at(const struct core *core, const struct hold *h, const struct queue *q)
{
	struct str at = name_str(h->at), dest = name_str(q->dest->name);

	return at.n == 0 || str_eq(at, dest) || str_eq(at, name_str(q->provider)) ||
	       str_eq(core_destination(core, at), dest);
}

struct hold_state {
	bool held, suspended;
};

static void judge(struct hold_state *v, const struct hold *h)
{
	v->held = true;
	v->suspended |= h->suspension;
}

static struct hold_state queue_verdict(const struct core *core, const struct queue *q)
{
	const struct holds *all = &core->holds;
	struct hold_state v = {false, false};
	const struct name *name;

	if (all->keys.count == 0)
		return v;
	for (struct link *l = all->wide.next; l != &all->wide; l = l->next)
		if (wide_concerns(core, OWNER(l, struct hold, in_wide), q))
			judge(&v, OWNER(l, struct hold, in_wide));
	name = name_find(core, str_of(q->name));
	for (struct node *n = name ? table_first(&all->subjects, subject_hash(core, name)) : NULL;
	     n; n = table_next(n)) {
		const struct hold *h = OWNER(n, struct hold, by_subject);

		if (h->scope == CORE_QUEUE && h->name == name)
			judge(&v, h);
	}
	return v;
}

/* Of a tenant (campaign NULL) or campaign, in this queue, or (q NULL) everywhere. */
static bool party_held(const struct core *core, enum core_scope scope, const struct name *tenant,
    const struct name *campaign, const struct queue *q)
{
	const struct table *t = &core->holds.subjects;

	for (struct node *n = table_first(t, subject_hash(core, tenant)); n; n = table_next(n)) {
		const struct hold *h = OWNER(n, struct hold, by_subject);

		if (h->scope != scope || h->tenant != tenant ||
		    (scope == CORE_CAMPAIGN && h->campaign != campaign))
			continue;
		if (q ? is_at(core, h, q) : h->at->n == 0)
			return true;
	}
	return false;
}

bool hold_everywhere(const struct core *core, enum core_scope scope, const struct name *tenant,
    const struct name *campaign)
{
	return party_held(core, scope, tenant, campaign, NULL);
}

bool hold_vmta(const struct core *core, const struct vmta *v)
{
	const struct link *wide = &core->holds.wide;

	for (struct link *l = wide->next; l != wide; l = l->next) {
		const struct hold *h = OWNER(l, struct hold, in_wide);

		if (h->scope == CORE_VMTA && str_eq(name_str(h->name), name_str(v->name)))
			return true;
	}
	return false;
}

bool hold_now(const struct core *core, const struct queue *q)
{
	return queue_verdict(core, q).held;
}

/* ---- why ---- */

static bool concerns_lane(const struct core *core, const struct hold *h, const struct lane *lane)
{
	return h->tenant == lane->share->tenant &&
	       (h->scope == CORE_TENANT || h->campaign == lane->campaign) &&
	       is_at(core, h, lane->share->queue);
}

static bool concerns_queue(const struct core *core, const struct hold *h, const struct queue *q)
{
	if (h->tenant)
		return false;
	return is_wide(h->scope, name_str(h->name)) ? wide_concerns(core, h, q)
						    : str_eq(name_str(h->name), str_of(q->name));
}

/* Asked by people only: all holds are looked at. */
bool hold_why(
    const struct core *core, const struct queue *q, const struct lane *lane, struct core_why *why)
{
	const struct slots *slots = &core->holds.slots;
	const struct hold *last = NULL;

	for (uint32_t i = 1; i <= slots->count; i++) {
		const struct hold *h = slots->at[i];

		if (!h || !(concerns_queue(core, h, q) ||
			      (lane && h->tenant && concerns_lane(core, h, lane))))
			continue;
		if (!last || (last->until_ms && (!h->until_ms || h->until_ms > last->until_ms)))
			last = h;
	}
	if (!last)
		return false;
	why->state = last->suspension ? STR("suspended") : STR("paused");
	why->binding = name_str(last->key); /* behind its first word, which the state says */
	(void)str_cut(&why->binding, ' ');
	why->text = str_of(last->text);
	why->who = str_of(last->who);
	why->rule = str_of(last->rule);
	why->until_ms = last->until_ms;
	return true;
}

/* ---- queues ---- */

static void shut(struct core *core, struct queue *q)
{
	grant_unwait(core, q);
	limit_leave(core, &q->send, true);
	while (!link_alone(&q->idle))
		conn_close(core, OWNER(q->idle.next, struct conn, in_ready), false);
}

void hold_look(struct core *core, struct queue *q)
{
	struct hold_state now, was = {q->held, q->suspended};

	if (q->hold_generation == core->holds.generation)
		return;
	q->hold_generation = core->holds.generation;
	now = queue_verdict(core, q);
	q->held = now.held;
	q->suspended = now.held && (was.suspended || now.suspended); /* a pause may outlast it */
	if (now.held && !was.held)
		shut(core, q);
	if (!now.held && was.suspended)
		mode_recover(core, q);
	if (now.held && !was.held)
		place_lost(core, q);
	if (was.held && !now.held) {
		queue_dirty(core, q);
		place_found(core, q);
	}
}

static void look_again(struct core *core, struct queue *q)
{
	q->hold_generation--;
	hold_look(core, q);
}

void hold_new_queue(struct core *core, struct queue *q)
{
	look_again(core, q);
}

static void wide_changed(struct core *core)
{
	core->holds.generation++;
	core->holds.walk = core->queue_count;
}

bool hold_run(struct core *core, unsigned *budget)
{
	struct holds *h = &core->holds;

	for (; h->walk; h->walk--) {
		struct queue *q = core->queue_at[h->walk];

		if (*budget == 0)
			return true;
		--*budget;
		if (q)
			hold_look(core, q);
	}
	return false;
}

/* ---- shares and lanes ---- */

static void step_release(struct core *core)
{
	struct holds *h = &core->holds;

	for (uint32_t i = 0; i < h->pace && h->releasing; i++, h->releasing--) {
		if (!link_alone(&h->shares)) {
			struct share *s = OWNER(h->shares.next, struct share, in_release);

			link_remove(&s->in_release);
			share_unpark(core, s, PARK_HOLD);
		} else if (!link_alone(&h->lanes)) {
			struct lane *lane = OWNER(h->lanes.next, struct lane, in_release);

			link_remove(&lane->in_release);
			lane_unpark(core, lane, PARK_HOLD);
		}
	}
	if (link_alone(&h->shares) && link_alone(&h->lanes))
		h->releasing = h->pace = 0;
	else
		wheel_add(core->wheel, &h->timer.node, core->now + RELEASE_STEP);
}

/* Those that were put into the line just now go on with it; the first ones at once. */
static void begin_release(struct core *core, uint32_t more)
{
	struct holds *h = &core->holds;
	uint32_t pace;

	if (!more)
		return;
	h->releasing += more;
	pace = (h->releasing + RELEASE_STEPS - 1) / RELEASE_STEPS;
	h->pace = pace > h->pace ? pace : h->pace;
	if (!wheel_armed(&h->timer.node))
		step_release(core);
}

/* Returns 1 when it is to be released. */
static uint32_t look_share(struct core *core, struct share *s)
{
	if (party_held(core, CORE_TENANT, s->tenant, NULL, s->queue)) {
		link_remove(&s->in_release);
		share_park(core, s, PARK_HOLD);
	} else if ((s->parked & PARK_HOLD) && link_alone(&s->in_release)) {
		link_append(&core->holds.shares, &s->in_release);
		return 1;
	}
	return 0;
}

static uint32_t look_lane(struct core *core, struct lane *lane)
{
	struct share *s = lane->share;

	if (party_held(core, CORE_CAMPAIGN, s->tenant, lane->campaign, s->queue)) {
		link_remove(&lane->in_release);
		lane_park(core, lane, PARK_HOLD);
	} else if ((lane->parked & PARK_HOLD) && link_alone(&lane->in_release)) {
		link_append(&core->holds.lanes, &lane->in_release);
		return 1;
	}
	return 0;
}

void hold_new_share(struct core *core, struct share *s)
{
	if (core->holds.keys.count)
		look_share(core, s);
}

void hold_new_lane(struct core *core, struct lane *lane)
{
	if (core->holds.keys.count)
		look_lane(core, lane);
}

/* The queue leads to another provider now: what is held there is held here. */
void hold_moved(struct core *core, struct queue *q)
{
	uint32_t n = 0;

	if (core->holds.keys.count == 0)
		return;
	look_again(core, q);
	for (struct link *l = q->shares.next; l != &q->shares; l = l->next)
		n += look_share(core, OWNER(l, struct share, in_queue));
	for (struct link *l = q->lanes.next; l != &q->lanes; l = l->next)
		n += look_lane(core, OWNER(l, struct lane, in_queue));
	begin_release(core, n);
}

static void party_changed(struct core *core, const struct hold *h)
{
	const struct tenant *t = tenant_find(core, name_str(h->tenant));
	const struct campaign *c =
	    t && h->scope == CORE_CAMPAIGN ? campaign_find(core, t, h->campaign) : NULL;
	uint32_t n = 0;

	if (t && h->scope == CORE_TENANT)
		for (struct link *l = t->shares.next; l != &t->shares; l = l->next)
			n += look_share(core, OWNER(l, struct share, in_tenant));
	for (struct link *l = c ? c->lanes.next : NULL; l && l != &c->lanes; l = l->next)
		n += look_lane(core, OWNER(l, struct lane, in_campaign));
	begin_release(core, n);
}

/* That domain's mail goes elsewhere now: and with it what is held at it. */
void hold_domain_moved(struct core *core, const struct name *domain)
{
	const struct table *t = &core->holds.places;

	if (t->count == 0)
		return;
	for (struct node *n = table_first(t, subject_hash(core, domain)); n; n = table_next(n)) {
		const struct hold *h = OWNER(n, struct hold, by_at);

		if (h->at == domain)
			party_changed(core, h);
	}
}

/* ---- their life ---- */

static void changed(struct core *core, const struct hold *h)
{
	struct queue *q;

	if (h->tenant) {
		party_changed(core, h);
	} else if (is_wide(h->scope, name_str(h->name))) {
		wide_changed(core);
	} else {
		q = queue_find(core, name_str(h->name));
		if (q)
			look_again(core, q);
	}
}

static uint64_t key_hash(const struct core *core, struct str key)
{
	return hash_bytes(core->seed, key);
}

static struct hold *find(const struct core *core, struct str key)
{
	const struct table *t = &core->holds.keys;

	for (struct node *n = table_first(t, key_hash(core, key)); n; n = table_next(n))
		if (str_eq(name_str(OWNER(n, struct hold, by_key)->key), key))
			return OWNER(n, struct hold, by_key);
	return NULL;
}

/* "pause tenant acme at google". */
static struct str make_key(
    char out[KEY_MAX], bool suspension, enum core_scope scope, struct str name, struct str at)
{
	const char *kind = suspension ? "suspend" : "pause";
	int n = snprintf(out, KEY_MAX, "%s %s %.*s%s%.*s", kind, scopes[scope], STR_ARG(name),
	    at.n ? " at " : "", STR_ARG(at));

	if (n < 0 || n >= KEY_MAX || memchr(name.p, ' ', name.n)) /* long, or not clear */
		n = snprintf(out, KEY_MAX, "%s %s #%016llx%016llx", kind, scopes[scope],
		    (unsigned long long)hash_bytes(HOLD_MARK, name),
		    (unsigned long long)hash_bytes(hash_bytes(HOLD_MARK, name), at));
	return (struct str){out, (size_t)n};
}

static struct hold *hold_new(struct core *core, struct str key, const struct hold_request *r)
{
	struct hold *h = xcalloc(1, sizeof(*h));
	const char *slash = memchr(r->name.p, '/', r->name.n);
	struct str tenant = r->name, campaign = STR("");

	h->key = name_get(core, key);
	h->scope = r->scope;
	h->name = name_get(core, r->name);
	h->at = name_get(core, r->at);
	h->timer.kind = TIMER_HOLD;
	h->since_ms = core->now;
	link_init(&h->in_wide);
	if (r->scope == CORE_CAMPAIGN) {
		tenant.n = (size_t)(slash - tenant.p);
		campaign = (struct str){slash + 1, r->name.n - tenant.n - 1};
		h->campaign = name_get(core, campaign);
	}
	if (r->scope == CORE_TENANT || r->scope == CORE_CAMPAIGN)
		h->tenant = name_get(core, tenant);
	table_add(&core->holds.keys, &h->by_key, key_hash(core, key));
	if (h->tenant && h->at->n)
		table_add(&core->holds.places, &h->by_at, subject_hash(core, h->at));
	if (is_wide(r->scope, r->name)) {
		link_append(&core->holds.wide, &h->in_wide);
		core->holds.wide_count++;
	} else {
		table_add(&core->holds.subjects, &h->by_subject,
		    subject_hash(core, h->tenant ? h->tenant : h->name));
	}
	h->number = slots_take(&core->holds.slots, h);
	return h;
}

static void hold_free(struct core *core, struct hold *h)
{
	wheel_cancel(core->wheel, &h->timer.node);
	table_remove(&core->holds.keys, &h->by_key);
	if (h->tenant && h->at->n)
		table_remove(&core->holds.places, &h->by_at);
	if (is_wide(h->scope, name_str(h->name))) {
		link_remove(&h->in_wide);
		core->holds.wide_count--;
	} else {
		table_remove(&core->holds.subjects, &h->by_subject);
	}
	slots_give(&core->holds.slots, h->number);
	name_drop(core, h->key);
	name_drop(core, h->name);
	name_drop(core, h->at);
	name_drop(core, h->tenant);
	name_drop(core, h->campaign);
	free(h->who);
	free(h->rule);
	free(h->text);
	free(h);
}

void hold_fini(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->holds.keys)))
		hold_free(core, OWNER(n, struct hold, by_key));
	wheel_cancel(core->wheel, &core->holds.timer.node);
	slots_fini(&core->holds.slots);
	table_fini(&core->holds.keys);
	table_fini(&core->holds.subjects);
	table_fini(&core->holds.places);
}

static void say(struct core *core, const struct hold *h, enum core_event_kind kind, struct str text,
    struct str who)
{
	struct buf scope;

	buf_init(&scope, SIZE_MAX);
	if (h->scope != CORE_QUEUE)
		buf_printf(&scope, "%s ", scopes[h->scope]);
	buf_str(&scope, name_str(h->name));
	if (h->at->n)
		buf_printf(&scope, " at %.*s", STR_ARG(name_str(h->at)));
	event_push(core, &(struct core_event){.kind = kind,
			     .scope = {(const char *)scope.p, scope.n},
			     .text = text,
			     .rule = str_of(h->rule),
			     .who = who,
			     .until_ms = kind == EVENT_HOLD ? h->until_ms : 0});
	buf_fini(&scope);
}

/* A rule's, of a tenant or campaign somewhere: its mail begins with a probe (party.c). */
static void recover(struct core *core, const struct hold *h)
{
	const struct why why = {.text = str_of(h->text), .rule = str_of(h->rule)};

	if (h->suspension && h->tenant && h->at->n && (!h->campaign || h->campaign->n))
		party_recover(core, h->tenant, h->campaign, h->at, &why);
}

static void end(struct core *core, struct hold *h, struct str text, struct str who)
{
	struct hold last = *h;

	say(core, h, EVENT_RELEASE, text, who);
	state_changed(core, STR("hold"), name_str(h->key));
	name_keep(last.name);
	if (last.tenant)
		name_keep(last.tenant);
	if (last.campaign)
		name_keep(last.campaign);
	recover(core, h);
	hold_free(core, h);
	changed(core, &last);
	name_drop(core, last.name);
	name_drop(core, last.tenant);
	name_drop(core, last.campaign);
}

void hold_timer(struct core *core, struct timer *t)
{
	if (t->kind == TIMER_RELEASE)
		step_release(core);
	else
		end(core, OWNER(t, struct hold, timer), STR("its time is over"), STR(""));
}

static void renew(struct str text, char **at)
{
	free(*at);
	*at = str_dup(text);
}

static struct str shorten(struct str text)
{
	text.n = text.n > HOLD_NAME_MAX ? HOLD_NAME_MAX : text.n;
	return text;
}

static void set_words(struct hold *h, const struct hold_request *r)
{
	renew(shorten(r->who), &h->who);
	renew(shorten(r->rule), &h->rule);
	renew(shorten(r->text), &h->text);
}

static void set_end(struct core *core, struct hold *h, int64_t until_ms)
{
	h->until_ms = until_ms;
	wheel_cancel(core->wheel, &h->timer.node);
	if (until_ms)
		wheel_add(core->wheel, &h->timer.node, until_ms);
}

/* The end moves on with each match; what that adds is not given out every time. */
static void save_end(struct core *core, struct hold *h)
{
	int64_t added = h->until_ms - h->saved_ms;

	if (added < 0 || h->until_ms == 0 ||
	    added >= SECOND + (h->until_ms - core->now) / HOLD_SAVE_SHARE) {
		h->saved_ms = h->until_ms;
		state_changed(core, STR("hold"), name_str(h->key));
	}
}

/* ---- commands and rules ---- */

/* Nothing can have that name: -ENOENT. What has no mail yet may still be held. */
static int check(const struct core *core, const struct hold_request *r)
{
	const char *slash = memchr(r->name.p, '/', r->name.n);
	struct name *provider;

	if (r->name.n == 0 || r->name.n > HOLD_NAME_MAX || r->at.n > HOLD_NAME_MAX)
		return -ENOENT;
	switch (r->scope) {
	case CORE_TENANT:
		return r->name.n > UINT16_MAX ? -ENOENT : 0;
	case CORE_CAMPAIGN:
		return slash && slash > r->name.p ? 0 : -ENOENT;
	case CORE_VMTA:
		return vmta_find(core, r->name) ? 0 : -ENOENT;
	case CORE_PROVIDER:
		provider = name_find(core, r->name);
		return provider && (provider_conf(core, provider) || dest_find(core, r->name))
			   ? 0
			   : -ENOENT;
	case CORE_QUEUE:
		return 0;
	case CORE_SOURCE:
		break;
	}
	return -ENOENT;
}

/* A queue under its own name, however its destination was written. */
static struct str own_name(
    const struct core *core, enum core_scope scope, struct str name, char out[QUEUE_NAME_MAX])
{
	if (scope != CORE_QUEUE || is_wide(scope, name))
		return name;
	return queue_meant(core, name, out);
}

static int hold(struct core *core, const struct hold_request *request, bool suspension)
{
	struct hold_request r = *request;
	int rc = check(core, &r);
	char text[KEY_MAX], own[QUEUE_NAME_MAX];
	struct hold *h;
	struct str key;
	bool renewed;

	if (rc)
		return rc;
	r.name = own_name(core, r.scope, r.name, own);
	key = make_key(text, suspension, r.scope, r.name, r.at);
	h = find(core, key);
	renewed = h != NULL;
	if (!h && (core->holds.keys.count >= CORE_HOLDS ||
		      (is_wide(r.scope, r.name) && core->holds.wide_count >= CORE_WIDE)))
		return -ENOSPC;
	if (!h)
		h = hold_new(core, key, &r);
	h->suspension = suspension;
	set_words(h, &r);
	set_end(core, h, r.until_ms);
	if (renewed && suspension) { /* a rule that goes on matching says nothing new */
		save_end(core, h);
		return 0;
	}
	h->saved_ms = r.until_ms;
	state_changed(core, STR("hold"), key);
	say(core, h, EVENT_HOLD, r.text, r.who);
	changed(core, h);
	return 0;
}

int hold_add(struct core *core, const struct hold_request *request)
{
	return hold(core, request, true);
}

int core_pause(struct core *core, enum core_scope scope, struct str name, struct str at,
    int64_t until_ms, struct str who, int64_t now_ms)
{
	core_clock(core, now_ms);
	return hold(core,
	    &(struct hold_request){
		.scope = scope, .name = name, .at = at, .until_ms = until_ms, .who = who},
	    false);
}

size_t core_resume(struct core *core, enum core_scope scope, struct str name, struct str at,
    struct str who, int64_t now_ms)
{
	size_t n = 0;
	char buf[QUEUE_NAME_MAX];
	struct str own;

	core_clock(core, now_ms);
	if (scope == CORE_SOURCE || name.n == 0)
		return 0;
	own = own_name(core, scope, name, buf);
	for (int i = 0; i < 4; i++) { /* a pause and a suspension, by both its names */
		char text[KEY_MAX];
		struct hold *h = find(core, make_key(text, i & 1, scope, i & 2 ? name : own, at));

		if (!h)
			continue;
		end(core, h, STR("resumed"), who);
		n++;
	}
	return n;
}

size_t core_holds(
    const struct core *core, struct core_cursor *cursor, struct hold_view *out, size_t n)
{
	const struct slots *slots = &core->holds.slots;
	const uint64_t settings = UINT64_C(1)
				  << 40;	    /* the cursor's b: sources below, then these, */
	const uint64_t parties = UINT64_C(1) << 41; /* and these */
	size_t found = 0;

	while (found < n && cursor->a < slots->count) {
		const struct hold *h = slots->at[++cursor->a];

		if (!h)
			continue;
		out[found++] = (struct hold_view){.scope = h->scope,
		    .kind = h->suspension ? STR("suspend") : STR("pause"),
		    .name = name_str(h->name),
		    .at = name_str(h->at),
		    .who = str_of(h->who),
		    .rule = str_of(h->rule),
		    .text = str_of(h->text),
		    .since_ms = h->since_ms,
		    .until_ms = h->until_ms};
	}
	if (found < n && cursor->b < settings)
		found += source_views(core, &cursor->b, out + found, n - found);
	if (found < n && cursor->b < parties) {
		uint64_t from = cursor->b < settings ? 0 : cursor->b - settings;

		found += setting_views(core, &from, out + found, n - found);
		cursor->b = settings + from;
	}
	if (found < n) {
		uint64_t from = cursor->b < parties ? 0 : cursor->b - parties;

		found += party_views(core, &from, out + found, n - found);
		cursor->b = parties + from;
	}
	return found;
}

/* ---- over a restart ---- */

bool hold_encode(struct core *core, struct str key, struct buf *out)
{
	const struct hold *h = find(core, key);

	if (!h)
		return false;
	buf_u8(out, (uint8_t)h->scope);
	buf_u8(out, h->suspension);
	buf_str16(out, name_str(h->name));
	buf_str16(out, name_str(h->at));
	buf_str16(out, str_of(h->who));
	buf_str16(out, str_of(h->rule));
	buf_str16(out, str_of(h->text));
	buf_u64(out, (uint64_t)h->since_ms);
	buf_u64(out, (uint64_t)h->until_ms);
	return true;
}

int hold_restore(struct core *core, struct str key, struct rd *value)
{
	struct hold_request r = {.scope = (enum core_scope)rd_u8(value)};
	bool suspension = rd_u8(value) != 0;
	int64_t since_ms;
	struct hold *h;

	r.name = rd_str16(value);
	r.at = rd_str16(value);
	r.who = rd_str16(value);
	r.rule = rd_str16(value);
	r.text = rd_str16(value);
	since_ms = (int64_t)rd_u64(value);
	r.until_ms = (int64_t)rd_u64(value);
	if (value->bad || value->n || r.scope >= CORE_SOURCE || r.name.n == 0 ||
	    r.name.n > HOLD_NAME_MAX || r.until_ms < 0 || find(core, key) ||
	    (r.scope == CORE_CAMPAIGN && !memchr(r.name.p, '/', r.name.n)))
		return -EBADMSG;
	h = hold_new(core, key, &r);
	h->suspension = suspension;
	h->since_ms = since_ms;
	h->saved_ms = r.until_ms;
	set_words(h, &r);
	set_end(core, h, r.until_ms);
	changed(core, h);
	return 0;
}
