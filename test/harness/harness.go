// Package harness runs the program for tests, as a process of its own: what is killed
// there is what is killed in service. It builds the program, starts it, and asks it over
// its own interfaces; it knows nothing of what is inside. Only tests import it.
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
//	func TestServes(t *testing.T) {
//		s := harness.Serve(t, nil, "--demo").Ready()
//		status, _, body := s.Post("/v1/completions", `{"prompt":"hi"}`)
//		...
//		s.Stop()
//	}
package harness

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long Eventually waits. It bounds a test that would wait for ever; no
// test passes or fails by how fast this machine is.
const Patience = 2 * time.Minute

// concurrent is how many parallel tests run at a time where the command line does not
// say: they wait for processes, and two at a time would leave the processors idle. With
// the race detector they compute several times as long, and wait for each other.
func concurrent() string {
	if raceDetector {
		return "3"
	}
	return "12"
}

// buildDir is made and removed by Main.
var buildDir string

// BuildDir holds what is built for all tests of this test binary. It goes away with it.
func BuildDir() string { return buildDir }

// Main is TestMain of a package that uses this one.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", concurrent()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "spotinference-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.Run()
}

// Root is the repository's folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// root looks upwards from the folder of the test.
var root = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module spotinference\n")) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no folder above holds the module spotinference")
		}
		dir = up
	}
})

// Program is the path of the program, built once, with the race detector where the test
// has it.
func Program(t testing.TB) string {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// program has go run link it, since go build links anew each time, and go run keeps what
// it linked in Go's build cache: the next test binary finds it there.
var program = sync.OnceValues(func() (string, error) {
	dir, err := root()
	if err != nil {
		return "", err
	}
	args := []string{"run", "-C", dir, "-exec", "cp -t '" + buildDir + "'"}
	if raceDetector {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return filepath.Join(buildDir, "spotinference"), nil
})

// Env is this process's environment without the settings of the program, and of its
// tests.
func Env() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "SPOTINFERENCE_") })
}

// WriteProgram writes a file that is to be executed. No process of ours starts while it
// is open: the kernel executes no file that anybody has open to write, and a process
// that starts has all of ours until it is another program.
func WriteProgram(t testing.TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Command runs the program to its end.
func Command(t testing.TB, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(Program(t), args...)
	cmd.Env = append(Env(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Eventually asks until it is so. It asks less often the longer it takes, for what is
// asked may be a process of its own.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); {
		waited := time.Since(began)
		if waited > Patience {
			t.Fatalf("not within %s: %s", Patience, what)
		}
		time.Sleep(min(max(waited/4, 10*time.Millisecond), 250*time.Millisecond))
	}
}
