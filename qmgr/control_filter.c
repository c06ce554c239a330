/* SPDX-License-Identifier: ISC */
/*
 * Which mail a command means: filters on what the core knows, and on addresses, which stand in the
 * spool only.
 */
#include "qmgr/control.h"
#include <stdlib.h>

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
}

void filter_options(struct filter *f, const struct qmgr *q, const json_t *options)
{
	const char *queue = control_option(options, "queue");
	f->tenant = pattern(options, "tenant");
	f->campaign = pattern(options, "campaign");
	f->sender = pattern(options, "sender");
	f->rcpt = pattern(options, "recipient");
	f->domain = pattern(options, "domain");
	if (queue != NULL)
		f->queue = filter_queue_named(q, str_of(queue), &f->domain);
}

static bool like(const char *want, struct str s)
{
	return want == NULL || core_glob(str_of(want), s);
}

bool filter_job(const struct filter *f, const struct job_view *v)
{
	return (f->id == 0 || f->id == v->id) && like(f->queue, v->queue) &&
	       like(f->tenant, v->tenant) && like(f->campaign, v->campaign) &&
	       like(f->domain, v->domain);
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
	       f->sender == NULL && f->rcpt == NULL && f->domain == NULL;
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

/* FILTER: an id, a queue's name or pattern, or the options of `messages`. */
void filter_args(struct filter *f, const struct qmgr *q, const json_t *args, const json_t *options)
{
	struct str a = said_arg(args, 0);
	bool is_queue = a.n > 0 && memchr(a.p, '/', a.n) != NULL;
	filter_options(f, q, options);
	if (json_array_size(args) == 0 || str_eq(a, STR("ALL")) || record_id_parse(&f->id, a) == 0)
		return;
	f->id = 0;
	if (a.n == 0)
		f->wrong = "the argument is empty: an id, a queue, a domain, or ALL";
	else if (control_option(options, is_queue ? "queue" : "domain") != NULL)
		f->wrong = "an argument and an option name two queues, or two domains";
	else if (is_queue)
		f->queue = filter_queue_named(q, a, &f->domain);
	else
		f->domain = str_dup(a);
}
