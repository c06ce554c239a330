/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/conf.h"
/*
 * What the files conf*.c share and nobody else includes: the table of config.def as data, how a
 * tree is built, and the list of problems found in it.
 */
struct conf_opt_def {
	enum conf_section_type section;
	const char *key;
	enum conf_kind kind;
	int64_t min, max;
	const char *def;
	const char *consumers;
};
struct conf_place { /* a section under one of its parents */
	enum conf_section_type section;
	const char *key;
	enum conf_section_type parent;
};
extern const struct conf_opt_def conf_opts[CONF_OPT_COUNT];
extern const struct conf_place conf_places[];
extern const size_t conf_place_count; /* the first is the root's own */

size_t conf_first_opt(enum conf_section_type section);
size_t conf_opts_of(enum conf_section_type section); /* how many */
unsigned conf_opt_consumers(enum conf_opt opt);	     /* bits 1 << proc_id */
bool conf_opt_required(enum conf_opt opt);
int conf_name_opt(enum conf_section_type section); /* its option "name", or -1 */
const struct conf_place *conf_find_place(enum conf_section_type parent, const char *key);
bool conf_is_group(enum conf_section_type section); /* one { }, not a list of them */
bool conf_may_stand(enum conf_section_type section, enum conf_section_type parent);

struct conf *conf_new(void); /* with an empty root */
uint16_t conf_add_file(struct conf *c, const char *name);
struct conf_node *conf_node_new(enum conf_section_type type, uint16_t file, uint32_t line);
void conf_node_add(struct conf_node *parent, struct conf_node *child); /* takes child */
struct conf_value *conf_slot(struct conf_node *n, enum conf_opt opt);
/* Values without an origin in a file: conf_fill_defaults and tests. */
void conf_set_text(
    struct conf_node *n, enum conf_opt opt, const char *text, uint16_t file, uint32_t line);

bool conf_kind_is_list(enum conf_kind kind); /* of strings: TEXTS NETWORKS SERVERS NAMES */
int conf_value_add_item(
    enum conf_opt opt, struct conf_value *v, struct str item, char why[200]) MUST_USE;
const char *conf_kind_noun(enum conf_kind kind); /* "a number", … for error texts */

/* conf_value.c: what is said of a bad value, and of a number outside its range. Both -EINVAL. */
int conf_refuse(char why[200], struct str s, const char *what) MUST_USE;
int conf_in_range(const struct conf_opt_def *d, struct str s, int64_t n, char why[200]) MUST_USE;
int conf_parse_time(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200]) MUST_USE;
/* conf_rate.c: kinds of several numbers. Upon failure *v may hold what was read so far. */
int conf_parse_times(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200]) MUST_USE;
int conf_parse_rate(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200]) MUST_USE;
int conf_parse_recovery(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200]) MUST_USE;
int conf_parse_ints(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200]) MUST_USE;
/* conf_number.c */
struct str conf_trim(struct str s);
/* Digits at the start of *s, taken off. -EINVAL without any, -ERANGE past max. */
int conf_take_number(struct str *s, int64_t max, int64_t *value) MUST_USE;
int conf_time_parse(struct str s, int64_t *ms) MUST_USE;
void conf_time_print(struct buf *b, int64_t ms);
int conf_size_parse(struct str s, int64_t *bytes) MUST_USE;
void conf_size_print(struct buf *b, int64_t bytes);

/* Of config.def, FNV-1a: the first 8 bytes of an encoded tree. */
uint64_t conf_fingerprint(void);

/* Problems, gathered while files are read and printed in the order of files and lines. */
struct conf_problem {
	uint16_t file;
	uint32_t line;
	size_t seq;
	char *text;
};
struct conf_problems {
	struct conf_problem *items; /* owned */
	size_t count;
	size_t dropped; /* beyond CONF_PROBLEMS_MAX */
};
enum { CONF_PROBLEMS_MAX = 1000 }; /* a person reads them; a wrong file of a gigabyte has more */
void conf_problem(struct conf_problems *p, uint16_t file, uint32_t line, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
void conf_problems_print(struct conf_problems *p, const struct conf *c, struct buf *out);
void conf_problems_fini(struct conf_problems *p);

/* conf_scan.c: what libconfig lets pass or garbles, found in the text before it is parsed.
 * `bad_lines` gets the lines of numbers already reported (owned by the caller). false: not worth
 * parsing. */
struct conf_lines {
	uint32_t *at; /* owned */
	size_t count;
};
bool conf_scan(
    struct str text, uint16_t file, struct conf_problems *p, struct conf_lines *bad_lines) MUST_USE;
/* conf_check.c: required options, references, duplicates, ranges that depend on each other. */
void conf_check(const struct conf *c, struct conf_problems *p);
