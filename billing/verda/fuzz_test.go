package verda

import (
	"testing"
	"time"

	"spotinference/billing/rig"
	"spotinference/ledger"
)

// Whatever comes, the decoders return what it says or a failure with a class, and
// never both.
func FuzzDecodeVerda(f *testing.F) {
	rig.AddCases(f, "verda")
	f.Add([]byte(`{"amount":"1e18","currency":"usd"}`))
	f.Add([]byte(`[{"id":"a","status":"running","price_per_hour":9e9},{"id":"b","status":"x","price_per_hour":9e9}]`))
	f.Add([]byte(`[{"id":"a","status":"attached","base_hourly_cost":"-0"}]`))
	f.Add([]byte(`{"access_token":"aaaaaaaa","token_type":"bearer","expires_in":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, currency, failure := decodeBalance(body)
		rig.Classed(t, "balance", failure, n == 0 && currency == "")
		if failure == nil && len(currency) != 3 {
			t.Fatalf("balance in %q", currency)
		}
		m, failure := decodeInstances(body)
		rig.Classed(t, "instances", failure, m.ids == nil && m.rate == nil && !m.running)
		if failure == nil && m.rate != nil && *m.rate < 0 {
			t.Fatalf("instances %+v", m)
		}
		rate, failure := decodeVolumes(body, "USD")
		rig.Classed(t, "volumes", failure, rate == nil)
		if rate != nil && *rate < 0 {
			t.Fatalf("volumes at %s", *rate)
		}
		token, failure := decodeToken(body)
		rig.Classed(t, "token", failure, token == accessToken{})
		if failure == nil && (token.expiresIn <= 0 || !isToken(token.access)) {
			t.Fatalf("token %+v", token)
		}
	})
}

// An epoch is read back as it was written, or not at all.
func FuzzVerdaEpoch(f *testing.F) {
	f.Add("balance:212.9417@2026-11-22T11:00:00Z")
	f.Add("balance:-0.000000001@2026-11-22T11:00:00Z")
	f.Add("balance:1@2026-11-22T11:00:00+01:00")
	f.Fuzz(func(t *testing.T, epoch string) {
		o, err := parseEpoch(epoch)
		if err == nil && o.epoch() != epoch {
			t.Fatalf("%q read back as %q", epoch, o.epoch())
		}
	})
}

func TestVerdaEpoch(t *testing.T) {
	for _, n := range []ledger.Nanos{0, 1, -1, 212_941_700_000, -500_000_000, 9_223_372_036_854_775_807} {
		o := openingBalance{balance: n, at: time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)}
		if got, err := parseEpoch(o.epoch()); err != nil || got != o {
			t.Errorf("%s: %+v, %v", o.epoch(), got, err)
		}
	}
}
