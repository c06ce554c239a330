/* SPDX-License-Identifier: ISC */
/*
 * The command parser: RFC 5321 4.1.1, with SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531), DSN
 * (3461, 6533) and CHUNKING (3030). It knows syntax and nothing else, so that it can be tried with
 * any bytes.
 *
 * What leaves here holds no control character: a line with one is refused before it is looked at,
 * and what xtext hides is refused by xtext_decode(). 8-bit octets pass only inside addresses and in
 * a utf-8 ORCPT, both checked as UTF-8.
 *
 * One leniency, since real clients need it: blanks after "FROM:" and "TO:".
 */
#include "smtpd/parse.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *text;
	size_t n;
} verbs[VERB_COUNT] = {
#define VERB(id, text, handler, phases) [VERB_##id] = {text, sizeof(text) - 1},
#include "smtpd/verbs.def"
#undef VERB
};

const char *verb_name(enum verb v)
{
	return v > VERB_UNKNOWN && v < VERB_COUNT ? verbs[v].text : "unknown";
}

static enum verb verb_find(struct str word)
{
	for (enum verb v = VERB_UNKNOWN + 1; v < VERB_COUNT; v++)
		if (str_eq_nocase(word, (struct str){verbs[v].text, verbs[v].n}))
			return v;
	return VERB_UNKNOWN;
}

bool command_is_alien(struct str start)
{
	/* The cross-protocol attacks begin with these, and so do TLS and RDP on the plain port. */
	static const char *const words[] = {
	    "GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "CONNECT "};

	if (start.n > 0 && ((unsigned char)start.p[0] < 0x09 || (unsigned char)start.p[0] >= 0x80 ||
			       start.p[0] == 0x16))
		return true;
	for (size_t i = 0; i < COUNT_OF(words); i++)
		if (str_starts_nocase(start, str_of(words[i])))
			return true;
	return false;
}

static bool has_control(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
			return true;
	return false;
}

static bool has_8bit(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] >= 0x80)
			return true;
	return false;
}

static struct str trim(struct str s)
{
	while (s.n > 0 && s.p[0] == ' ') {
		s.p++;
		s.n--;
	}
	while (s.n > 0 && s.p[s.n - 1] == ' ')
		s.n--;
	return s;
}

/* --- paths ------------------------------------------------------------------------------------ */

/* Takes "<…>" off the front; a quoted local part may hold any of the brackets. */
static int take_path(struct str *s, struct str *inner)
{
	bool quoted = false;

	*s = trim(*s);
	if (s->n < 2 || s->p[0] != '<')
		return -EINVAL;
	for (size_t i = 1; i < s->n; i++) {
		if (quoted && s->p[i] == '\\') {
			i++;
		} else if (s->p[i] == '"') {
			quoted = !quoted;
		} else if (s->p[i] == '>' && !quoted) {
			*inner = (struct str){s->p + 1, i - 1};
			s->p += i + 1;
			s->n -= i + 1;
			return s->n == 0 || s->p[0] == ' ' ? 0 : -EINVAL;
		}
	}
	return -EINVAL;
}

static int take_keyword(struct str *s, struct str keyword)
{
	if (!str_starts_nocase(*s, keyword))
		return -EINVAL;
	s->p += keyword.n;
	s->n -= keyword.n;
	return 0;
}

/* --- parameters ------------------------------------------------------------------------------- */

typedef enum answer parameter_fn(struct command *c, struct str value);
struct parameter {
	const char *name;
	bool has_value;
	parameter_fn *fn;
};

static enum answer take_size(struct command *c, struct str value)
{
	unsigned long long size;

	if (value.n > 20 || str_number(value, UINT64_MAX, &size) != 0)
		return ANSWER_BAD_SIZE;
	c->size = size;
	return ANSWER_NONE;
}

static enum answer take_body(struct command *c, struct str value)
{
	c->body_8bit = str_eq_nocase(value, STR("8BITMIME"));
	return c->body_8bit || str_eq_nocase(value, STR("7BIT")) ? ANSWER_NONE : ANSWER_BAD_BODY;
}

static enum answer take_utf8(struct command *c, struct str value)
{
	(void)value;
	c->utf8 = true;
	return ANSWER_NONE;
}

static enum answer take_ret(struct command *c, struct str value)
{
	if (str_eq_nocase(value, STR("FULL")))
		c->ret = RET_FULL;
	else if (str_eq_nocase(value, STR("HDRS")))
		c->ret = RET_HDRS;
	else
		return ANSWER_BAD_RET;
	return ANSWER_NONE;
}

static enum answer take_envid(struct command *c, struct str value)
{
	int r = xtext_decode(c->envid, sizeof(c->envid), value);

	return r == 0 && value.n > 0 ? ANSWER_NONE : ANSWER_BAD_ENVID;
}

static uint8_t notify_bit(struct str word)
{
	if (str_eq_nocase(word, STR("NEVER")))
		return NOTIFY_NEVER;
	if (str_eq_nocase(word, STR("SUCCESS")))
		return NOTIFY_SUCCESS;
	if (str_eq_nocase(word, STR("FAILURE")))
		return NOTIFY_FAILURE;
	return str_eq_nocase(word, STR("DELAY")) ? NOTIFY_DELAY : 0;
}

static enum answer take_notify(struct command *c, struct str value)
{
	if (value.n == 0 || value.p[value.n - 1] == ',')
		return ANSWER_BAD_NOTIFY;
	while (value.n > 0) {
		uint8_t bit = notify_bit(str_cut(&value, ','));
		if (bit == 0 || (c->notify & bit))
			return ANSWER_BAD_NOTIFY;
		c->notify |= bit;
	}
	if ((c->notify & NOTIFY_NEVER) && c->notify != NOTIFY_NEVER)
		return ANSWER_BAD_NOTIFY;
	return ANSWER_NONE;
}

/* utf-8-addr-unitext (RFC 6533 3) is kept as utf-8-addr-xtext before its xtext encoding: ASCII with
 * \x{HEX}, which every later hop may carry. */
static int unitext_to_ascii(char *out, size_t size, struct str s)
{
	struct buf b;
	int r = -EINVAL;

	buf_init(&b, size);
	for (size_t i = 0; i < s.n;) {
		unsigned char c = (unsigned char)s.p[i++];
		uint32_t point = c;
		unsigned more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
		if (more == 0) {
			buf_u8(&b, c);
			continue;
		}
		point &= 0x3fu >> more;
		for (; more > 0; more--)
			point = point << 6 | ((unsigned char)s.p[i++] & 0x3fu);
		buf_printf(&b, "\\x{%X}", point);
	}
	if (!b.failed && b.n < size) {
		str_copy(out, size, (struct str){(const char *)b.p, b.n});
		r = 0;
	}
	buf_fini(&b);
	return r;
}

static enum answer take_orcpt(struct command *c, struct str value)
{
	struct str type = str_cut(&value, ';');
	size_t n = type.n + 1;
	int r;

	if (type.n == 0 || type.n > 60 || value.n == 0 || has_8bit(type))
		return ANSWER_BAD_ORCPT;
	for (size_t i = 0; i < type.n; i++)
		if (memchr(" +=<>()[]\\,:@\"/", type.p[i], 16))
			return ANSWER_BAD_ORCPT;
	str_copy(c->orcpt, sizeof(c->orcpt), type);
	c->orcpt[type.n] = ';';
	if (has_8bit(value)) {
		if (!str_eq_nocase(type, STR("utf-8")) || !utf8_valid(value))
			return ANSWER_BAD_ORCPT;
		r = unitext_to_ascii(c->orcpt + n, sizeof(c->orcpt) - n, value);
	} else {
		r = xtext_decode(c->orcpt + n, sizeof(c->orcpt) - n, value);
	}
	return r == 0 ? ANSWER_NONE : ANSWER_BAD_ORCPT;
}

static const struct parameter mail_parameters[] = {
    {"SIZE", true, take_size},
    {"BODY", true, take_body},
    {"SMTPUTF8", false, take_utf8},
    {"RET", true, take_ret},
    {"ENVID", true, take_envid},
    {NULL, false, NULL},
};
static const struct parameter rcpt_parameters[] = {
    {"NOTIFY", true, take_notify},
    {"ORCPT", true, take_orcpt},
    {NULL, false, NULL},
};

static enum answer take_parameter(
    struct command *c, const struct parameter *table, struct str word, unsigned *seen)
{
	struct str name = str_cut(&word, '=');
	bool has_value = word.p > name.p + name.n;

	for (unsigned i = 0; table[i].name; i++) {
		if (!str_eq_nocase(name, str_of(table[i].name)))
			continue;
		if (*seen & 1u << i)
			return ANSWER_TWICE_PARAMETER;
		*seen |= 1u << i;
		if (has_value != table[i].has_value)
			return ANSWER_UNKNOWN_PARAMETER;
		return table[i].fn(c, word);
	}
	return ANSWER_UNKNOWN_PARAMETER;
}

static enum answer take_parameters(struct command *c, const struct parameter *table, struct str s)
{
	unsigned seen = 0;

	for (unsigned count = 0; s.n > 0; count++) {
		struct str word = str_cut(&s, ' ');
		if (word.n == 0)
			continue;
		if (count == PARAMETERS_MAX)
			return ANSWER_UNKNOWN_PARAMETER;
		enum answer a = take_parameter(c, table, word, &seen);
		if (a != ANSWER_NONE)
			return a;
	}
	return ANSWER_NONE;
}

/* --- commands, in the order of the dialogue --------------------------------------------------- */

static enum answer parse_helo(struct command *c, struct str rest)
{
	/* Some clients say more after the name; it means nothing and goes nowhere. */
	c->argument = str_cut(&rest, ' ');
	return helo_valid(c->argument) ? ANSWER_NONE : ANSWER_BAD_HELO;
}

static enum answer parse_mail(struct command *c, struct str rest)
{
	struct str path;
	enum answer a;

	if (take_keyword(&rest, STR("FROM:")) != 0 || take_path(&rest, &path) != 0)
		return ANSWER_BAD_MAIL;
	if (mailbox_parse(&c->mailbox, path, true) != 0)
		return ANSWER_BAD_SENDER;
	a = take_parameters(c, mail_parameters, rest);
	if (a != ANSWER_NONE)
		return a;
	return has_8bit(path) && !c->utf8 ? ANSWER_NEEDS_UTF8 : ANSWER_NONE;
}

static enum answer parse_rcpt(struct command *c, struct str rest)
{
	struct str path;

	if (take_keyword(&rest, STR("TO:")) != 0 || take_path(&rest, &path) != 0)
		return ANSWER_BAD_RCPT;
	c->postmaster = str_eq_nocase(path, STR("Postmaster"));
	if (!c->postmaster && mailbox_parse(&c->mailbox, path, false) != 0)
		return ANSWER_BAD_ADDRESS;
	c->utf8 = has_8bit(path);
	return take_parameters(c, rcpt_parameters, rest);
}

static enum answer parse_bdat(struct command *c, struct str rest)
{
	unsigned long long n;
	struct str number = str_cut(&rest, ' ');

	c->chunk = UINT64_MAX;
	if (number.n > 20 || str_number(number, UINT32_MAX, &n) != 0)
		return ANSWER_BAD_BDAT;
	rest = trim(rest);
	c->last = str_eq_nocase(rest, STR("LAST"));
	if (rest.n > 0 && !c->last)
		return ANSWER_BAD_BDAT;
	c->chunk = n;
	return ANSWER_NONE;
}

static enum answer parse_arguments(struct command *c, struct str rest)
{
	switch (c->verb) {
	case VERB_EHLO:
	case VERB_HELO:
		return parse_helo(c, rest);
	case VERB_MAIL:
		return parse_mail(c, rest);
	case VERB_RCPT:
		return parse_rcpt(c, rest);
	case VERB_BDAT:
		return parse_bdat(c, rest);
	case VERB_VRFY:
		c->argument = rest;
		return rest.n > 0 ? ANSWER_NONE : ANSWER_BAD_VRFY;
	case VERB_STARTTLS:
	case VERB_DATA:
	case VERB_RSET:
	case VERB_QUIT:
		return rest.n == 0 ? ANSWER_NONE : ANSWER_NO_ARGUMENT;
	default:
		return ANSWER_NONE;
	}
}

enum answer command_parse(struct command *c, struct str line)
{
	struct str rest = trim(line), word = str_cut(&rest, ' ');

	*c = (struct command){.verb = verb_find(word), .chunk = UINT64_MAX};
	if (c->verb == VERB_UNKNOWN)
		return ANSWER_UNKNOWN;
	if (has_control(line))
		return ANSWER_CONTROL;
	if (c->verb != VERB_MAIL && c->verb != VERB_RCPT && has_8bit(line))
		return ANSWER_CONTROL;
	return parse_arguments(c, trim(rest));
}
