/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/chan.h"
/*
 * RESULTs and CONN_CLOSEDs on their way to qmgr: kept until it has them in its journal, told again
 * to the next qmgr otherwise.
 */
struct reports {
	struct buf frames; /* HAVE_CONN, RESULT and CONN_CLOSED frames, oldest first */
	uint64_t given;	   /* reports given to the channel that is there now */
	uint64_t dropped;  /* of these, how many are no longer kept */
};
void reports_init(struct reports *r);
void reports_fini(struct reports *r);
/* qmgr may be NULL: kept for the next. `have` describes the connection, for a qmgr that never knew
 * it. */
void reports_result(struct reports *r, struct chan *qmgr, const struct msg_result *m);
void reports_closed(struct reports *r, struct chan *qmgr, const struct msg_have_conn *have,
    const struct msg_conn_closed *m);
void reports_taken(struct reports *r, uint64_t count);
/* To a new qmgr: the connections and the transactions that kept reports are about … */
void reports_tell_conns(const struct reports *r, struct chan *qmgr);
void reports_tell_jobs(const struct reports *r, struct chan *qmgr);
void reports_tell_again(struct reports *r, struct chan *qmgr); /* … and the reports themselves */
bool reports_empty(const struct reports *r);
