package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// footprint is what a gateway's process uses when nothing runs.
type footprint struct {
	pid         int
	goroutines  int
	descriptors int // -1 where nobody may look: it is not dumpable, and we are not root
	bytes       int
}

// What one life may grow by: pools and connections that come and go.
const (
	moreGoroutines  = 25
	moreDescriptors = 25
	moreBytes       = 64 << 20
)

func (r *rig) footprint() (f footprint, err error) {
	f.pid, _ = r.gateway.now()
	f.goroutines = int(r.metric("go_goroutines"))
	dir := filepath.Join("/proc", strconv.Itoa(f.pid))
	f.descriptors = -1
	if fds, err := os.ReadDir(filepath.Join(dir, "fd")); err == nil {
		f.descriptors = len(fds)
	}
	statm, err := os.ReadFile(filepath.Join(dir, "statm"))
	if fields := strings.Fields(string(statm)); len(fields) > 1 {
		pages, _ := strconv.Atoi(fields[1])
		f.bytes = pages * os.Getpagesize()
	}
	if err == nil && (f.goroutines <= 0 || f.bytes == 0) {
		err = fmt.Errorf("the gateway does not say what it uses: %+v", f)
	}
	return f, err
}

// settles is how long what is above may take to go: fasthttp keeps a worker for ten
// seconds after its connection, and a flood has many. What leaks stays.
const settles = 20 * time.Second

// lean compares the gateway with what it was after its first round.
func (r *rig) lean(ctx context.Context) error {
	for begun := time.Now(); ; {
		now, err := r.footprint()
		if err != nil {
			return err
		}
		r.tally.bytes = max(r.tally.bytes, now.bytes)
		if r.first == nil || r.first.pid != now.pid {
			r.first = &now
			return nil
		}
		if now.goroutines <= r.first.goroutines+moreGoroutines && now.descriptors <= r.first.descriptors+moreDescriptors && now.bytes <= r.first.bytes+moreBytes {
			return nil
		}
		if time.Since(begun) > settles {
			return fmt.Errorf("the gateway grows: %+v, after its first round %+v", now, *r.first)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
