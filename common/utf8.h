/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/str.h"
/*
 * UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. Logs and JSON
 * answers may carry nothing else.
 */

/* Length of the well-formed sequence at the start of s (1 … 4), or 0. */
static inline size_t utf8_sequence(struct str s)
{
	const unsigned char *p = (const unsigned char *)s.p;
	if (s.n == 0)
		return 0;
	if (p[0] < 0x80)
		return 1;
	size_t n = p[0] >= 0xC2 && p[0] <= 0xDF	  ? 2
		   : (p[0] & 0xF0) == 0xE0	  ? 3
		   : p[0] >= 0xF0 && p[0] <= 0xF4 ? 4
						  : 0;
	if (n == 0 || s.n < n)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xC0) != 0x80)
			return 0;
	if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
	    (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
		return 0;
	return n;
}
/* Well-formed, and without control characters and DEL. */
static inline bool utf8_printable(struct str s)
{
	while (s.n > 0) {
		size_t n = utf8_sequence(s);
		if (n == 0 || (unsigned char)s.p[0] < 0x20 || s.p[0] == 0x7F)
			return false;
		s.p += n;
		s.n -= n;
	}
	return true;
}
