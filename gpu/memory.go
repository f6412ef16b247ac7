package gpu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// way is a way to start a program that we carry. argv begins with its name.
type way func(image []byte, argv []string) (*child, error)

// startImage takes the first way that works: from memory, and where that is
// forbidden from a file in the run directory, which is gone as soon as it runs.
func startImage(image []byte, argv []string, ways ...way) (*child, error) {
	var errs []error
	for _, start := range ways {
		c, err := start(image, argv)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func startFromMemory(image []byte, argv []string) (*child, error) {
	name := argv[0]
	fd, err := memfd(name)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(image); err != nil {
		return nil, fmt.Errorf("write memory file: %w", err)
	}
	// Nobody with our rights can change what we are about to run.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, fmt.Errorf("seal memory file: %w", err)
	}
	// The kernel opens the path before it closes the descriptor on exec.
	c, err := startChild(&exec.Cmd{Path: fmt.Sprintf("/proc/self/fd/%d", fd), Args: argv})
	runtime.KeepAlive(f)
	if err != nil {
		return nil, fmt.Errorf("start from memory: %w", err)
	}
	return c, nil
}

// memfd asks for an executable memory file by name: since Linux 6.3 one that is not
// asked for may be made without that right (vm.memfd_noexec). Older kernels don't
// know the flag.
func memfd(name string) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return 0, fmt.Errorf("make memory file: %w", err)
	}
	return fd, nil
}

func startFromFile(image []byte, argv []string) (*child, error) {
	name := argv[0]
	base := os.Getenv("XDG_RUNTIME_DIR")
	if st, err := os.Stat(base); !filepath.IsAbs(base) || err != nil || !st.IsDir() {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, name+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, name)
	// Whoever forks while the file is open for writing holds it open, too, and the
	// kernel runs no such file.
	syscall.ForkLock.RLock()
	err = os.WriteFile(path, image, 0o700)
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, err
	}
	c, err := startChild(&exec.Cmd{Path: path, Args: argv})
	if err != nil {
		return nil, fmt.Errorf("start from a file: %w", err)
	}
	return c, nil
}
