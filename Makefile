# Coxswain's commands. `make up` is the first to try; `make help` lists all.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
STATE ?= .cluster

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

up: build ## make a one-node cluster on this machine and run a pod in it
	$(BIN)/ctl up --state $(STATE)

down: ## remove the cluster with everything it left on this machine
	@if [ -x $(BIN)/ctl ]; then $(BIN)/ctl down --state $(STATE); else echo "nothing is built, so nothing runs"; fi

test: lint unit e2e ## run all tests

# Always the whole workspace, narrowed down by target: the features of dependencies follow from the packages chosen, and
# with `-p` every dependency would be built again.
TOOL := $(CARGO) build --release --locked --workspace --exclude pause --bin
CLUSTER_TESTS := $(patsubst integration-tests/tests/%.rs,--test %,$(wildcard integration-tests/tests/*.rs))
TOOLS := $(patsubst integration-tests/src/bin/%/,--bin %,$(wildcard integration-tests/src/bin/*/))

PARTS ?= node api scheduler store
bench: build ## measure speed and memory: name, value, unit; PARTS="node api" chooses
	@./scripts/install-test-tools
	$(if $(filter-out scheduler,$(PARTS)),$(TOOL) bench)
	$(if $(filter-out scheduler,$(PARTS)),@COXSWAIN_BIN=$(abspath $(BIN)) $(BIN)/bench $(filter-out scheduler,$(PARTS)))
	$(if $(filter scheduler,$(PARTS)),@$(CARGO) bench --locked -q -p scheduler --bench decisions)

NODES ?= 1000
PODS ?= 5000
scale: build ## measure pods bound a second: make scale NODES=n PODS=m
	$(TOOL) scale
	@COXSWAIN_BIN=$(abspath $(BIN)) $(BIN)/scale $(NODES) $(PODS)

DURATION ?= 120
SEED ?=
faults: build ## three API servers under faults: make faults DURATION=seconds SEED=n
	@./scripts/install-test-tools
	$(TOOL) faults
	@COXSWAIN_BIN=$(abspath $(BIN)) $(BIN)/faults $(DURATION) $(SEED)

build: deps ## build release binaries
	$(CARGO) build --release --locked --workspace --exclude integration-tests --exclude pause
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked -p pause --target $(HOST)
	@install -m 755 $(TARGET)/$(HOST)/release/pause $(BIN)/pause

deps: ## install what is missing from Debian's packages
	@./scripts/install-deps

lint: deps ## check formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

unit: deps ## run the tests that need no cluster
	@./scripts/install-test-tools
	$(CARGO) test --locked --workspace --exclude integration-tests
	$(CARGO) test --locked --workspace $(TOOLS)

e2e: build ## run the tests on real clusters (root)
	@./scripts/install-test-tools
	$(CARGO) test --locked --workspace $(CLUSTER_TESTS) --no-run
	@sync # what the build wrote must not hold up the disk writes of the clusters
	COXSWAIN_BIN=$(abspath $(BIN)) $(CARGO) test --locked --workspace $(CLUSTER_TESTS) -- --test-threads=1

.PHONY: help up down test bench scale faults build deps lint unit e2e
