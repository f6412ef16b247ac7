package rig

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

	"spotinference/billing/api"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// Rig is a provider set up against a cloud that answers well, for what must hold of
// all of them. A new adapter takes its place in Rigs, and so in every shared test.
type Rig struct {
	Name  string
	URL   string // base of its API at the simulator; "" where it has none
	Env   map[string]string
	Calls []Call

	Beside []Call // those of no sample: what else the account has left and has paid
}

// Call is one request of a rig's sample, and what its good reply is made of.
type Call struct {
	Name  string   // as a Failure has it: a template
	Bill  string   // the member that the bill is made of
	Rates []string // members that are money too, and may be missing
	Must  []string // members without which, or with null in them, the reply is Incomplete
	There []string // members that must be there, be it with null
	Whole []string // members that are whole numbers
	State []string // members that hold the resource's state
	Zoned []string // members that are instants

	Debt    bool      // its bill may be below zero
	List    bool      // it is a list, which may be empty
	Printed bool      // it is what a command prints, not a reply
	Other   api.Class // of a JSON object that is another one
	Euro    api.Class // of amounts in EUR, or "": it has none, or it says the currency for the others
}

// Is reports whether asked, a method and a path, is this call.
func (c Call) Is(asked string) bool {
	got, want := strings.Split(asked, "/"), strings.Split(c.Name, "/")
	return slices.EqualFunc(got, want, func(got, want string) bool { return got == want || strings.HasPrefix(want, "{") })
}

// Rigs has one of each adapter.
func Rigs() []Rig {
	const missing, malformed = api.Incomplete, api.Malformed
	return []Rig{
		{
			Name: "hyperstack", URL: "https://sim.test/v1", Env: map[string]string{"HYPERSTACK_API_KEY": Key},
			Calls: []Call{
				{Name: "GET /core/virtual-machines", Must: []string{"count", "instances", "id"}, Whole: []string{"count", "id"}, Other: missing},
				{Name: "GET /core/virtual-machines/{id}", Must: []string{"instance", "id", "status", "created_at", "volume_attachments"},
					Whole: []string{"id"}, State: []string{"status"}, Zoned: []string{"created_at"}, Other: missing},
				{Name: "GET /billing/billing/history/virtual-machine/{id}", Bill: "incurred_bill", Rates: []string{"price_per_hour"},
					Must: []string{"billing_history_vm_details", "org_id", "billing_history"}, Whole: []string{"org_id", "total_count", "infrahub_id"},
					Other: missing, Euro: api.Currency},
				{Name: "GET /core/volumes/{id}", Must: []string{"volume", "id", "created_at"}, Whole: []string{"id"}, Zoned: []string{"created_at"}, Other: missing},
				{Name: "GET /billing/billing/history/volume/{id}", Bill: "incurred_bill", Rates: []string{"price_per_hour"},
					Must: []string{"billing_history_volume_details", "org_id", "billing_history"}, Whole: []string{"org_id", "total_count", "infrahub_id"},
					Other: missing, Euro: api.Currency},
				{Name: "GET /core/snapshots", Must: []string{"count", "snapshots", "id", "vm_id", "status", "created_at"},
					Whole: []string{"count", "id", "vm_id"}, Zoned: []string{"created_at"}, Other: missing},
				{Name: "GET /billing/billing/history/snapshot/{id}", Bill: "incurred_bill", Rates: []string{"price_per_hour"},
					Must: []string{"billing_history_volume_details", "org_id", "billing_history"}, Whole: []string{"org_id", "total_count", "infrahub_id"},
					Other: missing, Euro: api.Currency},
			},
			Beside: []Call{{Name: "GET /billing/user-credit/credit"}, {Name: "GET /billing/billing/history"}},
		},
		{
			Name: "runpod", URL: "https://sim.test", Env: map[string]string{"RUNPOD_API_KEY": Key, "RUNPOD_POD_ID": "pod701234"},
			Calls: []Call{
				{Name: "GET /v2/pods/{id}", Rates: []string{"cost"}, Must: []string{"id", "status", "createdAt", "mounts"},
					State: []string{"status"}, Zoned: []string{"createdAt"}, Other: missing},
				{Name: "GET /v2/billing/network-volumes", Bill: "totalAmount", Must: []string{"records", "metadata", "query", "recordCount", "totals",
					"startTime", "endTime", "networkVolumeId", "bucketSize"}, Whole: []string{"recordCount"}, Zoned: []string{"startTime", "endTime"},
					Other: missing, Euro: api.Currency},
				{Name: "GET /v2/billing/pods", Bill: "totalAmount", Must: []string{"records", "metadata", "query", "recordCount", "totals",
					"startTime", "endTime", "podId", "bucketSize"}, Whole: []string{"recordCount"}, Zoned: []string{"startTime", "endTime"},
					Other: missing, Euro: api.Currency},
			},
			Beside: []Call{{Name: "POST /graphql"}, {Name: "GET /v2/billing"}},
		},
		{
			Name: "vast", URL: "https://sim.test", Env: map[string]string{"VAST_API_KEY": Key, "CONTAINER_ID": "701234"},
			Calls: []Call{
				{Name: "GET /api/v0/users/current/", Rates: []string{"credit"}, Must: []string{"id"}, Whole: []string{"id"}, Debt: true, Other: missing},
				{Name: "GET /api/v0/instances/{id}/", Rates: []string{"discountedTotalPerHour"}, Must: []string{"instances", "id", "start_date"},
					There: []string{"volume_info"}, Whole: []string{"id"}, State: []string{"actual_status", "cur_state"}, Other: missing},
				{Name: "GET /api/v0/charges/", Bill: "amount", Must: []string{"success", "count", "total", "results", "source"},
					Whole: []string{"count", "total"}, Other: missing, Euro: api.Currency},
				{Name: "GET /api/v0/volumes", Must: []string{"volumes", "id", "start_date"}, Whole: []string{"id"}, Other: missing},
			},
		},
		{
			Name: "verda", URL: "https://sim.test/v1", Env: map[string]string{"VERDA_CLIENT_ID": VerdaID, "VERDA_CLIENT_SECRET": Key},
			Calls: []Call{
				{Name: "POST /oauth2/token", Must: []string{"access_token", "token_type", "expires_in"}, Whole: []string{"expires_in"}, Other: missing},
				{Name: "GET /balance", Bill: "amount", Must: []string{"currency"}, Debt: true, Other: missing},
				{Name: "GET /instances", Rates: []string{"price_per_hour"}, Must: []string{"id", "status"}, State: []string{"status"}, List: true, Other: malformed},
				{Name: "GET /volumes", Rates: []string{"base_hourly_cost"}, Must: []string{"id", "status"}, List: true, Other: malformed, Euro: api.Currency},
			},
		},
		{
			Name: "exec",
			Calls: []Call{
				{Name: "exec", Bill: "bill", Rates: []string{"rate_per_hour"}, Must: []string{"version", "currency", "truth", "step_seconds",
					"lag_seconds", "lines", "resource", "kind", "running", "epoch"}, Whole: []string{"version", "step_seconds", "lag_seconds"},
					Zoned: []string{"created"}, Printed: true, Other: malformed, Euro: api.Refused},
			},
		},
	}
}

// OpensByName opens a provider by its name, as billing.New does.
type OpensByName func(name string, opts api.Options) (api.Provider, error)

// Stage is a rig at work. Adapters opened on it go on with the series of the last
// sample, as they would with what a ledger has.
type Stage struct {
	Rig         Rig
	Last        ledger.Sample
	OpenAdapter func() api.Provider
	Spoil       func(Call, *Bad) // makes the call go wrong; nil ends it
	Hits        func() int       // so many calls did, since spoil
	Asked       func() []string  // every call that was made
	Cloud       *sim.Sim         // nil for a command
}

// OnEach runs a test on every rig, or on those named. open opens a provider by its name.
func OnEach(t *testing.T, open OpensByName, test func(*testing.T, *Stage), names ...string) {
	t.Helper()
	for _, r := range Rigs() {
		if len(names) > 0 && !slices.Contains(names, r.Name) {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { test(t, NewStage(t, open, r, dir)) })
		})
	}
}

// Sample polls once, a minute later.
func (st *Stage) Sample(t *testing.T, p api.Provider) ledger.Sample {
	t.Helper()
	time.Sleep(time.Minute)
	s, err := p.Sample(t.Context(), time.Now())
	if err != nil {
		t.Fatalf("%s: %v", st.Rig.Name, err)
	}
	st.Last = s
	return s
}

// NewStage sets a rig up in dir. It may be in a synctest bubble.
func NewStage(t *testing.T, open OpensByName, r Rig, dir string) *Stage {
	t.Helper()
	st := &Stage{Rig: r}
	opts := api.Options{URL: r.URL, Getenv: Env(r.Env), History: st, Hostname: func() (string, error) { return "demo-h100", nil }}
	if r.URL == "" {
		st.onCommand(t, dir, &opts)
	} else {
		st.onCloud(t, &opts)
	}
	st.OpenAdapter = func() api.Provider {
		t.Helper()
		p, err := open(r.Name, opts)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	return st
}

func (st *Stage) onCloud(t *testing.T, opts *api.Options) {
	var err error
	cfg := sim.Config{Key: Key, VM: sim.VM{Born: time.Now()}}
	if st.Rig.Name == "hyperstack" {
		cfg.Snapshots = []sim.Snapshot{{ID: 31, RatePerHour: 7_200_000}}
	}
	if st.Cloud, err = sim.New(cfg); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Minute) // so that there is a bill
	m := &meddler{t: t, next: Direct{st.Cloud.Handler()}}
	opts.Transport = m
	st.Spoil = func(c Call, b *Bad) { m.call, m.bad, m.hits = c, b, 0 }
	st.Hits = func() int { return m.hits }
	st.Asked = func() []string { return m.asked }
}

func (st *Stage) onCommand(t *testing.T, dir string, opts *api.Options) {
	file, script := filepath.Join(dir, "reply"), filepath.Join(dir, "bill")
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	good := strings.Replace(Snapshot(), "2026-11-22T11:00", "1999-11-22T11:00", 1) // before a bubble's time
	write(file, good, 0o600)
	write(script, "#!/bin/sh\nexec cat '"+file+"'\n", 0o700)
	opts.Command = []string{script}
	st.Spoil = func(_ Call, b *Bad) {
		text := good
		if b != nil {
			text = b.Text(good)
		}
		write(file, text, 0o600)
	}
	st.Hits = func() int { return 1 }
	st.Asked = func() []string { return nil }
}

// meddler lies between an adapter and its cloud, and spoils the replies to one call.
type meddler struct {
	t     *testing.T
	next  http.RoundTripper
	call  Call
	bad   *Bad
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
	if err != nil || m.bad == nil || !m.call.Is(asked) {
		return resp, err
	}
	m.hits++
	return m.bad.Spoil(m.t, r, resp)
}

// Newest implements api.History.
func (st *Stage) Newest(resource string) (string, *ledger.Nanos, bool) {
	for _, l := range st.Last.Lines {
		if l.Resource == resource {
			return l.Epoch, l.Bill, true
		}
	}
	return "", nil, false
}

// Open implements api.History.
func (st *Stage) Open(string) (open []string, err error) {
	for _, l := range st.Last.Lines {
		if l.Status != ledger.StatusClosed && !slices.Contains(open, l.Resource) {
			open = append(open, l.Resource)
		}
	}
	return open, nil
}

// Call is the call of that name.
func (r Rig) Call(name string) Call {
	for _, c := range r.Calls {
		if c.Name == name {
			return c
		}
	}
	panic("BUG: no call " + name)
}

// LookBack asks a provider for all that it can tell beside a sample.
func LookBack(t *testing.T, p api.Provider) {
	t.Helper()
	if b, ok := p.(api.Boundary); ok {
		// Whether it has a bill of then is not the question.
		_, _ = b.SampleAt(t.Context(), time.Now().Truncate(time.Hour), time.Now())
	}
	if w, ok := p.(api.BalanceReader); ok {
		if _, err := w.Balances(t.Context(), time.Now()); err != nil {
			t.Error(err)
		}
	}
	if w, ok := p.(api.Windowed); ok {
		if _, err := w.AccountOver(t.Context(), time.Now().Add(-time.Hour), time.Now(), time.Now()); err != nil {
			t.Error(err)
		}
	}
}

// Bad is one way of a reply to go wrong: in what it says or, where how is set, in
// how it says it.
type Bad struct {
	Name  string
	Class api.Class
	Text  func(good string) string
	How   func(r *http.Request, good *http.Response) (*http.Response, error)
	After time.Duration // for which the provider asked for peace
}

// Spoil is the reply r would get, spoiled.
func (b Bad) Spoil(t *testing.T, r *http.Request, good *http.Response) (*http.Response, error) {
	if b.How != nil {
		return b.How(r, good)
	}
	body, err := io.ReadAll(good.Body)
	if err != nil || good.StatusCode != 200 {
		t.Errorf("there is no good reply to spoil: %d %s, %v", good.StatusCode, body, err)
	}
	good.Body = io.NopCloser(strings.NewReader(b.Text(string(body))))
	return good, nil
}
