# The commands of pg_cache. Each is a script in scripts/, which says more.

PG_CONFIG ?= pg_config
KEEP ?= 0
MINUTES ?= 10
CHAOS ?=

.PHONY: help setup build install uninstall demo test test-all lint bench chaos clean

help:
	@echo 'make demo [KEEP=1]              shows it at work on 336,776 flights; KEEP=1 keeps the servers'
	@echo 'make test                       everything that proves it; PostgreSQL 15, parts on 18'
	@echo 'make test-all                   the same and the regression suite on 14, 16 and 17'
	@echo 'make install PG_CONFIG=…        a release build into that PostgreSQL'
	@echo 'make uninstall PG_CONFIG=…      removes it'
	@echo 'make setup                      installs what is missing to build and test'
	@echo 'make build PG_CONFIG=…          a release build, not installed'
	@echo 'make lint                       format and warnings'
	@echo 'make bench                      what a hit, a miss and the queries cost'
	@echo 'make chaos [MINUTES=10]         the oracle, for as long as wanted; CHAOS=… for its options'
	@echo 'make clean                      removes target/'

setup:
	@scripts/setup

build:
	@scripts/build release '$(PG_CONFIG)'

install:
	@PG_CONFIG='$(PG_CONFIG)' DESTDIR='$(DESTDIR)' scripts/install

uninstall:
	@PG_CONFIG='$(PG_CONFIG)' DESTDIR='$(DESTDIR)' scripts/install --uninstall

demo:
	@KEEP='$(KEEP)' scripts/demo

test:
	@scripts/test

test-all:
	@scripts/test --all

lint:
	@scripts/lint

bench:
	@scripts/bench

chaos:
	@scripts/with-prefix $(if $(findstring --without,$(CHAOS)),,--release) 15 cargo run --quiet --locked --package pg_cache_chaos -- \
		--minutes '$(MINUTES)' $(CHAOS)

clean:
	cargo clean
