/* SPDX-License-Identifier: ISC */
/*
 * Outcomes that qmgr may not know yet. A RESULT that was written to a dying qmgr's socket is lost,
 * and with it the knowledge that a message was delivered: the next qmgr would send it again. So
 * each report stays here, as the frame it was sent as, until REPORTS_TAKEN says that it is
 * journalled; a new qmgr is first told which connections and transactions they are about
 * (HAVE_CONN, HAVE_JOB), then the reports. What qmgr had journalled after all it no longer knows as
 * in doubt, and ignores.
 */
#include "smtp-out/reports.h"
#include "common/result.h"
#include <string.h>

enum {
	FRAMES_MAX = 1 << 30, /* some hundred thousand reports: qmgr has never more in flight */
	FRAME_HEAD = 6,	      /* u32 length of what follows, u16 type */
	FRAME_TYPE = 2,
};

void reports_init(struct reports *r)
{
	*r = (struct reports){0};
	buf_init(&r->frames, FRAMES_MAX);
}

void reports_fini(struct reports *r)
{
	buf_fini(&r->frames);
}

bool reports_empty(const struct reports *r)
{
	return r->frames.n == 0;
}

/* One frame off the front of *rest. */
static bool take_frame(struct rd *rest, enum msg_type *type, struct str *body)
{
	if (rest->n < FRAME_HEAD)
		return false;
	uint32_t n = rd_u32(rest);
	*type = rd_u16(rest);
	*body = rd_bytes(rest, n - FRAME_TYPE);
	must(!rest->bad); /* we wrote them */
	return true;
}

static struct rd all_frames(const struct reports *r)
{
	return rd_of(r->frames.p, r->frames.n);
}

void reports_result(struct reports *r, struct chan *qmgr, const struct msg_result *m)
{
	msg_encode_result(&r->frames, m);
	if (!qmgr)
		return;
	chan_send_result(qmgr, m);
	r->given++;
}

void reports_closed(struct reports *r, struct chan *qmgr, const struct msg_have_conn *have,
    const struct msg_conn_closed *m)
{
	msg_encode_have_conn(&r->frames, have);
	msg_encode_conn_closed(&r->frames, m);
	if (!qmgr)
		return;
	chan_send_conn_closed(qmgr, m);
	r->given++;
}

static bool is_report(enum msg_type type)
{
	return type == MSG_RESULT || type == MSG_CONN_CLOSED;
}

/* Forgets the oldest n reports; a HAVE_CONN goes with the CONN_CLOSED behind it. */
static void forget(struct reports *r, uint64_t n)
{
	struct rd rest = all_frames(r);
	size_t kept = rest.n;
	enum msg_type type;
	struct str body;
	while (n > 0 && take_frame(&rest, &type, &body)) {
		if (!is_report(type))
			continue;
		n--;
		kept = rest.n;
	}
	buf_consume(&r->frames, r->frames.n - kept);
}

void reports_taken(struct reports *r, uint64_t count)
{
	if (count <= r->dropped || count > r->given)
		return;
	forget(r, count - r->dropped);
	r->dropped = count;
}

static void tell_job(struct chan *qmgr, const struct msg_result *m)
{
	struct buf rcpts;
	buf_init(&rcpts, 2 * 65536);
	struct rd rest = rd_of(m->results.p, m->results.n);
	struct rcpt_result one;
	while (result_take(&rest, &one) == 1)
		buf_u16(&rcpts, one.ordinal);
	chan_send_have_job(qmgr, &(struct msg_have_job){.conn = m->conn,
				     .transaction = m->transaction,
				     .id = m->id,
				     .rcpts = {(const char *)rcpts.p, rcpts.n}});
	buf_fini(&rcpts);
}

void reports_tell_conns(const struct reports *r, struct chan *qmgr)
{
	struct rd rest = all_frames(r);
	enum msg_type type;
	struct str body;
	struct msg_have_conn have;
	while (take_frame(&rest, &type, &body))
		if (type == MSG_HAVE_CONN && msg_decode_have_conn(body, &have) == 0)
			chan_send_have_conn(qmgr, &have);
}

void reports_tell_jobs(const struct reports *r, struct chan *qmgr)
{
	struct rd rest = all_frames(r);
	enum msg_type type;
	struct str body;
	struct msg_result result;
	while (take_frame(&rest, &type, &body))
		if (type == MSG_RESULT && msg_decode_result(body, &result) == 0)
			tell_job(qmgr, &result);
}

void reports_tell_again(struct reports *r, struct chan *qmgr)
{
	struct rd rest = all_frames(r);
	enum msg_type type;
	struct str body;
	struct msg_result result;
	struct msg_conn_closed closed;
	r->given = r->dropped = 0;
	while (take_frame(&rest, &type, &body)) {
		r->given += is_report(type);
		if (type == MSG_RESULT && msg_decode_result(body, &result) == 0)
			chan_send_result(qmgr, &result);
		else if (type == MSG_CONN_CLOSED && msg_decode_conn_closed(body, &closed) == 0)
			chan_send_conn_closed(qmgr, &closed);
	}
}
