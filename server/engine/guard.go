package engine

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guard's two pipes, as Config.Guard's process inherits them, and what is written
// to them. An order is one byte, a report one line. The end of the control pipe is the
// order that counts: the kernel gives it when the gateway dies.
const (
	controlFD = 3
	statusFD  = 4

	orderTerm = 't' // SIGTERM to the leader
	orderKill = 'k' // SIGKILL to the whole tree

	reportStarted  = "started"  // the leader's pid
	reportFailed   = "failed"   // why it could not be executed; nothing follows
	reportExited   = "exited"   // the leader's exit status; the whole tree is gone
	reportSignaled = "signaled" // the leader's signal; the whole tree is gone
	reportStuck    = "stuck"    // how many processes outlive SIGKILL; the guard leaves them
)

const (
	killEvery = 10 * time.Millisecond // between two rounds over the tree
	killBound = 8 * time.Second       // then what is left hangs in the kernel, and no signal helps
)

// Guard is the main function of the hidden guard command:
// [--dir DIR] [--shared] [--user UID,GID,...] -- COMMAND. DIR is the run directory, which the
// guard removes when the gateway cannot; --shared makes no namespace for the engine. The
// guard is the engine's parent, or the parent of the first process of its namespace, and the
// subreaper of all that the engine starts, and of nothing else: it must run in a process of
// its own, started by Engine.Run. The engine alone runs as the user, with those groups.
//
// It ignores the signals that a terminal or an init system sends to all processes, since
// its one duty is to be there until the tree is gone. If it is killed itself, the
// leader or the namespace dies with it (Pdeathsig) and Engine.Run sweeps up the rest.
func Guard(args []string) int {
	self := os.Args[:len(os.Args)-len(args)]
	if len(args) > 0 && args[0] == initFlag {
		return guardInit(args[1:])
	}
	var dir string
	if len(args) > 1 && args[0] == "--dir" {
		dir, args = args[1], args[2:]
	}
	shared := len(args) > 0 && args[0] == sharedFlag
	if shared {
		args = args[1:]
	}
	user := ""
	if len(args) > 1 && args[0] == "--user" {
		user = args[1]
	}
	as, args, err := takeUser(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "guard: %v\n", err)
		return 2
	}
	control := os.NewFile(controlFD, "control")
	status := os.NewFile(statusFD, "status")
	if len(args) == 0 || !isPipe(control) || !isPipe(status) {
		fmt.Fprintln(os.Stderr, "guard: is started by spotinference serve, not by hand")
		return 2
	}
	// Everything above stderr is ours alone, also what an outer process left open.
	if err := closeOnExec(); err != nil {
		fmt.Fprintf(status, "%s guard: %v\n", reportFailed, err)
		return 1
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintf(status, "%s guard: become subreaper: %v\n", reportFailed, err)
		return 1
	}
	ignoreSignals()

	// Pdeathsig fires when the thread that forked ends, so this one must stay.
	runtime.LockOSThread()
	t, leader, err := startTree(self, args, as, user, shared)
	if err != nil {
		fmt.Fprintf(status, "%s %v\n", reportFailed, err)
		return 1
	}
	fmt.Fprintf(status, "%s %d\n", reportStarted, leader)
	code, orphaned := t.supervise(readOrders(control), status)
	if orphaned && dir != "" {
		os.Remove(filepath.Join(dir, socketName))
		os.Remove(dir)
	}
	return code
}

// startTree starts the engine, in a namespace where there can be one and shared does not
// forbid it.
func startTree(self, argv []string, as *syscall.Credential, user string, shared bool) (*tree, int, error) {
	if !shared {
		if t, leader, ok, err := startInNamespace(self, argv, user); ok {
			return t, leader, err
		}
	}
	leader, err := startLeader(argv, as)
	if err != nil {
		return nil, 0, err
	}
	return &tree{leader: leader, exited: make(chan unix.WaitStatus, 1), gone: make(chan struct{})}, leader, nil
}

// startLeader executes the engine's command. It dies with the calling thread.
func startLeader(argv []string, as *syscall.Credential) (pid int, err error) {
	return syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, Credential: as},
	})
}

// takeUser takes --user and -- off the arguments.
func takeUser(args []string) (as *syscall.Credential, rest []string, err error) {
	if len(args) > 1 && args[0] == "--user" {
		if as, err = credential(args[1]); err != nil {
			return nil, nil, err
		}
		args = args[2:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	return as, args, nil
}

func isPipe(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeNamedPipe != 0
}

// closeOnExec marks every descriptor above stderr.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// readOrders passes the control pipe's bytes on; the channel closes with the pipe.
func readOrders(control *os.File) <-chan byte {
	orders := make(chan byte)
	go func() {
		defer close(orders)
		r := bufio.NewReader(control)
		for {
			order, err := r.ReadByte()
			if err != nil {
				return
			}
			orders <- order
		}
	}()
	return orders
}

// tree is the guard's view of everything below it.
type tree struct {
	leader int                  // our child: in a namespace, the first process there
	ns     *namespace           // nil where the engine shares ours
	exited chan unix.WaitStatus // the engine's status, once
	gone   chan struct{}        // closed when no process is left

	// mu is held to reap and to signal: a child that is not reaped keeps its pid.
	mu     sync.Mutex
	reaped bool // the leader; guarded by mu
}

// supervise carries out orders until no process of the tree is left, and reports that. It
// returns the exit status of the guard, and whether the gateway was gone before.
func (t *tree) supervise(orders <-chan byte, status *os.File) (code int, orphaned bool) {
	go t.reap()
	var (
		end     unix.WaitStatus
		round   <-chan time.Time // the next round of killing; nil until the first
		giveUp  <-chan time.Time
		killAll = func() {
			if giveUp == nil {
				giveUp = time.After(killBound)
			}
			t.kill()
			round = time.After(killEvery)
		}
	)
	for {
		select {
		case order, ok := <-orders:
			switch {
			case !ok:
				orders = nil // the gateway is gone
				killAll()
			case order == orderTerm:
				t.terminate()
			case order == orderKill:
				killAll()
			}
		case end = <-t.exited:
			killAll() // vLLM's workers keep the GPU when their parent dies
		case <-round:
			killAll()
		case <-t.gone:
			select {
			case end = <-t.exited:
			default: // taken above
			}
			reportEnd(status, end)
			return 0, orders == nil
		case <-giveUp:
			all, _ := processes()
			fmt.Fprintf(status, "%s %d\n", reportStuck, len(descendants(all, os.Getpid())))
			return 1, orders == nil
		}
	}
}

func reportEnd(status *os.File, end unix.WaitStatus) {
	if end.Signaled() {
		fmt.Fprintf(status, "%s %d\n", reportSignaled, end.Signal())
		return
	}
	fmt.Fprintf(status, "%s %d\n", reportExited, end.ExitStatus())
}

// reap collects every child, orphans of the engine included, until there is none.
func (t *tree) reap() {
	defer close(t.gone)
	for {
		// Waits without reaping; the reaping is done under mu.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // ECHILD: no child, so no grandchild either
		}
		t.mu.Lock()
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == nil && pid == t.leader {
			t.reaped = true
			t.noteEnd(ws)
		}
		t.mu.Unlock()
	}
}

// noteEnd notes the status of our child, unless that of the engine itself is known.
func (t *tree) noteEnd(ws unix.WaitStatus) {
	if t.ns != nil {
		if <-t.ns.told; t.ns.ended {
			return
		}
	}
	t.exited <- ws
}

func (t *tree) terminate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ns != nil:
		t.ns.terminate()
	case !t.reaped:
		unix.Kill(t.leader, unix.SIGTERM)
	}
}

// kill is one round of SIGKILL over the tree. A process that is forked while /proc is read
// is killed in the next round: its parent is dead by then, and it is our child.
func (t *tree) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reaped {
		unix.Kill(-t.leader, unix.SIGKILL) // the group at one stroke
	}
	all, err := processes()
	if err != nil {
		return // no /proc: the group is all we can reach
	}
	for _, p := range descendants(all, os.Getpid()) {
		p.kill()
	}
}
