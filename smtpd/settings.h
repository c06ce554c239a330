/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/addr.h"
#include "common/conf.h"
#include "common/tls.h"
#include "common/types.h"
#include "smtpd/tenants.h"
/*
 * What smtpd reads out of a configuration, ready for use. Counted references: a session keeps the
 * settings it began with, over any reload.
 */
struct listener {
	uint16_t index;		    /* its place in the configuration */
	struct network *relay_from; /* owned */
	size_t relay_count;
	char *vmta; /* owned; "": none named */
	bool process_x_vmta, process_x_tenant;
	const struct tenant *tenant; /* NULL: none named */
	int64_t command_timeout_ms, transaction_timeout_ms;
	unsigned min_data_rate, max_recipients, max_hops, max_errors;
	size_t max_header;
	struct tls_context *tls; /* owned; NULL: STARTTLS is not offered */
};
struct settings {
	unsigned refs;
	uint32_t config;
	char host[256];
	uint64_t max_message;
	unsigned connections_max;   /* of this process */
	struct listener *listeners; /* owned */
	size_t listener_count;
	char **vmtas; /* owned; names that X-Virtual-MTA may say */
	size_t vmta_count;
	struct tenants *tenants; /* owned */
};
/* Certificates and keys that came with SECRET, waiting for the configuration they belong to. */
enum { LISTENERS_MAX = 1000 };
struct secrets {
	struct buf *pem[2]; /* [cert, key][listener index]; owned */
	size_t count;
};
void secrets_add(struct secrets *s, enum secret_kind kind, uint16_t index, struct str pem);
void secrets_clear(struct secrets *s);
/* processes: number of smtpd on this machine, for "auto"; instance: which of them this is. NULL
 * with why filled. */
struct settings *settings_new(const struct conf *conf, uint32_t config,
    const struct secrets *secrets, unsigned processes, unsigned instance, char why[500]);
struct settings *settings_ref(struct settings *s);
void settings_unref(struct settings **s);
/* The same tenant in these settings; itself if it is gone. */
const struct tenant *settings_tenant(const struct settings *s, const struct tenant *t);
bool settings_has_vmta(const struct settings *s, const char *name);
