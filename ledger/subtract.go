package ledger

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
)

// instant is a sample as the scan meets it.
type instant struct {
	id, at, source int64
}

func (i instant) ref() SampleRef { return SampleRef{ID: i.id, At: fromMicros(i.at)} }

// sampleBatch is one sample, or an hour of them, that the scan takes in one step.
type sampleBatch struct {
	end                   instant // its last sample
	samples               int64
	uncalibrated, account int64
	lines                 []batchLine
}

type batchLine struct {
	series, seen, unknown int64
	last                  known
	growth                // set where hour is
	hour                  bool
}

// seriesCursor is one series while the samples are read in order.
type seriesCursor struct {
	*seriesRow
	seenAt int64 // the last sample that had it
	now    known // its last known bill, also from before the scan

	// Of the window under way.
	base   known // its last known bill at the start
	read   bool  // its bill was read after the start
	growth growth
}

// billScan reads the samples once and subtracts in consecutive windows. Its state is
// what was known of each series so far, so that the end of one window is the start of
// the next.
type billScan struct {
	tx      *sql.Tx
	sources map[int64]sourceRow
	series  seriesTable
	first   instant // where the scan began
	cursors map[int64]*seriesCursor
	newest  instant // the newest sample taken

	// Of the window under way.
	start instant
	spend Spend
}

// subtract returns a Spend for each of the windows, which follow on each other;
// one with Count 0 where there is no sample at or before the window's end.
func subtract(tx *sql.Tx, windows []Window) ([]Spend, error) {
	spends := make([]Spend, len(windows))
	from, to := micros(windows[0].From), micros(windows[len(windows)-1].To)
	own, ok, err := firstOwn(tx.QueryRow(selectFirstOwn))
	if err != nil {
		return nil, err
	}
	if !ok || own.at > to {
		return spends, nil
	}
	a, err := firstInstant(tx, max(from, own.at), to)
	if err != nil {
		return nil, err
	}
	sc := billScan{tx: tx, first: a, cursors: map[int64]*seriesCursor{}}
	if sc.sources, err = loadSources(tx); err != nil {
		return nil, err
	}
	if sc.series, err = loadSeries(tx, true); err != nil {
		return nil, err
	}
	if err := sc.readFirst(a); err != nil {
		return nil, err
	}
	i := 0
	for micros(windows[i].To) < a.at {
		i++ // before the first sample
	}
	sc.startWindow()
	if a.at > micros(windows[i].From) {
		sc.spend.flag(FlagStartsLate)
	}
	leave := func() error {
		spends[i], err = sc.endWindow()
		return err
	}
	err = sc.batches(max(from, a.at), windows, func(s sampleBatch) error {
		for s.end.at > micros(windows[i].To) {
			if err := leave(); err != nil {
				return err
			}
			i++
			sc.startWindow()
		}
		return sc.add(s)
	})
	if err != nil {
		return nil, err
	}
	for ; i < len(windows); i++ {
		if err := leave(); err != nil {
			return nil, err
		}
		sc.startWindow()
	}
	if err := sc.gaps(spends, a.id); err != nil {
		return nil, err
	}
	if err := addVoided(tx, windows, spends); err != nil {
		return nil, err
	}
	return spends, sc.before(windows, spends, own)
}

// before gives the window that holds the first own sample what was billed before that.
func (sc *billScan) before(windows []Window, spends []Spend, own instant) (err error) {
	for i, w := range windows {
		if micros(w.From) < own.at && own.at <= micros(w.To) {
			spends[i].Before, err = sc.beforeOwn(micros(w.From), own)
		}
	}
	return err
}

// beforeOwn subtracts in the samples from an instant on, up to the first own one: those
// that are Past. There are few.
func (sc *billScan) beforeOwn(from int64, own instant) (*BeforeSpend, error) {
	rows, err := sc.tx.Query(`SELECT sample.id, at, series, bill FROM counted AS sample JOIN reading ON reading.sample = sample.id
		JOIN state ON state.id = state WHERE at >= ? AND at <= ? ORDER BY at, series`, from, own.at)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var (
		sum   growth
		last  = map[int64]known{}
		since = int64(math.MinInt64)
	)
	for rows.Next() {
		var id, at, series int64
		var bill sql.NullInt64
		if err := rows.Scan(&id, &at, &series, &bill); err != nil {
			return nil, err
		}
		row := sc.series.byID[series]
		if row == nil {
			return nil, fmt.Errorf("series %d is not there", series)
		}
		if !bill.Valid {
			since = own.at
			continue
		}
		g, knownFrom, err := growthBefore(row, last[series], known{id, at, Nanos(bill.Int64)}, from)
		if err == nil {
			sum, err = sum.plus(g)
		}
		if err != nil {
			return nil, fmt.Errorf("bill of %s: %w", row.resource, err)
		}
		since = max(since, knownFrom)
		last[series] = known{id, at, Nanos(bill.Int64)}
	}
	if since == math.MinInt64 { // nothing is billed there
		since = own.at
	}
	return &BeforeSpend{Since: fromMicros(since), Until: own.ref(), Net: sum.net, Gross: sum.gross}, rows.Err()
}

// growthBefore is what a bill grew by since it was known last, and from when on that is
// known. At its first sight all of it counts where the resource was created after from.
func growthBefore(row *seriesRow, last, bill known, from int64) (g growth, knownFrom int64, err error) {
	switch {
	case last.id != 0:
		g, err = since(last, bill.bill)
		return g, from, err
	case row.rolled:
		return g, from, nil // what it shows is in the old bill
	case row.created.Valid && row.created.Int64 > from:
		g, err = since(known{id: bill.id}, bill.bill)
		return g, from, err
	}
	return g, bill.at, nil
}

// firstInstant is the sample that a window begins at: the last at or before from,
// else the first after it that is not after to.
func firstInstant(tx *sql.Tx, from, to int64) (a instant, err error) {
	const query = "SELECT id, at, source FROM counted WHERE "
	err = tx.QueryRow(query+"at <= ? ORDER BY at DESC LIMIT 1", min(from, to)).Scan(&a.id, &a.at, &a.source)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRow(query+"at > ? AND at <= ? ORDER BY at LIMIT 1", from, to).Scan(&a.id, &a.at, &a.source)
	}
	return a, err
}

// readFirst reads the lines of the sample that the scan begins at.
func (sc *billScan) readFirst(a instant) error {
	rows, err := sc.tx.Query("SELECT series, bill FROM reading JOIN state ON state.id = state WHERE sample = ?", a.id)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var series int64
		var bill sql.NullInt64
		if err := rows.Scan(&series, &bill); err != nil {
			return err
		}
		c, err := sc.cursor(series, bill.Valid)
		if err != nil {
			return err
		}
		c.seenAt = a.id
		if bill.Valid {
			c.now = known{a.id, a.at, Nanos(bill.Int64)}
		}
	}
	sc.newest = a
	return rows.Err()
}

// cursor is the cursor of a series. On its first meeting after the scan began,
// what was known of it before is looked up, unless fresh says that the caller
// knows better.
func (sc *billScan) cursor(series int64, fresh bool) (*seriesCursor, error) {
	c := sc.cursors[series]
	if c != nil {
		return c, nil
	}
	c = &seriesCursor{seriesRow: sc.series.byID[series]}
	if c.seriesRow == nil {
		return nil, fmt.Errorf("series %d is not there", series)
	}
	sc.cursors[series] = c
	if fresh || c.first.id == 0 || c.first.id >= sc.first.id {
		return c, nil
	}
	var err error
	c.now, err = lastKnown(sc.tx, series, sc.first.at)
	c.base = c.now
	return c, err
}

// lastKnown is the last bill of a series before an instant.
func lastKnown(tx *sql.Tx, series, at int64) (k known, err error) {
	hour := billHour(at)
	err = tx.QueryRow(`SELECT sample.id, at, bill FROM counted AS sample JOIN reading ON reading.sample = sample.id JOIN state ON state.id = state
		WHERE at > ? AND at < ? AND series = ? AND bill IS NOT NULL ORDER BY at DESC LIMIT 1`, hour*hourMicros, at, series).Scan(&k.id, &k.at, &k.bill)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRow("SELECT last, last_at, bill FROM bill_hour WHERE series = ? AND hour < ? AND last IS NOT NULL ORDER BY hour DESC LIMIT 1",
			series, hour).Scan(&k.id, &k.at, &k.bill)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return known{}, nil
	}
	return k, err
}

// batches yields the samples after from in the windows, in order: an hour in one
// piece where it lies wholly inside one window, the others one by one.
func (sc *billScan) batches(from int64, windows []Window, yield func(sampleBatch) error) error {
	to := micros(windows[len(windows)-1].To)
	cut, err := sc.cutHours(from, windows)
	if err != nil {
		return err
	}
	for at := from; at < to; {
		// at is on the hour, or in one that is cut.
		if hour := floorDiv(at, hourMicros); len(cut) == 0 || hour < cut[0] {
			end := -floorDiv(-to, hourMicros)
			if len(cut) > 0 {
				end = cut[0]
			}
			if err := sc.hours(hour, end, yield); err != nil {
				return err
			}
			at = end * hourMicros
			continue
		}
		end := cut[0] // those that follow on each other are one piece
		for len(cut) > 0 && cut[0] == end {
			cut, end = cut[1:], end+1
		}
		if err := sc.rows(at, min(end*hourMicros, to), yield); err != nil {
			return err
		}
		at = end * hourMicros
	}
	return nil
}

// cutHours are the hours that do not lie wholly after from and inside one window. One
// that a window ends in after its last sample is as good as inside of it.
func (sc *billScan) cutHours(from int64, windows []Window) (hours []int64, err error) {
	if hour := floorDiv(from, hourMicros); from != hour*hourMicros {
		hours = append(hours, hour)
	}
	last, err := sc.tx.Prepare("SELECT last_at FROM sample_hour WHERE hour = ?")
	if err != nil {
		return nil, err
	}
	defer last.Close()
	for _, window := range windows {
		to := micros(window.To)
		hour := floorDiv(to, hourMicros)
		if to < from || to == hour*hourMicros || len(hours) > 0 && hours[len(hours)-1] == hour {
			continue
		}
		var at int64
		if err := last.QueryRow(hour).Scan(&at); errors.Is(err, sql.ErrNoRows) {
			continue
		} else if err != nil {
			return nil, err
		}
		if at > to {
			hours = append(hours, hour)
		}
	}
	return hours, nil
}

// rows yields the samples in (from, to] one by one.
func (sc *billScan) rows(from, to int64, yield func(sampleBatch) error) error {
	if from >= to {
		return nil
	}
	rows, err := sc.tx.Query(`SELECT sample.id, at, source, series, bill FROM counted AS sample LEFT JOIN reading ON reading.sample = sample.id
		LEFT JOIN state ON state.id = state WHERE at > ? AND at <= ? ORDER BY at`, from, to)
	if err != nil {
		return err
	}
	defer rows.Close()
	var s sampleBatch
	done := func() error {
		if s.samples == 0 {
			return nil
		}
		return yield(s)
	}
	for rows.Next() {
		var at instant
		var series, bill sql.NullInt64
		if err := rows.Scan(&at.id, &at.at, &at.source, &series, &bill); err != nil {
			return err
		}
		if at.id != s.end.id {
			if err := done(); err != nil {
				return err
			}
			var h sampleHour
			h.add(at.id, at.at, at.source, sc.sources[at.source])
			s = sampleBatch{end: at, samples: 1, uncalibrated: h.uncalibrated, account: h.account}
		}
		if !series.Valid {
			continue // a sample without a line: nothing counts towards this box
		}
		ln := batchLine{series: series.Int64, seen: at.id}
		if bill.Valid {
			ln.last = known{at.id, at.at, Nanos(bill.Int64)}
		} else {
			ln.unknown = 1
		}
		s.lines = append(s.lines, ln)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return done()
}

// hours yields the hours in [first, end) that have samples.
func (sc *billScan) hours(first, end int64, yield func(sampleBatch) error) error {
	samples, err := sc.tx.Query(selectSampleHour+" WHERE hour >= ? AND hour < ? ORDER BY hour", first, end)
	if err != nil {
		return err
	}
	defer samples.Close()
	bills, err := sc.tx.Query(selectSeriesHour+" WHERE hour >= ? AND hour < ? ORDER BY hour", first, end)
	if err != nil {
		return err
	}
	defer bills.Close()
	next := seriesHour{hour: math.MinInt64}
	advance := func() (err error) {
		if !bills.Next() {
			next.hour = math.MaxInt64
			return bills.Err()
		}
		next, err = scanSeriesHour(bills)
		return err
	}
	if err := advance(); err != nil {
		return err
	}
	for samples.Next() {
		h, err := scanSampleHour(samples)
		if err != nil {
			return err
		}
		s := sampleBatch{end: instant{h.last.id, h.last.at, h.source}, samples: h.samples, uncalibrated: h.uncalibrated, account: h.account}
		for next.hour == h.hour {
			s.lines = append(s.lines, batchLine{series: next.series, seen: next.seen, unknown: next.unknown, last: next.last, growth: next.growth, hour: true})
			if err := advance(); err != nil {
				return err
			}
		}
		if err := yield(s); err != nil {
			return err
		}
	}
	return samples.Err()
}

// startWindow begins a window at the newest sample taken.
func (sc *billScan) startWindow() {
	sc.start = sc.newest
	src := sc.sources[sc.newest.source]
	sc.spend = Spend{From: sc.newest.ref(), Count: 1}
	sc.flags(src.truth == TruthAccount, !src.calibrated)
	for _, c := range sc.cursors {
		c.base, c.read, c.growth = c.now, false, growth{}
		if c.seenAt == sc.newest.id && c.now.id != sc.newest.id {
			sc.spend.flag(FlagUnknownBill)
		}
	}
}

func (sc *billScan) flags(account, uncalibrated bool) {
	if account {
		sc.spend.flag(FlagAccountTruth)
	}
	if uncalibrated {
		sc.spend.flag(FlagUncalibrated)
	}
}

// add takes a batch into the window.
func (sc *billScan) add(s sampleBatch) error {
	sc.spend.Count += int(s.samples)
	sc.flags(s.account > 0, s.uncalibrated > 0)
	for _, ln := range s.lines {
		c, err := sc.cursor(ln.series, false)
		if err != nil {
			return err
		}
		c.seenAt = ln.seen
		if ln.unknown > 0 {
			sc.spend.flag(FlagUnknownBill)
		}
		if ln.last.id == 0 {
			continue
		}
		g := ln.growth
		if !ln.hour {
			g, err = since(c.now, ln.last.bill)
		}
		if err == nil {
			c.growth, err = c.growth.plus(g)
		}
		if err != nil {
			return fmt.Errorf("bill of %s: %w", c.resource, err)
		}
		c.now, c.read = ln.last, true
	}
	sc.newest = s.end
	return nil
}

// endWindow ends the window at the newest sample taken and sums it up.
func (sc *billScan) endWindow() (Spend, error) {
	sp := sc.spend
	src := sc.sources[sc.newest.source]
	sp.To, sp.Provider, sp.Currency, sp.Every = sc.newest.ref(), src.provider, src.currency, fromDuration(src.every)
	for _, c := range sc.cursors {
		if c.seenAt < sc.start.id {
			continue
		}
		if !c.read && c.base.id != sc.start.id {
			continue // its bill was not read in this window
		}
		r, err := sc.resource(&sp, c)
		if err == nil {
			sp.Net, err = sp.Net.Add(r.Net)
		}
		if err == nil {
			sp.Gross, err = sp.Gross.Add(r.Gross)
		}
		if err != nil {
			return sp, fmt.Errorf("spend of %s: %w", c.resource, err)
		}
		sp.Resources = append(sp.Resources, r)
	}
	if err := sc.absences(&sp); err != nil {
		return sp, err
	}
	slices.SortFunc(sp.Resources, func(x, y ResourceSpend) int {
		return cmp.Or(cmp.Compare(x.Resource, y.Resource), x.First.At.Compare(y.First.At), cmp.Compare(x.Epoch, y.Epoch))
	})
	slices.Sort(sp.Flags)
	return sp, nil
}

// resource is one subtraction, from the base to the last bill.
func (sc *billScan) resource(sp *Spend, c *seriesCursor) (ResourceSpend, error) {
	base, g := c.base, c.growth
	switch {
	case base.id == sc.start.id:
	case base.id != 0:
		sp.flag(FlagUnseen)
	default: // first sight
		base = c.first
		switch {
		case c.rolled:
			joined, err := sc.joined(c)
			if err != nil {
				return ResourceSpend{}, err
			}
			if !joined {
				sp.flag(FlagEpochChanged)
			}
		case c.created.Valid && c.created.Int64 > sc.start.at:
			// Born inside the window: all of its bill is.
			born, err := since(known{id: base.id}, base.bill)
			if err == nil {
				g, err = g.plus(born)
			}
			if err != nil {
				return ResourceSpend{}, err
			}
			base.bill = 0
		default:
			sp.flag(FlagFirstSeen)
		}
	}
	if g.fell > 0 {
		sp.flag(FlagAdjusted)
	}
	return ResourceSpend{
		Resource: c.resource, Epoch: c.epoch, Kind: c.kind,
		First: instant{id: base.id, at: base.at}.ref(), Last: instant{id: c.now.id, at: c.now.at}.ref(),
		Base: base.bill, Bill: c.now.bill, Net: g.net, Gross: g.gross,
	}, nil
}

// joined tells whether c begins where the epoch before it ends: in one sample, the
// old one's last line says that it moved, and both bills are known there. Then what
// c shows at its first sight is counted in the old one, and nothing is lost.
func (sc *billScan) joined(c *seriesCursor) (bool, error) {
	var before []*seriesRow // what began last before it
	for _, o := range *c.sameResource {
		switch {
		case o.seen >= c.seen:
		case before == nil || o.seen > before[0].seen:
			before = []*seriesRow{o}
		case o.seen == before[0].seen:
			before = append(before, o)
		}
	}
	for _, o := range before {
		old := sc.cursors[o.id]
		if old == nil || old.seenAt != c.first.id || old.now.id != c.first.id {
			return false, nil
		}
		if status, err := sc.status(o.id, c.first.id); err != nil || status != StatusMoved {
			return false, err
		}
	}
	return len(before) > 0, nil
}

// status is what a series' line in a sample says of it.
func (sc *billScan) status(series, sample int64) (status string, err error) {
	err = sc.tx.QueryRow("SELECT status FROM reading JOIN state ON state.id = state WHERE sample = ? AND series = ?", sample, series).Scan(&status)
	return status, err
}

// absences flags the resources that are missing where they should not be.
func (sc *billScan) absences(sp *Spend) error {
	for _, epochs := range sc.series.resources {
		var before, inside, after bool
		var missing []*seriesRow // what the last sample should have had
		for _, s := range *epochs {
			seenAt := int64(0)
			if c := sc.cursors[s.id]; c != nil {
				seenAt = c.seenAt
			}
			before = before || s.seen < sc.start.id
			inside = inside || seenAt >= sc.start.id
			after = after || s.last > sc.newest.id
			if s.seen <= sc.newest.id && seenAt != sc.newest.id && !s.superseded(sc.newest.id) {
				missing = append(missing, s)
			}
		}
		if inside { // of those that were gone before, nothing is asked
			for _, s := range missing {
				closed, err := sc.closed(s)
				if err != nil {
					return err
				}
				if !closed {
					// Its newest bill is not in the last sample, whatever an older one says.
					sp.flag(FlagGone)
				}
			}
		}
		if before && after && !inside {
			// What it cost meanwhile shows only where it comes back.
			sp.flag(FlagUnseen)
		}
	}
	return nil
}

// closed tells whether the last line of a series, which is not after the window,
// has its final bill.
func (sc *billScan) closed(s *seriesRow) (bool, error) {
	if s.last > sc.newest.id {
		return false, nil
	}
	status, err := sc.status(s.id, s.last)
	return status == StatusClosed, err
}

// superseded tells whether the resource has begun another epoch by sample: epochs
// follow on each other in the order of their first sight.
func (s *seriesRow) superseded(sample int64) bool {
	for _, o := range *s.sameResource {
		if o.seen > s.seen && o.seen <= sample {
			return true
		}
	}
	return false
}

// gaps gives each window the gaps that end in it.
func (sc *billScan) gaps(spends []Spend, begin int64) error {
	rows, err := sc.tx.Query("SELECT sample, from_at, to_at FROM gap WHERE sample > ? AND sample <= ? ORDER BY sample", begin, sc.newest.id)
	if err != nil {
		return err
	}
	defer rows.Close()
	i := 0
	for rows.Next() {
		var sample, from, to int64
		if err := rows.Scan(&sample, &from, &to); err != nil {
			return err
		}
		for spends[i].To.ID < sample {
			i++
		}
		spends[i].Gaps = append(spends[i].Gaps, Window{fromMicros(from), fromMicros(to)})
		spends[i].flag(FlagGaps)
		slices.Sort(spends[i].Flags)
	}
	return rows.Err()
}

func (sp *Spend) flag(f string) {
	if !slices.Contains(sp.Flags, f) {
		sp.Flags = append(sp.Flags, f)
	}
}
