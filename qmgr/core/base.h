/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * What every part of the core uses: units of time, its bounds, interned names, timers.
 */
#include "common/str.h"
#include "common/wheel.h"
#include "qmgr/core/core.h"
#include "qmgr/core/table.h"

#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define NEVER INT64_MAX

/* Bounds and constants, each with what it stops. */
enum {
	CORE_START_CONNS = 2,  /* a queue's connections before its first accepted transaction */
	CORE_DEPTH = 2,	       /* transactions outstanding on a connection: one works, one waits */
	CORE_TX_RCPTS = 1000,  /* recipients of a transaction, whatever the configuration says */
	CORE_CAMPAIGNS = 1000, /* of a tenant with lanes of their own: contract of counting, 11 */
	CORE_SENDER_DOMAINS = 10000, /* that are tenants of their own: more share the tenant "" */
	CORE_FAVOUR = 9,       /* transactions in a row of transactional lanes while others wait */
	CORE_RETRIES = 3,      /* RETRY_NOW in a row before it counts as an attempt */
	CORE_TARGETS = 1024,   /* addresses of a queue whose failures are remembered */
	CORE_ROUND_TRIES = 64, /* failed connections of a round, however many addresses there are */
	CORE_TLS_MEMORY = 4096, /* hosts whose TLS is known to be broken */
	CORE_WORKERS = 1024,	/* instances of smtp-out */
	CORE_RESOLVES = 1000,	/* questions out at the resolver at once */
	CORE_ROOM_SLICE = 10,	/* transactions of a connection while another queue waits for one */
	CORE_LOOK = 64,		/* jobs looked at for one decision */
	CORE_LOOK_FAR = 1024,	/* at a provider, for a connection that cannot take the next job */
	CORE_SLICE = 2000,	/* jobs handled by one core_tick(): about a millisecond */
	CORE_TEXT_MAX = 300,	/* of a queue's last error */
	CORE_CHOICES = 1000,	/* idle connections looked at where rates apply */
	CORE_TOTAL = 20000,	/* connections, before there is a configuration */
	BUDGET_KEY_MAX = 700,
	CORE_TEXTS = 65536,	 /* of the views of one call */
	PEER_NAME_MAX = 512,	 /* host or address, and source */
	CORE_LEAD_BYTES = 16384, /* of volume that a connection being opened is reckoned to use */
	CORE_UNCERTAIN_EVERY =
	    8, /* of a lane's transactions one may be uncertain mail, others waiting */
};
/* Numbers of connections and transactions from a worker that lies end here: ours never run out. */
#define CORE_ID_END (UINT64_C(1) << 62)
#define CORE_LEAD                                                                                  \
	SECOND		 /* a connection may be opened that long before its message's token comes  \
			  */
#define CORE_CALL SECOND /* lanes that were called for a token and took none: others are called */
#define CORE_WAIT_IDLE MINUTE	  /* a connection that waits for a token that near is kept */
#define CORE_LINGER (10 * MINUTE) /* an idle queue, lane or domain is kept that long */
#define CORE_CLOCK_LINGER HOUR	  /* and a queue with a running failure clock that much longer */
#define CORE_HOST_SKIP_MAX                                                                         \
	(15 * MINUTE) /* a dead MX is probed that often while others of it work */
#define CORE_TLS_FORGET (3 * DAY)
#define CORE_SLOT SECOND		   /* a dead process's connection: then the peer knows */
#define CORE_LOCAL_HOLD (30 * SECOND)	   /* a source address that cannot be bound */
#define CORE_RESOLVE_TIMEOUT (90 * SECOND) /* the resolver always answers; this is if it died */
#define CORE_ROUTE_STALE DAY /* an old route serves that long while a new one cannot be had */
#define CORE_ROUTE_LEAST (5 * SECOND) /* route lifetimes: floor and ceiling */
#define CORE_ROUTE_MOST DAY
#define CORE_DELAY_ASKED (4 * HOUR) /* NOTIFY=DELAY without notify-of-delay-every */

/* ---- names ---- */
struct name { /* interned text with a count of references */
	struct node node;
	uint32_t refs;
	uint16_t n;
	char p[];
};
static inline struct str name_str(const struct name *n)
{
	return n ? (struct str){n->p, n->n} : STR("");
}
struct name *name_get(struct core *core, struct str text); /* one more reference */
struct name *name_keep(struct name *n);
void name_drop(struct core *core, struct name *n);
struct name *name_find(const struct core *core, struct str text); /* no reference; or NULL */

/* ---- timers ---- */
enum timer_kind {
	TIMER_WAKE,
	TIMER_SWEEP,
	TIMER_IDLE_QUEUE,
	TIMER_CONN,
	TIMER_DOMAIN,
	TIMER_STATE,
	TIMER_LIMIT,
	TIMER_LEVEL,
	TIMER_MODE,
	TIMER_SOURCE,
	TIMER_HOLD,
	TIMER_RELEASE,
	TIMER_PARTY,
};
struct timer {
	struct wheel_node node;
	enum timer_kind kind;
};
