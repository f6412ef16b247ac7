//go:build cgo

package gpu

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The helper's own tests are in its folder and have its tag, so that go test ./... need
// not compile NVML's header and fill the screen with a C compiler's warnings. They are
// run from here, each as the test of its name.

func TestReadingOfAMock(t *testing.T)      { runInHelper(t) }
func TestWhatADriverLacks(t *testing.T)    { runInHelper(t) }
func TestWhatEndsIt(t *testing.T)          { runInHelper(t) }
func TestXIDsOfAMock(t *testing.T)         { runInHelper(t) }
func TestAStandIn(t *testing.T)            { runInHelper(t) }
func TestAnOldStandIn(t *testing.T)        { runInHelper(t) }
func TestALostCard(t *testing.T)           { runInHelper(t) }
func TestADriverThatGoesAway(t *testing.T) { runInHelper(t) }
func TestALibraryThatAborts(t *testing.T)  { runInHelper(t) }
func TestALibraryWithoutInit(t *testing.T) { runInHelper(t) }
func TestAHangEndsWithStdin(t *testing.T)  { runInHelper(t) }
func TestNoLibrary(t *testing.T)           { runInHelper(t) }

// TestEveryTestOfTheHelperRuns: each of them has its line above.
func TestEveryTestOfTheHelperRuns(t *testing.T) {
	t.Parallel()
	bin, err := helperTests()
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command(bin, "-test.list", ".")
	list.Dir = "helper"
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("helper_suite_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var here []string
	for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\) +\{ runInHelper\(t\) \}$`).FindAllSubmatch(source, -1) {
		here = append(here, string(m[1]))
	}
	there := strings.Fields(string(out))
	slices.Sort(here)
	slices.Sort(there)
	if !slices.Equal(here, there) {
		t.Errorf("run from here: %v\nin the helper's folder: %v", here, there)
	}
}

// helperTests builds the helper's tests, once: with the race detector and with coverage
// where this test has them.
var helperTests = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(buildDir, "helper.test")
	args := []string{"test", "-c", "-tags", "helper", "-o", bin}
	if raceDetector {
		args = append(args, "-race")
	}
	if mode := testing.CoverMode(); mode != "" {
		args = append(args, "-cover", "-covermode", mode, "-coverpkg", "spotinference/...")
	}
	return bin, goTool(append(args, "./helper")...)
})

// ended is a line that tells how a test, or a part of one, ended.
var ended = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+) \(`)

// runInHelper runs the helper's test of the same name, in a process of its own, and ends
// as that one does, each of its parts a part of this one.
func runInHelper(t *testing.T) {
	t.Parallel()
	bin, err := helperTests()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.v", "-test.run", "^" + t.Name() + "$"}
	if testing.CoverMode() != "" {
		args = append(args, "-test.gocoverdir="+flag.Lookup("test.gocoverdir").Value.String())
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir = "helper"
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for _, m := range ended.FindAllStringSubmatch(string(out), -1) {
		part, ok := strings.CutPrefix(m[2], t.Name()+"/")
		if !ok {
			continue
		}
		t.Run(part, func(t *testing.T) {
			if m[1] == "FAIL" {
				t.Fail()
			}
		})
	}
	switch {
	case err != nil || !strings.Contains(string(out), "--- "):
		t.Fatalf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()+" "):
		t.Skip(string(out))
	}
}
