/* SPDX-License-Identifier: ISC */
/* DNS packets as a hostile server sends them: the first byte chooses the type that was asked for.
 */
#include "resolver/answer.h"
#include "resolver/cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t types[] = {RR_MX, RR_A, RR_AAAA, RR_PTR};
	static const uint8_t qname[] = "\1d\7example";
	struct answer *a = NULL;
	if (size < 1)
		return 0;
	uint16_t type = types[data[0] % COUNT_OF(types)];
	(void)answer_matches(data + 1, size - 1, 0x1234, qname, sizeof(qname), type);
	if (answer_parse(&a, data + 1, size - 1, "d.example", type) == 0) {
		must(a->count <= ANSWER_MX_MAX && a->aliases <= ALIAS_MAX + 1);
		must(a->status != ANSWER_ALIAS || a->alias != NULL);
		for (size_t i = 0; a->mx != NULL && i < a->count; i++) {
			char again[NAME_TEXT];
			must(a->mx[i].name[0] == '\0' ||
			     name_from_text(again, str_of(a->mx[i].name)) == 0);
		}
		uint32_t ttl = cache_ttl(a);
		must(ttl >= CACHE_TTL_FLOOR_S && ttl <= CACHE_TTL_CEILING_S);
	}
	answer_unref(&a);
	return 0;
}
