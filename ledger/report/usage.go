package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"spotinference/ledger"
)

// UsageReport is what was served in a window.
type UsageReport struct {
	Window           Span     `json:"window"`
	Requests         int64    `json:"requests"`
	PromptTokens     int64    `json:"prompt_tokens"` // cached ones included
	CachedTokens     int64    `json:"cached_tokens"`
	CompletionTokens int64    `json:"completion_tokens"`
	ByStatus         ByStatus `json:"by_status"`
	Demo             bool     `json:"demo"`
	Chain            Chain    `json:"chain"`

	Overrides []Override `json:"overrides,omitempty"` // of the budget, in the window

	lowerBound int64 // requests whose tokens are known only from below
}

// ByStatus counts requests by how they ended. Its fields add up to Requests.
type ByStatus struct {
	OK      int64 `json:"ok"`
	Aborted int64 `json:"aborted"`
	Failed  int64 `json:"failed"`
	Lost    int64 `json:"lost"`
}

// Usage sums the requests that finished in w. It needs no bill, and so has no
// dark minutes.
func Usage(r *ledger.Reader, w ledger.Window, demo bool) (UsageReport, error) {
	w, err := checkWindow(w)
	if err != nil {
		return UsageReport{}, fmt.Errorf("report usage: %w", err)
	}
	t, err := r.Totals(w.From, w.To)
	if err != nil {
		return UsageReport{}, fmt.Errorf("report usage: %w", err)
	}
	lifted, err := overridden(r, w)
	if err != nil {
		return UsageReport{}, fmt.Errorf("report usage: %w", err)
	}
	chain, err := chainOf(r)
	if err != nil {
		return UsageReport{}, fmt.Errorf("report usage: %w", err)
	}
	return UsageReport{
		Overrides:        lifted,
		Window:           Span(w),
		Requests:         t.Requests(),
		PromptTokens:     t.Usage.PromptTokens,
		CachedTokens:     t.Usage.CachedTokens,
		CompletionTokens: t.Usage.CompletionTokens,
		ByStatus:         ByStatus{OK: t.OK, Aborted: t.Aborted, Failed: t.Failed, Lost: t.Lost},
		Demo:             demo,
		Chain:            chain,
		lowerBound:       t.LowerBound,
	}, nil
}

// checkWindow is w as the ledger sees it. A window of no length has no answer.
func checkWindow(w ledger.Window) (ledger.Window, error) {
	w = ledger.Window{From: utc(w.From), To: utc(w.To)}
	if !w.From.Before(w.To) {
		return w, fmt.Errorf("window from %s to %s is empty", stamp(w.From), stamp(w.To))
	}
	return w, nil
}

// Write writes the report.
func (u UsageReport) Write(w io.Writer, f Format) error {
	return write(w, f, u, u.text, u.cells)
}

func (u UsageReport) cells() []cell {
	return append([]cell{
		{"window_from", stamp(u.Window.From)},
		{"window_to", stamp(u.Window.To)},
		{"requests", integer(u.Requests)},
		{"prompt_tokens", integer(u.PromptTokens)},
		{"cached_tokens", integer(u.CachedTokens)},
		{"completion_tokens", integer(u.CompletionTokens)},
		{"by_status_ok", integer(u.ByStatus.OK)},
		{"by_status_aborted", integer(u.ByStatus.Aborted)},
		{"by_status_failed", integer(u.ByStatus.Failed)},
		{"by_status_lost", integer(u.ByStatus.Lost)},
		{"demo", strconv.FormatBool(u.Demo)},
		{"overrides", spanCell(spansOf(u.Overrides))},
	}, u.Chain.cells()...)
}

func (u UsageReport) text() string {
	var b strings.Builder
	heading(&b, "Usage", u.Window, u.Demo)
	b.WriteString("\n")
	writeRows(&b, []row{
		{"requests", count(u.Requests), u.ByStatus.text()},
		{"prompt tokens", count(u.PromptTokens), cachedText(u.CachedTokens, u.PromptTokens)},
		{"output tokens", count(u.CompletionTokens), ""},
	})
	b.WriteString("\n")
	if u.lowerBound > 0 {
		paragraph(&b, "note: "+lowerBoundText(u.lowerBound))
	}
	for _, note := range overrideTexts(u.Overrides) {
		paragraph(&b, note)
	}
	paragraph(&b, "Counted: requests that finished in this window, also those that were cut short. Not counted: requests that are still running.")
	u.Chain.write(&b)
	return b.String()
}

// text names the ways to end that occurred, the good one first.
func (s ByStatus) text() string {
	if s == (ByStatus{}) {
		return ""
	}
	parts := []string{count(s.OK) + " ok"}
	for _, p := range []struct {
		n    int64
		name string
	}{{s.Aborted, "aborted by the client"}, {s.Failed, "failed"}, {s.Lost, "lost in a crash"}} {
		if p.n > 0 {
			parts = append(parts, count(p.n)+" "+p.name)
		}
	}
	return strings.Join(parts, ", ")
}
