/* SPDX-License-Identifier: ISC */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* A hash table from a 64-bit number to a pointer. Linear probing, at most half full; NULL is no
 * value. */
struct map {
	struct map_slot *slots; /* owned */
	size_t cap, n;
};
void map_fini(struct map *m); /* a zeroed struct is an empty map */
void *map_find(const struct map *m, uint64_t key);
void map_set(struct map *m, uint64_t key, void *value); /* adds or replaces */
void *map_take(struct map *m, uint64_t key);		/* removes; NULL when it was not there */
/* Iteration: *at from 0; NULL at the end. Changing the map meanwhile is not allowed. */
void *map_next(const struct map *m, size_t *at);
