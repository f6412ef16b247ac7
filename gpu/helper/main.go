//go:build cgo && linux

// Command helper reads the cards through NVML and writes what it reads to its
// stdout, a line of JSON once a second: package gpu's Message. It is started by
// the gateway (package gpu), which carries it inside, and ends with its stdin.
//
// It is a program apart because NVML must not live in the gateway: it is C, it
// aborts a caller that asks for what the driver lacks, and it may hang where no
// signal reaches. So nothing here catches what cannot be caught; the gateway sees
// the exit status, or kills us.
package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

func main() {
	go obey(os.Stdin)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if err := serve(nvml.New(), os.Stdout, tick.C); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// obey reads the gateway's requests, of which there are none yet: the suspension
// of a CUDA process is to be asked for here, a line a request. The end of stdin is
// the order to end, for it comes from the kernel when the gateway dies. It is
// obeyed also while NVML hangs in another thread.
func obey(stdin io.Reader) {
	_, _ = io.Copy(io.Discard, stdin)
	os.Exit(0)
}
