package vast_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

func TestVastSample(t *testing.T) {
	begin := rig.Time(t, "2026-11-26T10:46:40Z")
	anchor := rig.Time(t, "2026-11-25T00:00:00Z")
	f := func(charges, instance string, at time.Time, status string, running bool, wantBill, wantRate, wantVolume ledger.Nanos) {
		t.Helper()
		c := newVastCloud(t)
		c.Now = func() time.Time { return at }
		c.Charges, c.Instance = charges, instance
		s, err := c.Provider(nil).Sample(t.Context(), at.Add(300*time.Millisecond))
		if err != nil {
			t.Errorf("%s: %v", charges, err)
			return
		}
		if !s.At.Equal(at) || s.At.Location() != time.UTC || s.Provider != "vast" || s.Account != "4242" || s.Currency != "USD" ||
			s.Truth != ledger.TruthResource || s.Step != time.Minute || s.Calibrated {
			t.Errorf("%s: sample = %+v", charges, s)
		}
		if len(s.Lines) != 2 {
			t.Fatalf("%s: %d lines, want 2", charges, len(s.Lines))
		}
		vm, vol := s.Lines[0], s.Lines[1]
		if vm.Resource != "instance-12345678" || vm.Kind != ledger.Instance || vm.Status != status || vm.Running != running ||
			!vm.Created.Equal(rig.Time(t, "2026-11-25T09:46:40Z")) || vm.Epoch != api.Epoch(anchor) {
			t.Errorf("%s: instance = %+v", charges, vm)
		}
		if vol.Resource != "volume-777" || vol.Kind != ledger.Volume || vol.Status != "attached" || !vol.Running || vol.Rate != nil ||
			!vol.Created.Equal(rig.Time(t, "2026-11-25T09:46:30.25Z")) || vol.Epoch != api.Epoch(anchor) {
			t.Errorf("%s: volume = %+v", charges, vol)
		}
		if *vm.Bill != wantBill || *vm.Rate != wantRate || *vol.Bill != wantVolume {
			t.Errorf("%s: bills %s, %s at %s; want %s, %s at %s", charges, *vm.Bill, *vol.Bill, *vm.Rate, wantBill, wantVolume, wantRate)
		}
		// What is kept is what was added up: the entries of this contract, as they came.
		for _, l := range s.Lines {
			var kept, listed []json.RawMessage
			var reply struct{ Results []json.RawMessage }
			if err := errors.Join(json.Unmarshal(l.Raw, &kept), json.Unmarshal(c.Cases[charges].Body, &reply)); err != nil {
				t.Fatal(err)
			}
			for _, e := range reply.Results {
				var entry struct{ Source string }
				if err := json.Unmarshal(e, &entry); err != nil {
					t.Fatal(err)
				}
				if entry.Source == l.Resource {
					listed = append(listed, e)
				}
			}
			if len(listed) == 0 || fmt.Sprintf("%s", kept) != fmt.Sprintf("%s", listed) {
				t.Errorf("%s: of %s is kept\n%s\nwant\n%s", charges, l.Resource, kept, listed)
			}
		}
		// The window is of whole days, from the midnight before the birth on.
		want := map[string]url.Values{rig.VastUserPath: {}, rig.VastInstancePath: {}, rig.VastVolumesPath: {}, rig.VastChargesPath: {}}
		for _, name := range []string{charges, "volumes"} {
			for k, v := range c.Cases[name].Request.Query {
				want[c.Cases[name].Request.Path].Set(k, v)
			}
		}
		for _, u := range c.Calls {
			if got := u.Query().Encode(); got != want[u.Path].Encode() {
				t.Errorf("%s: asked %s of %s, want %s", charges, got, u.Path, want[u.Path].Encode())
			}
		}
		if len(c.Calls) != 4 {
			t.Errorf("%s: %d calls, want 4", charges, len(c.Calls))
		}
	}
	f("charges", "instance", begin, "running", true, 46_800_000_000, 1_872_000_000, 62_000_000)
	f("charges_one_minute_later", "instance", begin.Add(time.Minute), "running", true, 46_831_000_000, 1_872_000_000, 62_000_000)
	f("charges_two_entries", "instance", begin.Add(time.Minute), "running", true, 46_831_000_000, 1_872_000_000, 62_000_000)
	f("charges_after_8h_stopped", "instance_stopped", begin.Add(8*time.Hour), "stopped", false, 46_847_000_000, 2_000_000, 62_000_000)
}

// Replies that are well formed, and no good bill of this instance. What is malformed is
// for every adapter alike: TestMalformedText and those beside it.
func TestVastRefuses(t *testing.T) {
	t.Parallel()
	f := func(name, path, call string, class api.Class, h func(c *rig.VastCloud) http.HandlerFunc) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newVastCloud(t)
			c.Reply[path] = h(c)
			s, err := c.Provider(nil).Sample(t.Context(), c.Now())
			var f *api.Failure
			if !errors.As(err, &f) {
				t.Fatalf("%s: err = %v, want a failure", name, err)
			}
			if f.Class != class || f.Call != call {
				t.Errorf("%s: %q in %q (%v), want %q in %q", name, f.Class, f.Call, err, class, call)
			}
			if s.Lines != nil || !s.At.IsZero() {
				t.Errorf("%s: a failed sample holds something: %+v", name, s)
			}
			if strings.Contains(err.Error()+hint.Of(f), rig.Key) {
				t.Errorf("%s: the key is in %q", name, err)
			}
		})
	}
	replay := func(name string) func(*rig.VastCloud) http.HandlerFunc {
		return func(c *rig.VastCloud) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { c.Cases[name].Serve(w) }
		}
	}
	edit := func(path, call, from string) func(name, old, new string, class api.Class) {
		return func(name, old, new string, class api.Class) {
			t.Helper()
			f(name, path, call, class, func(c *rig.VastCloud) http.HandlerFunc { return c.Body(from, old, new) })
		}
	}
	charges := edit(rig.VastChargesPath, rig.VastChargesCall, "charges")
	instance := edit(rig.VastInstancePath, rig.VastInstanceCall, "instance")
	volumes := edit(rig.VastVolumesPath, rig.VastVolumesCall, "volumes")
	user := edit(rig.VastUserPath, rig.VastUserCall, "user")

	// As recorded. A 429 is no JSON.
	for path, call := range map[string]string{rig.VastChargesPath: rig.VastChargesCall, rig.VastInstancePath: rig.VastInstanceCall,
		rig.VastVolumesPath: rig.VastVolumesCall, rig.VastUserPath: rig.VastUserCall} {
		f("soft error", path, call, api.Incomplete, replay("err_soft_200"))
		f("403", path, call, api.HTTP403, replay("err_auth"))
		f("404", path, call, api.HTTP4xx, replay("err_unknown_key"))
		f("429", path, call, api.HTTP429, replay("err_429"))
	}
	f("nothing was charged", rig.VastChargesPath, rig.VastChargesCall, api.Incomplete, replay("charges_empty"))
	f("the volume was not charged", rig.VastChargesPath, rig.VastChargesCall, api.Incomplete, replay("charges_without_volume"))
	f("another listing", rig.VastChargesPath, rig.VastChargesCall, api.Incomplete, replay("instances"))
	f("a listing for one", rig.VastInstancePath, rig.VastInstanceCall, api.Malformed, replay("instances"))

	// Charges that cannot be added up.
	charges("amount of another machine", `"amount":3.14,`, `"amount":"a lot",`, api.Malformed)
	charges("a sum out of range", `"source":"instance-1234567",`, `"source":"instance-12345678","amount":9223372036,"x":`, api.Malformed)

	// Charges of a part, or of something else.
	charges("no source", `"type":"instance","source":"instance-12345678",`, ``, api.Incomplete)
	charges("another instance", `"instance-12345678"`, `"instance-123456789"`, api.Incomplete)
	charges("an empty entry", `"results":[`, `"results":[null,`, api.Incomplete)
	charges("one entry fewer", `"count":4,"total":4`, `"count":5,"total":5`, api.Incomplete)
	charges("a page shorter than it says", `"count":4,`, `"count":5,`, api.Incomplete)
	charges("a whole listing that failed", `"success":true`, `"success":false`, api.Incomplete)
	instance("a whole instance that failed", `"instances":{`, `"success":false,"instances":{`, api.Incomplete)
	charges("other currency in an entry", `"type":"volume",`, `"type":"volume","currency":"EUR",`, api.Currency)
	charges("a token that is none", `"next_token":null`, `"next_token":7`, api.Malformed)

	// An instance that cannot be read.
	instance("another instance", `"id":12345678`, `"id":12345679`, api.Malformed)
	instance("no status at all", `"actual_status":"running","intended_status":"running","cur_state":"running",`, ``, api.Incomplete)
	instance("birth in words", `"start_date":1795600000.0`, `"start_date":"yesterday"`, api.Malformed)
	instance("birth before time", `"start_date":1795600000.0`, `"start_date":-1`, api.Malformed)
	instance("volumes in words", `"volume_info":[`, `"volume_info":"none","other":[`, api.Malformed)
	instance("a volume without id", `[{"id":777,`, `[{`, api.Incomplete)
	instance("a null volume", `"volume_info":[`, `"volume_info":[null,`, api.Incomplete)
	instance("gone", `"instances":{`, `"instances":null,"other":{`, api.Incomplete)
	f("born later", rig.VastInstancePath, "", api.Incomplete, func(c *rig.VastCloud) http.HandlerFunc {
		return c.Body("instance", `"start_date":1795600000.0`, `"start_date":1795690030.0`)
	})

	// A volume whose series nobody knows the start of.
	volumes("attached and not listed", `"id":777,`, `"id":778,`, api.Incomplete)
	volumes("no birth", `"start_date":1795599990.25,`, ``, api.Incomplete)
	volumes("birth before time", `"start_date":1795599990.25`, `"start_date":0`, api.Malformed)

	user("neither balance nor credit", `,"balance":0,"credit":53.138`, ``, api.Incomplete)
}

// What is odd and still a good bill.
func TestVastAccepts(t *testing.T) {
	t.Parallel()
	f := func(name, path, from, old, new string, check func(*testing.T, ledger.Sample)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newVastCloud(t)
			c.Reply[path] = c.Body(from, old, new)
			s, err := c.Provider(nil).Sample(t.Context(), c.Now())
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			check(t, s)
		})
	}
	bill := func(want ledger.Nanos) func(*testing.T, ledger.Sample) {
		return func(t *testing.T, s ledger.Sample) {
			t.Helper()
			if got := *s.Lines[0].Bill; got != want {
				t.Errorf("bill %s, want %s", got, want)
			}
		}
	}
	status := func(want string, running bool) func(*testing.T, ledger.Sample) {
		return func(t *testing.T, s ledger.Sample) {
			t.Helper()
			if l := s.Lines[0]; l.Status != want || l.Running != running {
				t.Errorf("%q counts as running = %v, want %q, %v", l.Status, l.Running, want, running)
			}
		}
	}
	patience := func(wantRate string, want time.Duration) func(*testing.T, ledger.Sample) {
		return func(t *testing.T, s ledger.Sample) {
			t.Helper()
			rate := "unknown"
			if r := s.Lines[0].Rate; r != nil {
				rate = r.String()
			}
			if rate != wantRate || s.Lag != want {
				t.Errorf("rate %s with a lag of %s, want %s with %s", rate, s.Lag, wantRate, want)
			}
		}
	}
	const amount = `"amount":46.8,`
	f("numeric string", rig.VastChargesPath, "charges", amount, `"amount":"46.8",`, bill(46_800_000_000))
	f("exponent", rig.VastChargesPath, "charges", amount, `"amount":4.68e1,`, bill(46_800_000_000))
	f("noise of a float", rig.VastChargesPath, "charges", amount, `"amount":46.800000000000004,`, bill(46_800_000_000))
	f("zero that is said", rig.VastChargesPath, "charges", amount, `"amount":0,`, bill(0))
	f("beyond a float", rig.VastChargesPath, "charges", amount, `"amount":9007199254.740993001,`, bill(9_007_199_254_740_993_001))
	f("currency", rig.VastChargesPath, "charges", `"success":true`, `"success":true,"currency":"usd"`, bill(46_800_000_000))
	f("another machine's refund", rig.VastChargesPath, "charges", `"amount":3.14,`, `"amount":-3.14,`, bill(46_800_000_000))
	f("items of nobody", rig.VastChargesPath, "charges", `"items":[]`, `"items":null`, bill(46_800_000_000))

	words := func(actual, state string) string {
		return `"actual_status":` + actual + `,"intended_status":"running","cur_state":` + state
	}
	was := words(`"running"`, `"running"`)
	for _, c := range []struct {
		actual, state, want string
		running             bool
	}{
		{`"stopped"`, `"stopped"`, "stopped", false},
		{`"exited"`, `"stopped"`, "exited", false},
		{`"offline"`, `"unloaded"`, "offline", false},
		{`null`, `"Stopped"`, "Stopped", false},
		{`"STOPPED"`, `null`, "STOPPED", false},
		{`null`, `"running"`, "running", true},            // being set up, on a GPU that is held
		{`"exited"`, `"running"`, "exited", true},         // the GPU is still held
		{`"running"`, `"stopped"`, "running", true},       // two words that disagree
		{`"frozen"`, `"running"`, "frozen", true},         // paused, at the full price
		{`"unknown"`, `"stopped"`, "unknown", true},       // no heartbeat
		{`"hibernated"`, `"stopped"`, "hibernated", true}, // a word that nobody has seen
		{`"stopped"`, `"scheduling"`, "stopped", true},
	} {
		f(c.actual+" and "+c.state, rig.VastInstancePath, "instance", was, words(c.actual, c.state), status(c.want, c.running))
	}

	const discounted = `"discountedTotalPerHour":1.872`
	f("discount", rig.VastInstancePath, "instance", discounted, `"discountedTotalPerHour":1.5`, patience("1.5", 5*time.Minute))
	f("no discount said", rig.VastInstancePath, "instance", discounted, `"discountedTotalPerHour":null`, patience("1.872", 5*time.Minute))
	f("no prices", rig.VastInstancePath, "instance", `"instance":{`, `"prices":{`, patience("1.872", 5*time.Minute))
	f("no rate at all", rig.VastInstancePath, "instance",
		`,"dph_total":1.872,"storage_cost":0.15,"storage_total_cost":0.002,"is_bid":true,"min_bid":1.31,"instance":{`, `,"prices":{`,
		patience("unknown", 5*time.Minute))
	// Three steps of 0.001 take 9 minutes at 2 cents an hour.
	f("a cheap card", rig.VastInstancePath, "instance", discounted, `"discountedTotalPerHour":0.02`, patience("0.02", 9*time.Minute))
	f("next to nothing", rig.VastInstancePath, "instance", discounted, `"discountedTotalPerHour":0.000000001`, patience("0.000000001", time.Hour))
	f("free", rig.VastInstancePath, "instance", discounted, `"discountedTotalPerHour":0`, patience("0", 5*time.Minute))

	lines := func(want int) func(*testing.T, ledger.Sample) {
		return func(t *testing.T, s ledger.Sample) {
			t.Helper()
			if len(s.Lines) != want {
				t.Errorf("%d lines, want %d", len(s.Lines), want)
			}
		}
	}
	f("no volumes", rig.VastInstancePath, "instance", `"volume_info":[`, `"volume_info":[],"other":[`, lines(1))
	f("null volumes", rig.VastInstancePath, "instance", `"volume_info":[`, `"volume_info":null,"other":[`, lines(1))
	f("one volume twice", rig.VastInstancePath, "instance", `"volume_info":[`, `"volume_info":[{"id":777},`, lines(2))
	f("a volume from the next minute", rig.VastVolumesPath, "volumes", `"start_date":1795599990.25`, `"start_date":1795690030`, lines(1))
}
