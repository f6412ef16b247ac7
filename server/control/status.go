package control

import (
	"time"

	"spotinference/ledger"
)

// The calls that serve answers, by name.
const (
	CallStatus  = "status"      // → Status
	CallSuspend = "suspend"     // → Status
	CallWake    = "wake"        // → Status
	BudgetShow  = "budget"      // → Budget
	Override    = "override"    // OverrideCall → Overridden
	KeyCreate   = "key-create"  // ledger.Key
	KeyRevoke   = "key-revoke"  // a name or id → ledger.Key
	VoidSample  = "void-sample" // VoidSampleCall → VoidedSample
)

// Names are those of all calls.
func Names() []string {
	return []string{CallStatus, CallSuspend, CallWake, BudgetShow, Override, KeyCreate, KeyRevoke, VoidSample}
}

// Status is what serve says of itself. Amounts are exact decimal text; what is not
// known is null.
type Status struct {
	Engine Engine `json:"engine"`
	Gate   Gate   `json:"gate"`
	// OnClose is how the command of --on-close went in this closing of the gate, or the
	// last; null where it never ran.
	OnClose  *OnClose `json:"on_close"`
	Budget   Budget   `json:"budget"`
	Provider string   `json:"provider"` // whose bill is read; "none" where none is
	Bill     *Bill    `json:"bill"`     // null where none of the provider's was seen
	GPU      *GPU     `json:"gpu"`      // null in the demo
}

// Engine is the state of the engine, in the words of the ledger's engine events.
type Engine struct {
	Kind      string     `json:"kind"`
	State     string     `json:"state"`
	Since     time.Time  `json:"since"`
	PID       int        `json:"pid,omitempty"`
	Restarts  int        `json:"restarts"`
	LastExit  string     `json:"last_exit,omitempty"`
	NextStart *time.Time `json:"next_start,omitempty"`
	Suspended string     `json:"suspended_by,omitempty"` // the method
	Running   int        `json:"requests_inside"`
	Waiting   int        `json:"requests_waiting"`
}

// Gate is whether a new request may start, and why not.
type Gate struct {
	Open   bool   `json:"open"`
	Reason string `json:"reason,omitempty"`
}

// States of --on-close.
const (
	OnCloseRunning = "running"
	OnCloseDone    = "done"
	OnCloseFailed  = "failed"
)

// OnClose is a command that follows a closed gate.
type OnClose struct {
	State   string     `json:"state"` // running, done or failed
	Tries   int        `json:"tries"` // in this closing
	At      time.Time  `json:"at"`    // of the last try
	Error   string     `json:"error,omitempty"`
	NextTry *time.Time `json:"next_try"` // null where it is not tried again
}

// Bill is the newest sample.
type Bill struct {
	Provider string    `json:"provider"`
	At       time.Time `json:"sampled_at"`
}

// Budget is how far the budgets are spent.
type Budget struct {
	SampledAt *time.Time     `json:"sampled_at"`
	Currency  string         `json:"currency"`
	Rate      *string        `json:"rate_per_hour"`
	Headroom  *string        `json:"headroom"`
	Budgets   []BudgetWindow `json:"budgets"`
	Override  *Overridden    `json:"override"`
}

// BudgetWindow is one budget in its present period.
type BudgetWindow struct {
	Per    string `json:"per"` // hour, day or month
	Amount string `json:"amount"`
	Spent  string `json:"spent_gross"`
	// BeforeLedger is the part of Spent that was billed before the ledger began; null
	// where nothing is known of that.
	BeforeLedger *string `json:"before_ledger"`
	// CountedSince is null where the spend of the whole period is known.
	CountedSince *time.Time `json:"counted_since"`
	From         time.Time  `json:"from"`
	To           time.Time  `json:"to"`
	// Estimates at the sampled rate: what the whole period would cost, and when the
	// gate would close in this one.
	WouldCost *string    `json:"estimate_whole_period"`
	Over      bool       `json:"estimate_exceeds_budget"`
	Reached   *time.Time `json:"estimate_reached_at"`
}

// OverrideCall asks to lift the budget, or to end that.
type OverrideCall struct {
	End    bool          `json:"end"`
	For    time.Duration `json:"for_nanoseconds"`
	Amount *ledger.Nanos `json:"amount_nanos"` // null: as much as comes
	Reason string        `json:"reason"`
}

// Overridden is an override as it is in force.
type Overridden struct {
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Amount *string   `json:"amount"` // null: as much as comes
	Reason string    `json:"reason"`
}

// VoidSampleCall asks to take a sample out of every sum.
type VoidSampleCall struct {
	Sample int64  `json:"sample"`
	Reason string `json:"reason"`
}

// VoidedSample is a sample that was taken out.
type VoidedSample struct {
	At time.Time `json:"at"` // the sample's
}

// GPU is what is known of the cards.
type GPU struct {
	Source string     `json:"source"`
	Reason string     `json:"reason,omitempty"` // why there is no better source
	ReadAt *time.Time `json:"read_at"`          // null before the first reading
	Driver string     `json:"driver,omitempty"`
	Cards  []Card     `json:"cards"` // empty where the readings are stale
}

// Card is one GPU. What is not known is null.
type Card struct {
	UUID        string `json:"uuid"`
	Name        string `json:"name"`
	MemoryUsed  *int64 `json:"memory_used_bytes"`
	MemoryTotal *int64 `json:"memory_total_bytes"`
	Utilisation *int64 `json:"utilisation_percent"`
}
