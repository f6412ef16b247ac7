package billing

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// addCases seeds a fuzzer with the replies of a file of testdata.
func addCases(f *testing.F, file string) {
	f.Helper()
	b := recordedFile(file)
	var cases struct {
		Cases []struct {
			Body json.RawMessage
			Text string `json:"body_text"`
		}
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		f.Fatal(err)
	}
	if len(cases.Cases) == 0 {
		f.Fatalf("%s has no cases", file)
	}
	for _, c := range cases.Cases {
		f.Add([]byte(c.Body))
		f.Add([]byte(c.Text))
	}
}

// classed wants a failure with a class and a text, and nothing beside it.
func classed(t *testing.T, what string, failure *Failure, empty bool) {
	t.Helper()
	if failure != nil && (failure.Class == "" || failure.Error() == "" || !empty) {
		t.Fatalf("%s: failure %+v beside a value", what, failure)
	}
}

func recordedFile(name string) []byte {
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		panic(err)
	}
	return b
}
