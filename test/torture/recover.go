package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"spotinference/ledger"
)

const (
	// wellWithin bounds the time from the last fault's end until requests are served.
	// A crashed engine waits for up to eight seconds until it is started again, a clock
	// that was ahead is believed when its time has come.
	wellWithin = 45 * time.Second
	// goneWithin bounds the time until no process of a dead gateway is left.
	goneWithin = 15 * time.Second
)

// recover waits until a request is served, or refused for the budget that is spent by
// the provider's books too.
func (r *rig) recover(ctx context.Context, l lifted) (probes []*attempt, err error) {
	for {
		a := r.clients.probe(ctx)
		probes = append(probes, a)
		if a.Whole {
			break
		}
		if a.Status == http.StatusPaymentRequired && a.Code == "insufficient_quota" && r.seen(l) {
			spent, err := r.spentToday(time.Now())
			if err != nil {
				return probes, err
			}
			if spent+headroom+2*dollar >= budgetPerDay { // two samples' worth
				break
			}
		}
		if ctx.Err() != nil {
			return probes, ctx.Err()
		}
		if time.Since(l.at) > wellWithin {
			return probes, fmt.Errorf("nothing is served %s after the last fault: %s", wellWithin, a)
		}
		time.Sleep(200 * time.Millisecond)
	}
	r.tally.recovered(time.Since(l.at))
	return probes, nil
}

// quiet waits until nothing runs any more and the bill was sampled since.
func (r *rig) quiet(ctx context.Context, l lifted) error {
	for !r.seen(l) || r.metric("spotinference_requests_running") != 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(l.at) > wellWithin {
			return fmt.Errorf("%s after the last fault %v requests run, newest sample after it: %t",
				wellWithin, r.metric("spotinference_requests_running"), r.seen(l))
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// lifted is the end of the last fault.
type lifted struct {
	at     time.Time // real
	newest time.Time // sample, which a clock that was ahead may have dated
}

func (r *rig) lifted() lifted {
	l := lifted{at: time.Now()}
	_ = r.reading(func(led *ledger.Reader, _ *sql.DB) error {
		s, _, err := led.Newest()
		l.newest = s.At
		return err
	})
	return l
}

// seen reports whether the bill was sampled since.
func (r *rig) seen(l lifted) (ok bool) {
	_ = r.reading(func(led *ledger.Reader, _ *sql.DB) error {
		s, found, err := led.Newest()
		ok = found && err == nil && s.At.After(l.newest) && s.At.After(r.world.at(l.at).Add(time.Second))
		return err
	})
	return ok
}

// metric asks the gateway for a gauge; -1 where it does not answer.
func (r *rig) metric(name string) float64 {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(r.clients.url + "/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return -1
			}
			return v
		}
	}
	return -1
}

// alone checks that all processes are the gateway's that runs.
func (r *rig) alone() error {
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		pid, _ := r.gateway.now()
		left := orphans(marked(r.dir), pid)
		if len(left) == 0 {
			return nil
		}
		if time.Since(begun) > goneWithin {
			for _, p := range left {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
			return fmt.Errorf("processes without a gateway (%d): %+v", pid, left)
		}
	}
}
