/* SPDX-License-Identifier: ISC */
/* Replies of a hostile server, in pieces whose sizes are the input's too: bounded, one clean line.
 */
#include "common/reply.h"
#include "common/utf8.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	size_t step = data[0] ? data[0] : 1, have = 0;
	const char *bytes = (const char *)data + 1;
	size--;
	struct reply_parser p;
	struct str in = {bytes, 0};
	reply_parser_init(&p);
	while (have < size) {
		size_t n = size - have < step ? size - have : step;
		have += n;
		in.n += n;
		int done = reply_parse(&p, &in, NULL, NULL);
		if (done < 0)
			return 0;
		must(in.n <= REPLY_LINE_MAX + step || done == 1);
		if (done == 0)
			continue;
		must(p.reply.code >= 200 && p.reply.code <= 599);
		must(p.reply.lines >= 1 && p.reply.lines <= REPLY_LINES_MAX);
		must(
		    strlen(p.reply.text) <= REPLY_TEXT_MAX && utf8_printable(str_of(p.reply.text)));
		must(p.reply.status[0] == (char)('0' + p.reply.code / 100));
		reply_parser_init(&p);
	}
	return 0;
}
