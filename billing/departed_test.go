package billing_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/ledger"
)

// sampledBox is one box, its ledger and its adapter, sampled once a minute.
type sampledBox struct {
	t        *testing.T
	dir      string
	provider string
	cloud    *sim.Sim
	handler  http.Handler
	led      *ledger.Ledger
	p        api.Provider
}

func newSampledBox(t *testing.T, dir, provider string, cfg sim.Config) *sampledBox {
	t.Helper()
	cfg.Key = rig.Key
	cloud, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &sampledBox{t: t, dir: dir, provider: provider, cloud: cloud, handler: cloud.Handler(), led: newLedger(t, dir)}
	d.p = rig.Over(t, opens(provider), provider, d, &billing.LedgerHistory{Ledger: d.led.Reader})
	return d
}

func (d *sampledBox) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.handler.ServeHTTP(w, r) }

func (d *sampledBox) restart() {
	d.t.Helper()
	d.led.Close()
	d.led = newLedger(d.t, d.dir)
	d.p = rig.Over(d.t, opens(d.provider), d.provider, d, &billing.LedgerHistory{Ledger: d.led.Reader})
}

// poll takes and stores a sample, and returns the status of a resource in it, "" for
// one that is missing and "there" for one without.
func (d *sampledBox) poll(resource string) string {
	d.t.Helper()
	s, err := d.p.Sample(d.t.Context(), time.Now())
	if err != nil {
		d.t.Fatalf("%s: %v", d.provider, err)
	}
	s.Every = time.Minute
	if _, err := d.led.AddSample(d.t.Context(), s); err != nil {
		d.t.Fatal(err)
	}
	for _, l := range s.Lines {
		if l.Resource == resource {
			if (l.Status == ledger.StatusGone || l.Status == ledger.StatusClosed) && (l.Running || l.Rate != nil) {
				d.t.Errorf("%s: what is gone runs: %+v", d.provider, l)
			}
			return cmp.Or(l.Status, "there")
		}
	}
	return ""
}

// minutes polls so often and returns the states, each once.
func (d *sampledBox) minutes(n int, resource string) string {
	d.t.Helper()
	var seen []string
	for range n {
		time.Sleep(time.Minute)
		seen = append(seen, d.poll(resource))
	}
	return strings.Join(slices.Compact(seen), " ")
}

// spent holds the ledger against the books: all of it, with these flags.
func (d *sampledBox) spent(what string, flags ...string) {
	d.t.Helper()
	first, _, err := d.led.SampleAfter(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		d.t.Fatal(err)
	}
	got, err := d.led.Spent(first, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	books := d.cloud.Books(got.From.At, got.To.At)
	unit := 2 * cumulative[d.provider].unit
	if diff := got.Net - ledger.Nanos(books.Nanos); flags == nil && (diff > unit || diff < -unit) {
		d.t.Errorf("%s, %s: spent %s, the books say %s", d.provider, what, got.Net, books.Spend)
	}
	if want := append(flags, ledger.FlagUncalibrated); !slices.Equal(slices.DeleteFunc(got.Flags, func(f string) bool { return f == ledger.FlagGaps }), want) {
		d.t.Errorf("%s, %s: flags %v, want %v", d.provider, what, got.Flags, want)
	}
}

// key is what the simulator calls what an adapter names.
func key(i int) string { return []string{"vm-701234", "volume-45678"}[i] }

// Row 10 of the pitfalls: a deleted resource leaves the list. What it cost between its
// last sample and its end is in the ledger, its line says that it is gone, and it is
// closed when its bill has not moved for the lag; also over a restart.
func TestPitfall10DeletedResource(t *testing.T) {
	f := func(provider string, which int, restart bool) {
		t.Helper()
		inBubble(t, fmt.Sprintf("%s/%s/restart=%v", provider, key(which), restart), func(t *testing.T, dir string) {
			time.Sleep(10*time.Hour + 123*time.Millisecond)
			cfg := sim.Config{}
			if which == 0 {
				cfg.Volumes = []sim.Volume{} // they would be left behind, and cost on
			}
			d := newSampledBox(t, dir, provider, cfg)
			defer func() { d.led.Close() }()
			name := cumulative[provider].names[which]
			if got := d.minutes(20, name); strings.Contains(got, " ") || got == "" {
				t.Errorf("%s: %s is %q", provider, name, got)
			}
			time.Sleep(40 * time.Second)
			if err := d.cloud.Delete(key(which)); err != nil {
				t.Fatal(err)
			}
			if restart {
				d.restart()
			}
			if got := d.minutes(2, name); got != "gone" {
				t.Errorf("%s: deleted, %s is %q", provider, name, got)
			}
			if restart {
				d.restart()
			}
			lag := 5
			if provider == "runpod" {
				lag = 15
			}
			if got := d.minutes(lag-3, name); got != "gone" {
				t.Errorf("%s: within the lag, %s is %q", provider, name, got)
			}
			d.spent("while its bill may settle")
			if which == 0 { // nothing is left, and a sample of nothing is none
				for !strings.Contains(d.minutes(1, name), "closed") {
				}
				time.Sleep(time.Minute)
				_, err := d.p.Sample(t.Context(), time.Now())
				rig.WantClass(t, err, api.HTTP4xx)
			} else if got := d.minutes(6, name); got != "gone closed " {
				t.Errorf("%s: in the end, %s is %q", provider, name, got)
			}
			d.spent("closed")
		})
	}
	for provider := range cumulative {
		for which := range 2 {
			f(provider, which, false)
			f(provider, which, true)
		}
	}
}

// A bill that settles late is followed until it has.
func TestGoneBillSettles(t *testing.T) {
	t.Parallel()
	dir := rig.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		d := newSampledBox(t, dir, "hyperstack", sim.Config{})
		defer func() { d.led.Close() }()
		d.minutes(5, "volume-45678")
		d.cloud.SetFault(sim.Fault{Mode: sim.Frozen})
		time.Sleep(30 * time.Second)
		d.cloud.Delete("volume-45678")
		if got := d.minutes(4, "volume-45678"); got != "gone" {
			t.Errorf("its bill stands still: %q", got)
		}
		d.cloud.SetFault(sim.Fault{})
		if got := d.minutes(5, "volume-45678"); got != "gone" {
			t.Errorf("its bill moved: %q", got)
		}
		if got := d.minutes(2, "volume-45678"); got != "closed " {
			t.Errorf("its bill settled: %q", got)
		}
		d.spent("settled")
	})
}

// A volume that was taken off the machine costs on, which is not this box's: it is read
// once. Put back on, its bill goes on where it was.
func TestDetachedVolume(t *testing.T) {
	for provider := range cumulative {
		inBubble(t, provider, func(t *testing.T, dir string) {
			d := newSampledBox(t, dir, provider, sim.Config{})
			defer func() { d.led.Close() }()
			name := cumulative[provider].names[1]
			d.minutes(10, name)
			time.Sleep(30 * time.Second)
			d.cloud.Detach(key(1))
			if got := d.minutes(1, name); got != "closed" {
				t.Errorf("%s: detached, %s is %q", provider, name, got)
			}
			d.spent("detached")
			if got := d.minutes(3, name); got != "" {
				t.Errorf("%s: closed, %s is %q", provider, name, got)
			}
		})
	}
}

// Where the last bill cannot be had the sample goes on without it, and the ledger says
// that it is gone; a later poll tries again.
func TestGoneWithoutItsLastBill(t *testing.T) {
	f := func(name, path string, refuse int, want string, flags ...string) {
		t.Helper()
		inBubble(t, name, func(t *testing.T, dir string) {
			d := newSampledBox(t, dir, "hyperstack", sim.Config{})
			defer func() { d.led.Close() }()
			d.minutes(5, "volume-45678")
			time.Sleep(30 * time.Second)
			d.cloud.Delete("volume-45678")
			refused := 0
			d.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, path) && refused < refuse {
					refused++
					rig.Recorded{Status: 404, Body: []byte(`{"error_reason":"not_found"}`)}.Serve(w)
					return
				}
				d.cloud.Handler().ServeHTTP(w, r)
			})
			if got := d.minutes(12, "volume-45678"); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
			d.spent(name, flags...)
		})
	}
	const bill = "history/volume/45678"
	f("never", bill, 1000, "", ledger.FlagGone)
	f("at the third poll", bill, 2, " gone closed ")
	f("the listing of what was deleted is of no use", "billing/usage", 1000, "gone closed ")

	// A ledger that cannot be asked is no reason to forget.
	p := newCloud(t).Provider(func(o *api.Options) { o.History = silent{} })
	_, err := p.Sample(t.Context(), rig.November()())
	var failure *api.Failure
	if !errors.As(err, &failure) || failure.Class != api.Internal {
		t.Errorf("a ledger that does not answer: %v", err)
	}
}

type silent struct{}

func (silent) Newest(string) (string, *ledger.Nanos, bool) { return "", nil, false }
func (silent) Open(string) ([]string, error)               { return nil, errors.New("no ledger") }

// Row 9: a machine that was made anew has another id. The old one's last minutes are in
// the ledger all the same, and its series is not carried on under the new id.
func TestPitfall09RecreatedResource(t *testing.T) {
	t.Parallel()
	dir := rig.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10 * time.Hour)
		old := newSampledBox(t, dir, "hyperstack", sim.Config{Volumes: []sim.Volume{}})
		old.minutes(5, "vm-701234")
		time.Sleep(30 * time.Second)
		old.cloud.Delete("vm-701234")
		old.led.Close()
		time.Sleep(20 * time.Minute)

		anew, err := sim.New(sim.Config{Key: rig.Key, Volumes: []sim.Volume{}, VM: sim.VM{ID: 701235}})
		if err != nil {
			t.Fatal(err)
		}
		led := newLedger(t, dir)
		defer led.Close()
		p, err := billing.New("hyperstack", api.Options{
			URL: "https://sim.test/v1", Instance: "701235", History: &billing.LedgerHistory{Ledger: led.Reader}, Getenv: rig.AccountOf("hyperstack").Getenv,
			Transport: rig.Direct{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/701234") || strings.Contains(r.URL.RawQuery, "deleted") {
					old.cloud.Handler().ServeHTTP(w, r)
					return
				}
				anew.Handler().ServeHTTP(w, r)
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			time.Sleep(time.Minute)
			s, err := p.Sample(t.Context(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := led.AddSample(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		first, _, _ := led.SampleAfter(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC))
		got, err := led.Spent(first, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		want := ledger.Nanos(old.cloud.Books(got.From.At, got.To.At).Nanos + anew.Books(got.From.At, got.To.At).Nanos)
		if got.Net != want || len(got.Resources) != 2 || slices.Contains(got.Flags, ledger.FlagGone) {
			t.Errorf("spent %s, the books of both say %s; flags %v, %+v", got.Net, want, got.Flags, got.Resources)
		}
	})
}

// A machine's whole life: it runs, sleeps at the price of its disk, has a snapshot made
// and deleted, and runs again. The ledger says what the books say.
func TestHyperstackWholeLife(t *testing.T) {
	t.Parallel()
	dir := rig.MemoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10 * time.Hour)
		d := newSampledBox(t, dir, "hyperstack", sim.Config{Snapshots: []sim.Snapshot{{ID: 31, RatePerHour: 7_200_000}}})
		defer func() { d.led.Close() }()
		if got := d.minutes(5, "vm-701234"); got != "ACTIVE" {
			t.Errorf("awake: %q", got)
		}
		d.cloud.SetStatus("HIBERNATED")
		if got := d.minutes(5, "vm-701234"); got != "HIBERNATED" {
			t.Errorf("asleep: %q", got)
		}
		time.Sleep(8 * time.Hour)
		if got := d.minutes(1, "snapshot-31"); got != "SUCCESS" {
			t.Errorf("snapshot: %q", got)
		}
		d.cloud.SetStatus("ACTIVE")
		time.Sleep(20 * time.Second)
		d.cloud.Delete("snapshot-31")
		if got := d.minutes(10, "snapshot-31"); got != "gone closed " {
			t.Errorf("deleted snapshot: %q", got)
		}
		d.spent("a whole life")
	})
}
