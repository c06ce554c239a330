/* SPDX-License-Identifier: ISC */
/* The index: rows' codec against damage, changes and their merging, a full map, a truncated file.
 */
#include "qmgr/store.h"
#include "common/record.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/postern-store-XXXXXX");
	return mkdtemp(dir) ? chdir(dir) : -1;
}

static int drop_dir(void **state)
{
	char command[128];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return chdir("/") || system(command);
}

static void put_row(struct store_ops *ops, uint64_t id, uint16_t rcpt, uint16_t attempts)
{
	struct row_key key = row_key_rcpt(id, rcpt);
	struct row_rcpt row = {.id = id,
	    .segment = 7,
	    .offset = 64,
	    .bytes = 4096,
	    .rcpt = rcpt,
	    .attempts = attempts,
	    .arrived_ms = 1000,
	    .due_ms = 2000,
	    .domain = STR("example.com"),
	    .vmta = STR("default"),
	    .tenant = STR(""),
	    .campaign = STR("news")};
	size_t at = store_ops_put_begin(ops, STORE_RCPT, &key);
	row_rcpt_encode(&ops->b, &row);
	store_ops_put_end(ops, at);
}

static void delete_row(struct store_ops *ops, uint64_t id, uint16_t rcpt)
{
	struct row_key key = row_key_rcpt(id, rcpt);
	store_ops_delete(ops, STORE_RCPT, &key);
}

/* A recipient's row as the first build wrote it, byte for byte. */
static void test_rows_of_the_first_build_are_read(void **state)
{
	struct row_key key = row_key_rcpt(7, 2);
	struct row_key meta_key = row_key_text(ROW_META_KEY);
	struct row_rcpt row;
	struct row_meta meta;
	struct buf b;
	(void)state;
	buf_init(&b, 4096);
	buf_put(&b, (const unsigned char[]){1, JOB_HELD, 0}, 3);
	buf_u16(&b, 3);
	buf_u64(&b, 9);
	buf_u64(&b, 64);
	buf_u32(&b, 4096);
	buf_u64(&b, 1000);
	buf_u64(&b, 2000);
	for (size_t i = 0; i < 4; i++)
		buf_str16(&b, STR("text"));
	buf_u32(&b, crc32c(crc32c(0, key.bytes, key.n), b.p, b.n));
	assert_int_equal(
	    0, row_rcpt_decode(row_key_str(&key), (struct str){(const char *)b.p, b.n}, &row));
	assert_true(row.id == 7 && row.rcpt == 2 && row.due_ms == 2000 && row.pool.n == 0);
	assert_true(str_eq(row.campaign, STR("text")));
	buf_reset(&b);
	buf_u8(&b, 1);
	for (uint64_t i = 1; i <= 4; i++)
		buf_u64(&b, i);
	buf_u32(&b, crc32c(crc32c(0, meta_key.bytes, meta_key.n), b.p, b.n));
	assert_int_equal(0, row_meta_decode((struct str){(const char *)b.p, b.n}, &meta));
	assert_true(meta.journal_pos == 1 && meta.commit_ms == 4 && !meta.clean);
	buf_fini(&b);
}

/* Reference values of SipHash-2-4: rows are found again by another build, too. */
static void test_names_of_states(void **state)
{
	static const unsigned char input[15] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
	struct buf b;
	struct row_state back, row = {.key = STR("mode a/v"), .value = STR("x")};
	struct row_key key = row_key_state(row.key), other = row_key_state(STR("mode b/v"));
	(void)state;
	assert_true(row_hash(0x0706050403020100U, 0x0f0e0d0c0b0a0908U,
			(struct str){(const char *)input, sizeof(input)}) == 0xa129ca6149be45e5U);
	buf_init(&b, 4096);
	row_state_encode(&b, &row);
	struct str value = {(const char *)b.p, b.n};
	assert_int_equal(0, row_state_decode(row_key_str(&key), value, &back));
	assert_true(str_eq(back.key, row.key) && str_eq(back.value, row.value));
	assert_int_equal(-EBADMSG, row_state_decode(row_key_str(&other), value, &back));
	for (size_t i = 0; i < b.n; i++) {
		b.p[i] ^= 4;
		assert_int_equal(-EBADMSG, row_state_decode(row_key_str(&key), value, &back));
		b.p[i] ^= 4;
	}
	buf_fini(&b);
}

struct seen {
	size_t n, bad;
	uint64_t last_id;
	uint16_t attempts;
};

static void see(void *ctx, struct str key, struct str value)
{
	struct seen *s = ctx;
	struct row_rcpt row;
	if (row_rcpt_decode(key, value, &row) != 0) {
		s->bad++;
		return;
	}
	assert_true(row.id >= s->last_id);
	s->last_id = row.id;
	s->attempts = row.attempts;
	s->n++;
}

static struct seen read_all(struct store *store)
{
	struct seen s = {0};
	struct row_key at = {0};
	int n;
	while ((n = store_scan(store, STORE_RCPT, &at, 100, see, &s)) > 0)
		continue;
	assert_int_equal(0, n);
	return s;
}

static struct store *open_store(uint64_t map)
{
	struct store *s = NULL;
	char why[300];
	assert_int_equal(0, store_open(&s, "index", map, true, why));
	return s;
}

static void apply(struct store *s, struct store_ops *ops, int want)
{
	struct store_room room = {0};
	assert_int_equal(want, store_apply(s, ops, &room));
}

static void test_rows_come_back_in_order(void **state)
{
	(void)state;
	struct store *s = open_store(64 << 20);
	struct store_ops ops;
	store_ops_init(&ops);
	for (uint64_t id = 12345; id > 0; id--)
		put_row(&ops, id, (uint16_t)(id % 3), 0);
	apply(s, &ops, 0);
	assert_int_equal(0, ops.count);
	store_close(&s);
	s = open_store(64 << 20);
	struct seen seen = read_all(s);
	assert_int_equal(12345, seen.n);
	assert_int_equal(12345, seen.last_id);
	store_ops_fini(&ops);
	store_close(&s);
}

static void test_merge_keeps_the_last_word(void **state)
{
	(void)state;
	struct store *s = open_store(64 << 20);
	struct store_ops a, b;
	store_ops_init(&a);
	store_ops_init(&b);
	put_row(&a, 1, 0, 1);
	put_row(&a, 2, 0, 1);
	delete_row(&a, 3, 0);
	delete_row(&b, 1, 0);
	put_row(&b, 2, 0, 9);
	put_row(&b, 4, 0, 1);
	store_ops_merge(&a, &b);
	assert_int_equal(4, a.count);
	assert_int_equal(0, b.count);
	apply(s, &a, 0);
	struct seen seen = read_all(s);
	assert_int_equal(2, seen.n);
	store_ops_fini(&a);
	store_ops_fini(&b);
	store_close(&s);
}

/* The life of a small map: fill it, be refused, delete, and go on. */
static void test_full_map_recovers_by_deleting(void **state)
{
	(void)state;
	struct store *s = open_store(2 << 20);
	struct store_ops ops, more;
	struct store_room room = {0};
	store_ops_init(&ops);
	store_ops_init(&more);
	uint64_t id = 0;
	int rc = 0;
	while (rc == 0) {
		for (int i = 0; i < 500; i++)
			put_row(&ops, ++id, 0, 0);
		rc = store_apply(s, &ops, &room);
	}
	assert_int_equal(-EOVERFLOW, rc);
	assert_true(ops.count > 0);
	struct seen full = read_all(s);
	assert_int_equal(id, full.n + ops.count);
	/* everything ends, also what never came in */
	for (uint64_t i = 1; i <= id; i++)
		delete_row(&more, i, 0);
	store_ops_merge(&ops, &more);
	put_row(&ops, id + 1, 0, 0);
	for (int i = 0; i < 5 && (rc = store_apply(s, &ops, &room)) != 0; i++)
		store_ops_merge(&ops, &more);
	assert_int_equal(0, rc);
	assert_int_equal(1, read_all(s).n);
	apply(s, &ops, 0);
	put_row(&more, id + 2, 0, 0);
	assert_int_equal(0, store_apply(s, &more, &room));
	put_row(&more, id + 3, 0, 0);
	assert_int_equal(0, store_apply(s, &more, &room));
	assert_true(room.used_pages < room.map_pages / 2);
	store_ops_fini(&ops);
	store_ops_fini(&more);
	store_close(&s);
}

/* The file cannot grow: an error, nothing half done, and all of it once it can. */
static void test_full_disk_is_retried(void **state)
{
	struct rlimit old, small;
	struct stat st;
	struct store_ops ops, none;
	struct store_room room = {0};
	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	struct store *s = open_store(64 << 20);
	store_ops_init(&ops);
	store_ops_init(&none);
	for (uint64_t id = 1; id <= 1000; id++)
		put_row(&ops, id, 0, 1);
	apply(s, &ops, 0);
	assert_int_equal(0, stat("index/data.mdb", &st));
	getrlimit(RLIMIT_FSIZE, &old);
	small = old;
	small.rlim_cur = (rlim_t)st.st_size + 4096;
	setrlimit(RLIMIT_FSIZE, &small);
	for (uint64_t id = 1; id <= 9000; id++)
		put_row(&ops, id, 0, 2);
	assert_int_not_equal(0, store_apply(s, &ops, &room));
	assert_true(ops.count > 0);
	assert_int_not_equal(0, store_apply(s, &ops, &room));
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(1000, read_all(s).n);
	store_ops_merge(&ops, &none);
	apply(s, &ops, 0);
	struct seen seen = read_all(s);
	assert_int_equal(9000, seen.n);
	assert_int_equal(2, seen.attempts);
	store_ops_fini(&ops);
	store_ops_fini(&none);
	store_close(&s);
}

static void test_truncated_file_is_refused(void **state)
{
	(void)state;
	struct store *s = open_store(16 << 20);
	struct store_ops ops;
	char why[300];
	store_ops_init(&ops);
	for (uint64_t id = 1; id < 5000; id++)
		put_row(&ops, id, 0, 0);
	apply(s, &ops, 0);
	store_close(&s);
	assert_int_equal(0, truncate("index/data.mdb", 40960));
	assert_int_not_equal(0, store_open(&s, "index", 16 << 20, false, why));
	assert_non_null(strstr(why, "truncated"));
	assert_int_equal(0, truncate("index/data.mdb", 100));
	assert_int_not_equal(0, store_open(&s, "index", 16 << 20, false, why));
	store_ops_fini(&ops);
}

static void test_missing_is_told(void **state)
{
	(void)state;
	struct store *s = NULL;
	char why[300];
	assert_int_equal(-ENOENT, store_open(&s, "index", 16 << 20, false, why));
	assert_null(s);
}

/* Every byte of a row, changed, is noticed. */
static void test_damaged_rows_do_not_decode(void **state)
{
	(void)state;
	struct store_ops ops;
	store_ops_init(&ops);
	put_row(&ops, 99, 3, 5);
	struct row_key key = row_key_rcpt(99, 3);
	size_t head = ops.b.n;
	struct buf value;
	struct row_rcpt row = {.id = 99,
	    .rcpt = 3,
	    .domain = STR("d"),
	    .vmta = STR("v"),
	    .tenant = STR("t"),
	    .campaign = STR("c")};
	buf_init(&value, 4096);
	row_rcpt_encode(&value, &row);
	assert_true(head > value.n);
	struct str s = {(const char *)value.p, value.n};
	assert_int_equal(0, row_rcpt_decode(row_key_str(&key), s, &row));
	for (size_t i = 0; i < value.n; i++)
		for (int bit = 0; bit < 8; bit++) {
			value.p[i] ^= (unsigned char)(1 << bit);
			assert_int_not_equal(0, row_rcpt_decode(row_key_str(&key), s, &row));
			value.p[i] ^= (unsigned char)(1 << bit);
		}
	for (size_t n = 0; n < value.n; n++)
		assert_int_not_equal(
		    0, row_rcpt_decode(row_key_str(&key), (struct str){s.p, n}, &row));
	key = row_key_rcpt(98, 3); /* a good value under another key */
	assert_int_not_equal(0, row_rcpt_decode(row_key_str(&key), s, &row));
	buf_fini(&value);
	store_ops_fini(&ops);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rows_of_the_first_build_are_read),
	    cmocka_unit_test(test_names_of_states),
	    cmocka_unit_test_setup_teardown(test_rows_come_back_in_order, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_merge_keeps_the_last_word, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_full_map_recovers_by_deleting, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_full_disk_is_retried, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_truncated_file_is_refused, make_dir, drop_dir),
	    cmocka_unit_test_setup_teardown(test_missing_is_told, make_dir, drop_dir),
	    cmocka_unit_test(test_damaged_rows_do_not_decode),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
