/* SPDX-License-Identifier: ISC */
/* The table of answers.def as whole lines, made by the compiler: an answer is one memcpy. */
#include "smtpd/answer.h"

#include <stdio.h>

static const struct {
	const char *line; /* with CRLF */
	size_t n;
	int code;
} lines[ANSWER_COUNT] = {
#define LINE(code, status, text) #code " " status " " text "\r\n"
#define ANSWER(id, code, status, text)                                                             \
	[ANSWER_##id] = {LINE(code, status, text), sizeof(LINE(code, status, text)) - 1, code},
#include "smtpd/answers.def"
#undef ANSWER
};

struct str answer_text(enum answer a)
{
	must(a > ANSWER_NONE && a < ANSWER_COUNT);
	return (struct str){lines[a].line, lines[a].n - 2};
}

struct str answer_with(char out[ANSWER_LINE_MAX], enum answer a, const char *detail)
{
	struct str text = answer_text(a);

	/* CR LF follow */
	snprintf(out, ANSWER_LINE_MAX - 2, "%.*s%s%s", (int)text.n, text.p, detail[0] ? ": " : "",
	    detail);
	return str_of(out);
}

int answer_code(enum answer a)
{
	return lines[a].code;
}

bool answer_ends(enum answer a)
{
	return lines[a].code == 421;
}

void answer_put(struct buf *out, enum answer a)
{
	must(a > ANSWER_NONE && a < ANSWER_COUNT);
	buf_put(out, lines[a].line, lines[a].n);
}
