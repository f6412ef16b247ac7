package hyperstack_test

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

func TestHyperstackSample(t *testing.T) {
	noon := rig.Time(t, "2026-11-23T12:00:00Z")
	f := func(name, vm, volume string, at, anchor time.Time, wantVM ledger.Nanos, wantRate ledger.Nanos, wantVolume ledger.Nanos) {
		t.Helper()
		c := newCloud(t)
		c.Now = func() time.Time { return at }
		c.VM, c.Volume = vm, volume
		p := c.Provider(func(o *api.Options) { o.History = rig.FixedAnchor(anchor) })
		s, err := p.Sample(t.Context(), at.Add(300*time.Millisecond))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if !s.At.Equal(at) || s.At.Location() != time.UTC {
			t.Errorf("%s: At = %v, want %v", name, s.At, at)
		}
		if s.Provider != "hyperstack" || s.Account != "1234" || s.Currency != "USD" || s.Truth != ledger.TruthResource ||
			s.Step != time.Minute || s.Lag != 5*time.Minute || s.Calibrated {
			t.Errorf("%s: sample = %+v", name, s)
		}
		if len(s.Lines) != 2 {
			t.Fatalf("%s: %d lines, want 2", name, len(s.Lines))
		}
		vmLine, volLine := s.Lines[0], s.Lines[1]
		if vmLine.Resource != "vm-701234" || vmLine.Kind != ledger.Instance || vmLine.Status != "ACTIVE" || !vmLine.Running ||
			!vmLine.Created.Equal(rig.Time(t, "2026-11-22T10:58:31Z")) || vmLine.Epoch != api.Epoch(anchor) {
			t.Errorf("%s: machine = %+v", name, vmLine)
		}
		if volLine.Resource != "volume-45678" || volLine.Kind != ledger.Volume || volLine.Status != "ATTACHED" || !volLine.Running ||
			!volLine.Created.Equal(rig.Time(t, "2026-11-22T10:50:00Z")) || volLine.Epoch != api.Epoch(anchor) {
			t.Errorf("%s: volume = %+v", name, volLine)
		}
		if *vmLine.Bill != wantVM || *vmLine.Rate != wantRate || *volLine.Bill != wantVolume {
			t.Errorf("%s: bills %s, %s at %s; want %s, %s at %s", name, *vmLine.Bill, *volLine.Bill, *vmLine.Rate, wantVM, wantVolume, wantRate)
		}
		if *volLine.Rate != 19_354_800 {
			t.Errorf("%s: volume rate %s", name, *volLine.Rate)
		}
		if !bytes.Equal(vmLine.Raw, c.Cases[vm].Body) || !bytes.Equal(volLine.Raw, c.Cases[volume].Body) {
			t.Errorf("%s: the raw replies are not those that came", name)
		}
		// Both ends of the window are sent, as the recording has them.
		for _, u := range c.Calls {
			if u.Path != rig.HyperstackVMBillPath && u.Path != rig.HyperstackVolumeBillPath {
				continue
			}
			q := u.Query()
			if q.Get("start_date") != anchor.Format("2006-01-02T15:04:05") || q.Get("end_date") != at.Format("2006-01-02T15:04:05") || len(q) != 2 {
				t.Errorf("%s: asked %s", name, u)
			}
		}
	}
	start := rig.Time(t, "2026-11-22T11:00:00Z")
	f("t0", "vm_billing_t0", "volume_billing_t0", noon, start, 62_500_000_000, 2_500_000_000, 483_870_000)
	f("t1", "vm_billing_t1_one_minute_later", "volume_billing_t1", noon.Add(time.Minute), start, 62_541_666_667, 2_500_000_000, 484_192_580)
	f("frozen", "vm_billing_frozen", "volume_billing_t1", noon.Add(20*time.Minute), start, 62_541_666_667, 2_500_000_000, 484_192_580)
	f("hibernated", "vm_billing_after_8h_hibernated", "volume_billing_t1", noon.Add(8*time.Hour+time.Minute), start, 62_619_085_867, 9_677_400, 484_192_580)
	// Parts of usage_time below zero are no business of ours.
	f("noise", "vm_billing_noise", "volume_billing_t0", noon, noon.Add(-3*time.Minute), 15_774_194, 348_387_100, 483_870_000)
	f("two entries", "vm_billing_two_entries", "volume_billing_t1", noon.Add(time.Minute), start, 62_541_666_667, 2_500_000_000, 484_192_580)
}

// Replies that are well formed, and no good bill of this box. What is malformed is for
// every adapter alike: TestMalformedText and those beside it.
func TestHyperstackRefuses(t *testing.T) {
	t.Parallel()
	f := func(name, path string, h func(c *rig.HyperstackCloud) http.HandlerFunc, class api.Class, call string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newCloud(t)
			c.Reply[path] = h(c)
			p := c.Provider(nil)
			s, err := p.Sample(t.Context(), c.Now())
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
			if strings.Contains(err.Error(), rig.Key) {
				t.Errorf("%s: the key is in %q", name, err)
			}
		})
	}
	const (
		getVM      = "GET /core/virtual-machines/{id}"
		getVolume  = "GET /core/volumes/{id}"
		getVMBill  = "GET /billing/billing/history/virtual-machine/{id}"
		getVolBill = "GET /billing/billing/history/volume/{id}"
	)
	vmBill := func(name string, old, new string, class api.Class) {
		t.Helper()
		f(name, rig.HyperstackVMBillPath, func(c *rig.HyperstackCloud) http.HandlerFunc { return c.Body("vm_billing_t0", old, new) }, class, getVMBill)
	}
	machine := func(name string, old, new string, class api.Class) {
		t.Helper()
		f(name, rig.HyperstackVMPath, func(c *rig.HyperstackCloud) http.HandlerFunc { return c.Body("instance", old, new) }, class, getVM)
	}
	replay := func(name string) func(*rig.HyperstackCloud) http.HandlerFunc {
		return func(c *rig.HyperstackCloud) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { c.Cases[name].Serve(w) }
		}
	}

	// As recorded.
	f("validation", rig.HyperstackVMBillPath, replay("err_validation"), api.HTTP4xx, getVMBill)
	f("status false", rig.HyperstackVMBillPath, replay("ok_code_false_status"), api.Incomplete, getVMBill)
	f("status false", rig.HyperstackVMPath, replay("ok_code_false_status"), api.Incomplete, getVM)
	f("status false", rig.HyperstackVolumePath, replay("ok_code_false_status"), api.Incomplete, getVolume)
	f("empty", rig.HyperstackVolumeBillPath, replay("volume_billing_empty"), api.Incomplete, getVolBill)

	// The envelope of another call is not this bill, however much it looks like it.
	f("list for detail", rig.HyperstackVMBillPath, replay("vm_list_page1"), api.Incomplete, getVMBill)
	f("total for detail", rig.HyperstackVMBillPath, replay("org_total"), api.Incomplete, getVMBill)
	f("machine for volume", rig.HyperstackVolumeBillPath, replay("vm_billing_t0"), api.Incomplete, getVolBill)

	// Bills of something else, or of a part.
	vmBill("another machine", `"infrahub_id":701234`, `"infrahub_id":701111`, api.Malformed)
	vmBill("one of two entries", `"total_count":1`, `"total_count":2`, api.Incomplete)
	vmBill("empty entry", `"billing_history":[`, `"billing_history":[null,`, api.Incomplete)
	f("other organisation", rig.HyperstackVolumeBillPath, func(c *rig.HyperstackCloud) http.HandlerFunc {
		return c.Body("volume_billing_t0", `"org_id":1234`, `"org_id":99`)
	}, api.Malformed, getVolBill)

	// A machine that cannot be read, or whose bill is not in its bill.
	machine("contract", `"contract_id":null`, `"contract_id":77`, api.Incomplete)
	machine("unreadable birth", `"created_at":"2026-11-22T10:58:31"`, `"created_at":"yesterday"`, api.Malformed)
	machine("another machine", `"id":701234`, `"id":701111`, api.Malformed)
	machine("attachment without volume", `"volume":{"id":45678,`, `"other":{"id":45678,`, api.Incomplete)
	machine("attachment without status", `"status":"ATTACHED","device"`, `"device"`, api.Incomplete)
}

// What is odd and still a good bill.
func TestHyperstackAccepts(t *testing.T) {
	t.Parallel()
	f := func(name, path, from, old, new string, check func(*testing.T, ledger.Sample)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newCloud(t)
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
	running := func(want bool) func(*testing.T, ledger.Sample) {
		return func(t *testing.T, s ledger.Sample) {
			t.Helper()
			if s.Lines[0].Running != want {
				t.Errorf("%s counts as running = %v", s.Lines[0].Status, s.Lines[0].Running)
			}
		}
	}
	lines := func(want int) func(*testing.T, ledger.Sample) {
		return func(t *testing.T, s ledger.Sample) {
			t.Helper()
			if len(s.Lines) != want {
				t.Errorf("%d lines, want %d", len(s.Lines), want)
			}
		}
	}
	const amount = `"incurred_bill":62.5`
	f("numeric string", rig.HyperstackVMBillPath, "vm_billing_t0", amount, `"incurred_bill":"62.5"`, bill(62_500_000_000))
	f("exponent", rig.HyperstackVMBillPath, "vm_billing_t0", amount, `"incurred_bill":6.25e1`, bill(62_500_000_000))
	f("noise below a nano", rig.HyperstackVMBillPath, "vm_billing_t0", amount, `"incurred_bill":-1.2e-11`, bill(0))
	f("zero that is said", rig.HyperstackVMBillPath, "vm_billing_t0", amount, `"incurred_bill":0`, bill(0))
	f("beyond a float", rig.HyperstackVMBillPath, "vm_billing_t0", amount, `"incurred_bill":9007199254.740993001`, bill(9_007_199_254_740_993_001))
	f("good answer with status false", rig.HyperstackVMBillPath, "vm_billing_t0", `"status":true`, `"status":false`, bill(62_500_000_000))
	f("currency", rig.HyperstackVMBillPath, "vm_billing_t0", `"org_id":1234`, `"org_id":1234,"currency":"usd"`, bill(62_500_000_000))
	f("no rate", rig.HyperstackVMBillPath, "vm_billing_t0", `"price_per_hour":2.5,"non`, `"non`, func(t *testing.T, s ledger.Sample) {
		if s.Lines[0].Rate != nil {
			t.Errorf("rate %s, want unknown", *s.Lines[0].Rate)
		}
	})
	f("two rates", rig.HyperstackVMBillPath, "vm_billing_two_entries", `1.4799118041992184e-11,"price_per_hour":2.5`, `1.4799118041992184e-11,"price_per_hour":2.6`, func(t *testing.T, s ledger.Sample) {
		if s.Lines[0].Rate != nil {
			t.Errorf("rate %s, want unknown", *s.Lines[0].Rate)
		}
	})
	f("lower case", rig.HyperstackVMPath, "instance", `"status":"ACTIVE"`, `"status":"active"`, running(true))
	f("off, at the full price", rig.HyperstackVMPath, "instance", `"status":"ACTIVE"`, `"status":"SHUTOFF"`, running(true))
	f("unknown word", rig.HyperstackVMPath, "instance", `"status":"ACTIVE"`, `"status":"RESCUED"`, running(true))
	f("hibernated", rig.HyperstackVMPath, "instance", `"status":"ACTIVE"`, `"status":"Hibernated"`, running(false))
	f("detached", rig.HyperstackVMPath, "instance", `"status":"ATTACHED"`, `"status":"detached"`, lines(1))
	f("unknown attachment", rig.HyperstackVMPath, "instance", `"status":"ATTACHED"`, `"status":"IN-USE"`, lines(2))
	f("zone in a date", rig.HyperstackVMPath, "instance", `"created_at":"2026-11-22T10:58:31"`, `"created_at":"1999-12-31T23:30:00.5+01:00"`, func(t *testing.T, s ledger.Sample) {
		if got := s.Lines[0].Created; !got.Equal(rig.Time(t, "1999-12-31T22:30:00.5Z")) || got.Location() != time.UTC {
			t.Errorf("created %v", got)
		}
	})
}

func TestHyperstackClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		p := c.Provider(nil)
		now := c.Now()
		if _, err := p.Sample(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		var f *api.Failure
		if _, err := p.Sample(t.Context(), now.Add(400*time.Millisecond)); !errors.As(err, &f) || f.Class != api.ClockSkew {
			t.Errorf("second sample of one second: %v", err)
		}
		if _, err := p.Sample(t.Context(), now.Add(-30*time.Second)); !errors.As(err, &f) || f.Class != api.ClockSkew {
			t.Errorf("sample with the clock set back: %v", err)
		}
		if _, err := p.Sample(t.Context(), now.Add(time.Second)); err != nil {
			t.Errorf("sample a second later: %v", err)
		}
	})
}

func TestHyperstackBoundary(t *testing.T) {
	c := newCloud(t)
	now := rig.Time(t, "2026-11-23T12:00:00Z")
	c.Now = func() time.Time { return now }
	b, ok := c.Provider(nil).(api.Boundary)
	if !ok {
		t.Fatal("hyperstack can be asked for the past")
	}
	midnight := rig.Time(t, "2026-11-23T00:00:00Z")
	s, err := b.SampleAt(t.Context(), midnight, now)
	if err != nil {
		t.Fatal(err)
	}
	if !s.At.Equal(midnight) || len(s.Lines) != 2 {
		t.Errorf("sample = %+v", s)
	}
	for _, l := range s.Lines {
		if l.Rate != nil || l.Status != "" || l.Running || l.Bill == nil {
			t.Errorf("%s knows of then what is known of now: %+v", l.Resource, l)
		}
	}
	for _, u := range c.Calls {
		if u.Path == rig.HyperstackVMBillPath && u.Query().Get("end_date") != "2026-11-23T00:00:00" {
			t.Errorf("asked %s", u)
		}
	}
	// Attached at 11:00:40 on the day before; the machine is from 10:58:31.
	if s, err := b.SampleAt(t.Context(), rig.Time(t, "2026-11-22T10:59:00Z"), now); err != nil || len(s.Lines) != 1 {
		t.Errorf("before the volume came: %v, %d lines", err, len(s.Lines))
	}
	if _, err := b.SampleAt(t.Context(), rig.Time(t, "2026-11-22T10:00:00Z"), now); err == nil {
		t.Error("a bill from before the machine's birth")
	}
	if _, err := b.SampleAt(t.Context(), now.Add(time.Hour), now); err == nil {
		t.Error("a bill from the future")
	}
}

// The machine is found once, the volume's birth is asked once: a sample is four
// calls from then on.
func TestHyperstackCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		p := c.Provider(nil)
		for range 3 {
			if _, err := p.Sample(t.Context(), c.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if got := len(c.Calls); got != 1+3*4 {
			t.Errorf("%d calls, want 13: %v", got, c.Calls)
		}
	})
}
