# The targets a newcomer needs: build, test, check. `make help` lists all.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 20s
SWEEP    ?= 1h
INFLATIONS ?= 100000000
TOOLS   := $(CURDIR)/bin/tools

.PHONY: help build install servers databases test race lint fuzz bench compare mirrors streams minio fleet scale sweep sweep-inflate arm check vuln man clean

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

# Another store, for those who change s3sync: five minutes to build, and four nodes of it
# need root and a network namespace. Not part of check.
$(TOOLS)/minio:
	mkdir -p $(TOOLS)
	cd /tmp && GOBIN=$(TOOLS) $(GO) install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

minio: $(TOOLS)/minio ## mirrors against minio: one node, and four of which one is killed (needs root)
	$(GO) test -c -o $(TOOLS)/s3sync.test ./s3sync
	internal/tools/minio/run.sh $(TOOLS)/minio $(TOOLS)/s3sync.test

fleet: $(TOOLS)/minio ## two gateways and 16 clients over minio on four nodes; a node and a gateway are killed (needs root)
	$(GO) test -c -o $(TOOLS)/e2e.test ./internal/e2e
	internal/tools/minio/fleet.sh $(TOOLS)/minio $(TOOLS)/e2e.test

scale: ## what large repositories in a bucket cost: prints the tables of docs/operate/scale.md and compares them
	KEDGE_SCALE=1 $(GO) test -count=1 -v -run TestScale ./s3sync

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

streams: build ## split and join side by side with bup's
	$(GO) run ./internal/compare -streams -kedge bin/kedge -scale 0.5 -runs 3

man: build ## man pages and shell completions to bin/share
	bin/kedge man bin/share/man/man1
	mkdir -p bin/share/completion
	for s in bash zsh fish; do bin/kedge completion $$s > bin/share/completion/kedge.$$s; done

# Packages and releases. The version of a package is that of the last tag; without one it
# sorts by the date of the commit. With the same commit and the same Go everything comes out
# byte for byte as elsewhere.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
TAGGED      := $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-\([0-9]*\)-g/+\1.g/')
PKG_VERSION ?= $(or $(TAGGED),0.1.0~git$(shell git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd.%h 2>/dev/null))
ARCHES      ?= amd64 arm64
HOSTARCH    := $(shell $(GO) env GOARCH)
DIST        := bin/dist

$(TOOLS)/nfpm:
	mkdir -p $(TOOLS)
	cd /tmp && GOBIN=$(TOOLS) $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0

.PHONY: dist deb rpm release reproduce test-package
dist: ## static binaries for ARCHES, their bills of materials, and what else packages hold, to bin/dist
	rm -rf $(DIST)/root && mkdir -p $(DIST)/root/completion $(DIST)/root/systemd $(DIST)/root/doc
	for a in $(sort $(HOSTARCH) $(ARCHES)); do \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$a $(GO) build -trimpath -ldflags '-s -w -X main.version=$(PKG_VERSION)' -o $(DIST)/kedge-linux-$$a ./cmd/kedge && \
	  $(GO) run ./internal/sbom $(DIST)/kedge-linux-$$a > $(DIST)/kedge-linux-$$a.cdx.json || exit 1; done
	$(DIST)/kedge-linux-$(HOSTARCH) man $(DIST)/root/man && gzip -9n $(DIST)/root/man/*
	for s in bash zsh fish; do $(DIST)/kedge-linux-$(HOSTARCH) completion $$s > $(DIST)/root/completion/kedge.$$s || exit 1; done
	install -m 0644 internal/packaging/systemd/* $(DIST)/root/systemd/
	sed -e '1,/^$$/d' -e 's|/usr/local/bin/kedge|/usr/bin/kedge|' docs/kedge-serve.service > $(DIST)/root/systemd/kedge-serve.service
	chmod 0644 $(DIST)/root/systemd/*
	install -m 0644 internal/packaging/lintian $(DIST)/root/lintian
	install -m 0644 README.md docs/server.md docs/exit-codes.md docs/json.md docs/operate/*.md internal/packaging/copyright $(DIST)/root/doc/
	cp -r examples $(DIST)/root/doc/
	printf 'kedge (%s-1) stable; urgency=medium\n\n  * See https://github.com/kedgebackup/kedge/blob/main/CHANGELOG.md\n\n -- Kedge maintainers <maintainers@kedgebackup.example>  %s\n' \
	  '$(PKG_VERSION)' "$$(LC_ALL=C date -R -u -d @$(SOURCE_DATE_EPOCH))" | gzip -9n > $(DIST)/root/doc/changelog.Debian.gz

# nfpm packs what is in one place for each architecture.
package = for a in $(ARCHES); do cp $(DIST)/kedge-linux-$$a.cdx.json $(DIST)/root/doc/kedge.cdx.json && \
	PKG_ARCH=$$a PKG_VERSION='$(PKG_VERSION)' $(TOOLS)/nfpm package -f internal/packaging/nfpm.yaml -p $(1) -t $(DIST)/ || exit 1; done

deb: dist $(TOOLS)/nfpm ## Debian packages for ARCHES, to bin/dist
	$(call package,deb)

rpm: dist $(TOOLS)/nfpm ## RPM packages for ARCHES, to bin/dist
	$(call package,rpm)

release: ## binaries, bills of materials and packages for ARCHES with SHA256SUMS, to bin/dist
	rm -rf $(DIST)
	$(MAKE) dist $(TOOLS)/nfpm
	$(call package,deb)
	$(call package,rpm)
	cd $(DIST) && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS

reproduce: ## a release of the last commit twice, the second time elsewhere and from an empty cache: both must be equal
	rm -rf bin/once bin/again && git clone -q . bin/once && git clone -q . bin/again
	$(MAKE) -C bin/once release TOOLS=$(TOOLS) PKG_VERSION='$(PKG_VERSION)'
	GOCACHE=$(CURDIR)/bin/again/cache $(MAKE) -C bin/again release TOOLS=$(TOOLS) PKG_VERSION='$(PKG_VERSION)'
	cmp bin/once/$(DIST)/SHA256SUMS bin/again/$(DIST)/SHA256SUMS
	cat bin/once/$(DIST)/SHA256SUMS
	rm -rf bin/once bin/again

test-package: $(TOOLS)/nfpm ## install, use, upgrade and remove the package of this machine; needs root and Debian
	rm -rf $(DIST)
	$(MAKE) deb ARCHES=$(HOSTARCH) PKG_VERSION='0.0.1~test'
	$(MAKE) deb ARCHES=$(HOSTARCH) PKG_VERSION='0.0.2~test'
	KEDGE_DEBS=$(CURDIR)/$(DIST) $(GO) test -count=1 -run TestDebianPackage -v ./internal/e2e

check: lint servers test race ## everything that must be green before a change lands

clean: ## remove what was built
	rm -rf bin
