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
 * without anybody knowing which it was.
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
			s->slabs[s->slab_count++] = xmalloc(JOB_SLAB * sizeof(**s->slabs));
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
	if (list < LIST_LANES)
		return &core->due.slot[list];
	list -= LIST_LANES;
	return &core->lane_at[list / 2]->list[list % 2];
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
	bool first = j->prev & LIST_END, final = j->next & LIST_END;

	if (first)
		list_at(core, j->prev & ~LIST_END)->head = final ? 0 : j->next;
	else
		core_at(core, j->prev)->next = j->next;
	if (final)
		list_at(core, j->next & ~LIST_END)->tail = first ? 0 : j->prev;
	else
		core_at(core, j->next)->prev = j->prev;
	j->next = j->prev = 0;
}

void job_state(struct core *core, job_ref ref, unsigned state)
{
	struct job *j = core_at(core, ref);
	struct queue *q = core->lane_at[j->lane]->share->queue;

	if (j->state == JOB_READY && !q->routed)
		core->unrouted--;
	if (j->state != JOB_FREE) {
		core->n[j->state]--;
		q->n[j->state]--;
	}
	j->state = state & 7;
	core->n[state]++;
	q->n[state]++;
	if (state == JOB_READY && !q->routed)
		core->unrouted++;
}
