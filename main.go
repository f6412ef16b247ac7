// Command spotinference serves an open-weights model from a rented GPU box and
// knows what that costs: it supervises a llama.cpp or vLLM server, speaks the
// OpenAI API in front of it, counts every token, samples the provider's bill,
// and stops serving when the day's budget is spent or the bill cannot be seen.
package main

import (
	"os"

	"spotinference/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
