/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * What rules.c and window.c share: the rules of the configuration by their ids, and the windows of
 * their triggers.
 */
#include "qmgr/core/internal.h"

enum {
	RULE_OBJECT_MAX =
	    400, /* bytes of what a trigger is counted for: part of a key of the store */
	RULE_OBJECT_FULL = 2000, /* before it is shortened */
	WINDOW_EXACT = 512,	 /* entries until neighbours share one, see window.c */
	WINDOW_SAVED = 64,	 /* entries of a window that survive a restart one by one */
	WINDOWS_MAX = 65536,
	WINDOW_ENTRIES_ALL = 4 << 20, /* 64 MiB */
};
/* An alert of one rule about one thing is not sent again for so long: a storm is one mail. */
#define RULE_ALERT_PAUSE (10 * MINUTE)
/* Nor are more than so many of one rule, whatever things the remotes name in their replies. */
enum { RULE_ALERTS = 20 };
/* An action on all queues of a provider or virtual MTA looks at all: at most once in that time. */
#define RULE_WIDE_PAUSE SECOND

struct known { /* a rule */
	struct node node;
	const struct rule *rule;
	const struct rule_list *list;
	bool backoff; /* has mode=backoff among its actions */
	uint64_t matches, firings;
	int64_t alerts_ms; /* since when alerts are counted */
	uint32_t alerts;
};
struct window_entry {
	int64_t at_ms;
	uint32_t attempts, matches;
};
struct window {
	struct node node;
	struct link in_age;
	uint64_t rule;
	struct name *object;
	struct window_entry *ring; /* owned; cap is a power of two */
	uint32_t cap, head, n;
	uint64_t attempts, matches;
	int64_t alert_ms, wide_ms; /* when it did that last; 0: never */
};
struct decided { /* what a rule said of recipients */
	uint16_t ordinal;
	uint32_t order; /* of decision: the first holds */
	enum rule_action_kind action;
	const struct known *known;
};
struct rules {
	struct rule_list *lists; /* owned */
	size_t list_count;
	struct table by_id, windows;
	struct link age;       /* windows, those not used for longest first */
	size_t entries;	       /* of all windows */
	struct rule_hit *hits; /* owned; what came with core_hits() */
	size_t hit_count, hit_cap;
	struct buf objects;	 /* their texts */
	struct decided *decided; /* owned; by ordinal, then in order */
	size_t decided_count, decided_cap;
};
struct known *rules_find(const struct core *core, uint64_t id);
struct window *window_find(struct core *core, const struct known *k, struct str object);
struct window *window_get(struct core *core, const struct known *k, struct str object);
void window_free(struct core *core, struct window *w);
void window_add(struct core *core, struct window *w, const struct rule_trigger *t,
    uint32_t attempts, uint32_t matches);
bool window_fires(const struct window *w, const struct rule_trigger *t);
