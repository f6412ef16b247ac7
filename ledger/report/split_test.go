package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/ledger/report"
)

// event notes what happened at a minute.
func (b *book) event(minutes float64, d ledger.EventDetail) {
	b.t.Helper()
	if err := b.AddEvent(at(minutes), d); err != nil {
		b.t.Fatal(err)
	}
}

// engine notes a change of the engine's state: "starting→ready".
func (b *book) engine(minutes float64, change string) {
	b.t.Helper()
	from, to, _ := strings.Cut(change, "→")
	b.event(minutes, ledger.EngineChange{From: ledger.EngineState(from), To: ledger.EngineState(to)})
}

// ran writes a request that was in the engine from minute to minute.
func (b *book) ran(from, to float64, tokens int64, change ...func(*ledger.Request)) {
	b.t.Helper()
	b.served(to, tokens, append(change, func(r *ledger.Request) { r.Started = at(from) })...)
}

func model(name string) func(*ledger.Request) { return func(r *ledger.Request) { r.Model = name } }
func key(name string) func(*ledger.Request)   { return func(r *ledger.Request) { r.Key = name } }

// afternoon is a story of four hours, from 07:50 to 12:10 with samples a minute at
// four cents. The engine starts at 07:52 and is ready at 08:00; it serves an hour
// without a pause, then half of one, then nothing; it is suspended from 11:00 to
// 11:30 and crashes at 11:50.
func afternoon(t *testing.T) *book {
	b := open(t)
	b.event(-11, ledger.GatewayStarted{})
	b.engine(-8, "stopped→starting")
	b.engine(0, "starting→ready")
	b.bills(-10, 250)
	b.ran(0, 40, 1_000_000, model("qwen"), key("ann"))
	b.ran(20, 60, 2_000_000, model("qwen"), key("bob"))
	b.ran(90, 120, 500_000, model("llama"), key("ann"))
	b.engine(180, "ready→suspending")
	b.engine(180.5, "suspending→suspended")
	b.engine(209, "suspended→waking")
	b.engine(210, "waking→ready")
	b.ran(209, 215, 1000, model(""), key(""))
	b.engine(230, "ready→crashed")
	return b
}

func asked(b *book, q report.CostQuery, change func(*report.CostQuery)) report.CostReport {
	b.t.Helper()
	if change != nil {
		change(&q)
	}
	return b.cost(q)
}

func TestCostOfAnAfternoon(t *testing.T) {
	t.Parallel()
	b := afternoon(t)
	c := asked(b, until(-10, 250), nil)
	same(t, "text", written(t, c, report.Text), `
Cost from 2026-10-17 07:50:00 to 12:10:00 UTC (4h 20m)

per million output tokens       $ 2.97
  low                           $ 0.80   of 3 buckets of 1h with output
  median                        $ 4.80
  high                      $ 2,400.00
utilisation                      36.9%   of the time a request ran; finished ones only
spend                          $ 10.40   from the bill of hyperstack
  serving                       $ 3.80   a request was in the engine
  idle                          $ 4.20   ready, without a request
  waking                        $ 0.36   starting, or coming back from suspension
  suspended                     $ 1.16   the GPU was let go
  down                          $ 0.88   stopped or crashed
output tokens                3,501,000
prompt tokens                      400   100 of them cached (25%)
requests                             4
samples                            261   of the bill, #1 to #261

from (UTC)          spend   output tokens   per million   utilisation
2026-10-17 07:50   $ 0.40               0             -          0.0%   part of it
2026-10-17 08:00   $ 2.40       3,000,000        $ 0.80        100.0%
2026-10-17 09:00   $ 2.40         500,000        $ 4.80         50.0%
2026-10-17 10:00   $ 2.40               0             -          0.0%
2026-10-17 11:00   $ 2.40           1,000    $ 2,400.00         10.0%
2026-10-17 12:00   $ 0.40               0             -          0.0%   part of it

Counted: GPU compute and this box's volumes. Not counted: egress and other
  machines, the gateway's own among them.
`)
	var got struct {
		Band        map[string]string
		Utilisation string
		Split       map[string]string
		Buckets     []map[string]any
	}
	if err := json.Unmarshal([]byte(written(t, c, report.JSON)), &got); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %s %v", got.Band, got.Utilisation, got.Split); s != "map[high:2400 low:0.8 median:4.8] 0.3692 map[down:0.88 idle:4.2 serving:3.8 suspended:1.16 waking:0.36]" {
		t.Errorf("json: %s", s)
	}
	want := "map[completion_tokens:500000 cost_per_million_output_tokens:4.8 flags:[] from:2026-10-17T09:00:00Z gross:2.4 net:2.4 requests:1 to:2026-10-17T10:00:00Z utilisation:0.5000]"
	if s := fmt.Sprint(got.Buckets[2]); s != want {
		t.Errorf("json bucket %s, want %s", s, want)
	}

	// One row a bucket, but only for one who asks for buckets.
	if rows := records(t, c); len(rows) != 2 {
		t.Errorf("%d records", len(rows))
	}
	c = asked(b, until(-10, 250), func(q *report.CostQuery) { q.Bucket = 2 * time.Hour })
	same(t, "csv", written(t, c, report.CSV), `
from,to,currency,net,gross,requests,completion_tokens,cost_per_million_output_tokens,utilisation,flags,demo
2026-10-17T07:50:00Z,2026-10-17T08:00:00Z,USD,0.4,0.4,0,0,,0.0000,partial,false
2026-10-17T08:00:00Z,2026-10-17T10:00:00Z,USD,4.8,4.8,3,3500000,1.371428571,0.7500,,false
2026-10-17T10:00:00Z,2026-10-17T12:00:00Z,USD,4.8,4.8,1,1000,4800,0.0500,,false
2026-10-17T12:00:00Z,2026-10-17T12:10:00Z,USD,0.4,0.4,0,0,,0.0000,partial,false
`)
	if *c.Band.Median != "2400.685714286" { // the middle of two
		t.Errorf("median %s", *c.Band.Median)
	}

	// An empty window knows no band, a short one no bucket.
	if c = b.cost(until(120, 180)); len(c.Buckets) != 0 || c.Band.Low != nil || *c.Utilisation != "0.0000" {
		t.Errorf("short: %d buckets, low %v", len(c.Buckets), c.Band.Low)
	}
}

func records(t *testing.T, c report.CostReport) [][]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(written(t, c, report.CSV))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestBy(t *testing.T) {
	t.Parallel()
	b := afternoon(t)
	byModel := func(q *report.CostQuery) { q.By, q.Bucket = report.ByModel, report.NoBucket }
	c := asked(b, until(-10, 250), byModel)
	text := written(t, c, report.Text)
	const tables = `
model         requests   prompt tokens   output tokens   share        spend
qwen                 2             200       3,000,000   85.7%       $ 3.26
llama                1             100         500,000   14.3%     $ 0.5427
(none)               1             100           1,000    0.0%   $ 0.001085
(idle)                                                               $ 4.20
(waking)                                                             $ 0.36
(suspended)                                                          $ 1.16
(down)                                                               $ 0.88
total                4             400       3,501,000              $ 10.40

note: the share is by output tokens, and so is the spend while the engine
  served. What it cost while it did not is put to no model.
`
	if !strings.Contains(text, tables) {
		t.Errorf("text:\n%s", text)
	}
	c = asked(b, until(-10, 250), func(q *report.CostQuery) { q.By = report.ByKey })
	same(t, "csv", written(t, c, report.CSV), `
key,id,requests,prompt_tokens,cached_tokens,completion_tokens,share,currency,spend,gross,demo
bob,bob,1,100,25,2000000,0.5713,USD,2.170808341,2.170808341,false
ann,ann,2,200,50,1500000,0.4284,USD,1.628106255,1.628106255,false
,,1,100,25,1000,0.0003,USD,0.001085404,0.001085404,false
`) // adds up to 3.8
	// Without the engine's states, the share is all that is known.
	b = open(t)
	b.bills(0, 10)
	b.served(5, 3, model("a"))
	b.served(6, 1, model("b\n"))
	c = asked(b, until(0, 10), byModel)
	if c.Groups[0].Spend != nil || *c.Groups[0].Share != "0.7500" {
		t.Errorf("groups %v", c.Groups)
	}
	if text := written(t, c, report.Text); !strings.Contains(text, "\n\"b\\n\"          1             100               1   25.0%        -\n") {
		t.Errorf("text:\n%s", text)
	}
}

// The parts of the split add up to net to the nano, whatever the story: odd
// instants, refunds, resources that come and go, gateways that die.
func TestSplitAddsUp(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		b := open(t)
		rnd := rand.New(rand.NewPCG(seed, 7))
		b.event(-0.5, ledger.GatewayStarted{})
		states := []string{"starting", "ready", "ready", "ready", "suspending", "suspended", "waking", "crashed", "stopped"}
		bill, minute := ledger.Nanos(rnd.IntN(1e9)), 0.0
		for minute < 30 {
			s := sample(minute, bill)
			if rnd.IntN(4) == 0 {
				s.Lines = append(s.Lines, ledger.Line{Resource: "vol-1", Kind: ledger.Volume, Bill: nanos(ledger.Nanos(rnd.IntN(1e6))), Epoch: "e1", Created: at(-1 + minute)})
			}
			if rnd.IntN(8) == 0 {
				s.Lines[0].Bill = nil
			}
			b.bill(s)
			bill += ledger.Nanos(rnd.IntN(1e8)) - 1e7
			if rnd.IntN(2) == 0 {
				b.engine(minute+rnd.Float64()/2, "x→"+states[rnd.IntN(len(states))])
			}
			if rnd.IntN(10) == 0 {
				b.event(minute+0.9, ledger.GatewayStarted{})
			}
			b.ran(minute-rnd.Float64()*3, minute+rnd.Float64(), int64(rnd.IntN(9)))
			minute += 0.3 + rnd.Float64()*2
		}
		c := asked(b, until(0, minute), nil)
		var sum, net big.Rat
		net.SetString(string(*c.Spend.Net))
		for _, d := range []*report.Decimal{c.Split.Serving, c.Split.Idle, c.Split.Waking, c.Split.Suspended, c.Split.Down} {
			if d == nil {
				t.Fatalf("seed %d: split %v", seed, c.Split)
			}
			r, ok := new(big.Rat).SetString(string(*d))
			if !ok {
				t.Fatalf("seed %d: %q", seed, *d)
			}
			sum.Add(&sum, r)
		}
		if sum.Cmp(&net) != 0 {
			t.Errorf("seed %d: parts add up to %s, net is %s", seed, sum.FloatString(9), net.FloatString(9))
		}
	}
}

// A gateway that dies says nothing: the engine was down from the last trace of it.
func TestDeadGatewayIsDown(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.event(0, ledger.GatewayStarted{})
	b.engine(0, "starting→ready")
	b.bills(0, 10)
	b.ran(10, 10.5, 1, lost) // dated when it was last seen
	b.event(19, ledger.GatewayStarted{})
	b.engine(20, "starting→ready")
	b.bill(sample(20, 100_800_000_000), sample(21, 100_840_000_000))
	c := asked(b, until(0, 21), nil)
	split := func(d *report.Decimal) string { return string(*d) }
	if got := split(c.Split.Serving) + " " + split(c.Split.Idle) + " " + split(c.Split.Down); got != "0.02 0.44 0.38" {
		t.Errorf("serving, idle, down = %s", got)
	}

	// A new ledger's first sample is older than the gateway's first word by less
	// than a second: nothing ran yet.
	b = open(t)
	b.bills(0, 10)
	b.event(0.5, ledger.GatewayStarted{})
	b.engine(1, "starting→ready")
	if c = b.cost(until(0, 10)); c.Split.Down == nil || *c.Split.Down != "0.04" {
		t.Errorf("split %v", c.Split)
	}

	// Before the first word of it, its state is not known, and neither is the split.
	b = open(t)
	b.bills(0, 10)
	b.engine(5, "starting→ready")
	if c = b.cost(until(0, 10)); c.Split != (report.Split{}) {
		t.Errorf("split %v", c.Split)
	}
	if c = b.cost(until(5, 10)); c.Split.Idle == nil || *c.Split.Idle != "0.2" {
		t.Errorf("split %v", c.Split)
	}
	b.engine(8, "ready→dreaming") // a word of a later version
	if c = b.cost(until(5, 10)); c.Split != (report.Split{}) {
		t.Errorf("split %v", c.Split)
	}
}

// Where samples are missing, a bucket is as long as the samples make it: no
// spend is spread, and none is lost.
func TestBucketsAcrossAGap(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.bills(0, 30)
	b.bill(sample(150, 120_000_000_000))
	b.bills(500, 510)
	b.served(149, 1_000_000)
	c := asked(b, until(0, 510), func(q *report.CostQuery) { q.Bucket = time.Hour })
	same(t, "csv", written(t, c, report.CSV), `
from,to,currency,net,gross,requests,completion_tokens,cost_per_million_output_tokens,utilisation,flags,demo
2026-10-17T08:00:00Z,2026-10-17T08:30:00Z,USD,1.2,1.2,0,0,,0.0000,partial,false
2026-10-17T08:30:00Z,2026-10-17T10:30:00Z,USD,18.8,18.8,1,1000000,18.8,0.0008,gaps,false
2026-10-17T10:30:00Z,2026-10-17T16:30:00Z,USD,0.4,0.4,0,0,,0.0000,gaps,false
`)
}

func TestUnsettled(t *testing.T) {
	t.Parallel()
	b := open(t)
	for m := range 21 {
		s := sample(float64(m), ledger.Nanos(m/5*200_000_000))
		s.Step = 5 * time.Minute
		b.bill(s)
	}
	b.served(2, 1000)
	b.served(6, 1000)
	fine := func(q *report.CostQuery) { q.Bucket = time.Minute }
	c := asked(b, until(0, 20), fine)
	holds(t, c, "", report.FlagUnsettled)
	if c.Band.Low != nil || len(c.Buckets) != 20 || !slices.Equal(c.Buckets[1].Flags, []string{report.FlagUnsettled}) {
		t.Errorf("band %v, buckets %v", c.Band, c.Buckets)
	}
	if text := written(t, c, report.Text); !strings.Contains(text, "\nnote: the bill moves in steps of 5m, and a bucket of 1m shows the steps, not the\n  price of its tokens; so there is no band.\n") {
		t.Errorf("text:\n%s", text)
	}
	holds(t, b.cost(until(3, 7)), "", report.FlagUnsettled)
	holds(t, b.cost(until(3, 8)), "")
	holds(t, asked(b, until(0, 20), func(q *report.CostQuery) { q.Bucket = 5 * time.Minute }), "")
}

func TestParseBucket(t *testing.T) {
	t.Parallel()
	good := func(s string, want time.Duration) {
		t.Helper()
		if got, err := report.ParseBucket(s); err != nil || got != want {
			t.Errorf("ParseBucket(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	good("1h", time.Hour)
	good("7d", 7*24*time.Hour)
	good("1m", time.Minute)
	good("auto", report.AutoBucket)
	good("none", report.NoBucket)
	bad := func(s, want string) {
		t.Helper()
		_, err := report.ParseBucket(s)
		if !errors.Is(err, report.ErrQuestion) || err.Error() != want || hint.Of(err) != report.BucketHint {
			t.Errorf("ParseBucket(%q) = %v, want %q", s, err, want)
		}
	}
	bad("59s", `bucket "59s": shorter than a minute`)
	bad("-1h", `bucket "-1h": not a positive duration`)
	bad("hour", `bucket "hour": not a duration`)
	bad("", `bucket "": not a duration`)

	b := open(t)
	b.bills(0, 1)
	q := until(0, 365*24*60)
	q.Bucket = time.Hour
	_, err := report.Cost(b.Reader, q)
	if !errors.Is(err, report.ErrQuestion) || err.Error() != "report cost: 8,760 buckets in a window of 365d: more than 1,000" || hint.Of(err) != "use --bucket 24h or longer, or a shorter --window" {
		t.Errorf("Cost = %v", err)
	}
}

// What --explain prints is enough to compute the figures again.
func TestExplainCanBeRecomputed(t *testing.T) {
	t.Parallel()
	b := open(t)
	raw := func(n string) []byte { return []byte(`{"incurred_bill": ` + n + "}\n") }
	first, middle, last := sample(0, 100_000_000_000), sample(1, 98_765_432_101), sample(2, 102_400_000_003)
	first.Lines[0].Raw, last.Lines[0].Raw = raw("100.0"), raw("102.400000003")
	vol := ledger.Line{Resource: "vol-1", Kind: ledger.Volume, Status: "in-use", Bill: nanos(1_000), Epoch: "e7", Created: at(0.5), Raw: []byte("\x1b[2J")}
	middle.Lines = append(middle.Lines, vol)
	vol.Bill = nanos(31_000)
	last.Lines = append(last.Lines, vol)
	b.bill(first, middle, last)
	b.served(1, 1_234_567)
	b.served(2, 7)
	c := asked(b, until(0, 2), func(q *report.CostQuery) { q.Proof = true })
	text := written(t, c, report.Text)
	_, proof, _ := strings.Cut(text, "\nHow this was computed\n")
	same(t, "proof", strings.TrimPrefix(proof, "\n"), `
Sample #1, 2026-10-17T08:00:00Z
  resource   kind       status   rate per hour   bill   epoch
  vm-1       instance   ACTIVE             2.5    100   e1

Sample #2, 2026-10-17T08:01:00Z
  resource   kind       status   rate per hour           bill   epoch
  vm-1       instance   ACTIVE             2.5   98.765432101   e1
  vol-1      volume     in-use       not known       0.000001   e7

Sample #3, 2026-10-17T08:02:00Z
  resource   kind       status   rate per hour            bill   epoch
  vm-1       instance   ACTIVE             2.5   102.400000003   e1
  vol-1      volume     in-use       not known        0.000031   e7

The provider's replies that the bills were read from

  vm-1 in sample #1: 25 bytes, sha256 57a8b6af0a46cf283b5bb4f03a264c3699a0a408fd3ae76a3683a0e52668f784
    {"incurred_bill": 100.0}

  vm-1 in sample #3: 33 bytes, sha256 9657da73c97ef5febd58b0718d95248addc63eaf3bc4d07f1fe8bdc9db8c4413
    {"incurred_bill": 102.400000003}

  vol-1 in sample #2: 4 bytes, sha256 05704e8a84c06017af3105c9536c4f0a8396a079988a10374146d7f747e3b705
    "\x1b[2J"

  vol-1 in sample #3: the same as vol-1 in sample #2

The subtraction, in USD

  instance vm-1, epoch e1
      bill in sample #3              102.400000003
    - bill in sample #1              100
    = spend                            2.400000003
    + fell from sample #1 to #2 by     1.234567899
    = spend before credits             3.634567902

  volume vol-1, epoch e7
      bill in sample #3                             0.000031
    - bill when it was created, within the window   0
    = spend                                         0.000031

  spend = 2.400000003 + 0.000031 = 2.400031003

The division

  output tokens of the 2 requests that finished after 2026-10-17T08:00:00Z,
  up to and including 2026-10-17T08:02:00Z: 1234574
  2.400031003 / 1234574 * 1000000 = 1.944015509 USD per million output tokens
`)

	// By hand: each block "bill - bill = spend", then their sum, then the division.
	number := func(pattern string, s string) []*big.Rat {
		t.Helper()
		var out []*big.Rat
		for _, m := range regexp.MustCompile(`(?m)`+pattern).FindAllStringSubmatch(s, -1) {
			r, ok := new(big.Rat).SetString(m[1])
			if !ok {
				t.Fatalf("%q is no number", m[1])
			}
			out = append(out, r)
		}
		return out
	}
	ends := number(`^      bill in sample #\d+ +([0-9.-]+)$`, proof)
	starts := number(`^    - bill .* ([0-9.-]+)$`, proof)
	spends := number(`^    = spend +([0-9.-]+)$`, proof)
	falls := number(`^    \+ fell from .* by +([0-9.-]+)$`, proof)
	if len(ends) != 2 || len(starts) != 2 || len(spends) != 2 || len(falls) != 1 {
		t.Fatalf("%d ends, %d starts, %d spends, %d falls in:\n%s", len(ends), len(starts), len(spends), len(falls), proof)
	}
	net := new(big.Rat)
	for i := range ends {
		d := new(big.Rat).Sub(ends[i], starts[i])
		if d.Cmp(spends[i]) != 0 {
			t.Errorf("%s - %s is not %s", ends[i].FloatString(9), starts[i].FloatString(9), spends[i].FloatString(9))
		}
		net.Add(net, d)
	}
	m := regexp.MustCompile(`(?m)^  ([0-9.-]+) / (\d+) \* 1000000 = ([0-9.]+) USD per million output tokens$`).FindStringSubmatch(proof)
	if m == nil {
		t.Fatalf("no division in:\n%s", proof)
	}
	if shown, _ := new(big.Rat).SetString(m[1]); shown.Cmp(net) != 0 || m[1] != string(*c.Spend.Net) {
		t.Errorf("net %s, computed %s", m[1], net.FloatString(9))
	}
	tokens, _ := strconv.ParseInt(m[2], 10, 64)
	price := new(big.Rat).Quo(new(big.Rat).Mul(net, big.NewRat(1_000_000, 1)), big.NewRat(tokens, 1))
	if strings.TrimRight(price.FloatString(9), "0") != m[3] || m[3] != string(*c.CostPerMillion) {
		t.Errorf("price %s, computed %s", m[3], price.FloatString(9))
	}
	gross := number(`^    = spend before credits +([0-9.-]+)$`, proof)[0]
	if gross.Cmp(new(big.Rat).Add(spends[0], falls[0])) != 0 {
		t.Errorf("gross %s", gross.FloatString(9))
	}
	if strings.Contains(proof, "\x1b") || !strings.Contains(proof, `"\x1b[2J"`) {
		t.Errorf("a reply moves the cursor:\n%s", proof)
	}
}

// The drawing is well-formed whatever is in it, and says what cannot be drawn.
func TestSVG(t *testing.T) {
	t.Parallel()
	wellFormed := func(c report.CostReport, want ...string) {
		t.Helper()
		text := written(t, c, report.SVG)
		for d := xml.NewDecoder(strings.NewReader(text)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%v in:\n%s", err, text)
			}
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in:\n%s", w, text)
			}
		}
	}
	chart := func(q *report.CostQuery) { q.Chart = true }
	b := afternoon(t)
	wellFormed(asked(b, until(-10, 250), chart), "median $ 4.80", "Cost per million output tokens (USD)", ">08:00", "$ 2,400.00")
	wellFormed(asked(b, until(0, 60), chart), "high $ 0.20", "Each step: 5m.")
	wellFormed(asked(b, until(121, 170), chart), "no output token was made, so there is no price")
	wellFormed(asked(open(t), until(0, 60), chart), "Not known: the ledger holds no sample")

	b = open(t)
	first, last := sample(0, 10_000_000_000), sample(2, 8_000_000_000)
	first.Currency, last.Currency = "EUR", "EUR"
	b.bill(first, last)
	b.served(1, 2_000_000)
	wellFormed(asked(b, until(0, 2), chart), "EUR -1.00")

	var u report.UsageReport
	if err := u.Write(&bytes.Buffer{}, report.SVG); !errors.Is(err, report.ErrQuestion) {
		t.Errorf("usage as svg = %v", err)
	}
}
