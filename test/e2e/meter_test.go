package e2e_test

import (
	"strings"
	"syscall"
	"testing"

	"spotinference/test/harness"
	"spotinference/test/realengine"
)

type meterReport struct {
	Engines []struct {
		Engine     string       `json:"engine"`
		Requests   int64        `json:"requests"`
		LowerBound int64        `json:"lower_bound"`
		Prompt     meterCounter `json:"prompt_tokens"`
		Completion meterCounter `json:"completion_tokens"`
		Unchecked  int64        `json:"unchecked_requests"`
	} `json:"engines"`
	Flags []string `json:"flags"`
}

type meterCounter struct {
	Engine       int64  `json:"engine"`
	Ledger       int64  `json:"ledger"`
	Again        int64  `json:"again"`
	Unattributed int64  `json:"unattributed"`
	Cause        string `json:"cause"`
}

// TestReportMeter: the ledger beside the real engine's own counters: equal for
// finished answers, unattributed for what it made for clients that had left, and
// begun again after a crash.
func TestReportMeter(t *testing.T) {
	t.Parallel()
	launcher, model := realengine.Find(t), realengine.Model(t)
	s := harness.Serve(t, nil, "--provider", "none", "--sample-every", "200ms", "--", launcher, "-m", model, "--alias", "tiny", "-t", "1", "-c", "8192", "-np", "4").Ready()
	meter := func() (m meterReport) {
		t.Helper()
		s.Report(&m, "meter", "--window", "1h")
		if len(m.Flags) > 0 {
			t.Errorf("report meter = %+v", m)
		}
		return m
	}
	severalResults(t, s)
	harness.Eventually(t, "all of it is sampled", func() bool {
		m := meter()
		return len(m.Engines) == 1 && m.Engines[0].Requests == int64(len(severals)) && m.Engines[0].Completion.Cause == ""
	})
	if e := meter().Engines[0]; e.Completion.Engine != e.Completion.Ledger || e.Prompt.Engine != e.Prompt.Ledger || e.Completion.Engine == 0 || e.Unchecked != 0 {
		t.Errorf("report meter = %+v", e)
	}

	// A client that leaves: the engine goes on for a moment.
	abandon(t, s, `{"max_tokens":4000,"ignore_eos":true,"messages":[{"role":"user","content":"hi"}]}`)
	harness.Eventually(t, "the cut request is sampled", func() bool {
		e := meter().Engines[0]
		return e.LowerBound == 1 && e.Completion.Cause == "cut"
	})
	if e := meter().Engines[0]; e.Completion.Unattributed != e.Completion.Engine-e.Completion.Ledger || e.Completion.Unattributed == 0 {
		t.Errorf("report meter = %+v", e)
	}

	// The engine is killed: its counters begin at zero.
	for _, p := range s.Descendants() {
		if args := p.Words(); len(args) > 1 && strings.Contains(strings.Join(args, " "), "--alias") && args[1] != "guard" {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Logs(`"msg":"engine crashed"`)
	s.Ready()
	s.Post("/v1/completions", `{"prompt":"hi","max_tokens":3}`)
	s.Stop() // takes the last sample
	m := meter()
	if len(m.Engines) != 2 || m.Engines[1].Requests != 1 || m.Engines[1].Completion.Engine != 3 || m.Engines[1].Completion.Ledger != 3 {
		t.Errorf("report meter = %+v", m)
	}
}
