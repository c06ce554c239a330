/* SPDX-License-Identifier: ISC */
#pragma once
/*
 * Where mail goes, and by which values: values by precedence, virtual MTAs and their sources,
 * warm-ups, pools, providers; domains with their routes, destinations, paths (value.c, warmup.c,
 * pool.c, provider.c, domain.c, dest.c, place.c).
 */
#include "common/addr.h"
#include "common/bucket.h"
#include "common/buf.h"
#include "qmgr/core/base.h"
#include "qmgr/core/limits.h"

struct conn;
struct job;
struct queue;

/* ---- configuration ---- */
struct values { /* of a queue; lists point into core->conf */
	struct rate connect, msg, bytes, source_connect, source_msg;
	struct rate backoff_connect, backoff_msg; /* resolved: "auto" is done, never above normal */
	uint32_t source_max_smtp_out;		  /* 0: no limit */
	uint32_t backoff_max_smtp_out, backoff_max_msg;	      /* resolved likewise */
	int64_t rampup_ms, backoff_ms, reenable_ms, no_mx_ms; /* no_mx: -1 never, 0 at once */
	const int64_t *backoff_retry;
	size_t backoff_retry_count;
	const struct conf_value *recovery, *backoff_notify, *source_notify; /* lists of them */
	const struct conf_value *patterns;				    /* names */
	const char *backoff_reroute, *reroute, *smtp_hosts, *queue_to;	    /* "": none */
	uint32_t priority;
	bool backoff_delivery, backoff_sources, mx_421, bounce_5xx_greeting, no_rollup, discard;
	uint32_t max_smtp_out, max_msg, max_rcpt;
	int64_t idle_ms, bounce_ms, retry_rcpt_ms;
	int64_t notify_ms; /* -1: never */
	int64_t connect_ms, greeting_ms, command_ms, data_ms, dot_ms;
	const int64_t *retry, *retry_dns;
	size_t retry_count, retry_dns_count;
	bool ignore_8bitmime, starttls;
};
struct source {
	struct name *address, *ehlo;
	uint8_t family; /* 4 or 6 */
};
struct vmta {
	struct node node;
	struct name *name;
	const struct conf_node *conf; /* NULL: not configured (any more) */
	const struct conf_node *pool; /* whose settings hold for it; NULL: no pool's */
	struct source *sources;	      /* owned */
	size_t source_count, turn;
	uint32_t queues;
};
struct vmta *vmta_get(struct core *core, struct str name);
struct vmta *vmta_find(const struct core *core, struct str name);
/* Of mail that names none; of a pool its first member. NULL: none is configured. */
struct vmta *vmta_default(const struct core *core);
void vmta_drop(struct core *core, struct vmta *v); /* frees it when nobody needs it */
/* Whose sources and settings serve: its own, or the default's when it is not configured (any more).
 */
struct vmta *vmta_acting(const struct core *core, struct vmta *v);
/* Whose values: a domain's by name (""; none), and those of its provider (""; none). */
struct value_of {
	struct str domain, provider;
};
enum { VALUE_LAYERS = 9 }; /* the most specific first, then the default */
void value_layers(const struct core *core, const struct value_of *of, struct vmta *vmta,
    const struct conf_node *layers[VALUE_LAYERS]);
/* The value that holds and its layer; VALUE_LAYERS: the default. opt is one of DOMAIN's. */
int value_pick(
    const struct conf_node *const *layers, enum conf_opt opt, const struct conf_value **value);
const struct conf_value *value_at(const struct conf_node *layer, enum conf_opt opt);
const char *value_layer_name(int layer);
void value_resolve(
    const struct core *core, const struct value_of *of, struct vmta *vmta, struct values *v);
bool value_literal(const struct core *core, struct str domain); /* `domains` names it */
/* Everybody's section of that domain: the holder of its budget. NULL: none. */
const struct conf_node *value_domain(const struct core *core, struct str domain);
void value_learn(struct core *core, const struct conf_node *parent); /* its sections */
void value_configure(struct core *core, struct conf *conf);	     /* takes it */
void value_configured(struct core *core);
void value_fini(struct core *core);
int64_t value_step(const int64_t *list, size_t n, uint32_t failures); /* failures counts from 1 */

/* ---- warmup.c ---- */
struct dest;
struct path;
struct warmup { /* of a source at a destination */
	struct node node;
	struct name *dest, *source;
	const struct conf_node *conf; /* NULL: the source has no plan any more */
	struct budget *budget;
	uint32_t step, paths;	     /* of the plan, from 0; paths that hold it */
	int64_t day;		     /* of UTC, what follows is of that day */
	uint64_t attempts, deferred; /* recipients */
	bool blocked, forgotten;
};
/* Made if need be, and brought to this day; NULL: the source has no plan. */
struct warmup *warmup_of(struct core *core, const struct dest *dest, struct name *source);
bool warmup_is_configured(const struct core *core, const struct name *source);
void warmup_path(struct core *core, const struct dest *dest, struct path *p); /* sets p->warm */
void warmup_take(struct core *core, struct warmup *w, uint32_t rcpts);	      /* they are sent */
void warmup_result(struct core *core, struct warmup *w, uint32_t deferred);
/* A rule says that the peer blocks this source: one step back, once a day. */
void warmup_blocked(struct core *core, const struct dest *dest, struct name *source);
/* Where mail of this queue goes while no source of it may send more today; "": it waits. */
const char *warmup_overflow(struct core *core, const struct queue *q);
void warmup_configure(struct core *core);
void warmup_forget(struct core *core); /* the configuration's part */
void warmup_fini(struct core *core);
bool warmup_encode(struct core *core, struct str name, struct buf *out);
int warmup_restore(struct core *core, struct str name, struct rd *value);

/* ---- pool.c ---- */
struct dest;
struct route;
struct pool;
struct pool *pool_find(const struct core *core, struct str name);
struct name *pool_name(const struct pool *pool);
const struct conf_node *pool_conf(const struct pool *pool);
bool pool_has(const struct pool *pool, const struct vmta *v);
/* A member by weight: one that can send to that destination (NULL: anywhere), else any; NULL: none
 * has a weight, or all are among `not`. */
struct vmta *pool_draw(struct core *core, const struct pool *pool, const struct dest *dest,
    struct vmta *const * not, size_t not_count);
/* For mail of a member that cannot send: another one that can, or NULL. */
struct vmta *pool_redraw(
    struct core *core, const struct pool *pool, const struct dest *dest, struct vmta *v);
/* Not paused, and with a source that is not disabled there. */
bool pool_can_send(const struct core *core, const struct vmta *v, const struct dest *dest);
void pool_configure(struct core *core, const struct conf_node *root);
void pool_forget(struct core *core);

/* ---- provider.c ---- */
/* Whose provider's hosts these are: its name, or NULL. Borrowed until the next configuration. */
struct name *provider_of_route(const struct core *core, const struct route *route);
struct name *provider_of_host(
    const struct core *core, struct name *host, const struct route_address *address);
/* Its section; NULL: none is configured by that name. */
const struct conf_node *provider_conf(const struct core *core, const struct name *name);
bool provider_named(const struct core *core, struct str name); /* one is configured so */
void provider_configure(struct core *core, const struct conf_node *root);
void provider_forget(struct core *core);

/* ---- places ---- */
struct route_entry {
	struct name *name;
	uint16_t preference, port;
	uint8_t address_count;
	struct route_address *address; /* inside the route's block */
};
struct route {
	uint32_t host_count, best_count; /* the first best_count have the best preference */
	uint64_t best_hash, list_hash;
	struct route_entry host[];
};
struct domain {
	struct node node;
	struct name *name;
	uint32_t index;
	uint32_t jobs, conns;
	uint32_t last_lane; /* of the mail that came last, if there still is one of that number */
	bool literal, asking, queued; /* asking: at the resolver; queued: in resolve_fifo */
	bool answered;		      /* class says something */
	bool fixed;		      /* not a domain, but the smtp-hosts that its name is */
	bool implicit;		      /* no MX record: its address records serve */
	struct name *asker;	      /* fixed: the domain that it was first wanted for */
	struct name *provider;	      /* owned; whose the hosts of its route are; NULL: nobody's */
	struct link users;	      /* queues of single domains whose mail takes its route */
	int64_t used_ms;	      /* fixed, or another's route (queue-to): last wanted */
	enum route_class class;
	uint32_t dns_failures;
	int64_t expires_ms, stale_ms; /* of the answer; of the route */
	int64_t ask_ms;		      /* not before */
	struct route *route;	      /* owned; NULL: none */
	char *text;		      /* owned; of a failure */
	struct dest *own, *site;      /* own: its own destination, while it has queues */
	struct link fifo;
	struct timer timer;
};
struct dest {
	struct node node;
	struct name *name;
	struct domain *own;	       /* NULL: a site or provider */
	bool rollup;		       /* a provider's */
	uint32_t domains;	       /* whose site this is */
	uint64_t best_hash, list_hash; /* 0: not known yet */
	bool mixed;		       /* its domains differ in their worse hosts */
	bool paths_limited;	       /* a queue of it has source-ip-* limits */
	struct link queues, paths;
};
struct path { /* destination × source address */
	struct link in_dest;
	struct name *source;
	struct limit conns;
	int64_t blocked_ms;  /* a local failure: not before */
	struct budget *own;  /* of source-ip-*; NULL: none */
	struct warmup *warm; /* NULL: its source has no plan */
	uint32_t generation; /* of the configuration that has set them */
};

/* ---- domain.c ---- */
struct domain *domain_get(struct core *core, struct str name);
struct domain *domain_find(const struct core *core, struct str name);
/* The fixed route of that text, made for mail of `asker`. */
struct domain *domain_fixed(struct core *core, struct str hosts, const struct domain *asker);
struct domain *domain_find_fixed(const struct core *core, struct str hosts);
struct dest *domain_own(struct core *core, struct domain *d); /* made if need be */
void domain_want(struct core *core, struct domain *d); /* asks for a route if one is needed */
void domain_idle(
    struct core *core, struct domain *d); /* starts the clock after which it is freed */
bool domain_failed(const struct core *core, const struct domain *d, struct str *status);
void domain_timer(struct core *core, struct domain *d);
bool domain_next(struct core *core, struct core_decision *out);
/* Mail that took its route is looked at anew; from: its site until now, or NULL. */
void domain_moved(struct core *core, struct domain *d, struct dest *from);
void domain_configured(struct core *core, struct domain *d); /* another configuration */
bool domain_best(const struct domain *d, const struct name *host, uint16_t port);
void domain_free(struct core *core, struct domain *d);

/* ---- dest.c ---- */
/* Of a queue's name: a provider's, or [HOST] a site, anything else a domain's own. */
struct dest *dest_named(struct core *core, struct str name);
struct dest *dest_find(const struct core *core, struct str name);
struct dest *dest_get(struct core *core, struct str name, struct domain *own);
/* The site of that route; `from` is the asking domain's site until now, or NULL. */
struct dest *dest_for_route(
    struct core *core, const struct route *route, struct name *provider, const struct dest *from);
struct dest *dest_provider(struct core *core, struct str name);
struct dest *dest_find_provider(const struct core *core, struct str name);
void dest_drop(struct core *core, struct dest *dest); /* frees it when nobody needs it */
struct path *dest_path(struct core *core, struct dest *dest, struct str source);
void dest_path_drop(struct core *core, struct path *p); /* if it is of no more use */
struct path *dest_path_find(const struct dest *dest, const struct name *source);

/* ---- place.c: where mail goes ---- */
struct place {
	struct dest *dest;
	struct domain *route; /* whose route is taken: the domain itself, a queue-to, smtp-hosts */
	bool routed;	      /* else the mail waits in dest for that route */
	struct vmta *vmta;
	struct name *pool;   /* from which the virtual MTA was drawn, or NULL; borrowed */
	struct queue *queue; /* of place_mail() and place_new() */
};
/* Where mail of that domain goes by that virtual MTA: destination and route. */
void place_find(struct core *core, struct domain *d, struct vmta *vmta, struct place *p);
/* The same without making anything: false, that place does not exist now. */
bool place_look(const struct core *core, struct domain *d, struct vmta *vmta, struct place *p);
/* The same for mail that has that virtual MTA now, drawn from that pool (NULL: none): reroutes are
 * followed, and a member that cannot send is drawn anew. `at`: where it stands now, or NULL. */
void place_mail(struct core *core, struct domain *d, struct vmta *vmta, struct name *pool,
    struct queue *at, struct place *p);
/* The same for mail that comes in, for a virtual MTA or pool ("": the default one). */
void place_new(struct core *core, struct domain *d, struct str vmta, struct str pool,
    struct queue *at, struct place *p); /* at: a guess, or NULL */
/* A loose job, into its lane there. Its row is to be written if another virtual MTA has it now. */
void place_move(struct core *core, job_ref ref, const struct place *p);
/* Takes a job that stands ready or waits to a virtual MTA or pool: VISIT_REROUTE. */
void place_reroute(struct core *core, job_ref ref, struct str vmta);
/* Its virtual MTA cannot send here (again): members of its pools take its mail (give theirs). */
void place_lost(struct core *core, struct queue *q);
void place_found(struct core *core, struct queue *q);
void place_changed(struct core *core, struct queue *q); /* its reroute may be another now */
/* Tells people once of what the configuration cannot mean. */
void place_error(struct core *core, struct str scope, const struct vmta *vmta, struct str text);
/* Whose route mail of that domain takes in that queue. */
struct domain *place_route(struct core *core, const struct queue *q, struct domain *d);
/* Mail of that domain may go by this connection. */
bool place_serves(struct core *core, const struct conn *c, struct domain *d);
bool place_is_here(struct core *core, const struct queue *q, const struct job *j);
/* When its address records serve no longer (bounce-upon-no-mx); NEVER: they do, or it has MX. */
int64_t place_no_mx_ms(const struct core *core, const struct queue *q, const struct job *j);
