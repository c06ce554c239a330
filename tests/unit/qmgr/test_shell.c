/* SPDX-License-Identifier: ISC */
/*
 * What qmgr keeps beside mail, over kills: states of the core, from the journal and from the index;
 * events, and alerts that are owed exactly once; where a recipient goes. And the checks of source
 * addresses. Every test of persistence runs with the index as the kill left it and as it was before
 * anything happened, so that rows and journal each prove themselves.
 */
#include "qmgr/logger_lines.h"
#include "tests/unit/qmgr/rig.h"
#include <signal.h>

static char base[64];
static unsigned dirs;

static int make_base(void **state)
{
	char path[160];
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	snprintf(base, sizeof(base), "/tmp/postern-shell-XXXXXX");
	assert_non_null(mkdtemp(base));
	snprintf(path, sizeof(path), "%s/conf", base);
	conf = load_conf(path, "");
	return 0;
}

static int drop_base(void **state)
{
	char command[128];
	(void)state;
	conf_free(&conf);
	snprintf(command, sizeof(command), "rm -rf %s", base);
	return chdir("/") || system(command);
}

static void new_dir(char out[128])
{
	snprintf(out, 128, "%s/%u", base, ++dirs);
}

/* A qmgr with all its peers and an open segment; `before` is its spool with nothing in it. */
static void start_all(struct rig *r, char dir[128], char before[140])
{
	new_dir(dir);
	snprintf(before, 140, "%s-before", dir);
	start_rig(r, dir);
	connect_writer(r);
	turn(r);
	get_segment(r);
	turn_until(r, commit_is_clean(r->q));
	copy(dir, before);
	connect_rest(r);
}

/* The spool as it is, with the index as it was. */
static void take_index_back(const char *dir, const char *before)
{
	char from[200], to[200];
	snprintf(from, sizeof(from), "%s/index", before);
	snprintf(to, sizeof(to), "%s/index", dir);
	copy(from, to);
}

static void reopen(struct rig *r, const char *dir)
{
	open_rig(r, dir, false, false);
	turn_until(r, r->q->started);
}

/* --- states --------------------------------------------------------------------------------------
 */

/* Of all queues: the domain's own, which it had before its route was known, has none. */
static uint32_t failures_of(struct qmgr *q)
{
	struct core_cursor cursor = {0};
	struct queue_view v[8];
	uint32_t failures = 0;
	size_t n = core_queues(q->core, STR("*"), &cursor, v, COUNT_OF(v));
	for (size_t i = 0; i < n; i++)
		failures += v[i].failures;
	return failures;
}

/* The clock of connection failures is a state: nothing but it says how long the queue waits. */
static void test_state_survives_a_kill(void **state)
{
	char dir[128], before[140];
	struct rig r;
	(void)state;
	for (int from_journal = 0; from_journal < 2; from_journal++) {
		start_all(&r, dir, before);
		r.refuse = true;
		append(&r, "a.test", true);
		turn_until(&r, failures_of(r.q) > 0);
		uint32_t failures = failures_of(r.q);
		turn_until(&r, commit_is_clean(r.q));
		kill_rig(&r);
		if (from_journal)
			take_index_back(dir, before);
		for (int start = 0; start < 2; start++) {
			reopen(&r, dir);
			assert_int_equal(failures, failures_of(r.q));
			assert_int_equal(0, r.q->counters.damaged);
			turn_until(&r, commit_is_clean(r.q));
			kill_rig(&r);
		}
	}
}

static void count_row(void *ctx, struct str key, struct str value)
{
	(void)key, (void)value;
	++*(size_t *)ctx;
}

static size_t rows_of(struct rig *r, enum store_table table)
{
	struct row_key from = {0};
	size_t n = 0;
	while (store_scan(r->q->store, table, &from, 3, count_row, &n) > 0)
		continue;
	return n;
}

static void keep(struct rig *r, const char *key, const char *value)
{
	states_keep(r->q, &(struct core_decision){.kind = DECIDE_STATE,
			      .key = str_of(key),
			      .state = str_of(value),
			      .gone = value == NULL});
}

/* Rows in numbers that need several scans, replaced and deleted; and what nobody knows, or is
 * damaged, is left out with a word in the log. */
static void test_states_come_and_go(void **state)
{
	char dir[128], before[140], key[40];
	struct rig r;
	(void)state;
	for (int from_journal = 0; from_journal < 2; from_journal++) {
		start_all(&r, dir, before);
		for (int i = 0; i < 10; i++) {
			snprintf(key, sizeof(key), "unknown %d", i);
			keep(&r, key, "first");
			keep(&r, key, i % 2 ? "second" : NULL);
		}
		turn_until(&r, journal_is_idle(r.q->journal) && commit_is_clean(r.q));
		assert_int_equal(5, rows_of(&r, STORE_STATE));
		kill_rig(&r);
		if (from_journal)
			take_index_back(dir, before);
		reopen(&r, dir);
		assert_int_equal(5, r.q->counters.damaged); /* offered to the core, which refuses */
		turn_until(&r, commit_is_clean(r.q));
		assert_int_equal(5, rows_of(&r, STORE_STATE));
		kill_rig(&r);
	}
}

static void test_damaged_state_stops_nothing(void **state)
{
	char dir[128], before[140];
	struct rig r;
	(void)state;
	start_all(&r, dir, before);
	struct row_key key = row_key_state(STR("clock a.test/default"));
	store_ops_put(&r.q->commit.other, STORE_STATE, &key, STR("garbage"));
	turn_until(&r, commit_is_clean(r.q));
	append(&r, "a.test", true);
	turn_until(&r, r.q->counters.received == 1 && commit_is_clean(r.q));
	kill_rig(&r);
	reopen(&r, dir);
	assert_int_equal(1, r.q->counters.damaged);
	kill_rig(&r);
}

/* --- clean and unclean stops ---------------------------------------------------------------------
 */

static bool is_clean(const char *dir)
{
	struct rig r;
	open_rig(&r, dir, false, false);
	bool clean = r.q->commit.meta.clean;
	turn_until(&r, r.q->started);
	kill_rig(&r);
	return clean;
}

static void test_only_a_stop_is_clean(void **state)
{
	char dir[128], before[140];
	struct rig r;
	(void)state;
	start_all(&r, dir, before);
	append(&r, "a.test", true);
	turn_until(&r, r.q->counters.received == 1 && commit_is_clean(r.q));
	kill_rig(&r);
	assert_false(is_clean(dir));
	reopen(&r, dir);
	qmgr_stop(r.q, 4000);
	turn_until(&r, r.q->stopped);
	kill_rig(&r);
	assert_true(is_clean(dir));
	reopen(&r, dir); /* and the first commit of the next one takes it back */
	turn_until(&r, commit_is_clean(r.q) && r.q->commit.number > 0);
	kill_rig(&r);
	assert_false(is_clean(dir));
}

/* --- events and alerts ---------------------------------------------------------------------------
 */

static void put_event(struct rig *r, const char *notify)
{
	events_put(r->q, &(struct core_event){.kind = EVENT_MODE,
			     .scope = STR("a.test/mta1"),
			     .from = STR("normal"),
			     .to = STR("backoff"),
			     .text = STR("421 4.7.0 too\nmany"),
			     .rule = STR("l:1 (f:2)"),
			     .who = STR(""),
			     .notify = str_of(notify),
			     .until_ms = r->q->now_ms + 1000});
	loop_again(r->loop);
}

static unsigned heard;

static void hear(void *ctx, const struct event_view *event)
{
	struct event_follower *self = ctx;
	heard++;
	assert_true(str_eq(event->e.to, STR("backoff")));
	if (heard == 2)
		events_unfollow(rig->q, self);
}

static void test_events_are_kept_in_order(void **state)
{
	char dir[128], before[140];
	struct rig r;
	static struct event_view views[2 * EVENTS_KEPT];
	struct event_follower f = {.told = hear, .ctx = &f};
	(void)state;
	start_all(&r, dir, before);
	events_follow(r.q, &f);
	for (unsigned i = 0; i < EVENTS_KEPT + 10; i++)
		put_event(&r, "");
	assert_int_equal(2, heard);
	assert_int_equal(EVENTS_KEPT, events_since(r.q, 0, views, COUNT_OF(views)));
	assert_int_equal(11, views[0].seq);
	assert_int_equal(EVENTS_KEPT + 10, views[EVENTS_KEPT - 1].seq);
	assert_int_equal(2, events_since(r.q, EVENTS_KEPT + 8, views, COUNT_OF(views)));
	assert_true(views[0].e.until_wall_ms >= views[0].e.wall_ms);
	assert_int_equal(0, events_since(r.q, EVENTS_KEPT + 10, views, COUNT_OF(views)));
	kill_rig(&r);
}

static void test_event_reads_as_one_line(void **state)
{
	struct buf b;
	struct j_event e = {.kind = EVENT_MODE,
	    .until_wall_ms = 1795395600000,
	    .scope = STR("google/mta1"),
	    .from = STR("normal"),
	    .to = STR("backoff"),
	    .text = STR("421 4.7.0 \nno"),
	    .rule = STR("google:3 (p.conf:7)"),
	    .who = STR("")};
	static const char want[] =
	    "mode google/mta1: normal -> backoff until 2026-11-23T01:00:00Z: "
	    "rule google:3 (p.conf:7): 421 4.7.0 ?no";
	(void)state;
	buf_init(&b, 4096);
	event_print(&b, &e);
	assert_true(str_eq((struct str){(const char *)b.p, b.n}, str_of(want)));
	buf_fini(&b);
}

/* The bouncer's record of an alert mail, in its own segment. */
static void bouncer_writes(struct rig *r, uint64_t ticket)
{
	struct buf envelope, cause, number;
	unsigned char head[RECORD_HEAD], zero[RECORD_ALIGN] = {0};
	const char *content = "Subject: alert\r\n\r\n";
	size_t n = strlen(content);
	buf_init(&envelope, 4096);
	buf_init(&cause, 64);
	buf_init(&number, 64);
	buf_u64(&cause, 0);
	buf_u8(&cause, DSN_ALERT);
	buf_u64(&number, ticket);
	envelope_put(&envelope, ENV_SENDER, STR(""));
	envelope_put(&envelope, ENV_CAUSE, (struct str){(const char *)cause.p, cause.n});
	envelope_put(&envelope, ENV_TICKET, (struct str){(const char *)number.p, number.n});
	envelope_put(&envelope, ENV_RCPT, STR("ops@o.test"));
	struct record rec = {.kind = RECORD_MESSAGE,
	    .nonce_high = r->nonce_high,
	    .nonce_low = r->nonce_low,
	    .id = RECORD_ID(r->segment, r->ordinal++),
	    .offset = r->end,
	    .data_offset = r->end + RECORD_HEAD,
	    .envelope_bytes = (uint32_t)envelope.n,
	    .content_bytes = n,
	    .arrived_ms = (uint64_t)clock_wall_ms(),
	    .envelope_crc = crc32c(0, envelope.p, envelope.n),
	    .content_crc = crc32c(0, content, n)};
	record_encode(&rec, head);
	assert_int_equal(sizeof(head), write(r->fd, head, sizeof(head)));
	assert_int_equal(envelope.n, write(r->fd, envelope.p, envelope.n));
	assert_int_equal(n, write(r->fd, content, n));
	size_t pad = (size_t)(record_align(envelope.n + n) - envelope.n - n);
	assert_int_equal(pad, write(r->fd, zero, pad));
	r->end = record_end(&rec);
	chan_send_accepted(r->bouncer, &(struct msg_accepted){.segment = r->segment,
					   .offset = rec.offset,
					   .end = r->end,
					   .head = {(const char *)head, sizeof(head)},
					   .envelope = {(const char *)envelope.p, envelope.n}});
	buf_fini(&envelope);
	buf_fini(&cause);
	buf_fini(&number);
}

static void segment_for_bouncer(struct rig *r)
{
	unsigned gives = r->gives;
	chan_send_segment_want(r->bouncer, &(struct msg_segment_want){.ticket = 1});
	turn_until(r, r->gives > gives);
}

/* Owed until its record is there, whatever is killed when; then never again. */
static void test_alert_is_sent_once(void **state)
{
	char dir[128], before[140];
	struct rig r;
	struct job_view v;
	(void)state;
	for (int from_journal = 0; from_journal < 2; from_journal++) {
		start_all(&r, dir, before);
		put_event(&r, "ops@o.test,b@o.test");
		turn_until(&r, r.alerts == 1);
		assert_string_equal("ops@o.test,b@o.test", r.alert_to);
		assert_non_null(strstr(r.alert_subject, "mode a.test/mta1: normal -> backoff"));
		uint64_t ticket = r.alert_ticket;
		turn_until(&r, journal_is_idle(r.q->journal) && commit_is_clean(r.q));
		kill_rig(&r); /* before the bouncer has answered */
		if (from_journal)
			take_index_back(dir, before);
		reopen(&r, dir);
		assert_int_equal(1, r.q->bounces.alerts);
		r.refuse = true;
		connect_rest(&r);
		turn_until(&r, r.alerts == 1);
		assert_int_equal(ticket, r.alert_ticket);
		segment_for_bouncer(&r);
		turn_until(&r, commit_is_clean(r.q));
		copy(dir, before);
		bouncer_writes(&r, ticket);
		turn_until(&r, r.q->bounces.tickets.n == 0);
		bouncer_writes(&r, ticket); /* a second one is dropped */
		turn_until(&r, r.q->counters.dropped_reports == 1);
		turn_until(&r, journal_is_idle(r.q->journal) && commit_is_clean(r.q));
		kill_rig(&r);
		if (from_journal)
			take_index_back(dir, before);
		reopen(&r, dir);
		assert_int_equal(0, r.q->bounces.tickets.n);
		assert_int_equal(0, r.q->bounces.alerts);
		struct core_totals t;
		core_totals(r.q->core, &t);
		assert_int_equal(1, t.recipients);
		struct core_cursor cursor = {0};
		job_ref ref;
		bool more;
		assert_int_equal(1, core_jobs(r.q->core, &cursor, &ref, 1, 1000, &more));
		assert_true(core_job(r.q->core, ref, &v) && str_eq(v.vmta, STR("alert")));
		kill_rig(&r);
	}
}

/* While no bouncer takes them, only so many are owed. */
static void test_alerts_are_bounded(void **state)
{
	char dir[128], before[140];
	struct rig r;
	(void)state;
	start_all(&r, dir, before);
	chan_free(&r.bouncer);
	for (unsigned i = 0; i < ALERTS_OWED_MAX + 5; i++)
		put_event(&r, "ops@o.test");
	assert_int_equal(ALERTS_OWED_MAX, r.q->bounces.alerts);
	assert_int_equal(5, r.q->events.alerts_dropped);
	kill_rig(&r);
}

/* --- where a recipient goes ----------------------------------------------------------------------
 */

static void test_changed_place_is_replayed(void **state)
{
	char dir[128], before[140];
	struct rig r;
	struct job_view v;
	(void)state;
	start_all(&r, dir, before);
	r.refuse = true;
	append(&r, "a.test", true);
	turn_until(&r, r.q->counters.received == 1 && commit_is_clean(r.q));
	uint64_t id = RECORD_ID(r.segment, 1);
	j_changed_encode(
	    journal_buf(r.q->journal), &(struct j_changed){.id = id, .vmta = STR("elsewhere")});
	loop_again(r.loop);
	turn(&r);
	turn_until(&r, journal_is_idle(r.q->journal));
	kill_rig(&r);
	for (int start = 0; start < 2; start++) { /* by the journal; then by the row */
		reopen(&r, dir);
		assert_true(core_job(r.q->core, core_find(r.q->core, id), &v));
		assert_true(str_eq(v.vmta, STR("elsewhere")));
		turn_until(&r, commit_is_clean(r.q) && r.q->commit.number > 0);
		kill_rig(&r);
	}
}

/* --- source addresses ----------------------------------------------------------------------------
 */

static const char two_sources[] =
    "virtual-mtas = ( { name = \"m\"; sources = ( { address = \"192.0.2.1\"; host-name = "
    "\"o1.test\"; }, { address = \"192.0.2.2\"; } ); } );\n";

static struct conf *use_two_sources(void)
{
	char path[160];
	struct conf *old = conf;
	snprintf(path, sizeof(path), "%s/two", base);
	conf = load_conf(path, two_sources);
	return old;
}

static void ask_report(struct rig *r, const char *address)
{
	unsigned told = r->told;
	chan_send_source_ask(r->out, &(struct msg_source_ask){.ticket = 7,
					 .verb = SOURCE_REPORT,
					 .address = str_of(address),
					 .queue = STR(""),
					 .who = STR("me")});
	turn_until(r, r->told > told);
}

static json_t *report(struct rig *r, const char *address)
{
	ask_report(r, address);
	assert_true(r->told_ok);
	json_t *rows = json_loads(r->told_text, 0, NULL);
	assert_true(json_is_array(rows));
	return rows;
}

static const char *text_in(json_t *rows, size_t i, const char *field)
{
	return json_string_value(json_object_get(json_array_get(rows, i), field));
}

static void test_sources_are_checked_at_start(void **state)
{
	char dir[128], before[140];
	struct rig r;
	struct conf *old = use_two_sources();
	(void)state;
	new_dir(dir);
	snprintf(before, sizeof(before), "unused");
	start_rig(&r, dir);
	r.missing = "192.0.2.2";
	connect_writer(&r);
	connect_rest(&r);
	turn_until(&r, sources_round_is_over(r.q) && r.q->sources.list[0]->bind_known);
	assert_int_equal(2, r.names);
	assert_true(r.q->sources.list[1]->missing && !r.q->sources.list[0]->missing);
	json_t *rows = report(&r, "");
	assert_int_equal(2, json_array_size(rows));
	assert_string_equal("o1.test", text_in(rows, 0, "ehlo"));
	assert_string_equal("o1.test", text_in(rows, 0, "ptr"));
	assert_string_equal("test.example", text_in(rows, 1, "ehlo"));
	assert_string_equal("Cannot assign requested address", text_in(rows, 1, "why"));
	assert_true(json_is_false(json_object_get(json_array_get(rows, 1), "bindable")));
	json_decref(rows);
	unsigned checks = r.checks;
	r.missing = NULL;
	rows = report(&r, "192.0.2.2"); /* a report checks anew */
	assert_int_equal(1, json_array_size(rows));
	assert_true(json_is_true(json_object_get(json_array_get(rows, 0), "bindable")));
	json_decref(rows);
	assert_int_equal(checks + 2, r.checks);
	conf_free(&conf);
	conf = old;
	kill_rig(&r);
}

/* A connection that failed for a reason of ours: its address is tried at once. */
static void test_suspected_source_is_checked(void **state)
{
	char dir[128];
	struct rig r;
	struct conf *old = use_two_sources();
	(void)state;
	new_dir(dir);
	start_rig(&r, dir);
	connect_writer(&r);
	turn(&r);
	get_segment(&r);
	connect_rest(&r);
	turn_until(&r, sources_round_is_over(r.q) && r.checks == 2);
	for (size_t i = 0; i < 2; i++)
		r.q->sources.list[i]->tried_ms = 0; /* it was long ago */
	r.missing = r.local = "192.0.2.1";
	append(&r, "a.test", true);
	append(&r, "b.test", true);
	append(&r, "c.test", true);
	turn_until(&r, r.q->sources.list[0]->missing);
	assert_false(r.q->sources.list[1]->missing);
	conf_free(&conf);
	conf = old;
	kill_rig(&r);
}

/* A smtp-out or resolver that dies with a question: the next one is asked. */
static void test_round_survives_its_peers(void **state)
{
	static msg_dispatch_fn *const to_out[] = {msg_to_smtp_out, msg_to_reader, NULL};
	char dir[128];
	struct rig r;
	struct conf *old = use_two_sources();
	(void)state;
	new_dir(dir);
	start_rig(&r, dir);
	connect_writer(&r);
	turn(&r);
	assert_false(sources_round_is_over(r.q)); /* nobody to ask */
	connect_rest(&r);
	turn_until(&r, sources_round_is_over(r.q));
	sources_round(r.q);
	chan_free(&r.out);
	turn(&r);
	r.out = add_peer(&r, PROC_smtp_out, to_out);
	chan_send_out_state_end(r.out, &(struct msg_out_state_end){0});
	turn_until(&r, sources_round_is_over(r.q));
	conf_free(&conf);
	conf = old;
	kill_rig(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_state_survives_a_kill),
	    cmocka_unit_test(test_states_come_and_go),
	    cmocka_unit_test(test_damaged_state_stops_nothing),
	    cmocka_unit_test(test_only_a_stop_is_clean),
	    cmocka_unit_test(test_events_are_kept_in_order),
	    cmocka_unit_test(test_event_reads_as_one_line),
	    cmocka_unit_test(test_alert_is_sent_once),
	    cmocka_unit_test(test_alerts_are_bounded),
	    cmocka_unit_test(test_changed_place_is_replayed),
	    cmocka_unit_test(test_sources_are_checked_at_start),
	    cmocka_unit_test(test_suspected_source_is_checked),
	    cmocka_unit_test(test_round_survives_its_peers),
	};
	return cmocka_run_group_tests(tests, make_base, drop_base);
}
