package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// engine is a simulated engine of this process.
func engine(t *testing.T, flags ...string) (*server, string) {
	t.Helper()
	opts, err := parseOptions(flags)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(opts)
	close(s.ready)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// counter reads one number of /metrics.
func counter(t *testing.T, url, name string) int {
	t.Helper()
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), " "); ok && (key == name || strings.HasPrefix(key, name+"{")) {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no counter %s", name)
	return 0
}

// usages finds every "usage" object of an answer or a stream, in order.
func usages(t *testing.T, body string) (all []string) {
	t.Helper()
	for line := range strings.Lines(body) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "data: ")
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var o struct{ Usage, Response, Message json.RawMessage }
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for _, inner := range []json.RawMessage{o.Response, o.Message} {
			if inner != nil && o.Usage == nil {
				var in struct{ Usage json.RawMessage }
				json.Unmarshal(inner, &in)
				o.Usage = in.Usage
			}
		}
		if o.Usage != nil && string(o.Usage) != "null" {
			all = append(all, string(o.Usage))
		}
	}
	return all
}

// TestUsage: who reports what, right or wrong as the engine does.
func TestUsage(t *testing.T) {
	t.Parallel()
	_, llama := engine(t, "-flavour", "llama", "-cached", "2", "--metrics")
	_, vllm := engine(t, "-flavour", "vllm", "-cached", "2", "--enable-prompt-tokens-details")
	_, bare := engine(t, "-flavour", "vllm", "-cached", "2")
	f := func(url, path, body string, want ...string) {
		t.Helper()
		code, answer := post(t, url+path, body)
		got := usages(t, answer)
		if code != 200 || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s %s = %d, usage\n%s\nwant\n%s", path, body, code, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const (
		chatPath = "/v1/chat/completions"
		textPath = "/v1/completions"
		hi       = `"messages":[{"role":"user","content":"a b c"}]` // 3 words, 4 for the message, 3 for the template
	)
	llamaUsage := func(prompt, completion int) string {
		return fmt.Sprintf(`{"completion_tokens":%d,"prompt_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":2}}`, completion, prompt, prompt+completion)
	}
	vllmUsage := func(prompt, completion, cached int) string {
		return fmt.Sprintf(`{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}`, prompt, prompt+completion, completion, cached)
	}

	f(llama, chatPath, `{`+hi+`,"max_tokens":4}`, llamaUsage(10, 4))
	f(llama, chatPath, `{`+hi+`,"max_completion_tokens":4,"n":3}`, llamaUsage(10, 4)) // of the first alone
	f(llama, textPath, `{"prompt":["a","b c d"],"max_tokens":4}`, `{"completion_tokens":4,"prompt_tokens":2,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":1}}`)
	f(llama, chatPath, `{`+hi+`,"max_tokens":4,"stream":true}`)
	f(llama, chatPath, `{`+hi+`,"max_tokens":4,"n":2,"stream":true,"stream_options":{"include_usage":true}}`, llamaUsage(10, 4), llamaUsage(10, 4))
	f(llama, textPath, `{"prompt":"a b","max_tokens":4,"stream":true}`, llamaUsage(3, 4)) // unasked
	f(llama, "/v1/responses", `{"input":"a b c","max_output_tokens":4}`, `{"input_tokens":10,"output_tokens":4,"total_tokens":14,"input_tokens_details":{"cached_tokens":2}}`)
	f(llama, "/v1/messages", `{`+hi+`,"max_tokens":4}`, `{"cache_read_input_tokens":2,"input_tokens":8,"output_tokens":4}`)
	f(llama, "/v1/messages", `{`+hi+`,"max_tokens":4,"stream":true}`, `{"cache_read_input_tokens":2,"input_tokens":8,"output_tokens":0}`, `{"output_tokens":4}`)

	f(vllm, chatPath, `{`+hi+`,"max_tokens":4}`, vllmUsage(10, 4, 2))
	f(bare, chatPath, `{`+hi+`,"max_tokens":4}`, `{"prompt_tokens":10,"total_tokens":14,"completion_tokens":4,"prompt_tokens_details":null}`)
	f(vllm, chatPath, `{`+hi+`,"max_tokens":4,"n":3}`, vllmUsage(10, 12, 2)) // of all
	f(vllm, textPath, `{"prompt":["a b","b c d"],"max_tokens":4}`, vllmUsage(7, 8, 4))
	f(vllm, chatPath, `{`+hi+`,"max_tokens":4,"stream":true}`)
	f(vllm, chatPath, `{`+hi+`,"max_tokens":4,"n":2,"stream":true,"stream_options":{"include_usage":true}}`, vllmUsage(10, 8, 2))
	f(vllm, chatPath, `{`+hi+`,"max_tokens":2,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`,
		vllmUsage(10, 0, 2), vllmUsage(10, 1, 2), vllmUsage(10, 2, 2), vllmUsage(10, 2, 2))
	f(vllm, "/v1/responses", `{"input":"a b c","max_output_tokens":4,"stream":true}`,
		`{"input_tokens":10,"output_tokens":4,"total_tokens":14,"input_tokens_details":{"cached_tokens":2},"output_tokens_details":{"reasoning_tokens":0}}`)
	f(vllm, "/v1/messages", `{`+hi+`,"max_tokens":4}`, `{"input_tokens":10,"output_tokens":4}`)
	f(vllm, "/v1/embeddings", `{"input":["a","b c"]}`, `{"prompt_tokens":5,"total_tokens":5,"completion_tokens":0,"prompt_tokens_details":null}`)
	f(vllm, "/v1/rerank", `{"query":"a","documents":["b c"]}`, `{"prompt_tokens":5,"total_tokens":5}`)
}

// TestMetrics: llama-server leaves cached prompt tokens out, vLLM doesn't, and counts the
// prompt once for each choice.
func TestMetrics(t *testing.T) {
	t.Parallel()
	const body = `{"messages":[{"role":"user","content":"a b c"}],"max_tokens":4,"n":2}`
	_, llama := engine(t, "-flavour", "llama", "-cached", "2", "--metrics")
	post(t, llama+"/v1/chat/completions", body)
	if got := counter(t, llama, "llamacpp:prompt_tokens_total"); got != 8 {
		t.Errorf("llama's prompt_tokens_total = %d, want 8", got)
	}
	if got := counter(t, llama, "llamacpp:tokens_predicted_total"); got != 8 {
		t.Errorf("llama's tokens_predicted_total = %d, want 8", got)
	}
	_, vllm := engine(t, "-flavour", "vllm", "-cached", "2")
	post(t, vllm+"/v1/chat/completions", body)
	if got := counter(t, vllm, "vllm:prompt_tokens_total"); got != 20 {
		t.Errorf("vLLM's prompt_tokens_total = %d, want 20", got)
	}
	if got := counter(t, vllm, "vllm:generation_tokens_total"); got != 8 {
		t.Errorf("vLLM's generation_tokens_total = %d, want 8", got)
	}
	_, silent := engine(t, "-flavour", "llama")
	if resp, err := http.Get(silent + "/metrics"); err != nil || resp.StatusCode != 501 {
		t.Errorf("metrics without the flag = %v, %v, want 501", resp, err)
	}
}

// TestLength: an answer is as long as asked, at most as the model would go on.
func TestLength(t *testing.T) {
	_, url := engine(t, "-tokens", "5")
	f := func(fields string, words int, finish string) {
		t.Helper()
		_, body := post(t, url+"/v1/completions", `{"prompt":"a"`+fields+`}`)
		var o struct {
			Choices []struct {
				Text   string
				Finish string `json:"finish_reason"`
			}
		}
		if err := json.Unmarshal([]byte(body), &o); err != nil || len(o.Choices) != 1 {
			t.Fatalf("%s: %v", body, err)
		}
		if got := countWords(o.Choices[0].Text); got != words || o.Choices[0].Finish != finish {
			t.Errorf("%s: %d words, %s, want %d, %s", fields, got, o.Choices[0].Finish, words, finish)
		}
	}
	f(``, 5, "stop")
	f(`,"max_tokens":3`, 3, "length")
	f(`,"max_tokens":9`, 5, "stop")
	f(`,"max_tokens":0`, 0, "length")
	f(`,"max_completion_tokens":2`, 2, "length")
	f(`,"n_predict":2`, 2, "length")
	f(`,"max_tokens":-1`, 5, "stop")
	f(`,"sim":{"tokens":7}`, 7, "stop")
}

func TestKey(t *testing.T) {
	_, llama := engine(t, "-flavour", "llama", "--api-key", "k", "--metrics")
	_, vllm := engine(t, "-flavour", "vllm", "--api-key", "k")
	f := func(url, header, value string, want int) {
		t.Helper()
		req, _ := http.NewRequest("GET", url, nil)
		if header != "" {
			req.Header.Set(header, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != want {
			t.Errorf("%s with %s %s = %d %s, want %d", url, header, value, resp.StatusCode, body, want)
		}
		if want == 401 && strings.HasPrefix(url, vllm) && string(body) != `{"error":"Unauthorized"}` {
			t.Errorf("vLLM's 401 = %s", body)
		}
	}
	f(llama+"/health", "", "", 200)
	f(llama+"/metrics", "", "", 401)
	f(llama+"/v1/models", "Authorization", "Bearer k", 200)
	f(llama+"/v1/models", "X-Api-Key", "k", 200)
	f(llama+"/v1/models", "Authorization", "Bearer x", 401)
	f(vllm+"/health", "", "", 200)
	f(vllm+"/metrics", "", "", 200)
	f(vllm+"/v1/models", "Authorization", "Bearer k", 200)
	f(vllm+"/v1/models", "X-Api-Key", "k", 401)
}

func TestVLLMErrors(t *testing.T) {
	_, url := engine(t, "-flavour", "vllm", "serve", "the/model", "--max-model-len", "20")
	f := func(path, body string, code int, want string) {
		t.Helper()
		if got, answer := post(t, url+path, body); got != code || !strings.Contains(answer, want) {
			t.Errorf("%s %s = %d %s, want %d %s", path, body, got, answer, code, want)
		}
	}
	f("/v1/completions", `{"prompt":"a","model":"other"}`, 404, `"type":"NotFoundError","param":null,"code":404`)
	f("/v1/completions", `{"prompt":"a","model":"the/model"}`, 200, `"model":"the/model"`)
	f("/v1/completions", `{"prompt":"a","stream_options":{}}`, 400, `"type":"BadRequestError"`)
	f("/v1/completions", `{"prompt":"`+strings.Repeat("a ", 30)+`"}`, 400, "maximum context length is 20 tokens")
	f("/v1/nothing", `{}`, 404, "NotFoundError")
	f("/v1/completions", `{b`, 400, "BadRequestError")
}

func TestFaults(t *testing.T) {
	t.Parallel()
	_, llama := engine(t, "-flavour", "llama", "-linger", "10ms")
	_, vllm := engine(t, "-flavour", "vllm")
	stream := func(url, path, faults string) (string, error) {
		t.Helper()
		body := `{"prompt":"a","messages":[{"role":"user","content":"a"}],"stream":true,"sim":{` + faults + `}}`
		resp, err := http.Post(url+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		return string(answer), err
	}

	for _, url := range []string{llama, vllm} {
		answer, err := stream(url, "/v1/completions", `"drop_after":3`)
		if !errors.Is(err, io.ErrUnexpectedEOF) || strings.Count(answer, "data: ") != 3 {
			t.Errorf("dropped stream = %s, %v, want 3 events and a broken connection", answer, err)
		}
	}
	answer, err := stream(llama, "/v1/completions", `"error_after":3`)
	if err != nil || strings.Count(answer, "data: ") != 4 || !strings.HasSuffix(answer, "\"type\":\"server_error\"}}\n\n") {
		t.Errorf("llama's failed stream = %s, %v, want an error and no [DONE]", answer, err)
	}
	answer, err = stream(vllm, "/v1/completions", `"error_after":3`)
	if err != nil || !strings.HasSuffix(answer, "\"code\":500}}\n\ndata: [DONE]\n\n") {
		t.Errorf("vLLM's failed stream = %s, %v, want an error and then [DONE]", answer, err)
	}
	answer, err = stream(llama, "/v1/messages", `"error_after":3`)
	if err != nil || !strings.Contains(answer, "event: error\n") || strings.Contains(answer, "message_stop") {
		t.Errorf("failed messages = %s, %v, want an error event in place of the end", answer, err)
	}
	answer, err = stream(llama, "/v1/completions", `"big_event":true`)
	if longest := longestLine(answer); err != nil || longest < 64<<10 || !strings.HasSuffix(answer, "data: [DONE]\n\n") {
		t.Errorf("the longest line has %d bytes, %v, want 64 KiB", longest, err)
	}
	answer, err = stream(llama, "/v1/completions", `"null_event":true`)
	if err != nil || !strings.HasPrefix(answer, "data: null\n\n") {
		t.Errorf("stream = %.40s, %v, want data: null first", answer, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "POST", llama+"/v1/completions", strings.NewReader(`{"prompt":"a","sim":{"hang":true}}`))
	if _, err := http.DefaultClient.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hanging request = %v, want a timeout", err)
	}

	s, url := engine(t, "-exit-on", "2", "-exit-code", "7")
	exited := 0
	s.exit = func(status int) { exited = status }
	for range 2 {
		post(t, url+"/v1/completions", `{"prompt":"a"}`)
	}
	if exited != 7 {
		t.Errorf("exit status on the second request = %d, want 7", exited)
	}
}

func longestLine(text string) (n int) {
	for line := range strings.Lines(text) {
		n = max(n, len(line))
	}
	return n
}

// TestDisconnect: vLLM stops at once, llama-server when it next checks; both count
// what was made.
func TestDisconnect(t *testing.T) {
	t.Parallel()
	for flavour, linger := range map[string]string{"llama": "300ms", "vllm": "1s"} {
		s, url := engine(t, "-flavour", flavour, "-delay", "2ms", "-linger", linger, "-tokens", "100000", "--metrics")
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/completions", strings.NewReader(`{"prompt":"a","stream":true}`))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for seen := 0; seen < 5 && lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "data: ") {
				seen++
			}
		}
		left := time.Now()
		cancel()
		for s.counts.running.Load() > 0 {
			if time.Since(left) > 10*time.Second {
				t.Fatalf("%s goes on after its client left", flavour)
			}
			time.Sleep(time.Millisecond)
		}
		late := time.Since(left)
		if flavour == "vllm" && late > 900*time.Millisecond {
			t.Errorf("vLLM noticed after %v", late)
		}
		name := map[string]string{"llama": "llamacpp:tokens_predicted_total", "vllm": "vllm:generation_tokens_total"}[flavour]
		if got := counter(t, url, name); got < 5 {
			t.Errorf("%s counted %d tokens of an aborted answer, want at least the 5 seen", flavour, got)
		} else if flavour == "llama" && late > 50*time.Millisecond && got < 10 {
			t.Errorf("llama counted %d tokens, none of them from the %v after its client left", got, late)
		}
	}
}

// TestSlots: a request that waits for a slot sees no byte.
func TestSlots(t *testing.T) {
	t.Parallel()
	s, url := engine(t, "-np", "1", "-linger", "10ms")
	hang := func() context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/completions", strings.NewReader(`{"prompt":"a","sim":{"hang":true}}`))
		go http.DefaultClient.Do(req)
		return cancel
	}
	first := hang()
	for s.counts.running.Load() != 1 {
		time.Sleep(time.Millisecond)
	}
	answered := make(chan int, 1)
	go func() {
		code, _ := post(t, url+"/v1/completions", `{"prompt":"a","stream":true}`)
		answered <- code
	}()
	for s.counts.waiting.Load() != 1 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-answered:
		t.Fatal("a second request was answered with one slot")
	default:
	}
	first()
	if code := <-answered; code != 200 {
		t.Errorf("second request = %d, want 200", code)
	}
}

// TestSkipsForeignFlags: the engines' own flags are no error.
func TestSkipsForeignFlags(t *testing.T) {
	o, err := parseOptions(strings.Fields("-m x.gguf -ngl 99 --flash-attn on --temp=0.7 --host /run/e.sock -c 128 --no-ui -tokens 3"))
	if err != nil || o.uds != "/run/e.sock" || o.ctxSize != 128 || o.faults.Tokens != 3 || o.model != "x.gguf" {
		t.Errorf("options = %+v, %v", o, err)
	}
	o, err = parseOptions(strings.Fields("serve a/b -flavour vllm -tp 2 --uds /run/e.sock --served-model-name n --enable_prompt_tokens_details"))
	if err != nil || o.uds != "/run/e.sock" || o.model != "n" || !o.promptDetails {
		t.Errorf("options = %+v, %v", o, err)
	}
	if _, err = parseOptions([]string{"-load", "soon"}); err == nil {
		t.Error("-load soon is no error")
	}
}
