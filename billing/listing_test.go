package billing_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// A listing that comes in pages is read to its end, or it is no listing.
func TestPitfall16Pagination(t *testing.T) {
	c := newVastCloud(t)
	at := rig.Time(t, "2026-11-26T10:46:40Z")
	c.Now = func() time.Time { return at }
	c.Reply[rig.VastChargesPath] = func(w http.ResponseWriter, r *http.Request) {
		switch r.FormValue("after_token") {
		case "":
			c.Cases["charges_page1"].Serve(w)
		case c.Cases["charges_page2"].Request.Query["after_token"]:
			c.Cases["charges_page2"].Serve(w)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	}
	s, err := c.Provider(nil).Sample(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Lines) != 2 || *s.Lines[0].Bill != 46_800_000_000 || *s.Lines[1].Bill != 62_000_000 {
		t.Errorf("lines = %+v", s.Lines)
	}
	f := func(name string, class api.Class, pages ...rig.Recorded) {
		t.Helper()
		vastListing(t, name, class, pages...)
	}
	const vm, vm2, vol = vastVM, vastVM2, vastVolume
	f("two entries on two pages", "", vastPage(vm, 1, 3, `"a"`), vastPage(vm2+","+vol, 2, 3, "null"))
	f("an empty last page", "", vastPage(vm+","+vm2+","+vol, 3, 3, `"a"`), vastPage("", 0, 3, "null"))
	f("no token instead of null", "", vastPage(vm+","+vm2+","+vol, 3, 3, `""`))
	f("a page missing", api.Incomplete, vastPage(vm+","+vol, 2, 3, "null"))
	f("a charge too many", api.Incomplete, vastPage(vm+","+vm2+","+vol, 3, 2, "null"))
	f("a page that is cut", api.Incomplete, vastPage(vm+","+vol, 3, 3, "null"))
	f("no end", api.Incomplete, vastPage(vm, 1, 3, `"a"`))
	f("second page fails", api.Malformed, vastPage(vm, 1, 3, `"a"`), rig.Recorded{Status: 200, Text: "<html>"})

	// Hyperstack's machines: ours is on the last of three pages.
	var many []rig.HyperstackMachine
	for i := range 250 {
		many = append(many, rig.NewHyperstackMachine(i+1, fmt.Sprint("other-", i), ""))
	}
	many = append(many, rig.NewHyperstackMachine(701234, "spot-h100-a", ""))
	newCloud(t).Identify(t, "three pages", many, 251, 100, nil, "spot-h100-a", "ok")
	newCloud(t).Identify(t, "listing cut short", many[200:], 251, 100, nil, "spot-h100-a", "incomplete")
	newCloud(t).Identify(t, "listing with too many", many[249:], 1, 100, nil, "spot-h100-a", "incomplete")
}

// A listing that moved while its pages were read is no listing; the next minute reads
// it anew.
func TestPitfall17PagingDrift(t *testing.T) {
	vastListing(t, "a total that moves", api.Incomplete, vastPage(vastVM, 1, 3, `"a"`), vastPage(vastVolume, 1, 2, "null"))
	vastListing(t, "a charge on both pages", api.Incomplete, vastPage(vastVM, 1, 3, `"a"`), vastPage(vastVM+","+vastVolume, 2, 3, "null"))
	us := rig.NewHyperstackMachine(701234, "spot-h100-a", "")
	newCloud(t).Identify(t, "the same machine on both pages", []rig.HyperstackMachine{us, us}, 2, 1, nil, "spot-h100-a", "incomplete")
}

// vastListing reads a bill from these pages, the last of which comes again and again.
func vastListing(t *testing.T, name string, class api.Class, pages ...rig.Recorded) {
	t.Helper()
	at := rig.Time(t, "2026-11-26T10:46:40Z")
	c := newVastCloud(t)
	c.Now = func() time.Time { return at }
	n := 0
	c.Reply[rig.VastChargesPath] = func(w http.ResponseWriter, _ *http.Request) {
		pages[min(n, len(pages)-1)].Serve(w)
		n++
	}
	s, err := c.Provider(nil).Sample(t.Context(), at)
	if class != "" {
		rig.WantClass(t, err, class)
		if s.Lines != nil || n > 100 {
			t.Errorf("%s: %d lines after %d calls", name, len(s.Lines), n)
		}
		return
	}
	if err != nil || *s.Lines[0].Bill != 3_000_000_000 || *s.Lines[1].Bill != 3_000_000_000 {
		t.Errorf("%s: %v, %+v", name, err, s.Lines)
	}
}

// vastPage holds results, of which there are total, and a token for more.
func vastPage(results string, count, total int, next string) rig.Recorded {
	return rig.Recorded{Status: 200, Body: fmt.Appendf(nil, `{"success":true,"count":%d,"total":%d,"next_token":%s,"results":[%s]}`, count, total, next, results)}
}

const (
	vastVM     = `{"source":"instance-12345678","amount":1}`
	vastVM2    = `{"source":"instance-12345678","amount":2}`
	vastVolume = `{"source":"volume-777","amount":3}`
)
