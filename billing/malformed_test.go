package billing_test

import (
	"bytes"
	"compress/gzip"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
)

// bad is one way of a reply to go wrong: in what it says or, where how is set, in
// how it says it.
type bad struct {
	name  string
	class billing.Class
	text  func(good string) string
	how   func(r *http.Request, good *http.Response) (*http.Response, error)
	after time.Duration // for which the provider asked for peace
}

func (b bad) spoil(t *testing.T, r *http.Request, good *http.Response) (*http.Response, error) {
	if b.how != nil {
		return b.how(r, good)
	}
	body, err := io.ReadAll(good.Body)
	if err != nil || good.StatusCode != 200 {
		t.Errorf("there is no good reply to spoil: %d %s, %v", good.StatusCode, body, err)
	}
	good.Body = io.NopCloser(strings.NewReader(b.text(string(body))))
	return good, nil
}

// darken wants each of these replies, to each call of each adapter, to be a failure
// of its class in that call: through the sampler a row in a real ledger and no line
// of a bill, whatever the calls beside it said. The next minute is as good as any,
// and the ledger knows what was spent meanwhile.
func darken(t *testing.T, cases func(call) []bad) {
	t.Helper()
	for _, r := range rigs() {
		for _, c := range r.calls {
			all := cases(c)
			if len(all) == 0 {
				continue
			}
			t.Run(r.name+" "+c.name, func(t *testing.T) {
				t.Parallel() // the ledger waits for the disk
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) { newStage(t, r, dir).darken(t, dir, c, all) })
			})
		}
	}
}

func (st *stage) darken(t *testing.T, dir string, c call, cases []bad) {
	var newest time.Time
	minute := func(t *testing.T, p billing.Provider) error {
		t.Helper()
		time.Sleep(3 * time.Minute)
		s, err := billing.NewSampler(billing.SamplerConfig{Provider: p, Store: st.led, Newest: newest})
		if err != nil {
			t.Fatal(err)
		}
		return s.Last(t.Context())
	}
	good := func(p billing.Provider, after string) ledger.Sample {
		t.Helper()
		if err := minute(t, p); err != nil {
			t.Fatalf("after %s: %v", after, err)
		}
		s, ok, err := st.led.Newest()
		if err != nil || !ok || !s.At.After(newest) {
			t.Fatalf("after %s: no sample is stored: %v", after, err)
		}
		newest = s.At
		return s
	}
	first := good(st.open(), "nothing")
	var want []string
	for _, b := range cases {
		p := st.open() // as after a restart: every call is made anew
		st.spoil(c, &b)
		err := minute(t, p)
		var f *billing.Failure
		if !errors.As(err, &f) {
			t.Errorf("%s: %v, want a failure", b.name, err)
			st.spoil(c, nil)
			newest = newestAt(t, st.led)
			continue
		}
		in := c.name
		if b.class == billing.Refused {
			in = "" // it was read; the ledger did not take it
		}
		if f.Class != b.class || f.Call != in || f.RetryAfter != b.after {
			t.Errorf("%s: %q in %q (%v), want %q in %q", b.name, f.Class, f.Call, err, b.class, in)
		}
		if strings.Contains(err.Error()+f.Hint(), testKey) {
			t.Errorf("%s: the key is in %q", b.name, err)
		}
		if st.hits() == 0 {
			t.Errorf("%s: the call was not made", b.name)
		}
		if at := newestAt(t, st.led); !at.Equal(newest) {
			t.Errorf("%s: a sample is stored", b.name)
			newest = at
		}
		want = append(want, fmt.Sprintf("%s %s", f.Class, f.Call))
		st.spoil(c, nil)
		if s := good(p, b.name); len(s.Lines) != len(first.Lines) {
			t.Errorf("after %s: %d lines, want %d", b.name, len(s.Lines), len(first.Lines))
		}
	}
	if got := failures(t, dir); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("rows of failures:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if st.cloud == nil {
		return
	}
	spend, err := st.led.Spent(first.At, newest)
	if err != nil {
		t.Fatal(err)
	}
	books := ledger.Nanos(st.cloud.Books(first.At, newest).Nanos)
	slack := ledger.Nanos(0)
	if st.rig.name == "vast" {
		slack = 3_000_000 // its amounts are rounded to 0.001, twice a contract
	}
	if d := spend.Net - books; d > slack || d < -slack || books == 0 {
		t.Errorf("spent %s, the books say %s", spend.Net, books)
	}
}

func newestAt(t *testing.T, led *ledger.Ledger) time.Time {
	t.Helper()
	s, _, err := led.Newest()
	if err != nil {
		t.Fatal(err)
	}
	return s.At
}

// failures are the class and the call of the ledger's rows of failed polls, in order.
func failures(t *testing.T, dir string) (all []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT class || ' ' || call FROM sample_failure ORDER BY at")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var row string
		if err := rows.Scan(&row); err != nil {
			t.Fatal(err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

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

// each applies change to every object in a JSON text.
func each(text string, change func(map[string]any)) string {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		panic("BUG: " + err.Error())
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, inner := range v {
				walk(inner)
			}
			change(v)
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(v)
	return written(v)
}

// set is a change of text: every member of that name gets this value, JSON or not.
func set(name, value string) func(string) string {
	return func(good string) string {
		return each(good, func(object map[string]any) {
			if _, ok := object[name]; ok {
				object[name] = raw(value)
			}
		})
	}
}

// raw is written as it is; a twin is a member that is written twice.
type (
	raw  string
	twin struct {
		value any
		as    string
	}
)

// written is v as JSON, except where it is none.
func written(v any) string {
	switch v := v.(type) {
	case raw:
		return string(v)
	case map[string]any:
		var members []string
		for name, inner := range v {
			if t, ok := inner.(twin); ok {
				members = append(members, fmt.Sprintf("%q:%s", t.as, written(t.value)))
				inner = t.value
			}
			members = append(members, fmt.Sprintf("%q:%s", name, written(inner)))
		}
		return "{" + strings.Join(members, ",") + "}"
	case []any:
		var items []string
		for _, inner := range v {
			items = append(items, written(inner))
		}
		return "[" + strings.Join(items, ",") + "]"
	default:
		b, err := json.Marshal(v)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		return string(b)
	}
}
