/* SPDX-License-Identifier: ISC */
/* Any bytes as mailbox, domain, xtext and network; what is accepted prints to what parses to the
 * same. */
#include "common/addr.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str s = {(const char *)data, size};
	struct mailbox m, again;
	struct network n;
	char printed[ADDRESS_MAX + 1], domain[DOMAIN_MAX + 1], twice[DOMAIN_MAX + 1], text[200];
	struct buf b;

	if (mailbox_parse(&m, s, true) == 0) {
		mailbox_print(printed, &m);
		if (mailbox_parse(&again, str_of(printed), true) != 0 ||
		    strcmp(m.local, again.local) != 0 || strcmp(m.domain, again.domain) != 0 ||
		    m.utf8 != again.utf8)
			abort();
		for (const char *p = printed; *p; p++)
			if ((unsigned char)*p < 0x20 || *p == 0x7f)
				abort();
	}
	if (domain_normalise(domain, s) == 0)
		if (domain_normalise(twice, str_of(domain)) != 0 || strcmp(domain, twice) != 0)
			abort();
	if (xtext_decode(text, sizeof(text), s) == 0) {
		char back[200];
		buf_init(&b, 10000);
		xtext_encode(&b, str_of(text));
		if (xtext_decode(back, sizeof(back), (struct str){(const char *)b.p, b.n}) != 0 ||
		    strcmp(text, back) != 0)
			abort();
		buf_fini(&b);
	}
	(void)network_parse(&n, s);
	(void)helo_valid(s);
	return 0;
}
