/* SPDX-License-Identifier: ISC */
/* conf_decode() on any bytes behind a right fingerprint; what it takes can be printed and encoded
 * again. */
#include "common/conf_impl.h"
#include "common/types.h"
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf bytes, text;
	buf_init(&bytes, size + 64);
	buf_u64(&bytes, conf_fingerprint());
	buf_put(&bytes, data, size);
	struct conf *c = conf_decode((struct str){(const char *)bytes.p, bytes.n});
	buf_fini(&bytes);
	if (c == NULL)
		return 0;
	buf_init(&text, 16 << 20);
	conf_print(c, &text);
	buf_fini(&text);
	buf_init(&bytes, 16 << 20);
	conf_encode(c, 1u << PROC_qmgr, &bytes);
	if (!bytes.failed) {
		struct conf *again = conf_decode((struct str){(const char *)bytes.p, bytes.n});
		must(again != NULL);
		conf_free(&again);
	}
	buf_fini(&bytes);
	conf_free(&c);
	return 0;
}
