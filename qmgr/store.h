/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "qmgr/row.h"
#include <stdint.h>
/*
 * The index: LMDB, which no other file includes. Rows are bytes here; row.h knows what stands in
 * them. After recovery only the commit thread calls store_apply(); nothing else touches the
 * environment.
 */
enum store_table {
	STORE_META,
	STORE_SEGMENT,
	STORE_RCPT,
	STORE_BOUNCE,
	STORE_ASIDE,
	STORE_STATE,
	STORE_TABLES
};

/* A list of changes, in order. Later ones about the same key win. */
struct store_ops {
	struct buf b;
	size_t count;	/* not yet applied */
	size_t applied; /* bytes of b that are committed */
};
void store_ops_init(struct store_ops *ops);
void store_ops_fini(struct store_ops *ops);
void store_ops_put(
    struct store_ops *ops, enum store_table table, const struct row_key *key, struct str value);
/* Begins a put whose value the caller appends to ops->b; then calls store_ops_put_end(). */
size_t store_ops_put_begin(
    struct store_ops *ops, enum store_table table, const struct row_key *key);
void store_ops_put_end(struct store_ops *ops, size_t begin);
void store_ops_delete(struct store_ops *ops, enum store_table table, const struct row_key *key);
/* Appends `more` (emptied) to what is left of `ops`, keeps only the last change of each key, and
 * puts deletions first: they make room. The meta table's changes stay last. */
void store_ops_merge(struct store_ops *ops, struct store_ops *more);

struct store_room {
	uint64_t used_pages, map_pages;
};
struct store;
/* 0; -ENOENT: there is none and `create` is not set; else why is filled: the index is damaged. */
int store_open(struct store **store, const char *path, uint64_t map_bytes, bool create,
    char why[300]) MUST_USE;
void store_close(struct store **store);
/* Commits in transactions of at most STORE_TXN_OPS. 0: all is committed and synced. -EOVERFLOW: the
 * map is full (what could not be applied stays in ops). Other errors: the file system's; also to be
 * retried. */
enum { STORE_TXN_OPS = 5000 }; /* larger ones spill dirty pages and hold the next commit up */
int store_apply(struct store *store, struct store_ops *ops, struct store_room *room) MUST_USE;

/* Reads at most max rows from *from on (empty: the first), in one read transaction, and sets *from
 * behind the last. Returns how many, 0 at the end, or -errno. */
typedef void store_row_fn(void *ctx, struct str key, struct str value);
int store_scan(struct store *store, enum store_table table, struct row_key *from, unsigned max,
    store_row_fn *fn, void *ctx) MUST_USE;
/* Copies one value into out: 0, -ENOENT or -errno. */
int store_get(struct store *store, enum store_table table, const struct row_key *key,
    struct buf *out) MUST_USE;
void store_forget_pages(struct store *store); /* gives the map's resident pages back after a scan */
