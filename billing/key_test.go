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
	"spotinference/billing/rig"
	"spotinference/internal/hint"
)

// A provider that says the key back, wherever it can, does not get it stored or
// printed.
func TestKeyIsKeptNowhere(t *testing.T) {
	onStages(t, func(t *testing.T, st *rig.Stage) {
		st.Sample(t, st.OpenAdapter())
		for _, c := range st.Rig.Calls {
			echo(t, st, c)
		}
	}, "hyperstack", "runpod", "vast", "verda")
}

// echo lets a call say the key in each of its words, beside them, and in its header.
func echo(t *testing.T, st *rig.Stage, c rig.Call) {
	t.Helper()
	key := strconv.Quote(rig.Key)
	words := make(map[string]bool)
	st.Spoil(c, &rig.Bad{Text: func(good string) string {
		return rig.Each(good, func(object map[string]any) {
			for name, v := range object {
				if _, ok := v.(string); ok {
					words[name] = true
				}
			}
		})
	}})
	st.Sample(t, st.OpenAdapter())
	cases := []rig.Bad{
		{Name: "beside", Text: func(good string) string {
			return rig.Each(good, func(object map[string]any) { object["echo"] = rig.Raw(key) })
		}},
		{Name: "instead", Text: func(string) string { return rig.Key }},
		{Name: "a word instead", Text: func(string) string { return key }},
	}
	for _, name := range slices.Sorted(maps.Keys(words)) {
		cases = append(cases, rig.Bad{Name: name, Text: rig.Set(name, key)})
	}
	for _, name := range append(append(c.Must, c.Rates...), c.Bill) {
		cases = append(cases, rig.Bad{Name: name, Text: rig.Set(name, key)})
	}
	for _, code := range []int{200, 401, 404, 500} {
		cases = append(cases, rig.Bad{Name: fmt.Sprint("a refusal with ", code), How: func(_ *http.Request, good *http.Response) (*http.Response, error) {
			good.StatusCode = code
			good.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(
				`{"success":false,"error_reason":KEY,"message":KEY,"error":KEY,"msg":KEY,"code":KEY,"title":KEY,"detail":KEY}`, "KEY", key)))
			return good, nil
		}})
	}
	for _, h := range [][2]string{{"Location", "https://elsewhere.test/?k=" + rig.Key}, {"Location", "::" + rig.Key}, {"Content-Type", rig.Key},
		{"Content-Type", "application/" + rig.Key}, {"Date", rig.Key}, {"Retry-After", rig.Key}} {
		code := map[string]int{"Location": 302, "Retry-After": 429}[h[0]]
		cases = append(cases, rig.Bad{Name: h[0], How: func(_ *http.Request, good *http.Response) (*http.Response, error) {
			if good.Header.Set(h[0], h[1]); code != 0 {
				good.StatusCode = code
			}
			return good, nil
		}})
	}
	for _, b := range cases {
		var all bytes.Buffer
		kept := &rig.Memory{}
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: st.OpenAdapter(), Store: kept,
			Log: slog.New(slog.NewJSONHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err != nil {
			t.Fatal(err)
		}
		st.Spoil(c, &b)
		time.Sleep(time.Minute)
		err = s.Last(t.Context())
		fmt.Fprintf(&all, "%v %+v %+v", err, kept.Samples, kept.Failures)
		all.WriteString(hint.Of(err))
		for _, sample := range kept.Samples {
			lines, err := json.Marshal(sample.Lines)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(lines)
			for _, l := range sample.Lines {
				all.Write(l.Raw)
				if b.Name == "beside" && c.Bill != "" && bytes.Contains(l.Raw, []byte(`"echo"`)) && !bytes.Contains(l.Raw, []byte("[redacted]")) {
					t.Errorf("%s %s: the reply that held the key is not marked as changed: %s", st.Rig.Name, c.Name, l.Raw)
				}
			}
		}
		if st.Hits() == 0 || len(kept.Samples)+len(kept.Failures) == 0 {
			t.Errorf("%s %s, %s: %d calls, and nothing is kept", st.Rig.Name, c.Name, b.Name, st.Hits())
		}
		for _, secret := range []string{rig.Key, "hs-test-0f3b2a1c", "sim.test", "?start", "podId="} {
			if bytes.Contains(all.Bytes(), []byte(secret)) {
				t.Errorf("%s %s, %s: %s is in what is kept:\n%s", st.Rig.Name, c.Name, b.Name, secret, &all)
			}
		}
	}
	st.Spoil(c, nil)
}
