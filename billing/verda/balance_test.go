package verda_test

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

// kept is what an earlier run stored last.
type kept struct {
	epoch string
	bill  *ledger.Nanos
}

func (k kept) Newest(string) (string, *ledger.Nanos, bool) { return k.epoch, k.bill, k.epoch != "" }
func (k kept) Open(string) ([]string, error)               { return nil, nil }

// A balance that falls is a charge; one that rises a little is a part given back;
// one that rises more hides what was spent, and begins a new epoch.
func TestVerdaBalances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVerdaCloud(t)
		p := c.Provider(nil)
		var running = "running"
		c.Reply[rig.VerdaInstancesPath] = func(w http.ResponseWriter, r *http.Request) {
			c.Body("instances", `"status":"running"`, `"status":"`+running+`"`)(w, r)
		}
		var first, last string
		f := func(amount string, wantBill ledger.Nanos, sameEpoch bool) {
			t.Helper()
			c.Reply[rig.VerdaBalancePath] = rig.Answer(rig.Recorded{Status: 200, Body: []byte(`{"amount":` + amount + `,"currency":"usd"}`)})
			s, err := p.Sample(t.Context(), c.Now())
			if err != nil {
				t.Fatalf("balance %s: %v", amount, err)
			}
			l := s.Lines[0]
			if *l.Bill != wantBill || (l.Epoch == last) != sameEpoch {
				t.Errorf("balance %s: bill %s in %q after %q, want %s", amount, *l.Bill, l.Epoch, last, wantBill)
			}
			if last = l.Epoch; first == "" {
				first = last
			}
			time.Sleep(time.Minute)
		}
		f("100", 0, false)
		f("99.8", 200_000_000, true)
		f(`"99.8"`, 200_000_000, true)
		f("99.799999999", 200_000_001, true)
		f("100", 0, true)                   // 0.2 came back, which is less than a unit of 0.2031
		f("100.203083", -203_083_000, true) // and again: above the opening
		f("90", 10_000_000_000, true)
		// The machine stops, and the part of its ten minutes comes back when no rate
		// is left to measure it by.
		running = "offline"
		f("89.9", 10_100_000_000, true)
		running = "discontinued"
		f("90.1", 9_900_000_000, true)
		f("91", 0, false) // more than that
		f("90.9", 100_000_000, true)
		f("0.000000001", 90_999_999_999, true)
		f("-0.5", 91_500_000_000, true)
		f("1e2", 0, false)
		f("99.99999999996", 0, true) // below a nano
		// Half an hour later there is nothing that a machine could be given back for;
		// a tenth of the volumes' rate is left.
		time.Sleep(30 * time.Minute)
		f("100.1", 0, false)
		f("100.1", 0, true)
	})
}

func TestVerdaClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVerdaCloud(t)
		p := c.Provider(nil)
		now := c.Now()
		for i, step := range []struct {
			after time.Duration
			want  api.Class
		}{{0, ""}, {400 * time.Millisecond, api.ClockSkew}, {-30 * time.Second, api.ClockSkew}, {time.Second, ""}} {
			_, err := p.Sample(t.Context(), now.Add(step.after))
			var f *api.Failure
			if (step.want == "") != (err == nil) || (errors.As(err, &f) && f.Class != step.want) {
				t.Errorf("step %d: %v, want %q", i, err, step.want)
			}
		}
	})
}

// A named instance must be one of the account's; another account is another series.
func TestVerdaInstance(t *testing.T) {
	c := newVerdaCloud(t)
	p := c.Provider(func(o *api.Options) { o.Instance = "b9a1c0de-0000-4000-8000-000000000010" })
	a, err := p.Sample(t.Context(), c.Now())
	if err != nil {
		t.Fatal(err)
	}
	p = c.Provider(func(o *api.Options) { o.Instance = "b9a1c0de-0000-4000-8000-000000000011" })
	_, err = p.Sample(t.Context(), c.Now())
	rig.WantClass(t, err, api.Unidentified)
	p = c.Provider(func(o *api.Options) {
		o.Getenv = rig.Env(map[string]string{"VERDA_CLIENT_ID": "client-of-another", "VERDA_CLIENT_SECRET": rig.VerdaSecret})
	})
	b, err := p.Sample(t.Context(), c.Now())
	if err != nil || a.Lines[0].Resource == b.Lines[0].Resource || a.Account == b.Account {
		t.Errorf("two accounts in one series: %+v %+v %v", a.Lines, b.Lines, err)
	}
}
