package api_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/ledger"
)

// An amount is exactly what its text says, or nothing.
func FuzzAmount(f *testing.F) {
	for _, s := range []string{`62.541666666666664`, `"62.5"`, `1.4799118041992184e-11`, `NaN`, `1e400`, `null`, `"\u0031"`, `-0`, `"-1"`, `0x1p3`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a api.Amount
		if json.Unmarshal(b, &a) != nil || string(b) == "null" {
			return
		}
		var text string
		if json.Unmarshal(b, &text) != nil {
			text = string(b)
		}
		want, err := ledger.ParseNanos(text)
		if err != nil || ledger.Nanos(a) != want {
			t.Fatalf("%s read as %s, want %s (%v)", b, ledger.Nanos(a), want, err)
		}
	})
}

// A reply that is taken says the same when its members come in the other order.
func FuzzDecode(f *testing.F) {
	rig.AddCases(f, "hyperstack")
	for _, s := range []string{`{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"b":[{"c":"x","c":"y"}]}`, `{"x":{"a":1,"a":2}}`, `{"d":{"e":1},"d":{"g":2}}`, `{"ſ":1,"s":2}`, `{"K":1,"k":2}`} {
		f.Add([]byte(s))
	}
	type reply struct {
		A *api.Amount `json:"a"`
		B []struct {
			C *string `json:"c"`
		} `json:"b"`
		D *struct {
			E *int64 `json:"e"`
			G *int64 `json:"g"`
		} `json:"d"`
		S, K  *int64
		Own   json.RawMessage `json:"billing_history_vm_details"`
		Named *string         `json:"message"`
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var one, other reply
		if api.Decode(body, &one) != nil {
			return
		}
		turned := turnRound(json.NewDecoder(bytes.NewReader(body)))
		if failure := api.Decode(turned, &other); failure != nil {
			t.Fatalf("%q is taken, %q is not: %v", body, turned, failure)
		}
		one.Own, other.Own = nil, nil // as it came
		if !reflect.DeepEqual(one, other) {
			t.Fatalf("%q is %+v, %q is %+v", body, one, turned, other)
		}
	})
}

// turnRound writes the next value of dec with the members of its objects in the
// other order.
func turnRound(dec *json.Decoder) []byte {
	dec.UseNumber()
	token, _ := dec.Token()
	var parts [][]byte
	switch token {
	case json.Delim('['):
		for dec.More() {
			parts = append(parts, turnRound(dec))
		}
		dec.Token()
		return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
	case json.Delim('{'):
		for dec.More() {
			key, _ := dec.Token()
			name, _ := json.Marshal(key)
			parts = append(parts, slices.Concat(name, []byte(":"), turnRound(dec)))
		}
		dec.Token()
		slices.Reverse(parts)
		return slices.Concat([]byte("{"), bytes.Join(parts, []byte(",")), []byte("}"))
	default:
		b, _ := json.Marshal(token)
		return b
	}
}
