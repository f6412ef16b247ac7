//go:build cgo && linux && helper

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"spotinference/gpu"
)

// serve writes the cards' readings at every tick, and their XIDs as they come. It
// returns when there is nothing left to read, with the reason, which it has
// written, too; nil when tick is closed.
func serve(lib library, out io.Writer, tick <-chan time.Time) error {
	w := &lineWriter{json: json.NewEncoder(out)}
	d, err := open(lib)
	if err == nil {
		go d.watchXIDs(func(x gpu.XID) { _ = w.write(gpu.Message{XID: &x}) })
		err = d.readEvery(tick, w)
	}
	if err != nil {
		return errors.Join(err, w.write(gpu.Message{Error: err.Error()}))
	}
	return nil
}

func (d *driver) readEvery(tick <-chan time.Time, w *lineWriter) error {
	for {
		m := gpu.Message{Driver: d.version}
		for _, c := range d.cards {
			r, err := c.read()
			if err != nil {
				return err
			}
			m.Cards = append(m.Cards, r)
		}
		if err := w.write(m); err != nil {
			return err
		}
		if _, ok := <-tick; !ok {
			return nil
		}
	}
}

// lineWriter writes whole lines from several goroutines.
type lineWriter struct {
	mu   sync.Mutex
	json *json.Encoder // guarded by mu
}

func (w *lineWriter) write(m gpu.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.json.Encode(m); err != nil {
		return fmt.Errorf("write a line: %w", err)
	}
	return nil
}

// library is what we need of NVML. nvml.Interface has it.
type library interface {
	Init() nvml.Return
	Extensions() nvml.ExtendedInterface
	SystemGetDriverVersion() (string, nvml.Return)
	DeviceGetCount() (int, nvml.Return)
	DeviceGetHandleByIndex(int) (nvml.Device, nvml.Return)
	EventSetCreate() (nvml.EventSet, nvml.Return)
}

// driver is NVML, initialised, and what is known of it for good.
type driver struct {
	lib     library
	version string // "" where not known
	cards   []*card
}

// has tells whether the driver has one of the symbols. To call one that it lacks
// would abort us. Where go-nvml knows several versions of a call it takes the
// newest that the driver has, so that any of them will do.
func (d *driver) has(symbols ...string) bool {
	for _, s := range symbols {
		if d.lib.Extensions().LookupSymbol(s) == nil {
			return true
		}
	}
	return false
}

// failed is what NVML answered, in its own words where it has them.
func (d *driver) failed(call string, ret nvml.Return) error {
	switch {
	case ret == nvml.ERROR_LIBRARY_NOT_FOUND:
		return fmt.Errorf("%s: libnvidia-ml.so.1 not found: no NVIDIA driver here, or none for this container", call)
	case d.has("nvmlErrorString"):
		return fmt.Errorf("%s: %s", call, ret.Error())
	}
	return fmt.Errorf("%s: error %d", call, ret)
}

func open(lib library) (*driver, error) {
	d := &driver{lib: lib}
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return nil, d.failed("initialise NVML", ret)
	}
	if d.has("nvmlSystemGetDriverVersion") {
		if v, ret := lib.SystemGetDriverVersion(); ret == nvml.SUCCESS {
			d.version = v
		}
	}
	// Without these there is nothing to read.
	for _, symbols := range [][]string{
		{"nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"},
		{"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"},
		{"nvmlDeviceGetUUID"},
	} {
		if !d.has(symbols...) {
			return nil, fmt.Errorf("this driver (%q) lacks %s", d.version, symbols[0])
		}
	}
	n, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, d.failed("count the cards", ret)
	}
	if n == 0 {
		return nil, errors.New("the driver sees no card")
	}
	for i := range n {
		dev, ret := lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			return nil, d.failed(fmt.Sprintf("open card %d", i), ret)
		}
		c, err := d.newCard(i, dev)
		if err != nil {
			return nil, err
		}
		d.cards = append(d.cards, c)
	}
	return d, nil
}
