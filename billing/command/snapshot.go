package command

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"spotinference/billing/api"
	"spotinference/internal/provider"
	"spotinference/ledger"
)

//go:embed schema.json
var schemaJSON string

// Schema returns the JSON Schema (2020-12) of what a command for the provider
// "exec" prints. What the schema refuses, the program refuses; a schema cannot say
// that a resource appears once, nor bound the exponent of an amount, so a snapshot
// that it takes may still be refused.
func Schema() []byte { return []byte(schemaJSON) }

const (
	maxLines  = 1000
	maxStep   = 3600
	maxLag    = 3 * 3600
	maxAmount = ledger.Nanos(9_000_000_000_000_000_000)
)

// snapshot is what the command printed, read.
type snapshot struct {
	account, currency string
	truth             ledger.Truth
	step, lag         time.Duration
	now               time.Time // the provider's clock; zero where it was not told
	lines             []ledger.Line
}

// decodeSnapshot reads what the command printed. It is stricter than package json:
// a field that is not known, that comes twice, or that is null is a mistake in the
// command, and a bill is not read around mistakes.
func decodeSnapshot(body []byte) (snapshot, *api.Failure) {
	none := snapshot{}
	if !utf8.Valid(body) || !json.Valid(body) {
		return none, api.Fail(api.Malformed, "what the command printed is not one JSON value (%d bytes)", len(body))
	}
	m, f := members(body, "the snapshot", "version", "currency", "account", "step_seconds", "lag_seconds", "truth", "now", "lines")
	if f != nil {
		return none, f
	}
	// First, for a later version may differ in all the rest.
	if _, f := m.integer("version", 1, 1); f != nil {
		return none, f
	}
	var s snapshot
	if s.currency, f = m.text("currency", 0, 64, true); f != nil {
		return none, f
	}
	if c, err := ledger.Currency(s.currency); err != nil || c != s.currency {
		return none, api.Fail(api.Currency, "the snapshot's currency is not an upper-case ISO 4217 code")
	}
	if m.has("account") {
		if s.account, f = m.text("account", 0, 128, false); f != nil {
			return none, f
		}
	}
	step, f := m.integer("step_seconds", 1, maxStep)
	if f != nil {
		return none, f
	}
	lag, f := m.integer("lag_seconds", 0, maxLag)
	if f != nil {
		return none, f
	}
	s.step, s.lag = time.Duration(step)*time.Second, time.Duration(lag)*time.Second
	truth, f := m.oneOf("truth", string(ledger.TruthResource), string(ledger.TruthAccount))
	if f != nil {
		return none, f
	}
	s.truth = ledger.Truth(truth)
	if m.has("now") {
		if s.now, f = m.instant("now"); f != nil {
			return none, f
		}
	}
	raw, f := m.get("lines")
	if f != nil {
		return none, f
	}
	var lines []json.RawMessage
	if json.Unmarshal(raw, &lines) != nil {
		return none, api.Fail(api.Malformed, "lines of the snapshot is not a list")
	}
	if len(lines) == 0 {
		return none, api.Fail(api.Incomplete, "the snapshot has no line")
	}
	if len(lines) > maxLines {
		return none, api.Fail(api.Malformed, "the snapshot has more than %d lines", maxLines)
	}
	seen := make(map[string]bool)
	for _, raw := range lines {
		l, f := decodeSnapshotLine(raw)
		if f != nil {
			return none, f
		}
		if seen[l.Resource] {
			return none, api.Fail(api.Malformed, "the snapshot has two lines for one resource")
		}
		seen[l.Resource] = true
		s.lines = append(s.lines, l)
	}
	return s, nil
}

// skew refuses a snapshot whose provider's clock is not ours: it was read somewhere from
// the command's start to its end.
func (s snapshot) skew(start, end time.Time) *api.Failure {
	if s.now.IsZero() {
		return nil
	}
	off := max(start.Sub(s.now), s.now.Sub(end))
	if off <= provider.MaxSkew {
		return nil
	}
	f := api.Fail(api.ClockSkew, "the snapshot's now is %s away from this machine's clock", off.Round(time.Second))
	return f.WithHint("check that this machine's clock is synchronised")
}

func decodeSnapshotLine(body []byte) (ledger.Line, *api.Failure) {
	none := ledger.Line{}
	m, f := members(body, "a line", "resource", "kind", "status", "running", "rate_per_hour", "bill", "epoch", "created")
	if f != nil {
		return none, f
	}
	var l ledger.Line
	if l.Resource, f = m.text("resource", 1, 128, false); f != nil {
		return none, f
	}
	kind, f := m.oneOf("kind", string(ledger.Instance), string(ledger.Volume), string(ledger.IP), string(ledger.AccountKind), string(ledger.Other))
	if f != nil {
		return none, f
	}
	l.Kind = ledger.Kind(kind)
	if m.has("status") {
		if l.Status, f = m.text("status", 0, 64, true); f != nil {
			return none, f
		}
	}
	raw, f := m.get("running")
	if f != nil {
		return none, f
	}
	if json.Unmarshal(raw, &l.Running) != nil {
		return none, m.bad("running", "true or false")
	}
	if m.has("rate_per_hour") {
		if l.Rate, f = m.money("rate_per_hour"); f != nil {
			return none, f
		}
	}
	if l.Bill, f = m.money("bill"); f != nil {
		return none, f
	}
	if l.Epoch, f = m.text("epoch", 1, 128, false); f != nil {
		return none, f
	}
	if m.has("created") {
		if l.Created, f = m.instant("created"); f != nil {
			return none, f
		}
	}
	return l, nil
}

// strictObject is a JSON object by its members' exact names, each once and none null.
type strictObject struct {
	what    string // in errors
	members map[string]json.RawMessage
}

// members reads one object; body is valid JSON.
func members(body []byte, what string, known ...string) (strictObject, *api.Failure) {
	o := strictObject{what: what, members: make(map[string]json.RawMessage)}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return o, api.Fail(api.Malformed, "%s is not an object", what)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return o, api.Fail(api.Malformed, "%s cannot be read", what)
		}
		key, ok := name.(string)
		if !ok || !slices.Contains(known, key) {
			return o, api.Fail(api.Malformed, "%s has a field that is not known%s", what, quoted(key))
		}
		if o.has(key) {
			return o, api.Fail(api.Malformed, "%s has %s twice", what, key)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return o, api.Fail(api.Malformed, "%s cannot be read", what)
		}
		if string(raw) == "null" {
			return o, api.Fail(api.Incomplete, "%s of %s is null: leave out what is not known", key, what)
		}
		o.members[key] = raw
	}
	return o, nil
}

// quoted names a field where it has the form of one: what was printed may be
// anything, and errors are kept.
func quoted(name string) string {
	if name == "" || len(name) > 32 || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return ": " + name
}

func (o strictObject) has(name string) bool {
	_, ok := o.members[name]
	return ok
}

func (o strictObject) get(name string) (json.RawMessage, *api.Failure) {
	raw, ok := o.members[name]
	if !ok {
		return nil, api.Fail(api.Incomplete, "%s has no %s", o.what, name)
	}
	return raw, nil
}

func (o strictObject) bad(name, want string) *api.Failure {
	return api.Fail(api.Malformed, "%s of %s is not %s", name, o.what, want)
}

// text is a string of printable ASCII.
func (o strictObject) text(name string, least, most int, spaces bool) (string, *api.Failure) {
	raw, f := o.get(name)
	if f != nil {
		return "", f
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", o.bad(name, "a string")
	}
	if len(s) < least || len(s) > most || strings.ContainsFunc(s, func(r rune) bool { return r > '~' || r < ' ' || r == ' ' && !spaces }) {
		return "", o.bad(name, "a printable word of the allowed length")
	}
	return s, nil
}

func (o strictObject) oneOf(name string, words ...string) (string, *api.Failure) {
	s, f := o.text(name, 0, 64, true)
	if f == nil && !slices.Contains(words, s) {
		f = o.bad(name, "one of "+strings.Join(words, ", "))
	}
	return s, f
}

// integer takes 60.0 for 60, as a schema does.
func (o strictObject) integer(name string, least, most int64) (int64, *api.Failure) {
	const one = 1_000_000_000
	raw, f := o.get(name)
	if f != nil {
		return 0, f
	}
	n, err := ledger.ParseNanos(string(raw))
	if err != nil || n%one != 0 || int64(n)/one < least || int64(n)/one > most {
		return 0, api.Fail(api.Malformed, "%s of %s is not a whole number from %d to %d", name, o.what, least, most)
	}
	return int64(n) / one, nil
}

// money is a JSON number, or the text of one, without a sign.
func (o strictObject) money(name string) (*ledger.Nanos, *api.Failure) {
	raw, f := o.get(name)
	if f != nil {
		return nil, f
	}
	text := string(raw)
	if raw[0] == '"' && json.Unmarshal(raw, &text) != nil {
		return nil, o.bad(name, "an amount")
	}
	digit := func(b byte) bool { return '0' <= b && b <= '9' }
	if text == "" || !digit(text[0]) || !digit(text[len(text)-1]) || !json.Valid([]byte(text)) {
		return nil, o.bad(name, "an amount")
	}
	n, err := ledger.ParseNanos(text)
	if err != nil || n >= maxAmount {
		return nil, o.bad(name, "an amount within range")
	}
	return &n, nil
}

func (o strictObject) instant(name string) (time.Time, *api.Failure) {
	s, f := o.text(name, 1, 64, false)
	if f != nil {
		return time.Time{}, f
	}
	var t time.Time
	if err := t.UnmarshalText([]byte(s)); err != nil || t.Unix() < 0 || strings.Contains(s, ",") {
		return time.Time{}, o.bad(name, "an RFC 3339 time")
	}
	return t.UTC(), nil
}
