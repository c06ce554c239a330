/* SPDX-License-Identifier: ISC */
/*
 * Checks of a whole configuration: what no single option can say. Every error stops a start or a
 * reload, so only what can never be meant is one; the rest is a hint (conf_hints.c). All are told
 * at once. What one option's parser has refused is not told of again.
 *
 * Names are looked up in one sorted array: a configuration may have 100,000 domains.
 */
#include "common/conf_check.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

/* The longest socket name below run-directory: "/smtp-out.63.sock" and its NUL. */
#define SOCKET_NAME_BYTES sizeof("/smtp-out.63.sock")

struct name_entry {
	const struct conf_node *parent;
	enum conf_section_type type;
	const char *name;
	const struct conf_node *node;
};

/* --- what the other files of the check stand on -------------------------------------------------
 */

static int name_order(const void *va, const void *vb)
{
	const struct name_entry *a = va, *b = vb;
	if (a->parent != b->parent)
		return (uintptr_t)a->parent < (uintptr_t)b->parent ? -1 : 1;
	if (a->type != b->type)
		return a->type < b->type ? -1 : 1;
	return strcmp(a->name, b->name);
}

static void gather_names(struct check *k, const struct conf_node *n)
{
	for (size_t i = 0; i < n->child_count; i++) {
		const struct conf_node *child = n->children[i];
		gather_names(k, child);
		if (check_name(child)[0] == 0)
			continue;
		if ((k->name_count & (k->name_count - 1)) == 0) {
			size_t cap = k->name_count == 0 ? 1 : k->name_count * 2;
			k->names = xrealloc(k->names, cap * sizeof(*k->names));
		}
		k->names[k->name_count++] =
		    (struct name_entry){n, child->type, check_name(child), child};
	}
}

static const struct conf_node **gather_type(
    const struct conf_node *root, enum conf_section_type type, size_t *count)
{
	const struct conf_node **all = NULL;
	for (size_t i = 0; i < root->child_count; i++) {
		if (root->children[i]->type != type)
			continue;
		if ((*count & (*count - 1)) == 0)
			all = xrealloc(all, (*count == 0 ? 1 : *count * 2) * sizeof(*all));
		all[(*count)++] = root->children[i];
	}
	return all;
}

void check_init(struct check *k, const struct conf *c, struct conf_problems *p)
{
	*k = (struct check){.conf = c, .problems = p};
	gather_names(k, c->root);
	k->vmtas = gather_type(c->root, CONF_VMTA, &k->vmta_count);
	k->pools = gather_type(c->root, CONF_POOL, &k->pool_count);
	if (k->name_count > 1)
		qsort(k->names, k->name_count, sizeof(*k->names), name_order);
}

void check_fini(struct check *k)
{
	free(k->names);
	free(k->vmtas);
	free(k->pools);
	*k = (struct check){0};
}

const struct conf_node *check_find(const struct check *k, const struct conf_node *parent,
    enum conf_section_type type, const char *name)
{
	const struct name_entry key = {parent, type, name, NULL}, *found = NULL;
	if (k->name_count > 0)
		found = bsearch(&key, k->names, k->name_count, sizeof(key), name_order);
	return found != NULL ? found->node : NULL;
}

const struct conf_node *check_sender(const struct check *k, const char *name)
{
	const struct conf_node *n = check_find(k, k->conf->root, CONF_VMTA, name);
	return n != NULL ? n : check_find(k, k->conf->root, CONF_POOL, name);
}

static void PRINTF_LIKE(4, 0) put_problem(
    struct check *k, const struct conf_node *n, enum conf_opt opt, const char *fmt, va_list ap)
{
	const struct conf_value *v = conf_get(n, opt);
	char text[600];
	vsnprintf(text, sizeof text, fmt, ap);
	conf_problem(k->problems, v->set ? v->file : n->file, v->set ? v->line : n->line, "%s: %s",
	    conf_opts[opt].key, text);
}

void check_value(
    struct check *k, const struct conf_node *n, enum conf_opt opt, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	put_problem(k, n, opt, fmt, ap);
	va_end(ap);
}

void check_node(struct check *k, const struct conf_node *n, const char *fmt, ...)
{
	char text[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	conf_problem(k->problems, n->file, n->line, "%s", text);
}

/* config_queue.def gives both sections the same options in the same order. */
enum conf_opt check_queue_opt(const struct conf_node *n, enum conf_opt opt)
{
	if (n->type == CONF_DOMAIN)
		return opt;
	must(n->type == CONF_PROVIDER);
	return (enum conf_opt)(
	    (int)CO_PROVIDER_max_smtp_out + (int)opt - (int)CO_DOMAIN_max_smtp_out);
}

const struct conf_value *check_given(const struct conf_node *n, enum conf_opt opt)
{
	const struct conf_value *v = conf_get(n, opt);
	return v->set ? v : NULL;
}

bool check_touched(const struct conf_node *n, enum conf_opt opt)
{
	const struct conf_value *v = &n->values[(size_t)opt - conf_first_opt(n->type)];
	return v->set || v->line != 0;
}

const char *check_where(const struct check *k, const struct conf_node *n, char out[300])
{
	snprintf(out, 300, "%.280s:%u",
	    n->file < k->conf->file_count ? k->conf->files[n->file] : "configuration", n->line);
	return out;
}

const char *check_name(const struct conf_node *n)
{
	int opt = conf_name_opt(n->type);
	return opt < 0 ? "" : conf_text(n, (enum conf_opt)opt);
}

static void each_queue_section(struct check *k, const struct conf_node *parent,
    void (*fn)(struct check *k, const struct conf_node *n))
{
	for (size_t i = 0; i < parent->child_count; i++) {
		const struct conf_node *n = parent->children[i];
		if (n->type == CONF_DOMAIN || n->type == CONF_PROVIDER)
			fn(k, n);
		else if (n->type == CONF_VMTA || n->type == CONF_POOL)
			each_queue_section(k, n, fn);
	}
}

void check_queue_sections(struct check *k, void (*fn)(struct check *k, const struct conf_node *n))
{
	each_queue_section(k, k->conf->root, fn);
}

/* --- sections by themselves ---------------------------------------------------------------------
 */

static void check_required(struct check *k, const struct conf_node *n)
{
	size_t first = conf_first_opt(n->type);
	for (size_t i = first; i < first + conf_opts_of(n->type); i++) {
		enum conf_opt opt = (enum conf_opt)i;
		if (conf_opt_required(opt) && !check_touched(n, opt))
			check_node(k, n, "%s: this option is required here", conf_opts[i].key);
	}
	for (size_t i = 0; i < n->child_count; i++)
		check_required(k, n->children[i]);
}

static bool same_listener(const struct conf_node *a, const struct conf_node *b)
{
	return conf_num(a, CO_LISTENER_port) == conf_num(b, CO_LISTENER_port) &&
	       strcmp(conf_text(a, CO_LISTENER_address), conf_text(b, CO_LISTENER_address)) == 0;
}

static bool same_source(const struct conf_node *a, const struct conf_node *b)
{
	return strcmp(conf_text(a, CO_SOURCE_address), conf_text(b, CO_SOURCE_address)) == 0 &&
	       conf_text(a, CO_SOURCE_address)[0] != 0;
}

static bool same_file(const struct conf_node *a, const struct conf_node *b)
{
	return strcmp(conf_text(a, CO_ACCOUNTING_file), conf_text(b, CO_ACCOUNTING_file)) == 0 &&
	       conf_text(a, CO_ACCOUNTING_file)[0] != 0;
}

/* Entries of short lists that must differ from all before them. */
static void check_twice(struct check *k, const struct conf_node *parent,
    enum conf_section_type type, const char *what,
    bool (*same)(const struct conf_node *, const struct conf_node *))
{
	const struct conf_node *n = NULL;
	while ((n = conf_next(parent, type, n)) != NULL)
		for (const struct conf_node *m = conf_next(parent, type, NULL); m != n;
		     m = conf_next(parent, type, m))
			if (same(m, n)) {
				check_node(k, n, "%s stands twice, the first time in line %u", what,
				    m->line);
				break;
			}
}

static void check_listener(struct check *k, const struct conf_node *n)
{
	bool cert = conf_text(n, CO_LISTENER_tls_certificate)[0] != 0;
	bool key = conf_text(n, CO_LISTENER_tls_key)[0] != 0;
	if (cert && !key)
		check_value(
		    k, n, CO_LISTENER_tls_certificate, "%s is missing beside it", "tls-key");
	if (key && !cert)
		check_value(
		    k, n, CO_LISTENER_tls_key, "%s is missing beside it", "tls-certificate");
}

static void check_accounting(struct check *k, const struct conf_node *n)
{
	static const char *const types[] = {"d", "b", "t", "tq", "r", "rb", "f"};
	const struct conf_value *v = conf_get(n, CO_ACCOUNTING_records);
	for (size_t i = 0; i < v->count; i++) {
		bool known = false, twice = false;
		for (size_t j = 0; j < COUNT_OF(types); j++)
			known |= strcmp(v->texts[i], types[j]) == 0;
		for (size_t j = 0; j < i; j++)
			twice |= strcmp(v->texts[i], v->texts[j]) == 0;
		if (!known)
			check_value(k, n, CO_ACCOUNTING_records,
			    "\"%.40s\" is not one of d, b, t, tq, r, rb, f", v->texts[i]);
		if (twice)
			check_value(
			    k, n, CO_ACCOUNTING_records, "\"%s\" stands twice", v->texts[i]);
	}
}

static void check_run_directory(struct check *k)
{
	const struct sockaddr_un *un = NULL;
	if (strlen(conf_text(k->conf->root, CO_GLOBAL_run_directory)) >
	    sizeof un->sun_path - SOCKET_NAME_BYTES)
		check_value(k, k->conf->root, CO_GLOBAL_run_directory, "%s",
		    "the path is too long for names of sockets in it (90 bytes)");
}

void conf_check(const struct conf *c, struct conf_problems *p)
{
	const struct conf_node *n = NULL;
	struct check k;
	check_init(&k, c, p);
	check_required(&k, c->root);
	if (conf_next(c->root, CONF_LISTENER, NULL) == NULL)
		conf_problem(p, 0, 0,
		    "no listeners: write listeners = ( { address = \"127.0.0.1\"; port = 25; } );");
	while ((n = conf_next(c->root, CONF_LISTENER, n)) != NULL)
		check_listener(&k, n);
	while ((n = conf_next(c->root, CONF_VMTA, n)) != NULL)
		check_twice(&k, n, CONF_SOURCE, "this source address", same_source);
	while ((n = conf_next(c->root, CONF_ACCOUNTING, n)) != NULL)
		check_accounting(&k, n);
	check_twice(&k, c->root, CONF_LISTENER, "this address and port", same_listener);
	check_twice(&k, c->root, CONF_ACCOUNTING, "this file", same_file);
	check_run_directory(&k);
	check_senders(&k);
	check_providers(&k);
	check_queues(&k);
	check_rules(&k);
	check_tenants(&k);
	check_simulation(&k);
	check_fini(&k);
}
