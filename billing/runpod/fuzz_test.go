package runpod

import (
	"encoding/json"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// Whatever comes, the decoder returns a bill that is no less than zero or a failure
// with a class; and the same every time.
func FuzzDecodeRunpodBill(f *testing.F) {
	rig.AddCases(f, "runpod")
	f.Add([]byte(`{"records":[{"startTime":"2026-11-23T10:00:00Z","endTime":"2026-11-23T11:00:00Z","podId":"7h9k2m4n6p","totalAmount":9e9}],
		"metadata":{"query":{"startTime":"2026-11-23T10:00:00Z","endTime":"2026-11-23T13:00:00Z","bucketSize":"hour","podId":"7h9k2m4n6p"},
		"recordCount":1,"totals":{"totalAmount":"9e9"}}}`))
	start := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	w := window{from: start, to: start.Add(3 * time.Hour)}
	f.Fuzz(func(t *testing.T, body []byte) {
		for id, kind := range map[string]resourceKind{"7h9k2m4n6p": kindPod, "agv6w2qcg7": kindVolume} {
			bill, failure := decodeBill(kind, id, w, body)
			again, failure2 := decodeBill(kind, id, w, body)
			switch {
			case (failure == nil) != (failure2 == nil) || bill != again:
				t.Fatalf("twice read, twice different: %s %s", bill, again)
			case failure != nil && (failure.Class == "" || failure.Error() == "" || bill != 0):
				t.Fatalf("failure %+v with %s", failure, bill)
			case bill < 0:
				t.Fatalf("bill %s", bill)
			case failure == nil && !json.Valid(newestRecords(body)):
				t.Fatalf("kept %q", newestRecords(body))
			}
		}
		b, failure := decodeBalance(body)
		rig.Classed(t, "balance", failure, b == api.Balances{})
		total, failure := decodeTotal(body)
		rig.Classed(t, "total", failure, total == 0)
		p, failure := decodePod("7h9k2m4n6p", body)
		switch {
		case failure != nil && (failure.Class == "" || p.status != "" || p.volumes != nil):
			t.Fatalf("failure %+v with %+v", failure, p)
		case p.rate != nil && *p.rate <= 0:
			t.Fatalf("rate %s", *p.rate)
		}
		for _, id := range p.volumes {
			if !isID(id) {
				t.Fatalf("volume %q", id)
			}
		}
	})
}
