/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/chan.h"
#include "common/control.h"
#include "common/tls.h"
#include "common/worker.h"
#include "smtp-out/reports.h"
/*
 * One smtp-out process: what its parts share.
 */
enum {
	SESSION_BUCKETS = 8192, /* power of two */
	READ_SIZE = 16 * 1024,	/* of one recv(); also what a TLS record holds */
	OUT_SLOT_MS = 1000,	/* after our close: then the peer's slot counts as free */
};
struct session;
struct matcher;
struct trace;
struct source_ask;
struct out_counters { /* since start */
	uint64_t grants, refused, transactions, delivered, deferred, failed, tls, hits;
};
struct out {
	struct loop *loop;
	struct worker *worker;	 /* NULL in tests */
	struct tls_context *tls; /* NULL: STARTTLS is not used */
	struct segread *segments;
	struct chan *qmgr; /* NULL: there is none now */
	struct reports reports;
	struct session *bucket[SESSION_BUCKETS];
	size_t sessions;
	char ehlo[256];		/* where GRANT names none */
	unsigned char *scratch; /* 2 * READ_SIZE: one read, or one record to write */
	struct buf cipher;	/* of the read that is being handled */
	struct buf results;	/* of the RESULT that is being built */
	struct out_counters counters;
	int64_t slot_ms;	 /* OUT_SLOT_MS; tests with many connections wait for less */
	struct matcher *matcher; /* of the configuration in use; NULL: no patterns */
	bool hits_cut;		 /* it was told that some did not fit */
	struct trace *traces;	 /* owned */
	struct source_ask *asks; /* owned: operators' commands that qmgr has not yet answered */
	uint32_t next_ticket;
	bool stopping, stopped;
	struct loop_timer stop_timer;
};
void out_init(struct out *o, struct loop *loop, struct worker *worker);
void out_fini(struct out *o);
void out_blame(struct out *o, uint64_t message_id); /* 0: done */
void out_attach(struct out *o, int fd);		    /* a channel to a new qmgr; takes fd */
void out_stop(struct out *o, uint32_t deadline_ms);
void out_check_stopped(struct out *o); /* a session has gone */

/* patterns.c: a failed reply of a session that may match rules. */
struct dialogue_failure;
void patterns_on_failure(void *session, const struct dialogue_failure *f);

/* sources.c */
control_verb_fn verb_disable_source, verb_enable_source, verb_check_sources;
void sources_qmgr_gone(struct out *o); /* what it was asked will not be answered */

/* trace.c */
control_verb_fn verb_trace;
/* The connection that somebody waits for? Then all that is said on it is told, from here on. */
void trace_begin(struct session *s);
void trace_said(void *session, char who, struct str line); /* who: as dialogue_spec's, or '*' */
void trace_end(struct session *s);			   /* the connection is gone */
void traces_fini(struct out *o);

/* control.c */
bool control_matches(const char *pattern, const char *text);
extern const struct control_verb control_verbs[];
extern const size_t control_verb_count;
