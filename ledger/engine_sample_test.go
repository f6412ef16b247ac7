package ledger_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"spotinference/ledger"
)

// TestCheckEngine: where a difference comes from.
func TestCheckEngine(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	led := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	row := func(id string, s int, prompt, cached, completion int64, lowerBound bool) {
		r := request(id, at(s), completion)
		r.Usage.PromptTokens, r.Usage.CachedTokens, r.LowerBound = prompt, cached, lowerBound
		add(t, led, r)
	}
	row("before", -1, 99, 0, 99, false) // of another process
	row("a", 10, 20, 5, 100, false)
	row("b", 70, 20, 0, 50, true)
	row("c", 130, 1_000_000, 0, 2_000_000, false)

	sample := func(s int, prompt, completion int64, change ...func(*ledger.EngineSample)) ledger.EngineSample {
		e := ledger.EngineSample{At: at(s), Started: start, Engine: "llama", Prompt: prompt, Completion: completion, Quiet: true}
		for _, c := range change {
			c(&e)
		}
		return e
	}
	busy := func(e *ledger.EngineSample) { e.Quiet = false }
	vllm := func(e *ledger.EngineSample) { e.Engine, e.WithCached = "vllm", true }
	f := func(name string, from *ledger.EngineSample, to ledger.EngineSample, prompt, completion string, difference int64) {
		t.Helper()
		c, err := led.CheckEngine(from, to)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Prompt.Cause != prompt || c.Completion.Cause != completion || c.Completion.Difference() != difference {
			t.Errorf("%s: %+v, want prompt %q, completion %q by %d", name, c, prompt, completion, difference)
		}
		if c.Drift() != (prompt == ledger.DiffDrift || completion == ledger.DiffDrift) {
			t.Errorf("%s: drift = %v", name, c.Drift())
		}
	}
	f("equal", nil, sample(60, 15, 100), "", "", 0)
	f("vllm counts the cached", nil, sample(60, 20, 100, vllm), "", "", 0)
	f("vllm counts a prompt twice, and nobody asked for two choices", nil, sample(60, 40, 100, vllm), ledger.DiffDrift, "", 0)
	f("one more than the rows", nil, sample(60, 15, 101), "", ledger.DiffDrift, 1)
	f("one less", nil, sample(60, 15, 99), "", ledger.DiffDrift, -1)
	f("more, and a request runs", nil, sample(60, 16, 140, busy), ledger.DiffRunning, ledger.DiffRunning, 40)
	f("less, and a request runs", nil, sample(60, 15, 99, busy), "", ledger.DiffDrift, -1)
	f("more, and one was cut", nil, sample(120, 35, 180), "", ledger.DiffCut, 30)
	f("less, and one was cut", nil, sample(120, 35, 149), "", ledger.DiffDrift, -1)
	f("less, and the engine has yet to let go of the one that was cut", nil, sample(120, 35, 149, busy), "", ledger.DiffRunning, -1)
	f("cut in its prefill", nil, sample(120, 20, 150), ledger.DiffCut, "", 0)
	base := sample(60, 15, 100)
	f("since a quiet one", &base, sample(120, 35, 180), "", ledger.DiffCut, 30)
	base = sample(120, 35, 180)
	f("six digits", &base, sample(180, 1_000_040, 2_000_200), "", "", 20)
	f("beyond six digits", &base, sample(180, 1_000_035, 2_000_300), "", ledger.DiffDrift, 120)
	f("nothing happened", &base, sample(125, 35, 180), "", "", 0)

	event := func(at time.Time, subject, detail string) {
		t.Helper()
		if err := led.AddRawEvent(ledger.Event{At: at, Kind: "engine", Subject: subject, Detail: detail}); err != nil {
			t.Fatal(err)
		}
	}
	event(at(50), "waking→ready", `{"cause":"healthy","canary":{"prompt_tokens":2,"completion_tokens":1}}`)
	event(at(51), "ready→suspending", `{"cause":"idle"}`)
	f("what a wake's canary made", nil, sample(60, 17, 101), "", "", 0)
	f("and more", nil, sample(60, 17, 102), "", ledger.DiffDrift, 1)
	base = sample(60, 17, 101)
	f("a canary before", &base, sample(120, 37, 181), "", ledger.DiffCut, 30)

	running, other := sample(120, 35, 180, busy), sample(120, 35, 180, func(e *ledger.EngineSample) { e.Started = at(1) })
	for _, from := range []*ledger.EngineSample{&running, &other} {
		if _, err := led.CheckEngine(from, sample(180, 35, 180)); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("from %+v: %v", from, err)
		}
	}
}

func TestEngineRuns(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	led := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	put := func(started, at time.Duration, completion int64) ledger.EngineSample {
		t.Helper()
		s := ledger.EngineSample{At: start.Add(at), Started: start.Add(started), Engine: "vllm", Prompt: 3, Completion: completion, WithCached: true, Quiet: completion%2 == 0}
		if err := led.AddEngineSample(s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	put(0, time.Minute, 1)
	first := put(0, 2*time.Minute, 2)
	second := put(3*time.Minute, 4*time.Minute, 3)
	put(3*time.Minute, 5*time.Minute, 4)
	runs, err := led.EngineRuns(start.Add(time.Minute), start.Add(4*time.Minute))
	if err != nil || len(runs) != 2 || runs[0] != first || runs[1] != second {
		t.Errorf("%+v, %v", runs, err)
	}
	if err := led.AddEngineSample(first); err != nil {
		t.Errorf("the same once more: %v", err)
	}
	if err := led.AddEngineSample(ledger.EngineSample{At: start, Started: start.Add(1), Engine: "llama"}); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("before its start: %v", err)
	}
	for _, q := range []string{"UPDATE engine_sample SET completion = 0", "DELETE FROM engine_sample"} {
		if led.Exec(q) == nil {
			t.Errorf("%s went through", q)
		}
	}
}

// TestCheckEngineExplainsNoMoreThanTheRequests: what vLLM counts again is expected to the
// token, a request that was cut explains what it could have made itself, and an older
// llama-server does not count embeddings.
func TestCheckEngineExplainsNoMoreThanTheRequests(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	type row = ledger.Request
	f := func(name, engine string, prompt, completion int64, wantPrompt, wantCompletion string, rows ...row) {
		t.Helper()
		led := open(t, filepath.Join(t.TempDir(), "ledger.db"))
		for i, r := range rows {
			full := request(name+string(rune('a'+i)), start.Add(time.Duration(i+1)*time.Second), r.Usage.CompletionTokens)
			full.Usage, full.LowerBound, full.Excess = r.Usage, r.LowerBound, r.Excess
			if r.Endpoint != "" {
				full.Endpoint = r.Endpoint
			}
			add(t, led, full)
		}
		e := ledger.EngineSample{At: start.Add(time.Minute), Started: start, Engine: engine, Prompt: prompt, Completion: completion, WithCached: engine == "vllm", Quiet: true}
		c, err := led.CheckEngine(nil, e)
		if err != nil || c.Prompt.Cause != wantPrompt || c.Completion.Cause != wantCompletion {
			t.Errorf("%s: %+v, %v, want prompt %q, completion %q", name, c, err, wantPrompt, wantCompletion)
		}
		if v, err := led.Verify(t.Context(), chain(t, led.Reader).Head.String()); err != nil || len(v.Problems) > 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	most := func(n int64) ledger.Most { return ledger.Most{N: n, Known: true} }
	three := row{Usage: ledger.Usage{PromptTokens: 10, CompletionTokens: 12}, Excess: ledger.EngineExcess{PromptAgain: 20}}
	f("three choices", "vllm", 30, 12, "", "", three)
	f("three choices counted once", "vllm", 10, 12, ledger.DiffDrift, "", three)
	f("three choices and one token", "vllm", 31, 12, ledger.DiffDrift, "", three)

	cut := row{Usage: ledger.Usage{PromptTokens: 10, CompletionTokens: 3}, LowerBound: true, Excess: ledger.EngineExcess{Prompt: most(0), Completion: most(7)}}
	f("cut", "llama", 10, 10, "", ledger.DiffCut, cut)
	f("cut and more than it could make", "llama", 10, 11, "", ledger.DiffDrift, cut)
	f("cut and a prompt that is not its", "llama", 11, 10, ledger.DiffDrift, ledger.DiffCut, cut)
	f("two cut", "llama", 20, 20, "", ledger.DiffCut, cut, cut)
	f("two cut and more", "llama", 20, 21, "", ledger.DiffDrift, cut, cut)
	f("one of two without a bound", "llama", 20, 2000, "", ledger.DiffCut, cut, row{Usage: cut.Usage, LowerBound: true})

	failed := row{Excess: ledger.EngineExcess{Prompt: most(100), Completion: most(8)}}
	f("failed after it was made", "vllm", 12, 8, ledger.DiffFailed, ledger.DiffFailed, failed)
	f("failed and made nothing", "vllm", 0, 0, "", "", failed)
	f("failed and more", "vllm", 12, 9, ledger.DiffFailed, ledger.DiffDrift, failed)

	vectors := row{Endpoint: "embeddings", Usage: ledger.Usage{PromptTokens: 45}}
	ranks := row{Endpoint: "rerank", Usage: ledger.Usage{PromptTokens: 95}}
	chat := row{Usage: ledger.Usage{PromptTokens: 10, CompletionTokens: 2}}
	f("embeddings that are counted", "llama", 150, 2, "", "", vectors, ranks, chat)
	f("embeddings of an older build", "llama", 10, 2, "", "", vectors, ranks, chat)
	f("one less", "llama", 9, 2, ledger.DiffDrift, "", vectors, ranks, chat)
	f("between the two", "llama", 50, 2, ledger.DiffDrift, "", vectors, ranks, chat)
	f("embeddings that vLLM leaves out", "vllm", 10, 2, ledger.DiffDrift, "", vectors, ranks, chat)
}
