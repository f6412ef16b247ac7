package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/queue"
)

const (
	defaultStartTimeout   = 30 * time.Minute // a download of the weights included
	defaultStopGrace      = 15 * time.Second
	defaultBackoff        = time.Second
	defaultIdle           = 15 * time.Minute
	defaultSuspendTimeout = 5 * time.Minute
	defaultWakeTimeout    = 10 * time.Minute
	defaultWakeQueue      = 256
)

// Config says which engine to run and how. Only Command is required.
type Config struct {
	Command []string   // as the user wrote it after --
	Kind    queue.Kind // KindOf(Command) by default

	// Dir is the run directory that engine.sock lies in. It must be ours alone and is
	// made if missing. By default it is made under $XDG_RUNTIME_DIR, else the
	// temporary directory, and removed when Run returns.
	Dir string
	// Record is the file that says by what the engine's processes are known, so that the next
	// Run ends what a kill of us and the guard together has left. Only one Run at a time may
	// have it. "": there is none.
	Record string
	// SharePIDs keeps the engine in our pid namespace, where it would get one of its own.
	SharePIDs bool
	// TCP makes the engine listen on a loopback port, where it cannot on a Unix socket.
	TCP bool

	// Env is what the engine's environment is made from, os.Environ() by default. It
	// is scrubbed of our own variables and the providers' credentials.
	Env []string
	// User is whom the engine runs as; nil: as us.
	User *User
	// Guard is the command that runs Guard; our own executable by default.
	Guard []string

	StartTimeout time.Duration // how long its start may show no progress; 30 minutes by default
	StopGrace    time.Duration // between SIGTERM and SIGKILL; by default 15 s more than vLLM's --shutdown-timeout
	Backoff      time.Duration // before the first restart, then doubled up to a minute; 1 s by default

	Suspend        Method        // Auto by default
	SleepLevel     int           // of vLLM's sleep: 1, the default, or 2
	Idle           time.Duration // without a request, until it is suspended; 15 minutes by default
	SuspendTimeout time.Duration // 5 minutes by default; then it is stopped
	WakeTimeout    time.Duration // how long a request may wait; 10 minutes by default
	WakeQueue      int           // how many may; 256 by default

	Checkpointer Checkpointer // nil where there is none
	// GPUMemory returns how many bytes of the GPU's memory the processes hold, by a
	// reading that is newer than the call; an error where that is not known. It returns
	// soon after ctx ends. Nil where there is nothing to read.
	GPUMemory func(ctx context.Context, pids []int) (int64, error)

	Now func() time.Time // the wall clock, of transitions; time.Now by default
	Log *slog.Logger     // none by default
	// Stderr gets the engine's last lines when it ends unexpectedly; os.Stderr by default.
	Stderr io.Writer
}

// Hooks say who is told.
type Hooks struct {
	// OnTransition is called by Run for every change of state, in order. It must not
	// block for long: Run does not watch the engine meanwhile. Nil is nobody.
	OnTransition func(Transition)
}

// Engine is one supervised engine. Its methods may be called from any goroutine.
type Engine struct {
	cfg             Config
	key             string
	command         []string // Command with its path resolved
	env             []string // scrubbed
	ownedDir        bool     // Dir is ours to remove
	ran             atomic.Bool
	status          atomic.Pointer[queue.Status] // written by Run
	at              atomic.Pointer[endpoint]     // where the engine listens; nil while no process runs; written by Run
	queue           *queue.Queue
	suspendRequests chan suspendRequest // by Suspend, answered by Run
	dialFailed      chan struct{}       // capacity 1: to Run, by Dial
	ended           chan struct{}       // closed when Run has returned

	// Owned by Run.
	hooks          Hooks
	methods        []suspendMethod            // that it has, the quickest to wake first
	failures       map[Method]int             // how often each failed
	wakeTimes      map[Method][]time.Duration // the last wakes by each, the newest last; by Stop, all starts
	suspendCallers []chan<- error             // who waits for a suspension

	// What touches the world, replaced by tests.
	spawn       func(plan) (process, error)
	awaitHealth func(context.Context) error
	healthSeen  func() string // what awaitHealth saw last, "" where nothing
	canary      func(context.Context) (Usage, error)
	reach       func(ctx context.Context, connect bool) error // see tryReach
	reachEvery  time.Duration                                 // how often it is looked whether the engine can be reached
}

// withDefaults returns cfg with what New's caller left out.
func (cfg Config) withDefaults() Config {
	if cfg.Env == nil {
		cfg.Env = os.Environ()
	}
	if len(cfg.Guard) == 0 {
		cfg.Guard = []string{"/proc/self/exe", "guard"} // also when our file was replaced meanwhile
	}
	if cfg.StopGrace == 0 {
		cfg.StopGrace = defaultStopGrace + drainTime(cfg.Kind, cfg.Command)
	}
	cfg.StartTimeout = cmp.Or(cfg.StartTimeout, defaultStartTimeout)
	cfg.Backoff = cmp.Or(cfg.Backoff, defaultBackoff)
	cfg.Suspend = cmp.Or(cfg.Suspend, Auto)
	cfg.SleepLevel = cmp.Or(cfg.SleepLevel, 1)
	cfg.Idle = cmp.Or(cfg.Idle, defaultIdle)
	cfg.SuspendTimeout = cmp.Or(cfg.SuspendTimeout, defaultSuspendTimeout)
	cfg.WakeTimeout = cmp.Or(cfg.WakeTimeout, defaultWakeTimeout)
	cfg.WakeQueue = cmp.Or(cfg.WakeQueue, defaultWakeQueue)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Stderr == nil {
		cfg.Stderr = os.Stderr
	}
	return cfg
}

// New checks cfg and refuses, with a hint, a command that contradicts what we need
// from the engine. It starts nothing and makes nothing.
func New(cfg Config) (*Engine, error) {
	var err error
	if cfg.Kind == "" || len(cfg.Command) == 0 || cfg.Command[0] == "" { // the last two are refused
		if cfg.Kind, err = KindOf(cfg.Command); err != nil {
			return nil, err
		}
	}
	program, err := findProgram(cfg.Command[0])
	if err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	ownedDir := cfg.Dir == ""
	if ownedDir {
		cfg.Dir = defaultDir(cfg.User)
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("find the run directory: %w", err)
	}
	env, _ := dropEnv(cfg.Env, secretNames)
	e := &Engine{
		cfg: cfg, key: randomHex(32), ownedDir: ownedDir,
		command: append([]string{program}, cfg.Command[1:]...), env: cfg.User.env(env),
		queue: queue.New(cfg.WakeQueue, cfg.WakeTimeout), suspendRequests: make(chan suspendRequest), ended: make(chan struct{}),
		dialFailed: make(chan struct{}, 1),
		failures:   map[Method]int{}, wakeTimes: map[Method][]time.Duration{},
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	e.methods = e.suspendMethods()
	prober := newProber(e.Dial, e.key)
	e.awaitHealth, e.healthSeen, e.spawn = prober.awaitHealth, prober.seen, e.startChild
	e.reach, e.reachEvery = e.tryReach, reachEvery
	e.canary = func(ctx context.Context) (Usage, error) { return prober.canary(ctx, e.cfg.Kind) }
	e.status.Store(&queue.Status{State: ledger.Stopped, Since: cfg.Now()})
	return e, nil
}

// findProgram returns the path of a program that can be executed.
func findProgram(name string) (path string, err error) {
	path, err = exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	var notFound *exec.Error
	if errors.As(err, &notFound) {
		err = notFound.Err
	}
	advice := "give its full path, or put it on PATH"
	if errors.Is(err, fs.ErrPermission) {
		advice = "make it executable: chmod +x"
	}
	return "", hint.Errorf(advice, "engine command %q: %w", name, err)
}

// check refuses what could only fail in Run.
func (e *Engine) check() error {
	if e.cfg.User != nil {
		if err := e.cfg.User.checkCanEnter(filepath.Dir(e.cfg.Dir)); err != nil {
			return err
		}
	}
	if !e.cfg.TCP {
		if err := checkSocketPath(e.socket()); err != nil {
			return err
		}
	}
	if _, err := planFor(e.cfg.Kind, e.command, e.env, endpoint{"unix", e.socket()}, e.key); err != nil {
		return err
	}
	return e.checkSuspend()
}

// Kind says which engine it is.
func (e *Engine) Kind() queue.Kind { return e.cfg.Kind }

// Key is what the engine asks for as Authorization: Bearer. It is made in New and
// known to the engine and us alone.
func (e *Engine) Key() string { return e.key }

// Status is the newest snapshot. It takes no lock, so a wedged engine cannot delay it.
func (e *Engine) Status() queue.Status { return *e.status.Load() }

// ErrNotRunning is Dial's answer while no engine process runs.
var ErrNotRunning = errors.New("engine is not running")

// Dial connects to the engine. It does not wait for it to be ready.
func (e *Engine) Dial(ctx context.Context) (net.Conn, error) {
	at := e.at.Load()
	if at == nil {
		return nil, ErrNotRunning
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, at.network, at.addr)
	if err != nil {
		e.noteDial(err)
	}
	return c, err
}

// Admit admits a request: at once while the engine is ready, else as soon as it is,
// after those that came before. A suspended engine is woken for it. Release must follow
// where it returns nil. Else it returns what queue.Queue.Admit does.
func (e *Engine) Admit(ctx context.Context) error { return e.queue.Admit(ctx, causeRequest) }

// TryAdmit is Admit for a request that does not wait: true where it is inside.
func (e *Engine) TryAdmit() bool { return e.queue.TryAdmit() }

// Release ends what Admit began, when the engine has nothing more to do for the request.
// Idle time is counted from the release of the last active one.
func (e *Engine) Release(active bool) { e.queue.Release(active) }

// Load says how many requests are inside and how many wait to be.
func (e *Engine) Load() (inside, waiting int) { return e.queue.Load() }

// suspendRequest is one call of Suspend or SuspendForGate.
type suspendRequest struct {
	reply chan<- error
	cause string
}

// Suspend suspends the engine now, since somebody asked for it, and returns nil when it
// is. While requests run it returns ErrBusy.
func (e *Engine) Suspend(ctx context.Context) error { return e.suspend(ctx, causeAsked) }

// SuspendForGate is Suspend since the gate has closed.
func (e *Engine) SuspendForGate(ctx context.Context) error { return e.suspend(ctx, causeGate) }

func (e *Engine) suspend(ctx context.Context, cause string) error {
	if e.cfg.Suspend == Never {
		return ErrNeverSuspends
	}
	done := make(chan error, 1)
	select {
	case e.suspendRequests <- suspendRequest{done, cause}:
	case <-e.ended:
		return queue.ErrNotReady
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-e.ended:
		return queue.ErrNotReady
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Wake wakes the engine and returns nil when it is ready.
func (e *Engine) Wake(ctx context.Context) error {
	err := e.queue.Admit(ctx, causeAsked)
	if err == nil {
		e.Release(true)
	}
	return err
}

func (e *Engine) socket() string { return filepath.Join(e.cfg.Dir, socketName) }
