package ledger

import (
	"database/sql"
	"fmt"
	"maps"
	"slices"
)

// rollups is who takes what a replay of the samples yields, hour by hour.
type rollups struct {
	hour  func(sampleHour, []seriesHour) error // the series in order
	gap   func(sample, from, to int64) error
	first func(series int64, f firstBill) error
}

// firstBill is what a series notes of its first line with a bill.
type firstBill struct {
	known
	created sql.NullInt64
	rolled  bool
}

// replay reads the samples of a table or view, counted or, where that is not there yet,
// all, and yields what the rollups of the bill should hold.
func replay(tx querier, samples string, to rollups) error {
	sources, err := loadSources(tx)
	if err != nil {
		return err
	}
	all, err := loadSeries(tx, samples == "counted")
	if err != nil {
		return err
	}
	rows, err := tx.Query(`SELECT sample.id, at, source, series, bill, created FROM ` + samples + ` AS sample
		LEFT JOIN reading ON reading.sample = sample.id LEFT JOIN state ON state.id = reading.state ORDER BY at`)
	if err != nil {
		return err
	}
	defer rows.Close()
	last := map[int64]known{} // by series
	var hour sampleHour
	lines := map[int64]*seriesHour{}
	flush := func() error {
		if hour.samples == 0 {
			return nil
		}
		var hours []seriesHour
		for _, s := range slices.Sorted(maps.Keys(lines)) {
			hours = append(hours, *lines[s])
		}
		clear(lines)
		return to.hour(hour, hours)
	}
	var prev known
	for rows.Next() {
		var id, at, source int64
		var series, bill, created sql.NullInt64
		if err := rows.Scan(&id, &at, &source, &series, &bill, &created); err != nil {
			return err
		}
		if id != prev.id {
			if h := billHour(at); h != hour.hour || hour.samples == 0 {
				if err := flush(); err != nil {
					return err
				}
				hour = sampleHour{hour: h}
			}
			src := sources[source]
			hour.add(id, at, source, src)
			if prev.id != 0 && src.late(prev.at, at) {
				if err := to.gap(id, prev.at, at); err != nil {
					return err
				}
			}
			prev = known{id: id, at: at}
		}
		if !series.Valid {
			continue
		}
		s := series.Int64
		if lines[s] == nil {
			lines[s] = &seriesHour{hour: hour.hour, series: s}
		}
		if err := lines[s].add(id, at, last[s], bill); err != nil {
			return fmt.Errorf("bill of %s in sample %d: %w", all.byID[s].resource, id, err)
		}
		if !bill.Valid {
			continue
		}
		now := known{id, at, Nanos(bill.Int64)}
		if last[s].id == 0 {
			if err := to.first(s, firstBill{now, created, all.rolled(s, id)}); err != nil {
				return err
			}
		}
		last[s] = now
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return flush()
}

// fillRollups makes the rollups of the bill from the samples, for a ledger that
// had none.
func fillRollups(tx *sql.Tx) error {
	return replay(tx, "sample", writeRollups(func(query string, args ...any) error { _, err := tx.Exec(query, args...); return err }))
}

// writeRollups writes what a replay yields.
func writeRollups(exec func(query string, args ...any) error) rollups {
	return rollups{
		hour: func(s sampleHour, hours []seriesHour) error {
			for _, h := range hours {
				if err := exec(insertSeriesHour, h.args()...); err != nil {
					return err
				}
			}
			return exec(insertSampleHour, s.args()...)
		},
		gap: func(sample, from, to int64) error { return exec("INSERT INTO gap VALUES (?, ?, ?)", sample, from, to) },
		first: func(series int64, f firstBill) error {
			return exec("UPDATE series SET first = ?, first_at = ?, base = ?, created = ?, rolled = ? WHERE id = ?",
				f.id, f.at, int64(f.bill), f.created, f.rolled, series)
		},
	}
}

func loadSources(tx querier) (map[int64]sourceRow, error) {
	rows, err := tx.Query("SELECT id, provider, currency, truth, calibrated, every FROM source")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[int64]sourceRow{}
	for rows.Next() {
		var id int64
		var s sourceRow
		if err := rows.Scan(&id, &s.provider, &s.currency, &s.truth, &s.calibrated, &s.every); err != nil {
			return nil, err
		}
		all[id] = s
	}
	return all, rows.Err()
}

// seriesRow is a row of series, with the sample of its last line.
type seriesRow struct {
	id              int64
	resource, epoch string
	provider        string
	kind            Kind
	seen, last      int64
	rolled          bool
	first           known // its bill is the base
	created         sql.NullInt64
	sameResource    *[]*seriesRow // all series of the resource, this one among them; what comes later too
}

// seriesTable is all of series: a row a resource and epoch.
type seriesTable struct {
	byID      map[int64]*seriesRow
	resources []*[]*seriesRow
}

// loadSeries reads them. voids: a series is seen first in a sample that counts, and is not
// there where none does; without it, as from before there were void samples.
func loadSeries(tx querier, voids bool) (all seriesTable, err error) {
	seen := "seen"
	if voids {
		seen = `CASE WHEN seen IN (SELECT sample FROM sample_void) THEN (SELECT min(reading.sample) FROM reading JOIN state ON state.id = reading.state
			WHERE state.series = series.id AND reading.sample > series.seen AND reading.sample NOT IN (SELECT sample FROM sample_void)) ELSE seen END`
	}
	rows, err := tx.Query(`SELECT id, resource, epoch, provider, kind, ` + seen + `, rolled, first, first_at, base, created,
		(SELECT seen FROM bill_hour WHERE bill_hour.series = series.id ORDER BY hour DESC LIMIT 1) FROM series ORDER BY id`)
	if err != nil {
		return all, err
	}
	defer rows.Close()
	all.byID = map[int64]*seriesRow{}
	type resource struct{ provider, resource string }
	groups := map[resource]*[]*seriesRow{}
	for rows.Next() {
		s := &seriesRow{}
		var seen, first, at, base, last sql.NullInt64
		if err := rows.Scan(&s.id, &s.resource, &s.epoch, &s.provider, &s.kind, &seen, &s.rolled, &first, &at, &base, &s.created, &last); err != nil {
			return all, err
		}
		if !seen.Valid {
			continue
		}
		s.seen = seen.Int64
		s.first, s.last = known{first.Int64, at.Int64, Nanos(base.Int64)}, last.Int64
		k := resource{s.provider, s.resource}
		if groups[k] == nil {
			groups[k] = &[]*seriesRow{}
			all.resources = append(all.resources, groups[k])
		}
		*groups[k] = append(*groups[k], s)
		s.sameResource = groups[k]
		all.byID[s.id] = s
	}
	return all, rows.Err()
}

// rolled tells whether another epoch of the resource had been seen by sample.
func (t seriesTable) rolled(series, sample int64) bool {
	for _, o := range *t.byID[series].sameResource {
		if o.id != series && o.seen <= sample {
			return true
		}
	}
	return false
}
