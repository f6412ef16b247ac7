package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// GPUMinute is what one GPU did after Since, up to and including At: a minute,
// or the part of one that was seen. A nil figure is "not known", never zero.
type GPUMinute struct {
	UUID      string // the driver's id of the GPU
	Name      string // product name
	Source    string // who read the GPU: "helper", "nvidia-smi"
	Since, At time.Time
	Readings  int64

	UtilisationAvg *int64 // hundredths of a percent
	UtilisationMax *int64 // percent
	MemoryAvg      *int64 // bytes
	MemoryMax      *int64
	PowerAvg       *int64 // mW
	PowerMax       *int64
	TemperatureMax *int64 // °C
	Energy         *int64 // mJ, a difference of the GPU's counter
}

// AddGPUMinute writes what a GPU did. One that is written already is refused:
// two rows of one instant would count its energy twice.
func (l *Ledger) AddGPUMinute(m GPUMinute) error {
	switch {
	case m.UUID == "" || m.Source == "":
		return fmt.Errorf("minute of card %q read by %q: %w", m.UUID, m.Source, ErrRefused)
	case m.Since.After(m.At) || m.Readings < 1:
		return fmt.Errorf("minute of card %q from %s to %s with %d readings: %w", m.UUID, m.Since, m.At, m.Readings, ErrRefused)
	case m.Energy != nil && *m.Energy < 0:
		return fmt.Errorf("minute of card %q with an energy of %d mJ: %w", m.UUID, *m.Energy, ErrRefused)
	}
	return l.submit(context.Background(), func(w *batch) error {
		var gpu int64
		err := w.scan("SELECT id FROM gpu WHERE uuid = ?", []any{m.UUID}, &gpu)
		if errors.Is(err, sql.ErrNoRows) {
			gpu, _, err = w.insert(tableGPU, nil, m.UUID, m.Name)
		}
		if err != nil {
			return fmt.Errorf("card: %w", err)
		}
		_, added, err := w.insert(tableGPUMinute, micros(m.At), gpu, micros(m.Since), m.Source, m.Readings, m.UtilisationAvg, m.UtilisationMax,
			m.MemoryAvg, m.MemoryMax, m.PowerAvg, m.PowerMax, m.TemperatureMax, m.Energy)
		if err != nil {
			return fmt.Errorf("minute of card %q: %w", m.UUID, err)
		}
		if !added {
			return fmt.Errorf("minute of card %q at %s is there already: %w", m.UUID, m.At, ErrRefused)
		}
		return nil
	})
}
