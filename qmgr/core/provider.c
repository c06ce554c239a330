/* SPDX-License-Identifier: ISC */
/*
 * Mailbox providers: which one a route leads to, by the MX hosts of its best preference. All of
 * them must match, and of several providers the best match wins: a set of exact names before
 * patterns, patterns before networks, the longer pattern or prefix before the shorter one, the
 * first in the file before the next. A route that matches several patterns of one provider is as
 * good as its least specific host.
 *
 * Every name, pattern and network is one entry in a hash table; a host is looked up once a label
 * and an address once a length of prefix that is configured, so that ten thousand providers cost no
 * more than one. Providers that share an entry (a pattern that stands in both) are the exception:
 * only these are walked.
 */
#include "common/addr.h"
#include "qmgr/core/internal.h"
#include <stdlib.h>
#include <string.h>

enum entry_kind { ENTRY_SET, ENTRY_PATTERN, ENTRY_NETWORK, ENTRY_KINDS };
enum {
	LABELS_MAX = 128, /* of a host name: it has 255 octets at the most */
	CANDIDATES_MAX =
	    256, /* providers that one host is looked at for: bounds a shared pattern */
};

struct provider {
	struct node node;
	struct name *name;
	const struct conf_node *conf;
	uint32_t place; /* in the file */
};
struct entry {
	struct node node;
	enum entry_kind kind;
	struct provider *provider;
	struct str text; /* a host; a pattern as it stands; of the configuration */
	struct network network;
};

/* ---- the tables ---- */

static uint64_t name_hash(const struct core *core, enum entry_kind kind, struct str text)
{
	return hash_mix(hash_bytes(core->seed, text), (uint64_t)kind);
}

static uint64_t network_hash(const struct core *core, const struct network *n)
{
	struct str bytes = {(const char *)n->bytes, sizeof(n->bytes)};

	return hash_mix(hash_bytes(core->seed, bytes), (uint64_t)n->bits + ENTRY_KINDS);
}

static struct network network_cut(const struct network *n, unsigned bits)
{
	struct network cut = {.bits = (uint8_t)bits};

	memcpy(cut.bytes, n->bytes, bits / 8);
	if (bits % 8)
		cut.bytes[bits / 8] = n->bytes[bits / 8] & (uint8_t)(0xff00 >> bits % 8);
	return cut;
}

static struct provider *find(const struct core *core, struct str name)
{
	uint64_t hash = hash_bytes(core->seed, name);

	for (struct node *i = table_first(&core->providers, hash); i; i = table_next(i))
		if (str_eq(name_str(OWNER(i, struct provider, node)->name), name))
			return OWNER(i, struct provider, node);
	return NULL;
}

const struct conf_node *provider_conf(const struct core *core, const struct name *name)
{
	const struct provider *p = name ? find(core, name_str(name)) : NULL;

	return p ? p->conf : NULL;
}

bool provider_named(const struct core *core, struct str name)
{
	return find(core, name) != NULL;
}

static void add_names(
    struct core *core, struct provider *p, const struct conf_value *v, enum entry_kind kind)
{
	for (size_t i = 0; i < v->count; i++) {
		struct entry *e = xcalloc(1, sizeof(*e));

		e->kind = kind;
		e->provider = p;
		e->text = str_of(v->texts[i]);
		table_add(&core->entries, &e->node, name_hash(core, kind, e->text));
	}
}

static void add_networks(struct core *core, struct provider *p, const struct conf_value *v)
{
	for (size_t i = 0; i < v->count; i++) {
		struct network n;
		struct entry *e;

		if (network_parse(&n, str_of(v->texts[i])) < 0)
			continue; /* refused when it was read */
		e = xcalloc(1, sizeof(*e));
		e->kind = ENTRY_NETWORK;
		e->provider = p;
		e->network = network_cut(&n, n.bits);
		core->prefixes[n.bits / 64] |= UINT64_C(1) << n.bits % 64;
		table_add(&core->entries, &e->node, network_hash(core, &e->network));
	}
}

void provider_forget(struct core *core)
{
	struct node *n;

	while ((n = table_any(&core->entries))) {
		table_remove(&core->entries, n);
		free(OWNER(n, struct entry, node));
	}
	while ((n = table_any(&core->providers))) {
		struct provider *p = OWNER(n, struct provider, node);

		table_remove(&core->providers, n);
		name_drop(core, p->name);
		free(p);
	}
	memset(core->prefixes, 0, sizeof(core->prefixes));
}

void provider_configure(struct core *core, const struct conf_node *root)
{
	const struct conf_node *n = NULL;
	uint32_t place = 0;

	while ((n = conf_next(root, CONF_PROVIDER, n))) {
		struct provider *p = xcalloc(1, sizeof(*p));
		struct str name = str_of(conf_text(n, CO_PROVIDER_name));

		p->name = name_get(core, name);
		p->conf = n;
		p->place = place++;
		table_add(&core->providers, &p->node, hash_bytes(core->seed, name));
		add_names(core, p, conf_get(n, CO_PROVIDER_mx_set), ENTRY_SET);
		add_names(core, p, conf_get(n, CO_PROVIDER_mx), ENTRY_PATTERN);
		add_networks(core, p, conf_get(n, CO_PROVIDER_address));
	}
}

/* ---- looking ---- */

struct candidate {
	struct provider *provider;
	unsigned length; /* of the longest entry that matches */
};
struct found {
	struct candidate *list; /* NULL: only `only` is looked for */
	size_t count;
	const struct provider *only;
	unsigned length; /* of `only`'s longest entry; 0: none yet */
};

static void note(struct found *f, struct provider *p, unsigned length)
{
	if (f->only) {
		if (f->only == p && length > f->length)
			f->length = length;
		return;
	}
	for (size_t i = 0; i < f->count; i++) {
		if (f->list[i].provider != p)
			continue;
		if (length > f->list[i].length)
			f->list[i].length = length;
		return;
	}
	if (f->count < CANDIDATES_MAX)
		f->list[f->count++] = (struct candidate){p, length};
}

static void look_name(
    const struct core *core, enum entry_kind kind, struct str text, struct found *f)
{
	uint64_t hash = name_hash(core, kind, text);

	for (struct node *i = table_first(&core->entries, hash); i; i = table_next(i)) {
		struct entry *e = OWNER(i, struct entry, node);

		if (e->kind == kind && str_eq_nocase(e->text, text))
			note(f, e->provider, (unsigned)text.n);
	}
}

/* The name itself, then "*" before each of its endings: mx1.a.example is *.a.example, *.example. */
static void look_patterns(const struct core *core, struct str host, struct found *f)
{
	char pattern[260];
	unsigned labels = 0;

	look_name(core, ENTRY_PATTERN, host, f);
	for (size_t i = 0; i < host.n && labels < LABELS_MAX; i++) {
		size_t n = host.n - i;

		if (host.p[i] != '.' || n + 1 > sizeof(pattern))
			continue;
		labels++;
		pattern[0] = '*';
		memcpy(pattern + 1, host.p + i, n);
		look_name(core, ENTRY_PATTERN, (struct str){pattern, n + 1}, f);
	}
	look_name(core, ENTRY_PATTERN, STR("*"), f);
}

static struct network network_of(const struct route_address *a)
{
	struct network n = {.bits = 128};

	if (a->family == 4) {
		n.bytes[10] = n.bytes[11] = 0xff;
		memcpy(n.bytes + 12, a->bytes, 4);
	} else {
		memcpy(n.bytes, a->bytes, sizeof(n.bytes));
	}
	return n;
}

static void look_networks(const struct core *core, const struct route_address *a, struct found *f)
{
	struct network whole = network_of(a);

	for (unsigned bits = 0; bits <= 128; bits++) {
		struct network cut;

		if (!(core->prefixes[bits / 64] >> bits % 64 & 1))
			continue;
		cut = network_cut(&whole, bits);
		for (struct node *i = table_first(&core->entries, network_hash(core, &cut)); i;
		     i = table_next(i)) {
			struct entry *e = OWNER(i, struct entry, node);

			if (e->kind == ENTRY_NETWORK && e->network.bits == bits &&
			    memcmp(e->network.bytes, cut.bytes, sizeof(cut.bytes)) == 0)
				note(f, e->provider, bits + 1); /* a prefix of 0 is one, too */
		}
	}
}

/* What must match, one after the other: best hosts, or all of their addresses. */
struct subject {
	const struct route *route;
	enum entry_kind kind;
	uint32_t host, address;
};

static bool next_subject(const struct core *core, struct subject *s, struct found *f)
{
	const struct route *r = s->route;

	if (s->kind == ENTRY_NETWORK) {
		while (s->host < r->best_count && s->address >= r->host[s->host].address_count) {
			s->host++;
			s->address = 0;
		}
		if (s->host >= r->best_count)
			return false;
		look_networks(core, &r->host[s->host].address[s->address++], f);
		return true;
	}
	if (s->host >= r->best_count)
		return false;
	if (s->kind == ENTRY_SET)
		look_name(core, ENTRY_SET, name_str(r->host[s->host++].name), f);
	else
		look_patterns(core, name_str(r->host[s->host++].name), f);
	return true;
}

/* How well it matches: the shortest of the longest entries; 0: not all of them do. */
static unsigned judge(const struct core *core, struct subject rest, const struct candidate *c)
{
	unsigned least = c->length;

	for (;;) {
		struct found f = {.only = c->provider};

		if (!next_subject(core, &rest, &f))
			return least;
		if (f.length < least)
			least = f.length;
		if (least == 0)
			return 0;
	}
}

static bool is_better(enum entry_kind kind, unsigned length, const struct provider *p,
    unsigned best, const struct provider *than)
{
	if (!than || (kind != ENTRY_SET && length != best))
		return !than || length > best;
	return p->place < than->place;
}

static struct provider *match_kind(
    const struct core *core, const struct route *route, enum entry_kind kind)
{
	struct candidate list[CANDIDATES_MAX];
	struct found f = {.list = list};
	struct subject s = {.route = route, .kind = kind};
	struct provider *best = NULL;
	unsigned best_length = 0;

	if (!next_subject(core, &s, &f))
		return NULL;
	for (size_t i = 0; i < f.count; i++) {
		unsigned length = judge(core, s, &list[i]);

		if (length && is_better(kind, length, list[i].provider, best_length, best)) {
			best = list[i].provider;
			best_length = length;
		}
	}
	return best;
}

struct name *provider_of_route(const struct core *core, const struct route *route)
{
	if (!route || core->entries.count == 0)
		return NULL;
	for (enum entry_kind kind = 0; kind < ENTRY_KINDS; kind++) {
		struct provider *p = match_kind(core, route, kind);

		if (p)
			return p->name;
	}
	return NULL;
}

/* The same of one host alone. */
struct name *provider_of_host(
    const struct core *core, struct name *host, const struct route_address *address)
{
	struct route_address at = *address;
	struct name *provider;
	struct route *r;

	if (core->entries.count == 0)
		return NULL;
	r = xcalloc(1, sizeof(*r) + sizeof(r->host[0]));
	r->host_count = r->best_count = 1;
	r->host[0].name = host;
	r->host[0].address = &at;
	r->host[0].address_count = 1;
	provider = provider_of_route(core, r);
	free(r);
	return provider;
}
