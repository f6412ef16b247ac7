package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where it may, the guard gives the engine a pid namespace of its own. Its first process is
// our binary once more, and when that dies, which it does when the guard dies, the kernel
// kills everything in the namespace: also what a script has started that is killed with the
// guard. It takes a mount namespace, too, so that /proc shows the pids that the engine sees.
// Only root may; a user namespace would change more for the engine than is good.

// sharedFlag keeps the guard from it.
const sharedFlag = "--shared"

// initFlag makes the guard command the first process of a namespace.
const initFlag = "--init"

// The pipes of the first process, as it inherits them, and what it reports, each one line.
const (
	holdFD   = 3 // its end ends the namespace; each byte: go on
	reportFD = 4

	initCannot  = "cannot"  // why there is no such namespace; nothing follows
	initReady   = "ready"   // it waits to be told to go on
	initStarted = "started" // the leader's pid, as it is inside; it waits again, and reaps nobody
	initFailed  = "failed"  // why the leader could not be executed; nothing follows
	initEnded   = "ended"   // the leader's wait status
)

// namespace is the guard's view of one.
type namespace struct {
	hold   *os.File      // see holdFD
	leader int           // a pidfd, -1 where there is none
	told   chan struct{} // closed when the first process reports no more
	ended  bool          // it has reported the engine's end; read once told is closed
}

// startInNamespace starts the engine in a namespace of its own. ok is false where there can
// be none, and nothing was started then. err is why the engine could not be executed.
func startInNamespace(self, argv []string, user string) (t *tree, leader int, ok bool, err error) {
	if os.Geteuid() != 0 {
		return nil, 0, false, nil
	}
	holdR, holdW, err := os.Pipe()
	if err != nil {
		return nil, 0, false, nil
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		holdR.Close()
		holdW.Close()
		return nil, 0, false, nil
	}
	words := append(append([]string{}, self...), initFlag)
	if user != "" {
		words = append(words, "--user", user)
	}
	words = append(append(words, "--"), argv...)
	first, err := syscall.ForkExec("/proc/self/exe", words, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, holdR.Fd(), reportW.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS},
	})
	holdR.Close()
	reportW.Close()
	if err != nil {
		holdW.Close()
		reportR.Close()
		return nil, 0, false, nil // EPERM mostly
	}
	lines := bufio.NewReader(reportR)
	word, rest := nextReport(lines)
	if word == initReady && pidInside(first) == "1" { // else we would not find the leader
		holdW.Write([]byte{0})
		if word, rest = nextReport(lines); word == initStarted {
			leader = pidOutside(first, rest)
		}
	}
	if leader == 0 {
		unix.Kill(first, unix.SIGKILL)
		for {
			if _, err := unix.Wait4(first, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		holdW.Close()
		reportR.Close()
		if word == initFailed {
			return nil, 0, true, errors.New(rest)
		}
		return nil, 0, false, nil
	}
	ns := &namespace{hold: holdW, leader: -1, told: make(chan struct{})}
	if fd, err := unix.PidfdOpen(leader, 0); err == nil {
		ns.leader = fd
	}
	holdW.Write([]byte{0})
	t = &tree{leader: first, ns: ns, exited: make(chan unix.WaitStatus, 1), gone: make(chan struct{})}
	go func() {
		defer close(ns.told)
		defer reportR.Close()
		if word, rest := nextReport(lines); word == initEnded {
			status, _ := strconv.ParseUint(rest, 10, 32)
			t.exited <- unix.WaitStatus(status)
			ns.ended = true
		}
	}()
	return t, leader, true, nil
}

// nextReport reads a line; "" at the end.
func nextReport(r *bufio.Reader) (word, rest string) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", ""
	}
	word, rest, _ = strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	return word, rest
}

// pidOutside is the pid of a child of first that has the pid inside in its namespace; 0 where
// it is not found.
func pidOutside(first int, inside string) int {
	all, err := processes()
	if err != nil {
		return 0
	}
	for _, p := range all {
		if p.ppid == first && pidInside(p.pid) == inside {
			return p.pid
		}
	}
	return 0
}

// pidInside is a process's pid in the innermost of its namespaces; "" where it is not told.
func pidInside(pid int) string {
	status, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(status)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if f := strings.Fields(pids); len(f) > 0 {
				return f[len(f)-1]
			}
		}
	}
	return ""
}

// terminate sends SIGTERM to the leader.
func (ns *namespace) terminate() {
	if ns.leader >= 0 {
		unix.PidfdSendSignal(ns.leader, unix.SIGTERM, nil, 0)
	}
}

// guardInit is the first process of a namespace: it starts the engine, reports how it ends,
// and reaps what is left to it.
func guardInit(args []string) int {
	hold, report := os.NewFile(holdFD, "hold"), os.NewFile(reportFD, "report")
	if os.Getpid() != 1 || !isPipe(hold) || !isPipe(report) {
		fmt.Fprintln(os.Stderr, "guard: is started by spotinference serve, not by hand")
		return 2
	}
	as, args, err := takeUser(args)
	if err == nil {
		err = closeOnExec()
	}
	if err == nil {
		err = mountProc()
	}
	if err != nil || len(args) == 0 {
		fmt.Fprintf(report, "%s %v\n", initCannot, err)
		return 1
	}
	ignoreSignals()
	goOn := func() bool { _, err := io.ReadFull(hold, make([]byte, 1)); return err == nil }
	fmt.Fprintln(report, initReady)
	if !goOn() {
		return 1
	}
	runtime.LockOSThread() // see Guard
	leader, err := startLeader(args, as)
	if err != nil {
		fmt.Fprintf(report, "%s %v\n", initFailed, err)
		return 1
	}
	fmt.Fprintf(report, "%s %d\n", initStarted, leader)
	if !goOn() {
		return 1
	}
	go func() {
		_, _ = io.Copy(io.Discard, hold)
		os.Exit(1) // and with it everything here
	}()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0 // nobody is left
		case pid == leader:
			fmt.Fprintf(report, "%s %d\n", initEnded, uint32(ws))
		}
	}
}

// mountProc makes /proc show the pids of this namespace. Mounts of the host still come here.
func mountProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep our mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// ignoreSignals catches and drops the signals that a terminal or an init system sends to all
// processes. Ignoring them would make the engine inherit that, and SIGTERM would not stop it.
func ignoreSignals() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP)
}
