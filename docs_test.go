package main_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEachPitfallHasATest holds docs/pitfalls.md to the tests: 32 rows, each with
// tests that bear its number and are there, and no such test without its row.
func TestEachPitfallHasATest(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("docs", "pitfalls.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`TestPitfall(\d\d)[A-Z]\w*`)
	there := make(map[string]bool)
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (TestPitfall\w+)\(t \*testing\.T\)`).FindAllStringSubmatch(string(src), -1) {
			there[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	rows := regexp.MustCompile(`(?m)^\| (\d+) \|.*\|$`).FindAllString(string(doc), -1)
	for i, row := range rows {
		cells := strings.Split(row, "|")
		if number := fmt.Sprintf(" %d ", i+1); len(cells) != 6 || cells[1] != number {
			t.Errorf("row %d has %d cells, and the number%s", i+1, len(cells)-2, cells[1])
			continue
		}
		tests := name.FindAllStringSubmatch(cells[4], -1)
		if len(tests) == 0 {
			t.Errorf("row %d names no test", i+1)
		}
		for _, m := range tests {
			named[m[0]] = true
			if m[1] != fmt.Sprintf("%02d", i+1) {
				t.Errorf("row %d names %s", i+1, m[0])
			}
			if !there[m[0]] {
				t.Errorf("row %d names %s, which is not there", i+1, m[0])
			}
		}
	}
	if len(rows) != 32 {
		t.Errorf("%d rows, want 32", len(rows))
	}
	for test := range there {
		m := name.FindStringSubmatch(test)
		if m == nil {
			t.Errorf("%s has no number", test)
			continue
		}
		if !named[test] {
			t.Errorf("%s is in no row of docs/pitfalls.md", test)
		}
	}
}
