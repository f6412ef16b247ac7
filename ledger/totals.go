package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Totals is a sum over requests.
type Totals struct {
	OK, Aborted, Failed, Lost int64
	LowerBound                int64 // how many of them are known only from below
	Usage                     Usage
}

// Requests is the number of requests, however they ended.
func (t Totals) Requests() int64 { return t.OK + t.Aborted + t.Failed + t.Lost }

func (t *Totals) add(r Request) {
	switch r.Status {
	case OK:
		t.OK++
	case Aborted:
		t.Aborted++
	case Failed:
		t.Failed++
	case Lost:
		t.Lost++
	}
	if r.LowerBound {
		t.LowerBound++
	}
	t.Usage.PromptTokens += r.Usage.PromptTokens
	t.Usage.CachedTokens += r.Usage.CachedTokens
	t.Usage.CompletionTokens += r.Usage.CompletionTokens
}

// plus adds sign times o.
func (t *Totals) plus(sign int64, o Totals) {
	t.OK += sign * o.OK
	t.Aborted += sign * o.Aborted
	t.Failed += sign * o.Failed
	t.Lost += sign * o.Lost
	t.LowerBound += sign * o.LowerBound
	t.Usage.PromptTokens += sign * o.Usage.PromptTokens
	t.Usage.CachedTokens += sign * o.Usage.CachedTokens
	t.Usage.CompletionTokens += sign * o.Usage.CompletionTokens
}

const minuteMicros = int64(time.Minute / time.Microsecond)

// floorMinute is the minute of us since 1970, rounding down also before it.
func floorMinute(us int64) int64 { return floorDiv(us, minuteMicros) }

// hourKey is one row of hour.
type hourKey struct {
	hour       int64
	model, key string
}

// Totals sums the requests that finished in (from, to]. Whole hours and minutes
// come from the rollups, the window's edges from the rows.
func (r *Reader) Totals(from, to time.Time) (Totals, error) {
	all, err := r.TotalsOf([]Window{{from, to}})
	if err != nil {
		return Totals{}, err
	}
	return all[0], nil
}

// TotalsOf is Totals of each window, at one state of the ledger and for little
// more than the price of one where they follow on each other.
func (r *Reader) TotalsOf(windows []Window) ([]Totals, error) {
	all := make([]Totals, len(windows))
	err := r.snapshot(context.Background(), func(tx *sql.Tx) error {
		s := sums{edges: map[int64]edge{}}
		err := s.load(tx, windows)
		if err != nil {
			return err
		}
		if s.minutes, err = tx.Prepare("SELECT 0, " + sumColumns + " FROM minute WHERE minute >= ? AND minute < ?"); err != nil {
			return err
		}
		if s.rows, err = tx.Prepare("SELECT 0, " + sumRowColumns + " FROM request WHERE finished >= ? AND finished < ?"); err != nil {
			return err
		}
		for i, w := range windows {
			if all[i], err = s.between(micros(w.From)+1, micros(w.To)+1); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// sums answers sums over spans of time, [from, to), which need not lie on any
// grid: the whole hours between the hours nearest to both ends, and at each end
// what lies between it and its hour.
type sums struct {
	first int64    // the hour of hours[0]
	hours []Totals // running sums: hours[i] is all before hour first+i
	edges map[int64]edge

	minutes, rows *sql.Stmt // sums of minutes and of requests, of the transaction
}

// edge is an instant as its nearest hour, plus what lies between (negative where
// the hour comes after).
type edge struct {
	hour int64
	rest Totals
}

func nearest(us, unit int64) int64 { return floorDiv(us+unit/2, unit) }

// load reads the hours that the windows touch.
func (s *sums) load(tx *sql.Tx, windows []Window) error {
	var low, high sql.NullInt64
	// One query each: together they would be a scan of all hours.
	err := tx.QueryRow("SELECT (SELECT min(hour) FROM hour), (SELECT max(hour) FROM hour)").Scan(&low, &high)
	if err != nil || !low.Valid || len(windows) == 0 {
		return err
	}
	from, to := micros(windows[0].From)+1, micros(windows[0].To)+1
	for _, w := range windows {
		from, to = min(from, micros(w.From)+1), max(to, micros(w.To)+1)
	}
	s.first = max(low.Int64, nearest(from, hourMicros))
	end := min(high.Int64+1, nearest(to, hourMicros))
	if s.first >= end {
		return nil
	}
	s.hours = make([]Totals, end-s.first+1)
	rows, err := tx.Query("SELECT hour, "+sumColumns+" FROM hour WHERE hour >= ? AND hour < ? GROUP BY hour", s.first, end)
	err = eachTotal(rows, err, func(hour int64, t Totals) { s.hours[hour-s.first+1] = t })
	for i := 1; i < len(s.hours); i++ {
		s.hours[i].plus(1, s.hours[i-1])
	}
	return err
}

// before is the sum of the hours that were loaded before hour.
func (s *sums) before(hour int64) Totals {
	if len(s.hours) == 0 {
		return Totals{}
	}
	return s.hours[min(max(hour-s.first, 0), int64(len(s.hours)-1))]
}

func (s *sums) between(from, to int64) (t Totals, err error) {
	if to <= from {
		return t, nil
	}
	a, err := s.edge(from)
	if err != nil {
		return t, err
	}
	b, err := s.edge(to)
	if err != nil {
		return t, err
	}
	t.plus(1, s.before(b.hour))
	t.plus(-1, s.before(a.hour))
	t.plus(1, b.rest)
	t.plus(-1, a.rest)
	return t, nil
}

func (s *sums) edge(us int64) (e edge, err error) {
	if e, ok := s.edges[us]; ok {
		return e, nil
	}
	e.hour = nearest(us, hourMicros)
	minute := nearest(us, minuteMicros)
	const perHour = hourMicros / minuteMicros
	err = signed(s.minutes, &e.rest, e.hour*perHour, minute)
	if err == nil {
		err = signed(s.rows, &e.rest, minute*minuteMicros, us)
	}
	s.edges[us] = e
	return e, err
}

// signed adds what query sums in [from, to), or takes away what it does in [to, from).
func signed(query *sql.Stmt, sum *Totals, from, to int64) error {
	sign := int64(1)
	if from == to {
		return nil
	}
	if from > to {
		from, to, sign = to, from, -1
	}
	rows, err := query.Query(from, to)
	return eachTotal(rows, err, func(_ int64, t Totals) { sum.plus(sign, t) })
}

const (
	sumColumns = `coalesce(sum(ok), 0), coalesce(sum(aborted), 0), coalesce(sum(failed), 0), coalesce(sum(lost), 0),
		coalesce(sum(lower_bound), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(completion_tokens), 0)`
	sumRowColumns = `coalesce(sum(status = 'ok'), 0), coalesce(sum(status = 'aborted'), 0), coalesce(sum(status = 'failed'), 0),
		coalesce(sum(status = 'lost'), 0), coalesce(sum(lower_bound), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0),
		coalesce(sum(completion_tokens), 0)`
)

// eachTotal calls row for each of rows: a name and its sums. err is the query's.
func eachTotal[Name int64 | string](rows *sql.Rows, err error, row func(Name, Totals)) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name Name
		var t Totals
		if err := rows.Scan(&name, &t.OK, &t.Aborted, &t.Failed, &t.Lost, &t.LowerBound,
			&t.Usage.PromptTokens, &t.Usage.CachedTokens, &t.Usage.CompletionTokens); err != nil {
			return err
		}
		row(name, t)
	}
	return rows.Err()
}

// TotalsBy is Totals for each model, or for each name of an API key: by is
// "model" or "key". "" stands for the requests that have none.
func (r *Reader) TotalsBy(from, to time.Time, by string) (map[string]Totals, error) {
	if by != "model" && by != "key" {
		return nil, fmt.Errorf("totals by %q: not model or key", by)
	}
	all := map[string]Totals{}
	lo, hi := micros(from)+1, micros(to)+1
	if hi <= lo {
		return all, nil
	}
	err := r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows := func(sign, from, to int64) error {
			rows, err := tx.Query("SELECT "+by+", "+sumRowColumns+" FROM request WHERE finished >= ? AND finished < ? GROUP BY 1", from, to)
			return eachTotal(rows, err, adder(all, sign))
		}
		first, end := -floorDiv(-lo, hourMicros), floorDiv(hi, hourMicros)
		if lo-1 == (first-1)*hourMicros {
			// The window begins on the hour: all of it less the one instant.
			first--
			if err := rows(-1, lo-1, lo); err != nil {
				return err
			}
			lo = lo - 1
		}
		if first >= end {
			return rows(1, lo, hi)
		}
		if err := rows(1, lo, first*hourMicros); err != nil {
			return err
		}
		hours, err := tx.Query("SELECT "+by+", "+sumColumns+" FROM hour WHERE hour >= ? AND hour < ? GROUP BY 1", first, end)
		if err := eachTotal(hours, err, adder(all, 1)); err != nil {
			return err
		}
		return rows(1, end*hourMicros, hi)
	})
	for name, t := range all {
		if t.Requests() == 0 {
			delete(all, name) // it was taken in with its hour, and out again
		}
	}
	return all, err
}

func adder(all map[string]Totals, sign int64) func(string, Totals) {
	return func(name string, o Totals) {
		t := all[name]
		t.plus(sign, o)
		all[name] = t
	}
}
