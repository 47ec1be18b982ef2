# make demo    run the whole story once, in one process
# make test    run every test, those with real peers included
# make check   formatting, vet, static analysis, builds without cgo
# make bench   run every benchmark, each beside its baseline
# make fuzz    run every fuzz target for FUZZTIME (default 10s)

GO       ?= go
FUZZTIME ?= 10s
BENCH    ?= .

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.8.0

# The in-process reference TPM needs a C compiler and the OpenSSL headers. The
# race detector needs cgo. Both are left out where they can't be had.
CGO  = $(shell [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null 2>&1 && echo yes)
SSL  = $(shell echo '\#include <openssl/evp.h>' | $$($(GO) env CC) -E - >/dev/null 2>&1 && echo yes)
RACE = $(if $(CGO),-race)
TAGS = $(if $(and $(CGO),$(SSL)),-tags mssim)

.PHONY: demo test check vuln bench fuzz deps

demo:
	@.ci/deps demo
	@$(GO) run ./examples/quickstart

deps:
	@.ci/deps test

test: deps
	MOORING_REQUIRE_PEERS=1 $(GO) test $(RACE) $(TAGS) -timeout 20m ./...

check:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted" >&2; exit 1; }
	$(GO) build ./...
	CGO_ENABLED=0 $(GO) build ./...
	CGO_ENABLED=0 GOARCH=arm64 $(GO) build ./...
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# The vulnerability database is asked over the network; where it can't be
# reached that is said and is no failure.
vuln:
	@.ci/vuln $(GOVULNCHECK)

bench: deps
	$(GO) test $(TAGS) -run '^$$' -bench '$(BENCH)' -benchmem -timeout 2h ./...

fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$package || exit 1; \
		done; \
	done
