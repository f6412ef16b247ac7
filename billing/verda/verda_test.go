package verda_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

func TestVerdaSample(t *testing.T) {
	noon := rig.Time(t, "2026-11-23T12:00:00Z")
	f := func(name, balance, instances string, stored kept, wantBill ledger.Nanos, wantEpoch string) {
		t.Helper()
		c := newVerdaCloud(t)
		c.Now = func() time.Time { return noon }
		c.Balance, c.Instances = balance, instances
		p := c.Provider(func(o *api.Options) { o.History = stored })
		s, err := p.Sample(t.Context(), noon)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if !s.At.Equal(noon) || s.At.Location() != time.UTC || s.Provider != "verda" || len(s.Account) != 12 || s.Currency != "USD" ||
			s.Truth != ledger.TruthAccount || s.Step != 10*time.Minute || s.Lag != 15*time.Minute || s.Calibrated || len(s.Lines) != 1 {
			t.Fatalf("%s: sample = %+v", name, s)
		}
		l := s.Lines[0]
		if l.Resource != "account:"+s.Account || l.Kind != ledger.AccountKind || l.Status != "running" || !l.Running || !l.Created.IsZero() {
			t.Errorf("%s: line = %+v", name, l)
		}
		// 1.15 for the instance, 0.0137 and 0.0548 for the volumes.
		if l.Rate == nil || *l.Rate != 1_218_500_000 {
			t.Errorf("%s: rate %v", name, l.Rate)
		}
		if *l.Bill != wantBill || l.Epoch != wantEpoch {
			t.Errorf("%s: bill %s in %q, want %s in %q", name, *l.Bill, l.Epoch, wantBill, wantEpoch)
		}
		if !bytes.Equal(l.Raw, c.Cases[balance].Body) {
			t.Errorf("%s: the raw reply is not that which came", name)
		}
		if got := strings.Join(c.Calls, " "); got != rig.VerdaTokenPath+" "+rig.VerdaBalancePath+" "+rig.VerdaInstancesPath+" "+rig.VerdaVolumesPath {
			t.Errorf("%s: calls %s", name, got)
		}
		if g := c.Grants[0]; g["grant_type"] != "client_credentials" || g["client_id"] != rig.VerdaID || g["client_secret"] != rig.VerdaSecret || len(g) != 3 {
			t.Errorf("%s: grant %v", name, g)
		}
	}
	const old, here = "balance:212.9417@2026-11-20T08:00:00Z", "@2026-11-23T12:00:00Z"
	none := kept{}
	f("first sight", "balance_t0", "instances", none, 0, "balance:212.9417"+here)
	f("price as a number", "balance_t0", "instances_number_price", none, 0, "balance:212.9417"+here)
	f("restart", "balance_t0", "instances", kept{old, nano(0)}, 0, old)
	f("restart, charged meanwhile", "balance_t1_charged", "instances", kept{old, nano(0)}, 200_000_000, old)
	f("restart, refund of a unit", "balance_t1_charged", "instances", kept{old, nano(403_083_333)}, 200_000_000, old)
	f("restart, a nano more than a unit", "balance_t1_charged", "instances", kept{old, nano(403_083_335)}, 0, "balance:212.7417"+here)
	f("restart, topped up", "balance_topup", "instances", kept{old, nano(200_000_000)}, 0, "balance:312.7417"+here)
	// A top-up that leaves the balance below the opening is a rise all the same.
	f("restart, topped up below the opening", "balance_t0", "instances", kept{"balance:400@2026-11-20T08:00:00Z", nano(300_000_000_000)}, 0, "balance:212.9417"+here)
	f("last bill not known", "balance_t0", "instances", kept{old, nil}, 0, "balance:212.9417"+here)
	for _, bad := range []string{"anchor:2026-11-20T00:00:00Z", "balance:", "balance:1", "balance:1@", "balance:x@2026-11-20T08:00:00Z",
		"balance:1@noon", "balance:1.0@2026-11-20T08:00:00Z", "balance:212.9417@2026-11-20T08:00:00.5Z"} {
		f("epoch "+bad, "balance_t0", "instances", kept{bad, nano(0)}, 0, "balance:212.9417"+here)
	}
}

// What is odd and still a good sample.
func TestVerdaAccepts(t *testing.T) {
	t.Parallel()
	f := func(name, path, from, old, new string, check func(*testing.T, ledger.Sample)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newVerdaCloud(t)
			c.Reply[path] = c.Body(from, old, new)
			s, err := c.Provider(nil).Sample(t.Context(), c.Now())
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			check(t, s)
		})
	}
	line := func(running bool, rate ledger.Nanos) func(*testing.T, ledger.Sample) {
		return func(t *testing.T, s ledger.Sample) {
			t.Helper()
			if l := s.Lines[0]; l.Running != running || l.Rate == nil || *l.Rate != rate {
				t.Errorf("running %v at %v, want %v at %s", l.Running, l.Rate, running, rate)
			}
		}
	}
	noRate := func(t *testing.T, s ledger.Sample) {
		t.Helper()
		if s.Lines[0].Rate != nil {
			t.Errorf("rate %s, want unknown", *s.Lines[0].Rate)
		}
	}
	const all, storage = 1_218_500_000, 68_500_000
	for _, word := range []string{"running", "RUNNING", "offline", "unknown", "starting_hibernation", "rescued"} {
		f(word, rig.VerdaInstancesPath, "instances", `"status":"running"`, `"status":"`+word+`"`, line(true, all))
	}
	for _, word := range []string{"new", "ordered", "provisioning", "validating", "pending", "hibernating", "restoring", "discontinued",
		"notfound", "error", "deleting", "no_capacity"} {
		f(word, rig.VerdaInstancesPath, "instances", `"status":"running"`, `"status":"`+word+`"`, line(false, storage))
	}
	f("no price", rig.VerdaInstancesPath, "instances", `"price_per_hour":"1.15",`, ``, noRate)
	f("null price", rig.VerdaInstancesPath, "instances", `"price_per_hour":"1.15"`, `"price_per_hour":null`, noRate)
	f("not running, at no price", rig.VerdaInstancesPath, "instances_discontinued", `"price_per_hour":"1.15",`, ``, line(false, storage))
	f("no cost of a volume", rig.VerdaVolumesPath, "volumes", `"base_hourly_cost":0.0137,`, ``, noRate)
	f("deleted volume", rig.VerdaVolumesPath, "volumes", `"status":"attached"`, `"status":"deleted"`, line(true, 1_150_000_000))
	f("a long-term machine that does not run", rig.VerdaInstancesPath, "instances_discontinued", `"contract":"SPOT"`, `"contract":"LONG_TERM"`, line(false, storage))
	f("an upper-case currency", rig.VerdaBalancePath, "balance_t0", `"usd"`, `"USD"`, line(true, all))
	f("a status with words in it", rig.VerdaInstancesPath, "instances", `"status":"running"`, `"status":"run\u0000ning"`, func(t *testing.T, s ledger.Sample) {
		if s.Lines[0].Status != "run?ning" {
			t.Errorf("status %q", s.Lines[0].Status)
		}
	})

	c := newVerdaCloud(t)
	c.Reply[rig.VerdaInstancesPath] = rig.Answer(rig.Recorded{Status: 200, Body: []byte(`[]`)})
	c.Reply[rig.VerdaVolumesPath] = rig.Answer(rig.Recorded{Status: 200, Body: []byte(`[]`)})
	s, err := c.Provider(nil).Sample(t.Context(), c.Now())
	if err != nil {
		t.Fatal(err)
	}
	if l := s.Lines[0]; l.Running || *l.Rate != 0 || l.Status != "" || *l.Bill != 0 {
		t.Errorf("an empty account: %+v", l)
	}
	c.Reply[rig.VerdaInstancesPath] = rig.Answer(rig.Recorded{Status: 200, Body: []byte(`[{"id":"a","status":"running","price_per_hour":1},
		{"id":"b","status":"offline","price_per_hour":"2.000000001"},{"id":"c","status":"running","price_per_hour":4e-1}]`)})
	if s, err = c.Provider(nil).Sample(t.Context(), c.Now()); err != nil {
		t.Fatal(err)
	}
	if l := s.Lines[0]; !l.Running || *l.Rate != 3_400_000_001 || l.Status != "offline,running" {
		t.Errorf("three machines: %+v", l)
	}
}

// Replies that are well formed, and no good bill of this account; and the next good
// one reads the series on as if nothing had been. What is malformed is for every adapter
// alike: TestMalformedText and those beside it.
func TestVerdaRefuses(t *testing.T) {
	t.Parallel()
	f := func(name, path string, h func(c *rig.VerdaCloud) http.HandlerFunc, class api.Class) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newVerdaCloud(t)
			p := c.Provider(nil)
			first, err := p.Sample(t.Context(), c.Now())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if path == rig.VerdaTokenPath {
				time.Sleep(2 * time.Hour)
			}
			c.Reply[path] = h(c)
			s, err := p.Sample(t.Context(), c.Now())
			var f *api.Failure
			if !errors.As(err, &f) {
				t.Fatalf("%s: err = %v, want a failure", name, err)
			}
			call := "GET " + strings.TrimPrefix(path, "/v1")
			if path == rig.VerdaTokenPath {
				call = "POST /oauth2/token"
			}
			if f.Class != class || f.Call != call {
				t.Errorf("%s: %q in %q (%v), want %q in %q", name, f.Class, f.Call, err, class, call)
			}
			if s.Lines != nil || !s.At.IsZero() {
				t.Errorf("%s: a failed sample holds something: %+v", name, s)
			}
			for _, secret := range []string{rig.VerdaSecret, "eyJ.example"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s: a secret is in %q", name, err)
				}
			}
			delete(c.Reply, path)
			c.Balance = "balance_t1_charged"
			time.Sleep(time.Minute)
			if s, err = p.Sample(t.Context(), c.Now()); err != nil || *s.Lines[0].Bill != 200_000_000 || s.Lines[0].Epoch != first.Lines[0].Epoch {
				t.Errorf("%s: afterwards %+v, %v", name, s.Lines, err)
			}
		})
	}
	as := func(r rig.Recorded) func(*rig.VerdaCloud) http.HandlerFunc {
		return func(*rig.VerdaCloud) http.HandlerFunc { return rig.Answer(r) }
	}
	text := func(body string) func(*rig.VerdaCloud) http.HandlerFunc {
		return as(rig.Recorded{Status: 200, Body: []byte(body)})
	}
	balance := func(name, old, new string, class api.Class) {
		t.Helper()
		f(name, rig.VerdaBalancePath, func(c *rig.VerdaCloud) http.HandlerFunc { return c.Body("balance_t0", old, new) }, class)
	}
	instances := func(name, old, new string, class api.Class) {
		t.Helper()
		f(name, rig.VerdaInstancesPath, func(c *rig.VerdaCloud) http.HandlerFunc { return c.Body("instances", old, new) }, class)
	}
	volumes := func(name, old, new string, class api.Class) {
		t.Helper()
		f(name, rig.VerdaVolumesPath, func(c *rig.VerdaCloud) http.HandlerFunc { return c.Body("volumes", old, new) }, class)
	}

	const amount = `"amount":212.9417`
	balance("far below the opening", amount, `"amount":-9223372036`, api.Malformed)
	balance("empty currency", `"usd"`, `""`, api.Currency)
	balance("a sign for a currency", `"usd"`, `"$"`, api.Currency)
	balance("another currency than before", `"usd"`, `"eur"`, api.Currency)
	balance("a number for a currency", `"usd"`, `840`, api.Malformed)

	instances("long-term contract", `"contract":"SPOT"`, `"contract":"LONG_TERM"`, api.Incomplete)
	f("twice the same", rig.VerdaInstancesPath, text(`[{"id":"a","status":"running"},{"id":"a","status":"running"}]`), api.Incomplete)
	f("null in the list", rig.VerdaInstancesPath, text(`[null]`), api.Incomplete)
	f("prices out of range", rig.VerdaInstancesPath, text(`[{"id":"a","status":"running","price_per_hour":9e9},{"id":"b","status":"running","price_per_hour":9e9}]`), api.Malformed)
	volumes("other currency", `"currency":"usd"`, `"currency":"eur"`, api.Currency)
	volumes("twice the same", `000000000002`, `000000000001`, api.Incomplete)
	f("costs out of range", rig.VerdaVolumesPath, text(`[{"id":"a","status":"attached","base_hourly_cost":9.2e9},{"id":"b","status":"attached","base_hourly_cost":9.2e9}]`), api.Malformed)
	f("rates out of range together", rig.VerdaVolumesPath, text(`[{"id":"a","status":"attached","base_hourly_cost":9223372036.8}]`), api.Malformed)

	grant := func(name, old, new string, class api.Class) {
		t.Helper()
		f("grant: "+name, rig.VerdaTokenPath, func(c *rig.VerdaCloud) http.HandlerFunc { return c.Body("token", old, new) }, class)
	}
	grant("another type", `"Bearer"`, `"MAC"`, api.Malformed)
	grant("no life left", `"expires_in":3600`, `"expires_in":0`, api.Malformed)
	grant("negative life", `"expires_in":3600`, `"expires_in":-1`, api.Malformed)
	grant("life beyond all bounds", `"expires_in":3600`, `"expires_in":9223372036854775807`, api.Malformed)
	grant("life in words", `"expires_in":3600`, `"expires_in":"an hour"`, api.Malformed)
	grant("a header within the token", `"eyJ.example.a"`, `"eyJ.example.a\r\nX-Other: 1"`, api.Malformed)
	grant("a short token", `"eyJ.example.a"`, `"a"`, api.Malformed)
	grant("a huge token", `"eyJ.example.a"`, `"`+strings.Repeat("a", 9000)+`"`, api.Malformed)
}
