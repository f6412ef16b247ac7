package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
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
	s := repetitions{body: body, fields: make(map[reflect.Type][]field)}
	return s.next(reflect.TypeOf(v))
}

// repetitions goes through a JSON text that is known to be valid, so it looks at no more
// than it must to find the names.
type repetitions struct {
	body   []byte
	at     int                      // of the next byte
	fields map[reflect.Type][]field // of the structs that were met
}

// field is one that package json reads, by its name in JSON.
type field struct {
	name string
	kind reflect.Type
}

// next goes through the next value, which is read into a t; nil is into nothing.
func (s *repetitions) next(t reflect.Type) string {
	switch s.skip(" \t\r\n,"); s.body[s.at] {
	case '"':
		s.text()
		return ""
	case '[':
		if t = behind(t); t != nil && t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		return s.list(t)
	case '{':
		return s.object(behind(t))
	default:
		for s.at < len(s.body) && strings.IndexByte(" \t\r\n,]}", s.body[s.at]) < 0 {
			s.at++
		}
		return ""
	}
}

func (s *repetitions) list(element reflect.Type) string {
	s.at++
	for {
		if s.skip(" \t\r\n,"); s.body[s.at] == ']' {
			s.at++
			return ""
		}
		if name := s.next(element); name != "" {
			return name
		}
	}
}

func (s *repetitions) object(t reflect.Type) string {
	s.at++
	var read []string
	for {
		if s.skip(" \t\r\n,"); s.body[s.at] == '}' {
			s.at++
			return ""
		}
		key := s.text()
		s.skip(" \t\r\n:")
		f, ok := s.fieldFor(t, key)
		if ok && (f.name != key || slices.Contains(read, key)) {
			return f.name
		}
		if ok {
			read = append(read, key)
		}
		if name := s.next(f.kind); name != "" {
			return name
		}
	}
}

// skip goes past these bytes.
func (s *repetitions) skip(these string) {
	for strings.IndexByte(these, s.body[s.at]) >= 0 {
		s.at++
	}
}

// text reads a string.
func (s *repetitions) text() (text string) {
	from, escaped := s.at, false
	for s.at++; s.body[s.at] != '"'; s.at++ {
		if s.body[s.at] == '\\' {
			s.at++
			escaped = true
		}
	}
	s.at++
	quoted := s.body[from:s.at]
	if !escaped {
		return string(quoted[1 : len(quoted)-1])
	}
	_ = json.Unmarshal(quoted, &text) // it is valid
	return text
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

// fieldFor is the field of t that package json reads key into.
func (s *repetitions) fieldFor(t reflect.Type, key string) (f field, ok bool) {
	if t == nil || t.Kind() != reflect.Struct {
		return field{}, false
	}
	all, known := s.fields[t]
	if !known {
		for _, f := range reflect.VisibleFields(t) {
			if f.Anonymous {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			all = append(all, field{cmp.Or(name, f.Name), f.Type})
		}
		s.fields[t] = all
	}
	for _, f := range all {
		if strings.EqualFold(f.name, key) {
			return f, true
		}
	}
	return field{}, false
}
