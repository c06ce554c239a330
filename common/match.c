/* SPDX-License-Identifier: ISC */
/*
 * Patterns over replies. This file alone knows PCRE2.
 *
 * Who writes a reply may be hostile, and who writes a pattern may be careless: (a+)+$ over thirty
 * bytes takes longer than the universe lasts. So each match runs under limits of steps, depth and
 * memory; what reaches one counts as no match and is told of once. The line is bounded before
 * (REPLY_TEXT_MAX). Patterns are compiled one by one and run one by one: a union of them would say
 * that one matched, not which others did too.
 *
 * The interpreter only. Compiled code would need executable memory, which smtp-out's system call
 * filter denies; and 200 patterns take some tens of microseconds on a reply that failed, and
 * nothing on one that did not. Bytes, not characters: replies are arbitrary, and a pattern must not
 * fail to match because of a stray byte.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/match.h"
#include "common/addr.h"
#include "common/log.h"
#include <arpa/inet.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	MATCH_STEPS_MAX = 20000, /* about 1 ms: of a pattern that tries again and again */
	MATCH_DEPTH_MAX = 4000,	 /* of nested tries: a group over each byte of a line, with room */
	MATCH_HEAP_KIB = 1024,	 /* of memory for these */
	PATTERN_MAX = 4096,	 /* bytes; as conf_value.c bounds every text */
	NEST_MAX = 100,		 /* brackets in brackets; nobody reads more than a few */
	GROUPS_MAX = 128,	 /* looked at for a name; a later one names nothing */
	LINE_MAX_IN =
	    65536, /* of a reply's text given to match_line(); the rest is not looked at */
};

struct pattern {
	pcre2_code *code;	    /* owned; NULL: does not compile, never matches */
	uint16_t group[GROUPS_MAX]; /* numbers of groups that name an object, in order */
	uint8_t group_kind[GROUPS_MAX];
	size_t groups;
};

struct match_rule {
	struct pattern *pattern; /* owned */
	uint64_t id;
	uint32_t stages;
	bool told; /* that it ran into its limit */
};

struct match_list {
	char *name; /* owned */
	struct match_rule *rules;
	size_t count;
};

struct runner { /* what a match needs besides the pattern; one at a time */
	pcre2_match_context *context;
	pcre2_match_data *data;
};

struct matcher {
	struct match_list *lists; /* owned */
	size_t count;
	struct runner runner;
	char objects[HITS_MAX][HIT_OBJECT_MAX + 1]; /* of the last run's hits */
};

/* --- one pattern ------------------------------------------------------------------------------ */

static pcre2_code *compile(struct str pattern, int *error, size_t *at)
{
	pcre2_compile_context *context = pcre2_compile_context_create(NULL);
	must(context != NULL);
	pcre2_set_max_pattern_length(context, PATTERN_MAX);
	pcre2_set_parens_nest_limit(context, NEST_MAX);
	uint32_t options = PCRE2_CASELESS | PCRE2_DUPNAMES | PCRE2_NEVER_UTF | PCRE2_NEVER_UCP |
			   PCRE2_NEVER_BACKSLASH_C | PCRE2_DOLLAR_ENDONLY;
	pcre2_code *code = pcre2_compile(
	    (PCRE2_SPTR)(pattern.n > 0 ? pattern.p : ""), pattern.n, options, error, at, context);
	pcre2_compile_context_free(context);
	return code;
}

static enum hit_object object_kind(const char *name)
{
	return strcmp(name, "ip") == 0	       ? HIT_IP
	       : strcmp(name, "netblock") == 0 ? HIT_NETBLOCK
	       : strcmp(name, "domain") == 0   ? HIT_DOMAIN
					       : HIT_NOTHING;
}

/* Entries of the table are two bytes of group number, then the name. */
static void note_groups(struct pattern *p)
{
	uint32_t count = 0, size = 0;
	PCRE2_SPTR table = NULL;
	pcre2_pattern_info(p->code, PCRE2_INFO_NAMECOUNT, &count);
	pcre2_pattern_info(p->code, PCRE2_INFO_NAMEENTRYSIZE, &size);
	pcre2_pattern_info(p->code, PCRE2_INFO_NAMETABLE, &table);
	for (uint32_t i = 0; i < count && p->groups < GROUPS_MAX; i++, table += size) {
		uint16_t number = (uint16_t)(table[0] << 8 | table[1]);
		enum hit_object kind = object_kind((const char *)table + 2);
		if (kind == HIT_NOTHING || number >= GROUPS_MAX)
			continue;
		p->group[p->groups] = number;
		p->group_kind[p->groups++] = (uint8_t)kind;
	}
}

static struct pattern *pattern_new(struct str text)
{
	struct pattern *p = xcalloc(1, sizeof(*p));
	int error = 0;
	size_t at = 0;
	p->code = compile(text, &error, &at);
	if (p->code)
		note_groups(p);
	return p;
}

static void pattern_free(struct pattern **p)
{
	if (*p)
		pcre2_code_free((*p)->code);
	free(*p);
	*p = NULL;
}

static void runner_init(struct runner *r)
{
	r->context = pcre2_match_context_create(NULL);
	r->data = pcre2_match_data_create(GROUPS_MAX, NULL);
	must(r->context != NULL && r->data != NULL);
	pcre2_set_match_limit(r->context, MATCH_STEPS_MAX);
	pcre2_set_depth_limit(r->context, MATCH_DEPTH_MAX);
	pcre2_set_heap_limit(r->context, MATCH_HEAP_KIB);
}

static void runner_fini(struct runner *r)
{
	pcre2_match_data_free(r->data);
	pcre2_match_context_free(r->context);
}

/* 1, 0, or -1: it ran into a limit. */
static int run(struct runner *r, const struct pattern *p, struct str line)
{
	if (!p->code)
		return 0;
	int found = pcre2_match(p->code, (PCRE2_SPTR)(line.n > 0 ? line.p : ""), line.n, 0,
	    PCRE2_NO_JIT, r->data, r->context);
	if (found >= 0)
		return 1; /* 0: more groups than we look at */
	return found == PCRE2_ERROR_NOMATCH ? 0 : -1;
}

const char *match_pattern_error(struct str pattern)
{
	static char text[200];
	char what[120] = "";
	int error = 0;
	size_t at = 0;
	if (pattern.n == 0)
		return "an empty pattern matches everything; write . if that is meant";
	pcre2_code *code = compile(pattern, &error, &at);
	if (code) {
		pcre2_code_free(code);
		return NULL;
	}
	pcre2_get_error_message(error, (PCRE2_UCHAR *)what, sizeof(what));
	snprintf(text, sizeof(text), "not a regular expression: %s, at byte %zu", what, at + 1);
	return text;
}

bool match_one(struct str pattern, struct str line)
{
	struct runner r;
	struct pattern *p = pattern_new(pattern);
	runner_init(&r);
	bool found = run(&r, p, line) == 1;
	runner_fini(&r);
	pattern_free(&p);
	return found;
}

/* --- patterns of our own -----------------------------------------------------------------------
 */

struct pattern_set {
	struct pattern **patterns; /* owned */
	size_t count;
	struct runner runner;
};

struct pattern_set *pattern_set_new(const char *const *patterns, size_t count)
{
	struct pattern_set *set = xcalloc(1, sizeof(*set));
	set->patterns = xcalloc(count, sizeof(*set->patterns));
	set->count = count;
	for (size_t i = 0; i < count; i++) {
		set->patterns[i] = pattern_new(str_of(patterns[i]));
		must(set->patterns[i]->code != NULL);
	}
	runner_init(&set->runner);
	return set;
}

void pattern_set_free(struct pattern_set **set)
{
	if (!*set)
		return;
	for (size_t i = 0; i < (*set)->count; i++)
		pattern_free(&(*set)->patterns[i]);
	runner_fini(&(*set)->runner);
	free((*set)->patterns);
	free(*set);
	*set = NULL;
}

int pattern_set_first(struct pattern_set *set, size_t from, size_t count, struct str line)
{
	must(from + count <= set->count);
	for (size_t i = 0; i < count; i++)
		if (run(&set->runner, set->patterns[from + i], line) == 1)
			return (int)i;
	return -1;
}

/* --- objects ---------------------------------------------------------------------------------- */

/* Replies put names into brackets and quotes and full stops behind them: "IP [192.0.2.1]." */
static struct str bare(struct str s)
{
	static const char around[] = " \t[](){}<>\"'`,;:.=";
	while (s.n > 0 && strchr(around, s.p[0]) && s.p[0] != '\0' && s.p[0] != ':')
		s.p++, s.n--;
	while (s.n > 0 && strchr(around, s.p[s.n - 1]) && s.p[s.n - 1] != '\0' &&
	       !(s.p[s.n - 1] == ':' && s.n > 1 && s.p[s.n - 2] == ':'))
		s.n--;
	return s;
}

static bool put_ip(char out[HIT_OBJECT_MAX + 1], struct str s)
{
	char text[INET6_ADDRSTRLEN];
	unsigned char address[16];
	if (str_starts_nocase(s, STR("IPv6:")))
		s = (struct str){s.p + 5, s.n - 5};
	if (s.n >= sizeof(text))
		return false;
	str_copy(text, sizeof(text), s);
	int family = strchr(text, ':') ? AF_INET6 : AF_INET;
	return inet_pton(family, text, address) == 1 &&
	       inet_ntop(family, address, out, HIT_OBJECT_MAX) != NULL;
}

/* An address alone is as good: which network it means is the rule's affair. */
static bool put_netblock(char out[HIT_OBJECT_MAX + 1], struct str s)
{
	struct str bits = s, address = str_cut(&bits, '/');
	unsigned long long n = 0;
	if (!put_ip(out, address))
		return false;
	if (address.n == s.n)
		return true;
	if (str_number(bits, strchr(out, ':') ? 128 : 32, &n) != 0)
		return false;
	size_t used = strlen(out);
	snprintf(out + used, HIT_OBJECT_MAX + 1 - used, "/%llu", n);
	return true;
}

/* A reply may name a mailbox where it means its domain. */
static bool put_domain(char out[HIT_OBJECT_MAX + 1], struct str s)
{
	char domain[DOMAIN_MAX + 1];
	const char *at = s.n > 0 ? memrchr(s.p, '@', s.n) : NULL;
	if (at)
		s = (struct str){at + 1, (size_t)(s.p + s.n - at) - 1};
	if (s.n == 0 || s.n > DOMAIN_MAX || domain_normalise(domain, s) != 0)
		return false;
	str_copy(out, HIT_OBJECT_MAX + 1, str_of(domain));
	return true;
}

/* The first group of the pattern that took part and says something. */
static void find_object(const struct runner *r, const struct pattern *p, struct str line,
    struct rule_hit *hit, char *out)
{
	const size_t *ends = pcre2_get_ovector_pointer(r->data);
	uint16_t best = GROUPS_MAX;
	for (size_t i = 0; i < p->groups; i++) {
		size_t from = ends[2 * p->group[i]], to = ends[2 * p->group[i] + 1];
		char text[HIT_OBJECT_MAX + 1];
		if (p->group[i] >= best || from == PCRE2_UNSET || to > line.n || from >= to)
			continue;
		struct str s = bare((struct str){line.p + from, to - from});
		bool ok = p->group_kind[i] == HIT_IP	     ? put_ip(text, s)
			  : p->group_kind[i] == HIT_NETBLOCK ? put_netblock(text, s)
							     : put_domain(text, s);
		if (!ok)
			continue;
		best = p->group[i];
		str_copy(out, HIT_OBJECT_MAX + 1, str_of(text));
		hit->object_kind = p->group_kind[i];
		hit->object = str_of(out);
	}
}

/* --- lists ------------------------------------------------------------------------------------ */

static void copy_list(struct match_list *to, const struct rule_list *from)
{
	to->name = xstrdup(from->name);
	to->count = from->count;
	to->rules = xcalloc(from->count, sizeof(*to->rules));
	for (size_t i = 0; i < from->count; i++) {
		const struct rule *r = &from->rules[i];
		to->rules[i] = (struct match_rule){
		    .pattern = pattern_new(str_of(conf_text(r->node, CO_RULE_reply))),
		    .id = r->id,
		    .stages = r->stages};
	}
}

struct matcher *matcher_new(const struct conf *c)
{
	struct matcher *m = xcalloc(1, sizeof(*m));
	struct rule_list *lists = rule_lists(c, &m->count);
	m->lists = xcalloc(m->count, sizeof(*m->lists));
	for (size_t i = 0; i < m->count; i++)
		copy_list(&m->lists[i], &lists[i]);
	rule_lists_free(&lists, m->count);
	runner_init(&m->runner);
	return m;
}

void matcher_free(struct matcher **m)
{
	if (!*m)
		return;
	for (size_t i = 0; i < (*m)->count; i++) {
		struct match_list *l = &(*m)->lists[i];
		for (size_t j = 0; j < l->count; j++)
			pattern_free(&l->rules[j].pattern);
		free(l->rules);
		free(l->name);
	}
	runner_fini(&(*m)->runner);
	free((*m)->lists);
	free(*m);
	*m = NULL;
}

static bool looks_at(const struct match_rule *r, enum smtp_stage stage, bool own)
{
	uint32_t bit = 1u << (unsigned)stage;
	if (own)
		return (r->stages & 1u << STAGE_INTERNAL) != 0 ||
		       (stage == STAGE_CONNECT && (r->stages & bit) != 0);
	return (r->stages & bit) != 0;
}

struct running {
	struct matcher *m;
	struct str line;
	enum smtp_stage stage;
	bool own;
	struct rule_hit *hits;
	size_t n, max;
};

static void run_rule(struct running *x, const struct match_list *l, struct match_rule *r)
{
	if (!looks_at(r, x->stage, x->own))
		return;
	int found = run(&x->m->runner, r->pattern, x->line);
	if (found < 0 && !r->told) {
		r->told = true;
		log_warn(
		    "smtp-pattern-lists: %s, rule %zu: a reply took its pattern to the limit of "
		    "work; that counts as no match, here and later",
		    l->name, (size_t)(r - l->rules) + 1);
	}
	if (found != 1)
		return;
	struct rule_hit *hit = &x->hits[x->n];
	*hit = (struct rule_hit){.rule = r->id, .ordinal = HIT_ALL, .stage = (uint8_t)x->stage};
	find_object(&x->m->runner, r->pattern, x->line, hit, x->m->objects[x->n]);
	x->n++;
}

size_t matcher_run(struct matcher *m, struct str lists, struct str line, enum smtp_stage stage,
    bool own, struct rule_hit *hits, size_t max)
{
	struct running x = {.m = m,
	    .line = line,
	    .stage = stage,
	    .own = own,
	    .hits = hits,
	    .max = max < HITS_MAX ? max : HITS_MAX};
	while (lists.n > 0) {
		struct str name = str_cut(&lists, ',');
		for (size_t i = 0; i < m->count; i++) {
			struct match_list *l = &m->lists[i];
			if (!str_eq(name, str_of(l->name)))
				continue;
			for (size_t j = 0; j < l->count && x.n < x.max; j++)
				run_rule(&x, l, &l->rules[j]);
		}
	}
	return x.n;
}

/* --- the line --------------------------------------------------------------------------------- */

size_t match_line(char out[REPLY_TEXT_MAX + 1], struct str text)
{
	struct reply_parser p;
	struct buf b;
	buf_init(&b, LINE_MAX_IN + 1);
	buf_str(&b, (struct str){text.p, text.n < LINE_MAX_IN ? text.n : LINE_MAX_IN});
	buf_u8(&b, '\n');
	struct str in = {(const char *)b.p, b.n};
	reply_parser_init(&p);
	/* One line that ends in "421-…" is a reply all the same: somebody copied it from a log. */
	if (reply_parse(&p, &in, NULL, NULL) >= 0 && p.lines > 0)
		str_copy(out, REPLY_TEXT_MAX + 1, str_of(p.reply.text));
	else
		log_clean(out, REPLY_TEXT_MAX + 1, (struct str){(const char *)b.p, b.n - 1});
	buf_fini(&b);
	return strlen(out);
}
