package ledger_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
)

// BenchmarkWriter tells what a request's row costs of CPU, kernel included, by how
// many share a commit. Every request that the gateway serves pays it.
//
//	go test -run XXX -bench Writer -benchtime 3000x ./ledger
func BenchmarkWriter(b *testing.B) {
	for _, rows := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			led, err := ledger.Open(ledger.Config{Path: filepath.Join(b.TempDir(), "l.db"), Log: quiet()})
			if err != nil {
				b.Fatal(err)
			}
			defer led.Close()
			at, n := t0, 0
			batch := make([]ledger.Request, rows)
			before := processCPU(b)
			for b.Loop() {
				for i := range batch {
					at, n = at.Add(40*time.Millisecond), n+1
					batch[i] = ledger.Request{
						ID: fmt.Sprintf("req_%026d", n), Endpoint: "chat", Model: []string{"qwen", "llama"}[n%2], Key: []string{"ann", "bob", "eve"}[n%3],
						Stream: true, Status: ledger.OK, HTTP: 200, Started: at.Add(-time.Duration(n%7) * 20 * time.Millisecond), First: at, Finished: at,
						Usage: ledger.Usage{PromptTokens: 1000, CachedTokens: 100, CompletionTokens: 300},
					}
				}
				if err := led.AddRequests(batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processCPU(b)-before).Nanoseconds())/1000/float64(b.N*rows), "CPU-µs/row")
		})
	}
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
