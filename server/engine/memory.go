package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// remembered is how many wakes of each method are looked at: enough for a median
// that one slow disk does not move, few enough to follow a changed machine.
const remembered = 5

// judged is how many wakes a way must have had before it is left for being slow: the
// first one may have waited for a cold disk, and a way that is left is not seen again.
const judged = 3

// Identity names the engine where its wakes are recorded: two are the same where kind,
// sleep level and every word of the command are. It is a digest, for a command may
// hold a token. The environment is not in it: much of that changes with each login.
func (e *Engine) Identity() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s", e.kind, e.cfg.SleepLevel, strings.Join(e.cfg.Command, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Learn tells of a wake, or by Stop of a start, that this same engine had in an earlier
// life; the oldest first, before Run. Auto takes them into account.
func (e *Engine) Learn(by Method, took time.Duration) { e.learn(by, took) }

func (e *Engine) learn(by Method, took time.Duration) {
	all := append(e.took[by], took)
	e.took[by] = all[max(0, len(all)-remembered):]
}

// typical is how long it takes to wake after a suspension by m: the median of the last
// ones, 0 where there is none.
func (e *Engine) typical(m Method) time.Duration {
	all := slices.Sorted(slices.Values(e.took[m]))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}
