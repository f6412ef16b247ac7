package ledger_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"spotinference/ledger"
)

// One process writes, any number read. A write that returned nil is on disk, and a spend
// is the difference of two samples of the bill.
func Example() {
	dir, err := os.MkdirTemp("", "ledger")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(dir, "ledger.db")})
	if err != nil {
		log.Fatal(err)
	}
	defer led.Close()

	start := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	for minute, bill := range []ledger.Nanos{100_000_000_000, 100_040_000_000} {
		_, err := led.AddSample(context.Background(), ledger.Sample{
			At: start.Add(time.Duration(minute) * time.Minute), Provider: "hyperstack", Currency: "USD", Truth: ledger.TruthResource,
			Lines: []ledger.Line{{Resource: "vm-1", Kind: ledger.Instance, Running: true, Bill: &bill, Epoch: "1"}},
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	spend, err := led.Spent(start, start.Add(time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(spend.Net, spend.Currency, "from", spend.From.At.Format(time.TimeOnly), "to", spend.To.At.Format(time.TimeOnly))
	// Output: 0.04 USD from 12:00:00 to 12:01:00
}
