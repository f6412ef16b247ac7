package meter_test

import (
	"strings"
	"testing"

	"spotinference/server/meter"
)

func TestOpenAIError(t *testing.T) {
	f := func(status int, body string, want meter.Fault) {
		t.Helper()
		if got := meter.OpenAIError(status, []byte(body)); got != want {
			t.Errorf("%d %.80s\n got %+v\nwant %+v", status, body, got, want)
		}
	}
	const request, server = "invalid_request_error", "server_error"

	recorded := func(name string) string { return string(capture(t, name)) }
	f(401, recorded("error-401"), meter.Fault{Message: "Invalid API Key", Type: request})
	f(404, recorded("error-404"), meter.Fault{Message: "File Not Found", Type: request})
	f(400, recorded("error-badtype"), meter.Fault{Message: "Expected 'messages' to be an array", Type: request})
	f(400, recorded("error-nomessages"), meter.Fault{Message: "'messages' is required", Type: request})
	f(501, recorded("embeddings-disabled"), meter.Fault{
		Message: "This server does not support embeddings. Start it with `--embeddings`", Type: server})
	f(500, recorded("error-badjson"), meter.Fault{
		Message: "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing object key - invalid literal; last read: '{b'; expected string literal", Type: server})
	tooLong := meter.Fault{
		Message: "request (9013 tokens) exceeds the available context size (4096 tokens), try increasing it",
		Type:    request, Code: "context_length_exceeded", Param: "messages"}
	f(400, recorded("error-toolong"), tooLong)
	f(0, recorded("error-toolong"), tooLong) // as an event of a stream

	f(401, `{"error":"Unauthorized"}`, meter.Fault{Message: "Unauthorized", Type: request})
	f(404, `{"error":{"message":"The model `+"`x`"+` does not exist.","type":"NotFoundError","param":"model","code":404}}`,
		meter.Fault{Message: "The model `x` does not exist.", Type: request, Code: "model_not_found", Param: "model"})
	f(400, `{"error":{"message":"temperature must be positive","type":"BadRequestError","param":null,"code":400}}`,
		meter.Fault{Message: "temperature must be positive", Type: request})
	for _, message := range []string{
		"This model's maximum context length is 4096 tokens. However, you requested 5 output tokens and your prompt contains 4099 input tokens, for a total of 4104 tokens.",
		"The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that `max_model_len` is no smaller than the number of text tokens.",
		"Input length (5000) exceeds model's maximum context length (4096).",
		"The engine prompt length 5000 exceeds the max_model_len 4096. Please reduce prompt.",
	} {
		f(400, `{"error":{"message":"`+message+`","type":"BadRequestError","param":"input_tokens","code":400}}`,
			meter.Fault{Message: message, Type: request, Code: "context_length_exceeded", Param: "messages"})
	}
	f(500, `{"error":{"message":"maximum context length","type":"InternalServerError","code":500}}`,
		meter.Fault{Message: "maximum context length", Type: server})
	// The form of older vLLM, without an envelope.
	f(400, `{"object":"error","message":"no","type":"BadRequestError","param":"n","code":400}`,
		meter.Fault{Message: "no", Type: request, Param: "n"})
	// Anthropic's form.
	f(400, `{"type":"error","error":{"type":"invalid_request_error","message":"no"}}`, meter.Fault{Message: "no", Type: request})
	f(0, `{"type":"error","error":{"type":"not_found_error","message":"no"}}`, meter.Fault{Message: "no", Type: request})
	f(0, `{"type":"error","error":{"type":"internal_error","message":"no"}}`, meter.Fault{Message: "no", Type: server})
	// FastAPI's.
	f(404, `{"detail":"Not Found"}`, meter.Fault{Message: "Not Found", Type: request})
	f(422, `{"detail":[{"loc":["body","messages",0,"role"],"msg":"Field required","type":"missing"},{"loc":[],"msg":"x"}]}`,
		meter.Fault{Message: "messages.0.role: Field required", Type: request, Param: "messages.0.role"})
	f(422, `{"detail":[{"loc":["body"],"msg":"Invalid"}]}`, meter.Fault{Message: "Invalid", Type: request})
	f(500, `{"detail":{"x":1}}`, meter.Fault{Message: "the engine answered with status 500", Type: server})
	// Where there is a status, the code does not overrule it.
	f(400, `{"error":{"message":"no","code":500}}`, meter.Fault{Message: "no", Type: request})
	// Words stay, numbers go.
	f(429, `{"error":{"message":"no","code":"rate_limit_exceeded","type":7,"param":{}}}`,
		meter.Fault{Message: "no", Type: request, Code: "rate_limit_exceeded"})
	f(400, `{"error":{"message":"no","code":"400"}}`, meter.Fault{Message: "no", Type: request})
	// Of anything else nothing is passed on.
	for _, body := range []string{"", "<html><body>502 Bad Gateway</body></html>", "null", "[]", `"x"`, "{}", `{"error":null}`, `{"error":{}}`, `{"error":[1]}`, "{", "\xff"} {
		f(502, body, meter.Fault{Message: "the engine answered with status 502", Type: server})
	}
	f(0, "", meter.Fault{Message: "the engine could not answer", Type: server})

	// A text of any length.
	got := meter.OpenAIError(400, []byte(`{"error":"a`+strings.Repeat("é", 2000)+`"}`))
	if len(got.Message) > 2051 || !strings.HasSuffix(got.Message, "é...") {
		t.Errorf("long message is %d bytes, ends in %q", len(got.Message), got.Message[len(got.Message)-8:])
	}
}
