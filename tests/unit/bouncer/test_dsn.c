/* SPDX-License-Identifier: ISC */
/*
 * Reports against golden files, and what hostile text cannot do to them. The golden files hold the
 * message as a reader gets it (unstuffed); UPDATE_GOLDEN=1 writes them anew.
 */
#include "bouncer/dsn.h"
#include "bouncer/part.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define GOLDEN "tests/unit/bouncer/golden/"
#define ORIGINAL                                                                                   \
	"Received: from client.example ([192.0.2.7]) by out.example.com (Postern) id "             \
	"0000000001000001;\r\n"                                                                    \
	"    Sun, 22 Nov 2026 10:00:00 +0000\r\n"                                                  \
	"From: Alice <alice@example.com>\r\n"                                                      \
	"To: bob@example.net\r\n"                                                                  \
	"Subject: lunch\r\n"                                                                       \
	"Message-ID: <1@example.com>\r\n"                                                          \
	"\r\n"                                                                                     \
	"Shall we?\r\n"                                                                            \
	"..one dot, stuffed\r\n"                                                                   \
	"bye\r\n"
#define UTF8_ORIGINAL                                                                              \
	"From: J\xc3\xbcrgen <j\xc3\xbcrgen@example.com>\r\n"                                      \
	"Subject: gr\xc3\xbc\xc3\x9f\x65\r\n"                                                      \
	"\r\n"                                                                                     \
	"8 bit: \xc3\xa4\r\n"

#define LIT(text)                                                                                  \
	{                                                                                          \
		(text), sizeof(text) - 1                                                           \
	} /* what a static initialiser may hold */
static const struct dsn_rcpt unknown_user = {.address = LIT("bob@example.net"),
    .orcpt = LIT("rfc822;Bob@Example.NET"),
    .status = LIT("5.1.1"),
    .text = LIT("550 5.1.1 <bob@example.net>: Recipient address rejected: User unknown in virtual "
		"mailbox table"),
    .said_by = LIT("mx1.example.net[192.0.2.25]:25"),
    .code = 550,
    .stage = STAGE_RCPT};
static const struct dsn_rcpt no_domain = {.address = LIT("carol@nowhere.example"),
    .status = LIT("5.1.2"),
    .text = LIT("nowhere.example: no such domain")};

static struct envelope envelope(const char *sender, uint8_t ret, uint8_t body)
{
	return (struct envelope){
	    .sender = str_of(sender), .envid = STR("QQ314159"), .ret = ret, .body = body};
}

static struct dsn base(enum dsn_kind kind, const struct envelope *e, const char *content,
    const struct dsn_rcpt *rcpt, size_t n)
{
	return (struct dsn){.kind = kind,
	    .host_name = "out.example.com",
	    .postmaster = "",
	    .id = 0x2000001,
	    .original_id = 0x1000001,
	    .now_ms = 1795345200000,	 /* Sun, 22 Nov 2026 11:00:00 UTC */
	    .arrived_ms = 1795341600000, /* an hour before */
	    .retry_until_ms = kind == DSN_DELAYED ? 1795730400000 : 0,
	    .envelope = e,
	    .content = str_of(content),
	    .content_bytes = strlen(content),
	    .rcpt = rcpt,
	    .rcpt_count = n};
}

/* What a receiver has after the dots are unstuffed. Checks on the way what every message must keep.
 */
static char *received(const struct dsn *d, uint8_t *bits)
{
	struct buf wire, content;
	buf_init(&wire, 64 << 20);
	buf_init(&content, 64 << 20);
	*bits = dsn_build(d, &wire, &content);
	buf_put(&wire, content.p, content.n);
	assert_false(wire.failed || content.failed);
	char *text = malloc(wire.n + 1);
	size_t used = 0, line = 0;
	for (size_t i = 0; i < wire.n; i++) {
		char c = (char)wire.p[i];
		assert_true(c != '\0');
		if (line == 0 && c == '.') {
			assert_true(wire.p[i + 1] != '\r'); /* never the end of the message */
			assert_true(wire.p[i + 1] == '.' || i + 1 < wire.n);
			line++;
			continue;
		}
		if (c == '\r') {
			assert_true(wire.p[i + 1] == '\n');
		} else if (c == '\n') {
			assert_true(wire.p[i - 1] == '\r');
			line = 0;
		} else {
			assert_true(++line <= LINE_MAX_BYTES + 1);
		}
		text[used++] = c;
	}
	text[used] = '\0';
	assert_true(line == 0);
	buf_fini(&wire);
	buf_fini(&content);
	return text;
}

static char *read_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	if (f == NULL)
		return NULL;
	char *text = calloc(1, 1 << 20);
	assert_true(fread(text, 1, (1 << 20) - 1, f) < (1 << 20) - 1);
	fclose(f);
	return text;
}

static void against_golden(const char *name, const struct dsn *d, uint8_t want_bits)
{
	char path[200];
	uint8_t bits;
	snprintf(path, sizeof(path), GOLDEN "%s.eml", name);
	char *got = received(d, &bits);
	assert_int_equal(bits, want_bits);
	if (getenv("UPDATE_GOLDEN") != NULL) {
		FILE *f = fopen(path, "wb");
		assert_non_null(f);
		fwrite(got, 1, strlen(got), f);
		assert_int_equal(fclose(f), 0);
	}
	char *want = read_file(path);
	if (want == NULL)
		fail_msg("%s is missing: run from the root of the tree", path);
	if (strcmp(got, want) != 0)
		fail_msg("%s differs; got:\n%s", path, got);
	free(want);
	free(got);
}

static void golden_failed_full(void **state)
{
	struct envelope e = envelope("alice@example.com", RET_FULL, 0);
	struct dsn_rcpt both[2] = {unknown_user, no_domain};
	struct dsn d = base(DSN_FAILED, &e, ORIGINAL, both, 2);
	(void)state;
	against_golden("failed-full", &d, 0);
}

static void golden_failed_headers(void **state)
{
	struct envelope e = envelope("alice@example.com", RET_HDRS, 0);
	struct dsn d = base(DSN_FAILED, &e, ORIGINAL, &unknown_user, 1);
	(void)state;
	d.postmaster = "help@example.com";
	against_golden("failed-headers", &d, 0);
}

static void golden_delayed(void **state)
{
	struct envelope e = envelope("alice@example.com", RET_FULL, 0);
	struct dsn_rcpt slow = {.address = STR("bob@example.net"),
	    .status = STR("4.4.1"),
	    .stage =
		STAGE_INTERNAL, /* qmgr's own word: this is no attempt, and has no date of one */
	    .text = STR("connect to mx1.example.net[192.0.2.25]:25: Connection timed out")};
	struct dsn d = base(DSN_DELAYED, &e, ORIGINAL, &slow, 1);
	(void)state;
	against_golden("delayed", &d, 0);
}

static void golden_success(void **state)
{
	struct envelope e = envelope("alice@example.com", RET_DEFAULT, 0);
	struct dsn_rcpt done[2] = {{.address = STR("bob@example.net"),
				       .status = STR("2.1.5"),
				       .text = STR("250 2.1.5 OK"),
				       .said_by = STR("mx1.example.net"),
				       .code = 250,
				       .stage = STAGE_DOT},
	    {.address = STR("dan@example.net"),
		.status = STR("2.0.0"),
		.text = STR("250 OK"),
		.said_by = STR("mx2.example.net"),
		.code = 250,
		.stage = STAGE_DOT,
		.relayed = true}};
	struct dsn d = base(DSN_SUCCESS, &e, ORIGINAL, done, 2);
	(void)state;
	against_golden("success", &d, 0);
}

static void golden_utf8(void **state)
{
	struct envelope e = envelope("j\xc3\xbcrgen@example.com", RET_FULL, ENV_8BIT | ENV_UTF8);
	struct dsn_rcpt r = {.address = STR("\xe7\x94\xb2@example.net"),
	    .orcpt = STR("utf-8;\xe7\x94\xb2@example.net"),
	    .status = STR("5.1.1"),
	    .text = STR("550 5.1.1 unbekannt: \xe7\x94\xb2"),
	    .said_by = STR("mx.example.net"),
	    .code = 550,
	    .stage = STAGE_RCPT};
	struct dsn d = base(DSN_FAILED, &e, UTF8_ORIGINAL, &r, 1);
	(void)state;
	against_golden("utf8", &d, ENV_8BIT | ENV_UTF8);
}

/* An 8-bit message between ASCII addresses: 8BITMIME, but nothing that needs SMTPUTF8. */
static void golden_8bit(void **state)
{
	struct envelope e = envelope("alice@example.com", RET_FULL, ENV_8BIT);
	struct dsn d = base(DSN_FAILED, &e, "Subject: 8 bit\r\n\r\ngr\xc3\xbc\xc3\x9f\x65 \xff\r\n",
	    &unknown_user, 1);
	(void)state;
	against_golden("8bit", &d, ENV_8BIT);
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0;
	for (; (text = strstr(text, what)) != NULL; text += strlen(what))
		n++;
	return n;
}

/* Remote text in every field: it adds no header, no part, no line, and does not end the message. */
static void hostile_text(void **state)
{
	static const char *const texts[] = {
	    ("550 5.1.1 x\r\n\r\n--=_postern.0000000002000001.0--\r\nBcc: "
	     "evil@example.com\r\n.\r\nQUIT"),
	    "550 \n.\nBcc: evil@example.com",
	    "550 --=_postern.0000000002000001.0",
	    "--=_postern.0000000002000001.0--",
	    "550 \x01\x1b[31m\x7f\x80\xff\xc0\x80\xed\xa0\x80 \xc2\x85 \xe2\x80\xa8",
	    ".",
	    "..",
	    "",
	    " ",
	    "Bcc: evil@example.com",
	};
	(void)state;
	for (size_t i = 0; i < COUNT_OF(texts); i++) {
		for (int utf8 = 0; utf8 < 2; utf8++) {
			struct envelope e = envelope(
			    utf8 ? "j\xc3\xbcrgen@example.com" : "alice@example.com", RET_FULL, 0);
			struct dsn_rcpt r = {.address = STR("bob@example.net"),
			    .orcpt = str_of(i % 2 ? texts[i] : ""),
			    .status = str_of(texts[i]),
			    .text = str_of(texts[i]),
			    .said_by = str_of(texts[i]),
			    .code = 550,
			    .stage = STAGE_RCPT};
			struct dsn d = base(DSN_FAILED, &e, ORIGINAL, &r, 1);
			uint8_t bits;
			e.envid = str_of(texts[i]);
			char *got = received(&d, &bits);
			assert_int_equal(count(got, "\r\nBcc:"), 0);
			assert_int_equal(count(got, "\r\nContent-Type:"), 4);
			assert_int_equal(count(got, "\r\nFinal-Recipient:"), 1);
			assert_int_equal(count(got, "\r\nStatus: 5.0.0\r\n"), 1);
			assert_true(utf8 || !part_is_ascii(r.orcpt) || part_is_ascii(str_of(got)));
			free(got);
		}
	}
}

/* The original holds what our boundary would be, again and again: another one is taken. */
static void boundary_collision(void **state)
{
	char *content = calloc(1, 60000);
	struct envelope e = envelope("alice@example.com", RET_FULL, 0);
	uint8_t bits;
	size_t used = (size_t)sprintf(content, "Subject: x\r\n\r\n");
	(void)state;
	for (int i = 0; i < 500; i++)
		used += (size_t)sprintf(content + used, "--=_postern.0000000002000001.%d\r\n", i);
	struct dsn d = base(DSN_FAILED, &e, content, &unknown_user, 1);
	char *got = received(&d, &bits);
	assert_non_null(strstr(got, "boundary=\"=_postern.0000000002000001.500\""));
	assert_int_equal(count(got, "\r\n--=_postern.0000000002000001.500"), 4);
	free(got);
	free(content);
}

static void what_is_returned(void **state)
{
	static char large[DSN_RETURN_MAX + 100], long_line[5000], long_header[5000];
	struct envelope full = envelope("alice@example.com", RET_FULL, 0);
	uint8_t bits;
	(void)state;
	memcpy(large, "Subject: x\r\n\r\n", 14);
	for (size_t i = 14; i < sizeof(large) - 1; i++)
		large[i] = i % 70 == 0 ? '\r' : i % 70 == 1 ? '\n' : 'x';
	memcpy(large + sizeof(large) - 3, "\r\n", 2);
	memcpy(long_line, "Subject: x\r\n\r\n", 14);
	memset(long_line + 14, 'y', 2000);
	memcpy(long_line + 2014, "\r\n", 3);
	memcpy(long_header, "Subject: ", 9);
	memset(long_header + 9, 'z', 3000);
	memcpy(long_header + 3009, "\r\n.X-Dot: 1\r\n\r\nbody\r\n", 22);
	struct {
		const char *what, *content;
		bool full;
	} cases[] = {
	    {"small", ORIGINAL, true},
	    {"too large", large, false},
	    {"a line too long", long_line, false},
	    {"a header too long", long_header, false},
	    {"a bare LF", "Subject: x\r\n\r\na\nb\r\n", false},
	    {"a bare CR", "Subject: x\r\n\r\na\rb\r\n", false},
	    {"no body", "Subject: x\r\n", true},
	    {"no end of line", "Subject: x\r\n\r\nabc", true},
	    {"nothing", "", true},
	};
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct dsn d = base(DSN_FAILED, &full, cases[i].content, &unknown_user, 1);
		char *got = received(&d, &bits);
		if ((strstr(got, "Content-Type: message/rfc822") != NULL) != cases[i].full)
			fail_msg("%s", cases[i].what);
		assert_null(strstr(got, "yyy"));
		assert_null(strstr(got, "\nzz")); /* a header's second line begins with a blank */
		if (cases[i].content == long_header)
			assert_int_equal(count(got, "\r\n zz"), 3);
		free(got);
	}
	struct dsn d = base(DSN_FAILED, &full, ORIGINAL, &unknown_user, 1);
	d.content_bytes += 1; /* not all of it was read */
	char *got = received(&d, &bits);
	assert_non_null(strstr(got, "text/rfc822-headers"));
	assert_null(strstr(got, "Shall we?"));
	free(got);
}

static void many_recipients(void **state)
{
	enum { N = 50000 };
	struct dsn_rcpt *rcpt = calloc(N, sizeof(*rcpt));
	struct envelope e = envelope("alice@example.com", RET_FULL, 0);
	uint8_t bits;
	(void)state;
	for (size_t i = 0; i < N; i++)
		rcpt[i] = unknown_user;
	struct dsn d = base(DSN_FAILED, &e, ORIGINAL, rcpt, N);
	char *got = received(&d, &bits);
	assert_int_equal(count(got, "\r\nFinal-Recipient:"), DSN_DETAIL_MAX);
	assert_non_null(strstr(got, "\r\nand 49000 more recipients, not listed here.\r\n"));
	assert_true(strlen(got) < 2 << 20);
	free(got);
	free(rcpt);
}

static void dates(void **state)
{
	char text[40];
	(void)state;
	part_date(text, 0);
	assert_string_equal(text, "Thu, 1 Jan 1970 00:00:00 +0000");
	part_date(text, 951827696789);
	assert_string_equal(text, "Tue, 29 Feb 2000 12:34:56 +0000");
}

/* Words of every length: no line is longer than allowed, and no word is lost. */
static void folding(void **state)
{
	char text[3000];
	(void)state;
	for (size_t word = 1; word < 1500; word += 7) {
		struct buf b;
		size_t used = 0, x = 0, line = 0, want = 0;
		while (used + word + 1 < sizeof(text)) {
			memset(text + used, 'x', word);
			used += word;
			want += word;
			text[used++] = ' ';
		}
		buf_init(&b, 100000);
		part_field(&b, "X-Test", (struct str){text, used}, false);
		for (size_t i = 7; i < b.n; i++) {
			x += b.p[i] == 'x';
			line = b.p[i] == '\n' ? 0 : line + 1;
			assert_true(line <= LINE_MAX_BYTES + 1);
			if (b.p[i] == '\n' && i + 1 < b.n)
				assert_true(b.p[i + 1] == ' ');
		}
		assert_int_equal(x, want);
		buf_fini(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(golden_failed_full),
	    cmocka_unit_test(golden_failed_headers),
	    cmocka_unit_test(golden_delayed),
	    cmocka_unit_test(golden_success),
	    cmocka_unit_test(golden_utf8),
	    cmocka_unit_test(golden_8bit),
	    cmocka_unit_test(hostile_text),
	    cmocka_unit_test(boundary_collision),
	    cmocka_unit_test(what_is_returned),
	    cmocka_unit_test(many_recipients),
	    cmocka_unit_test(dates),
	    cmocka_unit_test(folding),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
