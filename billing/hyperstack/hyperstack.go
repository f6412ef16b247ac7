// Package hyperstack reads the bill of Hyperstack (NexGen Cloud, "Infrahub"): a cumulative
// bill per machine and per volume, over a window that we choose.
//
// The calls and their fields are those of hyperstack-sdk-go, api/openapi.yaml.
// What that file leaves open, and how it is taken here:
//
//   - start_date and end_date have no zone. UTC is sent, and both are always sent:
//     without them the answer covers some "billing cycle".
//   - A bill has no currency. Prices are published in USD.
//   - billing_history is a list even for one id: the bill is the sum. An empty one
//     is no data, not a zero.
//   - status in a body proves nothing: the documentation shows a good answer with
//     false. The code must be 200 and the object must be there.
//   - usage_time is given in seconds, in hours, and below zero. It is not read.
//   - The detail calls answer 500 now and then, so each is tried again.
package hyperstack

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

const (
	name       = "hyperstack"
	defaultURL = "https://infrahub-api.nexgencloud.com/v1"
	keyVar     = "HYPERSTACK_API_KEY"
	keyFileVar = "HYPERSTACK_API_KEY_FILE"
	urlVar     = "HYPERSTACK_API_URL"
	timeLayout = "2006-01-02T15:04:05"
	pageSize   = 100

	// Billing is per minute. How late a minute shows is documented nowhere; until
	// it is measured on the account, five are allowed.
	step = time.Minute
	lag  = 5 * time.Minute
)

type adapter struct {
	api        *api.Client
	addrs      func() ([]netip.Addr, error)
	hostname   func() (string, error)
	anchors    *api.Anchors
	departures *api.Departures

	vm      int64               // which box we are; 0 until it is found
	created map[int64]time.Time // of volumes, whose id is in no other reply that we read
	newest  time.Time           // end of the newest window that was read
}

// Adapter is Hyperstack's row in the table of providers.
func Adapter() api.Adapter {
	return api.Adapter{
		Name: name, Env: []string{keyVar, keyFileVar}, Open: open,
		Invoice: api.InvoiceColumns{ // fields of the billing API's history and usage calls
			Resource: []string{"resource_id", "infrahub_id", "resource id", "id"},
			Day:      []string{"date", "day", "start_date", "start", "datetime"},
			Amount:   []string{"incurred_bill", "total_cost", "total_bill", "amount", "cost"},
			Currency: []string{"currency"},
		},
	}
}

func open(opts api.Options) (api.Provider, error) {
	base, err := provider.BaseURL(cmp.Or(opts.URL, opts.Env(urlVar), defaultURL))
	if err != nil {
		return nil, err
	}
	key, err := provider.Credential(opts.Env, keyVar, keyFileVar)
	if err != nil {
		return nil, err
	}
	client := provider.NewClient(base, opts.Transport)
	client.Authorize = func(header http.Header) { header.Set("api_key", key) }
	client.Secrets = provider.Secrets{key}
	h := &adapter{
		api:        api.NewClient(client, "check "+keyVar+": it must be a key that may read this machine's bill"),
		addrs:      opts.Addrs,
		hostname:   opts.Hostname,
		anchors:    api.NewAnchors(opts.History),
		departures: api.NewDepartures(opts.History, name, lag),
		created:    make(map[int64]time.Time),
	}
	if h.addrs == nil {
		h.addrs = localAddrs
	}
	if h.hostname == nil {
		h.hostname = os.Hostname
	}
	if opts.Instance != "" {
		if h.vm, err = strconv.ParseInt(opts.Instance, 10, 64); err != nil || h.vm <= 0 {
			return nil, hint.Errorf("the console shows it in the machine's address", "instance %q: not the number of a Hyperstack virtual machine", opts.Instance)
		}
	}
	return h, nil
}

func (h *adapter) Name() string { return name }

// A window ends on a whole second, and 500 requests a minute are allowed for all
// that comes from this address; a sample takes three, and one more for each
// volume and snapshot.
func (h *adapter) MinInterval() time.Duration { return time.Second }

// Sample implements Provider. Its At is the end of the window, a whole second.
func (h *adapter) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	at := now.UTC().Truncate(time.Second)
	if !at.After(h.newest) {
		return ledger.Sample{}, api.ClockStands(h.newest)
	}
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	clk := provider.StartClock(now)
	s, f := h.read(ctx, clk, at)
	if f != nil && !f.Absent {
		return ledger.Sample{}, f
	}
	left, lf := h.departures.Lines(s.Lines, at, h.lastBill(ctx, clk, &s))
	switch {
	case lf != nil:
		return ledger.Sample{}, lf
	case f != nil && len(left) == 0:
		return ledger.Sample{}, f // not there, and never seen or closed
	}
	s.Lines = append(s.Lines, left...)
	s.Lines = h.anchors.Move(s.Lines, now, func(l ledger.Line, anchor time.Time) (ledger.Line, *api.Failure) {
		r, id, ok := parseResource(l.Resource)
		if !ok {
			return ledger.Line{}, api.Fail(api.Internal, "%s is no id of ours", l.Resource)
		}
		return h.line(ctx, clk, &s, r, id, l.Created, anchor)
	})
	h.newest = at
	return s, nil
}

// SampleAt implements Boundary.
func (h *adapter) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
	at = at.UTC().Truncate(time.Second)
	if at.After(now) {
		return ledger.Sample{}, api.Fail(api.Internal, "%s is not past", at.Format(time.RFC3339))
	}
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	s, f := h.read(ctx, provider.StartClock(now), at)
	if f != nil {
		return ledger.Sample{}, f
	}
	api.ForgetNow(s.Lines)
	return s, nil
}

// read takes the lines of all that is there, or none of them. What came to this box
// after at is no part of a sample of then.
func (h *adapter) read(ctx context.Context, clk provider.Clock, at time.Time) (ledger.Sample, *api.Failure) {
	if h.vm == 0 {
		id, f := h.identify(ctx, clk)
		if f != nil {
			return ledger.Sample{}, f
		}
		h.vm = id
	}
	s := ledger.Sample{
		At:       at,
		Provider: h.Name(),
		Currency: "USD",
		Truth:    ledger.TruthResource,
		Step:     step,
		Lag:      lag,
	}
	vm, f := h.machine(ctx, clk)
	if f != nil {
		return s, f
	}
	if vm.created.After(at) {
		return ledger.Sample{}, api.Fail(api.Incomplete, "virtual machine %d did not exist at %s", h.vm, at.Format(time.RFC3339))
	}
	// status is the provider's word; what a machine keeps is billed while it exists.
	add := func(r resourceKind, id int64, created time.Time, status string, running bool) *api.Failure {
		anchor, f := h.anchors.AsOf(resourceName(r, id), created, at, clk.Start())
		if f != nil {
			return f
		}
		line, f := h.line(ctx, clk, &s, r, id, created, anchor)
		if f != nil {
			return f
		}
		line.Status, line.Running = h.api.Word(status), running
		s.Lines = append(s.Lines, line)
		return nil
	}
	if f := add(kindVM, h.vm, vm.created, vm.status, isRunning(vm.status)); f != nil {
		return ledger.Sample{}, f
	}
	for _, v := range vm.volumes {
		if v.attached.After(at) {
			continue
		}
		born, f := h.volumeCreated(ctx, clk, v.id)
		if f != nil {
			return ledger.Sample{}, f
		}
		if born.After(at) {
			continue
		}
		if f := add(kindVolume, v.id, born, v.status, true); f != nil {
			return ledger.Sample{}, f
		}
	}
	snapshots, f := h.snapshots(ctx, clk)
	if f != nil {
		return ledger.Sample{}, f
	}
	for _, v := range snapshots {
		if v.created.After(at) {
			continue
		}
		if f := add(kindSnapshot, v.id, v.created, v.status, true); f != nil {
			return ledger.Sample{}, f
		}
	}
	return s, nil
}
