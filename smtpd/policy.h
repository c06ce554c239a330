/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/types.h"
#include "smtpd/answer.h"
#include "smtpd/settings.h"
/* Who may do what, and what we can take now. Pure. */
enum answer policy_refuse(enum refuse why); /* a writer's refusal as an answer */
enum answer policy_relay(const struct listener *l, const uint8_t client[16]);
struct policy_load {
	bool stopping;
	enum refuse writer;	/* segwriter_state() */
	uint64_t content_bytes; /* content in memory, all sessions */
};
enum {
	/* Content in the memory of one process. Above it no new transaction begins; what is under
	 * way may take as much again, then it is refused too. Stops many clients from filling the
	 * memory with messages each of which is allowed. */
	CONTENT_BUDGET = 128 * 1048576,
};
enum answer policy_mail(const struct policy_load *load, uint64_t size, uint64_t max_message);
bool policy_content_fits(uint64_t content_bytes);
/* The virtual MTA of a message: the header's (within what the tenant may use), the tenant's, the
 * listener's, or "" for qmgr's default. tenant NULL: nobody's mail. */
enum answer policy_vmta(const struct settings *s, const struct listener *l,
    const struct tenant *tenant, const char *header, unsigned header_count, const char **vmta);
