package billing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
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

// purse is a balance reader that says what the test says.
type purse struct {
	looks []time.Time
	tell  func(n int, now time.Time) (api.Balances, error)
}

func (p *purse) Balances(_ context.Context, now time.Time) (api.Balances, error) {
	p.looks = append(p.looks, now)
	return p.tell(len(p.looks), now)
}

// watched is what a BalanceMonitor told.
type watched struct {
	residuals []ledger.Residual
	funds     []billing.Funds
	log       bytes.Buffer
}

// watching samples p for d of fake time with w looking on; during may be nil.
func watching(t *testing.T, p api.Provider, w api.BalanceReader, low *ledger.Nanos, d time.Duration, during func()) (*watched, *rig.Memory) {
	t.Helper()
	told, st := &watched{}, &rig.Memory{}
	log := slog.New(slog.NewTextHandler(&told.log, nil))
	monitor, err := billing.NewBalanceMonitor(billing.BalanceConfig{Reader: w, Low: low, Log: log,
		OnResidual: func(r ledger.Residual) { told.residuals = append(told.residuals, r) },
		OnFunds:    func(f billing.Funds) { told.funds = append(told.funds, f) }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st, Log: log, Balance: monitor})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	if during != nil {
		during()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	return told, st
}

// door stands before a simulated cloud, and may answer in its place.
type door struct {
	cloud  http.Handler
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.answer == nil || !d.answer(w, r) {
		d.cloud.ServeHTTP(w, r)
	}
}

// clouds are the simulated accounts, each by its provider's API.
func clouds(t *testing.T, f func(t *testing.T, cloud *sim.Sim, p api.Provider)) {
	doors(t, func(t *testing.T, cloud *sim.Sim, _ *door, p api.Provider) { f(t, cloud, p) })
}

func doors(t *testing.T, f func(t *testing.T, cloud *sim.Sim, d *door, p api.Provider)) {
	config := sim.Config{Key: rig.Key, Volumes: []sim.Volume{}, Credit: 65_000_000_000}
	for _, name := range sim.Providers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(10*time.Hour + 17*time.Second)
				cloud, err := sim.New(config)
				if err != nil {
					t.Fatal(err)
				}
				d := &door{cloud: cloud.Handler()}
				f(t, cloud, d, rig.Over(t, opens(name), name, d, nil))
			})
		})
	}
}

// Something on the account that no line of the bill names: the account pays more than
// the machine is billed. Where the bill is the account's, it is in the bill.
func TestPitfall11Residual(t *testing.T) {
	clouds(t, func(t *testing.T, cloud *sim.Sim, p api.Provider) {
		w := p.(api.BalanceReader)
		var began time.Time
		told, st := watching(t, p, w, nil, 5*time.Hour, func() {
			time.Sleep(2 * time.Hour)
			cloud.SetOther(3_600_000_000)
			began = time.Now()
		})
		if p.Name() == "verda" {
			if len(told.residuals) != 0 {
				t.Errorf("residuals of an account's bill: %+v", told.residuals)
			}
			return
		}
		if len(told.residuals) < 2 {
			t.Fatalf("residuals %+v", told.residuals)
		}
		var missing ledger.Nanos
		for _, r := range told.residuals {
			if !r.To.After(began) || r.Paid <= r.Billed || r.Currency != "USD" || !r.From.Before(r.To) {
				t.Errorf("residual %+v, something else runs since %v", r, began)
			}
			missing += r.Paid - r.Billed
		}
		// Never more than it truly costs.
		if most := ledger.Nanos(3 * 3_600_000_000); missing > most {
			t.Errorf("missing %s, it cost no more than %s", missing, most)
		}
		if n := strings.Count(told.log.String(), "pays for more than is sampled"); n != 1 {
			t.Errorf("said %d times:\n%s", n, told.log.String())
		}
		// It is no figure of the bill's.
		first, last := st.Samples[0], st.Samples[len(st.Samples)-1]
		books := cloud.Books(first.At, last.At)
		if got := rig.Spent(t, first, last); max(got-ledger.Nanos(books.Nanos), ledger.Nanos(books.Nanos)-got) > 1_000_000 { // Vast.ai rounds
			t.Errorf("spent %s, the books say %s", got, books.Spend)
		}
	})
}

// Hours in which the account pays for what is sampled and nothing else, with top-ups,
// refunds, dark minutes and a machine that stops, show no residual.
func TestNoResidualWithoutCause(t *testing.T) {
	clouds(t, func(t *testing.T, cloud *sim.Sim, p api.Provider) {
		fault := func(f sim.Fault) {
			if err := cloud.SetFault(f); err != nil {
				t.Error(err)
			}
		}
		told, _ := watching(t, p, p.(api.BalanceReader), nil, 9*time.Hour, func() {
			time.Sleep(67 * time.Minute)
			cloud.TopUp(40_000_000_000)
			time.Sleep(time.Hour)
			cloud.TopUp(50_000_000) // hides in a fall
			time.Sleep(time.Hour)
			fault(sim.Fault{Mode: sim.Refund, Nanos: 700_000_000})
			time.Sleep(time.Hour)
			fault(sim.Fault{Mode: sim.ServerError})
			time.Sleep(45 * time.Minute)
			fault(sim.Fault{})
			time.Sleep(time.Hour)
			cloud.SetStatus("HIBERNATED")
			time.Sleep(time.Hour)
			cloud.SetStatus("ACTIVE")
		})
		if len(told.residuals) != 0 {
			t.Errorf("residuals %+v", told.residuals)
		}
		if len(told.funds) < 80 {
			t.Errorf("%d looks at the balance", len(told.funds))
		}
	})
}

// A bill and a balance may each be late, by a step and a lag, and become so or catch up
// meanwhile: what that alone makes of them is no residual, and hides none that grows.
func TestResidualSlack(t *testing.T) {
	t.Parallel()
	const change = 70 * time.Minute // when what is late changes
	punctual := func(time.Duration) time.Duration { return 0 }
	falls := func(late time.Duration) func(time.Duration) time.Duration { // behind, from change on
		return func(age time.Duration) time.Duration { return min(max(age-change, 0), late) }
	}
	rises := func(late time.Duration) func(time.Duration) time.Duration { // catches up at change
		return func(age time.Duration) time.Duration {
			if age < change {
				return late
			}
			return 0
		}
	}
	f := func(name string, billLate, leftLate func(time.Duration) time.Duration, step, lag time.Duration, other ledger.Nanos, want bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(12 * time.Hour)
			start := time.Now()
			// 1 a second, and other more on the account.
			cost := func(perSecond ledger.Nanos, late func(time.Duration) time.Duration) ledger.Nanos {
				age := time.Since(start)
				return perSecond * ledger.Nanos((age-late(age)).Truncate(step)/time.Second)
			}
			const perSecond = 1_000_000_000
			p := &script{t: t, poll: func(_ context.Context, _ int, now time.Time) (ledger.Sample, error) {
				s := good(now)
				s.Step, s.Lag = step, lag
				s.Lines[0].Bill = nano(1_000_000_000_000 + cost(perSecond, billLate))
				return s, nil
			}}
			w := &purse{tell: func(int, time.Time) (api.Balances, error) {
				return api.Balances{Balance: nano(0), Credit: nano(-cost(perSecond+other, leftLate))}, nil
			}}
			told, _ := watching(t, p, w, nil, 4*time.Hour, nil)
			if got := len(told.residuals) > 0; got != want {
				t.Errorf("%s, %s more a second: residuals %+v", name, other, told.residuals)
			}
		})
	}
	f("punctual", punctual, punctual, time.Minute, 5*time.Minute, 0, false)
	f("bill falls behind", falls(5*time.Minute), punctual, time.Minute, 5*time.Minute, 0, false)
	f("balance catches up", punctual, rises(5*time.Minute), time.Minute, 5*time.Minute, 0, false)
	f("both", falls(15*time.Minute), rises(15*time.Minute), 5*time.Minute, 15*time.Minute, 0, false)
	f("bill falls behind", falls(5*time.Minute), punctual, time.Minute, 5*time.Minute, 200_000_000, true)
	f("balance catches up", punctual, rises(5*time.Minute), time.Minute, 5*time.Minute, 200_000_000, true)
	f("further behind than its lag", falls(30*time.Minute), punctual, time.Minute, 5*time.Minute, 0, true)
	f("less is paid", punctual, punctual, time.Minute, 5*time.Minute, -200_000_000, false) // not ours to say
}

// Roundings are no residual, however long they are looked at.
func TestResidualFloor(t *testing.T) {
	t.Parallel()
	f := func(each ledger.Nanos, d time.Duration, want bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			w := &purse{tell: func(n int, _ time.Time) (api.Balances, error) {
				return api.Balances{Credit: nano(5_000_000_000 - each*ledger.Nanos(n))}, nil
			}}
			if told, _ := watching(t, &script{t: t}, w, nil, d, nil); (len(told.residuals) > 0) != want {
				t.Errorf("%s a look, for %s: %+v", each, d, told.residuals)
			}
		})
	}
	f(900_000, time.Hour-time.Second, false) // 12 looks
	f(1_100_000, time.Hour-time.Second, true)
	f(4_000, 16*24*time.Hour, false) // 288 looks a day: 0.0081 a week
}

// What begins the comparison anew, so that no span with it is judged. Without it the
// same history shows a residual.
func TestResidualBeginsAnew(t *testing.T) {
	t.Parallel()
	type world struct {
		minute int
		lines  []ledger.Line
		has    api.Balances
	}
	f := func(name string, want bool, at10 func(w *world)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(12 * time.Hour)
			start := time.Now()
			see := func() *world {
				m := int(time.Since(start) / time.Minute)
				// At minute 12 the account pays 50 for something that is not sampled.
				left := ledger.Nanos(1_000_000_000_000 - int64(m)*1_000_000_000)
				if m >= 12 {
					left -= 50_000_000_000
				}
				w := &world{minute: m, has: api.Balances{Account: "7", Credit: &left},
					lines: []ledger.Line{{Resource: "vm-1", Kind: ledger.Instance, Bill: nano(ledger.Nanos(m) * 1_000_000_000), Epoch: "e"}}}
				at10(w)
				return w
			}
			p := &script{t: t, poll: func(_ context.Context, _ int, now time.Time) (ledger.Sample, error) {
				s := good(now)
				s.Step, s.Lag, s.Lines = time.Minute, time.Minute, see().lines
				return s, nil
			}}
			told, _ := watching(t, p, &purse{tell: func(int, time.Time) (api.Balances, error) { return see().has, nil }}, nil, 40*time.Minute, nil)
			if got := len(told.residuals) > 0; got != want {
				t.Errorf("%s: residuals %+v", name, told.residuals)
			}
		})
	}
	f("nothing", true, func(*world) {})
	f("noise", true, func(w *world) {
		if w.minute == 13 {
			*w.lines[0].Bill = 12_000_000_000 - 900
		}
	})
	f("top-up", false, func(w *world) {
		if w.minute >= 12 {
			*w.has.Credit += 70_000_000_000
		}
	})
	f("another volume", false, func(w *world) {
		if w.minute >= 13 {
			w.lines = append(w.lines, ledger.Line{Resource: "volume-2", Kind: ledger.Volume, Bill: nano(5), Epoch: "e"})
		}
	})
	f("another epoch", false, func(w *world) {
		if w.minute >= 13 {
			w.lines[0].Epoch = "f"
		}
	})
	f("a bill that fell", false, func(w *world) {
		if w.minute >= 13 {
			*w.lines[0].Bill -= 2_000_000_000
		}
	})
	f("another account", false, func(w *world) {
		if w.minute >= 12 {
			w.has.Account = "8"
		}
	})
	f("a word that is gone", false, func(w *world) {
		if w.minute < 12 {
			w.has.Balance = nano(0)
		}
	})
	f("two words that do not agree", false, func(w *world) { w.has.Balance = nano(-ledger.Nanos(w.minute)) })
	f("two words that do", true, func(w *world) { w.has.Balance = nano(*w.has.Credit - 3) })
}

// The warning comes once, before the money ends, and is over after a top-up.
func TestPitfall25LowBalance(t *testing.T) {
	clouds(t, func(t *testing.T, cloud *sim.Sim, p api.Provider) {
		// 2.52 an hour: a day costs 60.48, which is what is left after 1.8 hours.
		start := time.Now()
		told, st := watching(t, p, p.(api.BalanceReader), nil, 4*time.Hour, func() {
			time.Sleep(3 * time.Hour)
			cloud.TopUp(2_000_000_000) // 59.4: still low
			time.Sleep(20 * time.Minute)
			cloud.TopUp(10_000_000_000) // 68.6: above, but not by a quarter
			time.Sleep(20 * time.Minute)
			cloud.TopUp(100_000_000_000)
		})
		var turns []string
		for i, f := range told.funds {
			if f.Threshold != 60_480_000_000 || f.Currency != "USD" {
				t.Fatalf("look %d: %+v", i, f)
			}
			if f.Turned {
				turns = append(turns, fmt.Sprintf("%v at %s", f.Low, f.Left))
			}
		}
		if len(turns) != 2 || !strings.HasPrefix(turns[0], "true at 60.") || !strings.HasPrefix(turns[1], "false at 16") {
			t.Errorf("turns %q", turns)
		}
		if n := strings.Count(told.log.String(), "balance is low"); n != 1 {
			t.Errorf("said %d times:\n%s", n, told.log.String())
		}
		if len(st.Failures) != 0 || len(st.Samples) < 240 {
			t.Errorf("%d samples and failures %+v in %s", len(st.Samples), st.Failures, time.Since(start))
		}
	})
}

// With a threshold of one's own, no rate is asked for.
func TestLowBalanceThreshold(t *testing.T) {
	f := func(low ledger.Nanos, left []ledger.Nanos, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			w := &purse{tell: func(n int, _ time.Time) (api.Balances, error) {
				return api.Balances{Credit: &left[min(n, len(left))-1]}, nil
			}}
			told, _ := watching(t, &script{t: t}, w, &low, time.Duration(len(left)-1)*5*time.Minute+time.Second, nil)
			var got strings.Builder
			for _, f := range told.funds {
				fmt.Fprint(&got, map[bool]string{true: "L", false: "-"}[f.Low])
			}
			if got.String() != want {
				t.Errorf("low below %s, left %v: %s, want %s", low, left, got.String(), want)
			}
		})
	}
	f(100, []ledger.Nanos{101, 100, 99, 100, 124, 125, 99, 200}, "--LLL-L-")
	f(0, []ledger.Nanos{1, 0, -1, 0}, "--L-")
}

// Without a rate there is no threshold, and nothing is said.
func TestLowBalanceUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &purse{tell: func(int, time.Time) (api.Balances, error) { return api.Balances{Balance: nano(-5)}, nil }}
		told, st := watching(t, &script{t: t}, w, nil, time.Hour-time.Second, nil)
		if len(told.funds) != 0 || told.log.Len() != 0 || len(st.Samples) != 60 {
			t.Errorf("%+v, %d samples\n%s", told.funds, len(st.Samples), told.log.String())
		}
	})
}

// A balance that cannot be seen fails no sample, delays none, and is told once.
func TestBlindWitness(t *testing.T) {
	f := func(tell func(n int, now time.Time) (api.Balances, error), looks string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			w := &purse{tell: tell}
			p := &script{t: t}
			told, st := watching(t, p, w, nano(1), 20*time.Minute+time.Second, nil)
			if len(st.Samples) != 21 || len(st.Failures) != 0 || len(told.funds) != 0 {
				t.Errorf("%d samples, %d failures, %d looks", len(st.Samples), len(st.Failures), len(told.funds))
			}
			if n := strings.Count(told.log.String(), "\n"); n != 1 || !strings.Contains(told.log.String(), "balance cannot be read") {
				t.Errorf("log:\n%s", told.log.String())
			}
			if got := clocks(w.looks); got != looks {
				t.Errorf("looked at %s, want %s", got, looks)
			}
		})
	}
	f(func(int, time.Time) (api.Balances, error) { return api.Balances{}, errors.New("no") },
		"00:00:00 00:05:00 00:10:00 00:15:00 00:20:00")
	f(func(n int, _ time.Time) (api.Balances, error) {
		return api.Balances{}, &api.Failure{Class: api.HTTP429, RetryAfter: 12 * time.Minute, Err: errors.New("later")}
	}, "00:00:00 00:12:00")
}

// hanging is a balance reader that does not answer.
type hanging struct{}

func (hanging) Balances(ctx context.Context, _ time.Time) (api.Balances, error) {
	<-ctx.Done()
	return api.Balances{}, ctx.Err()
}

// A look that hangs is over before the next sample is due.
func TestWitnessDelaysNoSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{t: t}
		var log bytes.Buffer
		monitor, err := billing.NewBalanceMonitor(billing.BalanceConfig{Reader: hanging{}, Every: 2 * time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		run(t, billing.SamplerConfig{Provider: p, Store: &rig.Memory{}, Every: 5 * time.Second, Balance: monitor}, 20*time.Second+time.Second/4)
		if got, want := clocks(p.polls), "00:00:00 00:00:05 00:00:10 00:00:15 00:00:20"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
		if strings.Count(log.String(), "class=timeout") != 1 {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

// A poll that fails is followed by no look: the provider may have asked for peace.
func TestNoLookAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &purse{tell: func(int, time.Time) (api.Balances, error) { return api.Balances{Balance: nano(5)}, nil }}
		p := &script{t: t, poll: func(_ context.Context, n int, now time.Time) (ledger.Sample, error) {
			return ledger.Sample{}, errors.New("no")
		}}
		if watching(t, p, w, nil, 10*time.Minute, nil); len(w.looks) != 0 {
			t.Errorf("looked at %v", w.looks)
		}
	})
}

// What the replies must hold to be a balance.
func TestBalances(t *testing.T) {
	const creditPath, graphql = "/v1/billing/user-credit/credit", "/graphql"
	hyperstack := func(h http.HandlerFunc) (api.Balances, error) {
		c := newCloud(t)
		c.Reply[creditPath] = h
		return c.Provider(nil).(api.BalanceReader).Balances(t.Context(), c.Now())
	}
	c := newCloud(t)
	b, err := hyperstack(func(w http.ResponseWriter, _ *http.Request) { c.Cases["credit"].Serve(w) })
	if err != nil || b.Balance != nil || *b.Credit != 87_412_300_000 {
		t.Errorf("%+v, %v", b, err)
	}
	_, err = hyperstack(c.Body("credit", `"credit":87.4123`, `"other":1`))
	rig.WantClass(t, err, api.Incomplete)
	_, err = hyperstack(c.Body("credit", `87.4123`, `null`))
	rig.WantClass(t, err, api.Incomplete)
	_, err = hyperstack(c.Body("credit", `87.4123`, `1e400`))
	rig.WantClass(t, err, api.Malformed)
	_, err = hyperstack(func(w http.ResponseWriter, _ *http.Request) { c.Cases["err_404"].Serve(w) })
	rig.WantClass(t, err, api.HTTP4xx)

	p := newPods(t)
	runpod := func(h http.HandlerFunc) (api.Balances, error) {
		p.Reply[graphql] = func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost || r.URL.RawQuery != "" {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			h(w, r)
		}
		return p.Provider(nil).(api.BalanceReader).Balances(t.Context(), p.Now())
	}
	b, err = runpod(p.Body("graphql_balance"))
	if err != nil || b.Credit != nil || *b.Balance != 32_233_476_096 {
		t.Errorf("%+v, %v", b, err)
	}
	_, err = runpod(func(w http.ResponseWriter, _ *http.Request) { p.Cases["graphql_error"].Serve(w) })
	rig.WantClass(t, err, api.Incomplete)
	_, err = runpod(p.Body("graphql_balance", `"clientBalance":32.2334760956`, `"clientBalance":"x"`))
	rig.WantClass(t, err, api.Malformed)
	_, err = runpod(p.Body("graphql_balance", `"clientBalance":32.2334760956,`, ``))
	rig.WantClass(t, err, api.Incomplete)
	_, err = runpod(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "gone "+rig.RunpodKey, http.StatusGone) })
	rig.WantClass(t, err, api.HTTP4xx)
	if strings.Contains(err.Error(), rig.RunpodKey) {
		t.Errorf("%v", err)
	}
}
