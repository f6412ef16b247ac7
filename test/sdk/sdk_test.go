package sdk_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"spotinference/test/harness"
)

func openAIClient(s *harness.Gateway, opts ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{option.WithBaseURL(s.URL + "/v1/"), option.WithAPIKey(harness.Key)}, opts...)...)
}

func anthropicClient(s *harness.Gateway, opts ...anthropicoption.RequestOption) anthropic.Client {
	return anthropic.NewClient(append([]anthropicoption.RequestOption{anthropicoption.WithBaseURL(s.URL), anthropicoption.WithAPIKey(harness.Key)}, opts...)...)
}

// counted remembers what the clients were told, to be held against the ledger.
type counted struct{ requests, prompt, completion int64 }

func (c *counted) add(prompt, completion int64) {
	c.requests++
	c.prompt += prompt
	c.completion += completion
}

func (c *counted) addAll(d counted) {
	c.requests += d.requests
	c.prompt += d.prompt
	c.completion += d.completion
}

func TestOfficialSDKsOverARealEngine(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t)
	ctx := context.Background()
	oa, an := openAIClient(s), anthropicClient(s)
	var want counted

	t.Run("chat", func(t *testing.T) {
		r, err := oa.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
			Model: "tiny", MaxCompletionTokens: openai.Int(12),
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What does a token cost?")},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Choices) != 1 || r.Choices[0].Message.Content == "" || r.Usage.CompletionTokens == 0 || r.Usage.PromptTokens == 0 {
			t.Errorf("chat = %s", r.RawJSON())
		}
		want.add(r.Usage.PromptTokens, r.Usage.CompletionTokens)
	})
	t.Run("chat stream, usage asked for", func(t *testing.T) {
		st := oa.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
			Model: "tiny", MaxCompletionTokens: openai.Int(12),
			Messages:      []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Tell me about the bill.")},
			StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
		})
		var text strings.Builder
		var usage openai.CompletionUsage
		for st.Next() {
			c := st.Current()
			for _, ch := range c.Choices {
				text.WriteString(ch.Delta.Content)
			}
			if c.Usage.TotalTokens > 0 {
				usage = c.Usage
			}
		}
		if err := st.Err(); err != nil || text.Len() == 0 || usage.CompletionTokens == 0 {
			t.Fatalf("stream: %v, text %q, usage %+v", err, text.String(), usage)
		}
		want.add(usage.PromptTokens, usage.CompletionTokens)
	})
	t.Run("chat stream, usage not asked for", func(t *testing.T) {
		before := s.Usage()
		st := oa.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
			Model: "tiny", MaxCompletionTokens: openai.Int(12),
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Tell me about the engine.")},
		})
		chunks := 0
		for st.Next() {
			c := st.Current()
			// llama-server itself puts its timings into the last chunk, and nowhere else.
			last := len(c.Choices) > 0 && c.Choices[0].FinishReason != ""
			if len(c.Choices) == 0 || c.JSON.Usage.Valid() || strings.Contains(c.RawJSON(), `"timings"`) != last {
				t.Errorf("a chunk that this client did not ask for: %s", c.RawJSON())
			}
			chunks++
		}
		if err := st.Err(); err != nil || chunks == 0 {
			t.Fatalf("stream: %v after %d chunks", err, chunks)
		}
		after := s.Usage()
		if after.Requests != before.Requests+1 || after.CompletionTokens == before.CompletionTokens {
			t.Errorf("usage before %+v, after %+v", before, after)
		}
		want.add(after.PromptTokens-before.PromptTokens, after.CompletionTokens-before.CompletionTokens)
	})
	t.Run("completions", func(t *testing.T) {
		r, err := oa.Completions.New(ctx, openai.CompletionNewParams{Model: "tiny", MaxTokens: openai.Int(9),
			Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("The bill")}})
		if err != nil {
			t.Fatal(err)
		}
		want.add(r.Usage.PromptTokens, r.Usage.CompletionTokens)
		st := oa.Completions.NewStreaming(ctx, openai.CompletionNewParams{Model: "tiny", MaxTokens: openai.Int(9),
			Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("The engine")}})
		var usage openai.CompletionUsage
		for st.Next() {
			if u := st.Current().Usage; u.TotalTokens > 0 {
				usage = u
			}
		}
		if st.Err() != nil || usage.CompletionTokens == 0 {
			t.Fatalf("stream: %v, usage %+v", st.Err(), usage)
		}
		want.add(usage.PromptTokens, usage.CompletionTokens)
	})
	t.Run("responses", func(t *testing.T) {
		r, err := oa.Responses.New(ctx, responses.ResponseNewParams{Model: "tiny", MaxOutputTokens: openai.Int(16),
			Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("What is served?")}})
		if err != nil {
			t.Fatal(err)
		}
		if r.OutputText() == "" {
			t.Errorf("response = %s", r.RawJSON())
		}
		want.add(r.Usage.InputTokens, r.Usage.OutputTokens)
	})
	t.Run("responses stream", func(t *testing.T) {
		st := oa.Responses.NewStreaming(ctx, responses.ResponseNewParams{Model: "tiny", MaxOutputTokens: openai.Int(16),
			Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("What is served?")}})
		var text strings.Builder
		var usage responses.ResponseUsage
		next := int64(0)
		for st.Next() {
			e := st.Current()
			if !e.JSON.SequenceNumber.Valid() || e.SequenceNumber != next {
				t.Errorf("event %d: %s", next, e.RawJSON())
			}
			next++
			switch e := e.AsAny().(type) {
			case responses.ResponseCreatedEvent:
				if r := e.Response; r.Model != "tiny" || r.CreatedAt == 0 || !r.JSON.Output.Valid() {
					t.Errorf("created: %s", e.RawJSON())
				}
			case responses.ResponseTextDeltaEvent:
				if !e.JSON.OutputIndex.Valid() || !e.JSON.ContentIndex.Valid() {
					t.Errorf("delta: %s", e.RawJSON())
				}
				text.WriteString(e.Delta)
			case responses.ResponseCompletedEvent:
				usage = e.Response.Usage
				if e.Response.OutputText() != text.String() {
					t.Errorf("completed: %s, want %q", e.RawJSON(), text.String())
				}
			}
		}
		if err := st.Err(); err != nil || text.Len() == 0 {
			t.Fatalf("stream: %v, text %q", err, text.String())
		}
		want.add(usage.InputTokens, usage.OutputTokens)
	})
	t.Run("messages", func(t *testing.T) {
		p := anthropic.MessageNewParams{Model: "tiny", MaxTokens: 11,
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Who pays?"))}}
		r, err := an.Messages.New(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		want.add(r.Usage.InputTokens+r.Usage.CacheReadInputTokens, r.Usage.OutputTokens)
		st := an.Messages.NewStreaming(ctx, p)
		var m anthropic.Message
		for st.Next() {
			if err := m.Accumulate(st.Current()); err != nil {
				t.Fatal(err)
			}
		}
		if st.Err() != nil || len(m.Content) == 0 || m.Content[0].Text == "" {
			t.Fatalf("stream: %v, %+v", st.Err(), m)
		}
		want.add(m.Usage.InputTokens+m.Usage.CacheReadInputTokens, m.Usage.OutputTokens)
		n, err := an.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: "tiny", Messages: p.Messages})
		if err != nil || n.InputTokens == 0 {
			t.Errorf("count = %+v, %v", n, err)
		}
	})
	t.Run("models", func(t *testing.T) {
		page, err := oa.Models.List(ctx)
		if err != nil || len(page.Data) != 1 || page.Data[0].ID != "tiny" {
			t.Errorf("models = %+v, %v", page, err)
		}
	})
	t.Run("the ledger agrees with what the clients were told", func(t *testing.T) {
		if u := s.Usage(); u.Requests != want.requests || u.PromptTokens != want.prompt || u.CompletionTokens != want.completion || u.ByStatus.OK != want.requests {
			t.Errorf("report usage = %+v, the clients saw %+v", u, want)
		}
	})

	t.Run("errors", func(t *testing.T) {
		chat := func(c openai.Client, p openai.ChatCompletionNewParams) *openai.Error {
			t.Helper()
			_, err := c.Chat.Completions.New(ctx, p)
			var e *openai.Error
			if !errors.As(err, &e) {
				t.Fatalf("error = %v (%T), want *openai.Error", err, err)
			}
			if e.Response.Header.Get("X-Request-Id") == "" {
				t.Errorf("%v: no x-request-id", e)
			}
			return e
		}
		hello := []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}
		attempts := 0
		counting := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			attempts++
			return next(r)
		})
		if e := chat(openAIClient(s, option.WithAPIKey("sk-wrong"), counting), openai.ChatCompletionNewParams{Model: "tiny", Messages: hello}); e.StatusCode != 401 || e.Code != "invalid_api_key" || attempts != 1 {
			t.Errorf("wrong key: %d %q after %d attempts", e.StatusCode, e.Code, attempts)
		}
		long := []openai.ChatCompletionMessageParamUnion{openai.UserMessage(strings.Repeat("the bill is the truth ", 3000))}
		if e := chat(oa, openai.ChatCompletionNewParams{Model: "tiny", Messages: long}); e.StatusCode != 400 || e.Code != "context_length_exceeded" || e.Param != "messages" {
			t.Errorf("too long: %d %q %q", e.StatusCode, e.Code, e.Param)
		}
		wrong := anthropicClient(s, anthropicoption.WithAPIKey("wrong"))
		_, err := wrong.Messages.New(ctx, anthropic.MessageNewParams{Model: "tiny", MaxTokens: 5,
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hi"))}})
		var ae *anthropic.Error
		if !errors.As(err, &ae) || ae.StatusCode != 401 || !strings.Contains(ae.RawJSON(), `"authentication_error"`) {
			t.Errorf("anthropic, wrong key: %v", err)
		}
	})
	s.Stop()
}

func TestEmbeddingsOverARealEngine(t *testing.T) {
	t.Parallel()
	s := harness.ServeReal(t, "--embeddings")
	client := openAIClient(s)
	r, err := client.Embeddings.New(context.Background(), openai.EmbeddingNewParams{Model: "tiny",
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"the bill", "the engine and the token"}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Data) != 2 || len(r.Data[0].Embedding) == 0 || r.Usage.PromptTokens == 0 {
		t.Errorf("embeddings = %d vectors, usage %+v", len(r.Data), r.Usage)
	}
	want := counted{requests: 1, prompt: r.Usage.PromptTokens}
	want.addAll(node(t, s, "embeddings"))
	if u := s.Usage(); u.PromptTokens != want.prompt || u.CompletionTokens != 0 || u.ByStatus.OK != want.requests {
		t.Errorf("report usage = %+v, the clients saw %+v", u, want)
	}
	s.Stop()
}
