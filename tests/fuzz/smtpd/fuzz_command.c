/* SPDX-License-Identifier: ISC */
/* Any line: what is accepted holds nothing that could break a log line, a header or an envelope. */
#include "smtpd/parse.h"
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *s, size_t max, int ascii)
{
	size_t n = strlen(s);
	if (n > max)
		abort();
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f ||
		    (ascii && (unsigned char)s[i] >= 0x80))
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct command c;
	char printed[ADDRESS_MAX + 1];

	if (size > COMMAND_LINE_MAX || memchr(data, '\n', size))
		return 0;
	(void)command_is_alien((struct str){(const char *)data, size});
	if (command_parse(&c, (struct str){(const char *)data, size}) != ANSWER_NONE)
		return 0;
	mailbox_print(printed, &c.mailbox);
	check_text(printed, ADDRESS_MAX, 0);
	check_text(c.mailbox.domain, DOMAIN_MAX, 1);
	check_text(c.envid, ENVID_TEXT_MAX, 1);
	check_text(c.orcpt, ORCPT_TEXT_MAX, 1);
	if (c.verb == VERB_EHLO || c.verb == VERB_HELO)
		if (!helo_valid(c.argument))
			abort();
	if ((c.verb == VERB_RCPT && !c.postmaster) && !c.mailbox.domain[0])
		abort();
	return 0;
}
