package billing_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

const (
	verdaTestID     = "client-7c1e"
	verdaTestSecret = "vd-test-0f3b2a1c/secret"

	balancePath   = "/v1/balance"
	instancesPath = "/v1/instances"
	volumesPath   = "/v1/volumes"
	tokenPath     = "/v1/oauth2/token"
)

func verdaRecordings(t testing.TB) map[string]recorded {
	t.Helper()
	b, err := os.ReadFile("testdata/verda.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []recorded }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	cases := make(map[string]recorded)
	for _, c := range file.Cases {
		cases[c.Name] = c
	}
	gone := cases["instances"]
	gone.Body = bytes.Replace(gone.Body, []byte(`"running"`), []byte(`"discontinued"`), 1)
	cases["instances_discontinued"] = gone
	return cases
}

// verdaCloud answers as recorded. Each test says what differs.
type verdaCloud struct {
	t         testing.TB
	now       func() time.Time
	cases     map[string]recorded
	reply     map[string]http.HandlerFunc // by path, before the recordings
	balance   string                      // recording of the balance
	instances string                      // recording of the instances
	grants    []map[string]string         // what was asked of the token's endpoint
	calls     []string
	token     string // the only one that is good
}

func newVerdaCloud(t testing.TB) *verdaCloud {
	return &verdaCloud{t: t, now: november(), cases: verdaRecordings(t), reply: make(map[string]http.HandlerFunc),
		balance: "balance_t0", instances: "instances", token: "eyJ.example.a"}
}

func (c *verdaCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.calls = append(c.calls, r.URL.Path)
	w.Header().Set("Date", c.now().UTC().Format(http.TimeFormat))
	if r.URL.Path == tokenPath {
		var form map[string]string
		if err := json.NewDecoder(r.Body).Decode(&form); err != nil || r.Method != "POST" || r.Header.Get("Authorization") != "" {
			c.t.Errorf("grant %s: %v, with %q", r.Method, err, r.Header.Get("Authorization"))
		}
		c.grants = append(c.grants, form)
	} else if r.Header.Get("Authorization") != "Bearer "+c.token {
		c.cases["err_401"].serve(w)
		return
	}
	if h := c.reply[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	switch r.URL.Path {
	case tokenPath:
		c.cases["token"].serve(w)
	case balancePath:
		c.cases[c.balance].serve(w)
	case instancesPath:
		c.cases[c.instances].serve(w)
	case volumesPath:
		c.cases["volumes"].serve(w)
	default:
		c.t.Errorf("unexpected call of %s", r.URL.Path)
		w.WriteHeader(404)
	}
}

// body answers 200 with a recording in which old is replaced by new.
func (c *verdaCloud) body(name, old, new string) http.HandlerFunc {
	var flat bytes.Buffer
	if err := json.Compact(&flat, c.cases[name].Body); err != nil {
		c.t.Fatal(err)
	}
	if !strings.Contains(flat.String(), old) {
		c.t.Fatalf("recording %s does not contain %q", name, old)
	}
	b := strings.ReplaceAll(flat.String(), old, new)
	return func(w http.ResponseWriter, _ *http.Request) { recorded{Status: 200, Body: []byte(b)}.serve(w) }
}

func answer(r recorded) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { r.serve(w) }
}

func (c *verdaCloud) provider(change func(*billing.Options)) billing.Provider {
	c.t.Helper()
	opts := billing.Options{
		URL:       "https://cloud.test/v1",
		Getenv:    getenv(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret}),
		Transport: direct{c},
	}
	if change != nil {
		change(&opts)
	}
	p, err := billing.New("verda", opts)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// kept is what an earlier run stored last.
type kept struct {
	epoch string
	bill  *ledger.Nanos
}

func (k kept) Newest(string) (string, *ledger.Nanos, bool) { return k.epoch, k.bill, k.epoch != "" }

func nano(n ledger.Nanos) *ledger.Nanos { return &n }

func TestVerdaSample(t *testing.T) {
	noon := when(t, "2026-11-23T12:00:00Z")
	f := func(name, balance, instances string, stored kept, wantBill ledger.Nanos, wantEpoch string) {
		t.Helper()
		c := newVerdaCloud(t)
		c.now = func() time.Time { return noon }
		c.balance, c.instances = balance, instances
		p := c.provider(func(o *billing.Options) { o.Anchors = stored })
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

// A balance that falls is a charge; one that rises a little is a part given back;
// one that rises more hides what was spent, and begins a new epoch.
func TestVerdaBalances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVerdaCloud(t)
		p := c.provider(nil)
		var running = "running"
		c.reply[instancesPath] = func(w http.ResponseWriter, r *http.Request) {
			c.body("instances", `"status":"running"`, `"status":"`+running+`"`)(w, r)
		}
		var first, last string
		f := func(amount string, wantBill ledger.Nanos, sameEpoch bool) {
			t.Helper()
			c.reply[balancePath] = answer(recorded{Status: 200, Body: []byte(`{"amount":` + amount + `,"currency":"usd"}`)})
			s, err := p.Sample(t.Context(), c.now())
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

// Every reply that is not good is a failure of its class, and no number; and the
// next good one reads the series on as if nothing had been.
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
	replay := func(name string) func(*verdaCloud) http.HandlerFunc {
		return func(c *verdaCloud) http.HandlerFunc { return answer(c.cases[name]) }
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
	balance("no amount", amount+",", ``, billing.Incomplete)
	balance("null amount", amount, `"amount":null`, billing.Incomplete)
	balance("no currency", `,"currency":"usd"`, ``, billing.Incomplete)
	balance("NaN", amount, `"amount":NaN`, billing.Malformed)
	balance("NaN in a string", amount, `"amount":"NaN"`, billing.Malformed)
	balance("infinity", amount, `"amount":"-Inf"`, billing.Malformed)
	balance("1e400", amount, `"amount":1e400`, billing.Malformed)
	balance("out of range", amount, `"amount":9300000000`, billing.Malformed)
	balance("far below the opening", amount, `"amount":-9223372036`, billing.Malformed)
	balance("words", amount, `"amount":"plenty"`, billing.Malformed)
	balance("empty string", amount, `"amount":""`, billing.Malformed)
	balance("hex", amount, `"amount":"0x10"`, billing.Malformed)
	balance("list", amount, `"amount":[212.9417]`, billing.Malformed)
	balance("true", amount, `"amount":true`, billing.Malformed)
	balance("empty currency", `"usd"`, `""`, billing.Currency)
	balance("a sign for a currency", `"usd"`, `"$"`, billing.Currency)
	balance("another currency than before", `"usd"`, `"eur"`, billing.Currency)
	balance("a number for a currency", `"usd"`, `840`, billing.Malformed)
	balance("truncated", `"usd"}`, `"us`, billing.Malformed)
	balance("more after it", `"usd"}`, `"usd"}{}`, billing.Malformed)
	f("an error with 200", balancePath, text(`{"code":"server_error","message":"no"}`), billing.Incomplete)

	instances("no id", `"id":"b9a1c0de-0000-4000-8000-000000000010",`, ``, billing.Incomplete)
	instances("no status", `"status":"running",`, ``, billing.Incomplete)
	instances("negative price", `"price_per_hour":"1.15"`, `"price_per_hour":-1.15`, billing.Malformed)
	instances("price in words", `"price_per_hour":"1.15"`, `"price_per_hour":"on request"`, billing.Malformed)
	instances("price of NaN", `"price_per_hour":"1.15"`, `"price_per_hour":"NaN"`, billing.Malformed)
	instances("long-term contract", `"contract":"SPOT"`, `"contract":"LONG_TERM"`, billing.Incomplete)
	f("twice the same", instancesPath, text(`[{"id":"a","status":"running"},{"id":"a","status":"running"}]`), billing.Incomplete)
	f("null in the list", instancesPath, text(`[null]`), billing.Incomplete)
	f("prices out of range", instancesPath, text(`[{"id":"a","status":"running","price_per_hour":9e9},{"id":"b","status":"running","price_per_hour":9e9}]`), billing.Malformed)
	volumes("no id", `"id":"c0ffee00-0000-4000-8000-000000000001",`, ``, billing.Incomplete)
	volumes("no status", `"status":"attached",`, ``, billing.Incomplete)
	volumes("negative cost", `"base_hourly_cost":0.0137`, `"base_hourly_cost":-0.0137`, billing.Malformed)
	volumes("other currency", `"currency":"usd"`, `"currency":"eur"`, billing.Currency)
	volumes("twice the same", `000000000002`, `000000000001`, billing.Incomplete)
	f("costs out of range", volumesPath, text(`[{"id":"a","status":"attached","base_hourly_cost":9.2e9},{"id":"b","status":"attached","base_hourly_cost":9.2e9}]`), billing.Malformed)
	f("rates out of range together", volumesPath, text(`[{"id":"a","status":"attached","base_hourly_cost":9223372036.8}]`), billing.Malformed)

	for _, path := range []string{balancePath, instancesPath, volumesPath, tokenPath} {
		f("403", path, as(recorded{Status: 403, Body: []byte(`{"code":"forbidden_action"}`)}), billing.HTTP403)
		f("404", path, as(recorded{Status: 404, Body: []byte(`{"code":"not_found"}`)}), billing.HTTP4xx)
		f("429", path, replay("err_429"), billing.HTTP429)
		f("500", path, replay("err_500"), billing.HTTP5xx)
		f("502", path, replay("err_502_html"), billing.HTTP5xx)
		f("null", path, text(`null`), billing.Incomplete)
		f("nothing", path, as(recorded{Status: 200}), billing.Malformed)
		f("a string", path, text(`"good morning"`), billing.Malformed)
		f("HTML", path, as(recorded{Status: 200, Headers: map[string]string{"Content-Type": "text/html"}, Text: "<html>"}), billing.Malformed)
		f("no content", path, as(recorded{Status: 204}), billing.Malformed)
		f("redirect", path, as(recorded{Status: 307, Headers: map[string]string{"Location": "https://elsewhere.test/"}}), billing.Redirect)
		f("huge", path, as(recorded{Status: 200, Text: "{" + strings.Repeat(" ", 5<<20) + "}"}), billing.TooLarge)
		f("hang", path, func(*verdaCloud) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}, billing.Timeout)
		f("broken off", path, func(*verdaCloud) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, billing.Network)
		f("yesterday's", path, func(c *verdaCloud) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", c.now().Add(-24*time.Hour).UTC().Format(http.TimeFormat))
				recorded{Status: 200, Body: []byte(`{}`)}.serve(w)
			}
		}, billing.ClockSkew)
	}
	f("a list for an object", balancePath, text(`[]`), billing.Malformed)
	f("an object for a list", instancesPath, text(`{}`), billing.Malformed)
	f("an object for a list", volumesPath, text(`{}`), billing.Malformed)

	grant := func(name, old, new string, class billing.Class) {
		t.Helper()
		f("grant: "+name, tokenPath, func(c *verdaCloud) http.HandlerFunc { return c.body("token", old, new) }, class)
	}
	grant("no token", `"access_token":"eyJ.example.a",`, ``, billing.Incomplete)
	grant("no life", `"expires_in":3600,`, ``, billing.Incomplete)
	grant("no type", `"token_type":"Bearer",`, ``, billing.Incomplete)
	grant("another type", `"Bearer"`, `"MAC"`, billing.Malformed)
	grant("no life left", `"expires_in":3600`, `"expires_in":0`, billing.Malformed)
	grant("negative life", `"expires_in":3600`, `"expires_in":-1`, billing.Malformed)
	grant("life beyond all bounds", `"expires_in":3600`, `"expires_in":9223372036854775807`, billing.Malformed)
	grant("life in words", `"expires_in":3600`, `"expires_in":"an hour"`, billing.Malformed)
	grant("a header within the token", `"eyJ.example.a"`, `"eyJ.example.a\r\nX-Other: 1"`, billing.Malformed)
	grant("a short token", `"eyJ.example.a"`, `"a"`, billing.Malformed)
	grant("a huge token", `"eyJ.example.a"`, `"`+strings.Repeat("a", 9000)+`"`, billing.Malformed)
	f("401", tokenPath, replay("err_401"), billing.HTTP401)
}

// A token is used until half a minute before its end, then refreshed; where that is
// refused, the credentials are sent again; and one that is refused early is asked
// for again once.
func TestVerdaToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVerdaCloud(t)
		p := c.provider(nil)
		start := time.Now()
		sample := func(wantGrants ...string) {
			t.Helper()
			c.grants = nil
			if _, err := p.Sample(t.Context(), c.now()); err != nil {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
			var got []string
			for _, g := range c.grants {
				got = append(got, g["grant_type"])
			}
			if strings.Join(got, " ") != strings.Join(wantGrants, " ") {
				t.Errorf("after %s: grants %q, want %q", time.Since(start), got, wantGrants)
			}
		}
		const refresh, again = "refresh_token", "client_credentials"
		sample(again)
		time.Sleep(time.Hour - 31*time.Second)
		sample()
		time.Sleep(time.Second)
		sample(refresh)
		if g := c.grants[0]; g["refresh_token"] != "eyJ.example.r" || len(g) != 2 {
			t.Errorf("refresh %v", g)
		}
		for _, refused := range []recorded{c.cases["err_401"], c.cases["err_500"], c.cases["err_502_html"], {Status: 200, Body: []byte(`{}`)}} {
			c.reply[tokenPath] = func(w http.ResponseWriter, r *http.Request) {
				if c.grants[len(c.grants)-1]["grant_type"] == refresh {
					refused.serve(w)
					return
				}
				c.cases["token"].serve(w)
			}
			time.Sleep(time.Hour)
			sample(refresh, again)
		}
		delete(c.reply, tokenPath)

		// Withdrawn before its end, between two calls of one sample.
		c.token = "eyJ.example.b"
		c.reply[tokenPath] = c.body("token", "eyJ.example.a", "eyJ.example.b")
		time.Sleep(time.Minute)
		sample(again)
		c.reply[instancesPath] = func(w http.ResponseWriter, r *http.Request) {
			c.token, c.reply[tokenPath] = "eyJ.example.c", c.body("token", "eyJ.example.a", "eyJ.example.c")
			delete(c.reply, instancesPath)
			c.cases["err_401"].serve(w)
		}
		time.Sleep(time.Minute)
		sample(again)

		// Good for nothing: asked for once, not in a circle.
		c.token = "eyJ.example.d"
		time.Sleep(time.Minute)
		c.grants, c.calls = nil, nil
		_, err := p.Sample(t.Context(), c.now())
		wantClass(t, err, billing.HTTP401)
		if len(c.grants) != 1 || len(c.calls) != 3 {
			t.Errorf("%d grants in calls %q", len(c.grants), c.calls)
		}
		var f *billing.Failure
		if errors.As(err, &f) && !strings.Contains(f.Hint(), "VERDA_CLIENT_SECRET") {
			t.Errorf("hint %q", f.Hint())
		}

		// A token without a refresh token, at an API in trouble: three tries.
		c.token = "eyJ.example.a"
		tries := 0
		c.reply[tokenPath] = func(w http.ResponseWriter, r *http.Request) {
			if tries++; tries < 3 {
				c.cases["err_500"].serve(w)
				return
			}
			c.body("token", `"refresh_token":"eyJ.example.r",`, ``)(w, r)
		}
		time.Sleep(time.Minute)
		sample(again, again, again)
		time.Sleep(time.Hour)
		sample(again)
	})
}

// What the provider echoes is kept without what must not be kept.
func TestVerdaKeepsNoSecret(t *testing.T) {
	c := newVerdaCloud(t)
	c.reply[balancePath] = answer(recorded{Status: 200, Body: []byte(`{"amount":1,"currency":"usd","echo":["` + verdaTestSecret + `","eyJ.example.a","eyJ.example.r"]}`)})
	s, err := c.provider(nil).Sample(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(s.Lines[0].Raw); strings.Contains(got, verdaTestSecret) || strings.Contains(got, "eyJ") || strings.Count(got, "[redacted]") != 3 {
		t.Errorf("kept %s", got)
	}
	if strings.Contains(s.Lines[0].Resource+s.Account, verdaTestID) {
		t.Errorf("the client id is in %q", s.Lines[0].Resource)
	}
}

func TestVerdaCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(verdaTestSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte(verdaTestSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(env map[string]string, want string) {
		t.Helper()
		c := newVerdaCloud(t)
		p, err := billing.New("verda", billing.Options{URL: "https://cloud.test/v1", Getenv: getenv(env), Transport: direct{c}})
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), verdaTestSecret) {
				t.Errorf("%v: %v, want %q", env, err, want)
			}
			return
		}
		if err != nil {
			t.Errorf("%v: %v", env, err)
			return
		}
		if _, err := p.Sample(t.Context(), c.now()); err != nil {
			t.Error(err)
		}
		if g := c.grants[0]; g["client_id"] != verdaTestID || g["client_secret"] != verdaTestSecret {
			t.Errorf("%v: grant %v", env, g)
		}
	}
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret}, "")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET_FILE": file}, "")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": verdaTestID, "DATACRUNCH_CLIENT_SECRET": verdaTestSecret}, "")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": verdaTestID, "DATACRUNCH_CLIENT_SECRET_FILE": file}, "")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret,
		"DATACRUNCH_CLIENT_ID": "an older one", "DATACRUNCH_CLIENT_SECRET": "an older one"}, "")
	f(nil, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID}, "VERDA_CLIENT_SECRET is not set")
	f(map[string]string{"VERDA_CLIENT_SECRET": verdaTestSecret}, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret}, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"VERDA_CLIENT_ID": "two words", "VERDA_CLIENT_SECRET": verdaTestSecret}, "does not hold a client id")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": "short"}, "does not hold")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret, "VERDA_CLIENT_SECRET_FILE": file}, "both")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET_FILE": open}, "mode 0644")

	if got, err := billing.Detect(getenv(map[string]string{"VERDA_CLIENT_ID": "x", "DATACRUNCH_CLIENT_ID": "y"})); got != "verda" || err != nil {
		t.Errorf("Detect = %q, %v", got, err)
	}
	if _, err := billing.New("verda", billing.Options{URL: "http://cloud.test/v1", Getenv: getenv(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret})}); err == nil {
		t.Error("credentials in the clear")
	}
}

// A named instance must be one of the account's; another account is another series.
func TestVerdaInstance(t *testing.T) {
	c := newVerdaCloud(t)
	p := c.provider(func(o *billing.Options) { o.Instance = "b9a1c0de-0000-4000-8000-000000000010" })
	a, err := p.Sample(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	p = c.provider(func(o *billing.Options) { o.Instance = "b9a1c0de-0000-4000-8000-000000000011" })
	_, err = p.Sample(t.Context(), c.now())
	wantClass(t, err, billing.Unidentified)
	p = c.provider(func(o *billing.Options) {
		o.Getenv = getenv(map[string]string{"VERDA_CLIENT_ID": "client-of-another", "VERDA_CLIENT_SECRET": verdaTestSecret})
	})
	b, err := p.Sample(t.Context(), c.now())
	if err != nil || a.Lines[0].Resource == b.Lines[0].Resource || a.Account == b.Account {
		t.Errorf("two accounts in one series: %+v %+v %v", a.Lines, b.Lines, err)
	}
}

func TestVerdaClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVerdaCloud(t)
		p := c.provider(nil)
		now := c.now()
		for i, step := range []struct {
			after time.Duration
			want  billing.Class
		}{{0, ""}, {400 * time.Millisecond, billing.ClockSkew}, {-30 * time.Second, billing.ClockSkew}, {time.Second, ""}} {
			_, err := p.Sample(t.Context(), now.Add(step.after))
			var f *billing.Failure
			if (step.want == "") != (err == nil) || (errors.As(err, &f) && f.Class != step.want) {
				t.Errorf("step %d: %v, want %q", i, err, step.want)
			}
		}
	})
}

func simulatedVerda(t *testing.T, cfg sim.Config, anchors billing.Anchors) (*sim.Sim, billing.Provider) {
	t.Helper()
	cfg.Key = testKey
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cloud, verdaAt(t, cloud, anchors)
}

func verdaAt(t *testing.T, cloud *sim.Sim, anchors billing.Anchors) billing.Provider {
	t.Helper()
	p, err := billing.New("verda", billing.Options{
		URL: "https://sim.test/v1", Instance: cloud.VerdaInstance(), Transport: direct{cloud.Handler()}, Anchors: anchors,
		Getenv: getenv(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": testKey}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Hours of all that can happen to a balance, through a real ledger and over two
// restarts and many tokens: what the ledger says was spent is what the books say,
// to the nano-unit, except across a top-up, where it says that it does not know.
func TestVerdaEqualsTheBooks(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10*time.Hour + 123*time.Millisecond)
		led, err := ledger.Open(ledger.Config{Path: filepath.Join(dir, "ledger.db")})
		if err != nil {
			t.Fatal(err)
		}
		defer led.Close()
		cloud, p := simulatedVerda(t, sim.Config{
			VM: sim.VM{Born: time.Now().Add(-90 * time.Minute)},
			Volumes: []sim.Volume{
				{ID: 45678, Name: "models", SizeGB: 200, RatePerHour: 21_600_000},
				{ID: 45679, Name: "cache", SizeGB: 50, RatePerHour: 3_600, Born: time.Now().AddDate(-1, 0, 0)},
			},
		}, stored{led})
		var ats []time.Time
		failed := 0
		sample := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			s, err := p.Sample(ctx, time.Now())
			if err != nil {
				failed++
				return
			}
			s.Every = time.Minute
			if _, err := led.AddSample(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			ats = append(ats, s.At)
		}
		minutes := func(n int) {
			for range n {
				sample()
				time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
			}
		}
		restart := func() { p = verdaAt(t, cloud, stored{led}) }
		fault := func(f sim.Fault) {
			t.Helper()
			if err := cloud.SetFault(f); err != nil {
				t.Fatal(err)
			}
		}
		minutes(17)
		fault(sim.Fault{Mode: sim.ServerError, Times: 2})
		minutes(9)
		cloud.SetStatus("HIBERNATED")
		minutes(20)
		cloud.SetStatus("ACTIVE")
		fault(sim.Fault{Mode: sim.Refund, Nanos: 200_000_000}) // less than ten minutes of 2.5416036
		minutes(8)
		restart()
		minutes(3)
		fault(sim.Fault{Mode: sim.Unauthorized, Times: 1})
		minutes(70) // over the end of a token
		fault(sim.Fault{Mode: sim.Dark})
		minutes(5)
		fault(sim.Fault{})
		minutes(5)
		topped := len(ats)
		cloud.TopUp(50_000_000_000)
		restart() // the ledger's word is all that is known of the balance before
		minutes(30)

		if failed != 5 {
			t.Errorf("%d failed polls, want 5", failed)
		}
		check := func(from, to time.Time) ledger.Spend {
			t.Helper()
			sp, err := led.Spent(from, to)
			if err != nil {
				t.Fatal(err)
			}
			if want := cloud.Books(from, to); sp.Net != ledger.Nanos(want.Nanos) || sp.Net.String() != want.Spend {
				t.Errorf("spent %s between %v and %v, the books say %s", sp.Net, from, to, want.Spend)
			}
			return sp
		}
		for i := 0; i < topped; i += 7 {
			for j := i; j < topped; j += 11 {
				check(ats[i], ats[j])
			}
		}
		before := check(ats[0], ats[topped-1])
		if len(before.Resources) != 1 || !strings.Contains(strings.Join(before.Flags, " "), ledger.FlagAccountTruth) || before.Net <= 0 {
			t.Errorf("before the top-up: %+v", before)
		}
		if before.Gross <= before.Net {
			t.Errorf("gross %s, net %s: the refund lowered it", before.Gross, before.Net)
		}
		check(ats[topped], ats[len(ats)-1])

		across, err := led.Spent(ats[0], ats[len(ats)-1])
		if err != nil {
			t.Fatal(err)
		}
		known := cloud.Books(ats[0], ats[topped-1]).Nanos + cloud.Books(ats[topped], ats[len(ats)-1]).Nanos
		if across.Net != ledger.Nanos(known) || !strings.Contains(strings.Join(across.Flags, " "), ledger.FlagEpochChanged) {
			t.Errorf("across the top-up: %s %v, want %s and a flag", across.Net, across.Flags, ledger.Nanos(known))
		}
		t.Logf("%s in %s, %d samples", across.Net, ats[len(ats)-1].Sub(ats[0]), len(ats))
	})
}

// Over sockets, by the client of its own: the bill is what the simulator wrote down
// that it gave out.
func TestVerdaOverHTTP(t *testing.T) {
	var seconds atomic.Int64
	clock := func() time.Time { return time.Unix(seconds.Load(), 0) }
	seconds.Store(when(t, "2026-11-23T12:00:00Z").Unix())
	cloud, err := sim.New(sim.Config{Key: testKey, Now: clock, VM: sim.VM{Born: clock().Add(-90 * time.Minute)}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(cloud.Handler())
	defer srv.Close()
	p, err := billing.New("verda", billing.Options{
		URL: srv.URL + "/v1", Getenv: getenv(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": testKey}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var samples []ledger.Sample
	for range 3 {
		s, err := p.Sample(t.Context(), clock())
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, s)
		seconds.Add(61)
	}
	answers := cloud.Answers()
	if len(answers) != 3 {
		t.Fatalf("%d answers, want 3", len(answers))
	}
	for i, s := range samples[1:] {
		want := ledger.Nanos(answers[i+1].Nanos - answers[i].Nanos)
		if got := spent(t, samples[i], s); got != want || got != 61*706_000 || !s.At.Equal(answers[i+1].At) {
			t.Errorf("spent %s, given out %s", got, want)
		}
	}
}

func TestVerdaSimulatedFaults(t *testing.T) {
	f := func(fault sim.Fault, want billing.Class) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			cloud, p := simulatedVerda(t, sim.Config{}, nil)
			read := func() (ledger.Sample, error) {
				time.Sleep(time.Minute)
				ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
				defer cancel()
				return p.Sample(ctx, time.Now())
			}
			a, err := read()
			if err != nil {
				t.Fatal(err)
			}
			if err := cloud.SetFault(fault); err != nil {
				t.Fatal(err)
			}
			s, err := read()
			var failure *billing.Failure
			if !errors.As(err, &failure) || failure.Class != want || s.Lines != nil {
				t.Errorf("%s %s: %v, want %q", fault.Mode, fault.Only, err, want)
			}
			if err := cloud.SetFault(sim.Fault{}); err != nil {
				t.Fatal(err)
			}
			b, err := read()
			if err != nil {
				t.Fatalf("after %s: %v", fault.Mode, err)
			}
			if want := cloud.Books(a.At, b.At); spent(t, a, b) != ledger.Nanos(want.Nanos) {
				t.Errorf("after %s: spent %s, the books say %s", fault.Mode, spent(t, a, b), want.Spend)
			}
		})
	}
	f(sim.Fault{Mode: sim.Dark}, billing.Timeout)
	f(sim.Fault{Mode: sim.Slow, Delay: 14 * time.Second}, billing.Timeout)
	f(sim.Fault{Mode: sim.ServerError}, billing.HTTP5xx)
	f(sim.Fault{Mode: sim.ServerError, Only: "instances"}, billing.HTTP5xx)
	f(sim.Fault{Mode: sim.TooMany, RetryAfter: 120}, billing.HTTP429)
	f(sim.Fault{Mode: sim.Unauthorized}, billing.HTTP401)
	f(sim.Fault{Mode: sim.HTML}, billing.Malformed)
	f(sim.Fault{Mode: sim.Truncated}, billing.Malformed)
	f(sim.Fault{Mode: sim.Truncated, Only: "volumes"}, billing.Malformed)
	f(sim.Fault{Mode: sim.Cut}, billing.Network)
	f(sim.Fault{Mode: sim.Empty}, billing.Incomplete)
	f(sim.Fault{Mode: sim.StatusFalse}, billing.Incomplete)
	f(sim.Fault{Mode: sim.Elsewhere, To: "https://elsewhere.test/"}, billing.Redirect)
	f(sim.Fault{Mode: sim.Huge}, billing.TooLarge)
	f(sim.Fault{Mode: sim.Skew}, billing.ClockSkew)
}
