/* SPDX-License-Identifier: ISC */
/*
 * Heads from the disk, and the lists of ROUTE and RESULT. A head's sum is repaired first, or no
 * input would ever come past it: then what decodes must encode to the same bytes, and its end must
 * lie behind it.
 */
#include "common/record.h"
#include "common/result.h"
#include "common/route.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_head(const uint8_t *data, size_t size)
{
	unsigned char head[RECORD_HEAD], again[RECORD_HEAD];
	struct record plain, sane = {.kind = RECORD_MESSAGE, .data_offset = RECORD_HEAD}, r;
	record_encode(&sane, head);
	memcpy(head + 5, data, size < RECORD_HEAD - 9 ? size : RECORD_HEAD - 9);
	if (record_decode(&plain, head) == 0)
		must(size == 0 || memcmp(head + 5, data, 1) == 0);
	uint32_t sum = crc32c(0, head, RECORD_HEAD - 4);
	for (int i = 0; i < 4; i++)
		head[RECORD_HEAD - 4 + i] = (unsigned char)(sum >> (8 * (3 - i)));
	if (record_decode(&r, head) < 0)
		return;
	record_encode(&r, again);
	must(memcmp(head, again, RECORD_HEAD) == 0);
	must(record_end(&r) >= r.offset + RECORD_HEAD && record_end(&r) % RECORD_ALIGN == 0);
}

static void try_hosts(const uint8_t *data, size_t size)
{
	struct rd r = rd_of(data, size);
	struct route_host h;
	struct buf b;
	int rc;
	buf_init(&b, size);
	while ((rc = route_take_host(&r, &h)) == 1) {
		must(h.address_count <= ROUTE_ADDRESSES_MAX && h.name[0] != '\0');
		route_put_host(&b, &h);
		char text[64];
		for (size_t i = 0; i < h.address_count; i++)
			route_address_print(text, &h.address[i]);
	}
	must(!b.failed);
	must(rc != 0 || (b.n == size && (size == 0 || memcmp(b.p, data, size) == 0)));
	buf_fini(&b);
}

static void try_results(const uint8_t *data, size_t size)
{
	struct rd r = rd_of(data, size);
	struct rcpt_result result;
	struct buf b;
	int rc;
	buf_init(&b, size);
	while ((rc = result_take(&r, &result)) == 1)
		result_put(&b, &result);
	must(!b.failed);
	must(rc != 0 || (b.n == size && (size == 0 || memcmp(b.p, data, size) == 0)));
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 3) {
	case 0:
		try_head(data + 1, size - 1);
		break;
	case 1:
		try_hosts(data + 1, size - 1);
		break;
	default:
		try_results(data + 1, size - 1);
		break;
	}
	return 0;
}
