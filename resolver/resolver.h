/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/worker.h"
#include "resolver/fixed.h"
#include "resolver/names.h"
/* The parts of the process, put together by main.c. */
struct settings; /* settings.h */
struct resolver {
	struct worker *worker;
	struct queries *queries;
	struct routes *routes;
	struct fixed_routes *fixed;
	struct names *names;		  /* names.c */
	struct settings *used, *prepared; /* owned */
	struct route_address *local; /* owned: this machine's addresses, read before the drop */
	size_t local_count;
	struct chan *qmgr;
	struct ask *asks; /* of the channel to qmgr: inbox.c */
	uint64_t ask_count;
};
/* inbox.c */
void inbox_open(struct resolver *r, int fd); /* takes fd: the channel to a new qmgr */
/* control.c */
extern const struct control_verb resolver_verbs[];
extern const size_t resolver_verb_count;
