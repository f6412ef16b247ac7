package gpu

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// source is a program whose lines are readings.
type source struct {
	name  Source
	start func() (process, error)
	// decoder makes the function that reads one run's lines. complete is false
	// where more lines belong to the message.
	decoder func() func(line []byte) (msg Message, complete bool, err error)
}

// process is a source that runs.
type process interface {
	lines() <-chan []byte // closed at the end of its output
	send([]byte) error    // a line to its stdin; it waits for nobody who does not read
	end() error           // kill it, wait for a bounded time, and say how it ended
	gone() <-chan struct{}
}

// errStuck is a process that outlives SIGKILL.
var errStuck = errors.New("it hangs in the driver and cannot be killed")

const (
	lineMax   = 1 << 20 // eight cards with a hundred processes each are far below
	headMax   = 1 << 10 // of stderr
	killBound = 2 * time.Second
)

// child is a source as a process of its own.
type child struct {
	cmd    *exec.Cmd
	out    chan []byte
	quit   chan struct{} // closed by end: nobody reads out any more
	stdin  *os.File      // its end is the order to end, also when we die
	stdout *os.File
	exited chan struct{}
	// Read after exited.
	err error

	mu      sync.Mutex
	head    []byte // of its stderr; guarded by mu
	readErr error  // why its output was given up; guarded by mu
}

// startChild starts cmd. It dies with us: by the end of its stdin, where it looks
// for that, and by the kernel otherwise.
func startChild(cmd *exec.Cmd) (*child, error) {
	stdinR, stdinW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		stdinR.Close()
		stdinW.Close()
		return nil, fmt.Errorf("start: %w", err)
	}
	c := &child{
		cmd: cmd, out: make(chan []byte), quit: make(chan struct{}), stdin: stdinW, stdout: stdoutR, exited: make(chan struct{}),
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdinR, stdoutW, headWriter{c}
	cmd.Env = childEnv(os.Environ())
	cmd.WaitDelay = killBound // for its stderr, should it have handed that on
	// A group of its own: Ctrl-C is for us, and we end it in our order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	started := make(chan error)
	go func() {
		// Pdeathsig fires when the thread that forked ends, so this one must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		stdinR.Close()
		stdoutW.Close()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.exited)
		}
	}()
	if err := <-started; err != nil {
		stdinW.Close()
		stdoutR.Close()
		return nil, err
	}
	go c.read()
	return c, nil
}

// childEnv is what a reader of the driver needs of our environment, which holds
// keys that pay for the box.
func childEnv(env []string) (kept []string) {
	for _, entry := range env {
		switch name, _, _ := strings.Cut(entry, "="); name {
		case "PATH", "LD_LIBRARY_PATH":
			kept = append(kept, entry)
		}
	}
	return append(kept, "LC_ALL=C")
}

// read passes the lines on.
func (c *child) read() {
	defer close(c.out)
	s := bufio.NewScanner(c.stdout)
	s.Buffer(nil, lineMax)
	for s.Scan() {
		select {
		case c.out <- bytes.Clone(s.Bytes()):
		case <-c.quit:
			return
		}
	}
	if err := s.Err(); err != nil {
		c.mu.Lock()
		c.readErr = fmt.Errorf("read its output: %w", err)
		c.mu.Unlock()
	}
}

func (c *child) lines() <-chan []byte  { return c.out }
func (c *child) gone() <-chan struct{} { return c.exited }

func (c *child) send(line []byte) error {
	// A pipe holds far more than a line; it is full of what was never read.
	if err := c.stdin.SetWriteDeadline(time.Now().Add(killBound)); err != nil {
		return err
	}
	_, err := c.stdin.Write(append(line, '\n'))
	return err
}

// end may be called once.
func (c *child) end() error {
	// A process that ended its output is about to end, and says how; only one that
	// does not is killed.
	c.mu.Lock()
	readErr := c.readErr
	c.mu.Unlock()
	close(c.quit)
	c.stdin.Close()
	select {
	case <-c.exited:
	case <-time.After(100 * time.Millisecond):
	}
	_ = c.cmd.Process.Kill()
	c.stdout.Close()
	select {
	case <-c.exited:
	case <-time.After(killBound):
		return errStuck
	}
	if readErr != nil {
		return readErr
	}
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, _, _ := strings.Cut(strings.TrimSpace(string(c.head)), "\n"); first != "" {
		how += ": " + first
	}
	return errors.New(how)
}

// headWriter keeps the beginning of a child's stderr: who crashes says what of in
// the first line, and where in a thousand others.
type headWriter struct{ c *child }

func (h headWriter) Write(b []byte) (int, error) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	if room := headMax - len(h.c.head); room > 0 {
		h.c.head = append(h.c.head, b[:min(room, len(b))]...)
	}
	return len(b), nil
}
