/* SPDX-License-Identifier: ISC */
/*
 * Any content, cut anywhere: what is queued has no bare CR or LF, no NUL, no end of data inside,
 * ends with CR LF, and none of the fields that must be removed; DATA ends at the first CR LF . CR
 * LF and nowhere else; cutting changes nothing. The first byte chooses DATA or BDAT, the second the
 * cuts.
 */
#include "smtpd/body.h"
#include "common/str.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct body_limits limits = {.content_max = 65536, .header_max = 4096, .hops_max = 5};

static void check_queued(const char *p, size_t n)
{
	if (n == 0)
		return;
	if (memchr(p, '\0', n) || n < 2 || memcmp(p + n - 2, "\r\n", 2) != 0)
		abort();
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '\n' && (i == 0 || p[i - 1] != '\r'))
			abort();
		if (p[i] == '\r' && (i + 1 == n || p[i + 1] != '\n'))
			abort();
	}
	if ((n >= 3 && memcmp(p, ".\r\n", 3) == 0) || memmem(p, n, "\r\n.\r\n", 5))
		abort();
	for (const char *line = p; line < p + n && *line != '\r';
	     line = memchr(line, '\n', (size_t)(p + n - line)), line++)
		if (strncasecmp(line, "X-Job:", 6) == 0 || strncasecmp(line, "X-Tenant:", 9) == 0 ||
		    strncasecmp(line, "X-EnvID:", 8) == 0 ||
		    strncasecmp(line, "X-Virtual-MTA:", 14) == 0)
			abort();
}

struct result {
	enum answer answer;
	bool ended;
	size_t eaten;
	struct buf out;
	struct body b;
};

static void feed(struct result *r, const uint8_t *p, size_t n, bool chunked, size_t step)
{
	*r = (struct result){0};
	buf_init(&r->out, 1 << 20);
	body_init(&r->b, &limits, &r->out, chunked);
	while (n > 0 && !r->ended) {
		size_t take = n < step ? n : step;
		struct str in = {(const char *)p, take};
		if (chunked)
			body_take_chunk(&r->b, in), in.n = 0;
		else
			r->ended = body_take_data(&r->b, &in);
		r->eaten += take - in.n;
		p += take - in.n;
		n -= take - in.n;
	}
	r->answer = body_end(&r->b);
}

static size_t true_end(const uint8_t *p, size_t n)
{
	if (n >= 3 && memcmp(p, ".\r\n", 3) == 0)
		return 3;
	const uint8_t *at = memmem(p, n, "\r\n.\r\n", 5);
	return at ? (size_t)(at - p) + 5 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct result a, b;

	if (size < 2 || size > 20000)
		return 0;
	bool chunked = data[0] & 1;
	size_t step = (size_t)data[1] + 1, n = size - 2;
	const uint8_t *p = data + 2;
	feed(&a, p, n, chunked, n ? n : 1);
	feed(&b, p, n, chunked, step);
	/* of several reasons to refuse, which is found first may depend on the cuts */
	if ((a.answer == ANSWER_NONE) != (b.answer == ANSWER_NONE) || a.ended != b.ended ||
	    a.eaten != b.eaten || a.out.n != b.out.n ||
	    (a.out.n && memcmp(a.out.p, b.out.p, a.out.n) != 0))
		abort();
	if (!chunked) {
		size_t end = true_end(p, n);
		if (a.ended != (end != 0) || (end && a.eaten != end))
			abort();
	}
	if (a.answer == ANSWER_NONE && (a.ended || chunked)) {
		check_queued((const char *)a.out.p, a.out.n);
		if (a.b.bytes != a.out.n)
			abort();
	}
	buf_fini(&a.out);
	buf_fini(&b.out);
	return 0;
}
