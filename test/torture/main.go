// Command torture drives the real binary as service would at its worst, and holds
// what comes of it against the simulators' own books. It builds the binary with the
// build tag torture, puts it in front of the simulated engine, a process of its own,
// and of the simulated provider, an HTTP server with books of its own, and then kills,
// stops, fills, darkens and floods at random: what and when is decided by the seed
// alone.
//
//	go run ./torture -for 2m -seed 7
//
// Rounds of some seconds follow on each other. Each ends with every fault lifted, and
// then everything must be well again by itself, and every promise kept:
//
//   - nothing is served while the gate should be closed for longer than one sample
//     interval and --max-sample-age; the day's budget holds;
//   - each answer that a client has whole is one row with its tokens, each that was cut
//     a lower bound of what its client had, and nobody without the key had any;
//   - the ledger verifies, and its cost is what the provider's books say;
//   - no process is left of a serve that died, and nothing leaks.
//
// The first broken promise ends it, with exit code 1 and a directory of evidence.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if filepath.Base(os.Args[0]) == smiName {
		os.Exit(smi(os.Args[1:]))
	}
	length := flag.Duration("for", 2*time.Minute, "for how long; the round that runs then ends")
	seed := flag.Uint64("seed", rand.Uint64N(1_000_000), "which faults, and when")
	from := flag.Int("from", 1, "the first round, to see a late one again soon")
	flag.Parse()
	if flag.NArg() > 0 || *from < 1 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(apart(func(disk error) int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err := torture(ctx, *seed, *from, *length, disk)
		if err != nil {
			fmt.Fprintf(os.Stderr, "torture: error: %v\n", err)
			return 1
		}
		return 0
	}))
}

// torture runs rounds until the time is over. disk is why there is no small disk.
func torture(ctx context.Context, seed uint64, from int, length time.Duration, disk error) (err error) {
	fmt.Printf("torture: seed %d\n", seed)
	if disk != nil {
		fmt.Printf("torture: the disk cannot be filled here, that fault is not run: %v\n", disk)
	}
	r, err := newRig(seed, disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(err)) }()
	p := newPlanner(seed)
	for range from - 1 {
		p.next()
	}
	for begun := time.Now(); time.Since(begun) < length && ctx.Err() == nil; {
		if err := r.round(ctx, p.next()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	r.tally.print(os.Stdout, seed)
	return nil
}
