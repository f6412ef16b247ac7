package billing

import (
	"encoding/json"
	"os"
	"testing"

	"spotinference/ledger"
)

// Whatever comes, the decoder returns a bill that is no less than zero, of the
// account that it names, or a failure with a class; and the same every time.
func FuzzDecodeHyperstackBill(f *testing.F) {
	b, err := os.ReadFile("testdata/hyperstack.json")
	if err != nil {
		f.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Body json.RawMessage
			Text string `json:"body_text"`
		}
	}
	if err := json.Unmarshal(b, &file); err != nil {
		f.Fatal(err)
	}
	for _, c := range file.Cases {
		f.Add([]byte(c.Body))
		f.Add([]byte(c.Text))
	}
	f.Add([]byte(`{"billing_history_vm_details":{"org_id":1,"billing_history":[{"metrics":{"incurred_bill":"1e18"}}]}}`))
	f.Add([]byte(`{"billing_history_vm_details":{"org_id":1,"billing_history":[{"metrics":{"incurred_bill":9e9}},{"metrics":{"incurred_bill":9e9}}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, r := range []hyperstackResource{hyperstackVM, hyperstackVolume} {
			bill, failure := decodeHyperstackBill(r, 701234, body)
			again, failure2 := decodeHyperstackBill(r, 701234, body)
			if (failure == nil) != (failure2 == nil) || bill.total != again.total {
				t.Fatalf("twice read, twice different: %+v %+v", bill, again)
			}
			switch {
			case failure != nil && (failure.Class == "" || failure.Error() == "" || bill != hyperstackBill{}):
				t.Fatalf("failure %+v with %+v", failure, bill)
			case failure == nil && (bill.total < 0 || bill.account == "" || (bill.rate != nil && *bill.rate < 0)):
				t.Fatalf("bill %+v", bill)
			}
		}
		decodeHyperstackMachine(701234, body)
	})
}

// An amount is exactly what its text says, or nothing.
func FuzzAmount(f *testing.F) {
	for _, s := range []string{`62.541666666666664`, `"62.5"`, `1.4799118041992184e-11`, `NaN`, `1e400`, `null`, `"\u0031"`, `-0`, `"-1"`, `0x1p3`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a amount
		if json.Unmarshal(b, &a) != nil || string(b) == "null" {
			return
		}
		var text string
		if json.Unmarshal(b, &text) != nil {
			text = string(b)
		}
		want, err := ledger.ParseNanos(text)
		if err != nil || ledger.Nanos(a) != want {
			t.Fatalf("%s read as %s, want %s (%v)", b, ledger.Nanos(a), want, err)
		}
	})
}
