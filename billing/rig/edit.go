package rig

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Each applies change to every object in a JSON text.
func Each(text string, change func(map[string]any)) string {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		panic("BUG: " + err.Error())
	}
	var visit func(any)
	visit = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, inner := range v {
				visit(inner)
			}
			change(v)
		case []any:
			for _, inner := range v {
				visit(inner)
			}
		}
	}
	visit(v)
	return written(v)
}

// Set is a change of text: every member of that name gets this value, JSON or not.
func Set(name, value string) func(string) string {
	return func(good string) string {
		return Each(good, func(object map[string]any) {
			if _, ok := object[name]; ok {
				object[name] = Raw(value)
			}
		})
	}
}

type (
	// Raw is written as it is.
	Raw string

	// Twin is a member that is written twice, the second time under another name.
	Twin struct {
		Value any
		As    string
	}
)

// written is v as JSON, except where it is none.
func written(v any) string {
	switch v := v.(type) {
	case Raw:
		return string(v)
	case map[string]any:
		var members []string
		for name, inner := range v {
			if t, ok := inner.(Twin); ok {
				members = append(members, fmt.Sprintf("%q:%s", t.As, written(t.Value)))
				inner = t.Value
			}
			members = append(members, fmt.Sprintf("%q:%s", name, written(inner)))
		}
		return "{" + strings.Join(members, ",") + "}"
	case []any:
		var items []string
		for _, inner := range v {
			items = append(items, written(inner))
		}
		return "[" + strings.Join(items, ",") + "]"
	default:
		b, err := json.Marshal(v)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		return string(b)
	}
}
