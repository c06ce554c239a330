/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include "common/buf.h"
#include "common/str.h"
#include <stdint.h>
/*
 * Mailbox, domain and network syntax: RFC 5321 4.1.2, 6531; xtext RFC 3461 4. Pure, fuzzed.
 */
/*
 * RFC 5321 gives a local part 64 octets, but the senders of bulk mail write more into theirs
 * (VERP), and every MTA of note takes it: the bound here is LOCAL_PART_MAX * 4 octets, and
 * ADDRESS_MAX for the whole.
 */
enum { LOCAL_PART_MAX = 64, DOMAIN_MAX = 255, ADDRESS_MAX = 320 };
struct mailbox {
	char local[LOCAL_PART_MAX * 4 + 1]; /* unescaped and quoted anew where it needs it; UTF-8 */
	char domain[DOMAIN_MAX + 1]; /* lower case; U-labels turned to A-labels; [literal] kept */
	bool utf8;		     /* needs SMTPUTF8: the local part is not ASCII */
};
/* `s` is what stands between < and >, source routes dropped. null_ok admits "" (local, domain "").
 * 0 or -EINVAL. Refuses control characters, bare specials, bad labels, missing domain. */
int mailbox_parse(struct mailbox *m, struct str s, bool null_ok) MUST_USE;
void mailbox_print(char out[ADDRESS_MAX + 1], const struct mailbox *m);
/* Host name or address literal of EHLO/HELO. */
bool helo_valid(struct str s);
/* Lower-cases, converts to A-labels, checks label and name length, letters, digits, hyphen,
 * underscore. */
int domain_normalise(char out[DOMAIN_MAX + 1], struct str s) MUST_USE;
/* 0, -EINVAL, -E2BIG. What it yields is printable ASCII: an encoded NUL, CR, LF, other control or
 * 8-bit octet is refused. */
int xtext_decode(char *out, size_t size, struct str s) MUST_USE;
void xtext_encode(struct buf *b, struct str s);
bool utf8_valid(struct str s); /* well-formed, no surrogates, no overlong forms */

struct network { /* IPv4 is kept as ::ffff:a.b.c.d */
	uint8_t bytes[16];
	uint8_t bits; /* 0 … 128 */
};
int network_parse(struct network *n, struct str s) MUST_USE; /* "10.0.0.0/8", "::1" */
bool network_has(const struct network *n, const uint8_t address[16]);
