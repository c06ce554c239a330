/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf_impl.h"
/*
 * What the files conf_check*.c and conf_hints.c share and nobody else includes.
 */
struct check {
	const struct conf *conf;
	struct conf_problems *problems; /* NULL: of hints */
	struct name_entry *names; /* owned: entries with names, sorted by parent, type, name */
	size_t name_count;
	/* Of the root; owned. To step through its 100,000 children for each question takes too
	 * long. */
	const struct conf_node **vmtas, **pools;
	size_t vmta_count, pool_count;
};
void check_init(struct check *k, const struct conf *c, struct conf_problems *p);
void check_fini(struct check *k);
/* The entry of that name, or NULL; as conf_find(), but with 100,000 of them. */
const struct conf_node *check_find(const struct check *k, const struct conf_node *parent,
    enum conf_section_type type, const char *name);
/* A virtual MTA, or a pool: they share one name space. */
const struct conf_node *check_sender(const struct check *k, const char *name);
/* A problem of a value; where it was not given, of its section. */
void check_value(struct check *k, const struct conf_node *n, enum conf_opt opt, const char *fmt,
    ...) PRINTF_LIKE(4, 5);
void check_node(struct check *k, const struct conf_node *n, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The option of this section (of `domains` or `providers`) that `domains` calls opt. */
enum conf_opt check_queue_opt(const struct conf_node *n, enum conf_opt opt);
/* The section's own value, or NULL where it gives none. */
const struct conf_value *check_given(const struct conf_node *n, enum conf_opt opt);
/* It was given, though perhaps wrong: no more is to be said of its absence. */
bool check_touched(const struct conf_node *n, enum conf_opt opt);
const char *check_where(const struct check *k, const struct conf_node *n, char out[300]);
const char *check_name(const struct conf_node *n); /* its option `name`, "" without */
/* Calls fn for each entry of `domains` and `providers`, wherever they stand. */
void check_queue_sections(struct check *k, void (*fn)(struct check *k, const struct conf_node *n));
/* A pattern of MX hosts: a name, or * as its first label. Normalised into out. 0 or -EINVAL. */
int check_mx_pattern(char out[260], const char *text) MUST_USE;

void check_senders(struct check *k);	/* conf_check_vmta.c */
void check_queues(struct check *k);	/* conf_check_queue.c */
void check_providers(struct check *k);	/* conf_check_queue.c */
void check_rules(struct check *k);	/* conf_check_rule.c */
void check_tenants(struct check *k);	/* conf_check_vmta.c */
void check_simulation(struct check *k); /* conf_check_sim.c */
