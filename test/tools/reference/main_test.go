package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/cli"
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

// TestEveryFlagHasAHelp: what is generated says something of each flag.
func TestEveryFlagHasAHelp(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(docs, "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range cli.Flags() {
		if f.Help == "" || !strings.Contains(string(page), "| `--"+f.Name+"` |") {
			t.Errorf("--%s of %v: not in docs/configuration.md, or without a text", f.Name, f.Of)
		}
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
