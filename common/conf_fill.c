/* SPDX-License-Identifier: ISC */
/*
 * Defaults that the machine decides: its name, its name servers, and which virtual MTA is the
 * default. They are put into the tree as if a file had given them, so that workers, the printed
 * configuration and origins all show what is really used. Reads two small files and never asks the
 * network: a name server that hangs must not hang a start.
 */
#include "common/addr.h"
#include "common/conf_impl.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 1024, SERVERS_MAX = 3 }; /* as many as the C library uses */

/* Words of a line, '#' and ';' begin a comment. False when there is none left. */
static bool next_word(struct str *line, struct str *word)
{
	static const char blanks[] = " \t\r\n";
	while (line->n > 0 && strchr(blanks, line->p[0]) != NULL && line->p[0] != 0)
		line->p++, line->n--;
	if (line->n == 0 || line->p[0] == '#' || line->p[0] == ';')
		return false;
	size_t n = 0;
	while (n < line->n && line->p[n] != 0 && strchr(blanks, line->p[n]) == NULL &&
	       line->p[n] != '#')
		n++;
	*word = (struct str){line->p, n};
	line->p += n;
	line->n -= n;
	return n > 0;
}

/* The first name with a dot in a line of /etc/hosts that also has `host`. */
static bool name_in_hosts_line(struct str line, struct str host, char out[DOMAIN_MAX + 1])
{
	struct str word, full = {0};
	bool has_host = false;
	if (!next_word(&line, &word)) /* the address */
		return false;
	while (next_word(&line, &word)) {
		if (str_eq_nocase(word, host))
			has_host = true;
		if (full.n == 0 && memchr(word.p, '.', word.n) != NULL)
			full = word;
	}
	return has_host && full.n > 0 && domain_normalise(out, full) == 0;
}

static bool name_from_hosts(struct str host, char out[DOMAIN_MAX + 1])
{
	char line[LINE_MAX_BYTES];
	bool found = false;
	FILE *f = fopen("/etc/hosts", "re");
	while (f != NULL && !found && fgets(line, sizeof line, f) != NULL)
		found = name_in_hosts_line(str_of(line), host, out);
	if (f != NULL)
		fclose(f);
	return found;
}

static void fill_host_name(struct conf *c)
{
	char host[HOST_NAME_MAX + 1] = "", name[DOMAIN_MAX + 1];
	if (gethostname(host, sizeof host - 1) != 0 || domain_normalise(name, str_of(host)) != 0)
		snprintf(name, sizeof name, "localhost");
	if (strchr(name, '.') == NULL) {
		char full[DOMAIN_MAX + 1];
		if (name_from_hosts(str_of(name), full))
			memcpy(name, full, sizeof name);
	}
	conf_set_text(
	    c->root, CO_GLOBAL_host_name, name, conf_add_file(c, "host name of this machine"), 0);
}

static void fill_nameservers(struct conf *c)
{
	static const char path[] = "/etc/resolv.conf";
	char text[LINE_MAX_BYTES], why[200];
	struct conf_value v = {0};
	uint32_t number = 0;
	FILE *f = fopen(path, "re");
	while (f != NULL && v.count < SERVERS_MAX && fgets(text, sizeof text, f) != NULL) {
		struct str line = str_of(text), word;
		number++;
		if (!next_word(&line, &word) || !str_eq(word, STR("nameserver")) ||
		    !next_word(&line, &word))
			continue;
		if (conf_value_add_item(CO_GLOBAL_nameservers, &v, word, why) == 0)
			v.line = number;
	}
	if (f != NULL)
		fclose(f);
	/* None at all means the local one, as resolv.conf(5) says. */
	if (v.count == 0)
		must(conf_value_add_item(CO_GLOBAL_nameservers, &v, STR("127.0.0.1"), why) == 0);
	v.set = true;
	v.file = conf_add_file(c, path);
	*conf_slot(c->root, CO_GLOBAL_nameservers) = v;
}

static void fill_virtual_mta(struct conf *c)
{
	const struct conf_node *first = conf_next(c->root, CONF_VMTA, NULL);
	if (first == NULL) {
		uint16_t file = conf_add_file(c, "built in");
		struct conf_node *n = conf_node_new(CONF_VMTA, file, 0);
		conf_set_text(n, CO_VMTA_name, "default", file, 0);
		conf_node_add(c->root, n);
		first = n;
	}
	if (!conf_get(c->root, CO_GLOBAL_default_virtual_mta)->set) {
		const struct conf_value *name = conf_get(first, CO_VMTA_name);
		conf_set_text(
		    c->root, CO_GLOBAL_default_virtual_mta, name->text, name->file, name->line);
	}
}

void conf_fill_defaults(struct conf *c)
{
	if (!conf_get(c->root, CO_GLOBAL_host_name)->set)
		fill_host_name(c);
	if (!conf_get(c->root, CO_GLOBAL_nameservers)->set)
		fill_nameservers(c);
	fill_virtual_mta(c);
}
