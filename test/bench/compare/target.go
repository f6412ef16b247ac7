package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// target is what the load is sent to. It runs until stop.
type target struct {
	name string
	addr string
	pid  int // whose CPU is counted; 0 for the engine itself
	stop func() error
}

func (r *run) engine() string { return filepath.Join(r.dir, engineName) }

// direct is the engine alone.
func (r *run) direct() (*target, error) {
	addr, port, err := freeAddr()
	if err != nil {
		return nil, err
	}
	e, err := r.start("direct.log", []string{r.engine(), "--host", "127.0.0.1", "--port", port})
	if err != nil {
		return nil, err
	}
	t := &target{name: "direct", addr: addr, stop: func() error { return end(e) }}
	return t, r.ready(t)
}

func (r *run) startNginx() (*target, error) {
	addr, _, err := freeAddr()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(r.dir, "engine.sock")
	e, err := r.start("engine.log", []string{r.engine(), "--host", socket})
	if err != nil {
		return nil, err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // else its workers could not reach the socket
	}
	conf := filepath.Join(r.dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off;
%s
worker_processes auto;
pid nginx.pid;
events { worker_connections 4096; }
http {
	access_log off;
	keepalive_requests 1000000000;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	upstream engine { server unix:%s; keepalive 128; keepalive_requests 1000000000; }
	server {
		listen %s;
		location / { proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }
	}
}
`, user, socket, addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	n, err := r.start("nginx.log", []string{r.nginx, "-p", r.dir, "-c", conf, "-e", filepath.Join(r.dir, "nginx.err")})
	if err != nil {
		return nil, errors.Join(err, end(e))
	}
	t := &target{name: "nginx", addr: addr, pid: n.Process.Pid, stop: func() error { return errors.Join(end(n), end(e)) }}
	return t, r.ready(t)
}

// startOurs starts the gateway as one does: with a key, a ledger on disk and an
// engine that it supervises.
func (r *run) startOurs() (*target, error) {
	addr, _, err := freeAddr()
	if err != nil {
		return nil, err
	}
	db := filepath.Join(r.dir, fmt.Sprintf("ledger-%d.db", time.Now().UnixNano()))
	s, err := r.start("spotinference.log", []string{r.ours, "serve", "--provider", "none", "--listen", addr, "--ledger", db,
		"--", r.engine(), "-m", "mock.gguf"}, "SPOTINFERENCE_API_KEY="+key)
	if err != nil {
		return nil, err
	}
	t := &target{name: "spotinference", addr: addr, pid: s.Process.Pid, stop: func() error { return end(s) }}
	return t, r.ready(t)
}

// ready waits until t answers.
func (r *run) ready(t *target) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.addr+"/v1/models", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(filepath.Join(r.dir, t.name+".log"))
			return errors.Join(fmt.Errorf("%s is not ready: %w\n%s", t.name, err, said), t.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// end ends a command. How it ends is of no interest.
func end(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// freeAddr returns a loopback address that is free now.
func freeAddr() (addr, port string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer ln.Close()
	_, port, err = net.SplitHostPort(ln.Addr().String())
	return ln.Addr().String(), port, err
}
