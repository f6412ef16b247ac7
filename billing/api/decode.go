package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Decode reads a whole reply into v. What the JSON package says about a reply may
// quote it, so only the kind of trouble is passed on.
//
// Package json takes the last of a field that comes twice, and takes a field whose
// name differs in case for the one that was meant, both without a word. Such a reply
// says two things, and a bill is not read from it.
func Decode(body []byte, v any) *Failure {
	if !utf8.Valid(body) {
		return Fail(Malformed, "reply is not UTF-8")
	}
	err := json.Unmarshal(body, v)
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
	)
	switch {
	case err == nil:
		if name := repeated(body, v); name != "" {
			return Fail(Malformed, "reply has %q more than once, or in another spelling", name)
		}
		return nil
	case errors.As(err, &syntax):
		return Fail(Malformed, "reply is not JSON at byte %d of %d", syntax.Offset, len(body))
	case errors.As(err, &kind):
		return Fail(Malformed, "reply has a wrong type in %q", kind.Field)
	default:
		return Fail(Malformed, "reply cannot be read: %w", err)
	}
}

// repeated names a field of v that body, which was read into v, has more than once or
// in another spelling; "" where there is none. What is not read may say what it
// likes.
func repeated(body []byte, v any) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	return repeatedIn(dec, reflect.TypeOf(v))
}

// repeatedIn goes through the next value of dec, which is read into a t; nil is into
// nothing. Of valid JSON, Token returns no error.
func repeatedIn(dec *json.Decoder, t reflect.Type) string {
	open, _ := dec.Token()
	t = behind(t)
	read := make(map[string]bool)
	switch open {
	case json.Delim('['):
		if t != nil && t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		for dec.More() {
			if name := repeatedIn(dec, t); name != "" {
				return name
			}
		}
	case json.Delim('{'):
		for dec.More() {
			token, _ := dec.Token()
			key, _ := token.(string)
			name, inner := fieldFor(t, key)
			if name != "" && (name != key || read[name]) {
				return name
			}
			read[name] = true
			if name := repeatedIn(dec, inner); name != "" {
				return name
			}
		}
	default:
		return ""
	}
	dec.Token() // its end
	return ""
}

// behind is the type behind pointers, nil for one that reads itself.
func behind(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return t
}

// fieldFor is the field of t that package json reads key into, by its name in JSON.
func fieldFor(t reflect.Type, key string) (name string, inner reflect.Type) {
	if t == nil || t.Kind() != reflect.Struct {
		return "", nil
	}
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			name = field.Name
		}
		if !field.Anonymous && strings.EqualFold(name, key) {
			return name, field.Type
		}
	}
	return "", nil
}
