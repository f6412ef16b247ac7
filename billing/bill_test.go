package billing_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

// A bill that moves in steps is not frozen between two of them: every adapter waits
// for longer than its step.
func TestPitfall03StepBilling(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		s := st.Sample(t, st.OpenAdapter())
		if s.Step <= 0 || s.Lag <= s.Step {
			t.Errorf("%s: a step of %s shows at most %s late", st.Rig.Name, s.Step, s.Lag)
		}
	})
}

// How long a machine was used is told in seconds, in hours and below zero. The bill
// does not depend on it.
func TestPitfall06UsageSeconds(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		a := st.Sample(t, st.OpenAdapter())
		for _, used := range []string{`-10`, `9e9`, `"a while"`, `null`, `{}`} {
			st.Spoil(st.Rig.Call("GET /billing/billing/history/virtual-machine/{id}"), &rig.Bad{Text: func(good string) string {
				if !strings.Contains(good, `"usage_time_ACTIVE"`) {
					t.Errorf("no usage in %s", good)
				}
				for _, name := range []string{"usage_time", "usage_time_ACTIVE", "usage_time_SHUTOFF", "usage_time_HIBERNATED"} {
					good = rig.Set(name, used)(good)
				}
				return good
			}})
			b := st.Sample(t, st.OpenAdapter())
			if want := st.Cloud.Books(a.At, b.At).Nanos; rig.Spent(t, a, b) != ledger.Nanos(want) || want == 0 {
				t.Errorf("used %s: spent %s, the books say %s", used, rig.Spent(t, a, b), ledger.Nanos(want))
			}
		}
	}, "hyperstack")
}

// The bill is the one after discounts; a machine whose cost is not in its own bill,
// being paid for ahead or by a contract, is refused with a hint.
func TestPitfall12Discounts(t *testing.T) {
	c := newCloud(t)
	c.Reply[rig.HyperstackVMBillPath] = c.Body("vm_billing_t0", `"non_discounted_bill":62.5,"price_per_hour":2.5,"non_discounted_price_per_hour":2.5`,
		`"non_discounted_bill":125,"price_per_hour":2.5,"non_discounted_price_per_hour":5`)
	s, err := c.Provider(nil).Sample(t.Context(), c.Now())
	if err != nil || *s.Lines[0].Bill != 62_500_000_000 || *s.Lines[0].Rate != 2_500_000_000 {
		t.Errorf("hyperstack: %v, %+v", err, s.Lines)
	}
	v := newVastCloud(t)
	v.Reply[rig.VastInstancePath] = v.Body("instance", `"discountedTotalPerHour":1.872`, `"discountedTotalPerHour":1.5`)
	if s, err = v.Provider(nil).Sample(t.Context(), v.Now()); err != nil || *s.Lines[0].Rate != 1_500_000_000 {
		t.Errorf("vast: %v, %+v", err, s.Lines)
	}
	refused := func(name string, p api.Provider, now time.Time) {
		t.Helper()
		_, err := p.Sample(t.Context(), now)
		var f *api.Failure
		if !errors.As(err, &f) || f.Class != api.Incomplete || !strings.Contains(hint.Of(f), "--provider none") || !strings.Contains(err.Error(), "contract") {
			t.Errorf("%s under a contract: %v", name, err)
		}
	}
	c.Reply[rig.HyperstackVMPath] = c.Body("instance", `"contract_id":null`, `"contract_id":77`)
	refused("hyperstack", c.Provider(nil), c.Now())
	d := newVerdaCloud(t)
	d.Reply[rig.VerdaInstancesPath] = d.Body("instances", `"contract":"SPOT"`, `"contract":"LONG_TERM"`)
	refused("verda", d.Provider(nil), d.Now())
}

// Hyperstack's times have no zone: they are UTC both ways, whatever this machine's
// clock shows. Elsewhere a time without a zone is none.
func TestPitfall19TimesWithoutZone(t *testing.T) {
	c := newCloud(t)
	kolkata := time.FixedZone("IST", 5*3600+1800)
	now := rig.Time(t, "2026-11-23T12:00:00Z").In(kolkata)
	c.Now = func() time.Time { return now }
	s, err := c.Provider(nil).Sample(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Lines[0].Created, rig.Time(t, "2026-11-22T10:58:31Z"); !got.Equal(want) || !s.At.Equal(now) || s.At.Location() != time.UTC {
		t.Errorf("created %s, want %s, in a sample of %s", got, want, s.At)
	}
	for _, u := range c.Calls {
		if q := u.Query(); u.Path == rig.HyperstackVMBillPath && (q.Get("start_date") != "2026-11-22T00:00:00" || q.Get("end_date") != "2026-11-23T12:00:00") {
			t.Errorf("asked %s", u)
		}
	}
	darken(t, func(c rig.Call) (all []rig.Bad) {
		if c.Zoned == nil || strings.Contains(c.Name, "/core/") {
			return nil
		}
		for _, text := range []string{`"2026-11-23T10:00:00"`, `"2026-11-23"`, `"2026-11-23 10:00:00"`, `1795600000`, `"Mon, 23 Nov 2026 12:00:00 GMT"`} {
			for _, name := range c.Zoned {
				all = append(all, rig.Bad{Name: name + " " + text, Class: api.Malformed, Text: rig.Set(name, text)})
			}
		}
		return all
	})
}

// An amount is what its digits say, in each way that APIs have of writing one.
func TestPitfall20HowNumbersAreWritten(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		for _, c := range st.Rig.Calls {
			if c.Bill == "" {
				continue
			}
			for text, want := range map[string]ledger.Nanos{
				`62.5`: 62_500_000_000, `"62.5"`: 62_500_000_000, `6.25e1`: 62_500_000_000, `"6.25E+1"`: 62_500_000_000, `625000e-4`: 62_500_000_000,
				`62.500000000000004`: 62_500_000_000, `62.49999999999996`: 62_500_000_000, `0.0000000005`: 1, `1.4799118041992184e-11`: 0,
				`9007199.254740993`: 9_007_199_254_740_993, `0`: 0,
			} {
				st.Spoil(c, &rig.Bad{Text: rig.Set(c.Bill, text)})
				st.Last = ledger.Sample{} // a first sight each
				s := st.Sample(t, st.OpenAdapter())
				l := s.Lines[0]
				if st.Rig.Name != "verda" && strings.Contains(c.Name, "volume") {
					l = s.Lines[1]
				}
				if strings.Contains(c.Name, "snapshot") {
					l = s.Lines[2]
				}
				got := *l.Bill
				if st.Rig.Name == "verda" { // whose bill is nothing in an epoch that begins with this balance
					balance, _, _ := strings.Cut(strings.TrimPrefix(l.Epoch, "balance:"), "@")
					n, err := ledger.ParseNanos(balance)
					if err != nil || got != 0 {
						t.Errorf("verda: %s: bill %s in %q", text, got, l.Epoch)
					}
					got = n
				}
				if got != want {
					t.Errorf("%s: %s is %s, want %s", st.Rig.Name, text, got, want)
				}
			}
		}
	})
}
