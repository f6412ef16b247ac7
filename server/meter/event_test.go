package meter_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"spotinference/server/meter"
)

// TestOurEventsOfAResponse: they are numbered with the engine's, and name the response by
// the id that its stream has for it: OpenAI's client for Node takes another one for an error.
func TestOurEventsOfAResponse(t *testing.T) {
	now := time.Unix(7, 0)
	type event struct {
		Type     string
		Sequence *int `json:"sequence_number"`
		Response struct {
			ID, Status, Model string
			Error             struct{ Code, Message string }
		}
	}
	read := func(text []byte) (events []event) {
		t.Helper()
		for part := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n\n"), "\n\n") {
			name, data, _ := strings.Cut(part, "\n")
			var e event
			if err := json.Unmarshal([]byte(strings.TrimPrefix(data, "data: ")), &e); err != nil || name != "event: "+e.Type || e.Sequence == nil {
				t.Fatalf("%q: %v", part, err)
			}
			events = append(events, e)
		}
		return events
	}
	const created = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":4,\"response\":{\"id\":\"resp_engine\",\"model\":\"tiny\"}}\n\n"
	ask, _, err := meter.Prepare(meter.Responses, meter.VLLM, []byte(`{"model":"asked","input":"x","stream":true}`))
	if err != nil {
		t.Fatal(err)
	}

	m := meter.New(meter.Responses, meter.VLLM, ask)
	m.Stream(nil, []byte(created))
	got := read(append(m.Heartbeat("req_1", now), m.ResponseFailed("req_1", now, "c", "m")...))
	if len(got) != 2 || got[0].Type != "keepalive" || *got[0].Sequence != 5 || got[1].Type != "response.failed" || *got[1].Sequence != 6 ||
		got[1].Response.ID != "resp_engine" || got[1].Response.Status != "failed" || got[1].Response.Error.Code != "c" || got[1].Response.Error.Message != "m" {
		t.Errorf("after the engine began: %+v", got)
	}

	m = meter.New(meter.Responses, meter.VLLM, ask)
	got = read(append(m.Heartbeat("req_1", now), m.Heartbeat("req_1", now)...))
	if len(got) != 2 || got[0].Type != "response.created" || got[0].Response.ID != "resp_req_1" || got[0].Response.Model != "asked" || got[0].Response.Status != "in_progress" || got[1].Type != "keepalive" {
		t.Errorf("before: %+v", got)
	}
	if out := string(m.Stream(nil, []byte(created))); !strings.Contains(out, `"id":"resp_req_1"`) || strings.Contains(out, "resp_engine") {
		t.Errorf("the engine's id came through: %s", out)
	}
	if got = read(m.ResponseFailed("req_1", now, "c", "m")); len(got) != 1 || got[0].Response.ID != "resp_req_1" {
		t.Errorf("failed: %+v", got)
	}

	m = meter.New(meter.Responses, meter.VLLM, ask)
	if got = read(m.ResponseFailed("req_1", now, "c", "m")); len(got) != 2 || got[0].Type != "response.created" || got[1].Response.ID != got[0].Response.ID {
		t.Errorf("failed before anything: %+v", got)
	}
}
