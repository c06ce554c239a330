/* SPDX-License-Identifier: ISC */
/*
 * One message becomes jobs. The same function for a message that a writer told us of and for one
 * that was read from a segment; the caller moves the segment's mark, in the same turn, so that
 * mark, jobs and journal record belong to one commit.
 *
 * During recovery the journal's later word (redo) counts: a recipient whose outcome stands there is
 * not made again, an intent without an outcome makes it doubtful, and a message whose RECEIVED
 * stands there is not logged twice.
 *
 * A DSN settles the report that asked for it (bounces.c). One whose report is settled already is a
 * second one, made because bouncer or we died at the wrong moment: it is dropped here, unseen.
 */
#include "common/addr.h"
#include "common/log.h"
#include "qmgr/shell.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct taking {
	struct qmgr *q;
	struct segment *segment;
	const struct record *record;
	const struct envelope *e;
	struct redo_message *redo;
	uint8_t flags;
	uint32_t bytes;
	bool check; /* some of its jobs may be there already */
	int only;   /* this recipient alone; -1: all */
	unsigned added;
};

static bool has_job(struct qmgr *q, uint64_t id, unsigned rcpt)
{
	struct job_view v;
	for (job_ref j = core_find(q->core, id); j != 0; j = core_sibling(q->core, j))
		if (core_job(q->core, j, &v) && v.rcpt == rcpt)
			return true;
	return false;
}

static struct str lower_domain(struct str domain, char room[DOMAIN_MAX + 1])
{
	bool upper = false;
	for (size_t i = 0; i < domain.n; i++)
		upper |= domain.p[i] >= 'A' && domain.p[i] <= 'Z';
	if (!upper || domain.n > DOMAIN_MAX)
		return domain;
	for (size_t i = 0; i < domain.n; i++)
		room[i] = domain.p[i] >= 'A' && domain.p[i] <= 'Z' ? (char)(domain.p[i] + 32)
								   : domain.p[i];
	return (struct str){room, domain.n};
}

/* Alerts have queues of their own, beside those they tell of, so that backoff or a pause there does
 * not hold them. The name is no virtual MTA's, unless the operator has one for this: it then leaves
 * by the default's sources and settings. */
static struct str vmta_of(const struct segment *s, const struct envelope *e)
{
	bool alert = e->has_cause && e->cause_kind == DSN_ALERT && s->row.process == PROC_bouncer;
	return alert ? STR("alert") : e->vmta;
}

/* Mail of nobody known belongs to its sender's domain, "@example.com"; a report to nobody. */
static struct str tenant_of(const struct envelope *e, char room[DOMAIN_MAX + 2])
{
	char lower[DOMAIN_MAX + 1];
	struct str domain = lower_domain(address_domain(e->sender), lower);
	if (e->tenant.n > 0 || domain.n == 0 || domain.n > DOMAIN_MAX)
		return e->tenant;
	room[0] = '@';
	memcpy(room + 1, domain.p, domain.n);
	return (struct str){room, domain.n + 1};
}

static int add_rcpt(void *ctx, unsigned ordinal, const struct env_rcpt *rcpt)
{
	struct taking *t = ctx;
	char room[DOMAIN_MAX + 1], tenant[DOMAIN_MAX + 2];
	struct core_add add = {.id = t->record->id,
	    .segment = t->segment->row.number,
	    .offset = t->record->offset,
	    .bytes = t->bytes,
	    .rcpt = (uint16_t)ordinal,
	    .flags = t->flags,
	    .arrived_ms = (int64_t)t->record->arrived_ms,
	    .domain = lower_domain(address_domain(rcpt->address), room),
	    .vmta = vmta_of(t->segment, t->e),
	    .tenant = tenant_of(t->e, tenant),
	    .campaign = t->e->campaign};
	if (rcpt->notify & NOTIFY_DELAY)
		add.flags |= JOB_DELAY_ASKED;
	add.flags |= JOB_DIRTY;
	struct redo_rcpt *redo = t->redo ? redo_rcpt_find(t->redo, (uint16_t)ordinal) : NULL;
	if (t->only >= 0 && (unsigned)t->only != ordinal)
		return 0;
	if ((redo != NULL && redo->gone) || (t->check && has_job(t->q, add.id, ordinal)))
		return 0;
	redo_apply(redo, &add);
	if (t->check && (t->segment->suspect || recover_is_uncertain(t->q, add.due_ms)))
		add.flags |= JOB_UNCERTAIN;
	commit_dirty(t->q, core_add(t->q->core, &add, t->q->now_ms));
	t->added++;
	return 0;
}

static void put_rcpts(struct buf *b, const struct envelope *e)
{
	for (size_t i = 0; i < e->rcpt_count; i++) {
		buf_str16(b, e->rcpt[i].address);
		buf_str16(b, e->rcpt[i].orcpt);
	}
}

static void journal_received(struct taking *t, struct str envelope)
{
	const struct envelope *e = t->e;
	const struct record *r = t->record;
	struct str vmta = vmta_of(t->segment, e);
	struct buf rcpts;
	buf_init(&rcpts, 2 * ENVELOPE_MAX);
	struct envelope full;
	if (t->q->accounts_received && envelope_decode(&full, envelope) == 0) {
		put_rcpts(&rcpts, &full);
		envelope_fini(&full);
	}
	j_received_encode(journal_buf(t->q->journal),
	    &(struct j_received){.id = r->id,
		.wall_ms = (uint64_t)clock_wall_ms(),
		.arrived_ms = r->arrived_ms,
		.segment = t->segment->row.number,
		.offset = r->offset,
		.bytes = r->headers_bytes + r->content_bytes,
		.rcpt_count = (uint32_t)e->rcpt_count,
		.sender = e->sender,
		.envid = e->envid,
		.vmta = vmta.n > 0 ? vmta : core_default_vmta(t->q->core),
		.tenant = e->tenant,
		.campaign = e->campaign,
		.client = e->client,
		.helo = e->helo,
		.rcpts = {(const char *)rcpts.p, rcpts.n}});
	buf_fini(&rcpts);
	t->q->counters.received++;
	t->q->counters.received_bytes += r->headers_bytes + r->content_bytes;
}

static bool is_owed(const struct qmgr *q, const struct envelope *e)
{
	const struct bounce *b = bounces_find(q, e->cause_ticket);
	return b != NULL && b->id == e->cause_id;
}

/* False: a second DSN for the same cause. Only the bouncer's segments may name a cause. */
static bool settle_cause(struct taking *t)
{
	struct qmgr *q = t->q;
	const struct envelope *e = t->e;
	uint8_t writer = t->segment->row.process;
	if (!e->has_cause || (writer != PROC_bouncer && writer != PROC_MASTER) ||
	    (t->redo != NULL && t->redo->reported) || q->recover.rebuild)
		return true;
	if (!is_owed(q, e)) {
		q->counters.dropped_reports++;
		j_removed_encode(
		    journal_buf(q->journal), &(struct j_removed){.id = t->record->id,
						 .wall_ms = (uint64_t)clock_wall_ms(),
						 .why = STR("a second report of the same")});
		return false;
	}
	j_reported_encode(journal_buf(q->journal), &(struct j_reported){.cause_id = e->cause_id,
						       .id = t->record->id,
						       .ticket = e->cause_ticket,
						       .wall_ms = (uint64_t)clock_wall_ms(),
						       .kind = e->cause_kind});
	return true;
}

static void take_in(struct taking *t, struct str envelope)
{
	struct qmgr *q = t->q;
	struct envelope e;
	if (envelope_walk(&e, envelope, NULL, NULL) != 0 || e.rcpt_count == 0) {
		struct row_aside row = {.id = t->record->id,
		    .segment = t->segment->row.number,
		    .offset = t->record->offset,
		    .bytes = t->bytes,
		    .why = STR("its envelope cannot be read")};
		intake_aside(q, &row, false);
		return;
	}
	t->e = &e;
	if (e.sender.n == 0)
		t->flags |= JOB_NULL_SENDER;
	if (e.hold)
		t->flags |= JOB_HELD;
	if (!settle_cause(t))
		return;
	if (t->redo == NULL || !t->redo->received)
		journal_received(t, envelope);
	bool counted = t->check &&
		       (core_find(q->core, t->record->id) != 0 || bounces_of(q, t->record->id) > 0);
	struct envelope walk; /* a second walk: the first one has proved the whole envelope */
	t->e = &walk;
	must(envelope_walk(&walk, envelope, add_rcpt, t) == 0);
	if (t->added > 0 && !counted)
		segment_keep(t->segment, t->bytes);
	/* Settled only now: the report's rows go in the commit that has the DSN's. */
	if (e.has_cause && is_owed(q, &e) &&
	    (t->segment->row.process == PROC_bouncer || t->segment->row.process == PROC_MASTER))
		bounces_settle(q, e.cause_ticket, e.cause_id);
}

void intake(struct qmgr *q, struct segment *s, const struct record *r, struct str envelope)
{
	uint64_t bytes = r->headers_bytes + r->content_bytes;
	struct taking t = {.q = q,
	    .segment = s,
	    .record = r,
	    .redo = redo_find(q, r->id),
	    .bytes = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX,
	    .only = -1,
	    .check = q->recover.phase != RECOVER_DONE};
	if ((t.redo != NULL && t.redo->removed) || map_find(&q->asides, r->id) != NULL)
		return;
	uintptr_t deaths = (uintptr_t)map_find(&q->poison, r->id);
	if (deaths >= POISON_DEATHS) {
		struct row_aside row = {.id = r->id,
		    .segment = s->row.number,
		    .offset = r->offset,
		    .bytes = t.bytes,
		    .why = STR("it has killed its worker three times")};
		intake_aside(q, &row, false);
		return;
	}
	qmgr_blame(q, r->id);
	take_in(&t, envelope);
	qmgr_blame(q, 0);
}

void intake_rcpt(
    struct qmgr *q, struct segment *s, const struct record *r, struct str envelope, uint16_t rcpt)
{
	uint64_t bytes = r->headers_bytes + r->content_bytes;
	struct envelope e;
	struct taking t = {.q = q,
	    .segment = s,
	    .record = r,
	    .e = &e,
	    .redo = redo_find(q, r->id),
	    .flags = JOB_UNCERTAIN,
	    .bytes = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX,
	    .only = rcpt,
	    .check = true};
	if (envelope_walk(&e, envelope, NULL, NULL) != 0)
		return;
	t.flags |= e.sender.n == 0 ? JOB_NULL_SENDER : 0;
	bool counted = core_find(q->core, r->id) != 0 || bounces_of(q, r->id) > 0;
	must(envelope_walk(&e, envelope, add_rcpt, &t) == 0);
	if (t.added > 0 && !counted)
		segment_keep(s, t.bytes);
}

void intake_aside(struct qmgr *q, const struct row_aside *row, bool stored)
{
	struct segment *s = segments_find(q, row->segment);
	struct aside *a = xcalloc(1, sizeof(*a));
	a->row = *row;
	a->row.why.n = str_copy(a->text, sizeof(a->text), row->why);
	a->row.why.p = a->text;
	map_set(&q->asides, row->id, a);
	q->counters.aside++;
	if (s != NULL)
		segment_keep(s, row->bytes);
	if (stored)
		return;
	struct row_key key = row_key_number(row->id);
	size_t at = store_ops_put_begin(&q->commit.other, STORE_ASIDE, &key);
	row_aside_encode(&q->commit.other.b, row);
	store_ops_put_end(&q->commit.other, at);
	log_error("message %016" PRIx64 " is set aside: %.*s", row->id, STR_ARG(row->why));
}
