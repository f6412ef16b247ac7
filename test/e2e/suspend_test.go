package e2e_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"spotinference/ledger/report"
	"spotinference/server/control"
	"spotinference/test/harness"
)

// TestSuspendAndWakeUnderLoad: the real engine is suspended fifty times, whenever it
// has a moment, while clients that know nothing of it go on asking. No request is
// lost, each wake is explained, and nothing is left over: no process, no descriptor,
// no token that nothing explains.
func TestSuspendAndWakeUnderLoad(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t, "-c", "8192", "-np", "4")
	const cycles = 50
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			client := clients(1)
			defer client.CloseIdleConnections()
			rnd := rand.New(rand.NewPCG(3, uint64(n)))
			for i := 0; ctx.Err() == nil; i++ {
				a, err := ask(context.Background(), s, client, i%len(kinds), rnd, 1+rnd.IntN(8), -1)
				if err != nil || a.status != http.StatusOK || !a.whole {
					t.Errorf("%s: %+v, %v", kinds[i%len(kinds)].name, a, err)
				}
				time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond) // a moment in which nobody asks
			}
		})
	}
	// The first cycles open what stays open: the log, the ledger's readers.
	var before int
	for done := 0; done < cycles; {
		var refused *control.Refused
		if err := control.Call(t.Context(), control.Path(s.Ledger), "suspend", nil, nil); err == nil {
			done++
		} else if errors.As(err, &refused) { // a request runs, or the engine is still starting
			time.Sleep(2 * time.Millisecond) // or asking takes a core, of the two that the engine starts on
		} else {
			t.Fatalf("suspend: %v", err)
		}
		if done == 5 && before == 0 {
			before = descriptors(t, s)
		}
	}
	stop()
	wg.Wait()
	if _, stderr, code := harness.Command(t, nil, "wake", "--ledger", s.Ledger); code != 0 {
		t.Fatalf("wake: exit %d\n%s", code, stderr)
	}
	s.EngineIdle()
	harness.Eventually(t, "no descriptor is left over", func() bool { return descriptors(t, s) <= before+8 })
	var m meterReport
	s.Report(&m, "meter", "--window", "1h")
	if len(m.Flags) > 0 || len(m.Engines) == 0 {
		t.Errorf("report meter = %+v", m)
	}
	s.Stop() // and with it, all processes: real checks that
	u := s.Usage()
	if u.ByStatus.OK != u.Requests || u.Requests == 0 {
		t.Errorf("report usage = %+v", u)
	}
}

// descriptors is how many files the gateway has open.
func descriptors(t testing.TB, s *harness.Gateway) int {
	t.Helper()
	files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(s.Cmd.Process.Pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestSuspensionIsNoSaving: README says what status and the report of the wakes say.
func TestSuspensionIsNoSaving(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(harness.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	sentence := strings.ToUpper(report.SuspendedBill[:1]) + report.SuspendedBill[1:] + "."
	if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), sentence) {
		t.Errorf("README does not say: %s", sentence)
	}
}
