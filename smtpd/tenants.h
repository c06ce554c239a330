/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/addr.h"
#include "common/bucket.h"
#include "common/conf.h"
#include "smtpd/answer.h"
/*
 * Whose mail a message is, and what a tenant's mail must look like. Pure: made from a
 * configuration, asked with what the header, the envelope and the client are.
 */
enum tenant_check { CHECK_OFF, CHECK_TAG, CHECK_QUARANTINE, CHECK_REFUSE };
enum in_rate { IN_MSG, IN_RCPT, IN_DATA, IN_RATES };
struct in_limit {
	struct rate rate; /* this process' part; n 0: none */
	const char *text; /* as configured; borrowed from the tree */
};
struct tenant {
	char *name;			  /* owned */
	const char *vmta;		  /* "": the listener's; borrowed from the tree */
	const struct conf_value *vmtas;	  /* that X-Virtual-MTA may name; none: all */
	const struct conf_value *domains; /* sender-domains */
	enum tenant_check from, headers;
	struct in_limit in[IN_RATES];
};
struct tenants;
enum {
	TENANT_HEADERS_MAX = 16, /* different header names that `match` may speak of */
	MATCH_VALUE_MAX = 255,	 /* of a header of `match`; a longer one names nobody */
	FROM_VALUE_MAX = 998,	 /* a line, RFC 5322 2.1.1; a longer one is not one address */
};
/* Takes the tree, which the tenants point into. processes: among which limits are divided; this is
 * number `instance` of them. */
struct tenants *tenants_new(struct conf *conf, unsigned processes, unsigned instance);
void tenants_free(struct tenants **t);
size_t tenants_count(const struct tenants *t);
const struct tenant *tenants_named(const struct tenants *t, struct str name); /* NULL: none */
/* For the receiver of content: is that header field one that says whose mail it is? Its number, or
 * -1; and the tenant that its value names, or NULL. */
int tenants_header(const struct tenants *t, struct str name);
const struct tenant *tenants_match(const struct tenants *t, int header, struct str value);
const struct tenant *tenants_client(const struct tenants *t, const uint8_t address[16]);
const struct tenant *tenants_sender(const struct tenants *t, struct str sender); /* by domain */

struct tenant_evidence {   /* in the order of their weight */
	bool has_x_tenant; /* and the listener takes it */
	struct str x_tenant;
	const struct tenant *match, *listener, *client;
	struct str sender;
};
/* Nothing that is still to come, no header, can say otherwise. */
bool tenants_known_early(const struct tenants *t, bool takes_x_tenant);
/* *tenant NULL: nobody's. ANSWER_UNKNOWN_TENANT when unknown-tenant says refuse. */
enum answer tenants_choose(
    const struct tenants *t, const struct tenant_evidence *e, const struct tenant **tenant);

/* What the header was, as the receiver of content counted it. */
enum {
	SINGLETON_FROM,
	SINGLETON_SENDER,
	SINGLETON_REPLY_TO,
	SINGLETON_TO,
	SINGLETON_CC,
	SINGLETON_SUBJECT,
	SINGLETON_DATE,
	SINGLETON_MESSAGE_ID,
	SINGLETONS
};
struct header_facts {
	uint8_t count[SINGLETONS];
	struct str from; /* the value of the first From, unfolded */
};
struct tenant_verdict {
	enum tenant_check action; /* the strictest that applies; CHECK_OFF: nothing is wrong */
	char why[200];		  /* "From is not in the tenant's domains; no Message-ID" */
};
void tenant_judge(
    const struct tenant *t, const struct header_facts *facts, struct tenant_verdict *v);
