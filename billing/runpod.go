package billing

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"spotinference/ledger"
)

// Runpod: hour buckets per pod and per network volume, over a window that we
// choose. The bill is the total of the window.
//
// The calls and their fields are those of REST v2 (runpod/docs,
// api-reference-v2/openapi.json); v1 is retired. What that file leaves open, and
// how it is taken here:
//
//   - startTime is snapped down to its bucket, and without one it is 30 days ago,
//     which slides. Both ends are always sent, on whole hours, and the window that
//     the reply says it resolved must be that one.
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

const (
	runpodURL     = "https://api.runpod.io"
	runpodKey     = "RUNPOD_API_KEY"
	runpodKeyFile = "RUNPOD_API_KEY_FILE"
	runpodPod     = "RUNPOD_POD_ID"
	runpodBucket  = time.Hour

	// The balance is charged every five minutes (accounts-billing/billing.mdx). How
	// late that shows in the records is documented nowhere; until it is measured on
	// the account, three times that are allowed.
	runpodStep = 5 * time.Minute
	runpodLag  = 15 * time.Minute
)

type runpod struct {
	api     *client
	anchors *anchors
	pod     string    // which box we are
	newest  time.Time // At of the newest sample
}

func newRunpod(opts Options) (Provider, error) {
	base := opts.URL
	if base == "" {
		base = runpodURL
	}
	u, err := baseURL(base)
	if err != nil {
		return nil, err
	}
	keys := opts
	if opts.getenv(runpodPod) != "" && opts.getenv(runpodKeyFile) != "" {
		keys.Getenv = func(name string) string {
			if name == runpodKey {
				return "" // the pod's own
			}
			return opts.getenv(name)
		}
	}
	key, err := credential(keys, runpodKey, runpodKeyFile)
	if err != nil {
		return nil, err
	}
	r := &runpod{api: newClient(u, opts.Transport), anchors: newAnchors(opts.Anchors), pod: opts.Instance}
	r.api.authorize = func(header http.Header) { header.Set("Authorization", "Bearer "+key) }
	r.api.secret = key
	r.api.keyHint = "use a key with billing:read under " + runpodKeyFile + "; the " + runpodKey + " that a pod finds inside itself is the pod's own, and need not read the bill"
	if r.pod == "" {
		r.pod = opts.getenv(runpodPod)
	}
	switch {
	case r.pod == "":
		return nil, refuse("give the pod's id with --instance; inside the pod, "+runpodPod+" holds it", "%s is not set, and no instance is given", runpodPod)
	case strings.Contains(r.pod, key):
		return nil, refuse("give the pod's id with --instance", "the instance is the API key")
	case !runpodID(r.pod):
		return nil, refuse("the console shows it beside the pod's name", "instance %q: not the id of a Runpod pod", r.pod)
	}
	return r, nil
}

// runpodID reports whether s has the form of an id, fit for a path and a ledger.
func runpodID(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	return s != "" && len(s) <= 64 && strings.Trim(s, letters) == ""
}

func (r *runpod) Name() string { return "runpod" }

// A sample takes three calls, since a pod mounts one network volume at most, and
// the published example of a limit is 60 a minute.
func (r *runpod) MinInterval() time.Duration { return 5 * time.Second }

// Sample implements Provider. A bucket in progress holds what was billed by the
// time of the reply, so that is the sample's At, in whole seconds.
func (r *runpod) Sample(ctx context.Context, now time.Time) (ledger.Sample, error) {
	at := now.UTC().Truncate(time.Second)
	if !at.After(r.newest) {
		return ledger.Sample{}, fail(ClockSkew, "this machine's clock has not moved on since the last sample at %s", r.newest.Format(time.RFC3339))
	}
	clk := startClock(now)
	end := at.Truncate(runpodBucket).Add(runpodBucket) // of the bucket in progress
	s, f := r.read(ctx, clk, end, at)
	if f != nil {
		return ledger.Sample{}, f
	}
	s.At = clk.read().UTC().Truncate(time.Second)
	if s.At.After(end) {
		s.At = end // the window holds nothing of the time after it
	}
	r.newest = s.At
	return s, nil
}

// SampleAt implements Boundary for whole hours, where buckets meet. As with every
// sample, what is billed late for the time before is not in it yet.
func (r *runpod) SampleAt(ctx context.Context, at, now time.Time) (ledger.Sample, error) {
	at = at.UTC()
	switch {
	case at.After(now):
		return ledger.Sample{}, fail(Internal, "%s is not past", at.Format(time.RFC3339))
	case !at.Equal(at.Truncate(runpodBucket)):
		return ledger.Sample{}, fail(Incomplete, "%s is not on the hour, and the bill is told by the hour", at.Format(time.RFC3339))
	}
	s, f := r.read(ctx, startClock(now), at, at)
	if f != nil {
		return ledger.Sample{}, f
	}
	s.At = at
	for i := range s.Lines {
		s.Lines[i].Status, s.Lines[i].Running, s.Lines[i].Rate = "", false, nil
	}
	return s, nil
}

// read takes the whole sample, but for its At, or none of it. The pod's bill comes
// last: it is the one that moves, and no retry of another call is to lie between it
// and the time that the sample bears.
func (r *runpod) read(ctx context.Context, clk clock, end, by time.Time) (ledger.Sample, *Failure) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	pod, f := r.describe(ctx, clk)
	if f != nil {
		return ledger.Sample{}, f
	}
	if pod.created.After(by) {
		return ledger.Sample{}, fail(Incomplete, "pod %s did not exist at %s", r.pod, by.Format(time.RFC3339))
	}
	s := ledger.Sample{
		Provider: r.Name(),
		Currency: "USD",
		Truth:    ledger.TruthResource,
		Step:     runpodStep,
		Lag:      runpodLag,
		Lines:    make([]ledger.Line, 1),
	}
	for _, id := range pod.volumes {
		line, f := r.line(ctx, clk, runpodVolumeBill, id, time.Time{}, end)
		if f != nil {
			return ledger.Sample{}, f
		}
		line.Running = true // a volume is billed while it exists
		s.Lines = append(s.Lines, line)
	}
	line, f := r.line(ctx, clk, runpodPodBill, r.pod, pod.created, end)
	if f != nil {
		return ledger.Sample{}, f
	}
	line.Status, line.Running, line.Rate = r.api.word(pod.status), runpodRuns(pod.status), pod.rate
	s.Lines[0] = line
	return s, nil
}

// runpodAge is how old a resource that does not tell its birth is taken to be when
// it is first seen: enough for its first records to be there.
const runpodAge = 7 * 24 * time.Hour

// line reads the bill of one resource from its anchor to end.
func (r *runpod) line(ctx context.Context, clk clock, kind runpodKind, id string, created, end time.Time) (ledger.Line, *Failure) {
	resource := kind.name + "-" + id
	born := created
	if born.IsZero() {
		born = clk.now.Add(-runpodAge)
	}
	w := runpodWindow{from: r.anchors.of(resource, born, clk.now), to: end}
	start := w.from.Format(time.RFC3339)
	switch {
	case w.from.After(clk.now):
		return ledger.Line{}, fail(ClockSkew, "the series of %s starts at %s, which is still to come", resource, start).at(kind.call)
	case !w.from.Equal(w.from.Truncate(runpodBucket)):
		// It would be snapped down, and the bill be of another window.
		return ledger.Line{}, fail(Internal, "the series of %s starts at %s, which is not on the hour", resource, start).at(kind.call)
	case !w.from.Before(end):
		return ledger.Line{}, fail(Incomplete, "the series of %s starts at %s, and nothing before that is known", resource, start).at(kind.call)
	}
	body, f := r.api.get(ctx, clk, kind.call, kind.path, url.Values{
		kind.filter:  {id},
		"bucketSize": {"hour"},
		"startTime":  {start},
		"endTime":    {w.to.Format(time.RFC3339)},
	})
	if f != nil {
		return ledger.Line{}, f
	}
	bill, f := decodeRunpodBill(kind, id, w, body)
	if f != nil {
		return ledger.Line{}, f.at(kind.call)
	}
	return ledger.Line{
		Resource: resource,
		Kind:     kind.kind,
		Bill:     &bill,
		Epoch:    Epoch(w.from),
		Created:  created,
		Raw:      r.api.keep(body),
	}, nil
}

// runpodKind is a kind of thing that has a bill.
type runpodKind struct {
	name   string
	kind   ledger.Kind
	call   string
	path   string
	filter string
}

var (
	runpodPodBill = runpodKind{
		name: "pod", kind: ledger.Instance,
		call: "GET /v2/billing/pods", path: "v2/billing/pods", filter: "podId",
	}
	runpodVolumeBill = runpodKind{
		name: "volume", kind: ledger.Volume,
		call: "GET /v2/billing/network-volumes", path: "v2/billing/network-volumes", filter: "networkVolumeId",
	}
)

// runpodWindow is [from, to), both on the hour.
type runpodWindow struct{ from, to time.Time }

// runpodSpan is how the API writes one; runpodOwner whose it is.
type runpodSpan struct {
	Start *runpodTime `json:"startTime"`
	End   *runpodTime `json:"endTime"`
}

type runpodOwner struct {
	Pod    *string `json:"podId"`
	Volume *string `json:"networkVolumeId"`
}

func (o runpodOwner) id(kind runpodKind) *string {
	if kind.kind == ledger.Volume {
		return o.Volume
	}
	return o.Pod
}

// decodeRunpodBill reads a billing reply. It is pure, and takes bytes from anywhere.
func decodeRunpodBill(kind runpodKind, id string, w runpodWindow, body []byte) (ledger.Nanos, *Failure) {
	var reply struct {
		Money   *string `json:"currency"` // not in the API today
		Records *[]struct {
			runpodSpan
			runpodOwner
			Total *amount `json:"totalAmount"`
		} `json:"records"`
		Meta *struct {
			Money *string `json:"currency"`
			Query *struct {
				runpodSpan
				runpodOwner
				Bucket *string `json:"bucketSize"`
			} `json:"query"`
			Count  *int64 `json:"recordCount"`
			Totals *struct {
				Total *amount `json:"totalAmount"`
			} `json:"totals"`
		} `json:"metadata"`
	}
	if f := decode(body, &reply); f != nil {
		return 0, f
	}
	if reply.Records == nil || reply.Meta == nil || reply.Meta.Query == nil || reply.Meta.Count == nil || reply.Meta.Totals == nil {
		return 0, fail(Incomplete, "reply lacks one of records, metadata, query, recordCount, totals")
	}
	records, meta, query, total := *reply.Records, reply.Meta, reply.Meta.Query, reply.Meta.Totals.Total.nanos()
	for _, m := range []*string{reply.Money, meta.Money} {
		if m != nil && !strings.EqualFold(*m, "USD") {
			return 0, fail(Currency, "bill is not in USD")
		}
	}
	switch owner := query.id(kind); {
	case query.Start == nil || query.End == nil || query.Bucket == nil || owner == nil:
		return 0, fail(Incomplete, "reply does not say what it was asked")
	case !query.Start.Equal(w.from) || !query.End.Equal(w.to) || *query.Bucket != "hour":
		return 0, fail(Malformed, "the bill is of another window than was asked")
	case *owner != id:
		return 0, fail(Malformed, "the bill is of another %s than was asked", kind.name)
	case *meta.Count != int64(len(records)):
		return 0, fail(Incomplete, "reply has %d of %d records", len(records), *meta.Count)
	case total == nil:
		return 0, fail(Incomplete, "reply has no totalAmount")
	case *total < 0:
		return 0, fail(Malformed, "reply has an amount below zero")
	case len(records) == 0:
		f := fail(Incomplete, "there are no records: no data yet, which is not a zero bill")
		f.hint = "what is new shows in Runpod's records only after a while"
		return 0, f
	}
	var sum ledger.Nanos
	seen := make(map[int64]bool, len(records))
	for _, rec := range records {
		owner, part := rec.id(kind), rec.Total.nanos()
		switch {
		case rec.Start == nil || rec.End == nil || owner == nil || part == nil:
			return 0, fail(Incomplete, "a record lacks one of startTime, endTime, %s, totalAmount", kind.filter)
		case *owner != id:
			return 0, fail(Malformed, "a record is of another %s than was asked", kind.name)
		case *part < 0:
			return 0, fail(Malformed, "reply has an amount below zero")
		case !rec.Start.Equal(rec.Start.Truncate(runpodBucket)) || rec.End.Sub(rec.Start.Time) != runpodBucket:
			return 0, fail(Malformed, "a record is not of one hour")
		case rec.Start.Before(w.from) || rec.End.After(w.to):
			return 0, fail(Malformed, "a record lies outside the window")
		case seen[rec.Start.Unix()]:
			return 0, fail(Malformed, "an hour has two records")
		}
		seen[rec.Start.Unix()] = true
		var err error
		if sum, err = sum.Add(*part); err != nil {
			return 0, fail(Malformed, "add up totalAmount: out of range")
		}
	}
	// Each amount was a double there and is rounded to a nano here.
	if d, err := total.Sub(sum); err != nil || max(d, -d) > runpodNoise+ledger.Nanos(len(records)) {
		return 0, fail(Malformed, "the total is not the sum of the records")
	}
	return *total, nil
}

// runpodNoise is by how much the total may miss the sum of its records: a millionth
// of a dollar.
const runpodNoise ledger.Nanos = 1_000

// runpodTime is a time in a reply. The error of time.Time's own reader would quote it.
type runpodTime struct{ time.Time }

var errNotTime = errors.New("a date cannot be read")

func (t *runpodTime) UnmarshalJSON(b []byte) error {
	if t.Time.UnmarshalJSON(b) != nil {
		return errNotTime
	}
	return nil
}

type runpodState struct {
	status  string
	created time.Time
	rate    *ledger.Nanos
	volumes []string // network volumes that are mounted
}

// describe reads what the pod is and what it mounts. The reply holds the pod's
// environment: nothing of it is kept but these fields.
func (r *runpod) describe(ctx context.Context, clk clock) (runpodState, *Failure) {
	const call = "GET /v2/pods/{id}"
	body, f := r.api.get(ctx, clk, call, "v2/pods/"+r.pod, nil)
	if f != nil {
		return runpodState{}, f
	}
	p, f := decodeRunpodPod(r.pod, body)
	if f != nil {
		return runpodState{}, f.at(call)
	}
	for _, id := range p.volumes {
		if r.api.word(id) != id {
			return runpodState{}, fail(Malformed, "reply has an id that is none").at(call)
		}
	}
	return p, nil
}

func decodeRunpodPod(id string, body []byte) (runpodState, *Failure) {
	var reply struct {
		ID      *string         `json:"id"`
		Status  *string         `json:"status"`
		Created *runpodTime     `json:"createdAt"`
		Cost    *amount         `json:"cost"`
		Cluster json.RawMessage `json:"cluster"`
		Mounts  *struct {
			Network []struct {
				ID *string `json:"volumeId"`
			} `json:"network"`
		} `json:"mounts"`
	}
	none := runpodState{}
	if f := decode(body, &reply); f != nil {
		return none, f
	}
	switch {
	case reply.ID == nil || reply.Status == nil || reply.Created == nil || reply.Mounts == nil:
		return none, fail(Incomplete, "reply lacks one of id, status, createdAt, mounts")
	case *reply.ID != id:
		return none, fail(Malformed, "the reply is of another pod than was asked")
	case len(reply.Cluster) > 0 && string(reply.Cluster) != "null":
		f := fail(Incomplete, "pod %s is part of a cluster: its cost is in the cluster's bill", id)
		f.hint = "use a pod of its own, or --provider none"
		return none, f
	}
	p := runpodState{status: *reply.Status, created: reply.Created.UTC(), rate: reply.Cost.nanos()}
	switch {
	case p.rate == nil:
	case *p.rate < 0:
		return none, fail(Malformed, "reply has a cost below zero")
	case *p.rate == 0:
		p.rate = nil
	}
	seen := make(map[string]bool)
	for _, m := range reply.Mounts.Network {
		switch {
		case m.ID == nil:
			return none, fail(Incomplete, "reply has a network mount without volumeId")
		case !runpodID(*m.ID):
			return none, fail(Malformed, "reply has an id that is none")
		case !seen[*m.ID]:
			seen[*m.ID] = true
			p.volumes = append(p.volumes, *m.ID)
		}
	}
	return p, nil
}

// runpodRuns says whether a pod in this state is billed as running. A word that
// nobody has seen is taken to be.
func runpodRuns(status string) bool {
	switch strings.ToUpper(status) {
	case "PROVISIONING", "STARTING", "EXITED", "ERROR", "TERMINATED":
		return false
	}
	return true
}
