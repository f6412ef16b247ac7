package budget_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"spotinference/budget"
	"spotinference/ledger"
)

// A nil error is the only yes. Run, in a goroutine of its own, keeps the verdict up to
// date; before the first one, and where Run has died, the gate is closed.
func Example() {
	dir, err := os.MkdirTemp("", "budget")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(dir, "ledger.db")})
	if err != nil {
		log.Fatal(err)
	}
	defer led.Close()

	limits, err := budget.ParseLimits("40/day")
	if err != nil {
		log.Fatal(err)
	}
	gate, err := budget.New(budget.Config{Ledger: led, Terms: budget.Terms{Limits: limits}, MaxSampleAge: 3 * time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(gate.Allow())
	gate.Evaluate() // as Run does
	fmt.Println(gate.Allow())
	// Output:
	// what may still be spent is being worked out (not_evaluated)
	// the provider's bill has not been read yet (no_sample)
}
