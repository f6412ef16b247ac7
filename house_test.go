package main_test

import (
	"debug/elf"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows is the import table: what each package may import of ours. Arrows point down,
// and an arrow allows all that lies below its target, too; a package that is not here
// may not exist. Any package may import those of everyone.
var arrows = map[string][]string{
	"":                   {"cli"},
	"cli":                {"server", "server/control", "ledger/report", "billing", "budget"},
	"server":             {"server/listener", "server/control", "server/api", "server/engine", "server/engine/sim", "billing", "billing/sim"},
	"server/listener":    {"server/refusal", "internal/socket"},
	"server/control":     {"internal/socket", "ledger"},
	"server/api":         {"server/refusal", "server/queue"},
	"server/refusal":     {"server/meter", "budget"},
	"server/meter":       {"ledger"},
	"server/queue":       {"ledger"}, // for the states of an engine
	"server/engine":      {"gpu", "server/queue", "ledger"},
	"server/engine/sim":  {},
	"budget":             {"ledger"},
	"billing":            {"billing/command", "billing/hyperstack", "billing/runpod", "billing/vast", "billing/verda"},
	"billing/command":    {"billing/api"},
	"billing/hyperstack": {"billing/api"},
	"billing/runpod":     {"billing/api"},
	"billing/vast":       {"billing/api"},
	"billing/verda":      {"billing/api"},
	"billing/api":        {"internal/provider", "ledger"},
	"billing/sim":        {},
	"ledger/report":      {"ledger"},
	"ledger":             {},
	"gpu":                {},
	"internal/socket":    {},
	"internal/provider":  {},
	"internal/loopback":  {},
	"internal/hint":      {},

	// Programs apart, and what is there for tests: the product imports none of it.
	"gpu/helper":                   {"gpu"},
	"billing/rig":                  {"billing/api", "billing/sim"},
	"ledger/ledgertest":            {"ledger"},
	"server/listener/certtest":     {},
	"test/bench/compare":           {"test/bench/load"},
	"test/bench/load":              {"test/bench/mock"},
	"test/bench/mock":              {},
	"test/realengine":              {"test/tinymodel"},
	"test/tinymodel":               {},
	"test/tinymodel/cmd/tinymodel": {"test/tinymodel"},
	"test/tools/reference":         {"cli", "gpu"},
	"test/harness":                 {"test/realengine"},
	"test/torture":                 {"billing/sim", "ledger"}, // it knows the product from outside
	"test/agents":                  {"billing/sim", "test/tinymodel"},
}

// everyone are the packages that all may import.
var everyone = []string{"internal/hint", "internal/loopback"}

// below is all that a package may import.
func below(pkg string) map[string]bool {
	all := map[string]bool{}
	for todo := slices.Clone(arrows[pkg]); len(todo) > 0; todo = todo[1:] {
		if !all[todo[0]] {
			all[todo[0]] = true
			todo = append(todo, arrows[todo[0]]...)
		}
	}
	for _, p := range everyone {
		all[p] = true
	}
	return all
}

// house is the non-test Go files of this module, by their path.
func house(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(".", func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && at != "." {
			if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil { // a module of its own
				return filepath.SkipDir
			}
			if strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules" {
				return filepath.SkipDir
			}
		}
		if strings.HasSuffix(at, ".go") && !strings.HasSuffix(at, "_test.go") {
			f, err := parser.ParseFile(fileSet, at, nil, parser.SkipObjectResolution)
			files[filepath.ToSlash(at)] = f
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var fileSet = token.NewFileSet()

// imports are the packages of ours that a file imports.
func imports(t *testing.T, f *ast.File) (ours []string) {
	t.Helper()
	for _, imp := range f.Imports {
		name, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := strings.CutPrefix(name, "spotinference/"); ok {
			ours = append(ours, p)
		}
	}
	return ours
}

// packageOf is the package of a file, "" for the root.
func packageOf(file string) string {
	return strings.TrimPrefix(path.Dir(file), ".")
}

func TestImportsPointDown(t *testing.T) {
	seen := map[string]bool{}
	for file, f := range house(t) {
		pkg := packageOf(file)
		if _, known := arrows[pkg]; !known {
			t.Errorf("%s: package %q is not in the import table", file, pkg)
			continue
		}
		seen[pkg] = true
		allowed := below(pkg)
		for _, p := range imports(t, f) {
			if !allowed[p] {
				t.Errorf("%s imports %s: not in the import table", file, p)
			}
		}
	}
	for pkg := range arrows {
		if !seen[pkg] {
			t.Errorf("the import table has %q, which is not there", pkg)
		}
		if below(pkg)[pkg] && !slices.Contains(everyone, pkg) {
			t.Errorf("the import table leads from %q back to it", pkg)
		}
	}
}

// TestTopLevelFoldersFormNoCircle: seen from afar, where a folder is one thing with all
// that lies in it, imports point one way, too.
func TestTopLevelFoldersFormNoCircle(t *testing.T) {
	top := func(pkg string) string { name, _, _ := strings.Cut(pkg, "/"); return name }
	uses := map[string]map[string]string{} // folder → folder → a file that shows it
	for file, f := range house(t) {
		from := top(packageOf(file))
		for _, p := range imports(t, f) {
			if to := top(p); to != from {
				if uses[from] == nil {
					uses[from] = map[string]string{}
				}
				uses[from][to] = file + " imports " + p
			}
		}
	}
	var walk func(trail []string)
	walk = func(trail []string) {
		for _, to := range slices.Sorted(maps.Keys(uses[trail[len(trail)-1]])) {
			if at := slices.Index(trail, to); at >= 0 {
				if at == 0 {
					t.Errorf("a circle of folders: %s → %s (%s)", strings.Join(trail, " → "), to, uses[trail[len(trail)-1]][to])
				}
				continue
			}
			walk(append(slices.Clip(trail), to))
		}
	}
	for from := range uses {
		walk([]string{from})
	}
}

// TestTheHouseIsReadable: no function is longer than a reader can hold, main only
// starts, and the root has few files.
func TestTheHouseIsReadable(t *testing.T) {
	const maxFunction, maxMain, maxRoot = 100, 40, 6
	for file, f := range house(t) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := fileSet.Position(fn.End()).Line - fileSet.Position(fn.Pos()).Line + 1; n > maxFunction {
				t.Errorf("%s: %s has %d lines, more than %d", file, fn.Name.Name, n, maxFunction)
			}
		}
		if file == "main.go" {
			if n := fileSet.Position(f.FileEnd).Line; n > maxMain {
				t.Errorf("main.go has %d lines, more than %d", n, maxMain)
			}
		}
	}
	root, err := filepath.Glob("*.go")
	if err != nil || len(root) > maxRoot {
		t.Errorf("%d Go files in the root, more than %d: %v", len(root), maxRoot, root)
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
