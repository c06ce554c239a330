/* SPDX-License-Identifier: ISC */
/*
 * The configuration tree: sections with their options' values, and the table of config.def as data.
 *
 * Alone here: the expansion of config.def, and the parsed defaults. A node holds values for all
 * options of its section, of which only those given in a file are `set`; conf_get() answers with
 * the default for the others, so an unset option costs no memory beyond its empty slot. Nothing
 * here reads files or knows libconfig; the loader, the codec and the printer stand in files of
 * their own (conf_*.c).
 */
#include "common/conf_impl.h"
#include "common/types.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const struct conf_opt_def conf_opts[CONF_OPT_COUNT] = {
#define SECTION(name, list_key, parent, man)
#define OPT(section, id, key, kind, min, max, def, consumers, man)                                 \
	{CONF_##section, key, kind, min, max, def, consumers},
#include "common/config.def"
#undef SECTION
#undef OPT
};
const struct conf_place conf_places[] = {
#define SECTION(name, list_key, parent, man) {CONF_##name, list_key, CONF_##parent},
#define UNDER(name, list_key, parent, man) {CONF_##name, list_key, CONF_##parent},
#define OPT(section, id, key, kind, min, max, def, consumers, man)
#include "common/config.def"
#undef SECTION
#undef OPT
};
const size_t conf_place_count = COUNT_OF(conf_places);

bool conf_is_group(enum conf_section_type section)
{
	static const bool groups[CONF_SECTION_COUNT] = {
#define GROUP(name) [CONF_##name] = true,
#define SECTION(name, list_key, parent, man)
#define OPT(section, id, key, kind, min, max, def, consumers, man)
#include "common/config.def"
#undef SECTION
#undef OPT
	};

	return groups[section];
}

/* Made once, then only read. */
static struct {
	pthread_once_t once;
	size_t first[CONF_SECTION_COUNT];
	size_t count[CONF_SECTION_COUNT];
	struct conf_value defaults[CONF_OPT_COUNT];
} table = {.once = PTHREAD_ONCE_INIT};

static void table_make(void)
{
	for (size_t i = CONF_OPT_COUNT; i-- > 0;) {
		enum conf_section_type section = conf_opts[i].section;
		table.first[section] = i;
		table.count[section]++;
	}
	for (size_t i = 0; i < CONF_OPT_COUNT; i++) {
		char why[200];
		/* An empty default is the empty value of every kind. */
		if (conf_opts[i].def[0] != 0 &&
		    conf_parse_value(
			(enum conf_opt)i, str_of(conf_opts[i].def), &table.defaults[i], why) != 0)
			bug(conf_opts[i].key);
	}
}

static void table_need(void)
{
	pthread_once(&table.once, table_make);
}

size_t conf_first_opt(enum conf_section_type section)
{
	table_need();
	return table.first[section];
}

size_t conf_opts_of(enum conf_section_type section)
{
	table_need();
	return table.count[section];
}

unsigned conf_opt_consumers(enum conf_opt opt)
{
	static const char letters[] = {[PROC_MASTER] = 'M',
	    [PROC_smtpd] = 'D',
	    [PROC_qmgr] = 'Q',
	    [PROC_smtp_out] = 'O',
	    [PROC_resolver] = 'R',
	    [PROC_bouncer] = 'B'};
	unsigned bits = 0;
	for (unsigned i = 0; i < COUNT_OF(letters); i++)
		if (strchr(conf_opts[opt].consumers, letters[i]) != NULL)
			bits |= 1u << i;
	return bits;
}

bool conf_opt_required(enum conf_opt opt)
{
	return strchr(conf_opts[opt].consumers, '!') != NULL;
}

int conf_name_opt(enum conf_section_type section)
{
	size_t first = conf_first_opt(section);
	for (size_t i = first; i < first + table.count[section]; i++)
		if (strcmp(conf_opts[i].key, "name") == 0)
			return (int)i;
	return -1;
}

const struct conf_place *conf_find_place(enum conf_section_type parent, const char *key)
{
	for (size_t i = 1; i < conf_place_count; i++)
		if (conf_places[i].parent == parent && strcmp(conf_places[i].key, key) == 0)
			return &conf_places[i];
	return NULL;
}

bool conf_may_stand(enum conf_section_type section, enum conf_section_type parent)
{
	for (size_t i = 1; i < conf_place_count; i++)
		if (conf_places[i].section == section && conf_places[i].parent == parent)
			return true;
	return false;
}

const char *conf_opt_key(enum conf_opt opt)
{
	return conf_opts[opt].key;
}

enum conf_kind conf_opt_kind(enum conf_opt opt)
{
	return conf_opts[opt].kind;
}

const char *conf_opt_default(enum conf_opt opt)
{
	return conf_opts[opt].def;
}

/* --- the tree --------------------------------------------------------------------------------- */

struct conf *conf_new(void)
{
	struct conf *c = xcalloc(1, sizeof *c);
	c->root = conf_node_new(CONF_GLOBAL, 0, 0);
	return c;
}

uint16_t conf_add_file(struct conf *c, const char *name)
{
	must(c->file_count < UINT16_MAX);
	c->files = xrealloc(c->files, (c->file_count + 1) * sizeof *c->files);
	c->files[c->file_count] = xstrdup(name);
	return (uint16_t)c->file_count++;
}

struct conf_node *conf_node_new(enum conf_section_type type, uint16_t file, uint32_t line)
{
	struct conf_node *n = xcalloc(1, sizeof *n);
	n->type = type;
	n->file = file;
	n->line = line;
	n->values = xcalloc(conf_opts_of(type), sizeof *n->values);
	return n;
}

void conf_node_add(struct conf_node *parent, struct conf_node *child)
{
	/* Grows by doubling: the capacity is the count rounded up to a power of two. */
	if ((parent->child_count & (parent->child_count - 1)) == 0) {
		size_t cap = parent->child_count == 0 ? 1 : parent->child_count * 2;
		parent->children = xrealloc(parent->children, cap * sizeof(struct conf_node *));
	}
	child->parent = parent;
	child->index = parent->child_count;
	parent->children[parent->child_count++] = child;
}

void conf_value_fini(struct conf_value *v)
{
	for (size_t i = 0; v->texts != NULL && i < v->count; i++)
		free(v->texts[i]);
	free(v->texts);
	free(v->nums);
	free(v->text);
	*v = (struct conf_value){0};
}

static void node_free(struct conf_node *n)
{
	for (size_t i = 0; i < n->child_count; i++)
		node_free(n->children[i]);
	for (size_t i = 0; i < conf_opts_of(n->type); i++)
		conf_value_fini(&n->values[i]);
	free(n->children);
	free(n->values);
	free(n);
}

void conf_free(struct conf **c)
{
	if (*c == NULL)
		return;
	node_free((*c)->root);
	for (size_t i = 0; i < (*c)->file_count; i++)
		free((*c)->files[i]);
	free((*c)->files);
	free(*c);
	*c = NULL;
}

struct conf_value *conf_slot(struct conf_node *n, enum conf_opt opt)
{
	must(conf_opts[opt].section == n->type);
	return &n->values[(size_t)opt - conf_first_opt(n->type)];
}

void conf_set_text(
    struct conf_node *n, enum conf_opt opt, const char *text, uint16_t file, uint32_t line)
{
	struct conf_value v = {0};
	char why[200];
	must(conf_parse_value(opt, str_of(text), &v, why) == 0);
	v.set = true;
	v.file = file;
	v.line = line;
	struct conf_value *slot = conf_slot(n, opt);
	conf_value_fini(slot);
	*slot = v;
}

/* --- reading it ------------------------------------------------------------------------------- */

const struct conf_value *conf_get(const struct conf_node *n, enum conf_opt opt)
{
	must(conf_opts[opt].section == n->type);
	const struct conf_value *v = &n->values[(size_t)opt - conf_first_opt(n->type)];
	return v->set ? v : &table.defaults[opt];
}

int64_t conf_num(const struct conf_node *n, enum conf_opt opt)
{
	return conf_get(n, opt)->num;
}

const char *conf_text(const struct conf_node *n, enum conf_opt opt)
{
	const char *text = conf_get(n, opt)->text;
	return text != NULL ? text : "";
}

const struct conf_node *conf_next(
    const struct conf_node *parent, enum conf_section_type type, const struct conf_node *after)
{
	for (size_t i = after == NULL ? 0 : after->index + 1; i < parent->child_count; i++)
		if (parent->children[i]->type == type)
			return parent->children[i];
	return NULL;
}

const struct conf_node *conf_find(const struct conf_node *parent, enum conf_section_type type,
    enum conf_opt name_opt, const char *name)
{
	const struct conf_node *n = NULL;
	while ((n = conf_next(parent, type, n)) != NULL)
		if (strcmp(conf_text(n, name_opt), name) == 0)
			return n;
	return NULL;
}

void conf_origin(const struct conf *c, const struct conf_value *v, char out[512])
{
	if (!v->set)
		snprintf(out, 512, "default");
	else if (v->file >= c->file_count)
		snprintf(out, 512, "configuration:%u", v->line);
	else if (v->line == 0)
		snprintf(out, 512, "%.500s", c->files[v->file]);
	else
		snprintf(out, 512, "%.500s:%u", c->files[v->file], v->line);
}

/* --- problems --------------------------------------------------------------------------------- */

void conf_problem(struct conf_problems *p, uint16_t file, uint32_t line, const char *fmt, ...)
{
	if (p->count == CONF_PROBLEMS_MAX) {
		p->dropped++;
		return;
	}
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (p->count % 64 == 0)
		p->items = xrealloc(p->items, (p->count + 64) * sizeof *p->items);
	p->items[p->count] = (struct conf_problem){file, line, p->count, xstrdup(text)};
	p->count++;
}

static int problem_order(const void *a, const void *b)
{
	const struct conf_problem *x = a, *y = b;
	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	if (x->line != y->line)
		return x->line < y->line ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void conf_problems_print(struct conf_problems *p, const struct conf *c, struct buf *out)
{
	if (p->count > 0)
		qsort(p->items, p->count, sizeof *p->items, problem_order);
	for (size_t i = 0; i < p->count; i++)
		buf_printf(out, "%s:%u: %s\n", c->files[p->items[i].file], p->items[i].line,
		    p->items[i].text);
	if (p->dropped > 0)
		buf_printf(out, "%s:0: and %zu problems more\n", c->files[0], p->dropped);
}

void conf_problems_fini(struct conf_problems *p)
{
	for (size_t i = 0; i < p->count; i++)
		free(p->items[i].text);
	free(p->items);
	*p = (struct conf_problems){0};
}
