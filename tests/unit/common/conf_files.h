/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf.h"
#include "common/types.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
/* Configuration files of a test, in a directory of their own, and what the loader says of them. */
#define LISTEN "listeners = ( { relay-from = [ \"127.0.0.1\" ]; } );\n"
enum { TEXT_MAX_BYTES = 1 << 20 };
static char dir[64];

static inline int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/postern-test-conf.XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	return 0;
}

static inline int teardown(void **state)
{
	char command[128];
	(void)state;
	assert_int_equal(chdir("/"), 0);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static inline void put_bytes(const char *name, const char *text, size_t n)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), n);
	close(fd);
}

static inline void put(const char *name, const char *text)
{
	put_bytes(name, text, strlen(text));
}

static inline struct conf *load(const char *name, struct buf *errors)
{
	buf_init(errors, TEXT_MAX_BYTES);
	struct conf *c = conf_load(name, errors);
	buf_put(errors, "", 1);
	return c;
}

static inline struct conf *load_good(const char *name)
{
	struct buf errors;
	struct conf *c = load(name, &errors);
	if (c == NULL)
		print_error("%s", (const char *)errors.p);
	assert_non_null(c);
	assert_string_equal((const char *)errors.p, "");
	buf_fini(&errors);
	return c;
}

static inline void load_bad(const char *name, const char *expected)
{
	struct buf errors;
	struct conf *c = load(name, &errors);
	assert_string_equal((const char *)errors.p, expected);
	assert_null(c);
	buf_fini(&errors);
}

static inline char *printed(const struct conf *c)
{
	struct buf b;
	buf_init(&b, TEXT_MAX_BYTES);
	conf_print(c, &b);
	buf_put(&b, "", 1);
	assert_false(b.failed);
	return (char *)b.p;
}
