package engine

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killWait  = killBound + 2*time.Second // for the guard to clear the tree
	guardWait = 2 * time.Second           // for the guard to exit, once it has reported the end
	drainWait = time.Second               // for the last lines, once no process can write more
)

// report is one report of the guard's. lost means that the guard is gone and has not
// reported how the engine ended.
type report struct {
	word, rest string
	lost       bool
}

func (r report) number() int {
	n, _ := strconv.Atoi(r.rest)
	return n
}

// ending says in one phrase how the engine ended; "" where the report is not of its end.
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
	reports() <-chan report    // the last one is of the end; never closed
	progress() int64           // changes while the process does something
	stop(time.Duration) report // ends it, within that time if it listens, and soon after if not
	kill() report              // ends it now
	close(report) (stuck int)  // must follow the report of the end
	print(io.Writer)           // its last lines
}

// child is one engine process with its guard. Its fields are owned by Run.
type child struct {
	guard     *exec.Cmd
	control   *os.File
	fromGuard chan report // from the guard
	lines     *ring
	output    *os.File      // read end of stdout and stderr of the whole tree
	drained   chan struct{} // closed when output is at its end
	marks     marks
}

func (c *child) reports() <-chan report { return c.fromGuard }

func (c *child) print(w io.Writer) { c.lines.print(w) }

// progress is how many bytes the engine has logged and read so far. One that loads
// weights, or logs its downloads, is slow; one that does neither may be stuck.
func (c *child) progress() int64 {
	sum := c.lines.total()
	all, err := processes()
	if err != nil {
		return sum
	}
	for _, p := range descendants(all, c.guard.Process.Pid) {
		sum += p.bytesRead()
	}
	return sum
}

// startChild starts the guard, which starts the engine and says so in a report.
func (e *Engine) startChild(p plan) (_ process, err error) {
	guard, key := e.cfg.Guard, e.key
	dir := "" // what the guard removes if we cannot: only a directory that we made
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
	if e.sharesPIDs() {
		cmd.Args = append(cmd.Args, sharedFlag)
	}
	if as := e.cfg.User; as != nil {
		cmd.Args = append(cmd.Args, "--user", as.arg())
		// A process that opens /dev/stderr anew needs the right to.
		if err := outputW.Chown(int(as.UID), int(as.GID)); err != nil {
			closeAll(files...)
			return nil, fmt.Errorf("open the guard's pipes: %w", err)
		}
	}
	cmd.Args = append(append(cmd.Args, "--"), p.argv...)
	run := randomHex(16)
	cmd.Env = p.env
	if e.cfg.Record != "" {
		cmd.Env = append(slices.Clip(p.env), runMark+"="+run)
	}
	cmd.Stdout, cmd.Stderr = outputW, outputW
	cmd.ExtraFiles = []*os.File{controlR, statusW} // controlFD, statusFD
	// A session of its own: no Ctrl-C and no hang-up from our terminal, and a mark
	// on all that the engine starts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	e.writeRecord(run, marks{pipe: inode}) // before there is anything to be left
	if err := cmd.Start(); err != nil {
		closeAll(files...)
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	closeAll(controlR, statusW, outputW)

	c := &child{
		guard:     cmd,
		control:   controlW,
		fromGuard: make(chan report, 4), // all that one guard can report: readReports never waits
		lines:     &ring{},
		output:    outputR,
		drained:   make(chan struct{}),
		marks:     marks{key: key, session: cmd.Process.Pid, pipe: inode},
	}
	e.writeRecord(run, c.marks)
	go func() {
		defer close(c.drained)
		io.Copy(c.lines, outputR)
	}()
	go readReports(statusR, c.fromGuard)
	return c, nil
}

// sharesPIDs reports whether the engine is to have no pid namespace of its own. With the
// driver's checkpoint it has none: nobody has tried on a card whether the driver finds a
// process in another namespace.
func (e *Engine) sharesPIDs() bool {
	return e.cfg.SharePIDs || slices.ContainsFunc(e.methods, func(m suspendMethod) bool { return m.name() == Checkpoint })
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

// readReports passes the guard's reports on, the last of which is of the end.
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

// sendOrder tells the guard what to do. A guard that is gone is known by its report.
func (c *child) sendOrder(b byte) { c.control.Write([]byte{b}) }

// stop ends the engine: SIGTERM, then SIGKILL to the whole tree after grace. It
// returns how it ended, and always returns.
func (c *child) stop(grace time.Duration) report {
	c.sendOrder(orderTerm)
	if r, ok := c.awaitEnd(grace); ok {
		return r
	}
	return c.kill()
}

func (c *child) kill() report {
	c.sendOrder(orderKill)
	if r, ok := c.awaitEnd(killWait); ok {
		return r
	}
	c.guard.Process.Kill()
	return report{lost: true}
}

// awaitEnd waits for the report of the end.
func (c *child) awaitEnd(limit time.Duration) (report, bool) {
	timeout := time.After(limit)
	for {
		select {
		case r := <-c.fromGuard:
			if r.word == reportFailed || r.ending() != "" {
				return r, true
			}
		case <-timeout:
			return report{}, false
		}
	}
}

// close must follow the report of the end. It leaves no process, no descriptor and no
// goroutine of this child, but for the processes that hang in the kernel, where no signal
// reaches them: it returns how many they are.
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
