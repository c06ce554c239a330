/* SPDX-License-Identifier: ISC */
#pragma once
#include "common/buf.h"
#include "common/conf.h"
#include <jansson.h>
/*
 * The simulation of `posternctl simulate`: qmgr's core in virtual time, with the loads and
 * receivers of the configuration's group `simulation` around it. Pure: no clock, no file; the same
 * configuration and seed give the same results.
 */
struct sim;
struct sim *sim_new(const struct conf *conf); /* a checked one that has the group; borrowed */
void sim_run(struct sim *s);		      /* all of it */
void sim_free(struct sim **s);
/* What came of it: for people, for programs, as a picture. After sim_run(). */
void sim_print(const struct sim *s, struct buf *out);
json_t *sim_json(const struct sim *s); /* new reference */
void sim_plot(const struct sim *s, struct buf *out);
