/* SPDX-License-Identifier: ISC */
/*
 * The command line: posternctl [-c FILE] [-r DIRECTORY] [--json] SERVICE VERB [ARG …]
 * [--option[=value] …]
 *
 * What begins with "--" after the service is an option of the verb, passed on as it is; "--" alone
 * ends options, for arguments that begin with a hyphen. An option without a value is passed as
 * "true", but --for takes its time from the next word, too.
 */
#include "ctl/ctl.h"
#include <stdlib.h>
#include <string.h>

/* `value_else`: what it has where none is written behind it. */
static int add_option(struct args *a, const char *word, const char *value_else, char why[200])
{
	const char *equals = strchr(word, '=');
	size_t n = equals != NULL ? (size_t)(equals - word) : strlen(word);
	char name[64];
	if (n == 0 || n >= sizeof name) {
		snprintf(why, 200, "--%.60s is no option", word);
		return -1;
	}
	str_copy(name, sizeof name, (struct str){word, n});
	json_t *value = json_string(equals != NULL ? equals + 1 : value_else);
	if (value == NULL || json_object_set_new(a->options, name, value) != 0) {
		snprintf(why, 200, "--%s: not UTF-8", name);
		return -1;
	}
	return 0;
}

static int add_argument(struct args *a, const char *word, char why[200])
{
	if (a->service == NULL) {
		a->service = word;
	} else if (a->verb == NULL) {
		a->verb = word;
	} else if (json_array_size(a->args) == ARGS_MAX) {
		snprintf(why, 200, "more than %d arguments", ARGS_MAX);
		return -1;
	} else if (json_array_append_new(a->args, json_string(word)) != 0) {
		snprintf(why, 200, "an argument is not UTF-8");
		return -1;
	}
	return 0;
}

/* Options of posternctl itself. 1: taken, 2: taken with the next word, 0: none of ours, -1: wrong.
 */
static int own_option(struct args *a, const char *word, const char *next, char why[200])
{
	if (strcmp(word, "--json") == 0)
		a->json = true;
	else if (a->service != NULL)
		return 0;
	else if (strcmp(word, "-V") == 0 || strcmp(word, "--version") == 0)
		a->version = true;
	else if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0)
		a->help = true;
	else if (strcmp(word, "-c") != 0 && strcmp(word, "-r") != 0) {
		snprintf(why, 200, "%.60s is no option of posternctl", word);
		return -1;
	} else if (next == NULL) {
		snprintf(why, 200, "%s needs a value", word);
		return -1;
	} else {
		*(word[1] == 'c' ? &a->conf_path : &a->run_directory) = next;
		return 2;
	}
	return 1;
}

int args_parse(struct args *a, int argc, char **argv, char why[200])
{
	bool options = true;
	*a = (struct args){.args = json_array(), .options = json_object()};
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		int r = 0;
		if (options && strcmp(word, "--") == 0) {
			options = false;
			continue;
		}
		if (options && word[0] == '-' && word[1] != 0) {
			r = own_option(a, word, argv[i + 1], why);
			if (r == 2)
				i++;
			else if (r == 0 && strcmp(word, "--for") == 0 && argv[i + 1] != NULL)
				r = add_option(a, "for", argv[++i], why);
			else if (r == 0)
				r = word[1] == '-' ? add_option(a, word + 2, "true", why)
						   : add_argument(a, word, why);
		} else {
			r = add_argument(a, word, why);
		}
		if (r < 0)
			return -1;
	}
	return 0;
}

void args_fini(struct args *a)
{
	json_decref(a->args);
	json_decref(a->options);
	*a = (struct args){0};
}
