/* SPDX-License-Identifier: ISC */
/* The whole loader on any bytes: scanner, libconfig, table, checks. What it accepts must print to
 * something that it accepts again and prints the same, and survive encoding. */
#include "common/conf.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct conf *load_bytes(const void *p, size_t n)
{
	char path[64];
	struct buf errors;
	int fd = memfd_create("conf", MFD_CLOEXEC);
	must(fd >= 0 && fchmod(fd, 0600) == 0 && write(fd, p, n) == (ssize_t)n);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	buf_init(&errors, 1 << 20);
	struct conf *c = conf_load(path, &errors);
	must((c == NULL) == (errors.n > 0));
	buf_fini(&errors);
	close(fd);
	return c;
}

static void print(const struct conf *c, struct buf *out)
{
	buf_init(out, 16 << 20);
	conf_print(c, out);
	must(!out->failed);
}

static void must_equal(const struct buf *a, const struct buf *b)
{
	must(a->n == b->n && memcmp(a->p, b->p, a->n) == 0);
}

/* libconfig 1.5 forgets the string that it was reading at a syntax error. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:strbuf_append\nleak:libconfig_yy";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf first, second, third;
	/* An include would read whatever the machine has there. */
	if (memmem(data, size, "include", 7) != NULL)
		return 0;
	struct conf *c = load_bytes(data, size);
	if (c == NULL)
		return 0;
	print(c, &first);
	struct conf *again = load_bytes(first.p, first.n);
	must(again != NULL);
	print(again, &second);
	must_equal(&first, &second);
	struct conf *copy = conf_clone(c);
	print(copy, &third);
	must_equal(&first, &third);
	buf_fini(&first);
	buf_fini(&second);
	buf_fini(&third);
	conf_free(&copy);
	conf_free(&again);
	conf_free(&c);
	return 0;
}
