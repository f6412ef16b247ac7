package sim

import (
	"strings"
	"testing"
	"time"
)

// TestOptionTable: each option has a meaning, a name and a field of its own, and can be set.
func TestOptionTable(t *testing.T) {
	var o options
	names, fields := map[string]bool{}, map[any]bool{}
	for _, opt := range optionTable {
		for _, name := range strings.Fields(opt.names) {
			if names[name] {
				t.Errorf("two options are called %s", name)
			}
			names[name] = true
		}
		field, value := opt.field(&o), "1"
		if fields[field] {
			t.Errorf("-%s sets what another option sets", opt.names)
		}
		fields[field] = true
		switch field.(type) {
		case *time.Duration, *milliseconds:
			value = "1s"
		}
		if err := assign(field, value); err != nil {
			t.Errorf("-%s %s: %v", opt.names, value, err)
		}
		if opt.usage == "" {
			t.Errorf("-%s: what is it for?", opt.names)
		}
	}
	if o.faults.DelayMS.duration() != time.Second || !o.core || o.exitAtStart != 1 || o.gpu != "1" {
		t.Errorf("set: %+v", o)
	}
}
