package main

import (
	"strings"

	"spotinference/ledger"
)

// events is docs/events.md's table of events.
func events() string {
	var rows [][]string
	for _, t := range ledger.EventTypes() {
		var fields []string
		for _, f := range t.Fields() {
			text := code(f.Name) + " " + f.Type
			if f.Unit != "" {
				text += ", " + f.Unit
			}
			if f.Optional {
				text += ", or null"
			}
			fields = append(fields, text)
		}
		rows = append(rows, []string{code(string(t.Kind)), code(t.Subject), t.Help, strings.Join(fields, "; ")})
	}
	return table([]string{"kind", "subject", "what happened", "detail"}, rows)
}

// states is docs/events.md's table of an engine's states.
func states() string {
	var rows [][]string
	for _, s := range ledger.EngineStates() {
		rows = append(rows, []string{code(string(s.Name)), s.Help})
	}
	return table([]string{"state", "what it means"}, rows)
}
