package engine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"spotinference/internal/hint"
)

const (
	socketName = "engine.sock" // llama-server knows a socket by its .sock
	sunPathMax = 107           // sockaddr_un.sun_path less its final zero
)

// randomHex returns n random bytes in hexadecimal: a comma in a key would make
// llama-server read two.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// defaultDir is an unused name in the directory for sockets: our user's own, which as
// could not enter, or else the temporary one.
func defaultDir(as *User) string {
	base := os.Getenv("XDG_RUNTIME_DIR")
	if as != nil {
		base = os.TempDir()
	}
	if st, err := os.Stat(base); !filepath.IsAbs(base) || err != nil || !st.IsDir() {
		base = os.TempDir()
	}
	return filepath.Join(base, "spotinference-"+randomHex(4))
}

func checkSocketPath(path string) error {
	if len(path) > sunPathMax {
		return hint.Errorf("set XDG_RUNTIME_DIR to a shorter directory",
			"socket path %q has %d bytes, more than the %d that the kernel takes", path, len(path), sunPathMax)
	}
	return nil
}

// makeDir makes sure that dir can be entered only by us, or by the engine's user and
// root where as is not nil: a process that reaches the socket can try keys.
func makeDir(dir string, as *User) (made bool, err error) {
	owner := os.Geteuid()
	err = os.Mkdir(dir, 0o700)
	if as != nil {
		owner = int(as.UID)
		if err == nil {
			err = os.Chown(dir, int(as.UID), int(as.GID))
		}
	}
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, fmt.Errorf("make the run directory: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return false, fmt.Errorf("read the run directory: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 || !ok || int(sys.Uid) != owner {
		return false, hint.Errorf("chmod 700 it, or let spotinference make one", "run directory %q is open to others", dir)
	}
	return false, nil
}

// freePort finds a loopback port that is free now. Another process may take it
// before the engine does; then the engine fails to bind and is started again.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
