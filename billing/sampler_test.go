package billing_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

// script is a provider that does what the test says, poll by poll.
type script struct {
	t       *testing.T
	polls   []time.Time
	running atomic.Int64
	poll    func(ctx context.Context, n int, now time.Time) (ledger.Sample, error)
	least   time.Duration
}

func (s *script) Name() string { return "script" }

func (s *script) MinInterval() time.Duration { return max(s.least, time.Second) }

func (s *script) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	if s.running.Add(1) > 1 {
		s.t.Error("two polls at once")
	}
	defer s.running.Add(-1)
	s.polls = append(s.polls, now)
	if s.poll == nil {
		return good(now), nil
	}
	return s.poll(ctx, len(s.polls), now)
}

func good(now time.Time) ledger.Sample {
	bill := ledger.Nanos(1)
	return ledger.Sample{At: now.UTC().Truncate(time.Second), Provider: "script", Currency: "USD", Truth: ledger.TruthResource,
		Lines: []ledger.Line{{Resource: "vm-1", Kind: ledger.Instance, Bill: &bill, Epoch: "e"}}}
}

func clocks(times []time.Time) string {
	var s []string
	for _, t := range times {
		s = append(s, t.UTC().Format("15:04:05"))
	}
	return strings.Join(s, " ")
}

// run samples for d of fake time and says what was stored.
func run(t *testing.T, cfg billing.SamplerConfig, d time.Duration) *billing.Sampler {
	t.Helper()
	s, err := billing.NewSampler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	return s
}

func TestSamplerOnTheMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(12*time.Hour + 17300*time.Millisecond) // the fake clock starts at midnight
		p, st, told := &script{t: t}, &rig.Memory{}, 0
		run(t, billing.SamplerConfig{Provider: p, Store: st, OnSample: func() { told++ }}, 3*time.Minute)
		if got, want := clocks(p.polls), "12:00:17 12:01:00 12:02:00 12:03:00"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
		if len(st.Samples) != 4 || told != 4 || len(st.Failures) != 0 {
			t.Errorf("%d samples, %d told, %d failures", len(st.Samples), told, len(st.Failures))
		}
		for _, sample := range st.Samples {
			if sample.Every != time.Minute {
				t.Errorf("sample says that it is taken every %s", sample.Every)
			}
		}
	})
}

// A serve that starts again within the second of the last sample has its first a moment
// later: the clock did not step back.
func TestSamplerStartsAgainInTheSameSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newest := time.Now()
		time.Sleep(300 * time.Millisecond)
		p, st := &script{t: t}, &rig.Memory{}
		run(t, billing.SamplerConfig{Provider: p, Store: st, Newest: newest}, 2*time.Second)
		if got, want := clocks(p.polls), "00:00:01"; got != want || len(st.Failures) != 0 {
			t.Errorf("polled at %s, want %s; failures %+v", got, want, st.Failures)
		}
	})
}

func TestSamplerOtherIntervals(t *testing.T) {
	f := func(every, least, offset, d time.Duration, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(offset)
			p := &script{t: t, least: least}
			run(t, billing.SamplerConfig{Provider: p, Store: &rig.Memory{}, Every: every}, d)
			if got := clocks(p.polls); got != want {
				t.Errorf("every %s: %s, want %s", every, got, want)
			}
		})
	}
	f(20*time.Second, 0, 5*time.Second, time.Minute, "00:00:05 00:00:20 00:00:40 00:01:00")
	f(time.Second, 0, 500*time.Millisecond, 3*time.Second, "00:00:00 00:00:01 00:00:02 00:00:03")
	f(5*time.Minute, 0, time.Minute, 10*time.Minute, "00:01:00 00:05:00 00:10:00")
	// The poll at the start is too near to the first round minute.
	f(time.Minute, 10*time.Second, 55*time.Second, 2*time.Minute, "00:00:55 00:02:00")
}

// A poll that hangs is over before the next is due.
func TestSamplerDoesNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, st := &script{t: t}, &rig.Memory{}
		p.poll = func(ctx context.Context, _ int, _ time.Time) (ledger.Sample, error) {
			<-ctx.Done()
			return ledger.Sample{}, ctx.Err()
		}
		run(t, billing.SamplerConfig{Provider: p, Store: st}, 150*time.Second)
		if got, want := clocks(p.polls), "00:00:00 00:01:00 00:02:00"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
		if len(st.Failures) != 2 || st.Failures[0].Class != "timeout" { // the third was ours to end
			t.Errorf("failures = %+v", st.Failures)
		}
	})
}

func TestSamplerFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		down := &api.Failure{Call: "GET /bill/{id}", Class: api.HTTP5xx, Err: errors.New("status 500")}
		p, st, told := &script{t: t}, &rig.Memory{}, 0
		p.poll = func(_ context.Context, n int, now time.Time) (ledger.Sample, error) {
			switch n {
			case 2, 3:
				return ledger.Sample{}, fmt.Errorf("wrapped: %w", down)
			case 4:
				return ledger.Sample{}, errors.New("of no class")
			case 5:
				s := good(now)
				s.Lines = nil
				return s, nil
			case 6:
				s := good(now)
				s.Lines[0].Bill = nil
				return s, nil
			}
			return good(now), nil
		}
		run(t, billing.SamplerConfig{Provider: p, Store: st, OnSample: func() { told++ },
			Log: slog.New(slog.NewTextHandler(&log, nil))}, 6*time.Minute+time.Second)
		var got []string
		for _, f := range st.Failures {
			got = append(got, f.At.UTC().Format("15:04:05 ")+f.Class+" "+f.Call)
		}
		want := []string{
			"00:01:00 http_5xx GET /bill/{id}", "00:02:00 http_5xx GET /bill/{id}",
			"00:03:00 internal ", "00:04:00 incomplete ", "00:05:00 incomplete ",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("failures:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if len(st.Samples) != 2 || told != 2 {
			t.Errorf("%d samples, %d told; want 2", len(st.Samples), told)
		}
		// One line for each change, none for a repetition.
		text := log.String()
		if n := strings.Count(text, "no billing sample"); n != 3 {
			t.Errorf("%d lines of failure, want 3:\n%s", n, text)
		}
		if n := strings.Count(text, "billing sample is back"); n != 1 || !strings.Contains(text, "failed=5") {
			t.Errorf("recovery is logged %d times:\n%s", n, text)
		}
		if !strings.Contains(text, "status 500") || !strings.Contains(text, "class=http_5xx") {
			t.Errorf("the log does not say why:\n%s", text)
		}
	})
}

// The log says what can be done about a sample that failed: the failure's own hint, or
// else that of its class; also where the ledger is in trouble beside it.
func TestSamplerLogsTheHint(t *testing.T) {
	const again, address, docs = "try again; the provider, or the way to it, is in trouble", "check --provider-url",
		"is that the provider's API? check --provider-url and --instance"
	f := func(failure *api.Failure, stored error, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			p := &script{t: t, poll: func(context.Context, int, time.Time) (ledger.Sample, error) { return ledger.Sample{}, failure }}
			run(t, billing.SamplerConfig{Provider: p, Store: &rig.Memory{Err: stored}, Log: slog.New(slog.NewJSONHandler(&log, nil))}, time.Second)
			var line struct{ Msg, Class, Hint string }
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatalf("%s: %v", &log, err)
			}
			if line.Msg != "no billing sample" || line.Class != string(failure.Class) || line.Hint != want {
				t.Errorf("%s: logged %+v, want the hint %q", failure.Class, line, want)
			}
		})
	}
	of := func(c api.Class) *api.Failure {
		return &api.Failure{Call: "GET /bill", Class: c, Err: errors.New("of the test")}
	}
	f(of(api.Network), nil, again)
	f(of(api.Timeout), nil, again)
	f(of(api.HTTP5xx), nil, again)
	f(of(api.TLS), nil, address)
	f(of(api.Redirect), nil, address)
	f(of(api.HTTP4xx), nil, address)
	f(of(api.HTTP429), nil, "wait a minute: something else uses up the account's calls")
	f(of(api.Malformed), nil, docs)
	f(of(api.Incomplete), nil, docs)
	f(of(api.TooLarge), nil, docs)
	f(of(api.Internal), nil, "")
	f(of(api.Incomplete).WithHint("start the machine"), nil, "start the machine")
	f(of(api.HTTP403).WithHint("use another key"), nil, "use another key")
	f(of(api.HTTP5xx), errors.New("disk full"), again)
}

func TestSamplerRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * time.Second)
		p, st := &script{t: t}, &rig.Memory{}
		p.poll = func(_ context.Context, n int, now time.Time) (ledger.Sample, error) {
			if n == 2 {
				return ledger.Sample{}, &api.Failure{Class: api.HTTP429, RetryAfter: 150 * time.Second, Err: errors.New("status 429")}
			}
			return good(now), nil
		}
		s := run(t, billing.SamplerConfig{Provider: p, Store: st}, 90*time.Second)
		// The way out does not break the peace either.
		if err := s.Last(t.Context()); err == nil || !strings.Contains(err.Error(), "no call before") {
			t.Errorf("Last: %v", err)
		}
		if got, want := clocks(p.polls), "00:00:30 00:01:00"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
		time.Sleep(3 * time.Minute)
		if err := s.Last(t.Context()); err != nil {
			t.Errorf("Last, later: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // and Run waits for the next minute after it
		time.Sleep(30 * time.Second)
		p := &script{t: t}
		p.poll = func(_ context.Context, n int, now time.Time) (ledger.Sample, error) {
			if n == 2 {
				return ledger.Sample{}, &api.Failure{Class: api.HTTP429, RetryAfter: 150 * time.Second, Err: errors.New("status 429")}
			}
			return good(now), nil
		}
		run(t, billing.SamplerConfig{Provider: p, Store: &rig.Memory{}}, 4*time.Minute)
		if got, want := clocks(p.polls), "00:00:30 00:01:00 00:04:00"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
	})
}

func TestSamplerLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, st := &script{t: t}, &rig.Memory{}
		s := run(t, billing.SamplerConfig{Provider: p, Store: st}, 90*time.Second)
		time.Sleep(5 * time.Second)
		if err := s.Last(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Last(t.Context()); err != nil { // of the same second: there is nothing new
			t.Fatal(err)
		}
		if got, want := clocks(p.polls), "00:00:00 00:01:00 00:01:35"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
		if len(st.Samples) != 3 {
			t.Errorf("%d samples, want 3", len(st.Samples))
		}
		time.Sleep(10 * time.Second)
		p.poll = func(context.Context, int, time.Time) (ledger.Sample, error) {
			return ledger.Sample{}, &api.Failure{Call: "GET /bill", Class: api.HTTP5xx, Err: errors.New("status 500")}
		}
		if err := s.Last(t.Context()); err == nil || !strings.Contains(err.Error(), "last sample: ") {
			t.Errorf("Last on a provider that fails: %v", err)
		}
		if len(st.Failures) != 1 {
			t.Errorf("%d failures, want 1", len(st.Failures))
		}
	})
}

// Last waits for the poll that is under way, as long as it may.
func TestSamplerLastWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, st := &script{t: t}, &rig.Memory{}
		p.poll = func(ctx context.Context, n int, now time.Time) (ledger.Sample, error) {
			if n == 1 {
				time.Sleep(20 * time.Second)
			}
			return good(now), nil
		}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Second)
		cancel() // the provider does not look, and what it reads in the end is kept
		short, stop := context.WithTimeout(t.Context(), 2*time.Second)
		defer stop()
		if err := s.Last(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Last with no time: %v", err)
		}
		if err := s.Last(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if len(st.Samples) != 2 || len(st.Failures) != 0 {
			t.Errorf("%d samples, %d failures", len(st.Samples), len(st.Failures))
		}
	})
}

// A poll that we end ourselves is no failure of the provider's.
func TestSamplerStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, st := &script{t: t}, &rig.Memory{}
		p.poll = func(ctx context.Context, _ int, _ time.Time) (ledger.Sample, error) {
			<-ctx.Done()
			return ledger.Sample{}, ctx.Err()
		}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if len(st.Failures) != 0 {
			t.Errorf("failures = %+v", st.Failures)
		}
	})
}

func TestSamplerStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		told := 0
		p, st := &script{t: t}, &rig.Memory{Err: errors.New("disk full")}
		s := run(t, billing.SamplerConfig{Provider: p, Store: st, OnSample: func() { told++ },
			Log: slog.New(slog.NewTextHandler(&log, nil))}, 30*time.Second)
		if told != 0 {
			t.Error("told of a sample that is not stored")
		}
		if !strings.Contains(log.String(), "store sample: disk full") {
			t.Errorf("log: %s", &log)
		}
		if err := s.Last(t.Context()); err == nil || err.Error() != "last sample: store sample: disk full" {
			t.Errorf("Last: %v", err)
		}
	})
}

// A sample that the ledger does not take leaves a dark minute.
func TestSamplerRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &rig.Memory{Refuse: fmt.Errorf("sample in EUR, the ledger is in USD: %w", ledger.ErrRefused)}
		s := run(t, billing.SamplerConfig{Provider: &script{t: t}, Store: st}, 30*time.Second)
		if len(st.Samples) != 0 || len(st.Failures) != 1 || st.Failures[0].Class != "refused" {
			t.Errorf("samples %+v, failures %+v", st.Samples, st.Failures)
		}
		rig.WantClass(t, s.Last(t.Context()), api.Refused)
	})
}

// A clock that is set back does not put the next sample off.
func TestSamplerClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		p := &script{t: t}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: &rig.Memory{}, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(90 * time.Second)
		back.Store(int64(time.Hour))
		time.Sleep(60 * time.Second)
		cancel()
		<-done
		if got, want := clocks(p.polls), "00:00:00 00:01:00 23:02:00"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
	})
}

// The peace that a provider asks for is a length of time: setting the clock back does
// not make it longer.
func TestSamplerRetryAfterAndClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		p := &script{t: t, poll: func(_ context.Context, n int, now time.Time) (ledger.Sample, error) {
			if n == 2 {
				return ledger.Sample{}, &api.Failure{Class: "http_429", RetryAfter: 90 * time.Second}
			}
			return good(now), nil
		}}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: &rig.Memory{}, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(2 * time.Minute)
		back.Store(int64(30 * time.Minute))
		time.Sleep(150 * time.Second)
		cancel()
		<-done
		if got, want := clocks(p.polls), "00:00:00 00:01:00 23:33:00 23:34:00"; got != want {
			t.Errorf("polled at %s, want %s", got, want)
		}
	})
}

func TestNewSamplerRefuses(t *testing.T) {
	p, st := &script{t: t, least: 5 * time.Second}, &rig.Memory{}
	f := func(cfg billing.SamplerConfig, want string) {
		t.Helper()
		if _, err := billing.NewSampler(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewSampler(%+v): %v, want %q", cfg, err, want)
		}
	}
	f(billing.SamplerConfig{Store: st}, "required")
	f(billing.SamplerConfig{Provider: p}, "required")
	f(billing.SamplerConfig{Provider: p, Store: st, Every: time.Second}, "too often for script")
	f(billing.SamplerConfig{Provider: p, Store: st, Every: 1500 * time.Millisecond}, "sample interval 1.5s")
	f(billing.SamplerConfig{Provider: p, Store: st, Every: -time.Minute}, "sample interval -1m0s")
	f(billing.SamplerConfig{Provider: p, Store: st, Timeout: 50 * time.Second}, "could run into the next")
	f(billing.SamplerConfig{Provider: p, Store: st, Every: 10 * time.Minute, Timeout: time.Minute}, "could run into the next")
}
