package runpod_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"
)

// The bill of now is the total of all hours as they are told now: the hour in progress
// grows, and one that is over may be told anew.
func TestPitfall04RestatedBuckets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPods(t)
		hours := func(name string) (amounts []string) {
			t.Helper()
			var reply struct {
				Records []struct{ TotalAmount json.Number }
			}
			if err := json.Unmarshal(p.Cases[name].Body, &reply); err != nil {
				t.Fatal(err)
			}
			for _, r := range reply.Records {
				amounts = append(amounts, r.TotalAmount.String())
			}
			return amounts
		}
		was, is := hours("pods_billing_t0"), hours("pods_billing_t1")
		if len(was) != 3 || len(is) != 3 || was[0] == is[0] || was[2] == is[2] {
			t.Fatalf("the recordings do not restate an hour: %v, %v", was, is)
		}
		provider := p.Provider(nil)
		a, err := provider.Sample(t.Context(), p.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		p.Bill = "pods_billing_t1"
		b, err := provider.Sample(t.Context(), p.Now())
		if err != nil {
			t.Fatal(err)
		}
		if *a.Lines[0].Bill != 6_397_000_000 || *b.Lines[0].Bill != 6_639_500_000 {
			t.Errorf("bills %s and %s", *a.Lines[0].Bill, *b.Lines[0].Bill)
		}
	})
}
