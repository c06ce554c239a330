/* SPDX-License-Identifier: ISC */
/*
 * Keywords of EHLO (RFC 5321 4.1.1.1, 1870, 2920, 3461, 6152, 6531, 9422). This file alone knows
 * their names. Everything comes from a server that may lie: a number that is no number, or is too
 * large, counts as not stated, and nothing grows with the number of keywords (the reply parser
 * bounds the lines).
 */
#include "smtp-out/features.h"
#include "common/log.h"

static const struct {
	const char *name;
	enum feature bit;
} keywords[] = {
    {"PIPELINING", FEATURE_PIPELINING},
    {"8BITMIME", FEATURE_8BITMIME},
    {"SMTPUTF8", FEATURE_SMTPUTF8},
    {"DSN", FEATURE_DSN},
    {"STARTTLS", FEATURE_STARTTLS},
    {"CHUNKING", FEATURE_CHUNKING},
    {"ENHANCEDSTATUSCODES", FEATURE_STATUS},
    {"SIZE", FEATURE_SIZE},
};

void features_init(struct features *f)
{
	*f = (struct features){0};
}

static struct str next_word(struct str *rest)
{
	while (rest->n > 0 && (rest->p[0] == ' ' || rest->p[0] == '\t'))
		*rest = (struct str){rest->p + 1, rest->n - 1};
	size_t n = 0;
	while (n < rest->n && rest->p[n] != ' ' && rest->p[n] != '\t')
		n++;
	struct str word = {rest->p, n};
	*rest = (struct str){rest->p + n, rest->n - n};
	return word;
}

/* RFC 9422: "RCPTMAX=100 MAILMAX=20 …", separated by blanks. Zero would forbid everything: not
 * believed. */
static void parse_limits(struct features *f, struct str rest)
{
	for (struct str item = next_word(&rest); item.n > 0; item = next_word(&rest)) {
		struct str name = str_cut(&item, '=');
		unsigned long long n = 0;
		if (str_number(item, UINT32_MAX, &n) != 0 || n == 0)
			continue;
		if (str_eq_nocase(name, STR("RCPTMAX")))
			f->rcpt_max = (uint32_t)n;
		else if (str_eq_nocase(name, STR("MAILMAX")))
			f->mail_max = (uint32_t)n;
	}
}

/* RFC 1870 4: no number, or 0, is no fixed limit. */
static void parse_size(struct features *f, struct str rest)
{
	unsigned long long n = 0;
	if (str_number(next_word(&rest), UINT64_MAX / 2, &n) == 0)
		f->size_max = n;
}

static void note(struct features *f, struct str word)
{
	size_t have = strlen(f->esmtp);
	if (have + 1 + word.n + 1 > sizeof(f->esmtp))
		return;
	if (have > 0)
		f->esmtp[have++] = ' ';
	log_clean(f->esmtp + have, sizeof(f->esmtp) - have, word);
}

void features_line(struct features *f, unsigned line, struct str text)
{
	if (line == 0)
		return;
	struct str rest = text, word = next_word(&rest);
	if (word.n == 0)
		return;
	note(f, word);
	if (str_eq_nocase(word, STR("SIZE")))
		parse_size(f, rest);
	else if (str_eq_nocase(word, STR("LIMITS")))
		parse_limits(f, rest);
	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
		if (str_eq_nocase(word, str_of(keywords[i].name)))
			f->bits |= keywords[i].bit;
}
