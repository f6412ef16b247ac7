package sim_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"spotinference/billing/sim"
)

func (a *account) vast(t *testing.T, target string) (int, string) {
	t.Helper()
	r := httptest.NewRequest("GET", target, nil)
	r.Header.Set("Authorization", "Bearer "+key)
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// vastDays asks for the charges of the days from one to another, both included.
func vastDays(from, to string, more string) string {
	unix := func(day string) int64 {
		t, err := time.Parse("2006-01-02", day)
		if err != nil {
			panic("BUG: " + day)
		}
		return t.Unix()
	}
	return "/api/v0/charges/?" + url.Values{
		"select_filters": {fmt.Sprintf(`{"day":{"gte":%d,"lte":%d}%s}`, unix(from), unix(to)+86399, more)}, "format": {"table"},
	}.Encode()
}

func TestVast(t *testing.T) {
	a := newAccount(t)
	f := func(target string, code int, want ...string) {
		t.Helper()
		got, body := a.vast(t, target)
		for _, w := range want {
			if got != code || !strings.Contains(body, w) {
				t.Errorf("%s: %d %s, want %d with %s", target, got, body, code, w)
			}
		}
	}
	today := vastDays("2026-11-22", "2026-11-22", "")
	f(today, 200, `"amount":0,`, `"source":"instance-701234"`, `"source":"volume-45678"`, `"count":2,`, `"next_token":null`, `"total":2`)
	a.now = a.now.Add(time.Minute)
	f(today, 200, `"amount":0.042,`, `"amount":0,`) // the volume's 0.00036
	f(today+"&limit=1", 200, `"count":1,`, `"total":2`, `"next_token":"`, `"source":"instance-701234"`)
	f(vastDays("2026-11-21", "2026-11-21", ""), 200, `"results":[]`, `"total":0`)
	f(vastDays("2026-11-22", "2026-11-22", `,"type":{"in":["volume"]}`), 200, `"count":1,`, `"source":"volume-45678"`)
	f("/api/v0/instances/701234/", 200, `"instances":{`, `"discountedTotalPerHour":2.52`, `"actual_status":"running"`, `"volume_info":[{`, fmt.Sprintf(`"start_date":%d`, a.now.Add(-time.Minute).Unix()))
	f("/api/v0/instances/1/", 404, `"success":false`)
	f("/api/v1/instances/?limit=25", 200, `"instances":[{`, `"total_instances":1`, `"next_token":null`)
	f("/api/v0/volumes", 200, `"volumes":[{`, `"id":45678`)
	f("/api/v0/users/current/", 200, `"id":1234`, `"credit":99.95764`)
	f("/api/v1/invoices/", 200, `"amount":100,`, `"type":"credit"`)

	// A bad question is a 200.
	f("/api/v0/charges/", 200, `"success":false`, `"error":"invalid_args"`)
	f("/api/v0/charges/?select_filters={}", 200, `"msg":"day is required"`)
	f(today+"&limit=501", 200, `"success":false`)
	f(today+"&after_token=x", 200, `"success":false`)
	f(today+"&after_token=eyJ2YWx1ZXMiOnsiaWQiOjl9fQ==", 200, `"success":false`) // beyond the end

	// Storage only, from the next second on.
	a.SetStatus("hibernated")
	a.now = a.now.Add(time.Hour + time.Second)
	f(today, 200, `"amount":0.054,`) // 0.0427 and an hour at 0.0108, in all 0.0535
	f("/api/v0/instances/701234/", 200, `"actual_status":"stopped"`, `"cur_state":"stopped"`, `"dph_total":0.0108`)
	a.SetStatus("shutoff")
	f("/api/v0/instances/701234/", 200, `"actual_status":"frozen"`, `"cur_state":"running"`)
	a.SetStatus("deleted")
	f("/api/v0/instances/701234/", 200, `"actual_status":null`, `"cur_state":"unloaded"`)

	// A closed day stays as it is, and a window over both is more than its days.
	a.SetStatus("active")
	a.now = time.Date(2026, 11, 24, 1, 0, 0, 0, time.UTC)
	_, closed := a.vast(t, vastDays("2026-11-22", "2026-11-23", ""))
	a.now = a.now.Add(time.Hour)
	if _, again := a.vast(t, vastDays("2026-11-22", "2026-11-23", "")); again != closed {
		t.Errorf("closed days were\n%s\nand are\n%s", closed, again)
	}
}

// Pages together hold what one page does, and the books hold a listing once.
func TestVastPages(t *testing.T) {
	a := newAccount(t)
	a.now = a.now.Add(26 * time.Hour)
	target := vastDays("2026-11-22", "2026-11-23", "")
	type listing struct {
		Count, Total int
		Next         *string `json:"next_token"`
		Results      []json.RawMessage
	}
	read := func(target string) (l listing) {
		t.Helper()
		_, body := a.vast(t, target)
		if err := json.Unmarshal([]byte(body), &l); err != nil || l.Count != len(l.Results) {
			t.Fatal(err, body)
		}
		return l
	}
	whole := read(target)
	one := read(target + "&limit=1")
	if one.Next == nil || one.Total != 2 || one.Count != 1 {
		t.Fatalf("first page = %+v", one)
	}
	two := read(target + "&limit=1&after_token=" + url.QueryEscape(*one.Next))
	if two.Next != nil || two.Total != 2 {
		t.Errorf("second page = %+v", two)
	}
	if got := fmt.Sprintf("%s", append(one.Results, two.Results...)); got != fmt.Sprintf("%s", whole.Results) {
		t.Errorf("pages hold %s, want %s", got, whole.Results)
	}
	answers := a.Answers()
	if len(answers) != 4 || answers[0].Nanos != 65_520_000_000 || answers[1].Nanos != 562_000_000 {
		t.Errorf("answers = %+v", answers)
	}
}

func TestVastRefusals(t *testing.T) {
	a := newAccount(t)
	f := func(auth string, fault sim.Fault, code int, kind, want string) {
		t.Helper()
		if err := a.SetFault(fault); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", vastDays("2026-11-22", "2026-11-22", ""), nil)
		r.Header.Set("Authorization", auth)
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, r)
		if w.Code != code || w.Header().Get("Content-Type") != kind || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q, %s: %d %q %s, want %d %q with %s", auth, fault.Mode, w.Code, w.Header().Get("Content-Type"), w.Body, code, kind, want)
		}
	}
	const good, asJSON = "Bearer " + key, "application/json"
	f("", sim.Fault{}, 403, asJSON, "auth_error")
	f(key, sim.Fault{}, 403, asJSON, "auth_error")
	f("Bearer another", sim.Fault{}, 404, asJSON, `"success":false`)
	f(good, sim.Fault{}, 200, asJSON, `"success":true`)
	f(good, sim.Fault{Mode: sim.TooMany}, 429, "text/plain", "API requests too frequent")
	f(good, sim.Fault{Mode: sim.Unauthorized}, 401, asJSON, "auth_error")
	f(good, sim.Fault{Mode: sim.StatusFalse}, 200, asJSON, `"success":false`)
	f(good, sim.Fault{Mode: sim.NaN}, 200, asJSON, `"amount":NaN,`)
	f(good, sim.Fault{Mode: sim.Empty}, 200, asJSON, `"results":[]`)
	f(good, sim.Fault{Mode: sim.MissingVolume}, 200, asJSON, `"total":1`)
	f(good, sim.Fault{Mode: sim.ServerError}, 500, asJSON, "Internal")
}
