/* SPDX-License-Identifier: ISC */
/*
 * Answers on paper. For programs: a list is a JSON array, printed row by row as rows come, so that
 * a million of them take no memory; one thing is one object. For people: a table whose widths come
 * from the first WINDOW rows, or "key: value" lines.
 *
 * Texts in answers may repeat what remote servers said: control characters never reach the
 * terminal.
 */
#include "common/clock.h"
#include "ctl/view.h"
#include <stdlib.h>
#include <string.h>

enum {
	WINDOW = 500,	     /* rows that decide the widths of a table */
	COLUMN_MAX = 60,     /* cells that are wider do not widen their column */
	OBJECTS_MAX = 100000 /* rows of what should be one object */
};

struct show {
	FILE *out;
	enum shape shape;
	bool json, several;
	size_t printed;	 /* rows of a list */
	json_t *rows;	 /* the window, or the objects to merge */
	json_t *columns; /* array of keys; NULL before the table began */
	size_t *widths;
	bool *numeric;
	const struct view *view; /* NULL: everything is shown */
	int64_t now_ms;
};

enum shape show_shape(const char *service, const char *verb)
{
	static const struct {
		const char *verb;
		enum shape shape;
	} shapes[] = {
	    {"status", SHAPE_OBJECT},
	    {"queue", SHAPE_OBJECT},
	    {"message", SHAPE_OBJECT},
	    {"flush", SHAPE_OBJECT},
	    {"release", SHAPE_OBJECT},
	    {"delete", SHAPE_OBJECT},
	    {"bounce", SHAPE_OBJECT},
	    {"why", SHAPE_OBJECT},
	    {"pause", SHAPE_OBJECT},
	    {"resume", SHAPE_OBJECT},
	    {"explain", SHAPE_OBJECT},
	    {"reload", SHAPE_LINES},
	    {"stop", SHAPE_OBJECT},
	    {"config", SHAPE_TEXT},
	    {"classify", SHAPE_OBJECT},
	    {"trace", SHAPE_STREAM},
	};
	if (strcmp(service, "master") == 0 && strcmp(verb, "status") == 0)
		return SHAPE_LIST; /* a row for each process */
	for (size_t i = 0; i < COUNT_OF(shapes); i++)
		if (strcmp(shapes[i].verb, verb) == 0)
			return shapes[i].shape;
	return SHAPE_LIST;
}

static bool is_list(const struct show *s)
{
	return s->shape == SHAPE_LIST || s->shape == SHAPE_LINES || s->shape == SHAPE_STREAM;
}

struct show *show_new(FILE *out, enum shape shape, bool json, bool several)
{
	struct show *s = xcalloc(1, sizeof *s);
	*s = (struct show){
	    .out = out, .shape = shape, .json = json, .several = several, .rows = json_array()};
	return s;
}

void show_view(struct show *s, const struct view *view)
{
	s->view = view;
	s->now_ms = clock_wall_ms();
}

/* --- tables ----------------------------------------------------------------------------------- */

static bool has_text(const json_t *array, const char *text)
{
	size_t i;
	json_t *item;
	json_array_foreach(
	    array, i, item) if (strcmp(json_string_value(item), text) == 0) return true;
	return false;
}

static bool has_columns(const struct show *s)
{
	return s->view != NULL && s->view->columns != NULL;
}

/* The columns of all rows of the window, in the order of their first appearance. */
static void find_columns(struct show *s)
{
	size_t i;
	json_t *row, *value;
	const char *key;
	s->columns = json_array();
	if (has_columns(s))
		for (const struct column *c = s->view->columns; c->heading != NULL; c++)
			json_array_append_new(s->columns, json_string(c->key));
	else
		json_array_foreach(s->rows, i, row)
		    json_object_foreach(row, key, value) if (!has_text(s->columns, key))
			json_array_append_new(s->columns, json_string(key));
	s->widths = xcalloc(json_array_size(s->columns) + 1, sizeof *s->widths);
	s->numeric = xcalloc(json_array_size(s->columns) + 1, sizeof *s->numeric);
}

static void put_cell(const struct show *s, char text[CELL_MAX], const json_t *row, size_t c)
{
	const char *key = json_string_value(json_array_get(s->columns, c));
	if (has_columns(s))
		s->view->columns[c].cell(text, row, key, s->now_ms);
	else
		cell_print(text, json_object_get(row, key));
}

static bool is_numeric(const struct show *s, const json_t *row, size_t c)
{
	const json_t *v = json_object_get(row, json_string_value(json_array_get(s->columns, c)));
	if (has_columns(s))
		return s->view->columns[c].right;
	return v == NULL || json_is_null(v) || json_is_number(v);
}

/* A key in capitals, or the view's word. */
static void heading(const struct show *s, char head[CELL_MAX], size_t c)
{
	if (has_columns(s)) {
		str_copy(head, CELL_MAX, str_of(s->view->columns[c].heading));
		return;
	}
	str_copy(head, CELL_MAX, str_of(json_string_value(json_array_get(s->columns, c))));
	for (char *p = head; *p != 0; p++)
		*p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
}

static void measure(struct show *s)
{
	json_t *row;
	char text[CELL_MAX];
	size_t i;
	for (size_t c = 0; c < json_array_size(s->columns); c++) {
		heading(s, text, c);
		s->widths[c] = cell_width(text);
		s->numeric[c] = true;
		json_array_foreach(s->rows, i, row)
		{
			put_cell(s, text, row, c);
			size_t n = cell_width(text);
			if (n > s->widths[c])
				s->widths[c] = n > COLUMN_MAX ? COLUMN_MAX : n;
			if (!is_numeric(s, row, c))
				s->numeric[c] = false;
		}
	}
}

static void table_row(struct show *s, const json_t *row)
{
	char text[CELL_MAX];
	size_t n = json_array_size(s->columns);
	for (size_t c = 0; c < n; c++) {
		put_cell(s, text, row, c);
		cell_pad(s->out, text, s->widths[c], s->numeric[c], c + 1 == n);
	}
}

static void table_begin(struct show *s)
{
	size_t i, n;
	json_t *item;
	char head[CELL_MAX];
	find_columns(s);
	measure(s);
	n = json_array_size(s->columns);
	for (size_t c = 0; c < n; c++) {
		heading(s, head, c);
		cell_pad(s->out, head, s->widths[c], s->numeric[c], c + 1 == n);
	}
	json_array_foreach(s->rows, i, item) table_row(s, item);
	json_array_clear(s->rows);
}

/* What is followed is seen as it comes, for programs one object a line. */
static void stream_row(struct show *s, json_t *row)
{
	s->now_ms = clock_wall_ms();
	if (s->json) {
		json_dumpf(row, s->out, JSON_COMPACT);
		fputs("\n", s->out);
	} else if (s->view != NULL && s->view->say != NULL) {
		s->view->say(s->out, row, s->now_ms);
	} else {
		char text[CELL_MAX];
		cell_print(text, row);
		fprintf(s->out, "%s\n", text);
	}
	fflush(s->out);
}

static void list_row(struct show *s, json_t *row)
{
	if (s->shape == SHAPE_STREAM) {
		stream_row(s, row);
	} else if (s->json) {
		fputs(s->printed++ == 0 ? "[\n" : ",\n", s->out);
		json_dumpf(row, s->out, JSON_COMPACT);
	} else if (s->shape == SHAPE_LINES) {
		char text[CELL_MAX];
		cell_print(text, json_object_get(row, "error"));
		fprintf(s->out, "%s\n", text);
	} else if (s->view != NULL && s->view->say != NULL) {
		s->view->say(s->out, row, s->now_ms);
	} else if (s->columns != NULL) {
		table_row(s, row);
	} else {
		json_array_append(s->rows, row);
		if (json_array_size(s->rows) == WINDOW)
			table_begin(s);
	}
}

static void list_end(struct show *s)
{
	if (s->shape == SHAPE_STREAM)
		return;
	if (s->json)
		fputs(s->printed == 0 ? "[]\n" : "\n]\n", s->out);
	else if (s->columns == NULL && json_array_size(s->rows) > 0)
		table_begin(s);
}

/* --- objects ---------------------------------------------------------------------------------- */

static void object_lines(struct show *s, const json_t *object, int indent);

static bool all_objects(const json_t *array)
{
	size_t i;
	json_t *item;
	json_array_foreach(array, i, item) if (!json_is_object(item)) return false;
	return json_array_size(array) > 0;
}

static void member_lines(struct show *s, const char *key, json_t *value, int indent, size_t width)
{
	char text[CELL_MAX];
	size_t i;
	json_t *item;
	if (json_is_object(value) && json_object_size(value) > 0) {
		fprintf(s->out, "%*s%s:\n", indent, "", key);
		object_lines(s, value, indent + 2);
	} else if (json_is_array(value) && all_objects(value)) {
		/* A list inside a thing (the recipients of a message): a table below its name. */
		struct show *inner = show_new(s->out, SHAPE_LIST, false, false);
		fprintf(s->out, "%*s%s:\n", indent, "", key);
		json_array_foreach(value, i, item) show_row(inner, 0, item);
		show_end(&inner);
	} else {
		cell_print(text, value);
		fprintf(s->out, "%*s%s: %*s%s\n", indent, "", key, (int)(width - strlen(key)), "",
		    text);
	}
}

static void object_lines(struct show *s, const json_t *object, int indent)
{
	const char *key;
	json_t *value;
	size_t width = 0;
	/* jansson's macros take no const; nothing is changed. */
	json_t *o = (json_t *)(uintptr_t)object;
	json_object_foreach(o, key, value) if (!json_is_object(value) && strlen(key) > width)
	    width = strlen(key);
	json_object_foreach(o, key, value)
	    member_lines(s, key, value, indent, width > strlen(key) ? width : strlen(key));
}

static void print_text(struct show *s, const json_t *object)
{
	const char *text = json_string_value(json_object_get(object, "text"));
	if (text != NULL)
		fputs(text, s->out);
	else
		object_lines(s, object, 0);
}

static void merge_rows(struct show *s)
{
	json_t *all = json_array_get(s->rows, 0);
	size_t n = json_array_size(s->rows);
	for (size_t i = 1; i < n; i++)
		merge_object(all, json_array_get(s->rows, i));
	json_object_set_new(all, "instances", json_integer((json_int_t)n));
	json_object_del(all, "instance");
	while (json_array_size(s->rows) > 1)
		json_array_remove(s->rows, 1);
}

static void object_end(struct show *s)
{
	size_t n = json_array_size(s->rows), i;
	json_t *row;
	if (s->several && n > 1) {
		merge_rows(s);
		n = 1;
	}
	if (s->json) {
		if (n == 0)
			fputs("{}", s->out);
		else
			json_dumpf(
			    n == 1 ? json_array_get(s->rows, 0) : s->rows, s->out, JSON_INDENT(1));
		fputs("\n", s->out);
		return;
	}
	json_array_foreach(s->rows, i, row)
	{
		if (i > 0)
			fputs("\n", s->out);
		if (s->shape == SHAPE_TEXT)
			print_text(s, row);
		else if (s->view != NULL && s->view->say != NULL)
			s->view->say(s->out, row, s->now_ms);
		else
			object_lines(s, row, 0);
	}
}

/* ---------------------------------------------------------------------------------------------- */

void show_row(struct show *s, int instance, json_t *row)
{
	if (is_list(s)) {
		if (s->several && json_object_get(row, "instance") == NULL)
			json_object_set_new(row, "instance", json_integer(instance));
		list_row(s, row);
	} else if (json_array_size(s->rows) < OBJECTS_MAX) {
		json_array_append(s->rows, row);
	}
}

void show_end(struct show **s)
{
	if (*s == NULL)
		return;
	if (is_list(*s))
		list_end(*s);
	else
		object_end(*s);
	fflush((*s)->out);
	json_decref((*s)->rows);
	json_decref((*s)->columns);
	free((*s)->widths);
	free((*s)->numeric);
	free(*s);
	*s = NULL;
}
