/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/addr.h"
#include "common/envelope.h"
#include "smtpd/answer.h"
/* One command line → struct command. Pure: no session, no limits of a listener, no policy. */
enum verb {
	VERB_UNKNOWN = 0,
#define VERB(id, text, handler, phases) VERB_##id,
#include "smtpd/verbs.def"
#undef VERB
	VERB_COUNT
};
enum {
	COMMAND_LINE_MAX =
	    4096, /* RFC 5321 4.5.3.1.4 asks for 512; SMTPUTF8, DSN and long ORCPT add */
	ENVID_TEXT_MAX = 100, /* RFC 3461 4.4 */
	ORCPT_TEXT_MAX = 500, /* RFC 3461 4.2 */
	PARAMETERS_MAX = 20,  /* stops lines that are nothing but parameters */
};
struct command {
	enum verb verb;
	struct str argument;	/* of EHLO, HELO, VRFY: a view into the line */
	struct mailbox mailbox; /* of MAIL, RCPT */
	bool postmaster;	/* RCPT TO:<Postmaster>: no domain (RFC 5321 4.5.1) */
	bool utf8;		/* MAIL: SMTPUTF8 was given; RCPT: the address is not ASCII */
	bool body_8bit;		/* BODY=8BITMIME */
	uint64_t size;		/* SIZE=, 0: not given */
	uint8_t ret, notify;
	char envid[ENVID_TEXT_MAX + 1];
	char orcpt[ORCPT_TEXT_MAX + 1]; /* "type;decoded address", ASCII */
	uint64_t chunk;			/* of BDAT: octets that follow */
	bool last;
};
/* The line without its CRLF. ANSWER_NONE, or what to answer; c->verb is set in any case. After a
 * BDAT whose number is no number nobody knows what follows: chunk is UINT64_MAX. */
enum answer command_parse(struct command *c, struct str line) MUST_USE;
const char *verb_name(enum verb v); /* "MAIL" */
/* The line is of another protocol (HTTP, TLS, RDP): close. Looks at the first bytes only. */
bool command_is_alien(struct str start);
