/* SPDX-License-Identifier: ISC */
/*
 * Text of the fields that stand above a message. All that goes in was checked before: helo_valid()
 * leaves nothing that could end a comment or a line, addresses come from mailbox_parse(). Times are
 * UTC: a worker in an empty root has no zone files that could change under it.
 */
#include "smtpd/received.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

void date_print(char out[DATE_TEXT], int64_t wall_ms)
{
	static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
	static const char months[12][4] = {
	    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	time_t t = (time_t)(wall_ms / 1000);
	struct tm tm;
	int n;

	gmtime_r(&t, &tm);
	n = snprintf(out, DATE_TEXT, "%s, %02u %s %04u %02u:%02u:%02u +0000", days[tm.tm_wday % 7],
	    (unsigned)tm.tm_mday % 100, months[tm.tm_mon % 12],
	    (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)tm.tm_hour % 100,
	    (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
	must(n < DATE_TEXT);
}

const char *received_protocol(bool ehlo, bool tls, bool utf8)
{
	if (utf8)
		return tls ? "UTF8SMTPS" : "UTF8SMTP";
	if (!ehlo)
		return "SMTP";
	return tls ? "ESMTPS" : "ESMTP";
}

void received_put(struct buf *b, const struct received *r)
{
	char date[DATE_TEXT];
	const char *v6 = strchr(r->client, ':') ? "IPv6:" : "";

	date_print(date, r->wall_ms);
	buf_printf(b, "Received: from %s (unknown [%s%s])\r\n", r->helo, v6, r->client);
	if (r->tls[0])
		buf_printf(b, "\t(using %s)\r\n", r->tls);
	buf_printf(b, "\tby %s (Postern) with %s id %s", r->host, r->protocol, r->id);
	if (r->rcpt[0])
		buf_printf(b, "\r\n\tfor <%s>", r->rcpt);
	buf_printf(b, ";\r\n\t%s\r\n", date);
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
