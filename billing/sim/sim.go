// Package sim is a cloud that does not exist: an HTTP server that speaks several
// providers' APIs over one account, whose bill grows every second. The demo and the
// tests sample it; it says that it is a simulator in every reply's Server header.
//
// It knows one virtual machine, its volumes, and what they have cost to the
// nano-unit: rates are whole nano-USD a second, and a second counts when it is
// over. It keeps books of its own, so that somebody else's ledger can be compared
// with them. It refuses to know anything of that ledger: it imports nothing of ours.
//
//	cloud, err := sim.New(sim.Config{Key: "demo-key-0000"})
//	err = cloud.Listen("127.0.0.1:0")
//	go cloud.Run(ctx)
//	account := cloud.Account("hyperstack", "")
//	p, err := billing.New("hyperstack", api.Options{URL: account.URL, Getenv: account.Getenv, ...})
//
// A provider's API is one file. Beside them there is the simulator's own side, with no
// key asked for:
//
//	GET  /sim/books?from=RFC3339&to=RFC3339     what everything cost between the two
//	GET  /sim/answers                           every bill that was given out
//	POST /sim/fault?mode=MODE&times=N&only=PART how to misbehave from now on
//	GET  /sim/fault                             the fault in force
//	POST /sim/status?status=HIBERNATED          another state of the machine
//	POST /sim/other?nanos=N                     something else on the account costs so much an hour
//	POST /sim/topup?nanos=N                     money comes in
package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config describes the simulated account. Its zero value, but for Key, is the
// demo's.
type Config struct {
	Key     string // what the api_key header must hold; required
	Org     int64
	VM      VM
	Volumes []Volume // nil is the demo's volume, empty is none

	Snapshots []Snapshot // of the machine; Hyperstack's API alone has them
	Credit    int64      // nano-USD on the account before anything was spent
	Now       func() time.Time
}

// VM is the machine. Rates are nano-USD an hour, and a whole number of them a
// second, so that no bill is ever rounded.
type VM struct {
	ID                int64
	Name              string
	FixedIP           string
	Born              time.Time
	RatePerHour       int64 // while ACTIVE or SHUTOFF
	HibernatedPerHour int64 // while HIBERNATED; other states are free
	Contract          int64 // 0 for none
}

// Volume hangs on the machine.
type Volume struct {
	ID          int64
	Name        string
	SizeGB      int64
	Born        time.Time
	RatePerHour int64
}

// Snapshot is kept of the machine.
type Snapshot struct {
	ID          int64
	Born        time.Time
	RatePerHour int64
}

// Sim is the simulated cloud.
type Sim struct {
	cfg Config
	mux *http.ServeMux

	mu       sync.Mutex
	vm       *resource   // guarded by mu
	volumes  []*resource // guarded by mu, elements too
	snaps    []*resource // guarded by mu, elements too
	other    *resource   // guarded by mu; the account's, and no line of this machine's bill
	answers  []Answer    // guarded by mu
	fault    Fault       // guarded by mu
	frozenAt int64       // guarded by mu; the second that the bill shows while Frozen
	changed  chan struct{}

	listener net.Listener // set by Listen, taken by Run
	url      string
}

// Answer is a bill that was given out.
type Answer struct {
	At       time.Time `json:"at"`
	Resource string    `json:"resource"`
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Nanos    int64     `json:"nanos"`
}

const keptAnswers = 100_000

// New checks cfg and starts nothing.
func New(cfg Config) (*Sim, error) {
	if cfg.Key == "" {
		return nil, errors.New("sim: a key is required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	now := cfg.Now()
	defaultTo(&cfg.Org, 1234)
	defaultTo(&cfg.Credit, 100_000_000_000)
	defaultTo(&cfg.VM.ID, 701234)
	defaultTo(&cfg.VM.Name, "demo-h100")
	defaultTo(&cfg.VM.FixedIP, "10.0.0.113")
	defaultTo(&cfg.VM.Born, now)
	defaultTo(&cfg.VM.RatePerHour, 2_520_000_000)    // 700 µUSD a second
	defaultTo(&cfg.VM.HibernatedPerHour, 10_800_000) // 3 µUSD a second
	if cfg.Volumes == nil {
		cfg.Volumes = []Volume{{ID: 45678, Name: "models", SizeGB: 200, RatePerHour: 21_600_000}} // 6 µUSD a second
	}
	s := &Sim{cfg: cfg, changed: make(chan struct{})}
	var err error
	if s.vm, err = newResource("vm", cfg.VM.ID, cfg.VM.Born, cfg.VM.RatePerHour); err != nil {
		return nil, err
	}
	if cfg.VM.HibernatedPerHour%3600 != 0 {
		return nil, fmt.Errorf("sim: %d nano-USD an hour is not a whole number a second", cfg.VM.HibernatedPerHour)
	}
	for i := range cfg.Volumes {
		v := &cfg.Volumes[i]
		defaultTo(&v.Born, cfg.VM.Born)
		r, err := newResource("volume", v.ID, v.Born, v.RatePerHour)
		if err != nil {
			return nil, err
		}
		s.volumes = append(s.volumes, r)
	}
	for i := range cfg.Snapshots {
		v := &cfg.Snapshots[i]
		defaultTo(&v.Born, now)
		r, err := newResource("snapshot", v.ID, v.Born, v.RatePerHour)
		if err != nil {
			return nil, err
		}
		s.snaps = append(s.snaps, r)
	}
	if s.other, err = newResource("other", 1, now, 0); err != nil {
		return nil, err
	}
	s.mux = s.routes()
	return s, nil
}

func defaultTo[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Handler serves the API under /v1 and the simulator's own side under /sim.
func (s *Sim) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Listen takes the address that Run will serve, "127.0.0.1:0" for any free port.
func (s *Sim) Listen(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("simulated provider: %w", err)
	}
	s.listener, s.url = l, "http://"+l.Addr().String()+"/v1"
	return nil
}

// URL is the base of the API, for a client. Empty before Listen.
func (s *Sim) URL() string { return s.url }

// Run serves what Listen took until ctx ends.
func (s *Sim) Run(ctx context.Context) error {
	if s.listener == nil {
		return errors.New("simulated provider: Run before Listen")
	}
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("simulated provider: %w", err)
	}
	return nil
}

// SetStatus changes the machine's state from the next second on: a bill that was
// already given out stays true.
func (s *Sim) SetStatus(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status = strings.ToUpper(status)
	var perHour int64
	switch status {
	case "ACTIVE", "SHUTOFF":
		perHour = s.cfg.VM.RatePerHour
	case "HIBERNATED":
		perHour = s.cfg.VM.HibernatedPerHour
	}
	s.vm.change(s.cfg.Now().Unix()+1, status, perHour/3600)
}

// Delete ends a resource from the next second on: "vm-701234", "volume-45678". It
// leaves every listing of what there is, and costs no more; what it cost stays.
func (s *Sim) Delete(key string) error {
	return s.leave(key, func(r *resource) {
		r.deleted = true
		r.change(s.cfg.Now().Unix()+1, "DELETED", 0)
	})
}

// Detach takes a volume off the machine. It is still there, and costs on.
func (s *Sim) Detach(key string) error {
	return s.leave(key, func(r *resource) { r.detached = true })
}

func (s *Sim) leave(key string, how func(*resource)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.all() {
		if r.key() == key {
			how(r)
			return nil
		}
	}
	return fmt.Errorf("sim: no %s", key)
}

// all is everything that costs, also what was deleted. Called with mu held.
func (s *Sim) all() []*resource {
	return slices.Concat([]*resource{s.vm}, s.volumes, s.snaps)
}

// account is that and what else the account has. Called with mu held.
func (s *Sim) account() []*resource { return append(s.all(), s.other) }

// SetOther makes something else on the account cost so many nano-USD an hour from the
// next second on: it is in what the account pays, and in no bill and no book of the
// machine's.
func (s *Sim) SetOther(perHour int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.other.change(s.cfg.Now().Unix()+1, "ACTIVE", perHour/3600)
}

// TopUp puts money on the account. It costs nothing, so the books do not change.
func (s *Sim) TopUp(nanos int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Credit += nanos
}

// left is what remains of the credit. Called with mu held.
func (s *Sim) left() int64 {
	left := s.cfg.Credit
	for _, r := range s.account() {
		left -= r.billed(r.spans[0].from, s.shown())
	}
	return left
}

// Answers returns the newest bills that were given out, oldest first.
func (s *Sim) Answers() []Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Answer(nil), s.answers...)
}

// Books is what everything cost between two instants.
type Books struct {
	From      time.Time           `json:"from"`
	To        time.Time           `json:"to"`
	Currency  string              `json:"currency"`
	Spend     string              `json:"spend"`        // net of refunds
	Nanos     int64               `json:"nanos"`        // Spend in nano-USD
	Refunds   int64               `json:"refund_nanos"` // how much of it was given back
	Resources map[string]BookLine `json:"resources"`
}

// BookLine is one resource's part.
type BookLine struct {
	Spend string `json:"spend"`
	Nanos int64  `json:"nanos"`
}

// Books are the simulator's own: what was truly spent, whatever fault made it say.
// Both instants are taken back to the whole second, as the API does with a window.
func (s *Sim) Books(from, to time.Time) Books {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := Books{From: from.UTC(), To: to.UTC(), Currency: "USD", Resources: make(map[string]BookLine)}
	for _, r := range s.all() {
		n := r.billed(from.Unix(), to.Unix())
		b.Nanos += n
		b.Refunds += r.refunded(from.Unix(), to.Unix())
		b.Resources[r.key()] = BookLine{Spend: decimal(n), Nanos: n}
	}
	b.Spend = decimal(b.Nanos)
	return b
}
