# Postern. One makefile, no configure step: `make help` lists the targets.
BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
VERSION := 0.1.0
PREFIX ?= /usr
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wcast-qual -Wwrite-strings -Wundef -Wvla -Wformat=2 -fno-common
HARDEN := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
SAN ?=
OPT := $(if $(SAN),-O1 -fno-omit-frame-pointer -fsanitize=$(SAN) -DPOSTERN_SANITIZED=1,-O2 $(HARDEN))
# Warnings are errors; WERROR= (empty) for a compiler we do not know.
WERROR ?= -Werror
CFLAGS_ALL := -std=gnu17 -D_GNU_SOURCE -DPOSTERN_VERSION='"$(VERSION)"' -g $(OPT) $(WARN) $(WERROR) -I. $(CFLAGS)
LDFLAGS_ALL := -pie -Wl,-z,relro,-z,now -pthread $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)

PROGRAMS := master smtpd qmgr smtp-out resolver bouncer ctl
# folder -> binary name (the others are named as their folder)
BIN_master := postern-master
BIN_ctl := posternctl
binary = $(or $(BIN_$(1)),$(1))

LIBS_smtpd := -lssl -lcrypto
LIBS_qmgr := -llmdb
LIBS_smtp-out := -lssl -lcrypto
LIBS_resolver := -lldns
LIBS_ctl := -lm
LIBS := -lpcre2-8 -lconfig -lidn2 -ljansson -lseccomp -lssl -lcrypto

# folders of others that a program is linked with: the simulation and the core it plays
ALSO_ctl := sim qmgr/core

sources = $(wildcard $(foreach d,$(1) $(1)/core $(ALSO_$(1)),$(d)/*.c))
objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
COMMON_LIB := $(BUILD)/libcommon.a

.PHONY: all help tools units fuzzers unit unit-valgrind check check-long e2e fuzz bench bench-peers bench-queues \
	bench-tenants lint format clean install install-conf man man-lint
all: $(foreach p,$(PROGRAMS),$(BUILD)/bin/$(call binary,$(p))) tools

help:
	@sed -n 's/^## //p' Makefile

$(COMMON_LIB): $(call objects,$(call sources,common))
	@rm -f $@; ar rcs $@ $^

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

# Fuzz targets: everything once more, by clang with coverage and sanitizers.
FUZZ_SAN := -fno-sanitize-recover=undefined -fsanitize=address,undefined
FUZZ_LIB := $(BUILD)/fuzz/libcommon.a
$(BUILD)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	clang -std=gnu17 -D_GNU_SOURCE -DPOSTERN_VERSION='"$(VERSION)"' -DPOSTERN_SANITIZED=1 -g -O1 -I. \
	    $(FUZZ_SAN),fuzzer-no-link -MMD -MP -c -o $@ $<
$(FUZZ_LIB): $(patsubst %.c,$(BUILD)/fuzz/obj/%.o,$(call sources,common))
	@rm -f $@; ar rcs $@ $^

define PROGRAM
OBJ_$(1) := $$(call objects,$$(call sources,$(1)))
$$(BUILD)/bin/$$(call binary,$(1)): $$(OBJ_$(1)) $$(COMMON_LIB)
	@mkdir -p $$(@D)
	$$(CC) $$(LDFLAGS_ALL) -o $$@ $$^ $$(LIBS_$(1)) $$(LIBS)
# Unit tests of this program: tests/unit/PROGRAM/test_*.c, linked with all of it but main.o.
$$(BUILD)/tests/unit/$(1)/%: $$(BUILD)/obj/tests/unit/$(1)/%.o $$(filter-out %/main.o,$$(OBJ_$(1))) $$(COMMON_LIB)
	@mkdir -p $$(@D)
	$$(CC) $$(LDFLAGS_ALL) -o $$@ $$^ $$(LIBS_$(1)) -lcmocka $$(LIBS)
$$(BUILD)/tests/fuzz/$(1)/%: $$(BUILD)/fuzz/obj/tests/fuzz/$(1)/%.o $$(filter-out %/main.o,$$(patsubst %.c,$$(BUILD)/fuzz/obj/%.o,$$(call sources,$(1)))) $$(FUZZ_LIB)
	@mkdir -p $$(@D)
	clang $$(FUZZ_SAN),fuzzer -o $$@ $$^ $$(LIBS_$(1)) $$(LIBS) -pthread
endef
$(foreach p,$(PROGRAMS),$(eval $(call PROGRAM,$(p))))
$(BUILD)/tests/unit/common/%: $(BUILD)/obj/tests/unit/common/%.o $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LIBS)
$(BUILD)/tests/fuzz/common/%: $(BUILD)/fuzz/obj/tests/fuzz/common/%.o $(FUZZ_LIB)
	@mkdir -p $(@D)
	clang $(FUZZ_SAN),fuzzer -o $@ $^ $(LIBS) -pthread

# Load generator, sink and other helpers of tests and bench: one program a file in tests/bench/.
TOOLS := $(patsubst tests/bench/%.c,$(BUILD)/bin/%,$(wildcard tests/bench/*.c))
tools: $(TOOLS)
$(BUILD)/bin/%: $(BUILD)/obj/tests/bench/%.o $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# The manual: pages as they are, and postern.conf(5) with the options' part from config.def.
$(BUILD)/bin/genman: $(BUILD)/obj/doc/genman.o $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
$(BUILD)/man/%: doc/%
	@mkdir -p $(@D)
	@cp $< $@
$(BUILD)/man/postern.conf.5: doc/postern.conf.5.in $(BUILD)/bin/genman
	@mkdir -p $(@D)
	$(BUILD)/bin/genman < $< > $@.new && mv $@.new $@
MAN_PAGES := $(patsubst doc/%,$(BUILD)/man/%,$(wildcard doc/*.[158]) doc/postern.conf.5)
## make man            the manual, into build/man
man: $(MAN_PAGES)
man-lint: man
	@mandoc -Tlint -Wwarning $(MAN_PAGES)

UNITS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/*/test_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(wildcard tests/fuzz/*/fuzz_*.c))
units: $(UNITS)
fuzzers: $(FUZZERS)

## make               build everything into build/bin
## make unit          build and run the unit and property tests
unit: units
	@tests/run-units $(UNITS)

## make check          everything that CI runs: both compilers, lint, sanitized units, fuzz, end to end
check:
	@python3 tests/check.py

## make check-long     the rest: valgrind, hours of fuzzing, 1000 kills, end to end on a sanitizer build
check-long:
	@python3 tests/check.py --long

## make e2e            the end-to-end tests (E2E="test_x.py ..." for some of them)
e2e: all
	@python3 tests/e2e/run.py $(E2E)

unit-valgrind: units
	@tests/run-units --valgrind $(UNITS)

## make fuzz           each fuzz target for SECONDS (20)
fuzz:
	@python3 tests/fuzz.py $(or $(SECONDS),20)

## make bench          rates, ratios, growth and restart of one run (BENCH_ARGS="--grow 0": rates only)
bench: all
	@python3 tests/bench/bench.py $(BENCH_ARGS)

## make bench-peers    the same, and Postfix on the same machine
bench-peers: all
	@python3 tests/bench/bench.py --peers $(BENCH_ARGS)

## make bench-queues    cost of 100,000 queues that wait for limits
bench-queues: all
	@python3 tests/bench/queues.py $(BENCH_ARGS)

## make bench-tenants  commands on one of 10,000 tenants while mail flows
bench-tenants: all
	@python3 tests/bench/tenants.py $(BENCH_ARGS)

## make lint           house rules that a script can check
lint:
	@tests/lint

## make format         clang-format over all sources
format:
	clang-format -i $(wildcard */*.c */*.h qmgr/core/*.[ch] tests/*/*.c tests/*/*/*.[ch])

SBIN := $(DESTDIR)$(PREFIX)/sbin
LIBEXEC := $(DESTDIR)$(PREFIX)/libexec/postern
MAN := $(DESTDIR)$(PREFIX)/share/man
## make install        into DESTDIR and PREFIX (/usr); existing postern.conf and providers/*.conf stay
install: all man install-conf
	install -d $(SBIN) $(LIBEXEC) $(MAN)/man5 $(MAN)/man8 \
	    $(DESTDIR)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/sysusers.d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d
	install -m 755 $(BUILD)/bin/postern-master $(BUILD)/bin/posternctl $(SBIN)
	install -m 755 $(foreach p,smtpd qmgr smtp-out resolver bouncer,$(BUILD)/bin/$(p)) $(LIBEXEC)
	install -m 644 $(BUILD)/man/*.5 $(MAN)/man5
	install -m 644 $(BUILD)/man/*.8 $(MAN)/man8
	install -m 644 conf/postern.service $(DESTDIR)/lib/systemd/system/postern.service
	install -m 644 conf/postern.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/postern.conf
	install -m 644 conf/postern.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/postern.conf

## make install-conf   only what lies in /etc/postern
install-conf:
	install -d $(DESTDIR)/etc/postern/providers
	install -m 644 conf/postern.conf $(DESTDIR)/etc/postern/postern.conf.example
	install -m 644 conf/simulation.conf $(DESTDIR)/etc/postern/simulation.conf.example
	test -e $(DESTDIR)/etc/postern/postern.conf || \
	    install -m 644 conf/postern.conf $(DESTDIR)/etc/postern/postern.conf
	for file in conf/providers/*.conf; do \
	    test -e $(DESTDIR)/etc/postern/providers/$${file##*/} || \
	    install -m 644 $$file $(DESTDIR)/etc/postern/providers/ || exit 1; done

clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(shell find $(BUILD)/obj $(BUILD)/fuzz/obj -type f -name '*.d' 2>/dev/null)
