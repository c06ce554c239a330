/* SPDX-License-Identifier: ISC */
#include "master/master.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
/* After the four above, which it needs. */
#include <cmocka.h>

static struct blame_table table, again;

static void counts_and_comes_back_the_same(void **unused)
{
	struct buf text;
	(void)unused;
	table.count = 0;
	assert_int_equal(blame_add(&table, 7), 1);
	assert_int_equal(blame_add(&table, UINT64_MAX), 1);
	assert_int_equal(blame_add(&table, 7), 2);
	assert_int_equal(blame_add(&table, 7), BLAME_DEATHS_MAX);
	for (int i = 0; i < 1000; i++)
		blame_add(&table, 7);
	assert_int_equal(table.entries[0].deaths, UINT8_MAX); /* stays, does not wrap to 0 */
	buf_init(&text, 1048576);
	blame_print(&table, &text);
	assert_int_equal(blame_parse(&again, (struct str){(char *)text.p, text.n}), 0);
	assert_int_equal(again.count, 2);
	assert_memory_equal(again.entries, table.entries, 2 * sizeof(table.entries[0]));
	buf_fini(&text);
}

static void is_bounded_and_forgets_the_oldest(void **unused)
{
	struct buf text;
	(void)unused;
	table.count = 0;
	for (uint64_t id = 1; id <= BLAME_IDS_MAX + 10; id++)
		blame_add(&table, id);
	assert_int_equal(table.count, BLAME_IDS_MAX);
	assert_int_equal(table.entries[0].id, 11);
	buf_init(&text, 1048576);
	blame_print(&table, &text);
	assert_false(text.failed);
	assert_int_equal(blame_parse(&again, (struct str){(char *)text.p, text.n}), 0);
	assert_int_equal(again.count, BLAME_IDS_MAX);
	buf_cstr(&text, "0000000000000001 1\n"); /* one too many */
	assert_true(blame_parse(&again, (struct str){(char *)text.p, text.n}) < 0);
	assert_int_equal(again.count, 0);
	buf_fini(&text);
}

static void damage_is_refused_whole(void **unused)
{
	static const char *const bad[] = {
	    "",
	    "postern-poison 2\n",
	    "postern-poison 1\n0000000000000001\n",
	    "postern-poison 1\n0000000000000001 0\n",
	    "postern-poison 1\n0000000000000001 256\n",
	    "postern-poison 1\n0000000000000000 1\n",
	    "postern-poison 1\n0000000000000001 1 \n",
	    "postern-poison 1\n00000000000000001 1\n",
	    "postern-poison 1\n0000000000000001 1\nxyz\n",
	    "postern-poison 1\n\n",
	};
	(void)unused;
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		if (blame_parse(&again, str_of(bad[i])) == 0)
			fail_msg("taken: %s", bad[i]);
		assert_int_equal(again.count, 0);
	}
	assert_int_equal(blame_parse(&again, STR("postern-poison 1\n")), 0);
}

static void page_cannot_be_taken_away(void **unused)
{
	(void)unused;
	int fd = blame_page();
	assert_true(fd >= 0);
	assert_int_equal(blame_read(fd), 0);
	struct blame *page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(page, MAP_FAILED);
	page->message_id = 0x123456789abcdef0;
	assert_int_equal(blame_read(fd), 0x123456789abcdef0);
	assert_int_equal(
	    ftruncate(fd, 0), -1); /* or master's read would miss, a mapping would fault */
	assert_int_equal(ftruncate(fd, 1 << 20), -1);
	munmap(page, sizeof(*page));
	close(fd);
	assert_int_equal(blame_read(-1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(counts_and_comes_back_the_same),
	    cmocka_unit_test(is_bounded_and_forgets_the_oldest),
	    cmocka_unit_test(damage_is_refused_whole),
	    cmocka_unit_test(page_cannot_be_taken_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
