/* SPDX-License-Identifier: ISC */
/* Open addressing without tombstones: a removal moves the rest of its run back. */
#include "qmgr/map.h"
#include "common/check.h"
#include <stdlib.h>

enum { FIRST_CAP = 64 };

struct map_slot {
	uint64_t key;
	void *value;
};

static size_t home(const struct map *m, uint64_t key)
{
	key *= 0x9e3779b97f4a7c15U; /* ids rise by one: spread them */
	return (size_t)(key >> 17) & (m->cap - 1);
}

void map_fini(struct map *m)
{
	free(m->slots);
	*m = (struct map){0};
}

static struct map_slot *slot(const struct map *m, uint64_t key)
{
	size_t i = home(m, key);
	while (m->slots[i].value != NULL && m->slots[i].key != key)
		i = (i + 1) & (m->cap - 1);
	return &m->slots[i];
}

void *map_find(const struct map *m, uint64_t key)
{
	return m->n == 0 ? NULL : slot(m, key)->value;
}

static void resize(struct map *m, size_t cap)
{
	struct map old = *m;
	m->cap = cap;
	m->slots = xcalloc(cap, sizeof(*m->slots));
	for (size_t i = 0; i < old.cap; i++)
		if (old.slots[i].value != NULL)
			*slot(m, old.slots[i].key) = old.slots[i];
	free(old.slots);
}

void map_set(struct map *m, uint64_t key, void *value)
{
	must(value != NULL);
	if ((m->n + 1) * 2 > m->cap)
		resize(m, m->cap ? m->cap * 2 : FIRST_CAP);
	struct map_slot *s = slot(m, key);
	if (s->value == NULL)
		m->n++;
	*s = (struct map_slot){key, value};
}

void *map_take(struct map *m, uint64_t key)
{
	if (m->n == 0)
		return NULL;
	struct map_slot *s = slot(m, key);
	void *value = s->value;
	if (value == NULL)
		return NULL;
	size_t hole = (size_t)(s - m->slots), mask = m->cap - 1;
	for (size_t i = (hole + 1) & mask; m->slots[i].value != NULL; i = (i + 1) & mask) {
		size_t from = home(m, m->slots[i].key);
		if (((i - from) & mask) >= ((i - hole) & mask)) {
			m->slots[hole] = m->slots[i];
			hole = i;
		}
	}
	m->slots[hole].value = NULL;
	m->n--;
	if (m->cap > FIRST_CAP && m->n < m->cap / 8)
		resize(m, m->cap / 2); /* a burst's memory is given back */
	return value;
}

void *map_next(const struct map *m, size_t *at)
{
	while (*at < m->cap)
		if (m->slots[(*at)++].value != NULL)
			return m->slots[*at - 1].value;
	return NULL;
}
