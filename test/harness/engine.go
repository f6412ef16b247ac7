package harness

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// engine is a client of the engine itself, past the gateway, and the engine's key.
func (g *Gateway) engine() (client http.Client, key string) {
	g.t.Helper()
	var socket string
	for _, p := range g.Descendants() {
		for _, word := range p.Words() {
			if strings.HasSuffix(word, ".sock") {
				socket = word
			}
		}
		for _, entry := range p.Environ() {
			if v, ok := strings.CutPrefix(entry, "LLAMA_API_KEY="); ok {
				key = v
			}
			if v, ok := strings.CutPrefix(entry, "VLLM_API_KEY="); ok {
				key = v
			}
		}
	}
	if socket == "" || key == "" {
		g.t.Fatal("no engine process below serve")
	}
	return http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}, key
}

// EnginePost sends a request to the engine itself, past the gateway, and returns the whole
// answer.
func (g *Gateway) EnginePost(path, body string) string {
	g.t.Helper()
	_, answer := g.askEngine(http.MethodPost, path, body)
	return answer
}

// askEngine sends a request to the engine itself, and returns its status and the whole
// answer.
func (g *Gateway) askEngine(method, path, body string) (status int, answer string) {
	g.t.Helper()
	client, key := g.engine()
	req, err := http.NewRequest(method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// EngineMetrics asks the engine itself, past the gateway, for its counters.
func (g *Gateway) EngineMetrics() map[string]float64 {
	g.t.Helper()
	status, text := g.askEngine(http.MethodGet, "/metrics", "")
	if status != http.StatusOK {
		g.t.Fatalf("engine's metrics: %d", status)
	}
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			out[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return out
}

// EngineIdle waits until a llama-server has let go of every request, so that its
// counters are final, and returns them.
func (g *Gateway) EngineIdle() (counters map[string]float64) {
	g.t.Helper()
	Eventually(g.t, "the engine is idle", func() bool {
		counters = g.EngineMetrics()
		return counters["llamacpp:requests_processing"] == 0 && counters["llamacpp:requests_deferred"] == 0
	})
	return counters
}
