package engine

import (
	"fmt"
	"strings"
	"testing"
)

func TestRing(t *testing.T) {
	f := func(input, want string) {
		t.Helper()
		var whole, bytewise ring
		whole.Write([]byte(input))
		for i := range len(input) {
			bytewise.Write([]byte{input[i]})
		}
		for name, r := range map[string]*ring{"whole": &whole, "byte by byte": &bytewise} {
			var b strings.Builder
			r.print(&b)
			if got := strings.ReplaceAll(b.String(), "engine | ", ""); got != want {
				t.Errorf("%q %s = %q, want %q", input, name, got, want)
			}
		}
	}
	f("", "")
	f("a\nb\n", "a\nb\n")
	f("a\n\nb", "a\n\nb\n")
	f("a\r\nb\r\n", "a\nb\n")
	// A progress bar is one line, the last of its states.
	f("10%\r20%\r30%\nerror\n", "30%\nerror\n")
	f("100%\r", "100%\n")
	// Long lines are cut, many lines forgotten.
	f(strings.Repeat("x", 10000)+"\ny\n", strings.Repeat("x", ringWidth)+"...\ny\n")
	var many, last strings.Builder
	for i := range 1000 {
		fmt.Fprintln(&many, i)
		if i >= 1000-ringLines {
			fmt.Fprintln(&last, i)
		}
	}
	f(many.String(), last.String())
	// Nothing that steers a terminal gets through.
	f("\x1b[31mred\x1b[0m\tb\x07\x1b]0;title\n", "red\tb]0;title\n")
}
