/* SPDX-License-Identifier: ISC */
/*
 * Several instances of a service answer as one: counters add up. What says who an instance is,
 * rather than how much it did, is kept only where all agree; the uptime is the youngest one's.
 */
#include "ctl/ctl.h"
#include <string.h>

static bool is_identity(const char *key)
{
	static const char *const keys[] = {
	    "pid", "instance", "generation", "config", "port", "version"};
	for (size_t i = 0; i < COUNT_OF(keys); i++)
		if (strcmp(key, keys[i]) == 0)
			return true;
	return false;
}

/* A new reference, or NULL where the two have no common value. */
static json_t *merged(const char *key, json_t *a, json_t *b)
{
	if (json_is_object(a) && json_is_object(b)) {
		merge_object(a, b);
		return json_incref(a);
	}
	if (json_is_array(a) && json_is_array(b)) {
		if (!json_equal(a, b))
			json_array_extend(a, b);
		return json_incref(a);
	}
	if (json_is_number(a) && json_is_number(b) && !is_identity(key)) {
		bool youngest = strcmp(key, "uptime") == 0;
		if (youngest)
			return json_incref(json_number_value(a) < json_number_value(b) ? a : b);
		if (json_is_integer(a) && json_is_integer(b))
			return json_integer(json_integer_value(a) + json_integer_value(b));
		return json_real(json_number_value(a) + json_number_value(b));
	}
	return json_equal(a, b) ? json_incref(a) : NULL;
}

void merge_object(json_t *into, json_t *from)
{
	const char *key;
	json_t *mine;
	void *next;
	json_object_foreach_safe(into, next, key, mine)
	{
		json_t *theirs = json_object_get(from, key);
		json_t *both = theirs == NULL ? json_incref(mine) : merged(key, mine, theirs);
		if (both == NULL)
			json_object_del(into, key);
		else
			json_object_set_new(into, key, both);
	}
	/* Members that only the other one has. What was dropped for a difference must not come
	 * back, so only numbers and containers do: those are counted from zero. */
	json_object_foreach(from, key,
	    mine) if (json_object_get(into, key) == NULL &&
		      (json_is_object(mine) || (json_is_number(mine) && !is_identity(key))))
	    json_object_set(into, key, mine);
}
