package sim

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Main runs the engine and returns its exit status. args are the end of os.Args: the
// vLLM flavour starts itself again with what comes before them.
func Main(args []string) int {
	began := time.Now()
	logf := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%.3f sim: %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	opts, err := parseOptions(args)
	if err != nil {
		logf("error: %v", err)
		return 1
	}
	self := append(os.Args[:len(os.Args)-len(args):len(os.Args)-len(args)], args...)
	switch {
	case opts.core && opts.escape:
		return escapeCore(self)
	case opts.core:
		return runCore(opts)
	}
	status, err := runServer(opts, self, logf)
	if err != nil {
		logf("error: %v", err)
		return 1
	}
	return status
}

// runServer is the process that speaks HTTP, from its start to its end: it logs, takes
// the GPU's memory, listens, loads, and answers until something ends it.
func runServer(opts options, self []string, logf func(string, ...any)) (status int, err error) {
	logf("loading model %q", opts.model)
	for i := range opts.flood {
		logf("flood %d", i)
	}
	if opts.chatter {
		go func() {
			for i := 0; ; i++ {
				logf("chatter %d", i)
			}
		}()
	}
	if opts.exitAtStart >= 0 {
		logf("error: exit at start")
		return opts.exitAtStart, nil
	}

	s := newServer(opts)
	s.logf, s.exit = logf, os.Exit
	stop := make(chan os.Signal, 2)
	if opts.ignoreTerm {
		signal.Ignore(unix.SIGTERM, unix.SIGINT)
	}
	// vLLM's SIGTERM is an orderly stop at any time, llama-server's only once the
	// model is loaded; before, the signal kills.
	if opts.vllm() {
		s.acceptStop(stop)
	}
	free, err := s.takeGPU(self)
	if err != nil {
		return 0, err
	}
	defer free()
	ln, err := listen(opts)
	if err != nil {
		return 0, err
	}
	return s.serveUntilEnd(ln, stop)
}

// acceptStop makes SIGTERM and SIGINT an orderly stop.
func (s *server) acceptStop(stop chan<- os.Signal) {
	if !s.opts.ignoreTerm {
		signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	}
}

// takeGPU takes the GPU's memory: vLLM's API server by a process of its own, the engine
// core, which is started with the command self.
func (s *server) takeGPU(self []string) (free func(), err error) {
	if s.opts.vllm() {
		if s.core, err = startCore(self, s.opts.escape); err != nil {
			return nil, err
		}
		return s.core.stop, nil
	}
	mem, err := allocate(s.opts.gpu)
	if err != nil {
		return nil, err
	}
	return mem.free, nil
}

// listen binds the socket. Neither engine removes one that it finds.
func listen(opts options) (net.Listener, error) {
	if opts.wrongAddress {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	if opts.uds != "" {
		return net.Listen("unix", opts.uds)
	}
	return net.Listen("tcp", net.JoinHostPort(opts.host, opts.port))
}

// serveUntilEnd answers, as an engine that loads and then as one that is ready, until it
// is stopped, its listener fails or its core is gone.
func (s *server) serveUntilEnd(ln net.Listener, stop chan os.Signal) (status int, err error) {
	httpServer := &http.Server{Handler: s, IdleTimeout: keepAlive, ConnContext: countRequests}
	failed := make(chan error, 1)
	go func() { failed <- httpServer.Serve(ln) }()

	loaded := time.After(s.opts.load)
	var coreLost <-chan struct{}
	if s.core != nil {
		coreLost = s.core.lost
	}
	for {
		select {
		case <-loaded:
			s.acceptStop(stop)
			s.writeReadyAt()
			close(s.ready)
			s.logf("model loaded, listening on %s", ln.Addr())
		case err := <-failed:
			return 0, err
		case <-coreLost:
			return 0, errCoreDied
		case <-stop:
			s.logf("stopping")
			go func() {
				<-stop
				os.Exit(1)
			}()
			httpServer.Close() // running answers are cut
			return 0, nil
		}
	}
}

// writeReadyAt does what -ready-at asks.
func (s *server) writeReadyAt() {
	if s.opts.readyAt == "" {
		return
	}
	if err := os.WriteFile(s.opts.readyAt, fmt.Appendf(nil, "%d", time.Now().UnixNano()), 0o600); err != nil {
		s.logf("error: %v", err)
	}
}
