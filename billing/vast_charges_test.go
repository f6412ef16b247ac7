package billing_test

import (
	"fmt"
	"net/http"
	"spotinference/billing"
	"strings"
	"testing"
	"time"
)

// A listing that comes in pages is read to its end.
func TestVastPages(t *testing.T) {
	c := newVastCloud(t)
	at := when(t, "2026-11-26T10:46:40Z")
	c.now = func() time.Time { return at }
	c.reply[vastChargesPath] = func(w http.ResponseWriter, r *http.Request) {
		switch r.FormValue("after_token") {
		case "":
			c.cases["charges_page1"].serve(w)
		case c.cases["charges_page2"].Request.Query["after_token"]:
			c.cases["charges_page2"].serve(w)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	}
	s, err := c.provider(nil).Sample(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Lines) != 2 || *s.Lines[0].Bill != 46_800_000_000 || *s.Lines[1].Bill != 62_000_000 {
		t.Errorf("lines = %+v", s.Lines)
	}

	// page serves results, of which there are total, and a token for more.
	page := func(results string, count, total int, next string) recorded {
		return recorded{Status: 200, Body: fmt.Appendf(nil, `{"success":true,"count":%d,"total":%d,"next_token":%s,"results":[%s]}`, count, total, next, results)}
	}
	const vm, vm2, vol = `{"source":"instance-12345678","amount":1}`, `{"source":"instance-12345678","amount":2}`, `{"source":"volume-777","amount":3}`
	f := func(name string, class billing.Class, pages ...recorded) {
		t.Helper()
		c := newVastCloud(t)
		c.now = func() time.Time { return at }
		n := 0
		c.reply[vastChargesPath] = func(w http.ResponseWriter, _ *http.Request) {
			pages[min(n, len(pages)-1)].serve(w)
			n++
		}
		s, err := c.provider(nil).Sample(t.Context(), at)
		if class != "" {
			wantClass(t, err, class)
			if s.Lines != nil || n > 100 {
				t.Errorf("%s: %d lines after %d calls", name, len(s.Lines), n)
			}
			return
		}
		if err != nil || *s.Lines[0].Bill != 3_000_000_000 || *s.Lines[1].Bill != 3_000_000_000 {
			t.Errorf("%s: %v, %+v", name, err, s.Lines)
		}
	}
	f("two entries on two pages", "", page(vm, 1, 3, `"a"`), page(vm2+","+vol, 2, 3, "null"))
	f("an empty last page", "", page(vm+","+vm2+","+vol, 3, 3, `"a"`), page("", 0, 3, "null"))
	f("no token instead of null", "", page(vm+","+vm2+","+vol, 3, 3, `""`))
	f("a page missing", billing.Incomplete, page(vm+","+vol, 2, 3, "null"))
	f("a charge too many", billing.Incomplete, page(vm+","+vm2+","+vol, 3, 2, "null"))
	f("a page that is cut", billing.Incomplete, page(vm+","+vol, 3, 3, "null"))
	f("a total that moves", billing.Incomplete, page(vm, 1, 3, `"a"`), page(vol, 1, 2, "null"))
	f("a charge on both pages", billing.Incomplete, page(vm, 1, 3, `"a"`), page(vm+","+vol, 2, 3, "null"))
	f("no end", billing.Incomplete, page(vm, 1, 3, `"a"`))
	f("second page fails", billing.Malformed, page(vm, 1, 3, `"a"`), recorded{Status: 200, Text: "<html>"})
}

// Charges are listed by the day, so the bill of a midnight is known, and no other.
func TestVastBoundary(t *testing.T) {
	c := newVastCloud(t)
	now := when(t, "2026-11-26T10:46:40Z")
	c.now = func() time.Time { return now }
	b, ok := c.provider(nil).(billing.Boundary)
	if !ok {
		t.Fatal("vast can be asked for a past midnight")
	}
	midnight := when(t, "2026-11-26T00:00:00Z")
	s, err := b.SampleAt(t.Context(), midnight, now)
	if err != nil {
		t.Fatal(err)
	}
	if !s.At.Equal(midnight) || len(s.Lines) != 2 {
		t.Errorf("sample = %+v", s)
	}
	for _, l := range s.Lines {
		if l.Rate != nil || l.Status != "" || l.Running || l.Bill == nil {
			t.Errorf("%s knows of then what is known of now: %+v", l.Resource, l)
		}
	}
	want := fmt.Sprintf(`{"day":{"gte":%d,"lte":%d},"type":{"in":["instance","volume"]}}`, midnight.Unix()-86400, midnight.Unix()-1)
	for _, u := range c.calls {
		if u.Path == vastChargesPath && u.Query().Get("select_filters") != want {
			t.Errorf("asked %s", u)
		}
	}
	for _, at := range []string{"2026-11-26T01:00:00Z", "2026-11-26T00:00:00.5Z", "2026-11-26T00:00:00+01:00", "2026-11-27T00:00:00Z", "2026-11-25T00:00:00Z"} {
		if s, err := b.SampleAt(t.Context(), when(t, at), now); err == nil || s.Lines != nil {
			t.Errorf("a bill as of %s: %+v", at, s)
		}
	}
}

func TestVastAnchor(t *testing.T) {
	f := func(name, born, now string, stored billing.Anchors, want string) {
		t.Helper()
		c := newVastCloud(t)
		at := when(t, now)
		c.now = func() time.Time { return at }
		c.reply[vastInstancePath] = c.body("instance", `"start_date":1795600000.0`, fmt.Sprintf(`"start_date":%d.5`, when(t, born).Unix()))
		p := c.provider(func(o *billing.Options) { o.Anchors = stored })
		for range 2 { // it does not move with the month
			s, err := p.Sample(t.Context(), at)
			if err != nil || s.Lines[0].Epoch != want {
				t.Errorf("%s: %v, %+v, want %s", name, err, s.Lines, want)
			}
			last := ""
			for _, u := range c.calls {
				if u.Path == vastChargesPath {
					last = u.Query().Get("select_filters")
				}
			}
			if end := fmt.Sprintf(`"lte":%d}`, at.Truncate(24*time.Hour).Unix()+86399); !strings.Contains(last, end) {
				t.Errorf("%s: asked for %s, want %s", name, last, end)
			}
			at = at.AddDate(0, 2, 0)
		}
	}
	f("young", "2026-11-25T09:46:40Z", "2026-11-26T10:46:40Z", nil, "anchor:2026-11-25T00:00:00Z")
	f("old", "2026-03-22T10:58:31Z", "2026-11-26T10:46:40Z", nil, "anchor:2026-11-01T00:00:00Z")
	f("stored", "2026-03-22T10:58:31Z", "2026-11-26T10:46:40Z", fixedAnchor(when(t, "2026-06-01T00:00:00Z")), "anchor:2026-06-01T00:00:00Z")

	// A volume older than the instance has a listing of its own.
	c := newVastCloud(t)
	at := when(t, "2026-11-26T10:46:40Z")
	c.now = func() time.Time { return at }
	c.reply[vastVolumesPath] = c.body("volumes", `"start_date":1795599990.25`, `"start_date":1795000000`)
	s, err := c.provider(nil).Sample(t.Context(), at)
	if err != nil || s.Lines[1].Epoch != "anchor:2026-11-18T00:00:00Z" || len(c.calls) != 5 {
		t.Errorf("%v, %+v, %d calls", err, s.Lines, len(c.calls))
	}

	c = newVastCloud(t)
	c.now = func() time.Time { return at }
	_, err = c.provider(func(o *billing.Options) { o.Anchors = fixedAnchor(at.AddDate(0, 0, 1)) }).Sample(t.Context(), at)
	wantClass(t, err, billing.ClockSkew)
}
