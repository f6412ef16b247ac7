package billing_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
)

// An error that is gone at the next try costs no minute; one that stays costs that
// minute, and no number comes of it.
func TestPitfall23IntermittentErrors(t *testing.T) {
	// flaky answers with code, so often, then well.
	flaky := func(c *rig.HyperstackCloud, times int, code int, header map[string]string) (http.HandlerFunc, *[]time.Time) {
		var at []time.Time
		return func(w http.ResponseWriter, _ *http.Request) {
			if at = append(at, time.Now()); len(at) <= times {
				rig.Recorded{Status: code, Headers: header, Body: []byte(`{"message":"no"}`)}.Serve(w)
				return
			}
			c.Cases["vm_billing_t0"].Serve(w)
		}, &at
	}
	f := func(name string, times, code int, retryAfter string, limit time.Duration, wantTries int, wantClass api.Class, check func(*testing.T, []time.Time, *api.Failure)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c := newCloud(t)
			header := map[string]string{}
			if retryAfter != "" {
				header["Retry-After"] = retryAfter
			}
			h, at := flaky(c, times, code, header)
			c.Reply[rig.HyperstackVMBillPath] = h
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := c.Provider(nil).Sample(ctx, c.Now())
			var failure *api.Failure
			errors.As(err, &failure)
			if len(*at) != wantTries {
				t.Errorf("%s: %d tries, want %d", name, len(*at), wantTries)
			}
			if (wantClass == "") != (err == nil) || (failure != nil && failure.Class != wantClass) {
				t.Errorf("%s: %v, want %q", name, err, wantClass)
			}
			if check != nil {
				check(t, *at, failure)
			}
		})
	}
	between := func(t *testing.T, at []time.Time, i int, low, high time.Duration) {
		t.Helper()
		if d := at[i].Sub(at[i-1]); d < low || d > high {
			t.Errorf("try %d after %s, want %s to %s", i+1, d, low, high)
		}
	}
	f("twice 500, then good", 2, 500, "", 40*time.Second, 3, "", func(t *testing.T, at []time.Time, _ *api.Failure) {
		between(t, at, 1, time.Second, 1500*time.Millisecond)
		between(t, at, 2, 2*time.Second, 3*time.Second)
	})
	f("500 for good", 9, 500, "", 40*time.Second, 3, api.HTTP5xx, nil)
	f("401 is not asked again", 9, 401, "", 40*time.Second, 1, api.HTTP401, nil)
	f("403 is not asked again", 9, 403, "", 40*time.Second, 1, api.HTTP403, nil)
	f("404 is not asked again", 9, 404, "", 40*time.Second, 1, api.HTTP4xx, nil)
	f("Retry-After within the time", 1, 429, "12", 40*time.Second, 2, "", func(t *testing.T, at []time.Time, _ *api.Failure) {
		between(t, at, 1, 12*time.Second, 12*time.Second)
	})
	f("Retry-After beyond the time", 1, 429, "50", 40*time.Second, 1, api.HTTP429, func(t *testing.T, _ []time.Time, f *api.Failure) {
		if f.RetryAfter != 50*time.Second {
			t.Errorf("RetryAfter = %s", f.RetryAfter)
		}
	})
	f("Retry-After as a date", 1, 503, "Mon, 23 Nov 2026 12:00:09 GMT", 40*time.Second, 2, "", func(t *testing.T, at []time.Time, _ *api.Failure) {
		between(t, at, 1, 9*time.Second, 9*time.Second)
	})
	f("Retry-After of a century", 1, 429, "2147483647", 40*time.Second, 1, api.HTTP429, func(t *testing.T, _ []time.Time, f *api.Failure) {
		if f.RetryAfter != time.Hour {
			t.Errorf("RetryAfter = %s", f.RetryAfter)
		}
	})
	f("Retry-After that cannot be read", 1, 429, "soon", 40*time.Second, 2, "", nil)
	f("no time for a second try", 1, 500, "", 900*time.Millisecond, 1, api.HTTP5xx, nil)

	onStages(t, func(t *testing.T, st *rig.Stage) {
		p := st.OpenAdapter()
		a := st.Sample(t, p)
		if err := st.Cloud.SetFault(sim.Fault{Mode: sim.ServerError, Times: 2}); err != nil {
			t.Fatal(err)
		}
		b := st.Sample(t, p)
		if got := b.At.Sub(a.At); got < time.Minute || got > 70*time.Second {
			t.Errorf("%s: a sample %s after the one before", st.Rig.Name, got)
		}
	}, "hyperstack", "runpod", "vast", "verda")
}
