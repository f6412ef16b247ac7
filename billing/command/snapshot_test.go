package command

import (
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"spotinference/billing/api"
	"spotinference/billing/rig"
)

// snapshotCase is a change to a good snapshot, and who refuses it.
type snapshotCase struct {
	name, old, new string
	schema         bool      // the schema takes it
	class          api.Class // "" where the decoder takes it
}

func TestExecSnapshots(t *testing.T) {
	snapshotText := rig.Snapshot()
	const (
		bill     = `"bill":"62.541666667"`
		rate     = `"rate_per_hour":"2.5"`
		made     = `"created":"2026-11-22T11:00:00+01:00"`
		in, m, c = api.Incomplete, api.Malformed, api.Currency
	)
	cases := []snapshotCase{
		{"good", `{`, `{`, true, ""},
		{"no account", `"account":"acme",`, ``, true, ""},
		{"empty account", `"acme"`, `""`, true, ""},
		{"no status", `"status":"RUNNING",`, ``, true, ""},
		{"empty status", `"RUNNING"`, `""`, true, ""},
		{"no rate", rate + `,`, ``, true, ""},
		{"no birth", `,` + made, ``, true, ""},
		{"birth in a fraction", made, `"created":"2026-11-22T11:00:00.123456Z"`, true, ""},
		{"bill as a number", bill, `"bill":62.541666667`, true, ""},
		{"bill of nothing", bill, `"bill":0`, true, ""},
		{"bill with an exponent", bill, `"bill":"6.25e+1"`, true, ""},
		{"step as 60.0", `"step_seconds":60`, `"step_seconds":60.0`, true, ""},
		{"version as 1.0", `"version":1`, `"version":1.0`, true, ""},
		{"the provider's time", `"version":1,`, `"version":1,"now":"2026-11-23T11:15:02.5+01:00",`, true, ""},
		{"the provider's time without a zone", `"version":1,`, `"version":1,"now":"2026-11-23T11:15:02",`, false, m},
		{"the provider's time as a number", `"version":1,`, `"version":1,"now":1795428902,`, false, m},
		{"the provider's time twice", `"version":1,`, `"version":1,"now":"2026-11-23T11:15:02Z","now":"2026-11-23T11:15:02Z",`, true, m},
		{"no lag at all", `"lag_seconds":300`, `"lag_seconds":0`, true, ""},
		{"account truth", `"resource","lines"`, `"account","lines"`, true, ""},

		{"missing bill", bill + `,`, ``, false, in},
		{"null bill", bill, `"bill":null`, false, in},
		{"null rate", rate, `"rate_per_hour":null`, false, in},
		{"missing version", `"version":1,`, ``, false, in},
		{"missing currency", `"currency":"USD",`, ``, false, in},
		{"missing truth", `"truth":"resource",`, ``, false, in},
		{"missing step", `"step_seconds":60,`, ``, false, in},
		{"missing lag", `"lag_seconds":300,`, ``, false, in},
		{"missing resource", `"resource":"vm-1",`, ``, false, in},
		{"missing kind", `"kind":"instance",`, ``, false, in},
		{"missing running", `"running":true,"rate`, `"rate`, false, in},
		{"missing epoch", `"epoch":"2026-11",`, ``, false, in},
		{"another version", `"version":1`, `"version":2`, false, m},
		{"version in words", `"version":1`, `"version":"1"`, false, m},
		{"currency in lower case", `"USD"`, `"usd"`, false, c},
		{"currency sign", `"USD"`, `"$"`, false, c},
		{"long currency", `"USD"`, `"USDT"`, false, c},
		{"currency with a space", `"USD"`, `"USD "`, false, c},
		{"currency as a number", `"USD"`, `840`, false, m},
		{"account with a space", `"acme"`, `"ac me"`, false, m},
		{"long account", `"acme"`, `"` + strings.Repeat("a", 129) + `"`, false, m},
		{"step of nothing", `"step_seconds":60`, `"step_seconds":0`, false, m},
		{"step of a day", `"step_seconds":60`, `"step_seconds":86400`, false, m},
		{"step in halves", `"step_seconds":60`, `"step_seconds":60.5`, false, m},
		{"step in words", `"step_seconds":60`, `"step_seconds":"60"`, false, m},
		{"negative lag", `"lag_seconds":300`, `"lag_seconds":-1`, false, m},
		{"lag of a day", `"lag_seconds":300`, `"lag_seconds":86400`, false, m},
		{"no truth", `"resource","lines"`, `"none","lines"`, false, m},
		{"lines as an object", `"lines":[`, `"lines":{},"x":[`, false, m},
		{"no lines", `"lines":[`, `"x":[`, false, m},
		{"unknown field", `"version":1`, `"version":1,"note":""`, false, m},
		{"unknown field of a line", `"running":true,"rate`, `"running":true,"name":"x","rate`, false, m},
		{"field in another case", `"version":1`, `"Version":1`, false, m},
		{"empty resource", `"vm-1"`, `""`, false, m},
		{"resource with a space", `"vm-1"`, `"vm 1"`, false, m},
		{"resource beyond ASCII", `"vm-1"`, `"vm-é"`, false, m},
		{"resource with a control character", `"vm-1"`, `"vm\n1"`, false, m},
		{"resource as a number", `"vm-1"`, `1`, false, m},
		{"another kind", `"instance"`, `"pod"`, false, m},
		{"status with a newline", `"RUNNING"`, `"RUN\nNING"`, false, m},
		{"running in words", `"running":true,"rate`, `"running":"yes","rate`, false, m},
		{"running as a number", `"running":true,"rate`, `"running":1,"rate`, false, m},
		{"empty epoch", `"epoch":"2026-11","created"`, `"epoch":"","created"`, false, m},
		{"birth without a zone", made, `"created":"2026-11-22T11:00:00"`, false, m},
		{"birth as a date", made, `"created":"2026-11-22"`, false, m},
		{"birth with a comma", made, `"created":"2026-11-22T11:00:00,5Z"`, false, m},
		{"birth in seconds", made, `"created":1763805600`, false, m},
		{"negative bill", bill, `"bill":-1`, false, m},
		{"negative bill in a string", bill, `"bill":"-1"`, false, m},
		{"negative rate", rate, `"rate_per_hour":-2.5`, false, m},
		{"bill with a plus", bill, `"bill":"+1"`, false, m},
		{"bill with a space", bill, `"bill":"1 "`, false, m},
		{"bill with a sign", bill, `"bill":"$1"`, false, m},
		{"bill with a comma", bill, `"bill":"1,5"`, false, m},
		{"bill with a point alone", bill, `"bill":".5"`, false, m},
		{"bill with a leading zero", bill, `"bill":"01"`, false, m},
		{"bill in hex", bill, `"bill":"0x10"`, false, m},
		{"empty bill", bill, `"bill":""`, false, m},
		{"bill of NaN in a string", bill, `"bill":"NaN"`, false, m},
		{"infinite bill in a string", bill, `"bill":"Infinity"`, false, m},
		{"huge exponent", bill, `"bill":1e400`, false, m},
		{"bill out of range", bill, `"bill":9000000000`, false, m},
		{"bill in a list", bill, `"bill":[1]`, false, m},
		{"bill that is true", bill, `"bill":true`, false, m},
		{"a very long bill", bill, `"bill":"1.` + strings.Repeat("0", 70) + `"`, false, m},

		// What a schema cannot say, or no JSON at all.
		{"duplicate resource", `"disk-1"`, `"vm-1"`, true, m},
		{"huge exponent in a string", bill, `"bill":"1e400"`, true, m},
		{"exponent of a whole line", bill, `"bill":"1e99999999999999999999"`, true, m},
		{"out of range in a string", bill, `"bill":"9000000000"`, true, m},
		{"tiny exponent", bill, `"bill":1e-70`, true, m},
		{"month 13", made, `"created":"2026-13-22T11:00:00Z"`, true, m},
		{"born before time", made, `"created":"1969-12-31T23:59:59Z"`, true, m},
		{"field twice", bill, bill + `,` + bill, true, m},
		{"NaN", bill, `"bill":NaN`, false, m},
		{"truncated", "]}\n", "]\n", false, m},
		{"more after it", "]}\n", "]}{}\n", false, m},
		{"a comma too many", "}]}", "},]}", false, m},
		{"not UTF-8", `"acme"`, "\"\xff\"", false, m},
	}
	for _, body := range []string{`null`, `[]`, `"x"`, `1`, `true`, ``} {
		cases = append(cases, snapshotCase{"instead: " + body, snapshotText, body, false, m})
	}
	cases = append(cases,
		snapshotCase{"an empty object", snapshotText, `{}`, false, in},
		snapshotCase{"an empty list of lines", snapshotText[strings.Index(snapshotText, "["):], `[]}`, false, in},
		snapshotCase{"lines of null", snapshotText[strings.Index(snapshotText, "["):], `[null]}`, false, m},
		snapshotCase{"lines of lists", snapshotText[strings.Index(snapshotText, "["):], `[[]]}`, false, m},
		snapshotCase{"a thousand lines and one", snapshotText[strings.Index(snapshotText, "["):], `[{}` + strings.Repeat(`,{}`, 1000) + `]}`, false, m},
	)
	schema := loadSchema(t)
	for _, c := range cases {
		if !strings.Contains(snapshotText, c.old) {
			t.Fatalf("%s: no %q", c.name, c.old)
		}
		body := strings.Replace(snapshotText, c.old, c.new, 1)
		if got := json.Valid([]byte(body)) && schema.takes(t, body); got != c.schema {
			t.Errorf("%s: the schema takes it = %v", c.name, got)
		}
		s, f := decodeSnapshot([]byte(body))
		if (f == nil) != (c.class == "") || f != nil && f.Class != c.class {
			t.Errorf("%s: %v, want %q", c.name, f, c.class)
		}
		if f != nil && s.lines != nil {
			t.Errorf("%s: a failure with lines", c.name)
		}
		if c.class == "" && !c.schema {
			t.Errorf("%s: the decoder takes what the schema refuses", c.name)
		}
	}
}

// What the schema gives as an example is taken as it stands.
func TestExecSchemaHasAnExample(t *testing.T) {
	schema := loadSchema(t)
	var root struct{ Examples []json.RawMessage }
	if err := json.Unmarshal(Schema(), &root); err != nil || len(root.Examples) == 0 {
		t.Fatalf("%d examples, %v", len(root.Examples), err)
	}
	for _, example := range root.Examples {
		s, f := decodeSnapshot(example)
		if f != nil || !schema.takes(t, string(example)) || len(s.lines) != 2 || s.now.IsZero() {
			t.Errorf("%s: %v", example, f)
		}
	}
}

// The program that prints the schema may not change it for the next.
func TestExecSchemaIsACopy(t *testing.T) {
	a := Schema()
	a[0] = 'x'
	if b := Schema(); b[0] != '{' || !json.Valid(b) {
		t.Errorf("schema begins with %q", b[:10])
	}
}

// Whatever is printed, the decoder refuses it or takes it, with every amount in its
// range; and what the schema refuses it does not take.
func FuzzDecodeSnapshot(f *testing.F) {
	good := rig.Snapshot()
	f.Add([]byte(good))
	for _, change := range [][2]string{
		{`"62.541666667"`, `1e400`}, {`"62.541666667"`, `NaN`}, {`"62.541666667"`, `-0`}, {`"62.541666667"`, `"1e-60"`}, {`"62.541666667"`, `8999999999.9999999999`},
		{`60`, `6e1`}, {`"USD"`, `"us\u0044"`}, {`"vm-1"`, `"disk-1"`}, {`]}`, `]}{}`}, {`"epoch"`, `"Epoch"`}, {`+01:00`, `-24:00`},
	} {
		f.Add([]byte(strings.Replace(good, change[0], change[1], 1)))
	}
	schema := loadSchema(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		s, failure := decodeSnapshot(body)
		if failure != nil {
			if failure.Class == "" || s.lines != nil {
				t.Fatalf("failure %+v with %+v", failure, s)
			}
			return
		}
		if !schema.takes(t, string(body)) {
			t.Fatalf("taken, against the schema: %q", body)
		}
		seen := map[string]bool{}
		for _, l := range s.lines {
			if l.Bill == nil || *l.Bill < 0 || l.Rate != nil && *l.Rate < 0 || l.Resource == "" || l.Epoch == "" || seen[l.Resource] {
				t.Fatalf("line %+v", l)
			}
			seen[l.Resource] = true
		}
		if len(s.currency) != 3 || s.step <= 0 || s.lag < 0 || len(seen) == 0 {
			t.Fatalf("snapshot %+v", s)
		}
	})
}

// schema is as much of JSON Schema (2020-12) as schema.json uses. A keyword that it
// does not know is an error, so that the schema cannot come to say what is not
// checked here.
type schema struct {
	root map[string]any
}

func loadSchema(t testing.TB) schema {
	t.Helper()
	s := schema{root: parse(t, string(Schema())).(map[string]any)}
	if s.root["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Fatalf("$schema is %v", s.root["$schema"])
	}
	return s
}

func parse(t testing.TB, text string) any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

func (s schema) takes(t testing.TB, body string) bool {
	t.Helper()
	err := s.check(s.root, parse(t, body))
	if err != nil && strings.HasPrefix(err.Error(), "schema: ") {
		t.Fatal(err)
	}
	return err == nil
}

func (s schema) check(rule map[string]any, v any) error {
	for key, want := range rule {
		if err := s.keyword(rule, key, want, v); err != nil {
			return err
		}
	}
	return nil
}

func (s schema) keyword(rule map[string]any, key string, want, v any) error {
	text, isText := v.(string)
	number, isNumber := v.(json.Number)
	object, isObject := v.(map[string]any)
	list, isList := v.([]any)
	no := func() error { return fmt.Errorf("%v is against %s %v", v, key, want) }
	switch key {
	case "$schema", "$defs", "title", "description", "format", "examples":
	case "$ref":
		name := strings.TrimPrefix(want.(string), "#/$defs/")
		target, ok := s.root["$defs"].(map[string]any)[name].(map[string]any)
		if !ok {
			return fmt.Errorf("schema: no %v", want)
		}
		return s.check(target, v)
	case "type":
		is := map[string]bool{"string": isText, "object": isObject, "array": isList, "number": isNumber}
		_, is["boolean"] = v.(bool)
		is["integer"] = isNumber && rat(number).IsInt()
		if ok, known := is[want.(string)]; !known {
			return fmt.Errorf("schema: type %v", want)
		} else if !ok {
			return no()
		}
	case "const":
		if !equal(want, v) {
			return no()
		}
	case "enum":
		if !slices.ContainsFunc(want.([]any), func(w any) bool { return equal(w, v) }) {
			return no()
		}
	case "pattern":
		if isText && !regexp.MustCompile(want.(string)).MatchString(text) {
			return no()
		}
	case "maxLength":
		if isText && utf8.RuneCountInString(text) > whole(want) {
			return no()
		}
	case "minimum":
		if isNumber && rat(number).Cmp(rat(want.(json.Number))) < 0 {
			return no()
		}
	case "maximum":
		if isNumber && rat(number).Cmp(rat(want.(json.Number))) > 0 {
			return no()
		}
	case "exclusiveMaximum":
		if isNumber && rat(number).Cmp(rat(want.(json.Number))) >= 0 {
			return no()
		}
	case "minItems":
		if isList && len(list) < whole(want) {
			return no()
		}
	case "maxItems":
		if isList && len(list) > whole(want) {
			return no()
		}
	case "items":
		for _, item := range list {
			if err := s.check(want.(map[string]any), item); err != nil {
				return err
			}
		}
	case "required":
		for _, name := range want.([]any) {
			if _, ok := object[name.(string)]; isObject && !ok {
				return no()
			}
		}
	case "additionalProperties":
		if want != false {
			return fmt.Errorf("schema: additionalProperties %v", want)
		}
		for name := range object {
			if _, ok := rule["properties"].(map[string]any)[name]; !ok {
				return no()
			}
		}
	case "properties":
		for name, sub := range want.(map[string]any) {
			if field, ok := object[name]; ok {
				if err := s.check(sub.(map[string]any), field); err != nil {
					return err
				}
			}
		}
	case "anyOf":
		for _, sub := range want.([]any) {
			err := s.check(sub.(map[string]any), v)
			if err == nil || strings.HasPrefix(err.Error(), "schema: ") {
				return err
			}
		}
		return no()
	default:
		return fmt.Errorf("schema: keyword %q", key)
	}
	return nil
}

func equal(a, b any) bool {
	x, ok := a.(json.Number)
	y, ok2 := b.(json.Number)
	if ok && ok2 {
		return rat(x).Cmp(rat(y)) == 0
	}
	return !ok && !ok2 && reflect.DeepEqual(a, b)
}

// rat is exact, but for exponents that no test means to be: those are as good as
// the nearest that is allowed.
func rat(n json.Number) *big.Rat {
	text := strings.ToLower(string(n))
	if digits, exponent, ok := strings.Cut(text, "e"); ok {
		e, err := strconv.Atoi(exponent)
		if err != nil || e > 1000 || e < -1000 {
			if e = 1000; strings.HasPrefix(exponent, "-") {
				e = -1000
			}
		}
		text = digits + "e" + strconv.Itoa(e)
	}
	r, _ := new(big.Rat).SetString(text)
	return r
}

func whole(n any) int {
	i, _ := strconv.Atoi(string(n.(json.Number)))
	return i
}
