package api

import (
	"time"

	"spotinference/ledger"
	"spotinference/server/refusal"
)

// KeySpend is what each key has used of today's bill, and how long that holds.
type KeySpend struct {
	By    map[string]ledger.Nanos // by the key's id; what is not in it has used nothing
	Known bool                    // false: it is not known, and no key with a budget is served
	Until time.Time               // then it is too old
}

// SetKeySpend sets what each key has used. It must be called again before Until: after
// that a key with a budget is refused.
func (s *Server) SetKeySpend(spent KeySpend) { s.keys.spent.Store(&spent) }

// budget says why a key's own budget refuses it. A budget that cannot be seen is a
// spent one, as the gate has it.
func (r *keyring) budget(k *key, now time.Time) *refusal.Refusal {
	if k == nil || k.PerDay == nil {
		return nil
	}
	spent := r.spent.Load()
	if spent == nil || !now.Before(spent.Until) {
		return refusal.New(refusal.KeySpendStale)
	}
	if !spent.Known {
		return refusal.New(refusal.KeySpendUnknown)
	}
	if spent.By[k.ID] >= *k.PerDay {
		return refusal.New(refusal.KeyBudgetSpent).WithQuotaStatus(r.quotaStatus)
	}
	return nil
}
