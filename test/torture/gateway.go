package main

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// gateway runs serve and starts it again whenever it ends, as an init system would:
// with the same command, after a moment.
type gateway struct {
	command []string
	env     []string
	dir     string
	log     *os.File

	mu     sync.Mutex
	pid    int         // 0 between two; guarded by mu
	starts int         // guarded by mu
	deaths []time.Time // guarded by mu
	ending bool        // guarded by mu
	done   chan struct{}
}

const restartAfter = 200 * time.Millisecond

func (g *gateway) run() {
	defer close(g.done)
	for {
		cmd := exec.Command(g.command[0], g.command[1:]...)
		cmd.Env, cmd.Dir, cmd.Stderr, cmd.Stdout = g.env, g.dir, g.log, g.log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours
		g.mu.Lock()
		if g.ending {
			g.mu.Unlock()
			return
		}
		err := cmd.Start()
		if err == nil {
			g.pid = cmd.Process.Pid
			g.starts++
		}
		g.mu.Unlock()
		if err == nil {
			err = cmd.Wait()
		}
		g.mu.Lock()
		g.pid = 0
		g.deaths = append(g.deaths, time.Now())
		g.mu.Unlock()
		fmt.Fprintf(g.log, "torture: serve ended: %v\n", err)
		time.Sleep(restartAfter)
	}
}

// now is the pid of the gateway, 0 where none runs, and how many there were.
func (g *gateway) now() (pid, starts int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pid, g.starts
}

// died reports whether a gateway ended in [from, to], and when first.
func (g *gateway) died(from, to time.Time) (time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range g.deaths {
		if !at.Before(from) && !at.After(to) {
			return at, true
		}
	}
	return time.Time{}, false
}

// signal sends sig to the gateway that runs.
func (g *gateway) signal(sig syscall.Signal) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pid != 0 && syscall.Kill(g.pid, sig) == nil
}

// end ends it for good.
func (g *gateway) end() {
	g.mu.Lock()
	g.ending = true
	g.mu.Unlock()
	g.signal(syscall.SIGTERM)
	select {
	case <-g.done:
	case <-time.After(20 * time.Second):
		g.signal(syscall.SIGKILL)
		<-g.done
	}
}
