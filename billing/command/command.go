// Package command reads the bill of a cloud that this program does not know: any command
// that prints it, in the form of schema.json, is the provider "exec".
//
// The command is run once for each sample, with no shell in between, no standard
// input, and our environment less every SPOTINFERENCE_ variable. It has the time of
// a sample (two thirds of the sampler's interval, 45 seconds at most) and may print 1
// MiB. An exit status other than 0, or anything on its standard error, means that there
// is no bill; what it says there is neither logged nor kept, for it may hold its
// credentials: who runs billing check is shown it. When it has ended, or its time is up,
// what is left of its process group is killed.
package command

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// Failed is the class of a command that did not do its work.
const Failed api.Class = "exec"

const (
	Name      = "exec"
	maxOutput = 1 << 20
	killGrace = 2 * time.Second // for what was killed to be gone
	howTo     = "run the command by hand: it must print one JSON snapshot, nothing on its standard error, and exit with 0"
)

type adapter struct {
	path string
	argv []string
	last *processRun // one that outlived its kill; nil where none did
	said io.Writer   // gets what the command says on its standard error; nil: nobody does

	newest time.Time // At of the newest sample
}

// Adapter is the command's row in the table of providers.
func Adapter() api.Adapter { return api.Adapter{Name: Name, Open: open} }

func open(opts api.Options) (api.Provider, error) {
	const howTo = `give the command that prints the bill, its words in one text: --billing-command "/usr/local/bin/bill --json", or the setting billing-command`
	switch {
	case len(opts.Command) == 0 || opts.Command[0] == "":
		return nil, hint.Errorf(howTo, "provider exec: no command is set")
	case opts.URL != "":
		return nil, hint.Errorf("the command knows whom to ask", "provider exec: a provider URL has no meaning")
	case opts.Instance != "":
		return nil, hint.Errorf("the command knows which machine to ask for", "provider exec: an instance has no meaning")
	}
	for _, word := range opts.Command {
		if strings.ContainsRune(word, 0) {
			return nil, hint.Errorf(howTo, "provider exec: a word of the command holds a zero byte")
		}
	}
	path, err := exec.LookPath(opts.Command[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, hint.Errorf(howTo, "provider exec: command %q: %v", opts.Command[0], bareError(err))
	}
	return &adapter{path: path, argv: opts.Command, said: opts.Stderr}, nil
}

func (e *adapter) Name() string { return Name }

// A sample is dated by the second; what the command may ask of its API is its own
// business.
func (e *adapter) MinInterval() time.Duration { return time.Second }

// Sample implements Provider. Its At is the second in which the command was
// started.
func (e *adapter) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	at := now.UTC().Truncate(time.Second)
	if !at.After(e.newest) {
		return ledger.Sample{}, api.ClockStands(e.newest).At(Name)
	}
	clk := provider.StartClock(now)
	body, f := e.run(ctx)
	if f != nil {
		return ledger.Sample{}, f.At(Name)
	}
	snap, f := decodeSnapshot(body)
	if f != nil {
		f.WithHint(howTo)
		return ledger.Sample{}, f.At(Name)
	}
	if f := snap.skew(now, clk.Now()); f != nil {
		return ledger.Sample{}, f.At(Name)
	}
	for i := range snap.lines {
		if snap.lines[i].Created.After(at.Add(provider.MaxSkew)) {
			return ledger.Sample{}, api.Fail(api.ClockSkew, "a line was created at %s, which is still to come",
				snap.lines[i].Created.Format(time.RFC3339)).At(Name)
		}
		snap.lines[i].Raw = body
	}
	e.newest = at
	return ledger.Sample{
		At:       at,
		Provider: e.Name(),
		Account:  snap.account,
		Currency: snap.currency,
		Truth:    snap.truth,
		Step:     snap.step,
		Lag:      snap.lag,
		Dated:    !snap.now.IsZero(),
		Lines:    snap.lines,
	}, nil
}

// run returns what the command printed. It comes back soon after ctx ends, whatever
// the command does.
func (e *adapter) run(ctx context.Context) ([]byte, *api.Failure) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	if e.last != nil {
		select {
		case <-e.last.done:
			e.last = nil
		default:
			return nil, api.Fail(api.Timeout, "the command of an earlier sample was killed and does not end")
		}
	}
	r := newProcessRun(e.path, e.argv)
	r.said.keep = e.said != nil
	go r.run()
	select {
	case <-r.done:
	case <-ctx.Done():
		r.kill()
		t := time.NewTimer(killGrace)
		defer t.Stop()
		select {
		case <-r.done:
			e.show(r)
		case <-t.C:
			e.last = r
		}
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, api.Fail(api.Timeout, "the command was stopped before it had ended")
		}
		f := api.Fail(api.Timeout, "the command did not end within %s, the time of a sample", time.Since(begun).Round(100*time.Millisecond))
		f.WithHint("make the command quicker, or read the bill less often with --sample-every: it has two thirds of that, and " + api.SampleTimeout.String() + " at most")
		return nil, f
	}
	e.show(r)
	if f := r.failure(); f != nil {
		return nil, f
	}
	return r.out.kept, nil
}

// show shows what a run that is over said on its standard error.
func (e *adapter) show(r *processRun) {
	if e.said != nil {
		_, _ = e.said.Write(r.said.kept) // it is for a person, and no part of the bill
	}
}

// processRun is one run of the command. Its goroutine is the only one that starts and
// reaps; another may kill.
type processRun struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when err, out and said are final
	err  error         // why it could not be started, or how it ended
	out  boundedBuffer // standard output
	said boundedBuffer // standard error: whether there was any, and for billing check what

	mu      sync.Mutex // guards what is below
	pid     int        // of the leader of its group, from its start until it is reaped; else 0
	stopped bool       // is to be killed as soon as it has a pid
}

func newProcessRun(path string, argv []string) *processRun {
	r := &processRun{cmd: exec.Command(path, argv[1:]...), done: make(chan struct{})}
	r.out = boundedBuffer{keep: true, full: r.kill}
	r.said = boundedBuffer{full: r.kill}
	r.cmd.Args[0] = argv[0]
	r.cmd.Env = commandEnv(os.Environ())
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.said
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r.cmd.WaitDelay = time.Second // for a pipe that a process outside the group holds open
	return r
}

// commandEnv takes our own settings out: they hold keys of ours, and no business of
// the command's.
func commandEnv(env []string) []string {
	kept := []string{} // not nil, which would stand for all of it
	for _, entry := range env {
		if !strings.HasPrefix(entry, "SPOTINFERENCE_") {
			kept = append(kept, entry)
		}
	}
	return kept
}

func (r *processRun) run() {
	defer close(r.done)
	runtime.LockOSThread() // Pdeathsig follows the thread that forked
	defer runtime.UnlockOSThread()
	if r.err = r.cmd.Start(); r.err != nil {
		return
	}
	pid := r.cmd.Process.Pid
	r.mu.Lock()
	r.pid = pid
	if r.stopped {
		unix.Kill(-pid, unix.SIGKILL)
	}
	r.mu.Unlock()

	// Its end is waited for without reaping it, so that the group's number is still
	// its own when what it left behind is killed.
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	r.mu.Lock()
	unix.Kill(-pid, unix.SIGKILL)
	r.pid = 0
	r.mu.Unlock()
	r.err = r.cmd.Wait()
}

func (r *processRun) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped = true; r.pid != 0 {
		unix.Kill(-r.pid, unix.SIGKILL)
	}
}

// failure says what was wrong with a run that is over, in our words only.
func (r *processRun) failure() *api.Failure {
	var status *exec.ExitError
	var f *api.Failure
	switch {
	case r.out.over || r.said.over:
		f = api.Fail(api.TooLarge, "the command printed more than %d bytes", maxOutput)
	case errors.As(r.err, &status):
		f = api.Fail(Failed, "the command failed: %s (%d bytes on its standard error)", status.ProcessState, r.said.size)
	case errors.Is(r.err, exec.ErrWaitDelay):
		f = api.Fail(Failed, "the command ended and left a process behind that holds its output")
	case r.err != nil:
		f = api.Fail(Failed, "run the command: %w", bareError(r.err))
	case r.said.size > 0:
		f = api.Fail(Failed, "the command exited with 0 and printed %d bytes on its standard error", r.said.size)
	default:
		return nil
	}
	f.WithHint(howTo)
	return f
}

// bareError takes the path and the words off an error.
func bareError(err error) error {
	var name *exec.Error
	if errors.As(err, &name) {
		err = name.Err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err
}

var errFull = errors.New("more than may be printed")

// boundedBuffer counts what is written to it, and keeps it if it should, up to
// maxOutput; then full is called, once, and the writer is refused.
type boundedBuffer struct {
	keep bool
	full func()
	kept []byte
	size int
	over bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.over {
		return 0, errFull
	}
	if b.size += len(p); b.size > maxOutput {
		b.over = true
		b.full()
		return 0, errFull
	}
	if b.keep {
		b.kept = append(b.kept, p...)
	}
	return len(p), nil
}
