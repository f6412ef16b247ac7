package gpu

import (
	"fmt"
	"time"
)

// Reading is one card at one instant. What the card, its driver or the source
// does not tell is nil, never zero. Its JSON is what the helper writes.
type Reading struct {
	At    time.Time `json:"-"`     // when it reached us
	Index int       `json:"index"` // the driver's number, which a restart may change
	UUID  string    `json:"uuid"`  // which it may not
	Name  string    `json:"name"`  // product name; "" where not known

	Utilisation *int64 `json:"utilisation"` // percent of the driver's last sample period in which a kernel ran
	MemoryUsed  *int64 `json:"memory_used"` // bytes, without what the driver reserves for itself
	MemoryTotal *int64 `json:"memory_total"`
	Power       *int64 `json:"power"` // mW
	PowerLimit  *int64 `json:"power_limit"`
	Energy      *int64 `json:"energy"`       // mJ since the driver was loaded: only differences mean something
	Temperature *int64 `json:"temperature"`  // °C
	SMClock     *int64 `json:"sm_clock"`     // MHz
	MemoryClock *int64 `json:"memory_clock"` // MHz
	// EventReasons are the bits that say why the clocks are what they are, by
	// NVML's numbers.
	EventReasons   *uint64 `json:"event_reasons"`
	ECCCorrected   *int64  `json:"ecc_corrected"` // since the driver was loaded
	ECCUncorrected *int64  `json:"ecc_uncorrected"`
	// Processes that compute on the card: nil where not known, empty where none.
	Processes []Process `json:"processes"`
}

// Process is one that computes on a card. Its pid is the host's: inside a
// container it may be another process's, or nobody's.
type Process struct {
	PID    int    `json:"pid"`
	Memory *int64 `json:"memory"` // bytes
}

// XID is an error that the driver reports of a card, by NVIDIA's number.
type XID struct {
	UUID string `json:"uuid"` // "" where the driver does not say which card
	Code uint64 `json:"code"`
}

// Message is one line of the helper: readings of all cards, or an XID, or the
// reason why it ends. It has exactly one of the three.
type Message struct {
	Driver string    `json:"driver,omitempty"` // with cards: the driver's version
	Cards  []Reading `json:"cards,omitempty"`
	XID    *XID      `json:"xid,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// ParseMessage reads a line of the helper. A line that is not one is an error: a
// figure from it would be a guess.
func ParseMessage(line []byte) (Message, error) {
	var m Message
	if err := parseLine(line, &m); err != nil {
		return Message{}, err
	}
	parts := 0
	for _, has := range []bool{len(m.Cards) > 0, m.XID != nil, m.Error != ""} {
		if has {
			parts++
		}
	}
	if parts != 1 {
		return Message{}, fmt.Errorf("line %s: neither cards nor an XID nor an error, or several of them", excerpt(line))
	}
	if err := check(m.Cards); err != nil {
		return Message{}, fmt.Errorf("line %s: %w", excerpt(line), err)
	}
	return m, nil
}

// check refuses what no card can say.
func check(cards []Reading) error {
	seen := map[string]bool{}
	for _, c := range cards {
		switch {
		case c.UUID == "":
			return fmt.Errorf("card %d has no UUID", c.Index)
		case seen[c.UUID]:
			return fmt.Errorf("card %q is there twice", c.UUID)
		case c.Index < 0:
			return fmt.Errorf("card %q has the index %d", c.UUID, c.Index)
		}
		seen[c.UUID] = true
		if c.Utilisation != nil && *c.Utilisation > 100 {
			return fmt.Errorf("card %q: utilisation %d%%", c.UUID, *c.Utilisation)
		}
		if c.MemoryUsed != nil && c.MemoryTotal != nil && *c.MemoryUsed > *c.MemoryTotal {
			return fmt.Errorf("card %q: %d of %d bytes used", c.UUID, *c.MemoryUsed, *c.MemoryTotal)
		}
		amounts := []*int64{c.Utilisation, c.MemoryUsed, c.MemoryTotal, c.Power, c.PowerLimit, c.Energy,
			c.SMClock, c.MemoryClock, c.ECCCorrected, c.ECCUncorrected}
		for _, p := range c.Processes {
			amounts = append(amounts, p.Memory)
		}
		for _, n := range amounts {
			if n != nil && *n < 0 {
				return fmt.Errorf("card %q: a figure of %d", c.UUID, *n)
			}
		}
	}
	return nil
}

// excerpt quotes the beginning of what a program wrote.
func excerpt(line []byte) string {
	const enough = 200
	if len(line) > enough {
		return fmt.Sprintf("%q...", line[:enough])
	}
	return fmt.Sprintf("%q", line)
}

// reasonNames are the bits of EventReasons by NVML's names
// (nvmlClocksEventReason... in nvml.h).
var reasonNames = []struct {
	bit  uint64
	name string
}{
	{1, "idle"},
	{2, "applications_clocks"},
	{4, "sw_power_cap"},
	{8, "hw_slowdown"},
	{16, "sync_boost"},
	{32, "sw_thermal_slowdown"},
	{64, "hw_thermal_slowdown"},
	{128, "hw_power_brake"},
	{256, "display_clocks"},
}
