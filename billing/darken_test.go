package billing_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
)

// bad is one way of a reply to go wrong: in what it says or, where how is set, in
// how it says it.
type bad struct {
	name  string
	class billing.Class
	text  func(good string) string
	how   func(r *http.Request, good *http.Response) (*http.Response, error)
	after time.Duration // for which the provider asked for peace
}

func (b bad) spoil(t *testing.T, r *http.Request, good *http.Response) (*http.Response, error) {
	if b.how != nil {
		return b.how(r, good)
	}
	body, err := io.ReadAll(good.Body)
	if err != nil || good.StatusCode != 200 {
		t.Errorf("there is no good reply to spoil: %d %s, %v", good.StatusCode, body, err)
	}
	good.Body = io.NopCloser(strings.NewReader(b.text(string(body))))
	return good, nil
}

// darken wants each of these replies, to each call of each adapter, to be a failure
// of its class in that call: through the sampler a row in a real ledger and no line
// of a bill, whatever the calls beside it said. The next good minute is
// as good as any, and the ledger knows what was spent meanwhile.
func darken(t *testing.T, cases func(call) []bad) {
	t.Helper()
	for _, r := range rigs() {
		for _, c := range r.calls {
			all := cases(c)
			if len(all) == 0 {
				continue
			}
			t.Run(r.name+" "+c.name, func(t *testing.T) {
				t.Parallel() // the ledger waits for the disk
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) { newStage(t, r, dir).darken(t, dir, c, all) })
			})
		}
	}
}

func (st *stage) darken(t *testing.T, dir string, c call, cases []bad) {
	var newest time.Time
	minute := func(t *testing.T, p billing.Provider) error {
		t.Helper()
		time.Sleep(3 * time.Minute)
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st.led, Newest: newest})
		if err != nil {
			t.Fatal(err)
		}
		return s.Last(t.Context())
	}
	good := func(p billing.Provider, after string) ledger.Sample {
		t.Helper()
		if err := minute(t, p); err != nil {
			t.Fatalf("after %s: %v", after, err)
		}
		s, ok, err := st.led.Newest()
		if err != nil || !ok || !s.At.After(newest) {
			t.Fatalf("after %s: no sample is stored: %v", after, err)
		}
		newest = s.At
		return s
	}
	first := good(st.open(), "nothing")
	var want []string
	for i, b := range cases {
		p := st.open() // as after a restart: every call is made anew
		st.spoil(c, &b)
		err := minute(t, p)
		var f *billing.Failure
		if !errors.As(err, &f) {
			t.Errorf("%s: %v, want a failure", b.name, err)
			st.spoil(c, nil)
			newest = newestAt(t, st.led)
			continue
		}
		in := c.name
		if b.class == billing.Refused {
			in = "" // it was read; the ledger did not take it
		}
		if f.Class != b.class || f.Call != in || f.RetryAfter != b.after {
			t.Errorf("%s: %q in %q (%v), want %q in %q", b.name, f.Class, f.Call, err, b.class, in)
		}
		if strings.Contains(err.Error()+f.Hint(), testKey) {
			t.Errorf("%s: the key is in %q", b.name, err)
		}
		if st.hits() == 0 {
			t.Errorf("%s: the call was not made", b.name)
		}
		if at := newestAt(t, st.led); !at.Equal(newest) {
			t.Errorf("%s: a sample is stored", b.name)
			newest = at
		}
		want = append(want, fmt.Sprintf("%s %s", f.Class, f.Call))
		st.spoil(c, nil)
		if i%10 != 0 && i+1 < len(cases) {
			continue // not after each: a commit takes its time
		}
		if s := good(p, b.name); len(s.Lines) != len(first.Lines) {
			t.Errorf("after %s: %d lines, want %d", b.name, len(s.Lines), len(first.Lines))
		}
	}
	if got := failures(t, dir); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("rows of failures:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if st.cloud == nil {
		return
	}
	spend, err := st.led.Spent(first.At, newest)
	if err != nil {
		t.Fatal(err)
	}
	books := ledger.Nanos(st.cloud.Books(first.At, newest).Nanos)
	slack := ledger.Nanos(0)
	if st.rig.name == "vast" {
		slack = 3_000_000 // its amounts are rounded to 0.001, twice a contract
	}
	if d := spend.Net - books; d > slack || d < -slack || books == 0 {
		t.Errorf("spent %s, the books say %s", spend.Net, books)
	}
}

func newestAt(t *testing.T, led *ledger.Ledger) time.Time {
	t.Helper()
	s, _, err := led.Newest()
	if err != nil {
		t.Fatal(err)
	}
	return s.At
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
