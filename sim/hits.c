/* SPDX-License-Identifier: ISC */
/*
 * smtp-out's part of rules: each failed reply is run through the lists that the grant names, by the
 * same code, and what matched is told to the core with the result that it belongs to. Replies
 * repeat a million times here, so what matched is remembered by text, lists and stage.
 */
#include "sim/impl.h"
#include <stdlib.h>

static void row_free(struct sim *s, struct match_row *row)
{
	table_remove(&s->matches, &row->node);
	free(row->key);
	free(row->objects);
	free(row);
}

void hits_fini(struct sim *s)
{
	struct node *n;

	while ((n = table_any(&s->matches)))
		row_free(s, OWNER(n, struct match_row, node));
}

static struct match_row *row_find(const struct sim *s, struct str key, uint64_t hash)
{
	for (struct node *n = table_first(&s->matches, hash); n; n = table_next(n)) {
		struct match_row *row = OWNER(n, struct match_row, node);

		if (str_eq((struct str){row->key, row->key_n}, key))
			return row;
	}
	return NULL;
}

/* Objects are the matcher's views: the row keeps copies. */
static void keep_objects(struct match_row *row)
{
	size_t n = 0, at = 0;

	for (size_t i = 0; i < row->count; i++)
		n += row->hits[i].object.n;
	row->objects = xmalloc(n + 1);
	for (size_t i = 0; i < row->count; i++) {
		struct str *o = &row->hits[i].object;

		if (o->n)
			memcpy(row->objects + at, o->p, o->n);
		o->p = row->objects + at;
		at += o->n;
	}
}

static struct match_row *row_make(struct sim *s, struct str key, uint64_t hash, const char *lists,
    struct str text, enum smtp_stage stage, bool own)
{
	struct match_row *row = xcalloc(1, sizeof(*row));
	char line[REPLY_TEXT_MAX + 1];
	size_t n = match_line(line, text);

	row->count = matcher_run(
	    s->matcher, str_of(lists), (struct str){line, n}, stage, own, row->hits, HITS_MAX);
	keep_objects(row);
	row->key = str_dup(key);
	row->key_n = key.n;
	table_add(&s->matches, &row->node, hash);
	return row;
}

void hits_match(struct sim *s, const char *lists, struct str text, enum smtp_stage stage, bool own,
    uint16_t ordinal)
{
	const struct match_row *row;
	struct str key;
	uint64_t hash;
	struct buf b;

	if (!lists[0])
		return;
	buf_init(&b, 2 * REPLY_TEXT_MAX + 65536);
	buf_u8(&b, (uint8_t)(stage << 1 | own));
	buf_cstr(&b, lists);
	buf_u8(&b, 0);
	buf_str(&b, text);
	key = (struct str){(const char *)b.p, b.n};
	hash = hash_bytes(1, key);
	row = row_find(s, key, hash);
	if (!row)
		row = row_make(s, key, hash, lists, text, stage, own);
	buf_fini(&b);
	if (s->hit_count + row->count > s->hit_cap) {
		s->hit_cap = 2 * (s->hit_count + row->count);
		s->hits = xrealloc(s->hits, s->hit_cap * sizeof(*s->hits));
	}
	for (size_t i = 0; i < row->count; i++) {
		s->hits[s->hit_count] = row->hits[i];
		s->hits[s->hit_count++].ordinal = ordinal;
	}
}

void hits_tell(struct sim *s)
{
	core_hits(s->core, s->hits, s->hit_count);
	s->hit_count = 0;
	if (s->matches.count >= SIM_MATCHES) /* not earlier: hits point into the rows */
		hits_fini(s);
}
