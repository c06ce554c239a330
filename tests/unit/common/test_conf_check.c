/* SPDX-License-Identifier: ISC */
/* Checks of a whole configuration, word for word; groups and rules merged over files; hints. */
#include "tests/unit/common/conf_files.h"

#define TWO "virtual-mtas = ( { name = \"a\"; }, { name = \"b\"; } );\n"
#define LIST(rule) "smtp-pattern-lists = ( { name = \"l\"; rules = ( { " rule " } ); } );\n"
#define GOOGLE "providers = ( { name = \"google\"; mx = [ \"*.google.com\" ]; } );\n"

static const struct {
	const char *text, *errors; /* errors: "" is none */
} checks[] = {
    /* names of virtual MTAs and pools */
    {TWO "virtual-mta-pools = ( { name = \"a\"; members = ( { virtual-mta = \"b\"; } ); } );\n",
	"c:3: name: \"a\" is a virtual MTA, too (c:2); pools and virtual MTAs share one name "
	"space\n"},
    {TWO "virtual-mta-pools = ( { name = \"p\"; } );\n",
	"c:3: members: a pool needs at least one\n"},
    {TWO "virtual-mta-pools = ( { name = \"p\"; members = ( { virtual-mta = \"x\"; },\n { "
	 "virtual-mta = \"p\"; },\n { virtual-mta = \"a\"; },\n { virtual-mta = \"a\"; },\n { } ); "
	 "} "
	 ");\n",
	"c:3: virtual-mta: no virtual MTA is named \"x\"\n"
	"c:4: virtual-mta: \"p\" is a pool; members are virtual MTAs\n"
	"c:6: virtual-mta: \"a\" is a member already\n"
	"c:7: virtual-mta: this option is required here\n"},
    {TWO "virtual-mta-pools = (\n { name = \"p\"; members = ( { virtual-mta = \"a\"; } ); domains "
	 "= ( "
	 "{ name = \"*\"; } ); },\n"
	 " { name = \"q\"; members = ( { virtual-mta = \"a\"; } ); providers = ( { name = "
	 "\"google\"; } "
	 "); },\n { name = \"r\"; members = ( { virtual-mta = \"a\"; } ); } );\n" GOOGLE,
	"c:4: virtual-mta: \"a\" is in pool \"q\" (c:5) as well, and both have settings for "
	"domains or "
	"providers: which ones hold?\n"},
    {TWO "virtual-mta-pools = ( { name = \"p\"; members = ( { virtual-mta = \"a\"; } ); } );\n"
	 "default-virtual-mta = \"p\";\n",
	""},
    {TWO "domains = ( { name = \"*\"; reroute-to-virtual-mta = \"x\";\n "
	 "backoff-reroute-to-virtual-mta = \"y\"; },\n { name = \"d.example\"; "
	 "backoff-reroute-to-vmta "
	 "= \"z\"; } );\n",
	"c:3: reroute-to-virtual-mta: no virtual MTA or pool is named \"x\"\n"
	"c:4: backoff-reroute-to-virtual-mta: no virtual MTA or pool is named \"y\"\n"
	"c:5: backoff-reroute-to-vmta: no virtual MTA or pool is named \"z\"\n"},
    {TWO "domains = ( { name = \"*\"; backoff-reroute-to-virtual-mta = \"a\";\n "
	 "backoff-reroute-to-vmta = \"a\"; } );\n",
	"c:4: backoff-reroute-to-vmta: backoff-reroute-to-virtual-mta stands beside it, which is "
	"the "
	"same option\n"},
    {"virtual-mtas = ( { name = \"a\"; sources = ( { address = \"127.0.0.1\"; warmup = { plan = "
     "\"5\";\n overflow = \"x\"; }; },\n { address = \"127.0.0.2\"; warmup = {\n plan = \"5\"; "
     "overflow "
     "= \"a\"; }; },\n { address = \"127.0.0.3\"; warmup = { }; } ); } );\n",
	"c:3: overflow: no virtual MTA or pool is named \"x\"\n"
	"c:5: overflow: \"a\" leads to this virtual MTA itself\n"
	"c:6: plan: this option is required here\n"},
    /* reroutes */
    {"virtual-mtas = ( { name = \"a\"; domains = ( { name = \"*\"; reroute-to-virtual-mta = \"b\"; "
     "} ); "
     "},\n { name = \"b\"; domains = ( { name = \"*\"; reroute-to-virtual-mta = \"a\"; } ); } );\n",
	"c:2: reroute-to-virtual-mta: the mail of virtual MTA \"a\" for any destination comes back "
	"to "
	"it by way of \"b\"\n"
	"c:3: reroute-to-virtual-mta: the mail of virtual MTA \"b\" for any destination comes back "
	"to "
	"it by way of \"a\"\n"},
    /* the same, but a more specific setting leads out */
    {"virtual-mtas = ( { name = \"a\"; domains = ( { name = \"x.example\"; reroute-to-virtual-mta "
     "= "
     "\"b\"; } ); },\n { name = \"b\"; domains = ( { name = \"*\"; reroute-to-virtual-mta = \"a\"; "
     "}, { "
     "name = \"x.example\"; reroute-to-virtual-mta = \"c\"; } ); }, { name = \"c\"; } );\n",
	""},
    {"virtual-mtas = ( { name = \"a\"; domains = ( { name = \"x.example\"; reroute-to-virtual-mta "
     "= "
     "\"p\"; } ); },\n { name = \"b\"; } );\n"
     "virtual-mta-pools = ( { name = \"p\"; members = ( { virtual-mta = \"b\"; } ); domains = ( { "
     "name "
     "= \"*\"; reroute-to-virtual-mta = \"a\"; } ); } );\n",
	"c:2: reroute-to-virtual-mta: the mail of virtual MTA \"a\" for x.example comes back to it "
	"by "
	"way of \"p\"\n"
	"c:4: reroute-to-virtual-mta: the mail of virtual MTA \"b\" for x.example comes back to it "
	"by "
	"way of \"a\"\n"},
    {"virtual-mtas = ( { name = \"a\"; domains = ( { name = \"*\"; reroute-to-virtual-mta = \"a\"; "
     "} ); "
     "} );\n",
	"c:2: reroute-to-virtual-mta: \"a\" leads to this virtual MTA itself\n"},
    {TWO "domains = ( { name = \"*\"; reroute-to-virtual-mta = \"a\"; } );\n", ""},
    /* providers */
    {"providers = ( { name = \"p\"; max-smtp-out = 1; } );\n",
	"c:2: provider \"p\" needs mx, mx-set or address: by what else is it known?\n"},
    {"providers = ( { name = \"p\"; mx = [ \"*\", \"*.*.x\", \"a.*.x\",\n \"*x\", \"a b\" ]; "
     "mx-set = [ "
     "\"*.x\" ]; } );\n",
	"c:2: mx: \"*\" is not a host name, or * and a name such as \"*.google.com\"\n"
	"c:2: mx: \"*.*.x\" is not a host name, or * and a name such as \"*.google.com\"\n"
	"c:2: mx: \"a.*.x\" is not a host name, or * and a name such as \"*.google.com\"\n"
	"c:2: mx: \"*x\" is not a host name, or * and a name such as \"*.google.com\"\n"
	"c:2: mx: \"a b\" is not a host name, or * and a name such as \"*.google.com\"\n"
	"c:3: mx-set: \"*.x\" is not a host name\n"},
    {"providers = ( { name = \"p\"; mx = [ \"*.X.example\", \"m.example\" ]; address = [ "
     "\"192.0.2.0/24\" ]; },\n { name = \"q\"; mx = [ \"*.x.Example.\" ];\n mx-set = [ "
     "\"m.example\" "
     "];\n address = [ \"192.0.2.7/24\" ]; } );\n",
	"c:3: mx: *.x.example belongs to provider \"p\" (c:2) already\n"
	"c:4: mx-set: m.example belongs to provider \"p\" (c:2) already\n"
	"c:5: address: a network belongs to provider \"p\" (c:2) already\n"},
    {"providers = ( { name = \"p\"; mx = [ \"a.x\", \"A.x\" ]; } );\n",
	"c:2: mx: a.x stands twice\n"},
    {GOOGLE "virtual-mtas = ( { name = \"a\"; providers = ( { name = \"google\"; max-smtp-out = 1; "
	    "},\n "
	    "{ name = \"gogle\"; mx = [ \"x.example\" ]; } ); } );\n",
	"c:4: name: no provider is named \"gogle\": define it in the global providers, with mx\n"
	"c:4: mx: belongs into the global entry of the provider: it is the same for all virtual "
	"MTAs\n"},
    /* destinations */
    {"domains = ( { name = \"a.example\"; smtp-hosts = \"192.0.2.1\"; },\n { name = \"b.example\"; "
     "smtp-hosts = \"lookup-mx:x.example;[192.0.2.1]:25\"; } );\n",
	"c:2: smtp-hosts: \"192.0.2.1\": write an address in brackets: [192.0.2.1]\n"},
    {"domains = ( { name = \"a.example\"; queue-to = \"A.Example\"; },\n { name = \"b.example\"; "
     "queue-to = \"c.example\"; },\n { name = \"c.example\"; queue-to = \"b.example\"; },\n { name "
     "= "
     "\"d.example\"; queue-to = \"e.example\"; } );\n",
	"c:2: queue-to: \"a.example\" is this destination itself\n"
	"c:3: queue-to: the mail of \"b.example\" comes back to it\n"
	"c:4: queue-to: the mail of \"c.example\" comes back to it\n"},
    {"domains = ( { name = \"*\"; backoff-notify = [ \"a@b.example\", \"a\" ];\n "
     "disabled-source-ip-notify = [ \"<a@b>\" ]; smtp-pattern-list = [ \"l\", \"l\", \"m\" ]; } "
     ");\n" LIST("reply = \"421\"; actions = [ \"skip-mx\" ];"),
	"c:2: backoff-notify: \"a\" is not a mail address\n"
	"c:3: disabled-source-ip-notify: \"<a@b>\" is not a mail address\n"
	"c:3: smtp-pattern-list: \"l\" stands twice\n"
	"c:3: smtp-pattern-list: no list of smtp-pattern-lists is named \"m\"\n"},
    {"mx-connection-limit = ( { mx = \"*.a.example\"; limit = 1; }, { mx = \"*.A.example\"; limit "
     "= 2; "
     "},\n { mx = \"a.*\"; limit = 1; }, { limit = 1; } );\n",
	"c:2: this mx stands twice, the first time in c:2\n"
	"c:3: mx: this option is required here\n"
	"c:3: mx: \"a.*\" is not a host name, or * and a name\n"},
    {"ip-connection-limit = ( { ip = \"192.0.2.1\"; limit = 1; }, { ip = \"192.0.2.1/32\"; limit = "
     "1; "
     "},\n { ip = \"192.0.2.0/33\"; limit = 1; } );\n",
	"c:2: this ip stands twice, the first time in c:2\n"
	"c:3: ip: \"192.0.2.0/33\" is not an address or a network such as \"192.0.2.0/24\"\n"},
    {"dns-blocklists = [ \"zen.example\", \"a b\" ];\n",
	"c:2: dns-blocklists: \"a b\" is not a domain name\n"},
    {"domains = ( { name = \"*\";\n budget = { max-smtp-out = 1; }; } );\n",
	"c:3: budget: \"*\" is no destination to share one; give it to a domain, provider, virtual "
	"MTA, "
	"pool or source, or set total-max-smtp-out\n"},
    {GOOGLE "tenants = ( { name = \"t\"; at = ( { provider = \"google\"; },\n { provider = "
	    "\"google\"; } ); } );\n",
	"c:4: provider: \"google\" stands twice, the first time in line 3\n"},
    /* rules */
    {LIST("reply = \"4(\"; actions = [ \"mode=backoff\" ];"),
	"c:2: reply: not a regular expression: missing closing parenthesis, at byte 3\n"},
    {LIST("reply = \"\"; actions = [ ];"),
	"c:2: reply: an empty pattern matches everything; write . if that is meant\n"},
    {LIST("reply = \"421\"; actions = [ ];"), ""},
    {LIST("name = \"n\";"),
	"c:2: reply: this option is required here\nc:2: actions: this option is required here\n"},
    {LIST(
	 "reply = \"421\"; stage = [ \"greeting\", \"hello\" ];\n trigger = \"often\"; actions = [ "
	 "\"mode=back\" ];"),
	"c:2: stage: \"hello\" is not a stage: connect, greeting, ehlo, starttls, auth, mail, "
	"rcpt, "
	"data, dot, internal\n"
	"c:3: trigger: \"often\" is not a trigger: immediate, 3/10m, or 20% of 50 in 10m; at most "
	"100000\n"
	"c:3: actions: \"mode=back\" is not an action\n"},
    {LIST("reply = \"421\"; actions = [ \"suspend-queue\", \"set max-msg-rate=10/m\" ];"),
	"c:2: actions: suspend-queue needs \"for\": how long does it last?\n"},
    {LIST("reply = \"421\"; actions = [ \"set max-msg-rate=10/m\" ]; for = \"10\";"),
	"c:2: for: \"10\" is not a time such as \"90s\", \"10m\" or \"1h30m\"\n"},
    {LIST("reply = \"421\"; actions = [ \"suspend-tenant\" ]; for = \"1h\";"), ""},
    {LIST("reply = \"421\"; actions = [ \"mode=backoff\" ]; scope = \"path\";"),
	"c:2: actions: mode=backoff cannot act on scope \"path\": modes belong to queues\n"},
    {LIST("reply = \"421\"; actions = [ \"mode=normal\" ]; scope = \"source\";"),
	"c:2: actions: mode=normal cannot act on scope \"source\": modes belong to queues\n"},
    {LIST("reply = \"421\"; actions = [ \"mode=backoff\", \"mode=normal\" ];"),
	"c:2: actions: mode=backoff and mode=normal at once\n"},
    {LIST("reply = \"421\"; actions = [ \"reroute=x\", \"alert=nobody\" ];"),
	"c:2: actions: reroute: no virtual MTA or pool is named \"x\"\n"
	"c:2: actions: \"nobody\" is not a mail address\n"},
    {TWO LIST("reply = \"421\"; actions = [ \"reroute=a\", \"alert=x@y.example\" ];"), ""},
    {LIST("reply = \"421\"; actions = [ \"set host-name=a\" ]; for = \"1h\";"),
	"c:2: actions: \"host-name=a\" is not a setting that a rule may change, such as "
	"max-msg-rate=10/m\n"},
    /* tenants */
    {"tenants = ( { name = \"t\"; virtual-mta = \"x\"; virtual-mtas = [ \"y\" ];\n at = ( { "
     "provider = "
     "\"google\"; domain = \"a.example\"; }, { },\n { provider = \"x\"; },\n { domain = "
     "\"x.example\"; } "
     "); } );\n" GOOGLE "domains = ( { name = \"a.example\"; } );\n",
	"c:2: virtual-mta: no virtual MTA or pool is named \"x\"\n"
	"c:2: virtual-mtas: no virtual MTA or pool is named \"y\"\n"
	"c:3: at: give either provider or domain\n"
	"c:3: at: give either provider or domain\n"
	"c:4: provider: no provider is named \"x\"\n"
	"c:5: domain: \"x.example\" is not named in domains, so it has no destination of its "
	"own\n"},
    {"tenants = ( { name = \"t\"; match = { header = \"X Tenant\"; value = \"a\"; }; "
     "sender-domains = [ "
     "\"a b\" ]; } );\n",
	"c:2: header: \"X Tenant\" is not the name of a header field\n"
	"c:2: sender-domains: \"a b\" is not a domain name\n"},
};

static void test_checks(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(checks); i++) {
		char text[4096];
		struct buf errors;
		snprintf(text, sizeof text, LISTEN "%s", checks[i].text);
		put("c", text);
		struct conf *c = load("c", &errors);
		if (strcmp((const char *)errors.p, checks[i].errors) != 0)
			fail_msg("%s\ngot:\n%s", text, (const char *)errors.p);
		assert_true((c != NULL) == (checks[i].errors[0] == 0));
		conf_free(&c);
		buf_fini(&errors);
	}
}

/* Groups merge key by key over files; rules by name, in their place; others follow. */
static void test_groups_and_rules_merge(void **state)
{
	static const char *const order[] = {"one", "TWO", "three", "four"};
	char origin[512];
	(void)state;
	put("c", LISTEN "include = [ \"d\" ];\n"
			"providers = ( { name = \"google\"; mx = [ \"*.google.com\" ]; "
			"smtp-pattern-list = \"l\"; "
			"budget = { max-smtp-out = 50; max-msg-rate = \"10/s\"; }; } );\n"
			"smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"one\"; "
			"actions = [ \"skip-mx\" ]; "
			"},\n { name = \"r\"; reply = \"two\"; actions = [ \"mode=backoff\" ]; for "
			"= \"1h\"; },\n"
			" { reply = \"three\"; actions = [ \"skip-mx\" ]; } ); } );\n");
	put("d", "providers = ( { name = \"google\"; budget = { max-smtp-out = 7; }; } );\n"
		 "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"four\"; actions = [ "
		 "\"skip-mx\" "
		 "]; },\n { name = \"r\"; reply = \"TWO\"; actions = [ ]; } ); } );\n");
	struct conf *c = load_good("c");
	const struct conf_node *n = conf_next(c->root, CONF_PROVIDER, NULL);
	const struct conf_node *budget = conf_next(n, CONF_BUDGET, NULL), *rule = NULL;
	assert_null(conf_next(n, CONF_BUDGET, budget));
	assert_int_equal(conf_num(budget, CO_BUDGET_max_smtp_out), 7);
	assert_int_equal(conf_num(budget, CO_BUDGET_max_msg_rate), 10);
	conf_origin(c, conf_get(budget, CO_BUDGET_max_smtp_out), origin);
	assert_string_equal(origin, "d:1");
	n = conf_next(c->root, CONF_PATTERN_LIST, NULL);
	for (size_t i = 0; i < COUNT_OF(order); i++) {
		rule = conf_next(n, CONF_RULE, rule);
		assert_non_null(rule);
		assert_string_equal(conf_text(rule, CO_RULE_reply), order[i]);
		if (i == 1) {
			assert_int_equal(conf_get(rule, CO_RULE_actions)->count, 0);
			assert_int_equal(conf_num(rule, CO_RULE_for_), 3600000);
			conf_origin(c, conf_get(rule, CO_RULE_reply), origin);
			assert_string_equal(origin, "d:3");
		}
	}
	assert_null(conf_next(n, CONF_RULE, rule));
	conf_free(&c);
	/* In one file a name stands once. */
	put("c",
	    LISTEN LIST("name = \"r\"; reply = \"a\"; actions = [ ]; },\n { name = \"r\"; reply = "
			"\"b\"; actions = [ ];"));
	load_bad("c", "c:3: r: this name stands twice, the first time in line 2\n");
}

/* --- hints ------------------------------------------------------------------------------------ */

static const struct {
	const char *text, *hints;
} hints[] = {
    {"domains = ( { name = \"*\"; max-smtp-out = 5; } );\n", ""},
    {"providers = ( { name = \"google\"; mx = [ \"*.google.com\" ]; max-smtp-out = 3; }, { name = "
     "\"q\"; "
     "mx = [ \"x.q\" ]; max-smtp-out = 4; } );\nvirtual-mtas = ( { name = \"a\"; domains = ( { "
     "name = "
     "\"*\";\n max-smtp-out = 1; } ); } );\n",
	"c:4: max-smtp-out does not hold for provider google: c:2 is more specific, and 1 more\n"},
    {"virtual-mtas = ( { name = \"a\"; } );\nvirtual-mta-pools = ( { name = \"p\"; members = ( { "
     "virtual-mta = \"a\"; weight = 0; } );\n domains = ( { name = \"*\"; max-smtp-out = 1; } ); } "
     ");\ndomains = ( { name = \"d.example\"; max-smtp-out = 2; } );\n",
	"c:4: max-smtp-out does not hold for d.example: c:5 is more specific\n"
	"c:3: every member of pool \"p\" has weight 0: it takes no new mail\n"},
    {"domains = ( { name = \"*\"; max-smtp-out = 2; max-msg-rate = \"100/h\"; max-connect-rate = "
     "\"1/s\";\n backoff-max-smtp-out = 3; backoff-max-msg-rate = \"2/m\"; "
     "backoff-max-connect-rate = "
     "\"60/m\"; } );\n",
	"c:3: backoff-max-smtp-out 3 is more than max-smtp-out 2, which holds in backoff mode too\n"
	"c:3: backoff-max-msg-rate 2/m is more than max-msg-rate 100/h, which holds in backoff "
	"mode "
	"too\n"},
    {"domains = ( { name = \"*\"; retry-after = \"1m,1h,30m\"; } );\n",
	"c:2: retry-after begins with 60 s, but a recipient that was deferred waits for "
	"retry-recipients-after, 600 s: the larger one holds\n"
	"c:2: the steps of retry-after fall: 3600 s, then 1800 s\n"},
    {TWO "domains = ( { name = \"*\"; max-msg-rate = \"1/m\"; }, { name = \"d.example\"; "
	 "max-msg-rate = "
	 "\"9/m\"; },\n { name = \"e.example\"; max-msg-rate = \"9/m\"; } );\n",
	"c:3: max-msg-rate is for each queue: 2 virtual MTAs together may do 2 times as much at "
	"d.example; budget = { max-msg-rate = \"9/m\"; } limits all of them (likewise "
	"elsewhere)\n"},
    {TWO "domains = ( { name = \"d.example\"; max-msg-rate = \"9/m\"; budget = { }; } );\n", ""},
    {"domains = ( { name = \"d.example\"; queue-to = \"e.example\"; smtp-hosts = \"x.example\"; } "
     ");\n",
	"c:2: smtp-hosts is not used: queue-to gives the mail to e.example, by its route\n"},
    {LIST("reply = \"x*\"; actions = [ \"skip-mx\" ];"),
	"c:2: no smtp-pattern-list names \"l\": its rules are never looked at\n"
	"c:2: this pattern matches every reply\n"},
    {"domains = ( { name = \"*\"; smtp-pattern-list = \"l\"; } );\n" LIST(
	 "reply = \"try again later\"; actions = [ \"mode=backoff\" ]; },\n { reply = \"try again "
	 "later\"; actions = [ \"bounce-recipient\" ]; },\n { reply = \"55[0-9]\"; stage = [ "
	 "\"auth\" ]; "
	 "actions = [ \"bounce-recipient\" ];"),
	"c:3: this pattern also matches \"450 4.2.0 Greylisted, please try again later\", which is "
	"about "
	"one recipient or for the moment, but its actions are for the whole queue\n"
	"c:4: c:3 has the same pattern: where the actions differ, that one wins\n"
	"c:5: nothing ever happens at stage auth: no host is authenticated to\n"},
    {"virtual-mtas = ( { name = \"a\"; sources = ( { address = \"127.3.2.1\"; },\n { address = "
     "\"203.0.113.77\"; } ); } );\n",
	"c:3: this machine has no address 203.0.113.77 now: the source is left out until it has\n"},
    {"providers = ( { name = \"p\"; address = [ \"192.0.2.7/24\", \"192.0.2.8\", "
     "\"198.51.100.0/24\" ]; "
     "} );\n",
	"c:2: address: 192.0.2.7/24 has bits beyond its prefix: the whole network is meant, not "
	"that "
	"address\n"},
};

static void test_hints(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT_OF(hints); i++) {
		char text[4096];
		struct buf b;
		snprintf(text, sizeof text,
		    "listeners = ( { relay-from = [ \"127.0.0.1\" ]; } ); total-max-smtp-out = "
		    "100; "
		    "total-max-smtp-in = 10;\n%s",
		    hints[i].text);
		put("c", text);
		struct conf *c = load_good("c");
		buf_init(&b, 65536);
		conf_hints(c, &b);
		buf_put(&b, "", 1);
		if (strcmp((const char *)b.p, hints[i].hints) != 0)
			fail_msg("%s\ngot:\n%s", text, (const char *)b.p);
		buf_fini(&b);
		conf_free(&c);
	}
}

/* 100,000 domains, a tenth of them rerouted, in a file of their own: read, checked, and small
 * enough to be handed to a worker. */
static void test_many(void **state)
{
	enum { DOMAINS = 100000 };
	struct buf b, encoded;
	(void)state;
	buf_init(&b, 16 << 20);
	buf_cstr(&b, LISTEN TWO "domains = (\n");
	for (int i = 0; i < DOMAINS; i++)
		buf_printf(&b,
		    "{ name = \"d%d.example\"; max-smtp-out = 3; max-msg-rate = \"9/m\";%s }%s\n",
		    i, i % 10 == 0 ? " reroute-to-virtual-mta = \"b\";" : "",
		    i + 1 < DOMAINS ? "," : "");
	buf_cstr(&b, ");\n");
	put_bytes("c", (const char *)b.p, b.n);
	buf_fini(&b);
	struct conf *c = load_good("c");
	buf_init(&encoded, CONF_ENCODED_MAX);
	conf_encode(c, 1u << PROC_qmgr, &encoded);
	assert_false(encoded.failed);
	struct conf *copy = conf_decode((struct str){(const char *)encoded.p, encoded.n});
	assert_non_null(copy);
	buf_fini(&encoded);
	conf_free(&copy);
	buf_init(&b, 1 << 20);
	conf_hints(c, &b);
	assert_false(b.failed);
	buf_fini(&b);
	conf_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_checks, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_groups_and_rules_merge, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_hints, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_many, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
