package api_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"spotinference/server/api"
	"spotinference/server/queue"
)

// family is what a metrics page shows of one metric.
type family struct {
	kind   string
	labels map[string]bool
}

var labelName = regexp.MustCompile(`[{, ](\w+)="`)

// families reads a metrics page.
func families(t *testing.T, page string) map[string]*family {
	t.Helper()
	all := map[string]*family{}
	var current string
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if kind, ok := strings.CutPrefix(line, "# TYPE "); ok {
			current, kind, _ = strings.Cut(kind, " ")
			all[current] = &family{kind: kind, labels: map[string]bool{}}
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !strings.HasPrefix(line, current) || current == "" {
			t.Errorf("%q stands under %q", line, current)
			continue
		}
		for _, m := range labelName.FindAllStringSubmatch(line, -1) {
			if m[1] != "le" {
				all[current].labels[m[1]] = true
			}
		}
	}
	return all
}

// TestMetricsTable: the page shows what the table says, and no more.
func TestMetricsTable(t *testing.T) {
	t.Parallel()
	var m *api.Metrics
	w := newWorld(t, queue.Llama, jsonAnswer(200, chatAnswer), func(c *api.Config) { m = c.Metrics })
	m.AddRuntime()
	m.HandshakeFailed()
	m.SampleFailed("timeout")
	m.LowBalance(false)
	w.do("POST", "/v1/chat/completions", chatBody)
	w.do("GET", "/nope", "")
	_, page := w.do("GET", "/metrics", "")
	shown := families(t, page)
	for _, row := range api.MetricsTable() {
		f := shown[row.Name]
		delete(shown, row.Name)
		if f == nil {
			t.Errorf("%s: never shown", row.Name)
			continue
		}
		labels := slices.Sorted(maps.Keys(f.labels))
		if want := slices.Sorted(slices.Values(row.Labels)); f.kind != row.Type || !slices.Equal(labels, want) {
			t.Errorf("%s: a %s with labels %q, the table says %s with %q", row.Name, f.kind, labels, row.Type, want)
		}
		if row.Help == "" || !strings.HasSuffix(row.Help, ".") {
			t.Errorf("%s: help %q", row.Name, row.Help)
		}
		if strings.HasPrefix(row.Name, "spotinference_") && strings.Contains("seconds bytes ratio", row.Unit) && !strings.Contains(row.Name, row.Unit) {
			t.Errorf("%s: its unit is %s", row.Name, row.Unit)
		}
	}
	for name := range shown {
		t.Errorf("%s: not in the table", name)
	}
}
