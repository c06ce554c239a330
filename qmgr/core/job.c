/* SPDX-License-Identifier: ISC */
/*
 * Jobs: slabs, the index by message id, and the lists that they stand in.
 *
 * A job is 64 bytes in a slab of 4096 that never moves; a reference is its number, so links are 4
 * bytes. The index is linear hashing over heads of messages: one 4-byte bucket a message, and the
 * chain runs through the first job of each message (whose link to a previous sibling is free for
 * it). It grows by one bucket at a time: no step pays for ten million others. Together about 68
 * bytes a recipient.
 *
 * Lists carry their number at both ends (LIST_END | number), so that a job leaves its list in O(1)
 * without anybody knowing which it was. Every live job stands in a list of its lane, or in a batch
 * (due.c) that its lane links, so that a lane's jobs can be walked whatever their state.
 */
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

enum { INDEX_LEAST = 1024 };

void job_store_init(struct job_store *s)
{
	*s = (struct job_store){.used = 1, .base = INDEX_LEAST, .index_segments = 1};
	s->index = xcalloc(1, sizeof(*s->index));
	s->index[0] = xcalloc(INDEX_SEGMENT, sizeof(**s->index));
}

void job_store_fini(struct job_store *s)
{
	for (uint32_t i = 0; i < s->slab_count; i++)
		free(s->slabs[i]);
	for (uint32_t i = 0; i < s->index_segments; i++)
		free(s->index[i]);
	free(s->slabs);
	free(s->index);
	*s = (struct job_store){0};
}

uint64_t job_store_bytes(const struct job_store *s)
{
	return (uint64_t)s->slab_count * (JOB_SLAB * sizeof(struct job) + sizeof(*s->slabs)) +
	       (uint64_t)s->index_segments *
		   (INDEX_SEGMENT * sizeof(**s->index) + sizeof(*s->index));
}

/* ---- the index by message id ---- */

static uint32_t *bucket_at(const struct job_store *s, uint32_t i)
{
	return &s->index[i / INDEX_SEGMENT][i % INDEX_SEGMENT];
}

static uint32_t *bucket_of(const struct job_store *s, uint64_t id)
{
	uint32_t hash = (uint32_t)hash_mix(id, UINT64_C(0x2545f4914f6cdd1d));
	uint32_t i = hash & (2 * s->base - 1);

	return bucket_at(s, i < s->base + s->split ? i : (hash & (s->base - 1)));
}

static void index_divide(struct job_store *s)
{
	uint32_t high = s->base + s->split;
	uint32_t *from = bucket_at(s, s->split);
	job_ref ref = *from;

	if (high / INDEX_SEGMENT >= s->index_segments) {
		s->index = xrealloc(s->index, (s->index_segments + 1) * sizeof(*s->index));
		s->index[s->index_segments++] = xcalloc(INDEX_SEGMENT, sizeof(**s->index));
	}
	*from = 0;
	if (++s->split == s->base) {
		s->base *= 2;
		s->split = 0;
	}
	while (ref) {
		struct job *j = job_at(s, ref);
		job_ref next = j->sibling_prev;
		uint32_t *to = bucket_of(s, j->id);

		j->sibling_prev = *to;
		*to = ref;
		ref = next;
	}
}

static void index_join(struct job_store *s)
{
	uint32_t *low, *high;

	if (s->split == 0) {
		s->base /= 2;
		s->split = s->base;
	}
	s->split--;
	high = bucket_at(s, s->base + s->split);
	low = bucket_at(s, s->split);
	while (*low)
		low = &job_at(s, *low)->sibling_prev;
	*low = *high;
	*high = 0;
	if ((s->base + s->split) / INDEX_SEGMENT + 2 < s->index_segments)
		free(s->index[--s->index_segments]);
}

job_ref job_find(const struct core *core, uint64_t id)
{
	const struct job_store *s = &core->jobs;
	job_ref ref = *bucket_of(s, id);

	while (ref && job_at(s, ref)->id != id)
		ref = job_at(s, ref)->sibling_prev;
	return ref;
}

void job_ahead(struct core *core, uint64_t id)
{
	const struct job_store *s = &core->jobs;
	uint32_t behind = s->split < s->base ? *bucket_at(s, s->split) : 0;

	__builtin_prefetch(bucket_of(s, id), 1);
	if (behind) /* of the bucket that is divided next */
		__builtin_prefetch(job_at(s, behind), 1);
}

void job_index(struct core *core, job_ref ref)
{
	struct job_store *s = &core->jobs;
	struct job *j = job_at(s, ref);
	job_ref first = job_find(core, j->id);
	uint32_t *bucket;

	if (first) { /* after the head: O(1), and the head stays what the chain knows */
		struct job *h = job_at(s, first);

		j->sibling_next = h->sibling_next;
		j->sibling_prev = first;
		if (h->sibling_next)
			job_at(s, h->sibling_next)->sibling_prev = ref;
		h->sibling_next = ref;
		return;
	}
	if (++s->messages > s->base + s->split)
		index_divide(s);
	bucket = bucket_of(s, j->id);
	j->head = 1;
	j->sibling_prev = *bucket;
	*bucket = ref;
}

static void index_remove(struct job_store *s, job_ref ref)
{
	struct job *j = job_at(s, ref);
	uint32_t *at;

	if (!j->head) {
		job_at(s, j->sibling_prev)->sibling_next = j->sibling_next;
		if (j->sibling_next)
			job_at(s, j->sibling_next)->sibling_prev = j->sibling_prev;
		return;
	}
	for (at = bucket_of(s, j->id); *at != ref; at = &job_at(s, *at)->sibling_prev)
		must(*at);
	if (j->sibling_next) { /* the next sibling takes its place in the chain */
		struct job *next = job_at(s, j->sibling_next);

		next->head = 1;
		next->sibling_prev = j->sibling_prev;
		*at = j->sibling_next;
		return;
	}
	*at = j->sibling_prev;
	s->messages--;
	if (s->base + s->split > INDEX_LEAST && s->messages < (s->base + s->split) / 2)
		index_join(s);
}

/* ---- slabs ---- */

job_ref job_new(struct core *core)
{
	struct job_store *s = &core->jobs;
	job_ref ref = s->free;

	s->live++;
	if (ref) {
		s->free = job_at(s, ref)->next;
	} else {
		must(s->used < LIST_END);
		if (s->used / JOB_SLAB >= s->slab_count) {
			s->slabs = xrealloc(s->slabs, (s->slab_count + 1) * sizeof(*s->slabs));
			s->slabs[s->slab_count++] = xmalloc_lines(JOB_SLAB * sizeof(**s->slabs));
		}
		ref = s->used++;
	}
	memset(job_at(s, ref), 0, sizeof(struct job));
	return ref;
}

void job_free(struct core *core, job_ref ref)
{
	struct job_store *s = &core->jobs;
	struct job *j = job_at(s, ref);

	index_remove(s, ref);
	j->state = JOB_FREE;
	j->next = s->free;
	s->free = ref;
	if (--s->live == 0) { /* all gone: the memory goes back, and references start anew */
		for (uint32_t i = 1; i < s->slab_count; i++)
			free(s->slabs[i]);
		if (s->slab_count > 1)
			s->slab_count = 1;
		s->used = 1;
		s->free = 0;
	}
}

struct job *job_valid(const struct core *core, job_ref ref)
{
	const struct job_store *s = &core->jobs;
	struct job *j;

	if (ref == 0 || ref >= s->used)
		return NULL;
	j = job_at(s, ref);
	return j->state == JOB_FREE ? NULL : j;
}

/* ---- lists ---- */

static struct job_list *list_at(struct core *core, uint32_t list)
{
	if (list & LIST_BATCH)
		return &due_batch(&core->due, list & ~LIST_BATCH)->list;
	if (list < LIST_LANES)
		return &core->due.doubt;
	list -= LIST_LANES;
	return &core->lane_at[list / LANE_LISTS]->list[list % LANE_LISTS];
}

void job_append(struct core *core, uint32_t list, job_ref ref)
{
	struct job_list *l = list_at(core, list);
	struct job *j = core_at(core, ref);

	j->next = LIST_END | list;
	if (l->tail) {
		j->prev = l->tail;
		core_at(core, l->tail)->next = ref;
	} else {
		j->prev = LIST_END | list;
		l->head = ref;
	}
	l->tail = ref;
}

void job_prepend(struct core *core, uint32_t list, job_ref ref)
{
	struct job_list *l = list_at(core, list);
	struct job *j = core_at(core, ref);

	j->prev = LIST_END | list;
	if (l->head) {
		j->next = l->head;
		core_at(core, l->head)->prev = ref;
	} else {
		j->next = LIST_END | list;
		l->tail = ref;
	}
	l->head = ref;
}

void job_unlink(struct core *core, job_ref ref)
{
	struct job *j = core_at(core, ref);
	struct queue *q = core->lane_at[j->lane]->share->queue;
	uint32_t next = j->next, prev = j->prev;
	bool first = prev & LIST_END, final = next & LIST_END;

	if (q->pass.job == ref || q->pass.last == ref)
		sweep_leaves(q, ref, next, prev);
	if (first)
		list_at(core, prev & ~LIST_END)->head = final ? 0 : next;
	else
		core_at(core, prev)->next = next;
	if (final)
		list_at(core, next & ~LIST_END)->tail = first ? 0 : prev;
	else
		core_at(core, next)->prev = prev;
	j->next = j->prev = 0;
	if (first && final && next & LIST_BATCH)
		due_empty(core, q, next & ~(LIST_END | LIST_BATCH));
}

/* In these two states a job stands in a list of its lane without anybody's doing. */
static int list_for(unsigned state)
{
	switch (state) {
	case JOB_IN_FLIGHT:
		return LANE_FLIGHT;
	case JOB_SET_ASIDE:
		return LANE_ASIDE;
	default:
		return -1;
	}
}

static void count_ready(struct core *core, struct lane *lane, bool more)
{
	struct queue *q = lane->share->queue;
	uint64_t one = more ? 1 : UINT64_MAX;

	lane->ready += more ? 1 : UINT32_MAX;
	if (lane_parked(lane))
		q->parked += one;
	if (!q->routed)
		core->unrouted += one;
}

static inline void count_state(uint64_t n[8], unsigned from, unsigned to)
{
	n[from] -= from != JOB_FREE;
	n[to]++;
}

void job_state(struct core *core, job_ref ref, unsigned state)
{
	struct job *j = core_at(core, ref);
	struct lane *lane = core->lane_at[j->lane];
	struct share *share = lane->share;
	unsigned from = j->state;

	if (from == JOB_READY)
		count_ready(core, lane, false);
	if (list_for(from) >= 0)
		job_unlink(core, ref);
	count_state(core->n, from, state);
	count_state(share->queue->n, from, state);
	count_state(lane->of->tally.n, from, state);
	count_state(share->of->tally.n, from, state);
	j->state = state & 7;
	if (list_for(state) >= 0)
		job_append(core, lane_list(j->lane, (enum lane_list)list_for(state)), ref);
	if (state == JOB_READY)
		count_ready(core, lane, true);
}
