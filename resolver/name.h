/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/check.h"
#include "common/str.h"
#include <stdint.h>
/*
 * Domain names as this process keeps them: lower-case text without the final dot, at most 253
 * characters of letters, digits, hyphens and underscores; "" is the root. Everything else that DNS
 * can carry (NUL, blanks, newlines, dots inside a label, 8-bit) is refused here, before it can
 * reach a log, a header or another process.
 */
enum {
	NAME_TEXT = 256, /* text with its NUL */
	NAME_WIRE = 255, /* RFC 1035 2.3.4 */
};
/* From uncompressed wire form. 0, or -EINVAL: cut short, too long, or not a host name. */
int name_from_wire(char out[NAME_TEXT], const uint8_t *wire, size_t n) MUST_USE;
/* The same, with a slash let through: aliases in reverse zones. For comparing only. */
int name_from_wire_reverse(char out[NAME_TEXT], const uint8_t *wire, size_t n) MUST_USE;
/* Length of the wire form, or -EINVAL when `name` is not one of ours. */
int name_to_wire(uint8_t out[NAME_WIRE], const char *name) MUST_USE;
/* From text of any case, with or without the final dot. 0 or -EINVAL. */
int name_from_text(char out[NAME_TEXT], struct str text) MUST_USE;
/* "192.0.2.1" or "2001:db8::1" where a name should stand: a common mistake in MX records. */
bool name_is_address(const char *name);
