package ledger_test

import (
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"spotinference/ledger"
)

func TestResiduals(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	start := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	at := func(m int) time.Time { return start.Add(time.Duration(m) * time.Minute) }
	one := ledger.Residual{From: at(0), To: at(10), Paid: 1_500_000_001, Billed: 1_000_000_000, Currency: "USD"}
	two := ledger.Residual{From: at(10), To: at(30), Paid: 2_000_000_000, Billed: -1, Currency: "USD"}
	other := func(m int) {
		t.Helper()
		for _, e := range []ledger.Event{
			{At: at(m), Kind: "gate", Subject: "residual", Detail: "{}"}, {At: at(m), Kind: "billing", Subject: "balance_low", Detail: "{}"},
		} {
			if err := led.AddRawEvent(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	other(5)
	if err := led.AddEvent(at(16), one); err != nil {
		t.Fatal(err)
	}
	other(20)
	if err := led.AddEvent(at(36), two); err != nil {
		t.Fatal(err)
	}
	f := func(from, to int, want ...ledger.Residual) {
		t.Helper()
		got, err := led.Residuals(at(from), at(to))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Residuals(%d, %d) = %+v, %v, want %+v", from, to, got, err, want)
		}
	}
	f(-10, 40, two, one)
	f(-10, 0) // ends where the first begins
	f(-10, 1, one)
	f(9, 11, two, one)
	f(10, 11, two) // after the first's end, though its event is younger
	f(29, 60, two)
	f(30, 60)
	f(40, 60)
}
