/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/str.h"
#include "common/types.h"
#include <stdint.h>
/*
 * PowerMTA's bounce categories: what a failure is about, for statistics and for deciding whether an
 * address is to be used again. The answer depends on the arguments alone; a classifier holds the
 * compiled patterns and is used by one thread at a time.
 */
enum bounce_category {
#define CATEGORY(id, name) BOUNCE_##id,
#include "common/categories.def"
	BOUNCE_CATEGORY_COUNT
};
const char *bounce_category_name(enum bounce_category c); /* "bad-mailbox" */

struct classifier;
struct classifier *classifier_new(void);
void classifier_free(struct classifier **c);
/* status: enhanced code, or empty; text: the line as reports and rules have it. stage: where it was
 * said, STAGE_COUNT when that is not known. What was said of the sender never gives bad-mailbox or
 * inactive-mailbox. */
enum bounce_category classify(
    struct classifier *c, struct str status, struct str text, unsigned stage);
