/* SPDX-License-Identifier: ISC */
/*
 * Text of the fields that stand above a message. All that goes in was checked before: helo_valid()
 * leaves nothing that could end a comment or a line, addresses come from mailbox_parse(). Times are
 * UTC: a worker in an empty root has no zone files that could change under it.
 */
#include "smtpd/received.h"

#include <string.h>
#include <time.h>

enum { RECEIVED_ROOM = 512 }; /* what it mostly takes: one allocation */

static char *put_digits(char *p, unsigned value, int digits)
{
	for (int i = digits - 1; i >= 0; i--, value /= 10)
		p[i] = (char)('0' + value % 10);
	return p + digits;
}

/* By hand: printf's way cost as much as parsing MAIL and RCPT. */
void date_print(char out[DATE_TEXT], int64_t wall_ms)
{
	static const char days[] = "SunMonTueWedThuFriSat";
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t t = (time_t)(wall_ms / 1000);
	struct tm tm;
	char *p = out;

	gmtime_r(&t, &tm);
	p = mempcpy(p, days + 3 * (tm.tm_wday % 7), 3);
	p = put_digits(mempcpy(p, ", ", 2), (unsigned)tm.tm_mday, 2);
	*p++ = ' ';
	p = mempcpy(p, months + 3 * (tm.tm_mon % 12), 3);
	*p++ = ' ';
	p = put_digits(p, (unsigned)tm.tm_year + 1900, 4);
	*p++ = ' ';
	p = put_digits(p, (unsigned)tm.tm_hour, 2);
	*p++ = ':';
	p = put_digits(p, (unsigned)tm.tm_min, 2);
	*p++ = ':';
	p = put_digits(p, (unsigned)tm.tm_sec, 2);
	memcpy(p, " +0000", sizeof(" +0000"));
}

const char *received_protocol(bool ehlo, bool tls, bool utf8)
{
	if (utf8)
		return tls ? "UTF8SMTPS" : "UTF8SMTP";
	if (!ehlo)
		return "SMTP";
	return tls ? "ESMTPS" : "ESMTP";
}

static void put_all(struct buf *b, const char *const *parts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf_cstr(b, parts[i]);
}

void received_put(struct buf *b, const struct received *r)
{
	char date[DATE_TEXT];
	const char *v6 = strchr(r->client, ':') ? "IPv6:" : "";
	const char *from[] = {"Received: from ", r->helo, " (unknown [", v6, r->client, "])\r\n"};
	const char *tls[] = {"\t(using ", r->tls, ")\r\n"};
	const char *by[] = {"\tby ", r->host, " (Postern) with ", r->protocol, " id ", r->id};
	const char *to[] = {"\r\n\tfor <", r->rcpt, ">"};
	const char *at[] = {";\r\n\t", date, "\r\n"};

	date_print(date, r->wall_ms);
	(void)buf_reserve(b, RECEIVED_ROOM);
	put_all(b, from, COUNT_OF(from));
	if (r->tls[0])
		put_all(b, tls, COUNT_OF(tls));
	put_all(b, by, COUNT_OF(by));
	if (r->rcpt[0])
		put_all(b, to, COUNT_OF(to));
	put_all(b, at, COUNT_OF(at));
}

void received_put_date(struct buf *b, int64_t wall_ms)
{
	char date[DATE_TEXT];

	date_print(date, wall_ms);
	buf_printf(b, "Date: %s\r\n", date);
}

void received_put_message_id(struct buf *b, const struct received *r)
{
	buf_printf(
	    b, "Message-ID: <%s.%llx@%s>\r\n", r->id, (unsigned long long)r->wall_ms, r->host);
}
