package cli

import (
	"errors"

	"spotinference/internal/hint"
)

// hintFor finds what to do about err, "" where nothing can be said.
func hintFor(err error) string {
	if h := hint.Of(err); h != "" {
		return h
	}
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}
