/* SPDX-License-Identifier: ISC */
/*
 * The configuration on its way from master to a worker: a compact binary tree that holds only what
 * config.def lets that worker have. An option with no letter of the receiver is left out, and so is
 * a section of which nothing is left.
 *
 *   u64 fingerprint of config.def · u16 files, each u16 length and name · one node
 *   node: u8 section · u16 file · u32 line · u16 values · values · u32 children · nodes
 *   value: u16 option · u16 file · u32 line · what its kind needs
 *
 * The decoder trusts nothing: counts are bounded by the bytes left, sections stand only where
 * config.def lets them, options only in their section and once, and numbers within their range. A
 * malformed piece gives NULL. File names of origins go to those who show them: master, qmgr and the
 * bouncer.
 */
#include "common/conf_impl.h"
#include "common/types.h"
#include <stdlib.h>

enum {
	NO_FILE = 0xFFFF,
	NODE_BYTES = 13, /* the least a node takes */
	DEPTH_MAX = 8,	 /* of sections; config.def has 3 levels */
};

static uint64_t hash_text(uint64_t h, const char *s)
{
	for (; *s != 0; s++)
		h = (h ^ (unsigned char)*s) * UINT64_C(1099511628211);
	return (h ^ 0xFF) * UINT64_C(1099511628211);
}

uint64_t conf_fingerprint(void)
{
	uint64_t h = UINT64_C(14695981039346656037);
	for (size_t i = 0; i < CONF_OPT_COUNT; i++) {
		const char numbers[] = {(char)('A' + (int)conf_opts[i].section),
		    (char)('A' + (int)conf_opts[i].kind), 0};
		h = hash_text(h, conf_opts[i].key);
		h = hash_text(h, numbers);
		h = hash_text(h, conf_opts[i].def);
	}
	for (size_t i = 0; i < conf_place_count; i++) {
		const char numbers[] = {(char)('A' + (int)conf_places[i].section),
		    (char)('A' + (int)conf_places[i].parent), 0};
		h = hash_text(h, conf_places[i].key);
		h = hash_text(h, numbers);
	}
	return h;
}

static bool sends(enum conf_opt opt, const struct conf_value *v, unsigned consumers)
{
	return v->set && (conf_opt_consumers(opt) & consumers) != 0;
}

/* Has this section, or one below it, any option for them? Then all its nodes are sent, so that
 * places in a list (the index of a listener) mean the same on both sides. */
static bool section_sent(enum conf_section_type section, unsigned consumers)
{
	size_t first = conf_first_opt(section);
	for (size_t i = first; i < first + conf_opts_of(section); i++)
		if ((conf_opt_consumers((enum conf_opt)i) & consumers) != 0)
			return true;
	for (size_t i = 1; i < conf_place_count; i++)
		if (conf_places[i].parent == section &&
		    section_sent(conf_places[i].section, consumers))
			return true;
	return false;
}

static void encode_value(
    enum conf_opt opt, const struct conf_value *v, bool with_files, struct buf *out)
{
	buf_u16(out, (uint16_t)opt);
	buf_u16(out, with_files ? v->file : (uint16_t)NO_FILE);
	buf_u32(out, v->line);
	switch (conf_opts[opt].kind) {
	case KIND_INT:
	case KIND_BOOL:
	case KIND_TIME:
	case KIND_SIZE:
	case KIND_CHOICE:
	case KIND_AUTO_INT:
	case KIND_BOOL_TIME:
		buf_u64(out, (uint64_t)v->num);
		break;
	case KIND_TIMES:
		buf_u32(out, (uint32_t)v->count);
		for (size_t i = 0; i < v->count; i++)
			buf_u64(out, (uint64_t)v->nums[i]);
		break;
	case KIND_TEXTS:
	case KIND_NETWORKS:
	case KIND_SERVERS:
	case KIND_NAMES:
		buf_u32(out, (uint32_t)v->count);
		for (size_t i = 0; i < v->count; i++)
			buf_str16(out, str_of(v->texts[i]));
		break;
	default:
		buf_str16(out, str_of(v->text));
		break;
	}
}

static void encode_node(
    const struct conf_node *n, unsigned consumers, bool with_files, struct buf *out)
{
	size_t first = conf_first_opt(n->type), count = conf_opts_of(n->type);
	uint32_t children = 0;
	uint16_t values = 0;
	for (size_t i = 0; i < count; i++)
		values = (uint16_t)(values +
				    sends((enum conf_opt)(first + i), &n->values[i], consumers));
	for (size_t i = 0; i < n->child_count; i++)
		children += section_sent(n->children[i]->type, consumers);
	buf_u8(out, (uint8_t)n->type);
	buf_u16(out, with_files ? n->file : (uint16_t)NO_FILE);
	buf_u32(out, n->line);
	buf_u16(out, values);
	for (size_t i = 0; i < count; i++)
		if (sends((enum conf_opt)(first + i), &n->values[i], consumers))
			encode_value((enum conf_opt)(first + i), &n->values[i], with_files, out);
	buf_u32(out, children);
	for (size_t i = 0; i < n->child_count; i++)
		if (section_sent(n->children[i]->type, consumers))
			encode_node(n->children[i], consumers, with_files, out);
}

void conf_encode(const struct conf *c, unsigned consumers, struct buf *out)
{
	bool with_files =
	    (consumers & (1u << PROC_MASTER | 1u << PROC_qmgr | 1u << PROC_bouncer)) != 0;
	buf_u64(out, conf_fingerprint());
	buf_u16(out, with_files ? (uint16_t)c->file_count : 0);
	for (size_t i = 0; with_files && i < c->file_count; i++)
		buf_str16(out, str_of(c->files[i]));
	encode_node(c->root, consumers, with_files, out);
}

/* --- decoding --------------------------------------------------------------------------------- */

static char *take_text(struct rd *r)
{
	struct str s = rd_str16(r);
	if (memchr(s.p != NULL ? s.p : "", 0, s.n) != NULL)
		r->bad = true;
	return r->bad ? NULL : str_dup(s);
}

static int64_t take_num(struct rd *r, enum conf_opt opt)
{
	const struct conf_opt_def *d = &conf_opts[opt];
	int64_t n = (int64_t)rd_u64(r);
	bool special =
	    (d->kind == KIND_TIME || d->kind == KIND_TIMES || d->kind == KIND_BOOL_TIME) && n == -1;
	if (d->kind == KIND_CHOICE) {
		struct str words = str_of(d->def);
		int64_t count = 0;
		for (; words.n > 0; count++)
			(void)str_cut(&words, '|');
		if (n < 0 || n >= count)
			r->bad = true;
	} else if (!special &&
		   !(n == 0 && (d->kind == KIND_AUTO_INT || d->kind == KIND_BOOL_TIME)) &&
		   (n < d->min || (d->max != 0 && n > d->max))) {
		r->bad = true;
	}
	return n;
}

static size_t take_count(struct rd *r, size_t item_bytes)
{
	size_t n = rd_u32(r);
	if (n > r->n / item_bytes)
		r->bad = true;
	return r->bad ? 0 : n;
}

/* Kinds that travel as their text, numbers being made from it at the other end. */
static void decode_text(struct rd *r, enum conf_opt opt, struct conf_value *v)
{
	struct conf_value parsed;
	char *text = take_text(r), why[200];
	if (text == NULL || conf_parse_value(opt, str_of(text), &parsed, why) != 0) {
		r->bad = true;
	} else {
		v->num = parsed.num;
		v->count = parsed.count;
		v->nums = parsed.nums;
		v->text = parsed.text;
	}
	free(text);
}

static void decode_payload(struct rd *r, enum conf_opt opt, struct conf_value *v)
{
	switch (conf_opts[opt].kind) {
	case KIND_INT:
	case KIND_BOOL:
	case KIND_TIME:
	case KIND_SIZE:
	case KIND_CHOICE:
	case KIND_AUTO_INT:
	case KIND_BOOL_TIME:
		v->num = take_num(r, opt);
		break;
	case KIND_TIMES:
		v->count = take_count(r, 8);
		v->nums = xcalloc(v->count + 1, sizeof *v->nums);
		for (size_t i = 0; i < v->count; i++)
			v->nums[i] = take_num(r, opt);
		if (v->count == 0)
			r->bad = true; /* "the last one repeats" needs one */
		break;
	case KIND_TEXTS:
	case KIND_NETWORKS:
	case KIND_SERVERS:
	case KIND_NAMES:
		v->count = take_count(r, 2);
		v->texts = xcalloc(v->count + 1, sizeof *v->texts);
		for (size_t i = 0; i < v->count && !r->bad; i++)
			v->texts[i] = take_text(r);
		break;
	case KIND_RATE:
	case KIND_RECOVERY:
	case KIND_INTS:
		decode_text(r, opt, v);
		break;
	default:
		v->text = take_text(r);
		break;
	}
}

static void decode_value(struct rd *r, struct conf_node *n, size_t files)
{
	uint16_t opt = rd_u16(r);
	struct conf_value v = {.set = true, .file = rd_u16(r), .line = rd_u32(r)};
	if (r->bad || opt >= CONF_OPT_COUNT || conf_opts[opt].section != n->type ||
	    conf_slot(n, (enum conf_opt)opt)->set || (v.file != NO_FILE && v.file >= files)) {
		r->bad = true;
		return;
	}
	decode_payload(r, (enum conf_opt)opt, &v);
	*conf_slot(n, (enum conf_opt)opt) = v; /* also a bad one: the tree is freed whole */
}

static void decode_node(struct rd *r, struct conf *c, struct conf_node *parent, int depth)
{
	uint8_t type = rd_u8(r);
	uint16_t file = rd_u16(r);
	uint32_t line = rd_u32(r);
	bool fits = parent == NULL ? type == CONF_GLOBAL
				   : type < CONF_SECTION_COUNT &&
					 conf_may_stand((enum conf_section_type)type, parent->type);
	if (r->bad || !fits || depth > DEPTH_MAX ||
	    (file != NO_FILE && file >= c->file_count && parent != NULL)) {
		r->bad = true;
		return;
	}
	struct conf_node *n = c->root;
	if (parent != NULL) {
		n = conf_node_new((enum conf_section_type)type, file, line);
		conf_node_add(parent, n);
	}
	uint16_t values = rd_u16(r);
	for (uint16_t i = 0; i < values && !r->bad; i++)
		decode_value(r, n, c->file_count);
	size_t children = take_count(r, NODE_BYTES);
	for (size_t i = 0; i < children && !r->bad; i++)
		decode_node(r, c, n, depth + 1);
}

struct conf *conf_decode(struct str bytes)
{
	struct rd r = rd_of(bytes.p, bytes.n);
	if (rd_u64(&r) != conf_fingerprint())
		return NULL;
	struct conf *c = conf_new();
	uint16_t files = rd_u16(&r);
	for (uint16_t i = 0; i < files && !r.bad; i++) {
		char *name = take_text(&r);
		if (name != NULL)
			conf_add_file(c, name);
		free(name);
	}
	if (!r.bad)
		decode_node(&r, c, NULL, 0);
	if (r.bad || r.n != 0)
		conf_free(&c);
	return c;
}

struct conf *conf_clone(const struct conf *c)
{
	struct buf b;
	buf_init(&b, CONF_ENCODED_MAX);
	conf_encode(c, ~0u, &b);
	must(!b.failed);
	struct conf *copy = conf_decode((struct str){(const char *)b.p, b.n});
	must(copy != NULL);
	buf_fini(&b);
	return copy;
}
