/* SPDX-License-Identifier: ISC */
/* Ends one expansion of msg.def. */
#undef MSG
#undef F_U8
#undef F_U16
#undef F_U32
#undef F_U64
#undef F_STR
#undef F_BYTES
#undef F_FD
#undef END
