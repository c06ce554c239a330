/* SPDX-License-Identifier: ISC */
/*
 * Bounces by category. The enhanced status decides where servers use it as RFC 3463 means it; where
 * they do not (5.7.1, 5.0.0 and the like say anything), words of the text do, then the status after
 * all, then the basic code. Before all of these stand the replies of which it is known that their
 * code says something else. All of it is data: categories.def; tests/corpus says what it must give.
 *
 * Above it stands one rule. Whoever drops addresses from a list by these categories loses good ones
 * when a complaint about the sender is taken for one about the recipient; servers say "5.1.1 user
 * unknown" of both. So what speaks of the sender, or answers MAIL, is never bad-mailbox or
 * inactive-mailbox.
 */
#include "common/classify.h"
#include "common/check.h"
#include "common/match.h"
#include <stdlib.h>

static const char *const names[BOUNCE_CATEGORY_COUNT] = {
#define CATEGORY(id, name) [BOUNCE_##id] = (name),
#include "common/categories.def"
};

static const struct status_row {
	const char *code;
	enum bounce_category category;
	bool certain;
} statuses[] = {
#define STATUS(code, id, certain) {(code), BOUNCE_##id, (certain)},
#include "common/categories.def"
};

static const struct {
	unsigned from, to;
	enum bounce_category category;
} codes[] = {
#define CODE(from, to, id) {(from), (to), BOUNCE_##id},
#include "common/categories.def"
};

struct text_row {
	enum bounce_category category;
	const char *pattern;
};

static const struct text_row firsts[] = {
#define FIRST(id, pattern) {BOUNCE_##id, (pattern)},
#include "common/categories.def"
};

static const struct text_row texts[] = {
#define TEXT(id, pattern) {BOUNCE_##id, (pattern)},
#include "common/categories.def"
};

enum { /* where each stands in the set of patterns */
	AT_TEXTS = 0,
	AT_FIRSTS = COUNT_OF(texts),
	AT_SENDER = AT_FIRSTS + COUNT_OF(firsts),
	PATTERNS
};

/* The reply is about who sends, whatever else it says. */
static const char of_sender[] = "\\bsender\\b|\\bmail.?from\\b|return.?path|reverse.?path|\\bfrom:?"
				" ?<|from (address|domain|header)|"
				"originat(or|ing) (address|domain)|RFC.?532[12].?from";

struct classifier {
	struct pattern_set *patterns; /* owned */
};

const char *bounce_category_name(enum bounce_category c)
{
	return (unsigned)c < COUNT_OF(names) ? names[c] : "other";
}

struct classifier *classifier_new(void)
{
	const char *all[PATTERNS];
	struct classifier *c = xcalloc(1, sizeof(*c));
	for (size_t i = 0; i < COUNT_OF(texts); i++)
		all[AT_TEXTS + i] = texts[i].pattern;
	for (size_t i = 0; i < COUNT_OF(firsts); i++)
		all[AT_FIRSTS + i] = firsts[i].pattern;
	all[AT_SENDER] = of_sender;
	c->patterns = pattern_set_new(all, PATTERNS);
	return c;
}

void classifier_free(struct classifier **c)
{
	if (!*c)
		return;
	pattern_set_free(&(*c)->patterns);
	free(*c);
	*c = NULL;
}

/* "x" is any class, "*" the rest. */
static bool status_fits(const char *pattern, struct str status)
{
	size_t n = strlen(pattern);
	if (n < 2 || status.n < 2 || (pattern[0] != 'x' && pattern[0] != status.p[0]))
		return false;
	if (pattern[n - 1] == '*')
		return status.n >= n && memcmp(pattern + 1, status.p + 1, n - 2) == 0;
	return status.n == n && memcmp(pattern + 1, status.p + 1, n - 1) == 0;
}

static const struct status_row *find_status(struct str status)
{
	for (size_t i = 0; i < COUNT_OF(statuses); i++)
		if (status_fits(statuses[i].code, status))
			return &statuses[i];
	return NULL;
}

static enum bounce_category by_code(struct str text)
{
	unsigned long long code = 0;
	if (text.n >= 3 && str_number((struct str){text.p, 3}, 999, &code) == 0)
		for (size_t i = 0; i < COUNT_OF(codes); i++)
			if (code >= codes[i].from && code <= codes[i].to)
				return codes[i].category;
	return BOUNCE_OTHER;
}

static enum bounce_category judge(struct classifier *c, struct str status, struct str text)
{
	const struct status_row *row = find_status(status);
	int found = pattern_set_first(c->patterns, AT_FIRSTS, COUNT_OF(firsts), text);
	if (found >= 0)
		return firsts[found].category;
	if (row && row->certain)
		return row->category;
	found = pattern_set_first(c->patterns, AT_TEXTS, COUNT_OF(texts), text);
	if (found >= 0)
		return texts[found].category;
	if (row && row->category != BOUNCE_OTHER)
		return row->category;
	return by_code(text);
}

enum bounce_category classify(
    struct classifier *c, struct str status, struct str text, unsigned stage)
{
	enum bounce_category category = judge(c, status, text);
	bool of_mailbox = category == BOUNCE_BAD_MAILBOX || category == BOUNCE_INACTIVE_MAILBOX;
	if (of_mailbox &&
	    (stage == STAGE_MAIL || pattern_set_first(c->patterns, AT_SENDER, 1, text) >= 0))
		return BOUNCE_INVALID_SENDER;
	return category;
}
