/* SPDX-License-Identifier: ISC */
/*
 * Pauses (an operator's) and suspensions (a rule's): who may not send, since when, until when.
 *
 * This file knows each hold's life: its key, the commands and rules that make, renew and end it,
 * its timer, and its state. What it is about is hold_match.c's, what it does hold_effect.c's.
 *
 * A hold is found by its key; a pause and a suspension of the same name are two. There are
 * CORE_HOLDS at most, CORE_WIDE of them wide. A suspension that is renewed says nothing new, and
 * its end is given out again only when it has moved by much. When a suspension of a tenant or
 * campaign at a destination ends, its mail there begins with a probe (party_recover.c).
 *
 * Each hold is a state of its own, so a crash leaves those whose command was answered. Its end is a
 * timer that is set anew at a restart; one that ended meanwhile ends, with its probe, at the start.
 */
#include "qmgr/core/hold.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	CORE_HOLDS = 100000,  /* all: what rules suspend stays bounded, whatever remotes answer */
	CORE_WIDE = 1000,     /* each queue looks at all of them */
	KEY_MAX = 240,	      /* of a state's name: longer ones are told by their hash */
	HOLD_SAVE_SHARE = 64, /* an extension is given out when it adds that part of the rest */
};
#define HOLD_MARK UINT64_C(0x686f6c6473) /* the same after a restart, unlike core->seed */

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

/* ---- their life ---- */

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
		table_add(&core->holds.places, &h->by_at, hold_subject_hash(core, h->at));
	if (hold_is_wide(r->scope, r->name)) {
		link_append(&core->holds.wide, &h->in_wide);
		core->holds.wide_count++;
	} else {
		table_add(&core->holds.subjects, &h->by_subject,
		    hold_subject_hash(core, h->tenant ? h->tenant : h->name));
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
	if (hold_is_wide(h->scope, name_str(h->name))) {
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
	hold_changed(core, &last);
	name_drop(core, last.name);
	name_drop(core, last.tenant);
	name_drop(core, last.campaign);
}

void hold_timer(struct core *core, struct timer *t)
{
	if (t->kind == TIMER_RELEASE)
		hold_release(core);
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

static int hold(struct core *core, const struct hold_request *request, bool suspension)
{
	struct hold_request r = *request;
	int rc = hold_check(core, &r);
	char text[KEY_MAX], own[QUEUE_NAME_MAX];
	struct hold *h;
	struct str key;
	bool renewed;

	if (rc)
		return rc;
	r.name = hold_own_name(core, r.scope, r.name, own);
	key = make_key(text, suspension, r.scope, r.name, r.at);
	h = find(core, key);
	renewed = h != NULL;
	if (!h && (core->holds.keys.count >= CORE_HOLDS ||
		      (hold_is_wide(r.scope, r.name) && core->holds.wide_count >= CORE_WIDE)))
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
	hold_changed(core, h);
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
	own = hold_own_name(core, scope, name, buf);
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
	hold_changed(core, h);
	return 0;
}
