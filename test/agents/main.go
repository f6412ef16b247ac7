// Command agents has the agents and the libraries that people use ask serve for something,
// and holds what they do when they are refused, must wait or are cut against what
// docs/clients.md says of it. It installs them from npm, pinned, each into a folder of its
// own; builds the program; and puts it in front of the simulated engine, and of a bill that
// a command prints (--provider exec), so that a spent budget and an unseen bill are real
// ones. A recorder stands between each of them and serve: it counts tries and keeps no key.
//
//	go run ./test/agents -dir ~/agents
//	go run ./test/agents -dir ~/agents -agents codex,pi -scenarios budget-spent,bill-dark
//	go run ./test/agents -dir ~/agents -long
//
// It runs in a network namespace that has a loopback and nothing else, so that nothing
// leaves, and in a process namespace, so that all that was started ends with it. That
// takes root. The short run takes ten minutes on two processors. -long adds an engine that
// takes a minute to start, one that takes six to wake, and the real llama-server, asked
// directly and through serve: half an hour more.
//
// A line tells of each agent in each scenario; tables in Markdown follow at the end. The
// exit code is 1 where an agent does what it should not:
//
//   - at 401, 402, 400 and 404 it has ended within 15 seconds, and has printed our
//     sentence, but for the few that have words of their own (scenario.ownWords);
//   - at 503 no try comes later than 75 seconds after the one before;
//   - a wait ends in the answer;
//   - each answer that an agent has whole is one row of the ledger, with its usage.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// options are the command line.
type options struct {
	dir       string
	out       string
	long      bool
	agents    []agent
	scenarios []scenario
}

func main() {
	opts, err := parseOptions()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agents: error:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, opts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agents: error:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run installs and builds where there is a network, and has the rest done by another
// process of this program, which has none.
func run(ctx context.Context, opts options) (code int, err error) {
	if scratch := os.Getenv(sealedEnv); scratch != "" {
		if err := settle(scratch); err != nil {
			return 0, err
		}
		return try(ctx, opts, scratch)
	}
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("only root can make a network namespace: run it with sudo, or in a container")
	}
	if err := install(ctx, opts); err != nil {
		return 0, err
	}
	scratch, err := os.MkdirTemp("", "agents-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	if err := build(ctx, scratch); err != nil {
		return 0, err
	}
	return seal(scratch)
}

func parseOptions() (options, error) {
	opts := options{}
	flag.StringVar(&opts.dir, "dir", "", "folder for the agents, 3 GB; what is installed there is used again")
	flag.StringVar(&opts.out, "out", "", "folder for what each agent printed and was answered; a new one by default")
	flag.BoolVar(&opts.long, "long", false, "run the waits and the real engine, too: half an hour more")
	agentNames := flag.String("agents", "", "only these, with commas between: "+names(agents))
	scenarioNames := flag.String("scenarios", "", "only these, with commas between: "+names(scenarios))
	flag.Parse()
	if flag.NArg() > 0 {
		return opts, fmt.Errorf("unexpected %q", flag.Arg(0))
	}
	if opts.dir == "" {
		return opts, fmt.Errorf("-dir is missing: name a folder for the agents")
	}
	var err error
	if opts.dir, err = filepath.Abs(opts.dir); err != nil {
		return opts, err
	}
	if opts.agents, err = pick(agents, *agentNames); err != nil {
		return opts, err
	}
	if opts.scenarios, err = pick(scenarios, *scenarioNames); err != nil {
		return opts, err
	}
	if *scenarioNames == "" && !opts.long {
		opts.scenarios = slices.DeleteFunc(opts.scenarios, func(sc scenario) bool { return sc.long })
	}
	return opts, nil
}

// named is what a list on the command line picks from.
type named interface{ called() string }

func (a agent) called() string     { return a.name }
func (sc scenario) called() string { return sc.name }

func names[T named](all []T) string {
	var list []string
	for _, one := range all {
		list = append(list, one.called())
	}
	return strings.Join(list, ", ")
}

// pick returns those of all that text names, with commas between; all where it is empty.
func pick[T named](all []T, text string) ([]T, error) {
	if text == "" {
		return slices.Clone(all), nil
	}
	var picked []T
	for _, name := range strings.Split(text, ",") {
		i := slices.IndexFunc(all, func(one T) bool { return one.called() == name })
		if i < 0 {
			return nil, fmt.Errorf("%q is none of %s", name, names(all))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// programIn is where build puts the program.
func programIn(scratch string) string { return filepath.Join(scratch, "spotinference") }

// build makes the program from the tree that this one was made from.
func build(ctx context.Context, scratch string) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", programIn(scratch), ".")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

func moduleRoot(ctx context.Context) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(root)), nil
}
