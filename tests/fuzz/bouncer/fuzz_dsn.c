/* SPDX-License-Identifier: ISC */
/* A report of hostile words about a hostile message: it stays one message, line by line. */
#include "bouncer/dsn.h"
#include "bouncer/part.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct str take(const uint8_t **data, size_t *size)
{
	size_t n = *size > 0 ? **data : 0;
	if (n >= *size)
		n = *size > 0 ? *size - 1 : 0;
	struct str s = {(const char *)*data + (*size > 0), n};
	*data += *size > 0 ? n + 1 : 0;
	*size -= *size > 0 ? n + 1 : 0;
	return s;
}

static void check_wire(const struct buf *b)
{
	size_t line = 0;
	must(b->n >= 2 && b->p[b->n - 1] == '\n');
	for (size_t i = 0; i < b->n; i++) {
		must(b->p[i] != '\0');
		if (b->p[i] == '\n') {
			must(i > 0 && b->p[i - 1] == '\r');
			must(!(line == 2 && b->p[i - 2] == '.')); /* the end of the message */
			must(line <= LINE_MAX_BYTES + 2);
			line = 0;
		} else {
			must(b->p[i] != '\r' || b->p[i + 1] == '\n');
			line++;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf headers, content;
	if (size < 2)
		return 0;
	uint8_t kind = data[0] % DSN_ALERT /* the kinds of reports */, bits = data[1];
	data += 2;
	size -= 2;
	struct envelope e = {.sender = take(&data, &size), .envid = take(&data, &size)};
	struct dsn_rcpt r = {.address = take(&data, &size),
	    .orcpt = take(&data, &size),
	    .status = take(&data, &size),
	    .text = take(&data, &size),
	    .said_by = take(&data, &size),
	    .code = bits & 1 ? 550 : 0,
	    .stage = bits >> 4,
	    .relayed = (bits & 2) != 0};
	e.ret = RET_FULL;
	e.body = bits & 4 ? ENV_UTF8 : 0;
	struct dsn d = {.kind = (enum dsn_kind)kind,
	    .host_name = "out.example.com",
	    .postmaster = "",
	    .id = 0x2000001,
	    .original_id = 1,
	    .now_ms = 1795345200000,
	    .arrived_ms = 1795341600000,
	    .retry_until_ms = bits & 8 ? 1795730400000 : 0,
	    .envelope = &e,
	    .content = {(const char *)data, size},
	    .content_bytes = size,
	    .rcpt = &r,
	    .rcpt_count = 1};
	buf_init(&headers, 64 << 20);
	buf_init(&content, 64 << 20);
	uint8_t body = dsn_build(&d, &headers, &content);
	must(!headers.failed && !content.failed);
	check_wire(&headers);
	check_wire(&content);
	must((body & ENV_8BIT) != 0 ||
	     part_is_ascii((struct str){(const char *)content.p, content.n}));
	buf_fini(&headers);
	buf_fini(&content);
	return 0;
}
