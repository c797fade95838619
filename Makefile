# Makefile for the retention extension (PGXS).
#
#   make && make install      build and install for the server of $(PG_CONFIG)
#   make installcheck         regress, isolation and TAP, against a running server
#   make pgtap                the pgTAP files, against a running server
#   make test                 all of these on a throw-away server, nothing installed
#   make test-unit            the parts that need no server, with sanitizers
#   make test-valgrind        the tests, with valgrind watching the servers; nightly:
#                             make test-valgrind DEBUG_SERVER=1
#   make test-assertions      the tests, on a server with assertions (nightly)
#   make reliability          all of these, and the page test/RELIABILITY.md
#   make coverage             the tests, and which lines of src they run
#   make test-crash           several hundred random faults (RETENTION_FAULTS=400)
#   make test-stress          everything at once (RETENTION_STRESS_SECONDS=120)
#   make test-fuzz            bad input for minutes (RETENTION_FUZZ_SECONDS=240)
#   make test-matrix          the tests on each supported major, and upgrades
#   make test-upgrade         upgrades alone, from each major to the next
#   make deb | dist           Debian packages, a release archive, beside the tree
#   make test-package         the packages, on a clean system
#   make test-dist            the archive, installed as from PGXN
#   make lint | indent        check everything | reformat the C files
#   make demo | bench         the main job on real data | the measurements
#
# "make WERROR=" builds on with a compiler that knows new warnings.

PG_CONFIG ?= pg_config
WERROR ?= -Werror

EXTENSION = retention
MODULE_big = retention
DATA = retention--1.0.sql
DOCS := $(sort $(wildcard migrations/*.sql))
OBJS := $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
# The server's own headers have unused parameters, and so has every SQL
# function that takes no argument.
PG_CFLAGS = -Wall -Wextra $(WERROR) -Wno-unused-parameter

# COVERAGE=1: count which lines run; see test/coverage.
ifdef COVERAGE
PG_CFLAGS += --coverage -O0
SHLIB_LINK += --coverage
endif

# := because an empty list has to look undefined to PGXS.
REGRESS := $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
PROVE_TESTS := $(sort $(wildcard test/t/*.pl))
TAP_TESTS := $(if $(PROVE_TESTS),1)

PGXS := $(shell $(PG_CONFIG) --pgxs)
pgxs_src := $(dir $(PGXS))..

# Not every package of the server has the isolation tester.
ifneq ($(wildcard $(pgxs_src)/test/isolation/pg_isolation_regress),)
ISOLATION := $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation
endif

# A server built with JIT asks for bitcode, which takes the clang it was built
# with.  Inlining is all that is lost without.
server_clang := $(shell sed -n 's/^CLANG *= *//p' $(pgxs_src)/Makefile.global)
ifeq ($(shell command -v $(server_clang) 2>/dev/null),)
override with_llvm = no
endif

include $(PGXS)

# PGXS tracks no headers: any of them rebuilds everything, which takes seconds.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h) Makefile

# pgTAP: one database for all files.  It has pgtap and nothing else; a file
# makes what it needs, the extension too, between BEGIN and ROLLBACK.
PGTAP_FILES = $(sort $(wildcard test/pgtap/*.sql))
PGTAP_DB = contrib_regression_pgtap
PG_PROVE = pg_prove

pgtap:
	$(bindir)/psql -Xqd postgres -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $(PGTAP_DB)"
	$(bindir)/createdb $(PGTAP_DB)
	$(bindir)/psql -XqAt -v ON_ERROR_STOP=1 -d $(PGTAP_DB) -c 'CREATE EXTENSION pgtap'
	PATH="$(bindir):$$PATH" $(PG_PROVE) $(PROVE_FLAGS) -d $(PGTAP_DB) $(PGTAP_FILES)
	$(bindir)/dropdb $(PGTAP_DB)

test:
	scripts/deps alembic fuzz npm monitoring
	scripts/test

test-unit:
	scripts/test unit

test-valgrind:
	DEBUG_SERVER=$(DEBUG_SERVER) scripts/valgrind

test-assertions:
	PG_CONFIG=$$(scripts/debug-server) scripts/test

reliability:
	scripts/reliability

coverage:
	COVERAGE=1 scripts/test

test-crash:
	RETENTION_FAULTS=$${RETENTION_FAULTS:-400} scripts/test test/t/031_crash.pl

test-stress:
	RETENTION_STRESS_SECONDS=$${RETENTION_STRESS_SECONDS:-120} scripts/test test/t/033_stress.pl

test-fuzz:
	scripts/deps fuzz
	RETENTION_FUZZ_SECONDS=$${RETENTION_FUZZ_SECONDS:-240} RETENTION_SMITH_QUERIES=$${RETENTION_SMITH_QUERIES:-10000} \
		scripts/test test/t/067_hostile_input.pl test/t/068_sqlsmith.pl

test-matrix:
	scripts/matrix

test-upgrade:
	scripts/matrix upgrade

.PHONY: deb dist test-package test-dist

deb:
	scripts/package

dist:
	scripts/dist

test-package:
	scripts/test-package $(MAJORS)

test-dist:
	scripts/test-dist

demo:
	scripts/demo

bench:
	test/bench/run

lint:
	test/lint/run

check-symbols:
	test/lint/run compile symbols

check-includes:
	test/lint/run includes

indent:
	test/lint/indent --write

.PHONY: pgtap test test-upgrade test-unit test-valgrind test-assertions reliability test-crash test-stress test-fuzz test-matrix coverage demo bench lint check-symbols check-includes indent
