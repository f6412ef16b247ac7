package billing_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// rig is a provider set up against a cloud that answers well, for what must hold of
// all of them. New adapters take their place in rigs, and so in every shared test.
type rig struct {
	name  string
	url   string // base of its API at the simulator; "" where it has none
	env   map[string]string
	calls []call

	beside []call // those of no sample: what else the account has left and has paid
}

// call is one request of a rig's sample, and what its good reply is made of.
type call struct {
	name  string   // as a Failure has it: a template
	bill  string   // the member that the bill is made of
	rates []string // members that are money too, and may be missing
	must  []string // members without which, or with null in them, the reply is Incomplete
	there []string // members that must be there, be it with null
	whole []string // members that are whole numbers
	state []string // members that hold the resource's state
	zoned []string // members that are instants

	debt    bool          // its bill may be below zero
	list    bool          // it is a list, which may be empty
	printed bool          // it is what a command prints, not a reply
	other   billing.Class // of a JSON object that is another one
	euro    billing.Class // of amounts in EUR, or "": it has none, or it says the currency for the others
}

// is reports whether asked, a method and a path, is this call.
func (c call) is(asked string) bool {
	got, want := strings.Split(asked, "/"), strings.Split(c.name, "/")
	return slices.EqualFunc(got, want, func(got, want string) bool { return got == want || strings.HasPrefix(want, "{") })
}

func rigs() []rig {
	const missing, malformed = billing.Incomplete, billing.Malformed
	return []rig{
		{
			name: "hyperstack", url: "https://sim.test/v1", env: map[string]string{"HYPERSTACK_API_KEY": testKey},
			calls: []call{
				{name: "GET /core/virtual-machines", must: []string{"count", "instances", "id"}, whole: []string{"count", "id"}, other: missing},
				{name: "GET /core/virtual-machines/{id}", must: []string{"instance", "id", "status", "created_at", "volume_attachments"},
					whole: []string{"id"}, state: []string{"status"}, zoned: []string{"created_at"}, other: missing},
				{name: "GET /billing/billing/history/virtual-machine/{id}", bill: "incurred_bill", rates: []string{"price_per_hour"},
					must: []string{"billing_history_vm_details", "org_id", "billing_history"}, whole: []string{"org_id", "total_count", "infrahub_id"},
					other: missing, euro: billing.Currency},
				{name: "GET /core/volumes/{id}", must: []string{"volume", "id", "created_at"}, whole: []string{"id"}, zoned: []string{"created_at"}, other: missing},
				{name: "GET /billing/billing/history/volume/{id}", bill: "incurred_bill", rates: []string{"price_per_hour"},
					must: []string{"billing_history_volume_details", "org_id", "billing_history"}, whole: []string{"org_id", "total_count", "infrahub_id"},
					other: missing, euro: billing.Currency},
				{name: "GET /core/snapshots", must: []string{"count", "snapshots", "id", "vm_id", "status", "created_at"},
					whole: []string{"count", "id", "vm_id"}, zoned: []string{"created_at"}, other: missing},
				{name: "GET /billing/billing/history/snapshot/{id}", bill: "incurred_bill", rates: []string{"price_per_hour"},
					must: []string{"billing_history_volume_details", "org_id", "billing_history"}, whole: []string{"org_id", "total_count", "infrahub_id"},
					other: missing, euro: billing.Currency},
			},
			beside: []call{{name: "GET /billing/user-credit/credit"}, {name: "GET /billing/billing/history"}},
		},
		{
			name: "runpod", url: "https://sim.test", env: map[string]string{"RUNPOD_API_KEY": testKey, "RUNPOD_POD_ID": "pod701234"},
			calls: []call{
				{name: "GET /v2/pods/{id}", rates: []string{"cost"}, must: []string{"id", "status", "createdAt", "mounts"},
					state: []string{"status"}, zoned: []string{"createdAt"}, other: missing},
				{name: "GET /v2/billing/network-volumes", bill: "totalAmount", must: []string{"records", "metadata", "query", "recordCount", "totals",
					"startTime", "endTime", "networkVolumeId", "bucketSize"}, whole: []string{"recordCount"}, zoned: []string{"startTime", "endTime"},
					other: missing, euro: billing.Currency},
				{name: "GET /v2/billing/pods", bill: "totalAmount", must: []string{"records", "metadata", "query", "recordCount", "totals",
					"startTime", "endTime", "podId", "bucketSize"}, whole: []string{"recordCount"}, zoned: []string{"startTime", "endTime"},
					other: missing, euro: billing.Currency},
			},
			beside: []call{{name: "POST /graphql"}, {name: "GET /v2/billing"}},
		},
		{
			name: "vast", url: "https://sim.test", env: map[string]string{"VAST_API_KEY": testKey, "CONTAINER_ID": "701234"},
			calls: []call{
				{name: "GET /api/v0/users/current/", rates: []string{"credit"}, must: []string{"id"}, whole: []string{"id"}, debt: true, other: missing},
				{name: "GET /api/v0/instances/{id}/", rates: []string{"discountedTotalPerHour"}, must: []string{"instances", "id", "start_date"},
					there: []string{"volume_info"}, whole: []string{"id"}, state: []string{"actual_status", "cur_state"}, other: missing},
				{name: "GET /api/v0/charges/", bill: "amount", must: []string{"success", "count", "total", "results", "source"},
					whole: []string{"count", "total"}, other: missing, euro: billing.Currency},
				{name: "GET /api/v0/volumes", must: []string{"volumes", "id", "start_date"}, whole: []string{"id"}, other: missing},
			},
		},
		{
			name: "verda", url: "https://sim.test/v1", env: map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": testKey},
			calls: []call{
				{name: "POST /oauth2/token", must: []string{"access_token", "token_type", "expires_in"}, whole: []string{"expires_in"}, other: missing},
				{name: "GET /balance", bill: "amount", must: []string{"currency"}, debt: true, other: missing},
				{name: "GET /instances", rates: []string{"price_per_hour"}, must: []string{"id", "status"}, state: []string{"status"}, list: true, other: malformed},
				{name: "GET /volumes", rates: []string{"base_hourly_cost"}, must: []string{"id", "status"}, list: true, other: malformed, euro: billing.Currency},
			},
		},
		{
			name: "exec",
			calls: []call{
				{name: "exec", bill: "bill", rates: []string{"rate_per_hour"}, must: []string{"version", "currency", "truth", "step_seconds",
					"lag_seconds", "lines", "resource", "kind", "running", "epoch"}, whole: []string{"version", "step_seconds", "lag_seconds"},
					zoned: []string{"created"}, printed: true, other: malformed, euro: billing.Refused},
			},
		},
	}
}

// opensByName opens a provider by its name, as billing.New does.
type opensByName func(name string, opts billing.Options) (billing.Provider, error)

// stage is a rig at work. Adapters opened on it go on with the series of the last
// sample, as they would with what a ledger has.
type stage struct {
	rig   rig
	last  ledger.Sample
	open  func() billing.Provider
	spoil func(call, *bad) // makes the call go wrong; nil ends it
	hits  func() int       // so many calls did, since spoil
	asked func() []string  // every call that was made
	cloud *sim.Sim         // nil for a command
}

// onEach runs a test on every rig, or on those named. open opens a provider by its name.
func onEach(t *testing.T, open opensByName, test func(*testing.T, *stage), names ...string) {
	t.Helper()
	for _, r := range rigs() {
		if len(names) > 0 && !slices.Contains(names, r.name) {
			continue
		}
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) { test(t, newStage(t, open, r, dir)) })
	}
}

// sample polls once, a minute later.
func (st *stage) sample(t *testing.T, p billing.Provider) ledger.Sample {
	t.Helper()
	time.Sleep(time.Minute)
	s, err := p.Sample(t.Context(), time.Now())
	if err != nil {
		t.Fatalf("%s: %v", st.rig.name, err)
	}
	st.last = s
	return s
}

// newStage sets a rig up in dir. It may be in a synctest bubble.
func newStage(t *testing.T, open opensByName, r rig, dir string) *stage {
	t.Helper()
	st := &stage{rig: r}
	opts := billing.Options{URL: r.url, Getenv: getenv(r.env), History: st, Hostname: func() (string, error) { return "demo-h100", nil }}
	if r.url == "" {
		st.onCommand(t, dir, &opts)
	} else {
		st.onCloud(t, &opts)
	}
	st.open = func() billing.Provider {
		t.Helper()
		p, err := open(r.name, opts)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	return st
}

func (st *stage) onCloud(t *testing.T, opts *billing.Options) {
	var err error
	cfg := sim.Config{Key: testKey, VM: sim.VM{Born: time.Now()}}
	if st.rig.name == "hyperstack" {
		cfg.Snapshots = []sim.Snapshot{{ID: 31, RatePerHour: 7_200_000}}
	}
	if st.cloud, err = sim.New(cfg); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Minute) // so that there is a bill
	m := &meddler{t: t, next: direct{st.cloud.Handler()}}
	opts.Transport = m
	st.spoil = func(c call, b *bad) { m.call, m.bad, m.hits = c, b, 0 }
	st.hits = func() int { return m.hits }
	st.asked = func() []string { return m.asked }
}

func (st *stage) onCommand(t *testing.T, dir string, opts *billing.Options) {
	file, script := filepath.Join(dir, "reply"), filepath.Join(dir, "bill")
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	good := strings.Replace(snapshot(t), "2026-11-22T11:00", "1999-11-22T11:00", 1) // before a bubble's time
	write(file, good, 0o600)
	write(script, "#!/bin/sh\nexec cat '"+file+"'\n", 0o700)
	opts.Command = []string{script}
	st.spoil = func(_ call, b *bad) {
		text := good
		if b != nil {
			text = b.text(good)
		}
		write(file, text, 0o600)
	}
	st.hits = func() int { return 1 }
	st.asked = func() []string { return nil }
}

// meddler lies between an adapter and its cloud, and spoils the replies to one call.
type meddler struct {
	t     *testing.T
	next  http.RoundTripper
	call  call
	bad   *bad
	hits  int
	asked []string
}

func (m *meddler) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "sim.test" || r.URL.Scheme != "https" {
		m.t.Errorf("%s was asked", r.URL.Host)
	}
	asked := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/v1")
	m.asked = append(m.asked, asked)
	resp, err := m.next.RoundTrip(r)
	if err != nil || m.bad == nil || !m.call.is(asked) {
		return resp, err
	}
	m.hits++
	return m.bad.spoil(m.t, r, resp)
}

// Newest implements billing.History.
func (st *stage) Newest(resource string) (string, *ledger.Nanos, bool) {
	for _, l := range st.last.Lines {
		if l.Resource == resource {
			return l.Epoch, l.Bill, true
		}
	}
	return "", nil, false
}

// Open implements billing.History.
func (st *stage) Open(string) (open []string, err error) {
	for _, l := range st.last.Lines {
		if l.Status != ledger.StatusClosed && !slices.Contains(open, l.Resource) {
			open = append(open, l.Resource)
		}
	}
	return open, nil
}

func (r rig) call(name string) call {
	for _, c := range r.calls {
		if c.name == name {
			return c
		}
	}
	panic("BUG: no call " + name)
}

// lookBack asks a provider for all that it can tell beside a sample.
func lookBack(t *testing.T, p billing.Provider) {
	t.Helper()
	if b, ok := p.(billing.Boundary); ok {
		// Whether it has a bill of then is not the question.
		_, _ = b.SampleAt(t.Context(), time.Now().Truncate(time.Hour), time.Now())
	}
	if w, ok := p.(billing.BalanceReader); ok {
		if _, err := w.Balances(t.Context(), time.Now()); err != nil {
			t.Error(err)
		}
	}
	if w, ok := p.(billing.Windowed); ok {
		if _, err := w.AccountOver(t.Context(), time.Now().Add(-time.Hour), time.Now(), time.Now()); err != nil {
			t.Error(err)
		}
	}
}

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

// snapshot is the example of what a command prints.
func snapshot(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/exec.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
