package report_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/ledger/report"
)

// eventful is a ledger with an event of two kinds, and a sample that failed between them.
func eventful(t *testing.T) *book {
	t.Helper()
	b := open(t)
	b.event(1, ledger.GateOpened{})
	b.event(3, ledger.EngineChange{From: ledger.Starting, To: ledger.Ready, Cause: "<first>"})
	err := b.AddSampleFailure(t.Context(), ledger.SampleFailure{At: at(2), Call: "GET /billing", Class: "timeout"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := eventful(t)
	events := func(from, to float64, kinds ...string) report.EventsReport {
		t.Helper()
		e, err := report.Events(t.Context(), b.Reader, ledger.Window{From: at(from), To: at(to)}, kinds, false)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	same(t, "text", written(t, events(0, 60), report.Text), `
Events from 2026-10-17 08:00:00 to 09:00:00 UTC (1h)

at (UTC)              kind     what             detail
2026-10-17 08:01:00   gate     open
2026-10-17 08:02:00   sample   failed           {"class":"timeout","call":"GET /billing"}
2026-10-17 08:03:00   engine   starting→ready   {"cause":"<first>"}
`)
	same(t, "csv", written(t, events(0, 60, "sample", "engine"), report.CSV), `
at,kind,subject,detail,demo
2026-10-17T08:02:00Z,sample,failed,"{""class"":""timeout"",""call"":""GET /billing""}",false
2026-10-17T08:03:00Z,engine,starting→ready,"{""cause"":""<first>""}",false
`)
	same(t, "json", written(t, events(1, 2), report.JSON), `
{
  "window": {
    "from": "2026-10-17T08:01:00Z",
    "to": "2026-10-17T08:02:00Z"
  },
  "events": [
    {
      "at": "2026-10-17T08:02:00Z",
      "kind": "sample",
      "subject": "failed",
      "detail": "{\"class\":\"timeout\",\"call\":\"GET /billing\"}"
    }
  ],
  "demo": false
}
`)
	same(t, "none", written(t, events(0, 60, "meter"), report.Text), `
Events from 2026-10-17 08:00:00 to 09:00:00 UTC (1h)

None in this window.
`)
	_, err := report.Events(t.Context(), b.Reader, ledger.Window{From: at(0), To: at(1)}, []string{"gates"}, false)
	if !errors.Is(err, report.ErrQuestion) || err.Error() != `report events: kind "gates": not a kind of event` || !strings.Contains(hint.Of(err), "gate, gateway") {
		t.Errorf("kind gates: %v", err)
	}
}

// Every report says where the ledger stood.
func TestEveryReportSaysTheHead(t *testing.T) {
	t.Parallel()
	b := eventful(t)
	b.bills(0, 5)
	b.served(2, 100)
	w := ledger.Window{From: at(0), To: at(5)}
	reports := map[string]func() (interface {
		Write(io.Writer, report.Format) error
	}, error){
		"cost": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.Cost(b.Reader, until(0, 5))
		},
		"dark": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.Cost(b.Reader, explicitly(0, 50, 50))
		},
		"usage": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.Usage(b.Reader, w, false)
		},
		"meter": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.Meter(b.Reader, w, false)
		},
		"events": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.Events(t.Context(), b.Reader, w, nil, false)
		},
		"gpu": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.GPU(b.Reader, report.GPUQuery{Window: w, Now: at(5), MaxSampleAge: 3 * 60e9})
		},
		"wakes": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.Wakes(b.Reader, report.WakesQuery{Window: w, Now: at(5), MaxSampleAge: 3 * 60e9})
		},
		"reconcile": func() (r interface {
			Write(io.Writer, report.Format) error
		}, err error) {
			return report.Reconcile(b.Reader, report.ReconcileQuery{Invoice: []report.Billed{on(18, "vm-1", "60")}, Currency: "USD", Now: midnight.AddDate(0, 0, 30)})
		},
	}
	chain, err := b.Chain()
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range reports {
		rep, err := ask()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var text, object bytes.Buffer
		if err := errors.Join(rep.Write(&text, report.Text), rep.Write(&object, report.JSON)); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("\n\nLedger: head %s after %d links.\n", chain.Head.Short(), chain.Links); !strings.HasSuffix(text.String(), want) {
			t.Errorf("%s ends with %q, want %q", name, text.String()[max(0, text.Len()-90):], want)
		}
		var got struct{ Chain report.Chain }
		if err := json.Unmarshal(object.Bytes(), &got); err != nil || got.Chain.Head != chain.Head.String() || got.Chain.Links != chain.Links {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// What is exported adds up to what the reports say, to the nano.
func TestExportAddsUp(t *testing.T) {
	t.Parallel()
	b := eventful(t)
	b.bills(0, 5)
	for i := range 5 {
		b.served(float64(i), 100+int64(i), cut)
	}
	rows := func(table string, w ledger.Window) (objects []map[string]any) {
		t.Helper()
		var lines, table2 bytes.Buffer
		err := errors.Join(report.Export(t.Context(), b.Reader, table, w, false, &lines, report.JSON),
			report.Export(t.Context(), b.Reader, table, w, false, &table2, report.CSV))
		if err != nil {
			t.Fatal(err)
		}
		records, err := csv.NewReader(&table2).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		dec := json.NewDecoder(&lines)
		dec.UseNumber()
		for n := 1; ; n++ {
			var o map[string]any
			if err := dec.Decode(&o); err == io.EOF {
				if n != max(1, len(records)) {
					t.Errorf("%s: %d objects, %d records", table, n-1, len(records))
				}
				return objects
			} else if err != nil {
				t.Fatal(err)
			}
			for i, column := range records[0] {
				value, ok := o[column]
				text := fmt.Sprint(value)
				if value == nil {
					text = ""
				}
				if !ok || text != records[n][i] || len(records[0]) != len(o) {
					t.Errorf("%s, row %d, %s: %v as JSON, %q as CSV", table, n, column, value, records[n][i])
				}
			}
			objects = append(objects, o)
		}
	}
	w := ledger.Window{From: at(0), To: at(4)}
	u, err := report.Usage(b.Reader, w, false)
	if err != nil {
		t.Fatal(err)
	}
	var tokens, n int64
	for _, o := range rows("requests", w) {
		c, err := o["completion_tokens"].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		tokens, n = tokens+c, n+1
	}
	if tokens != u.CompletionTokens || n != u.Requests || n != 4 {
		t.Errorf("exported %d tokens of %d requests, reported %d of %d", tokens, n, u.CompletionTokens, u.Requests)
	}
	samples := rows("samples", report.All())
	first, last := samples[0], samples[len(samples)-1]
	cost := b.cost(until(0, 5))
	from, err := ledger.ParseNanos(first["bill"].(string))
	if err != nil {
		t.Fatal(err)
	}
	to, err := ledger.ParseNanos(last["bill"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if got := (to - from).String(); len(samples) != 6 || got != string(*cost.Spend.Net) {
		t.Errorf("%d samples, from %s to %s: %s, reported %s", len(samples), from, to, got, *cost.Spend.Net)
	}
	if f := rows("failures", report.All()); len(f) != 1 || f[0]["class"] != "timeout" {
		t.Errorf("failures %v", f)
	}
	if e := rows("events", report.All()); len(e) != 2 || e[1]["detail"] != `{"cause":"<first>"}` {
		t.Errorf("events %v", e)
	}
	for _, name := range []string{"engine", "gpu"} {
		rows(name, report.All())
	}
	if got := report.ExportTables(); !slices.Contains(got, "requests") || len(got) != 6 {
		t.Errorf("tables %q", got)
	}
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	b := eventful(t)
	if _, err := report.ParseExportTable("request"); err == nil {
		t.Error("table request: no error")
	}
	if err := report.Export(t.Context(), b.Reader, "events", report.All(), false, io.Discard, report.Text); err == nil {
		t.Error("as text: no error")
	}
	if err := report.Export(t.Context(), b.Reader, "events", report.All(), false, brokenPipe{}, report.JSON); err == nil {
		t.Error("a broken pipe: no error")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := report.Export(ended, b.Reader, "events", report.All(), false, io.Discard, report.JSON); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}
