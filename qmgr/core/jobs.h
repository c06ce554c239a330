/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * Jobs: 64 bytes each, in slabs, found by message id; the lists that they stand in, and the due
 * wheel with its batches of those that wait (job.c, due.c).
 */
#include "qmgr/core/base.h"

/* ---- jobs ---- */
enum {		       /* further states of a job, inside only */
	JOB_ENDED = 6, /* its final decision is on the way out */
	JOB_DOUBT = 7, /* in doubt until core_start() */
};
struct job {
	uint64_t id;
	uint64_t segment : 40, rcpt : 16, flags : 8;
	uint64_t offset : 40, attempts : 16, notices : 8; /* notices: delay reports so far */
	uint64_t arrived_ms : 44, bytes_low : 20;
	uint64_t due_ms : 44, bytes_high : 11, state : 3, retries : 2;
	uint64_t
	    head : 1; /* first of its message in the index: sibling_prev is the bucket's next */
	uint64_t doomed : 1;		     /* deleted while in flight */
	uint64_t backed_off : 1;	     /* waits by the list of backoff mode */
	uint64_t last : 1;		     /* stands in the lane's list of uncertain mail */
	uint32_t lane, domain;		     /* index of lane and domain */
	uint32_t next, prev;		     /* in its list; job_ref or LIST_END | list */
	uint32_t sibling_next, sibling_prev; /* jobs of the same message */
};
_Static_assert(sizeof(struct job) == 64, "a job is 64 bytes");

#define LIST_END 0x80000000u   /* marks a list's number among the links of jobs */
#define LIST_BATCH 0x40000000u /* and a batch's among the lists' */
struct job_list {
	job_ref head, tail;
};
enum lane_list { LANE_READY, LANE_UNCERTAIN, LANE_FLIGHT, LANE_ASIDE, LANE_LISTS };
enum { /* numbers of lists: the list of doubt, then LANE_LISTS for each lane */
	LIST_DOUBT,
	LIST_LANES,
	DUE_LEVELS = 3,
	DUE_SLOTS = 512, /* two turns of the next level, see due.c */
	JOB_SLAB = 4096,
	INDEX_SEGMENT = 16384,
};
struct job_store {
	struct job **slabs;	   /* owned */
	uint32_t slab_count, used; /* references below `used` have been handed out once */
	job_ref free;		   /* chain through next */
	uint64_t live;		   /* jobs that are not free */
	uint32_t **index;	   /* owned; buckets of the message index */
	uint32_t index_segments, base, split;
	uint64_t messages;
};
struct batch {		  /* jobs of one lane that wait in one slot of the due wheel */
	struct node node; /* by lane and slot; the hash is the key itself, mixed; 0: in no table */
	struct job_list list;
	uint32_t number; /* its list is LIST_BATCH | number */
	uint32_t seq;	 /* of its making: each lane's batches stand in this order */
	struct link in_slot, in_lane;
};
_Static_assert(sizeof(struct batch) == 64, "one per lane and slot, however few the jobs");
struct due {
	struct link slot[DUE_LEVELS * DUE_SLOTS];
	uint64_t bits[DUE_SLOTS / 64];	       /* of level 0: slots that may hold jobs */
	uint32_t last[DUE_LEVELS * DUE_SLOTS]; /* the lane of a slot's last batch; 0: ask nobody */
	int64_t tick;			       /* the next second to handle */
	struct job_list doubt;
	struct table batches;
	struct batch **slabs; /* owned */
	uint32_t slab_count, used, seq, live;
	struct batch *free; /* chain through node.next */
};
static inline struct job *job_at(const struct job_store *s, job_ref ref)
{
	return &s->slabs[ref / JOB_SLAB][ref % JOB_SLAB];
}
static inline uint32_t job_bytes(const struct job *j)
{
	return (uint32_t)(j->bytes_low | (uint64_t)j->bytes_high << 20);
}
struct job *job_valid(const struct core *core, job_ref ref); /* NULL: no live job */
job_ref job_new(struct core *core);
void job_free(struct core *core, job_ref ref);
void job_store_init(struct job_store *s);
void job_store_fini(struct job_store *s);
uint64_t job_store_bytes(const struct job_store *s);
void job_index(struct core *core, job_ref ref); /* by its id; done by job_free() backwards */
job_ref job_find(const struct core *core, uint64_t id);
void job_ahead(struct core *core, uint64_t id); /* it will be looked for: into the cache */
static inline uint32_t lane_list(uint32_t lane, enum lane_list which)
{
	return LIST_LANES + LANE_LISTS * lane + which;
}
void job_append(struct core *core, uint32_t list, job_ref ref);
void job_prepend(struct core *core, uint32_t list, job_ref ref);
void job_unlink(struct core *core, job_ref ref);
void job_state(struct core *core, job_ref ref, unsigned state); /* keeps all counters right */

struct queue;
void due_init(struct due *due, int64_t now_ms);
void due_fini(struct due *due);
uint64_t due_bytes(const struct due *due);
void due_empty(struct core *core, struct queue *q, uint32_t number); /* a batch has no job left */
static inline struct batch *due_batch(const struct due *due, uint32_t number)
{
	return &due->slabs[number / JOB_SLAB][number % JOB_SLAB];
}
void due_add(struct core *core, job_ref ref);
struct lane;
bool due_falls(const struct due *due, const struct lane *lane, const struct batch *b);
bool due_advance(struct core *core, unsigned *budget); /* true: there is more to do now */
int64_t due_next_ms(const struct core *core);
