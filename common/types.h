/* SPDX-License-Identifier: ISC */
#pragma once
/* Small enumerations that travel in messages or stand on disk. Values never change meaning. */

enum proc_id {
	PROC_MASTER = 0,
#define PROC(id, file, user, instances, root) PROC_##id,
#include "common/procs.def"
#undef PROC
	PROC_COUNT
};
const char *proc_name(unsigned id); /* "master", "smtpd", "smtp-out", …; "?" outside */

enum file_kind {	     /* MSG_FILE */
	FILE_LOG = 0,	     /* index 0: standard error, 1: a file */
	FILE_ACCOUNTING = 1, /* index: the accounting entry in the configuration */
};
enum secret_kind {
	SECRET_LISTENER_CERT = 0, /* index: listener */
	SECRET_LISTENER_KEY = 1,
	SECRET_CA_BUNDLE = 2,
};
/* Why a writer gets no segment or no credit; smtpd maps it to its 4xx reply in one table. */
enum refuse {
	REFUSE_NONE = 0,
	REFUSE_DISK = 1,   /* spool-min-free-space, ENOSPC: 452 4.3.1 */
	REFUSE_INDEX = 2,  /* LMDB full or failing: 452 4.3.1 */
	REFUSE_QUEUE = 3,  /* spool-max-recipients: 452 4.3.1 */
	REFUSE_MEMORY = 4, /* 452 4.3.2 */
	REFUSE_BUSY = 5,   /* starting, stopping: 421 4.3.2 */
	REFUSE_COUNT
};
enum route_class { /* MSG_ROUTE */
	ROUTE_OK = 0,
	ROUTE_NO_DOMAIN = 1, /* NXDOMAIN: 5.1.2 */
	ROUTE_NULL_MX = 2,   /* RFC 7505: 5.1.10 */
	ROUTE_NO_HOST = 3,   /* MX or domain without any address: 5.4.4 */
	ROUTE_TEMPORARY = 4, /* SERVFAIL, time-out, lame: 4.4.3 */
	ROUTE_BAD_NAME = 5,  /* not a host name: 5.1.2 */
	ROUTE_SELF = 6,	     /* best MX is this host: 5.4.6 */
	ROUTE_CLASS_COUNT
};
enum tls_policy { TLS_OFF = 0, TLS_OPPORTUNISTIC = 1, TLS_REQUIRED = 2, TLS_POLICY_COUNT };

/* Stages of the dialogue; names as in smtp-pattern-lists. */
enum smtp_stage {
	STAGE_CONNECT = 0,
	STAGE_GREETING,
	STAGE_EHLO,
	STAGE_STARTTLS,
	STAGE_AUTH,
	STAGE_MAIL,
	STAGE_RCPT,
	STAGE_DATA,
	STAGE_DOT,
	STAGE_QUIT,
	STAGE_INTERNAL,
	STAGE_COUNT
};
const char *stage_name(unsigned stage);

enum conn_cause {	  /* MSG_CONN_CLOSED */
	CONN_DONE = 0,	  /* we closed, as asked or after QUIT */
	CONN_REFUSED = 1, /* connect() failed */
	CONN_TIMEOUT = 2,
	CONN_LOST = 3,	   /* end of file or reset by the peer */
	CONN_REPLY = 4,	   /* a reply that ends the session (greeting, EHLO, 421) */
	CONN_PROTOCOL = 5, /* the peer does not speak SMTP */
	CONN_LOCAL = 6,	   /* no such source address, no descriptors: our side */
	CONN_TLS = 7,
	CONN_CAUSE_COUNT
};

enum verdict { /* of one recipient in one attempt */
	VERDICT_DELIVERED = 0,
	VERDICT_DEFERRED = 1,
	VERDICT_FAILED = 2,
	VERDICT_RETRY_NOW =
	    3, /* no attempt counted: e.g. 452 4.5.3 split, connection gone before MAIL */
	VERDICT_COUNT
};
enum dsn_kind {
	DSN_FAILED = 0,
	DSN_DELAYED = 1,
	DSN_SUCCESS = 2,
	DSN_ALERT = 3, /* no report on a message: a notice to the operator, BOUNCE's rcpts is
			  alert_put()'s */
	DSN_KIND_COUNT
};
enum source_verb { SOURCE_DISABLE = 0, SOURCE_ENABLE = 1, SOURCE_REPORT = 2, SOURCE_VERB_COUNT };
/* DSN action for a delivered recipient: relayed when the next hop lacks DSN (RFC 3461 5.2.2). */

/* The page shared with master (WORKER_BLAME_FD): what the worker is handling, set before, cleared
 * after. */
struct blame {
	unsigned long long message_id; /* 0: nothing */
};
