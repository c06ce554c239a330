/* SPDX-License-Identifier: ISC */
/* smtp-hosts of any bytes: what is taken is bounded, printable, and means the same when written out
 * again. */
#include "common/hosts.h"
#include "common/buf.h"
#include "common/check.h"
#include <stdint.h>

static void print(struct buf *out, const struct hosts_entry *e, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			buf_cstr(out, e[i].level == e[i - 1].level ? "," : ";");
		if (e[i].kind == HOSTS_LOOKUP_MX)
			buf_cstr(out, "lookup-mx:");
		buf_cstr(out, e[i].name);
		if (e[i].port != 0)
			buf_printf(out, ":%u", e[i].port);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hosts_entry a[HOSTS_MAX], b[HOSTS_MAX];
	char why[200];
	size_t n, m;
	if (hosts_parse((struct str){(const char *)data, size}, a, &n, why) != 0) {
		must(strlen(why) > 0);
		return 0;
	}
	must(n > 0 && n <= HOSTS_MAX);
	struct buf text;
	buf_init(&text, 65536);
	print(&text, a, n);
	must(hosts_parse((struct str){(const char *)text.p, text.n}, b, &m, why) == 0 && m == n);
	for (size_t i = 0; i < n; i++)
		must(a[i].kind == b[i].kind && a[i].level == b[i].level && a[i].port == b[i].port &&
		     strcmp(a[i].name, b[i].name) == 0);
	buf_fini(&text);
	return 0;
}
