/* SPDX-License-Identifier: ISC */
#pragma once
#include "smtp-out/dialogue.h"
/*
 * The steps of the dialogue, for its engine (dialogue.c) only; and what the steps need of the
 * engine.
 */
enum step_id { /* in wire order */
	STEP_GREETING,
	STEP_EHLO,
	STEP_HELO,
	STEP_STARTTLS,
	STEP_RSET,
	STEP_MAIL,
	STEP_RCPT,
	STEP_DATA,
	STEP_LONE_DOT,
	STEP_DOT,
	STEP_QUIT
};
struct step {
	const char *name; /* "waiting for the reply to …" */
	enum smtp_stage stage;
	enum dialogue_wait wait;
	/* Appends the command. t: the transaction, from MAIL to DOT. */
	void (*send)(struct dialogue *d, struct txn *t);
	/* Its reply. A judgement that ends the session never comes here: the engine has ended it.
	 */
	void (*got)(struct dialogue *d, unsigned rcpt, const struct judgement *j);
};
const struct step *step_get(enum step_id id);

/* The engine's: the transaction has had all its replies but those still expected. */
void dialogue_over(struct dialogue *d, struct txn *t);
/* The engine's: what the peer wants next must not be said; the session ends here. */
void dialogue_break(struct dialogue *d, enum smtp_stage stage, const char *why);
/* The engine's: TLS is required and there is none: QUIT, then CONN_CLOSED with CONN_TLS. */
void dialogue_in_the_clear(struct dialogue *d, const char *why);
/* The engine's: refused before any transaction, but in order: QUIT, then CONN_CLOSED with j. */
void dialogue_refused(struct dialogue *d, const struct judgement *j, enum smtp_stage stage);
