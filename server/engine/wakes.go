package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// keptWakes is how many wakes of each method are kept: enough for a median that one
// slow disk does not move, few enough to follow a changed machine.
const keptWakes = 5

// judgedWakes is how many wakes a method must have had before it is dropped for being
// slow: the first one may have waited for a cold disk, and a method that is dropped is
// not measured again.
const judgedWakes = 3

// Identity names the engine where its wakes are recorded: two engines are the same where kind,
// sleep level and every word of the command are. It is a digest, for a command may
// hold a token. The environment is not in it: much of that changes with each login.
func (e *Engine) Identity() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s", e.cfg.Kind, e.cfg.SleepLevel, strings.Join(e.cfg.Command, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Learn adds a wake, or by Stop a start, that this same engine had under an earlier
// gateway; the oldest first, before Run. Auto takes them into account.
func (e *Engine) Learn(by Method, took time.Duration) { e.learn(by, took) }

func (e *Engine) learn(by Method, took time.Duration) {
	all := append(e.wakeTimes[by], took)
	e.wakeTimes[by] = all[max(0, len(all)-keptWakes):]
}

// medianWake is how long it takes to wake after a suspension by m, 0 where there was none.
func (e *Engine) medianWake(m Method) time.Duration {
	all := slices.Sorted(slices.Values(e.wakeTimes[m]))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}
