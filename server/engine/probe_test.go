package engine

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// TestProbeSees: what listens and speaks something else is told apart.
func TestProbeSees(t *testing.T) {
	p := newProber(func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			theirs.SetDeadline(time.Now().Add(10 * time.Second))
			theirs.Read(make([]byte, 4096))
			io.WriteString(theirs, "SSH-2.0-OpenSSH_9.6\r\n\r\n")
		}()
		return ours, nil
	}, "key")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.awaitHealth(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); p.seen() != seenNoHTTP; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("seen %q, want %q", p.seen(), seenNoHTTP)
		}
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("it is ready")
	}
}
