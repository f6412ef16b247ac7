package api_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/server/api"
	"spotinference/server/listener"
	"spotinference/server/queue"
	"spotinference/test/bench/load"
	"spotinference/test/bench/mock"
)

// The benchmarks drive the real server over loopback, with a key and a ledger on
// disk. The engine and the load are processes of their own, this binary again,
// so that what this process uses is the gateway's price, and so is its profile:
//
//	go test ./server/api -run - -bench . -cpuprofile cpu.out
const (
	engineEnv = "SPOTINFERENCE_BENCH_ENGINE" // to be the engine, on the listener that is descriptor 3
	loadEnv   = "SPOTINFERENCE_BENCH_LOAD"   // load.Config, as JSON
)

func TestMain(m *testing.M) {
	if os.Getenv(engineEnv) != "" {
		ln, err := net.FileListener(os.NewFile(3, "listener"))
		if err == nil {
			err = mock.New().Serve(ln)
		}
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
	if text := os.Getenv(loadEnv); text != "" {
		var cfg load.Config
		if err := json.Unmarshal([]byte(text), &cfg); err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(1)
		}
		if res := load.Run(cfg); res.Failed > 0 {
			fmt.Fprintf(os.Stderr, "load: %d of %d answers are wrong: %v\n", res.Failed, res.Failed+res.Answers, res.Err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Most of a test's time is waiting. Two at a time, as on a machine of two CPUs, would
	// wait for each other.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

const benchKey = "sk-bench"

func BenchmarkJSON(b *testing.B) { bench(b, load.Config{Conns: 32}, 1) }

func BenchmarkStreamAtOnce(b *testing.B) {
	bench(b, load.Config{Conns: 16, Stream: true, Plan: mock.Plan{Tokens: 64}}, 64)
}

func BenchmarkStreamPaced(b *testing.B) {
	bench(b, load.Config{Conns: 32, Stream: true, Plan: mock.Plan{Tokens: 256, Pace: 5 * time.Millisecond}}, 256)
}

// bench sends b.N requests of so many units and reports what a unit costs.
func bench(b *testing.B, cfg load.Config, units int) {
	dir := b.TempDir()
	sock := filepath.Join(dir, "e.sock")
	engine, err := net.Listen("unix", sock)
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	f, err := engine.(*net.UnixListener).File()
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	child(b, engineEnv+"=1", f)
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(dir, "ledger.db"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer led.Close()
	config := api.Config{Engine: benchEngine(sock), Ledger: led, Gate: &fakeGate{}, Key: benchKey, Drain: time.Second,
		Metrics: api.NewMetrics(func() (time.Time, bool) { return time.Time{}, false }), Log: slog.New(slog.DiscardHandler)}
	s, err := api.New(config)
	if err != nil {
		b.Fatal(err)
	}
	ln := listen(b, s, config, listener.Config{})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx, context.Background(), ln, api.Hooks{}) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	}()

	cfg.Addr, cfg.Key, cfg.Requests = ln.Addr().String(), benchKey, b.N
	text, err := json.Marshal(cfg)
	if err != nil {
		b.Fatal(err)
	}
	cpu, mallocs := used(b)
	b.ResetTimer()
	if err := child(b, loadEnv+"="+string(text)).Wait(); err != nil {
		b.Fatalf("load: %v", err)
	}
	b.StopTimer()
	cpuAfter, mallocsAfter := used(b)
	n := float64(b.N * units)
	b.ReportMetric(float64((cpuAfter-cpu).Nanoseconds())/1e3/n, "cpu-µs/unit")
	b.ReportMetric(float64(mallocsAfter-mallocs)/n, "allocs/unit")
}

// child starts this binary again; it is killed when the benchmark ends.
func child(b *testing.B, env string, files ...*os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = append(os.Environ(), env), os.Stderr, files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

// used is the CPU time and the number of allocations of this process so far.
func used(b *testing.B) (time.Duration, uint64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), m.Mallocs
}

// benchEngine is an engine that listens on a socket and is always ready.
type benchEngine string

func (e benchEngine) Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", string(e))
}
func (benchEngine) Key() string                 { return "engine-key" }
func (benchEngine) Kind() queue.Kind            { return queue.Llama }
func (benchEngine) Status() queue.Status        { return queue.Status{State: ledger.Ready, Admits: true} }
func (benchEngine) Admit(context.Context) error { return nil }
func (benchEngine) TryAdmit() bool              { return true }
func (benchEngine) Release(bool)                {}
