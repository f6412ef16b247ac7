package main_test

import (
	"debug/elf"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows is the import table: what each package may import of ours. Arrows
// point down; a package that is not here may not exist.
var arrows = map[string][]string{
	"":                             {"cli"},
	"cli":                          {"server/api", "server/engine", "server/engine/sim", "billing", "billing/sim", "budget", "server/control", "gpu", "ledger", "ledger/report", "server/listener", "internal/socket"},
	"internal/hint":                {},
	"server/control":               {"internal/socket"},
	"internal/socket":              {},
	"server/listener":              {},
	"server/listener/certtest":     {},
	"server/api":                   {"server/engine", "server/meter", "budget", "ledger"},
	"server/meter":                 {"ledger"},
	"server/engine":                {},
	"server/engine/sim":            {},
	"test/tinymodel":               {},
	"test/tinymodel/cmd/tinymodel": {"test/tinymodel"},
	"test/realengine":              {"test/tinymodel"},
	"test/harness":                 {"test/realengine"},
	"gpu":                          {},
	"gpu/helper":                   {"gpu"}, // a program apart: nothing imports it
	"billing":                      {"ledger"},
	"billing/sim":                  {},
	"budget":                       {"ledger"},
	"ledger":                       {},
	"ledger/report":                {"ledger"},
	"test/torture":                 {"billing/sim", "ledger"}, // it knows the product from outside
	"test/bench/mock":              {},
	"test/bench/load":              {"test/bench/mock"},
	"test/bench/compare":           {"test/bench/load", "test/bench/mock"},
}

func TestImportsPointDown(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".")
		allowed, known := arrows[pkg]
		if !known {
			t.Errorf("%s: package %q is not in the import table", path, pkg)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			if ours, ok := strings.CutPrefix(name, "spotinference/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s: not in the import table", path, ours)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOnlyTheStandardLibraryKnowsC: with a C compiler at hand, Go's own net and
// os/user link against the system's library; nothing else may.
func TestOnlyTheStandardLibraryKnowsC(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f", "{{if and .CgoFiles (not .Standard)}}{{.ImportPath}}{{end}}", ".")
	list.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	if names := strings.Fields(string(out)); len(names) > 0 {
		t.Errorf("packages that need a C compiler: %v", names)
	}
}

// TestTheBinaryIsStatic builds as on a machine without a C compiler: one file
// that needs no loader and no library.
func TestTheBinaryIsStatic(t *testing.T) {
	// go build would link anew each time; go run keeps what it linked.
	dir := t.TempDir()
	build := exec.Command("go", "run", "-exec", "cp -t '"+dir+"'", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	f, err := elf.Open(filepath.Join(dir, "spotinference"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary has a %v: it is not static", p.Type)
		}
	}
}
