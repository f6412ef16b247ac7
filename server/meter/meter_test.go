package meter_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"spotinference/ledger"
	"spotinference/server/meter"
)

// result is everything that a meter says of an answer.
type result struct {
	Now, Tail string // what left before the count was recorded, and after
	Usage     ledger.Usage
	Exact     bool
	Done      bool
	Fault     meter.Fault
	Model     string
}

func resultOf(m *meter.Meter, now []byte) result {
	return result{
		Now:   string(now),
		Tail:  string(m.Tail()),
		Usage: m.Usage(),
		Exact: m.Exact(),
		Done:  m.Done(),
		Fault: m.Fault(),
		Model: m.Model(),
	}
}

// copyStream feeds a stream to a new meter in the pieces that cut makes.
func copyStream(d meter.Dialect, e meter.Engine, ask meter.Ask, src []byte, cut func(left int) int) result {
	return streamThrough(meter.New(d, e, ask), src, cut)
}

func streamThrough(m *meter.Meter, src []byte, cut func(left int) int) result {
	var now []byte
	for len(src) > 0 {
		n := cut(len(src))
		piece := bytes.Clone(src[:n]) // the caller may reuse its buffer
		now = m.Stream(now, piece)
		clear(piece)
		src = src[n:]
	}
	return resultOf(m, m.Close(now))
}

func copyJSON(d meter.Dialect, e meter.Engine, ask meter.Ask, src []byte, cut func(left int) int) result {
	m := meter.New(d, e, ask)
	for len(src) > 0 {
		n := cut(len(src))
		piece := bytes.Clone(src[:n])
		m.JSON(piece)
		clear(piece)
		src = src[n:]
	}
	return resultOf(m, nil)
}

type copier func(meter.Dialect, meter.Engine, meter.Ask, []byte, func(int) int) result

// everySplit copies an answer whole, byte by byte and in random pieces, and
// fails the test unless all agree.
func everySplit(t testing.TB, feed copier, d meter.Dialect, e meter.Engine, ask meter.Ask, src []byte) result {
	t.Helper()
	whole := feed(d, e, ask, src, func(left int) int { return left })
	if got := feed(d, e, ask, src, func(int) int { return 1 }); got != whole {
		t.Errorf("byte by byte = %+v\nwhole = %+v", got, whole)
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		got := feed(d, e, ask, src, func(left int) int { return 1 + r.IntN(min(left, 1<<r.IntN(12))) })
		if got != whole {
			t.Fatalf("split with seed %d = %+v\nwhole = %+v", seed, got, whole)
		}
	}
	return whole
}

func prepare(t testing.TB, d meter.Dialect, e meter.Engine, body string) meter.Ask {
	t.Helper()
	ask, _, err := meter.Prepare(d, e, []byte(body))
	if err != nil {
		t.Fatalf("Prepare(%s) = %v", body, err)
	}
	return ask
}

func capture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "llama-server", name+".body"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func usage(prompt, cached, completion int64) ledger.Usage {
	return ledger.Usage{PromptTokens: prompt, CachedTokens: cached, CompletionTokens: completion}
}

func TestDialectString(t *testing.T) {
	got := fmt.Sprint(meter.Chat, meter.Completions, meter.Responses, meter.Messages, meter.Embeddings, meter.Rerank, meter.Transcriptions, meter.Translations, meter.Speech)
	if want := "chat completions responses messages embeddings rerank transcriptions translations speech"; got != want {
		t.Errorf("dialects = %q, want %q", got, want)
	}
}
