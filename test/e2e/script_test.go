package e2e_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"spotinference/ledger"
	"spotinference/test/harness"
)

// TestScript tests the command line as text: one script a theme. The scripts run
// the real binary, each in a home of its own.
func TestScript(t *testing.T) {
	t.Parallel()
	bin := filepath.Dir(harness.Program(t))
	// What should have been refused may serve for ever: it ends before all tests do.
	deadline, ok := t.Deadline()
	if !ok {
		deadline = time.Now().Add(20 * time.Minute)
	}
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		Deadline:           deadline.Add(-30 * time.Second),
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			env.Setenv("SPOTINFERENCE_DEMO_LOAD", "off") // a script counts its own requests
			env.Setenv("GORACE", "atexit_sleep_ms=10")   // else each of a hundred commands takes a second to end
			env.Values[gatewayKey{}] = &gateway{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    cmdExits,
			"serve":    cmdServe,
			"ready":    cmdReady,
			"asleep":   cmdAsleep,
			"shutdown": cmdShutdown,
			"metrics":  cmdMetrics,
			"logs":     cmdLogs,
			"post":     cmdPost,
			"begin":    cmdBegin,
			"rest":     cmdRest,
			"gone":     cmdGone,
			"sql":      cmdSQL,
			"fixture":  cmdFixture,
		},
	})
}

// TestScriptsHaveNoStop: testscript's own stop ends a script well, and what follows it
// would never be looked at.
func TestScriptsHaveNoStop(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txt"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	for _, name := range scripts {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		script, _, _ := strings.Cut(string(text), "\n-- ")
		if slices.Contains(strings.Split(script, "\n"), "stop") {
			t.Errorf("%s has a stop: write shutdown", name)
		}
	}
}

// gateway is the serve that a script runs beside its other commands.
type gateway struct {
	cmd    *exec.Cmd
	log    string // the file that its stderr goes to
	exited chan struct{}
	err    error          // of Wait; read after exited
	answer *http.Response // begun and not read to its end
}

// gatewayKey is where a script keeps its gateway.
type gatewayKey struct{}

// theGateway is the one that runs now.
func theGateway(ts *testscript.TestScript) *gateway {
	g := ts.Value(gatewayKey{}).(*gateway)
	if g.cmd == nil {
		ts.Fatalf("no serve runs")
	}
	return g
}

// wants ends the script where a command is not written as its form says.
func wants(ts *testscript.TestScript, ok bool, form string) {
	if !ok {
		ts.Fatalf("usage: %s", form)
	}
}

// await looks until it is so. The wait is bounded, not timed.
func (g *gateway) await(ts *testscript.TestScript, what string, is func() bool) {
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-g.exited:
			ts.Fatalf("%s: serve ended: %v\n%s", what, g.err, ts.ReadFile(g.log))
		default:
		}
		if time.Now().After(end) {
			ts.Fatalf("%s: not so\n%s", what, ts.ReadFile(g.log))
		}
	}
}

// exits CODE PROGRAM ARGS... runs a program that must end with exactly CODE.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) >= 2, "exits CODE PROGRAM ARGS...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// serve ARGS... starts spotinference serve on a free port, beside the script, and
// waits until it listens. Its stderr goes to serve.log; $ADDR is where it is.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	g := ts.Value(gatewayKey{}).(*gateway)
	wants(ts, !neg && g.cmd == nil, "serve ARGS..., one at a time")
	ts.Check(ts.Exec("env", "-0")) // the script's environment, which it may have changed
	env := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\x00"), "\x00")

	*g = gateway{log: ts.MkAbs("serve.log"), exited: make(chan struct{})}
	stderr, err := os.Create(g.log)
	ts.Check(err)
	defer stderr.Close()
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--log-format", "json"}, args...)
	g.cmd = exec.Command(filepath.Join(harness.BuildDir(), "spotinference"), args...)
	g.cmd.Dir, g.cmd.Env, g.cmd.Stderr = ts.MkAbs("."), env, stderr
	ts.Check(g.cmd.Start())
	cmd, exited := g.cmd, g.exited
	go func() { g.err = cmd.Wait(); close(exited) }()
	ts.Defer(func() { _ = cmd.Process.Kill(); <-exited })

	g.await(ts, "serve listens", func() bool {
		found := listening.FindStringSubmatch(ts.ReadFile(g.log))
		if found != nil {
			ts.Setenv("ADDR", found[1])
		}
		return found != nil
	})
}

// listening is serve's word for where it is, as text or as JSON.
var listening = regexp.MustCompile(`\blistening\b\W+url\W+http://([0-9.:]+)\b`)

// asleep waits until the engine is suspended.
func cmdAsleep(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) == 0, "asleep")
	theGateway(ts).await(ts, "the engine is suspended", func() bool {
		resp, err := http.Get("http://" + ts.Getenv("ADDR") + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(body), `"engine":"suspended"`)
	})
}

// ready waits until the engine is ready and the gate is open.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) == 0, "ready")
	theGateway(ts).await(ts, "serve is ready", func() bool {
		resp, err := http.Get("http://" + ts.Getenv("ADDR") + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// metrics LINE waits until the metrics page has LINE.
func cmdMetrics(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) == 1, "metrics LINE")
	theGateway(ts).await(ts, "the metrics show "+args[0], func() bool {
		resp, err := http.Get("http://" + ts.Getenv("ADDR") + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		page, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains("\n"+string(page), "\n"+args[0]+"\n")
	})
}

// logs TEXT waits until serve.log has TEXT.
func cmdLogs(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) == 1, "logs TEXT")
	g := theGateway(ts)
	g.await(ts, "the log says "+args[0], func() bool { return strings.Contains(ts.ReadFile(g.log), args[0]) })
}

// shutdown asks the serve to end by SIGTERM, and wants it to end well.
func cmdShutdown(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) == 0, "shutdown")
	g := theGateway(ts)
	ts.Check(g.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-g.exited:
	case <-time.After(30 * time.Second):
		ts.Fatalf("serve did not end within 30 s of SIGTERM\n%s", ts.ReadFile(g.log))
	}
	if g.err != nil {
		ts.Fatalf("serve ended with %v after SIGTERM\n%s", g.err, ts.ReadFile(g.log))
	}
	g.cmd = nil
}

// send posts body with the script's API key.
func send(ts *testscript.TestScript, path, body string) *http.Response {
	theGateway(ts)
	req, err := http.NewRequest(http.MethodPost, "http://"+ts.Getenv("ADDR")+path, strings.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	if key := ts.Getenv("KEY"); key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	return resp
}

// [!] post PATH BODY posts BODY, with $KEY where that is set. The answer goes to
// stdout; it must be 200, or must not.
func cmdPost(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, len(args) == 2, "[!] post PATH BODY")
	resp := send(ts, args[0], args[1])
	defer resp.Body.Close()
	_, err := io.Copy(ts.Stdout(), resp.Body)
	ts.Check(err)
	if (resp.StatusCode == http.StatusOK) == neg {
		ts.Fatalf("post %s: %s", args[0], resp.Status)
	}
}

// begin PATH BODY posts BODY and returns as soon as the answer begins.
func cmdBegin(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) == 2, "begin PATH BODY")
	resp := send(ts, args[0], args[1])
	ts.Defer(func() { resp.Body.Close() })
	theGateway(ts).answer = resp
}

// rest reads what begin began: its answer goes to stdout.
func cmdRest(ts *testscript.TestScript, neg bool, args []string) {
	g := ts.Value(gatewayKey{}).(*gateway) // which may have ended meanwhile
	wants(ts, !neg && len(args) == 0 && g.answer != nil, "rest, after begin")
	_, err := io.Copy(ts.Stdout(), g.answer.Body)
	ts.Check(err)
}

// [!] gone FILE wants the process whose number FILE holds to have ended, or to run.
func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, len(args) == 1, "[!] gone FILE")
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	err = syscall.Kill(pid, 0)
	if errors.Is(err, syscall.ESRCH) == neg {
		ts.Fatalf("ask for process %d: %v", pid, err)
	}
}

// sql FILE STATEMENT... changes an SQLite file, or makes one.
func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) >= 2, "sql FILE STATEMENT...")
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	for _, statement := range args[1:] {
		_, err := db.Exec(statement)
		ts.Check(err)
	}
}

// fixture FILE makes a ledger of ten minutes on the 5th of January 2026, from noon
// on: a bill that grows by 0.03 a minute, sampled on the minute, and four requests
// of 50,000 output tokens in all, the last of them cut short.
func cmdFixture(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, !neg && len(args) == 1, "fixture FILE")
	noon := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	// The clock stands, so that the head of the chain is always the same one.
	led, err := ledger.Open(ledger.Config{Path: ts.MkAbs(args[0]), Now: func() time.Time { return noon.Add(time.Hour) }})
	ts.Check(err)
	ts.Check(led.SetProvider("hyperstack"))
	rate := ledger.Nanos(1_800_000_000)
	for minute := range 11 {
		bill := ledger.Nanos(2_000_000_000 + 30_000_000*minute)
		_, err := led.AddSample(context.Background(), ledger.Sample{
			At: noon.Add(time.Duration(minute) * time.Minute), Provider: "hyperstack", Account: "1", Currency: "USD",
			Truth: ledger.TruthResource, Step: time.Minute, Lag: 5 * time.Minute, Calibrated: true, Every: time.Minute,
			Lines: []ledger.Line{{
				Resource: "vm-1", Kind: ledger.Instance, Status: "ACTIVE", Running: true, Rate: &rate, Bill: &bill,
				Epoch: "2026-01-05T10:00:00Z",
			}},
		})
		ts.Check(err)
	}
	for i, status := range []ledger.Status{ledger.OK, ledger.OK, ledger.OK, ledger.Aborted} {
		finished := noon.Add(time.Duration(i+1) * 90 * time.Second)
		ts.Check(led.AddRequest(ledger.Request{
			ID: fmt.Sprintf("request-%d", i), Endpoint: "chat", Model: "m", Stream: true, Status: status, HTTP: http.StatusOK,
			Started: finished.Add(-time.Minute), First: finished.Add(-59 * time.Second), Finished: finished,
			Usage:      ledger.Usage{PromptTokens: 2000, CachedTokens: 500, CompletionTokens: 12_500},
			LowerBound: status == ledger.Aborted,
		}))
	}
	ts.Check(led.Close())
}
