package sim

import (
	"fmt"
	"net/http"
)

// apiError is an error in the engine's words.
type apiError struct {
	status  int
	message string
	extra   obj // more keys of llama-server's
}

// kind is the engine's type for a status.
func (e apiError) kind(vllm bool) string {
	if vllm {
		switch e.status {
		case 400:
			return "BadRequestError"
		case 404:
			return "NotFoundError"
		case 422:
			return "UnprocessableEntityError"
		case 501:
			return "NotImplementedError"
		}
		return "InternalServerError"
	}
	if e.extra != nil {
		return "exceed_context_size_error"
	}
	switch e.status {
	case 400:
		return "invalid_request_error"
	case 401:
		return "authentication_error"
	case 404:
		return "not_found_error"
	case 501:
		return "not_supported_error"
	case 503:
		return "unavailable_error"
	}
	return "server_error"
}

// body is the engine's error object. Both engines write code as a number, which
// OpenAI does not.
func (e apiError) body(vllm bool) obj {
	if vllm {
		return obj{{"error", obj{{"message", e.message}, {"type", e.kind(true)}, {"param", nil}, {"code", e.status}}}}
	}
	return obj{{"error", append(obj{{"code", e.status}, {"message", e.message}, {"type", e.kind(false)}}, e.extra...)}}
}

// writeError answers with e. llama-server closes the connection after every error.
func (s *server) writeError(w http.ResponseWriter, e apiError) {
	s.writeBody(w, e.status, e.body(s.opts.vllm()))
}

// writeEarly answers with an error of llama-server's HTTP layer, which orders the keys
// in another way than its inference.
func (s *server) writeEarly(w http.ResponseWriter, status int, message string) {
	kind := apiError{status: status}.kind(false)
	s.writeBody(w, status, obj{{"error", obj{{"message", message}, {"type", kind}, {"code", status}}}})
}

func (s *server) writeBody(w http.ResponseWriter, status int, o obj) {
	h := w.Header()
	if s.opts.vllm() {
		h.Set("Content-Type", "application/json")
	} else {
		h.Set("Content-Type", "application/json; charset=utf-8")
		if status >= 400 {
			h.Set("Connection", "close")
			h.Del("Keep-Alive")
		}
	}
	body := o.bytes()
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

// tooLong is the answer to a prompt that the context cannot hold.
func (s *server) tooLong(tokens int) apiError {
	if s.opts.vllm() {
		return apiError{status: 400, message: fmt.Sprintf(
			"This model's maximum context length is %d tokens. However, your request has %d input tokens. Please reduce the length of the input messages.",
			s.opts.ctxSize, tokens)}
	}
	return apiError{
		status: 400,
		message: fmt.Sprintf("request (%d tokens) exceeds the available context size (%d tokens), try increasing it",
			tokens, s.opts.ctxSize),
		extra: obj{{"n_prompt_tokens", tokens}, {"n_ctx", s.opts.ctxSize}},
	}
}
