/* SPDX-License-Identifier: ISC */
/*
 * Configuration tree → settings. Everything that can be wrong shows here, at prepare, so that
 * switching to prepared settings cannot fail: networks are parsed, certificates loaded.
 */
#include "smtpd/settings.h"

#include <stdio.h>
#include <stdlib.h>

void secrets_add(struct secrets *s, enum secret_kind kind, uint16_t index, struct str pem)
{
	size_t need = (size_t)index + 1;

	if (kind != SECRET_LISTENER_CERT && kind != SECRET_LISTENER_KEY)
		return;
	if (need > LISTENERS_MAX)
		return;
	for (int k = 0; k < 2 && need > s->count; k++) {
		s->pem[k] = xrealloc(s->pem[k], need * sizeof(struct buf));
		for (size_t i = s->count; i < need; i++)
			buf_init(&s->pem[k][i], 1048576);
	}
	if (need > s->count)
		s->count = need;
	struct buf *b = &s->pem[kind == SECRET_LISTENER_KEY][index];
	buf_reset(b);
	buf_str(b, pem);
}

void secrets_clear(struct secrets *s)
{
	for (int k = 0; k < 2; k++) {
		for (size_t i = 0; i < s->count; i++) {
			if (s->pem[k][i].p)
				explicit_bzero(s->pem[k][i].p, s->pem[k][i].cap);
			buf_fini(&s->pem[k][i]);
		}
		free(s->pem[k]);
		s->pem[k] = NULL;
	}
	s->count = 0;
}

static int read_networks(struct listener *l, const struct conf_value *v, char why[500])
{
	l->relay_from = xcalloc(v->count + 1, sizeof(struct network));
	for (size_t i = 0; i < v->count; i++) {
		if (network_parse(&l->relay_from[i], str_of(v->texts[i])) != 0) {
			snprintf(why, 500, "relay-from: '%.100s' is no network", v->texts[i]);
			return -1;
		}
		l->relay_count++;
	}
	return 0;
}

static int read_tls(struct listener *l, const struct secrets *s, char why[500])
{
	char err[256];

	if (l->index >= s->count || s->pem[0][l->index].n == 0 || s->pem[1][l->index].n == 0)
		return 0;
	const struct buf *cert = &s->pem[0][l->index], *key = &s->pem[1][l->index];
	l->tls = tls_server_context((struct str){(const char *)cert->p, cert->n},
	    (struct str){(const char *)key->p, key->n}, err);
	if (!l->tls)
		snprintf(why, 500, "listener %u: certificate or key: %s", l->index + 1u, err);
	return l->tls ? 0 : -1;
}

static int read_listener(struct listener *l, uint16_t index, const struct conf_node *n,
    const struct secrets *secrets, const struct tenants *tenants, char why[500])
{
	l->tenant = tenants_named(tenants, str_of(conf_text(n, CO_LISTENER_tenant)));
	l->index = index;
	l->vmta = xstrdup(conf_text(n, CO_LISTENER_virtual_mta));
	l->process_x_vmta = conf_num(n, CO_LISTENER_process_x_virtual_mta) != 0;
	l->process_x_tenant = conf_num(n, CO_LISTENER_process_x_tenant) != 0;
	l->command_timeout_ms = conf_num(n, CO_LISTENER_command_timeout);
	l->transaction_timeout_ms = conf_num(n, CO_LISTENER_transaction_timeout);
	l->min_data_rate = (unsigned)conf_num(n, CO_LISTENER_min_data_rate);
	l->max_recipients = (unsigned)conf_num(n, CO_LISTENER_max_recipients);
	l->max_hops = (unsigned)conf_num(n, CO_LISTENER_max_hops);
	l->max_errors = (unsigned)conf_num(n, CO_LISTENER_max_errors);
	l->max_header = (size_t)conf_num(n, CO_LISTENER_max_header_size);
	if (read_networks(l, conf_get(n, CO_LISTENER_relay_from), why) != 0)
		return -1;
	return read_tls(l, secrets, why);
}

static size_t count_children(const struct conf_node *root, enum conf_section_type type)
{
	size_t n = 0;

	for (const struct conf_node *c = conf_next(root, type, NULL); c;
	     c = conf_next(root, type, c))
		n++;
	return n;
}

/* Virtual MTAs and pools: they share one name space, and mail may be given to either. */
static void read_vmtas(struct settings *s, const struct conf_node *root)
{
	s->vmtas = xcalloc(
	    count_children(root, CONF_VMTA) + count_children(root, CONF_POOL) + 1, sizeof(char *));
	for (const struct conf_node *c = conf_next(root, CONF_POOL, NULL); c;
	     c = conf_next(root, CONF_POOL, c))
		s->vmtas[s->vmta_count++] = xstrdup(conf_text(c, CO_POOL_name));
	for (const struct conf_node *c = conf_next(root, CONF_VMTA, NULL); c;
	     c = conf_next(root, CONF_VMTA, c))
		s->vmtas[s->vmta_count++] = xstrdup(conf_text(c, CO_VMTA_name));
	if (s->vmta_count == 0) /* with none configured there is one named default */
		s->vmtas[s->vmta_count++] = xstrdup("default");
}

struct settings *settings_new(const struct conf *conf, uint32_t config,
    const struct secrets *secrets, unsigned processes, unsigned instance, char why[500])
{
	struct settings *s = xcalloc(1, sizeof(*s));
	size_t listeners = count_children(conf->root, CONF_LISTENER);
	unsigned all = (unsigned)conf_num(conf->root, CO_GLOBAL_total_max_smtp_in);

	s->refs = 1;
	s->config = config;
	str_copy(s->host, sizeof(s->host), str_of(conf_text(conf->root, CO_GLOBAL_host_name)));
	s->max_message = (uint64_t)conf_num(conf->root, CO_GLOBAL_max_message_size);
	if (conf_num(conf->root, CO_GLOBAL_smtpd_processes) > 0)
		processes = (unsigned)conf_num(conf->root, CO_GLOBAL_smtpd_processes);
	s->connections_max = processes > 1 ? (all + processes - 1) / processes : all;
	s->tenants = tenants_new(conf_clone(conf), processes, instance);
	s->listeners = xcalloc(listeners + 1, sizeof(struct listener));
	for (const struct conf_node *n = conf_next(conf->root, CONF_LISTENER, NULL); n;
	     n = conf_next(conf->root, CONF_LISTENER, n)) {
		size_t i = s->listener_count++;
		if (read_listener(&s->listeners[i], (uint16_t)i, n, secrets, s->tenants, why) !=
		    0) {
			settings_unref(&s);
			return NULL;
		}
	}
	read_vmtas(s, conf->root);
	return s;
}

struct settings *settings_ref(struct settings *s)
{
	s->refs++;
	return s;
}

void settings_unref(struct settings **settings)
{
	struct settings *s = *settings;

	*settings = NULL;
	if (!s || --s->refs > 0)
		return;
	for (size_t i = 0; i < s->listener_count; i++) {
		free(s->listeners[i].relay_from);
		free(s->listeners[i].vmta);
		tls_context_free(&s->listeners[i].tls);
	}
	free(s->listeners);
	for (size_t i = 0; i < s->vmta_count; i++)
		free(s->vmtas[i]);
	free(s->vmtas);
	tenants_free(&s->tenants);
	free(s);
}

bool settings_has_vmta(const struct settings *s, const char *name)
{
	for (size_t i = 0; i < s->vmta_count; i++)
		if (strcmp(s->vmtas[i], name) == 0)
			return true;
	return false;
}

const struct tenant *settings_tenant(const struct settings *s, const struct tenant *t)
{
	const struct tenant *now = tenants_named(s->tenants, str_of(t->name));

	return now ? now : t;
}
