package ledger_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
)

// TestEventTable: each row says what it is, its subject is that of the events that are
// made of it, and its fields are those of their details.
func TestEventTable(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, row := range ledger.EventTypes() {
		name := string(row.Kind) + " " + row.Subject
		if seen[name] {
			t.Errorf("%s: twice", name)
		}
		seen[name] = true
		if !sentence(row.Help) {
			t.Errorf("%s: help %q, want one sentence", name, row.Help)
		}
		e := ledger.NewEvent(t0, row.Detail)
		form := regexp.MustCompile("^" + regexp.MustCompile(`[A-Z]+`).ReplaceAllString(regexp.QuoteMeta(row.Subject), ".*") + "$")
		if e.Kind != row.Kind || !form.MatchString(e.Subject) || !e.At.Equal(t0) {
			t.Errorf("%s: an event of it is %+v", name, e)
		}
		if fields := row.Fields(); (e.Detail == "") != (len(fields) == 0) {
			t.Errorf("%s: detail %q, fields %v", name, e.Detail, fields)
		} else if e.Detail != "" {
			sameFields(t, name, e.Detail, fields)
		}
	}
}

func sentence(help string) bool {
	return strings.HasSuffix(help, ".") && !strings.Contains(strings.TrimSuffix(help, "."), ". ")
}

// sameFields wants each field of a detail to be named, and each that is not optional to
// be there.
func sameFields(t *testing.T, name, detail string, fields []ledger.EventField) {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(detail), &object); err != nil {
		t.Errorf("%s: detail %s: %v", name, detail, err)
	}
	got := map[string]bool{}
	var walk func(prefix string, o map[string]any)
	walk = func(prefix string, o map[string]any) {
		for k, v := range o {
			if inner, ok := v.(map[string]any); ok {
				walk(prefix+k+".", inner)
				continue
			}
			got[prefix+k] = true
		}
	}
	walk("", object)
	types := []string{"text", "integer", "decimal", "number", "time", "texts", "numbers"}
	for _, f := range fields {
		if !slices.Contains(types, f.Type) || f.Name == "" {
			t.Errorf("%s: field %+v", name, f)
		}
		if !got[f.Name] && !f.Optional {
			t.Errorf("%s: no field %s in %s", name, f.Name, detail)
		}
		delete(got, f.Name)
	}
	if len(got) > 0 {
		t.Errorf("%s: fields %v are not in the table", name, got)
	}
}

// TestNoEventBesideTheTable: whatever can be written as an event has a row.
func TestNoEventBesideTheTable(t *testing.T) {
	t.Parallel()
	rows := map[string]bool{}
	for _, row := range ledger.EventTypes() {
		rows[reflect.TypeOf(row.Detail).Name()] = true
	}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if m, ok := d.(*ast.FuncDecl); ok && m.Recv != nil && m.Name.Name == "eventDetail" {
				n++
				if typ := m.Recv.List[0].Type.(*ast.Ident).Name; !rows[typ] {
					t.Errorf("%s can be written as an event and is not in the table", typ)
				}
			}
		}
	}
	if n != len(rows) || n != len(ledger.EventTypes()) {
		t.Errorf("%d types of details in %d rows, %d found", len(rows), len(ledger.EventTypes()), n)
	}
	defer func() {
		if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "BUG: ") {
			t.Errorf("an event that the table does not have: %s", p)
		}
	}()
	ledger.NewEvent(t0, ledger.UnlistedEvent)
}

// The page on the ledger names every kind, and no other.
func TestEventKindsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/ledger.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n| kind | what |\n|---|---|\n")
	var got []string
	for line := range strings.Lines(table) {
		kind, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "`")
		if !ok || !strings.HasPrefix(line, "| `") {
			break
		}
		got = append(got, kind)
	}
	slices.Sort(got)
	var want []string
	for _, k := range ledger.EventKinds() {
		want = append(want, string(k))
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/ledger.md has %v, the table %v", got, want)
	}
}

// TestEvents: what is written comes back, as the table says it.
func TestEvents(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	f := func(d ledger.EventDetail, kind ledger.EventKind, subject, detail string) {
		t.Helper()
		if err := led.AddEvent(t0, d); err != nil {
			t.Fatal(err)
		}
		got, err := led.Events(kind, t0.Add(-1), t0)
		want := ledger.Event{At: t0, Kind: kind, Subject: subject, Detail: detail}
		if err != nil || len(got) == 0 || got[len(got)-1] != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	cet := time.FixedZone("CET", 3600)
	f(ledger.GateOpened{}, "gate", "open", "")
	f(ledger.GateOpened{Budget: "40/day"}, "gate", "open", `{"budget":"40/day"}`)
	f(ledger.GateClosed{Reason: "stale", Why: "the newest sample is <old>"}, "gate", "closed", `{"reason":"stale","why":"the newest sample is <old>"}`)
	f(ledger.OnCloseStarted{Reason: "stale"}, "gate", "on_close_started", `{"reason":"stale"}`)
	f(ledger.OnCloseEnded{Outcome: "done", Took: ledger.Seconds(1500 * time.Millisecond)}, "gate", "on_close_ended", `{"outcome":"done","seconds":1.5}`)
	f(ledger.GatewayStarted{}, "gateway", "started", "")
	f(ledger.GatewayStopped{}, "gateway", "stopped", "")
	f(ledger.GPUXID{UUID: "GPU-1", XID: 79, At: t0.In(cet)}, "gpu", "xid 79", `{"uuid":"GPU-1","xid":79,"at":"2026-11-23T12:00:00Z"}`)
	f(ledger.GPUSource{Source: "helper", Reason: "r"}, "gpu", "source helper", `{"reason":"r"}`)
	f(ledger.BalanceLow{Left: 1_500_000_000, Threshold: 2_000_000_000, Currency: "USD"}, "billing", "balance_low", `{"left":"1.5","threshold":"2","currency":"USD"}`)
	f(ledger.BalanceOK{Left: 1, Currency: "USD"}, "billing", "balance_ok", `{"left":"0.000000001","threshold":"0","currency":"USD"}`)
	f(ledger.Residual{From: t0.In(cet), To: t0, Paid: 2_500_000_000, Billed: 1, Currency: "USD"}, "billing", "residual",
		`{"from":"2026-11-23T12:00:00Z","to":"2026-11-23T12:00:00Z","paid":"2.5","billed":"0.000000001","currency":"USD"}`)
	f(ledger.EngineChange{From: ledger.Starting, To: ledger.Ready, Cause: "healthy", PID: 7, Phases: map[string]ledger.Seconds{"load": ledger.Seconds(time.Second)}},
		"engine", "starting→ready", `{"cause":"healthy","pid":7,"phases_seconds":{"load":1}}`)
	f(ledger.MeterDrift{From: t0.In(cet), Prompt: ledger.EngineDiff{Engine: 3, Ledger: 2, Rounding: 1}}, "meter", "drift",
		`{"from":"2026-11-23T12:00:00Z","prompt":{"engine":3,"ledger":2,"rounding":1},"completion":{"engine":0,"ledger":0,"rounding":0}}`)

	starts, err := led.GatewayStarts(t0.Add(-1), t0)
	if err != nil || len(starts) != 1 || !starts[0].Equal(t0) {
		t.Errorf("GatewayStarts = %v, %v", starts, err)
	}
}

// TestEngineStates: the table has each state once, and a part of the spend for each.
func TestEngineStates(t *testing.T) {
	t.Parallel()
	var names []ledger.EngineState
	for _, row := range ledger.EngineStates() {
		if !sentence(row.Help) && !strings.Contains(row.Help, "; ") || row.Part < 0 || row.Part >= ledger.NumSpendParts || row.Part == ledger.PartServing {
			t.Errorf("%+v", row)
		}
		names = append(names, row.Name)
	}
	want := []ledger.EngineState{ledger.Stopped, ledger.Starting, ledger.Ready, ledger.Suspending, ledger.Suspended, ledger.Waking, ledger.Crashed}
	if !slices.Equal(names, want) {
		t.Errorf("states %v, want %v", names, want)
	}
	for p := range ledger.NumSpendParts {
		if p.String() == "" || p.Help() == "" {
			t.Errorf("part %d: %q, %q", p, p, p.Help())
		}
	}
}
