/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "smtp_out" to its on_NAME(). */
#define DISPATCHER msg_to_smtp_out
#define TO_smtp_out(...) __VA_ARGS__
#include "common/msg_dispatch.inc"
