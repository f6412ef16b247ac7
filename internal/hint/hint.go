// Package hint is the one error that carries a hint: what a person can do about it.
// The error says what went wrong, the hint what to try; they are printed apart.
//
// It knows nothing of who prints it, and decides no exit code.
package hint

import (
	"errors"
	"fmt"
)

// hinted is an error with a hint.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// Errorf makes an error as fmt.Errorf does, with a hint.
func Errorf(hint, format string, args ...any) error {
	return Wrap(fmt.Errorf(format, args...), hint)
}

// Wrap adds a hint to err. It returns err itself where there is nothing to add: err
// is nil, or the hint is empty.
func Wrap(err error, hint string) error {
	if err == nil || hint == "" {
		return err
	}
	return &hinted{err, hint}
}

// Of returns err's hint, the outermost where there are several, "" where there is
// none.
func Of(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
