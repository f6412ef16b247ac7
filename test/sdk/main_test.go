// Package sdk holds the official SDKs of OpenAI and Anthropic, for Go and for Node,
// against the program in front of an engine. It is a module of its own, so that what
// the SDKs need is nothing that the program needs.
package sdk_test

import (
	"testing"

	"spotinference/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
