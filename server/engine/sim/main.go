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
	if opts.exitAt >= 0 {
		logf("error: exit at start")
		return opts.exitAt
	}

	s := newServer(opts)
	s.logf, s.exit = logf, os.Exit
	if opts.ignoreTerm {
		signal.Ignore(unix.SIGTERM, unix.SIGINT)
	}
	// vLLM's SIGTERM is an orderly stop at any time, llama-server's only once the
	// model is loaded; before, the signal kills.
	stop := make(chan os.Signal, 2)
	listenStop := func() {
		if !opts.ignoreTerm {
			signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
		}
	}
	if opts.vllm() {
		listenStop()
		if s.core, err = startCore(self, opts.escape); err != nil {
			logf("error: %v", err)
			return 1
		}
		defer s.core.stop()
	} else {
		mem, err := allocate(opts.gpu)
		if err != nil {
			logf("error: %v", err)
			return 1
		}
		defer mem.free()
	}

	ln, err := listen(opts)
	if err != nil {
		logf("error: %v", err)
		return 1
	}
	httpServer := &http.Server{Handler: s, IdleTimeout: keepAlive, ConnContext: countRequests}
	failed := make(chan error, 1)
	go func() { failed <- httpServer.Serve(ln) }()

	loaded := time.After(opts.load)
	var coreLost <-chan struct{}
	if s.core != nil {
		coreLost = s.core.lost
	}
	for {
		select {
		case <-loaded:
			listenStop()
			if opts.readyAt != "" {
				if err := os.WriteFile(opts.readyAt, fmt.Appendf(nil, "%d", time.Now().UnixNano()), 0o600); err != nil {
					logf("error: %v", err)
				}
			}
			close(s.ready)
			logf("model loaded, listening on %s", ln.Addr())
		case err := <-failed:
			logf("error: %v", err)
			return 1
		case <-coreLost:
			logf("error: engine core died unexpectedly")
			return 1
		case <-stop:
			logf("stopping")
			go func() {
				<-stop
				os.Exit(1)
			}()
			httpServer.Close() // running answers are cut
			return 0
		}
	}
}

// listen binds the socket. Neither engine removes one that it finds.
func listen(opts options) (net.Listener, error) {
	if opts.elsewhere {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	if opts.uds != "" {
		return net.Listen("unix", opts.uds)
	}
	return net.Listen("tcp", net.JoinHostPort(opts.host, opts.port))
}
