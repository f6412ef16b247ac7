package main

import (
	"spotinference/gpu"
	"spotinference/server/api"
)

// metrics is docs/metrics.md's table of what GET /metrics shows: the gateway's own, and
// the GPUs'.
func metrics() string {
	var rows [][]string
	row := func(name, kind, unit, help string, labels []string) {
		list := ""
		for i, l := range labels {
			if i > 0 {
				list += ", "
			}
			list += code(l)
		}
		rows = append(rows, []string{code(name), kind, unit, list, help})
	}
	for _, m := range api.MetricsTable() {
		row(m.Name, m.Type, m.Unit, m.Help, m.Labels)
	}
	for _, m := range gpu.MetricsTable() {
		row(m.Name, m.Type, m.Unit, m.Help, m.Labels)
	}
	return table([]string{"metric", "type", "unit", "labels", "what it tells"}, rows)
}
