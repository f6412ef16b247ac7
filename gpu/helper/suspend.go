//go:build cgo && linux && helper

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"spotinference/gpu"
)

// suspend makes the driver's calls that stdin asks for, one at a time, and writes what
// came of each. It returns when requests is closed, or with what is no request.
//
// Nothing here undoes a step: what it was part of is the gateway's to know, which may
// have to go on through another helper when we hang in the driver.
func suspend(requests <-chan []byte, out io.Writer) error {
	enc := json.NewEncoder(out)
	var driver *cuda // once it is open
	for line := range requests {
		r, err := gpu.ParseRequest(line)
		if err != nil {
			return err
		}
		a := gpu.Answer{Call: r.Call, PID: r.PID}
		d := driver
		if d == nil {
			if d, err = openCUDA(); err == nil {
				driver = d
			}
		}
		switch {
		case r.Call == gpu.CallOpen:
			a.CUDA = d.version
		case err == nil:
			a.State, err = d.do(r)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("write an answer: %w", err)
		}
	}
	return nil
}

// requests are stdin's lines. Their end ends us at once, also in the middle of a call.
func requests(stdin io.Reader) <-chan []byte {
	lines := make(chan []byte)
	go func() {
		s := bufio.NewScanner(stdin)
		for s.Scan() {
			lines <- bytes.Clone(s.Bytes())
		}
		os.Exit(0)
	}()
	return lines
}
