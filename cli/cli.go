// Package cli is the command line: commands, flags, settings, exit codes and the texts
// that people read. A command is a file: its constructor with its texts, its options
// with their flags, and a run function that a test can call without cobra.
//
// It starts nothing itself: what serve runs is package server's, which gets values and
// never sees a flag.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"spotinference/internal/hint"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
	exitRefused = 3 // a report that would have to guess
)

// Main runs the command that args name and returns the process's exit code. Rules of
// the terminal: results go to stdout; everything else to stderr, as lower-case lines
// with our name before them; one line says what is wrong, one what to do about it.
func Main(args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	var exit exitCode
	if errors.As(err, &exit) {
		return int(exit)
	}
	fmt.Fprintf(stderr, "spotinference: error: %v\n", err)
	if h := hint.Of(err); h != "" {
		fmt.Fprintf(stderr, "spotinference: hint: %s\n", h)
	}
	return exitOf(err)
}

// exitOf is the exit code of a command that ended with err.
func exitOf(err error) int {
	var usage usageError
	var refused refusedError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused):
		return exitRefused
	}
	return exitFailure
}

// exitCode is the exit of a hidden command that has said all there is to say.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit %d", int(c)) }

// usageError is a command line or a setting that cannot be used.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usagef makes a usageError. help is its hint, "" for that of an error in args, if any.
func usagef(help, format string, args ...any) error {
	return usageError{hint.Errorf(help, format, args...)}
}

// refusedError is a report that was printed and says that it cannot tell.
type refusedError struct{ reason string }

func (e refusedError) Error() string { return e.reason }

// writeJSON prints v as the commands do that have --output json.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
