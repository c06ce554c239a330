/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/classify.h"
#include "common/match.h"
#include <jansson.h>
/*
 * For operators who write rules: what a reply would fire, and which category it is.
 */
struct rules {			 /* of one configuration */
	const struct conf *conf; /* borrowed: outlives it */
	struct rule_list *lists; /* owned */
	size_t count;
	struct matcher *matcher; /* owned */
};
void rules_init(struct rules *r, const struct conf *conf);
void rules_fini(struct rules *r);
/* lists: names with commas. 0, or -ENOENT with the unknown one in `unknown`. */
int rules_check_lists(const struct rules *r, struct str lists, struct str *unknown) MUST_USE;
/* Appends one object for each rule that matches, in the order in which they act. */
void rules_match(
    const struct rules *r, struct str lists, struct str line, enum smtp_stage stage, json_t *rows);
