//go:build cgo && linux && helper

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	mockserver "github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"

	"spotinference/gpu"
)

func ptr[T any](v T) *T { return &v }

// once is a tick for one reading: serve reads, and ends.
func once() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}

// messages serves lib and reads what it wrote, as the gateway does.
func messages(t *testing.T, lib library, tick <-chan time.Time) (all []gpu.Message, err error) {
	t.Helper()
	var out bytes.Buffer
	err = serve(lib, &out, tick)
	for line := range strings.Lines(out.String()) {
		m, err := gpu.ParseMessage([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all, err
}

// h100 is NVIDIA's own mock of a machine with eight cards, with what a reading
// asks for beyond what it has. It has no event set: an XID is another test's.
func h100() (*mockserver.Server, []*mockserver.Device) {
	s := dgxh100.New()
	s.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return nil, nvml.ERROR_NOT_SUPPORTED }
	var devices []*mockserver.Device
	for i := range s.Devices {
		d := s.Devices[i].(*mockserver.Device)
		d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{Gpu: uint32(i)}, nvml.SUCCESS }
		d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 70_250, nvml.SUCCESS }
		d.GetEnforcedPowerLimitFunc = func() (uint32, nvml.Return) { return 700_000, nvml.SUCCESS }
		d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 1 << 53, nvml.SUCCESS }
		d.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 31, nvml.SUCCESS }
		d.GetClockInfoFunc = func(c nvml.ClockType) (uint32, nvml.Return) {
			return map[nvml.ClockType]uint32{nvml.CLOCK_SM: 1980, nvml.CLOCK_MEM: 2619}[c], nvml.SUCCESS
		}
		d.GetCurrentClocksEventReasonsFunc = func() (uint64, nvml.Return) { return 4, nvml.SUCCESS }
		d.GetTotalEccErrorsFunc = func(e nvml.MemoryErrorType, _ nvml.EccCounterType) (uint64, nvml.Return) {
			return map[nvml.MemoryErrorType]uint64{nvml.MEMORY_ERROR_TYPE_CORRECTED: 3}[e], nvml.SUCCESS
		}
		d.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) {
			return nvml.Memory_v2{Total: 80 << 30, Reserved: 1 << 30, Used: 20 << 30}, nvml.SUCCESS
		}
		d.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) {
			return []nvml.ProcessInfo{{Pid: 7, UsedGpuMemory: 20 << 30}, {Pid: 8, UsedGpuMemory: ^uint64(0)}}, nvml.SUCCESS
		}
		devices = append(devices, d)
	}
	return s, devices
}

func TestReadingOfAMock(t *testing.T) {
	lib, devices := h100()
	all, err := messages(t, lib, once())
	if err != nil || len(all) != 1 || len(all[0].Cards) != len(devices) {
		t.Fatalf("messages %+v, %v", all, err)
	}
	if all[0].Driver == "" {
		t.Error("no driver's version")
	}
	want := gpu.Reading{
		Index: 5, UUID: devices[5].UUID, Name: "NVIDIA H100 80GB HBM3", Utilisation: ptr(int64(5)),
		MemoryUsed: ptr(int64(20 << 30)), MemoryTotal: ptr(int64(80 << 30)), Power: ptr(int64(70_250)), PowerLimit: ptr(int64(700_000)),
		Energy: ptr(int64(1 << 53)), Temperature: ptr(int64(31)), SMClock: ptr(int64(1980)), MemoryClock: ptr(int64(2619)),
		EventReasons: ptr(uint64(4)), ECCCorrected: ptr(int64(3)), ECCUncorrected: ptr(int64(0)),
		Processes: []gpu.Process{{PID: 7, Memory: ptr(int64(20 << 30))}, {PID: 8}},
	}
	if got := all[0].Cards[5]; !reflect.DeepEqual(got, want) {
		t.Errorf("card 5:\n got %+v\nwant %+v", got, want)
	}
}

// What a card does not have is unknown, and what its driver lacks is never called:
// in the mock a call that was not prepared panics, in the library it aborts.
func TestWhatADriverLacks(t *testing.T) {
	lib, devices := h100()
	lib.LookupSymbolFunc = func(name string) error {
		switch name {
		case "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo",
			"nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption":
			return nil
		}
		return fmt.Errorf("undefined symbol: %s", name)
	}
	lib.SystemGetDriverVersionFunc, lib.EventSetCreateFunc = nil, nil
	for _, d := range devices {
		uuid, memory := d.GetUUIDFunc, d.GetMemoryInfoFunc
		d.Device = mock.Device{GetUUIDFunc: uuid, GetMemoryInfoFunc: memory}
		d.GetCurrentClocksThrottleReasonsFunc = func() (uint64, nvml.Return) { return 8, nvml.SUCCESS }
		d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
		d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 5, nvml.ERROR_GPU_IS_LOST }
	}
	all, err := messages(t, lib, once())
	if err != nil || len(all) != 1 {
		t.Fatalf("messages %+v, %v", all, err)
	}
	memory, _ := devices[0].GetMemoryInfo()
	want := gpu.Reading{UUID: devices[0].UUID, EventReasons: ptr(uint64(8)), MemoryTotal: ptr(int64(memory.Total)), MemoryUsed: ptr(int64(memory.Used))}
	if got := all[0].Cards[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("card 0:\n got %+v\nwant %+v", got, want)
	}
}

// The reason for an end is a line, and an error.
func TestWhatEndsIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*mockserver.Server, []*mockserver.Device)
		want   string
	}{
		{"no library", func(s *mockserver.Server, _ []*mockserver.Device) {
			s.InitFunc = func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }
		}, "initialise NVML: libnvidia-ml.so.1 not found: no NVIDIA driver here, or none for this container"},
		{"no driver, no words", func(s *mockserver.Server, _ []*mockserver.Device) {
			s.InitFunc = func() nvml.Return { return nvml.ERROR_DRIVER_NOT_LOADED }
			s.LookupSymbolFunc = func(string) error { return fmt.Errorf("undefined") }
		}, "initialise NVML: error 9"},
		{"a library of too little", func(s *mockserver.Server, _ []*mockserver.Device) {
			s.LookupSymbolFunc = func(string) error { return fmt.Errorf("undefined") }
		}, `this driver ("") lacks nvmlDeviceGetCount_v2`},
		{"no card", func(s *mockserver.Server, _ []*mockserver.Device) {
			s.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.SUCCESS }
		}, "the driver sees no card"},
		{"no word of the cards", func(s *mockserver.Server, _ []*mockserver.Device) {
			s.LookupSymbolFunc = func(name string) error {
				if name == "nvmlErrorString" {
					return fmt.Errorf("undefined")
				}
				return nil
			}
			s.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_NO_PERMISSION }
		}, "count the cards: error 4"},
		{"the driver goes away", func(s *mockserver.Server, d []*mockserver.Device) {
			s.LookupSymbolFunc = func(name string) error {
				if name == "nvmlErrorString" {
					return fmt.Errorf("undefined")
				}
				return nil
			}
			d[3].GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_UNINITIALIZED }
		}, "read card 3: error 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lib, devices := h100()
			c.change(lib, devices)
			all, err := messages(t, lib, once())
			if err == nil || err.Error() != c.want {
				t.Errorf("serve: %v, want %s", err, c.want)
			}
			if len(all) != 1 || all[0].Error != c.want {
				t.Errorf("wrote %+v, want the reason", all)
			}
		})
	}
}

// XIDs come as they happen, with the card that they are of.
func TestXIDsOfAMock(t *testing.T) {
	lib, devices := h100()
	events := make(chan nvml.EventData, 3)
	events <- nvml.EventData{Device: devices[2], EventType: nvml.EventTypeXidCriticalError, EventData: 79}
	events <- nvml.EventData{Device: devices[0], EventType: nvml.EventTypePState, EventData: 1}
	events <- nvml.EventData{EventType: nvml.EventTypeXidCriticalError, EventData: 31} // of a card that is unknown
	waits := 0
	set := &mock.EventSet{WaitFunc: func(uint32) (nvml.EventData, nvml.Return) {
		if waits++; waits == 1 {
			return nvml.EventData{}, nvml.ERROR_TIMEOUT
		}
		select {
		case e := <-events:
			return e, nvml.SUCCESS
		default:
			return nvml.EventData{}, nvml.ERROR_GPU_IS_LOST
		}
	}}
	lib.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return set, nvml.SUCCESS }
	for i, d := range devices {
		d.GetSupportedEventTypesFunc = func() (uint64, nvml.Return) {
			if i == 1 {
				return 0, nvml.ERROR_NOT_SUPPORTED
			}
			return nvml.EventTypeXidCriticalError | nvml.EventTypePState, nvml.SUCCESS
		}
		d.RegisterEventsFunc = func(types uint64, _ nvml.EventSet) nvml.Return {
			if i == 1 || types != nvml.EventTypeXidCriticalError {
				t.Errorf("card %d registers %d", i, types)
			}
			return nvml.SUCCESS
		}
	}
	d, err := open(lib)
	if err != nil {
		t.Fatal(err)
	}
	var got []gpu.XID
	d.watchXIDs(func(x gpu.XID) { got = append(got, x) })
	if want := []gpu.XID{{UUID: devices[2].UUID, Code: 79}, {Code: 31}}; !reflect.DeepEqual(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

// buildDir is where the helper is built; it is removed after the tests.
var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "spotinference-helper-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// program builds the helper as scripts/release does.
var program = sync.OnceValues(func() (string, error) {
	// go build would link anew each time; go run keeps what it linked.
	build := exec.Command("go", "run", "-exec", "cp -t '"+buildDir+"'", "-tags", "helper", "-ldflags", "-extldflags=-Wl,-z,lazy", ".")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the helper: %w\n%s", err, out)
	}
	return filepath.Join(buildDir, "helper"), nil
})

// running is the real helper over a stand-in for the driver's library.
type running struct {
	cmd   *exec.Cmd
	stdin io.Closer // its end is the helper's
	lines *bufio.Scanner
	err   bytes.Buffer // stderr
	mode  string       // the file that tells the library what to do wrong
}

func run(t *testing.T, flags ...string) *running {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &running{cmd: exec.Command(bin), mode: filepath.Join(dir, "mode")}
	args := append([]string{"-shared", "-fPIC", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), "-DMODE=\"" + r.mode + "\"", "testdata/standin.c"}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	r.cmd.Env = []string{"LD_LIBRARY_PATH=" + dir}
	r.cmd.Stderr = &r.err
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.lines = bufio.NewScanner(stdout)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	})
	return r
}

// next is the next message, readings or not.
func (r *running) next(t *testing.T) gpu.Message {
	t.Helper()
	if !r.lines.Scan() {
		t.Fatalf("the helper ended: %v %s", r.lines.Err(), r.err.String())
	}
	m, err := gpu.ParseMessage(r.lines.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// cards is the next message with cards.
func (r *running) cards(t *testing.T) gpu.Message {
	t.Helper()
	for {
		if m := r.next(t); len(m.Cards) > 0 {
			return m
		}
	}
}

func TestAStandIn(t *testing.T) {
	r := run(t)
	var seen gpu.Message
	for seen.XID == nil || len(seen.Cards) == 0 {
		m := r.next(t)
		if m.XID != nil {
			seen.XID = m.XID
		} else {
			seen.Driver, seen.Cards = m.Driver, m.Cards
		}
	}
	const uuid = "GPU-00000000-0000-0000-0000-000000000001"
	if *seen.XID != (gpu.XID{UUID: uuid, Code: 79}) || seen.Driver != "570.86.15" {
		t.Errorf("XID %+v, driver %q", seen.XID, seen.Driver)
	}
	got := seen.Cards[0]
	if got.Energy == nil || *got.Energy < 1000 {
		t.Errorf("energy %v", got.Energy)
	}
	got.Energy = nil
	want := gpu.Reading{
		UUID: uuid, Name: "Stand-in", Utilisation: ptr(int64(42)), Power: ptr(int64(250_000)),
		MemoryUsed: ptr(int64(20 << 30)), MemoryTotal: ptr(int64(80 << 30)), Processes: []gpu.Process{{PID: 4242}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("card:\n got %+v\nwant %+v", got, want)
	}
}

// A library of long ago lacks nearly all of what is asked for, and nothing aborts.
func TestAnOldStandIn(t *testing.T) {
	r := run(t, "-DOLD")
	want := gpu.Reading{UUID: "GPU-00000000-0000-0000-0000-000000000001", MemoryUsed: ptr(int64(1 << 30)), MemoryTotal: ptr(int64(16 << 30))}
	for range 2 {
		if got := r.cards(t); !reflect.DeepEqual(got.Cards, []gpu.Reading{want}) || got.Driver != "" {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// A card that is lost has no figures, and is there.
func TestALostCard(t *testing.T) {
	r := run(t)
	if got := r.cards(t).Cards[0]; got.Utilisation == nil {
		t.Errorf("before: %+v", got)
	}
	r.set(t, "lost")
	for {
		got := r.cards(t).Cards[0]
		if got.Utilisation == nil && got.Power == nil && got.Energy == nil && got.MemoryUsed == nil && got.Processes == nil {
			return
		}
	}
}

// set makes the library do something wrong from its next reading on.
func (r *running) set(t *testing.T, mode string) {
	t.Helper()
	next := r.mode + ".next"
	if err := os.WriteFile(next, []byte(mode), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, r.mode); err != nil {
		t.Fatal(err)
	}
}

func TestADriverThatGoesAway(t *testing.T) {
	r := run(t)
	r.cards(t)
	r.set(t, "unloaded")
	for {
		m := r.next(t)
		if m.Error == "" {
			continue
		}
		if m.Error != "read card 0: Driver Not Loaded" {
			t.Errorf("reason %q", m.Error)
		}
		break
	}
	if err := r.cmd.Wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("ended with %v", err)
	}
}

// A library that aborts takes the helper with it, and nobody else.
func TestALibraryThatAborts(t *testing.T) {
	r := run(t)
	r.cards(t)
	r.set(t, "abort")
	for r.lines.Scan() {
	}
	if err := r.cmd.Wait(); err == nil || !strings.Contains(r.err.String(), "SIGABRT") {
		t.Errorf("ended with %v: %s", err, r.err.String())
	}
}

// A library without even an Init cannot be asked what it has: the helper dies of
// it, and the gateway sees how.
func TestALibraryWithoutInit(t *testing.T) {
	r := run(t, "-DOLD", "-DnvmlInit=unheard")
	for r.lines.Scan() {
	}
	if err := r.cmd.Wait(); err == nil || !strings.Contains(r.err.String(), "nvmlInit") {
		t.Errorf("ended with %v: %s", err, r.err.String())
	}
}

// The end of stdin ends a helper that hangs in the library.
func TestAHangEndsWithStdin(t *testing.T) {
	r := run(t)
	r.cards(t)
	r.set(t, "hang")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(r.mode + ".hangs"); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal("the library does not hang")
		}
	}
	if err := r.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	for r.lines.Scan() {
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// Without a driver it says so, and ends.
func TestNoLibrary(t *testing.T) {
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/driver/nvidia"); err == nil {
		t.Skip("this machine has a driver")
	}
	cmd := exec.Command(bin)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.Output()
	if err == nil || err.Error() != "exit status 1" {
		t.Errorf("ended with %v", err)
	}
	m, err := gpu.ParseMessage(bytes.TrimSpace(out))
	if err != nil || !strings.Contains(m.Error, "libnvidia-ml.so.1 not found") {
		t.Errorf("wrote %s, %v", out, err)
	}
}
