package ledger

import "time"

// Usage is what one answer cost the engine, in tokens. PromptTokens includes
// CachedTokens, whatever the dialect calls them.
type Usage struct {
	PromptTokens     int64
	CachedTokens     int64
	CompletionTokens int64
}

// Status is how a request ended.
type Status string

const (
	OK      Status = "ok"      // the whole answer was there to be sent
	Aborted Status = "aborted" // the client left first
	Failed  Status = "failed"  // the engine or we could not finish it
	Lost    Status = "lost"    // we died while it ran; found at the next start
)

// Request is one request that reached the engine, as the ledger keeps it. Its
// window is decided by Finished: tokens belong to the instant they were complete.
type Request struct {
	ID       string // ours, never the client's; unique
	Endpoint string // "chat", "completions", "responses", "messages", "embeddings", "rerank", "transcriptions", "translations", "speech"
	Model    string // as the engine answered, else as the client asked; "" where neither said
	Key      string // id of the API key (see Key); "" where none is asked for, and for the one that serve was started with
	Stream   bool
	Status   Status
	HTTP     int       // status code sent to the client
	Started  time.Time // request read
	First    time.Time // first byte of the answer; zero where there was none
	Finished time.Time // answer complete; the ledger may move it by microseconds to keep it unique
	Usage    Usage
	// LowerBound is set where the engine's last word on the count is missing:
	// at least so many tokens were made.
	LowerBound bool
}

// OpenRequest is a request that is running: what a crash leaves of it.
type OpenRequest struct {
	ID       string
	Endpoint string
	Model    string
	Key      string
	Stream   bool
	Started  time.Time
	Usage    Usage // counted so far
}

// Truth says what an adapter's bill covers.
type Truth string

const (
	TruthResource Truth = "resource" // each resource has its own cumulative bill
	TruthAccount  Truth = "account"  // only the account's total moves
	TruthNone     Truth = "none"     // rates only: stores no spend, cannot open the gate
)

// Kind is what a line bills.
type Kind string

const (
	Instance    Kind = "instance"
	Volume      Kind = "volume"
	IP          Kind = "ip"
	AccountKind Kind = "account"
	Other       Kind = "other"
)

// Sample is one instant of the provider's bill: every line that counts towards
// this box, or it is no sample.
type Sample struct {
	ID       int64 // given by the ledger
	At       time.Time
	Provider string
	Account  string // provider's account or organisation id; "" where it has none
	Currency string // upper-case ISO 4217
	Truth    Truth
	Step     time.Duration // the bill moves in steps of this much billed time
	Lag      time.Duration // and shows a step at most this late
	// Calibrated is set once a probe measured Step and Lag on this account;
	// until then the figures are flagged.
	Calibrated bool
	Every      time.Duration // how often the sampler means to take one
	// Past is set on a bill that was asked for as of an instant before the ledger's
	// first own sample. It tells what was spent before this ledger, and nothing else:
	// see Spend.Before.
	Past  bool
	Lines []Line
}

// Line is one resource within a sample. A nil Rate or Bill is "not known",
// which is never zero.
type Line struct {
	Resource string // provider's id, never a name
	Kind     Kind
	Status   string // provider's word, kept as it came; or StatusMoved, StatusGone, StatusClosed
	Running  bool   // the provider bills it as running (the frozen-bill rule needs to know)
	Rate     *Nanos // per hour
	Bill     *Nanos // cumulative within Epoch
	// Epoch names the series that Bill belongs to. Two bills may be subtracted
	// only inside one (Resource, Epoch, Currency).
	Epoch   string
	Created time.Time // birth by the provider's word; zero where it does not say
	Raw     []byte    // the billing reply that Bill was read from, for --explain
}

// Words of ours in a line's Status, about the course of the bill and not of the
// resource. All others are the provider's.
const (
	// StatusMoved ends an epoch with nothing lost: the bill goes on under the
	// epoch that begins in the same sample. The two were read together.
	StatusMoved = "moved"

	// StatusGone is a resource that left the box, and whose bill may still settle.
	StatusGone = "gone"

	// StatusClosed is one that left, with its final bill: it will not be missed.
	StatusClosed = "closed"
)

// SampleFailure is a poll that failed in any part: a dark minute, and no number.
type SampleFailure struct {
	ID    int64 // given by the ledger
	At    time.Time
	Call  string // which call, without host, query or credentials: "GET /billing/billing/history/virtual-machine/{id}"
	Class string // "network", "timeout", "http_401", "http_5xx", "malformed", "incomplete", "currency", ...
}

// KeyRefused reports whether the provider refused the key: only a person can mend that.
func (f SampleFailure) KeyRefused() bool { return f.Class == "http_401" || f.Class == "http_403" }
