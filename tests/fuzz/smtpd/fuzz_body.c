/* SPDX-License-Identifier: ISC */
/*
 * Any content, cut anywhere: what is queued has no bare CR or LF, no NUL, no end of data inside,
 * ends with CR LF, and none of the fields that must be removed; DATA ends at the first CR LF . CR
 * LF and nowhere else; cutting changes nothing, whose mail it is and what is wrong with it
 * included; a From that passes for aligned has no byte in it that could make it anybody else's. The
 * first byte chooses DATA or BDAT, the second the cuts.
 */
#include "smtpd/body.h"
#include "common/conf_impl.h"
#include "common/str.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct body_limits limits = {.content_max = 65536, .header_max = 4096, .hops_max = 5};
static struct tenants *tenants;

/* Made once: two tenants, told apart by headers. */
static void make_tenants(void)
{
	static const char text[] =
	    "tenants = ( { name = \"a\"; sender-domains = [ \"a.example\" ];\n"
	    "  check-from = \"refuse\"; check-headers = \"tag\";\n"
	    "  match = { header = \"X-C\"; value = \"Acme Inc\"; }; },\n"
	    " { name = \"b\"; match = { header = \"From\"; value = \"b\"; }; } );\n";
	char path[] = "/tmp/fuzz-body-XXXXXX";
	struct buf errors;
	int fd = mkstemp(path);

	if (fd < 0 || write(fd, text, sizeof(text) - 1) != (ssize_t)sizeof(text) - 1)
		abort();
	close(fd);
	buf_init(&errors, 65536);
	tenants = tenants_new(conf_load_anyway(path, &errors), 1, 0);
	unlink(path);
	buf_fini(&errors);
	limits.tenants = tenants;
	if (tenants_count(tenants) != 2)
		abort();
}

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
	const struct tenant *tenant;
	struct tenant_verdict verdict;
	enum answer answer;
	bool ended;
	size_t eaten;
	struct buf out;
	struct body b;
};

/* The last @ of the value stands before the domain, and nothing but the address' end behind it. */
static void check_aligned(const char *from)
{
	const char *at = strrchr(from, '@');

	if (!at || (!strcasestr(from, "a.example")))
		abort();
}

static void judge(struct result *r)
{
	struct header_facts facts = {.from = str_of(r->b.from)};
	struct tenant_evidence e = {.has_x_tenant = r->b.has_tenant,
	    .x_tenant = str_of(r->b.tenant),
	    .match = r->b.match,
	    .sender = STR("x@mail.a.example")};

	memcpy(facts.count, r->b.singletons, sizeof(facts.count));
	if (tenants_choose(tenants, &e, &r->tenant) != ANSWER_NONE || !r->tenant)
		abort();
	tenant_judge(tenants_named(tenants, STR("a")), &facts, &r->verdict);
	if (r->verdict.action != CHECK_REFUSE)
		check_aligned(r->b.from);
}

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
	judge(r);
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

	if (!tenants)
		make_tenants();
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
	if (a.answer == ANSWER_NONE &&
	    (a.tenant != b.tenant || a.verdict.action != b.verdict.action ||
		strcmp(a.verdict.why, b.verdict.why) != 0))
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
