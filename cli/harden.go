package cli

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps what this process holds, keys, prompts and answers, from other
// processes of the same user and from the disk: nobody but root may trace it or read
// its memory and environment, and no core is written.
//
// What it starts is not hardened, since exec makes a process dumpable again
// (prctl(2)), but writes no core either, for that would hold prompts. Who wants the
// engine's core raises the limit in a script of their own: only the soft one is set.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("serve: become undumpable: %w", err)
	}
	var core unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &core)
	if err == nil {
		core.Cur = 0
		err = unix.Setrlimit(unix.RLIMIT_CORE, &core)
	}
	if err != nil {
		return fmt.Errorf("serve: forbid a core: %w", err)
	}
	return nil
}
