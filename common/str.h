/* SPDX-License-Identifier: ISC */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
/* Counted bytes that belong to somebody else. Bytes from outside are never NUL-terminated views. */
struct str {
	const char *p;
	size_t n;
};
#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})
#define STR_ARG(s) (int)(s).n, (s).p /* for "%.*s" */

static inline struct str str_of(const char *cstr)
{
	return (struct str){cstr ? cstr : "", cstr ? strlen(cstr) : 0};
}
static inline bool str_eq(struct str a, struct str b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
bool str_eq_nocase(struct str a, struct str b); /* ASCII only */
bool str_starts_nocase(struct str s, struct str prefix);
/* Copies into dst (always NUL-terminated when size > 0), cut to fit; returns what fitted. */
size_t str_copy(char *dst, size_t size, struct str s);
char *str_dup(struct str s); /* caller frees; NUL-terminated */
/* Decimal number without sign or blanks, at most max. Returns 0 or -ERANGE / -EINVAL. */
int str_number(struct str s, unsigned long long max, unsigned long long *value);
/* Takes off and returns what stands before the first `sep` (or all); the rest stays in *s. */
struct str str_cut(struct str *s, char sep);
