/* SPDX-License-Identifier: ISC */
/*
 * BOUNCE comes in from qmgr and waits its turn; each ends with BOUNCE_NONE or with a report in our
 * segment, whose ACCEPTED tells qmgr. At most WRITING_MAX are with the segment writer at once, so
 * that many reports share a sync and few stand in memory.
 *
 * A request is only memory. When this process dies, qmgr asks again for all that it has no report
 * of; when qmgr dies, what waits is dropped, for the new qmgr knows from its journal what it still
 * wants and learns from our segment what is written. A report that was being written then is kept,
 * and settles its request by the cause in its envelope.
 *
 * The null sender's segment record is the last step: a crash before the sync leaves no report, a
 * crash after it exactly one.
 */
#include "bouncer/bouncer.h"
#include "common/chan.h"
#include "common/clock.h"
#include "common/log.h"
#include <stdlib.h>

enum {
	WRITING_MAX = 64,   /* with the writer at once */
	TURN_MAX = 32,	    /* made in one turn of the loop: heartbeats go on */
	WAITING_MAX = 4096, /* requests and their bytes that wait in memory: qmgr has some */
	WAITING_BYTES_MAX = 512 << 20, /* hundreds open at once; more is a peer that lies */
	AGAIN_MIN_MS = 20,	       /* no segment or credit, or reading failed */
	AGAIN_MAX_MS = 2000,
	TRIES_MAX = 20, /* failing reads of one message, some 30 s in all */
};

struct request {
	struct request *next;
	struct bouncer *bouncer;
	uint32_t epoch;
	unsigned tries;
	uint64_t id, report_id;
	struct msg_bounce m; /* m.rcpts points to bytes */
	char bytes[];
};

static void work(struct bouncer *b);

static void on_again(void *arg)
{
	work(arg);
}

static void list_put(struct request_list *l, struct request *q)
{
	q->next = NULL;
	*(l->last != NULL ? &l->last->next : &l->first) = q;
	l->last = q;
	l->count++;
	l->bytes += q->m.rcpts.n;
}

static struct request *list_take(struct request_list *l)
{
	struct request *q = l->first;
	if (q == NULL)
		return NULL;
	l->first = q->next;
	if (l->first == NULL)
		l->last = NULL;
	q->next = NULL;
	l->count--;
	l->bytes -= q->m.rcpts.n;
	return q;
}

static void work_later(struct bouncer *b)
{
	b->again_ms = b->again_ms == 0 ? AGAIN_MIN_MS : b->again_ms * 2;
	if (b->again_ms > AGAIN_MAX_MS)
		b->again_ms = AGAIN_MAX_MS;
	loop_timer_after(worker_loop(b->worker), &b->again, b->again_ms, on_again, b);
}

static void work_next_turn(struct bouncer *b)
{
	b->again_ms = 0;
	loop_timer_after(worker_loop(b->worker), &b->again, 0, on_again, b);
}

static void answer_none(struct bouncer *b, struct request *q, const char *why)
{
	char id[RECORD_ID_TEXT];
	record_id_print(id, q->id);
	log_info("%s: no notification is sent: %s", id, why);
	b->stats.none++;
	if (b->qmgr != NULL && q->epoch == b->epoch)
		chan_send_bounce_none(
		    b->qmgr, &(struct msg_bounce_none){.ticket = q->m.ticket, .why = str_of(why)});
	free(q);
}

static void say_stopped(struct bouncer *b)
{
	if (b->stopping && b->writing == 0)
		worker_stopped(b->worker);
}

static void on_written(void *arg, bool ok, enum refuse why, uint64_t id)
{
	struct request *q = arg;
	struct bouncer *b = q->bouncer;
	(void)why;
	(void)id;
	b->writing--;
	if (ok) {
		b->stats.reports[q->m.kind]++;
		free(q);
	} else if (q->epoch == b->epoch) { /* nothing of it will be read: make it again */
		b->stats.refused++;
		list_put(&b->waiting, q);
	} else {
		free(q);
	}
	if (b->waiting.count > 0 && !wheel_armed(&b->again.node))
		ok ? work_next_turn(b) : work_later(b);
	say_stopped(b);
}

static void submit(struct bouncer *b, struct request *q, struct report_made *made)
{
	b->writing++;
	b->again_ms = 0;
	segwriter_submit(b->writer, made->id, (int64_t)clock_wall_ms(), &made->envelope,
	    &made->headers, &made->content, on_written, q);
}

static bool is_poisoned(const struct bouncer *b, uint64_t id)
{
	for (size_t i = 0; i < b->poisoned_count; i++) {
		if (b->poisoned[i] == id)
			return true;
	}
	return false;
}

static void try_again(struct bouncer *b, struct request *q, const char *why)
{
	char id[RECORD_ID_TEXT];
	if (++q->tries < TRIES_MAX) {
		list_put(&b->waiting, q);
		work_later(b);
		return;
	}
	record_id_print(id, q->id);
	log_error("%s: cannot be read for its report: %s", id, why);
	b->stats.unreadable++;
	answer_none(b, q, "the message cannot be read");
}

/* One request. False: nothing can be written now. */
static bool work_one(struct bouncer *b)
{
	struct report_made made;
	if (segwriter_state(b->writer) != REFUSE_NONE)
		return false;
	uint64_t id = segwriter_begin(b->writer);
	if (id == 0)
		return false;
	struct request *q = list_take(&b->waiting);
	report_made_init(&made);
	worker_blame(b->worker, q->id);
	enum report_end end =
	    is_poisoned(b, q->id) ? REPORT_NONE : report_make(b, &q->m, id, &made);
	worker_blame(b->worker, 0);
	if (end == REPORT_MADE) {
		submit(b, q, &made);
	} else {
		segwriter_abandon(b->writer, id);
		if (end == REPORT_LATER)
			try_again(b, q, made.why);
		else
			answer_none(
			    b, q, made.why[0] != '\0' ? made.why : "it has killed its worker");
	}
	report_made_fini(&made);
	return true;
}

static void work(struct bouncer *b)
{
	if (b->qmgr == NULL || b->stopping)
		return;
	for (int i = 0; i < TURN_MAX; i++) {
		if (b->waiting.count == 0 || b->writing >= WRITING_MAX)
			return; /* on_bounce() or on_written() goes on */
		if (!work_one(b)) {
			work_later(b);
			return;
		}
		if (wheel_armed(&b->again.node))
			return; /* a read failed: in a while */
	}
	work_next_turn(b);
}

void on_bounce(void *ctx, struct chan *from_chan, struct msg_bounce *m)
{
	struct bouncer *b = ctx;
	if (b->waiting.count >= WAITING_MAX || b->waiting.bytes >= WAITING_BYTES_MAX) {
		chan_close(from_chan, "more requests than were agreed");
		return;
	}
	struct request *q = xcalloc(1, sizeof(*q) + m->rcpts.n);
	q->bouncer = b;
	q->epoch = b->epoch;
	q->id = m->id;
	q->m = *m;
	memcpy(q->bytes, m->rcpts.p, m->rcpts.n);
	q->m.rcpts.p = q->bytes;
	b->stats.asked++;
	list_put(&b->waiting, q);
	if (!wheel_armed(&b->again.node))
		work_next_turn(b);
}

/* --- segments ---------------------------------------------------------------------------- */

void on_segment_open(void *ctx, struct chan *from_chan, struct msg_segment_open *m)
{
	struct bouncer *b = ctx;
	(void)from_chan;
	segread_open(b->reader, m);
}

void on_segment_close(void *ctx, struct chan *from_chan, struct msg_segment_close *m)
{
	struct bouncer *b = ctx;
	(void)from_chan;
	segread_close(b->reader, m->segment);
}

void on_segment_give(void *ctx, struct chan *from_chan, struct msg_segment_give *m)
{
	struct bouncer *b = ctx;
	(void)from_chan;
	segwriter_give(b->writer, m);
}

void on_segment_none(void *ctx, struct chan *from_chan, struct msg_segment_none *m)
{
	struct bouncer *b = ctx;
	(void)from_chan;
	segwriter_none(b->writer, m);
}

void on_credit(void *ctx, struct chan *from_chan, struct msg_credit *m)
{
	struct bouncer *b = ctx;
	(void)from_chan;
	segwriter_credit(b->writer, m);
}

/* --- the channel ------------------------------------------------------------------------- */

static void forget_qmgr(struct bouncer *b)
{
	struct request *q;
	b->epoch++;
	while ((q = list_take(&b->waiting)) != NULL)
		free(q);
	segwriter_detach(b->writer);
	segread_clear(b->reader);
	loop_timer_cancel(worker_loop(b->worker), &b->again);
	b->again_ms = 0;
}

static void on_qmgr_gone(void *ctx, struct chan *chan, const char *why)
{
	struct bouncer *b = ctx;
	if (chan != b->qmgr)
		return;
	worker_peer_closed(chan, PROC_qmgr, why);
	forget_qmgr(b);
	b->qmgr = NULL;
}

void inbox_open(struct bouncer *b, int fd)
{
	static msg_dispatch_fn *const dispatch[] = {
	    msg_to_bouncer, msg_to_reader, msg_to_writer, NULL};
	if (b->qmgr != NULL) {
		forget_qmgr(b);
		chan_free(&b->qmgr);
	}
	b->qmgr = chan_new(worker_loop(b->worker), fd,
	    &(struct chan_spec){
		.peer_roles = ROLE_qmgr, .dispatch = dispatch, .on_close = on_qmgr_gone, .ctx = b});
	segwriter_attach(b->writer, b->qmgr);
}

void inbox_init(struct bouncer *b)
{
	b->reader = segread_new();
	b->writer = segwriter_new(worker_loop(b->worker));
}

void inbox_stop(struct bouncer *b)
{
	b->stopping = true;
	say_stopped(b);
}
