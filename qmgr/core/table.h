/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/str.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/*
 * Two small containers of the core.
 *
 * A table is a hash table of embedded nodes that grows and shrinks one bucket at a time (linear
 * hashing): no insertion ever pays for all the others, however many there are. A link is an element
 * of a ring with a head; an element that is in no ring points to itself or to nothing.
 */
struct node {
	struct node *next;
	uint64_t hash;
};
struct table {
	struct node ***segments; /* owned; each TABLE_SEGMENT buckets */
	size_t segment_count, count;
	size_t base, split; /* base + split buckets are in use; base is a power of two */
};
void table_init(struct table *t);
void table_fini(struct table *t); /* the nodes are their owners' */
void table_add(struct table *t, struct node *n, uint64_t hash);
void table_remove(struct table *t, struct node *n);
/* The first node of that hash, and the next of the same hash; the caller compares keys. */
struct node *table_first(const struct table *t, uint64_t hash);
struct node *table_next(const struct node *n);
/* Any node, or NULL: to empty a table. */
struct node *table_any(const struct table *t);

/* All nodes and a NULL; the caller frees the array. */
struct node **table_list(const struct table *t);

/* Numbered places for what a listing goes through: a number stays while it is taken. */
struct slots {
	void **at; /* owned; [1, count] may be NULL */
	uint32_t *free, count, frees;
};
uint32_t slots_take(struct slots *s, void *what);
void slots_give(struct slots *s, uint32_t number);
void slots_fini(struct slots *s);

uint64_t hash_bytes(uint64_t seed, struct str s);
static inline uint64_t hash_mix(uint64_t a, uint64_t b)
{
	uint64_t h = (a ^ (b * UINT64_C(0x9e3779b97f4a7c15))) * UINT64_C(0xff51afd7ed558ccd);

	return h ^ (h >> 32);
}

struct link {
	struct link *next, *prev;
};
#define OWNER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void link_init(struct link *l)
{
	l->next = l->prev = l;
}
static inline bool link_alone(const struct link *l) /* an empty head, or an element of no ring */
{
	return l->next == l || !l->next;
}
static inline void link_remove(struct link *l)
{
	if (!l->next)
		return;
	l->next->prev = l->prev;
	l->prev->next = l->next;
	link_init(l);
}
static inline void link_append(struct link *head, struct link *l) /* at the end */
{
	link_remove(l);
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}
static inline void link_prepend(struct link *head, struct link *l)
{
	link_append(head->next, l);
}
