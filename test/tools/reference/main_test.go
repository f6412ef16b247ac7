package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/cli"
	"spotinference/gpu"
	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/refusal"
)

const docs = "../../../docs"

// TestPagesAreCurrent: what go generate ./... would write is what is there.
func TestPagesAreCurrent(t *testing.T) {
	for _, part := range tables {
		page, err := os.ReadFile(filepath.Join(docs, part.page))
		if err != nil {
			t.Fatal(err)
		}
		want, err := replace(page, part.name, part.write())
		if err != nil {
			t.Errorf("%s: %v", part.page, err)
			continue
		}
		if string(want) != string(page) {
			t.Errorf("docs/%s is not as its tables have it: run go generate ./...", part.page)
		}
	}
}

// TestNothingIsMissing: each flag, metric, event, state, path and refusal is on its page, with a text.
func TestNothingIsMissing(t *testing.T) {
	on := func(page, what, text string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(docs, page))
		if err != nil {
			t.Fatal(err)
		}
		if text == "" || !strings.Contains(string(b), what) {
			t.Errorf("%s is not in docs/%s, or has no text", what, page)
		}
	}
	for _, f := range cli.Flags() {
		on("configuration.md", "| `--"+f.Name+"` |", f.Help)
	}
	for _, m := range api.MetricsTable() {
		on("metrics.md", "| `"+m.Name+"` |", m.Help)
	}
	for _, m := range gpu.MetricsTable() {
		on("metrics.md", "| `"+m.Name+"` |", m.Help)
	}
	for _, e := range ledger.EventTypes() {
		on("events.md", "| `"+string(e.Kind)+"` | `"+e.Subject+"` |", e.Help)
	}
	for _, s := range ledger.EngineStates() {
		on("events.md", "| `"+string(s.Name)+"` |", s.Help)
	}
	for _, r := range api.Routes() {
		on("api.md", "| `"+r.Path+"` |", r.Does)
	}
	for _, r := range refusal.All() {
		on("api.md", "| "+r.When+" |", r.Message)
	}
}

func TestReplace(t *testing.T) {
	page := "before\n<!-- generated: x -->\nold\n<!-- end -->\nafter\n"
	got, err := replace([]byte(page), "x", "new")
	if want := "before\n<!-- generated: x -->\n\nnew\n<!-- end -->\nafter\n"; err != nil || string(got) != want {
		t.Errorf("replace = %q, %v, want %q", got, err, want)
	}
	for _, broken := range []string{"no mark", "<!-- generated: x -->\nno end"} {
		if got, err := replace([]byte(broken), "x", "new"); err == nil {
			t.Errorf("replace in %q = %q", broken, got)
		}
	}
}
