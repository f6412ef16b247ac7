// Command tinymodel writes the model of package tinymodel to a file:
//
//	go run ./server/engine/tinymodel/cmd/tinymodel -o tiny.gguf
//	llama-server -m tiny.gguf --port 8080
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"spotinference/test/tinymodel"
)

func main() {
	out := flag.String("o", "tiny.gguf", "the `file` to write")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out); err != nil {
		fmt.Fprintf(os.Stderr, "tinymodel: error: %v\n", err)
		os.Exit(1)
	}
}

func run(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return tinymodel.Write(f)
}
