package command_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/command"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

// newCommand opens the provider on a shell script.
func newCommand(t testing.TB, script string) api.Provider {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bill")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := command.Adapter().Open(api.Options{Command: []string{path, "--box", "two words"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// prints is a script that prints text.
func prints(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "reply")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "exec cat '" + path + "'"
}

func TestExecSample(t *testing.T) {
	at := rig.Time(t, "2026-11-23T12:00:00Z")
	p := newCommand(t, prints(t, rig.Snapshot()))
	s, err := p.Sample(t.Context(), at.Add(300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if !s.At.Equal(at) || s.Provider != "exec" || s.Account != "acme" || s.Currency != "USD" || s.Truth != ledger.TruthResource ||
		s.Step != time.Minute || s.Lag != 5*time.Minute || s.Calibrated || len(s.Lines) != 2 {
		t.Fatalf("sample = %+v", s)
	}
	vm, disk := s.Lines[0], s.Lines[1]
	if vm.Resource != "vm-1" || vm.Kind != ledger.Instance || vm.Status != "RUNNING" || !vm.Running || *vm.Rate != 2_500_000_000 ||
		*vm.Bill != 62_541_666_667 || vm.Epoch != "2026-11" || !vm.Created.Equal(rig.Time(t, "2026-11-22T10:00:00Z")) || string(vm.Raw) != rig.Snapshot() {
		t.Errorf("machine = %+v", vm)
	}
	if disk.Resource != "disk-1" || disk.Kind != ledger.Volume || disk.Status != "" || !disk.Running || disk.Rate != nil ||
		*disk.Bill != 483_870_000 || !disk.Created.IsZero() {
		t.Errorf("volume = %+v", disk)
	}
	_, err = p.Sample(t.Context(), at.Add(900*time.Millisecond))
	rig.WantClass(t, err, api.ClockSkew)
}

// The command gets its words as they are, nothing to read, and an environment
// without our settings.
func TestExecSurroundings(t *testing.T) {
	t.Setenv("SPOTINFERENCE_API_KEY", "must-not-be-seen")
	t.Setenv("CLOUD_TOKEN", "is-its-own")
	p := newCommand(t, `
if [ "$1" != --box ] || [ "$2" != "two words" ] || [ $# != 2 ]; then exit 3; fi
if env | grep -q SPOTINFERENCE_; then exit 4; fi
if [ "$CLOUD_TOKEN" != is-its-own ]; then exit 5; fi
if read line; then exit 6; fi
`+prints(t, rig.Snapshot()))
	if _, err := p.Sample(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
}

// The provider's own time, where it is told, must be ours within a minute.
func TestExecNow(t *testing.T) {
	f := func(off time.Duration, class api.Class) {
		t.Helper()
		now := time.Now()
		told := strings.Replace(rig.Snapshot(), `"version":1`, `"version":1,"now":"`+now.Add(off).UTC().Format(time.RFC3339Nano)+`"`, 1)
		s, err := newCommand(t, prints(t, told)).Sample(t.Context(), now)
		if class != "" {
			rig.WantClass(t, err, class)
		} else if err != nil || !s.Dated {
			t.Errorf("%s: %+v, %v", off, s, err)
		}
	}
	f(0, "")
	f(50*time.Second, "")
	f(-50*time.Second, "")
	f(-12*365*24*time.Hour, api.ClockSkew) // our clock says 2038
	f(2*time.Minute, api.ClockSkew)
	s, err := newCommand(t, prints(t, rig.Snapshot())).Sample(t.Context(), time.Now())
	if err != nil || s.Dated {
		t.Errorf("without it: %+v, %v", s, err)
	}
}

// What the command says on its standard error is shown to who asks for it, and its time
// is told as what it is.
func TestExecShowsWhatItSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bill")
	run := func(script string, timeout time.Duration) (said string, err error) {
		t.Helper()
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		p, err := command.Adapter().Open(api.Options{Command: []string{path}, Stderr: &text})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err = p.Sample(ctx, time.Now())
		return text.String(), err
	}
	said, err := run("echo no such token >&2; exit 1", time.Minute)
	if said != "no such token\n" || err == nil || strings.Contains(err.Error(), "token") {
		t.Errorf("said %q, %v", said, err)
	}
	said, err = run("echo it takes long >&2; sleep 100", 1200*time.Millisecond)
	rig.WantClass(t, err, api.Timeout)
	if said != "it takes long\n" || !strings.Contains(err.Error(), "did not end within 1.") || strings.Contains(err.Error(), "deadline") || !strings.Contains(hint.Of(err), "45s at most") {
		t.Errorf("said %q, %v, hint %q", said, err, hint.Of(err))
	}
}

func TestExecFails(t *testing.T) {
	const word = "wombat"
	f := func(name, script string, class api.Class, want string) {
		t.Helper()
		s, err := newCommand(t, script).Sample(t.Context(), time.Now())
		var f *api.Failure
		if !errors.As(err, &f) || f.Class != class || f.Call != "exec" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q with %q", name, err, class, want)
			return
		}
		if s.Lines != nil || !s.At.IsZero() {
			t.Errorf("%s: a failed sample holds something: %+v", name, s)
		}
		if strings.Contains(err.Error()+hint.Of(f), word) || !strings.HasPrefix(hint.Of(f), "run the command by hand") {
			t.Errorf("%s: %q, hint %q", name, err, hint.Of(f))
		}
	}
	good := prints(t, rig.Snapshot())
	f("exit 1", "echo "+word+" >&2; exit 1", command.Failed, "exit status 1 (7 bytes on its standard error)")
	f("exit 1 after a good snapshot", strings.TrimPrefix(good, "exec ")+"; exit 1", command.Failed, "exit status 1")
	f("killed", "kill -KILL $$", command.Failed, "signal: killed")
	f("a word on stderr", "echo "+word+" >&2; "+good, command.Failed, "exited with 0 and printed 7 bytes")
	f("silence", "exit 0", api.Malformed, "not one JSON value (0 bytes)")
	f("garbage", "echo "+word, api.Malformed, "not one JSON value")
	f("HTML", "echo '<html>"+word+"</html>'", api.Malformed, "not one JSON value")
	f("a flood", "exec yes "+word, api.TooLarge, "more than 1048576 bytes")
	f("a flood on stderr", "exec yes "+word+" >&2", api.TooLarge, "more than 1048576 bytes")
	f("a flood by one that cannot be told", "trap '' PIPE TERM; while :; do echo "+strings.Repeat(word, 500)+"; done 2>/dev/null", api.TooLarge, "more than")
}

// A command whose interpreter is not there fails at the sample, not at the start.
func TestExecCannotStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bill")
	if err := os.WriteFile(path, []byte("#!/nowhere/at/all\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := command.Adapter().Open(api.Options{Command: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Sample(t.Context(), time.Now())
	rig.WantClass(t, err, command.Failed)
	if err != nil && strings.Contains(err.Error(), path) {
		t.Errorf("the command is in %q", err)
	}
}

// holders makes a pipe with a name. What is read from the channel is what processes
// wrote to it, once the last of those that hold it open is gone.
func holders(t *testing.T) (path string, opened <-chan struct{}, last <-chan string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open, text := make(chan struct{}), make(chan string, 1)
	go func() {
		f, err := os.Open(path) // waits for a process to open the other end
		close(open)
		if err != nil {
			text <- err.Error()
			return
		}
		defer f.Close()
		b, _ := io.ReadAll(f)
		text <- string(b)
	}()
	return path, open, text
}

// A command that hangs is killed with all of its group when the time is up; and
// the next sample is as good as any.
func TestExecHang(t *testing.T) {
	mode := filepath.Join(t.TempDir(), "hang")
	if err := os.WriteFile(mode, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, opened, last := holders(t)
	p := newCommand(t, `
if [ -e '`+mode+`' ]; then
	trap '' TERM INT HUP
	exec 3>'`+pipe+`'
	echo hangs >&3
	sleep 1000 &
	wait
	sleep 1000
fi
`+prints(t, rig.Snapshot()))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-opened; cancel() }()
	start := time.Now()
	_, err := p.Sample(ctx, time.Now())
	rig.WantClass(t, err, api.Timeout)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
	<-last // and so nobody of the group lives
	if err := os.Remove(mode); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Sample(t.Context(), time.Now().Add(time.Minute)); err != nil {
		t.Errorf("after the hang: %v", err)
	}
}

// A time that is up before the command was started is no different.
func TestExecNoTime(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err := newCommand(t, "sleep 1000").Sample(ctx, time.Now())
	rig.WantClass(t, err, api.Timeout)
}

// What the command leaves running in its group ends with it, and does not hold the
// sample up.
func TestExecLeftBehind(t *testing.T) {
	pipe, _, last := holders(t)
	p := newCommand(t, `exec 3>'`+pipe+`'
echo left >&3
sleep 1000 &
`+prints(t, rig.Snapshot()))
	if _, err := p.Sample(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
	if got := <-last; got != "left\n" {
		t.Errorf("wrote %q", got)
	}
}

func TestExecSetup(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(opts api.Options, want string) {
		t.Helper()
		_, err := command.Adapter().Open(opts)
		if err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("New(%+v): %v, want %q and a hint", opts, err, want)
		}
	}
	f(api.Options{}, "no command is set")
	f(api.Options{Command: []string{""}}, "no command is set")
	f(api.Options{Command: []string{"/nowhere/at/all"}}, `command "/nowhere/at/all": no such file or directory`)
	f(api.Options{Command: []string{"no-such-program-here"}}, "executable file not found in $PATH")
	f(api.Options{Command: []string{plain}}, "permission denied")
	f(api.Options{Command: []string{"sh", "a\x00b"}}, "zero byte")
	f(api.Options{Command: []string{"sh"}, URL: "https://cloud.test"}, "provider URL")
	f(api.Options{Command: []string{"sh"}, Instance: "7"}, "instance")
	if !slices.Contains(billing.Names(), "exec") {
		t.Errorf("Names() = %v", billing.Names())
	}
	if p, err := command.Adapter().Open(api.Options{Command: []string{"sh"}}); err != nil || p.Name() != "exec" {
		t.Errorf("New: %v", err)
	}
}

// A bill that grows by the nano-unit, through the command, a sampler's ledger and
// Spent: equal to what was printed.
func TestExecEqualsTheBooks(t *testing.T) {
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	bill := filepath.Join(t.TempDir(), "bill.json")
	p := newCommand(t, "exec cat '"+bill+"'")
	start := time.Now().Add(-time.Hour).Truncate(time.Minute)
	bills := []string{"9.000000001", "9.1", `"9.1"`, "1e1", "10.000000000499", "8999999999.123456789"}
	for i, text := range bills {
		body := `{"version":1,"currency":"EUR","step_seconds":60,"lag_seconds":0,"truth":"account","lines":[{"resource":"a","kind":"account","running":true,"bill":` + text + `,"epoch":"e"}]}`
		if err := os.WriteFile(bill, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := p.Sample(t.Context(), start.Add(time.Duration(i)*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := led.AddSample(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	sp, err := led.Spent(start, time.Now())
	if err != nil || sp.Net.String() != "8999999990.123456788" || sp.Currency != "EUR" || sp.Count != len(bills) {
		t.Errorf("spent %+v, %v", sp, err)
	}
	if sp, err = led.Spent(start, start.Add(4*time.Minute)); err != nil || sp.Net.String() != "0.999999999" {
		t.Errorf("spent %s, %v", sp.Net, err)
	}
}
