package meter

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxMessage bounds an engine's error text: a validation error may quote the
// whole request.
const maxMessage = 2048

// Fault is an engine's error in OpenAI's words; an empty string stands for
// null. An engine's own codes are numbers and never leave.
type Fault struct {
	Message string
	Type    string // "invalid_request_error" or "server_error"
	Code    string // "context_length_exceeded", "model_not_found", or ""
	Param   string // "messages" for a context that is too long, whatever the dialect calls it
}

// OpenAIError reads the body that an engine answered with an error status, in
// any of the forms that the engines and their frameworks use. Of a body in none
// of them nothing is passed on. A status of 0, as within a stream that began
// with 200, is looked for in the body.
func OpenAIError(status int, body []byte) Fault {
	var b struct{ Error, Detail json.RawMessage }
	if json.Unmarshal(body, &b) != nil {
		return fault{status: status}.openAI()
	}
	switch {
	case len(b.Error) > 0 && string(b.Error) != "null":
		return readError(status, b.Error)
	case len(b.Detail) > 0:
		f := fault{status: status}
		f.message, f.param = readDetail(b.Detail)
		return f.openAI()
	}
	return readError(status, body) // an error without its envelope, if it is one
}

// readError reads the value of an error member: an object, or a mere text.
func readError(status int, raw []byte) Fault {
	f := fault{status: status, message: text(raw)}
	var e struct{ Message, Type, Code, Param json.RawMessage }
	if json.Unmarshal(raw, &e) == nil {
		f.message, f.typ, f.code, f.param = text(e.Message), text(e.Type), text(e.Code), text(e.Param)
		if n, err := strconv.Atoi(string(e.Code)); err == nil && status == 0 {
			f.status = n
		}
	}
	return f.openAI()
}

// readDetail reads FastAPI's form: a text, or what was wrong with which field.
func readDetail(raw []byte) (message, param string) {
	var list []struct {
		Loc []any
		Msg string
	}
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		return text(raw), ""
	}
	var path []string
	for _, part := range list[0].Loc {
		if part != "body" {
			path = append(path, fmt.Sprint(part))
		}
	}
	param = strings.Join(path, ".")
	if param == "" {
		return list[0].Msg, ""
	}
	return param + ": " + list[0].Msg, param
}

// text decodes a string; anything else is "".
func text(raw []byte) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// fault is an error in the engine's words.
type fault struct {
	status                    int
	message, typ, code, param string
}

func (f fault) openAI() Fault {
	out := Fault{Message: clip(f.message), Type: "server_error", Code: f.code, Param: clip(f.param)}
	if f.client() {
		out.Type = "invalid_request_error"
	}
	if _, err := strconv.Atoi(f.code); err == nil {
		out.Code = ""
	}
	switch {
	case f.tooLong():
		out.Type, out.Code, out.Param = "invalid_request_error", "context_length_exceeded", "messages"
	case f.status == 404 && out.Code == "" && strings.Contains(strings.ToLower(f.message), "model"):
		out.Code = "model_not_found"
	}
	if out.Message == "" {
		out.Message = "the engine could not answer"
		if f.status != 0 {
			out.Message = fmt.Sprintf("the engine answered with status %d", f.status)
		}
	}
	return out
}

// client reports whether the request was at fault: by the status, or by the
// type where a stream gives no status.
func (f fault) client() bool {
	if f.status != 0 {
		return f.status >= 400 && f.status < 500
	}
	switch f.typ {
	case "invalid_request_error", "not_found_error", "permission_error",
		"BadRequestError", "NotFoundError", "UnprocessableEntityError":
		return true
	}
	return false
}

// tooLong knows llama-server's own type, and vLLM by what it says: its type is
// that of any bad request.
func (f fault) tooLong() bool {
	if f.typ == "exceed_context_size_error" {
		return true
	}
	if !f.client() {
		return false
	}
	message := strings.ToLower(f.message)
	for _, phrase := range []string{"maximum context length", "maximum model length", "exceeds the max_model_len"} {
		if strings.Contains(message, phrase) {
			return true
		}
	}
	return false
}

// clip cuts a text at maxMessage, between runes.
func clip(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	n := maxMessage
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
