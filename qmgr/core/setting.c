/* SPDX-License-Identifier: ISC */
/*
 * What rules have set for a time: `set NAME=VALUE`, `require-tls`, `reroute=VMTA`, queue by queue.
 *
 * A setting changes the values of its queue (q->v) after they were resolved from the configuration,
 * so that modes and limits see one number. It only ever tightens: of the configured value and all
 * that live, the strictest holds. Stricter is the smaller limit, the slower rate, the longer
 * interval, the retry list whose first step is longer. A factor is of the configured value; a share
 * of no limit is no limit.
 *
 * The same NAME=VALUE set again lasts longer; MODE_SETTINGS different ones live at a time.
 */
#include "qmgr/core/internal.h"
#include <errno.h>
#include <stdlib.h>

/* ---- tightening ---- */

static void least(uint32_t *v, const struct setting *s)
{
	uint64_t to = s->permille ? (uint64_t)*v * s->permille / 1000 : (uint64_t)s->value.num;

	if (*v == 0 && s->permille) /* no limit */
		return;
	if (to == 0)
		to = 1;
	if (*v == 0 || to < *v)
		*v = (uint32_t)to;
}

static void longest(int64_t *v, const struct setting *s)
{
	int64_t to = s->permille ? *v * s->permille / 1000 : s->value.num;

	if (to > *v)
		*v = to;
}

static struct rate rate_set(const struct rate *v, const struct setting *s)
{
	struct rate r = *v;

	if (s->permille) {
		r.per_ms = v->per_ms * 1000 / s->permille;
		r.burst = (v->burst * s->permille + 999) / 1000;
		return r;
	}
	if (s->value.num <= 0 || s->value.count < 2)
		return (struct rate){0, 0, 0};
	return (struct rate){(uint64_t)s->value.num, (uint64_t)s->value.nums[1], s->value.nums[0]};
}

static bool is_slower(const struct rate *a, const struct rate *b)
{
	return a->n &&
	       (b->n == 0 || (double)a->n * (double)b->per_ms < (double)b->n * (double)a->per_ms);
}

static void slowest(struct rate *v, const struct setting *s)
{
	struct rate r = rate_set(v, s);

	if (is_slower(&r, v))
		*v = r;
}

static void times(const int64_t **list, size_t *n, const struct setting *s)
{
	if (s->permille || s->value.count == 0 || (*n && s->value.nums[0] <= (*list)[0]))
		return;
	*list = s->value.nums;
	*n = s->value.count;
}

static void tighten(struct values *v, const struct setting *s)
{
	switch ((int)s->opt) {
	case CO_DOMAIN_max_smtp_out:
		least(&v->max_smtp_out, s);
		break;
	case CO_DOMAIN_max_msg_per_connection:
		least(&v->max_msg, s);
		break;
	case CO_DOMAIN_max_rcpt_per_message:
		least(&v->max_rcpt, s);
		break;
	case CO_DOMAIN_source_ip_max_smtp_out:
		least(&v->source_max_smtp_out, s);
		break;
	case CO_DOMAIN_max_connect_rate:
		slowest(&v->connect, s);
		break;
	case CO_DOMAIN_max_msg_rate:
		slowest(&v->msg, s);
		break;
	case CO_DOMAIN_max_data_volume_rate:
		slowest(&v->bytes, s);
		break;
	case CO_DOMAIN_source_ip_max_connect_rate:
		slowest(&v->source_connect, s);
		break;
	case CO_DOMAIN_source_ip_max_msg_rate:
		slowest(&v->source_msg, s);
		break;
	case CO_DOMAIN_smtp_out_rampup_interval:
		longest(&v->rampup_ms, s);
		break;
	case CO_DOMAIN_retry_recipients_after:
		longest(&v->retry_rcpt_ms, s);
		break;
	case CO_DOMAIN_retry_after:
		times(&v->retry, &v->retry_count, s);
		break;
	case CO_DOMAIN_backoff_retry_after:
		times(&v->backoff_retry, &v->backoff_retry_count, s);
		break;
	default:
		break; /* nothing that could be strict */
	}
}

void setting_apply(struct queue *q)
{
	struct values *v = &q->v;

	for (uint32_t i = 0; q->mode && i < q->mode->set_count; i++)
		if (!q->mode->set[i].tls)
			tighten(v, &q->mode->set[i]);
	if (v->backoff_max_smtp_out > v->max_smtp_out)
		v->backoff_max_smtp_out = v->max_smtp_out;
	if (v->backoff_max_msg > v->max_msg)
		v->backoff_max_msg = v->max_msg;
	if (is_slower(&v->connect, &v->backoff_connect))
		v->backoff_connect = v->connect;
	if (is_slower(&v->msg, &v->backoff_msg))
		v->backoff_msg = v->msg;
}

bool setting_tls(const struct queue *q)
{
	for (uint32_t i = 0; q->mode && i < q->mode->set_count; i++)
		if (q->mode->set[i].tls)
			return true;
	return false;
}

/* ---- their life ---- */

static void fini(struct setting *s)
{
	conf_value_fini(&s->value);
	free(s->what);
	free(s->rule);
	free(s->text);
}

static void changed(struct core *core, struct queue *q)
{
	state_changed(core, STR("set"), str_of(q->name));
	queue_values(core, q);
	if (q->mode)
		mode_arm(core, q->mode);
	mode_effect(core, q);
}

/* The option of a queue's destination with that key, or CONF_OPT_COUNT. */
static enum conf_opt opt_of(struct str key)
{
	static const enum conf_opt all[] = {
#define QOPT(id, ...) CO_DOMAIN_##id,
#include "common/config_queue.def"
#undef QOPT
	};

	for (size_t i = 0; i < COUNT_OF(all); i++)
		if (str_eq(str_of(conf_opt_key(all[i])), key))
			return all[i];
	return CONF_OPT_COUNT;
}

/* From NAME=VALUE or NAME=*FACTOR or require-tls. False: it means nothing (any more). */
static bool setting_parse(struct setting *s, struct str what, uint32_t permille)
{
	struct str value = what, key = str_cut(&value, '=');
	char why[200];

	s->permille = permille;
	s->tls = str_eq(what, STR("require-tls"));
	if (!s->tls) {
		s->opt = opt_of(key);
		if (s->opt == CONF_OPT_COUNT ||
		    (!permille && conf_parse_value(s->opt, value, &s->value, why)))
			return false;
	}
	s->what = str_dup(what);
	return true;
}

static void describe(const struct rule_action *a, struct buf *out)
{
	buf_init(out, 1000);
	if (a->kind == ACTION_REQUIRE_TLS)
		buf_cstr(out, "require-tls");
	else if (a->factor_permille)
		buf_printf(out, "%s=*%u.%03u", a->name, a->factor_permille / 1000,
		    a->factor_permille % 1000);
	else
		buf_printf(out, "%s=%s", a->name, a->value ? a->value : "");
}

static struct setting *find(struct mode *m, struct str what)
{
	for (uint32_t i = 0; i < m->set_count; i++)
		if (str_eq(str_of(m->set[i].what), what))
			return &m->set[i];
	return NULL;
}

static void drop(struct mode *m, uint32_t i)
{
	fini(&m->set[i]);
	m->set[i] = m->set[--m->set_count];
}

static void drop_first_to_end(struct mode *m)
{
	uint32_t first = 0;

	for (uint32_t i = 1; i < m->set_count; i++)
		if (m->set[i].until_ms &&
		    (!m->set[first].until_ms || m->set[i].until_ms < m->set[first].until_ms))
			first = i;
	drop(m, first);
}

static void put(struct mode *m, const struct setting *s)
{
	if (m->set_count == MODE_SETTINGS)
		drop_first_to_end(m);
	m->set = xrealloc(m->set, (m->set_count + 1) * sizeof(*m->set));
	m->set[m->set_count++] = *s;
}

void setting_add(struct core *core, struct queue *q, const struct rule_action *a, int64_t until_ms,
    const struct why *why)
{
	struct mode *m = mode_get(core, q);
	struct setting s = {.since_ms = core->now, .until_ms = until_ms};
	struct setting *old;
	struct buf what;

	describe(a, &what);
	old = find(m, (struct str){(const char *)what.p, what.n});
	if (old) {
		/* As with modes, not every match is given out. */
		if (!until_ms || (old->until_ms && until_ms - old->until_ms >= SECOND)) {
			old->until_ms = until_ms;
			state_changed(core, STR("set"), str_of(q->name));
		}
	} else if (setting_parse(&s, (struct str){(const char *)what.p, what.n},
		       a->kind == ACTION_SET ? a->factor_permille : 0)) {
		s.rule = str_dup(why->rule);
		s.text = str_dup(why->text);
		put(m, &s);
		changed(core, q);
	}
	buf_fini(&what);
	if (q->mode)
		mode_arm(core, q->mode);
}

void setting_reroute(struct core *core, struct queue *q, struct str vmta, int64_t until_ms)
{
	struct mode *m = mode_get(core, q);

	free(m->reroute);
	m->reroute = str_dup(vmta);
	m->reroute_ms = until_ms;
	state_changed(core, STR("set"), str_of(q->name));
	mode_arm(core, m);
	queue_rerouted(core, q);
}

void setting_clear(struct core *core, struct mode *m)
{
	(void)core;
	while (m->set_count)
		drop(m, 0);
	free(m->set);
	m->set = NULL;
	free(m->reroute);
	m->reroute = NULL;
}

int64_t setting_next_ms(const struct mode *m)
{
	int64_t at = m->reroute && m->reroute_ms ? m->reroute_ms : NEVER;

	for (uint32_t i = 0; i < m->set_count; i++)
		if (m->set[i].until_ms && m->set[i].until_ms < at)
			at = m->set[i].until_ms;
	return at;
}

void setting_expire(struct core *core, struct mode *m)
{
	struct queue *q = m->queue;
	bool any = false;

	for (uint32_t i = m->set_count; i-- > 0;) {
		if (!m->set[i].until_ms || m->set[i].until_ms > core->now)
			continue;
		note_add(core, q, NOTE_EVENT, STR("a setting of a rule has ended"));
		drop(m, i);
		any = true;
	}
	if (m->reroute && m->reroute_ms && m->reroute_ms <= core->now) {
		free(m->reroute);
		m->reroute = NULL;
		any = true;
		queue_rerouted(core, q);
	}
	if (any)
		changed(core, q);
}

/* ---- a look ---- */

static struct hold_view view_of(const struct queue *q, const struct setting *s)
{
	return (struct hold_view){.scope = CORE_QUEUE,
	    .kind = STR("set"),
	    .name = str_of(q->name),
	    .what = str_of(s->what),
	    .rule = str_of(s->rule),
	    .text = str_of(s->text),
	    .since_ms = s->since_ms,
	    .until_ms = s->until_ms};
}

size_t setting_views(const struct core *core, uint64_t *from, struct hold_view *out, size_t n)
{
	uint64_t skip = *from;
	size_t found = 0;

	for (struct link *l = core->modes.next; l != &core->modes && found < n; l = l->next) {
		const struct mode *m = OWNER(l, struct mode, in_all);

		for (uint32_t i = 0; i < m->set_count && found < n; i++) {
			if (skip)
				skip--;
			else
				out[found++] = view_of(m->queue, &m->set[i]);
		}
	}
	*from += found;
	return found;
}

/* ---- over a restart ---- */

bool setting_encode(struct core *core, struct str name, struct buf *out)
{
	const struct queue *q = queue_find(core, name);
	const struct mode *m = q ? q->mode : NULL;

	if (!m || (m->set_count == 0 && !m->reroute))
		return false;
	buf_str16(out, str_of(m->reroute));
	buf_u64(out, (uint64_t)m->reroute_ms);
	for (uint32_t i = 0; i < m->set_count; i++) {
		const struct setting *s = &m->set[i];

		buf_u32(out, s->permille);
		buf_u64(out, (uint64_t)s->since_ms);
		buf_u64(out, (uint64_t)s->until_ms);
		buf_str16(out, str_of(s->what));
		buf_str16(out, str_of(s->rule));
		buf_str16(out, str_of(s->text));
	}
	return true;
}

static void restore_one(struct mode *m, struct rd *value)
{
	struct setting s = {.permille = rd_u32(value)};
	struct str what, rule, text;

	s.since_ms = (int64_t)rd_u64(value);
	s.until_ms = (int64_t)rd_u64(value);
	what = rd_str16(value);
	rule = rd_str16(value);
	text = rd_str16(value);
	if (value->bad || find(m, what) || !setting_parse(&s, what, s.permille))
		return;
	s.rule = str_dup(rule);
	s.text = str_dup(text);
	put(m, &s);
}

int setting_restore(struct core *core, struct str name, struct rd *value)
{
	char *reroute = state_text(value);
	int64_t reroute_ms = (int64_t)rd_u64(value);
	struct queue *q;
	struct mode *m;
	int rc = value->bad ? -EBADMSG : state_queue(core, name, &q);

	if (rc) {
		free(reroute);
		return rc;
	}
	m = mode_get(core, q);
	free(m->reroute);
	m->reroute = reroute;
	m->reroute_ms = reroute_ms;
	while (value->n && !value->bad)
		restore_one(m, value);
	queue_values(core, q);
	mode_restored(core, q);
	mode_arm(core, m);
	return value->bad ? -EBADMSG : 0;
}
