package billing_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// Text that is no JSON, not all of it, or JSON of another kind.
func TestMalformedText(t *testing.T) {
	darken(t, func(c rig.Call) []rig.Bad {
		text := func(name string, class api.Class, body string) rig.Bad {
			return rig.Bad{Name: name, Class: class, Text: func(string) string { return body }}
		}
		edit := func(name string, edit func(good string) string) rig.Bad {
			return rig.Bad{Name: name, Class: api.Malformed, Text: edit}
		}
		null := api.Incomplete
		if c.Printed {
			null = api.Malformed
		}
		all := []rig.Bad{
			text("nothing", api.Malformed, ""),
			text("null", null, "null"),
			text("a number", api.Malformed, "62.5"),
			text("a word", api.Malformed, `"good morning"`),
			text("true", api.Malformed, "true"),
			text("a list of numbers", api.Malformed, "[1]"),
			text("HTML", api.Malformed, "<html><body>Sign in</body></html>"),
			edit("cut in half", func(good string) string { return good[:len(good)/2] }),
			edit("without its last byte", func(good string) string { return strings.TrimRight(good, " \n\t")[:len(strings.TrimSpace(good))-1] }),
			edit("twice", func(good string) string { return good + good }),
			edit("more after it", func(good string) string { return good + "x" }),
			edit("bad UTF-8", func(good string) string { return strings.Replace(good, `{"`, "{\"x\":\"\xff\",\"", 1) }),
			edit("a zero byte", func(good string) string { return strings.Replace(good, `{"`, "{\x00\"", 1) }),
			edit("a byte order mark", func(good string) string { return "\ufeff" + good }),
			edit("UTF-16", func(good string) string { return strings.Join(strings.Split(good, ""), "\x00") }),
			edit("packed", func(good string) string {
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				io.WriteString(z, good)
				z.Close()
				return b.String()
			}),
			edit("deeper than anything", func(string) string { return strings.Repeat("[", 100_000) }),
		}
		if !c.List {
			all = append(all, text("an empty list", api.Malformed, "[]"))
		}
		for _, name := range append(c.Must, c.There...) {
			all = append(all, again(name)...)
		}
		if c.Bill != "" {
			all = append(all, again(c.Bill)...)
		}
		return all
	})
}

// again are the ways to say a member twice.
func again(name string) []rig.Bad {
	doubled := func(as string) func(string) string {
		return func(good string) string {
			return rig.Each(good, func(object map[string]any) {
				if v, ok := object[name]; ok {
					object[name] = rig.Twin{Value: v, As: as}
				}
			})
		}
	}
	return []rig.Bad{
		{Name: name + " twice", Class: api.Malformed, Text: doubled(name)},
		{Name: name + " again in capitals", Class: api.Malformed, Text: doubled(strings.ToUpper(name))},
	}
}

// Replies that come in a way in which no bill comes.
func TestMalformedReplies(t *testing.T) {
	darken(t, func(c rig.Call) []rig.Bad {
		if c.Printed {
			return nil // see TestExecFails and TestExecHang
		}
		status := func(code int, class api.Class) rig.Bad {
			return rig.Bad{Name: fmt.Sprint("status ", code), Class: class, How: answers(code, "", "")}
		}
		header := func(name string, class api.Class, key, value string) rig.Bad {
			return rig.Bad{Name: name, Class: class, How: func(_ *http.Request, good *http.Response) (*http.Response, error) {
				good.Header.Set(key, value)
				return good, nil
			}}
		}
		body := func(name string, class api.Class, read func(*http.Request) io.Reader) rig.Bad {
			return rig.Bad{Name: name, Class: class, How: func(r *http.Request, good *http.Response) (*http.Response, error) {
				good.Body = io.NopCloser(read(r))
				return good, nil
			}}
		}
		broken := func(name string, class api.Class, err func(*http.Request) error) rig.Bad {
			return rig.Bad{Name: name, Class: class, How: func(r *http.Request, _ *http.Response) (*http.Response, error) { return nil, err(r) }}
		}
		hang := func(r *http.Request) error { <-r.Context().Done(); return r.Context().Err() }
		all := []rig.Bad{
			status(401, api.HTTP401), status(403, api.HTTP403), status(404, api.HTTP4xx), status(408, api.HTTP4xx),
			status(410, api.HTTP4xx), status(422, api.HTTP4xx), status(500, api.HTTP5xx), status(599, api.HTTP5xx),
			status(201, api.Malformed), status(204, api.Malformed), status(206, api.Malformed), status(304, api.Redirect),
			{Name: "502 of a proxy", Class: api.HTTP5xx, How: answers(502, "Content-Type", "text/html")},
			{Name: "429 without Retry-After", Class: api.HTTP429, How: answers(429, "", "")},
			{Name: "429 with Retry-After", Class: api.HTTP429, How: answers(429, "Retry-After", "120"), After: 2 * time.Minute},
			{Name: "503 with Retry-After", Class: api.HTTP5xx, How: answers(503, "Retry-After", "90"), After: 90 * time.Second},
			{Name: "a page of a proxy", Class: api.Malformed, How: answers(200, "Content-Type", "text/html")},
			header("text", api.Malformed, "Content-Type", "text/plain"),
			header("a problem", api.Malformed, "Content-Type", "application/problem+json"),
			header("no content type", api.Malformed, "Content-Type", ""),
			header("a fast clock", api.ClockSkew, "Date", time.Now().Add(24*time.Hour).UTC().Format(http.TimeFormat)),
			header("last year's", api.ClockSkew, "Date", time.Now().AddDate(-1, 0, 0).UTC().Format(http.TimeFormat)),
			header("no date", api.Malformed, "Date", "this morning"),
			broken("no connection", api.Network, func(*http.Request) error { return io.ErrUnexpectedEOF }),
			broken("a hang", api.Timeout, hang),
			body("a hang within", api.Timeout, func(r *http.Request) io.Reader {
				return io.MultiReader(strings.NewReader("{"), reading(func() error { return hang(r) }))
			}),
			body("broken off", api.Network, func(*http.Request) io.Reader {
				return io.MultiReader(strings.NewReader("{"), reading(func() error { return io.ErrUnexpectedEOF }))
			}),
			body("no end", api.TooLarge, func(*http.Request) io.Reader { return repeated(" ") }),
			body("a list without end", api.TooLarge, func(*http.Request) io.Reader {
				return io.MultiReader(strings.NewReader(`{"results":[`), repeated(`{"source":"instance-701234","amount":1},`))
			}),
		}
		for _, code := range []int{301, 302, 303, 307, 308} {
			all = append(all, rig.Bad{Name: fmt.Sprintf("%d off the host", code), Class: api.Redirect, How: answers(code, "Location", "https://elsewhere.test/bill")})
		}
		return all
	})
}

// answers replies with a page and no bill.
func answers(code int, key, value string) func(*http.Request, *http.Response) (*http.Response, error) {
	return func(_ *http.Request, good *http.Response) (*http.Response, error) {
		good.StatusCode, good.Body = code, io.NopCloser(strings.NewReader("<html>"))
		if key != "" {
			good.Header.Set(key, value)
		}
		return good, nil
	}
}

// reading is a body that does not come.
type reading func() error

func (r reading) Read([]byte) (int, error) { return 0, r() }

// The pitfalls that are a reply, by the number that docs/pitfalls.md has for them.

func TestPitfall15Currency(t *testing.T) {
	darken(t, func(c rig.Call) []rig.Bad {
		if c.Euro == "" {
			return nil
		}
		return []rig.Bad{{Name: "euros", Class: c.Euro, Text: func(good string) string {
			return rig.Each(good, func(object map[string]any) {
				if _, said := object["currency"]; said || !c.Printed {
					object["currency"] = "EUR"
				}
			})
		}}}
	})
}

func TestPitfall20Numbers(t *testing.T) {
	darken(t, func(c rig.Call) (all []rig.Bad) {
		for _, name := range append([]string{c.Bill}, c.Rates...) {
			if name == "" {
				continue
			}
			values := []string{`NaN`, `"NaN"`, `"Inf"`, `"-Infinity"`, `1e400`, `"1e400"`, `1e-400`, `1e99999999999999999999`, `"1e-9223372036854775809"`,
				`9300000000`, `"92233720368547758080"`, `"a lot"`, `""`, `" "`, `"0x10"`, `"1/2"`, `"1_000"`, `"1,5"`, `"1 2"`, `"$1"`, `{"usd":1}`, `[62.5]`, `true`,
				`"` + strings.Repeat("1", 100) + `"`}
			if !c.Debt {
				values = append(values, `-0.5`, `"-0.5"`)
			}
			for _, v := range values {
				all = append(all, rig.Bad{Name: name + " " + v, Class: api.Malformed, Text: rig.Set(name, v)})
			}
		}
		for _, name := range c.Whole {
			for _, v := range []string{`"seven"`, `1.5`, `1e400`, `true`, `{}`} {
				all = append(all, rig.Bad{Name: name + " " + v, Class: api.Malformed, Text: rig.Set(name, v)})
			}
		}
		return all
	})
}

func TestPitfall21SuccessThatIsNone(t *testing.T) {
	darken(t, func(c rig.Call) (all []rig.Bad) {
		for _, body := range []string{
			`{"status":false,"message":"Something went wrong","error_reason":"server_error"}`, // Hyperstack
			`{"errors":[{"message":"Something went wrong"}],"data":null}`,                     // GraphQL
			`{"title":"Internal Server Error","status":500}`,
			`{"success":false,"error":"invalid_args","msg":"bad filter"}`, // Vast.ai
			`{"code":"server_error","message":"Something went wrong"}`,    // Verda
		} {
			class := c.Other
			if c.Name == rig.RunpodPodCall && strings.Contains(body, `"status"`) {
				class = api.Malformed // it has one, which is a word
			}
			all = append(all, rig.Bad{Name: body, Class: class, Text: func(string) string { return body }})
		}
		return all
	})
}

func TestPitfall29MissingField(t *testing.T) {
	darken(t, func(c rig.Call) (all []rig.Bad) {
		must := c.Must
		if c.Bill != "" {
			must = append(must, c.Bill)
		}
		for _, name := range must {
			all = append(all, rig.Bad{Name: name + " null", Class: api.Incomplete, Text: rig.Set(name, "null")})
		}
		for _, name := range append(must, c.There...) {
			all = append(all, rig.Bad{Name: "no " + name, Class: api.Incomplete, Text: func(good string) string {
				return rig.Each(good, func(object map[string]any) { delete(object, name) })
			}})
		}
		if !c.List {
			empty := api.Incomplete
			all = append(all, rig.Bad{Name: "an empty object", Class: empty, Text: func(string) string { return "{}" }})
		}
		return all
	})
}
