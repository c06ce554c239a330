/* SPDX-License-Identifier: ISC */
/*
 * States that the store gives back: any value for names that mean something, then hours of the
 * core's time. What one core took, the next one takes.
 */
#include "common/conf.h"
#include "qmgr/core/core.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] =
    "host-name = \"out.example.com\";\n"
    "listeners = ( { address = \"127.0.0.1\"; port = 25; } );\n"
    "virtual-mtas = ( { name = \"m\"; sources = ( { address = \"192.0.2.1\"; } ); } );\n"
    "domains = ( { name = \"*\"; smtp-pattern-list = \"l\"; } );\n"
    "smtp-pattern-lists = ( { name = \"l\"; rules = ( { reply = \"x\"; trigger = \"3/10m\"; "
    "actions = [ \"mode=backoff\" ]; } ); } );\n";
static const char *const keys[] = {"clock [mx.example]/m", "mode [mx.example]/m",
    "set [mx.example]/m", "source 192.0.2.1", "source 192.0.2.1 [mx.example]/m",
    "trigger 0000000000000001 queue a.example/m", "hold 1", "bucket queue [mx.example]/m",
    "mode a.example/gone", "mode nothing"};

static const struct conf *configuration(void)
{
	static struct conf *conf;
	char path[] = "/tmp/postern-fuzz-XXXXXX";
	struct buf errors;
	int fd;

	if (conf)
		return conf;
	buf_init(&errors, 65536);
	fd = mkstemp(path);
	if (fd < 0 || write(fd, text, sizeof(text) - 1) != sizeof(text) - 1)
		abort();
	close(fd);
	conf = conf_load(path, &errors);
	unlink(path);
	buf_fini(&errors);
	if (!conf)
		abort();
	return conf;
}

static void drain(struct core *core, struct core *next, int64_t now)
{
	struct core_decision d;

	while (core_next(core, &d))
		if (d.kind == DECIDE_STATE && !d.gone && next &&
		    core_restore(next, d.key, d.state, now))
			abort(); /* it does not understand itself */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int64_t now = INT64_C(1900000000000);
	struct core *core = core_new(1, now), *next;

	core_configure(core, configuration(), now);
	while (size >= 2) {
		struct str key = str_of(keys[data[0] % (sizeof(keys) / sizeof(keys[0]))]);
		size_t n = data[1] < size - 2 ? data[1] : size - 2;

		if (core_restore(core, key, (struct str){(const char *)data + 2, n}, now))
			drain(core, NULL, now);
		data += 2 + n;
		size -= 2 + n;
	}
	core_start(core, now);
	for (int i = 0; i < 50; i++) {
		drain(core, NULL, now);
		now += INT64_C(7) * 60000;
		core_tick(core, now);
	}
	next = core_new(2, now);
	core_configure(next, configuration(), now);
	core_save(core, now);
	drain(core, next, now);
	core_free(&core);
	core_free(&next);
	return 0;
}
