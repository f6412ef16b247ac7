package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"spotinference/ledger"
)

// row is a request in the ledger.
type row struct {
	ID, Dialect, Status string
	Stream, LowerBound  bool
	Prompt, Completion  int
}

// newRows reads the requests that were not accounted for yet.
func (r *rig) newRows(db *sql.DB) (map[string]row, error) {
	rows, err := db.Query("SELECT id, endpoint, status, stream, lower_bound, prompt_tokens, completion_tokens FROM request")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[string]row{}
	for rows.Next() {
		var w row
		if err := rows.Scan(&w.ID, &w.Dialect, &w.Status, &w.Stream, &w.LowerBound, &w.Prompt, &w.Completion); err != nil {
			return nil, err
		}
		if !r.rows[w.ID] {
			found[w.ID] = w
		}
	}
	return found, rows.Err()
}

// verify has the ledger check itself.
func (r *rig) verify(ctx context.Context, led *ledger.Reader) error {
	v, err := led.Verify(ctx)
	if err == nil && len(v.Problems) > 0 {
		err = fmt.Errorf("the ledger does not verify: %s", strings.Join(v.Problems, "; "))
	}
	return err
}

// cost holds the report's spend against the provider's books: from the ledger's first
// sample to its newest.
func (r *rig) cost(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, r.bin, "report", "cost", "--ledger", r.ledger, "--window", "36500d", "--bucket", "none", "--output", "json")
	cmd.Env, cmd.Dir = r.env(), r.dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var said struct {
		Reason  string
		Spend   struct{ Net *string }
		Samples struct{ From, To *struct{ At time.Time } }
	}
	if jsonErr := json.Unmarshal(out, &said); jsonErr != nil {
		return fmt.Errorf("report cost: %w: %s%s", err, out, stderr.String())
	}
	if said.Spend.Net == nil {
		r.tally.noFigure++
		return nil
	}
	net, err := ledger.ParseNanos(*said.Spend.Net)
	if err != nil {
		return err
	}
	from, to := said.Samples.From.At, said.Samples.To.At
	if books := r.cloud.Books(from, to).Nanos; int64(net) != books {
		return fmt.Errorf("from %s to %s the report says %s, the provider's books %s", from, to, net, ledger.Nanos(books))
	}
	r.tally.compared++
	return nil
}

// spentToday is what the day of a real moment has cost until then by the provider's
// books, refunds not taken off, from where the gate's day begins. What a bill that stood
// still held back is of the day in which it moved again: of that day the ledger tells.
func (r *rig) spentToday(at time.Time) (spent int64, err error) {
	err = r.reading(func(led *ledger.Reader, _ *sql.DB) error {
		from, ok, err := dayFrom(led, r.world.at(at))
		if err == nil && ok {
			b := r.cloud.Books(from, r.world.at(at))
			spent = b.Nanos + b.Refunds
			for _, s := range r.frozen {
				if !s.To.IsZero() && r.world.at(s.To).After(from) {
					seen, err := led.Spent(from, r.world.at(at))
					if err != nil {
						return err
					}
					spent = max(spent, int64(seen.Gross))
				}
			}
		}
		return err
	})
	return spent, err
}

// dayFrom is where the gate's day begins that t lies in: at midnight, by the last
// sample within an hour before it, else at the day's first sample.
func dayFrom(led *ledger.Reader, t time.Time) (from time.Time, ok bool, err error) {
	start := t.UTC().Truncate(24 * time.Hour)
	before, ok, err := led.SampleBefore(start)
	if err != nil || ok && start.Sub(before) <= time.Hour {
		return before, ok, err
	}
	first, ok, err := led.SampleAfter(start)
	return first, ok && first.Before(t), err
}
