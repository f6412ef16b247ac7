package report

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"spotinference/ledger"
)

// Why a GPU report lacks its quotient. ReasonNoTokens is another.
const (
	ReasonNoReadings = "no_readings" // nobody read a GPU in the window: nothing else is known either
	ReasonNoEnergy   = "no_energy"   // the GPUs were read, and no energy counter with them
)

// GPUQuery asks what the GPUs did in a window.
type GPUQuery struct {
	Window ledger.Window
	// Explicit, Now and MaxSampleAge are those of a CostQuery: the price of the
	// same window is shown beside the energy.
	Explicit     bool
	Now          time.Time
	MaxSampleAge time.Duration
	Demo         bool
}

// GPUReport is what the GPUs did in the part of a window in which they were read.
// What is not known is null, never zero.
type GPUReport struct {
	Window GPUWindow `json:"window"`
	GPUs   []GPUUse  `json:"cards"` // by UUID
	Energy Energy    `json:"energy"`
	// JoulesPerToken is energy ÷ the output tokens of requests that finished while
	// it was measured, divided once, to six decimals.
	JoulesPerToken *Decimal `json:"joules_per_output_token"`
	Reason         string   `json:"reason"` // why there is none
	// The price of the same window, as a cost report says it.
	Currency       string   `json:"currency"`
	CostPerMillion *Decimal `json:"cost_per_million_output_tokens"`
	CostReason     string   `json:"cost_reason"`
	Demo           bool     `json:"demo"`
	Chain          Chain    `json:"chain"`

	cost CostReport

	Overrides []Override `json:"overrides,omitempty"` // of the budget, in the asked window
}

// GPUWindow holds the window that was asked for, and what of it was seen.
type GPUWindow struct {
	From        *time.Time `json:"from"` // of the first reading; null without one
	To          *time.Time `json:"to"`   // of the last
	AskedFrom   time.Time  `json:"asked_from"`
	AskedTo     time.Time  `json:"asked_to"`
	SeenSeconds Decimal    `json:"seen_seconds"`
}

// GPUUse is what one GPU did. Averages are over its readings; a share is in four
// digits: "0.3720".
type GPUUse struct {
	UUID           string   `json:"uuid"`
	Name           string   `json:"name"`
	Sources        []string `json:"sources"` // who read it
	Readings       int64    `json:"readings"`
	UtilisationAvg *Decimal `json:"utilisation_average"`
	UtilisationMax *Decimal `json:"utilisation_max"`
	MemoryAvg      *int64   `json:"memory_average_bytes"`
	MemoryMax      *int64   `json:"memory_max_bytes"`
	PowerAvg       *Decimal `json:"power_average_watts"`
	PowerMax       *Decimal `json:"power_max_watts"`
	TemperatureMax *int64   `json:"temperature_max_celsius"`
	Joules         *Decimal `json:"energy_joules"` // where its counter was known
	WattHours      *Decimal `json:"energy_watt_hours"`
}

// Energy is what all GPUs together used while every one's counter was known, and
// the output tokens that were finished meanwhile.
type Energy struct {
	Joules           *Decimal `json:"joules"`
	WattHours        *Decimal `json:"watt_hours"`
	SeenSeconds      Decimal  `json:"seen_seconds"`
	CompletionTokens int64    `json:"completion_tokens"`
}

// Refused tells whether nothing is known.
func (g GPUReport) Refused() bool { return g.Reason == ReasonNoReadings }

// GPU sums the minutes of the GPUs that ended in the window. A window in which
// nobody read them is no error: see Refused.
func GPU(r *ledger.Reader, q GPUQuery) (GPUReport, error) {
	g, err := gpuReport(r, q)
	if err != nil {
		return GPUReport{}, fmt.Errorf("report gpu: %w", err)
	}
	return g, nil
}

func gpuReport(r *ledger.Reader, q GPUQuery) (g GPUReport, err error) {
	if q.Window, err = checkWindow(q.Window); err != nil {
		return g, err
	}
	var sum gpuSum
	if err := r.GPUMinutes(q.Window.From, q.Window.To, sum.add); err != nil {
		return g, err
	}
	seen, known, milli := sum.spans()
	g = GPUReport{
		Window: GPUWindow{AskedFrom: q.Window.From, AskedTo: q.Window.To, SeenSeconds: seconds(seen)},
		GPUs:   []GPUUse{},
		Energy: Energy{SeenSeconds: seconds(known)},
		Demo:   q.Demo,
	}
	if len(seen) > 0 {
		g.Window.From, g.Window.To = &seen[0].From, &seen[len(seen)-1].To
	}
	for _, uuid := range slices.Sorted(maps.Keys(sum.byUUID)) {
		g.GPUs = append(g.GPUs, sum.byUUID[uuid].use())
	}
	if g.Overrides, err = overridden(r, q.Window); err != nil {
		return g, err
	}
	totals, err := r.TotalsOf(known)
	if err != nil {
		return g, err
	}
	for _, t := range totals {
		g.Energy.CompletionTokens += t.Usage.CompletionTokens
	}
	switch tokens := g.Energy.CompletionTokens; {
	case len(g.GPUs) == 0:
		g.Reason = ReasonNoReadings
	case len(known) == 0:
		g.Reason = ReasonNoEnergy
	case tokens == 0:
		g.Reason = ReasonNoTokens
	default:
		g.JoulesPerToken = decimal(quotient(new(big.Int).Mul(milli, big.NewInt(1000)), big.NewInt(tokens)), 6)
	}
	if len(known) > 0 {
		g.Energy.Joules, g.Energy.WattHours = decimal(milli, 3), wattHours(milli)
	}
	g.cost, err = cost(r, CostQuery{Window: q.Window, Explicit: q.Explicit, Now: q.Now, MaxSampleAge: q.MaxSampleAge, Bucket: NoBucket, Demo: q.Demo})
	g.Currency, g.CostPerMillion, g.CostReason = g.cost.Currency, g.cost.CostPerMillion, g.cost.Reason
	if err == nil {
		g.Chain, err = chainOf(r)
	}
	return g, err
}

// wattHours is an energy in mJ in Wh, to six decimals.
func wattHours(milli *big.Int) *Decimal {
	return decimal(quotient(new(big.Int).Mul(milli, big.NewInt(1_000_000)), big.NewInt(3_600_000)), 6)
}

func seconds(spans []ledger.Window) Decimal {
	var all time.Duration
	for _, s := range spans {
		all += s.To.Sub(s.From)
	}
	return *decimal(big.NewInt(all.Microseconds()), 6)
}

// gpuSum gathers the rows of a window.
type gpuSum struct {
	byUUID map[string]*useSum
	rounds []gpuRound // in the order of their ends
}

// gpuRound is the rows of one span of time: all GPUs are read at once.
type gpuRound struct {
	ledger.Window
	milli *big.Int // nil where a GPU's energy is not known
}

// useSum adds up one GPU's rows. An average of averages is weighted with the
// readings of those rows that have the figure.
type useSum struct {
	uuid, name                 string
	sources                    []string
	readings                   int64
	utilisation, memory, power weighted
	utilisationMax, memoryMax  *int64
	powerMax, temperatureMax   *int64
	milli                      *big.Int
}

type weighted struct{ sum, weight *big.Int }

func (w *weighted) add(v *int64, weight int64) {
	if v == nil {
		return
	}
	if w.sum == nil {
		w.sum, w.weight = new(big.Int), new(big.Int)
	}
	w.sum.Add(w.sum, new(big.Int).Mul(big.NewInt(*v), big.NewInt(weight)))
	w.weight.Add(w.weight, big.NewInt(weight))
}

// average is nil where no row has the figure.
func (w *weighted) average() *big.Int {
	if w.sum == nil {
		return nil
	}
	return quotient(w.sum, w.weight)
}

func greater(a, b *int64) *int64 {
	if a == nil || b != nil && *b > *a {
		return b
	}
	return a
}

func (s *gpuSum) add(m ledger.GPUMinute) error {
	if s.byUUID == nil {
		s.byUUID = map[string]*useSum{}
	}
	c := s.byUUID[m.UUID]
	if c == nil {
		c = &useSum{uuid: m.UUID, name: m.Name}
		s.byUUID[m.UUID] = c
	}
	c.add(m)

	w := ledger.Window{From: m.Since, To: m.At}
	n := len(s.rounds) - 1
	if n < 0 || s.rounds[n].Window != w {
		s.rounds = append(s.rounds, gpuRound{w, new(big.Int)})
		n++
	}
	if round := &s.rounds[n]; m.Energy == nil {
		round.milli = nil
	} else if round.milli != nil {
		round.milli.Add(round.milli, big.NewInt(*m.Energy))
	}
	return nil
}

func (c *useSum) add(m ledger.GPUMinute) {
	if !slices.Contains(c.sources, m.Source) {
		c.sources = append(c.sources, m.Source)
	}
	c.readings += m.Readings
	c.utilisation.add(m.UtilisationAvg, m.Readings)
	c.memory.add(m.MemoryAvg, m.Readings)
	c.power.add(m.PowerAvg, m.Readings)
	c.utilisationMax = greater(c.utilisationMax, m.UtilisationMax)
	c.memoryMax = greater(c.memoryMax, m.MemoryMax)
	c.powerMax = greater(c.powerMax, m.PowerMax)
	c.temperatureMax = greater(c.temperatureMax, m.TemperatureMax)
	if m.Energy != nil {
		if c.milli == nil {
			c.milli = new(big.Int)
		}
		c.milli.Add(c.milli, big.NewInt(*m.Energy))
	}
}

func (c *useSum) use() GPUUse {
	out := GPUUse{
		UUID: c.uuid, Name: c.name, Sources: c.sources, Readings: c.readings,
		MemoryMax: c.memoryMax, TemperatureMax: c.temperatureMax,
		PowerAvg: decimal(c.power.average(), 3), Joules: decimal(c.milli, 3),
	}
	if n := c.utilisation.average(); n != nil {
		out.UtilisationAvg = share(n.Int64(), 10_000)
	}
	if c.utilisationMax != nil {
		out.UtilisationMax = share(*c.utilisationMax, 100)
	}
	if n := c.memory.average(); n != nil {
		bytes := n.Int64()
		out.MemoryAvg = &bytes
	}
	if c.powerMax != nil {
		out.PowerMax = decimal(big.NewInt(*c.powerMax), 3)
	}
	if c.milli != nil {
		out.WattHours = wattHours(c.milli)
	}
	return out
}

// spans joins what lies side by side: seen at all, and seen with every GPU's
// energy, which is milli altogether.
func (s *gpuSum) spans() (seen, known []ledger.Window, milli *big.Int) {
	join := func(all []ledger.Window, w ledger.Window) []ledger.Window {
		if n := len(all); n > 0 && !w.From.After(all[n-1].To) {
			if w.From.Before(all[n-1].From) {
				all[n-1].From = w.From
			}
			all[n-1].To = w.To // rows come in the order of their ends
			return all
		}
		return append(all, w)
	}
	milli = new(big.Int)
	for _, round := range s.rounds {
		seen = join(seen, round.Window)
		if round.milli != nil && round.From.Before(round.To) { // one reading is no difference
			known = join(known, round.Window)
			milli.Add(milli, round.milli)
		}
	}
	return seen, known, milli
}
