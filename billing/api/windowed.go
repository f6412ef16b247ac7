package api

import (
	"context"
	"time"

	"spotinference/ledger"
)

// Windowed is a Provider whose bill can be asked for over a window that the caller
// picks. No provider documents how its ends are read, so a probe tries it on the
// account: it is for that alone.
type Windowed interface {
	// BillOver is what one of the sampled resources was billed from start, taken down
	// to where the provider can begin, to end; a zero end is left out of the call.
	BillOver(ctx context.Context, resource string, start, end, now time.Time) (ledger.Nanos, error)

	// AccountOver is the same for all that the account has.
	AccountOver(ctx context.Context, start, end, now time.Time) (ledger.Nanos, error)
}
