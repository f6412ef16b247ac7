// Compare measures what one unit of work costs spotinference beside nginx: CPU
// time of the gateway's own process, the one figure that is steady on a busy
// machine. Both serve the same answers of the same engine over a Unix socket,
// in turns, in one run. It prints a table; scripts/compare builds and runs it.
//
// Without nginx it prints our figures alone. It fails where an answer is wrong,
// never because one was slow.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"spotinference/test/bench/load"
	"spotinference/test/bench/mock"
)

// engineName is the name under which this program is the engine.
const engineName = "llama-server"

const key = "sk-compare"

func main() {
	if filepath.Base(os.Args[0]) == engineName {
		ln, err := mock.Listen(os.Args[1:])
		if err == nil {
			err = mock.New().Serve(ln)
		}
		fmt.Fprintln(os.Stderr, "mock engine:", err)
		os.Exit(1)
	}
	var r run
	flag.StringVar(&r.ours, "spotinference", "spotinference", "the binary")
	flag.StringVar(&r.nginx, "nginx", findNginx(), "nginx's binary; empty to do without")
	flag.IntVar(&r.rounds, "rounds", 3, "rounds; the figures are medians")
	flag.DurationVar(&r.dur, "for", 3*time.Second, "length of a loop")
	flag.StringVar(&r.only, "row", "", "only the rows whose name holds this")
	flag.Parse()
	if path, err := exec.LookPath(r.ours); err == nil {
		r.ours, _ = filepath.Abs(path) // commands run in a directory of their own
	}
	if err := r.all(); err != nil {
		fmt.Fprintln(os.Stderr, "compare: error:", err)
		os.Exit(1)
	}
}

// findNginx looks where Debian puts it, too.
func findNginx() string {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// workload is one row of the table.
type workload struct {
	name string
	want string
	load load.Config
	unit func(load.Result) int // what the CPU is divided by; nil for a row of another kind
}

func answers(r load.Result) int { return r.Answers }
func events(r load.Result) int  { return r.Events }

func (r *run) workloads() []workload {
	paced := mock.Plan{Tokens: 256, Pace: 5 * time.Millisecond}
	rows := []workload{
		{"JSON, closed loop, 32 connections: CPU µs a request", "2.2 ×",
			load.Config{Conns: 32, For: r.dur}, answers},
		{"SSE, 64 events, no delay, 16 streams: CPU µs an event", "2.2 ×",
			load.Config{Conns: 16, For: r.dur, Stream: true, Plan: mock.Plan{Tokens: 64}}, events},
		{"SSE, 256 events at 5 ms, 32 streams: CPU µs an event", "1.6 ×",
			load.Config{Conns: 32, Requests: 96, Stream: true, Plan: paced}, events},
		{"SSE, open loop, 300 streams of 16 events a second: added TTFT p99, ms", "+ 0.5 ms",
			load.Config{Conns: 64, For: r.dur, Rate: 300, Stream: true, Plan: mock.Plan{Tokens: 16}}, nil},
		{"SSE, 1,000 open streams: peak memory, MB", "64 MB",
			load.Config{Conns: 1000, Requests: 1000, Stream: true, Plan: mock.Plan{Tokens: 24, Pace: 200 * time.Millisecond}}, nil},
	}
	return slices.DeleteFunc(rows, func(w workload) bool { return !strings.Contains(w.name, r.only) })
}

type run struct {
	ours, nginx string
	rounds      int
	only        string
	dur         time.Duration

	dir    string
	failed error
}

// all measures every round of every gateway and prints the table.
func (r *run) all() (err error) {
	if r.dir, err = os.MkdirTemp("", "compare"); err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Symlink(self, r.engine()); err != nil {
		return err
	}
	gateways := []func() (*target, error){r.direct, r.startNginx, r.startOurs}
	if r.nginx == "" {
		gateways = []func() (*target, error){r.direct, r.startOurs}
	}
	figures := map[string][][]float64{} // by gateway, then row, then round
	for round := range r.rounds {
		for _, start := range gateways {
			t, err := start()
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, r.rounds, t.name)
			row := figures[t.name]
			if row == nil {
				row = make([][]float64, len(r.workloads()))
			}
			for i, w := range r.workloads() {
				if v, ok := r.measure(t, w); ok {
					row[i] = append(row[i], v)
				}
			}
			figures[t.name] = row
			if err := t.stop(); err != nil {
				return err
			}
		}
	}
	r.print(figures)
	return r.failed
}

// measure runs one workload once. Of the engine alone only the time to the
// first token is of interest.
func (r *run) measure(t *target, w workload) (float64, bool) {
	ttft := w.load.Rate > 0
	if t.pid == 0 && !ttft {
		return 0, false
	}
	w.load.Addr, w.load.Key = t.addr, key
	warm := w.load
	warm.For, warm.Requests, warm.Plan = 300*time.Millisecond, 0, mock.Plan{Tokens: w.load.Plan.Tokens}
	if w.load.Conns < 1000 {
		load.Run(warm)
	}
	before := cpu(t.pid)
	res := load.Run(w.load)
	time.Sleep(300 * time.Millisecond) // what is written in the background is in the price
	spent := cpu(t.pid) - before
	if res.Failed > 0 {
		r.failed = errors.Join(r.failed, fmt.Errorf("%s: %s: %d of %d answers are wrong: %w", t.name, w.name, res.Failed, res.Failed+res.Answers, res.Err))
		return 0, false
	}
	switch {
	case ttft:
		return load.At(res.First, 0.99).Seconds() * 1e3, true
	case w.unit == nil:
		return peak(t.pid), true
	}
	return float64(spent.Microseconds()) / float64(w.unit(res)), true
}

func (r *run) print(figures map[string][][]float64) {
	fmt.Println("| | nginx | spotinference | | must reach |\n|---|---|---|---|---|")
	for i, w := range r.workloads() {
		of := func(name string) (float64, string) {
			if rows := figures[name]; rows != nil && len(rows[i]) > 0 {
				m := median(rows[i])
				return m, fmt.Sprintf("%.3g", m)
			}
			return 0, ""
		}
		if w.load.Rate > 0 { // what each adds to the engine's own time, in the same round
			for _, name := range []string{"nginx", "spotinference"} {
				rows := figures[name]
				if rows == nil {
					continue
				}
				for round := range min(len(rows[i]), len(figures["direct"][i])) {
					rows[i][round] -= figures["direct"][i][round]
				}
			}
		}
		theirs, theirText := of("nginx")
		ours, ourText := of("spotinference")
		relation := ""
		switch {
		case theirText == "" || ourText == "":
		case w.load.Rate > 0:
			relation = fmt.Sprintf("%+.2f ms", ours-theirs)
		case w.unit != nil:
			relation = fmt.Sprintf("%.2f ×", ours/theirs)
		}
		fmt.Printf("| %s | %s | %s | %s | %s |\n", w.name, theirText, ourText, relation, w.want)
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// cpu is the time that a process and its children (nginx's workers) have used.
func cpu(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	const tick = time.Second / 100 // USER_HZ
	var sum time.Duration
	for _, p := range family(pid) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			sum += time.Duration(user+system) * tick
		}
	}
	return sum
}

// peak is the most memory that they have held, in MB.
func peak(pid int) float64 {
	var kb int
	for _, p := range family(pid) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if _, rest, ok := strings.Cut(string(b), "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			kb += n
		}
	}
	return float64(kb) / 1024
}

// family is a process and those of its children that are the same program: the
// engine's guard and the engine are none of the gateway's wire.
func family(pid int) []int {
	out := []int{pid}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(b)) {
		child, _ := strconv.Atoi(f)
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); strings.HasPrefix(string(name), "nginx") {
			out = append(out, child)
		}
	}
	return out
}

// start starts a command that dies with us, its output in a file. Settings of the
// caller's would be the gateway's.
func (r *run) start(log string, args []string, env ...string) (*exec.Cmd, error) {
	f, err := os.Create(filepath.Join(r.dir, log))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, f, f
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SPOTINFERENCE_") }), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}
