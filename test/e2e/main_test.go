package e2e_test

import (
	"testing"

	"spotinference/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
