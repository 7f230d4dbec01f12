package faults_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/freeport"
)

// resources are what a process holds.
type resources struct {
	goroutines, descriptors int
	heap                    uint64 // bytes in use
}

func (r resources) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MiB of heap", r.goroutines, r.descriptors, float64(r.heap)/(1<<20))
}

func measure(t testing.TB) resources {
	t.Helper()
	runtime.GC()
	runtime.GC() // what the first freed for sync.Pool
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	descriptors := 0
	for _, file := range open {
		// Caddy opens its log again for what it says after having closed it.
		if path, err := os.Readlink("/proc/self/fd/" + file.Name()); err != nil || filepath.Base(path) != "caddy.log" && filepath.Base(filepath.Dir(path)) != freeport.Dir {
			descriptors++
		}
	}
	return resources{goroutines(), descriptors, memory.HeapAlloc}
}

// goroutines counts them, but for those that Caddy's log files leave behind.
func goroutines() int {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte("\n\ngoroutine ")) + 1 - bytes.Count(stacks, []byte("\ngithub.com/DeRuina/timberjack.(*Logger).millRun("))
}

// leaks compares what the process holds before a gateway and after it.
type leaks struct {
	t      *testing.T
	before resources
}

// watchLeaks starts and stops a gateway once, for what Caddy makes once in a
// process, and takes the measure.
func watchLeaks(t *testing.T) *leaks {
	t.Helper()
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("descriptors can't be counted here")
	}
	t.Run("once before", func(t *testing.T) {
		g := serve(t, simulatorConfig, quiet, "account acct-a {\napi_key sk-upstream-a\nbase_url SIM\n}\n"+users(1, 1))
		if a := g.ask(t.Context(), worker(0), "claude-sonnet-5-5", true, "hello"); a.status != 200 || a.stop == "" {
			t.Fatalf("%+v", a)
		}
	})
	return &leaks{t, measure(t)}
}

// check waits for everything to be as it was.
func (l *leaks) check() {
	l.t.Helper()
	var after resources
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		after = measure(l.t)
		if after.goroutines <= l.before.goroutines && after.descriptors <= l.before.descriptors {
			return
		}
	}
	var stacks strings.Builder
	pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	l.t.Errorf("before: %s; after: %s\n%s", l.before, after, stacks.String())
}
