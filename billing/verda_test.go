package billing_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
)

func TestVerdaSample(t *testing.T) {
	noon := when(t, "2026-11-23T12:00:00Z")
	f := func(name, balance, instances string, stored kept, wantBill ledger.Nanos, wantEpoch string) {
		t.Helper()
		c := newVerdaCloud(t)
		c.now = func() time.Time { return noon }
		c.balance, c.instances = balance, instances
		p := c.provider(func(o *billing.Options) { o.History = stored })
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
		if !bytes.Equal(l.Raw, c.cases[balance].Body) {
			t.Errorf("%s: the raw reply is not that which came", name)
		}
		if got := strings.Join(c.calls, " "); got != tokenPath+" "+balancePath+" "+instancesPath+" "+volumesPath {
			t.Errorf("%s: calls %s", name, got)
		}
		if g := c.grants[0]; g["grant_type"] != "client_credentials" || g["client_id"] != verdaTestID || g["client_secret"] != verdaTestSecret || len(g) != 3 {
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
	f := func(name, path, from, old, new string, check func(*testing.T, ledger.Sample)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newVerdaCloud(t)
			c.reply[path] = c.body(from, old, new)
			s, err := c.provider(nil).Sample(t.Context(), c.now())
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
		f(word, instancesPath, "instances", `"status":"running"`, `"status":"`+word+`"`, line(true, all))
	}
	for _, word := range []string{"new", "ordered", "provisioning", "validating", "pending", "hibernating", "restoring", "discontinued",
		"notfound", "error", "deleting", "no_capacity"} {
		f(word, instancesPath, "instances", `"status":"running"`, `"status":"`+word+`"`, line(false, storage))
	}
	f("no price", instancesPath, "instances", `"price_per_hour":"1.15",`, ``, noRate)
	f("null price", instancesPath, "instances", `"price_per_hour":"1.15"`, `"price_per_hour":null`, noRate)
	f("not running, at no price", instancesPath, "instances_discontinued", `"price_per_hour":"1.15",`, ``, line(false, storage))
	f("no cost of a volume", volumesPath, "volumes", `"base_hourly_cost":0.0137,`, ``, noRate)
	f("deleted volume", volumesPath, "volumes", `"status":"attached"`, `"status":"deleted"`, line(true, 1_150_000_000))
	f("a long-term machine that does not run", instancesPath, "instances_discontinued", `"contract":"SPOT"`, `"contract":"LONG_TERM"`, line(false, storage))
	f("an upper-case currency", balancePath, "balance_t0", `"usd"`, `"USD"`, line(true, all))
	f("a status with words in it", instancesPath, "instances", `"status":"running"`, `"status":"run\u0000ning"`, func(t *testing.T, s ledger.Sample) {
		if s.Lines[0].Status != "run?ning" {
			t.Errorf("status %q", s.Lines[0].Status)
		}
	})

	c := newVerdaCloud(t)
	c.reply[instancesPath] = answer(recorded{Status: 200, Body: []byte(`[]`)})
	c.reply[volumesPath] = answer(recorded{Status: 200, Body: []byte(`[]`)})
	s, err := c.provider(nil).Sample(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	if l := s.Lines[0]; l.Running || *l.Rate != 0 || l.Status != "" || *l.Bill != 0 {
		t.Errorf("an empty account: %+v", l)
	}
	c.reply[instancesPath] = answer(recorded{Status: 200, Body: []byte(`[{"id":"a","status":"running","price_per_hour":1},
		{"id":"b","status":"offline","price_per_hour":"2.000000001"},{"id":"c","status":"running","price_per_hour":4e-1}]`)})
	if s, err = c.provider(nil).Sample(t.Context(), c.now()); err != nil {
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
	f := func(name, path string, h func(c *verdaCloud) http.HandlerFunc, class billing.Class) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newVerdaCloud(t)
			p := c.provider(nil)
			first, err := p.Sample(t.Context(), c.now())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if path == tokenPath {
				time.Sleep(2 * time.Hour)
			}
			c.reply[path] = h(c)
			s, err := p.Sample(t.Context(), c.now())
			var f *billing.Failure
			if !errors.As(err, &f) {
				t.Fatalf("%s: err = %v, want a failure", name, err)
			}
			call := "GET " + strings.TrimPrefix(path, "/v1")
			if path == tokenPath {
				call = "POST /oauth2/token"
			}
			if f.Class != class || f.Call != call {
				t.Errorf("%s: %q in %q (%v), want %q in %q", name, f.Class, f.Call, err, class, call)
			}
			if s.Lines != nil || !s.At.IsZero() {
				t.Errorf("%s: a failed sample holds something: %+v", name, s)
			}
			for _, secret := range []string{verdaTestSecret, "eyJ.example"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s: a secret is in %q", name, err)
				}
			}
			delete(c.reply, path)
			c.balance = "balance_t1_charged"
			time.Sleep(time.Minute)
			if s, err = p.Sample(t.Context(), c.now()); err != nil || *s.Lines[0].Bill != 200_000_000 || s.Lines[0].Epoch != first.Lines[0].Epoch {
				t.Errorf("%s: afterwards %+v, %v", name, s.Lines, err)
			}
		})
	}
	as := func(r recorded) func(*verdaCloud) http.HandlerFunc {
		return func(*verdaCloud) http.HandlerFunc { return answer(r) }
	}
	text := func(body string) func(*verdaCloud) http.HandlerFunc {
		return as(recorded{Status: 200, Body: []byte(body)})
	}
	balance := func(name, old, new string, class billing.Class) {
		t.Helper()
		f(name, balancePath, func(c *verdaCloud) http.HandlerFunc { return c.body("balance_t0", old, new) }, class)
	}
	instances := func(name, old, new string, class billing.Class) {
		t.Helper()
		f(name, instancesPath, func(c *verdaCloud) http.HandlerFunc { return c.body("instances", old, new) }, class)
	}
	volumes := func(name, old, new string, class billing.Class) {
		t.Helper()
		f(name, volumesPath, func(c *verdaCloud) http.HandlerFunc { return c.body("volumes", old, new) }, class)
	}

	const amount = `"amount":212.9417`
	balance("far below the opening", amount, `"amount":-9223372036`, billing.Malformed)
	balance("empty currency", `"usd"`, `""`, billing.Currency)
	balance("a sign for a currency", `"usd"`, `"$"`, billing.Currency)
	balance("another currency than before", `"usd"`, `"eur"`, billing.Currency)
	balance("a number for a currency", `"usd"`, `840`, billing.Malformed)

	instances("long-term contract", `"contract":"SPOT"`, `"contract":"LONG_TERM"`, billing.Incomplete)
	f("twice the same", instancesPath, text(`[{"id":"a","status":"running"},{"id":"a","status":"running"}]`), billing.Incomplete)
	f("null in the list", instancesPath, text(`[null]`), billing.Incomplete)
	f("prices out of range", instancesPath, text(`[{"id":"a","status":"running","price_per_hour":9e9},{"id":"b","status":"running","price_per_hour":9e9}]`), billing.Malformed)
	volumes("other currency", `"currency":"usd"`, `"currency":"eur"`, billing.Currency)
	volumes("twice the same", `000000000002`, `000000000001`, billing.Incomplete)
	f("costs out of range", volumesPath, text(`[{"id":"a","status":"attached","base_hourly_cost":9.2e9},{"id":"b","status":"attached","base_hourly_cost":9.2e9}]`), billing.Malformed)
	f("rates out of range together", volumesPath, text(`[{"id":"a","status":"attached","base_hourly_cost":9223372036.8}]`), billing.Malformed)

	grant := func(name, old, new string, class billing.Class) {
		t.Helper()
		f("grant: "+name, tokenPath, func(c *verdaCloud) http.HandlerFunc { return c.body("token", old, new) }, class)
	}
	grant("another type", `"Bearer"`, `"MAC"`, billing.Malformed)
	grant("no life left", `"expires_in":3600`, `"expires_in":0`, billing.Malformed)
	grant("negative life", `"expires_in":3600`, `"expires_in":-1`, billing.Malformed)
	grant("life beyond all bounds", `"expires_in":3600`, `"expires_in":9223372036854775807`, billing.Malformed)
	grant("life in words", `"expires_in":3600`, `"expires_in":"an hour"`, billing.Malformed)
	grant("a header within the token", `"eyJ.example.a"`, `"eyJ.example.a\r\nX-Other: 1"`, billing.Malformed)
	grant("a short token", `"eyJ.example.a"`, `"a"`, billing.Malformed)
	grant("a huge token", `"eyJ.example.a"`, `"`+strings.Repeat("a", 9000)+`"`, billing.Malformed)
}
