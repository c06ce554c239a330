/* SPDX-License-Identifier: ISC */
/*
 * The cache: table plus a list in order of use. Bounded in entries and in bytes, whichever comes
 * first; the newest entry always stays. Entries that are over are dropped when they are met, or
 * when they come to the end of the list. Nothing of it outlives the process: after a restart it is
 * asked again.
 */
#include "resolver/cache.h"
#include <stdlib.h>
#include <string.h>

struct entry {
	struct table_node node; /* first: the table gives it back */
	struct entry *newer, *older;
	struct answer *answer; /* a reference */
	int64_t until_ms;
	size_t bytes;
	char name[]; /* node.name */
};
struct cache {
	struct table table;
	struct entry *newest, *oldest;
	size_t entries_max, bytes_max, bytes;
};

struct cache *cache_new(size_t entries_max, size_t bytes_max, const uint8_t key[16])
{
	struct cache *c = xcalloc(1, sizeof(*c));
	table_init(&c->table, key);
	c->entries_max = entries_max;
	c->bytes_max = bytes_max;
	return c;
}

static void unlink_entry(struct cache *c, struct entry *e)
{
	*(e->newer != NULL ? &e->newer->older : &c->newest) = e->older;
	*(e->older != NULL ? &e->older->newer : &c->oldest) = e->newer;
}

static void link_newest(struct cache *c, struct entry *e)
{
	e->newer = NULL;
	e->older = c->newest;
	*(c->newest != NULL ? &c->newest->newer : &c->oldest) = e;
	c->newest = e;
}

static void drop(struct cache *c, struct entry *e)
{
	unlink_entry(c, e);
	table_remove(&c->table, &e->node);
	c->bytes -= e->bytes;
	answer_unref(&e->answer);
	free(e);
}

void cache_free(struct cache **cache)
{
	struct cache *c = *cache;
	*cache = NULL;
	if (c == NULL)
		return;
	while (c->newest != NULL)
		drop(c, c->newest);
	table_fini(&c->table);
	free(c);
}

static struct entry *find(const struct cache *c, const char *name, uint16_t type)
{
	return (struct entry *)(void *)table_find(&c->table, name, type);
}

struct answer *cache_find(
    struct cache *c, const char *name, uint16_t type, int64_t now_ms, uint32_t *ttl_s)
{
	struct entry *e = find(c, name, type);
	if (e == NULL)
		return NULL;
	if (e->until_ms <= now_ms) {
		drop(c, e);
		return NULL;
	}
	unlink_entry(c, e);
	link_newest(c, e);
	*ttl_s = (uint32_t)((e->until_ms - now_ms + 999) / 1000);
	return e->answer;
}

uint32_t cache_ttl(const struct answer *a)
{
	uint32_t ceiling = CACHE_NEGATIVE_CEILING_S;
	if (a->status == ANSWER_FAILED)
		return CACHE_FAILED_S;
	if (a->status == ANSWER_OK || a->status == ANSWER_ALIAS)
		ceiling = CACHE_TTL_CEILING_S;
	if (a->ttl_s < CACHE_TTL_FLOOR_S)
		return CACHE_TTL_FLOOR_S;
	return a->ttl_s > ceiling ? ceiling : a->ttl_s;
}

uint32_t cache_put(
    struct cache *c, const char *name, uint16_t type, struct answer *a, int64_t now_ms)
{
	struct entry *old = find(c, name, type);
	if (old != NULL)
		drop(c, old);
	size_t size = strlen(name) + 1;
	struct entry *e = xcalloc(1, sizeof(*e) + size);
	memcpy(e->name, name, size);
	e->node.name = e->name;
	e->node.type = type;
	e->answer = answer_ref(a);
	e->until_ms = now_ms + (int64_t)cache_ttl(a) * 1000;
	e->bytes = sizeof(*e) + size + answer_bytes(a);
	table_insert(&c->table, &e->node);
	link_newest(c, e);
	c->bytes += e->bytes;
	while (c->oldest != e && (c->table.count > c->entries_max || c->bytes > c->bytes_max))
		drop(c, c->oldest);
	return cache_ttl(a);
}

static size_t flush_name(struct cache *c, const char *name)
{
	static const uint16_t types[] = {RR_A, RR_AAAA, RR_MX};
	size_t dropped = 0;
	for (size_t i = 0; i < COUNT_OF(types); i++) {
		struct entry *e = find(c, name, types[i]);
		if (e != NULL) {
			drop(c, e);
			dropped++;
		}
	}
	return dropped;
}

size_t cache_flush(struct cache *c, const char *name)
{
	size_t dropped = 0;
	if (name == NULL) {
		for (; c->newest != NULL; dropped++)
			drop(c, c->newest);
		return dropped;
	}
	struct entry *e = find(c, name, RR_MX);
	struct answer *mx = e != NULL ? answer_ref(e->answer) : NULL;
	for (size_t i = 0; mx != NULL && mx->mx != NULL && i < mx->count; i++)
		dropped += flush_name(c, mx->mx[i].name);
	dropped += flush_name(c, name);
	answer_unref(&mx);
	return dropped;
}

size_t cache_count(const struct cache *c)
{
	return c->table.count;
}

size_t cache_used_bytes(const struct cache *c)
{
	return c->bytes;
}
