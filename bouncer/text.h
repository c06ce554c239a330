/* SPDX-License-Identifier: ISC */
#pragma once
#include "bouncer/dsn.h"
/* The words for people in a report. */
const char *text_subject(enum dsn_kind kind);
/* The whole first part. full: the original comes back whole. */
void text_body(struct buf *b, const struct dsn *d, bool full, bool utf8);
