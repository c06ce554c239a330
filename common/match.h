/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/reply.h"
#include "common/rule.h"
/*
 * Patterns of smtp-pattern-lists, run over replies. The only part that knows PCRE2: each pattern is
 * compiled alone (case-insensitive, UTF off) and run in order by the interpreter under a match
 * limit, so that no reply and no pattern can hold the process.
 */
struct matcher;
/*
 * The one line that patterns see. text: a reply as it came, lines and all, or one line that was
 * made of one before; anything else (our own messages) passes as it is, controls replaced. Returns
 * its length.
 */
size_t match_line(char out[REPLY_TEXT_MAX + 1], struct str text);
struct matcher *matcher_new(const struct conf *c); /* copies what it needs */
void matcher_free(struct matcher **m);
/* Runs the lists named in `lists` (commas between), in order, over one line as match_line() makes
 * it. own: the text is ours, not the peer's. Every rule that matches gives one hit (ordinal is the
 * caller's to set); objects are views, valid until the next call. Returns how many. */
/* own: then only rules match that name the stage internal, or connect where that is the stage. */
size_t matcher_run(struct matcher *m, struct str lists, struct str line, enum smtp_stage stage,
    bool own, struct rule_hit *hits, size_t max);
/* NULL if the pattern is fine, else why not (static storage of at most 200 bytes). */
const char *match_pattern_error(struct str pattern);
/* Patterns of our own, which compile: a wrong one is a bug. Used by one thread at a time. */
struct pattern_set;
struct pattern_set *pattern_set_new(const char *const *patterns, size_t count);
void pattern_set_free(struct pattern_set **set);
/* The first that matches, of `count` from `from` on: its index from there; -1: none. */
int pattern_set_first(struct pattern_set *set, size_t from, size_t count, struct str line);
/* For tests of one pattern against one text. */
bool match_one(struct str pattern, struct str line);
