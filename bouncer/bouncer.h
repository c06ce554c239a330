/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/segread.h"
#include "common/segwrite.h"
#include "common/worker.h"
#include "bouncer/dsn.h"
#include "bouncer/rules.h"
/* The parts of the process, put together by main.c. */
enum {
	POISONED_MAX = 10000, /* ids that killed a worker; master has few */
	HOST_TEXT = 256,
	POSTMASTER_TEXT = 400,
};
struct identity { /* from the configuration */
	char host_name[HOST_TEXT];
	char postmaster[POSTMASTER_TEXT]; /* "": MAILER-DAEMON at host_name */
};
struct request_list {
	struct request *first, *last;
	size_t count, bytes;
};
struct bouncer_stats {
	uint64_t asked, none, reports[DSN_KIND_COUNT], refused, unreadable;
};
struct bouncer {
	struct worker *worker;
	struct segread *reader;
	struct segwriter *writer;
	struct chan *qmgr;
	uint32_t epoch; /* counts qmgr's channels: tickets of an earlier one mean nothing */
	struct identity used, prepared;
	struct rules rules, next_rules; /* of the configuration in use, and of the prepared one */
	struct classifier *classifier;	/* owned; made when it is first asked */
	struct request_list waiting;
	size_t writing; /* handed to the segment writer */
	struct loop_timer again;
	uint32_t again_ms;
	bool stopping;
	uint64_t *poisoned; /* owned */
	size_t poisoned_count;
	struct bouncer_stats stats;
};
/* inbox.c */
void inbox_init(struct bouncer *b);
void inbox_open(struct bouncer *b, int fd); /* takes fd: the channel to a new qmgr */
void inbox_stop(struct bouncer *b);	    /* finish what is being written, then say so */
/* report.c: one request, from the message to the report. */
enum report_end {
	REPORT_MADE,
	REPORT_NONE,  /* none is owed, or none can be made: `why` */
	REPORT_LATER, /* reading failed for now */
};
struct report_made {
	uint64_t id;
	struct buf envelope, headers, content; /* owned by the caller */
	char why[200];
};
/* `id` 0: only decide whether one is owed (REPORT_MADE then means: yes). */
enum report_end report_make(
    struct bouncer *b, const struct msg_bounce *m, uint64_t id, struct report_made *made);
void report_made_init(struct report_made *made);
void report_made_fini(struct report_made *made);
/* control.c */
extern const struct control_verb bouncer_verbs[];
extern const size_t bouncer_verb_count;
