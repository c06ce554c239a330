/* SPDX-License-Identifier: ISC */
/*
 * Every row of the table, made by the preprocessor from the table itself: random values go through
 * encode, decode and encode again, and give the same bytes; every truncation of a frame, a trailing
 * byte, and each bound passed by one is refused. A new row is tested from the moment it is written.
 */
#include "common/msg.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { HEADER = 6, ROUNDS = 30 };

static uint64_t seed = 88172645463325252;

static uint64_t random_u64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Lengths near both ends, and sometimes exactly the bound. */
static size_t random_length(size_t max)
{
	switch (random_u64() % 8) {
	case 0:
		return 0;
	case 1:
		return max <= 4096 || random_u64() % 8 == 0 ? max : 4096;
	default:
		return random_u64() % ((max < 60 ? max : 60) + 1);
	}
}

static struct str random_bytes(size_t max)
{
	size_t n = random_length(max);
	char *p = xmalloc(n + 1);
	for (size_t i = 0; i < n; i++)
		p[i] = (char)random_u64();
	return (struct str){p, n};
}

static struct str random_text(size_t max)
{
	struct str s = random_bytes(max);
	char *p = (char *)(uintptr_t)s.p;
	for (size_t i = 0; i < s.n; i++)
		if (p[i] == '\0' || p[i] == '\r' || p[i] == '\n')
			p[i] = 'x';
	return s;
}

static void free_str(struct str s)
{
	free((char *)(uintptr_t)s.p);
}

static struct str body_of(const struct buf *b)
{
	return (struct str){(const char *)b->p + HEADER, b->n - HEADER};
}

static void check_header(const struct buf *b, enum msg_type type)
{
	struct rd r = rd_of(b->p, b->n);
	assert_int_equal(rd_u32(&r), b->n - 4);
	assert_int_equal(rd_u16(&r), type);
	assert_false(r.bad);
}

static void same_bytes(const struct buf *a, const struct buf *b)
{
	assert_int_equal(a->n, b->n);
	assert_memory_equal(a->p, b->p, a->n);
}

#define MSG(ID, name, from, to)                                                                    \
	static void fill_##name(struct msg_##name *m)                                              \
	{                                                                                          \
		(void)m;
#define F_U8(f) m->f = (uint8_t)random_u64();
#define F_U16(f) m->f = (uint16_t)random_u64();
#define F_U32(f) m->f = (uint32_t)random_u64();
#define F_U64(f) m->f = random_u64();
#define F_STR(f, max) m->f = random_text(max);
#define F_BYTES(f, max) m->f = random_bytes(max);
#define F_FD(f) m->f = 7;
#define END(name) }
#include "common/msg.def"
#include "common/msg_undef.h"

#define MSG(ID, name, from, to)                                                                    \
	static void drop_##name(struct msg_##name *m)                                              \
	{                                                                                          \
		(void)m;
#define F_U8(f)
#define F_U16(f)
#define F_U32(f)
#define F_U64(f)
#define F_STR(f, max) free_str(m->f);
#define F_BYTES(f, max) free_str(m->f);
#define F_FD(f)
#define END(name) }
#include "common/msg.def"
#include "common/msg_undef.h"

#include "common/msg_ignore_fields.h"
#define MSG(ID, name, from, to)                                                                    \
	static void refuses_cut_##name(struct str body)                                            \
	{                                                                                          \
		struct msg_##name m;                                                               \
		for (size_t n = 0; n < body.n;                                                     \
		     n = n < 600 || n + 600 > body.n ? n + 1 : n + 511) {                          \
			char *exact =                                                              \
			    xmalloc(n); /* so that valgrind and ASan see a byte too many */        \
			memcpy(exact, body.p, n);                                                  \
			assert_int_equal(msg_decode_##name((struct str){exact, n}, &m), -EBADMSG); \
			free(exact);                                                               \
		}                                                                                  \
		char *longer = xcalloc(1, body.n + 1);                                             \
		memcpy(longer, body.p, body.n);                                                    \
		assert_int_equal(                                                                  \
		    msg_decode_##name((struct str){longer, body.n + 1}, &m), -EBADMSG);            \
		free(longer);                                                                      \
	}                                                                                          \
	static void row_##name(void **state)                                                       \
	{                                                                                          \
		(void)state;                                                                       \
		for (int i = 0; i < ROUNDS; i++) {                                                 \
			struct msg_##name m = {0}, back;                                           \
			struct buf first, again;                                                   \
			buf_init(&first, 4 + MSG_FRAME_MAX);                                       \
			buf_init(&again, 4 + MSG_FRAME_MAX);                                       \
			fill_##name(&m);                                                           \
			msg_encode_##name(&first, &m);                                             \
			assert_false(first.failed);                                                \
			check_header(&first, MSG_##ID);                                            \
			assert_int_equal(msg_decode_##name(body_of(&first), &back), 0);            \
			int *fd = msg_fd_##name(&back);                                            \
			assert_int_equal(fd != NULL, msg_has_fd(MSG_##ID));                        \
			assert_true(fd == NULL || *fd == -1);                                      \
			msg_encode_##name(&again, &back);                                          \
			same_bytes(&first, &again);                                                \
			if (i < 5)                                                                 \
				refuses_cut_##name(body_of(&first));                               \
			drop_##name(&m);                                                           \
			buf_fini(&first);                                                          \
			buf_fini(&again);                                                          \
		}                                                                                  \
	}
#include "common/msg.def"
#include "common/msg_undef.h"

/* --- bounds --- */

static void text_is_cut_and_cleaned_on_the_way_out(void **state)
{
	struct msg_config_ready m = {.ok = 1}, back;
	char why[600];
	struct buf b;
	(void)state;
	memset(why, 'w', sizeof(why));
	why[0] = '\0';
	why[1] = '\r';
	why[2] = '\n';
	m.why = (struct str){why, sizeof(why)};
	buf_init(&b, 4096);
	msg_encode_config_ready(&b, &m);
	assert_int_equal(msg_decode_config_ready(body_of(&b), &back), 0);
	assert_int_equal(back.why.n, 500);
	assert_memory_equal(back.why.p, "???www", 6);
	buf_fini(&b);
}

static int decode_why(size_t length, size_t at, char c)
{
	struct msg_config_ready back;
	char why[600];
	struct buf b;
	memset(why, 'w', sizeof(why));
	why[at] = c;
	buf_init(&b, 4096);
	buf_u32(&b, 1);
	buf_u8(&b, 0);
	buf_str16(&b, (struct str){why, length});
	int rc = msg_decode_config_ready((struct str){(char *)b.p, b.n}, &back);
	buf_fini(&b);
	return rc;
}

static void text_is_refused_on_the_way_in(void **state)
{
	(void)state;
	assert_int_equal(decode_why(500, 0, 'w'), 0);
	assert_int_equal(decode_why(501, 0, 'w'), -EBADMSG);
	assert_int_equal(decode_why(500, 499, '\0'), -EBADMSG);
	assert_int_equal(decode_why(500, 250, '\r'), -EBADMSG);
	assert_int_equal(decode_why(500, 0, '\n'), -EBADMSG);
	assert_int_equal(decode_why(500, 0, '\xff'), 0);
}

static int decode_head(size_t length)
{
	struct msg_accepted back;
	char head[200] = {0};
	struct buf b;
	buf_init(&b, 4096);
	for (int i = 0; i < 3; i++)
		buf_u64(&b, 1);
	buf_str32(&b, (struct str){head, length});
	buf_str32(&b, STR("envelope"));
	int rc = msg_decode_accepted((struct str){(char *)b.p, b.n}, &back);
	buf_fini(&b);
	return rc;
}

static void bytes_above_their_bound_are_refused(void **state)
{
	(void)state;
	assert_int_equal(decode_head(128), 0);
	assert_int_equal(decode_head(129), -EBADMSG);
}

static void a_frame_is_whole_or_not_there(void **state)
{
	struct buf b;
	(void)state;
	buf_init(&b, 30);
	msg_encode_ping(&b, &(struct msg_ping){.sequence = 1});
	msg_encode_ping(&b, &(struct msg_ping){.sequence = 2});
	assert_int_equal(b.n, 28);
	assert_false(b.failed);
	msg_encode_ping(&b, &(struct msg_ping){.sequence = 3});
	assert_int_equal(b.n, 28);
	assert_true(b.failed);
	buf_fini(&b);
}

/* --- facts --- */

static void knows_its_rows(void **state)
{
	(void)state;
	assert_string_equal(msg_name(MSG_ACCEPTED), "accepted");
	assert_string_equal(msg_name(MSG_NONE), "unknown");
	assert_string_equal(msg_name(MSG_TYPE_COUNT), "unknown");
	assert_string_equal(msg_name((enum msg_type)65535), "unknown");
	assert_true(msg_has_fd(MSG_PEER));
	assert_false(msg_has_fd(MSG_PING));
	assert_int_equal(msg_sender_roles(MSG_ACCEPTED), ROLE_writer);
	assert_int_equal(msg_receiver_roles(MSG_ACCEPTED), ROLE_qmgr);
	assert_int_equal(msg_sender_roles((enum msg_type)65535), 0);
	assert_int_equal(msg_receiver_roles(MSG_NONE), 0);
	for (int type = MSG_NONE + 1; type < MSG_TYPE_COUNT; type++) {
		assert_true(msg_sender_roles((enum msg_type)type) != 0);
		assert_true(msg_receiver_roles((enum msg_type)type) != 0);
	}
	assert_true(msg_fingerprint() == msg_fingerprint());
	assert_true(msg_fingerprint() != 0);
}

static void takes_a_descriptor_once(void **state)
{
	int fd = 5;
	(void)state;
	assert_int_equal(msg_take_fd(&fd), 5);
	assert_int_equal(fd, -1);
	assert_int_equal(msg_take_fd(&fd), -1);
}

/* --- dispatch: the resolver's role has one row, and its handler stands here --- */

static int resolves;

void on_names_ask(void *ctx, struct chan *from, struct msg_names_ask *m)
{
	(void)ctx;
	(void)from;
	(void)m;
}

void on_resolve(void *ctx, struct chan *from, struct msg_resolve *m)
{
	assert_ptr_equal(ctx, &resolves);
	assert_null(from);
	assert_int_equal(m->query, 9);
	assert_true(str_eq(m->domain, STR("example.com")));
	resolves++;
}

static void hands_rows_to_their_role(void **state)
{
	struct buf b;
	int fd = -1;
	(void)state;
	buf_init(&b, 4096);
	msg_encode_resolve(&b, &(struct msg_resolve){.query = 9, .domain = STR("example.com")});
	assert_int_equal(msg_to_resolver(&resolves, NULL, MSG_RESOLVE, body_of(&b), &fd), 0);
	assert_int_equal(resolves, 1);
	assert_int_equal(msg_to_resolver(&resolves, NULL, MSG_ROUTE, body_of(&b), &fd), -ENOMSG);
	assert_int_equal(msg_to_resolver(&resolves, NULL, MSG_HELLO, body_of(&b), &fd), -ENOMSG);
	assert_int_equal(
	    msg_to_resolver(&resolves, NULL, (enum msg_type)60000, body_of(&b), &fd), -ENOMSG);
	struct str cut = body_of(&b);
	cut.n--;
	assert_int_equal(msg_to_resolver(&resolves, NULL, MSG_RESOLVE, cut, &fd), -EBADMSG);
	assert_int_equal(resolves, 1);
	buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#include "common/msg_ignore_fields.h"
#define MSG(ID, name, from, to) cmocka_unit_test(row_##name),
#include "common/msg.def"
#include "common/msg_undef.h"
	    cmocka_unit_test(text_is_cut_and_cleaned_on_the_way_out),
	    cmocka_unit_test(text_is_refused_on_the_way_in),
	    cmocka_unit_test(bytes_above_their_bound_are_refused),
	    cmocka_unit_test(a_frame_is_whole_or_not_there),
	    cmocka_unit_test(knows_its_rows),
	    cmocka_unit_test(takes_a_descriptor_once),
	    cmocka_unit_test(hands_rows_to_their_role),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
