/* SPDX-License-Identifier: ISC */
/* Hands each message addressed to the role "qmgr" to its on_NAME(). */
#define DISPATCHER msg_to_qmgr
#define TO_qmgr(...) __VA_ARGS__
#include "common/msg_dispatch.inc"
