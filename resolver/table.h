/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include <stddef.h>
#include <stdint.h>
/*
 * A hash table over (name, type), with nodes that sit at the front of their owners. The hash is
 * keyed (SipHash-2-4), so that nobody can choose domains that all fall into one bucket.
 */
struct table_node {
	struct table_node *next;
	uint64_t hash;
	const char *name; /* the owner's, lower case */
	uint16_t type;
};
struct table {
	struct table_node **buckets; /* owned */
	size_t mask;		     /* buckets - 1 */
	size_t count;
	uint8_t key[16];
};
void table_init(struct table *t, const uint8_t key[16]);
void table_fini(struct table *t); /* the nodes are their owners' */
struct table_node *table_find(const struct table *t, const char *name, uint16_t type);
/* name and type are set; nothing equal is in there. */
void table_insert(struct table *t, struct table_node *node);
void table_remove(struct table *t, struct table_node *node);
uint64_t siphash(const uint8_t key[16], const void *p, size_t n);
