package hyperstack_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/rig"
)

// A sample is over in its time, whatever the caller allows and however many calls
// hang.
func TestHyperstackHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.Reply[rig.HyperstackVMBillPath] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		start := time.Now()
		_, err := c.Provider(nil).Sample(t.Context(), c.Now())
		if took := time.Since(start); took > 45*time.Second || err == nil {
			t.Errorf("took %s: %v", took, err)
		}
	})
}
