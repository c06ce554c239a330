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
void answer_put(struct buf *out, enum answer a); /* the whole line */
