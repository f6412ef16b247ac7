package billing_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// words are a probe's four agreements.
func words(w billing.Windows) string {
	return fmt.Sprint(w.EndOmitted, " ", w.EndFuture, " ", w.EarlyStart, " ", w.Account)
}

// Every simulated provider reads its windows as its adapter takes it to, and so a probe
// of it says; what else is on the account shows in its total.
func TestProbeWindows(t *testing.T) {
	want := map[string]string{
		"hyperstack": "same same same ", "runpod": "same same same ", "vast": "none same same ", "verda": "none none none none",
	}
	clouds(t, func(t *testing.T, cloud *sim.Sim, p api.Provider) {
		time.Sleep(30 * time.Minute) // Vast.ai's amounts must have got somewhere
		for _, total := range []string{"same", "differs"} {
			if total == "differs" {
				if p.Name() == "verda" { // whose bill has it, and no rate
					return
				}
				cloud.SetOther(3_600_000_000)
			}
			time.Sleep(time.Second)
			m, err := billing.Probe(t.Context(), billing.ProbeConfig{Provider: p, Every: 20 * time.Second, For: 30 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			want := want[p.Name()]
			if strings.HasSuffix(want, " ") {
				want += total
			}
			if got := words(m.Windows); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if total == "differs" {
				if rest := *m.Windows.Total - *m.Windows.Sum; rest < 1_750_000_000 || rest > 1_850_000_000 {
					t.Errorf("%s of %s is not sampled, want half an hour at 3.60", rest, *m.Windows.Total)
				}
			}
		}
	})
}

// windowed is a provider whose windows are what the test says.
type windowed struct {
	metered
	over    func(start, end, now time.Time) (ledger.Nanos, error)
	account func(start, end, now time.Time) (ledger.Nanos, error)
}

func (w *windowed) BillOver(_ context.Context, _ string, start, end, now time.Time) (ledger.Nanos, error) {
	return w.over(start, end, now)
}

func (w *windowed) AccountOver(_ context.Context, start, end, now time.Time) (ledger.Nanos, error) {
	return w.account(start, end, now)
}

func TestProbeWindowsDiffer(t *testing.T) {
	t.Parallel()
	f := func(name, want string, over, account func(start, end, now time.Time) (ledger.Nanos, error)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(12 * time.Hour)
			created := time.Now().Add(-3 * time.Hour)
			honest := func(start, end, now time.Time) (ledger.Nanos, error) {
				if end.IsZero() || end.After(now) {
					end = now
				}
				return ledger.Nanos(max(end.Sub(later(start, created)), 0)), nil // a nano a nanosecond
			}
			c := &windowed{metered: metered{bill: steps(time.Minute), born: created, sample: func(_ int, s *ledger.Sample) error {
				s.Lines = s.Lines[:1]
				s.Lines[0].Epoch, s.Lines[0].Created = api.Epoch(created), created
				return nil
			}}, over: honest, account: honest}
			if over != nil {
				c.over = func(start, end, now time.Time) (ledger.Nanos, error) {
					n, _ := honest(start, end, now)
					m, err := over(start, end, now)
					return n + m, err
				}
			}
			if account != nil {
				c.account = func(start, end, now time.Time) (ledger.Nanos, error) {
					n, _ := honest(start, end, now)
					m, err := account(start, end, now)
					return n + m, err
				}
			}
			m, err := billing.Probe(t.Context(), billing.ProbeConfig{Provider: c, Every: 20 * time.Second, For: 30 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if got := words(m.Windows); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
			if (m.Windows.Account == billing.NotAsked) != (m.Windows.Total == nil) {
				t.Errorf("%s: total %v", name, m.Windows.Total)
			}
		})
	}
	const hour = ledger.Nanos(time.Hour)
	f("well", "same same same same", nil, nil)
	f("no end is a cycle", "differs same same same", func(_, end, _ time.Time) (ledger.Nanos, error) {
		if end.IsZero() {
			return -hour, nil
		}
		return 0, nil
	}, nil)
	f("a forecast", "same differs same same", func(_, end, now time.Time) (ledger.Nanos, error) {
		if end.After(now) {
			return hour, nil
		}
		return 0, nil
	}, nil)
	f("prorated", "same same differs same", func(start, _, now time.Time) (ledger.Nanos, error) {
		if now.Sub(start) > 24*time.Hour {
			return 1_000_000_000_000, nil
		}
		return 0, nil
	}, nil)
	f("more on the account", "same same same differs", nil, func(time.Time, time.Time, time.Time) (ledger.Nanos, error) { return hour, nil })
	f("less on the account", "same same same differs", nil, func(time.Time, time.Time, time.Time) (ledger.Nanos, error) { return -hour, nil })
	no := func(time.Time, time.Time, time.Time) (ledger.Nanos, error) { return 0, errors.New("no") }
	f("no answer", "none none none none", no, nil)
	f("no total", "same same same none", nil, no)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// The account's total as it was recorded, and what is none.
func TestAccountTotals(t *testing.T) {
	c := newCloud(t)
	f := func(body http.HandlerFunc) (ledger.Nanos, error) {
		c.Reply["/v1/billing/billing/history"] = body
		return c.Provider(nil).(api.Windowed).AccountOver(t.Context(), c.Now().Add(-time.Hour), c.Now(), c.Now())
	}
	total, err := f(func(w http.ResponseWriter, _ *http.Request) { c.Cases["org_total"].Serve(w) })
	if err != nil || total != 63_193_900_000 {
		t.Errorf("%s, %v", total, err)
	}
	_, err = f(c.Body("org_total", `"incurred_bill":63.1939,`, ``))
	rig.WantClass(t, err, api.Incomplete)
	_, err = f(c.Body("org_total", `63.1939`, `NaN`))
	rig.WantClass(t, err, api.Malformed)

	p := newPods(t)
	p.Reply["/v2/billing"] = p.Body("pods_billing_t0")
	if _, err := p.Provider(nil).(api.Windowed).AccountOver(t.Context(), p.Now().Add(-time.Hour), p.Now(), p.Now()); err != nil {
		t.Error(err)
	}
	p.Reply["/v2/billing"] = p.Body("pods_billing_t0", `"totals"`, `"sums"`)
	_, err = p.Provider(nil).(api.Windowed).AccountOver(t.Context(), p.Now().Add(-time.Hour), p.Now(), p.Now())
	rig.WantClass(t, err, api.Incomplete)

	for _, w := range []api.Provider{c.Provider(nil), p.Provider(nil)} {
		if _, err := w.(api.Windowed).BillOver(t.Context(), "nothing-1", time.Now(), time.Now(), time.Now()); err == nil {
			t.Errorf("%s: a bill of nothing", w.Name())
		}
	}
}
