package api

import (
	"context"
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
// (the Sampler sees to that), so an adapter need not lock.
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
