package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

var (
	helloChat = openai.ChatCompletionNewParams{Model: "tiny", MaxCompletionTokens: openai.Int(5),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What does a token cost?")}}
	helloMessages = anthropic.MessageNewParams{Model: "tiny", MaxTokens: 5,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("What does a token cost?"))}}
)

// tries counts what an SDK sends.
type tries struct{ n int }

func (c *tries) openAI() option.RequestOption {
	return option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		c.n++
		return next(r)
	})
}

func (c *tries) anthropic() anthropicoption.RequestOption {
	return anthropicoption.WithMiddleware(func(r *http.Request, next anthropicoption.MiddlewareNext) (*http.Response, error) {
		c.n++
		return next(r)
	})
}

// refusedOnce wants one attempt of each Go SDK, and an error of this status.
func (s *serving) refusedOnce(t *testing.T, status int, code string) {
	t.Helper()
	var oaTries, anTries tries
	client := s.openAI(oaTries.openAI())
	_, err := client.Chat.Completions.New(context.Background(), helloChat)
	var oe *openai.Error
	if !errors.As(err, &oe) || oe.StatusCode != status || oe.Code != code || oaTries.n != 1 {
		t.Errorf("openai-go: %v after %d attempts, want %d %s after one", err, oaTries.n, status, code)
	}
	an := s.anthropic(anTries.anthropic())
	_, err = an.Messages.New(context.Background(), helloMessages)
	var ae *anthropic.Error
	if !errors.As(err, &ae) || ae.StatusCode != status || anTries.n != 1 || ae.RequestID == "" {
		t.Errorf("anthropic-sdk-go: %v after %d attempts, want %d after one", err, anTries.n, status)
	}
}

// TestSDKsBehindAClosedGate: a bill that cannot be seen, and a budget that is
// spent, are no reason for an SDK to try again.
func TestSDKsBehindAClosedGate(t *testing.T) {
	dir := t.TempDir()
	bill := filepath.Join(dir, "bill")
	is := func(amount string) {
		t.Helper()
		text := fmt.Sprintf(`{"version":1,"currency":"USD","step_seconds":1,"lag_seconds":600,"truth":"resource","lines":[`+
			`{"resource":"vm","kind":"instance","running":true,"rate_per_hour":"1","bill":%q,"epoch":"1"}]}`, amount)
		if err := os.WriteFile(bill+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(bill+".new", bill); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, []string{"SPOTINFERENCE_API_KEY=" + testKey}, "--provider", "exec", "--billing-command", "cat "+bill,
		"--budget", "1", "--sample-every", "1s", "--engine", "llama", "--", program(t), "sim-engine", "-m", "sim.gguf", "-a", "tiny")
	s.refusedOnce(t, http.StatusServiceUnavailable, "billing_unobservable")
	s.node(t, "dark")
	is("1")
	s.ready()
	is("3")
	eventually(t, 30*time.Second, "the budget is spent", func() bool { return s.gate() == "exhausted" })
	s.refusedOnce(t, http.StatusTooManyRequests, "insufficient_quota")
	s.node(t, "spent")
	if u := s.usage(); u.Requests != 0 {
		t.Errorf("refusals left rows: %+v", u)
	}
	s.stop()
}

// gate is what /readyz says of the gate.
func (s *serving) gate() string {
	s.t.Helper()
	resp, err := http.Get(s.url + "/readyz")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var v struct{ Gate string }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		s.t.Fatal(err)
	}
	return v.Gate
}

// TestSDKsWhileTheEngineStarts: they are told when to come back, and get through
// without their caller's doing. Their own back-off would have given up by then.
func TestSDKsWhileTheEngineStarts(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"SPOTINFERENCE_API_KEY=" + testKey}, "--provider", "none", "--engine", "llama", "--",
		program(t), "sim-engine", "-m", "sim.gguf", "-a", "tiny", "--load", "3s")
	var want counted
	got := make(chan error, 1)
	var oaTries tries
	go func() {
		client := s.openAI(oaTries.openAI())
		r, err := client.Chat.Completions.New(context.Background(), helloChat)
		if err == nil {
			want.add(r.Usage.PromptTokens, r.Usage.CompletionTokens)
		}
		got <- err
	}()
	told := s.node(t, "starting")
	if err := <-got; err != nil || oaTries.n < 2 {
		t.Errorf("openai-go: %v after %d attempts, want more than one", err, oaTries.n)
	}
	want.addAll(told)
	if u := s.usage(); u.Requests != want.requests || u.ByStatus.OK != want.requests || u.CompletionTokens != want.completion {
		t.Errorf("report usage = %+v, the clients saw %+v", u, want)
	}
	s.stop()
}

// TestSDKsOverASlowEngine: tools, and clients that leave.
func TestSDKsOverASlowEngine(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"SPOTINFERENCE_API_KEY=" + testKey}, "--provider", "none", "--engine", "llama", "--",
		program(t), "sim-engine", "-m", "sim.gguf", "-a", "tiny", "-np", "8", "--tokens", "1000", "--delay", "20ms").ready()
	ctx := context.Background()
	oa := s.openAI()
	var want counted

	p := helloChat
	p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "price"})}
	p.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("required")}
	r, err := oa.Chat.Completions.New(ctx, p)
	if err != nil || len(r.Choices) != 1 || len(r.Choices[0].Message.ToolCalls) != 1 || r.Choices[0].Message.ToolCalls[0].Function.Name != "price" {
		t.Fatalf("tools: %+v, %v", r, err)
	}
	want.add(r.Usage.PromptTokens, r.Usage.CompletionTokens)
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	st := oa.Chat.Completions.NewStreaming(ctx, p)
	var acc openai.ChatCompletionAccumulator
	for st.Next() {
		acc.AddChunk(st.Current())
	}
	if st.Err() != nil || len(acc.Choices) != 1 || len(acc.Choices[0].Message.ToolCalls) != 1 || !json.Valid([]byte(acc.Choices[0].Message.ToolCalls[0].Function.Arguments)) {
		t.Errorf("tools, stream: %+v, %v", acc.Choices, st.Err())
	}
	want.add(acc.Usage.PromptTokens, acc.Usage.CompletionTokens)

	long := helloChat
	long.MaxCompletionTokens = openai.Int(1000)
	leave := oa.Chat.Completions.NewStreaming(ctx, long)
	for chunks := 0; chunks < 3 && leave.Next(); chunks++ {
	}
	if err := leave.Close(); err != nil {
		t.Errorf("leave: %v", err)
	}
	aborted := int64(1)

	want.addAll(s.node(t, "slow"))
	aborted += 3
	var u usageReport
	eventually(t, 20*time.Second, "who left has a row", func() bool { u = s.usage(); return u.ByStatus.Aborted == aborted })
	if u.ByStatus.OK != want.requests || u.Requests != want.requests+aborted || u.CompletionTokens < want.completion {
		t.Errorf("report usage = %+v, the clients saw %+v and left %d", u, want, aborted)
	}
	s.stop()
}
