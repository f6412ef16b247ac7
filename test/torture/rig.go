package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"spotinference/billing/sim"
	"spotinference/ledger"
)

const (
	sampleEvery  = time.Second
	maxSampleAge = 3 * time.Second
	billLag      = 3 * sampleEvery // the least that serve takes from a calibration
	ratePerHour  = 3600 * dollar
	budgetPerDay = 40 * dollar // less than a minute's bill
	dollar       = 1_000_000_000

	closeGrace = 2 * time.Second
	// headroom is what serve keeps free of the budget by itself: the bill's step and lag,
	// the interval and the grace, at a dollar a second.
	headroom = (1 + int64((billLag+sampleEvery+closeGrace)/time.Second)) * dollar

	apiKey      = "sk-torture-0001"
	providerKey = "provider-key-0001"
	instance    = 701234
)

// rig is the binary in its surroundings, and what is known of it from outside.
type rig struct {
	dir    string // everything; kept as evidence where a promise is broken
	bin    string
	disk   string // of the ledger alone
	noDisk error  // why it cannot be filled
	ledger string

	world   *world
	cloud   *sim.Sim
	stop    []func() // in reverse
	gateway *gateway
	clients *clients
	seed    uint64

	rows     map[string]bool // ids that were accounted for
	nameless map[string]int  // attempts without an id, less the rows that are theirs, by dialect
	first    *footprint      // of the gateway that runs
	dark     []span          // when the provider gave no bill
	frozen   []span          // when its bill stood still
	full     []span          // when the disk was
	refunds  []time.Time     // real
	tally    *tally
}

// span is a time in which something was wrong; To is zero while it lasts.
type span struct{ From, To time.Time }

func (s span) touches(from, to time.Time) bool {
	return !s.From.After(to) && (s.To.IsZero() || !s.To.Before(from))
}

func newRig(seed uint64, noDisk error) (r *rig, err error) {
	r = &rig{noDisk: noDisk, seed: seed, rows: map[string]bool{}, nameless: map[string]int{}, tally: newTally()}
	if r.dir, err = os.MkdirTemp("", "torture-"); err != nil {
		return nil, err
	}
	made := r // what is returned after an error is nil
	defer func() {
		if err != nil {
			made.halt()
			os.RemoveAll(made.dir)
		}
	}()
	r.disk = filepath.Join(r.dir, "disk")
	r.ledger = filepath.Join(r.disk, "ledger.db")
	if err := os.Mkdir(r.disk, 0o700); err != nil {
		return nil, err
	}
	if r.noDisk == nil {
		if err := mountDisk(r.disk); err != nil {
			fmt.Println("torture: the disk cannot be filled here, that fault is not run:", err)
			r.noDisk = err
		}
	}
	if err := r.build(); err != nil {
		return nil, err
	}
	if r.world, err = newWorld(filepath.Join(r.dir, "clock")); err != nil {
		return nil, err
	}
	if err := r.openCloud(); err != nil {
		return nil, err
	}
	if err := r.calibrate(); err != nil {
		return nil, err
	}
	return r, r.start()
}

// build makes the binary, and gives our own the place of nvidia-smi.
func (r *rig) build() error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	path := filepath.Join(r.dir, "bin")
	r.bin = filepath.Join(path, "spotinference")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-tags", "torture", "-o", r.bin, ".")
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return os.Symlink(self, filepath.Join(path, smiName))
}

func (r *rig) openCloud() (err error) {
	r.cloud, err = sim.New(sim.Config{Key: providerKey, Now: r.world.now, Credit: 1_000_000_000 * dollar,
		VM: sim.VM{ID: instance, RatePerHour: ratePerHour}})
	if err != nil {
		return err
	}
	if err := r.cloud.Listen("127.0.0.1:0"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.cloud.Run(ctx) }()
	r.stop = append(r.stop, func() { cancel(); <-done })
	return nil
}

// calibrate notes what a probe would have measured: the bill moves every second.
func (r *rig) calibrate() error {
	led, err := ledger.Open(ledger.Config{Path: r.ledger})
	if err != nil {
		return err
	}
	return errors.Join(led.SetCalibration(ledger.Calibration{Provider: "hyperstack", Account: "1234", Step: time.Second, Lag: time.Second,
		At: r.world.now()}), led.Close())
}

// start starts the gateway on a port that is free now.
func (r *rig) start() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := ln.Addr().String()
	ln.Close()
	log, err := os.Create(filepath.Join(r.dir, "serve.log"))
	if err != nil {
		return err
	}
	r.clients = &clients{url: "http://" + addr, key: apiKey, bad: []string{"sk-guessed", "", apiKey + "1"}}
	r.gateway = &gateway{dir: r.dir, log: log, done: make(chan struct{}),
		command: []string{r.bin, "serve", "--listen", addr, "--log-format", "json", "--ledger", r.ledger,
			"--provider", "hyperstack", "--provider-url", r.cloud.URL(), "--instance", strconv.Itoa(instance),
			"--budget", ledger.Nanos(budgetPerDay).String(), "--sample-every", sampleEvery.String(), "--max-sample-age", maxSampleAge.String(),
			"--close-grace", closeGrace.String(), "--drain", "3s", "--idle", "4s", "--suspend", "stop", "--wake-timeout", "20s", "--stall-timeout", "20s", "--engine", "llama", "--",
			r.bin, "sim-engine", "--alias", "sim", "--load", "300ms", "--tokens", "400", "--linger", "200ms", "--embeddings", "-np", "8"},
		env: r.env()}
	go r.gateway.run()
	r.stop = append(r.stop, func() { r.gateway.end(); log.Close() })
	return nil
}

func (r *rig) env() []string {
	return []string{"PATH=" + filepath.Dir(r.bin) + ":" + os.Getenv("PATH"), "HOME=" + r.dir, "TMPDIR=" + r.dir, "XDG_RUNTIME_DIR=" + r.dir,
		"TORTURE_CLOCK=" + filepath.Join(r.dir, "clock"), "TORTURE_RUN=" + r.dir,
		"SPOTINFERENCE_API_KEY=" + apiKey, "HYPERSTACK_API_KEY=" + providerKey}
}

func (r *rig) halt() {
	for i := len(r.stop) - 1; i >= 0; i-- {
		r.stop[i]()
	}
	r.stop = nil
}

// close ends all, and keeps the evidence where there was an error: the disk goes with
// this process.
func (r *rig) close(failed error) error {
	r.halt()
	if failed == nil {
		return errors.Join(r.unmount(), os.RemoveAll(r.dir))
	}
	files, err := filepath.Glob(r.ledger + "*")
	for _, name := range files {
		err = errors.Join(err, copyFile(name, filepath.Join(r.dir, "evidence-"+filepath.Base(name))))
	}
	fmt.Fprintf(os.Stderr, "torture: evidence in %s\n", r.dir)
	return err
}

func (r *rig) unmount() error {
	if r.noDisk != nil {
		return nil
	}
	return unmountDisk(r.disk)
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if st, err := src.Stat(); err != nil || !st.Mode().IsRegular() {
		return err
	}
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// reading opens the ledger as anybody may, and closes it after f.
func (r *rig) reading(f func(*ledger.Reader, *sql.DB) error) error {
	led, err := ledger.OpenReader(r.ledger, false)
	if err != nil {
		return err
	}
	defer led.Close()
	db, err := sql.Open("sqlite", "file:"+r.ledger+"?mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer db.Close()
	return f(led, db)
}
