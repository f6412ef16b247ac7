package socket_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/internal/socket"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	first, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v, want a socket of mode 0600", st.Mode(), err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%v lie beside the socket", files)
	}
	if _, err := socket.Listen(path); !errors.Is(err, socket.ErrInUse) {
		t.Errorf("where somebody listens: %v", err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("after a refused one: %v", err)
	} else {
		c.Close()
	}

	// Its process dies: the file stays.
	if err := first.UnixListener.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := socket.Listen(path)
	if err != nil {
		t.Fatalf("over a dead one's: %v", err)
	}
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the dead one's end took the new socket: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
}

// A path of any length that an address may have works, whatever is made beside it on
// the way there.
func TestListenAtTheLongestPath(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	deep := filepath.Join(dir, strings.Repeat("x", 107-len(dir)-len("//s")))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(deep, "s")
	ln, err := socket.Listen(path)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(path), err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                               "something else lies there",
		dir:                                "something else lies there",
		filepath.Join(dir, "none", "s"):    "no such file",
		"/tmp/" + strings.Repeat("x", 110): "115 bytes are more than the 107",
	} {
		if _, err := socket.Listen(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file: %q, %v", b, err)
	}
}
