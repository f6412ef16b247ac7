package runpod

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/ledger"
)

// What Runpod's replies hold, read from bytes that may come from anywhere.

// timeSpan is how the API writes one; ownerID whose it is.
type timeSpan struct {
	Start *replyTime `json:"startTime"`
	End   *replyTime `json:"endTime"`
}

type ownerID struct {
	Pod    *string `json:"podId"`
	Volume *string `json:"networkVolumeId"`
}

func (o ownerID) id(kind resourceKind) *string {
	if kind.kind == ledger.Volume {
		return o.Volume
	}
	return o.Pod
}

// decodeBill reads a billing reply. It is pure, and takes bytes from anywhere.
func decodeBill(kind resourceKind, id string, w window, body []byte) (ledger.Nanos, *api.Failure) {
	var reply struct {
		Money   *string `json:"currency"` // not in the API today
		Records *[]struct {
			timeSpan
			ownerID
			Total *api.Amount `json:"totalAmount"`
		} `json:"records"`
		Meta *struct {
			Money *string `json:"currency"`
			Query *struct {
				timeSpan
				ownerID
				Bucket *string `json:"bucketSize"`
			} `json:"query"`
			Count  *int64 `json:"recordCount"`
			Totals *struct {
				Total *api.Amount `json:"totalAmount"`
			} `json:"totals"`
		} `json:"metadata"`
	}
	if f := api.Decode(body, &reply); f != nil {
		return 0, f
	}
	if reply.Records == nil || reply.Meta == nil || reply.Meta.Query == nil || reply.Meta.Count == nil || reply.Meta.Totals == nil {
		return 0, api.Fail(api.Incomplete, "reply lacks one of records, metadata, query, recordCount, totals")
	}
	records, meta, query, total := *reply.Records, reply.Meta, reply.Meta.Query, reply.Meta.Totals.Total.Nanos()
	for _, m := range []*string{reply.Money, meta.Money} {
		if m != nil && !strings.EqualFold(*m, "USD") {
			return 0, api.Fail(api.Currency, "bill is not in USD")
		}
	}
	switch owner := query.id(kind); {
	case query.Start == nil || query.End == nil || query.Bucket == nil || owner == nil:
		return 0, api.Fail(api.Incomplete, "reply does not say what it was asked")
	case !query.Start.Equal(w.from) || !query.End.Equal(w.to) || *query.Bucket != "hour":
		return 0, api.Fail(api.Malformed, "the bill is of another window than was asked")
	case *owner != id:
		return 0, api.Fail(api.Malformed, "the bill is of another %s than was asked", kind.name)
	case *meta.Count != int64(len(records)):
		return 0, api.Fail(api.Incomplete, "reply has %d of %d records", len(records), *meta.Count)
	case total == nil:
		return 0, api.Fail(api.Incomplete, "reply has no totalAmount")
	case *total < 0:
		return 0, api.Fail(api.Malformed, "reply has an amount below zero")
	case len(records) == 0:
		f := api.Fail(api.Incomplete, "there are no records: no data yet, which is not a zero bill")
		f.WithHint("what is new shows in Runpod's records only after a while")
		return 0, f
	}
	var sum ledger.Nanos
	seen := make(map[int64]bool, len(records))
	for _, rec := range records {
		owner, part := rec.id(kind), rec.Total.Nanos()
		switch {
		case rec.Start == nil || rec.End == nil || owner == nil || part == nil:
			return 0, api.Fail(api.Incomplete, "a record lacks one of startTime, endTime, %s, totalAmount", kind.filter)
		case *owner != id:
			return 0, api.Fail(api.Malformed, "a record is of another %s than was asked", kind.name)
		case *part < 0:
			return 0, api.Fail(api.Malformed, "reply has an amount below zero")
		case !rec.Start.Equal(rec.Start.Truncate(bucket)) || rec.End.Sub(rec.Start.Time) != bucket:
			return 0, api.Fail(api.Malformed, "a record is not of one hour")
		case rec.Start.Before(w.from) || rec.End.After(w.to):
			return 0, api.Fail(api.Malformed, "a record lies outside the window")
		case seen[rec.Start.Unix()]:
			return 0, api.Fail(api.Malformed, "an hour has two records")
		}
		seen[rec.Start.Unix()] = true
		var err error
		if sum, err = sum.Add(*part); err != nil {
			return 0, api.Fail(api.Malformed, "add up totalAmount: out of range")
		}
	}
	// Each amount was a double there and is rounded to a nano here.
	if d, err := total.Sub(sum); err != nil || max(d, -d) > totalNoise+ledger.Nanos(len(records)) {
		return 0, api.Fail(api.Malformed, "the total is not the sum of the records")
	}
	return *total, nil
}

// totalNoise is by how much the total may miss the sum of its records: a millionth
// of a dollar.
const totalNoise ledger.Nanos = 1_000

// replyTime is a time in a reply. The error of time.Time's own reader would quote it.
type replyTime struct{ time.Time }

var errNotTime = errors.New("a date cannot be read")

func (t *replyTime) UnmarshalJSON(b []byte) error {
	if t.Time.UnmarshalJSON(b) != nil {
		return errNotTime
	}
	return nil
}

type podState struct {
	status  string
	created time.Time
	rate    *ledger.Nanos
	volumes []string // network volumes that are mounted
}

func decodePod(id string, body []byte) (podState, *api.Failure) {
	var reply struct {
		ID      *string         `json:"id"`
		Status  *string         `json:"status"`
		Created *replyTime      `json:"createdAt"`
		Cost    *api.Amount     `json:"cost"`
		Cluster json.RawMessage `json:"cluster"`
		Mounts  *struct {
			Network []struct {
				ID *string `json:"volumeId"`
			} `json:"network"`
		} `json:"mounts"`
	}
	none := podState{}
	if f := api.Decode(body, &reply); f != nil {
		return none, f
	}
	switch {
	case reply.ID == nil || reply.Status == nil || reply.Created == nil || reply.Mounts == nil:
		return none, api.Fail(api.Incomplete, "reply lacks one of id, status, createdAt, mounts")
	case *reply.ID != id:
		return none, api.Fail(api.Malformed, "the reply is of another pod than was asked")
	case len(reply.Cluster) > 0 && string(reply.Cluster) != "null":
		f := api.Fail(api.Incomplete, "pod %s is part of a cluster: its cost is in the cluster's bill", id)
		f.WithHint("use a pod of its own, or --provider none")
		return none, f
	}
	p := podState{status: *reply.Status, created: reply.Created.UTC(), rate: reply.Cost.Nanos()}
	switch {
	case p.rate == nil:
	case *p.rate < 0:
		return none, api.Fail(api.Malformed, "reply has a cost below zero")
	case *p.rate == 0:
		p.rate = nil
	}
	seen := make(map[string]bool)
	for _, m := range reply.Mounts.Network {
		switch {
		case m.ID == nil:
			return none, api.Fail(api.Incomplete, "reply has a network mount without volumeId")
		case !isID(*m.ID):
			return none, api.Fail(api.Malformed, "reply has an id that is none")
		case !seen[*m.ID]:
			seen[*m.ID] = true
			p.volumes = append(p.volumes, *m.ID)
		}
	}
	return p, nil
}

// keptRecords is how many records of a reply are kept. Those of older hours came with
// earlier samples, and a year of them with every sample would fill the disk.
const keptRecords = 24

// newestRecords cuts a reply that was decoded down to its newest records and its
// metadata, which holds the total. What it leaves is as it came.
func newestRecords(body []byte) []byte {
	var reply struct {
		Records []json.RawMessage `json:"records"`
		Meta    json.RawMessage   `json:"metadata"`
	}
	if json.Unmarshal(body, &reply) != nil || len(reply.Records) <= keptRecords {
		return body
	}
	type record struct {
		start time.Time
		raw   json.RawMessage
	}
	all := make([]record, len(reply.Records))
	for i, raw := range reply.Records {
		all[i] = record{recordStart(raw), raw}
	}
	slices.SortStableFunc(all, func(a, b record) int { return a.start.Compare(b.start) })
	cut := len(all) - keptRecords
	b := fmt.Appendf(nil, `{"records_cut":%d,"records":[`, cut)
	for i, rec := range all[cut:] {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, rec.raw...)
	}
	return fmt.Appendf(b, `],"metadata":%s}`, reply.Meta)
}

func recordStart(record []byte) time.Time {
	var span timeSpan
	if json.Unmarshal(record, &span) != nil || span.Start == nil {
		return time.Time{}
	}
	return span.Start.Time
}
