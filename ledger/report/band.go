package report

import (
	"fmt"
	"math/big"
	"slices"
	"time"

	"spotinference/ledger"
)

// Lengths of a bucket that are none.
const (
	AutoBucket time.Duration = 0  // as fits the window: an hour, or none in a short one
	NoBucket   time.Duration = -1 // one figure, no table and no band
)

const (
	// maxBuckets is as many as a person or a chart can use, and more.
	maxBuckets = 1000
	// bucketless is the longest window that is not cut into buckets unasked.
	bucketless = 2 * time.Hour
	day        = 24 * time.Hour
)

// BucketHint is the hint of every error of ParseBucket.
const BucketHint = "use a duration of a minute or more such as 1h or 7d, or none"

// FlagUnsettled marks a figure of less time than the provider's bill moves in: it
// shows the steps of the bill and not the price of the tokens.
const FlagUnsettled = "unsettled"

// FlagPartial marks a bucket that is shorter than the others, because the window
// begins or ends within it, or because samples are missing.
const FlagPartial = "partial"

// Bucket is what a part of the window cost. It begins and ends with a sample, as
// the window does, and the next begins where it ends.
type Bucket struct {
	From             time.Time `json:"from"`
	To               time.Time `json:"to"`
	Net              *Decimal  `json:"net"`
	Gross            *Decimal  `json:"gross"`
	Requests         int64     `json:"requests"`
	CompletionTokens int64     `json:"completion_tokens"`
	CostPerMillion   *Decimal  `json:"cost_per_million_output_tokens"`
	Utilisation      *Decimal  `json:"utilisation"`
	Flags            []string  `json:"flags"` // those that say something of this bucket alone

	price *big.Int // CostPerMillion in units of 1e-9
}

// Band is the lowest, the middle and the highest price of the buckets in which
// tokens were made. A partial bucket counts only where there is no whole one:
// a minute of an hour has the price of an accident. null where there is none,
// and where the buckets are finer than the steps of the bill.
type Band struct {
	Low    *Decimal `json:"low"`
	Median *Decimal `json:"median"`
	High   *Decimal `json:"high"`

	over        int      // buckets that it was made of
	lo, mid, hi *big.Int // the three in units of 1e-9
}

// ParseBucket reads the length of a bucket.
func ParseBucket(s string) (time.Duration, error) {
	switch s {
	case "auto":
		return AutoBucket, nil
	case "none":
		return NoBucket, nil
	}
	d, fault := parseSpan(s)
	if fault == "" && d < time.Minute {
		fault = "shorter than a minute"
	}
	if fault != "" {
		return 0, badQuestion(BucketHint, "bucket %q: %s", s, fault)
	}
	return d, nil
}

// bucketLength is the length of the query's buckets, NoBucket for none. By itself it is
// not finer than billed, the step in which the bill moves.
func bucketLength(q CostQuery, billed time.Duration) (time.Duration, error) {
	window := q.Window.To.Sub(q.Window.From)
	switch {
	case q.Bucket == AutoBucket && window > bucketless:
		return q.Window.Fitting(max(time.Hour, billed), maxBuckets), nil
	case q.Bucket == AutoBucket && q.Chart:
		return q.Window.Fitting(max(time.Minute, billed), 30), nil
	case q.Bucket <= 0:
		return NoBucket, nil
	case q.Window.Count(q.Bucket) > maxBuckets:
		return 0, badQuestion(fmt.Sprintf("use --bucket %s or longer, or a shorter --window", spell(q.Window.Fitting(time.Hour, maxBuckets))),
			"%s buckets in a window of %s: more than %s", count(q.Window.Count(q.Bucket)), length(window), count(maxBuckets))
	}
	return q.Bucket, nil
}

// buckets are the figures between the edges, without their utilisation.
func (src source) buckets(r *ledger.Reader, edges []time.Time) ([]Bucket, error) {
	windows := ledger.WindowsBetween(edges)
	sums, err := r.SpentOf(windows)
	if err != nil {
		return nil, err
	}
	served, err := r.TotalsOf(windows)
	if err != nil {
		return nil, err
	}
	out := []Bucket{}
	for i, sp := range sums {
		k := Bucket{
			From: edges[i], To: edges[i+1],
			Requests: served[i].Requests(), CompletionTokens: served[i].Usage.CompletionTokens,
			Flags: []string{},
		}
		if !sp.RatesOnly() {
			k.Net, k.Gross = nanosDecimal(sp.Net), nanosDecimal(sp.Gross)
			k.price = nanosPerMillion(sp.Net, k.CompletionTokens)
			k.CostPerMillion = decimal(k.price, 9)
		}
		for _, f := range sp.Flags {
			if !slices.Contains(flagsOfAll, f) {
				k.Flags = append(k.Flags, f)
			}
		}
		long := k.To.Sub(k.From)
		if long < src.bucket-sp.Every*5/2 { // the slack that a gap has, too
			k.Flags = append(k.Flags, FlagPartial)
		}
		if long < src.step {
			k.Flags = append(k.Flags, FlagUnsettled)
		}
		if served[i].LowerBound > 0 {
			k.Flags = append(k.Flags, FlagLowerBound)
		}
		slices.Sort(k.Flags)
		out = append(out, k)
	}
	return out, nil
}

// flagsOfAll say the same of each bucket, and so are said once, of the report.
var flagsOfAll = []string{ledger.FlagUncalibrated, ledger.FlagAccountTruth, ledger.FlagStartsLate}

// bandOf is the band of buckets of which each is long enough to have a price.
func bandOf(all []Bucket) Band {
	var whole, cut []*big.Int
	for _, k := range all {
		switch {
		case k.price == nil:
		case slices.Contains(k.Flags, FlagPartial):
			cut = append(cut, k.price)
		default:
			whole = append(whole, k.price)
		}
	}
	prices := whole
	if len(prices) == 0 {
		prices = cut
	}
	n := len(prices)
	if n == 0 {
		return Band{}
	}
	slices.SortFunc(prices, (*big.Int).Cmp)
	middle := quotient(new(big.Int).Add(prices[(n-1)/2], prices[n/2]), big.NewInt(2))
	return Band{
		Low: decimal(prices[0], 9), Median: decimal(middle, 9), High: decimal(prices[n-1], 9),
		over: n, lo: prices[0], mid: middle, hi: prices[n-1],
	}
}
