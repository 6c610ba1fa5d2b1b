# The targets a newcomer needs: build, test, check. `make help` lists all.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 20s
SWEEP    ?= 1h
INFLATIONS ?= 100000000
TOOLS   := $(CURDIR)/bin/tools

.PHONY: help build install servers databases test race lint fuzz bench compare mirrors sweep sweep-inflate arm check vuln man clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-13s %s\n", $$1, $$2}' Makefile

build: ## the static binary, bin/kedge
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/kedge ./cmd/kedge

install: build ## install the binary to PREFIX/bin (default /usr/local)
	install -D -m 0755 bin/kedge $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/kedge

test: ## all tests; needs git, bup, acl, attr (see .ci/run)
	$(GO) test -timeout 30m ./...

# What a check runs under the race detector: two minutes. RACE=./... is all of it; the
# rest is ./repo (9 minutes on two busy processors), ./cmd/kedge (7), ./repo/save (4), and
# what talks to servers.
RACE ?= ./chunk ./index ./internal/fsx/... ./pack/... ./repo/meta ./repo/repotest ./repo/storetest ./repo/restore

race: ## the tests of RACE under the race detector
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m $(RACE)

$(TOOLS)/stamp: internal/tools/go.mod
	mkdir -p $(TOOLS)
	cd internal/tools && GOBIN=$(TOOLS) $(GO) install tool
	touch $@

# The S3 server that tests of mirrors talk to; without it they are skipped.
$(TOOLS)/versitygw:
	mkdir -p $(TOOLS)
	cd /tmp && GOBIN=$(TOOLS) $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0

# The databases that tests dump and bring back; without them those tests are skipped, unless
# KEDGE_TEST_PROGRAMS=required. Tests start servers of their own.
DATABASES := postgresql mariadb-server sqlite3 redis-server redis-tools

databases:
	@missing=; for p in $(DATABASES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	  test -z "$$missing" || $(if $(filter 0,$(shell id -u)),,sudo) apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends $$missing

servers: $(TOOLS)/versitygw databases ## build and install the servers that tests run against

lint: $(TOOLS)/stamp ## gofmt, vet, staticcheck, golangci-lint, dead code
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/golangci-lint run ./...
	@test -z "$$($(TOOLS)/deadcode -test ./...)" || { $(TOOLS)/deadcode -test ./...; exit 1; }

vuln: $(TOOLS)/stamp ## known vulnerabilities in what the binary reaches (needs a network)
	$(TOOLS)/govulncheck ./...

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p || exit 1; \
	  done; done

sweep: ## the long crash, fault and damage sweeps, for at most SWEEP
	KEDGE_SWEEP=full $(GO) test -timeout $(SWEEP) -run 'Sweep|Crash|Power|Damage|Matrix|Resume|Kills' ./...

sweep-inflate: ## INFLATIONS streams, most of them wrong, to our inflater and the standard library's (and a million to zlib)
	$(GO) test ./pack -timeout 0 -v -run 'InflateSweep|LikeZlib' -inflations $(INFLATIONS)

arm: ## the tests of chunk and pack as arm64; needs qemu-aarch64-static
	CGO_ENABLED=0 GOARCH=arm64 $(GO) test -short -timeout 1h -exec qemu-aarch64-static ./chunk ./pack

bench: ## Go benchmarks of the hot functions
	$(GO) test -run '^$$' -bench . -benchmem ./chunk ./pack/... ./index ./repo/...

compare: build ## side by side with bup, restic and borg, whichever are installed
	$(GO) run ./internal/compare -kedge bin/kedge

mirrors: build $(TOOLS)/versitygw ## mirrors side by side with s3cmd and rclone, whichever are installed
	PATH=$$PATH:$(TOOLS) $(GO) run ./internal/compare -s3 -kedge bin/kedge -scale 0.2 -runs 3

man: build ## man pages and shell completions to bin/share
	bin/kedge man bin/share/man/man1
	mkdir -p bin/share/completion
	for s in bash zsh fish; do bin/kedge completion $$s > bin/share/completion/kedge.$$s; done

check: lint servers test race ## everything that must be green before a change lands

clean: ## remove what was built
	rm -rf bin
