// Package freeport hands out the ports that tests listen on, each to one of them, whatever
// process they run in: a port that is merely free may be given to two, and Caddy shares
// its own with whoever asks.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/gofrs/flock"
)

// Dir is the directory, among those for temporary files, that has a file for each port
// that was ever taken. A process has those open whose ports it took.
const Dir = "sub2api-test-ports"

// held keeps the locks from being collected, which would end them.
var held struct {
	mu    sync.Mutex
	locks []*flock.Flock
}

// Take returns a port from lowest to highest that nobody listens on, nor on those at a
// distance from it. They are the caller's until its process ends.
func Take(lowest, highest int, distances ...int) (int, error) {
	dir := filepath.Join(os.TempDir(), Dir)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return 0, err
	}
	var err error
	for range 100 {
		port := lowest + rand.IntN(highest-lowest+1)
		var taken []*flock.Flock
		for _, distance := range append([]int{0}, distances...) {
			var lock *flock.Flock
			if lock, err = take(dir, port+distance); err != nil {
				break
			}
			taken = append(taken, lock)
		}
		if err == nil {
			held.mu.Lock()
			held.locks = append(held.locks, taken...)
			held.mu.Unlock()
			return port, nil
		}
		for _, lock := range taken {
			lock.Unlock()
		}
	}
	return 0, fmt.Errorf("found no free port from %d to %d: %w", lowest, highest, err)
}

func take(dir string, port int) (*flock.Flock, error) {
	lock := flock.New(filepath.Join(dir, strconv.Itoa(port)))
	isOurs, err := lock.TryLock()
	if err != nil {
		return nil, err
	}
	if !isOurs {
		return nil, fmt.Errorf("port %d is another test's", port)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		lock.Unlock()
		return nil, err
	}
	return lock, listener.Close()
}
