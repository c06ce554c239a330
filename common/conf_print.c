/* SPDX-License-Identifier: ISC */
/*
 * The effective configuration as text: every option of every section, in the order of config.def;
 * those that no file gives stand as comments with their default. What comes out parses to the same
 * tree, and printing that tree gives the same text again. Included files are merged in, so
 * `include` is left out.
 */
#include "common/conf_impl.h"

static void indent(struct buf *out, int depth)
{
	for (int i = 0; i < depth; i++)
		buf_u8(out, '\t');
}

static void print_node(struct buf *out, const struct conf_node *n, int depth);

static void print_list(
    struct buf *out, const struct conf_node *parent, const struct conf_place *place, int depth)
{
	const struct conf_node *n = conf_next(parent, place->section, NULL);
	if (n == NULL)
		return;
	indent(out, depth);
	if (conf_is_group(place->section)) {
		buf_printf(out, "%s = {\n", place->key);
		print_node(out, n, depth + 1);
		indent(out, depth);
		buf_cstr(out, "};\n");
		return;
	}
	buf_printf(out, "%s = (\n", place->key);
	while (n != NULL) {
		indent(out, depth + 1);
		buf_cstr(out, "{\n");
		print_node(out, n, depth + 2);
		indent(out, depth + 1);
		n = conf_next(parent, place->section, n);
		buf_cstr(out, n != NULL ? "},\n" : "}\n");
	}
	indent(out, depth);
	buf_cstr(out, ");\n");
}

static void print_node(struct buf *out, const struct conf_node *n, int depth)
{
	size_t first = conf_first_opt(n->type);
	for (size_t i = first; i < first + conf_opts_of(n->type); i++) {
		if (i == CO_GLOBAL_include)
			continue;
		const struct conf_value *v = conf_get(n, (enum conf_opt)i);
		indent(out, depth);
		buf_printf(out, "%s%s = ", v->set ? "" : "# ", conf_opts[i].key);
		conf_print_value(out, (enum conf_opt)i, v);
		buf_cstr(out, ";\n");
	}
	for (size_t i = 1; i < conf_place_count; i++)
		if (conf_places[i].parent == n->type)
			print_list(out, n, &conf_places[i], depth);
}

void conf_print(const struct conf *c, struct buf *out)
{
	print_node(out, c->root, 0);
}
