# make builds the release, one static file; scripts/release tells how.
GO  ?= go
BIN ?= spotinference

.PHONY: release clean

release:
	GO=$(GO) scripts/release $(BIN)

clean:
	rm -f gpu/helper.elf $(BIN)
