package hyperstack

import (
	"testing"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// Whatever comes, the decoders return a bill that is no less than zero, of the
// account that it names, or a failure with a class; and the same every time.
func FuzzDecodeHyperstack(f *testing.F) {
	rig.AddCases(f, "hyperstack")
	f.Add([]byte(`{"billing_history_vm_details":{"org_id":1,"billing_history":[{"metrics":{"incurred_bill":"1e18"}}]}}`))
	f.Add([]byte(`{"billing_history_vm_details":{"org_id":1,"billing_history":[{"metrics":{"incurred_bill":9e9}},{"metrics":{"incurred_bill":9e9}}]}}`))
	f.Add([]byte(`{"volume":{"id":45678,"created_at":"2026-11-22T10:50:00"}}`))
	f.Add([]byte(`{"count":1,"page_size":100,"snapshots":[{"id":31,"vm_id":701234,"status":"SUCCESS","created_at":"2026-11-22T11:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, r := range []resourceKind{kindVM, kindVolume} {
			bill, failure := decodeBill(r, 701234, body)
			again, failure2 := decodeBill(r, 701234, body)
			if (failure == nil) != (failure2 == nil) || bill.total != again.total {
				t.Fatalf("twice read, twice different: %+v %+v", bill, again)
			}
			rig.Classed(t, "bill", failure, bill == billReply{})
			if failure == nil && (bill.total < 0 || bill.account == "" || (bill.rate != nil && *bill.rate < 0)) {
				t.Fatalf("bill %+v", bill)
			}
		}
		m, failure := decodeMachine(701234, body)
		rig.Classed(t, "machine", failure, m.status == "" && m.volumes == nil && m.created.IsZero())
		born, failure := decodeVolume(45678, body)
		rig.Classed(t, "volume", failure, born.IsZero())
		b, failure := decodeCredit(body)
		rig.Classed(t, "credit", failure, b == api.Balances{})
		total, failure := decodeTotal(body)
		rig.Classed(t, "total", failure, total == 0)
		page, failure := decodeMachines(body)
		rig.Classed(t, "listing", failure, page.machines == nil && page.count == 0)
		if failure == nil && page.size <= 0 {
			t.Fatalf("page %+v", page)
		}
		kept, _, _, failure := decodeSnapshots(body)
		rig.Classed(t, "snapshots", failure, kept == nil)
		decodeDeleted(body) // one sign beside others: what it cannot read, it does not know
	})
}
