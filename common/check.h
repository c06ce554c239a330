/* SPDX-License-Identifier: ISC */
#pragma once
#include <stddef.h>
/*
 * The first of the four kinds of failure: our own bug. must() and bug() are always compiled in;
 * they print where and what, and abort; master restarts the process. No byte from a remote or from
 * another process may ever lead here: that is a bug in itself.
 */
#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

_Noreturn void bug_at(const char *file, int line, const char *what);
#define bug(what) bug_at(__FILE__, __LINE__, (what))
#define must(cond) ((cond) ? (void)0 : bug_at(__FILE__, __LINE__, #cond))

/* malloc family that calls bug() when memory is gone: every queue and line is bounded before, so
 * that running out is our mistake, not a peer's. */
void *xmalloc(size_t n) MUST_USE;
/* At the beginning of a cache line, for arrays of what is 64 bytes: each of them is one miss. */
void *xmalloc_lines(size_t n) MUST_USE;
void *xcalloc(size_t n, size_t size) MUST_USE;
void *xrealloc(void *p, size_t n) MUST_USE;
char *xstrdup(const char *s) MUST_USE;
char *xstrndup(const char *s, size_t n) MUST_USE;
