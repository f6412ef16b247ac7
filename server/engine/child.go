package engine

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killWait  = killBound + 2*time.Second // for the guard to clear the tree
	guardWait = 2 * time.Second           // for a guard that has reported to exit
	drainWait = time.Second               // for the last lines, once nobody can write more
)

// report is what the guard told of, in its words. lost means that the guard is gone
// without having said how the engine ended.
type report struct {
	word, rest string
	lost       bool
}

func (r report) number() int {
	n, _ := strconv.Atoi(r.rest)
	return n
}

// ending says in one phrase how the engine ended; "" while it hasn't.
func (r report) ending() string {
	switch {
	case r.lost:
		return "guard lost"
	case r.word == reportExited:
		return fmt.Sprintf("exit status %d", r.number())
	case r.word == reportSignaled:
		return "signal " + syscall.Signal(r.number()).String()
	case r.word == reportStuck:
		return "hangs in the kernel"
	}
	return ""
}

// process is one engine process, as Run sees it.
type process interface {
	reports() <-chan report    // the last one has an ending; never closed
	progress() int64           // changes while the process does something
	stop(time.Duration) report // ends it, within that time if it listens, and soon after if not
	kill() report              // ends it now
	close(report) (stuck int)  // must follow the ending
	print(io.Writer)           // its last lines
}

// child is one engine process with its guard. Its fields are owned by Run.
type child struct {
	guard   *exec.Cmd
	control *os.File
	told    chan report
	lines   *ring
	output  *os.File      // read end of stdout and stderr of the whole tree
	drained chan struct{} // closed when output is at its end
	marks   marks
}

func (c *child) reports() <-chan report { return c.told }

func (c *child) print(w io.Writer) { c.lines.print(w) }

// progress is what the engine has said and read so far, in bytes: one that loads
// weights or tells of its downloads is slow; one that does neither may be stuck.
func (c *child) progress() int64 {
	sum := c.lines.total()
	all, err := processes()
	if err != nil {
		return sum
	}
	for _, p := range descendants(all, c.guard.Process.Pid) {
		sum += p.read()
	}
	return sum
}

// startChild starts the guard, which starts the engine and says so in a report.
func (e *Engine) startChild(p plan) (_ process, err error) {
	guard, key := e.cfg.Guard, e.key
	dir := "" // what the guard removes if we cannot: only what is ours
	if e.ownedDir {
		dir = e.cfg.Dir
	}
	var files []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
			files = append(files, r, w)
		}
		return r, w
	}
	controlR, controlW := pipe()
	statusR, statusW := pipe()
	outputR, outputW := pipe()
	closeAll := func(files ...*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	if err != nil {
		closeAll(files...)
		return nil, fmt.Errorf("open the guard's pipes: %w", err)
	}
	inode, err := pipeName(outputR)
	if err != nil {
		closeAll(files...)
		return nil, err
	}

	cmd := exec.Command(guard[0], guard[1:]...)
	if dir != "" {
		cmd.Args = append(cmd.Args, "--dir", dir)
	}
	if as := e.cfg.User; as != nil {
		cmd.Args = append(cmd.Args, "--user", as.words())
		// Who opens /dev/stderr anew must be let.
		if err := outputW.Chown(int(as.UID), int(as.GID)); err != nil {
			closeAll(files...)
			return nil, fmt.Errorf("open the guard's pipes: %w", err)
		}
	}
	cmd.Args = append(append(cmd.Args, "--"), p.argv...)
	cmd.Env = p.env
	cmd.Stdout, cmd.Stderr = outputW, outputW
	cmd.ExtraFiles = []*os.File{controlR, statusW} // controlFD, statusFD
	// A session of its own: no Ctrl-C and no hang-up from our terminal, and a mark
	// on all that the engine starts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		closeAll(files...)
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	closeAll(controlR, statusW, outputW)

	c := &child{
		guard:   cmd,
		control: controlW,
		told:    make(chan report, 4), // all that one guard can say: the reader never waits
		lines:   &ring{},
		output:  outputR,
		drained: make(chan struct{}),
		marks:   marks{key: key, session: cmd.Process.Pid, pipe: inode},
	}
	go func() {
		defer close(c.drained)
		io.Copy(c.lines, outputR)
	}()
	go readReports(statusR, c.told)
	return c, nil
}

// pipeName is how /proc/PID/fd spells f.
func pipeName(f *os.File) (string, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	var statErr error
	if err := raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) }); err != nil {
		return "", err
	}
	return fmt.Sprintf("pipe:[%d]", st.Ino), statErr
}

// readReports passes the guard's lines on and ends with the one that has an ending.
func readReports(status *os.File, reports chan<- report) {
	defer status.Close()
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case reportStarted, reportFailed, reportStuck, reportExited, reportSignaled:
		default:
			continue
		}
		r := report{word: word, rest: rest}
		reports <- r
		if word == reportFailed || r.ending() != "" {
			return
		}
	}
	reports <- report{lost: true}
}

// order tells the guard what to do. A guard that is gone is known by its report.
func (c *child) order(b byte) { c.control.Write([]byte{b}) }

// stop ends the engine: SIGTERM, then SIGKILL to the whole tree after grace. It
// returns how it ended, and always returns.
func (c *child) stop(grace time.Duration) report {
	c.order(orderTerm)
	if r, ok := c.await(grace); ok {
		return r
	}
	return c.kill()
}

func (c *child) kill() report {
	c.order(orderKill)
	if r, ok := c.await(killWait); ok {
		return r
	}
	c.guard.Process.Kill()
	return report{lost: true}
}

// await waits for the ending.
func (c *child) await(limit time.Duration) (report, bool) {
	timeout := time.After(limit)
	for {
		select {
		case r := <-c.told:
			if r.word == reportFailed || r.ending() != "" {
				return r, true
			}
		case <-timeout:
			return report{}, false
		}
	}
}

// close must follow the ending. It leaves no process, no descriptor and no goroutine
// of this child, and returns how many processes it had to leave: those that hang in
// the kernel, where no signal reaches them.
func (c *child) close(r report) (stuck int) {
	c.control.Close()
	switch {
	case r.lost:
		c.guard.Process.Kill() // it may have closed the pipe and live
		stuck = c.marks.sweep()
	case r.word == reportStuck:
		stuck = r.number()
	}
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		c.guard.Wait()
	}()
	select {
	case <-waited:
	case <-time.After(guardWait):
		c.guard.Process.Kill()
		select {
		case <-waited:
		case <-time.After(guardWait):
		}
	}
	select {
	case <-c.drained:
	case <-time.After(drainWait):
	}
	c.output.Close()
	<-c.drained
	return stuck
}
