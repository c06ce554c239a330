/* SPDX-License-Identifier: ISC */
/*
 * Counted bytes. Case folding is ASCII only and independent of the locale: SMTP keywords, host
 * names and header names are (RFC 5321 2.4), and a locale must not decide how mail is routed.
 */
#include "common/str.h"
#include "common/check.h"
#include <errno.h>

static unsigned char lower(char c)
{
	return (unsigned char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
}

static bool same_nocase(const char *a, const char *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (lower(a[i]) != lower(b[i]))
			return false;
	return true;
}

bool str_eq_nocase(struct str a, struct str b)
{
	return a.n == b.n && same_nocase(a.p, b.p, a.n);
}

bool str_starts_nocase(struct str s, struct str prefix)
{
	return s.n >= prefix.n && same_nocase(s.p, prefix.p, prefix.n);
}

size_t str_copy(char *dst, size_t size, struct str s)
{
	if (size == 0)
		return 0;
	size_t n = s.n < size ? s.n : size - 1;
	if (n > 0)
		memcpy(dst, s.p, n);
	dst[n] = '\0';
	return n;
}

char *str_dup(struct str s)
{
	char *copy = xmalloc(s.n + 1);
	str_copy(copy, s.n + 1, s);
	return copy;
}

int str_number(struct str s, unsigned long long max, unsigned long long *value)
{
	unsigned long long v = 0;
	if (s.n == 0)
		return -EINVAL;
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] < '0' || s.p[i] > '9')
			return -EINVAL;
	for (size_t i = 0; i < s.n; i++) {
		unsigned digit = (unsigned)(s.p[i] - '0');
		if (digit > max || v > (max - digit) / 10)
			return -ERANGE;
		v = v * 10 + digit;
	}
	*value = v;
	return 0;
}

struct str str_cut(struct str *s, char sep)
{
	const char *at = s->n ? memchr(s->p, sep, s->n) : NULL;
	struct str head = {s->p, at ? (size_t)(at - s->p) : s->n};
	size_t taken = at ? head.n + 1 : head.n;
	if (taken > 0)
		s->p += taken;
	s->n -= taken;
	return head;
}
