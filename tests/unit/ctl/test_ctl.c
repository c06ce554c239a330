/* SPDX-License-Identifier: ISC */
/* posternctl: its command line, how it finds and asks services, and what it prints. */
#include "ctl/ctl.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
#include <cmocka.h>

/* --- the command line ------------------------------------------------------------------------- */

static int parse(struct args *a, char why[200], int n, ...)
{
	static char *argv[16];
	va_list ap;
	va_start(ap, n);
	argv[0] = (char *)(uintptr_t) "posternctl";
	for (int i = 0; i < n; i++)
		argv[i + 1] = va_arg(ap, char *);
	argv[n + 1] = NULL;
	va_end(ap);
	return args_parse(a, n + 1, argv, why);
}

static void test_args(void **state)
{
	struct args a;
	char why[200];
	(void)state;
	assert_int_equal(
	    parse(&a, why, 8, "-c", "f", "qmgr", "messages", "--queue=x/y", "--all", "--json", "z"),
	    0);
	assert_string_equal(a.conf_path, "f");
	assert_true(a.json);
	assert_string_equal(a.service, "qmgr");
	assert_string_equal(a.verb, "messages");
	assert_string_equal(json_string_value(json_array_get(a.args, 0)), "z");
	assert_int_equal(json_array_size(a.args), 1);
	assert_string_equal(json_string_value(json_object_get(a.options, "queue")), "x/y");
	assert_string_equal(json_string_value(json_object_get(a.options, "all")), "true");
	args_fini(&a);
	assert_int_equal(parse(&a, why, 5, "qmgr", "delete", "--", "--json", "-c"), 0);
	assert_false(a.json);
	assert_int_equal(json_array_size(a.args), 2);
	args_fini(&a);
	assert_int_equal(parse(&a, why, 6, "qmgr", "pause", "queue", "a/b", "--for", "5m"), 0);
	assert_string_equal(json_string_value(json_object_get(a.options, "for")), "5m");
	assert_int_equal(json_array_size(a.args), 2);
	args_fini(&a);
	assert_int_equal(parse(&a, why, 1, "-c"), -1);
	assert_string_equal(why, "-c needs a value");
	args_fini(&a);
	assert_int_equal(parse(&a, why, 2, "--jsn", "qmgr"), -1);
	assert_string_equal(why, "--jsn is no option of posternctl");
	args_fini(&a);
	assert_int_equal(parse(&a, why, 3, "qmgr", "x", "\xFF"), -1);
	assert_string_equal(why, "an argument is not UTF-8");
	args_fini(&a);
}

/* --- finding ---------------------------------------------------------------------------------- */

static char dir[64];

static void touch(const char *name)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	close(fd);
}

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/postern-test-ctl.XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
	char command[128];
	(void)state;
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static void test_find(void **state)
{
	struct instance *list;
	(void)state;
	touch("smtpd.10.sock");
	touch("smtpd.0.sock");
	touch("smtpd.2.sock");
	touch("smtpd.x.sock");
	touch("smtpd.sock");
	touch("smtp-out.0.sock");
	assert_int_equal(find_instances(dir, "smtpd", &list), 3);
	assert_int_equal(list[0].number, 0);
	assert_int_equal(list[1].number, 2);
	assert_int_equal(list[2].number, 10);
	assert_non_null(strstr(list[2].path, "/smtpd.10.sock"));
	free(list);
	assert_int_equal(find_instances(dir, "smtpd.2", &list), 1);
	assert_int_equal(list[0].number, 2);
	free(list);
	assert_int_equal(find_instances(dir, "smtpd.3", &list), 0);
	free(list);
	assert_int_equal(find_instances(dir, "smtpd.zz", &list), 0);
	free(list);
	assert_int_equal(find_instances("/nonexistent", "qmgr", &list), 0);
	free(list);
	assert_int_equal(find_instances(dir, "master", &list), 1);
	free(list);
	assert_true(find_known("smtp-out") && find_known("smtp-out.1") && find_known("master"));
	assert_false(find_known("smtp") || find_known("") || find_known("cron"));
}

static void test_run_directory_of_a_broken_configuration(void **state)
{
	char path[128];
	(void)state;
	snprintf(path, sizeof path, "%s/conf", dir);
	FILE *f = fopen(path, "w");
	fputs("run-directory = \"/some/where\"; nonsense = 1;\n", f);
	fclose(f);
	assert_int_equal(chmod(path, 0600), 0);
	char *found = find_run_directory(path);
	assert_string_equal(found, "/some/where");
	free(found);
}

/* --- asking ----------------------------------------------------------------------------------- */

static char *rows_seen;
static void see_row(void *ctx, json_t *row)
{
	char *text = json_dumps(row, JSON_COMPACT);
	(void)ctx;
	strncat(rows_seen, text, 1000);
	free(text);
}

/* A service that says `said` to whoever asks, in pieces of `piece` bytes; returns the answer. */
static struct answer asked(const char *said, size_t piece)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct answer answer;
	snprintf(un.sun_path, sizeof un.sun_path, "%s/fake", dir);
	unlink(un.sun_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
	assert_int_equal(listen(fd, 1), 0);
	pid_t child = fork();
	if (child == 0) {
		char request[256];
		int peer = accept(fd, NULL, NULL);
		if (read(peer, request, sizeof request) <= 0)
			_exit(1);
		for (size_t n = strlen(said); n > 0;) {
			size_t part = n < piece ? n : piece;
			if (write(peer, said, part) < 0)
				break;
			said += part;
			n -= part;
		}
		_exit(0);
	}
	rows_seen = calloc(1, 65536);
	ask(un.sun_path, "{\"verb\":\"x\"}", see_row, NULL, &answer);
	close(fd);
	waitpid(child, NULL, 0);
	return answer;
}

static void test_ask(void **state)
{
	static const char good[] = "{\"a\":1}\n{\"b\":2}\n{\"end\":true,\"status\":0}\n";
	struct answer a;
	(void)state;
	for (size_t piece = 1; piece < sizeof good; piece += 7) {
		a = asked(good, piece);
		assert_int_equal(a.status, EX_OK);
		assert_string_equal(rows_seen, "{\"a\":1}{\"b\":2}");
		free(rows_seen);
	}
	a = asked("{\"end\":true,\"status\":64,\"error\":\"usage: x\"}\n", 100);
	assert_int_equal(a.status, EX_USAGE);
	assert_string_equal(a.error, "usage: x");
	free(rows_seen);
	a = asked("{\"a\":1}\n", 100);
	assert_int_equal(a.status, EX_TEMPFAIL);
	assert_string_equal(
	    a.error, "the service went away before its answer was complete, try again");
	free(rows_seen);
	a = asked("HTTP/1.0 200\n", 100);
	assert_int_equal(a.status, EX_SOFTWARE);
	free(rows_seen);
	ask("/nonexistent/x.sock", "{}", see_row, NULL, &a);
	assert_int_equal(a.status, EX_UNAVAILABLE);
}

/* --- showing ---------------------------------------------------------------------------------- */

static char *shown(enum shape shape, bool json, const char *const *rows, size_t n)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	struct show *s = show_new(out, shape, json, n > 1 && shape == SHAPE_OBJECT);
	for (size_t i = 0; i < n; i++) {
		json_t *row = json_loads(rows[i], 0, NULL);
		assert_non_null(row);
		show_row(s, (int)i, row);
		json_decref(row);
	}
	show_end(&s);
	fclose(out);
	return text;
}

static void must_show(
    enum shape shape, bool json, const char *const *rows, size_t n, const char *expected)
{
	char *text = shown(shape, json, rows, n);
	assert_string_equal(text, expected);
	free(text);
}

static void test_table(void **state)
{
	static const char *const rows[] = {
	    "{\"queue\":\"a.example/m\",\"recipients\":12345,\"paused\":false,\"last_error\":null}",
	    "{\"queue\":\"gr\xC3\xBC\xC3\x9F"
	    "e\",\"recipients\":1,\"paused\":true,\"last_error\":\"450 \\u001b[2J\"}"};
	(void)state;
	must_show(SHAPE_LIST, false, rows, 2,
	    "QUEUE        RECIPIENTS  PAUSED  LAST_ERROR\n"
	    "a.example/m       12345  no      -\n"
	    "gr\xC3\xBC\xC3\x9F"
	    "e                 1  yes     450 ?[2J\n");
	must_show(SHAPE_LIST, false, NULL, 0, "");
	must_show(SHAPE_LIST, true, NULL, 0, "[]\n");
	must_show(SHAPE_LIST, true, rows, 1,
	    "[\n{\"queue\":\"a.example/"
	    "m\",\"recipients\":12345,\"paused\":false,\"last_error\":null}\n]\n");
	char *text = shown(SHAPE_LIST, true, rows, 2);
	json_t *parsed = json_loads(text, 0, NULL);
	assert_int_equal(json_array_size(parsed), 2);
	json_decref(parsed);
	free(text);
}

static void test_object(void **state)
{
	static const char *const rows[] = {"{\"id\":\"12\",\"size\":3,\"cache\":{\"hits\":1},"
					   "\"recipients\":[{\"to\":\"a\",\"n\":1},"
					   "{\"to\":\"bb\",\"n\":2}],\"names\":[\"x\",\"y\"]}"};
	(void)state;
	must_show(SHAPE_OBJECT, false, rows, 1,
	    "id:         12\nsize:       3\ncache:\n  hits: 1\nrecipients:\nTO  N\na   1\nbb  "
	    "2\nnames:      x, y\n");
	must_show(SHAPE_OBJECT, true, NULL, 0, "{}\n");
	char *text = shown(SHAPE_OBJECT, true, rows, 1);
	json_t *parsed = json_loads(text, 0, NULL);
	assert_true(json_is_object(parsed));
	json_decref(parsed);
	free(text);
}

static void test_text(void **state)
{
	static const char *const rows[] = {"{\"config\":1,\"text\":\"a = 1;\\nb = 2;\\n\"}"};
	(void)state;
	must_show(SHAPE_TEXT, false, rows, 1, "a = 1;\nb = 2;\n");
}

static void test_lines(void **state)
{
	static const char *const rows[] = {"{\"error\":\"f:1: a\"}", "{\"error\":\"f:2: b\"}"};
	(void)state;
	must_show(SHAPE_LINES, false, rows, 2, "f:1: a\nf:2: b\n");
	must_show(SHAPE_LINES, false, NULL, 0, "");
	must_show(SHAPE_LINES, true, NULL, 0, "[]\n");
	assert_int_equal(show_shape("master", "reload"), SHAPE_LINES);
	assert_int_equal(show_shape("master", "status"), SHAPE_LIST);
	assert_int_equal(show_shape("qmgr", "status"), SHAPE_OBJECT);
	assert_int_equal(show_shape("qmgr", "queues"), SHAPE_LIST);
}

static void test_merge(void **state)
{
	static const char *const rows[] = {
	    "{\"connections\":1,\"pid\":10,\"uptime\":50,\"version\":\"1\",\"state\":\"a\","
	    "\"more\":{\"x\":1,\"y\":2},\"rate\":0.5}",
	    "{\"connections\":2,\"pid\":11,\"uptime\":40,\"version\":\"1\",\"state\":\"b\","
	    "\"more\":{\"x\":1,\"z\":7},\"rate\":1,\"new\":3}",
	    "{\"connections\":4,\"pid\":12,\"uptime\":60,\"version\":\"1\",\"state\":\"a\","
	    "\"more\":{\"x\":1}}"};
	(void)state;
	char *text = shown(SHAPE_OBJECT, true, rows, 3);
	json_t *got = json_loads(text, 0, NULL);
	json_t *expected = json_loads(
	    "{\"connections\":7,\"uptime\":40,\"version\":\"1\",\"more\":{\"x\":3,\"y\":2,\"z\":7},"
	    "\"rate\":1.5,\"new\":3,\"instances\":3}",
	    0, NULL);
	assert_non_null(expected);
	if (!json_equal(got, expected))
		print_error("%s", text);
	assert_true(json_equal(got, expected));
	json_decref(got);
	json_decref(expected);
	free(text);
}

static void test_long_list(void **state)
{
	enum { ROWS = 5000 };
	char *text = NULL;
	size_t size = 0, lines = 0;
	(void)state;
	FILE *out = open_memstream(&text, &size);
	struct show *s = show_new(out, SHAPE_LIST, false, true);
	for (int i = 0; i < ROWS; i++) {
		json_t *row = json_pack("{s:i}", "n", i);
		show_row(s, 1, row);
		json_decref(row);
	}
	show_end(&s);
	fclose(out);
	for (size_t i = 0; i < size; i++)
		lines += text[i] == '\n';
	assert_int_equal(lines, ROWS + 1);
	assert_memory_equal(text, "  N  INSTANCE\n", 14);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_args),
	    cmocka_unit_test_setup_teardown(test_find, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_run_directory_of_a_broken_configuration, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_ask, setup, teardown),
	    cmocka_unit_test(test_table),
	    cmocka_unit_test(test_object),
	    cmocka_unit_test(test_text),
	    cmocka_unit_test(test_lines),
	    cmocka_unit_test(test_merge),
	    cmocka_unit_test(test_long_list),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
