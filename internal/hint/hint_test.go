package hint_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"spotinference/internal/hint"
)

func Example() {
	err := hint.Errorf("name another file", "open ledger: %w", fs.ErrNotExist)
	err = fmt.Errorf("serve: %w", err)
	fmt.Println(err)
	fmt.Println(hint.Of(err))
	// Output:
	// serve: open ledger: file does not exist
	// name another file
}

func TestOf(t *testing.T) {
	plain := errors.New("plain")
	f := func(err error, want string) {
		t.Helper()
		if got := hint.Of(err); got != want {
			t.Errorf("Of(%v) = %q, want %q", err, got, want)
		}
	}
	f(nil, "")
	f(plain, "")
	f(hint.Wrap(plain, "inner"), "inner")
	f(hint.Wrap(fmt.Errorf("more: %w", hint.Wrap(plain, "inner")), "outer"), "outer")
	f(errors.Join(plain, hint.Wrap(plain, "joined")), "joined")

	if got := hint.Wrap(nil, "nothing to say"); got != nil {
		t.Errorf("Wrap(nil) = %v, want nil", got)
	}
	if got := hint.Wrap(plain, ""); got != plain {
		t.Errorf("Wrap without a hint = %#v, want the error itself", got)
	}
	if err := hint.Wrap(fs.ErrNotExist, "look elsewhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("errors.Is does not see through %#v", err)
	}
}
