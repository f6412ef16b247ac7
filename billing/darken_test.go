package billing_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

// darken wants each of these replies, to each call of each adapter, to be a failure
// of its class in that call: through the sampler a row in a real ledger and no line
// of a bill, whatever the calls beside it said. The next good minute is as good as any,
// and the ledger knows what was spent meanwhile.
func darken(t *testing.T, cases func(rig.Call) []rig.Bad) {
	t.Helper()
	for _, r := range rig.Rigs() {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			scripts, dir := t.TempDir(), rig.MemoryDir(t)
			synctest.Test(t, func(t *testing.T) {
				led, err := ledger.Open(ledger.Config{Path: filepath.Join(dir, "ledger.db")})
				if err != nil {
					t.Fatal(err)
				}
				defer led.Close()
				n := &night{Stage: rig.NewStage(t, billing.New, r, scripts), t: t, led: led, dir: dir}
				n.lines = len(n.good(n.OpenAdapter(), "nothing").Lines)
				n.first = n.newest
				for _, c := range r.Calls {
					for i, b := range cases(c) {
						n.dark(c, b, i%10 == 0)
					}
				}
				n.over()
			})
		})
	}
}

// night is a stage on which the minutes are dark.
type night struct {
	*rig.Stage
	t             *testing.T
	led           *ledger.Ledger
	dir           string
	lines         int       // of a good sample
	first, newest time.Time // good samples
	samples       int
	want          []string // rows of failures
}

// minute is what a sampler makes of the next poll.
func (n *night) minute(p api.Provider) error {
	n.t.Helper()
	time.Sleep(3 * time.Minute)
	s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: n.led, Newest: n.newest})
	if err != nil {
		n.t.Fatal(err)
	}
	return s.Last(n.t.Context())
}

func (n *night) good(p api.Provider, after string) ledger.Sample {
	n.t.Helper()
	if err := n.minute(p); err != nil {
		n.t.Fatalf("after %s: %v", after, err)
	}
	s, ok, err := n.led.Newest()
	if err != nil || !ok || !s.At.After(n.newest) {
		n.t.Fatalf("after %s: no sample is stored: %v", after, err)
	}
	n.Last, n.newest = s, s.At
	n.samples++
	return s
}

// dark spoils one minute, as after a restart: every call is made anew.
func (n *night) dark(c rig.Call, b rig.Bad, dawn bool) {
	n.t.Helper()
	name, p := c.Name+", "+b.Name, n.OpenAdapter()
	n.Spoil(c, &b)
	err := n.minute(p)
	if n.Hits() == 0 {
		n.t.Errorf("%s: the call was not made", name)
	}
	n.Spoil(c, nil)
	in := c.Name
	if b.Class == api.Refused {
		in = "" // it was read; the ledger did not take it
	}
	var f *api.Failure
	if !errors.As(err, &f) || f.Class != b.Class || f.Call != in || f.RetryAfter != b.After {
		n.t.Errorf("%s: %v, want %q in %q", name, err, b.Class, in)
		return
	}
	if strings.Contains(err.Error()+hint.Of(f), rig.Key) {
		n.t.Errorf("%s: the key is in %q", name, err)
	}
	n.want = append(n.want, fmt.Sprintf("%s %s", f.Class, f.Call))
	if dawn { // not after each: a commit takes its time
		if s := n.good(p, name); len(s.Lines) != n.lines {
			n.t.Errorf("after %s: %d lines, want %d", name, len(s.Lines), n.lines)
		}
	}
}

// over holds what the ledger has against what happened.
func (n *night) over() {
	n.t.Helper()
	n.good(n.OpenAdapter(), "all")
	if got := failures(n.t, n.dir); !slices.Equal(got, n.want) {
		n.t.Errorf("rows of failures:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(n.want, "\n"))
	}
	if at, err := n.led.SampleTimes(n.first, n.newest.Add(time.Hour)); err != nil || len(at) != n.samples {
		n.t.Errorf("%d samples of %d good minutes, %v", len(at), n.samples, err)
	}
	if n.Cloud == nil {
		return
	}
	spend, err := n.led.Spent(n.first, n.newest)
	if err != nil {
		n.t.Fatal(err)
	}
	books := ledger.Nanos(n.Cloud.Books(n.first, n.newest).Nanos)
	slack := ledger.Nanos(0)
	if n.Rig.Name == "vast" {
		slack = 3_000_000 // its amounts are rounded to 0.001, twice a contract
	}
	if d := spend.Net - books; d > slack || d < -slack || books == 0 {
		n.t.Errorf("spent %s, the books say %s", spend.Net, books)
	}
}

// failures are the class and the call of the ledger's rows of failed polls, in order.
func failures(t *testing.T, dir string) (all []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT class || ' ' || call FROM sample_failure ORDER BY at")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var row string
		if err := rows.Scan(&row); err != nil {
			t.Fatal(err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
