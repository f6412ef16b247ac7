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

	"spotinference/billing"
)

// Text that is no JSON, not all of it, or JSON of another kind.
func TestMalformedText(t *testing.T) {
	darken(t, func(c call) []bad {
		text := func(name string, class billing.Class, body string) bad {
			return bad{name: name, class: class, text: func(string) string { return body }}
		}
		edit := func(name string, edit func(good string) string) bad {
			return bad{name: name, class: billing.Malformed, text: edit}
		}
		null := billing.Incomplete
		if c.printed {
			null = billing.Malformed
		}
		all := []bad{
			text("nothing", billing.Malformed, ""),
			text("null", null, "null"),
			text("a number", billing.Malformed, "62.5"),
			text("a word", billing.Malformed, `"good morning"`),
			text("true", billing.Malformed, "true"),
			text("a list of numbers", billing.Malformed, "[1]"),
			text("HTML", billing.Malformed, "<html><body>Sign in</body></html>"),
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
		if !c.list {
			all = append(all, text("an empty list", billing.Malformed, "[]"))
		}
		for _, name := range append(c.must, c.there...) {
			all = append(all, again(name)...)
		}
		if c.bill != "" {
			all = append(all, again(c.bill)...)
		}
		return all
	})
}

// again are the ways to say a member twice.
func again(name string) []bad {
	doubled := func(as string) func(string) string {
		return func(good string) string {
			return each(good, func(object map[string]any) {
				if v, ok := object[name]; ok {
					object[name] = twin{v, as}
				}
			})
		}
	}
	return []bad{
		{name: name + " twice", class: billing.Malformed, text: doubled(name)},
		{name: name + " again in capitals", class: billing.Malformed, text: doubled(strings.ToUpper(name))},
	}
}

// Replies that come in a way in which no bill comes.
func TestMalformedReplies(t *testing.T) {
	darken(t, func(c call) []bad {
		if c.printed {
			return nil // see TestExecFails and TestExecHang
		}
		status := func(code int, class billing.Class) bad {
			return bad{name: fmt.Sprint("status ", code), class: class, how: answers(code, "", "")}
		}
		header := func(name string, class billing.Class, key, value string) bad {
			return bad{name: name, class: class, how: func(_ *http.Request, good *http.Response) (*http.Response, error) {
				good.Header.Set(key, value)
				return good, nil
			}}
		}
		body := func(name string, class billing.Class, read func(*http.Request) io.Reader) bad {
			return bad{name: name, class: class, how: func(r *http.Request, good *http.Response) (*http.Response, error) {
				good.Body = io.NopCloser(read(r))
				return good, nil
			}}
		}
		broken := func(name string, class billing.Class, err func(*http.Request) error) bad {
			return bad{name: name, class: class, how: func(r *http.Request, _ *http.Response) (*http.Response, error) { return nil, err(r) }}
		}
		hang := func(r *http.Request) error { <-r.Context().Done(); return r.Context().Err() }
		all := []bad{
			status(401, billing.HTTP401), status(403, billing.HTTP403), status(404, billing.HTTP4xx), status(408, billing.HTTP4xx),
			status(410, billing.HTTP4xx), status(422, billing.HTTP4xx), status(500, billing.HTTP5xx), status(599, billing.HTTP5xx),
			status(201, billing.Malformed), status(204, billing.Malformed), status(206, billing.Malformed), status(304, billing.Redirect),
			{name: "502 of a proxy", class: billing.HTTP5xx, how: answers(502, "Content-Type", "text/html")},
			{name: "429 without Retry-After", class: billing.HTTP429, how: answers(429, "", "")},
			{name: "429 with Retry-After", class: billing.HTTP429, how: answers(429, "Retry-After", "120"), after: 2 * time.Minute},
			{name: "503 with Retry-After", class: billing.HTTP5xx, how: answers(503, "Retry-After", "90"), after: 90 * time.Second},
			{name: "a page of a proxy", class: billing.Malformed, how: answers(200, "Content-Type", "text/html")},
			header("text", billing.Malformed, "Content-Type", "text/plain"),
			header("a problem", billing.Malformed, "Content-Type", "application/problem+json"),
			header("no content type", billing.Malformed, "Content-Type", ""),
			header("a fast clock", billing.ClockSkew, "Date", time.Now().Add(24*time.Hour).UTC().Format(http.TimeFormat)),
			header("last year's", billing.ClockSkew, "Date", time.Now().AddDate(-1, 0, 0).UTC().Format(http.TimeFormat)),
			header("no date", billing.Malformed, "Date", "this morning"),
			broken("no connection", billing.Network, func(*http.Request) error { return io.ErrUnexpectedEOF }),
			broken("a hang", billing.Timeout, hang),
			body("a hang within", billing.Timeout, func(r *http.Request) io.Reader {
				return io.MultiReader(strings.NewReader("{"), reading(func() error { return hang(r) }))
			}),
			body("broken off", billing.Network, func(*http.Request) io.Reader {
				return io.MultiReader(strings.NewReader("{"), reading(func() error { return io.ErrUnexpectedEOF }))
			}),
			body("no end", billing.TooLarge, func(*http.Request) io.Reader { return &repeat{text: " "} }),
			body("a list without end", billing.TooLarge, func(*http.Request) io.Reader {
				return io.MultiReader(strings.NewReader(`{"results":[`), &repeat{text: `{"source":"instance-701234","amount":1},`})
			}),
		}
		for _, code := range []int{301, 302, 303, 307, 308} {
			all = append(all, bad{name: fmt.Sprintf("%d off the host", code), class: billing.Redirect, how: answers(code, "Location", "https://elsewhere.test/bill")})
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
	darken(t, func(c call) []bad {
		if c.euro == "" {
			return nil
		}
		return []bad{{name: "euros", class: c.euro, text: func(good string) string {
			return each(good, func(object map[string]any) {
				if _, said := object["currency"]; said || !c.printed {
					object["currency"] = "EUR"
				}
			})
		}}}
	})
}

func TestPitfall20Numbers(t *testing.T) {
	darken(t, func(c call) (all []bad) {
		for _, name := range append([]string{c.bill}, c.rates...) {
			if name == "" {
				continue
			}
			values := []string{`NaN`, `"NaN"`, `"Inf"`, `"-Infinity"`, `1e400`, `"1e400"`, `1e-400`, `1e99999999999999999999`, `"1e-9223372036854775809"`,
				`9300000000`, `"92233720368547758080"`, `"a lot"`, `""`, `" "`, `"0x10"`, `"1/2"`, `"1_000"`, `"1,5"`, `"1 2"`, `"$1"`, `{"usd":1}`, `[62.5]`, `true`,
				`"` + strings.Repeat("1", 100) + `"`}
			if !c.debt {
				values = append(values, `-0.5`, `"-0.5"`)
			}
			for _, v := range values {
				all = append(all, bad{name: name + " " + v, class: billing.Malformed, text: set(name, v)})
			}
		}
		for _, name := range c.whole {
			for _, v := range []string{`"seven"`, `1.5`, `1e400`, `true`, `{}`} {
				all = append(all, bad{name: name + " " + v, class: billing.Malformed, text: set(name, v)})
			}
		}
		return all
	})
}

func TestPitfall21SuccessThatIsNone(t *testing.T) {
	darken(t, func(c call) (all []bad) {
		for _, body := range []string{
			`{"status":false,"message":"Something went wrong","error_reason":"server_error"}`, // Hyperstack
			`{"errors":[{"message":"Something went wrong"}],"data":null}`,                     // GraphQL
			`{"title":"Internal Server Error","status":500}`,
			`{"success":false,"error":"invalid_args","msg":"bad filter"}`, // Vast.ai
			`{"code":"server_error","message":"Something went wrong"}`,    // Verda
		} {
			class := c.other
			if c.name == getPod && strings.Contains(body, `"status"`) {
				class = billing.Malformed // it has one, which is a word
			}
			all = append(all, bad{name: body, class: class, text: func(string) string { return body }})
		}
		return all
	})
}

func TestPitfall29MissingField(t *testing.T) {
	darken(t, func(c call) (all []bad) {
		must := c.must
		if c.bill != "" {
			must = append(must, c.bill)
		}
		for _, name := range must {
			all = append(all, bad{name: name + " null", class: billing.Incomplete, text: set(name, "null")})
		}
		for _, name := range append(must, c.there...) {
			all = append(all, bad{name: "no " + name, class: billing.Incomplete, text: func(good string) string {
				return each(good, func(object map[string]any) { delete(object, name) })
			}})
		}
		if !c.list {
			empty := billing.Incomplete
			all = append(all, bad{name: "an empty object", class: empty, text: func(string) string { return "{}" }})
		}
		return all
	})
}
