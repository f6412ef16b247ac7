package sdk_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"spotinference/test/harness"
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
func refusedOnce(t *testing.T, s *harness.Gateway, status int, code string) {
	t.Helper()
	var oaTries, anTries tries
	client := openAIClient(s, oaTries.openAI())
	_, err := client.Chat.Completions.New(context.Background(), helloChat)
	var oe *openai.Error
	if !errors.As(err, &oe) || oe.StatusCode != status || oe.Code != code || oaTries.n != 1 {
		t.Errorf("openai-go: %v after %d attempts, want %d %s after one", err, oaTries.n, status, code)
	}
	an := anthropicClient(s, anTries.anthropic())
	_, err = an.Messages.New(context.Background(), helloMessages)
	var ae *anthropic.Error
	if !errors.As(err, &ae) || ae.StatusCode != status || anTries.n != 1 || ae.RequestID == "" {
		t.Errorf("anthropic-sdk-go: %v after %d attempts, want %d after one", err, anTries.n, status)
	}
}

// TestSDKsBehindAClosedGate: a bill that cannot be seen, and a budget that is
// spent, are no reason for an SDK to try again.
func TestSDKsBehindAClosedGate(t *testing.T) {
	t.Parallel()
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
	s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key}, "--provider", "exec", "--billing-command", "cat "+bill,
		"--budget", "1", "--sample-every", "1s", "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "sim.gguf", "-a", "tiny")
	refusedOnce(t, s, http.StatusServiceUnavailable, "billing_unobservable")
	node(t, s, "dark")
	is("1")
	s.Ready()
	is("3")
	harness.Eventually(t, "the budget is spent", func() bool { return gate(t, s) == "exhausted" })
	refusedOnce(t, s, http.StatusPaymentRequired, "insufficient_quota")
	node(t, s, "spent")
	if u := s.Usage(); u.Requests != 0 {
		t.Errorf("refusals left rows: %+v", u)
	}
	s.Stop()
}

// gate is what /readyz says of the gate.
func gate(t testing.TB, s *harness.Gateway) string {
	t.Helper()
	resp, err := http.Get(s.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v struct{ Gate string }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v.Gate
}

// TestSDKsWhileTheEngineStarts: they are told when to come back, and get through
// without their caller's doing. Their own back-off would have given up by then.
func TestSDKsWhileTheEngineStarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script, mayStart := filepath.Join(dir, "engine.sh"), filepath.Join(dir, "may-start")
	harness.WriteProgram(t, script, fmt.Sprintf("#!/bin/sh\nwhile [ ! -e %s ]; do sleep 0.05; done\nexec %s sim-engine \"$@\"\n", mayStart, harness.Program(t)))
	s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key}, "--provider", "none", "--engine", "llama", "--", script, "-m", "sim.gguf", "-a", "tiny")
	var want counted
	got := make(chan error, 1)
	var oaTries tries
	go func() {
		client := openAIClient(s, oaTries.openAI())
		r, err := client.Chat.Completions.New(context.Background(), helloChat)
		if err == nil {
			want.add(r.Usage.PromptTokens, r.Usage.CompletionTokens)
		}
		got <- err
	}()
	// The engine starts when both clients were refused.
	harness.Eventually(t, "openai-go is refused", func() bool { return strings.Contains(s.Get("/metrics"), `{code="engine_not_ready",status="503"}`) })
	told := node(t, s, "starting", "ENGINE_MAY_START="+mayStart)
	if err := <-got; err != nil || oaTries.n < 2 {
		t.Errorf("openai-go: %v after %d attempts, want more than one", err, oaTries.n)
	}
	want.addAll(told)
	if u := s.Usage(); u.Requests != want.requests || u.ByStatus.OK != want.requests || u.CompletionTokens != want.completion {
		t.Errorf("report usage = %+v, the clients saw %+v", u, want)
	}
	s.Stop()
}

// TestSDKsOverASlowEngine: tools, and clients that leave.
func TestSDKsOverASlowEngine(t *testing.T) {
	t.Parallel()
	s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key}, "--provider", "none", "--engine", "llama", "--",
		harness.Program(t), "sim-engine", "-m", "sim.gguf", "-a", "tiny", "-np", "8", "--tokens", "1000", "--delay", "20ms").Ready()
	ctx := context.Background()
	oa := openAIClient(s)
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

	want.addAll(node(t, s, "slow"))
	aborted += 3
	var u harness.Usage
	harness.Eventually(t, "who left has a row", func() bool { u = s.Usage(); return u.ByStatus.Aborted == aborted })
	if u.ByStatus.OK != want.requests || u.Requests != want.requests+aborted || u.CompletionTokens < want.completion {
		t.Errorf("report usage = %+v, the clients saw %+v and left %d", u, want, aborted)
	}
	s.Stop()
}
