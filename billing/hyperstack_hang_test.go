package billing_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A sample is over in its time, whatever the caller allows and however many calls
// hang.
func TestHyperstackHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		c.reply[vmBillPath] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		start := time.Now()
		_, err := c.provider(nil).Sample(t.Context(), c.now())
		if took := time.Since(start); took > 45*time.Second || err == nil {
			t.Errorf("took %s: %v", took, err)
		}
	})
}
