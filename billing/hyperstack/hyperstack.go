package hyperstack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

// Hyperstack (NexGen Cloud, "Infrahub"): a cumulative bill per machine and per
// volume, over a window that we choose.
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

const (
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

// hyperstackAdapter is Hyperstack's row in the table of providers.
func Adapter() api.Adapter {
	return api.Adapter{
		Name: "hyperstack", Env: []string{keyVar, keyFileVar}, Open: open,
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
		departures: api.NewDepartures(opts.History, "hyperstack", lag),
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

func (h *adapter) Name() string { return "hyperstack" }

// A window ends on a whole second, and 500 requests a minute are allowed for all
// that comes from this address; a sample takes three, and one more for each
// volume and snapshot.
func (h *adapter) MinInterval() time.Duration { return time.Second }

// Sample implements Provider. Its At is the end of the window, a whole second.
func (h *adapter) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	at := now.UTC().Truncate(time.Second)
	if !at.After(h.newest) {
		return ledger.Sample{}, api.Fail(api.ClockSkew, "this machine's clock has not moved on since the last sample at %s", h.newest.Format(time.RFC3339))
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
	for i := range s.Lines {
		s.Lines[i].Status, s.Lines[i].Running, s.Lines[i].Rate = "", false, nil
	}
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
		anchor, f := h.anchors.Of(resourceName(r, id), created, clk.Start())
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

// line reads the bill of one resource from its anchor to the end of s, whose account
// it fills in.
func (h *adapter) line(ctx context.Context, clk provider.Clock, s *ledger.Sample, r resourceKind, id int64, created, anchor time.Time) (ledger.Line, *api.Failure) {
	resource := resourceName(r, id)
	if anchor.After(s.At) {
		return ledger.Line{}, api.Fail(api.ClockSkew, "the series of %s starts at %s, which is still to come", resource, anchor.Format(time.RFC3339)).At(r.call)
	}
	body, f := h.api.Get(ctx, clk, r.call, fmt.Sprintf(r.path, id), windowQuery(anchor, s.At))
	if f != nil {
		return ledger.Line{}, f
	}
	bill, f := decodeBill(r, id, body)
	if f != nil {
		return ledger.Line{}, f.At(r.call)
	}
	if s.Account == "" {
		s.Account = bill.account
	}
	if bill.account != s.Account {
		return ledger.Line{}, api.Fail(api.Malformed, "the bills of one machine name two organisations").At(r.call)
	}
	return ledger.Line{
		Resource: resource,
		Kind:     r.kind,
		Rate:     bill.rate,
		Bill:     &bill.total,
		Epoch:    api.Epoch(anchor),
		Created:  created,
		Raw:      h.api.Keep(body),
	}, nil
}

// hyperstackResource is a kind of thing that has a bill.
type resourceKind struct {
	name     string
	kind     ledger.Kind
	call     string
	path     string
	envelope string
	core     string // where the thing itself is, and under which name
	object   string
}

var (
	kindVM = resourceKind{
		name: "vm", kind: ledger.Instance,
		call:     "GET /billing/billing/history/virtual-machine/{id}",
		path:     "billing/billing/history/virtual-machine/%d",
		envelope: "billing_history_vm_details",
		core:     "core/virtual-machines/%d", object: "instance",
	}
	kindVolume = resourceKind{
		name: "volume", kind: ledger.Volume,
		call:     "GET /billing/billing/history/volume/{id}",
		path:     "billing/billing/history/volume/%d",
		envelope: "billing_history_volume_details",
		core:     "core/volumes/%d", object: "volume",
	}
	// The API answers a snapshot's bill as it does a volume's.
	kindSnapshot = resourceKind{
		name: "snapshot", kind: ledger.Other,
		call:     "GET /billing/billing/history/snapshot/{id}",
		path:     "billing/billing/history/snapshot/%d",
		envelope: "billing_history_volume_details",
		core:     "core/snapshots/%d", object: "snapshot",
	}
)

func resourceName(r resourceKind, id int64) string { return fmt.Sprintf("%s-%d", r.name, id) }

// hyperstackID is the inverse of hyperstackName.
func parseResource(resource string) (resourceKind, int64, bool) {
	for _, r := range []resourceKind{kindVM, kindVolume, kindSnapshot} {
		if text, ok := strings.CutPrefix(resource, r.name+"-"); ok {
			id, err := strconv.ParseInt(text, 10, 64)
			return r, id, err == nil && id > 0
		}
	}
	return resourceKind{}, 0, false
}

type billReply struct {
	account string
	total   ledger.Nanos
	rate    *ledger.Nanos // nil where the entries do not agree on one
}

// decodeHyperstackBill reads a billing reply. It is pure, and takes bytes from
// anywhere.
func decodeBill(r resourceKind, id int64, body []byte) (billReply, *api.Failure) {
	type details struct {
		OrgID   *int64  `json:"org_id"`
		Count   *int64  `json:"total_count"`
		Money   *string `json:"currency"` // not in the API today
		History []struct {
			Attributes struct {
				ID *int64 `json:"infrahub_id"`
			} `json:"attributes"`
			Metrics struct {
				Bill *api.Amount `json:"incurred_bill"` // after discounts, as the invoice will have it
				Rate *api.Amount `json:"price_per_hour"`
			} `json:"metrics"`
		} `json:"billing_history"`
	}
	var reply struct {
		VM     *details `json:"billing_history_vm_details"`
		Volume *details `json:"billing_history_volume_details"`
	}
	none := billReply{}
	if f := api.Decode(body, &reply); f != nil {
		return none, f
	}
	d := reply.VM
	if r.envelope == "billing_history_volume_details" {
		d = reply.Volume
	}
	switch {
	case d == nil:
		return none, api.Fail(api.Incomplete, "reply has no %s", r.envelope)
	case d.Money != nil && !strings.EqualFold(*d.Money, "USD"):
		return none, api.Fail(api.Currency, "bill is not in USD")
	case d.OrgID == nil:
		return none, api.Fail(api.Incomplete, "reply has no org_id")
	case len(d.History) == 0:
		return none, api.Fail(api.Incomplete, "billing_history is empty: no data, which is not a zero bill")
	case d.Count != nil && *d.Count != int64(len(d.History)):
		return none, api.Fail(api.Incomplete, "billing_history has %d of %d entries", len(d.History), *d.Count)
	}
	bill := billReply{account: strconv.FormatInt(*d.OrgID, 10)}
	agree := true
	for i, e := range d.History {
		if e.Attributes.ID != nil && *e.Attributes.ID != id {
			return none, api.Fail(api.Malformed, "the bill is of %s %d, not of %d", r.name, *e.Attributes.ID, id)
		}
		part, rate := e.Metrics.Bill.Nanos(), e.Metrics.Rate.Nanos()
		if part == nil {
			return none, api.Fail(api.Incomplete, "reply has no incurred_bill")
		}
		if *part < 0 || (rate != nil && *rate < 0) {
			return none, api.Fail(api.Malformed, "reply has an amount below zero")
		}
		var err error
		if bill.total, err = bill.total.Add(*part); err != nil {
			return none, api.Fail(api.Malformed, "add up incurred_bill: out of range")
		}
		if i == 0 {
			bill.rate = rate
		}
		agree = agree && rate != nil && bill.rate != nil && *rate == *bill.rate
	}
	if !agree {
		bill.rate = nil
	}
	return bill, nil
}

type machine struct {
	status  string
	created time.Time
	volumes []attachment
}

type attachment struct {
	id       int64
	status   string
	attached time.Time // zero where the reply does not say
}

// machine reads what the box is and which volumes hang on it. The reply may hold
// names, keys and labels of the user's: nothing of it is kept but these fields.
func (h *adapter) machine(ctx context.Context, clk provider.Clock) (machine, *api.Failure) {
	const call = "GET /core/virtual-machines/{id}"
	body, f := h.api.Get(ctx, clk, call, fmt.Sprintf(kindVM.core, h.vm), nil)
	if f != nil {
		f.Absent = f.NotFound() && h.departures.Missed(resourceName(kindVM, h.vm)) && h.unlisted(ctx, clk)
		return machine{}, f
	}
	m, f := decodeMachine(h.vm, body)
	if f != nil {
		return machine{}, f.At(call)
	}
	return m, nil
}

func decodeMachine(id int64, body []byte) (machine, *api.Failure) {
	var reply struct {
		VM *struct {
			ID       *int64          `json:"id"`
			Status   *string         `json:"status"`
			Created  *string         `json:"created_at"`
			Contract json.RawMessage `json:"contract_id"`
			Volumes  *[]struct {
				Status  *string `json:"status"`
				Created *string `json:"created_at"`
				Volume  *struct {
					ID *int64 `json:"id"`
				} `json:"volume"`
			} `json:"volume_attachments"`
		} `json:"instance"`
	}
	none := machine{}
	if f := api.Decode(body, &reply); f != nil {
		return none, f
	}
	vm := reply.VM
	switch {
	case vm == nil:
		return none, api.Fail(api.Incomplete, "reply has no instance")
	case vm.ID == nil || vm.Status == nil || vm.Created == nil || vm.Volumes == nil:
		return none, api.Fail(api.Incomplete, "reply lacks one of id, status, created_at, volume_attachments")
	case *vm.ID != id:
		return none, api.Fail(api.Malformed, "the reply is of virtual machine %d, not of %d", *vm.ID, id)
	case len(vm.Contract) > 0 && string(vm.Contract) != "null":
		f := api.Fail(api.Incomplete, "virtual machine %d is under a contract: its cost is not in its own bill by the minute", id)
		f.WithHint("use a machine that is billed on demand, or --provider none")
		return none, f
	}
	created, f := parseTime(*vm.Created)
	if f != nil {
		return none, f
	}
	m := machine{status: *vm.Status, created: created}
	seen := make(map[int64]bool)
	for _, a := range *vm.Volumes {
		if a.Status == nil || a.Volume == nil || a.Volume.ID == nil {
			return none, api.Fail(api.Incomplete, "reply has a volume attachment without status or volume id")
		}
		v := attachment{id: *a.Volume.ID, status: *a.Status}
		if !isAttached(v.status) || seen[v.id] {
			continue
		}
		if a.Created != nil {
			if v.attached, f = parseTime(*a.Created); f != nil {
				return none, f
			}
		}
		seen[v.id] = true
		m.volumes = append(m.volumes, v)
	}
	return m, nil
}

// hyperstackRuns says whether a machine in this state is billed as running. SHUTOFF
// is, at the full price. A word that nobody has seen is taken to be.
func isRunning(status string) bool {
	switch strings.ToUpper(status) {
	case "CREATING", "BUILD", "STARTING", "STOPPING", "REBOOTING", "ERROR",
		"HIBERNATING", "HIBERNATED", "RESTORING", "DELETING", "DELETED":
		return false
	}
	return true
}

// hyperstackAttached takes an attachment to count unless its state says otherwise.
func isAttached(status string) bool {
	switch strings.ToUpper(status) {
	case "ATTACHING", "DETACHING", "DETACHED", "CREATING", "AVAILABLE", "DELETING", "DELETED":
		return false
	}
	return true
}

// hyperstackInstant reads a date-time, which may come without a zone: then it is UTC.
func parseTime(text string) (time.Time, *api.Failure) {
	for _, layout := range []string{time.RFC3339, timeLayout} { // both take a fraction of a second
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, api.Fail(api.Malformed, "reply has a date that cannot be read")
}

// birth asks when a volume was created, once in its life.
func (h *adapter) volumeCreated(ctx context.Context, clk provider.Clock, id int64) (time.Time, *api.Failure) {
	const call = "GET /core/volumes/{id}"
	if t, ok := h.created[id]; ok {
		return t, nil
	}
	body, f := h.api.Get(ctx, clk, call, fmt.Sprintf(kindVolume.core, id), nil)
	if f != nil {
		return time.Time{}, f
	}
	t, f := decodeVolume(id, body)
	if f != nil {
		return time.Time{}, f.At(call)
	}
	h.created[id] = t
	return t, nil
}

// decodeHyperstackVolume reads when a volume was created.
func decodeVolume(id int64, body []byte) (time.Time, *api.Failure) {
	var reply struct {
		Volume *struct {
			ID      *int64  `json:"id"`
			Created *string `json:"created_at"`
		} `json:"volume"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return time.Time{}, f
	}
	v := reply.Volume
	if v == nil || v.ID == nil || v.Created == nil {
		return time.Time{}, api.Fail(api.Incomplete, "reply lacks volume, its id or created_at")
	}
	if *v.ID != id {
		return time.Time{}, api.Fail(api.Malformed, "the reply is of volume %d, not of %d", *v.ID, id)
	}
	return parseTime(*v.Created)
}

// hyperstackListed is a machine as the listing has it.
type listedMachine struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	IP   string `json:"fixed_ip"`
}

// hyperstackListing is a page of the listing of machines.
type machineListing struct {
	machines    []listedMachine
	size, count int // of a full page, and of all pages
}

func decodeMachines(body []byte) (machineListing, *api.Failure) {
	var reply struct {
		Count *int             `json:"count"`
		Size  *int             `json:"page_size"`
		VMs   *[]listedMachine `json:"instances"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return machineListing{}, f
	}
	if reply.Count == nil || reply.VMs == nil {
		return machineListing{}, api.Fail(api.Incomplete, "reply lacks count or instances")
	}
	page := machineListing{machines: *reply.VMs, size: pageSize, count: *reply.Count}
	if reply.Size != nil && *reply.Size > 0 {
		page.size = *reply.Size
	}
	return page, nil
}

const machinesCall = "GET /core/virtual-machines"

// machines lists those of the account.
func (h *adapter) machines(ctx context.Context, clk provider.Clock) (all []listedMachine, f *api.Failure) {
	seen := make(map[int64]bool)
	f = pages(func(page int) (int, int, int, *api.Failure) {
		body, f := h.api.Get(ctx, clk, machinesCall, "core/virtual-machines", pageQuery(page, pageSize))
		if f != nil {
			return 0, 0, 0, f
		}
		listing, f := decodeMachines(body)
		if f != nil {
			return 0, 0, 0, f
		}
		for _, m := range listing.machines {
			if m.ID <= 0 || seen[m.ID] {
				return 0, 0, 0, api.Fail(api.Incomplete, "listing names a machine twice or without an id")
			}
			seen[m.ID] = true
			all = append(all, m)
		}
		return len(listing.machines), listing.size, listing.count, nil
	})
	if f != nil {
		return nil, f.At(machinesCall)
	}
	return all, nil
}

// identify finds this box among the account's machines: by an address of ours that
// is one's fixed_ip, else by our name. Fixed addresses are unique within one
// environment only, so a tie is broken by name, and what is still tied is refused.
func (h *adapter) identify(ctx context.Context, clk provider.Clock) (int64, *api.Failure) {
	all, f := h.machines(ctx, clk)
	if f != nil {
		return 0, f
	}
	addrs, aerr := h.addrs()
	name, nerr := h.hostname()
	if aerr != nil && nerr != nil {
		return 0, api.Fail(api.Internal, "read this machine's addresses and name: %w", errors.Join(aerr, nerr))
	}
	mine := make(map[netip.Addr]bool)
	for _, a := range addrs {
		mine[a.Unmap()] = true
	}
	var found []listedMachine
	for _, m := range all {
		if a, err := netip.ParseAddr(m.IP); err == nil && mine[a.Unmap()] {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		among := all
		if len(found) > 1 {
			among = found
		}
		found = nil
		short, _, _ := strings.Cut(name, ".")
		for _, m := range among {
			if m.Name != "" && (strings.EqualFold(m.Name, name) || strings.EqualFold(m.Name, short)) {
				found = append(found, m)
			}
		}
	}
	if len(found) != 1 {
		f := api.Fail(api.Unidentified, "%d of the account's %d machines have this machine's address or name", len(found), len(all))
		f.WithHint("name this machine's id with --instance")
		return 0, f.At(machinesCall)
	}
	return found[0].ID, nil
}

// localAddrs lists the addresses of this machine that another can know.
func localAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs, nil
}
