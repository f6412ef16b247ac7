package report_test

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

func TestCost(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 60)
	b.served(0, 1000) // at the first sample: not in (A, B]
	b.served(0.5, 400_000)
	b.served(30, 1_234_567)
	b.served(60, 99, cut) // at the last sample: in it
	b.served(60.5, 77)
	q := until(0, 60.8)
	q.Window.To = q.Window.To.Add(123 * time.Nanosecond) // finer than the ledger
	q.Demo = true
	c := b.cost(q)
	if c.Refused() {
		t.Error("refused")
	}
	same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 08:00:00 to 09:00:00 UTC (1h)
demo: simulated figures

per million output tokens      $ 1.47
utilisation                      0.5%   of the time a request ran; finished ones only
spend                          $ 2.40   from the bill of hyperstack
output tokens               1,634,666
prompt tokens                     300   75 of them cached (25%)
requests                            3
samples                            61   of the bill, #1 to #61

pending: 1 request with 77 output tokens finished after the last sample, in no
  figure yet; the next sample is due at 2026-10-17 09:01:00 UTC.
note: 1 request was cut before its last count; it made at least the tokens
  shown.
Counted: GPU compute and this box's volumes. Not counted: egress and other
  machines, the gateway's own among them.
`)
	same(t, "json", written(t, c, report.JSON), `
{
  "window": {
    "from": "2026-10-17T08:00:00Z",
    "to": "2026-10-17T09:00:00Z",
    "asked_from": "2026-10-17T08:00:00Z",
    "asked_to": "2026-10-17T09:00:48Z"
  },
  "currency": "USD",
  "spend": {
    "net": "2.4",
    "gross": "2.4"
  },
  "requests": 3,
  "prompt_tokens": 300,
  "cached_tokens": 75,
  "completion_tokens": 1634666,
  "cost_per_million_output_tokens": "1.468189832",
  "reason": "",
  "samples": {
    "from": {
      "id": 1,
      "at": "2026-10-17T08:00:00Z"
    },
    "to": {
      "id": 61,
      "at": "2026-10-17T09:00:00Z"
    },
    "count": 61,
    "gaps": []
  },
  "before_ledger": {
    "gross": null,
    "from": null,
    "to": null
  },
  "pending": {
    "requests": 1,
    "completion_tokens": 77,
    "next_sample_at": "2026-10-17T09:01:00Z"
  },
  "flags": [
    "lower_bound"
  ],
  "demo": true,
  "band": {
    "low": null,
    "median": null,
    "high": null
  },
  "utilisation": "0.0050",
  "split": {
    "serving": null,
    "idle": null,
    "waking": null,
    "suspended": null,
    "down": null
  },
  "by": "",
  "groups": [],
  "buckets": []
}
`)
	same(t, "csv", written(t, c, report.CSV), `
window_from,window_to,window_asked_from,window_asked_to,currency,spend_net,spend_gross,requests,prompt_tokens,cached_tokens,completion_tokens,cost_per_million_output_tokens,reason,samples_from_id,samples_from_at,samples_to_id,samples_to_at,samples_count,samples_gaps,pending_requests,pending_completion_tokens,pending_next_sample_at,flags,demo,band_low,band_median,band_high,utilisation,split_serving,split_idle,split_waking,split_suspended,split_down,overrides,before_ledger_gross,before_ledger_from,before_ledger_to
2026-10-17T08:00:00Z,2026-10-17T09:00:00Z,2026-10-17T08:00:00Z,2026-10-17T09:00:48Z,USD,2.4,2.4,3,300,75,1634666,1.468189832,,1,2026-10-17T08:00:00Z,61,2026-10-17T09:00:00Z,61,,1,77,2026-10-17T09:01:00Z,lower_bound,true,,,,0.0050,,,,,,,,,
`)
	sameColumns(t, written(t, c, report.CSV), written(t, c, report.JSON))
}

// What else the account pays for is a flag on the windows that it has a part in, and
// in no figure.
func TestCostResidual(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 60)
	b.served(30, 1_000_000)
	residual := func(from, to float64, paid, billed ledger.Nanos) {
		t.Helper()
		r := ledger.Residual{From: at(from), To: at(to), Paid: paid, Billed: billed, Currency: "USD"}
		if err := b.AddEvent(at(to+6), r); err != nil {
			t.Fatal(err)
		}
	}
	residual(10, 25, 1_500_000_000, 1_000_000_000)
	residual(25, 40, 1_250_000_000, 600_000_000)
	f := func(from, to float64, net, want string) {
		t.Helper()
		c := b.cost(until(from, to))
		if got := slices.Contains(c.Flags, report.FlagResidual); got != (want != "") || string(*c.Spend.Net) != net {
			t.Errorf("%v to %v: flags %v, net %s", from, to, c.Flags, *c.Spend.Net)
		}
		if text := strings.Join(strings.Fields(written(t, c, report.Text)), " "); !strings.Contains(text, want) {
			t.Errorf("%v to %v: want %q in\n%s", from, to, want, text)
		}
	}
	f(0, 10, "0.4", "")
	f(40, 60, "0.8", "")
	f(0, 60, "2.4", "note: the account paid $ 1.25 from 2026-10-17 08:25:00 to 08:40:00 UTC, and what is counted here was billed "+
		"$ 0.60 at the most: something else on it costs money. So it was in 1 span before.")
	f(0, 20, "0.8", "note: the account paid $ 1.50 from 2026-10-17 08:10:00 to 08:25:00 UTC, and what is counted here was billed "+
		"$ 1.00 at the most: something else on it costs money. Counted:")
}

// Counts that the engine's own counters contradict are a flag on each price that was
// made of them, and on no other.
func TestCostDrift(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 60)
	b.served(30, 1_000_000)
	if err := b.AddEvent(at(20), ledger.MeterDrift{}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		from, to float64
		want     bool
	}{{0, 60, true}, {10, 20, true}, {0, 19, false}, {20, 60, false}} {
		c := b.cost(until(w.from, w.to))
		if got := slices.Contains(c.Flags, report.FlagDrift); got != w.want {
			t.Errorf("%v to %v: flags %v", w.from, w.to, c.Flags)
		}
		if told := strings.Contains(written(t, c, report.Text), "own counters"); told != w.want {
			t.Errorf("%v to %v: %s", w.from, w.to, written(t, c, report.Text))
		}
	}
}

// Names of fields are an interface: they are the same where all is known and
// where nothing is.
func TestCostFields(t *testing.T) {
	t.Parallel()
	full := []string{
		"completion_tokens", "cost_per_million_output_tokens", "currency", "demo", "flags",
		"pending.completion_tokens", "pending.next_sample_at", "pending.requests", "prompt_tokens", "cached_tokens", "reason", "requests",
		"samples.count", "samples.from.at", "samples.from.id", "samples.gaps", "samples.gaps[].from", "samples.gaps[].to",
		"samples.to.at", "samples.to.id", "spend.gross", "spend.net",
		"window.asked_from", "window.asked_to", "window.from", "window.to",
		"band.low", "band.median", "band.high", "utilisation", "buckets", "by", "groups",
		"split.serving", "split.idle", "split.waking", "split.suspended", "split.down",
		"before_ledger.gross", "before_ledger.from", "before_ledger.to",
	}
	slices.Sort(full)
	b := open(t)
	b.bills(0, 2)
	b.bill(sample(10, 200_000_000_000), sample(20, 300_000_000_000))
	c := b.cost(until(0, 20))
	if got := keys(t, written(t, c, report.JSON)); !reflect.DeepEqual(got, full) {
		t.Errorf("json fields %v, want %v", got, full)
	}
	row := sameColumns(t, written(t, c, report.CSV), written(t, c, report.JSON))
	want := "2026-10-17T08:02:00Z/2026-10-17T08:10:00Z 2026-10-17T08:10:00Z/2026-10-17T08:20:00Z"
	if row["samples_gaps"] != want {
		t.Errorf("csv gaps %q, want %q", row["samples_gaps"], want)
	}

	same(t, "json of an empty ledger", written(t, open(t).cost(until(0, 60)), report.JSON), `
{
  "window": {
    "from": null,
    "to": null,
    "asked_from": "2026-10-17T08:00:00Z",
    "asked_to": "2026-10-17T09:00:00Z"
  },
  "currency": "",
  "spend": {
    "net": null,
    "gross": null
  },
  "requests": 0,
  "prompt_tokens": 0,
  "cached_tokens": 0,
  "completion_tokens": 0,
  "cost_per_million_output_tokens": null,
  "reason": "no_samples",
  "samples": {
    "from": null,
    "to": null,
    "count": 0,
    "gaps": []
  },
  "before_ledger": {
    "gross": null,
    "from": null,
    "to": null
  },
  "pending": {
    "requests": 0,
    "completion_tokens": 0,
    "next_sample_at": null
  },
  "flags": [],
  "demo": false,
  "band": {
    "low": null,
    "median": null,
    "high": null
  },
  "utilisation": null,
  "split": {
    "serving": null,
    "idle": null,
    "waking": null,
    "suspended": null,
    "down": null
  },
  "by": "",
  "groups": [],
  "buckets": []
}
`)
	same(t, "csv of an empty ledger", strings.SplitAfter(written(t, open(t).cost(until(0, 60)), report.CSV), "\n")[1],
		",,2026-10-17T08:00:00Z,2026-10-17T09:00:00Z,,,,0,0,0,0,,no_samples,,,,,0,,0,0,,,false,,,,,,,,,,,,,\n")
}

// holds checks a report's verdict, and that money is shown just where it is known.
func holds(t *testing.T, c report.CostReport, reason string, flags ...string) {
	t.Helper()
	if c.Reason != reason || !slices.Equal(c.Flags, flags) || c.Flags == nil {
		t.Errorf("reason %q, flags %v, want %q, %v", c.Reason, c.Flags, reason, flags)
	}
	refused := reason != "" && reason != report.ReasonNoTokens
	if c.Refused() != refused {
		t.Errorf("Refused = %v for %q", c.Refused(), reason)
	}
	if (c.Spend.Net == nil) != refused || (c.Spend.Gross == nil) != refused {
		t.Errorf("spend %v, %v for %q", c.Spend.Net, c.Spend.Gross, reason)
	}
	if (c.CostPerMillion == nil) != (reason != "") {
		t.Errorf("price %v for %q", c.CostPerMillion, reason)
	}
}

func pending(t *testing.T, c report.CostReport, requests, tokens int64, next time.Time) {
	t.Helper()
	p := c.Pending
	got := time.Time{}
	if p.NextSampleAt != nil {
		got = *p.NextSampleAt
	}
	if p.Requests != requests || p.CompletionTokens != tokens || !got.Equal(next) {
		t.Errorf("pending %d, %d, next %s, want %d, %d, %s", p.Requests, p.CompletionTokens, got, requests, tokens, next)
	}
}

var never time.Time

func TestNoSamples(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.served(-5, 3)
	b.served(5, 7)
	c := b.cost(until(0, 60))
	holds(t, c, report.ReasonNoSamples)
	pending(t, c, 1, 7, never)
	same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 08:00:00 to 09:00:00 UTC (1h)

Not known: the ledger holds no sample of the bill. serve takes them, and its log
  says why one fails.

requests          1   in this window, without a price
prompt tokens   100   25 of them cached (25%)
output tokens     7
`)

	// A window that ends before the first sample will never have a price.
	b.bills(70, 71)
	c = b.cost(explicitly(0, 60, 71))
	holds(t, c, report.ReasonNoSamples)
	pending(t, c, 0, 0, at(72))
	if c.Currency != "USD" || c.Window.From != nil {
		t.Errorf("currency %q, from %v", c.Currency, c.Window.From)
	}
	if text := written(t, c, report.Text); !strings.Contains(text, "Not known: the first sample of the bill is from 2026-10-17 09:10:00 UTC, after\n  this window.\n") {
		t.Errorf("text:\n%s", text)
	}
}

// TestTokensWithoutABill: JSON and CSV have the tokens that the text has, and the flags
// that report meter has.
func TestTokensWithoutABill(t *testing.T) {
	t.Parallel()
	for provider, reason := range map[string]string{ledger.NoProvider: report.ReasonNoProvider, "hyperstack": report.ReasonNoSamples} {
		b := open(t)
		if err := b.SetProvider(provider); err != nil {
			t.Fatal(err)
		}
		b.served(9, 20)
		b.served(11, 7, cut)
		b.counters(12, 1, 0, 4, true)
		c := b.cost(until(0, 13))
		if m := b.meter(0, 13); !slices.Equal(m.Flags, []string{report.FlagDrift}) {
			t.Fatalf("meter flags %v", m.Flags)
		}
		holds(t, c, reason, report.FlagDrift, report.FlagLowerBound)
		if c.Requests != 2 || c.CompletionTokens != 27 || c.PromptTokens != 200 || c.CachedTokens != 50 {
			t.Errorf("%s: %+v", provider, c)
		}
		if text := written(t, c, report.Text); !strings.Contains(text, "requests          2") || !strings.Contains(text, "output tokens    27") {
			t.Errorf("text:\n%s", text)
		}
		if csv := written(t, c, report.CSV); !strings.Contains(csv, ",2,200,50,27,,"+reason+",") {
			t.Errorf("csv:\n%s", csv)
		}
	}
}

func TestOneSample(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bill(sample(10, 5))
	b.served(9, 20)
	b.served(11, 7)
	c := b.cost(until(0, 11.5))
	holds(t, c, report.ReasonOneSample, ledger.FlagStartsLate)
	pending(t, c, 1, 7, at(11))
	if *c.Window.From != at(10) || *c.Window.To != at(10) || c.Requests != 0 || c.Samples.Count != 1 {
		t.Errorf("window %v, %v, %d requests, %d samples", c.Window.From, c.Window.To, c.Requests, c.Samples.Count)
	}
	text := written(t, c, report.Text)
	if !strings.Contains(text, "Not known: spend is the difference of two samples of the bill, and there is one\n  so far, at 2026-10-17 08:10:00 UTC. The next is due at 2026-10-17 08:11:00\n  UTC.\n") {
		t.Errorf("text:\n%s", text)
	}

	// The only one is old, inside the window or before it.
	for _, from := range []float64{0, 30} {
		c = b.cost(until(from, 60))
		want := []string{report.FlagStale, ledger.FlagStartsLate}
		if from > 10 {
			want = want[:1]
		}
		holds(t, c, report.ReasonOneSample, want...)
		pending(t, c, 1, 7, never)
		text = written(t, c, report.Text)
		for _, s := range []string{"there is only\n  one, at 2026-10-17 08:10:00 UTC.", "\nwarning: the last sample of the bill is 50m old;"} {
			if !strings.Contains(text, s) {
				t.Errorf("no %q in:\n%s", s, text)
			}
		}
	}

	// Others came after the window.
	b.bills(70, 71)
	c = b.cost(explicitly(0, 60, 71))
	holds(t, c, report.ReasonOneSample, ledger.FlagStartsLate)
	if text = written(t, c, report.Text); !strings.Contains(text, "only the\n  first one, at 2026-10-17 08:10:00 UTC, lies at or before the end") {
		t.Errorf("text:\n%s", text)
	}
	c = b.cost(explicitly(20, 60, 71))
	holds(t, c, report.ReasonOneSample)
	if text = written(t, c, report.Text); !strings.Contains(text, "lies between two samples of the bill, at 2026-10-17\n  08:10:00 UTC and at 2026-10-17 09:10:00 UTC. Ask for one that holds both.") {
		t.Errorf("text:\n%s", text)
	}

	// The data is fresh, and the window shorter than a sampler's beat.
	c = b.cost(until(71.2, 71.7))
	holds(t, c, report.ReasonOneSample)
	if text = written(t, c, report.Text); !strings.Contains(text, "begins after the last sample of the bill, at 2026-10-17\n  09:11:00 UTC, and the next is still to come.") {
		t.Errorf("text:\n%s", text)
	}
}

func TestNoTokens(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 10)
	b.served(5, 0)     // an embedding
	b.served(10.2, 50) // pending tokens make no quotient
	c := b.cost(until(0, 10.5))
	holds(t, c, report.ReasonNoTokens)
	pending(t, c, 1, 50, at(11))
	text := written(t, c, report.Text)
	if !strings.HasPrefix(text, `Cost from 2026-10-17 08:00:00 to 08:10:00 UTC (10m)

per million output tokens        -   no output token was made
utilisation                   1.0%   of the time a request ran; finished ones only
spend                       $ 0.40   from the bill of hyperstack
output tokens                    0
`) {
		t.Errorf("text:\n%s", text)
	}
}

func TestDark(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 10)
	b.served(5, 1000)
	b.served(30, 50)

	// The data ended before the window began, however the window was asked for.
	for _, q := range []report.CostQuery{until(20, 60), explicitly(20, 60, 70)} {
		c := b.cost(q)
		holds(t, c, report.ReasonDark)
		pending(t, c, 1, 50, never)
		same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 08:20:00 to 09:00:00 UTC (40m)

Not known: the bill was last seen at 2026-10-17 08:10:00 UTC, before this window
  began. serve's log says why the samples ended.

requests          1   in this window, without a price
prompt tokens   100   25 of them cached (25%)
output tokens    50
`)
	}

	// An instant was asked for that the data does not reach.
	c := b.cost(explicitly(0, 60, 70))
	holds(t, c, report.ReasonDark)
	if *c.Window.From != at(0) || *c.Window.To != at(10) || c.CompletionTokens != 1000 {
		t.Errorf("window %v to %v, %d tokens", c.Window.From, c.Window.To, c.CompletionTokens)
	}
	same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 08:00:00 to 09:00:00 UTC (1h)

Not known: the bill was last seen at 2026-10-17 08:10:00 UTC, 50m before the end
  of this window; what was spent since then cannot be known. Ask up to there:
  --until 2026-10-17T08:10:00Z

requests            2   in this window, without a price
prompt tokens     200   50 of them cached (25%)
output tokens   1,050
`)
	// The hint holds.
	holds(t, b.cost(explicitly(-50, 10, 70)), "", ledger.FlagStartsLate)

	// A sample counts as seen for MaxSampleAge and no longer.
	holds(t, b.cost(explicitly(0, 13, 13)), "")
	holds(t, b.cost(explicitly(0, 13.01, 13.01)), report.ReasonDark)

	// A later sample bounds the minutes: they are not dark any more.
	b.bill(sample(90, 110_000_000_000))
	c = b.cost(explicitly(0, 60, 91))
	holds(t, c, "")
	pending(t, c, 0, 0, at(91))
	if *c.Spend.Net != "0.4" || *c.Window.To != at(10) {
		t.Errorf("net %s to %s", *c.Spend.Net, c.Window.To)
	}
	if text := written(t, c, report.Text); !strings.Contains(text, "note: ends 50m before the asked end: the next sample of the bill is from\n  2026-10-17 09:30:00 UTC.\n") {
		t.Errorf("text:\n%s", text)
	}
	c = b.cost(explicitly(60, 90, 91))
	if *c.Spend.Net != "9.6" || *c.Window.From != at(10) {
		t.Errorf("net %s from %s", *c.Spend.Net, c.Window.From)
	}
	if text := written(t, c, report.Text); !strings.Contains(text, "note: begins 50m before the asked start: no sample of the bill is nearer.\n") {
		t.Errorf("text:\n%s", text)
	}
}

func TestRatesAreNoBill(t *testing.T) {
	t.Parallel()
	b := open(t)
	for m := range 3 {
		s := sample(float64(m), 0)
		s.Truth, s.Lines[0].Bill = ledger.TruthNone, nil
		b.bill(s)
		holds(t, b.cost(until(-10, float64(m))), report.ReasonDark, ledger.FlagStartsLate, ledger.FlagUnknownBill)
	}
	text := written(t, b.cost(until(0, 2)), report.Text)
	if !strings.Contains(text, "Not known: the samples show rates and no bill, and a rate is not what was spent.\n") {
		t.Errorf("text:\n%s", text)
	}
}

func TestStale(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 10)
	b.served(5, 1000)
	b.served(30, 50)
	holds(t, b.cost(until(0, 13)), "")
	pending(t, b.cost(until(0, 12)), 0, 0, at(11)) // late by one turn: still to come
	pending(t, b.cost(until(0, 12.1)), 0, 0, never)
	c := b.cost(until(0, 60))
	holds(t, c, "", report.FlagStale)
	pending(t, c, 1, 50, never)
	same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 08:00:00 to 08:10:00 UTC (10m)

per million output tokens   $ 400.00
utilisation                     1.0%   of the time a request ran; finished ones only
spend                         $ 0.40   from the bill of hyperstack
output tokens                  1,000
prompt tokens                    100   25 of them cached (25%)
requests                           1
samples                           11   of the bill, #1 to #11

warning: the last sample of the bill is 50m old; nothing after it is counted.
  serve's log says why the samples ended.
pending: 1 request with 50 output tokens finished after the last sample, in no
  figure yet; no sample is on its way.
Counted: GPU compute and this box's volumes. Not counted: egress and other
  machines, the gateway's own among them.
`)
}

func TestNoProvider(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.provider("none")
	b.served(5, 7)
	c := b.cost(until(0, 60))
	holds(t, c, report.ReasonNoProvider)
	pending(t, c, 1, 7, never)
	same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 08:00:00 to 09:00:00 UTC (1h)

Not known: serve runs with --provider none, so nobody reads a bill. The tokens
  are counted, the money is not.

requests          1   in this window, without a price
prompt tokens   100   25 of them cached (25%)
output tokens     7
`)

	// There was a bill once.
	b = open(t)
	b.bills(0, 10)
	b.served(5, 7)
	b.provider("none")
	holds(t, b.cost(until(20, 60)), report.ReasonNoProvider)
	holds(t, b.cost(explicitly(0, 60, 60)), report.ReasonDark, report.FlagNoProvider)
	c = b.cost(until(0, 11))
	holds(t, c, "", report.FlagNoProvider)
	pending(t, c, 0, 0, never) // whatever the last sampler's beat was
	holds(t, b.cost(until(0, 60)), "", report.FlagNoProvider, report.FlagStale)
	if text := written(t, c, report.Text); !strings.Contains(text, "\nwarning: serve now runs with --provider none: the bill is not read any more.\n") {
		t.Errorf("text:\n%s", text)
	}

	b.provider("hyperstack")
	holds(t, b.cost(until(0, 11)), "")
}

func TestFrozen(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 10)
	for m := 11.0; m <= 30; m++ {
		b.bill(sample(m, 100_400_000_000))
	}
	b.served(5, 1000)
	c := b.cost(until(0, 30))
	holds(t, c, "", report.FlagFrozen)
	if text := written(t, c, report.Text); !strings.Contains(text, "\nwarning: the machine runs and its bill stands still, so the provider's figures\n  are dead and the spend is too low.\n") {
		t.Errorf("text:\n%s", text)
	}
	// A report that ends on the dead figure has it too; one that ends on a bill
	// which moved afterwards is sound.
	holds(t, b.cost(explicitly(0, 12, 30)), "", report.FlagFrozen)
	holds(t, b.cost(explicitly(0, 8, 30)), "")
}

func TestGaps(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.served(1, 1_000_000)
	var bill ledger.Nanos
	for _, m := range []float64{0, 1, 30, 31, 1600, 1700, 1800, 1900} {
		bill += 1_000_000_000
		b.bill(sample(m, bill))
	}
	c := b.cost(until(0, 1900))
	holds(t, c, "", ledger.FlagGaps)
	want := []report.Span{{From: at(1), To: at(30)}, {From: at(31), To: at(1600)}, {From: at(1600), To: at(1700)},
		{From: at(1700), To: at(1800)}, {From: at(1800), To: at(1900)}}
	if !slices.Equal(c.Samples.Gaps, want) {
		t.Errorf("gaps %v, want %v", c.Samples.Gaps, want)
	}
	if text := written(t, c, report.Text); !strings.Contains(text, `
note: samples are missing, which leaves the sum right and hides when it was
  spent: 2026-10-17 08:01:00 to 08:30:00 UTC (29m), 2026-10-17 08:31:00 to
  2026-10-18 10:40:00 UTC (26h 9m), 2026-10-18 10:40:00 to 12:20:00 UTC (1h
  40m), and 2 more.
`) {
		t.Errorf("text:\n%s", text)
	}
}

// A refund: net falls below zero, gross does not, and the quotient follows net.
func TestRefundAndOtherFlags(t *testing.T) {
	t.Parallel()
	b := open(t)
	first, last := sample(0, 10_000_000_000), sample(2, 8_765_432_100)
	last.Lines = append(last.Lines, ledger.Line{Resource: "vol-1", Kind: ledger.Volume, Bill: nanos(1), Epoch: "e1"})
	for _, s := range []*ledger.Sample{&first, &last} {
		s.Calibrated, s.Truth, s.Currency, s.Provider = false, ledger.TruthAccount, "EUR", "verda"
	}
	b.bill(first, last)
	b.served(1, 2_000_000)
	b.served(1.5, 0, cut)
	b.served(1.6, 0, cut)
	c := b.cost(until(-90, 2.2))
	holds(t, c, "", ledger.FlagAccountTruth, ledger.FlagAdjusted, ledger.FlagFirstSeen, report.FlagLowerBound, ledger.FlagStartsLate, ledger.FlagUncalibrated)
	if *c.Spend.Net != "-1.2345679" || *c.Spend.Gross != "0" || *c.CostPerMillion != "-0.61728395" {
		t.Errorf("net %s, gross %s, price %s", *c.Spend.Net, *c.Spend.Gross, *c.CostPerMillion)
	}
	same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 08:00:00 to 08:02:00 UTC (2m)

per million output tokens   EUR -0.6173
utilisation                       15.0%   of the time a request ran; finished ones only
spend                         EUR -1.23   from the bill of verda
spend before credits           EUR 0.00   what the budget counts
output tokens                 2,000,000
prompt tokens                       300   75 of them cached (25%)
requests                              3
samples                               2   of the bill, #1 to #2

note: the bill is the whole account's: whatever else runs on it is in the spend.
note: a bill fell: a refund, a credit or a correction. The spend is after it.
note: a resource was first seen inside the window; what it was billed before is
  not in the spend.
note: 2 requests were cut before their last count; they made at least the tokens
  shown.
note: begins 1h 30m after the asked start, at the ledger's first sample; what
  was billed before is not in the spend.
note: how often and how late this bill moves was never measured on this account;
  its last minutes may be missing.
Counted: everything that the account is billed for. Not counted: what other
  accounts pay, such as the machine of the gateway.
`)
}

// Each flag that a ledger may set has a sentence.
func TestFlagsOfTheLedgerAreExplained(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.served(1, 1)
	first, second, third := sample(0, 1), sample(1, 1), sample(2, 1)
	first.Lines = append(first.Lines, ledger.Line{Resource: "vol-1", Kind: ledger.Volume, Bill: nanos(1), Epoch: "e1"})
	second.Lines[0].Bill = nil
	third.Lines[0].Epoch = "e2"
	b.bill(first, second, third)
	c := b.cost(until(0, 2))
	holds(t, c, "", ledger.FlagEpochChanged, ledger.FlagGone, ledger.FlagUnknownBill)
	text := written(t, c, report.Text)
	for _, s := range []string{
		"\nwarning: a resource came without its bill in some samples; where its last ones\n",
		"\nnote: a bill began anew;",
		"\nnote: a resource left the bill; it is counted up to its last sight.\n",
	} {
		if !strings.Contains(text, s) {
			t.Errorf("no %q in:\n%s", s, text)
		}
	}
}

// A resource that is out of sight and comes back, with a bill that has grown.
func TestAResourceOutOfSightIsExplained(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.served(2, 1)
	volume := ledger.Line{Resource: "vol-1", Kind: ledger.Volume, Bill: nanos(1), Epoch: "e1"}
	first, second, third := sample(0, 1), sample(1, 1), sample(2, 1)
	first.Lines = append(first.Lines, volume)
	volume.Bill = nanos(5)
	third.Lines = append(third.Lines, volume)
	b.bill(first, second, third)
	c := b.cost(until(1, 2))
	holds(t, c, "", ledger.FlagUnseen)
	if text := written(t, c, report.Text); !strings.Contains(text, "\nnote: a resource was out of sight for a while;") {
		t.Errorf("no note in:\n%s", text)
	}
}

func TestPerMillion(t *testing.T) {
	t.Parallel()
	f := func(net ledger.Nanos, tokens int64, want string) {
		t.Helper()
		if got := report.PerMillion(net, tokens); got != want {
			t.Errorf("%s for %d tokens = %q a million, want %q", net, tokens, got, want)
		}
	}
	f(1_000_000_000, 1_000_000, "1")
	f(1_000_000_000, 3_000_000, "0.333333333")
	f(2_000_000_000, 3_000_000, "0.666666667")
	f(-2_000_000_000, 3_000_000, "-0.666666667")
	f(2_400_000_000, 1_634_666, "1.468189832")
	f(12_340_000_000, 1, "12340000")
	f(0, 5, "0")

	// Half a nano rounds away from zero, less than half towards it.
	f(1, 2_000_000, "0.000000001")
	f(-1, 2_000_000, "-0.000000001")
	f(1, 2_000_001, "0")
	f(-1, 2_000_001, "0")
	f(5, 2_000_000, "0.000000003")

	// No intermediate is too large.
	f(math.MaxInt64, 1, "9223372036854775.807")
	f(math.MaxInt64, 7, "1317624576693539.401")
	f(math.MinInt64, 1, "-9223372036854775.808")
	f(math.MaxInt64, math.MaxInt64, "0.001")

	f(1, 0, "")
	f(1, -1, "")
}

func TestMoney(t *testing.T) {
	t.Parallel()
	f := func(currency string, d report.Decimal, want string) {
		t.Helper()
		if got := report.Money(currency, d); got != want {
			t.Errorf("money(%q, %q) = %q, want %q", currency, d, got, want)
		}
	}
	f("USD", "0", "$ 0.00")
	f("USD", "0.0421", "$ 0.0421")
	f("USD", "0.042149", "$ 0.04215")
	f("USD", "0.5", "$ 0.50")
	f("USD", "0.123", "$ 0.123")
	f("USD", "0.99999", "$ 1.00")
	f("USD", "0.999949", "$ 0.9999")
	f("USD", "0.000000001", "$ 0.000000001")
	f("USD", "1", "$ 1.00")
	f("USD", "12.345", "$ 12.35")
	f("USD", "-12.345", "$ -12.35")
	f("USD", "999999.999", "$ 1,000,000.00")
	f("USD", "-1234.5", "$ -1,234.50")
	f("USD", "-0.0001", "$ -0.0001")
	f("EUR", "12.34", "EUR 12.34")
	f("", "12.34", "12.34")
}

func TestLength(t *testing.T) {
	t.Parallel()
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := report.Length(d); got != want {
			t.Errorf("length(%v) = %q, want %q", d, got, want)
		}
	}
	day := 24 * time.Hour
	f(300*time.Millisecond, "under 1s")
	f(time.Second, "1s")
	f(59*time.Second, "59s")
	f(59*time.Second+600*time.Millisecond, "1m")
	f(125*time.Second, "2m 5s")
	f(59*time.Minute+45*time.Second, "1h")
	f(time.Hour, "1h")
	f(200*time.Minute, "3h 20m")
	f(day-2*time.Second, "24h")
	f(day, "24h")
	f(36*time.Hour, "36h")
	f(2*day-time.Second, "2d")
	f(7*day-time.Second, "7d")
	f(7*day+5*time.Hour, "7d 5h")
}
