/* SPDX-License-Identifier: ISC */
/*
 * The hash table of cache, questions and walks, and SipHash-2-4 (Aumasson and Bernstein, 2012). It
 * doubles when there are as many nodes as buckets; it never shrinks, since its owners are bounded.
 */
#include "resolver/table.h"
#include <stdlib.h>
#include <string.h>

enum { TABLE_START = 64 };

static uint64_t little64(const uint8_t *p)
{
	uint64_t v = 0;
	for (int i = 7; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

static uint64_t rotate(uint64_t v, unsigned n)
{
	return v << n | v >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[0] = rotate(v[0], 32);
	v[2] += v[3];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	sip_round(v);
	sip_round(v);
	v[0] ^= word;
}

uint64_t siphash(const uint8_t key[16], const void *bytes, size_t n)
{
	const uint8_t *p = bytes;
	uint64_t k0 = little64(key), k1 = little64(key + 8);
	uint64_t v[4] = {k0 ^ 0x736f6d6570736575U, k1 ^ 0x646f72616e646f6dU,
	    k0 ^ 0x6c7967656e657261U, k1 ^ 0x7465646279746573U};
	uint64_t last = (uint64_t)n << 56;
	for (; n >= 8; n -= 8, p += 8)
		sip_word(v, little64(p));
	for (size_t i = 0; i < n; i++)
		last |= (uint64_t)p[i] << (8 * i);
	sip_word(v, last);
	v[2] ^= 0xff;
	for (int i = 0; i < 4; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t hash_of(const struct table *t, const char *name, uint16_t type)
{
	return siphash(t->key, name, strlen(name)) ^ ((uint64_t)type * 0x9e3779b97f4a7c15U);
}

void table_init(struct table *t, const uint8_t key[16])
{
	*t = (struct table){.mask = TABLE_START - 1};
	t->buckets = xcalloc(TABLE_START, sizeof(struct table_node *));
	memcpy(t->key, key, sizeof(t->key));
}

void table_fini(struct table *t)
{
	free(t->buckets);
	*t = (struct table){0};
}

struct table_node *table_find(const struct table *t, const char *name, uint16_t type)
{
	uint64_t hash = hash_of(t, name, type);
	struct table_node *node = t->buckets[hash & t->mask];
	while (node != NULL &&
	       (node->hash != hash || node->type != type || strcmp(node->name, name) != 0))
		node = node->next;
	return node;
}

static void table_grow(struct table *t)
{
	size_t old = t->mask + 1, size = old * 2;
	struct table_node **buckets = xcalloc(size, sizeof(struct table_node *));
	for (size_t i = 0; i < old; i++) {
		struct table_node *node = t->buckets[i], *next;
		for (; node != NULL; node = next) {
			next = node->next;
			node->next = buckets[node->hash & (size - 1)];
			buckets[node->hash & (size - 1)] = node;
		}
	}
	free(t->buckets);
	t->buckets = buckets;
	t->mask = size - 1;
}

void table_insert(struct table *t, struct table_node *node)
{
	if (t->count > t->mask)
		table_grow(t);
	node->hash = hash_of(t, node->name, node->type);
	struct table_node **bucket = &t->buckets[node->hash & t->mask];
	node->next = *bucket;
	*bucket = node;
	t->count++;
}

void table_remove(struct table *t, struct table_node *node)
{
	struct table_node **at = &t->buckets[node->hash & t->mask];
	while (*at != NULL && *at != node)
		at = &(*at)->next;
	must(*at == node);
	*at = node->next;
	node->next = NULL;
	t->count--;
}
