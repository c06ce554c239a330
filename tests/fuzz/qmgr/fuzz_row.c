/* SPDX-License-Identifier: ISC */
/* Rows of the index: any key and value; and, with a right sum put behind it, any fields. */
#include "common/record.h"
#include "qmgr/row.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char sink;

static void touch(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		sink ^= (unsigned char)s.p[i];
}

static void decode_all(struct str key, struct str value)
{
	struct row_rcpt rcpt;
	struct row_segment segment;
	struct row_bounce bounce;
	struct row_aside aside;
	struct row_meta meta;
	struct row_state state;
	if (row_rcpt_decode(key, value, &rcpt) == 0) {
		touch(rcpt.domain);
		touch(rcpt.campaign);
		touch(rcpt.pool);
	}
	if (row_segment_decode(key, value, &segment) == 0)
		must(segment.kind <= SEGMENT_COMPACT);
	if (row_bounce_decode(key, value, &bounce) == 0)
		touch(bounce.results);
	if (row_aside_decode(key, value, &aside) == 0)
		touch(aside.why);
	if (row_state_decode(key, value, &state) == 0) {
		touch(state.key);
		touch(state.value);
	}
	if (row_meta_decode(value, &meta) == 0)
		sink ^= (unsigned char)meta.journal_pos;
}

static void with_sum(struct row_key key, uint8_t version, const uint8_t *data, size_t size)
{
	struct buf b;
	buf_init(&b, size + 64);
	buf_u8(&b, version);
	buf_put(&b, data, size);
	uint32_t sum = crc32c(crc32c(0, key.bytes, key.n), b.p, b.n);
	buf_u32(&b, sum);
	decode_all(row_key_str(&key), (struct str){(const char *)b.p, b.n});
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size > 0 ? data[0] % 17 : 0;
	if (n + 1 <= size)
		decode_all((struct str){(const char *)data + 1, n},
		    (struct str){(const char *)data + 1 + n, size - 1 - n});
	with_sum(row_key_rcpt(7, 1), ROW_VERSION, data, size);
	with_sum(row_key_rcpt(7, 1), ROW_RCPT_VERSION, data, size);
	with_sum(row_key_state(STR("mode a/v")), ROW_VERSION, data, size);
	with_sum(row_key_number(7), ROW_VERSION, data, size);
	with_sum(row_key_text(ROW_META_KEY), ROW_VERSION, data, size);
	return 0;
}
