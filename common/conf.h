/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/check.h"
#include <stdint.h>
/*
 * The configuration: a tree of sections whose options stand once in config.def. This file knows the
 * tree; conf_load.c alone knows libconfig.
 *
 * Sections with an option `name` are merged by it over included files; others are lists that grow.
 */
enum conf_section_type {
#define SECTION(name, list_key, parent, man) CONF_##name,
#define OPT(section, id, key, kind, min, max, def, consumers, man)
#include "common/config.def"
#undef SECTION
#undef OPT
	CONF_SECTION_COUNT
};
enum conf_opt { /* CO_SECTION_id */
#define SECTION(name, list_key, parent, man)
#define OPT(section, id, key, kind, min, max, def, consumers, man) CO_##section##_##id,
#include "common/config.def"
#undef SECTION
#undef OPT
	CONF_OPT_COUNT
};
enum conf_kind {
	KIND_INT,
	KIND_BOOL,
	KIND_TEXT,     /* any string */
	KIND_TIME,     /* milliseconds; "never" = -1 */
	KIND_TIMES,    /* list of milliseconds */
	KIND_SIZE,     /* bytes */
	KIND_DOMAIN,   /* host or domain name, normalised */
	KIND_TEXTS,    /* array of strings */
	KIND_NETWORKS, /* array of networks, kept as text, checked */
	KIND_ADDRESS,  /* IP address as text */
	KIND_SERVERS,  /* array of address or address@port */
	KIND_CHOICE, /* one of the words in the default text "a|b|c": num = index, first is default
		      */
	KIND_AUTO_INT,	    /* number or "auto" (0) */
	KIND_BOOL_TIME,	    /* false = -1, true = 0, or a time */
	KIND_NAME,	    /* a name, checked: letters digits . _ - */
	KIND_PATH,	    /* absolute path */
	KIND_DOMAIN_OR_ANY, /* a domain, or "*" alone */
	KIND_MAILBOX,	    /* a mail address */
	KIND_FILE,	    /* a file name without directory */
	KIND_RATE, /* "N/T burst B": num = N, nums = {T in ms, B}; "unlimited": num = -1; "auto": -2
		    */
	KIND_RECOVERY, /* "10%,50% every 10m": num = ms of a step, nums = percentages; "off": none
			*/
	KIND_INTS,     /* "50,100,250": nums */
	KIND_NAMES,    /* a name, or an array of names */
	KIND_REGEX,    /* a regular expression, checked by conf_check() */
	KIND_COUNT
};
/* A worker is given up to this much configuration (conf_encode): about 100,000 domains. */
enum { CONF_ENCODED_MAX = 64 * 1048576, CONF_NAME_MAX = 100 };
struct conf_value {
	bool set;      /* given in a file (else the default) */
	uint16_t file; /* index into conf->files */
	uint32_t line;
	int64_t num;   /* INT BOOL TIME SIZE CHOICE … */
	char *text;    /* owned; TEXT NAME DOMAIN ADDRESS PATH …; NULL: empty */
	size_t count;  /* of a list */
	int64_t *nums; /* TIMES RATE RECOVERY INTS; owned */
	char **texts;  /* TEXTS NETWORKS SERVERS NAMES; owned */
};
struct conf_node {
	enum conf_section_type type;
	uint16_t file;
	uint32_t line;
	struct conf_value *values;   /* owned; index opt - first opt of the section */
	struct conf_node **children; /* owned; in file order, of all section types */
	size_t child_count;
	size_t index; /* its place among the parent's children */
	struct conf_node *parent;
};
struct conf {
	struct conf_node *root; /* CONF_GLOBAL */
	char **files;		/* owned: names, for origins */
	size_t file_count;
};
/* conf_load: reads, expands includes, merges list entries by name, checks everything. Every problem
 * is one line "FILE:LINE: text" in errors. NULL when there was one. */
struct conf *conf_load(const char *path, struct buf *errors);
/* The same, but what could be read is returned in spite of problems: for posternctl, which must
 * find the control sockets while the operator edits. Never NULL. */
struct conf *conf_load_anyway(const char *path, struct buf *errors);
void conf_free(struct conf **c);
/* What may be meant but is probably a mistake, a line each; nothing here stops a start. */
void conf_hints(const struct conf *c, struct buf *out);
/* For master, before anything uses the tree: host-name and nameservers of this machine where the
 * files give none, the default virtual MTA by name, and the one named "default" where none is
 * configured. Reads /etc/hosts and /etc/resolv.conf; never asks the network. */
void conf_fill_defaults(struct conf *c);
void conf_print(const struct conf *c, struct buf *out); /* parses to the same */
/* consumers: bit 1 << proc_id; options for nobody among them are left out (they read as defaults).
 * File names of origins go to master, qmgr and the bouncer only. */
void conf_encode(const struct conf *c, unsigned consumers, struct buf *out);
struct conf *conf_decode(struct str bytes); /* NULL when malformed */
struct conf *conf_clone(const struct conf *c);

/* One value as it stands in a file, strings in quotes. */
void conf_print_value(struct buf *out, enum conf_opt opt, const struct conf_value *v);

/* The value given, or the default's. For "is it given here?" look at ->set: it decides precedence.
 */
const struct conf_value *conf_get(const struct conf_node *n, enum conf_opt opt); /* never NULL */
int64_t conf_num(const struct conf_node *n, enum conf_opt opt);
const char *conf_text(const struct conf_node *n, enum conf_opt opt); /* never NULL */
/* The next child of that type after `after` (NULL: the first), or NULL. */
const struct conf_node *conf_next(
    const struct conf_node *parent, enum conf_section_type type, const struct conf_node *after);
const struct conf_node *conf_find(const struct conf_node *parent, enum conf_section_type type,
    enum conf_opt name_opt, const char *name);
/* "file:line" of a value, or "default" */
void conf_origin(const struct conf *c, const struct conf_value *v, char out[512]);
/* Of the group simulation. The receiver of a domain's mail, or NULL; a domain of `to`, the number
 * in the place of its #; a host of `mx`; the code of a reply of 4xx or 5xx. False: it is none. */
const struct conf_node *conf_receiver(const struct conf_node *simulation, const char *domain);
bool conf_sim_domain(char out[256], const char *text, int64_t number);
bool conf_sim_host(char out[256], uint16_t *preference, const char *text);
bool conf_reply_code(const char *text, uint16_t *code);
const char *conf_opt_key(enum conf_opt opt);
enum conf_kind conf_opt_kind(enum conf_opt opt);
const char *conf_opt_default(enum conf_opt opt);
/* Text as it stands in the file, lists with commas. 0, or -EINVAL with `why`; *v (its old contents
 * are not freed) gets the value alone: set and origin are the caller's. conf_value_fini() frees it.
 */
int conf_parse_value(
    enum conf_opt opt, struct str text, struct conf_value *v, char why[200]) MUST_USE;
void conf_value_fini(struct conf_value *v);
