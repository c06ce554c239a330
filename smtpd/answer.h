/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include <stdbool.h>
/* The answers to a client. ANSWER_NONE: no objection, or nothing to say. */
enum answer {
	ANSWER_NONE = 0,
#define ANSWER(id, code, status, text) ANSWER_##id,
#include "smtpd/answers.def"
#undef ANSWER
	ANSWER_COUNT
};
struct str answer_text(enum answer a); /* "550 5.7.1 Relay access denied", without line end */
int answer_code(enum answer a);	       /* 550 */
bool answer_ends(enum answer a);       /* a 421: the session closes after it */
enum { ANSWER_LINE_MAX = 512 };	       /* RFC 5321 4.5.3.1.5 */
/* The line, and ": DETAIL" if there is one. */
struct str answer_with(char out[ANSWER_LINE_MAX], enum answer a, const char *detail);
void answer_put(struct buf *out, enum answer a); /* the whole line */
