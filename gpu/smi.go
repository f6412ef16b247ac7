package gpu

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// smiField is one column of nvidia-smi --query-gpu, by the names that
// nvidia-smi --help-query-gpu documents.
type smiField struct {
	name     string
	required bool // a card without it cannot be told from another
	read     func(value string, msg *Message, r *Reading) error
}

// smiFields are the columns in the order that they are asked for. nvidia-smi has no
// energy counter and no memory by process in this query.
func smiFields() []smiField {
	number := func(unit int64, at func(*Reading) **int64) func(string, *Message, *Reading) error {
		return func(value string, _ *Message, r *Reading) error {
			n, err := scaled(value, unit)
			*at(r) = &n
			return err
		}
	}
	const mebi, milli = 1 << 20, 1000
	return []smiField{
		{"count", true, nil}, // of cards, by which a round's end is known; see decoder
		{"index", true, func(v string, _ *Message, r *Reading) (err error) { r.Index, err = strconv.Atoi(v); return err }},
		{"uuid", true, func(v string, _ *Message, r *Reading) error { r.UUID = v; return nil }},
		{"name", false, func(v string, _ *Message, r *Reading) error { r.Name = v; return nil }},
		{"driver_version", false, func(v string, m *Message, _ *Reading) error { m.Driver = v; return nil }},
		{"utilization.gpu", false, number(1, func(r *Reading) **int64 { return &r.Utilisation })},
		{"memory.used", false, number(mebi, func(r *Reading) **int64 { return &r.MemoryUsed })},
		{"memory.total", false, number(mebi, func(r *Reading) **int64 { return &r.MemoryTotal })},
		{"power.draw", false, number(milli, func(r *Reading) **int64 { return &r.Power })},
		{"enforced.power.limit", false, number(milli, func(r *Reading) **int64 { return &r.PowerLimit })},
		{"temperature.gpu", false, number(1, func(r *Reading) **int64 { return &r.Temperature })},
		{"clocks.sm", false, number(1, func(r *Reading) **int64 { return &r.SMClock })},
		{"clocks.mem", false, number(1, func(r *Reading) **int64 { return &r.MemoryClock })},
		{"clocks_event_reasons.active", false, readReasons},
		{"clocks_throttle_reasons.active", false, readReasons}, // its name before driver 535
		{"ecc.errors.corrected.volatile.total", false, number(1, func(r *Reading) **int64 { return &r.ECCCorrected })},
		{"ecc.errors.uncorrected.volatile.total", false, number(1, func(r *Reading) **int64 { return &r.ECCUncorrected })},
	}
}

func readReasons(v string, _ *Message, r *Reading) error {
	bits, err := strconv.ParseUint(v, 0, 64)
	r.EventReasons = &bits
	return err
}

// scaled reads a decimal number in units of 1/unit. By exact arithmetic: watts come
// with decimals.
func scaled(s string, unit int64) (int64, error) {
	if !decimalNumber.MatchString(s) {
		return 0, errors.New("not a number")
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, errors.New("not a number")
	}
	r.Mul(r, new(big.Rat).SetInt64(unit))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() {
		return 0, errors.New("too large")
	}
	return n.Int64(), nil
}

var decimalNumber = regexp.MustCompile(`^-?[0-9]{1,18}(\.[0-9]{1,18})?$`)

// smiQuery asks for the columns that this machine's nvidia-smi knows: one that it
// doesn't know makes it refuse them all.
type smiQuery struct {
	fields []smiField
}

func (q *smiQuery) args() []string {
	var names []string
	for _, f := range q.fields {
		names = append(names, f.name)
	}
	return []string{"--query-gpu=" + strings.Join(names, ","), "--format=csv,noheader,nounits", "--loop=1"}
}

var unknownField = regexp.MustCompile(`^Field "([^"]*)" is not a valid field to query\.?$`)

// decoder gathers one line a card into a message a round.
func (q *smiQuery) decoder() func([]byte) (Message, bool, error) {
	var round Message
	return func(line []byte) (Message, bool, error) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			return Message{}, false, nil
		}
		if found := unknownField.FindSubmatch(line); found != nil {
			return Message{}, false, q.forget(string(found[1]))
		}
		r, count, driver, err := q.card(line)
		if err != nil {
			return Message{}, false, fmt.Errorf("line %s: %w", excerpt(line), err)
		}
		var done Message
		if n := len(round.Cards); n > 0 && r.Index <= round.Cards[n-1].Index {
			done, round = round, Message{} // a card is missing from the last round
		}
		round.Driver, round.Cards = driver, append(round.Cards, r)
		if len(done.Cards) == 0 && int64(len(round.Cards)) >= count {
			done, round = round, Message{}
		}
		if len(done.Cards) == 0 {
			return Message{}, false, nil
		}
		if err := check(done.Cards); err != nil {
			return Message{}, false, err
		}
		return done, true, nil
	}
}

// forget leaves a column out from the next start on.
func (q *smiQuery) forget(name string) error {
	i := slices.IndexFunc(q.fields, func(f smiField) bool { return f.name == name })
	if i < 0 || q.fields[i].required {
		return fmt.Errorf("it does not know the field %q", name)
	}
	q.fields = slices.Delete(q.fields, i, i+1)
	return fmt.Errorf("%w: %q", errAskAgain, name)
}

// errAskAgain ends a run whose query was changed.
var errAskAgain = errors.New("it does not know a field, which is left out from now on")

// card reads one line.
func (q *smiQuery) card(line []byte) (r Reading, count int64, driver string, err error) {
	values := strings.Split(string(line), ",")
	if len(values) != len(q.fields) {
		return r, 0, "", fmt.Errorf("%d fields, not %d", len(values), len(q.fields))
	}
	var msg Message
	for i, f := range q.fields {
		v := strings.TrimSpace(values[i])
		switch {
		case notKnown(v):
			if f.required {
				return r, 0, "", fmt.Errorf("%s is %q", f.name, v)
			}
			continue
		case f.name == "count":
			if count, err = scaled(v, 1); err == nil && count < 1 {
				err = errors.New("no card")
			}
		default:
			err = f.read(v, &msg, &r)
		}
		if err != nil {
			return r, 0, "", fmt.Errorf("%s %q: %w", f.name, v, err)
		}
	}
	return r, count, msg.Driver, nil
}

// notKnown is a value in place of which nvidia-smi says why there is none:
// [N/A], [Not Supported], [Unknown Error], [GPU is lost].
func notKnown(v string) bool {
	return v == "N/A" || strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]")
}
