// Command reference writes the parts of docs/ that the program's own tables know: flags
// and settings, metrics, events and refusals. Run it by go generate ./... in the
// repository; its test fails while a page is not as it would write it.
//
// A page is written by hand but for what stands between two marks:
//
//	<!-- generated: flags -->
//	<!-- end -->
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:generate go run . ../../../docs

// tables are the generated parts, by the name in their mark, and the page that has each.
var tables = []struct {
	page, name string
	write      func() string
}{
	{"configuration.md", "flags", flags},
	{"metrics.md", "metrics", metrics},
	{"events.md", "events", events},
	{"events.md", "states", states},
	{"api.md", "routes", routes},
	{"api.md", "refusals", refusals},
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: reference DOCS")
		os.Exit(2)
	}
	for _, t := range tables {
		path := filepath.Join(os.Args[1], t.page)
		page, err := os.ReadFile(path)
		if err == nil {
			page, err = replace(page, t.name, t.write())
		}
		if err == nil {
			err = os.WriteFile(path, page, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "reference: %s: %v\n", t.page, err)
			os.Exit(1)
		}
	}
}

// replace puts text between the marks of the name.
func replace(page []byte, name, text string) ([]byte, error) {
	begin, end := []byte("<!-- generated: "+name+" -->\n"), []byte("<!-- end -->\n")
	at := bytes.Index(page, begin)
	if at < 0 {
		return nil, fmt.Errorf("no mark %q", bytes.TrimSpace(begin))
	}
	at += len(begin)
	length := bytes.Index(page[at:], end)
	if length < 0 {
		return nil, fmt.Errorf("no mark %q after %q", bytes.TrimSpace(end), bytes.TrimSpace(begin))
	}
	return bytes.Join([][]byte{page[:at], []byte("\n" + text + "\n"), page[at+length:]}, nil), nil
}

// table is a Markdown table. A cell may hold any text.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + strings.ReplaceAll(strings.ReplaceAll(c, "|", `\|`), "\n", " ") + " ")
		}
		b.WriteString("|\n")
	}
	line(head)
	b.WriteString(strings.Repeat("| --- ", len(head)) + "|\n")
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

// code is text as code, "" for none.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
