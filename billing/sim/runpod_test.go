package sim_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"spotinference/billing/sim"
)

// getV2 asks Runpod's face.
func (a *account) getV2(t *testing.T, target string) (*httptest.ResponseRecorder, string) {
	t.Helper()
	r := httptest.NewRequest("GET", "/v2"+target, nil)
	r.Header.Set("Authorization", "Bearer "+key)
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	want := "application/json"
	if w.Code != 200 {
		want = "application/problem+json"
	}
	if got := w.Header().Get("Content-Type"); got != want {
		t.Errorf("%s: %s, want %s", target, got, want)
	}
	return w, strings.TrimSpace(w.Body.String())
}

// The simulator's answers have the form of the recordings that the adapter's tests use.
func TestRunpodAnswers(t *testing.T) {
	a := newAccount(t) // born at 10:00:00
	f := func(target string, code int, want ...string) {
		t.Helper()
		w, body := a.getV2(t, target)
		for _, part := range want {
			if w.Code != code || !strings.Contains(body, part) {
				t.Errorf("%s: %d %s, want %d with %s", target, w.Code, body, code, part)
			}
		}
	}
	const window = "?bucketSize=hour&startTime=2026-11-22T00:00:00Z&endTime="
	a.now = a.now.Add(90 * time.Minute)
	f("/billing/pods"+window+"2026-11-22T11:30:00Z&podId=pod701234", 200,
		`{"cpuAmount":0,"diskAmount":0.0108,"endTime":"2026-11-22T11:00:00Z","gpuAmount":2.5092,"podId":"pod701234","startTime":"2026-11-22T10:00:00Z","totalAmount":2.52}`,
		`{"cpuAmount":0,"diskAmount":0.0054,"endTime":"2026-11-22T12:00:00Z","gpuAmount":1.2546,"podId":"pod701234","startTime":"2026-11-22T11:00:00Z","totalAmount":1.26}`,
		`"query":{"bucketSize":"hour","endTime":"2026-11-22T12:00:00Z","podId":"pod701234","startTime":"2026-11-22T00:00:00Z"}`,
		`"recordCount":2,"totals":{"cpuAmount":0,"diskAmount":0.0162,"gpuAmount":3.7638,"totalAmount":3.78},"uniquePodCount":1`)
	f("/billing/pods"+window+"2026-11-22T11:00:00Z", 200, `"recordCount":1,`, `"totalAmount":2.52}`, `"podId":null`) // exclusive
	f("/billing/pods?bucketSize=hour&startTime=2026-11-22T10:59:59Z", 200, `"startTime":"2026-11-22T10:00:00Z"}`, `"recordCount":2`)
	f("/billing/pods?bucketSize=hour&lastN=1", 200, `"recordCount":1,`, `"totalAmount":1.26}`)
	f("/billing/pods", 200, `"bucketSize":"day"`, `"startTime":"2026-10-23T00:00:00Z"}`, `"recordCount":1,`, `"totalAmount":3.78}`)
	f("/billing/pods?bucketSize=week", 200, `"startTime":"2026-11-16T00:00:00Z","totalAmount":3.78}`)
	f("/billing/pods?bucketSize=month&lastN=2", 200, `"query":{"bucketSize":"month","endTime":"2026-12-01T00:00:00Z","podId":null,"startTime":"2026-10-01T00:00:00Z"}`)
	f("/billing/pods?bucketSize=year", 200, `"endTime":"2027-01-01T00:00:00Z"`)
	f("/billing/pods"+window+"2026-11-22T12:00:00Z&podId=other", 200, `"records":[]`, `"recordCount":0`, `"uniquePodCount":0`, `"totalAmount":0}`)
	f("/billing/network-volumes"+window+"2026-11-22T12:00:00Z&networkVolumeId=vol45678", 200,
		`"networkVolumeId":"vol45678","standardAmount":0.0216,"startTime":"2026-11-22T10:00:00Z","totalAmount":0.0216}`, `"uniqueNetworkVolumeCount":1`)
	f("/billing?bucketSize=day", 200, `"podDiskAmount":0.0162,"podGpuAmount":3.7638,`, `"storageStandardAmount":0.0324,"totalAmount":3.8124`)
	f("/pods", 200, `{"pods":[{"actions":`)
	f("/pods/pod701234", 200, `"mounts":{"network":[{"path":"/models","volumeId":"vol45678"}]}`, `"cost":2.52,`, `"status":"RUNNING"`,
		`"createdAt":"2026-11-22T10:00:00Z"`)
	f("/network-volumes", 200, `{"networkVolumes":[{"dataCenter":"SIM-1","id":"vol45678","name":"models","size":200,"type":"STANDARD"}]}`)

	for _, bad := range []string{"?bucketSize=minute", "?lastN=0", "?lastN=1&startTime=2026-11-22T00:00:00Z", "?startTime=yesterday",
		"?endTime=2026-11-22T00:00:00", "?startTime=2026-11-23T00:00:00Z&endTime=2026-11-22T00:00:00Z"} {
		f("/billing/pods"+bad, 400, `"title":"Bad Request"`)
	}
	f("/pods/701234", 404, `{"detail":"pod not found","status":404,"title":"Not Found"}`)
	f("/endpoints", 404, `"status":404`)

	a.SetStatus("hibernated")
	a.now = a.now.Add(31 * time.Second)
	f("/pods/pod701234", 200, `"cost":0.0,`, `"status":"EXITED"`, `"runtime":null`)
	f("/billing/pods?bucketSize=hour&lastN=1", 200, `"totalAmount":1.26079}`) // a second at the old rate
}

// A refund is taken from its hour, and from the hour before where that is not enough.
func TestRunpodRestates(t *testing.T) {
	a := newAccount(t)
	amounts := func() []string {
		t.Helper()
		_, body := a.getV2(t, "/billing/pods?bucketSize=hour&startTime=2026-11-22T10:00:00Z")
		var reply struct {
			Records []struct{ TotalAmount json.Number }
		}
		if err := json.Unmarshal([]byte(body), &reply); err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, r := range reply.Records {
			all = append(all, r.TotalAmount.String())
		}
		return all
	}
	want := func(want string) {
		t.Helper()
		if got := strings.Join(amounts(), " "); got != want {
			t.Errorf("hours cost %s, want %s", got, want)
		}
	}
	a.now = a.now.Add(2*time.Hour + time.Minute)
	want("2.52 2.52 0.042")
	if err := a.SetFault(sim.Fault{Mode: sim.Refund, Nanos: 1_000_000_000}); err != nil {
		t.Fatal(err)
	}
	want("2.52 2.52 0.042")
	a.now = a.now.Add(10 * time.Second)
	want("2.52 1.569 0")
	a.now = a.now.Add(10 * time.Second)
	want("2.52 1.576 0")
	a.now = a.now.Add(time.Hour)
	want("2.52 2.52 1.52 0.056")
}

func TestRunpodKeyAndLimit(t *testing.T) {
	a := newAccount(t)
	for _, header := range []string{"", "Bearer", "Bearer wrong", key} {
		r := httptest.NewRequest("GET", "/v2/pods", nil)
		r.Header.Set("Authorization", header)
		r.Header.Set("api_key", key)
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, r)
		if w.Code != 401 || w.Header().Get("RateLimit") != "" {
			t.Errorf("%q: %d", header, w.Code)
		}
	}
	for i := range 62 {
		w, _ := a.getV2(t, "/pods")
		if want := 200; i < 60 && w.Code != want || i >= 60 && w.Code != 429 {
			t.Errorf("call %d: %d", i+1, w.Code)
		}
		switch i {
		case 0:
			if got := w.Header().Get("RateLimit"); got != `"minute";r=59;t=60` {
				t.Errorf("RateLimit: %s", got)
			}
		case 61:
			if w.Header().Get("Retry-After") != "60" || w.Header().Get("RateLimit") != `"minute";r=0;t=60` || w.Header().Get("RateLimit-Policy") != `"minute";q=60;w=60` {
				t.Errorf("header of the 429: %v", w.Header())
			}
		}
	}
	a.now = a.now.Add(time.Minute)
	if w, _ := a.getV2(t, "/pods"); w.Code != 200 {
		t.Errorf("in the next minute: %d", w.Code)
	}
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/v2/pods/pod701234/action", nil))
	if w.Code != 405 {
		t.Errorf("an action: %d", w.Code)
	}
}
