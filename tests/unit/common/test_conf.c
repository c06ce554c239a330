/* SPDX-License-Identifier: ISC */
/* The configuration: files in, the exact problems out; printing, merging, encoding. */
#include "tests/unit/common/conf_files.h"

static int root_fd; /* where the tests were started: the source tree */

/* --- what is refused, word for word ----------------------------------------------------------- */

static const struct {
	const char *name, *text, *errors;
} bad[] = {
    {"number wraps at 2^31", LISTEN "worker-uid-base = 2147483648;\n",
	"c:2: 2147483648: the number is out of range (-2147483648 to 2147483647)\n"},
    {"number wraps at 2^32 to a good one", LISTEN "total-max-smtp-in = 4294967297;\n",
	"c:2: 4294967297: the number is out of range (-2147483648 to 2147483647)\n"},
    {"number of twenty digits", LISTEN "total-max-smtp-in = 100000000000000000000;\n",
	"c:2: 100000000000000000000: the number is out of range (-2147483648 to 2147483647)\n"},
    {"number glued to the next name", "total-max-smtp-in=4294967297total-max-smtp-out=7\n" LISTEN,
	"c:1: 4294967297: the number is out of range (-2147483648 to 2147483647)\n"},
    {"negative number", LISTEN "total-max-smtp-in = -1;\n",
	"c:2: total-max-smtp-in: -1 is out of range: 1 to 1000000\n"},
    {"leading zero", LISTEN "total-max-smtp-in = 08;\n",
	"c:2: 08: write numbers without leading zeros\n"},
    {"hexadecimal", LISTEN "total-max-smtp-in = 0x10;\n", "c:2: 0x10: write numbers in decimal\n"},
    {"long suffix", LISTEN "total-max-smtp-in = 10L;\n", "c:2: 10: write numbers without L\n"},
    {"fraction", LISTEN "total-max-smtp-in = 1.5;\n",
	"c:2: total-max-smtp-in: expected a number, got a fraction\n"},
    {"zero", LISTEN "total-max-smtp-in = 0;\n",
	"c:2: total-max-smtp-in: 0 is out of range: 1 to 1000000\n"},
    {"numbers in strings and comments are nobody's business",
	"# 4294967297\n// 08\n/* 0x10 */ log-file = \"99999999999\"; listeners = ();\n",
	"c:0: no listeners: write listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n"},
    {"number as string", LISTEN "total-max-smtp-in = \"10\";\n",
	"c:2: total-max-smtp-in: expected a number, got a string\n"},
    {"string as number", LISTEN "host-name = 1;\n",
	"c:2: host-name: expected a string with a domain name, got a bare number\n"},
    {"array as string", LISTEN "nameservers = \"127.0.0.1\";\n",
	"c:2: nameservers: expected an array of addresses such as [ \"192.0.2.1\" ], got a "
	"string\n"},
    {"numbers in an array of strings", LISTEN "nameservers = [ 1, 2 ];\n",
	"c:2: nameservers: expected an array of addresses such as [ \"192.0.2.1\" ], got a bare "
	"number in it\n"
	"c:2: nameservers: expected an array of addresses such as [ \"192.0.2.1\" ], got a bare "
	"number in it\n"},
    {"boolean as number", LISTEN "trust-ad = 1;\n",
	"c:2: trust-ad: expected true or false, got a bare number\n"},
    {"time as number", LISTEN "domains = ( { name = \"*\"; connect-timeout = 30; } );\n",
	"c:2: connect-timeout: expected a time such as \"90s\", got a bare number\n"},
    {"time without unit", LISTEN "domains = ( { name = \"*\"; connect-timeout = \"30\"; } );\n",
	"c:2: connect-timeout: \"30\" is not a time such as \"90s\", \"10m\" or \"1h30m\"\n"},
    {"time with units out of order",
	LISTEN "domains = ( { name = \"*\"; connect-timeout = \"30s1m\"; } );\n",
	"c:2: connect-timeout: \"30s1m\" is not a time such as \"90s\", \"10m\" or \"1h30m\"\n"},
    {"time that wraps",
	LISTEN "domains = ( { name = \"*\"; bounce-after = \"99999999999999999999d\"; } );\n",
	"c:2: bounce-after: \"99999999999999999999d\" is not a time such as \"90s\", \"10m\" or "
	"\"1h30m\"\n"},
    {"never where nothing is never",
	LISTEN "domains = ( { name = \"*\"; bounce-after = \"never\"; } );\n",
	"c:2: bounce-after: \"never\" is not a time such as \"90s\", \"10m\" or \"1h30m\"\n"},
    {"time out of range", LISTEN "domains = ( { name = \"*\"; connect-timeout = \"2h\"; } );\n",
	"c:2: connect-timeout: 2h is out of range: 100ms to 1h\n"},
    {"list of times with a hole",
	LISTEN "domains = ( { name = \"*\"; retry-after = \"1m,,2m\"; } );\n",
	"c:2: retry-after: \"\" is not a time such as \"90s\", \"10m\" or \"1h30m\"\n"},
    {"list of times that ends in a comma",
	LISTEN "domains = ( { name = \"*\"; retry-after = \"1m,\"; } );\n",
	"c:2: retry-after: \"1m,\" is not a list of times: it ends in a comma\n"},
    {"size without quotes", LISTEN "max-message-size = 1048576;\n",
	"c:2: max-message-size: expected a size such as \"10M\", got a bare number\n"},
    {"size with a fraction", LISTEN "max-message-size = \"1.5M\";\n",
	"c:2: max-message-size: \"1.5M\" is not a size such as \"10M\"\n"},
    {"size that wraps", LISTEN "spool-min-free-space = \"9223372036854775807T\";\n",
	"c:2: spool-min-free-space: \"9223372036854775807T\" is not a size such as \"10M\"\n"},
    {"size out of range", LISTEN "max-message-size = \"2G\";\n",
	"c:2: max-message-size: 2G is out of range: 1K to 1G\n"},
    {"auto written as zero", LISTEN "smtpd-processes = 0;\n",
	"c:2: smtpd-processes: 0 is out of range: 1 to 64\n"},
    {"word that is none of the choices",
	LISTEN "accounting = ( { file = \"a\"; format = \"xml\"; } );\n",
	"c:2: format: \"xml\" is not one of csv|json\n"},
    {"relative path", LISTEN "spool-directory = \"spool\";\n",
	"c:2: spool-directory: \"spool\" is not an absolute path\n"},
    {"directory in a file name", LISTEN "log-file = \"../x\";\n",
	"c:2: log-file: \"../x\" is not a file name without directory or leading dot\n"},
    {"network", "listeners = ( { relay-from = [ \"10.0.0.0/33\" ]; } );\n",
	"c:1: relay-from: \"10.0.0.0/33\" is not a network such as \"192.0.2.0/24\" or \"::1\"\n"},
    {"address", "listeners = ( { address = \"localhost\"; } );\n",
	"c:1: address: \"localhost\" is not an IP address\n"},
    {"second spelling of an address", "listeners = ( { address = \"::ffff:127.0.0.1\"; } );\n",
	"c:1: address: \"::ffff:127.0.0.1\" is not an IP address\n"},
    {"name server with a bad port",
	LISTEN "nameservers = [ \"127.0.0.1@65536\", \"127.0.0.1@\", \"127.0.0.1@0\" ];\n",
	"c:2: nameservers: \"127.0.0.1@65536\" is not an address or address@port\n"
	"c:2: nameservers: \"127.0.0.1@\" is not an address or address@port\n"
	"c:2: nameservers: \"127.0.0.1@0\" is not an address or address@port\n"},
    {"star inside a name", LISTEN "domains = ( { name = \"*.example\"; } );\n",
	"c:2: name: \"*.example\" is not a domain name, or \"*\" alone\n"},
    {"star where only a domain may stand", LISTEN "host-name = \"*\";\n",
	"c:2: host-name: \"*\" is not a domain name\n"},
    {"name of a virtual MTA", LISTEN "virtual-mtas = ( { name = \"a/b\"; } );\n",
	"c:2: name: \"a/b\" is not a name (letters, digits, dot, underscore, hyphen; at most "
	"100)\n"},
    {"control character", LISTEN "log-file = \"a\\nb\";\n",
	"c:2: log-file: \"(unprintable)\" is not a printable string of at most 4096 bytes\n"},
    {"unknown with a near name", LISTEN "max-mesage-size = \"1M\";\n",
	"c:2: max-mesage-size: unknown option; did you mean max-message-size?\n"},
    {"unknown with a near list", "listener = ();\n" LISTEN,
	"c:1: listener: unknown option; did you mean listeners?\n"},
    {"unknown here", LISTEN "bounce-after = \"1d\";\n",
	"c:2: bounce-after: unknown option here; it belongs into providers or domains\n"},
    {"unknown everywhere", LISTEN "qwertzuiop = 1;\n", "c:2: qwertzuiop: unknown option\n"},
    {"unknown in a group", "listeners = (\n { adress = \"::1\"; }\n);\n",
	"c:2: adress: unknown option; did you mean address?\n"},
    {"twice in one group", LISTEN "trust-ad = true;\ntrust-ad = false;\nqwertzuiop = 1;\n",
	"c:3: duplicate setting name; the rest of this file was not read\n"},
    {"name twice in one file",
	LISTEN "virtual-mtas = ( { name = \"a\"; },\n { name = \"a\"; } );\n",
	"c:3: a: this name stands twice, the first time in line 2\n"},
    {"name twice in other letters",
	LISTEN "domains = ( { name = \"A.example\"; },\n { name = \"a.Example\"; } );\n",
	"c:3: a.example: this name stands twice, the first time in line 2\n"},
    {"strings side by side", "listeners = ( { relay-from = [ \"10.0.0.1\"\n \"10.0.0.2\" ]; } );\n",
	"c:2: two strings side by side: a comma is missing between them\n"},
    {"strings side by side with a comment between", "log-file = \"a\" /* \" */ # \"\n \"b\";\n",
	"c:2: two strings side by side: a comma is missing between them\n"},
    {"trailing comma", "listeners = ( { relay-from = [ \"10.0.0.1\", ]; } );\n",
	"c:1: syntax error; the rest of this file was not read\n"},
    {"yes", LISTEN "trust-ad = yes;\n", "c:2: syntax error; the rest of this file was not read\n"},
    {"open string", LISTEN "log-file = \"a;\ntrust-ad = true;\n",
	"c:2: a string is not closed on its line\n"},
    {"open comment", LISTEN "/* trust-ad = true;\n",
	"c:2: a comment that begins here is never closed\n"},
    {"byte order mark", "\xEF\xBB\xBF" LISTEN,
	"c:1: the file begins with a byte order mark: save it without one\n"},
    {"NUL by escape", LISTEN "log-file = \"a\\x00b\";\n", "c:2: a string contains a NUL\n"},
    {"libconfig's own include", "@include \"/etc/passwd\"\n",
	"c:1: @include is not supported: write include = [ \"FILE\" ];\n"},
    {"too many brackets",
	"a = ((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))))));\n",
	"c:1: brackets are nested too deeply\n"},
    {"group instead of list", "listeners = { port = 25; };\n",
	"c:0: no listeners: write listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n"
	"c:1: listeners: expected a list listeners = ( { ... } ), got a group { }\n"},
    {"no group in the list", "listeners = ( 25 );\n",
	"c:0: no listeners: write listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n"
	"c:1: listeners: expected a group { } in the list, got a bare number\n"},
    {"list where no list is", LISTEN "domains = ( { name = \"*\"; domains = (); } );\n",
	"c:2: domains: unknown option\n"},
    {"required options",
	LISTEN "virtual-mtas = ( { sources = (\n { } ); } );\n"
	       "domains = ( { } );\naccounting = ( { } );\n",
	"c:2: name: this option is required here\nc:3: address: this option is required here\n"
	"c:4: name: this option is required here\nc:5: file: this option is required here\n"},
    {"references",
	"default-virtual-mta = \"x\";\nlisteners = ( { virtual-mta = \"y\"; } );\nvirtual-mtas = ( "
	"{ name = \"z\"; } );\n",
	"c:1: default-virtual-mta: no virtual MTA or pool is named \"x\"\nc:2: virtual-mta: no "
	"virtual MTA or pool "
	"is named \"y\"\n"},
    {"entries that must differ",
	"listeners = ( { }, { port = 26; },\n { address = \"127.0.0.1\"; } );\n"
	"virtual-mtas = ( { name = \"a\"; sources = ( { address = \"::1\"; }, { address = "
	"\"0::1\"; } ); } );\n"
	"accounting = ( { file = \"a\"; }, { file = \"a\"; } );\n",
	"c:2: this address and port stands twice, the first time in line 1\n"
	"c:3: this source address stands twice, the first time in line 3\n"
	"c:4: this file stands twice, the first time in line 4\n"},
    {"half of TLS",
	"listeners = ( { tls-key = \"/k\"; }, { port = 26; tls-certificate = \"/c\"; } );\n",
	"c:1: tls-key: tls-certificate is missing beside it\nc:1: tls-certificate: tls-key is "
	"missing beside it\n"},
    {"records", LISTEN "accounting = ( { file = \"a\"; records = [ \"d\", \"x\", \"d\" ]; } );\n",
	"c:2: records: \"x\" is not one of d, b, t, tq, r, rb, f\nc:2: records: \"d\" stands "
	"twice\n"},
    {"run-directory too long for sockets",
	LISTEN "run-directory = "
	       "\"/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789/"
	       "0123456789/xy\";\n",
	"c:2: run-directory: the path is too long for names of sockets in it (90 bytes)\n"},
    {"all of it at once", "prot = 1;\ntrust-ad = \"x\";\nhost-name = \"-\";\n",
	"c:0: no listeners: write listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n"
	"c:1: prot: unknown option\n"
	"c:2: trust-ad: expected true or false, got a string\n"
	"c:3: host-name: \"-\" is not a domain name\n"},
};

static void test_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		struct buf errors;
		put("c", bad[i].text);
		struct conf *c = load("c", &errors);
		if (c != NULL || strcmp((const char *)errors.p, bad[i].errors) != 0)
			print_error("in: %s\ngot:\n%s", bad[i].name, (const char *)errors.p);
		assert_string_equal((const char *)errors.p, bad[i].errors);
		assert_null(c);
		buf_fini(&errors);
	}
}

static void test_nul_byte(void **state)
{
	static const char text[] = LISTEN "log-file = \"a\0b\";\ntrust-ad = true;\n";
	(void)state;
	put_bytes("c", text, sizeof text - 1);
	load_bad("c", "c:2: a string contains a NUL\n");
}

static void test_nul_between(void **state)
{
	static const char text[] = LISTEN "\0trust-ad = 7;\n";
	(void)state;
	put_bytes("c", text, sizeof text - 1);
	load_bad("c", "c:2: the file contains a NUL byte\n");
}

/* --- what is read ----------------------------------------------------------------------------- */

static void test_values(void **state)
{
	(void)state;
	put("c",
	    "host-name = \"Out.Example.COM\"; log-file = \"a\\\"b\\\\c\"; max-message-size = "
	    "\"10M\";\n"
	    "smtpd-processes = 3; nameservers = ( \"127.0.0.1@53\", \"0:0::1\" )\n"
	    "listeners = ( { address = \"::1\"; port = 2525; process-x-virtual-mta = TRUE; } );\r\n"
	    "domains = ( { name = \"B\xC3\xBC"
	    "cher.example\"; retry-after = \"1m, 1h30m,1d2h3m4s5ms\"; connection-idle-timeout = "
	    "\"0\" },\n"
	    "{ name = \"*\"; notify-of-delay-every = \"4h\" } );\n"
	    "accounting = ( { file = \"a\"; format = \"json\"; records = []; } ) # no newline");
	struct conf *c = load_good("c");
	assert_string_equal(conf_text(c->root, CO_GLOBAL_host_name), "out.example.com");
	assert_string_equal(conf_text(c->root, CO_GLOBAL_log_file), "a\"b\\c");
	assert_int_equal(conf_num(c->root, CO_GLOBAL_max_message_size), 10 << 20);
	assert_int_equal(conf_num(c->root, CO_GLOBAL_smtpd_processes), 3);
	assert_int_equal(conf_num(c->root, CO_GLOBAL_smtp_out_processes), 0);
	const struct conf_value *v = conf_get(c->root, CO_GLOBAL_nameservers);
	assert_int_equal(v->count, 2);
	assert_string_equal(v->texts[0], "127.0.0.1@53");
	assert_string_equal(v->texts[1], "::1");
	const struct conf_node *n = conf_next(c->root, CONF_LISTENER, NULL);
	assert_string_equal(conf_text(n, CO_LISTENER_address), "::1");
	assert_int_equal(conf_num(n, CO_LISTENER_port), 2525);
	assert_int_equal(conf_num(n, CO_LISTENER_process_x_virtual_mta), 1);
	assert_int_equal(conf_num(n, CO_LISTENER_command_timeout), 300000);
	assert_null(conf_next(c->root, CONF_LISTENER, n));
	n = conf_find(c->root, CONF_DOMAIN, CO_DOMAIN_name, "xn--bcher-kva.example");
	assert_non_null(n);
	v = conf_get(n, CO_DOMAIN_retry_after);
	assert_int_equal(v->count, 3);
	assert_int_equal(v->nums[0], 60000);
	assert_int_equal(v->nums[1], 5400000);
	assert_int_equal(v->nums[2], INT64_C(93784005));
	assert_int_equal(conf_num(n, CO_DOMAIN_connection_idle_timeout), 0);
	assert_int_equal(conf_num(n, CO_DOMAIN_notify_of_delay_every), -1);
	assert_false(conf_get(n, CO_DOMAIN_notify_of_delay_every)->set);
	n = conf_find(c->root, CONF_DOMAIN, CO_DOMAIN_name, "*");
	assert_int_equal(conf_num(n, CO_DOMAIN_notify_of_delay_every), 14400000);
	n = conf_next(c->root, CONF_ACCOUNTING, NULL);
	assert_int_equal(conf_num(n, CO_ACCOUNTING_format), 1);
	assert_int_equal(conf_get(n, CO_ACCOUNTING_records)->count, 0);
	conf_free(&c);
}

static void test_defaults_of_every_option(void **state)
{
	(void)state;
	for (int i = 0; i < CONF_OPT_COUNT; i++) {
		struct conf_value v;
		char why[200];
		if (conf_opt_default((enum conf_opt)i)[0] == 0)
			continue;
		assert_int_equal(conf_parse_value((enum conf_opt)i,
				     str_of(conf_opt_default((enum conf_opt)i)), &v, why),
		    0);
		conf_value_fini(&v);
	}
}

static void test_origin(void **state)
{
	char origin[512];
	(void)state;
	put("c", "\n" LISTEN "\ntrust-ad = true;\n");
	struct conf *c = load_good("c");
	conf_origin(c, conf_get(c->root, CO_GLOBAL_trust_ad), origin);
	assert_string_equal(origin, "c:4");
	conf_origin(c, conf_get(c->root, CO_GLOBAL_host_name), origin);
	assert_string_equal(origin, "default");
	assert_int_equal(conf_next(c->root, CONF_LISTENER, NULL)->line, 2);
	conf_free(&c);
}

/* --- includes --------------------------------------------------------------------------------- */

static void test_includes_merge(void **state)
{
	char origin[512];
	(void)state;
	assert_int_equal(mkdir("sub", 0755), 0);
	put("c", "include = [ \"sub/*.conf\", \"last\" ];\n" LISTEN
		 "trust-ad = true; log-file = \"a\";\n"
		 "virtual-mtas = ( { name = \"m\"; sources = ( { address = \"192.0.2.1\"; } );\n"
		 "  domains = ( { name = \"*\"; max-smtp-out = 1; max-msg-per-connection = 1; } ); "
		 "} );\n");
	put("sub/b.conf", "log-file = \"c\";\n");
	put("sub/a.conf", "log-file = \"b\"; include = [ \"deep\" ];\n");
	put("sub/deep", "listeners = ( { port = 26; relay-from = []; } );\n");
	put("sub/.hidden.conf", "nonsense\n");
	put("sub/backup.conf~", "nonsense\n");
	put("last", "virtual-mtas = ( { name = \"m\"; sources = ( { address = \"192.0.2.2\"; } );\n"
		    "  domains = ( { name = \"*\"; max-smtp-out = 2; }, { name = \"x.example\"; } "
		    "); }, { name = \"n\"; } );\n");
	struct conf *c = load_good("c");
	assert_int_equal(c->file_count, 5);
	assert_string_equal(conf_text(c->root, CO_GLOBAL_log_file), "c");
	assert_int_equal(conf_num(c->root, CO_GLOBAL_trust_ad), 1);
	conf_origin(c, conf_get(c->root, CO_GLOBAL_log_file), origin);
	assert_string_equal(origin, "sub/b.conf:1");
	assert_non_null(conf_next(c->root, CONF_LISTENER, conf_next(c->root, CONF_LISTENER, NULL)));
	const struct conf_node *m = conf_find(c->root, CONF_VMTA, CO_VMTA_name, "m");
	assert_ptr_equal(m, conf_next(c->root, CONF_VMTA, NULL));
	const struct conf_node *source = conf_next(m, CONF_SOURCE, NULL);
	assert_string_equal(conf_text(source, CO_SOURCE_address), "192.0.2.1");
	source = conf_next(m, CONF_SOURCE, source);
	assert_string_equal(conf_text(source, CO_SOURCE_address), "192.0.2.2");
	assert_null(conf_next(m, CONF_SOURCE, source));
	const struct conf_node *any = conf_find(m, CONF_DOMAIN, CO_DOMAIN_name, "*");
	assert_int_equal(conf_num(any, CO_DOMAIN_max_smtp_out), 2);
	conf_origin(c, conf_get(any, CO_DOMAIN_max_smtp_out), origin);
	assert_string_equal(origin, "last:2");
	assert_int_equal(conf_num(any, CO_DOMAIN_max_msg_per_connection), 1);
	assert_non_null(conf_find(m, CONF_DOMAIN, CO_DOMAIN_name, "x.example"));
	assert_non_null(conf_find(c->root, CONF_VMTA, CO_VMTA_name, "n"));
	conf_free(&c);
}

static void test_include_problems(void **state)
{
	char longest[32];
	(void)state;
	put("c", LISTEN "include = [ \"c\" ];\n");
	load_bad("c", "c:2: include: c: includes itself\n");
	put("c", LISTEN "include = [ \"d\" ];\n");
	put("d", "include = [ \"e\" ];\n");
	put("e", "include = [ \"./c\" ];\n");
	load_bad("c", "e:1: include: ./c: includes itself\n");
	put("c", LISTEN "include = [ \"f\",\n \"f\" ];\n");
	put("f", "");
	load_bad("c", "c:3: include: f: is included twice\n");
	put("c", LISTEN "include = [ \"nothing\", \"nothing*\", \"*/x\", \".\" ];\n");
	load_bad("c", "c:2: include: nothing: No such file or directory\n"
		      "c:2: include: */x: wildcards may stand in the last part only\n"
		      "c:2: include: .: is not a regular file\n");
	assert_int_equal(mkfifo("fifo", 0600), 0);
	put("c", LISTEN "include = [ \"fi*o\" ];\n");
	load_bad("c", "c:2: include: ./fifo: is not a regular file\n");
	/* A chain: c is level 0, n1 … n11 follow. */
	put("c", LISTEN "include = [ \"n1\" ];\n");
	for (int i = 1; i < 12; i++) {
		char text[64];
		snprintf(longest, sizeof longest, "n%d", i);
		snprintf(text, sizeof text, "include = [ \"n%d\" ];\n", i + 1);
		put(longest, text);
	}
	load_bad("c", "n10:1: include: n11: included too deeply\n");
}

static void test_syntax_error_ends_its_file_only(void **state)
{
	(void)state;
	put("c", "include = [ \"d\", \"e\" ];\nhots-name = \"a\";\n");
	put("d", "trust-ad = ;\nqwertzuiop = 1;\n");
	put("e", "log-fil = \"a\";\n");
	load_bad("c", "c:2: hots-name: unknown option; did you mean host-name?\n"
		      "d:1: syntax error; the rest of this file was not read\n"
		      "e:1: log-fil: unknown option; did you mean log-file?\n");
}

static void test_before_a_syntax_error(void **state)
{
	struct buf errors;
	(void)state;
	put("c", "run-directory = \"/r\";\nhots-name = \"a\";\nlisteners = ( { port = 1; adress = "
		 "\"x\"; }, { port = ; } );\n");
	load_bad("c", "c:2: hots-name: unknown option; did you mean host-name?\n"
		      "c:3: syntax error; the rest of this file was not read\n"
		      "c:3: adress: unknown option; did you mean address?\n");
	buf_init(&errors, TEXT_MAX_BYTES);
	struct conf *c = conf_load_anyway("c", &errors);
	assert_string_equal(conf_text(c->root, CO_GLOBAL_run_directory), "/r");
	assert_true(errors.n > 0);
	buf_fini(&errors);
	conf_free(&c);
}

static void test_files_refused(void **state)
{
	(void)state;
	load_bad("missing", "missing:0: No such file or directory\n");
	load_bad("/", "/:0: is not a regular file\n");
	put("c", LISTEN);
	assert_int_equal(truncate("c", 17 << 20), 0);
	load_bad("c", "c:0: is too large (16M)\n");
	if (geteuid() != 0)
		return;
	put("c", LISTEN);
	assert_int_equal(chmod("c", 0660), 0);
	load_bad(
	    "c", "c:0: is writable by group or others, who could then act as root: chmod go-w\n");
}

/* --- printing, encoding ----------------------------------------------------------------------- */

static const char rich[] =
    "host-name = \"o.example\"; nameservers = [ \"127.0.0.1\", \"::1@5353\" ]; default-virtual-mta "
    "= \"m1\";\n"
    "spool-max-recipients = 1000; index-map-size = \"1025K\"; log-file = \"a\\\\\\\"b\"; trust-ad "
    "= true;\n"
    "listeners = ( { port = 25; relay-from = [ \"10.0.0.0/8\", \"::/0\" ]; command-timeout = "
    "\"1h1m1s\"; },\n"
    "  { port = 26; virtual-mta = \"m2\"; tls-certificate = \"/c\"; tls-key = \"/secret-key\"; } "
    ");\n"
    "virtual-mtas = ( { name = \"m1\"; sources = ( { address = \"192.0.2.1\"; host-name = "
    "\"a.example\"; } );\n"
    "  domains = ( { name = \"*\"; max-smtp-out = 3; } ); }, { name = \"m2\"; } );\n"
    "domains = ( { name = \"*\"; retry-after = \"1m,1h30m\"; }, { name = \"b.example\"; "
    "use-starttls = false; } );\n"
    "accounting = ( { file = \"a\"; format = \"json\"; records = [ \"d\" ]; } );\n";

static void put_rich(void)
{
	put("c", rich);
}

static void test_print_is_a_fixed_point(void **state)
{
	(void)state;
	put_rich();
	struct conf *c = load_good("c");
	char *first = printed(c);
	put("d", first);
	struct conf *again = load_good("d");
	char *second = printed(again);
	assert_string_equal(first, second);
	/* With the machine's defaults too. */
	conf_fill_defaults(again);
	free(second);
	second = printed(again);
	put("e", second);
	conf_free(&c);
	c = load_good("e");
	free(first);
	first = printed(c);
	assert_string_equal(first, second);
	free(first);
	free(second);
	conf_free(&c);
	conf_free(&again);
}

static struct conf *through(const struct conf *c, unsigned consumers, struct buf *bytes)
{
	buf_init(bytes, CONF_ENCODED_MAX);
	conf_encode(c, consumers, bytes);
	assert_false(bytes->failed);
	return conf_decode((struct str){(const char *)bytes->p, bytes->n});
}

static bool has(const struct buf *b, const char *text)
{
	return memmem(b->p, b->n, text, strlen(text)) != NULL;
}

static void test_encode_filters(void **state)
{
	struct buf b;
	char origin[512];
	(void)state;
	put_rich();
	struct conf *c = load_good("c");
	/* resolver: name servers and where we listen, but no keys, clients, virtual MTAs */
	struct conf *d = through(c, 1u << PROC_resolver, &b);
	assert_non_null(d);
	assert_int_equal(conf_get(d->root, CO_GLOBAL_nameservers)->count, 2);
	assert_null(conf_next(d->root, CONF_VMTA, NULL));
	assert_int_equal(
	    conf_get(conf_next(d->root, CONF_LISTENER, NULL), CO_LISTENER_relay_from)->count, 0);
	assert_int_equal(d->file_count, 0);
	assert_false(has(&b, "secret-key") || has(&b, "m1") || has(&b, "10.0.0.0"));
	conf_origin(d, conf_get(d->root, CO_GLOBAL_nameservers), origin);
	assert_string_equal(origin, "configuration:1");
	buf_fini(&b);
	conf_free(&d);
	/* smtpd: both listeners in their places, names of virtual MTAs, no sources, no domains */
	d = through(c, 1u << PROC_smtpd, &b);
	assert_non_null(d);
	const struct conf_node *n = conf_next(d->root, CONF_LISTENER, NULL);
	assert_int_equal(conf_num(n, CO_LISTENER_command_timeout), 3661000);
	n = conf_next(d->root, CONF_LISTENER, n);
	assert_string_equal(conf_text(n, CO_LISTENER_virtual_mta), "m2");
	n = conf_find(d->root, CONF_VMTA, CO_VMTA_name, "m1");
	assert_non_null(n);
	assert_int_equal(n->child_count, 0);
	assert_null(conf_next(d->root, CONF_DOMAIN, NULL));
	assert_false(has(&b, "secret-key") || has(&b, "192.0.2.1") || has(&b, "b.example"));
	buf_fini(&b);
	conf_free(&d);
	/* qmgr: domains at both places, with origins */
	d = through(c, 1u << PROC_qmgr, &b);
	assert_non_null(d);
	n = conf_find(
	    conf_find(d->root, CONF_VMTA, CO_VMTA_name, "m1"), CONF_DOMAIN, CO_DOMAIN_name, "*");
	assert_int_equal(conf_num(n, CO_DOMAIN_max_smtp_out), 3);
	conf_origin(d, conf_get(n, CO_DOMAIN_max_smtp_out), origin);
	assert_string_equal(origin, "c:6");
	n = conf_find(d->root, CONF_DOMAIN, CO_DOMAIN_name, "*");
	assert_int_equal(conf_get(n, CO_DOMAIN_retry_after)->nums[1], 5400000);
	assert_false(has(&b, "secret-key") || has(&b, "10.0.0.0"));
	buf_fini(&b);
	conf_free(&d);
	conf_free(&c);
}

static void test_clone(void **state)
{
	(void)state;
	put_rich();
	struct conf *c = load_good("c"), *copy = conf_clone(c);
	char *a = printed(c), *b = printed(copy);
	assert_string_equal(a, b);
	assert_int_equal(copy->file_count, c->file_count);
	free(a);
	free(b);
	conf_free(&c);
	conf_free(&copy);
}

/* Every prefix is refused, and every single changed byte is refused or decodes to some tree: the
 * sanitizers watch. */
static void test_decode_malformed(void **state)
{
	struct buf b;
	(void)state;
	put_rich();
	struct conf *c = load_good("c"), *d = through(c, ~0u, &b);
	assert_non_null(d);
	conf_free(&d);
	for (size_t i = 0; i < b.n; i++) {
		unsigned char *cut = malloc(i + 1);
		memcpy(cut, b.p, i);
		assert_null(conf_decode((struct str){(const char *)cut, i}));
		free(cut);
	}
	buf_u8(&b, 0);
	assert_null(conf_decode((struct str){(const char *)b.p, b.n}));
	b.n--;
	for (size_t i = 0; i < b.n; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			b.p[i] = (unsigned char)(b.p[i] ^ 1u << bit);
			d = conf_decode((struct str){(const char *)b.p, b.n});
			conf_free(&d);
			b.p[i] = (unsigned char)(b.p[i] ^ 1u << bit);
		}
	buf_fini(&b);
	conf_free(&c);
}

static void test_fill_defaults(void **state)
{
	(void)state;
	put("c", LISTEN);
	struct conf *c = load_good("c");
	conf_fill_defaults(c);
	assert_true(conf_text(c->root, CO_GLOBAL_host_name)[0] != 0);
	assert_true(conf_get(c->root, CO_GLOBAL_nameservers)->count > 0);
	assert_string_equal(conf_text(c->root, CO_GLOBAL_default_virtual_mta), "default");
	assert_non_null(conf_find(c->root, CONF_VMTA, CO_VMTA_name, "default"));
	conf_free(&c);
	put("c", LISTEN "host-name = \"h.example\"; virtual-mtas = ( { name = \"b\"; }, { name = "
			"\"a\"; } );\n");
	c = load_good("c");
	conf_fill_defaults(c);
	conf_fill_defaults(c); /* harmless twice */
	assert_string_equal(conf_text(c->root, CO_GLOBAL_host_name), "h.example");
	assert_string_equal(conf_text(c->root, CO_GLOBAL_default_virtual_mta), "b");
	assert_null(conf_find(c->root, CONF_VMTA, CO_VMTA_name, "default"));
	conf_free(&c);
}

static void test_hints(void **state)
{
	struct buf b;
	(void)state;
	put("c", "listeners = ( { } ); total-max-smtp-out = 5; total-max-smtp-in = 5;\n"
		 "domains = ( { name = \"x.example\"; max-smtp-out = 6; } );\n"
		 "virtual-mtas = ( { name = \"a\";\n domains = ( { name = \"*\"; max-smtp-out = 1; "
		 "} ); } );\n");
	struct conf *c = load_good("c");
	buf_init(&b, 65536);
	conf_hints(c, &b);
	buf_put(&b, "", 1);
	assert_string_equal((const char *)b.p,
	    "c:1: this listener has no relay-from: it refuses every client\n"
	    "c:2: max-smtp-out 6 is more than total-max-smtp-out 5\n"
	    "c:4: max-smtp-out does not hold for x.example: c:2 is more specific\n");
	buf_fini(&b);
	conf_free(&c);
}

/* The example that is installed, as it is and with everything in it switched on. */
static void test_shipped_example(void **state)
{
	static char text[65536];
	(void)state;
	int fd = openat(root_fd, "conf/postern.conf", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0); /* run from the root of the source tree */
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	assert_in_range(n, 100, sizeof text - 2);
	text[n] = 0;
	put("c", text);
	struct conf *c = load_good("c");
	assert_null(conf_next(c->root, CONF_VMTA, NULL));
	conf_free(&c);
	/* "# " begins a sentence, "#" alone something to switch on. */
	for (char *p = text; *p != 0; p++)
		if (p[0] == '#' && p[1] != ' ' && (p == text || p[-1] == '\n'))
			p[0] = ' ';
	put("c", text);
	c = load_good("c");
	const struct conf_node *vmta = conf_find(c->root, CONF_VMTA, CO_VMTA_name, "mta2");
	assert_non_null(vmta);
	assert_non_null(conf_find(vmta, CONF_DOMAIN, CO_DOMAIN_name, "*"));
	conf_free(&c);
}

static void test_many_domains(void **state)
{
	enum { DOMAINS = 20000 };
	struct buf b;
	(void)state;
	buf_init(&b, 8 << 20);
	buf_cstr(&b, LISTEN "domains = (\n");
	for (int i = 0; i < DOMAINS; i++)
		buf_printf(&b, "{ name = \"d%d.example\"; max-smtp-out = 3; }%s\n", i,
		    i + 1 < DOMAINS ? "," : "");
	buf_cstr(&b, ");\n");
	put_bytes("c", (const char *)b.p, b.n);
	buf_fini(&b);
	struct conf *c = load_good("c");
	size_t n = 0;
	for (const struct conf_node *d = NULL; (d = conf_next(c->root, CONF_DOMAIN, d)) != NULL;)
		n++;
	assert_int_equal(n, DOMAINS);
	struct conf *copy = conf_clone(c);
	conf_free(&copy);
	conf_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_bad, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_nul_byte, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_nul_between, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_values, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_defaults_of_every_option, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_origin, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_includes_merge, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_include_problems, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_syntax_error_ends_its_file_only, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_before_a_syntax_error, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_files_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_print_is_a_fixed_point, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_encode_filters, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_clone, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_decode_malformed, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_fill_defaults, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_hints, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_shipped_example, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_many_domains, setup, teardown),
	};
	root_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
