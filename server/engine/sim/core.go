package sim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// memory is the simulated GPU's: the process that holds the lock has all of it. A zero
// memory is a machine without a GPU.
type memory struct {
	file *os.File
}

var (
	errOutOfMemory = errors.New("CUDA error: out of memory")
	errCoreDied    = errors.New("engine core died unexpectedly")
)

// allocate takes the memory that path stands for, or fails at once.
func allocate(path string) (*memory, error) {
	if path == "" {
		return &memory{}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	m := &memory{f}
	if err := m.lock(); err != nil {
		f.Close()
		return nil, err
	}
	return m, nil
}

func (m *memory) lock() error {
	if m.file == nil {
		return nil
	}
	if err := unix.Flock(int(m.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errOutOfMemory
	}
	return nil
}

func (m *memory) free() {
	if m.file != nil {
		unix.Flock(int(m.file.Fd()), unix.LOCK_UN)
	}
}

// The engine core's orders and its answer. It reads orders on its standard input and
// answers each on its standard output. The first line there is its pid, or why it did not
// start.
const (
	coreSleep = "sleep"
	coreWake  = "wake"
	coreOK    = "ok"
)

// runCore is vLLM's EngineCore: the process that owns the GPU. It stays when its
// parent is killed, as the real one does: the end of its input is no reason to end.
func runCore(opts options) int {
	mem, err := allocate(opts.gpu)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if opts.ignoreTerm {
		signal.Ignore(unix.SIGTERM, unix.SIGINT)
	}
	fmt.Println(os.Getpid())
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		answer := coreOK
		switch orders.Text() {
		case coreSleep:
			mem.free()
		case coreWake:
			if err := mem.lock(); err != nil {
				answer = err.Error()
			}
		}
		fmt.Println(answer)
	}
	for {
		time.Sleep(time.Hour) // holding the memory
	}
}

// core is the API server's side of the engine core.
type core struct {
	pid  int
	lost chan struct{} // closed when the core is gone

	mu      sync.Mutex // held for an order and its answer
	orders  io.Writer
	answers chan string
}

// coreCommand is this program as the engine core. argv[0] is kept, for what we are
// may depend on it.
func coreCommand(command []string, flags ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append(command[1:len(command):len(command)], flags...)...)
	cmd.Args[0] = command[0]
	cmd.Stderr = os.Stderr
	return cmd
}

// escapeCore is the process between an API server and a core that can be found neither by
// its group nor by its parent: it starts the core and ends. The core has no environment,
// for that of the real one, which sets its title, cannot be read either.
func escapeCore(command []string) int {
	cmd := coreCommand(command, "-escape=false")
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	cmd.Env = []string{}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// startCore starts the engine core with command, our own.
func startCore(command []string, escape bool) (*core, error) {
	cmd := coreCommand(command, "-engine-core")
	if escape {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	// No StdinPipe, StdoutPipe: Wait would close them when the process between ends.
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answersR, answersW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin, cmd.Stdout = ordersR, answersW
	err = cmd.Start()
	ordersR.Close()
	answersW.Close()
	if err != nil {
		return nil, err
	}
	go cmd.Wait() // its end is known by the end of its output
	c := &core{lost: make(chan struct{}), orders: ordersW, answers: make(chan string)}
	go func() {
		defer close(c.lost)
		lines := bufio.NewScanner(answersR)
		for lines.Scan() {
			c.answers <- lines.Text()
		}
	}()
	select {
	case line := <-c.answers:
		if _, err := fmt.Sscan(line, &c.pid); err != nil {
			return nil, errors.New(line)
		}
		return c, nil
	case <-c.lost:
		return nil, errors.New("engine core did not start")
	}
}

// ask gives one order and waits for its answer.
func (c *core) ask(order string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := fmt.Fprintln(c.orders, order); err != nil {
		return err
	}
	select {
	case answer := <-c.answers:
		if answer != coreOK {
			return errors.New(answer)
		}
		return nil
	case <-c.lost:
		return errors.New("engine core is gone")
	}
}

// stop ends the core and waits for it, as vLLM's orderly shutdown does.
func (c *core) stop() {
	unix.Kill(c.pid, unix.SIGTERM)
	select {
	case <-c.lost:
	case <-time.After(5 * time.Second):
		unix.Kill(c.pid, unix.SIGKILL)
	}
}
