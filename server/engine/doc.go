// Package engine runs the inference engine, llama-server or vLLM, as a child
// process: it writes its command line and environment, starts it, sees when it
// is ready, suspends and wakes it, starts it again after a crash, and makes sure
// that nothing of it outlives us.
//
// It knows processes, signals and one health endpoint. It refuses to know what a
// request is, who may send one and what it costs. An engine's log goes nowhere but
// to Config.Stderr, because its lines hold prompts.
//
//	e, err := engine.New(engine.Config{Command: []string{"llama-server", "-m", "q4.gguf"}})
//	if err != nil {
//		return err
//	}
//	go e.Run(ctx, engine.Hooks{}) // owner; returns once the whole tree is gone
//	conn, err := e.Dial(ctx)
//
// Between us and the engine stands a guard: our own binary, started as Config.Guard
// and running [Guard]. The guard is the engine's parent and its subreaper. It kills
// the whole tree when we close the control pipe or die, by whatever signal.
package engine
