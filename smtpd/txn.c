/* SPDX-License-Identifier: ISC */
/*
 * The transaction object. Recipients are encoded as they come, so a message for 50,000 costs one
 * growing buffer and no object each; its bound is what ACCEPTED can carry.
 */
#include "smtpd/txn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	FIELDS_ROOM = 16384,  /* of ENVELOPE_MAX, for the fields of the message itself */
	CONTENT_FIRST = 8192, /* first room for content whose size nobody said */
	CONTENT_ROOM = 65536, /* at most reserved for a SIZE that a client only claims */
};

struct txn *txn_new(const struct command *mail, int64_t deadline_ms)
{
	struct txn *t = xcalloc(1, sizeof(*t));

	mailbox_print(t->sender, &mail->mailbox);
	t->smtputf8 = mail->utf8;
	t->address_utf8 = mail->mailbox.utf8;
	t->declared_8bit = mail->body_8bit;
	t->ret = mail->ret;
	t->size = mail->size;
	str_copy(t->envid, sizeof(t->envid), str_of(mail->envid));
	t->deadline_ms = deadline_ms;
	buf_init(&t->rcpts, ENVELOPE_MAX - FIELDS_ROOM);
	return t;
}

void txn_free(struct txn **txn)
{
	struct txn *t = *txn;

	*txn = NULL;
	if (!t)
		return;
	segstream_abandon(&t->stream);
	buf_fini(&t->rcpts);
	buf_fini(&t->content);
	free(t);
}

enum answer txn_add_rcpt(struct txn *t, const struct command *c, unsigned max, const char *host)
{
	char address[ADDRESS_MAX + 1];
	size_t before = t->rcpts.n;

	if (c->postmaster)
		snprintf(address, sizeof(address), "postmaster@%s", host);
	else
		mailbox_print(address, &c->mailbox);
	if (c->utf8 && !t->smtputf8)
		return ANSWER_NEEDS_UTF8;
	if (t->rcpt_count >= max)
		return ANSWER_MANY_RCPT;
	envelope_put(&t->rcpts, ENV_RCPT, str_of(address));
	if (c->notify)
		envelope_put_u8(&t->rcpts, ENV_NOTIFY, c->notify);
	if (c->orcpt[0])
		envelope_put(&t->rcpts, ENV_ORCPT, str_of(c->orcpt));
	if (t->rcpts.failed) {
		t->rcpts.n = before;
		t->rcpts.failed = false;
		return ANSWER_MANY_RCPT;
	}
	if (t->rcpt_count++ == 0)
		str_copy(t->first_rcpt, sizeof(t->first_rcpt), str_of(address));
	t->address_utf8 = t->address_utf8 || c->mailbox.utf8;
	return ANSWER_RCPT_OK;
}

void txn_receive(struct txn *t, const struct body_limits *limits, bool chunked)
{
	uint64_t room = t->size ? t->size + t->size / 16 + 64 : CONTENT_FIRST;

	buf_init(&t->content, limits->content_max + HEADER_MAX);
	(void)buf_reserve(&t->content, room < CONTENT_ROOM ? (size_t)room : CONTENT_ROOM);
	body_init(&t->body, limits, &t->content, chunked);
	t->receiving = true;
}

static void put_text(struct buf *out, enum envelope_tag tag, const char *text)
{
	if (text[0])
		envelope_put(out, tag, str_of(text));
}

/* 8BITMIME and SMTPUTF8 are recorded as what the message needs, not as what the client said: a
 * client that always says SMTPUTF8 must not have plain mail returned by a remote without it. A
 * stream's envelope is written before its end was seen; for it the client's word counts for what is
 * still to come. */
static uint8_t body_bits(const struct txn *t)
{
	unsigned bits = 0;

	if (t->body.eight_bit || (t->declared_8bit && t->stream))
		bits |= ENV_8BIT;
	if (t->address_utf8 || (t->smtputf8 && t->body.header_eight_bit))
		bits |= ENV_UTF8;
	return (uint8_t)bits;
}

void txn_put_envelope(const struct txn *t, const struct txn_origin *from, struct buf *out)
{
	envelope_put(out, ENV_SENDER, str_of(t->sender));
	put_text(out, ENV_ENVID, t->envid[0] ? t->envid : t->body.envid);
	if (t->ret != RET_DEFAULT)
		envelope_put_u8(out, ENV_RET, t->ret);
	if (body_bits(t))
		envelope_put_u8(out, ENV_BODY, body_bits(t));
	put_text(out, ENV_CLIENT, from->client);
	put_text(out, ENV_HELO, from->helo);
	put_text(out, ENV_VMTA, from->vmta);
	put_text(out, ENV_TENANT, from->tenant);
	if (from->hold)
		envelope_put_u8(out, ENV_HOLD, 1);
	put_text(out, ENV_CAMPAIGN, t->body.job);
	put_text(out, ENV_MESSAGE_ID, t->body.message_id);
	buf_put(out, t->rcpts.p, t->rcpts.n);
}
