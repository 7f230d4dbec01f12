package upstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A thousand requests over connections that break at random: each is answered
// or fails, no server sees one more than twice, and nothing is left behind.
func TestRandomFaults(t *testing.T) {
	for _, protocol := range []string{plain, plainTLS, h2} {
		t.Run(protocol, func(t *testing.T) {
			goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
			t.Cleanup(func() { // after those of the server and the forwarder
				eventually(t, "no goroutine and no descriptor is left", func() bool {
					return runtime.NumGoroutine() <= goroutines && openDescriptors(t) <= descriptors
				})
			})
			f := newFar(t, protocol)
			var faults atomic.Int64
			f.each(func(l *link) {
				do := []func(){l.freeze, l.reset, l.halfClose, func() { l.delay.Store(int64(5 * time.Millisecond)) }}[rand.IntN(4)]
				l.fault, l.faultAfter = func() { faults.Add(1); do() }, rand.IntN(6000)
			})
			pools := f.pools(t, func(l *limits) {
				l.connect, l.silence, l.pong = time.Second, 500*time.Millisecond, 250*time.Millisecond
			})
			transport := pools.For(&Account{Name: "main", Concurrency: 16})
			var all sync.WaitGroup
			var answered, failed, unconnected, twice atomic.Int64
			for worker := range 16 {
				all.Go(func() {
					for i := worker; i < 1000; i += 16 {
						name := fmt.Sprint(i)
						err := ask(transport, post(within(t, time.Second), f.url, name))
						var none *ConnectError
						switch seen := f.count(name); {
						case seen > 2:
							t.Errorf("request %d was seen %d times", i, seen)
						case err == nil && seen == 0:
							t.Errorf("request %d was answered by nobody", i)
						case err == nil:
							answered.Add(1)
							if seen == 2 {
								twice.Add(1)
							}
						case errors.As(err, &none):
							unconnected.Add(1)
						default:
							failed.Add(1)
						}
					}
				})
			}
			all.Wait()
			t.Logf("%d faults: %d requests answered (%d of them seen twice), %d failed, %d had no connection",
				faults.Load(), answered.Load(), twice.Load(), failed.Load(), unconnected.Load())
			if answered.Load() < 500 || faults.Load() < 10 {
				t.Error("this is not what was to be tried")
			}
		})
	}
}

// openDescriptors counts the process's; 0 where that can't be had.
func openDescriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Log("descriptors can't be counted here")
	}
	return len(entries)
}
