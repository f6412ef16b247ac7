package ledger_test

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"spotinference/ledger"
)

func TestSeconds(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, "0.000001": time.Microsecond, "12.5": 12500 * time.Millisecond, "-1.25": -1250 * time.Millisecond,
	} {
		var s ledger.Seconds
		if err := json.Unmarshal([]byte(text), &s); err != nil || time.Duration(s) != want {
			t.Errorf("%s = %s, %v, want %s", text, time.Duration(s), err, want)
		}
		if b, err := json.Marshal(ledger.Seconds(want)); err != nil || string(b) != text {
			t.Errorf("%s is written %s, %v, want %s", want, b, err, text)
		}
	}
	var s ledger.Seconds
	if err := json.Unmarshal([]byte("1.5e-05"), &s); err != nil || time.Duration(s) != 15*time.Microsecond { // as a float is written
		t.Errorf("1.5e-05 = %s, %v", time.Duration(s), err)
	}
	for _, bad := range []string{`"x"`, "1e30", "{}"} {
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s was read as %s", bad, time.Duration(s))
		}
	}
}

// TestEngineWakes: an engine's own wakes come back whole, the oldest first, and nobody
// else's.
func TestEngineWakes(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	t0 := time.Date(2026, 10, 17, 8, 0, 0, 0, time.UTC)
	want := []ledger.EngineChange{
		{At: t0.Add(time.Second), From: "starting", To: "ready", Engine: "a", Cause: "healthy", PID: 7,
			Phases: map[string]ledger.Seconds{"spawn": ledger.Seconds(time.Millisecond), "load": ledger.Seconds(time.Minute)}},
		{At: t0.Add(4 * time.Second), From: "waking", To: "ready", Engine: "a", Cause: "healthy", Method: "sleep", Waiters: 3, Left: 2, Late: 1,
			Phases: map[string]ledger.Seconds{"wake_up": ledger.Seconds(time.Second)}, Canary: &ledger.CanaryTokens{Prompt: 2, Completion: 1}},
	}
	other := want[1]
	other.At, other.Engine = t0.Add(2*time.Second), "b"
	asleep := ledger.EngineChange{At: t0.Add(3 * time.Second), From: "suspending", To: "suspended", Engine: "a", Cause: "done"}
	for _, c := range []ledger.EngineChange{want[0], other, asleep, want[1]} {
		if err := led.AddEvent(c.At, c); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := led.EngineWakes("a"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("EngineWakes = %+v, %v\nwant %+v", got, err, want)
	}
	if got, err := led.EngineWakes("c"); err != nil || len(got) != 0 {
		t.Errorf("EngineWakes of an engine that never was = %+v, %v", got, err)
	}
	if got, err := led.EngineChanges(t0.Add(time.Second), t0.Add(4*time.Second)); err != nil || len(got) != 3 {
		t.Errorf("EngineChanges = %+v, %v, want three", got, err)
	}
	if err := led.AddRawEvent(ledger.Event{At: t0.Add(5 * time.Second), Kind: "engine", Subject: "starting→ready", Detail: "{"}); err != nil {
		t.Fatal(err)
	}
	const text = `read ledger: engine event "starting→ready" at 2026-10-17T08:00:05Z: unexpected end of JSON input`
	if _, err := led.EngineWakes("a"); err == nil || err.Error() != text {
		t.Errorf("with a broken event: %v, want %s", err, text)
	}
}
