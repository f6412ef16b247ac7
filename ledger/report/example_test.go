package report_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

// A report is asked of a reader, and says itself where the ledger cannot tell.
func Example() {
	dir, err := os.MkdirTemp("", "report")
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
	bill := ledger.Nanos(100_000_000_000)
	_, err = led.AddSample(context.Background(), ledger.Sample{
		At: start, Provider: "hyperstack", Currency: "USD", Truth: ledger.TruthResource,
		Lines: []ledger.Line{{Resource: "vm-1", Kind: ledger.Instance, Running: true, Bill: &bill, Epoch: "1"}},
	})
	if err != nil {
		log.Fatal(err)
	}

	now := start.Add(time.Minute)
	rep, err := report.Cost(led.Reader, report.CostQuery{
		Window: ledger.Window{From: start, To: now}, Now: now, MaxSampleAge: 3 * time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	if rep.Refused() {
		fmt.Println("not known:", rep.Reason)
		return
	}
	if err := rep.Write(os.Stdout, report.Text); err != nil {
		log.Fatal(err)
	}
	// Output: not known: one_sample
}
