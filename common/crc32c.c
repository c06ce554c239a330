/* SPDX-License-Identifier: ISC */
/*
 * CRC32C (Castagnoli, reflected 0x82f63b78, as iSCSI's, RFC 3720 B.4): by the processor's
 * instruction where it has one, else by four tables, four bytes a step. The choice is made once, at
 * run time.
 */
#include "common/record.h"
#include <pthread.h>
#include <string.h>

enum { POLYNOMIAL_REFLECTED = (int)0x82f63b78 };

static uint32_t table[4][256];
static bool have_instruction;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? (uint32_t)POLYNOMIAL_REFLECTED : 0);
		table[0][i] = crc;
	}
	for (size_t t = 1; t < 4; t++)
		for (size_t i = 0; i < 256; i++)
			table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 0xff];
#ifdef __x86_64__
	have_instruction = __builtin_cpu_supports("sse4.2");
#endif
}

uint32_t crc32c_by_table(uint32_t crc, const void *p, size_t n)
{
	const unsigned char *b = p;
	pthread_once(&once, prepare);
	crc = ~crc;
	for (; n >= 4; b += 4, n -= 4) {
		crc ^= (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
		       (uint32_t)b[3] << 24;
		crc = table[3][crc & 0xff] ^ table[2][crc >> 8 & 0xff] ^
		      table[1][crc >> 16 & 0xff] ^ table[0][crc >> 24];
	}
	for (; n > 0; b++, n--)
		crc = crc >> 8 ^ table[0][(crc ^ *b) & 0xff];
	return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t by_instruction(
    uint32_t crc, const unsigned char *b, size_t n)
{
	uint64_t sum = ~crc;
	for (; n >= 8; b += 8, n -= 8) {
		uint64_t word;
		memcpy(&word, b, sizeof(word));
		sum = __builtin_ia32_crc32di(sum, word);
	}
	uint32_t rest = (uint32_t)sum;
	for (; n > 0; b++, n--)
		rest = __builtin_ia32_crc32qi(rest, *b);
	return ~rest;
}
#endif

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	pthread_once(&once, prepare);
#ifdef __x86_64__
	if (have_instruction)
		return by_instruction(crc, p, n);
#endif
	return crc32c_by_table(crc, p, n);
}
