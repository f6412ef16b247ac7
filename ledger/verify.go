package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	sqlite3 "modernc.org/sqlite/lib"
)

// MaxProblems bounds what Verify names: a broken file breaks in many places.
const MaxProblems = 100

// Verification is what Verify found.
type Verification struct {
	Problems []string         // what does not fit; none is a ledger that is as it was written
	Chain    Chain            // the newest link
	Rows     map[string]int64 // read of each chained table
}

// Verify reads everything and says what does not fit: the schema, SQLite's own check of
// the file, each row against the chain, and each rollup against the rows that it sums.
// noted are heads of the chain from before, or at least 16 digits of each. err is
// for a ledger that cannot be read at all.
func (r *Reader) Verify(ctx context.Context, noted ...string) (Verification, error) {
	return r.verify(ctx, lookAhead, noted)
}

func (r *Reader) verify(ctx context.Context, ahead int, noted []string) (Verification, error) {
	for _, h := range noted {
		if err := CheckHead(h); err != nil {
			return Verification{}, err
		}
	}
	v := verifier{ahead: ahead, rows: map[string]int64{}}
	head, headed, err := r.notedHead() // before the snapshot: a writer may go on
	if err != nil {
		return Verification{}, err
	}
	err = r.snapshot(ctx, func(tx *sql.Tx) error {
		v.tx = tx
		chain := func() error { return v.chain(noted) }
		loss := func() error {
			if !headed {
				return nil
			}
			return v.headLoss(head)
		}
		if err := v.schema(); err != nil && !errors.Is(err, errEnough) {
			return err
		}
		strange := len(v.problems) > 0 // then it is no wonder if some question cannot be asked
		for _, check := range []func() error{v.integrity, loss, chain, v.requests, v.busy, v.bills, v.replies, v.currency} {
			err := check()
			switch {
			case err == nil, errors.Is(err, errEnough):
			case ctx.Err() == nil && (strange || isCorrupt(err)): // the other checks may say more
				_ = v.problem("not everything could be read: %v", err)
			default:
				return err
			}
		}
		return nil
	})
	return Verification{Problems: v.problems, Chain: v.tip, Rows: v.rows}, err
}

// CheckHead says whether text may be a head, or enough of one.
func CheckHead(text string) error {
	if len(text) < shortHead || len(text) > 2*len(Head{}) || strings.Trim(text, "0123456789abcdef") != "" {
		return fmt.Errorf("head %q: want %d to %d hexadecimal digits, in lower case", text, shortHead, 2*len(Head{}))
	}
	return nil
}

// errEnough ends a check that has found more than anybody reads.
var errEnough = errors.New("enough problems")

type verifier struct {
	tx       *sql.Tx
	ahead    int // rows of a table that are held while the chain comes to them
	problems []string
	tip      Chain
	rows     map[string]int64
}

func (v *verifier) problem(format string, args ...any) error {
	if len(v.problems) >= MaxProblems {
		return errEnough
	}
	v.problems = append(v.problems, strings.Map(printable, fmt.Sprintf(format, args...)))
	return nil
}

// isCorrupt tells a file that SQLite finds broken from one that cannot be read now.
func isCorrupt(err error) bool {
	return isSQLite(err, sqlite3.SQLITE_CORRUPT)
}

// printable keeps what a file that was changed by hand says to a terminal to letters.
func printable(r rune) rune {
	switch {
	case r == '\n': // SQLite's own words have some
		return ' '
	case unicode.IsPrint(r):
		return r
	}
	return unicode.ReplacementChar
}

// each runs query and calls row for each of its rows, given as text.
func (v *verifier) each(query string, row func(text string) error, args ...any) error {
	rows, err := v.tx.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return err
		}
		if err := row(text); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (v *verifier) integrity() error {
	err := v.each("PRAGMA integrity_check(100)", func(text string) error {
		if text == "ok" {
			return nil
		}
		return v.problem("file: %s", text)
	})
	if err != nil {
		return err
	}
	return v.each(`SELECT format('row %d of %s has no parent in %s', rowid, "table", parent) FROM pragma_foreign_key_check LIMIT 100`,
		func(text string) error { return v.problem("file: %s", text) })
}

// requests compares both rollups of the requests with a sum of the rows: what is
// on one side only, or differs, is in the symmetric difference.
func (v *verifier) requests() error {
	const rows = `sum(status = 'ok'), sum(status = 'aborted'), sum(status = 'failed'), sum(status = 'lost'), sum(lower_bound),
		sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens) FROM request GROUP BY `
	const kept = "ok, aborted, failed, lost, lower_bound, prompt_tokens, cached_tokens, completion_tokens"
	for _, c := range []struct{ table, keys, name, of string }{
		{"minute", "minute", "strftime('%Y-%m-%dT%H:%MZ', minute * 60, 'unixepoch')", "finished / 60000000 - (finished % 60000000 < 0)"},
		{"hour", "hour, model, key", "strftime('%Y-%m-%dT%HZ', hour * 3600, 'unixepoch') || format(' of model %Q, key %Q', model, key)",
			"finished / 3600000000 - (finished % 3600000000 < 0), model, key"},
	} {
		keys, rowKeys := c.keys, "1"
		if c.table == "hour" {
			rowKeys = "1, 2, 3"
		}
		query := fmt.Sprintf(`WITH summed (%[1]s, %[2]s) AS (SELECT %[3]s, %[4]s%[5]s),
			wrong AS (SELECT * FROM (SELECT %[1]s, %[2]s FROM summed EXCEPT SELECT %[1]s, %[2]s FROM %[6]s)
				UNION SELECT * FROM (SELECT %[1]s, %[2]s FROM %[6]s EXCEPT SELECT %[1]s, %[2]s FROM summed))
			SELECT DISTINCT %[7]s FROM wrong`, keys, kept, c.of, rows, rowKeys, c.table, c.name)
		if err := v.each(query, func(text string) error { return v.problem("%s %s does not sum its requests", c.table, text) }); err != nil {
			return err
		}
	}
	return nil
}

// busy reads the requests and the rows of their union, both from the newest back.
// After the first difference the two do not meet again.
func (v *verifier) busy() error {
	rows, err := v.tx.Query(selectBusy + " ORDER BY start DESC")
	if err != nil {
		return err
	}
	defer rows.Close()
	problem := func(at int64) error {
		return errors.Join(v.problem("busy time of %s: it is not what its requests make", fromMicros(at).Format(time.RFC3339Nano)), errEnough)
	}
	var row busyRow // without the spans that have been seen
	var after *busyRow
	kept := func() (s span, ok bool, err error) {
		if len(row.spans) == 0 {
			if !rows.Next() {
				return s, false, rows.Err()
			}
			if row, err = scanBusy(rows); err != nil {
				return s, false, errors.Join(v.problem("%v", err), errEnough)
			}
			if after != nil && row.total() != after.before {
				return s, false, problem(after.start())
			}
			whole := row
			after = &whole
		}
		s = row.spans[len(row.spans)-1]
		row.spans = row.spans[:len(row.spans)-1]
		return s, true, nil
	}
	err = eachBusy(v.tx, func(want span) error {
		got, ok, err := kept()
		if err == nil && (!ok || got != want) {
			err = problem(want.from)
		}
		return err
	})
	if err != nil {
		return err
	}
	switch got, ok, err := kept(); {
	case err != nil:
		return err
	case ok:
		return problem(got.from)
	case after != nil && after.before != 0:
		return problem(after.start())
	}
	return nil
}

// bills replays the samples and compares what that yields with what is kept.
func (v *verifier) bills() error {
	all, err := loadSeries(v.tx)
	if err != nil {
		return err
	}
	var hours, lines, gaps, firsts int64
	err = replay(v.tx, rollups{
		hour: func(want sampleHour, want2 []seriesHour) error {
			hours++
			got, err := scanSampleHour(v.tx.QueryRow(selectSampleHour+" WHERE hour = ?", want.hour))
			if err := v.same(got, want, err, "hour of samples %s", hourName(want.hour)); err != nil {
				return err
			}
			for _, want := range want2 {
				lines++
				got, err := scanSeriesHour(v.tx.QueryRow(selectSeriesHour+" WHERE hour = ? AND series = ?", want.hour, want.series))
				if err := v.same(got, want, err, "hour %s of the bill of %s", hourName(want.hour), all.byID[want.series].resource); err != nil {
					return err
				}
			}
			return nil
		},
		gap: func(sample, from, to int64) error {
			gaps++
			var got [2]int64
			err := v.tx.QueryRow("SELECT from_at, to_at FROM gap WHERE sample = ?", sample).Scan(&got[0], &got[1])
			return v.same(got, [2]int64{from, to}, err, "gap before sample %d", sample)
		},
		first: func(series int64, want firstBill) error {
			firsts++
			s := all.byID[series]
			return v.same(firstBill{s.first, s.created, s.rolled}, want, nil, "first bill of %s, epoch %s", s.resource, s.epoch)
		},
	})
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what, query string
		want        int64
	}{
		{"hours of samples", "SELECT count(*) FROM sample_hour", hours},
		{"hours of bills", "SELECT count(*) FROM bill_hour", lines},
		{"gaps", "SELECT count(*) FROM gap", gaps},
		{"bills that have begun", "SELECT count(first) FROM series", firsts},
	} {
		var got int64
		if err := v.tx.QueryRow(c.query).Scan(&got); err != nil {
			return err
		}
		if got != c.want {
			if err := v.problem("%s: %d are kept, the samples make %d", c.what, got, c.want); err != nil {
				return err
			}
		}
	}
	return nil
}

func hourName(hour int64) string { return fromMicros(hour * hourMicros).Format("2006-01-02T15Z") }

// same compares a row that is kept with what it should be; readErr is the error
// of reading it.
func (v *verifier) same(got, want any, readErr error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	switch {
	case errors.Is(readErr, sql.ErrNoRows):
		return v.problem("%s: is missing", what)
	case readErr != nil:
		return readErr
	case got != want:
		return v.problem("%s: does not sum its samples", what)
	}
	return nil
}

// currency compares the ledger's one currency with that of its samples.
func (v *verifier) currency() error {
	return v.each(`SELECT DISTINCT currency FROM source WHERE currency IS NOT (SELECT value FROM meta WHERE key = 'currency')`,
		func(text string) error {
			return v.problem("currency: the ledger's own is not %s, that of its samples", text)
		})
}

// replies decodes every reply.
func (v *verifier) replies() error {
	rows, err := v.tx.Query("SELECT id FROM raw ORDER BY id")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if _, err := readRaw(txScanner{v.tx}, id); err != nil {
			if err := v.problem("%v", err); err != nil {
				return err
			}
		}
	}
	return rows.Err()
}
