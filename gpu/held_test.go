package gpu

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestHeld: what processes hold is told by a reading that came after the question, and
// is not known, with the reason, where a reading does not say it all.
func TestHeld(t *testing.T) {
	line := func(processes string) []byte {
		return fmt.Appendf(nil, `{"cards":[{"index":0,"uuid":"GPU-a","processes":%s},{"index":1,"uuid":"GPU-b","processes":[{"pid":8,"memory":5}]}]}`, processes)
	}
	for _, c := range []struct {
		processes string
		want      int64
		err       string
	}{
		{`[{"pid":7,"memory":100},{"pid":9,"memory":1000}]`, 105, ""},
		{`[]`, 5, ""},
		{`null`, 0, "helper does not list the processes of card 0"},
		{`[{"pid":7,"memory":null}]`, 0, "helper does not say what process 7 holds"},
		{`[{"pid":9,"memory":null}]`, 5, ""}, // somebody else's
	} {
		synctest.Test(t, func(t *testing.T) {
			helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
			w := watch(t, helper)
			defer w.stop()
			p := newFakeProcess()
			helper.starts <- p
			p.out <- line(`[{"pid":7,"memory":1}]`)
			go func() {
				time.Sleep(time.Second)
				p.out <- line(c.processes)
			}()
			time.Sleep(time.Millisecond) // the first reading is old by now
			got, err := w.Held(t.Context(), []int{7, 8})
			if text := fmt.Sprint(err); got != c.want && c.err == "" || c.err != "" && text != c.err {
				t.Errorf("held of %s: %d, %v, want %d, %s", c.processes, got, err, c.want, c.err)
			}
		})
	}
}

// TestHeldUnseen: no source, a source that ends, one that says nothing more.
func TestHeldUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := &fake{name: Helper, starts: make(chan *fakeProcess)}
		w := watch(t, helper)
		if _, err := w.Held(t.Context(), []int{7}); err == nil || err.Error() != "the cards are not read: no reading yet" {
			t.Errorf("before the first reading: %v", err)
		}
		p := newFakeProcess()
		helper.starts <- p
		speak(p, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := w.Held(ctx, []int{7}); err == nil || !strings.HasPrefix(err.Error(), "no reading came: ") {
			t.Errorf("while it is silent: %v", err)
		}
		go func() { close(p.out) }()
		if _, err := w.Held(t.Context(), []int{7}); err == nil || err.Error() != "the cards are not read: helper: signal: killed" {
			t.Errorf("when it has ended: %v", err)
		}
		w.stop()
	})
}
