package vast

import (
	"encoding/json"
	"testing"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// Whatever comes, the decoders return charges that add up to no less than zero, or a
// failure with a class and nothing beside it; and the same every time.
func FuzzDecodeVast(f *testing.F) {
	rig.AddCases(f, "vast")
	f.Add([]byte(`{"success":true,"count":2,"total":2,"results":[{"source":"instance-12345678","amount":9e9},{"source":"instance-12345678","amount":"9e9"}]}`))
	f.Add([]byte(`{"success":true,"count":1,"total":1,"next_token":"","results":[{"source":"instance-12345678","amount":"1e18"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		page, failure := decodeCharges(body)
		again, failure2 := decodeCharges(body)
		if (failure == nil) != (failure2 == nil) || len(page.charges) != len(again.charges) || page.total != again.total || page.next != again.next {
			t.Fatalf("twice read, twice different: %+v %+v", page, again)
		}
		if failure != nil && (failure.Class == "" || failure.Error() == "" || page.charges != nil || page.total != 0 || page.next != "") {
			t.Fatalf("failure %+v with %+v", failure, page)
		}
		bill, raw, failure := billOf(page.charges, "instance-12345678")
		switch {
		case failure != nil && (failure.Class == "" || bill != 0 || raw != nil):
			t.Fatalf("failure %+v with %s from %s", failure, bill, raw)
		case failure == nil && bill < 0:
			t.Fatalf("bill %s", bill)
		case failure == nil:
			// What is kept can be added up again to the same.
			var kept []struct{ Amount *api.Amount }
			if err := json.Unmarshal(raw, &kept); err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			for _, e := range kept {
				bill -= *e.Amount.Nanos()
			}
			if bill != 0 {
				t.Fatalf("%s is off by %s", raw, bill)
			}
		}
		if m, failure := decodeMachine(12345678, body); failure != nil && (failure.Class == "" || m.rate != nil || m.volumes != nil) {
			t.Fatalf("failure %+v with %+v", failure, m)
		} else if failure == nil && (m.created.IsZero() || m.status == "" && m.rate != nil && *m.rate < 0 || lagFor(m.rate) < lag) {
			t.Fatalf("instance %+v", m)
		}
		b, failure := decodeBalances(body)
		rig.Classed(t, "balances", failure, b == api.Balances{})
		born, listed, failure := decodeVolume(777, body)
		rig.Classed(t, "volume", failure, born.IsZero() && !listed)
	})
}
