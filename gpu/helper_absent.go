//go:build !nvml

package gpu

// helperImage is empty: a plain go build carries no helper.
var helperImage []byte
