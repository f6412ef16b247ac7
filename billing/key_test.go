package billing_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/internal/hint"
)

// A provider that says the key back, wherever it can, does not get it stored or
// printed.
func TestKeyIsKeptNowhere(t *testing.T) {
	onStages(t, func(t *testing.T, st *stage) {
		st.sample(t, st.open())
		for _, c := range st.rig.calls {
			echo(t, st, c)
		}
	}, "hyperstack", "runpod", "vast", "verda")
}

// echo lets a call say the key in each of its words, beside them, and in its header.
func echo(t *testing.T, st *stage, c call) {
	t.Helper()
	key := strconv.Quote(testKey)
	words := make(map[string]bool)
	st.spoil(c, &bad{text: func(good string) string {
		return each(good, func(object map[string]any) {
			for name, v := range object {
				if _, ok := v.(string); ok {
					words[name] = true
				}
			}
		})
	}})
	st.sample(t, st.open())
	cases := []bad{
		{name: "beside", text: func(good string) string {
			return each(good, func(object map[string]any) { object["echo"] = raw(key) })
		}},
		{name: "instead", text: func(string) string { return testKey }},
		{name: "a word instead", text: func(string) string { return key }},
	}
	for _, name := range slices.Sorted(maps.Keys(words)) {
		cases = append(cases, bad{name: name, text: set(name, key)})
	}
	for _, name := range append(append(c.must, c.rates...), c.bill) {
		cases = append(cases, bad{name: name, text: set(name, key)})
	}
	for _, code := range []int{200, 401, 404, 500} {
		cases = append(cases, bad{name: fmt.Sprint("a refusal with ", code), how: func(_ *http.Request, good *http.Response) (*http.Response, error) {
			good.StatusCode = code
			good.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(
				`{"success":false,"error_reason":KEY,"message":KEY,"error":KEY,"msg":KEY,"code":KEY,"title":KEY,"detail":KEY}`, "KEY", key)))
			return good, nil
		}})
	}
	for _, h := range [][2]string{{"Location", "https://elsewhere.test/?k=" + testKey}, {"Location", "::" + testKey}, {"Content-Type", testKey},
		{"Content-Type", "application/" + testKey}, {"Date", testKey}, {"Retry-After", testKey}} {
		code := map[string]int{"Location": 302, "Retry-After": 429}[h[0]]
		cases = append(cases, bad{name: h[0], how: func(_ *http.Request, good *http.Response) (*http.Response, error) {
			if good.Header.Set(h[0], h[1]); code != 0 {
				good.StatusCode = code
			}
			return good, nil
		}})
	}
	for _, b := range cases {
		var all bytes.Buffer
		kept := &memory{}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: st.open(), Store: kept,
			Log: slog.New(slog.NewJSONHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err != nil {
			t.Fatal(err)
		}
		st.spoil(c, &b)
		time.Sleep(time.Minute)
		err = s.Last(t.Context())
		fmt.Fprintf(&all, "%v %+v %+v", err, kept.samples, kept.failures)
		all.WriteString(hint.Of(err))
		for _, sample := range kept.samples {
			lines, err := json.Marshal(sample.Lines)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(lines)
			for _, l := range sample.Lines {
				all.Write(l.Raw)
				if b.name == "beside" && c.bill != "" && bytes.Contains(l.Raw, []byte(`"echo"`)) && !bytes.Contains(l.Raw, []byte("[redacted]")) {
					t.Errorf("%s %s: the reply that held the key is not marked as changed: %s", st.rig.name, c.name, l.Raw)
				}
			}
		}
		if st.hits() == 0 || len(kept.samples)+len(kept.failures) == 0 {
			t.Errorf("%s %s, %s: %d calls, and nothing is kept", st.rig.name, c.name, b.name, st.hits())
		}
		for _, secret := range []string{testKey, "hs-test-0f3b2a1c", "sim.test", "?start", "podId="} {
			if bytes.Contains(all.Bytes(), []byte(secret)) {
				t.Errorf("%s %s, %s: %s is in what is kept:\n%s", st.rig.name, c.name, b.name, secret, &all)
			}
		}
	}
	st.spoil(c, nil)
}
