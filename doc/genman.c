/* SPDX-License-Identifier: ISC */
/*
 * Writes postern.conf(5): copies doc/postern.conf.5.in from standard input to standard output, and
 * where a line says @OPTIONS@, the sections and options of config.def in mdoc, with their kinds,
 * ranges and defaults as the parser has them. A tool of the build; it is not installed.
 */
#include "common/conf_impl.h"
#include <stdio.h>
#include <stdlib.h>

enum { WRAP = 78, LINE_BYTES = 1024 };

static const char *const opt_man[CONF_OPT_COUNT] = {
#define SECTION(name, list_key, parent, man)
#define OPT(section, id, key, kind, min, max, def, consumers, man) man,
#include "common/config.def"
#undef SECTION
#undef OPT
};
static const char *const place_man[] = {
#define SECTION(name, list_key, parent, man) man,
#define UNDER(name, list_key, parent, man) man,
#define OPT(section, id, key, kind, min, max, def, consumers, man)
#include "common/config.def"
#undef SECTION
#undef OPT
};

/* Filled text: a new line for each sentence, as mdoc wants it, and before column WRAP. */
static void put_text(const char *text)
{
	size_t column = 0;
	while (*text != 0) {
		size_t n = strcspn(text, " ");
		bool ends = n > 0 && strchr(".?!", text[n - 1]) != NULL;
		if (column > 0 && column + 1 + n > WRAP) {
			putchar('\n');
			column = 0;
		} else if (column > 0) {
			putchar(' ');
			column++;
		}
		/* A line that begins with a dot or a quote would be a macro. */
		if (column == 0 && (text[0] == '.' || text[0] == '\''))
			fputs("\\&", stdout);
		for (size_t i = 0; i < n; i++)
			if (text[i] == '\\')
				fputs("\\e", stdout);
			else
				putchar(text[i]);
		column += n;
		text += n;
		while (*text == ' ')
			text++;
		if (ends || *text == 0) {
			putchar('\n');
			column = 0;
		}
	}
}

static void put_number(struct buf *b, enum conf_opt opt, int64_t n)
{
	const struct conf_value v = {.num = n, .count = 1, .nums = &n};
	if (conf_opts[opt].kind == KIND_AUTO_INT)
		buf_printf(b, "%lld", (long long)n);
	else
		conf_print_value(b, opt, &v);
}

static void put_range(struct buf *b, enum conf_opt opt)
{
	const struct conf_opt_def *d = &conf_opts[opt];
	int64_t min = d->kind == KIND_AUTO_INT && d->min == 0 ? 1 : d->min;
	if (d->kind == KIND_BOOL || (d->min == 0 && d->max == 0))
		return;
	buf_cstr(b, d->max == 0 ? " At least " : " Range: ");
	put_number(b, opt, min);
	if (d->max != 0) {
		buf_cstr(b, " to ");
		put_number(b, opt, d->max);
	}
	buf_cstr(b, ".");
}

static void put_default(struct buf *b, enum conf_opt opt)
{
	struct conf_value v;
	char why[200];
	if (conf_opts[opt].def[0] == 0)
		return; /* then the text says what holds */
	must(conf_parse_value(opt, str_of(conf_opts[opt].def), &v, why) == 0);
	buf_cstr(b, " Default: ");
	conf_print_value(b, opt, &v);
	buf_cstr(b, ".");
	conf_value_fini(&v);
}

static void put_option(enum conf_opt opt)
{
	struct buf b;
	buf_init(&b, 65536);
	printf(".It Ic %s\n", conf_opts[opt].key);
	put_text(opt_man[opt]);
	if (conf_opts[opt].kind == KIND_CHOICE) {
		buf_printf(&b, "Value: one of %s", conf_opts[opt].def);
		for (size_t i = 0; i < b.n; i++)
			if (b.p[i] == '|')
				b.p[i] = ',';
	} else {
		buf_printf(&b, "Value: %s", conf_kind_noun(conf_opts[opt].kind));
	}
	buf_cstr(&b, ".");
	put_range(&b, opt);
	put_default(&b, opt);
	buf_u8(&b, 0);
	put_text((const char *)b.p);
	buf_fini(&b);
}

/* Where a section stands: the key of its parent's list, if it is not the top. */
static const char *list_of(enum conf_section_type section)
{
	for (size_t i = 1; i < conf_place_count; i++)
		if (conf_places[i].section == section)
			return conf_places[i].key;
	return NULL;
}

static void put_place(const struct conf_place *place, bool again)
{
	const char *parent = place->parent == CONF_GLOBAL ? NULL : list_of(place->parent);
	bool group = conf_is_group(place->section);
	const char *what =
	    again   ? (group ? "The same group may stand as" : "The same list may stand as")
	    : group ? "The group"
		    : "Entries of the list";
	printf("%s\n.Ic %s", what, place->key);
	if (parent != NULL)
		printf("\nin an entry of\n.Ic %s .\n", parent);
	else
		fputs(" .\n", stdout);
}

static void put_section(size_t first_place)
{
	enum conf_section_type section = conf_places[first_place].section;
	printf(".Ss %s\n", place_man[first_place]);
	if (first_place > 0)
		put_place(&conf_places[first_place], false);
	for (size_t i = first_place + 1; i < conf_place_count; i++)
		if (conf_places[i].section == section)
			put_place(&conf_places[i], true);
	fputs(".Bl -tag -width Ds\n", stdout);
	size_t first = conf_first_opt(section);
	for (size_t i = first; i < first + conf_opts_of(section); i++)
		put_option((enum conf_opt)i);
	fputs(".El\n", stdout);
}

static void put_options(void)
{
	bool done[CONF_SECTION_COUNT] = {false};
	for (size_t i = 0; i < conf_place_count; i++) {
		if (!done[conf_places[i].section])
			put_section(i);
		done[conf_places[i].section] = true;
	}
}

int main(void)
{
	char line[LINE_BYTES];
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (strcmp(line, "@OPTIONS@\n") == 0)
			put_options();
		else
			fputs(line, stdout);
	}
	return fflush(stdout) == 0 && ferror(stdin) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
