package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mainKey is the API key that every serve here has.
const mainKey = "sk-agents-0123456789abcdef"

// patience is how long a serve may take to be as a scenario wants it.
const patience = time.Minute

// gateway is one serve, with a folder of its own.
type gateway struct {
	bin    string
	dir    string
	url    string
	ledger string
	cmd    *exec.Cmd
	ended  chan struct{}
}

// startGateway starts serve and waits until it listens. Its current folder is dir; args
// end in the engine's command.
func startGateway(ctx context.Context, bin, dir string, env []string, args ...string) (*gateway, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "serve.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	g := &gateway{bin: bin, dir: dir, ledger: filepath.Join(dir, "ledger.db"), ended: make(chan struct{})}
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--ledger", g.ledger}, args...)
	g.cmd = exec.CommandContext(ctx, bin, args...)
	g.cmd.Dir, g.cmd.Stdout, g.cmd.Stderr = dir, log, log
	g.cmd.Env = append(g.env(), env...)
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = g.cmd.Wait() // how it ended is in its log
		close(g.ended)
	}()
	err = g.eventually("serve listens", func() bool {
		line := g.logged("listening")
		g.url, _ = line["url"].(string)
		return g.url != ""
	})
	return g, err
}

func (g *gateway) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "TMPDIR=" + g.dir, "XDG_STATE_HOME=" + g.dir, "XDG_CONFIG_HOME=" + g.dir,
		"XDG_RUNTIME_DIR=" + g.dir, "SPOTINFERENCE_API_KEY=" + mainKey}
}

// logged is the newest line of the log with a message; nil where there is none.
func (g *gateway) logged(message string) (line map[string]any) {
	text, err := os.ReadFile(filepath.Join(g.dir, "serve.log"))
	if err != nil {
		return nil
	}
	for one := range bytes.Lines(text) {
		var l map[string]any
		if json.Unmarshal(one, &l) == nil && l["msg"] == message {
			line = l
		}
	}
	return line
}

// eventually asks until it is so.
func (g *gateway) eventually(what string, is func() bool) error {
	for deadline := time.Now().Add(patience); !is(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-g.ended:
			text, err := os.ReadFile(filepath.Join(g.dir, "serve.log"))
			return fmt.Errorf("%s: serve has ended: %w\n%s", what, err, text)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s", what, patience)
		}
	}
	return nil
}

// get asks for a page and returns its status and text.
func (g *gateway) get(path string) (status int, text string) {
	resp, err := http.Get(g.url + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(b)
}

// ready waits until a request would be served.
func (g *gateway) ready() error {
	return g.eventually("serve is ready", func() bool {
		status, _ := g.get("/readyz")
		return status == http.StatusOK
	})
}

// closed waits until the gate is closed for a reason.
func (g *gateway) closed(reason string) error {
	line := fmt.Sprintf("\nspotinference_gate_closed{reason=%q} 1\n", reason)
	return g.eventually("the gate is closed: "+reason, func() bool {
		_, text := g.get("/metrics")
		return strings.Contains(text, line)
	})
}

// command runs another command of the program on the same ledger, and returns what it
// printed.
func (g *gateway) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, g.bin, append(args, "--ledger", g.ledger)...)
	cmd.Dir, cmd.Env = g.dir, g.env()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("spotinference %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// ask sends a small request of our own, which must be served.
func (g *gateway) ask(ctx context.Context, key string) error {
	body := strings.NewReader(`{"model":"sim","messages":[{"role":"user","content":"hi"}],"max_tokens":1}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/chat/completions", body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return err
}

// stop ends serve, in order.
func (g *gateway) stop() {
	_ = g.cmd.Process.Signal(os.Interrupt)
	select {
	case <-g.ended:
	case <-time.After(20 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
}

// row is a request of the ledger.
type row struct {
	ID         string `json:"id"`
	Status     string `json:"status"`
	LowerBound bool   `json:"lower_bound"`
	usage
}

// rows reads the ledger's requests, by their id.
func (g *gateway) rows(ctx context.Context) (map[string]row, error) {
	text, err := g.command(ctx, "ledger", "export", "--table", "requests", "--output", "json")
	if err != nil {
		return nil, err
	}
	rows := map[string]row{}
	for line := range strings.Lines(text) {
		var r row
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("ledger export: %w", err)
		}
		rows[r.ID] = r
	}
	return rows, nil
}
