/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/chan.h"
#include "common/clock.h"
#include "common/envelope.h"
#include "common/iothread.h"
#include "common/record.h"
#include "common/worker.h"
#include "qmgr/core/core.h"
#include "qmgr/journal.h"
#include "qmgr/logger.h"
#include "qmgr/map.h"
#include "qmgr/store.h"
/*
 * qmgr's shell: what stands around the pure core. One struct holds it all; each file below owns a
 * part of it, named as the file. Everything here runs in the loop's thread, except what a file says
 * it gives to a helper thread.
 */
struct qmgr;
struct segment;

/* ---- peers.c: channels to the other processes ---- */
enum { READER_BITS = 128, READER_BOUNCER = 127 };
struct peer {
	struct peer *next;
	struct qmgr *q;
	enum proc_id process;
	uint16_t instance;
	uint32_t generation;
	int fd;				/* until chan is made; then -1 */
	struct chan *chan;		/* NULL: gone, its segments are still being read */
	bool told_all;			/* WRITER_STATE_END or OUT_STATE_END came */
	bool faulty;			/* we closed it: the process may live on */
	uint8_t refuse;			/* what it was told last */
	uint32_t credit;		/* messages it may still hand in */
	uint32_t conns;			/* smtp-out: connections granted and not yet closed */
	uint64_t reports, reports_told; /* smtp-out: RESULTs and CONN_CLOSEDs handled; confirmed */
};
void peers_add(
    struct qmgr *q, enum proc_id process, uint16_t instance, uint32_t generation, int fd);
void peers_connect_writers(struct qmgr *q); /* at start; others follow when recovery is through */
void peers_connect_all(struct qmgr *q);
void peers_fini(struct qmgr *q);
struct peer *peers_find(
    struct qmgr *q, enum proc_id process, int instance); /* -1: any; connected, or NULL */
bool peers_writers_told_all(struct qmgr *q);
bool peers_outs_told_all(struct qmgr *q);
void peers_mark(struct qmgr *q);    /* what was sent so far waits for the write that begins now */
void peers_release(struct qmgr *q); /* that write is done */
void peers_gone(
    struct qmgr *q, struct peer *peer); /* a dead writer's segments are read: forget it */
unsigned peer_reader_bit(const struct peer *peer);

/* ---- segments.c: the spool's files ---- */
enum {
	SEGMENT_BYTES_MAX =
	    64 << 20, /* preallocated for a common one; less on a small file system */
	SEGMENT_BYTES_MIN = 1 << 20,
	SEGMENTS_OF_WRITER_MAX =
	    64, /* open at once; stops a broken writer from making files forever */
};
enum segment_state { SEGMENT_MAKING, SEGMENT_OPEN, SEGMENT_READING, SEGMENT_SEALED, SEGMENT_GOING };
struct segment {
	struct row_segment row;
	enum segment_state state;
	bool dirty;  /* its row must be written */
	bool stored; /* its row is in the index */
	bool compacting;
	bool suspect;	       /* its row was damaged: read again from its beginning, uncertain */
	bool missing, wanted;  /* recovery: its file is not there; and rows name it */
	int64_t rest_until_ms; /* compaction has just tried */
	uint64_t end;	       /* sealed: length of what is good */
	uint64_t messages;     /* alive, reports not yet sent included */
	uint64_t live_bytes;
	uint64_t readers[READER_BITS / 64]; /* who was told of it */
	struct peer *owner;		    /* NULL: none alive */
	uint64_t empty_commit, empty_pos;   /* may go when the index and the log are past these */
};
struct segments {
	struct map map;		/* by number */
	uint64_t next_number;	/* free, and committed ahead of use */
	uint64_t bytes;		/* of sealed segments */
	struct segment **going; /* owned; empty ones that wait for index and log */
	size_t going_count, going_cap;
	int dir_fd;
};
void segments_init(struct qmgr *q);
void segments_fini(struct qmgr *q);
struct segment *segments_find(struct qmgr *q, uint64_t number);
struct segment *segments_add(struct qmgr *q, const struct row_segment *row);
void segments_want(struct qmgr *q, struct peer *peer, uint32_t ticket, uint64_t size);
void segments_make_compact(
    struct qmgr *q, void (*ready)(void *ctx, struct segment *s, int fd), void *ctx);
void segment_changed(struct qmgr *q, struct segment *s);
void segment_keep(struct segment *s, uint64_t bytes); /* one more message is alive in it */
void segment_release(struct qmgr *q, struct segment *s, uint64_t bytes);
void segment_seal(struct qmgr *q, struct segment *s, uint64_t end);
int segment_open_read(struct qmgr *q, uint64_t number); /* descriptor or -errno */
bool segment_show(struct qmgr *q, struct segment *s, struct peer *reader); /* SEGMENT_OPEN, once */
void segments_reader_gone(struct qmgr *q, unsigned bit);
void segments_turn(struct qmgr *q);					 /* deletes what may go */
void segment_file_name(char out[48], uint64_t number);			 /* "segments/…" */
int segment_set_aside(struct qmgr *q, uint64_t number, const char *why); /* a file without a row */

/* ---- reading.c: taking in from a segment's file ---- */
struct reading;
/* Reads from the mark up to `upto` (UINT64_MAX: the end of the file), then calls done(). */
void reading_start(struct qmgr *q, struct segment *s, uint64_t upto,
    void (*done)(struct qmgr *q, struct segment *s, void *arg), void *arg);
void reading_finish(struct qmgr *q, struct segment *s); /* the rest of it now */
bool reading_turn(struct qmgr *q);			/* a slice; true: there is more */
bool reading_is_idle(const struct qmgr *q);
void reading_fini(struct qmgr *q);
/* Looks for one message in a whole segment. */
bool reading_find(
    struct qmgr *q, struct segment *s, uint64_t id, struct record *record, struct buf *envelope);
/* The envelope of one message, for control commands. 0 or -errno; out is a buf of the whole
 * envelope. */
int reading_envelope(struct qmgr *q, uint64_t segment, uint64_t offset, struct record *record,
    struct buf *envelope) MUST_USE;

/* ---- intake.c ---- */
/* Takes one checked record in: jobs, journal, live counts, settling of the cause of a DSN. */
void intake(struct qmgr *q, struct segment *s, const struct record *r, struct str envelope);
/* The same for one recipient of a message whose row is damaged: flagged uncertain. */
void intake_rcpt(
    struct qmgr *q, struct segment *s, const struct record *r, struct str envelope, uint16_t rcpt);
void intake_aside(struct qmgr *q, const struct row_aside *aside, bool stored);

/* ---- decisions.c: what the core decided, carried out ---- */
struct result_context { /* of the RESULT that is being handled; NULL otherwise */
	const struct msg_result *msg;
	const struct rcpt_result *results;
	size_t count;
};
void decisions_init(struct qmgr *q);
void decisions_fini(struct qmgr *q);
void decisions_drain(struct qmgr *q, const struct result_context *ctx); /* all of core_next() */
void decisions_carry_out(
    struct qmgr *q, const struct core_decision *d, const struct result_context *ctx);
void message_removed(
    struct qmgr *q, uint64_t id, struct segment *s, uint64_t bytes, struct str why);
void decisions_dirty(struct qmgr *q, job_ref ref, uint8_t flags);
struct decisions {
	bool open, removed;
	bool has_result;
	enum j_report report;
	struct j_outcome common;
	struct j_rcpts rcpts;
	struct buf results;  /* of the report, result_put() */
	struct buf texts;    /* copies of the views in common */
	struct buf ordinals; /* of the JOB at hand */
	struct segment *segment;
	struct rcpt_result *scratch; /* owned; results of the RESULT at hand */
	size_t scratch_cap;
};

/* ---- failures.c: what failed before any message, for log and accounting ---- */
struct failures {
	struct {
		uint64_t key; /* of queue and text */
		int64_t until_ms;
	} told[1024]; /* one more that falls on a slot forgets the other: it is told too often */
};
void failures_conn(struct qmgr *q, const struct msg_conn_closed *m); /* before the core hears it */
void failures_route(struct qmgr *q, struct str domain, struct str text);

/* ---- sources.c: our own addresses ---- */
struct source { /* one of a virtual MTA */
	char address[65], ehlo[256], vmta[101];
	bool binding, bind_in_pass, naming; /* questions that are out */
	bool bind_known, names_known;
	bool missing, confirmed, ehlo_matches;
	char *why, *name, *listed; /* owned; why it cannot be bound, its reverse name, blocklists */
	int64_t tried_ms;
};
struct source_pass {
	size_t next, out; /* not yet asked; asked and not answered */
};
struct source_ask; /* sources_ask.c */
struct sources {
	struct source **list; /* owned */
	size_t count;
	uint16_t round;
	struct source_pass bind, names;
	struct loop_timer hourly, retry, late;
	struct source_ask *asks; /* owned; who waits for the round's end */
};
void sources_configure(struct qmgr *q); /* from q->conf; checks them when we serve already */
void sources_round(struct qmgr *q);	/* checks all */
bool sources_round_is_over(const struct qmgr *q);
void sources_peer_up(struct qmgr *q, enum proc_id process);
void sources_suspect(struct qmgr *q, struct str address); /* a connection from it failed here */
void sources_fini(struct qmgr *q);
void sources_tell(struct qmgr *q, bool late); /* answers those who wait, if the round is over */
void sources_asks_fini(struct qmgr *q);

/* ---- states.c: what the core remembers of things that are no jobs ---- */
void states_keep(struct qmgr *q, const struct core_decision *d);

/* ---- events.c: what people should know ---- */
enum { EVENTS_KEPT = 1000, ALERTS_OWED_MAX = 1000 };
struct event_view {
	uint64_t seq;	  /* from 1, since this qmgr's start */
	struct j_event e; /* views, valid until the next event */
};
struct event_follower {
	struct event_follower *next;
	void (*told)(void *ctx, const struct event_view *event);
	void *ctx;
};
struct events {
	struct {
		unsigned char *bytes; /* owned: of a j_event */
		size_t n;
	} ring[EVENTS_KEPT]; /* event `seq` stands at seq % EVENTS_KEPT */
	uint64_t last;	     /* seq; 0: none yet */
	uint64_t alerts_dropped;
	struct event_follower *followers;
};
void events_put(struct qmgr *q, const struct core_event *event);
void events_redo(struct qmgr *q, struct str payload);
/* Of those kept: the oldest first that came after `seq`, at most n. */
size_t events_since(const struct qmgr *q, uint64_t seq, struct event_view *out, size_t n);
/* told() is called for each new one, in the turn in which it happened; it may unfollow itself. */
void events_follow(struct qmgr *q, struct event_follower *f);
void events_unfollow(struct qmgr *q, struct event_follower *f);
void events_fini(struct qmgr *q);

/* ---- bounces.c (a DSN exactly once) ---- */
struct bounce {
	struct bounce *next,
	    *prev; /* in the queue of those not asked; NULL, NULL: asked or alone */
	uint64_t ticket, id, segment, offset;
	uint32_t bytes;
	uint8_t kind;
	bool stored, dirty, asked, queued;
	int64_t arrived_ms, retry_until_ms;
	unsigned char *results; /* owned; NULL: only in the index */
	uint32_t results_n;
};
struct bounces {
	struct map tickets; /* ticket → struct bounce */
	struct map by_id;   /* message → how many, as a number in the pointer */
	struct bounce *first, *last;
	struct bounce **changed; /* owned; must be written */
	size_t changed_count, changed_cap;
	uint64_t *settled; /* owned; rows to delete */
	size_t settled_count, settled_cap;
	uint64_t next_ticket;
	size_t asked, alerts;
};
void bounces_init(struct qmgr *q, uint64_t first_ticket);
void bounces_fini(struct qmgr *q);
uint64_t bounces_ticket(struct qmgr *q);
uint8_t bounces_kind(enum j_report report); /* enum dsn_kind */
void bounces_add(struct qmgr *q, const struct row_bounce *b, bool stored);
/* Its DSN was taken in, or none is owed. False: there is no such report (any more). */
bool bounces_settle(struct qmgr *q, uint64_t ticket, uint64_t id);
const struct bounce *bounces_find(const struct qmgr *q, uint64_t ticket); /* NULL: not owed */
size_t bounces_of(struct qmgr *q, uint64_t id);
void bounces_ask(struct qmgr *q);			    /* as many as the bouncer may have */
void bounces_ask_again(struct qmgr *q);			    /* a new bouncer is there */
void bounces_commit(struct qmgr *q, struct store_ops *ops); /* their changes, into a commit */

/* ---- commit.c ---- */
struct commit {
	struct iothread *thread;
	job_ref *dirty; /* owned; a reference may stand twice or be stale: JOB_DIRTY decides */
	size_t dirty_count, dirty_cap;
	struct store_ops deletes;  /* rows of jobs that ended */
	struct store_ops other;	   /* asides and what else is ready as bytes */
	struct segment **segments; /* owned; with changed rows */
	size_t segment_count, segment_cap;
	struct commit_task *task; /* owned */
	bool gathered;		  /* a snapshot waits for its journal write */
	bool running;		  /* the thread has it */
	bool complete;		  /* the snapshot holds all changes: positions may move */
	bool urgent;		  /* somebody waits: a segment */
	bool failing;
	bool meta_dirty;
	uint8_t refuse;	 /* REFUSE_NONE, REFUSE_INDEX or REFUSE_DISK */
	uint64_t number; /* of the last complete commit */
	uint64_t snapshot_number;
	int64_t since_ms; /* of the oldest change not yet gathered; 0: none */
	int64_t last_ms, retry_ms;
	struct loop_timer timer;
	struct map not_sent;  /* job_ref of what was not sent because we stop */
	struct row_meta meta; /* as committed */
	struct store_room room;
};
void commit_init(struct qmgr *q);
void commit_fini(struct qmgr *q);
void commit_changed(struct qmgr *q); /* something for the index is ready */
void commit_dirty(struct qmgr *q, job_ref ref);
void commit_delete_rcpt(struct qmgr *q, uint64_t id, uint16_t rcpt);
/* Turn's end, before the journal's write starts: is it time, and with this write? */
void commit_gather(struct qmgr *q);
void commit_start(struct qmgr *q); /* the journal is written up to the snapshot */
bool commit_is_clean(const struct qmgr *q);
uint64_t commit_after(
    const struct qmgr *q); /* number of the commit that will hold all changes up to now */

/* ---- admission.c ---- */
struct admission {
	uint64_t min_free, max_recipients, memory;
	uint8_t disk, queue; /* enum refuse or 0 */
	struct loop_timer timer;
	uint64_t free_bytes;
};
void admission_init(struct qmgr *q);
void admission_sizes(struct qmgr *q); /* files' sizes, by that of the file system */
void admission_start(struct qmgr *q);
void admission_fini(struct qmgr *q);
uint64_t admission_auto(const struct qmgr *q); /* spool-max-recipients = auto */
const char *refuse_name(uint8_t refuse);
uint8_t admission_state(struct qmgr *q); /* enum refuse */
void admission_turn(struct qmgr *q);	 /* credits to the writers */

/* ---- routes.c: questions to the resolver ---- */
struct routes {
	struct map waiting; /* query → struct route_query */
	uint32_t next_query;
};
void routes_ask(struct qmgr *q, struct str domain, struct str fixed); /* "": its MX */
/* False: not asked. *fixed: as it was asked; the caller frees it. */
bool routes_answered(struct qmgr *q, uint32_t query, struct str domain, char **fixed);
void routes_ask_again(struct qmgr *q);
void routes_fini(struct qmgr *q);

/* ---- recover.c ---- */
struct damaged_row {
	struct damaged_row *next;
	uint64_t id;
	uint16_t rcpt;
};
enum recover_phase { RECOVER_NOT, RECOVER_ROWS, RECOVER_WRITERS, RECOVER_OUTS, RECOVER_DONE };
struct recover {
	enum recover_phase phase;
	bool unclean, rebuild;
	struct redo *redo; /* what the journal says beyond the rows */
	struct row_key at;
	struct damaged_row *damaged; /* owned; rows that do not decode */
	uint64_t rows, added, damaged_count, doubt, lost;
	int64_t began_ms;
};
void recover_start(struct qmgr *q, bool unclean, bool rebuild);
bool recover_turn(struct qmgr *q); /* true: there is more to do at once */
void recover_fini(struct qmgr *q);
/* What the journal knows of a message that is being read again. */
struct redo_rcpt {
	struct redo_rcpt *next;
	uint16_t rcpt, attempts;
	bool gone, in_doubt, has_state;
	uint8_t flags;
	int64_t due_ms;
	char *place; /* owned: virtual MTA, NUL, pool, NUL; NULL: as the row or the envelope says */
};
struct redo_message {
	uint64_t id;
	bool received, removed, reported;
	struct redo_rcpt *rcpts;
};
struct redo_message *redo_find(struct qmgr *q, uint64_t id); /* NULL when not recovering, too */
struct redo_rcpt *redo_rcpt_find(struct redo_message *m, uint16_t rcpt);
void redo_apply(const struct redo_rcpt *r, struct core_add *add); /* r may be NULL */
/* Was a recipient with that due time (0: at once) on the way when the power went? */
bool recover_is_uncertain(const struct qmgr *q, int64_t due_ms);

/* ---- compact.c ---- */
struct compact;
void compact_init(struct qmgr *q);
void compact_fini(struct qmgr *q);
void compact_turn(struct qmgr *q);

/* ---- control_rules.c: how often each rule matched ---- */
void rule_counts_add(struct qmgr *q, const struct rule_hit *hits, size_t n);
void rule_counts_fini(struct qmgr *q);

/* ---- control.c ---- */
extern const struct control_verb qmgr_verbs[];
extern const size_t qmgr_verb_count;

/* ---- the whole ---- */
struct counters {
	uint64_t received, received_bytes, delivered, deferred, bounced, expired, deleted,
	    uncertain;
	uint64_t damaged, aside, dropped_reports;
};
struct qmgr {
	struct worker *worker;
	struct loop *loop;
	struct core *core;
	int64_t now_ms; /* steady clock of this turn */
	int spool_fd;
	uint64_t map_bytes, max_message_bytes;
	uint32_t journal_file_bytes;
	uint64_t segment_bytes; /* preallocated; the writer asks for the next a sixteenth before */
	struct iothread *files; /* making, deleting, allocating */
	struct journal *journal;
	struct store *store;
	struct logger *logger;
	struct peer *peers;
	struct segments segments;
	struct decisions decisions;
	struct failures failures;
	struct events events;
	struct sources sources;
	struct bounces bounces;
	struct commit commit;
	struct admission admission;
	struct routes routes;
	struct recover recover;
	struct compact *compact;
	struct reading *readings;
	struct map poison; /* id → deaths */
	struct map asides; /* id → struct aside */
	struct map rule_counts; /* rule's id → its hits since start */
	struct counters counters;
	const struct conf *prepared; /* borrowed from worker.c until use() */
	struct conf *conf;	     /* owned */
	bool accounts_received;	     /* an accounting file wants `r` */
	bool started, stopping, stopped, deadline_passed, last_commit;
	bool saved; /* core_save() was called: nothing begins any more */
	int log_fd; /* came before the logger was there */
	bool log_is_file;
	int accounting_fd[ACCOUNTING_FILES_MAX];
	bool accounting_set[ACCOUNTING_FILES_MAX];
	struct loop_timer tick;
	struct loop_timer stop_timer;
};
struct aside {
	struct row_aside row; /* why is in text */
	char text[200];
	bool stored;
};
/* shell.c */
void qmgr_init(struct qmgr *q, struct worker *worker, struct loop *loop);
void qmgr_open(struct qmgr *q, int spool_fd); /* threads and directories; before recover_start() */
void qmgr_fini(struct qmgr *q);
void qmgr_configure(struct qmgr *q, const struct conf *conf);
void qmgr_file(struct qmgr *q, enum file_kind kind, uint16_t index, int fd); /* takes fd */
void qmgr_logger_ready(struct qmgr *q);
void qmgr_turn(void *arg);	 /* the end-of-turn hook */
void qmgr_serve(struct qmgr *q); /* recovery is through: grants, credits, reports */
/* The message has killed its worker so many times: from POISON_DEATHS on it is set aside, at once.
 */
void qmgr_poison(struct qmgr *q, uint64_t id, uint8_t deaths);
enum { POISON_DEATHS = 3 };
void qmgr_stop(struct qmgr *q, uint32_t deadline_ms);
void qmgr_blame(struct qmgr *q, uint64_t id);
