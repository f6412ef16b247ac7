package gpu

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// holding is what some processes hold of the cards.
type holding struct {
	pids  []int // those that are listed
	cards int   // on how many cards
	bytes int64
}

// holding sums what the cards list of pids. It is an error where a card does not list
// its processes, or one of them without its memory: the sum would be too small.
//
// That none is listed may mean that none holds any, or that the driver lists other
// numbers than ours: inside a container it did so before it knew of pid namespaces
// (nvidia-docker #1483), and newer ones that do list 0 bytes there
// (open-gpu-kernel-modules pull 614). A process that computes holds more than none,
// so 0 says something only of one that was seen to hold more.
func (s Snapshot) holding(pids []int) (h holding, err error) {
	for _, c := range s.Cards {
		if c.Processes == nil {
			return holding{}, fmt.Errorf("%s does not list the processes of card %d", s.Source, c.Index)
		}
		here := 0
		for _, p := range c.Processes {
			if !slices.Contains(pids, p.PID) {
				continue
			}
			if p.Memory == nil {
				return holding{}, fmt.Errorf("%s does not say what process %d holds", s.Source, p.PID)
			}
			here++
			h.bytes += *p.Memory
			if !slices.Contains(h.pids, p.PID) {
				h.pids = append(h.pids, p.PID)
			}
		}
		if here > 0 {
			h.cards++
		}
	}
	return h, nil
}

// Held is how many bytes of the cards' memory the driver lists as held by pids, by
// the first readings that reach us after the call. An error says why it is not known.
// 0 says that they let go of it only where it was more before: see holding.
func (m *Monitor) Held(ctx context.Context, pids []int) (int64, error) {
	asked := time.Now()
	for {
		s := m.Latest()
		if s.Source == None {
			return 0, fmt.Errorf("the cards are not read: %s", s.Reason)
		}
		if s.At.After(asked) {
			h, err := s.holding(pids)
			return h.bytes, err
		}
		select {
		case <-s.replaced:
		case <-ctx.Done():
			return 0, fmt.Errorf("no reading came: %w", context.Cause(ctx))
		}
	}
}
