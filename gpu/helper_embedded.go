//go:build nvml

package gpu

import _ "embed"

// helperImage is package gpu/helper as a program, built by scripts/release before this one.
//
//go:embed helper.elf
var helperImage []byte
