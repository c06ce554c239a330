/* SPDX-License-Identifier: ISC */
/*
 * Numbers, times and sizes as people write them: the words of which the values of options are made
 * (conf_value.c, conf_rate.c). Pure; every sum and product is checked before it is made, so that no
 * text can wrap into a small number.
 */
#include "common/conf_impl.h"
#include <errno.h>
#include <inttypes.h>

struct str conf_trim(struct str s)
{
	while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
		s.p++, s.n--;
	while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

int conf_take_number(struct str *s, int64_t max, int64_t *value)
{
	size_t i = 0;
	int64_t n = 0;
	while (i < s->n && s->p[i] >= '0' && s->p[i] <= '9') {
		int digit = s->p[i] - '0';
		if (n > (max - digit) / 10)
			return -ERANGE;
		n = n * 10 + digit;
		i++;
	}
	if (i == 0)
		return -EINVAL;
	s->p += i;
	s->n -= i;
	*value = n;
	return 0;
}

static const struct unit {
	const char *name;
	int64_t ms;
} time_units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
/* A hundred years: sums of times never overflow. */
#define TIME_MAX INT64_C(3155760000000)

static const struct unit *take_unit(struct str *s)
{
	size_t n = 0;
	while (n < s->n && s->p[n] >= 'a' && s->p[n] <= 'z')
		n++;
	for (size_t i = 0; i < COUNT_OF(time_units); i++)
		if (str_eq((struct str){s->p, n}, str_of(time_units[i].name))) {
			s->p += n;
			s->n -= n;
			return &time_units[i];
		}
	return NULL;
}

/* "1h30m": units fall from left to right, each at most once; "0" needs none. */
int conf_time_parse(struct str s, int64_t *ms)
{
	int64_t total = 0;
	const struct unit *last = NULL;
	if (str_eq(s, STR("0"))) {
		*ms = 0;
		return 0;
	}
	if (s.n == 0)
		return -EINVAL;
	while (s.n > 0) {
		int64_t n = 0;
		if (conf_take_number(&s, TIME_MAX, &n) != 0)
			return -EINVAL;
		const struct unit *unit = take_unit(&s);
		if (unit == NULL || (last != NULL && unit <= last) ||
		    n > (TIME_MAX - total) / unit->ms)
			return -EINVAL;
		total += n * unit->ms;
		last = unit;
	}
	*ms = total;
	return 0;
}

void conf_time_print(struct buf *b, int64_t ms)
{
	if (ms < 0) {
		buf_cstr(b, "never");
		return;
	}
	if (ms == 0)
		buf_cstr(b, "0s");
	for (size_t i = 0; i < COUNT_OF(time_units); i++)
		if (ms >= time_units[i].ms) {
			buf_printf(b, "%" PRId64 "%s", ms / time_units[i].ms, time_units[i].name);
			ms %= time_units[i].ms;
		}
}

static const char size_units[] = "KMGT"; /* powers of 1024 */

int conf_size_parse(struct str s, int64_t *bytes)
{
	int64_t n = 0;
	if (conf_take_number(&s, INT64_MAX, &n) != 0 || s.n > 1)
		return -EINVAL;
	if (s.n == 1) {
		const char *unit = strchr(size_units, s.p[0]);
		if (unit == NULL || s.p[0] == 0)
			return -EINVAL;
		int shift = 10 * (int)(unit - size_units + 1);
		if (n > INT64_MAX >> shift)
			return -EINVAL;
		n <<= shift;
	}
	*bytes = n;
	return 0;
}

void conf_size_print(struct buf *b, int64_t bytes)
{
	int unit = -1;
	while (bytes > 0 && bytes % 1024 == 0 && size_units[unit + 1] != 0) {
		bytes /= 1024;
		unit++;
	}
	buf_printf(b, "%" PRId64, bytes);
	if (unit >= 0)
		buf_u8(b, (uint8_t)size_units[unit]);
}
