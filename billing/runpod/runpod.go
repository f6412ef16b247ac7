// Package runpod reads the bill of Runpod: hour buckets per pod and per network volume, over
// a window that we choose. The bill is the total of the window.
//
// The calls and their fields are those of REST v2 (runpod/docs,
// api-reference-v2/openapi.json); v1 is retired. What that file leaves open, and
// how it is taken here:
//
//   - startTime is snapped down to its bucket, endTime up; without a start it is 30
//     days ago, which slides. Both are always sent, the start on a whole hour, and
//     the window that the reply says it resolved must be the one that was meant.
//   - The last bucket is in progress, and old ones may be restated. So the whole
//     window is read anew each time; nothing is ever added to an earlier figure.
//   - The total must be the sum of the records, or one of them is not what it seems.
//   - No record is no data yet, not a zero.
//   - cost is 0.0 for a pod that is stopped, though its disk is billed. That is not
//     the rate of the bill: it is then not known. A network volume tells no rate.
//   - Amounts are USD by their descriptions; no reply has a currency.
//   - A pod's own volume disk is in the pod's bill. Only a network volume has one of
//     its own, and it does not say when it was created.
//
// Its key comes from RUNPOD_API_KEY, or from the file that RUNPOD_API_KEY_FILE
// names. Inside a pod the platform sets RUNPOD_API_KEY to a key of the pod's own,
// which is not known to read billing; a file goes before it there.
package runpod

import (
	"cmp"
	"context"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

const (
	name       = "runpod"
	defaultURL = "https://api.runpod.io"
	keyVar     = "RUNPOD_API_KEY"
	keyFileVar = "RUNPOD_API_KEY_FILE"
	bucket     = time.Hour

	// The balance is charged every five minutes (accounts-billing/billing.mdx). How
	// late that shows in the records is documented nowhere; until it is measured on
	// the account, three times that are allowed.
	step = 5 * time.Minute
	lag  = 15 * time.Minute
)

// PodVar holds the pod's id, inside a pod only.
const PodVar = "RUNPOD_POD_ID"

type adapter struct {
	api        *api.Client
	anchors    *api.Anchors
	departures *api.Departures
	pod        string    // which box we are
	newest     time.Time // At of the newest sample
}

// Adapter is Runpod's row in the table of providers.
func Adapter() api.Adapter {
	return api.Adapter{
		Name: name, Env: []string{keyVar, keyFileVar}, Open: open,
		Invoice: api.InvoiceColumns{ // fields of GET /v2/billing/pods and /v2/billing/network-volumes
			Resource: []string{"podId", "networkVolumeId", "resourceId", "resource_id", "pod id"},
			Day:      []string{"startTime", "time", "date", "day"},
			Amount:   []string{"totalAmount", "amount", "cost"},
			Currency: []string{"currency"},
		},
	}
}

func open(opts api.Options) (api.Provider, error) {
	base, err := provider.BaseURL(cmp.Or(opts.URL, defaultURL))
	if err != nil {
		return nil, err
	}
	keys := opts
	if opts.Env(PodVar) != "" && opts.Env(keyFileVar) != "" {
		keys.Getenv = func(name string) string {
			if name == keyVar {
				return "" // the pod's own
			}
			return opts.Env(name)
		}
	}
	key, err := provider.Credential(keys.Env, keyVar, keyFileVar)
	if err != nil {
		return nil, err
	}
	client := provider.NewClient(base, opts.Transport)
	client.Authorize = provider.Bearer(key)
	client.Secrets = provider.Secrets{key}
	const keyHint = "use a key with billing:read under " + keyFileVar + "; the " + keyVar + " that a pod finds inside itself is the pod's own, and need not read the bill"
	r := &adapter{api: api.NewClient(client, keyHint), anchors: api.NewAnchors(opts.History),
		departures: api.NewDepartures(opts.History, name, lag), pod: opts.Instance}
	if r.pod == "" {
		r.pod = opts.Env(PodVar)
	}
	switch {
	case r.pod == "":
		return nil, hint.Errorf("give the pod's id with --instance; inside the pod, "+PodVar+" holds it", "%s is not set, and no instance is given", PodVar)
	case strings.Contains(r.pod, key):
		return nil, hint.Errorf("give the pod's id with --instance", "the instance is the API key")
	case !isID(r.pod):
		return nil, hint.Errorf("the console shows it beside the pod's name", "instance %q: not the id of a Runpod pod", r.pod)
	}
	return r, nil
}

// isID reports whether s has the form of an id, fit for a path and a ledger.
func isID(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	return s != "" && len(s) <= 64 && strings.Trim(s, letters) == ""
}

func (r *adapter) Name() string { return name }

// A sample takes three calls, since a pod mounts one network volume at most, and
// the published example of a limit is 60 a minute, 3000 an hour.
func (r *adapter) MinInterval() time.Duration { return 5 * time.Second }

// Sample implements Provider. A bucket in progress holds what was billed by the
// time of the reply, so that is the sample's At, in whole seconds.
func (r *adapter) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	at := now.UTC().Truncate(time.Second)
	if !at.After(r.newest) {
		return ledger.Sample{}, api.ClockStands(r.newest)
	}
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	clk := provider.StartClock(now)
	s, f := r.read(ctx, clk, at, true)
	if f != nil {
		return ledger.Sample{}, f
	}
	s.At = clk.Now().UTC().Truncate(time.Second)
	if end := bucketEnd(at); s.At.After(end) {
		s.At = end // the window holds nothing of the time after it
	}
	s.Lines = r.anchors.Move(s.Lines, now, func(l ledger.Line, anchor time.Time) (ledger.Line, *api.Failure) {
		kind, id, ok := parseResource(l.Resource)
		if !ok {
			return ledger.Line{}, api.Fail(api.Internal, "%s is no id of ours", l.Resource)
		}
		return r.line(ctx, clk, kind, id, l.Created, anchor, at)
	})
	r.newest = s.At
	return s, nil
}

// SampleAt implements Boundary for whole hours, where buckets meet. As with every
// sample, what is billed late for the time before is not in it yet.
func (r *adapter) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
	at = at.UTC()
	switch {
	case at.After(now):
		return ledger.Sample{}, api.Fail(api.Internal, "%s is not past", at.Format(time.RFC3339))
	case !at.Equal(at.Truncate(bucket)):
		return ledger.Sample{}, api.Fail(api.Incomplete, "%s is not on the hour, and the bill is told by the hour", at.Format(time.RFC3339))
	}
	ctx, cancel := context.WithTimeout(ctx, api.SampleTimeout)
	defer cancel()
	s, f := r.read(ctx, provider.StartClock(now), at, false)
	if f != nil {
		return ledger.Sample{}, f
	}
	s.At = at
	api.ForgetNow(s.Lines)
	return s, nil
}

// read takes the whole sample up to the end of at's bucket, but for its At, or none
// of it; with what left the box where that is asked for. The pod's bill comes last: it
// is the one that moves, and no retry of another call is to lie between it and the time
// that the sample bears.
func (r *adapter) read(ctx context.Context, clk provider.Clock, at time.Time, left bool) (ledger.Sample, *api.Failure) {
	s := ledger.Sample{
		Provider: r.Name(),
		Currency: "USD",
		Truth:    ledger.TruthResource,
		Step:     step,
		Lag:      lag,
	}
	pod, absent := r.describe(ctx, clk)
	if absent != nil && !(absent.Absent && left) {
		return ledger.Sample{}, absent
	}
	if pod.created.After(at) {
		return ledger.Sample{}, api.Fail(api.Incomplete, "pod %s did not exist at %s", r.pod, at.Format(time.RFC3339))
	}
	here := []ledger.Line{{Resource: kindPod.name + "-" + r.pod}}
	if absent != nil {
		here = nil
	}
	for _, id := range pod.volumes {
		line, f := r.present(ctx, clk, kindVolume, id, time.Time{}, at)
		if f != nil {
			return ledger.Sample{}, f
		}
		line.Running = true // a volume is billed while it exists
		here = append(here, line)
	}
	if left {
		last, f := r.departures.Lines(here, at, r.lastBill(ctx, clk, at))
		if f != nil {
			return ledger.Sample{}, f
		}
		here = append(here, last...)
	}
	if absent != nil {
		if len(here) == 0 {
			return ledger.Sample{}, absent // not there, and never seen or closed
		}
		s.Lines = here
		return s, nil
	}
	line, f := r.present(ctx, clk, kindPod, r.pod, pod.created, at)
	if f != nil {
		return ledger.Sample{}, f
	}
	line.Status, line.Running, line.Rate = r.api.Word(pod.status), isRunning(pod.status), pod.rate
	here[0] = line
	s.Lines = here
	return s, nil
}

// assumedAge is how old a resource that does not tell its birth is taken to be when
// it is first seen: enough for its first records to be there.
const assumedAge = 7 * 24 * time.Hour

// present reads the bill of what is there, from where its series starts.
func (r *adapter) present(ctx context.Context, clk provider.Clock, kind resourceKind, id string, created, at time.Time) (ledger.Line, *api.Failure) {
	born := created
	if born.IsZero() {
		born = at.Add(-assumedAge)
	}
	anchor, f := r.anchors.AsOf(kind.name+"-"+id, born, at, clk.Start())
	if f != nil {
		return ledger.Line{}, f
	}
	return r.line(ctx, clk, kind, id, created, anchor, at)
}

// line reads the bill of one resource from its anchor to the end of at's bucket.
func (r *adapter) line(ctx context.Context, clk provider.Clock, kind resourceKind, id string, created, anchor, at time.Time) (ledger.Line, *api.Failure) {
	resource := kind.name + "-" + id
	w := window{from: anchor, to: bucketEnd(at)}
	start := w.from.Format(time.RFC3339)
	switch {
	case w.from.After(clk.Start()):
		return ledger.Line{}, api.Fail(api.ClockSkew, "the series of %s starts at %s, which is still to come", resource, start).At(kind.call)
	case !w.from.Equal(w.from.Truncate(bucket)):
		// It would be snapped down, and the bill be of another window.
		return ledger.Line{}, api.Fail(api.Internal, "the series of %s starts at %s, which is not on the hour", resource, start).At(kind.call)
	case !w.from.Before(w.to):
		return ledger.Line{}, api.Fail(api.Incomplete, "the series of %s starts at %s, and nothing before that is known", resource, start).At(kind.call)
	}
	query := windowQuery(w.from, at) // not w.to, which is still to come
	query.Set(kind.filter, id)
	body, f := r.api.Get(ctx, clk, kind.call, kind.path, query)
	if f != nil {
		return ledger.Line{}, f
	}
	bill, f := decodeBill(kind, id, w, body)
	if f != nil {
		return ledger.Line{}, f.At(kind.call)
	}
	return ledger.Line{
		Resource: resource,
		Kind:     kind.kind,
		Bill:     &bill,
		Epoch:    api.Epoch(w.from),
		Created:  created,
		Raw:      r.api.Keep(newestRecords(body)),
	}, nil
}

// bucketEnd is where the API snaps an endTime to: up, unless it is on the hour.
func bucketEnd(t time.Time) time.Time {
	if start := t.Truncate(bucket); !start.Equal(t) {
		return start.Add(bucket)
	}
	return t
}

// resourceKind is a kind of thing that has a bill.
type resourceKind struct {
	name   string
	kind   ledger.Kind
	call   string
	path   string
	filter string
}

var (
	kindPod = resourceKind{
		name: "pod", kind: ledger.Instance,
		call: "GET /v2/billing/pods", path: "v2/billing/pods", filter: "podId",
	}
	kindVolume = resourceKind{
		name: "volume", kind: ledger.Volume,
		call: "GET /v2/billing/network-volumes", path: "v2/billing/network-volumes", filter: "networkVolumeId",
	}
)

// window is [from, to), both on the hour.
type window struct{ from, to time.Time }

// describe reads what the pod is and what it mounts. The reply holds the pod's
// environment: nothing of it is kept but these fields.
func (r *adapter) describe(ctx context.Context, clk provider.Clock) (podState, *api.Failure) {
	const call = "GET /v2/pods/{id}"
	body, f := r.api.Get(ctx, clk, call, "v2/pods/"+r.pod, nil)
	if f != nil {
		f.Absent = f.NotFound() && r.departures.Missed(kindPod.name+"-"+r.pod) && r.unlisted(ctx, clk)
		return podState{}, f
	}
	p, f := decodePod(r.pod, body)
	if f != nil {
		return podState{}, f.At(call)
	}
	for _, id := range p.volumes {
		if r.api.Word(id) != id {
			return podState{}, api.Fail(api.Malformed, "reply has an id that is none").At(call)
		}
	}
	return p, nil
}

// isRunning says whether a pod in this state is billed as running. A word that
// nobody has seen is taken to be.
func isRunning(status string) bool {
	switch strings.ToUpper(status) {
	case "PROVISIONING", "STARTING", "EXITED", "ERROR", "TERMINATED":
		return false
	}
	return true
}
