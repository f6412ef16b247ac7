package rig

import (
	"embed"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"spotinference/billing/api"
)

// testdata holds replies of each provider, and what a command prints.
//
//go:embed testdata
var testdata embed.FS

func recordedFile(name string) []byte {
	b, err := testdata.ReadFile("testdata/" + name)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// Recorded is a reply of a provider's API, and the request that it is to.
type Recorded struct {
	Name    string
	Request struct {
		Path  string
		Query map[string]string
	}
	Status  int
	Headers map[string]string
	Body    json.RawMessage
	Text    string `json:"body_text"`
}

// Serve answers with r.
func (r Recorded) Serve(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	for k, v := range r.Headers {
		w.Header().Set(k, v)
	}
	w.WriteHeader(r.Status)
	w.Write(r.Body)
	io.WriteString(w, r.Text)
}

// Answer always answers with r.
func Answer(r Recorded) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { r.Serve(w) }
}

// recordings are a provider's replies by their names.
func recordings(t testing.TB, provider string) map[string]Recorded {
	t.Helper()
	var file struct{ Cases []Recorded }
	if err := json.Unmarshal(recordedFile(provider+".json"), &file); err != nil {
		t.Fatal(err)
	}
	cases := make(map[string]Recorded)
	for _, c := range file.Cases {
		cases[c.Name] = c
	}
	return cases
}

// Snapshot is the example of what a command prints.
func Snapshot() string { return string(recordedFile("exec.json")) }

// AddCases seeds a fuzzer with a provider's replies.
func AddCases(f *testing.F, provider string) {
	f.Helper()
	var file struct{ Cases []Recorded }
	if err := json.Unmarshal(recordedFile(provider+".json"), &file); err != nil {
		f.Fatal(err)
	}
	if len(file.Cases) == 0 {
		f.Fatalf("%s has no cases", provider)
	}
	for _, c := range file.Cases {
		f.Add([]byte(c.Body))
		f.Add([]byte(c.Text))
	}
}

// Classed wants a failure with a class and a text, and nothing beside it.
func Classed(t *testing.T, what string, failure *api.Failure, empty bool) {
	t.Helper()
	if failure != nil && (failure.Class == "" || failure.Error() == "" || !empty) {
		t.Fatalf("%s: failure %+v beside a value", what, failure)
	}
}
