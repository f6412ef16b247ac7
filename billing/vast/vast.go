// Package vast reads the bill of Vast.ai: a listing of what each contract (instance-N,
// volume-N) was charged over days that we choose, each amount rounded to 0.001.
//
// The calls and their fields are those of docs.vast.ai/api-reference and of
// vast-ai/vast-cli, vast.py. What they leave open, and how it is taken here:
//
//   - The listing can be asked for whole days (UTC) and kinds, not for one contract:
//     it is read to its end, and ours are picked by source.
//   - Whether a part of a day is prorated is not said. Every window starts at the
//     midnight before the anchor, and ends with a day.
//   - A contract that is not listed has no bill yet, which is not a zero.
//   - Some refusals come as 200 with success false.
//   - An amount has no currency. Prices are published in USD.
//   - A path ends in a slash where these have one: a redirect is not followed.
//   - volume_info is null where there are no volumes, and never left out.
//
// What the whole account has left is told beside the bill, see BalanceReader.
package vast

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

const (
	name         = "vast"
	defaultURL   = "https://console.vast.ai"
	keyVar       = "VAST_API_KEY"
	keyFileVar   = "VAST_API_KEY_FILE"
	urlVar       = "VAST_URL"            // as vast-cli has it
	containerVar = "CONTAINER_ID"        // inside a container: the instance's number
	labelVar     = "VAST_CONTAINERLABEL" // the same, as C.123456
	ownKeyVar    = "CONTAINER_API_KEY"   // inside a container: a key to stop it, not to read its bill
	pageSize     = 500                   // the most that a page may hold

	// Charges accrue by the second. How late one shows is documented nowhere; until
	// it is measured on the account, five minutes are allowed.
	step = time.Minute
	lag  = 5 * time.Minute

	unit = 1_000_000 // an amount moves by so many nano-USD
)

type adapter struct {
	api        *api.Client
	keyHint    string // what to do when the key is refused
	anchors    *api.Anchors
	departures *api.Departures
	instance   int64

	account string              // "" until it is read
	created map[int64]time.Time // of volumes, which the instance does not tell
}

// Adapter is Vast.ai's row in the table of providers.
func Adapter() api.Adapter {
	return api.Adapter{
		Name: name, Env: []string{keyVar, keyFileVar}, Open: open,
		Invoice: api.InvoiceColumns{ // fields of the charges call: source is instance-N or volume-N
			Resource: []string{"source", "instance_id", "contract_id", "resource_id"},
			Day:      []string{"start", "day", "date", "timestamp"},
			Amount:   []string{"amount", "charge", "cost"},
			Currency: []string{"currency"},
		},
	}
}

func open(opts api.Options) (api.Provider, error) {
	base, err := provider.BaseURL(cmp.Or(opts.URL, opts.Env(urlVar), defaultURL))
	if err != nil {
		return nil, err
	}
	const scope = "an account's key that may read its billing; " + ownKeyVar + ", which an instance has for itself, may not"
	if opts.Env(keyVar) == "" && opts.Env(keyFileVar) == "" && opts.Env(ownKeyVar) != "" {
		return nil, hint.Errorf("set "+keyVar+" or "+keyFileVar+": it must be "+scope, "%s is not set", keyVar)
	}
	key, err := provider.Credential(opts.Env, keyVar, keyFileVar)
	if err != nil {
		return nil, err
	}
	id, err := instanceID(opts)
	if err != nil {
		return nil, err
	}
	client := provider.NewClient(base, opts.Transport)
	client.Authorize = provider.Bearer(key)
	client.Secrets = provider.Secrets{key}
	keyHint := "check " + keyVar + ": it must be " + scope
	v := &adapter{
		api:        api.NewClient(client, keyHint),
		keyHint:    keyHint,
		anchors:    api.NewAnchors(opts.History),
		departures: api.NewDepartures(opts.History, name, lag),
		instance:   id,
		created:    make(map[int64]time.Time),
	}
	return v, nil
}

// instanceID is the box that we are: as it was said, else as a container is told
// by its environment.
func instanceID(opts api.Options) (int64, error) {
	if opts.Instance != "" {
		id, err := strconv.ParseInt(opts.Instance, 10, 64)
		if err != nil || id <= 0 {
			return 0, hint.Errorf("the console shows it on the instance's card", "instance %q: not the number of a Vast.ai instance", opts.Instance)
		}
		return id, nil
	}
	var found int64
	for _, name := range []string{containerVar, labelVar} {
		text := opts.Env(name)
		if text == "" {
			continue
		}
		id, err := strconv.ParseInt(strings.TrimPrefix(text, "C."), 10, 64)
		if err != nil || id <= 0 {
			return 0, hint.Errorf("name this machine's id with --instance", "%s is %q: not the number of a Vast.ai instance", name, text)
		}
		if found != 0 && found != id {
			return 0, hint.Errorf("name this machine's id with --instance", "%s says %d and %s says %d", containerVar, found, labelVar, id)
		}
		found = id
	}
	if found == 0 {
		return 0, hint.Errorf("name this machine's id with --instance", "which Vast.ai instance this is cannot be told: neither %s nor %s is set", containerVar, labelVar)
	}
	return found, nil
}

func (v *adapter) Name() string { return name }

// Each endpoint has a shortest interval of its own, which is not published. A
// sample takes two calls, and further ones for further pages.
func (v *adapter) MinInterval() time.Duration { return 5 * time.Second }

// Sample implements Provider. A listing says what was charged up to now: At is the
// whole second at which it came, which is later than now where it was asked for again.
func (v *adapter) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	clk, end := provider.StartClock(now), api.Midnight(now).AddDate(0, 0, 1)
	s, f := v.read(ctx, clk, end, true)
	if f != nil {
		return ledger.Sample{}, f
	}
	s.Lines = v.anchors.Move(s.Lines, now, func(l ledger.Line, anchor time.Time) (ledger.Line, *api.Failure) {
		// Not from the sample's own listings: the bill may have moved since.
		return v.line(ctx, clk, make(chargesByStart), l.Resource, l.Kind, l.Created, anchor, end)
	})
	return s, nil
}

// SampleAt implements Boundary. Charges are listed by the day, so only a midnight
// (UTC) can be asked for.
func (v *adapter) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
	at = at.UTC()
	if at.After(now) || !at.Equal(api.Midnight(at)) {
		return ledger.Sample{}, api.Fail(api.Internal, "%s is not a past midnight in UTC: charges are listed by the day", at.Format(time.RFC3339))
	}
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	s, f := v.read(ctx, provider.StartClock(now), at, false)
	if f != nil {
		return ledger.Sample{}, f
	}
	api.ForgetNow(s.Lines)
	return s, nil
}

// read takes the whole sample or none of it: the charges of the days before end, as
// of now or as of end, whichever is first; with what left the box where that is asked
// for. What came to this box later is no part.
func (v *adapter) read(ctx context.Context, clk provider.Clock, end time.Time, left bool) (ledger.Sample, *api.Failure) {
	asOf := func() time.Time {
		if t := clk.Now().UTC().Truncate(time.Second); t.Before(end) {
			return t
		}
		return end
	}
	at := asOf()
	if v.account == "" {
		b, f := v.balances(ctx, clk)
		if f != nil {
			return ledger.Sample{}, f
		}
		v.account = b.Account
	}
	m, absent := v.machine(ctx, clk)
	if absent != nil && !(absent.Absent && left) {
		return ledger.Sample{}, absent
	}
	if m.created.After(at) {
		return ledger.Sample{}, api.Fail(api.Incomplete, "instance %d did not exist at %s", v.instance, at.Format(time.RFC3339))
	}
	s := ledger.Sample{
		At:       at,
		Provider: v.Name(),
		Account:  v.account,
		Currency: "USD",
		Truth:    ledger.TruthResource,
		Step:     step,
		Lag:      lagFor(m.rate),
	}
	listings := make(chargesByStart)
	add := func(source string, kind ledger.Kind, created time.Time, status string, running bool, rate *ledger.Nanos) *api.Failure {
		anchor, f := v.anchors.AsOf(source, created, at, clk.Start())
		if f != nil {
			return f
		}
		line, f := v.line(ctx, clk, listings, source, kind, created, anchor, end)
		if f != nil {
			return f
		}
		line.Status, line.Running, line.Rate = v.api.Word(status), running, rate
		s.Lines = append(s.Lines, line)
		return nil
	}
	if absent == nil {
		if f := add(sourceName(ledger.Instance, v.instance), ledger.Instance, m.created, m.status, m.running, m.rate); f != nil {
			return ledger.Sample{}, f
		}
		s.At = asOf()
	}
	for _, id := range m.volumes {
		born, f := v.volumeCreated(ctx, clk, id)
		if f != nil {
			return ledger.Sample{}, f
		}
		if born.After(at) {
			continue
		}
		if f := add(sourceName(ledger.Volume, id), ledger.Volume, born, "attached", true, nil); f != nil { // billed while it exists
			return ledger.Sample{}, f
		}
	}
	if !left {
		return s, nil
	}
	last, f := v.departures.Lines(s.Lines, s.At, v.lastBill(ctx, clk, listings, end))
	if f != nil {
		return ledger.Sample{}, f
	}
	if s.Lines = append(s.Lines, last...); absent != nil && len(s.Lines) == 0 {
		return ledger.Sample{}, absent // not there, and never seen or closed
	}
	return s, nil
}

// chargesByStart holds the listings of one sample by their start: the anchors of an
// instance and its volumes are mostly one day, and one listing has the charges of both.
type chargesByStart map[time.Time][]charge

// line reads the bill of one contract from its anchor to end.
func (v *adapter) line(ctx context.Context, clk provider.Clock, listings chargesByStart, source string, kind ledger.Kind, created, anchor, end time.Time) (ledger.Line, *api.Failure) {
	if !anchor.Before(end) {
		return ledger.Line{}, api.Fail(api.ClockSkew, "the series of %s starts at %s, which is still to come", source, anchor.Format(time.RFC3339)).At(chargesCall)
	}
	all, ok := listings[anchor]
	if !ok {
		var f *api.Failure
		if all, f = v.charges(ctx, clk, anchor, end); f != nil {
			return ledger.Line{}, f
		}
		listings[anchor] = all
	}
	bill, raw, f := billOf(all, source)
	if f != nil {
		return ledger.Line{}, f.At(chargesCall)
	}
	return ledger.Line{Resource: source, Kind: kind, Bill: &bill, Epoch: api.Epoch(anchor), Created: created, Raw: v.api.Keep(raw)}, nil
}

// lagFor is how long a running instance's bill may stand still: the lag, or
// where that is longer, the time in which it moves by three units at this rate.
func lagFor(rate *ledger.Nanos) time.Duration {
	if rate == nil || *rate <= 0 {
		return lag
	}
	const most = time.Hour // for a machine at a third of a cent
	seconds := 3 * unit * 3600 / int64(*rate)
	return min(max(lag, time.Duration(min(seconds, 3600))*time.Second), most)
}

// decode reads a reply into v, unless it is a refusal that came as a 200.
func decode(body []byte, v any) *api.Failure {
	var says struct {
		Success *bool `json:"success"`
	}
	if f := api.Decode(body, &says); f != nil {
		return f
	}
	if says.Success != nil && !*says.Success {
		if word := provider.Reason(body); word != "" {
			return api.Fail(api.Incomplete, "reply says success false (%s)", word)
		}
		return api.Fail(api.Incomplete, "reply says success false")
	}
	return api.Decode(body, v)
}
