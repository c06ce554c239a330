/* SPDX-License-Identifier: ISC */
/*
 * LMDB 0.9.24 as an index, by rules from measurement: never WRITEMAP (a full disk is a SIGBUS),
 * never NOSYNC, no DUPSORT (its cursor deletes were repaired only in later releases); NOTLS, so
 * that read transactions belong to their caller; NORDAHEAD, since reads are by key. The map is
 * address space only.
 *
 * Invariants: at most one write transaction, of at most STORE_TXN_OPS changes; no read transaction
 * outlives the call that opened it (one forgotten reader grows the file by 15 MiB a commit). Sync
 * is on: when store_apply() says 0, the rows survive the power.
 *
 * When the map is full the transaction is dead with all its changes; they are applied again in
 * smaller pieces, down to one. Deletions need pages too, so puts stop while RESERVE pages are still
 * free. The caller merges what is left with newer changes, deletions first, and tries again.
 *
 * A commit that fails while LMDB writes its meta page leaves the environment in MDB_PANIC: it is
 * closed and opened again, and the changes are applied again: LMDB's last good meta page is what
 * counts.
 *
 * A crash at any line leaves the last committed transaction. A truncated file is found at opening,
 * by its length, before a page behind the end could be touched.
 */
#include "qmgr/store.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	OP_HEAD = 8,
	READERS_MAX = 8,	/* scans of this process only */
	RESERVE_SHARE = 16,	/* of the map is kept for deletions … */
	RESERVE_MIN_PAGES = 64, /* … at least this: some transactions' copies of a tree's paths */
	PAGES_A_PUT = 5,	/* depth of the tree, and a split */
	STOP_HERE = -1,		/* no code of LMDB's: commit what is done so far */
	OPS_MAX_BYTES = 1 << 30, /* bound of one batch: about 5 million rows */
};

static const char *const table_names[STORE_TABLES] = {"meta", "segment", "rcpt", "bounce", "aside", "state"};

struct store {
	MDB_env *env;
	MDB_dbi dbi[STORE_TABLES];
	char *path; /* owned */
	uint64_t map_bytes;
	uint64_t page_bytes;
	size_t piece;		 /* changes a transaction may have now */
	pthread_mutex_t opening; /* store_get() in the loop against reopen() in the commit thread */
};

/* --- lists of changes ---------------------------------------------------------------------------
 */

struct op {
	uint8_t put, table;
	uint16_t key_n;
	uint32_t value_n;
};
_Static_assert(sizeof(struct op) == OP_HEAD, "a change's head");

void store_ops_init(struct store_ops *ops)
{
	*ops = (struct store_ops){0};
	buf_init(&ops->b, OPS_MAX_BYTES);
}

void store_ops_fini(struct store_ops *ops)
{
	buf_fini(&ops->b);
	ops->count = ops->applied = 0;
}

static size_t op_begin(
    struct store_ops *ops, bool put, enum store_table table, const struct row_key *key)
{
	size_t begin = ops->b.n;
	struct op op = {.put = put, .table = (uint8_t)table, .key_n = (uint16_t)key->n};
	buf_put(&ops->b, &op, sizeof(op));
	buf_put(&ops->b, key->bytes, key->n);
	return begin;
}

static void op_end(struct store_ops *ops, size_t begin)
{
	struct op op;
	must(!ops->b.failed);
	memcpy(&op, ops->b.p + begin, sizeof(op));
	op.value_n = (uint32_t)(ops->b.n - begin - sizeof(op) - op.key_n);
	memcpy(ops->b.p + begin, &op, sizeof(op));
	ops->count++;
}

size_t store_ops_put_begin(struct store_ops *ops, enum store_table table, const struct row_key *key)
{
	return op_begin(ops, true, table, key);
}

void store_ops_put_end(struct store_ops *ops, size_t begin)
{
	op_end(ops, begin);
}

void store_ops_put(
    struct store_ops *ops, enum store_table table, const struct row_key *key, struct str value)
{
	size_t begin = op_begin(ops, true, table, key);
	buf_str(&ops->b, value);
	op_end(ops, begin);
}

void store_ops_delete(struct store_ops *ops, enum store_table table, const struct row_key *key)
{
	op_end(ops, op_begin(ops, false, table, key));
}

struct op_at {
	struct op op;
	const unsigned char *key; /* the value follows it */
	size_t order;
};

static size_t op_read(const struct buf *b, size_t at, struct op_at *out)
{
	memcpy(&out->op, b->p + at, sizeof(out->op));
	out->key = b->p + at + sizeof(out->op);
	out->order = at;
	return at + sizeof(out->op) + out->op.key_n + out->op.value_n;
}

static int by_key_then_order(const void *va, const void *vb)
{
	const struct op_at *a = va, *b = vb;
	if (a->op.table != b->op.table)
		return a->op.table < b->op.table ? -1 : 1;
	size_t n = a->op.key_n < b->op.key_n ? a->op.key_n : b->op.key_n;
	int c = memcmp(a->key, b->key, n);
	if (c != 0)
		return c;
	if (a->op.key_n != b->op.key_n)
		return a->op.key_n < b->op.key_n ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

static bool same_key(const struct op_at *a, const struct op_at *b)
{
	return a->op.table == b->op.table && a->op.key_n == b->op.key_n &&
	       memcmp(a->key, b->key, a->op.key_n) == 0;
}

/* Deletions, then puts, then the meta table: it says what the others contain. */
static int rank(const struct op_at *a)
{
	return a->op.table == STORE_META ? 2 : a->op.put;
}

void store_ops_merge(struct store_ops *ops, struct store_ops *more)
{
	buf_put(&ops->b, more->b.p + more->applied, more->b.n - more->applied);
	must(!ops->b.failed);
	ops->count += more->count;
	buf_reset(&more->b);
	more->count = more->applied = 0;

	struct op_at *all = xcalloc(ops->count + 1, sizeof(*all));
	size_t n = 0;
	for (size_t at = ops->applied; at < ops->b.n;)
		at = op_read(&ops->b, at, &all[n++]);
	must(n == ops->count);
	qsort(all, n, sizeof(*all), by_key_then_order);
	struct store_ops merged;
	store_ops_init(&merged);
	for (int pass = 0; pass <= 2; pass++)
		for (size_t i = 0; i < n; i++) {
			if ((i + 1 < n && same_key(&all[i], &all[i + 1])) || rank(&all[i]) != pass)
				continue;
			buf_put(&merged.b, &all[i].op, sizeof(all[i].op));
			buf_put(&merged.b, all[i].key, (size_t)all[i].op.key_n + all[i].op.value_n);
			merged.count++;
		}
	free(all);
	must(!merged.b.failed);
	store_ops_fini(ops);
	*ops = merged;
}

/* --- opening ------------------------------------------------------------------------------------
 */

static int code_of(int rc)
{
	if (rc == 0)
		return 0;
	if (rc == MDB_MAP_FULL || rc == MDB_TXN_FULL)
		return -EOVERFLOW;
	return rc > 0 ? -rc : -EIO; /* LMDB's own codes are negative */
}

static int open_tables(struct store *s)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
	for (int i = 0; rc == 0 && i < STORE_TABLES; i++)
		rc = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &s->dbi[i]);
	if (rc != 0) {
		mdb_txn_abort(txn);
		return rc;
	}
	return mdb_txn_commit(txn);
}

/* The file must reach to the last page in use: a page behind its end would be a SIGBUS. */
static bool is_whole(struct store *s)
{
	MDB_envinfo info;
	struct stat st;
	int fd;
	if (mdb_env_info(s->env, &info) != 0 || mdb_env_get_fd(s->env, &fd) != 0 ||
	    fstat(fd, &st) != 0)
		return false;
	return (uint64_t)st.st_size >= (info.me_last_pgno + 1) * s->page_bytes;
}

static int open_env(struct store *s, char why[300])
{
	int rc = mdb_env_create(&s->env);
	if (rc == 0)
		rc = mdb_env_set_maxdbs(s->env, STORE_TABLES);
	if (rc == 0)
		rc = mdb_env_set_maxreaders(s->env, READERS_MAX);
	if (rc == 0)
		rc = mdb_env_set_mapsize(s->env, s->map_bytes);
	if (rc == 0)
		rc = mdb_env_open(s->env, s->path, MDB_NOTLS | MDB_NORDAHEAD, 0600);
	MDB_stat stat;
	if (rc == 0)
		rc = mdb_env_stat(s->env, &stat);
	if (rc == 0) {
		s->page_bytes = stat.ms_psize;
		int dead;
		mdb_reader_check(s->env, &dead);
		if (!is_whole(s)) {
			snprintf(why, 300,
			    "the index %s is shorter than its pages: it was truncated", s->path);
			return -EBADMSG;
		}
		rc = open_tables(s);
	}
	if (rc != 0)
		snprintf(why, 300, "the index %s cannot be opened: %s", s->path, mdb_strerror(rc));
	return code_of(rc);
}

int store_open(
    struct store **store, const char *path, uint64_t map_bytes, bool create, char why[300])
{
	char file[256];
	struct stat st;
	snprintf(file, sizeof(file), "%s/data.mdb", path);
	if (stat(file, &st) != 0 && !create) {
		snprintf(why, 300, "there is no index %s", path);
		return -ENOENT;
	}
	if (mkdir(path, 0700) != 0 && errno != EEXIST) {
		snprintf(why, 300, "cannot make the directory %s: %s", path, strerror(errno));
		return -errno;
	}
	struct store *s = xcalloc(1, sizeof(*s));
	long page = sysconf(_SC_PAGESIZE);
	s->path = xstrdup(path);
	s->map_bytes = map_bytes / (uint64_t)page * (uint64_t)page;
	s->piece = STORE_TXN_OPS;
	must(pthread_mutex_init(&s->opening, NULL) == 0);
	int rc = open_env(s, why);
	if (rc != 0)
		store_close(&s);
	*store = s;
	return rc;
}

void store_close(struct store **store)
{
	struct store *s = *store;
	if (s == NULL)
		return;
	*store = NULL;
	if (s->env != NULL)
		mdb_env_close(s->env);
	pthread_mutex_destroy(&s->opening);
	free(s->path);
	free(s);
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* Pages that the free list names. LMDB lets only a reader look at it (its own table, number 0). */
static uint64_t free_pages(struct store *s)
{
	MDB_txn *txn;
	MDB_cursor *cursor;
	MDB_val key, value;
	uint64_t n = 0;
	if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) != 0)
		return 0;
	if (mdb_cursor_open(txn, 0, &cursor) == 0) {
		while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
			size_t count;
			memcpy(&count, value.mv_data, sizeof(count));
			n += count;
		}
		mdb_cursor_close(cursor);
	}
	mdb_txn_abort(txn);
	return n;
}

/* The free list is read only where it matters: near the end of the map. */
static void measure(struct store *s, struct store_room *room)
{
	MDB_envinfo info;
	room->map_pages = s->map_bytes / s->page_bytes;
	if (mdb_env_info(s->env, &info) != 0)
		return;
	room->used_pages = info.me_last_pgno + 1;
	if (room->used_pages > room->map_pages / 4 * 3)
		room->used_pages -= free_pages(s);
}

/* How many puts a transaction may have: each copies the path to its leaf, and none may eat the
 * reserve. */
static size_t puts_that_fit(const struct store_room *room)
{
	uint64_t reserve = room->map_pages / RESERVE_SHARE;
	if (reserve < RESERVE_MIN_PAGES)
		reserve = RESERVE_MIN_PAGES;
	if (room->used_pages + reserve >= room->map_pages)
		return 0;
	return (size_t)((room->map_pages - room->used_pages - reserve) / PAGES_A_PUT) + 1;
}

static int apply_one(struct store *s, MDB_txn *txn, const struct op_at *at)
{
	union {
		const unsigned char *in;
		void *out; /* LMDB's struct has no const */
	} key = {.in = at->key}, value = {.in = at->key + at->op.key_n};
	MDB_val k = {at->op.key_n, key.out}, v = {at->op.value_n, value.out};
	if (at->op.put)
		return mdb_put(txn, s->dbi[at->op.table], &k, &v, 0);
	int rc = mdb_del(txn, s->dbi[at->op.table], &k, NULL);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* One transaction of at most s->piece changes. 0 and *end, or LMDB's code. */
static int apply_piece(struct store *s, const struct store_ops *ops, size_t *end, size_t *done,
    struct store_room *room)
{
	MDB_txn *txn;
	measure(s, room);
	int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
	if (rc != 0)
		return rc;
	size_t puts = puts_that_fit(room), at = ops->applied, n = 0;
	while (rc == 0 && n < s->piece && at < ops->b.n) {
		struct op_at op;
		size_t next = op_read(&ops->b, at, &op);
		/* The meta row replaces one of its size: it may use the reserve. */
		if (op.op.put && op.op.table != STORE_META && puts == 0)
			rc = n > 0 ? STOP_HERE : MDB_MAP_FULL;
		else
			rc = apply_one(s, txn, &op);
		puts -= op.op.put && puts > 0;
		if (rc == 0) {
			at = next;
			n++;
		}
	}
	if (rc != 0 && rc != STOP_HERE) {
		mdb_txn_abort(txn);
		return rc;
	}
	rc = mdb_txn_commit(txn);
	*end = at;
	*done = n;
	return rc;
}

static void reopen_locked(struct store *s)
{
	char why[300];
	if (s->env != NULL)
		mdb_env_close(s->env);
	s->env = NULL;
	if (open_env(s, why) == 0)
		return;
	log_error("%s", why);
	if (s->env != NULL)
		mdb_env_close(s->env);
	s->env = NULL;
}

static void reopen(struct store *s)
{
	pthread_mutex_lock(&s->opening);
	reopen_locked(s);
	pthread_mutex_unlock(&s->opening);
}

int store_apply(struct store *s, struct store_ops *ops, struct store_room *room)
{
	while (ops->applied < ops->b.n) {
		size_t end = 0, done = 0;
		if (s->env == NULL)
			reopen(s);
		int rc = s->env == NULL ? EIO : apply_piece(s, ops, &end, &done, room);
		if (rc == 0) {
			ops->applied = end;
			ops->count -= done;
			s->piece = s->piece * 2 < STORE_TXN_OPS ? s->piece * 2 : STORE_TXN_OPS;
			continue;
		}
		if (rc == MDB_PANIC)
			reopen(s);
		if (code_of(rc) != -EOVERFLOW || s->piece == 1) {
			s->piece = s->piece > 8 ? s->piece / 8 : 1;
			return code_of(rc);
		}
		s->piece = s->piece > 8 ? s->piece / 8 : 1;
	}
	return 0;
}

/* --- reading ------------------------------------------------------------------------------------
 */

static struct str str_of_val(const MDB_val *v)
{
	return (struct str){v->mv_data, v->mv_size};
}

static void key_after(struct row_key *key, struct str last)
{
	key->n = last.n < sizeof(key->bytes) ? last.n : sizeof(key->bytes);
	memcpy(key->bytes, last.p, key->n);
	if (key->n < sizeof(key->bytes))
		key->bytes[key->n++] = 0; /* the smallest key behind it */
}

static int scan(struct store *s, MDB_txn *txn, enum store_table table, struct row_key *from,
    unsigned max, store_row_fn *fn, void *ctx)
{
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, s->dbi[table], &cursor);
	if (rc != 0)
		return code_of(rc);
	MDB_val key = {from->n, from->bytes}, value;
	rc = mdb_cursor_get(cursor, &key, &value, from->n > 0 ? MDB_SET_RANGE : MDB_FIRST);
	unsigned n = 0;
	while (rc == 0) {
		fn(ctx, str_of_val(&key), str_of_val(&value));
		if (++n == max)
			break;
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	if (rc == 0)
		key_after(from, str_of_val(&key));
	mdb_cursor_close(cursor);
	return rc != 0 && rc != MDB_NOTFOUND ? code_of(rc) : (int)n;
}

int store_scan(struct store *s, enum store_table table, struct row_key *from, unsigned max,
    store_row_fn *fn, void *ctx)
{
	MDB_txn *txn;
	struct row_key next = *from;
	int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
	if (rc != 0)
		return code_of(rc);
	int n = scan(s, txn, table, &next, max, fn, ctx);
	mdb_txn_abort(txn);
	if (n > 0 && (unsigned)n < max) { /* the end: the next call finds nothing */
		memset(next.bytes, 0xff, sizeof(next.bytes));
		next.n = sizeof(next.bytes);
	}
	*from = next;
	return n;
}

static int get(struct store *s, enum store_table table, const struct row_key *key, struct buf *out)
{
	MDB_txn *txn;
	int rc = s->env == NULL ? EIO : mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
	if (rc != 0)
		return code_of(rc);
	struct row_key copy = *key;
	MDB_val k = {copy.n, copy.bytes}, v;
	rc = mdb_get(txn, s->dbi[table], &k, &v);
	if (rc == 0)
		buf_put(out, v.mv_data, v.mv_size);
	mdb_txn_abort(txn);
	return rc == MDB_NOTFOUND ? -ENOENT : code_of(rc);
}

int store_get(struct store *s, enum store_table table, const struct row_key *key, struct buf *out)
{
	pthread_mutex_lock(&s->opening);
	int rc = get(s, table, key, out);
	pthread_mutex_unlock(&s->opening);
	return rc;
}

void store_forget_pages(struct store *s)
{
	MDB_envinfo info;
	if (mdb_env_info(s->env, &info) == 0 && info.me_mapaddr != NULL)
		madvise(info.me_mapaddr, info.me_mapsize, MADV_DONTNEED);
}
