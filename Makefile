# make builds the release: one static file that carries the helper, which reads
# the cards through NVML (package gpu/helper). The helper needs a C compiler to
# build, and a C library where it runs; the release needs neither.
GO  ?= go
BIN ?= spotinference

HELPER  := gpu/helper.elf

# NVML's symbols are found when they are called. A linker that binds at start by
# default would make a helper that dies at start without a driver.
LAZY := -extldflags=-Wl,-z,lazy

.PHONY: release helper clean

release: helper
	CGO_ENABLED=0 $(GO) build -tags nvml -ldflags '-s -w' -o $(BIN) .

# go knows best what is up to date. The header marks what new drivers will drop;
# which of it this driver has is asked before each call.
helper:
	CGO_ENABLED=1 CGO_CFLAGS='-O2 -Wno-deprecated-declarations' \
		$(GO) build -tags helper -ldflags '-s -w $(LAZY)' -o $(HELPER) ./gpu/helper

clean:
	rm -f $(HELPER) $(BIN)
