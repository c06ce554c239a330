/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/control.h"
/* The verbs of this service's control socket; their ctx is the struct server **. */
extern const struct control_verb smtpd_verbs[];
extern const size_t smtpd_verb_count;
