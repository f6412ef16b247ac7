package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	charm "github.com/charmbracelet/log"
)

// newLog is what a command that runs for long says on stderr.
func newLog(w io.Writer, asJSON bool) *slog.Logger {
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(charm.NewWithOptions(w, charm.Options{ReportTimestamp: true, TimeFormat: time.TimeOnly, Prefix: "spotinference"}))
}

// stopSignals returns a context that ends at the first SIGINT or SIGTERM, and
// one that ends at the second. A third one kills.
func stopSignals() (soft, hard context.Context, stop func()) {
	soft, drain := context.WithCancel(context.Background())
	hard, now := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	done := make(chan struct{})
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	go func() {
		for _, f := range []func(){drain, func() { signal.Stop(c); now() }} {
			select {
			case <-c:
				f()
			case <-done:
				return
			}
		}
	}()
	return soft, hard, func() { signal.Stop(c); close(done); drain(); now() }
}
