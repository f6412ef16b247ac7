package queue

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// Counters are an engine's own counts since its process began. llama-server
// prints six digits: from a million on they are rounded.
type Counters struct {
	Prompt int64
	// WithCached is set where Prompt includes the tokens that came from a cache, as
	// vLLM's does and llama-server's does not.
	WithCached bool
	Completion int64
	Running    int64 // requests that it works on, or has queued
	Work       int64 // moves with every step
}

// counterNames are the names on one engine's page that are summed into each count.
// vLLM has one of each for every model and engine core.
type counterNames struct {
	prompt, completion string
	running, work      []string
}

var (
	llamaCounters = counterNames{
		prompt: "llamacpp:prompt_tokens_total", completion: "llamacpp:tokens_predicted_total",
		running: []string{"llamacpp:requests_processing", "llamacpp:requests_deferred"},
		work:    []string{"llamacpp:n_decode_total", "llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"},
	}
	vllmCounters = counterNames{
		prompt: "vllm:prompt_tokens_total", completion: "vllm:generation_tokens_total",
		running: []string{"vllm:num_requests_running", "vllm:num_requests_waiting"},
		work:    []string{"vllm:iteration_tokens_total_count", "vllm:prompt_tokens_total", "vllm:generation_tokens_total"},
	}
)

// MissingCounters is the error of a page of metrics that lacks these counters.
type MissingCounters []string

func (m MissingCounters) Error() string { return "the page has no " + strings.Join(m, ", ") }

// maxPage bounds a page of metrics; vLLM's histograms make it tens of kilobytes.
const maxPage = 8 << 20

// ReadCounters asks the engine behind b for its counters, on a connection of its own.
func ReadCounters(ctx context.Context, b Backend) (c Counters, err error) {
	err = read(ctx, b, "/metrics", func(page io.Reader) error {
		c, err = parseCounters(page, b.Kind())
		return err
	})
	if err != nil {
		return Counters{}, fmt.Errorf("read the engine's counters: %w", err)
	}
	return c, nil
}

// ReadContext asks the engine behind b how many tokens a prompt and its answer may have
// together; 0 where it does not say. It wakes no engine.
func ReadContext(ctx context.Context, b Backend) (int64, error) {
	var list struct {
		Data []struct {
			VLLM  int64 `json:"max_model_len"`
			Llama struct {
				Context int64 `json:"n_ctx"`
			} `json:"meta"`
		}
	}
	err := read(ctx, b, "/v1/models", func(page io.Reader) error { return json.NewDecoder(page).Decode(&list) })
	if err != nil {
		return 0, fmt.Errorf("read the engine's context: %w", err)
	}
	most := int64(0)
	for _, m := range list.Data {
		most = max(most, m.VLLM, m.Llama.Context)
	}
	return most, nil
}

// read gets a page of the engine, on a connection of its own.
func read(ctx context.Context, b Backend, path string, parse func(io.Reader) error) error {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return b.Dial(ctx) },
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	req.Header.Set("Authorization", "Bearer "+b.Key())
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return parse(io.LimitReader(resp.Body, maxPage))
}

// parseCounters reads a page in Prometheus' text format. A count that the page
// lacks is an error: it is not zero.
func parseCounters(page io.Reader, kind Kind) (Counters, error) {
	names := llamaCounters
	if kind == VLLM {
		names = vllmCounters
	}
	sums := map[string]float64{}
	lines := bufio.NewScanner(page)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, ok := cutSample(lines.Text())
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || v < 0 || v >= 1<<62 {
			if strings.HasSuffix(name, "_total") {
				return Counters{}, fmt.Errorf("%s: %q is not a count", name, value)
			}
			continue // a gauge may be NaN
		}
		sums[name] += v
	}
	if err := lines.Err(); err != nil {
		return Counters{}, err
	}
	sum := func(names ...string) (n int64) {
		for _, name := range names {
			n += int64(sums[name])
		}
		return n
	}
	var missing MissingCounters
	for _, name := range append([]string{names.prompt, names.completion}, names.running...) {
		if _, ok := sums[name]; !ok {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return Counters{}, missing
	}
	return Counters{
		Prompt: sum(names.prompt), WithCached: kind == VLLM, Completion: sum(names.completion),
		Running: sum(names.running...), Work: sum(names.work...),
	}, nil
}

// cutSample splits a line into the name, without its labels, and the value. A label's
// value may hold spaces, so the value is what follows the last one: no engine writes
// timestamps.
func cutSample(line string) (name, value string, ok bool) {
	if line == "" || line[0] == '#' {
		return "", "", false
	}
	line = strings.TrimRight(line, " \r")
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		return "", "", false
	}
	name, value = line[:at], line[at+1:]
	if brace := strings.IndexByte(name, '{'); brace >= 0 {
		name = name[:brace]
	}
	return strings.TrimSpace(name), value, true
}
