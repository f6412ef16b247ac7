//go:build cgo && linux && helper

// Command helper reads the cards through NVML and writes what it reads to its
// stdout, a line of JSON once a second: package gpu's Message. Started as
// "helper checkpoint" it makes the driver's calls that suspend a CUDA process
// instead, as package gpu's Requests on its stdin ask for them. It is started by
// the gateway (package gpu), which carries it inside, and ends with its stdin.
//
// It is a program apart because the driver must not live in the gateway: it is C,
// it aborts a caller that asks for what it lacks, and it may hang where no signal
// reaches. So nothing here catches what cannot be caught; the gateway sees the
// exit status, or kills us.
//
// It has a build tag of its own, helper, so that "go build ./..." and "go test ./..."
// leave it out: it needs a C compiler, which warns of much in NVML's header.
// scripts/release gives the tag, and so do package gpu's tests, which run the tests of
// this package, too.
package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"spotinference/gpu"
)

func main() {
	if err := work(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func work(args []string) error {
	if len(args) == 1 && args[0] == gpu.CheckpointRole {
		return suspend(requests(os.Stdin), os.Stdout)
	}
	if len(args) > 0 {
		return fmt.Errorf("unexpected %q", args[0])
	}
	go obey(os.Stdin)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	return serve(nvml.New(), os.Stdout, tick.C)
}

// obey waits for the end of stdin, which is the order to end: it comes from the kernel
// when the gateway dies. It is obeyed also while NVML hangs in another thread.
func obey(stdin io.Reader) {
	_, _ = io.Copy(io.Discard, stdin)
	os.Exit(0)
}
