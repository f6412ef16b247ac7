package billing

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"spotinference/ledger"
)

// Verda (formerly DataCrunch): the balance of an account, and rates. No call tells
// what one machine cost, so the bill is the account's: whatever else runs in it is
// in it too. Give this box an account, or a project, of its own.
//
// The calls and their fields are those of verdacloud-sdk-go, pkg/verda (auth.go,
// balance.go, instances_types.go, volumes_types.go). What that leaves open, and
// how it is taken here:
//
//   - The bill is how far the balance has fallen since an opening balance; the
//     opening is part of the epoch, and so in the ledger.
//   - No call lists top-ups. A balance that rose hides what was spent meanwhile, so
//     a new epoch begins: that spend is not known, and never negative. A top-up
//     smaller than the charges of the same interval hides in a fall and cannot be
//     seen: top up in large, round amounts.
//   - Machines are said to be paid for ten minutes ahead, and the unused part to be
//     given back. A rise of no more than that is such a refund: the bill falls
//     within its epoch.
//   - What a machine costs while it is offline is not documented; third parties say
//     the full price. It counts as running.
//   - A balance below zero is taken as it is: what is owed was spent.
//   - No call names the account. Its name in the ledger is made from the client id,
//     so that the balances of two accounts are never subtracted.

const (
	verdaURL = "https://api.verda.com/v1"

	verdaID         = "VERDA_CLIENT_ID"
	verdaSecret     = "VERDA_CLIENT_SECRET"
	verdaSecretFile = "VERDA_CLIENT_SECRET_FILE"

	// The names from before the company was renamed; looked at where none of the
	// new ones is set.
	datacrunchID         = "DATACRUNCH_CLIENT_ID"
	datacrunchSecret     = "DATACRUNCH_CLIENT_SECRET"
	datacrunchSecretFile = "DATACRUNCH_CLIENT_SECRET_FILE"

	verdaStep = 10 * time.Minute
	verdaLag  = 15 * time.Minute

	verdaBalance   = "GET /balance"
	verdaInstances = "GET /instances"
	verdaVolumes   = "GET /volumes"
)

type verda struct {
	api      *client
	auth     *verdaAuth
	account  string
	instance string // "" where it was not named
	stored   Anchors

	currency string    // of the first reply; "" before
	newest   time.Time // At of the newest sample
	opening  verdaOpening
	balance  ledger.Nanos // the last that was seen; of the epoch of opening
	seen     bool         // opening and balance hold something
	rates    []verdaRate  // of the last verdaStep + verdaLag
}

// verdaRate is what the account cost an hour, and when that was.
type verdaRate struct {
	at   time.Time
	rate ledger.Nanos
}

func newVerda(opts Options) (Provider, error) {
	base := opts.URL
	if base == "" {
		base = verdaURL
	}
	u, err := baseURL(base)
	if err != nil {
		return nil, err
	}
	idVar, secretVar, fileVar := verdaID, verdaSecret, verdaSecretFile
	if opts.getenv(verdaID) == "" && opts.getenv(verdaSecret) == "" && opts.getenv(verdaSecretFile) == "" &&
		opts.getenv(datacrunchID) != "" {
		idVar, secretVar, fileVar = datacrunchID, datacrunchSecret, datacrunchSecretFile
	}
	id := strings.TrimSpace(opts.getenv(idVar))
	if id == "" {
		return nil, refuse(fmt.Sprintf("set %s, and %s or %s", idVar, secretVar, fileVar), "%s is not set", idVar)
	}
	if !tokenText(id) {
		return nil, refuse("copy it again from the provider's console", "%s does not hold a client id", idVar)
	}
	secret, err := credential(opts, secretVar, fileVar)
	if err != nil {
		return nil, err
	}
	v := &verda{
		api:      newClient(u, opts.Transport),
		account:  fmt.Sprintf("%x", sha256.Sum256([]byte(id)))[:12],
		instance: opts.Instance,
		stored:   opts.Anchors,
	}
	hint := fmt.Sprintf("check %s and %s: they must be credentials that may read the account's balance", idVar, secretVar)
	v.auth = &verdaAuth{api: v.api, id: id, secret: secret, hint: hint}
	v.api.keyHint = hint
	v.api.authorize = func(h http.Header) { h.Set("Authorization", "Bearer "+v.auth.token.access) }
	return v, nil
}

func (v *verda) Name() string { return "verda" }

// A sample is dated by the second and takes three calls. Verda documents no rate
// limit; one that it has is kept by Retry-After.
func (v *verda) MinInterval() time.Duration { return time.Second }

// Sample implements Provider. Its At is the second in which the balance was asked
// for.
func (v *verda) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	s, f := v.read(ctx, now)
	if f != nil {
		for _, secret := range v.secrets() {
			f.Err = scrub(f.Err, secret)
		}
		return ledger.Sample{}, f
	}
	return s, nil
}

// read takes the whole sample or none of it: nothing is remembered before the last
// reply is in.
func (v *verda) read(ctx context.Context, now time.Time) (ledger.Sample, *Failure) {
	none := ledger.Sample{}
	clk := startClock(now)
	// First, so that the balance is of the time that the sample bears.
	if _, f := v.auth.ensure(ctx, clk); f != nil {
		return none, f
	}
	at := clk.read().UTC().Truncate(time.Second)
	if !at.After(v.newest) {
		return none, fail(ClockSkew, "this machine's clock has not moved on since the last sample at %s", v.newest.Format(time.RFC3339))
	}
	body, f := v.get(ctx, clk, verdaBalance, "balance")
	if f != nil {
		return none, f
	}
	balance, currency, f := decodeVerdaBalance(body)
	if f != nil {
		return none, f.at(verdaBalance)
	}
	if v.currency != "" && currency != v.currency {
		return none, fail(Currency, "the balance was in %s and is in %s", v.currency, currency).at(verdaBalance)
	}
	listing, f := v.get(ctx, clk, verdaInstances, "instances")
	if f != nil {
		return none, f
	}
	machines, f := decodeVerdaInstances(listing)
	if f == nil && v.instance != "" && !slices.Contains(machines.ids, v.instance) {
		f = fail(Unidentified, "none of the account's %d instances is the one that was named", len(machines.ids))
		f.hint = "check --instance; with verda it may be left out, for the whole account is counted"
	}
	if f != nil {
		return none, f.at(verdaInstances)
	}
	if listing, f = v.get(ctx, clk, verdaVolumes, "volumes"); f != nil {
		return none, f
	}
	storage, f := decodeVerdaVolumes(listing, currency)
	if f != nil {
		return none, f.at(verdaVolumes)
	}
	rate := machines.rate
	if rate != nil && storage != nil {
		sum, err := rate.Add(*storage)
		if err != nil {
			return none, fail(Malformed, "add up the rates: out of range").at(verdaVolumes)
		}
		rate = &sum
	} else {
		rate = nil
	}
	bill, f := v.bill(balance, rate, at)
	if f != nil {
		return none, f.at(verdaBalance)
	}
	v.currency, v.newest = currency, at
	return ledger.Sample{
		At:       at,
		Provider: v.Name(),
		Account:  v.account,
		Currency: currency,
		Truth:    ledger.TruthAccount,
		Step:     verdaStep,
		Lag:      verdaLag,
		Lines: []ledger.Line{{
			Resource: v.resource(),
			Kind:     ledger.AccountKind,
			Status:   v.api.word(machines.status()),
			Running:  machines.running,
			Rate:     rate,
			Bill:     &bill,
			Epoch:    v.opening.epoch(),
			Raw:      v.keep(body),
		}},
	}, nil
}

func (v *verda) resource() string { return "account:" + v.account }

// get reads one resource of the API. A token that is refused before its time was
// withdrawn, or this machine slept: one more is asked for, once.
func (v *verda) get(ctx context.Context, clk clock, call, path string) ([]byte, *Failure) {
	for again := false; ; again = true {
		asked, f := v.auth.ensure(ctx, clk)
		if f != nil {
			return nil, f
		}
		body, f := v.api.get(ctx, clk, call, path, nil)
		if f == nil || f.Class != HTTP401 || asked || again {
			return body, f
		}
		v.auth.drop()
	}
}

// secrets are what must leave in no text.
func (v *verda) secrets() []string {
	return []string{v.auth.secret, v.auth.token.access, v.auth.token.refresh}
}

// keep is the copy of a reply that may be stored.
func (v *verda) keep(body []byte) []byte {
	for _, secret := range v.secrets() {
		if secret != "" {
			body = bytes.ReplaceAll(body, []byte(secret), []byte(redacted))
		}
	}
	return body
}

// bill turns a balance into a cumulative figure, and begins a new epoch where the
// old one cannot be read on.
func (v *verda) bill(balance ledger.Nanos, rate *ledger.Nanos, at time.Time) (ledger.Nanos, *Failure) {
	opening, last, seen := v.opening, v.balance, v.seen
	if !seen {
		opening, last, seen = v.resume()
	}
	v.rates = slices.DeleteFunc(v.rates, func(r verdaRate) bool { return at.Sub(r.at) > verdaStep+verdaLag })
	if rate != nil {
		v.rates = append(v.rates, verdaRate{at, *rate})
	}
	rise, err := balance.Sub(last)
	if seen && err != nil {
		return 0, fail(Malformed, "the balance is out of range")
	}
	if !seen || rise > v.unit() {
		opening = verdaOpening{balance: balance, at: at}
	}
	bill, err := opening.balance.Sub(balance)
	if err != nil {
		return 0, fail(Malformed, "the balance is out of range")
	}
	v.opening, v.balance, v.seen = opening, balance, true
	return bill, nil
}

// unit is the most that can come back for a machine that stopped: ten minutes of
// what the account cost of late. No spend is made of it; it only tells a refund
// from a top-up.
func (v *verda) unit() ledger.Nanos {
	var most ledger.Nanos
	for _, r := range v.rates {
		most = max(most, r.rate)
	}
	return most/6 + 1
}

// resume finds the epoch that an earlier run was in, and its last balance.
func (v *verda) resume() (verdaOpening, ledger.Nanos, bool) {
	if v.stored == nil {
		return verdaOpening{}, 0, false
	}
	epoch, bill, ok := v.stored.Newest(v.resource())
	if !ok || bill == nil {
		return verdaOpening{}, 0, false
	}
	o, err := parseVerdaEpoch(epoch)
	if err != nil {
		return verdaOpening{}, 0, false
	}
	last, err := o.balance.Sub(*bill)
	return o, last, err == nil
}

// verdaOpening is where an epoch begins.
type verdaOpening struct {
	balance ledger.Nanos
	at      time.Time
}

const verdaEpochPrefix = "balance:"

// epoch holds all digits of the opening, so that it can be read back exactly.
func (o verdaOpening) epoch() string {
	return verdaEpochPrefix + o.balance.String() + "@" + o.at.UTC().Format(time.RFC3339)
}

func parseVerdaEpoch(epoch string) (verdaOpening, error) {
	bad := func() (verdaOpening, error) {
		return verdaOpening{}, fmt.Errorf("epoch %q: not of the form %s12.5@2006-01-02T15:04:05Z", epoch, verdaEpochPrefix)
	}
	text, ok := strings.CutPrefix(epoch, verdaEpochPrefix)
	amount, when, split := strings.Cut(text, "@")
	if !ok || !split {
		return bad()
	}
	n, err := ledger.ParseNanos(amount)
	if err != nil {
		return bad()
	}
	at, err := time.Parse(time.RFC3339, when)
	if err != nil {
		return bad()
	}
	o := verdaOpening{balance: n, at: at.UTC()}
	if o.epoch() != epoch {
		return bad()
	}
	return o, nil
}

// decodeVerdaBalance reads the reply that the bill is made of.
func decodeVerdaBalance(body []byte) (ledger.Nanos, string, *Failure) {
	var reply struct {
		Amount   *amount `json:"amount"`
		Currency *string `json:"currency"`
	}
	if f := decode(body, &reply); f != nil {
		return 0, "", f
	}
	if reply.Amount == nil || reply.Currency == nil {
		return 0, "", fail(Incomplete, "reply lacks amount or currency")
	}
	currency, err := ledger.Currency(*reply.Currency) // it comes in lower case
	if err != nil {
		return 0, "", fail(Currency, "the balance is in no currency that has an ISO 4217 code")
	}
	return *reply.Amount.nanos(), currency, nil
}

// verdaMachines is what the listing of instances says of the account.
type verdaMachines struct {
	ids     []string
	words   []string // their states, each once
	running bool
	rate    *ledger.Nanos // of those that run; nil where one does not tell
}

func (m verdaMachines) status() string {
	slices.Sort(m.words)
	return strings.Join(m.words, ",")
}

// decodeVerdaInstances reads the bare list of instances. They hold addresses and
// tokens of the user's: nothing is kept but these fields.
func decodeVerdaInstances(body []byte) (verdaMachines, *Failure) {
	var reply *[]struct {
		ID       *string `json:"id"`
		Status   *string `json:"status"`
		Price    *amount `json:"price_per_hour"`
		Contract *string `json:"contract"`
	}
	none := verdaMachines{}
	if f := decode(body, &reply); f != nil {
		return none, f
	}
	if reply == nil {
		return none, fail(Incomplete, "reply is no list")
	}
	var m verdaMachines
	total, known := ledger.Nanos(0), true
	for _, i := range *reply {
		if i.ID == nil || *i.ID == "" || i.Status == nil {
			return none, fail(Incomplete, "listing has an instance without id or status")
		}
		if slices.Contains(m.ids, *i.ID) {
			return none, fail(Incomplete, "listing names an instance twice")
		}
		m.ids = append(m.ids, *i.ID)
		if !slices.Contains(m.words, *i.Status) {
			m.words = append(m.words, *i.Status)
		}
		price := i.Price.nanos()
		if price != nil && *price < 0 {
			return none, fail(Malformed, "reply has an amount below zero")
		}
		if !verdaRuns(*i.Status) {
			continue
		}
		if i.Contract != nil && strings.EqualFold(*i.Contract, "LONG_TERM") {
			f := fail(Incomplete, "an instance is under a long-term contract: its cost does not show in the balance by the minute")
			f.hint = "use an account whose machines are paid as they go, or --provider none"
			return none, f
		}
		m.running = true
		if price == nil {
			known = false
			continue
		}
		var err error
		if total, err = total.Add(*price); err != nil {
			return none, fail(Malformed, "add up price_per_hour: out of range")
		}
	}
	if known {
		m.rate = &total
	}
	return m, nil
}

// verdaRuns says whether an instance in this state is billed as running. A word
// that nobody has seen is taken to be.
func verdaRuns(status string) bool {
	switch strings.ToLower(status) {
	case "new", "ordered", "provisioning", "validating", "pending", "no_capacity", "error",
		"hibernating", "hibernated", "restoring", "discontinued", "deleting", "deleted", "notfound":
		return false
	}
	return true
}

// decodeVerdaVolumes returns what the account's volumes cost an hour, nil where one
// does not tell.
func decodeVerdaVolumes(body []byte, currency string) (*ledger.Nanos, *Failure) {
	var reply *[]struct {
		ID       *string `json:"id"`
		Status   *string `json:"status"`
		Cost     *amount `json:"base_hourly_cost"`
		Currency *string `json:"currency"`
	}
	if f := decode(body, &reply); f != nil {
		return nil, f
	}
	if reply == nil {
		return nil, fail(Incomplete, "reply is no list")
	}
	total, known := ledger.Nanos(0), true
	seen := make(map[string]bool)
	for _, vol := range *reply {
		if vol.ID == nil || *vol.ID == "" || vol.Status == nil {
			return nil, fail(Incomplete, "listing has a volume without id or status")
		}
		if seen[*vol.ID] {
			return nil, fail(Incomplete, "listing names a volume twice")
		}
		seen[*vol.ID] = true
		if vol.Currency != nil && !strings.EqualFold(*vol.Currency, currency) {
			return nil, fail(Currency, "a volume is not in %s, as the balance is", currency)
		}
		cost := vol.Cost.nanos()
		if cost != nil && *cost < 0 {
			return nil, fail(Malformed, "reply has an amount below zero")
		}
		switch strings.ToLower(*vol.Status) {
		case "ordered", "deleted", "deleting", "canceled", "canceling":
			continue
		}
		if cost == nil {
			known = false
			continue
		}
		var err error
		if total, err = total.Add(*cost); err != nil {
			return nil, fail(Malformed, "add up base_hourly_cost: out of range")
		}
	}
	if !known {
		return nil, nil
	}
	return &total, nil
}
