# Coxswain's commands. `make up` is the first to try; `make help` lists all.

CARGO ?= cargo
BIN := target/release
PAUSE_TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
STATE ?= .cluster

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

deps: ## install what is missing from Debian's packages
	@./scripts/install-deps

build: deps ## build release binaries
	$(CARGO) build --release --locked --workspace --bins
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked -p pause --target $(PAUSE_TARGET)
	@cp target/$(PAUSE_TARGET)/release/pause $(BIN)/pause

up: build ## make a one-node cluster on this machine and run a pod in it
	$(BIN)/ctl up --state $(STATE)

down: ## remove the cluster with everything it left on this machine
	@if [ -x $(BIN)/ctl ]; then $(BIN)/ctl down --state $(STATE); else echo "nothing is built, so nothing runs"; fi

.PHONY: help deps build up down
