/* SPDX-License-Identifier: ISC */
/*
 * Where our own bugs end. The message goes to descriptor 2 without stdio's buffers, because the
 * state of the process is no longer to be trusted; then abort(), so that a core shows the stack and
 * master restarts the worker and counts the message it was handling.
 */
#include "common/check.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Noreturn void bug_at(const char *file, int line, const char *what)
{
	dprintf(STDERR_FILENO, "<2>%s[%ld]: bug: %s:%d: %s\n", program_invocation_short_name,
	    (long)getpid(), file, line, what);
	abort();
}

void *xmalloc(size_t n)
{
	void *p = malloc(n ? n : 1);
	must(p != NULL);
	return p;
}

void *xmalloc_lines(size_t n)
{
	void *p = aligned_alloc(64, (n + 63) / 64 * 64);
	must(p != NULL);
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);
	must(p != NULL);
	return p;
}

void *xrealloc(void *p, size_t n)
{
	void *grown = realloc(p, n ? n : 1);
	must(grown != NULL);
	return grown;
}

char *xstrdup(const char *s)
{
	return xstrndup(s, strlen(s));
}

char *xstrndup(const char *s, size_t n)
{
	n = strnlen(s, n);
	char *copy = xmalloc(n + 1);
	memcpy(copy, s, n);
	copy[n] = '\0';
	return copy;
}
