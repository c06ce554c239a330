/* SPDX-License-Identifier: ISC */
/*
 * Checks of a whole configuration: what no single option can say. Errors stop a start or a reload;
 * hints are what is probably not meant, and stop nothing.
 */
#include "common/conf_impl.h"
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/un.h>

/* The longest socket name below run-directory: "/smtp-out.63.sock" and its NUL. */
#define SOCKET_NAME_BYTES sizeof("/smtp-out.63.sock")

static void PRINTF_LIKE(4, 5) at_value(
    struct conf_problems *p, const struct conf_node *n, enum conf_opt opt, const char *fmt, ...)
{
	const struct conf_value *v = conf_get(n, opt);
	char text[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	conf_problem(p, v->set ? v->file : n->file, v->set ? v->line : n->line, "%s: %s",
	    conf_opts[opt].key, text);
}

static void check_required(const struct conf_node *n, struct conf_problems *p)
{
	size_t first = conf_first_opt(n->type);
	for (size_t i = first; i < first + conf_opts_of(n->type); i++) {
		const struct conf_value *v = &n->values[i - first];
		/* A line without a value: it was given, and wrong. */
		if (conf_opt_required((enum conf_opt)i) && !v->set && v->line == 0)
			conf_problem(p, n->file, n->line, "%s: this option is required here",
			    conf_opts[i].key);
	}
	for (size_t i = 0; i < n->child_count; i++)
		check_required(n->children[i], p);
}

static void check_vmta_name(
    const struct conf *c, const struct conf_node *n, enum conf_opt opt, struct conf_problems *p)
{
	const char *name = conf_text(n, opt);
	if (name[0] != 0 && conf_find(c->root, CONF_VMTA, CO_VMTA_name, name) == NULL)
		at_value(p, n, opt, "no virtual MTA is named \"%s\"", name);
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
static void check_twice(const struct conf_node *parent, enum conf_section_type type,
    const char *what, bool (*same)(const struct conf_node *, const struct conf_node *),
    struct conf_problems *p)
{
	const struct conf_node *n = NULL;
	while ((n = conf_next(parent, type, n)) != NULL)
		for (const struct conf_node *m = conf_next(parent, type, NULL); m != n;
		     m = conf_next(parent, type, m))
			if (same(m, n)) {
				conf_problem(p, n->file, n->line,
				    "%s stands twice, the first time in line %u", what, m->line);
				break;
			}
}

static void check_listener(const struct conf *c, const struct conf_node *n, struct conf_problems *p)
{
	bool cert = conf_text(n, CO_LISTENER_tls_certificate)[0] != 0;
	bool key = conf_text(n, CO_LISTENER_tls_key)[0] != 0;
	check_vmta_name(c, n, CO_LISTENER_virtual_mta, p);
	if (cert && !key)
		at_value(p, n, CO_LISTENER_tls_certificate, "%s is missing beside it", "tls-key");
	if (key && !cert)
		at_value(p, n, CO_LISTENER_tls_key, "%s is missing beside it", "tls-certificate");
}

static void check_accounting(const struct conf_node *n, struct conf_problems *p)
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
			at_value(p, n, CO_ACCOUNTING_records,
			    "\"%.40s\" is not one of d, b, t, tq, r, rb, f", v->texts[i]);
		if (twice)
			at_value(p, n, CO_ACCOUNTING_records, "\"%s\" stands twice", v->texts[i]);
	}
}

void conf_check(const struct conf *c, struct conf_problems *p)
{
	const struct conf_node *n = NULL;
	const struct sockaddr_un *un = NULL;
	check_required(c->root, p);
	check_vmta_name(c, c->root, CO_GLOBAL_default_virtual_mta, p);
	if (conf_next(c->root, CONF_LISTENER, NULL) == NULL)
		conf_problem(p, 0, 0,
		    "no listeners: write listeners = ( { address = \"127.0.0.1\"; port = 25; } );");
	while ((n = conf_next(c->root, CONF_LISTENER, n)) != NULL)
		check_listener(c, n, p);
	while ((n = conf_next(c->root, CONF_VMTA, n)) != NULL)
		check_twice(n, CONF_SOURCE, "this source address", same_source, p);
	while ((n = conf_next(c->root, CONF_ACCOUNTING, n)) != NULL)
		check_accounting(n, p);
	check_twice(c->root, CONF_LISTENER, "this address and port", same_listener, p);
	check_twice(c->root, CONF_ACCOUNTING, "this file", same_file, p);
	if (strlen(conf_text(c->root, CO_GLOBAL_run_directory)) >
	    sizeof un->sun_path - SOCKET_NAME_BYTES)
		at_value(p, c->root, CO_GLOBAL_run_directory, "%s",
		    "the path is too long for names of sockets in it (90 bytes)");
}

/* --- hints ------------------------------------------------------------------------------------ */

static void hint_domains(const struct conf *c, const struct conf_node *parent, struct buf *out)
{
	int64_t total = conf_num(c->root, CO_GLOBAL_total_max_smtp_out);
	const struct conf_node *n = NULL;
	while ((n = conf_next(parent, CONF_DOMAIN, n)) != NULL) {
		const struct conf_value *v = conf_get(n, CO_DOMAIN_max_smtp_out);
		char origin[512];
		conf_origin(c, v, origin);
		if (v->set && v->num > total)
			buf_printf(out,
			    "%s: max-smtp-out %lld is more than total-max-smtp-out %lld\n", origin,
			    (long long)v->num, (long long)total);
	}
}

/* Rule of precedence: the more specific destination wins over the more specific sender. */
static void hint_shadowed(const struct conf *c, const struct conf_node *any, struct buf *out)
{
	size_t first = conf_first_opt(CONF_DOMAIN);
	const struct conf_node *n = NULL;
	while ((n = conf_next(c->root, CONF_DOMAIN, n)) != NULL) {
		if (strcmp(conf_text(n, CO_DOMAIN_name), "*") == 0)
			continue;
		for (size_t i = first; i < first + conf_opts_of(CONF_DOMAIN); i++) {
			const struct conf_value *mine = conf_get(any, (enum conf_opt)i);
			const struct conf_value *theirs = conf_get(n, (enum conf_opt)i);
			char origin[512], winner[512];
			if (i == CO_DOMAIN_name || !mine->set || !theirs->set)
				continue;
			conf_origin(c, mine, origin);
			conf_origin(c, theirs, winner);
			buf_printf(out, "%s: %s does not hold for %s: %s is more specific\n",
			    origin, conf_opts[i].key, conf_text(n, CO_DOMAIN_name), winner);
		}
	}
}

static void hint_descriptors(const struct conf *c, struct buf *out)
{
	struct rlimit limit;
	int64_t wanted = conf_num(c->root, CO_GLOBAL_total_max_smtp_out) +
			 conf_num(c->root, CO_GLOBAL_total_max_smtp_in);
	char origin[512];
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max >= (rlim_t)wanted)
		return;
	conf_origin(c, conf_get(c->root, CO_GLOBAL_total_max_smtp_out), origin);
	buf_printf(out,
	    "%s: total-max-smtp-out and total-max-smtp-in allow %lld connections, but this system "
	    "allows a process "
	    "%llu open files\n",
	    origin, (long long)wanted, (unsigned long long)limit.rlim_max);
}

void conf_hints(const struct conf *c, struct buf *out)
{
	const struct conf_node *n = NULL;
	while ((n = conf_next(c->root, CONF_LISTENER, n)) != NULL)
		if (conf_get(n, CO_LISTENER_relay_from)->count == 0)
			buf_printf(out,
			    "%s:%u: this listener has no relay-from: it refuses every client\n",
			    n->file < c->file_count ? c->files[n->file] : "configuration", n->line);
	hint_domains(c, c->root, out);
	while ((n = conf_next(c->root, CONF_VMTA, n)) != NULL) {
		const struct conf_node *any = conf_find(n, CONF_DOMAIN, CO_DOMAIN_name, "*");
		hint_domains(c, n, out);
		if (any != NULL)
			hint_shadowed(c, any, out);
	}
	hint_descriptors(c, out);
}
