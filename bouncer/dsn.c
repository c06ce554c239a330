/* SPDX-License-Identifier: ISC */
/*
 * A delivery status notification, made whole in memory. Its three parts are written first, each in
 * wire form; then a boundary is chosen that stands in none of them; then they are put together.
 *
 *   text/plain                                         what happened, for people (text.c)
 *   message/delivery-status (message/global-…)         the same for programs, RFC 3464
 *   message/rfc822 (message/global)                    the original whole: RET=FULL, a failure, not
 * large or text/rfc822-headers (message/global-headers)    else its headers
 *
 * What is 7-bit stays 7-bit: UTF-8 is used only where an address (RFC 6533) or the original needs
 * it, so that the report passes the oldest hosts. The report asks for SMTPUTF8 only when its own
 * addressee is not ASCII.
 *
 * The original stands dot-stuffed in its segment. Its lines are unstuffed, judged, and stuffed
 * again by part_line(). A line that no message may have (longer than 998 bytes, with NUL, CR or LF
 * inside) makes the report return headers only, where such a line is folded or cleaned.
 */
#include "bouncer/dsn.h"
#include "bouncer/part.h"
#include "bouncer/text.h"
#include "common/record.h"
#include <stdio.h>
#include <string.h>

struct report { /* a report in the making */
	const struct dsn *d;
	bool full;   /* the original whole */
	bool utf8;   /* an address is not ASCII: text and status may be UTF-8 */
	bool global; /* the original is an SMTPUTF8 message */
	struct buf text, status, original;
	char boundary[80];
};

/* --- the original ------------------------------------------------------------------------ */

/* Takes the next line off *s, without CRLF and without the stuffed dot. False: no whole line is
 * left
 * (`at_end`: what is left counts as a line). */
static bool next_line(struct str *s, bool at_end, struct str *line)
{
	if (s->n == 0)
		return false;
	const char *end = memmem(s->p, s->n, "\r\n", 2);
	if (end == NULL && !at_end)
		return false;
	size_t n = end != NULL ? (size_t)(end - s->p) : s->n;
	size_t skip = end != NULL ? n + 2 : n;
	*line = (struct str){s->p, n};
	if (n > 0 && line->p[0] == '.') {
		line->p++;
		line->n--;
	}
	s->p += skip;
	s->n -= skip;
	return true;
}

static bool has_byte(struct str s, char c)
{
	return s.n > 0 && memchr(s.p, c, s.n) != NULL;
}

static bool line_is_clean(struct str line)
{
	return line.n <= LINE_MAX_BYTES && !has_byte(line, '\0') && !has_byte(line, '\r') &&
	       !has_byte(line, '\n');
}

static bool may_return_full(const struct dsn *d)
{
	struct str rest = d->content, line;
	if (d->kind != DSN_FAILED || d->envelope->ret != RET_FULL ||
	    d->content_bytes > DSN_RETURN_MAX || d->content.n != d->content_bytes)
		return false; /* RFC 3461 4.3: RET=FULL is about failures */
	while (next_line(&rest, true, &line)) {
		if (!line_is_clean(line))
			return false;
	}
	return true;
}

static void put_full(struct report *r)
{
	struct str rest = r->d->content, line;
	while (next_line(&rest, true, &line))
		part_line(&r->original, line);
}

/* A header line, folded where it is too long for a message. */
static void put_header_line(struct buf *b, struct str line)
{
	char piece[LINE_MAX_BYTES];
	size_t used = 0; /* of a continuation: the blank that makes it one */
	do {
		size_t n = line.n < sizeof(piece) - used ? line.n : sizeof(piece) - used;
		if (n > 0)
			memcpy(piece + used, line.p, n);
		part_line(b, (struct str){piece, used + n});
		line.p += n;
		line.n -= n;
		piece[0] = ' ';
		used = 1;
	} while (line.n > 0);
}

static void put_headers(struct report *r)
{
	struct str rest = r->d->content, line;
	bool whole = r->d->content.n == r->d->content_bytes;
	while (r->original.n < DSN_HEADERS_MAX && next_line(&rest, whole, &line) && line.n > 0)
		put_header_line(&r->original, line);
}

/* --- the status part --------------------------------------------------------------------- */

static void put_address(struct report *r, const char *field, struct str address)
{
	char value[2048];
	snprintf(value, sizeof(value), "%s; %.*s", part_is_ascii(address) ? "rfc822" : "utf-8",
	    STR_ARG(address));
	part_field(&r->status, field, str_of(value), r->utf8);
}

static void put_date(struct report *r, const char *field, int64_t wall_ms)
{
	char date[40];
	part_date(date, wall_ms);
	part_field(&r->status, field, str_of(date), false);
}

static void put_message_fields(struct report *r)
{
	const struct dsn *d = r->d;
	char id[RECORD_ID_TEXT];
	record_id_print(id, d->original_id);
	part_printf(&r->status, "Reporting-MTA: dns; %s", d->host_name);
	part_printf(&r->status, "X-Postern-Queue-ID: %s", id);
	put_address(r, "X-Postern-Sender", d->envelope->sender);
	if (d->envelope->envid.n > 0)
		part_field(&r->status, "Original-Envelope-Id", d->envelope->envid, r->utf8);
	if (d->arrived_ms > 0)
		put_date(r, "Arrival-Date", d->arrived_ms);
}

/* "5.1.1", or what the kind stands for when there is nothing of that form. */
static void put_status(struct report *r, struct str status)
{
	static const char *const otherwise[DSN_KIND_COUNT] = {
	    [DSN_FAILED] = "5.0.0", [DSN_DELAYED] = "4.0.0", [DSN_SUCCESS] = "2.0.0"};
	const char *first = r->d->kind == DSN_SUCCESS	? "2"
			    : r->d->kind == DSN_DELAYED ? "4"
							: "45";
	struct str rest = status;
	unsigned long long n;
	bool good = status.n >= 5 && status.n <= 9 && strchr(first, status.p[0]) != NULL;
	for (int part = 0; part < 3; part++)
		good = str_number(str_cut(&rest, '.'), 999, &n) == 0 && good;
	if (!good || rest.n > 0)
		status = str_of(otherwise[r->d->kind]);
	part_field(&r->status, "Status", status, false);
}

static void put_diagnostic(struct report *r, const struct dsn_rcpt *rcpt)
{
	char value[2048];
	struct str host = rcpt->said_by;
	for (size_t i = 0; i < host.n; i++) { /* NAME[IP]:PORT: the name is enough here */
		if (host.p[i] == '[' && i > 0)
			host.n = i;
	}
	if (host.n > 0) {
		snprintf(value, sizeof(value), "dns; %.*s", STR_ARG(host));
		part_field(&r->status, "Remote-MTA", str_of(value), false);
	}
	if (rcpt->text.n == 0)
		return;
	snprintf(value, sizeof(value), "%s; %.*s", rcpt->code != 0 ? "smtp" : "X-Postern",
	    STR_ARG(rcpt->text));
	part_field(&r->status, "Diagnostic-Code", str_of(value), r->utf8);
}

static void put_recipient(struct report *r, const struct dsn_rcpt *rcpt)
{
	static const char *const actions[DSN_KIND_COUNT] = {
	    [DSN_FAILED] = "failed", [DSN_DELAYED] = "delayed", [DSN_SUCCESS] = "delivered"};
	const struct dsn *d = r->d;
	part_line(&r->status, STR(""));
	if (has_byte(rcpt->orcpt, ';'))
		part_field(&r->status, "Original-Recipient", rcpt->orcpt, r->utf8);
	put_address(r, "Final-Recipient", rcpt->address);
	part_field(&r->status, "Action",
	    str_of(d->kind == DSN_SUCCESS && rcpt->relayed ? "relayed" : actions[d->kind]), false);
	put_status(r, rcpt->status);
	put_diagnostic(r, rcpt);
	if (rcpt->stage != STAGE_INTERNAL) /* else no attempt has led here, or one long ago */
		put_date(r, "Last-Attempt-Date", d->now_ms);
	if (d->kind == DSN_DELAYED && d->retry_until_ms > 0)
		put_date(r, "Will-Retry-Until", d->retry_until_ms);
}

/* --- putting it together ----------------------------------------------------------------- */

static bool has_boundary(const struct report *r)
{
	const struct buf *parts[] = {&r->text, &r->status, &r->original};
	for (size_t i = 0; i < COUNT_OF(parts); i++) {
		if (parts[i]->n > 0 &&
		    memmem(parts[i]->p, parts[i]->n, r->boundary, strlen(r->boundary)) != NULL)
			return true;
	}
	return false;
}

/* Counts up until the boundary stands nowhere: at most as often as it fits into the parts. */
static void choose_boundary(struct report *r)
{
	char id[RECORD_ID_TEXT];
	unsigned n = 0;
	record_id_print(id, r->d->id);
	do
		snprintf(r->boundary, sizeof(r->boundary), "=_postern.%s.%u", id, n++);
	while (has_boundary(r));
}

static void put_part(struct buf *b, const struct report *r, const char *description,
    const char *type, const struct buf *part)
{
	bool ascii = part_is_ascii((struct str){(const char *)part->p, part->n});
	part_printf(b, "--%s", r->boundary);
	part_printf(b, "Content-Description: %s", description);
	part_printf(b, "Content-Type: %s", type);
	if (!ascii)
		part_line(b, STR("Content-Transfer-Encoding: 8bit"));
	part_line(b, STR(""));
	buf_put(b, part->p, part->n);
	part_line(b, STR(""));
}

static void put_top(struct buf *b, const struct report *r, bool ascii)
{
	const struct dsn *d = r->d;
	char date[40], id[RECORD_ID_TEXT], from[512];
	part_date(date, d->now_ms);
	record_id_print(id, d->id);
	snprintf(from, sizeof(from), "Mail Delivery System <%s%s>",
	    d->postmaster[0] != '\0' ? d->postmaster : "MAILER-DAEMON@",
	    d->postmaster[0] != '\0' ? "" : d->host_name);
	part_printf(b, "Date: %s", date);
	part_field(b, "From", str_of(from), true);
	part_field(b, "To", d->envelope->sender, true);
	part_printf(b, "Subject: %s", text_subject(d->kind));
	part_printf(b, "Message-ID: <%s.dsn@%s>", id, d->host_name);
	part_line(b, STR("Auto-Submitted: auto-replied"));
	part_line(b, STR("MIME-Version: 1.0"));
	part_line(b, STR("Content-Type: multipart/report; report-type=delivery-status;"));
	part_printf(b, "    boundary=\"%s\"", r->boundary);
	if (!ascii)
		part_line(b, STR("Content-Transfer-Encoding: 8bit"));
	part_line(b, STR(""));
	part_line(b, STR("This is a MIME-encapsulated message."));
	part_line(b, STR(""));
}

static void assemble(struct buf *b, const struct report *r)
{
	const char *original = r->full
				   ? (r->global ? "message/global" : "message/rfc822")
				   : (r->global ? "message/global-headers" : "text/rfc822-headers");
	bool ascii = part_is_ascii((struct str){(const char *)r->text.p, r->text.n}) &&
		     part_is_ascii((struct str){(const char *)r->status.p, r->status.n}) &&
		     part_is_ascii((struct str){(const char *)r->original.p, r->original.n});
	put_top(b, r, ascii);
	put_part(b, r, "Notification",
	    r->utf8 ? "text/plain; charset=utf-8" : "text/plain; charset=us-ascii", &r->text);
	put_part(b, r, "Delivery report",
	    r->utf8 ? "message/global-delivery-status" : "message/delivery-status", &r->status);
	put_part(b, r, r->full ? "Undelivered Message" : "Message Headers", original, &r->original);
	part_printf(b, "--%s--", r->boundary);
}

static bool needs_utf8(const struct dsn *d)
{
	if (!part_is_ascii(d->envelope->sender))
		return true;
	for (size_t i = 0; i < d->rcpt_count && i < DSN_DETAIL_MAX; i++) {
		if (!part_is_ascii(d->rcpt[i].address) || !part_is_ascii(d->rcpt[i].orcpt))
			return true;
	}
	return false;
}

static void put_received(struct buf *headers, const struct dsn *d)
{
	char date[40], id[RECORD_ID_TEXT];
	part_date(date, d->now_ms);
	record_id_print(id, d->id);
	part_printf(headers, "Received: by %s (Postern) id %s;", d->host_name, id);
	part_printf(headers, "    %s", date);
}

uint8_t dsn_build(const struct dsn *d, struct buf *headers, struct buf *content)
{
	struct report r = {.d = d,
	    .full = may_return_full(d),
	    .utf8 = needs_utf8(d),
	    .global = (d->envelope->body & ENV_UTF8) != 0};
	must(d->kind < DSN_KIND_COUNT && d->rcpt_count > 0);
	buf_init(&r.text, DSN_BYTES_MAX);
	buf_init(&r.status, DSN_BYTES_MAX);
	buf_init(&r.original, DSN_BYTES_MAX);
	text_body(&r.text, d, r.full, r.utf8);
	put_message_fields(&r);
	for (size_t i = 0; i < d->rcpt_count && i < DSN_DETAIL_MAX; i++)
		put_recipient(&r, &d->rcpt[i]);
	if (r.full)
		put_full(&r);
	else
		put_headers(&r);
	choose_boundary(&r);
	put_received(headers, d);
	assemble(content, &r);
	must(!r.text.failed && !r.status.failed && !r.original.failed);
	uint8_t bits =
	    part_is_ascii((struct str){(const char *)content->p, content->n}) ? 0 : ENV_8BIT;
	if (!part_is_ascii(d->envelope->sender))
		bits |= ENV_UTF8;
	buf_fini(&r.text);
	buf_fini(&r.status);
	buf_fini(&r.original);
	return bits;
}
