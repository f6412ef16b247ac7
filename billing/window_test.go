package billing_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing/rig"
	"spotinference/billing/sim"
)

// Row 2 of the pitfalls: a window of the provider's choosing. Every call that reads a
// bill says where its window begins, at the same instant each time, and where it
// ends, no earlier than now.
func TestPitfall02ImplicitWindow(t *testing.T) {
	t.Parallel()
	text := func(layout, from, to string) func(url.Values) (string, string, error) {
		return func(q url.Values) (string, string, error) {
			start, err := time.Parse(layout, q.Get(from))
			if err != nil {
				return "", "", err
			}
			end, err := time.Parse(layout, q.Get(to))
			return fmt.Sprint(start.Unix()), fmt.Sprint(end.Unix()), err
		}
	}
	filter := func(q url.Values) (start, end string, err error) {
		var day struct {
			Day struct{ Gte, Lte json.Number }
		}
		err = json.Unmarshal([]byte(q.Get("select_filters")), &day)
		return day.Day.Gte.String(), day.Day.Lte.String(), err
	}
	for provider, c := range map[string]struct {
		bill   string // what the paths of its bills begin with
		window func(url.Values) (start, end string, err error)
	}{
		"hyperstack": {"/v1/billing/billing/history/", text("2006-01-02T15:04:05", "start_date", "end_date")},
		"runpod":     {"/v2/billing/", text(time.RFC3339, "startTime", "endTime")},
		"vast":       {"/api/v0/charges/", filter},
	} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(10*time.Hour + 123*time.Millisecond)
			cloud, err := sim.New(sim.Config{Key: rig.Key})
			if err != nil {
				t.Fatal(err)
			}
			read := 0
			begins := map[string]string{}
			p := rig.Over(t, opens(provider), provider, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, c.bill) {
					read++
					start, end, err := c.window(r.URL.Query())
					if err != nil || start == "" {
						t.Errorf("%s: window of %s: %v", provider, r.URL, err)
					}
					if was, ok := begins[r.URL.Path]; ok && was != start {
						t.Errorf("%s: the window began at %s and now at %s", provider, was, start)
					}
					begins[r.URL.Path] = start
					// Vast's charges are by the day: its window is whole days, today's too.
					at, err := strconv.ParseInt(end, 10, 64)
					if now := time.Now().Unix(); err != nil || at != now && (provider != "vast" || at < now) {
						t.Errorf("%s: the window ends at %s, now is %d", provider, end, now)
					}
				}
				cloud.Handler().ServeHTTP(w, r)
			}), nil)
			for range 3 {
				time.Sleep(7 * 24 * time.Hour) // 30 days are RunPod's own window, which slides
				if _, err := p.Sample(t.Context(), time.Now()); err != nil {
					t.Fatalf("%s: %v", provider, err)
				}
			}
			if read < 3 {
				t.Errorf("%s: %d bills were read", provider, read)
			}
		})
	}
}
