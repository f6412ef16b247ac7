package billing_test

import (
	"encoding/json"
	"fmt"
	"strings"
)

// each applies change to every object in a JSON text.
func each(text string, change func(map[string]any)) string {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		panic("BUG: " + err.Error())
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, inner := range v {
				walk(inner)
			}
			change(v)
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(v)
	return written(v)
}

// set is a change of text: every member of that name gets this value, JSON or not.
func set(name, value string) func(string) string {
	return func(good string) string {
		return each(good, func(object map[string]any) {
			if _, ok := object[name]; ok {
				object[name] = raw(value)
			}
		})
	}
}

// raw is written as it is; a twin is a member that is written twice.
type (
	raw  string
	twin struct {
		value any
		as    string
	}
)

// written is v as JSON, except where it is none.
func written(v any) string {
	switch v := v.(type) {
	case raw:
		return string(v)
	case map[string]any:
		var members []string
		for name, inner := range v {
			if t, ok := inner.(twin); ok {
				members = append(members, fmt.Sprintf("%q:%s", t.as, written(t.value)))
				inner = t.value
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
