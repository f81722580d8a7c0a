# Everything a contributor or CI runs. Each target installs what it needs into this folder; nothing is global.
SHELL := /bin/sh
CARGO ?= cargo
MODEL ?= offline
CLAUDE_VERSION ?= latest
KILLS ?= 30
BYTES ?= 1GB
TREES ?= 10

.PHONY: help demo run test conformance clients documents book deploy check fmt deny bench chaos build setup clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

setup: ## install the pinned Claude Code versions into .tools/, and Debian packages the tests use when they are missing
	@harness/packages.sh
	@harness/claude/install.sh latest >/dev/null
	@harness/claude/install.sh 2.1.197 >/dev/null

build:
	$(CARGO) build --workspace --bins --locked

demo: ## a whole farm on this machine: three real claude sessions side by side (MODEL=real for the real model)
	$(CARGO) build --workspace --bins --locked
	@claude="$$(harness/claude/install.sh $(CLAUDE_VERSION))" && \
	  target/debug/muster-demo --model $(MODEL) --claude "$$claude" --muster target/debug/muster

run: ## `muster up` in this repository
	$(CARGO) run --locked --bin muster -- up

test: setup ## what CI runs: format, lints, documents, every test, the protocol's own suite, other people's clients
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	$(MAKE) documents conformance clients

conformance: ## the official MCP conformance suite, both requirement sets, against the gateway's HTTP
	@mcp-gateway/conformance/run.sh

clients: ## every tool with the Python, TypeScript and Inspector MCP clients, over HTTP and stdio
	$(CARGO) build --workspace --bins --locked
	@mcp-gateway/clients/run.sh

documents: ## what can be checked of documents and the install script without building anything
	@docs/check/errors.py --check
	@docs/check/links.py
	@docs/check/security.py
	@deploy/tests/install.sh

book: documents ## the book of the documentation, its commands and its quick start
	$(CARGO) build --workspace --bins --locked
	@docs/check.sh target/debug/muster target/debug/scripted-claude

deploy: ## linters over scripts, units, charts and roles; backup and restore of a real controller
	$(CARGO) build --workspace --bins --locked
	@deploy/tests/static.sh
	@deploy/tests/units.sh
	@deploy/tests/backup.sh target/debug/muster target/debug/scripted-claude
	@deploy/claude-plugin/validate.sh

check: test deny book deploy ## test, and licences, bans, the book, what puts muster on machines

fmt:
	$(CARGO) fmt --all

deny: ## licences and bans of the dependency graph
	@test -x .tools/cargo/bin/cargo-deny || $(CARGO) install --locked --root .tools/cargo cargo-deny@0.20.2
	PATH="$(CURDIR)/.tools/cargo/bin:$$PATH" $(CARGO) deny check bans licenses sources

bench: ## figures with their baselines in the same run
	$(CARGO) build --workspace --bins --release --locked
	@target/release/muster-bench --muster target/release/muster

chaos: ## processes killed, connections cut, disks filled under load (KILLS of each, BYTES, SEED; CLAUDE=latest: the real one)
	$(CARGO) build --workspace --bins --release --locked
	@target/release/muster-chaos --kills $(KILLS) $(if $(SEED),--seed $(SEED)) \
	  $(if $(CLAUDE),--claude $(CLAUDE),--bytes $(BYTES) --worktree-rounds $(TREES))

clean: ## remove what the targets installed and built
	rm -rf target .tools .demo
