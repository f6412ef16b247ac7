package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger"
)

// TestMain takes the settings of who runs the tests out of their way.
func TestMain(m *testing.M) {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, envPrefix) {
			os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

// TestHelpFits: at 80 columns no line of any command's help is longer, but for what is to
// be copied.
func TestHelpFits(t *testing.T) {
	root := newRoot(new(bytes.Buffer), new(bytes.Buffer))
	visitCommands(root, func(c *cobra.Command) {
		if c.Hidden || strings.Contains(c.CommandPath(), "completion") { // cobra's own texts
			return
		}
		var b strings.Builder
		writeHelp(&b, c, 80)
		text := strings.Replace(b.String(), c.Example, "", 1)
		for line := range strings.Lines(text) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 && !strings.HasPrefix(line, "  spotinference ") {
				t.Errorf("%s: a line of %d columns: %s", c.CommandPath(), n, line)
			}
		}
	})
}

// TestHelpTellsTheExitStatus of every command that does something.
func TestHelpTellsTheExitStatus(t *testing.T) {
	root := newRoot(new(bytes.Buffer), new(bytes.Buffer))
	visitCommands(root, func(c *cobra.Command) {
		if c.Hidden || c.HasSubCommands() {
			return
		}
		var b strings.Builder
		writeUsage(&b, c, 0)
		_, exits, ok := strings.Cut(b.String(), "\nExit status:\n")
		if !ok || !regexp.MustCompile(`^  0  .+\n  1  .+\n  2  .+\n(  3  .+\n)?$`).MatchString(exits) {
			t.Errorf("%s: exit status %q", c.CommandPath(), exits)
		}
	})
}

func TestFold(t *testing.T) {
	f := func(text string, indent, width int, want string) {
		t.Helper()
		if got := fold(text, indent, width); got != want {
			t.Errorf("fold(%q, %d, %d) = %q, want %q", text, indent, width, got, want)
		}
	}
	f("one two three", 0, 0, "one two three")
	f("one two three", 0, 7, "one two\nthree")
	f("one two three", 4, 11, "one two\n    three")
	f("one\ntwo three\n\nfour\nfive", 0, 9, "one two\nthree\n\nfour five")
	f("as it\n  stands here, indented", 0, 9, "as it\n  stands here, indented")
	f("incomprehensibilities", 0, 5, "incomprehensibilities")
}

func TestNearest(t *testing.T) {
	names := []string{"budget", "budget-tz", "demo", "idle", "max-sample-age", "explain"}
	f := func(word, want string) {
		t.Helper()
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
	f("bugdet", "budget") // two letters that changed places are one mistake
	f("budge", "budget")
	f("budgett", "budget")
	f("demoo", "demo")
	f("max-sampel-age", "max-sample-age")
	f("explian", "explain")
	f("colour", "")
	f("ilde", "idle")
	f("ldie", "") // half of its letters are wrong
	f("x", "")    // a letter is near to nothing
	f("", "")
}

// TestTheFirstBadDurationIsReported: with two of them it is the one that help shows first.
func TestTheFirstBadDurationIsReported(t *testing.T) {
	for range 20 {
		var stderr bytes.Buffer
		code := Main([]string{"serve", "--wake-timeout", "0s", "--start-timeout", "-1s", "--provider", "none", "--", "llama-server"}, new(bytes.Buffer), &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), "error: serve: --start-timeout -1s: too short\n") {
			t.Fatalf("exit %d: %s", code, stderr.String())
		}
	}
}

// testGlobal has a ledger of one request of ten tokens, at noon, and is asked at one.
func testGlobal(t *testing.T) (*global, *bytes.Buffer) {
	t.Helper()
	noon := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	g := &global{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), ledger: filepath.Join(t.TempDir(), "l.db"),
		now: func() time.Time { return noon.Add(time.Hour) }}
	led, err := ledger.Open(ledger.Config{Path: g.ledger, Now: g.now})
	if err != nil {
		t.Fatal(err)
	}
	if err := led.AddRequest(ledger.Request{ID: "r", Endpoint: "chat", Status: ledger.OK, HTTP: 200, Started: noon, First: noon, Finished: noon,
		Usage: ledger.Usage{CompletionTokens: 10}}); err != nil {
		t.Fatal(err)
	}
	if err := led.Close(); err != nil {
		t.Fatal(err)
	}
	return g, g.stdout.(*bytes.Buffer)
}

// TestCommandsRunWithoutCobra: a command is a function of its options.
func TestCommandsRunWithoutCobra(t *testing.T) {
	g, out := testGlobal(t)
	o := reportUsageOptions{windowOptions{window: "24h", until: "now", format: "json"}}
	if err := runReportUsage(context.Background(), g, o); err != nil || !strings.Contains(out.String(), `"completion_tokens": 10,`) {
		t.Errorf("report usage: %v\n%s", err, out)
	}
	o.window = "yesterday"
	if err := runReportUsage(context.Background(), g, o); exitOf(err) != exitUsage || hint.Of(err) == "" {
		t.Errorf("report usage of yesterday: %v, hint %q", err, hint.Of(err))
	}
	err := runReportCost(context.Background(), g, reportCostOptions{
		windowOptions: windowOptions{window: "24h", until: "now", format: "text"}, ageOptions: ageOptions{time.Minute}, bucket: "none"})
	if exitOf(err) != exitRefused {
		t.Errorf("report cost without a bill: %v, exit %d", err, exitOf(err))
	}
}

func TestExitOf(t *testing.T) {
	for want, err := range map[int]error{
		exitFailure: fmt.Errorf("plain"),
		exitUsage:   fmt.Errorf("wrapped: %w", usagef("", "bad")),
		exitRefused: refusedError{"no figure"},
	} {
		if got := exitOf(err); got != want {
			t.Errorf("exitOf(%v) = %d, want %d", err, got, want)
		}
	}
}
