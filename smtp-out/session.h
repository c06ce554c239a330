/* SPDX-License-Identifier: ISC */
#pragma once
#include "smtp-out/dialogue.h"
#include "smtp-out/out.h"
/*
 * One granted connection, from GRANT to CONN_CLOSED. All functions may free the session.
 */
void session_new(struct out *o, const struct msg_grant *g);
struct session *session_find(struct out *o, uint64_t conn);
void session_job(struct session *s, const struct msg_job *m);
void session_close(struct session *s, bool hard);
void session_stop(struct session *s); /* what has begun is finished, the rest handed back */
void session_each(
    struct out *o, void (*fn)(struct session *s, void *arg), void *arg); /* fn may free it */

/* For a new qmgr, and for control.c. */
void session_tell_conn(struct session *s, struct chan *qmgr);
void session_tell_jobs(struct session *s, struct chan *qmgr);
struct session_view {
	uint64_t conn, message_id, begun;
	const char *queue, *domain, *host, *address, *source, *relay, *step, *stage;
	int64_t age_ms;
	bool ready, tls;
	char tls_text[160];
};
void session_view(const struct session *s, struct session_view *v);
