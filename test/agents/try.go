package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// world is one run of this program.
type world struct {
	opts    options
	bin     string // the program
	scratch string

	// starting holds a place for each agent that may start at once: what starts takes a
	// processor, what waits for an answer takes none.
	starting chan struct{}

	mu       sync.Mutex
	outcomes []outcome // guarded by mu, and so is standard output
}

const (
	scenariosAtOnce = 5
	// startWithin is how long an agent may take to its first request.
	startWithin = 5 * time.Minute
)

// outcome is what one agent did in one scenario.
type outcome struct {
	agent    string
	scenario scenario
	exit     int
	stopped  bool // it had not ended by itself
	ended    time.Time
	tries    []attempt
	output   string
	err      error    // it could not be seen
	problems []string // what it should not have done
}

// try runs what was chosen, and returns the exit code.
func try(ctx context.Context, opts options, scratch string) (code int, err error) {
	if opts.out == "" {
		if opts.out, err = os.MkdirTemp("", "agents-record-"); err != nil {
			return 0, err
		}
	}
	w := &world{opts: opts, bin: programIn(scratch), scratch: scratch, starting: make(chan struct{}, max(runtime.NumCPU(), 2))}
	places := make(chan struct{}, scenariosAtOnce)
	var wait sync.WaitGroup
	for i, sc := range opts.scenarios {
		if sc.realEngine {
			continue
		}
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			w.play(ctx, sc, fmt.Sprintf("s%d", i))
		})
	}
	wait.Wait()
	for i, sc := range opts.scenarios { // these need the processors for themselves
		if sc.realEngine {
			w.play(ctx, sc, fmt.Sprintf("s%d", i))
		}
	}
	if ctx.Err() != nil {
		return 0, errors.New("interrupted")
	}
	return w.report(), nil
}

// play runs one scenario with each agent.
func (w *world) play(ctx context.Context, sc scenario, dir string) {
	var cast []agent
	for _, a := range w.opts.agents {
		if !a.variant || sc.variants {
			cast = append(cast, a)
		}
	}
	if !sc.own {
		w.act(ctx, sc, filepath.Join(w.scratch, dir), cast)
		return
	}
	var wait sync.WaitGroup
	for i, a := range cast {
		wait.Go(func() { w.act(ctx, sc, filepath.Join(w.scratch, fmt.Sprintf("%s-%d", dir, i)), []agent{a}) })
	}
	wait.Wait()
}

// act runs agents on one stage.
func (w *world) act(ctx context.Context, sc scenario, dir string, cast []agent) {
	if ctx.Err() != nil || len(cast) == 0 {
		return
	}
	st, err := sc.start(ctx, w, dir)
	if err != nil {
		for _, a := range cast {
			w.enter(outcome{agent: a.name, scenario: sc, err: err})
		}
		return
	}
	all := make([]outcome, len(cast))
	var wait sync.WaitGroup
	for i, a := range cast {
		one := func() { all[i] = w.use(ctx, sc, st, dir, a) }
		if sc.realEngine {
			one()
		} else {
			wait.Go(one)
		}
	}
	wait.Wait()
	var rows map[string]row
	if st.gateway != nil {
		rows, err = st.gateway.rows(ctx)
	}
	st.stop()
	for _, o := range all {
		if o.err == nil {
			o.err = err
		}
		if o.err == nil {
			o.problems = judge(o)
			if st.gateway != nil {
				o.problems = append(o.problems, unaccounted(o.tries, rows)...)
			}
		}
		w.enter(o)
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "agents:", err)
	}
}

// use has one agent ask, and sees what it does until it has ended or its time is up.
func (w *world) use(ctx context.Context, sc scenario, st *stage, dir string, a agent) outcome {
	o := outcome{agent: a.name, scenario: sc}
	select {
	case w.starting <- struct{}{}:
	case <-ctx.Done():
		o.err = ctx.Err()
		return o
	}
	release := sync.OnceFunc(func() { <-w.starting })
	defer release()
	key, err := st.key(ctx, a)
	if err != nil {
		o.err = err
		return o
	}
	rec, err := record(st.target, !a.library, st.onStream)
	if err != nil {
		o.err = err
		return o
	}
	u := use{dir: w.opts.dir, home: filepath.Join(dir, "home-"+a.name), base: rec.url, key: key, model: st.model}
	inv := a.setUp(u)
	o.err = u.write(inv)
	if o.err == nil && inv.first != nil {
		if first := u.run(ctx, inv.first, inv.env); first.err != nil || first.exit != 0 {
			o.err = fmt.Errorf("its command that stores settings: exit %d, %v\n%s", first.exit, first.err, first.output)
		}
	}
	if o.err == nil {
		bounded, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-rec.first:
				release()
				time.AfterFunc(cmp.Or(sc.bound, usualBound), cancel)
			case <-time.After(startWithin):
				cancel()
			case <-bounded.Done():
			}
		}()
		r := u.run(bounded, inv.argv, inv.env)
		cancel()
		o.err, o.exit, o.stopped, o.ended, o.output = r.err, r.exit, r.stopped, r.ended, plain(r.output)
	}
	killThoseOf(u.home)
	o.tries = rec.close()
	if err := w.keep(o); err != nil && o.err == nil {
		o.err = err
	}
	return o
}

// result is how a command ended.
type result struct {
	err     error // it could not be run
	exit    int
	stopped bool
	ended   time.Time
	output  string
}

// run runs a command as the agent's, until it ends or ctx does.
func (u use) run(ctx context.Context, argv, env []string) result {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = u.environ(env), filepath.Join(u.home, "work")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for a daemon that holds its output open
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	r := result{stopped: ctx.Err() != nil, ended: time.Now(), output: output.String()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && !r.stopped {
		r.err = err
		return r
	}
	r.exit = cmd.ProcessState.ExitCode()
	return r
}

// keep writes what an agent printed and was answered to the record.
func (w *world) keep(o outcome) error {
	folder := filepath.Join(w.opts.out, o.scenario.name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var wire bytes.Buffer
	for _, a := range o.tries {
		line, err := json.Marshal(a)
		if err != nil {
			return err
		}
		wire.Write(append(line, '\n'))
	}
	return errors.Join(os.WriteFile(filepath.Join(folder, o.agent+".txt"), []byte(o.output), 0o644),
		os.WriteFile(filepath.Join(folder, o.agent+".jsonl"), wire.Bytes(), 0o644))
}

// enter adds an outcome and prints its line.
func (w *world) enter(o outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes = append(w.outcomes, o)
	fmt.Println(o.line())
}

// report prints the table, and returns the exit code.
func (w *world) report() (code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	failed := 0
	for _, o := range w.outcomes {
		if o.err != nil || len(o.problems) > 0 {
			failed++
		}
	}
	fmt.Println()
	fmt.Print(tables(w.opts, w.outcomes))
	fmt.Printf("\nagents: the record is in %s\n%d passed, %d failed\n", w.opts.out, len(w.outcomes)-failed, failed)
	if failed > 0 {
		return 1
	}
	return 0
}

// find returns the outcome of an agent in a scenario.
func find(all []outcome, agent, scenario string) (outcome, bool) {
	i := slices.IndexFunc(all, func(o outcome) bool { return o.agent == agent && o.scenario.name == scenario })
	if i < 0 {
		return outcome{}, false
	}
	return all[i], true
}
