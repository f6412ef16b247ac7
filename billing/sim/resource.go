package sim

import (
	"fmt"
	"strings"
	"time"
)

// resource is one thing that costs money, with its whole history. All times are
// Unix seconds: a second costs what its span says, once it is over.
type resource struct {
	kind    string
	id      int64
	spans   []span // in order; the last has no end
	refunds []refund

	deleted  bool // it is in no listing of what there is
	detached bool // it is a volume, and not the machine's
}

type span struct {
	from   int64
	status string
	rate   int64 // nano-USD a second
}

type refund struct {
	at    int64 // part of every bill that ends at or after it
	nanos int64
}

func newResource(kind string, id int64, born time.Time, perHour int64) (*resource, error) {
	if id <= 0 || perHour < 0 || perHour%3600 != 0 {
		return nil, fmt.Errorf("sim: %s %d at %d nano-USD an hour: not a whole number a second", kind, id, perHour)
	}
	return &resource{kind: kind, id: id, spans: []span{{from: born.Unix(), status: "ACTIVE", rate: perHour / 3600}}}, nil
}

func (r *resource) key() string { return fmt.Sprintf("%s-%d", r.kind, r.id) }

func (r *resource) last() span { return r.spans[len(r.spans)-1] }

// change begins a new span. History is never rewritten.
func (r *resource) change(from int64, status string, rate int64) {
	if l := &r.spans[len(r.spans)-1]; l.from >= from {
		l.status, l.rate = status, rate
		return
	}
	r.spans = append(r.spans, span{from: from, status: status, rate: rate})
}

// each calls f with every span's part of [from, to).
func (r *resource) each(from, to int64, f func(s span, seconds int64)) {
	for i, s := range r.spans {
		end := to
		if i+1 < len(r.spans) {
			end = min(to, r.spans[i+1].from)
		}
		if n := end - max(from, s.from); n > 0 {
			f(s, n)
		}
	}
}

// billed is what [from, to) cost, in nano-USD.
func (r *resource) billed(from, to int64) int64 {
	var nanos int64
	r.each(from, to, func(s span, seconds int64) { nanos += s.rate * seconds })
	return nanos - r.refunded(from, to)
}

func (r *resource) refunded(from, to int64) int64 {
	var nanos int64
	for _, f := range r.refunds {
		if from < f.at && f.at <= to {
			nanos += f.nanos
		}
	}
	return nanos
}

func (r *resource) seconds(from, to int64, status string) int64 {
	var total int64
	r.each(from, to, func(s span, seconds int64) {
		if status == "" || s.status == status {
			total += seconds
		}
	})
	return total
}

// decimal writes nano-units with all their digits.
func decimal(nanos int64) string {
	sign := ""
	if nanos < 0 {
		sign, nanos = "-", -nanos
	}
	s := fmt.Sprintf("%s%d.%09d", sign, nanos/1_000_000_000, nanos%1_000_000_000)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
