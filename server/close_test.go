package server

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
	"spotinference/server/control"
)

// TestOnCloseIsEndedWithItsChildren: past its time nothing of it is left.
func TestOnCloseIsEndedWithItsChildren(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "pid")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	hard, cancel := context.WithCancel(context.Background())
	defer cancel()
	var events []string
	c := &closer{hard: hard, now: time.Now, log: slog.New(slog.DiscardHandler), event: func(d ledger.EventDetail) {
		e := ledger.NewEvent(time.Now(), d)
		events = append(events, string(e.Kind)+" "+e.Subject+" "+e.Detail)
	},
		command: []string{"sh", "-c", `sleep 1000 & echo $! >"$0"; wait`, fifo}}
	done := make(chan struct{})
	go func() { defer close(done); c.run("stale") }()
	f, err := os.Open(fifo) // blocks until the child is there
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(state), ") Z ") { // whoever adopts it may not reap it
			break
		}
		if time.Now().After(end) {
			t.Fatalf("process %d runs on: %s", pid, state)
		}
	}
	if len(events) != 2 || events[0] != `gate on_close_started {"reason":"stale"}` || !strings.HasPrefix(events[1], `gate on_close_ended {"outcome":"signal: killed",`) {
		t.Errorf("events = %q", events)
	}
}

// TestOnCloseMayLeaveAChild: what it leaves behind to stop the machine a moment later
// holds its output open, and is no failure; and of much that it says the end is kept.
func TestOnCloseMayLeaveAChild(t *testing.T) {
	for command, want := range map[string]string{
		`sleep 1000 & echo $!`:         `"outcome":"done"`,
		`sleep 1000 & echo $!; exit 3`: `"outcome":"exit status 3"`,
		`sleep 1000 & head -c 3000000 /dev/zero | tr '\0' x; echo; echo $!`: `"outcome":"done"`,
	} {
		var ended string
		c := &closer{hard: t.Context(), now: time.Now, log: slog.New(slog.DiscardHandler), event: func(d ledger.EventDetail) { ended = ledger.NewEvent(time.Now(), d).Detail },
			command: []string{"sh", "-c", command}}
		said, _ := c.run("stale")
		lines := strings.Fields(said)
		pid, err := strconv.Atoi(lines[len(lines)-1])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("%s: its child is gone: %v", command, err)
		}
		if !strings.Contains(ended, want) || len(said) > tailMost {
			t.Errorf("%s: event %s, said %d bytes, want %s", command, ended, len(said), want)
		}
	}
}

// TestOnCloseIsTriedAgain: a command that fails is run again after 1, 2, 4, 8, 15 and 15
// minutes while the gate is closed, and not once it is open; status and metric tell of it.
func TestOnCloseIsTriedAgain(t *testing.T) {
	program := filepath.Join(t.TempDir(), "stop")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var ran []time.Duration
		var failed []bool
		begun := time.Now()
		c := &closer{hard: t.Context(), now: time.Now, log: slog.New(slog.DiscardHandler), command: []string{program},
			failed: func(f bool) { failed = append(failed, f) },
			event: func(d ledger.EventDetail) {
				if _, ok := d.(ledger.OnCloseStarted); ok {
					ran = append(ran, time.Since(begun).Round(time.Minute))
				}
			}}
		if c.status() != nil {
			t.Errorf("status before a run: %+v", c.status())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
		defer cancel()
		c.runUntilDone(ctx, "exhausted")
		if want := []time.Duration{0, time.Minute, 3 * time.Minute, 7 * time.Minute, 15 * time.Minute, 30 * time.Minute, 45 * time.Minute}; !slices.Equal(ran, want) {
			t.Errorf("ran at %v, want %v", ran, want)
		}
		if s := c.status(); s == nil || s.State != control.OnCloseFailed || s.Tries != 7 || s.Error != "exit status 3" || s.NextTry != nil {
			t.Errorf("status %+v", s)
		}
		if want := []bool{true, true, true, true, true, true, true, false}; !slices.Equal(failed, want) {
			t.Errorf("the metric was told %v", failed)
		}
		// the next closing begins anew, and one that works is not run again
		if err := os.WriteFile(program, []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		c.runUntilDone(t.Context(), "exhausted")
		if s := c.status(); len(ran) != 8 || s.State != control.OnCloseDone || s.Tries != 1 || s.Error != "" {
			t.Errorf("ran %d times, status %+v", len(ran), s)
		}
	})
}

// TestAHealthyStartHasNoClosedGate: a gate that was never open and only waits for its
// first sample is no event, be the ledger empty or its newest sample old; a sample that
// fails is one, and so is each closing after it was open.
func TestAHealthyStartHasNoClosedGate(t *testing.T) {
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "l.db"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	var log strings.Builder
	start := func() *gateRecord {
		return &gateRecord{record: record{led, slog.New(slog.NewTextHandler(&log, nil)), time.Now}, limits: "40/day"}
	}
	closed := func(reason string) *budget.Refusal {
		return &budget.Refusal{Err: budget.ErrUnobservable, Reason: reason, Detail: "20h50m old"}
	}
	for _, reason := range []string{budget.ReasonNoSample, budget.ReasonStale} {
		g := start()
		g.changed(closed(reason))
		g.changed(nil)
	}
	if strings.Contains(log.String(), "gate closed") {
		t.Errorf("log %s", log.String())
	}
	g := start()
	g.changed(closed(budget.ReasonNoSample))
	g.changed(closed(budget.ReasonFailed))
	g.changed(nil)
	g.changed(closed(budget.ReasonStale))
	events, err := led.Events("gate", time.Now().Add(-time.Hour), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, e.Subject+" "+e.Detail)
	}
	const open = `open {"budget":"40/day"}`
	want := []string{open, open, `closed {"reason":"failed","why":"20h50m old"}`, open, `closed {"reason":"stale","why":"20h50m old"}`}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// TestGateEventsOutliveTheLedgersIllness: that it closed since the ledger failed is
// written when it can be, with its own time.
func TestGateEventsOutliveTheLedgersIllness(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.db")
	led, err := ledger.Open(ledger.Config{Path: path, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	do := func(statement string) {
		t.Helper()
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	g := &gateRecord{record: record{led, slog.New(slog.DiscardHandler), time.Now}}
	g.changed(nil)
	do("ALTER TABLE event RENAME TO away")
	g.changed(&budget.Refusal{Err: budget.ErrUnobservable, Reason: budget.ReasonDiskFull, Detail: "no room"})
	do("ALTER TABLE away RENAME TO event")
	g.changed(nil)
	events, err := led.Events("gate", time.Now().Add(-time.Hour), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, e.Subject+" "+e.Detail)
	}
	if want := `open |closed {"reason":"disk_full","why":"no room"}|open `; strings.Join(got, "|") != want {
		t.Errorf("events = %q, want %q", got, want)
	}
}
