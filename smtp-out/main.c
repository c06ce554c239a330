/* SPDX-License-Identifier: ISC */
/*
 * smtp-out: delivers to remote servers over the connections that qmgr grants. It decides nothing
 * about when, where to and how much; it speaks SMTP, and judges what is answered (verdict.c).
 *
 * It has server sockets and read descriptors of spool segments, and no file system. What OpenSSL
 * wants from the file system is read before the drop; the authorities' certificates come from
 * master as bytes.
 */
#include "common/log.h"
#include "common/match.h"
#include "smtp-out/session.h"
#include <string.h>
#include <unistd.h>

struct program {
	struct out out;
	struct worker *worker;
	bool initialised;
	char next_ehlo[256];	      /* of the prepared configuration, as is */
	struct matcher *next_matcher; /* owned; NULL: there is none prepared */
};

static struct out *get_out(struct program *p)
{
	if (!p->initialised)
		out_init(&p->out, worker_loop(p->worker), p->worker);
	p->initialised = true;
	return &p->out;
}

static void before_drop(void *ctx)
{
	(void)ctx;
	tls_init();
}

static int prepare(void *ctx, const struct conf *conf, uint32_t config, char why[500])
{
	struct program *p = ctx;
	(void)config, (void)why;
	str_copy(
	    p->next_ehlo, sizeof(p->next_ehlo), str_of(conf_text(conf->root, CO_GLOBAL_host_name)));
	matcher_free(&p->next_matcher); /* one that was never used */
	p->next_matcher = matcher_new(conf);
	return 0;
}

static void use(void *ctx, uint32_t config)
{
	struct program *p = ctx;
	(void)config;
	struct out *o = get_out(p);
	memcpy(o->ehlo, p->next_ehlo, sizeof(p->next_ehlo));
	matcher_free(&o->matcher);
	o->matcher = p->next_matcher;
	p->next_matcher = NULL;
}

static void on_peer_channel(
    void *ctx, enum proc_id process, uint16_t instance, uint32_t generation, int fd)
{
	(void)instance, (void)generation;
	if (process == PROC_qmgr)
		out_attach(get_out(ctx), fd);
	else
		close(fd);
}

/* Connections that are open keep the context they began with: it is replaced only at start. */
static void on_ca_bundle(void *ctx, enum secret_kind kind, uint16_t index, struct str pem)
{
	struct program *p = ctx;
	char err[256];
	(void)index;
	if (kind != SECRET_CA_BUNDLE || get_out(p)->tls)
		return;
	p->out.tls = tls_client_context(pem, err);
	if (!p->out.tls)
		log_warn("tls-ca-file: %s: peers' certificates are not checked", err);
}

static void start(void *ctx, bool unclean, bool rebuild)
{
	struct program *p = ctx;
	struct out *o = get_out(p);
	char err[256];
	(void)unclean, (void)rebuild;
	if (!o->tls)
		o->tls = tls_client_context(STR(""), err);
	if (!o->tls)
		log_error("TLS cannot be used: %s", err);
	worker_ready(p->worker);
}

static void stop(void *ctx, uint32_t deadline_ms)
{
	out_stop(get_out(ctx), deadline_ms);
}

int main(int argc, char **argv)
{
	static struct program program;
	program.worker = worker_new();
	struct worker_spec spec = {.process = PROC_smtp_out,
	    .verbs = control_verbs,
	    .verb_count = control_verb_count,
	    .ctx = &program,
	    .before_drop = before_drop,
	    .prepare = prepare,
	    .use = use,
	    .on_peer = on_peer_channel,
	    .on_secret = on_ca_bundle,
	    .start = start,
	    .stop = stop};
	return worker_run(program.worker, &spec, argc, argv);
}
