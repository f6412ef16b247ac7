//go:build torture

package cli

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// clock is the wall clock, set by as many seconds as the file says that TORTURE_CLOCK
// names: eight bytes, a number in this machine's byte order, which another process
// may change at any time. It is for the torture test; no ordinary build has it.
func clock() time.Time { return set(time.Now(), offset().Load()) }

// offset is the number in the file.
var offset = sync.OnceValue(func() *atomic.Int64 {
	path := os.Getenv("TORTURE_CLOCK")
	if path == "" {
		return new(atomic.Int64)
	}
	f, err := os.Open(path)
	if err != nil {
		panic(fmt.Sprintf("TORTURE_CLOCK: %v", err))
	}
	defer f.Close()
	page, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(fmt.Sprintf("TORTURE_CLOCK %s: %v", path, err))
	}
	return (*atomic.Int64)(unsafe.Pointer(&page[0]))
})

// set moves the wall clock's reading of t and leaves the monotonic one as it is, as
// when somebody sets a machine's clock: Add would move both. The field is where
// package time has it since Go 1.9; a Go that moves it is noticed.
func set(t time.Time, seconds int64) time.Time {
	was := t
	wall := (*uint64)(unsafe.Pointer(&t))
	*wall += uint64(seconds) << 30
	if t.Unix()-was.Unix() != seconds || t.Sub(was) != 0 {
		panic("BUG: this Go keeps another clock in time.Time")
	}
	return t
}
