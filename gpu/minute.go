package gpu

import "time"

// Minute is what one card did in the part of a minute that was seen: after From,
// up to and including To. What no reading told is nil.
type Minute struct {
	UUID     string
	Name     string
	Source   Source
	From, To time.Time
	Readings int64

	UtilisationAverage *int64 // hundredths of a percent
	UtilisationMax     *int64 // percent
	MemoryAverage      *int64 // bytes
	MemoryMax          *int64
	PowerAverage       *int64 // mW
	PowerMax           *int64
	TemperatureMax     *int64 // °C
	// Energy is what the card's counter grew by from From to To, in mJ. It is nil
	// where the counter is not known at both ends, or fell in between: it starts
	// from nothing when the driver is loaded, and what was used before that is lost.
	Energy *int64
}

// gap is how far apart two readings may be for what lies between them to count as
// seen. The energy counter would tell of a longer span, too, but not when in it.
const gap = time.Minute

// minutes sums the readings of each card. A minute begins where the last one of
// the card ended, so that no energy falls between two.
type minutes struct {
	open map[string]*tally
}

// tally is one card's minute under way.
type tally struct {
	source      Source
	from        Reading // where the minute begins: its energy counts from here
	last        Reading
	readings    int64
	utilisation sum
	memory      sum
	power       sum
	temperature sum
	counter     *int64 // the last energy that was known
	reset       bool   // and it fell
}

func begin(source Source, from Reading) *tally {
	return &tally{source: source, from: from, last: from, counter: from.Energy}
}

// sum is of the readings that have the figure.
type sum struct{ n, total, max int64 }

func (s *sum) add(v *int64) {
	if v == nil {
		return
	}
	if s.n == 0 || *v > s.max {
		s.max = *v
	}
	s.n++
	s.total += *v
}

// average is in units of one scale-th, rounded half up; nil where nothing was known.
func (s *sum) average(scale int64) *int64 {
	if s.n == 0 {
		return nil
	}
	// The whole part first: a sum of bytes times a hundred may not overflow.
	whole, rest := s.total/s.n, s.total%s.n
	v := whole*scale + (rest*scale*2+s.n)/(s.n*2)
	return &v
}

func (s *sum) greatest() *int64 {
	if s.n == 0 {
		return nil
	}
	v := s.max
	return &v
}

// add takes a reading in, and returns the card's last minute where this reading
// begins another.
func (m *minutes) add(source Source, r Reading) (done *Minute) {
	if m.open == nil {
		m.open = map[string]*tally{}
	}
	t := m.open[r.UUID]
	switch {
	case t == nil, r.At.Sub(t.last.At) > gap, r.At.Before(t.last.At):
		done = t.minute()
		t = begin(source, r)
		m.open[r.UUID] = t
	case t.source != source, !r.At.Truncate(time.Minute).Equal(t.last.At.Truncate(time.Minute)):
		done = t.minute()
		t = begin(source, t.last)
		m.open[r.UUID] = t
	}
	if r.Energy != nil {
		t.reset = t.reset || t.counter != nil && *r.Energy < *t.counter
		t.counter = r.Energy
	}
	t.last = r
	t.readings++
	t.utilisation.add(r.Utilisation)
	t.memory.add(r.MemoryUsed)
	t.power.add(r.Power)
	t.temperature.add(r.Temperature)
	return done
}

// end closes what is open: the source has ended, and may not come back.
func (m *minutes) end() (done []Minute) {
	for _, t := range m.open {
		if d := t.minute(); d != nil {
			done = append(done, *d)
		}
		// The next minute begins here, if it begins soon enough.
		*t = *begin(t.source, t.last)
	}
	return done
}

// minute is nil where nothing was read.
func (t *tally) minute() *Minute {
	if t == nil || t.readings == 0 {
		return nil
	}
	d := &Minute{
		UUID: t.last.UUID, Name: t.last.Name, Source: t.source, From: t.from.At, To: t.last.At, Readings: t.readings,
		UtilisationAverage: t.utilisation.average(100), UtilisationMax: t.utilisation.greatest(),
		MemoryAverage: t.memory.average(1), MemoryMax: t.memory.greatest(),
		PowerAverage: t.power.average(1), PowerMax: t.power.greatest(),
		TemperatureMax: t.temperature.greatest(),
	}
	if t.from.Energy != nil && t.last.Energy != nil && !t.reset {
		v := *t.last.Energy - *t.from.Energy
		d.Energy = &v
	}
	return d
}
