/* SPDX-License-Identifier: ISC */
/*
 * The judge. Every reply and every failure becomes an outcome here and nowhere else, by tables, so
 * that "what does this do with my mail?" has one answer in one place.
 *
 * The rules that are easily got wrong:
 *   - 421 always ends the session, whatever it answers (RFC 5321 3.8). To MAIL on a connection that
 * was used before it is how servers say "enough messages on this one": no attempt.
 *   - 452 to RCPT after others were accepted means "in another transaction" (4.5.3.1.10), no
 * failure; old servers say 552. Only with an enhanced code of x.5.3 or none: 452 4.2.2 is a full
 * mailbox. Each such transaction settles at least one recipient, so repeating at once ends.
 *   - A reply of a class that its step cannot have is a protocol error: deferred, never delivered,
 * and the session ends, because nobody knows what the next reply would belong to.
 *   - A connection that was used before and is gone when its next MAIL arrives was closed while it
 * was idle: no attempt. On a fresh one the same is a failure, or a peer that always hangs up at
 * MAIL would be called again and again.
 */
#include "smtp-out/verdict.h"
#include <stdio.h>
#include <string.h>

static const uint8_t wanted_class[STAGE_COUNT] = {
    [STAGE_GREETING] = 2,
    [STAGE_EHLO] = 2,
    [STAGE_STARTTLS] = 2,
    [STAGE_MAIL] = 2,
    [STAGE_RCPT] = 2,
    [STAGE_DATA] = 3,
    [STAGE_DOT] = 2,
    [STAGE_QUIT] = 2,
};

enum { ANY_STAGE = STAGE_COUNT };

static const struct rule {
	uint16_t from, to; /* codes */
	uint8_t stage;
	enum { ALWAYS, REUSED, TOO_MANY } when;
	bool ends_session;
	uint8_t verdict;
} rules[] = {
    /* the first that matches counts */
    {421, 421, STAGE_MAIL, REUSED, true, VERDICT_RETRY_NOW},
    {421, 421, ANY_STAGE, ALWAYS, true, VERDICT_DEFERRED},
    {452, 452, STAGE_RCPT, TOO_MANY, false, VERDICT_RETRY_NOW},
    {552, 552, STAGE_RCPT, TOO_MANY, false, VERDICT_RETRY_NOW},
    {400, 499, ANY_STAGE, ALWAYS, false, VERDICT_DEFERRED},
    {500, 599, ANY_STAGE, ALWAYS, false, VERDICT_FAILED},
};

/* The enhanced code is x.5.3 or absent, and some were accepted. */
static bool says_too_many(const struct reply *r, unsigned accepted)
{
	return accepted > 0 && (!r->has_status || strcmp(r->status + 1, ".5.3") == 0);
}

static const struct rule *find_rule(const struct reply_context *c, const struct reply *r)
{
	for (size_t i = 0; i < COUNT_OF(rules); i++) {
		const struct rule *rule = &rules[i];
		if (r->code < rule->from || r->code > rule->to)
			continue;
		if (rule->stage != ANY_STAGE && rule->stage != c->stage)
			continue;
		if (rule->when == ALWAYS || (rule->when == REUSED && c->reused) ||
		    (rule->when == TOO_MANY && says_too_many(r, c->accepted)))
			return rule;
	}
	return NULL;
}

static void set_ours(
    struct judgement *j, enum verdict verdict, const char *status, const char *what)
{
	*j = (struct judgement){.verdict = verdict};
	str_copy(j->status, sizeof(j->status), str_of(status));
	str_copy(j->text, sizeof(j->text), str_of(what));
}

static void set_unexpected(struct judgement *j, enum smtp_stage stage, const struct reply *r)
{
	set_ours(j, VERDICT_DEFERRED, "4.5.0", "");
	int room = (int)sizeof(j->text) - 64;
	snprintf(j->text, sizeof(j->text), "unexpected reply to %s: %.*s", stage_name(stage), room,
	    r->text);
	j->ends_session = true;
	j->cause = CONN_PROTOCOL;
}

void verdict_reply(struct judgement *j, const struct reply_context *c, const struct reply *r)
{
	const struct rule *rule = find_rule(c, r);
	if (!rule && r->code / 100 != wanted_class[c->stage]) {
		set_unexpected(j, c->stage, r);
		return;
	}
	*j = (struct judgement){.code = r->code, .by_peer = true, .cause = CONN_REPLY};
	memcpy(j->status, r->status, sizeof(j->status));
	memcpy(j->text, r->text, strlen(r->text) + 1);
	j->good = !rule;
	j->verdict = rule ? (enum verdict)rule->verdict : VERDICT_DELIVERED;
	j->ends_session = rule && rule->ends_session;
}

static const char *const failure_status[CONN_CAUSE_COUNT] = {
    [CONN_DONE] = "4.4.2",
    [CONN_REFUSED] = "4.4.1",
    [CONN_TIMEOUT] = "4.4.2",
    [CONN_LOST] = "4.4.2",
    [CONN_REPLY] = "4.4.2",
    [CONN_PROTOCOL] = "4.5.0",
    [CONN_LOCAL] = "4.3.0",
    [CONN_TLS] = "4.7.5",
};

void verdict_failure(struct judgement *j, const struct failure_context *f, const char *what)
{
	bool was_idle =
	    f->reused && f->unanswered && f->cause != CONN_TIMEOUT && f->cause != CONN_PROTOCOL;
	set_ours(
	    j, was_idle ? VERDICT_RETRY_NOW : VERDICT_DEFERRED, failure_status[f->cause], what);
	j->ends_session = true;
	j->cause = f->cause;
}

void verdict_features(struct judgement *j, const struct features *f, uint8_t body,
    uint64_t content_bytes, bool ignore_8bitmime)
{
	if ((body & ENV_UTF8) && !(f->bits & FEATURE_SMTPUTF8))
		set_ours(j, VERDICT_FAILED, "5.6.7",
		    "the message needs SMTPUTF8, which the server does not offer");
	else if ((body & ENV_8BIT) && !(f->bits & FEATURE_8BITMIME) && !ignore_8bitmime)
		set_ours(j, VERDICT_FAILED, "5.6.3",
		    "the message has 8-bit content and the server does not offer 8BITMIME");
	else if (f->size_max > 0 && content_bytes > f->size_max)
		set_ours(j, VERDICT_FAILED, "5.3.4",
		    "the message is larger than the server's SIZE limit");
	else
		*j = (struct judgement){.good = true};
}

void verdict_local(struct judgement *j, const char *what)
{
	set_ours(j, VERDICT_DEFERRED, "4.3.0", what);
	j->cause = CONN_LOCAL;
}
