/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/segwrite.h"
/* What segwrite.c and segstream.c share, and nobody else sees. */

/* A segment that this process may append to. Only one of the common kind is `current`; the next one
 * waits ready; older ones live until the last id taken from them is written or given up. */
struct seg {
	struct seg *next;
	int fd; /* owned */
	uint64_t number, nonce_high, nonce_low;
	uint64_t limit;	       /* stop using it here */
	uint64_t planned;      /* end, when all that was submitted will be written */
	uint64_t end;	       /* end, when what the helper thread has will be written */
	uint64_t synced;       /* end of what is known to be on the disk */
	uint32_t next_ordinal; /* from 1, so that no id is 0 */
	size_t open_ids;       /* begun, neither written nor abandoned */
	bool stream;	       /* holds one streamed message */
	bool retired;	       /* nothing more is begun in it; DONE goes out when open_ids is 0 */
	bool bad;	       /* a write or sync failed: never appended to again */
};

struct stream_request {
	struct stream_request *next;
	uint32_t ticket;
	uint64_t size;
	segstream_ready_fn *ready;
	void *arg;
};

/* A segment whose end is not valid. A new qmgr hears of it again unless the old one lived on for a
 * while after it was told: SEGMENT_DONE has no answer, and a qmgr that does not know `good` would
 * take refused messages for accepted ones. */
struct failed_segment {
	uint64_t number, good;
	int64_t told_ms; /* when a qmgr was told; 0: none yet */
};

enum {
	FAILED_KEPT = 64, /* the latest ones; each needs a failing disk */
	STREAMS_MAX = 64, /* streams at once: each costs a segment of qmgr's and a descriptor */
	TOLD_SETTLED_MS =
	    1000, /* by then a qmgr has committed what it was told, and a later one knows */
	WANT_AGAIN_MS = 1000,		  /* after SEGMENT_NONE */
	WANT_STARTING_MS = 20,		  /* … with REFUSE_BUSY: qmgr has not recovered yet */
	BATCH_MESSAGES = 200,		  /* 5 pieces each: stays below IOV_MAX */
	BATCH_BYTES = 8 * 1048576,	  /* bounds the time of one write and sync */
	STREAM_SYNC_BYTES = 16 * 1048576, /* a stream syncs as it goes: its end is quick */
};

struct item;
struct batch;
struct segwriter {
	struct loop *loop;
	struct iothread *io;	    /* batches */
	struct iothread *stream_io; /* streams; made with the first one */
	struct chan *qmgr;	    /* borrowed; NULL: none */
	uint32_t credits;
	uint8_t refuse;			   /* as CREDIT said */
	uint8_t none_reason;		   /* as SEGMENT_NONE said, until a segment comes */
	uint32_t last_ticket, want_ticket; /* want_ticket 0: none is asked for */
	struct loop_timer want_again;
	struct seg *segs; /* all that are open, owned */
	struct seg *current, *reserve;
	struct item *pending, **pending_end;
	struct batch *batch; /* in flight, or NULL */
	struct segstream *streams;
	size_t stream_count;
	struct stream_request *requests;
	struct failed_segment failed[FAILED_KEPT];
	int64_t detached_ms;
	size_t failed_count; /* ever; the ring holds the last FAILED_KEPT */
	struct segwriter_stats stats;
};

struct seg *seg_new(struct segwriter *w, struct msg_segment_give *m, bool stream);
void seg_retire(struct segwriter *w, struct seg *seg); /* may free it */
/* Bad from now on, and reported. `remember`: its invalid end could be taken for valid records. */
void seg_fail(struct segwriter *w, struct seg *seg, bool remember);
void seg_release_id(struct segwriter *w, struct seg *seg);
void segwriter_report(struct segwriter *w, const struct seg *seg, const struct record *r,
    const unsigned char head[RECORD_HEAD], struct str envelope);
uint32_t segwriter_ticket(struct segwriter *w);
void segstream_give(struct segwriter *w, struct stream_request **at, struct msg_segment_give *m);
void segstream_refuse(struct stream_request **at, enum refuse why);
void segstream_want_all(struct segwriter *w); /* to a new qmgr */
void segstream_free_all(struct segwriter *w);
