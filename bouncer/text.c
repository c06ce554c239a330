/* SPDX-License-Identifier: ISC */
/*
 * The first part of a report, for people who are no mail administrators: which host writes, what
 * happened to the message, who said so and at which step.
 */
#include "bouncer/text.h"
#include "bouncer/part.h"
#include <stdio.h>

const char *text_subject(enum dsn_kind kind)
{
	static const char *const subjects[DSN_KIND_COUNT] = {
	    [DSN_FAILED] = "Undelivered Mail Returned to Sender",
	    [DSN_DELAYED] = "Delayed Mail (still being retried)",
	    [DSN_SUCCESS] = "Successful Mail Delivery Report",
	};
	return subjects[kind];
}

static void lines(struct buf *b, const char *const *text)
{
	for (; *text != NULL; text++)
		part_line(b, str_of(*text));
}

static void opening(struct buf *b, const struct dsn *d, bool full)
{
	static const char *const failed[] = {
	    "I am sorry to have to tell you that your message could not be delivered",
	    "to one or more recipients. They are listed below, with the reason. No",
	    "further attempt will be made for them.", "", NULL};
	static const char *const delayed[] = {
	    "THIS IS A WARNING ONLY. YOU DO NOT NEED TO SEND YOUR MESSAGE AGAIN.", "",
	    "Your message could not yet be delivered to the recipients listed below.", NULL};
	static const char *const success[] = {
	    "Your message was handed on for the recipients listed below, as you asked",
	    "to be told. If the message was relayed to a system that makes no such",
	    "reports, no further one will come.", "", NULL};
	static const char *const *const texts[DSN_KIND_COUNT] = {
	    [DSN_FAILED] = failed, [DSN_DELAYED] = delayed, [DSN_SUCCESS] = success};
	char date[40];
	part_printf(b, "This is the mail system at host %s.", d->host_name);
	part_line(b, STR(""));
	lines(b, texts[d->kind]);
	if (d->kind == DSN_DELAYED && d->retry_until_ms > 0) {
		part_date(date, d->retry_until_ms);
		part_printf(b, "It will be retried until %s.", date);
	}
	if (d->kind == DSN_DELAYED)
		part_line(b, STR(""));
	part_line(b, full ? STR("Your message is attached.")
			  : STR("The headers of your message are attached."));
	part_printf(b, "If you need help, please write to %s%s.",
	    d->postmaster[0] != '\0' ? d->postmaster : "postmaster@",
	    d->postmaster[0] != '\0' ? "" : d->host_name);
}

/* What was being done when it was decided, in words. */
static const char *stage_words(uint8_t stage)
{
	static const char *const words[STAGE_COUNT] = {
	    [STAGE_CONNECT] = "while connecting",
	    [STAGE_GREETING] = "in its greeting",
	    [STAGE_EHLO] = "in reply to the EHLO command",
	    [STAGE_STARTTLS] = "in reply to the STARTTLS command",
	    [STAGE_AUTH] = "in reply to the AUTH command",
	    [STAGE_MAIL] = "in reply to the MAIL FROM command",
	    [STAGE_RCPT] = "in reply to the RCPT TO command",
	    [STAGE_DATA] = "in reply to the DATA command",
	    [STAGE_DOT] = "in reply to the end of the message",
	};
	return stage < STAGE_COUNT ? words[stage] : NULL;
}

static void recipient(struct buf *b, const struct dsn *d, const struct dsn_rcpt *r, bool utf8)
{
	char line[4096];
	part_line(b, STR(""));
	snprintf(line, sizeof(line), "<%.*s>:", STR_ARG(r->address));
	part_text(b, "", str_of(line), utf8);
	const char *where = r->code != 0 ? stage_words(r->stage) : NULL;
	if (d->kind == DSN_SUCCESS)
		part_text(b, "    ", r->relayed ? STR("relayed") : STR("delivered"), utf8);
	if (r->said_by.n > 0) {
		snprintf(line, sizeof(line), "host %.*s said%s%s: %.*s", STR_ARG(r->said_by),
		    where != NULL ? " " : "", where != NULL ? where : "", STR_ARG(r->text));
		part_text(b, "    ", str_of(line), utf8);
	} else if (r->text.n > 0) {
		part_text(b, "    ", r->text, utf8);
	}
}

void text_body(struct buf *b, const struct dsn *d, bool full, bool utf8)
{
	opening(b, d, full);
	for (size_t i = 0; i < d->rcpt_count && i < DSN_DETAIL_MAX; i++)
		recipient(b, d, &d->rcpt[i], utf8);
	if (d->rcpt_count > DSN_DETAIL_MAX) {
		part_line(b, STR(""));
		part_printf(
		    b, "and %zu more recipients, not listed here.", d->rcpt_count - DSN_DETAIL_MAX);
	}
}
