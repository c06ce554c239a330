/* SPDX-License-Identifier: ISC */
/*
 * The bouncer: writes the reports that RFC 3461 owes to a sender, failures above all. It reads
 * messages through descriptors that qmgr hands it, appends to a segment of its own, and has no
 * network and no file system: what a remote server said is put into a message here, and nowhere
 * nearer to the queue.
 *
 *   main.c      puts the parts together          decide.c  whether a report is owed (pure)
 *   inbox.c     BOUNCE in, its waiting and end   dsn.c     the report (pure)
 *   report.c    one request becomes one report   text.c    its words for people (pure)
 *   control.c   posternctl bouncer               part.c    its lines (pure)
 *   rules.c     what a reply would fire          alert.c   a notice to operators (pure)
 */
#include "bouncer/bouncer.h"
#include <stdlib.h>

static int prepare(void *ctx, const struct conf *conf, uint32_t config, char why[500])
{
	struct bouncer *b = ctx;
	(void)config;
	(void)why;
	if (b->reader == NULL)
		inbox_init(b);
	str_copy(b->prepared.host_name, sizeof(b->prepared.host_name),
	    str_of(conf_text(conf->root, CO_GLOBAL_host_name)));
	if (b->prepared.host_name[0] == '\0')
		str_copy(b->prepared.host_name, sizeof(b->prepared.host_name), STR("localhost"));
	str_copy(b->prepared.postmaster, sizeof(b->prepared.postmaster),
	    str_of(conf_text(conf->root, CO_GLOBAL_postmaster)));
	rules_fini(&b->next_rules); /* of one that was never used */
	rules_init(&b->next_rules, conf);
	return 0;
}

static void use(void *ctx, uint32_t config)
{
	struct bouncer *b = ctx;
	(void)config;
	b->used = b->prepared;
	rules_fini(&b->rules);
	b->rules = b->next_rules;
	b->next_rules = (struct rules){0};
}

static void on_peer_channel(
    void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd)
{
	(void)process;
	(void)instance;
	(void)generation;
	inbox_open(ctx, fd); /* the table of who talks to whom gives us qmgr only */
}

/* Three times a message has ended its worker: no fourth. */
static void on_poisoned(void *ctx, uint64_t id, uint8_t deaths)
{
	enum { DEATHS = 3 };
	struct bouncer *b = ctx;
	if (deaths < DEATHS || b->poisoned_count >= POISONED_MAX)
		return;
	if (b->poisoned == NULL)
		b->poisoned = xcalloc(POISONED_MAX, sizeof(*b->poisoned));
	b->poisoned[b->poisoned_count++] = id;
}

static void stop(void *ctx, uint32_t deadline_ms)
{
	(void)deadline_ms; /* a batch's sync is all that is waited for; master ends us at the
			      deadline */
	inbox_stop(ctx);
}

int main(int argc, char **argv)
{
	struct bouncer b = {.worker = worker_new()};
	const struct worker_spec spec = {
	    .process = PROC_bouncer,
	    .verbs = bouncer_verbs,
	    .verb_count = bouncer_verb_count,
	    .ctx = &b,
	    .prepare = prepare,
	    .use = use,
	    .on_peer = on_peer_channel,
	    .on_poison = on_poisoned,
	    .stop = stop,
	};
	return worker_run(b.worker, &spec, argc, argv);
}
