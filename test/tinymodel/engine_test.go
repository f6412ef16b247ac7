package tinymodel_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spotinference/test/realengine"
	"spotinference/test/tinymodel"
)

// startLimit is how long the engine may take to load a model of a megabyte. It is
// generous: the race detector's build may be running on the same two cores.
const startLimit = 60 * time.Second

// An engine is the real llama-server with the tiny model, on a Unix socket.
type engine struct {
	client *http.Client
}

func start(t *testing.T, args ...string) *engine {
	t.Helper()
	return startModel(t, realengine.Model(t), args...)
}

func startModel(t *testing.T, model string, args ...string) *engine {
	t.Helper()
	server := realengine.Find(t)
	// The test's own directory may have a longer name than a socket can have.
	dir, err := os.MkdirTemp("", "tinymodel")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "e.sock")

	args = append([]string{"-m", model, "--host", socket, "--no-ui", "--offline", "-np", "2", "-t", "1"}, args...)
	cmd := exec.Command(server, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	e := &engine{client: &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
	}}
	t.Cleanup(func() {
		e.client.CloseIdleConnections()
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			t.Logf("the engine's log:\n%s", log.Bytes())
		}
	})

	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(startLimit)
	for {
		if resp, err := e.client.Get("http://engine/health"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return e
			}
		}
		select {
		case <-tick.C:
		case <-exited:
			t.Fatalf("the engine exited: %v", cmd.ProcessState)
		case <-limit:
			t.Fatalf("the engine wasn't ready after %v", startLimit)
		}
	}
}

// post sends a request and returns the body of an answer that is 200.
func (e *engine) post(t *testing.T, path, request string) io.Reader {
	t.Helper()
	resp, err := e.client.Post("http://engine"+path, "application/json", strings.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("POST %s: read the answer: %v", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s = %s %s", path, resp.Status, body)
	}
	return bytes.NewReader(body)
}

func (e *engine) call(t *testing.T, path, request string, answer any) {
	t.Helper()
	if err := json.NewDecoder(e.post(t, path, request)).Decode(answer); err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
}

// words fails the test if text has a word that isn't in the prose.
func words(t *testing.T, text string) {
	t.Helper()
	prose, err := os.ReadFile("prose.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"": true} // an answer may go on with a comma
	for _, word := range strings.Fields(string(prose)) {
		known[strings.Trim(word, ".,")] = true
	}
	if strings.TrimSpace(text) == "" {
		t.Error("the answer is empty")
	}
	for _, word := range strings.Fields(text) {
		if !known[strings.Trim(word, ".,")] {
			t.Errorf("%q in the answer %q isn't a word of the prose", word, text)
		}
	}
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

func TestEngineGenerates(t *testing.T) {
	e := start(t)

	t.Run("tokenize", func(t *testing.T) {
		var got struct{ Tokens []int }
		e.call(t, "/tokenize", `{"content":"The meter counts tokens.","add_special":true}`, &got)
		if len(got.Tokens) != 6 { // <s>, four words and the full stop
			t.Errorf("tokens = %v, want six", got.Tokens)
		}
	})

	t.Run("chat", func(t *testing.T) {
		// The chance of an end is a fifth a sentence, so some answers of this length
		// end by themselves and some are cut. Seeds make them the same each time.
		reasons := map[string]int{}
		for seed := range 16 {
			var got struct {
				Choices []struct {
					FinishReason string `json:"finish_reason"`
					Message      struct{ Role, Content string }
				}
				Usage usage
			}
			e.call(t, "/v1/chat/completions",
				`{"messages":[{"role":"user","content":"Hello"}],"max_tokens":50,"seed":`+strconv.Itoa(seed)+`}`, &got)
			choice := got.Choices[0]
			words(t, choice.Message.Content)
			reasons[choice.FinishReason]++
			if choice.FinishReason == "length" && got.Usage.CompletionTokens != 50 {
				t.Errorf("completion_tokens = %d of an answer cut at 50", got.Usage.CompletionTokens)
			}
		}
		if len(reasons) != 2 || reasons["stop"] == 0 || reasons["length"] == 0 {
			t.Errorf("finish reasons = %v, want both stop and length", reasons)
		}
	})

	t.Run("structured", func(t *testing.T) {
		var got struct {
			Choices []struct{ Message struct{ Content string } }
		}
		e.call(t, "/v1/chat/completions", `{
			"messages":[{"role":"user","content":"Is it spent?"}],
			"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{
				"type":"object","properties":{"spent":{"type":"boolean"}},"required":["spent"]}}}}`, &got)
		var answer struct{ Spent *bool }
		if content := got.Choices[0].Message.Content; json.Unmarshal([]byte(content), &answer) != nil || answer.Spent == nil {
			t.Errorf("answer = %q, want an object with spent", content)
		}
	})

	t.Run("stream", func(t *testing.T) {
		// As long as the context allows, and faster than any test would wait for.
		body := e.post(t, "/v1/completions",
			`{"prompt":"The engine","max_tokens":1000,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}`)
		var text strings.Builder
		var last usage
		events, done := 0, false
		for lines := bufio.NewScanner(body); lines.Scan(); {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			switch {
			case !ok:
			case data == "[DONE]":
				done = true
			default:
				var event struct {
					Choices []struct{ Text string }
					Usage   *usage
				}
				if err := json.Unmarshal([]byte(data), &event); err != nil {
					t.Fatalf("event %q: %v", data, err)
				}
				events++
				for _, choice := range event.Choices {
					text.WriteString(choice.Text)
				}
				if event.Usage != nil {
					last = *event.Usage
				}
			}
		}
		words(t, text.String())
		if want := (usage{3, 1000, 1003}); last != want {
			t.Errorf("usage = %+v, want %+v", last, want)
		}
		if events < 900 || !done {
			t.Errorf("%d events, done %t, want about one a token and [DONE]", events, done)
		}
	})

	t.Run("messages", func(t *testing.T) {
		var got struct {
			Content []struct{ Text string }
			Usage   struct {
				OutputTokens int `json:"output_tokens"`
			}
		}
		e.call(t, "/v1/messages", `{"model":"a","max_tokens":20,"messages":[{"role":"user","content":"Hello"}]}`, &got)
		words(t, got.Content[0].Text)
		if n := got.Usage.OutputTokens; n < 1 || n > 20 {
			t.Errorf("output_tokens = %d, want 1 to 20", n)
		}
	})

	t.Run("responses", func(t *testing.T) {
		var got struct {
			Output []struct{ Content []struct{ Text string } }
			Usage  struct {
				OutputTokens int `json:"output_tokens"`
			}
		}
		e.call(t, "/v1/responses", `{"model":"a","max_output_tokens":20,"input":"Hello"}`, &got)
		words(t, got.Output[0].Content[0].Text)
		if n := got.Usage.OutputTokens; n < 1 || n > 20 {
			t.Errorf("output_tokens = %d, want 1 to 20", n)
		}
	})
}

// The engine takes the script of a caller apart: its thoughts, its sentence, its calls.
func TestEngineReadsAScript(t *testing.T) {
	e := startModel(t, realengine.Script(t, tinymodel.Caller()...))
	var got struct {
		Choices []struct {
			FinishReason string `json:"finish_reason"`
			Message      struct {
				Content   string
				Reasoning string `json:"reasoning_content"`
				ToolCalls []struct {
					Function struct{ Name, Arguments string }
				} `json:"tool_calls"`
			}
		}
	}
	e.call(t, "/v1/chat/completions", `{"messages":[{"role":"user","content":"Hello"}],"parallel_tool_calls":true,
		"tools":[{"type":"function","function":{"name":"price","parameters":{"type":"object","properties":{"unit":{"type":"string"}},"required":["unit"]}}}]}`, &got)
	m := got.Choices[0].Message
	if got.Choices[0].FinishReason != "tool_calls" || strings.TrimSpace(m.Reasoning) != "The bill grows." || strings.TrimSpace(m.Content) != "I ask twice." || len(m.ToolCalls) != 2 {
		t.Fatalf("answer = %+v", got)
	}
	for i, want := range []string{`{"unit": "USD"}`, `{"unit": "EUR"}`} {
		if f := m.ToolCalls[i].Function; f.Name != "price" || f.Arguments != want {
			t.Errorf("call %d = %+v, want price of %s", i, f, want)
		}
	}
}

func TestEngineEmbeds(t *testing.T) {
	e := start(t, "--embeddings")
	var got struct {
		Data []struct{ Embedding []float64 }
	}
	e.call(t, "/v1/embeddings", `{"model":"a","input":["The meter counts tokens.","The bill grows.","The meter counts again."]}`, &got)
	if len(got.Data) != 3 {
		t.Fatalf("%d embeddings, want 3", len(got.Data))
	}
	cosine := func(i, j int) (dot float64) { // the engine makes them of length one
		for k, v := range got.Data[i].Embedding {
			dot += v * got.Data[j].Embedding[k]
		}
		return dot
	}
	for i := range got.Data {
		if c := cosine(i, i); c < 0.99 || c > 1.01 {
			t.Errorf("embedding %d has the length %v, want 1", i, c)
		}
	}
	if near, far := cosine(0, 2), cosine(0, 1); near <= far || near > 0.999 {
		t.Errorf("similarity = %v to a like text and %v to another, want more and less", near, far)
	}
}

// A llama has no head that ranks. The engine answers all the same, with one score
// for all documents, so all that a test can look at is the shape of the answer.
func TestEngineReranks(t *testing.T) {
	e := start(t, "--reranking")
	var got struct {
		Results []struct {
			Index *int
			Score *float64 `json:"relevance_score"`
		}
		Usage usage
	}
	e.call(t, "/v1/rerank", `{"model":"a","query":"The bill","documents":["The meter counts tokens.","The bill grows."]}`, &got)
	if len(got.Results) != 2 || got.Results[0].Index == nil || got.Results[0].Score == nil {
		t.Errorf("results = %+v, want two with index and score", got.Results)
	}
	if got.Usage.PromptTokens < 10 || got.Usage.TotalTokens != got.Usage.PromptTokens {
		t.Errorf("usage = %+v, want the tokens of both pairs", got.Usage)
	}
}
