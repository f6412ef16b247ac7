// Package socket makes Unix sockets that only their owner can reach from the moment
// they exist.
//
// It refuses to know what is said over them.
package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned where somebody listens at the path already.
var ErrInUse = errors.New("somebody listens there already")

// pathMax is what fits into a Unix socket's address (unix(7)), less the final zero.
const pathMax = 107

// Listen listens at path, in mode 0600. A socket that a dead process left is replaced;
// one on which somebody listens is refused with ErrInUse, and so is anything else that
// lies there. Close removes the file, where it is still this one.
func Listen(path string) (*Listener, error) {
	if len(path) > pathMax {
		return nil, fmt.Errorf("socket %s: %d bytes are more than the %d that a socket's path may have", path, len(path), pathMax)
	}
	if err := checkFree(path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	// Bound in a directory that only we can enter and moved then: at no time may
	// anybody else connect.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	here, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	defer here.Close()
	// By its descriptor, since the directory's name makes path longer than it may be.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/s", here.Fd()), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	err = os.Chmod(made, 0o600)
	var st os.FileInfo
	if err == nil {
		st, err = os.Lstat(made)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	return &Listener{ln, path, st}, nil
}

// checkFree says why path cannot be listened at, nil where it can.
func checkFree(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return errors.New("something else lies there")
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return ErrInUse
	}
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err // EAGAIN, say: a busy listener
}

// Listener is a listener whose file goes with it.
type Listener struct {
	*net.UnixListener
	path string
	made os.FileInfo
}

// Path is where it listens.
func (l *Listener) Path() string { return l.path }

// Close ends it, and removes its own file only. Safe twice.
func (l *Listener) Close() error {
	if st, err := os.Lstat(l.path); err == nil && os.SameFile(st, l.made) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}
