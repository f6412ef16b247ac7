package gpu

import (
	"reflect"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }

// The energy of consecutive minutes adds up to the counter's difference.
func TestMinutesChain(t *testing.T) {
	var m minutes
	var done []Minute
	for s := range 181 {
		r := Reading{At: at(s), UUID: "a", Name: "H100", Utilisation: ptr(int64(s % 4 * 25)), Power: ptr(int64(1000 * (s / 60))), Energy: ptr(int64(7000 + 500*s))}
		if d := m.add(Helper, r); d != nil {
			done = append(done, *d)
		}
	}
	done = append(done, m.end()...)
	var got []any
	var energy int64
	for _, d := range done {
		got = append(got, d.From.Sub(noon), d.To.Sub(noon), d.Readings, *d.UtilisationAverage, *d.UtilisationMax, *d.PowerAverage, *d.PowerMax, d.MemoryAverage == nil, d.TemperatureMax == nil)
		energy += *d.Energy
	}
	sec := time.Second
	want := []any{
		0 * sec, 59 * sec, int64(60), int64(3750), int64(75), int64(0), int64(0), true, true,
		59 * sec, 119 * sec, int64(60), int64(3750), int64(75), int64(1000), int64(1000), true, true,
		119 * sec, 179 * sec, int64(60), int64(3750), int64(75), int64(2000), int64(2000), true, true,
		179 * sec, 180 * sec, int64(1), int64(0), int64(0), int64(3000), int64(3000), true, true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("minutes:\n got %v\nwant %v", got, want)
	}
	if energy != 180*500 {
		t.Errorf("energy %d, want %d", energy, 180*500)
	}
}

func TestMinuteEnergy(t *testing.T) {
	e := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		name   string
		energy []*int64 // a reading every 10 s
		want   []*int64 // a minute
	}{
		{"grows", []*int64{e(5), e(6), e(9)}, []*int64{e(4)}},
		{"stands", []*int64{e(5), e(5)}, []*int64{e(0)}},
		{"is not known", []*int64{nil, nil}, []*int64{nil}},
		{"is not known at first", []*int64{nil, e(5), e(9)}, []*int64{nil}},
		{"is not known at last", []*int64{e(5), e(9), nil}, []*int64{nil}},
		{"is not known in between", []*int64{e(5), nil, e(9)}, []*int64{e(4)}},
		{"starts anew", []*int64{e(500), e(1), e(9)}, []*int64{nil}},
		{"starts anew and passes the old figure", []*int64{e(5), e(1), e(900)}, []*int64{nil}},
		{"starts anew unseen", []*int64{e(500), nil, e(9), e(700)}, []*int64{nil}},
		{"starts anew, and the next minute counts again", []*int64{e(500), e(1), e(1), e(1), e(1), e(10), e(20), e(30)}, []*int64{nil, e(20)}},
		{"starts anew between two minutes", []*int64{e(1), e(2), e(3), e(4), e(5), e(6), e(2), e(3)}, []*int64{e(5), nil}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m minutes
			var got []*int64
			for i, energy := range c.energy {
				if d := m.add(Helper, Reading{At: at(10 * i), UUID: "a", Energy: energy}); d != nil {
					got = append(got, d.Energy)
				}
			}
			for _, d := range m.end() {
				got = append(got, d.Energy)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("energy %s, want %s", show(got), show(c.want))
			}
		})
	}
}

func show(all []*int64) (out []any) {
	for _, v := range all {
		if v == nil {
			out = append(out, "unknown")
		} else {
			out = append(out, *v)
		}
	}
	return out
}

// A pause is bridged where it is short; a long one, a clock that goes back, and
// another source are not.
func TestMinutesBreak(t *testing.T) {
	e := func(v int64) *int64 { return &v }
	var m minutes
	var done []Minute
	add := func(source Source, s int, energy *int64) {
		if d := m.add(source, Reading{At: at(s), UUID: "a", Energy: energy}); d != nil {
			done = append(done, *d)
		}
	}
	add(Helper, 0, e(0))
	add(Helper, 10, e(10))
	done = append(done, m.end()...) // the helper died
	done = append(done, m.end()...) // and nothing came before it died again
	add(Helper, 30, e(30))          // same minute: the counter knows what lies between
	add(Helper, 200, e(1000))       // too long after to say when
	add(Helper, 201, e(1002))
	add(SMI, 202, nil)
	add(SMI, 203, nil)
	add(SMI, 100, nil) // the clock went back
	done = append(done, m.end()...)
	var got []any
	for _, d := range done {
		got = append(got, d.From.Sub(noon).Seconds(), d.To.Sub(noon).Seconds(), d.Readings, d.Source)
		got = append(got, show([]*int64{d.Energy})...)
	}
	want := []any{
		0.0, 10.0, int64(2), Helper, int64(10),
		10.0, 30.0, int64(1), Helper, int64(20),
		200.0, 201.0, int64(2), Helper, int64(2),
		201.0, 203.0, int64(2), SMI, "unknown",
		100.0, 100.0, int64(1), SMI, "unknown",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("minutes:\n got %v\nwant %v", got, want)
	}
}

// A minute of bytes times its scale stays within an int64.
func TestAverage(t *testing.T) {
	var s sum
	for range 60 {
		s.add(ptr(int64(144 << 30)))
	}
	s.add(nil)
	if got := s.average(1); *got != 144<<30 {
		t.Errorf("average = %d", *got)
	}
	s = sum{n: 3, total: 2}
	if got := s.average(100); *got != 67 {
		t.Errorf("two thirds in hundredths = %d, want 67", *got)
	}
}
