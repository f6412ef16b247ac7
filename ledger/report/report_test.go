package report_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/ledgertest"
	"spotinference/ledger/report"
)

func TestMain(m *testing.M) { ledgertest.Main(m) }

// t0 is when each test's story begins.
var t0 = time.Date(2026, 10, 17, 8, 0, 0, 0, time.UTC)

// at is t0 and so many minutes.
func at(minutes float64) time.Time { return t0.Add(time.Duration(minutes * float64(time.Minute))) }

// book is a real ledger with the few words that the stories are told in.
type book struct {
	*ledger.Ledger
	t *testing.T
	n int // requests so far
}

func open(t *testing.T) *book {
	t.Helper()
	led := ledgertest.Open(t, ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db"), Now: func() time.Time { return at(1e6) }})
	return &book{Ledger: led, t: t}
}

func nanos(n ledger.Nanos) *ledger.Nanos { return &n }

// sample is one instance of 2.50 an hour whose bill stands at n.
func sample(minutes float64, n ledger.Nanos) ledger.Sample {
	return ledger.Sample{
		At: at(minutes), Provider: "hyperstack", Currency: "USD", Truth: ledger.TruthResource, Calibrated: true,
		Step: time.Minute, Lag: 5 * time.Minute, Every: time.Minute,
		Lines: []ledger.Line{{Resource: "vm-1", Kind: ledger.Instance, Status: "ACTIVE", Running: true,
			Rate: nanos(2_500_000_000), Bill: nanos(n), Epoch: "e1"}},
	}
}

func (b *book) bill(ss ...ledger.Sample) {
	b.t.Helper()
	for _, s := range ss {
		if _, err := b.AddSample(context.Background(), s); err != nil {
			b.t.Fatal(err)
		}
	}
}

// bills takes a sample a minute, from minute first to last; each adds 4 cents.
func (b *book) bills(first, last int) {
	b.t.Helper()
	for m := first; m <= last; m++ {
		b.bill(sample(float64(m), 100_000_000_000+ledger.Nanos(m)*40_000_000))
	}
}

// served writes a finished request of 100 prompt tokens, 25 of them cached.
func (b *book) served(minutes float64, tokens int64, change ...func(*ledger.Request)) {
	b.t.Helper()
	b.n++
	r := ledger.Request{ID: fmt.Sprintf("r%d", b.n), Endpoint: "chat", Model: "m", Status: ledger.OK, HTTP: 200,
		Started: at(minutes - 0.1), Finished: at(minutes),
		Usage: ledger.Usage{PromptTokens: 100, CachedTokens: 25, CompletionTokens: tokens}}
	for _, f := range change {
		f(&r)
	}
	if err := b.AddRequest(r); err != nil {
		b.t.Fatal(err)
	}
}

func cut(r *ledger.Request)  { r.Status, r.LowerBound = ledger.Aborted, true }
func lost(r *ledger.Request) { r.Status, r.LowerBound = ledger.Lost, true }

func (b *book) provider(name string) {
	b.t.Helper()
	if err := b.SetProvider(name); err != nil {
		b.t.Fatal(err)
	}
}

// until asks for a window that ends now.
func until(from, to float64) report.CostQuery {
	return report.CostQuery{Window: ledger.Window{From: at(from), To: at(to)}, Now: at(to), MaxSampleAge: 3 * time.Minute}
}

// explicitly asks for a window that the user ended at to, at minute now.
func explicitly(from, to, now float64) report.CostQuery {
	q := until(from, to)
	q.Explicit, q.Now = true, at(now)
	return q
}

func (b *book) cost(q report.CostQuery) report.CostReport {
	b.t.Helper()
	c, err := report.Cost(b.Reader, q)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func written(t *testing.T, rep interface {
	Write(io.Writer, report.Format) error
}, f report.Format) string {
	t.Helper()
	var buf bytes.Buffer
	if err := rep.Write(&buf, f); err != nil {
		t.Fatal(err)
	}
	return unchained.ReplaceAllString(buf.String(), "")
}

// unchained finds where the ledger stood, in each form: what a test of figures is not about.
var unchained = regexp.MustCompile(`(?m)\nLedger: head [0-9a-f]{16} after [0-9,]+ links?\.\n|,\n *"chain": \{[^}]*\}|,chain_head,chain_links$|,[0-9a-f]{64},[0-9]+$`)

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if want = strings.TrimPrefix(want, "\n"); got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

// keys lists the fields of an object, those of objects within it as a.b, in order.
func keys(t *testing.T, text string) []string {
	t.Helper()
	var top map[string]any
	if err := json.Unmarshal([]byte(text), &top); err != nil {
		t.Fatal(err)
	}
	var out []string
	var walk func(prefix string, v map[string]any)
	walk = func(prefix string, v map[string]any) {
		for k, v := range v {
			switch v := v.(type) {
			case map[string]any:
				walk(prefix+k+".", v)
			case []any:
				out = append(out, prefix+k)
				for _, e := range v {
					if m, ok := e.(map[string]any); ok {
						walk(prefix+k+"[].", m)
					}
				}
			default:
				out = append(out, prefix+k)
			}
		}
	}
	walk("", top)
	slices.Sort(out)
	return slices.Compact(out)
}

// sameColumns holds the CSV's header to the JSON's fields, less the tables, which
// are CSVs of their own.
func sameColumns(t *testing.T, csvText, jsonText string) (row map[string]string) {
	t.Helper()
	records, err := csv.NewReader(strings.NewReader(csvText)).ReadAll()
	if err != nil || len(records) != 2 {
		t.Fatalf("csv: %d records, %v", len(records), err)
	}
	want := []string{"overrides"} // which the JSON leaves out where there are none
	for _, k := range keys(t, jsonText) {
		if !strings.Contains(k, "[]") && !slices.Contains([]string{"by", "groups", "buckets", "overrides"}, k) {
			want = append(want, strings.ReplaceAll(k, ".", "_"))
		}
	}
	slices.Sort(want)
	got := slices.Sorted(slices.Values(records[0]))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("csv columns %v, json fields %v", got, want)
	}
	row = map[string]string{}
	for i, name := range records[0] {
		row[name] = records[1][i]
	}
	return row
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	var u report.UsageReport
	if err := u.Write(brokenPipe{}, report.JSON); err == nil || err.Error() != "write report: broken pipe" {
		t.Errorf("Write to a broken pipe = %v", err)
	}
	var buf bytes.Buffer
	if err := u.Write(&buf, "xml"); err == nil || err.Error() != `write report: format "xml": not a format` || buf.Len() != 0 {
		t.Errorf("Write as xml = %v, %q", err, buf.String())
	}
}
