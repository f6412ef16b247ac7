package meter

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strings"
)

// maxFields bounds the fields of a form; the audio endpoints have a score.
const maxFields = 256

// field is one part of a form, its value at body[from:to].
type field struct {
	name     string
	from, to int
}

// PrepareForm is [Prepare] for a request that is a multipart form, as those
// with a sound file are. Of vLLM's streams it asks for usage in fields of its
// own; the file stays where it is.
func PrepareForm(d Dialect, e Engine, contentType string, body []byte) (Ask, []byte, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return Ask{}, nil, errors.New("request body must be multipart/form-data")
	}
	fields, first, err := readForm(body, []byte("--"+params["boundary"]))
	if err != nil {
		return Ask{}, nil, err
	}
	ask := Ask{N: 1, Prompts: 1}
	r := rewrite{body: body}
	last := map[string]field{}
	for _, f := range fields {
		last[f.name] = f // of fields named twice the last counts
	}
	value := func(name string) string { f := last[name]; return string(body[f.from:f.to]) }
	if _, ok := last["model"]; ok {
		ask.Model = value("model")
	}
	ask.Stream = yes(value("stream"))
	if e != VLLM || !ask.Stream {
		return ask, body, nil
	}
	set := func(name string) (asked bool) {
		f, there := last[name]
		switch {
		case there && yes(value(name)):
			return true
		case there:
			r.edits = append(r.edits, edit{f.from, f.to, "true"})
		default:
			part := fmt.Sprintf("--%s\r\nContent-Disposition: form-data; name=%q\r\n\r\ntrue\r\n", params["boundary"], name)
			r.edits = append(r.edits, edit{first, first, part})
		}
		return false
	}
	ask.hideUsage = !set("stream_include_usage")
	ask.hideChunkUsage = !set("stream_continuous_usage_stats") || ask.hideUsage
	return ask, r.splice(), nil
}

// yes reads a form's boolean as the engines do.
func yes(value string) bool {
	switch strings.ToLower(value) {
	case "true", "1", "on", "yes", "t", "y":
		return true
	}
	return false
}

var errForm = errors.New("request body is not valid multipart/form-data")

// readForm finds the fields of a form and where its first delimiter begins.
func readForm(body, delimiter []byte) (fields []field, first int, err error) {
	at := bytes.Index(body, delimiter)
	if at < 0 || at > 0 && !bytes.HasSuffix(body[:at], []byte("\r\n")) {
		return nil, 0, errForm
	}
	first = at
	between := append([]byte("\r\n"), delimiter...)
	for {
		at += len(delimiter)
		rest := body[at:]
		if bytes.HasPrefix(rest, []byte("--")) {
			return fields, first, nil
		}
		rest = bytes.TrimLeft(rest, " \t") // padding
		if !bytes.HasPrefix(rest, []byte("\r\n")) || len(fields) == maxFields {
			return nil, 0, errForm
		}
		at = len(body) - len(rest) + 2
		head := bytes.Index(body[at:], []byte("\r\n\r\n"))
		if head < 0 {
			return nil, 0, errForm
		}
		from := at + head + 4
		size := bytes.Index(body[from-2:], between) // an empty value shares its line end
		if size < 0 {
			return nil, 0, errForm
		}
		to := max(from, from-2+size)
		name, ok := fieldName(string(body[at : at+head]))
		if !ok {
			return nil, 0, errForm
		}
		fields = append(fields, field{name, from, to})
		at = from - 2 + size + 2
	}
}

// fieldName reads the name out of a part's headers.
func fieldName(head string) (string, bool) {
	for line := range strings.SplitSeq(head, "\r\n") {
		key, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(strings.TrimSpace(key), "Content-Disposition") {
			_, params, err := mime.ParseMediaType(strings.TrimSpace(value))
			return params["name"], err == nil && params["name"] != ""
		}
	}
	return "", false
}
