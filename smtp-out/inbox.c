/* SPDX-License-Identifier: ISC */
/*
 * What qmgr says, and what a new qmgr is told. The process outlives a qmgr: connections and
 * transactions go on while there is none, their reports are kept (reports.c). A new one hears first
 * what it cannot know (HAVE_CONN, HAVE_JOB, OUT_STATE_END), then the reports; until then it grants
 * nothing.
 *
 * Ids in messages are looked up and never trusted to exist: a JOB for a connection that has just
 * gone is handed back by the CONN_CLOSED that is already on its way.
 */
#include "common/log.h"
#include "common/match.h"
#include "smtp-out/session.h"
#include <stdlib.h>
#include <string.h>

enum {
	RESULTS_MAX = 1 << 26, /* of one transaction; msg.def bounds what is sent */
	CIPHER_MAX = READ_SIZE,
	STOP_MARGIN_MS = 1000, /* before the deadline: time to tell qmgr */
};

void out_init(struct out *o, struct loop *loop, struct worker *worker)
{
	o->loop = loop;
	o->worker = worker;
	o->segments = segread_new();
	o->slot_ms = OUT_SLOT_MS;
	reports_init(&o->reports);
	o->scratch = xmalloc((size_t)2 * READ_SIZE);
	buf_init(&o->cipher, CIPHER_MAX);
	buf_init(&o->results, RESULTS_MAX);
}

static void abort_session(struct session *s, void *arg)
{
	(void)arg;
	session_close(s, true);
}

void out_fini(struct out *o)
{
	session_each(o, abort_session, NULL);
	loop_timer_cancel(o->loop, &o->stop_timer);
	traces_fini(o);
	sources_qmgr_gone(o);
	matcher_free(&o->matcher);
	chan_free(&o->qmgr);
	segread_free(&o->segments);
	reports_fini(&o->reports);
	tls_context_free(&o->tls);
	buf_fini(&o->cipher);
	buf_fini(&o->results);
	free(o->scratch);
}

void out_blame(struct out *o, uint64_t message_id)
{
	if (o->worker)
		worker_blame(o->worker, message_id);
}

/* --- a qmgr comes and goes
 * ------------------------------------------------------------------------ */

static void on_qmgr_gone(void *ctx, struct chan *chan, const char *why)
{
	struct out *o = ctx;
	if (chan != o->qmgr)
		return;
	worker_peer_closed(chan, PROC_qmgr, why);
	log_warn("qmgr is gone: %s", why);
	o->qmgr = NULL;
	sources_qmgr_gone(o);
	segread_clear(o->segments); /* the next one names its own; messages under way keep theirs */
}

static void tell_conn(struct session *s, void *arg)
{
	session_tell_conn(s, arg);
}

static void tell_jobs(struct session *s, void *arg)
{
	session_tell_jobs(s, arg);
}

static void tell_state(struct out *o)
{
	reports_tell_conns(&o->reports, o->qmgr);
	session_each(o, tell_conn, o->qmgr);
	reports_tell_jobs(&o->reports, o->qmgr);
	session_each(o, tell_jobs, o->qmgr);
	chan_send_out_state_end(o->qmgr, &(struct msg_out_state_end){0});
	reports_tell_again(&o->reports, o->qmgr);
}

void out_attach(struct out *o, int fd)
{
	static msg_dispatch_fn *const dispatch[] = {msg_to_smtp_out, msg_to_reader, NULL};
	if (o->qmgr) {
		chan_free(&o->qmgr);
		sources_qmgr_gone(o);
		segread_clear(o->segments);
	}
	o->qmgr = chan_new(o->loop, fd,
	    &(struct chan_spec){
		.peer_roles = ROLE_qmgr, .dispatch = dispatch, .on_close = on_qmgr_gone, .ctx = o});
	tell_state(o);
}

/* --- stopping
 * ------------------------------------------------------------------------------------- */

void out_check_stopped(struct out *o)
{
	if (!o->stopping || o->stopped || o->sessions > 0)
		return;
	o->stopped = true;
	loop_timer_cancel(o->loop, &o->stop_timer);
	if (o->worker)
		worker_stopped(o->worker);
}

static void stop_session(struct session *s, void *arg)
{
	(void)arg;
	session_stop(s);
}

static void on_stop_deadline(void *arg)
{
	struct out *o = arg;
	session_each(o, abort_session, NULL);
}

void out_stop(struct out *o, uint32_t deadline_ms)
{
	if (o->stopping)
		return;
	o->stopping = true;
	session_each(o, stop_session, NULL);
	int64_t margin = deadline_ms > 2 * STOP_MARGIN_MS ? STOP_MARGIN_MS : deadline_ms / 2;
	if (o->sessions > 0)
		loop_timer_after(
		    o->loop, &o->stop_timer, deadline_ms - margin, on_stop_deadline, o);
	out_check_stopped(o);
}

/* --- messages
 * ------------------------------------------------------------------------------------- */

void on_grant(void *ctx, struct chan *from_chan, struct msg_grant *m)
{
	struct out *o = ctx;
	if (session_find(o, m->conn)) {
		chan_close(from_chan, "GRANT for a connection that is open");
		return;
	}
	session_new(o, m);
}

void on_job(void *ctx, struct chan *from_chan, struct msg_job *m)
{
	(void)from_chan;
	struct session *s = session_find(ctx, m->conn);
	if (s)
		session_job(s, m);
}

void on_conn_close(void *ctx, struct chan *from_chan, struct msg_conn_close *m)
{
	(void)from_chan;
	struct session *s = session_find(ctx, m->conn);
	if (s)
		session_close(s, m->hard);
}

void on_reports_taken(void *ctx, struct chan *from_chan, struct msg_reports_taken *m)
{
	struct out *o = ctx;
	(void)from_chan;
	reports_taken(&o->reports, m->count);
}

void on_segment_open(void *ctx, struct chan *from_chan, struct msg_segment_open *m)
{
	struct out *o = ctx;
	(void)from_chan;
	segread_open(o->segments, m);
}

void on_segment_close(void *ctx, struct chan *from_chan, struct msg_segment_close *m)
{
	struct out *o = ctx;
	(void)from_chan;
	segread_close(o->segments, m->segment);
}
