/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/str.h"
#include <stdint.h>
/*
 * What a server offers in its answer to EHLO. Pure. Feed each line of the reply; line 0 is the
 * greeting and carries no keyword. Unknown keywords are only noted in `esmtp`.
 */
enum feature {
	FEATURE_PIPELINING = 1,
	FEATURE_8BITMIME = 2,
	FEATURE_SMTPUTF8 = 4,
	FEATURE_DSN = 8,
	FEATURE_STARTTLS = 16,
	FEATURE_CHUNKING =
	    32, /* noted, not used: little gain over DATA, and servers with bugs in it */
	FEATURE_STATUS = 64, /* ENHANCEDSTATUSCODES: noted; codes are read in any case */
	FEATURE_SIZE = 128,
};
struct features {
	unsigned bits;
	uint64_t size_max; /* 0: no limit stated */
	uint32_t rcpt_max; /* LIMITS, RFC 9422; 0: not stated */
	uint32_t mail_max;
	char esmtp[256]; /* the keywords, for accounting; cut at a word */
};
void features_init(struct features *f);
void features_line(struct features *f, unsigned line, struct str text);
