/* SPDX-License-Identifier: ISC */
/*
 * What the other processes say to qmgr, a handler a row of msg.def. A handler checks what it was
 * told against what we know, turns it into an event of the core or a step of a segment's life, and
 * drains the core's decisions. A lie closes that channel and nothing else.
 */
#include "common/log.h"
#include "common/route.h"
#include "qmgr/shell.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* Matches of one report: as many as its field in msg.def can carry, at 14 bytes each. */
enum { HITS_A_REPORT = 65536 / 14 };

/* The clock of this turn: the last turn may have ended long ago. */
static struct qmgr *wake(void *ctx)
{
	struct qmgr *q = ctx;
	q->now_ms = clock_steady_ms();
	return q;
}

static void fault(struct peer *peer, const char *why)
{
	peer->faulty = true;
	chan_close(peer->chan, why);
}

/* --- from writers -------------------------------------------------------------------------------
 */

static struct segment *owned(struct qmgr *q, struct peer *peer, uint64_t number)
{
	struct segment *s = segments_find(q, number);
	return s != NULL && s->owner == peer && s->state == SEGMENT_OPEN ? s : NULL;
}

void on_segment_want(void *ctx, struct chan *from_chan, struct msg_segment_want *m)
{
	segments_want(wake(ctx), chan_data(from_chan), m->ticket, m->size);
}

static const char *check_accepted(
    const struct segment *s, const struct msg_accepted *m, struct record *r)
{
	if (m->head.n != RECORD_HEAD || record_decode(r, (const unsigned char *)m->head.p) != 0)
		return "accepted: a head that does not decode";
	if (r->nonce_high != s->row.nonce_high || r->nonce_low != s->row.nonce_low ||
	    r->offset != m->offset)
		return "accepted: a head that is not of this segment";
	if (RECORD_ID_SEGMENT(r->id) != s->row.number || r->kind == RECORD_OPEN)
		return "accepted: an id that is not of this segment";
	if (record_end(r) != m->end)
		return "accepted: another end than its head's";
	uint64_t begin = r->kind == RECORD_CLOSE ? r->data_offset - RECORD_HEAD : r->offset;
	if (begin != s->row.mark)
		return "accepted: not the next message of its segment";
	if (m->envelope.n != r->envelope_bytes ||
	    crc32c(0, m->envelope.p, m->envelope.n) != r->envelope_crc)
		return "accepted: an envelope with a wrong sum";
	return NULL;
}

void on_accepted(void *ctx, struct chan *from_chan, struct msg_accepted *m)
{
	struct qmgr *q = wake(ctx);
	struct peer *peer = chan_data(from_chan);
	struct segment *s = segments_find(q, m->segment);
	if (s != NULL && s->owner == peer && s->state == SEGMENT_READING)
		reading_finish(q, s); /* what it said to hold comes first */
	s = owned(q, peer, m->segment);
	if (s == NULL) {
		fault(peer, "accepted: a segment that is not its own");
		return;
	}
	if (peer->credit > 0)
		peer->credit--;
	if (m->end <= s->row.mark)
		return;
	struct record r;
	const char *why = check_accepted(s, m, &r);
	if (why != NULL) {
		fault(peer, why);
		return;
	}
	intake(q, s, &r, m->envelope);
	s->row.mark = m->end;
	segment_changed(q, s);
}

static void held_read(struct qmgr *q, struct segment *s, void *arg)
{
	(void)q;
	(void)arg;
	s->state = SEGMENT_OPEN;
}

/* Open, nobody's yet, and by its row that writer's. */
static bool may_hold(const struct segment *s, const struct peer *peer)
{
	return s != NULL && (s->owner == NULL || s->owner == peer) && s->state == SEGMENT_OPEN &&
	       (s->row.process == PROC_MASTER /* rebuilt: nobody knows */ ||
		   (s->row.process == peer->process && s->row.instance == peer->instance &&
		       s->row.generation == peer->generation));
}

void on_segment_held(void *ctx, struct chan *from_chan, struct msg_segment_held *m)
{
	struct qmgr *q = wake(ctx);
	struct peer *peer = chan_data(from_chan);
	struct segment *s = segments_find(q, m->segment);
	if (!may_hold(s, peer)) {
		log_error("%s %u holds segment %" PRIx64 ", which is not known as its own",
		    proc_name(peer->process), peer->instance, m->segment);
		fault(peer, "segment held: not its own");
		return;
	}
	s->owner = peer;
	if (m->synced > s->row.mark)
		reading_start(q, s, m->synced, held_read, NULL);
}

void on_writer_state_end(void *ctx, struct chan *from_chan, struct msg_writer_state_end *m)
{
	struct peer *peer = chan_data(from_chan);
	(void)ctx;
	(void)m;
	peer->told_all = true;
}

static void done_read(struct qmgr *q, struct segment *s, void *arg)
{
	(void)arg;
	s->owner = NULL;
	segment_seal(q, s, s->row.mark);
}

/* Nobody will append to it again. */
static void end_segment(struct qmgr *q, struct segment *s, uint64_t good)
{
	if (good > s->row.mark) {
		reading_start(q, s, good, done_read, NULL);
	} else {
		s->owner = NULL;
		segment_seal(q, s, s->row.mark);
	}
}

void on_segment_done(void *ctx, struct chan *from_chan, struct msg_segment_done *m)
{
	struct qmgr *q = wake(ctx);
	struct peer *peer = chan_data(from_chan);
	struct segment *s = segments_find(q, m->segment);
	if (s != NULL && s->owner == peer && s->state == SEGMENT_READING)
		reading_finish(q, s);
	s = owned(q, peer, m->segment);
	if (s == NULL) {
		fault(peer, "segment done: not its own");
		return;
	}
	end_segment(q, s, m->good);
}

/* What an older qmgr was told as SEGMENT_DONE. It may have sealed the segment, and deleted it; only
 * when that is not in the index the bytes behind `good`, which were refused, would be read. */
void on_segment_failed(void *ctx, struct chan *from_chan, struct msg_segment_failed *m)
{
	struct qmgr *q = wake(ctx);
	struct peer *peer = chan_data(from_chan);
	struct segment *s = segments_find(q, m->segment);
	if (!may_hold(s, peer))
		return;
	s->owner = peer;
	end_segment(q, s, m->good);
}

/* --- from the resolver --------------------------------------------------------------------------
 */

void on_route(void *ctx, struct chan *from_chan, struct msg_route *m)
{
	struct qmgr *q = wake(ctx);
	(void)from_chan;
	char *fixed;
	if (m->route_class >= ROUTE_CLASS_COUNT || !routes_answered(q, m->query, m->domain, &fixed))
		return; /* asked by an older qmgr, or twice */
	struct route_host *hosts = xcalloc(ROUTE_HOSTS_MAX, sizeof(*hosts));
	struct rd rd = rd_of(m->hosts.p, m->hosts.n);
	size_t n = 0;
	int rc = 0;
	while (n < ROUTE_HOSTS_MAX && (rc = route_take_host(&rd, &hosts[n])) == 1)
		n++;
	if (rc < 0)
		chan_close(from_chan, "route: malformed list of hosts");
	else
		core_route(q->core,
		    &(struct core_answer){.domain = m->domain,
			.fixed = str_of(fixed),
			.class = m->route_class,
			.implicit = m->implicit,
			.ttl_s = m->ttl_s,
			.text = m->text,
			.hosts = hosts,
			.host_count = n},
		    q->now_ms);
	free(hosts);
	free(fixed);
	decisions_drain(q, NULL);
	if (rc >= 0 && m->route_class == ROUTE_TEMPORARY)
		failures_route(q, m->domain, m->text);
}

/* --- from smtp-out ------------------------------------------------------------------------------
 */

void on_conn_ready(void *ctx, struct chan *from_chan, struct msg_conn_ready *m)
{
	struct qmgr *q = wake(ctx);
	(void)from_chan;
	core_conn_ready(q->core, m->conn, m->rcpt_max, m->mail_max, q->now_ms);
	decisions_drain(q, NULL);
}

/* False: malformed, and nothing is told. Who calls the core with the report does so at once. */
static bool tell_hits(struct qmgr *q, struct str bytes)
{
	struct rule_hit hits[HITS_A_REPORT];
	struct rd rd = rd_of(bytes.p, bytes.n);
	size_t n = 0;
	int rc = 1;
	while (n < COUNT_OF(hits) && (rc = hit_take(&rd, &hits[n])) == 1)
		n++;
	if (rc < 0)
		return false;
	if (n > 0) {
		core_hits(q->core, hits, n);
		rule_counts_add(q, hits, n);
	}
	return true;
}

static int take_results(struct decisions *d, struct str bytes, size_t *n)
{
	struct rd rd = rd_of(bytes.p, bytes.n);
	int rc;
	*n = 0;
	for (;;) {
		if (*n == d->scratch_cap) {
			d->scratch_cap = d->scratch_cap ? d->scratch_cap * 2 : 64;
			d->scratch = xrealloc(d->scratch, d->scratch_cap * sizeof(*d->scratch));
		}
		rc = result_take(&rd, &d->scratch[*n]);
		if (rc != 1)
			return rc;
		if (d->scratch[*n].verdict >= VERDICT_COUNT || d->scratch[*n].stage >= STAGE_COUNT)
			return -EBADMSG;
		(*n)++;
	}
}

void on_result(void *ctx, struct chan *from_chan, struct msg_result *m)
{
	struct qmgr *q = wake(ctx);
	size_t n;
	if (take_results(&q->decisions, m->results, &n) < 0) {
		chan_close(from_chan, "result: malformed list of recipients");
		return;
	}
	if (!tell_hits(q, m->hits)) {
		chan_close(from_chan, "result: malformed list of matches");
		return;
	}
	struct peer *peer = chan_data(from_chan);
	peer->reports++;
	qmgr_blame(q, m->id);
	struct result_context context = {m, q->decisions.scratch, n};
	core_result(q->core, m->transaction, context.results, n,
	    q->now_ms); /* unknown: told twice, see above */
	decisions_drain(q, &context);
	qmgr_blame(q, 0);
}

static void count_conn(struct peer *peer, int by)
{
	if (by > 0 || peer->conns > 0)
		peer->conns += (uint32_t)by;
}

void on_conn_closed(void *ctx, struct chan *from_chan, struct msg_conn_closed *m)
{
	struct qmgr *q = wake(ctx);
	if (m->cause >= CONN_CAUSE_COUNT || m->stage >= STAGE_COUNT) {
		chan_close(from_chan, "conn closed: unknown cause");
		return;
	}
	if (!tell_hits(q, m->hits)) {
		chan_close(from_chan, "conn closed: malformed list of matches");
		return;
	}
	struct peer *peer = chan_data(from_chan);
	peer->reports++;
	count_conn(peer, -1);
	struct core_failure failure = {.cause = m->cause,
	    .stage = m->stage,
	    .code = m->code,
	    .was_ready = m->was_ready,
	    .text = m->text};
	struct core_conn_view conn;
	char source[65] = "";
	if (m->cause == CONN_LOCAL && core_conn(q->core, m->conn, &conn))
		str_copy(source, sizeof(source), conn.source);
	failures_conn(q, m);
	core_conn_closed(q->core, m->conn, &failure, q->now_ms);
	decisions_drain(q, NULL);
	if (source[0] != '\0')
		sources_suspect(q, str_of(source));
}

void on_have_conn(void *ctx, struct chan *from_chan, struct msg_have_conn *m)
{
	struct qmgr *q = wake(ctx);
	struct peer *peer = chan_data(from_chan);
	struct route_address address;
	if (peer->told_all || route_address_parse(&address, m->address) != 0) {
		chan_close(from_chan, "have conn: out of place, or a bad address");
		return;
	}
	count_conn(peer, 1);
	core_have_conn(q->core, peer->instance, m->conn, m->queue, m->domain, m->source, m->host,
	    &address, m->port, m->ready, q->now_ms);
	decisions_drain(q, NULL);
}

static bool is_in_doubt(struct qmgr *q, uint64_t id, uint16_t rcpt)
{
	struct job_view v;
	for (job_ref j = core_find(q->core, id); j != 0; j = core_sibling(q->core, j))
		if (core_job(q->core, j, &v) && v.rcpt == rcpt)
			return (v.flags & JOB_IN_DOUBT) != 0;
	return false;
}

/* Only what is in doubt can be in flight there: of the rest the journal knows the outcome, and the
 * report that smtp-out is about to repeat counts no more. */
void on_have_job(void *ctx, struct chan *from_chan, struct msg_have_job *m)
{
	struct qmgr *q = wake(ctx);
	struct rd rd = rd_of(m->rcpts.p, m->rcpts.n);
	uint16_t *rcpts = xcalloc(m->rcpts.n / 2 + 1, sizeof(*rcpts));
	size_t n = 0;
	(void)from_chan;
	while (rd.n >= 2) {
		uint16_t rcpt = rd_u16(&rd);
		if (is_in_doubt(q, m->id, rcpt))
			rcpts[n++] = rcpt;
	}
	if (n > 0 &&
	    core_have_job(q->core, m->conn, m->transaction, m->id, rcpts, n, q->now_ms) != 0)
		log_warn("smtp-out has a job of message %016" PRIx64
			 " whose connection is not known",
		    m->id);
	free(rcpts);
	decisions_drain(q, NULL);
}

void on_out_state_end(void *ctx, struct chan *from_chan, struct msg_out_state_end *m)
{
	struct peer *peer = chan_data(from_chan);
	(void)ctx;
	(void)m;
	peer->told_all = true;
}

/* --- from the bouncer ---------------------------------------------------------------------------
 */

void on_bounce_none(void *ctx, struct chan *from_chan, struct msg_bounce_none *m)
{
	struct qmgr *q = wake(ctx);
	(void)from_chan;
	const struct bounce *b = bounces_find(q, m->ticket);
	if (b == NULL)
		return; /* settled meanwhile */
	uint64_t id = b->id;
	j_settled_encode(journal_buf(q->journal), &(struct j_settled){.id = id,
						      .ticket = m->ticket,
						      .wall_ms = (uint64_t)clock_wall_ms(),
						      .why = m->why});
	bounces_settle(q, m->ticket, id);
}
