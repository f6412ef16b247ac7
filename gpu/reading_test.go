package gpu

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func ptr[T any](v T) *T { return &v }

func TestParseMessage(t *testing.T) {
	const card = `{"index":0,"uuid":"GPU-1","name":"H100","utilisation":37,"memory_used":null,"memory_total":1024,"power":70250,"power_limit":700000,"energy":9007199254740993,"temperature":-3,"sm_clock":1980,"memory_clock":2619,"event_reasons":18446744073709551615,"ecc_corrected":0,"ecc_uncorrected":null,"processes":[{"pid":7,"memory":null}]}`
	for _, c := range []struct {
		name, line string
		err        string // part of the error; "" wants none
	}{
		{"cards", `{"driver":"570.1","cards":[` + card + `]}`, ""},
		{"an xid", `{"xid":{"uuid":"GPU-1","code":79}}`, ""},
		{"an xid of no card", `{"xid":{"uuid":"","code":79}}`, ""},
		{"a reason", `{"error":"no driver"}`, ""},
		{"nothing", `{}`, "neither"},
		{"only a driver", `{"driver":"570.1"}`, "neither"},
		{"two at once", `{"error":"no driver","xid":{"code":1}}`, "several"},
		{"no cards", `{"cards":[]}`, "neither"},
		{"no JSON", `NVRM: oops`, `line "NVRM: oops"`},
		{"empty", ``, "EOF"},
		{"cut", `{"cards":[{"index":0,"uu`, "unexpected EOF"},
		{"two messages", `{"error":"a"}{"error":"b"}`, "something follows"},
		{"a foreign field", `{"error":"a","b":1}`, "unknown field"},
		{"a fraction", `{"cards":[{"index":0,"uuid":"GPU-1","power":70.5}]}`, "70.5"},
		{"no uuid", `{"cards":[{"index":3}]}`, "card 3 has no UUID"},
		{"twice", `{"cards":[{"uuid":"GPU-1"},{"uuid":"GPU-1"}]}`, `"GPU-1" is there twice`},
		{"below zero", `{"cards":[{"uuid":"GPU-1","energy":-1}]}`, "a figure of -1"},
		{"index below zero", `{"cards":[{"uuid":"GPU-1","index":-1}]}`, "index -1"},
		{"more than all", `{"cards":[{"uuid":"GPU-1","utilisation":101}]}`, "utilisation 101%"},
		{"more memory than there is", `{"cards":[{"uuid":"GPU-1","memory_used":2,"memory_total":1}]}`, "2 of 1 bytes used"},
		{"a process below zero", `{"cards":[{"uuid":"GPU-1","processes":[{"pid":1,"memory":-5}]}]}`, "a figure of -5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseMessage([]byte(c.line))
			switch {
			case c.err == "" && err != nil:
				t.Errorf("ParseMessage: %v", err)
			case c.err != "" && err == nil:
				t.Errorf("ParseMessage took it, want an error with %q", c.err)
			case c.err != "" && !strings.Contains(err.Error(), c.err):
				t.Errorf("ParseMessage: %v, want an error with %q", err, c.err)
			}
		})
	}

	m, err := ParseMessage([]byte(`{"driver":"570.1","cards":[` + card + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Reading{
		UUID: "GPU-1", Name: "H100", Utilisation: ptr(int64(37)), MemoryTotal: ptr(int64(1024)), Power: ptr(int64(70250)),
		PowerLimit: ptr(int64(700000)), Energy: ptr(int64(9007199254740993)), Temperature: ptr(int64(-3)), SMClock: ptr(int64(1980)),
		MemoryClock: ptr(int64(2619)), EventReasons: ptr(^uint64(0)), ECCCorrected: ptr(int64(0)), Processes: []Process{{PID: 7}},
	}
	if m.Driver != "570.1" || !reflect.DeepEqual(m.Cards, []Reading{want}) {
		t.Errorf("ParseMessage = %+v, want %+v", m, want)
	}
}

// What is taken can be written and read again, and holds nothing impossible.
func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{
		`{"driver":"570.1","cards":[{"index":0,"uuid":"GPU-1","utilisation":100,"memory_used":1,"memory_total":2,"processes":[{"pid":1,"memory":3}]}]}`,
		`{"xid":{"uuid":"GPU-1","code":79}}`, `{"error":"x"}`, `{"cards":[{"uuid":"a"},{"uuid":"b","energy":9223372036854775807}]}`,
		`{"cards":[{"uuid":"a","event_reasons":18446744073709551615}]} `, `[]`, `null`, "\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := ParseMessage(line)
		if err != nil {
			return
		}
		for _, c := range m.Cards {
			if c.UUID == "" || c.Index < 0 || c.Energy != nil && *c.Energy < 0 || c.Utilisation != nil && (*c.Utilisation < 0 || *c.Utilisation > 100) {
				t.Fatalf("took %q as %+v", line, c)
			}
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseMessage(again)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%q became %q: %+v, %v, want %+v", line, again, got, err, m)
		}
	})
}
