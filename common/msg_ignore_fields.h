/* SPDX-License-Identifier: ISC */
/* For expansions of msg.def that need only the rows, not their fields. */
#define F_U8(f)
#define F_U16(f)
#define F_U32(f)
#define F_U64(f)
#define F_STR(f, max)
#define F_BYTES(f, max)
#define F_FD(f)
#define END(name)
