/* SPDX-License-Identifier: ISC */
/* The record's head: round trip, every bit flipped, lengths that lie; CRC32C; ids as text. */
#include "common/record.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint64_t seed = 88172645463325252;

static uint64_t random_u64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* --- CRC32C --- */

/* RFC 3720 B.4, and the check value of the catalogue of CRCs. */
static void sums_are_those_of_the_standard(void **state)
{
	unsigned char zeros[32] = {0}, ones[32], up[32], down[32];
	(void)state;
	memset(ones, 0xff, sizeof(ones));
	for (unsigned i = 0; i < 32; i++) {
		up[i] = (unsigned char)i;
		down[i] = (unsigned char)(31 - i);
	}
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aa);
	assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
	assert_int_equal(crc32c(0, up, 32), 0x46dd794e);
	assert_int_equal(crc32c(0, down, 32), 0x113fdb5c);
	assert_int_equal(crc32c_by_table(0, up, 32), 0x46dd794e);
	assert_int_equal(crc32c(0, "", 0), 0);
}

static void both_ways_agree_for_all_lengths_and_pieces(void **state)
{
	unsigned char bytes[600];
	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)random_u64();
	for (size_t from = 0; from < 9; from++) {
		for (size_t n = 0; n < sizeof(bytes) - from; n++) {
			uint32_t whole = crc32c(0, bytes + from, n);
			size_t cut = n ? random_u64() % n : 0;
			uint32_t first = crc32c(0, bytes + from, cut);
			assert_int_equal(whole, crc32c_by_table(0, bytes + from, n));
			assert_int_equal(whole, crc32c(first, bytes + from + cut, n - cut));
		}
	}
}

/* --- heads --- */

static struct record random_record(uint8_t kind)
{
	struct record r = {.kind = kind,
	    .nonce_high = random_u64(),
	    .nonce_low = random_u64(),
	    .id = random_u64(),
	    .offset = (random_u64() >> 8) & ~UINT64_C(63),
	    .arrived_ms = random_u64(),
	    .envelope_crc = (uint32_t)random_u64(),
	    .content_crc = (uint32_t)random_u64()};
	r.offset &= (UINT64_C(1) << 50) - 1;
	r.offset |= UINT64_C(1) << 45;
	if (kind == RECORD_OPEN)
		return r;
	r.envelope_bytes = (uint32_t)(random_u64() % 1048577);
	r.headers_bytes = (uint32_t)random_u64();
	r.content_bytes = random_u64() >> 24;
	r.data_offset = r.offset + RECORD_HEAD;
	if (kind == RECORD_CLOSE)
		r.data_offset = RECORD_HEAD;
	return r;
}

static void heads_come_back(void **state)
{
	unsigned char head[RECORD_HEAD], again[RECORD_HEAD];
	(void)state;
	for (int i = 0; i < 3000; i++) {
		struct record r = random_record((uint8_t)(1 + i % 3)), back;
		record_encode(&r, head);
		assert_int_equal(record_decode(&back, head), 0);
		record_encode(&back, again);
		assert_memory_equal(head, again, RECORD_HEAD);
		assert_true(back.id == r.id && back.content_bytes == r.content_bytes);
		assert_true(back.offset == r.offset && back.content_crc == r.content_crc);
		assert_true(record_end(&back) % RECORD_ALIGN == 0);
		assert_true(record_end(&back) >= r.offset + RECORD_HEAD);
	}
}

static void every_flipped_bit_is_found(void **state)
{
	unsigned char head[RECORD_HEAD];
	struct record r = random_record(RECORD_MESSAGE), back;
	(void)state;
	record_encode(&r, head);
	for (unsigned bit = 0; bit < 8 * RECORD_HEAD; bit++) {
		head[bit / 8] ^= (unsigned char)(1U << bit % 8);
		assert_int_equal(record_decode(&back, head), -EBADMSG);
		head[bit / 8] ^= (unsigned char)(1U << bit % 8);
	}
	assert_int_equal(record_decode(&back, head), 0);
	memset(head, 0, sizeof(head));
	assert_int_equal(record_decode(&back, head), -EBADMSG);
}

static struct record message(void)
{
	return (struct record){.kind = RECORD_MESSAGE,
	    .offset = 6400,
	    .data_offset = 6400 + RECORD_HEAD,
	    .envelope_bytes = 100,
	    .headers_bytes = 50,
	    .content_bytes = 1000};
}

static int decode_of(struct record r)
{
	unsigned char head[RECORD_HEAD];
	record_encode(&r, head);
	return record_decode(&r, head);
}

/* The sum is right and the lengths are not: a writer that was taken over. */
static void lengths_that_lie_are_refused(void **state)
{
	struct record r = message();
	(void)state;
	assert_int_equal(decode_of(r), 0);
	assert_int_equal(record_end(&r), 6400 + 128 + 1152);
	r.kind = 0;
	assert_int_equal(decode_of(r), -EBADMSG);
	r.kind = 4;
	assert_int_equal(decode_of(r), -EBADMSG);
	r = message();
	r.offset++, r.data_offset++;
	assert_int_equal(decode_of(r), -EBADMSG);
	r = message();
	r.data_offset += 64;
	assert_int_equal(decode_of(r), -EBADMSG);
	r = message();
	r.envelope_bytes = 1048577;
	assert_int_equal(decode_of(r), -EBADMSG);
	r = message();
	r.content_bytes = UINT64_MAX - 100;
	assert_int_equal(decode_of(r), -EBADMSG);
	r = message();
	r.offset = UINT64_MAX - 127;
	r.data_offset = r.offset + RECORD_HEAD;
	assert_int_equal(decode_of(r), -EBADMSG);
	r = message();
	r.kind = RECORD_OPEN;
	assert_int_equal(decode_of(r), -EBADMSG);
	r = message();
	r.kind = RECORD_CLOSE;
	r.data_offset = RECORD_HEAD;
	assert_int_equal(decode_of(r), 0);
	r.content_bytes = 6400 - RECORD_HEAD - 150;
	assert_int_equal(decode_of(r), 0);
	r.content_bytes++;
	assert_int_equal(decode_of(r), -EBADMSG);
	r.content_bytes = 0;
	r.data_offset = 0;
	assert_int_equal(decode_of(r), -EBADMSG);
}

/* --- ids --- */

static void ids_are_sixteen_digits(void **state)
{
	char text[RECORD_ID_TEXT];
	uint64_t id = 0;
	(void)state;
	record_id_print(text, RECORD_ID(0xabcdef, 42));
	assert_string_equal(text, "0000abcdef00002a");
	assert_int_equal(record_id_parse(&id, str_of(text)), 0);
	assert_true(id == RECORD_ID(0xabcdef, 42));
	assert_true(RECORD_ID_SEGMENT(id) == 0xabcdef);
	record_id_print(text, UINT64_MAX);
	assert_string_equal(text, "ffffffffffffffff");
	assert_int_equal(record_id_parse(&id, str_of(text)), 0);
	assert_true(id == UINT64_MAX);
	static const char *const bad[] = {"", "0", "0000abcdef00002", "0000abcdef00002a0",
	    "0000ABCDEF00002A", "0000abcdef00002g"};
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(record_id_parse(&id, str_of(bad[i])), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sums_are_those_of_the_standard),
	    cmocka_unit_test(both_ways_agree_for_all_lengths_and_pieces),
	    cmocka_unit_test(heads_come_back),
	    cmocka_unit_test(every_flipped_bit_is_found),
	    cmocka_unit_test(lengths_that_lie_are_refused),
	    cmocka_unit_test(ids_are_sixteen_digits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
