package ledger

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A request alone waits for one sync, and all that finish while a commit syncs
// share the next one.
func TestOneSyncServesAllWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		led, err := Open(Config{Path: filepath.Join(t.TempDir(), "l.db")})
		if err != nil {
			t.Fatal(err)
		}
		defer led.Close()
		commits, gate := 0, make(chan struct{}, 1)
		led.commit = func(commit func() error) error {
			commits++
			<-gate
			return commit()
		}
		n := 0
		finished := make(chan error, 100)
		finish := func() {
			n++
			r := Request{
				ID: fmt.Sprint("req_", n), Status: OK, HTTP: 200, Started: time.Now(), Finished: time.Now().Add(time.Duration(n)),
			}
			go func() { finished <- led.AddRequest(r) }()
		}
		acknowledged := func(want int) {
			t.Helper()
			synctest.Wait()
			if len(finished) != want {
				t.Fatalf("%d requests are acknowledged, want %d", len(finished), want)
			}
			for range want {
				if err := <-finished; err != nil {
					t.Fatal(err)
				}
			}
		}

		finish()
		acknowledged(0)
		for range 50 { // while the first syncs
			finish()
		}
		synctest.Wait() // they are all queued
		gate <- struct{}{}
		acknowledged(1)
		gate <- struct{}{}
		acknowledged(50)
		if commits != 2 {
			t.Errorf("%d commits for 1 request and then 50, want 2", commits)
		}
		led.commit = nil
	})
}
