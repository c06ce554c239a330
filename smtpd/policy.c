/* SPDX-License-Identifier: ISC */
/* Every decision of smtpd that is not syntax or order stands here, as a function of what it looks
 * at. */
#include "smtpd/policy.h"

#include <string.h>

/* BUSY (qmgr is starting, or no segment has come yet) lasts a moment: 451 keeps the connection,
 * where the 421 of a stopping service would have all clients connect anew. */
static const enum answer of_refuse[REFUSE_COUNT] = {
    [REFUSE_NONE] = ANSWER_NONE,
    [REFUSE_DISK] = ANSWER_NO_SPACE,
    [REFUSE_INDEX] = ANSWER_NO_SPACE,
    [REFUSE_QUEUE] = ANSWER_NO_SPACE,
    [REFUSE_MEMORY] = ANSWER_NO_MEMORY,
    [REFUSE_BUSY] = ANSWER_BUSY,
};

enum answer policy_refuse(enum refuse why)
{
	return why < REFUSE_COUNT ? of_refuse[why] : ANSWER_NO_SPACE;
}

enum answer policy_relay(const struct listener *l, const uint8_t client[16])
{
	for (size_t i = 0; i < l->relay_count; i++)
		if (network_has(&l->relay_from[i], client))
			return ANSWER_NONE;
	return ANSWER_RELAY_DENIED;
}

enum answer policy_mail(const struct policy_load *load, uint64_t size, uint64_t max_message)
{
	if (load->stopping)
		return ANSWER_STOPPING;
	if (size > max_message)
		return ANSWER_BIG;
	if (load->content_bytes > CONTENT_BUDGET)
		return ANSWER_NO_MEMORY;
	return policy_refuse(load->writer);
}

bool policy_content_fits(uint64_t content_bytes)
{
	return content_bytes <= 2 * (uint64_t)CONTENT_BUDGET;
}

static bool may_use(const struct tenant *t, const char *vmta)
{
	if (!t || t->vmtas->count == 0 || strcmp(t->vmta, vmta) == 0)
		return true;
	for (size_t i = 0; i < t->vmtas->count; i++)
		if (strcmp(t->vmtas->texts[i], vmta) == 0)
			return true;
	return false;
}

enum answer policy_vmta(const struct settings *s, const struct listener *l,
    const struct tenant *tenant, const char *header, unsigned header_count, const char **vmta)
{
	*vmta = tenant && tenant->vmta[0] ? tenant->vmta : l->vmta;
	if (!l->process_x_vmta || header_count == 0)
		return ANSWER_NONE;
	if (header_count > 1)
		return ANSWER_BAD_VMTA;
	if (!settings_has_vmta(s, header))
		return ANSWER_UNKNOWN_VMTA;
	*vmta = header;
	return may_use(tenant, header) ? ANSWER_NONE : ANSWER_FOREIGN_VMTA;
}
