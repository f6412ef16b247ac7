package sim_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/billing/sim"
)

const key = "sim-test-key"

// account is a cloud at a clock that the test moves.
type account struct {
	*sim.Sim
	now time.Time
}

func newAccount(t *testing.T) *account {
	t.Helper()
	a := &account{now: time.Date(2026, 11, 22, 10, 0, 0, 999_000_000, time.UTC)}
	var err error
	if a.Sim, err = sim.New(sim.Config{Key: key, Now: func() time.Time { return a.now }}); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *account) get(t *testing.T, target string) (int, string) {
	t.Helper()
	r := httptest.NewRequest("GET", target, nil)
	r.Header.Set("api_key", key)
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	if w.Header().Get("Server") != "spotinference-sim" {
		t.Errorf("%s: Server is %q", target, w.Header().Get("Server"))
	}
	return w.Code, w.Body.String()
}

func TestBill(t *testing.T) {
	a := newAccount(t)
	f := func(target string, code int, want string) {
		t.Helper()
		if got, body := a.get(t, "/v1"+target); got != code || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %d with %s", target, got, body, code, want)
		}
	}
	const vm, volume = "/billing/billing/history/virtual-machine/701234", "/billing/billing/history/volume/45678"
	const day = "?start_date=2026-11-22T00:00:00&end_date="
	a.now = a.now.Add(time.Minute)
	f(vm+day+"2026-11-22T10:00:00", 200, `"incurred_bill":0,`) // born in that second, which is not over
	f(vm+day+"2026-11-22T10:00:01", 200, `"incurred_bill":0.0007,`)
	f(vm+day+"2026-11-22T10:01:00", 200, `"incurred_bill":0.042,`)
	f(vm+day+"2026-11-22T10:01:00", 200, `"price_per_hour":2.52,`)
	f(vm+day+"2026-11-22T10:30:00", 200, `"incurred_bill":0.042,`) // the future has cost nothing yet
	f(volume+day+"2026-11-22T10:01:00", 200, `"incurred_bill":0.00036,`)
	f(vm+"?start_date=2026-11-22T10:00:30&end_date=2026-11-22T10:00:40", 200, `"incurred_bill":0.007,`)
	f(vm, 200, `"incurred_bill":0.042,`) // this month
	f(vm+"?start_date=2026-11-22T10:00:30Z", 400, `"start_date":["Not a valid datetime."]`)
	f("/billing/billing/history/virtual-machine/1", 404, `"error_reason":"not_found"`)
	f("/billing/billing/history/volume/701234", 404, "not_found")
	f("/core/virtual-machines?page=1&pageSize=100", 200, `"count":1,`)
	f("/core/virtual-machines?page=2", 200, `"instances":[]`)
	f("/core/virtual-machines/701234", 200, `"contract_id":null`)
	f("/core/volumes", 200, `"created_at":"2026-11-22T10:00:00"`)
	f("/core/volumes/45678", 200, `"created_at":"2026-11-22T10:00:00"`)
	f("/core/volumes/1", 404, "not_found")
	f("/billing/billing/usage?deleted=false", 200, `"total_bill":0.042`)
	f("/billing/user-credit/credit", 200, `"credit":99.95764`)
	f("/billing/alive", 200, `"status":true`)
	f("/billing/billing/history"+day+"2026-11-22T10:01:00", 200, `"incurred_bill":0.04236,`)
	f("/billing/billing/history", 200, `"vm_cost":0.042,"volume_cost":0.00036}`)

	// Half a minute at the rate of the root disk; the second of the change is still
	// at the old rate.
	a.SetStatus("hibernated")
	a.now = a.now.Add(31 * time.Second)
	f(vm+day+"2026-11-22T10:01:31", 200, `"incurred_bill":0.04279,`)
	f(vm+day+"2026-11-22T10:01:00", 200, `"incurred_bill":0.042,`)
	f(vm+day+"2026-11-22T10:01:31", 200, `"usage_time_HIBERNATED":30,`)
	f("/core/virtual-machines/701234", 200, `"status":"HIBERNATED"`)
}

func TestBooks(t *testing.T) {
	a := newAccount(t)
	a.now = a.now.Add(time.Hour)
	if err := a.SetFault(sim.Fault{Mode: sim.Refund, Nanos: 1}); err != nil {
		t.Fatal(err)
	}
	code, body := a.get(t, "/sim/books?from=2026-11-22T11:00:00.9%2B01:00&to=2026-11-22T11:00:01Z")
	var b sim.Books
	if err := json.Unmarshal([]byte(body), &b); err != nil || code != 200 {
		t.Fatal(code, body)
	}
	if b.Spend != "2.542305999" || b.Nanos != 3601*706_000-1 || b.Refunds != 1 || b.Currency != "USD" ||
		b.Resources["volume-45678"].Spend != "0.021606" || b.Resources["vm-701234"].Nanos != 3601*700_000-1 {
		t.Errorf("books = %s", body)
	}
	if code, _ := a.get(t, "/sim/books?from=yesterday"); code != 400 {
		t.Errorf("unreadable from: %d", code)
	}
}

func TestKey(t *testing.T) {
	a := newAccount(t)
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/billing/alive", nil))
	if w.Code != 401 {
		t.Errorf("without a key: %d", w.Code)
	}
	if _, err := sim.New(sim.Config{}); err == nil {
		t.Error("an account without a key")
	}
	if _, err := sim.New(sim.Config{Key: key, VM: sim.VM{RatePerHour: 2_500_000_000}}); err == nil {
		t.Error("a rate that is no whole number a second")
	}
}

func TestFaultKnob(t *testing.T) {
	a := newAccount(t)
	post := func(query string) int {
		t.Helper()
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/sim/fault?"+query, nil))
		return w.Code
	}
	for _, bad := range []string{"mode=tired", "mode=500&times=some", "mode=slow&delay=long"} {
		if code := post(bad); code != 400 {
			t.Errorf("%s: %d", bad, code)
		}
	}
	if code := post("mode=429&times=1&retry_after=7&only=core"); code != 200 {
		t.Fatal(code)
	}
	for _, step := range []struct {
		target string
		want   int
	}{{"/v1/billing/alive", 200}, {"/v1/core/volumes", 429}, {"/v1/core/volumes", 200}} {
		if got, _ := a.get(t, step.target); got != step.want {
			t.Errorf("%s: %d, want %d", step.target, got, step.want)
		}
	}
}

// A provider that goes away and comes back has the same address and the same bill.
func TestRunAgain(t *testing.T) {
	a := newAccount(t)
	read := func() string {
		t.Helper()
		req, _ := http.NewRequest("GET", a.URL()+"/billing/user-credit/credit", nil)
		req.Header.Set("api_key", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	addr, first := "127.0.0.1:0", ""
	for range 2 {
		if err := a.Listen(addr); err != nil {
			t.Fatal(err)
		}
		addr = strings.TrimSuffix(strings.TrimPrefix(a.URL(), "http://"), "/v1")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		got := read()
		if first == "" {
			first = got
		}
		if got != first || !strings.Contains(got, "credit") {
			t.Errorf("credit %s, first %s", got, first)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	if err := (&sim.Sim{}).Run(t.Context()); err == nil {
		t.Error("Run before Listen")
	}
}

// Each API says how its adapter finds the machine, on the server that was listened on
// and on another.
func TestAccounts(t *testing.T) {
	cloud, err := sim.New(sim.Config{Key: "key-of-the-test", VM: sim.VM{ID: 7}})
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	want := map[string]sim.Account{
		"hyperstack": {URL: "/v1", Instance: "7", Env: map[string]string{"HYPERSTACK_API_KEY": "key-of-the-test"}},
		"runpod":     {URL: "", Instance: "pod7", Env: map[string]string{"RUNPOD_API_KEY": "key-of-the-test"}},
		"vast":       {URL: "", Instance: "7", Env: map[string]string{"VAST_API_KEY": "key-of-the-test"}},
		"verda":      {URL: "/v1", Env: map[string]string{"VERDA_CLIENT_ID": "demo-client-id", "VERDA_CLIENT_SECRET": "key-of-the-test"}},
	}
	if got := sim.Providers(); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("Providers() = %v", got)
	}
	for provider, want := range want {
		path := want.URL
		for root, at := range map[string]string{"": strings.TrimSuffix(cloud.URL(), "/v1"), "https://sim.test": "https://sim.test"} {
			want.URL = at + path
			if got := cloud.Account(provider, root); !reflect.DeepEqual(got, want) {
				t.Errorf("Account(%q, %q) = %+v, want %+v", provider, root, got, want)
			}
		}
	}
	if got := cloud.Account("lambda", ""); !reflect.DeepEqual(got, sim.Account{}) {
		t.Errorf("Account of nobody: %+v", got)
	}
}
