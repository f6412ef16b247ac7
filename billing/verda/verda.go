// Package verda reads the bill of Verda (formerly DataCrunch): the balance of an account,
// and rates. No call tells what one machine cost, so the bill is the account's: whatever
// else runs in it is in it too. Give this box an account, or a project, of its own.
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
//     seen, nor can one of less than ten minutes' cost: top up seldom, by hand, and
//     in large amounts.
//   - Machines are said to be paid for ten minutes ahead, and the unused part to be
//     given back. A rise of no more than that is such a refund: the bill falls
//     within its epoch.
//   - What a machine costs while it is offline is not documented; third parties say
//     the full price. It counts as running.
//   - A balance below zero is taken as it is: what is owed was spent.
//   - No call names the account. Its name in the ledger is made from the client id,
//     so that the balances of two accounts are never subtracted.
package verda

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

const (
	name       = "verda"
	defaultURL = "https://api.verda.com/v1"

	clientIDVar         = "VERDA_CLIENT_ID"
	clientSecretVar     = "VERDA_CLIENT_SECRET"
	clientSecretFileVar = "VERDA_CLIENT_SECRET_FILE"

	// The names from before the company was renamed; looked at where none of the
	// new ones is set.
	oldIDVar         = "DATACRUNCH_CLIENT_ID"
	oldSecretVar     = "DATACRUNCH_CLIENT_SECRET"
	oldSecretFileVar = "DATACRUNCH_CLIENT_SECRET_FILE"

	step = 10 * time.Minute
	lag  = 15 * time.Minute

	balanceCall   = "GET /balance"
	instancesCall = "GET /instances"
	volumesCall   = "GET /volumes"
)

type adapter struct {
	api      *api.Client
	auth     *tokenSource
	account  string
	instance string // "" where it was not named
	history  api.History

	currency string    // of the first reply; "" before
	newest   time.Time // At of the newest sample
	opening  openingBalance
	balance  ledger.Nanos  // the last that was seen; of the epoch of opening
	seen     bool          // opening and balance hold something
	rates    []accountRate // of the last step + lag
}

// accountRate is what the account cost an hour, and when that was.
type accountRate struct {
	at   time.Time
	rate ledger.Nanos
}

// Adapter is Verda's row in the table of providers.
func Adapter() api.Adapter {
	return api.Adapter{Name: name, Env: []string{clientIDVar, oldIDVar}, Open: open}
}

func open(opts api.Options) (api.Provider, error) {
	base, err := provider.BaseURL(cmp.Or(opts.URL, defaultURL))
	if err != nil {
		return nil, err
	}
	idVar, secretVar, fileVar := clientIDVar, clientSecretVar, clientSecretFileVar
	if opts.Env(clientIDVar) == "" && opts.Env(clientSecretVar) == "" && opts.Env(clientSecretFileVar) == "" &&
		opts.Env(oldIDVar) != "" {
		idVar, secretVar, fileVar = oldIDVar, oldSecretVar, oldSecretFileVar
	}
	id := strings.TrimSpace(opts.Env(idVar))
	if id == "" {
		return nil, hint.Errorf(fmt.Sprintf("set %s, and %s or %s", idVar, secretVar, fileVar), "%s is not set", idVar)
	}
	if !isToken(id) {
		return nil, hint.Errorf("copy it again from the provider's console", "%s does not hold a client id", idVar)
	}
	secret, err := provider.Credential(opts.Env, secretVar, fileVar)
	if err != nil {
		return nil, err
	}
	keyHint := fmt.Sprintf("check %s and %s: they must be credentials that may read the account's balance", idVar, secretVar)
	client := provider.NewClient(base, opts.Transport)
	client.Secrets = provider.Secrets{secret}
	v := &adapter{
		api:      api.NewClient(client, keyHint),
		account:  fmt.Sprintf("%x", sha256.Sum256([]byte(id)))[:12],
		instance: opts.Instance,
		history:  opts.History,
	}
	v.auth = &tokenSource{api: v.api, client: client, id: id, secret: secret, keyHint: keyHint}
	return v, nil
}

func (v *adapter) Name() string { return name }

// A sample is dated by the second and takes three calls. Verda documents no rate
// limit; one that it has is kept by Retry-After.
func (v *adapter) MinInterval() time.Duration { return time.Second }

// Sample implements Provider. Its At is the second in which the balance was asked
// for.
func (v *adapter) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	s, f := v.read(ctx, now)
	if f != nil {
		return ledger.Sample{}, v.api.Redact(f)
	}
	return s, nil
}

// read takes the whole sample or none of it: nothing is remembered before the last
// reply is in.
func (v *adapter) read(ctx context.Context, now time.Time) (ledger.Sample, *api.Failure) {
	none := ledger.Sample{}
	clk := provider.StartClock(now)
	// First, so that the balance is of the time that the sample bears.
	if _, f := v.auth.ensure(ctx, clk); f != nil {
		return none, f
	}
	at := clk.Now().UTC().Truncate(time.Second)
	if !at.After(v.newest) {
		return none, api.ClockStands(v.newest)
	}
	body, f := v.get(ctx, clk, balanceCall, "balance")
	if f != nil {
		return none, f
	}
	balance, currency, f := decodeBalance(body)
	if f != nil {
		return none, f.At(balanceCall)
	}
	if v.currency != "" && currency != v.currency {
		return none, api.Fail(api.Currency, "the balance was in %s and is in %s", v.currency, currency).At(balanceCall)
	}
	listing, f := v.get(ctx, clk, instancesCall, "instances")
	if f != nil {
		return none, f
	}
	machines, f := decodeInstances(listing)
	if f == nil && v.instance != "" && !slices.Contains(machines.ids, v.instance) {
		f = api.Fail(api.Unidentified, "none of the account's %d instances is the one that was named", len(machines.ids))
		f.WithHint("check --instance; with verda it may be left out, for the whole account is counted")
	}
	if f != nil {
		return none, f.At(instancesCall)
	}
	if listing, f = v.get(ctx, clk, volumesCall, "volumes"); f != nil {
		return none, f
	}
	storage, f := decodeVolumes(listing, currency)
	if f != nil {
		return none, f.At(volumesCall)
	}
	rate, f := addRates(machines.rate, storage)
	if f != nil {
		return none, f.At(volumesCall)
	}
	bill, f := v.bill(balance, rate, at)
	if f != nil {
		return none, f.At(balanceCall)
	}
	v.currency, v.newest = currency, at
	return ledger.Sample{
		At:       at,
		Provider: v.Name(),
		Account:  v.account,
		Currency: currency,
		Truth:    ledger.TruthAccount,
		Step:     step,
		Lag:      lag,
		Dated:    clk.Dated(),
		Lines: []ledger.Line{{
			Resource: v.resource(),
			Kind:     ledger.AccountKind,
			Status:   v.api.Word(machines.status()),
			Running:  machines.running,
			Rate:     rate,
			Bill:     &bill,
			Epoch:    v.opening.epoch(),
			Raw:      v.api.Keep(body),
		}},
	}, nil
}

func (v *adapter) resource() string { return "account:" + v.account }

// get reads one resource of the API. A token that is refused before its time was
// withdrawn, or this machine slept: one more is asked for, once.
func (v *adapter) get(ctx context.Context, clk provider.Clock, call, path string) ([]byte, *api.Failure) {
	for again := false; ; again = true {
		asked, f := v.auth.ensure(ctx, clk)
		if f != nil {
			return nil, f
		}
		body, f := v.api.Get(ctx, clk, call, path, nil)
		if f == nil || f.Class != api.HTTP401 || asked || again {
			return body, f
		}
		v.auth.drop()
	}
}
