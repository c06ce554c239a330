/* SPDX-License-Identifier: ISC */
/*
 * Values that are made of several numbers: lists of times, rates, steps of recovery, plans. Their
 * text is kept beside the numbers where it cannot be made again from them without loss, so that
 * conf_print() gives back what the operator wrote.
 *
 * A rate is refused where it could be misread: 0 (elsewhere it means either "nothing" or "no
 * limit"), and K, M, G in anything but a volume of data, where 10K would be 10,240 messages.
 */
#include "common/conf_impl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	STEPS_MAX = 64,		 /* of a list of times, of a recovery; nobody means more */
	RATE_COUNT_MAX = 100000, /* "N/100000d" is nobody's rate */
	NUMBERS_MAX = 2048	 /* of a plan: more than five years of days */
};
#define RATE_TIME_MAX INT64_C(31536000000) /* a year */
#define STEP_TIME_MAX INT64_C(31536000000) /* of recovery: nobody waits a year for a step */
#define RATE_AMOUNT_MAX (INT64_C(1) << 40) /* products with times stay far from overflow */

static void add_num(struct conf_value *v, int64_t n)
{
	v->nums = xrealloc(v->nums, (v->count + 1) * sizeof *v->nums);
	v->nums[v->count++] = n;
}

int conf_parse_times(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	if (s.n > 0 && s.p[s.n - 1] == ',')
		return conf_refuse(why, s, "a list of times: it ends in a comma");
	do {
		struct str item = conf_trim(str_cut(&s, ','));
		struct conf_value one = {0};
		if (v->count == STEPS_MAX) {
			snprintf(why, 200, "more than %d times", STEPS_MAX);
			return -EINVAL;
		}
		int r = conf_parse_time(d, item, &one, why);
		if (r != 0)
			return r;
		add_num(v, one.num);
	} while (s.n > 0);
	return 0;
}

/* --- rates ------------------------------------------------------------------------------------ */

/* The time of a rate: a time, or a bare unit; PowerMTA's long names are taken, too. */
static int rate_time(struct str s, int64_t *ms)
{
	static const struct {
		const char *name;
		int64_t ms;
	} words[] = {{"s", 1000}, {"sec", 1000}, {"m", 60000}, {"min", 60000}, {"h", 3600000},
	    {"hr", 3600000}, {"d", 86400000}, {"day", 86400000}};
	int64_t n = 1;
	struct str rest = s;
	bool counted = conf_take_number(&rest, RATE_COUNT_MAX, &n) == 0;
	for (size_t i = 0; i < COUNT_OF(words); i++)
		if (str_eq(rest, str_of(words[i].name)) && (!counted || n > 0)) {
			*ms = n * words[i].ms;
			return *ms <= RATE_TIME_MAX ? 0 : -EINVAL;
		}
	return conf_time_parse(s, ms) == 0 && *ms > 0 && *ms <= RATE_TIME_MAX ? 0 : -EINVAL;
}

/* 0, -EINVAL, or -ERANGE past RATE_AMOUNT_MAX. */
static int rate_amount(const struct conf_opt_def *d, struct str s, int64_t *n)
{
	bool volume = strstr(d->key, "-data-") != NULL;
	if (volume && conf_size_parse(s, n) != 0)
		return -EINVAL;
	if (!volume) {
		int r = conf_take_number(&s, RATE_AMOUNT_MAX, n);
		if (r != 0 || s.n > 0)
			return r != 0 ? r : -EINVAL;
	}
	return *n <= RATE_AMOUNT_MAX ? 0 : -ERANGE;
}

/* " burst B" behind a rate, or nothing. */
static int rate_burst(const struct conf_opt_def *d, struct str rest, int64_t *burst)
{
	rest = conf_trim(rest);
	*burst = 0;
	if (rest.n == 0)
		return 0;
	struct str word = str_cut(&rest, ' ');
	if (!str_eq(word, STR("burst")))
		return -EINVAL;
	int r = rate_amount(d, conf_trim(rest), burst);
	return r == 0 && *burst == 0 ? -EINVAL : r;
}

static bool rate_word(const struct conf_opt_def *d, struct str s, struct conf_value *v)
{
	if (str_eq(s, STR("unlimited")))
		v->num = -1;
	else if (str_eq(s, STR("auto")) && strcmp(d->def, "auto") == 0)
		v->num = -2;
	else
		return false;
	v->text = str_dup(s);
	return true;
}

int conf_parse_rate(const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	static const char form[] =
	    "a rate such as \"100/m\", \"20000/d burst 200\" or \"unlimited\"";
	static const char zero[] =
	    "a rate: 0 would stop all mail; use \"unlimited\", or pause the queue";
	struct str rest = conf_trim(s), amount, time;
	int64_t n = 0, ms = 0, burst = 0;
	if (rate_word(d, rest, v))
		return 0;
	if (str_eq(rest, STR("0")))
		return conf_refuse(why, s, zero);
	amount = conf_trim(str_cut(&rest, '/'));
	rest = conf_trim(rest);
	time = str_cut(&rest, ' ');
	int r = rate_amount(d, amount, &n);
	if (r == 0)
		r = rate_time(time, &ms);
	if (r == 0)
		r = rate_burst(d, rest, &burst);
	if (r == -ERANGE)
		return conf_refuse(why, s, "a rate of at most 1T (1099511627776)");
	if (r != 0)
		return conf_refuse(why, s, form);
	if (n == 0)
		return conf_refuse(why, s, zero);
	v->num = n;
	add_num(v, ms);
	/* One second's worth, rounded up, if no burst is given. */
	add_num(v, burst > 0 ? burst : (n * 1000 + ms - 1) / ms);
	v->text = str_dup(conf_trim(s));
	return 0;
}

/* --- steps of recovery, plans -------------------------------------------------------------------
 */

/* "10%, 25%,50%": rising, at most 100. */
static int recovery_steps(struct str steps, struct conf_value *v)
{
	int64_t last = 0;
	if (steps.n > 0 && steps.p[steps.n - 1] == ',')
		return -EINVAL;
	while (steps.n > 0) {
		struct str step = conf_trim(str_cut(&steps, ','));
		int64_t n = 0;
		if (conf_take_number(&step, 100, &n) != 0 || !str_eq(step, STR("%")) || n <= last ||
		    v->count == STEPS_MAX)
			return -EINVAL;
		add_num(v, last = n);
	}
	return v->count > 0 ? 0 : -EINVAL;
}

int conf_parse_recovery(
    const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	static const char every[] = " every ";
	struct str text = conf_trim(s);
	(void)d;
	if (str_eq(text, STR("off"))) {
		v->text = str_dup(text);
		return 0;
	}
	const char *at = text.n > 0 ? memmem(text.p, text.n, every, sizeof every - 1) : NULL;
	struct str steps = {text.p, at != NULL ? (size_t)(at - text.p) : 0};
	struct str time = {at, 0};
	if (at != NULL)
		time = (struct str){at + sizeof every - 1, text.n - steps.n - (sizeof every - 1)};
	if (at == NULL || conf_time_parse(conf_trim(time), &v->num) != 0 || v->num < 1000 ||
	    v->num > STEP_TIME_MAX || recovery_steps(conf_trim(steps), v) != 0)
		return conf_refuse(
		    why, s, "rising steps such as \"10%,50%,100% every 10m\", or \"off\"");
	v->text = str_dup(text);
	return 0;
}

int conf_parse_ints(const struct conf_opt_def *d, struct str s, struct conf_value *v, char why[200])
{
	static const char form[] = "a list of numbers such as \"50,100,250\"";
	struct str rest = conf_trim(s);
	if (rest.n == 0 || rest.p[rest.n - 1] == ',')
		return conf_refuse(why, s, form);
	while (rest.n > 0) {
		struct str item = conf_trim(str_cut(&rest, ',')), digits = item;
		int64_t n = 0;
		int r = conf_take_number(&digits, INT64_MAX / 2, &n);
		if (r == -ERANGE)
			n = INT64_MAX / 2;
		else if (r != 0 || digits.n > 0 || v->count == NUMBERS_MAX)
			return conf_refuse(why, s, form);
		if (conf_in_range(d, item, n, why) != 0)
			return -EINVAL;
		add_num(v, n);
	}
	v->text = str_dup(conf_trim(s));
	return 0;
}
