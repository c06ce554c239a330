/* SPDX-License-Identifier: ISC */
/*
 * Which mail a command means: filters on what the core knows, and on addresses, which stand in the
 * spool only.
 */
#include "qmgr/control.h"
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

/*
 * DOMAIN/VMTA is the queue where the domain's mail waits now, which may be a whole site's, such as
 * [mx.example.net]/main: then *domain, where wanted, becomes the domain, to choose its mail alone.
 * Other names, and patterns, stay as they are.
 */
char *filter_queue_named(const struct qmgr *q, struct str given, char **domain)
{
	struct str vmta = given, name = str_cut(&vmta, '/');
	struct str site = q->core != NULL ? core_destination(q->core, name) : STR("");
	if (vmta.n == 0 || site.n == 0 || str_eq_nocase(site, name))
		return str_dup(given);
	if (domain != NULL && *domain != NULL && !str_eq_nocase(str_of(*domain), name))
		return str_dup(given); /* another domain was asked for: nothing can match */
	if (domain != NULL && *domain == NULL)
		*domain = str_dup(name);
	struct buf out;
	buf_init(&out, site.n + vmta.n + 2);
	buf_str(&out, site);
	buf_put(&out, "/", 1);
	buf_str(&out, vmta);
	char *queue = str_dup((struct str){(const char *)out.p, out.n});
	buf_fini(&out);
	return queue;
}

/* An option that was given empty, say by an unset variable of a shell, is a filter nonetheless:
 * --sender= chooses the null sender, not everybody. */
static char *pattern(const json_t *options, const char *name)
{
	const char *given = control_option(options, name);
	return given != NULL ? xstrdup(given) : NULL;
}

void filter_fini(struct filter *f)
{
	free(f->queue);
	free(f->tenant);
	free(f->campaign);
	free(f->sender);
	free(f->rcpt);
	free(f->domain);
	free(f->where);
	free(f->core_queue);
}

/* DESTINATION/VMTA/TENANT[/CAMPAIGN] is a lane: a queue, and whose mail of it. Where an option
 * names a tenant too it stays one name, which no queue has: then nothing is chosen. */
static void split_lane(struct filter *f)
{
	struct str rest = str_of(f->queue), queue = rest;
	(void)str_cut(&rest, '/');
	(void)str_cut(&rest, '/');
	if (rest.n == 0 || f->tenant != NULL || f->campaign != NULL)
		return;
	queue.n -= rest.n + 1;
	struct str tenant = str_cut(&rest, '/');
	f->tenant = str_dup(tenant);
	if (tenant.p[tenant.n] == '/')
		f->campaign = str_dup(rest);
	char *whole = f->queue;
	f->queue = str_dup(queue);
	free(whole);
}

bool filter_options(
    struct filter *f, const struct qmgr *q, const json_t *options, struct control_reply *reply)
{
	const char *queue = control_option(options, "queue");
	const char *all = control_option(options, "all");
	const char *held = control_option(options, "held");
	int64_t older_ms;
	f->tenant = pattern(options, "tenant");
	f->campaign = pattern(options, "campaign");
	f->sender = pattern(options, "sender");
	f->rcpt = pattern(options, "recipient");
	f->domain = pattern(options, "domain");
	if (queue != NULL) {
		f->queue = filter_queue_named(q, str_of(queue), &f->domain);
		split_lane(f);
	}
	if (all != NULL && strcmp(all, "true") != 0) {
		control_end(reply, EX_USAGE, "--all takes no value");
		return false;
	}
	if (held != NULL && strcmp(held, "true") != 0) {
		control_end(reply, EX_USAGE, "--held takes no value");
		return false;
	}
	f->all = all != NULL;
	f->held = held != NULL;
	if (!said_time(reply, options, "older-than", &older_ms))
		return false;
	if (older_ms > 0)
		f->before_ms = clock_wall_ms() - older_ms;
	return true;
}

static bool like(const char *want, struct str s)
{
	return want == NULL || core_glob(str_of(want), s);
}

static bool is_exact(const char *want)
{
	return want != NULL && want[0] != 0 && strchr(want, '*') == NULL;
}

/* Tenants and campaigns are told apart by case, as the core does; a pattern ignores it. */
static bool like_name(const char *want, struct str s)
{
	return is_exact(want) ? str_eq(str_of(want), s) : like(want, s);
}

/* Of DESTINATION/VMTA; a virtual MTA's name holds no slash. */
static struct str destination_of(struct str queue)
{
	const char *slash = queue.n > 0 ? memrchr(queue.p, '/', queue.n) : NULL;
	return slash != NULL ? (struct str){queue.p, (size_t)(slash - queue.p)} : queue;
}

static bool filter_where(const struct filter *f, const struct job_view *v)
{
	bool there = like(f->where, destination_of(v->queue));
	bool domain = like(f->where, v->domain);
	if (!is_exact(f->where))
		return there || domain;
	return f->pass == 0 ? there : domain && !there; /* nothing comes in both */
}

bool filter_job(const struct filter *f, const struct job_view *v)
{
	return (f->id == 0 || f->id == v->id) && like(f->queue, v->queue) &&
	       like_name(f->tenant, v->tenant) && like_name(f->campaign, v->campaign) &&
	       like(f->domain, v->domain) && (f->where == NULL || filter_where(f, v)) &&
	       (f->before_ms == 0 || v->arrived_ms <= f->before_ms) &&
	       (!f->held || v->state == JOB_SET_ASIDE);
}

bool filter_needs_envelope(const struct filter *f)
{
	return f->sender != NULL || f->rcpt != NULL;
}

bool filter_envelope(const struct filter *f, const struct envelope *e, uint16_t rcpt)
{
	return like(f->sender, e->sender) &&
	       like(f->rcpt, rcpt < e->rcpt_count ? e->rcpt[rcpt].address : STR(""));
}

bool filter_is_empty(const struct filter *f)
{
	return f->id == 0 && f->queue == NULL && f->tenant == NULL && f->campaign == NULL &&
	       f->sender == NULL && f->rcpt == NULL && f->domain == NULL && f->where == NULL &&
	       f->before_ms == 0 && !f->held;
}

void reader_init(struct reader *r)
{
	*r = (struct reader){0};
	buf_init(&r->bytes, ENVELOPE_MAX + 1);
}

const struct envelope *reader_get(struct qmgr *q, struct reader *r, const struct job_view *v)
{
	struct record rec;
	if (r->id == v->id)
		return &r->e;
	if (r->id != 0)
		envelope_fini(&r->e);
	r->id = 0;
	if (reading_envelope(q, v->segment, v->offset, &rec, &r->bytes) != 0 || rec.id != v->id ||
	    envelope_decode(&r->e, (struct str){(const char *)r->bytes.p, r->bytes.n}) != 0)
		return NULL;
	r->id = v->id;
	return &r->e;
}

void reader_fini(struct reader *r)
{
	if (r->id != 0)
		envelope_fini(&r->e);
	buf_fini(&r->bytes);
}

bool filter_args(struct filter *f, const struct qmgr *q, const json_t *args, const json_t *options,
    struct control_reply *reply)
{
	struct str a = said_arg(args, 0);
	bool is_queue = a.n > 0 && memchr(a.p, '/', a.n) != NULL;
	const char *wrong = NULL;
	if (!filter_options(f, q, options, reply))
		return false;
	if (json_array_size(args) == 0 || record_id_parse(&f->id, a) == 0)
		return true;
	f->id = 0;
	if (str_eq(a, STR("ALL"))) {
		f->all = true;
	} else if (a.n == 0) {
		wrong = "the argument is empty: an id, a queue, a domain, or ALL";
	} else if (control_option(options, is_queue ? "queue" : "domain") != NULL) {
		wrong = "an argument and an option name two queues, or two domains";
	} else if (is_queue) {
		f->queue = filter_queue_named(q, a, &f->domain);
		split_lane(f);
	} else {
		f->where = str_dup(a);
	}
	if (wrong != NULL)
		control_end(reply, EX_USAGE, "%s", wrong);
	return wrong == NULL;
}

static struct str exact(const char *want)
{
	return is_exact(want) ? str_of(want) : STR("");
}

/*
 * Jobs of one queue, tenant, campaign or domain are found without a walk over all. A word that may
 * be a domain or a destination takes two passes: the queues of that destination first, then the
 * domain's mail elsewhere, say in the queue of its provider.
 */
void filter_for_core(struct filter *f, struct core_filter *out)
{
	*out = (struct core_filter){.queue = str_of(f->queue),
	    .tenant = exact(f->tenant),
	    .campaign = exact(f->campaign),
	    .domain = exact(f->domain)};
	if (!is_exact(f->where))
		return;
	if (f->pass == 1) {
		out->domain = str_of(f->where);
		return;
	}
	if (f->core_queue == NULL) {
		size_t n = strlen(f->where) + 3;
		f->core_queue = xcalloc(1, n);
		snprintf(f->core_queue, n, "%s/*", f->where);
	}
	out->queue = str_of(f->core_queue);
}

bool filter_next_pass(struct filter *f)
{
	return is_exact(f->where) && f->pass++ == 0;
}

const char *filter_named(const struct filter *f)
{
	return f->where != NULL ? f->where : f->queue != NULL ? f->queue : f->domain;
}

bool filter_names_one(const struct filter *f)
{
	return is_exact(filter_named(f)) && f->tenant == NULL && f->campaign == NULL &&
	       f->sender == NULL && f->rcpt == NULL && f->before_ms == 0;
}
