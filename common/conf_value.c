/* SPDX-License-Identifier: ISC */
/*
 * Values of options: text in, checked value out, and back. One function a kind (rates and the like
 * stand in conf_rate.c). The same code reads
 * configuration files, defaults of config.def and whatever else names an option with a value; so
 * what conf_print() prints always parses back to the same value.
 */
#include "common/addr.h"
#include "common/conf_impl.h"
#include "common/utf8.h"
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	ITEMS_MAX = 65536, /* entries of an array: networks of a large sender, with room */
	TEXT_MAX = 4096,
	SHOWN_MAX = 60 /* bytes of a bad value that an error text repeats */
};
typedef int parse_fn(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200]);

int conf_refuse(char why[200], struct str s, const char *what)
{
	struct str shown = {s.p, s.n < SHOWN_MAX ? s.n : SHOWN_MAX};
	if (!utf8_printable(shown))
		shown = STR("(unprintable)");
	snprintf(why, 200, "\"%.*s\" is not %s", STR_ARG(shown), what);
	return -EINVAL;
}

/* A bound as the file would say it, for the error text. */
static void bound_print(struct buf *b, enum conf_kind kind, int64_t n)
{
	if (kind == KIND_TIME || kind == KIND_TIMES || kind == KIND_BOOL_TIME)
		conf_time_print(b, n);
	else if (kind == KIND_SIZE)
		conf_size_print(b, n);
	else
		buf_printf(b, "%" PRId64, n);
}

int conf_in_range(const struct conf_opt_def *d, struct str s, int64_t n, char why[200])
{
	if (n >= d->min && (d->max == 0 || n <= d->max))
		return 0;
	struct buf b;
	buf_init(&b, 200);
	buf_printf(&b, "%.*s is out of range: ", (int)(s.n < SHOWN_MAX ? s.n : SHOWN_MAX), s.p);
	if (d->max == 0)
		buf_cstr(&b, "at least ");
	bound_print(&b, d->kind, d->min);
	if (d->max != 0) {
		buf_cstr(&b, " to ");
		bound_print(&b, d->kind, d->max);
	}
	str_copy(why, 200, (struct str){(const char *)b.p, b.n});
	buf_fini(&b);
	return -EINVAL;
}

static int parse_int(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	struct str rest = s;
	bool minus = rest.n > 0 && rest.p[0] == '-';
	if (minus)
		rest.p++, rest.n--;
	/* libconfig's integers are of 32 bits; more could not be written back. */
	int r = conf_take_number(&rest, INT32_MAX, &v->num);
	if (r == -EINVAL || (r == 0 && rest.n > 0))
		return conf_refuse(why, s, "a number");
	if (r == -ERANGE)
		v->num = INT64_MAX;
	if (minus)
		v->num = -v->num;
	return conf_in_range(d, s, v->num, why);
}

static int parse_auto_int(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (str_eq(s, STR("auto"))) {
		v->num = 0;
		return 0;
	}
	struct conf_opt_def from_one = *d;
	if (from_one.min < 1)
		from_one.min = 1;
	return parse_int(&from_one, s, v, why);
}

static int parse_bool(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	(void)d;
	v->num = str_eq(s, STR("true"));
	return v->num == 1 || str_eq(s, STR("false")) ? 0 : conf_refuse(why, s, "true or false");
}

int conf_parse_time(const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (str_eq(s, STR("never")) && strcmp(d->def, "never") == 0) {
		v->num = -1;
		return 0;
	}
	if (conf_time_parse(s, &v->num) != 0)
		return conf_refuse(why, s, "a time such as \"90s\", \"10m\" or \"1h30m\"");
	return conf_in_range(d, s, v->num, why);
}

static int parse_bool_time(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (str_eq(s, STR("false")) || str_eq(s, STR("true"))) {
		v->num = s.p[0] == 't' ? 0 : -1;
		return 0;
	}
	return conf_parse_time(d, s, v, why);
}

static int parse_size(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (conf_size_parse(s, &v->num) != 0)
		return conf_refuse(why, s, "a size such as \"10M\"");
	return conf_in_range(d, s, v->num, why);
}

static int parse_choice(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	struct str words = str_of(d->def);
	for (int64_t i = 0; words.n > 0; i++)
		if (str_eq(str_cut(&words, '|'), s)) {
			v->num = i;
			return 0;
		}
	char what[100];
	snprintf(what, sizeof what, "one of %.80s", d->def);
	return conf_refuse(why, s, what);
}

/* --- texts ------------------------------------------------------------------------------------ */

static bool name_valid(struct str s)
{
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			(c != 0 && strchr("._-", c) != NULL)))
			return false;
	}
	return s.n > 0 && s.n <= CONF_NAME_MAX;
}

static int parse_text(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	(void)d;
	v->text = str_dup(s);
	(void)why;
	return 0;
}

static int parse_name(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (!name_valid(s))
		return conf_refuse(
		    why, s, "a name (letters, digits, dot, underscore, hyphen; at most 100)");
	return parse_text(d, s, v, why);
}

static int parse_path(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (s.n >= PATH_MAX || (s.n > 0 && s.p[0] != '/') || (s.n == 0 && d->def[0] != 0))
		return conf_refuse(why, s, "an absolute path");
	return parse_text(d, s, v, why);
}

static int parse_file(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (s.n > NAME_MAX || memchr(s.p, '/', s.n) != NULL || (s.n > 0 && s.p[0] == '.') ||
	    (s.n == 0 && strchr(d->consumers, '!') != NULL))
		return conf_refuse(why, s, "a file name without directory or leading dot");
	return parse_text(d, s, v, why);
}

static int parse_domain(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	char name[DOMAIN_MAX + 1];
	(void)d;
	if (domain_normalise(name, s) != 0)
		return conf_refuse(why, s, "a domain name");
	v->text = xstrdup(name);
	return 0;
}

static int parse_domain_or_any(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (str_eq(s, STR("*")))
		return parse_text(d, s, v, why);
	if (parse_domain(d, s, v, why) == 0)
		return 0;
	return conf_refuse(why, s, "a domain name, or \"*\" alone");
}

static int parse_mailbox(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	struct mailbox m;
	if (s.n > 0 && mailbox_parse(&m, s, false) != 0)
		return conf_refuse(why, s, "a mail address");
	return parse_text(d, s, v, why);
}

/* Canonical form; ::ffff:192.0.2.1 is refused, since it would be a second name for 192.0.2.1. */
static int address_canonical(struct str s, char out[INET6_ADDRSTRLEN])
{
	char text[INET6_ADDRSTRLEN];
	struct in_addr v4;
	struct in6_addr v6;
	if (s.n >= sizeof text || memchr(s.p, 0, s.n) != NULL)
		return -EINVAL;
	str_copy(text, sizeof text, s);
	if (inet_pton(AF_INET, text, &v4) == 1)
		return inet_ntop(AF_INET, &v4, out, INET6_ADDRSTRLEN) != NULL ? 0 : -EINVAL;
	if (inet_pton(AF_INET6, text, &v6) == 1 && !IN6_IS_ADDR_V4MAPPED(&v6))
		return inet_ntop(AF_INET6, &v6, out, INET6_ADDRSTRLEN) != NULL ? 0 : -EINVAL;
	return -EINVAL;
}

static int parse_address(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	char text[INET6_ADDRSTRLEN];
	(void)d;
	if (address_canonical(s, text) != 0)
		return conf_refuse(why, s, "an IP address");
	v->text = xstrdup(text);
	return 0;
}

/* --- lists of texts --------------------------------------------------------------------------- */

static int server_item(struct str s, char **out)
{
	char text[INET6_ADDRSTRLEN + 32], address[INET6_ADDRSTRLEN];
	struct str rest = s, host = str_cut(&rest, '@');
	unsigned long long port = 0;
	bool has_port = host.n < s.n;
	if (address_canonical(host, address) != 0 ||
	    (has_port && (str_number(rest, 65535, &port) != 0 || port == 0)))
		return -EINVAL;
	if (has_port)
		snprintf(text, sizeof text, "%s@%llu", address, port);
	else
		snprintf(text, sizeof text, "%s", address);
	*out = xstrdup(text);
	return 0;
}

int conf_value_add_item(enum conf_opt opt, struct conf_value *v, struct str item, char why[200])
{
	struct network network;
	char *text = NULL;
	if (v->count == ITEMS_MAX) {
		snprintf(why, 200, "more than %d entries", ITEMS_MAX);
		return -EINVAL;
	}
	if (item.n == 0 || item.n > TEXT_MAX || !utf8_printable(item))
		return conf_refuse(why, item, "a printable string");
	switch (conf_opts[opt].kind) {
	case KIND_NETWORKS:
		if (network_parse(&network, item) != 0)
			return conf_refuse(
			    why, item, "a network such as \"192.0.2.0/24\" or \"::1\"");
		text = str_dup(item);
		break;
	case KIND_SERVERS:
		if (server_item(item, &text) != 0)
			return conf_refuse(why, item, "an address or address@port");
		break;
	case KIND_NAMES:
		if (!name_valid(item))
			return conf_refuse(
			    why, item, "a name (letters, digits, dot, underscore, hyphen)");
		text = str_dup(item);
		break;
	default:
		text = str_dup(item);
		break;
	}
	if ((v->count & (v->count - 1)) == 0)
		v->texts = xrealloc(v->texts, (v->count == 0 ? 1 : v->count * 2) * sizeof(char *));
	v->texts[v->count++] = text;
	return 0;
}

bool conf_kind_is_list(enum conf_kind kind)
{
	return kind == KIND_TEXTS || kind == KIND_NETWORKS || kind == KIND_SERVERS ||
	       kind == KIND_NAMES;
}

static const struct kind_def {
	const char *noun;
	parse_fn *parse; /* NULL: a list of texts */
} kinds[KIND_COUNT] = {
    [KIND_INT] = {"a number", parse_int},
    [KIND_BOOL] = {"true or false", parse_bool},
    [KIND_TEXT] = {"a string", parse_text},
    [KIND_TIME] = {"a time such as \"90s\"", conf_parse_time},
    [KIND_TIMES] = {"a string with times such as \"5m,10m,1h\"", conf_parse_times},
    [KIND_SIZE] = {"a size such as \"10M\"", parse_size},
    [KIND_DOMAIN] = {"a string with a domain name", parse_domain},
    [KIND_TEXTS] = {"an array of strings such as [ \"a\", \"b\" ]", NULL},
    [KIND_NETWORKS] = {"an array of networks such as [ \"192.0.2.0/24\" ]", NULL},
    [KIND_ADDRESS] = {"a string with an IP address", parse_address},
    [KIND_SERVERS] = {"an array of addresses such as [ \"192.0.2.1\" ]", NULL},
    [KIND_CHOICE] = {"a word in quotes", parse_choice},
    [KIND_AUTO_INT] = {"a number or \"auto\"", parse_auto_int},
    [KIND_BOOL_TIME] = {"true, false or a time such as \"90s\"", parse_bool_time},
    [KIND_NAME] = {"a string with a name", parse_name},
    [KIND_PATH] = {"a string with a path", parse_path},
    [KIND_DOMAIN_OR_ANY] = {"a string with a domain name, or \"*\"", parse_domain_or_any},
    [KIND_MAILBOX] = {"a string with a mail address", parse_mailbox},
    [KIND_FILE] = {"a string with a file name", parse_file},
    [KIND_RATE] = {"a rate such as \"1000/15m burst 20\"", conf_parse_rate},
    [KIND_RECOVERY] = {"steps such as \"10%,50%,100% every 10m\"", conf_parse_recovery},
    [KIND_INTS] = {"a string with numbers such as \"50,100,250\"", conf_parse_ints},
    [KIND_NAMES] = {"a name or an array of names", NULL},
    [KIND_REGEX] = {"a regular expression", parse_text},
};

const char *conf_kind_noun(enum conf_kind kind)
{
	return kinds[kind].noun;
}

int conf_parse_value(enum conf_opt opt, struct str text, struct conf_value *v, char why[200])
{
	const struct conf_opt_def *d = &conf_opts[opt];
	int r = 0;
	*v = (struct conf_value){0};
	why[0] = 0;
	if (text.n > TEXT_MAX || !utf8_printable(text))
		return conf_refuse(why, text, "a printable string of at most 4096 bytes");
	/* A choice's default is its list of words: the first one is meant. */
	if (d->kind == KIND_CHOICE && str_eq(text, str_of(d->def)))
		return 0;
	if (kinds[d->kind].parse != NULL)
		r = kinds[d->kind].parse(d, text, v, why);
	else
		while (r == 0 && text.n > 0)
			r = conf_value_add_item(opt, v, conf_trim(str_cut(&text, ',')), why);
	if (r != 0)
		conf_value_fini(v);
	return r;
}

/* --- printing --------------------------------------------------------------------------------- */

static void quoted(struct buf *b, const char *s)
{
	buf_u8(b, '"');
	for (; s != NULL && *s != 0; s++) {
		if (*s == '"' || *s == '\\')
			buf_u8(b, '\\');
		buf_u8(b, (uint8_t)*s);
	}
	buf_u8(b, '"');
}

static void print_list(struct buf *b, const struct conf_value *v)
{
	buf_cstr(b, "[ ");
	for (size_t i = 0; i < v->count; i++) {
		if (i > 0)
			buf_cstr(b, ", ");
		quoted(b, v->texts[i]);
	}
	buf_cstr(b, v->count > 0 ? " ]" : "]");
}

static void print_times(struct buf *b, const struct conf_value *v)
{
	buf_u8(b, '"');
	for (size_t i = 0; i < v->count; i++) {
		if (i > 0)
			buf_u8(b, ',');
		conf_time_print(b, v->nums[i]);
	}
	buf_u8(b, '"');
}

static void print_choice(struct buf *b, const struct conf_opt_def *d, int64_t which)
{
	struct str words = str_of(d->def), word = str_cut(&words, '|');
	for (; which > 0; which--)
		word = str_cut(&words, '|');
	buf_printf(b, "\"%.*s\"", STR_ARG(word));
}

void conf_print_value(struct buf *out, enum conf_opt opt, const struct conf_value *v)
{
	const struct conf_opt_def *d = &conf_opts[opt];
	switch (d->kind) {
	case KIND_INT:
		buf_printf(out, "%" PRId64, v->num);
		break;
	case KIND_AUTO_INT:
		if (v->num == 0)
			buf_cstr(out, "\"auto\"");
		else
			buf_printf(out, "%" PRId64, v->num);
		break;
	case KIND_BOOL:
		buf_cstr(out, v->num != 0 ? "true" : "false");
		break;
	case KIND_BOOL_TIME:
		if (v->num <= 0) {
			buf_cstr(out, v->num == 0 ? "true" : "false");
			break;
		}
		__attribute__((fallthrough));
	case KIND_TIME:
		buf_u8(out, '"');
		conf_time_print(out, v->num);
		buf_u8(out, '"');
		break;
	case KIND_TIMES:
		print_times(out, v);
		break;
	case KIND_SIZE:
		buf_u8(out, '"');
		conf_size_print(out, v->num);
		buf_u8(out, '"');
		break;
	case KIND_CHOICE:
		print_choice(out, d, v->num);
		break;
	case KIND_TEXTS:
	case KIND_NETWORKS:
	case KIND_SERVERS:
	case KIND_NAMES:
		print_list(out, v);
		break;
	default:
		quoted(out, v->text);
		break;
	}
}
