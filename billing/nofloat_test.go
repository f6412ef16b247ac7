package billing_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Money never passes through a float: no file of these packages holds one, nor a
// call that makes one, nor a value of type any that JSON would put one into.
func TestNoFloats(t *testing.T) {
	banned := map[string]bool{
		"float32": true, "float64": true, "complex64": true, "complex128": true,
		"ParseFloat": true, "FormatFloat": true, "Float64": true, "Float32": true, "SetFloat64": true,
		"Hours": true, "Minutes": true, "Seconds": true, // of time.Duration
	}
	files := 0
	for _, dir := range []string{".", "sim"} {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			files++
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			fset := token.NewFileSet()
			tree, err := parser.ParseFile(fset, name, src, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.Ident:
					if banned[n.Name] {
						t.Errorf("%s: %s", fset.Position(n.Pos()), n.Name)
					}
				case *ast.BasicLit:
					if n.Kind == token.FLOAT {
						t.Errorf("%s: %s", fset.Position(n.Pos()), n.Value)
					}
				case *ast.Field:
					if id, ok := n.Type.(*ast.Ident); ok && id.Name == "any" && n.Tag != nil {
						t.Errorf("%s: a JSON field of type any", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
	if files < 8 {
		t.Fatalf("only %d files were read", files)
	}
}
