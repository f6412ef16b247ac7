package hyperstack_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

// Row 11: what costs beside the machine. Its volumes are read, the one that it boots
// from too, and its snapshots; not those of other machines.
func TestPitfall11CostsOutside(t *testing.T) {
	const (
		ours   = `{"id":31,"vm_id":701234,"name":"s","description":"","is_image":false,"region_id":1,"size":100,"status":"SUCCESS","labels":[],"has_floating_ip":true,"created_at":"2026-11-22T12:00:00","updated_at":"2026-11-22T12:00:00"}`
		theirs = `{"id":32,"vm_id":701111,"name":"s","description":"","is_image":false,"region_id":1,"size":100,"status":"SUCCESS","labels":[],"has_floating_ip":true,"created_at":"2026-11-22T12:00:00","updated_at":"2026-11-22T12:00:00"}`
		bill   = "/v1/billing/billing/history/snapshot/31"
	)
	read := func(t *testing.T, listing string, change func(*rig.HyperstackCloud)) (ledger.Sample, error) {
		c := newCloud(t)
		c.Reply[rig.HyperstackSnapshotsPath] = func(w http.ResponseWriter, _ *http.Request) {
			rig.Recorded{Status: 200, Body: []byte(listing)}.Serve(w)
		}
		c.Reply[bill] = c.Body("volume_billing_t0", `"infrahub_id":45678`, `"infrahub_id":31`)
		change(c)
		return c.Provider(nil).Sample(t.Context(), c.Now())
	}
	list := func(count int, all string) string {
		return fmt.Sprintf(`{"status":true,"message":"ok","page":1,"page_size":100,"count":%d,"snapshots":[%s]}`, count, all)
	}
	asIs := func(*rig.HyperstackCloud) {}
	synctest.Test(t, func(t *testing.T) {
		s, err := read(t, list(2, theirs+","+ours), asIs)
		if err != nil || len(s.Lines) != 3 {
			t.Fatalf("%v, %+v", err, s.Lines)
		}
		if l := s.Lines[2]; l.Resource != "snapshot-31" || l.Kind != ledger.Other || l.Status != "SUCCESS" || !l.Running ||
			*l.Bill != 483_870_000 || !l.Created.Equal(rig.Time(t, "2026-11-22T12:00:00Z")) || l.Epoch != "anchor:2026-11-22T00:00:00Z" {
			t.Errorf("snapshot %+v", l)
		}
		s, err = read(t, list(0, ""), func(c *rig.HyperstackCloud) {
			c.Reply[rig.HyperstackVMPath] = c.Body("instance", `"bootable":false`, `"bootable":true`)
		})
		if err != nil || len(s.Lines) != 2 || s.Lines[1].Resource != "volume-45678" {
			t.Errorf("root volume: %v, %+v", err, s.Lines)
		}
	})
	f := func(name, listing string, class api.Class) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			s, err := read(t, listing, asIs)
			rig.WantClass(t, err, class)
			if s.Lines != nil {
				t.Errorf("%s: lines %+v", name, s.Lines)
			}
		})
	}
	f("cut short", list(3, ours), api.Incomplete)
	f("twice", list(2, ours+","+ours), api.Incomplete)
	f("of no machine", list(1, `{"id":31,"status":"SUCCESS","created_at":"2026-11-22T12:00:00"}`), api.Incomplete)
	f("of no date", list(1, `{"id":31,"vm_id":701234,"status":"SUCCESS","created_at":"soon"}`), api.Malformed)
	f("no listing", `{"status":false}`, api.Incomplete)
	f("no object", `[]`, api.Malformed)
}
