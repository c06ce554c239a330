/* SPDX-License-Identifier: ISC */
/*
 * Reading configuration files: from bytes on disk to a checked tree. The only file that knows
 * libconfig.
 *
 * One file goes through four steps: its bytes are read and refused if odd (not a regular file, too
 * large, writable by others); conf_scan() finds in the text what libconfig 1.5 would garble;
 * libconfig parses it; and each setting is checked against the table of config.def and put into the
 * tree. Then the files its `include` names follow, so that a later file wins key by key, and list
 * entries with a name merge.
 *
 * A syntax error ends its own file only, and every other problem is gathered, so that the operator
 * sees all of them at once. Checks that need the whole tree run when every file could be read. A
 * tree leaves this file only when there was no problem at all.
 */
#include "common/conf_impl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <libconfig.h>
#include <limits.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	DEPTH_MAX = 10,		   /* of includes; a chain longer than that is a mistake */
	FILES_MAX = 1000,	   /* of one configuration */
	FILE_BYTES_MAX = 16 << 20, /* a file larger than that is not a configuration */
};
struct seen { /* a file that was read, so that none is read twice */
	dev_t dev;
	ino_t ino;
	bool open; /* on the way from the first file to the current one */
};
struct named { /* an entry of a list with names, for merging; node of the search tree */
	const struct conf_node *parent;
	enum conf_section_type type;
	const char *name; /* the node's */
	struct conf_node *node;
	uint16_t file; /* the last that gave it, and where */
	uint32_t line;
};
struct loader {
	struct conf *conf;
	struct conf_problems problems;
	struct seen seen[FILES_MAX];
	void *names;	 /* tsearch() tree of struct named */
	bool incomplete; /* a file could not be read or parsed */
	/* of the file being converted: */
	uint16_t file;
	struct conf_lines bad_lines;
};

/* --- bytes of a file -------------------------------------------------------------------------- */

static const char *file_refused(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "is not a regular file";
	if (st->st_size > FILE_BYTES_MAX)
		return "is too large (16M)";
	if (geteuid() == 0 && (st->st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return "is writable by group or others, who could then act as root: chmod go-w";
	return NULL;
}

static int read_all(int fd, struct buf *text)
{
	for (;;) {
		unsigned char *p = buf_reserve(text, 65536);
		if (p == NULL)
			return -EFBIG;
		ssize_t n = read(fd, p, 65536);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		if (n > 0)
			text->n += (size_t)n;
	}
}

/* Opens without waiting for the writer of a FIFO and without becoming anybody's terminal. */
static const char *read_file(const char *path, struct stat *st, struct buf *text)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return strerrordesc_np(errno);
	const char *why = fstat(fd, st) != 0 ? strerrordesc_np(errno) : file_refused(st);
	if (why == NULL) {
		int r = read_all(fd, text);
		if (r != 0)
			why = strerrordesc_np(-r);
	}
	close(fd);
	return why;
}

/* --- settings --------------------------------------------------------------------------------- */

static uint32_t line_of(const config_setting_t *s)
{
	return s->line;
}

static size_t distance(const char *a, const char *b)
{
	enum { KEY_MAX = 64 }; /* longer keys have no near name */
	size_t m = strlen(a), n = strlen(b), row[KEY_MAX + 1];
	if (m > KEY_MAX || n > KEY_MAX)
		return KEY_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; i <= m; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[n];
}

static void nearer(const char *key, const char *candidate, size_t *best, const char **name)
{
	size_t d = distance(key, candidate);
	if (d < *best) {
		*best = d;
		*name = candidate;
	}
}

/* The lists whose entries have such a key: "providers or domains". False: none has, or it is better
 * known as a list itself, as domains is. */
static bool lists_with(const char *key, char out[200])
{
	bool told[CONF_SECTION_COUNT] = {false};
	size_t n = 0;
	for (size_t i = 1; i < conf_place_count; i++)
		if (strcmp(conf_places[i].key, key) == 0)
			return false;
	for (size_t i = 1; i < conf_place_count; i++) {
		enum conf_section_type section = conf_places[i].section;
		size_t opt = conf_first_opt(section), end = opt + conf_opts_of(section);
		while (opt < end && strcmp(conf_opts[opt].key, key) != 0)
			opt++;
		if (opt == end || told[section] || n >= 200)
			continue;
		told[section] = true;
		n += (size_t)snprintf(
		    out + n, 200 - n, "%s%s", n > 0 ? " or " : "", conf_places[i].key);
	}
	return n > 0;
}

/* Unknown here: the nearest key of this section, else where such a key would belong. */
static void unknown_key(struct loader *l, enum conf_section_type section, const config_setting_t *s)
{
	const char *name = NULL;
	size_t best = strlen(s->name) < 6 ? 3 : strlen(s->name) / 3 + 1;
	size_t first = conf_first_opt(section);
	for (size_t i = 0; i < CONF_OPT_COUNT; i++)
		if (i >= first && i < first + conf_opts_of(section))
			nearer(s->name, conf_opts[i].key, &best, &name);
	for (size_t i = 1; i < conf_place_count; i++)
		if (conf_places[i].parent == section)
			nearer(s->name, conf_places[i].key, &best, &name);
	if (name != NULL) {
		conf_problem(&l->problems, l->file, line_of(s),
		    "%s: unknown option; did you mean %s?", s->name, name);
		return;
	}
	char where[200];
	if (lists_with(s->name, where))
		conf_problem(&l->problems, l->file, line_of(s),
		    "%s: unknown option here; it belongs into %s", s->name, where);
	else
		conf_problem(&l->problems, l->file, line_of(s), "%s: unknown option", s->name);
}

static const char *type_noun(const config_setting_t *s)
{
	switch (s->type) {
	case CONFIG_TYPE_GROUP:
		return "a group { }";
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		return "a bare number";
	case CONFIG_TYPE_FLOAT:
		return "a fraction";
	case CONFIG_TYPE_STRING:
		return "a string";
	case CONFIG_TYPE_BOOL:
		return "a bare true or false";
	case CONFIG_TYPE_ARRAY:
		return "an array [ ]";
	default:
		return "a list ( )";
	}
}

static bool type_fits(enum conf_kind kind, int type)
{
	switch (kind) {
	case KIND_INT:
		return type == CONFIG_TYPE_INT;
	case KIND_AUTO_INT:
		return type == CONFIG_TYPE_INT || type == CONFIG_TYPE_STRING;
	case KIND_BOOL:
		return type == CONFIG_TYPE_BOOL;
	case KIND_BOOL_TIME:
		return type == CONFIG_TYPE_BOOL || type == CONFIG_TYPE_STRING;
	case KIND_NAMES:
		return type == CONFIG_TYPE_ARRAY || type == CONFIG_TYPE_LIST ||
		       type == CONFIG_TYPE_STRING;
	case KIND_TEXTS:
	case KIND_NETWORKS:
	case KIND_SERVERS:
		return type == CONFIG_TYPE_ARRAY || type == CONFIG_TYPE_LIST;
	default:
		return type == CONFIG_TYPE_STRING;
	}
}

/* conf_scan() has said what is wrong with a number on this line: say no more. */
static bool line_is_bad(const struct loader *l, uint32_t line)
{
	for (size_t i = 0; i < l->bad_lines.count; i++)
		if (l->bad_lines.at[i] == line)
			return true;
	return false;
}

static bool read_scalar(
    struct loader *l, enum conf_opt opt, const config_setting_t *s, struct conf_value *v)
{
	char number[32], why[200];
	struct str text = {0};
	if (s->type == CONFIG_TYPE_STRING) {
		text = str_of(config_setting_get_string(s));
	} else if (s->type == CONFIG_TYPE_BOOL) {
		text = config_setting_get_bool(s) ? STR("true") : STR("false");
	} else {
		snprintf(number, sizeof number, "%d", config_setting_get_int(s));
		text = str_of(number);
	}
	if (conf_parse_value(opt, text, v, why) == 0)
		return true;
	conf_problem(&l->problems, l->file, line_of(s), "%s: %s", conf_opts[opt].key, why);
	return false;
}

static bool read_items(
    struct loader *l, enum conf_opt opt, const config_setting_t *s, struct conf_value *v)
{
	bool ok = true;
	for (unsigned i = 0; i < (unsigned)config_setting_length(s); i++) {
		const config_setting_t *item = config_setting_get_elem(s, i);
		char why[200];
		if (item->type == CONFIG_TYPE_NONE) /* cut off by a syntax error */
			continue;
		if (item->type != CONFIG_TYPE_STRING) {
			ok = false;
			conf_problem(&l->problems, l->file, line_of(item),
			    "%s: expected %s, got %s in it", conf_opts[opt].key,
			    conf_kind_noun(conf_opts[opt].kind), type_noun(item));
		} else if (conf_value_add_item(
			       opt, v, str_of(config_setting_get_string(item)), why) != 0) {
			ok = false;
			conf_problem(&l->problems, l->file, line_of(item), "%s: %s",
			    conf_opts[opt].key, why);
		}
	}
	return ok;
}

static bool read_value(
    struct loader *l, enum conf_opt opt, const config_setting_t *s, struct conf_value *v)
{
	enum conf_kind kind = conf_opts[opt].kind;
	*v = (struct conf_value){0};
	bool number = s->type == CONFIG_TYPE_INT || s->type == CONFIG_TYPE_INT64;
	if (number && line_is_bad(l, line_of(s)))
		return false;
	if (!type_fits(kind, s->type)) {
		conf_problem(&l->problems, l->file, line_of(s), "%s: expected %s, got %s",
		    conf_opts[opt].key, conf_kind_noun(kind), type_noun(s));
		return false;
	}
	bool items = conf_kind_is_list(kind) && s->type != CONFIG_TYPE_STRING;
	bool ok = items ? read_items(l, opt, s, v) : read_scalar(l, opt, s, v);
	if (!ok)
		conf_value_fini(v);
	return ok;
}

static void read_option(
    struct loader *l, struct conf_node *node, enum conf_opt opt, const config_setting_t *s)
{
	struct conf_value v;
	struct conf_value *slot = conf_slot(node, opt);
	if (opt == CO_GLOBAL_include)
		return; /* not a value of the tree: expanded when this file is done */
	if (!read_value(l, opt, s, &v)) {
		slot->line = line_of(s); /* given, though wrong: not "missing" as well */
		return;
	}
	conf_value_fini(slot);
	*slot = v;
	slot->set = true;
	slot->file = l->file;
	slot->line = line_of(s);
}

/* --- sections --------------------------------------------------------------------------------- */

static int named_order(const void *a, const void *b)
{
	const struct named *x = a, *y = b;
	if (x->parent != y->parent)
		return (uintptr_t)x->parent < (uintptr_t)y->parent ? -1 : 1;
	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	return strcmp(x->name, y->name);
}

/* The node for an entry of that name under parent: an earlier file's, or a new one. */
static struct conf_node *node_named(
    struct loader *l, struct conf_node *parent, struct conf_node *fresh, const char *name)
{
	struct named *n = xmalloc(sizeof *n);
	*n = (struct named){parent, fresh->type, name, fresh, fresh->file, fresh->line};
	struct named *const *found = tsearch(n, &l->names, named_order);
	must(found != NULL);
	if (*found == n) {
		conf_node_add(parent, fresh);
		return fresh;
	}
	struct named *old = *found;
	free(n);
	if (old->file == l->file)
		conf_problem(&l->problems, l->file, fresh->line,
		    "%s: this name stands twice, the first time in line %u", name, old->line);
	old->file = l->file;
	old->line = fresh->line;
	return old->node;
}

static void read_group(struct loader *l, struct conf_node *node, const config_setting_t *group);

static void node_drop(struct conf_node *fresh)
{
	struct conf *holder = xcalloc(1, sizeof *holder);
	holder->root = fresh;
	conf_free(&holder);
}

static void read_entry(struct loader *l, struct conf_node *parent, const struct conf_place *place,
    const config_setting_t *entry)
{
	if (entry->type == CONFIG_TYPE_NONE)
		return; /* cut off by a syntax error */
	if (entry->type != CONFIG_TYPE_GROUP) {
		conf_problem(&l->problems, l->file, line_of(entry),
		    "%s: expected a group { } in the list, got %s", place->key, type_noun(entry));
		return;
	}
	struct conf_node *node = conf_node_new(place->section, l->file, line_of(entry));
	int name_opt = conf_name_opt(place->section);
	const config_setting_t *name =
	    name_opt < 0 ? NULL : config_setting_get_member(entry, "name");
	char why[200];
	struct conf_value v;
	if (name == NULL || name->type != CONFIG_TYPE_STRING ||
	    conf_parse_value(
		(enum conf_opt)name_opt, str_of(config_setting_get_string(name)), &v, why) != 0) {
		conf_node_add(parent, node); /* what is wrong with its name, read_group() says */
	} else {
		v.set = true;
		v.file = l->file;
		v.line = line_of(name);
		*conf_slot(node, (enum conf_opt)name_opt) = v;
		struct conf_node *kept = node_named(l, parent, node, v.text);
		if (kept != node)
			node_drop(node);
		node = kept;
	}
	read_group(l, node, entry);
}

/* A section that stands once: later files add to it, key by key. */
static void read_single(struct loader *l, struct conf_node *parent, const struct conf_place *place,
    const config_setting_t *group)
{
	if (group->type != CONFIG_TYPE_GROUP) {
		conf_problem(&l->problems, l->file, line_of(group),
		    "%s: expected a group { }, got %s", place->key, type_noun(group));
		return;
	}
	const struct conf_node *old = conf_next(parent, place->section, NULL);
	struct conf_node *node = old != NULL ? parent->children[old->index] : NULL;
	if (node == NULL) {
		node = conf_node_new(place->section, l->file, line_of(group));
		conf_node_add(parent, node);
	}
	read_group(l, node, group);
}

static void read_list(struct loader *l, struct conf_node *parent, const struct conf_place *place,
    const config_setting_t *list)
{
	if (conf_is_group(place->section)) {
		read_single(l, parent, place, list);
		return;
	}
	if (list->type != CONFIG_TYPE_LIST) {
		conf_problem(&l->problems, l->file, line_of(list),
		    "%s: expected a list %s = ( { ... } ), got %s", place->key, place->key,
		    type_noun(list));
		return;
	}
	for (unsigned i = 0; i < (unsigned)config_setting_length(list); i++)
		read_entry(l, parent, place, config_setting_get_elem(list, i));
}

static void read_group(struct loader *l, struct conf_node *node, const config_setting_t *group)
{
	size_t first = conf_first_opt(node->type), end = first + conf_opts_of(node->type);
	int name_opt = conf_name_opt(node->type);
	for (unsigned i = 0; i < (unsigned)config_setting_length(group); i++) {
		const config_setting_t *s = config_setting_get_elem(group, i);
		if (s->type == CONFIG_TYPE_NONE)
			continue; /* cut off by a syntax error */
		const struct conf_place *place = conf_find_place(node->type, s->name);
		size_t opt = first;
		while (opt < end && strcmp(conf_opts[opt].key, s->name) != 0)
			opt++;
		if (place != NULL)
			read_list(l, node, place, s);
		else if (opt == end)
			unknown_key(l, node->type, s);
		/* The name is the key in the search tree: it stays where it was first given. */
		else if ((int)opt != name_opt || !conf_slot(node, (enum conf_opt)opt)->set)
			read_option(l, node, (enum conf_opt)opt, s);
	}
}

/* --- files and includes ----------------------------------------------------------------------- */

struct place_in_file {
	uint16_t file;
	uint32_t line;
};
static void load_file(struct loader *l, const char *path, int depth, struct place_in_file from);

static int by_name(const void *a, const void *b)
{
	const char *const *x = a, *const *y = b;
	return strcmp(*x, *y);
}

/* Names in `dir` that match, sorted; NULL-terminated. Hidden files only match patterns with a dot.
 */
static char **glob_names(const char *dir, const char *pattern, size_t *count)
{
	char **names = NULL;
	DIR *d = opendir(dir);
	*count = 0;
	if (d == NULL)
		return NULL;
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    fnmatch(pattern, e->d_name, FNM_PERIOD | FNM_NOESCAPE) != 0)
			continue;
		/* More than FILES_MAX are refused one by one while they are loaded. */
		if (*count == FILES_MAX + 1)
			break;
		names = xrealloc(names, (*count + 1) * sizeof *names);
		names[(*count)++] = xstrdup(e->d_name);
	}
	closedir(d);
	if (*count > 0)
		qsort(names, *count, sizeof *names, by_name);
	return names;
}

static void include_glob(
    struct loader *l, const char *dir, const char *pattern, int depth, struct place_in_file from)
{
	size_t count = 0;
	char **names = glob_names(dir, pattern, &count);
	for (size_t i = 0; i < count; i++) {
		char path[PATH_MAX];
		int n = snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		if (n < 0 || (size_t)n >= sizeof path)
			conf_problem(&l->problems, from.file, from.line,
			    "include: the path of %.100s is too long", names[i]);
		else
			load_file(l, path, depth, from);
		free(names[i]);
	}
	free(names);
}

static void include_one(
    struct loader *l, const char *base, const char *what, int depth, struct place_in_file from)
{
	static const char wild[] = "*?[";
	char path[PATH_MAX];
	const char *slash = strrchr(base, '/');
	int dir_bytes = what[0] == '/' || slash == NULL ? 0 : (int)(slash + 1 - base);
	int n = snprintf(path, sizeof path, "%.*s%s", dir_bytes, base, what);
	if (n < 0 || (size_t)n >= sizeof path) {
		conf_problem(&l->problems, from.file, from.line, "include: the path is too long");
		return;
	}
	char *last = strrchr(path, '/');
	char *pattern = last == NULL ? path : last + 1;
	size_t dir_part =
	    what[0] == '/' || strrchr(what, '/') == NULL ? 0 : (size_t)(strrchr(what, '/') - what);
	if (strcspn(what, wild) < dir_part) {
		conf_problem(&l->problems, from.file, from.line,
		    "include: %s: wildcards may stand in the last part only", what);
	} else if (strpbrk(pattern, wild) == NULL) {
		load_file(l, path, depth, from);
	} else if (last == NULL) {
		include_glob(l, ".", pattern, depth, from);
	} else {
		*last = 0;
		include_glob(l, path[0] == 0 ? "/" : path, pattern, depth, from);
	}
}

static void load_includes(struct loader *l, const config_setting_t *root, uint16_t file, int depth)
{
	const config_setting_t *s =
	    config_setting_get_member(root, conf_opts[CO_GLOBAL_include].key);
	struct conf_value v;
	if (s == NULL || !read_value(l, CO_GLOBAL_include, s, &v))
		return;
	char *base = xstrdup(l->conf->files[file]);
	for (size_t i = 0; i < v.count; i++) {
		struct place_in_file from = {
		    file, line_of(config_setting_get_elem(s, (unsigned)i))};
		include_one(l, base, v.texts[i], depth, from);
	}
	free(base);
	conf_value_fini(&v);
}

/* After a syntax error libconfig keeps what stood before it: its problems are reported too, and
 * posternctl finds its run-directory there. */
static void parse_text(struct loader *l, const char *text, uint16_t file, int depth)
{
	config_t parsed;
	config_init(&parsed);
	bool good = config_read_string(&parsed, text) == CONFIG_TRUE;
	if (!good) {
		conf_problem(&l->problems, file, (uint32_t)config_error_line(&parsed),
		    "%s; the rest of this file was not read", config_error_text(&parsed));
		l->incomplete = true;
	}
	l->file = file;
	read_group(l, l->conf->root, config_root_setting(&parsed));
	if (good)
		load_includes(l, config_root_setting(&parsed), file, depth);
	config_destroy(&parsed);
}

/* Remembers the file; NULL, or why it must not be read now. */
static const char *note_seen(struct loader *l, const struct stat *st)
{
	for (size_t i = 0; i < l->conf->file_count; i++)
		if (l->seen[i].dev == st->st_dev && l->seen[i].ino == st->st_ino)
			return l->seen[i].open ? "includes itself" : "is included twice";
	return NULL;
}

static void refuse_file(
    struct loader *l, const char *path, struct place_in_file from, const char *why)
{
	l->incomplete = true;
	if (from.line == 0) { /* the first file: it has no place but itself */
		conf_problem(&l->problems, conf_add_file(l->conf, path), 0, "%s", why);
		return;
	}
	conf_problem(&l->problems, from.file, from.line, "include: %.500s: %s", path, why);
}

static void load_file(struct loader *l, const char *path, int depth, struct place_in_file from)
{
	struct stat st = {0};
	struct buf text;
	buf_init(&text, FILE_BYTES_MAX + 65536 + 2);
	const char *why = depth > DEPTH_MAX		     ? "included too deeply"
			  : l->conf->file_count == FILES_MAX ? "too many files"
							     : read_file(path, &st, &text);
	if (why == NULL)
		why = note_seen(l, &st);
	if (why != NULL) {
		refuse_file(l, path, from, why);
	} else {
		uint16_t file = conf_add_file(l->conf, path);
		struct conf_lines outer = l->bad_lines;
		l->seen[file] = (struct seen){st.st_dev, st.st_ino, true};
		l->bad_lines = (struct conf_lines){0};
		/* libconfig wants a line end after a comment in the last line. */
		buf_cstr(&text, "\n");
		if (conf_scan((struct str){(const char *)text.p, text.n}, file, &l->problems,
			&l->bad_lines)) {
			buf_u8(&text, 0);
			parse_text(l, (const char *)text.p, file, depth + 1);
		} else {
			l->incomplete = true;
		}
		free(l->bad_lines.at);
		l->bad_lines = outer;
		l->seen[file].open = false;
	}
	buf_fini(&text);
}

static struct conf *load(const char *path, struct buf *errors, bool *good)
{
	struct loader *l = xcalloc(1, sizeof *l);
	l->conf = conf_new();
	load_file(l, path, 0, (struct place_in_file){0, 0});
	if (!l->incomplete)
		conf_check(l->conf, &l->problems);
	struct conf *c = l->conf;
	*good = l->problems.count == 0;
	conf_problems_print(&l->problems, c, errors);
	conf_problems_fini(&l->problems);
	tdestroy(l->names, free);
	free(l);
	return c;
}

struct conf *conf_load(const char *path, struct buf *errors)
{
	bool good = false;
	struct conf *c = load(path, errors, &good);
	if (!good)
		conf_free(&c);
	return c;
}

struct conf *conf_load_anyway(const char *path, struct buf *errors)
{
	bool good = false;
	return load(path, errors, &good);
}
