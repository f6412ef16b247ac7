// Package api is what an adapter of a provider's bill is written on: the interfaces that
// it implements, the failures that it returns, the client that it reads with, and what
// two or more adapters have in common.
//
// It knows how a bill is read from an HTTP API and when an answer may not be believed. It
// knows no provider. An adapter is a package that exports its row in the table of
// providers, and imports this one and the floor under it, but no other adapter:
//
//	// Package example reads the bill of Example Cloud.
//	package example
//
//	func Adapter() api.Adapter {
//		return api.Adapter{Name: "example", Env: []string{"EXAMPLE_API_KEY"}, Open: open}
//	}
//
//	func open(opts api.Options) (api.Provider, error) {
//		base, err := provider.BaseURL(cmp.Or(opts.URL, "https://api.example.com/v1"))
//		...
//		key, err := provider.Credential(opts.Env, "EXAMPLE_API_KEY", "EXAMPLE_API_KEY_FILE")
//		...
//		client := provider.NewClient(base, opts.Transport)
//		client.Authorize = provider.Bearer(key)
//		client.Secrets = provider.Secrets{key}
//		return &adapter{api: api.NewClient(client, "check EXAMPLE_API_KEY"), box: opts.Instance}, nil
//	}
//
//	func (a *adapter) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
//		ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
//		defer cancel()
//		const call = "GET /machines/{id}/bill"
//		body, f := a.api.Get(ctx, provider.StartClock(now), call, "machines/"+a.box+"/bill", nil)
//		if f != nil {
//			return ledger.Sample{}, f
//		}
//		var reply struct {
//			Total *api.Amount `json:"total"`
//		}
//		if f := api.Decode(body, &reply); f != nil {
//			return ledger.Sample{}, f.At(call)
//		}
//		if reply.Total == nil { // which is not zero
//			return ledger.Sample{}, api.Fail(api.Incomplete, "reply has no total").At(call)
//		}
//		return ledger.Sample{ ... Lines: []ledger.Line{{Bill: reply.Total.Nanos(), Raw: a.api.Keep(body), ...}}}, nil
//	}
//
// Where the window of a bill can be chosen, Anchors say where it starts; where resources
// come and go, Departures read the last bill of what went. More that a provider may tell
// are interfaces of their own: Boundary, BalanceReader, Windowed.
package api

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"time"

	"spotinference/ledger"
)

// Adapter is a provider that can be opened: its row in the table of providers.
type Adapter struct {
	Name string

	// Env are the variables in which its credentials are customarily found: where one
	// is set, the provider may be meant.
	Env []string

	// Open checks what it was given and calls nobody; whether the key is good shows at
	// the first sample.
	Open func(Options) (Provider, error)

	// Invoice is the layout of its invoice. The zero value is one that is not known.
	Invoice InvoiceColumns
}

// InvoiceColumns tells in which columns of an invoice to look: a CSV file that a person
// downloads. Each field lists the names that a header may have, the likeliest first;
// case and outer blanks are nothing.
type InvoiceColumns struct {
	Resource []string
	Day      []string // a day, or an instant within it
	Amount   []string
	Currency []string // none: the file does not say
}

// Provider is one billing API. Its methods are called by one goroutine at a time
// (billing.Sampler sees to that), so an adapter need not lock.
type Provider interface {
	Name() string

	// MinInterval is the shortest time between two polls that the provider's
	// rate limit and the resolution of its bill leave room for.
	MinInterval() time.Duration

	// Sample reads the complete set of lines that count towards this box as of
	// now, the local wall clock, or fails whole with a *Failure. It returns soon
	// after ctx ends.
	Sample(ctx context.Context, now time.Time) (ledger.Sample, error)
}

// Boundary is a Provider whose bill can be asked for as of a past instant, such
// as the midnight at which a budget's day begins. What is true only of now (the
// status, the rate) is left out of such a sample: it is not known for then.
type Boundary interface {
	SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error)
}

// ForgetNow takes what is true only of now off the lines of a past instant.
func ForgetNow(lines []ledger.Line) {
	for i := range lines {
		lines[i].Status, lines[i].Running, lines[i].Rate = "", false, nil
	}
}

// Options is what an adapter is opened with. Each adapter documents which
// environment variables it reads through Getenv.
type Options struct {
	// URL is the base of the API, "" for the provider's own. It must be https,
	// or http on this machine.
	URL string

	// Instance is the provider's id of this box. "" lets the adapter find it by
	// this machine's addresses and name, which must then match exactly one.
	Instance string

	// Command is what "exec" runs to read the bill, as words, with no shell between.
	Command []string

	// Stderr gets what that command says on its standard error, which may hold its
	// credentials: it is for the person at the terminal. Nil: nobody.
	Stderr io.Writer

	// Getenv looks up the provider's customary variables, credentials among
	// them. Nil finds nothing.
	Getenv func(string) string

	// History knows where series that began in an earlier run start, and what stood
	// in its samples. Nil knows nothing.
	History History

	// Transport, Addrs and Hostname stand in for the network and the machine in
	// tests. Nil means the real ones.
	Transport http.RoundTripper
	Addrs     func() ([]netip.Addr, error)
	Hostname  func() (string, error)
}

// Env is the value of a variable, "" where it is not set.
func (o Options) Env(name string) string {
	if o.Getenv == nil {
		return ""
	}
	return o.Getenv(name)
}
