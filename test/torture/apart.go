package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// apartEnv tells the process that runs apart from the one that started it.
const apartEnv = "TORTURE_APART"

// apart runs f in a mount namespace of its own, in which a file system may be mounted
// and nobody sees it: by another process of this program. As root, or in a user
// namespace where that is allowed. Where neither is, f runs here, with the reason.
func apart(f func(noDisk error) int) int {
	if os.Getenv(apartEnv) != "" {
		os.Unsetenv(apartEnv)
		return f(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	}
	self, err := os.Executable()
	if err != nil {
		return f(err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), apartEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		signal.Stop(signals)
		return f(fmt.Errorf("a mount namespace: %w", err))
	}
	go func() {
		for range signals {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "torture: error:", err)
		return 1
	}
	return 0
}

// diskSize is more than the ledger of an hour.
const diskSize = "size=96m"

// mountDisk puts a small file system at path.
func mountDisk(path string) error {
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "mode=0700,"+diskSize); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

func unmountDisk(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// fill writes path until its file system holds no byte more.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		switch _, err := f.Write(block); {
		case errors.Is(err, unix.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			return err
		}
	}
	return nil
}
