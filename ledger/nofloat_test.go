package ledger_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Money never is a float on its way from a reply to the gate and the reports: no
// expression of these packages is one, nor holds one, nor calls for one.
func TestNoFloats(t *testing.T) {
	t.Parallel()
	packages := []string{"spotinference/ledger", "spotinference/budget", "spotinference/billing"}
	list := exec.Command("go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}} {{.Dir}}"}, packages...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	export, dirs := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 3 {
			export[f[0]], dirs[f[0]] = f[1], f[2]
		}
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if export[path] == "" {
			return nil, errors.New("no export data of " + path)
		}
		b, err := os.ReadFile(export[path])
		return io.NopCloser(bytes.NewReader(b)), err
	})
	for _, path := range packages {
		names, err := filepath.Glob(filepath.Join(dirs[path], "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		var files []*ast.File
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
		if _, err := (&types.Config{Importer: imports}).Check(path, fset, files, info); err != nil {
			t.Fatal(err)
		}
		if len(info.Types) < 500 {
			t.Errorf("%s: only %d expressions were seen", path, len(info.Types))
		}
		for e, tv := range info.Types {
			if holdsFloat(tv.Type, map[types.Type]bool{}) {
				t.Errorf("%s: %s", fset.Position(e.Pos()), tv.Type)
			}
		}
	}
}

// holdsFloat tells whether a value of the type holds a float, or a call of it
// takes or gives one. Types of other packages are named by them.
func holdsFloat(typ types.Type, seen map[types.Type]bool) bool {
	if typ == nil || seen[typ] {
		return false
	}
	seen[typ] = true
	switch typ := typ.(type) {
	case *types.Basic:
		return typ.Info()&(types.IsFloat|types.IsComplex) != 0
	case *types.Named:
		if pkg := typ.Obj().Pkg(); pkg != nil && !strings.HasPrefix(pkg.Path(), "spotinference/") {
			return false
		}
		return holdsFloat(typ.Underlying(), seen)
	case *types.Pointer:
		return holdsFloat(typ.Elem(), seen)
	case *types.Slice:
		return holdsFloat(typ.Elem(), seen)
	case *types.Array:
		return holdsFloat(typ.Elem(), seen)
	case *types.Chan:
		return holdsFloat(typ.Elem(), seen)
	case *types.Map:
		return holdsFloat(typ.Key(), seen) || holdsFloat(typ.Elem(), seen)
	case *types.Struct:
		for f := range typ.Fields() {
			if holdsFloat(f.Type(), seen) {
				return true
			}
		}
	case *types.Tuple:
		for v := range typ.Variables() {
			if holdsFloat(v.Type(), seen) {
				return true
			}
		}
	case *types.Signature:
		return holdsFloat(typ.Params(), seen) || holdsFloat(typ.Results(), seen)
	}
	return false
}
