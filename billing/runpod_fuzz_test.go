package billing

import (
	"encoding/json"
	"testing"
	"time"
)

// Whatever comes, the decoder returns a bill that is no less than zero or a failure
// with a class; and the same every time.
func FuzzDecodeRunpodBill(f *testing.F) {
	addCases(f, "runpod.json")
	f.Add([]byte(`{"records":[{"startTime":"2026-11-23T10:00:00Z","endTime":"2026-11-23T11:00:00Z","podId":"7h9k2m4n6p","totalAmount":9e9}],
		"metadata":{"query":{"startTime":"2026-11-23T10:00:00Z","endTime":"2026-11-23T13:00:00Z","bucketSize":"hour","podId":"7h9k2m4n6p"},
		"recordCount":1,"totals":{"totalAmount":"9e9"}}}`))
	start := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	w := runpodWindow{from: start, to: start.Add(3 * time.Hour)}
	f.Fuzz(func(t *testing.T, body []byte) {
		for id, kind := range map[string]runpodKind{"7h9k2m4n6p": runpodPodBill, "agv6w2qcg7": runpodVolumeBill} {
			bill, failure := decodeRunpodBill(kind, id, w, body)
			again, failure2 := decodeRunpodBill(kind, id, w, body)
			switch {
			case (failure == nil) != (failure2 == nil) || bill != again:
				t.Fatalf("twice read, twice different: %s %s", bill, again)
			case failure != nil && (failure.Class == "" || failure.Error() == "" || bill != 0):
				t.Fatalf("failure %+v with %s", failure, bill)
			case bill < 0:
				t.Fatalf("bill %s", bill)
			case failure == nil && !json.Valid(runpodNewest(body)):
				t.Fatalf("kept %q", runpodNewest(body))
			}
		}
		b, failure := decodeRunpodBalance(body)
		classed(t, "balance", failure, b == Balances{})
		total, failure := decodeRunpodTotal(body)
		classed(t, "total", failure, total == 0)
		p, failure := decodeRunpodPod("7h9k2m4n6p", body)
		switch {
		case failure != nil && (failure.Class == "" || p.status != "" || p.volumes != nil):
			t.Fatalf("failure %+v with %+v", failure, p)
		case p.rate != nil && *p.rate <= 0:
			t.Fatalf("rate %s", *p.rate)
		}
		for _, id := range p.volumes {
			if !runpodID(id) {
				t.Fatalf("volume %q", id)
			}
		}
	})
}
