package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// askAnyway is how often the first in line asks although nobody of this process
// has given money back: others may have, or an operator has credited some.
const askAnyway = 500 * time.Millisecond

// balanceQueue is where requests wait for money that others of their user have set
// aside: for each user one line, first come, first served. Only the first in line
// asks the ledger.
type balanceQueue struct {
	mu    sync.Mutex
	lines map[string][]chan struct{} // by user; each is told to ask
}

// busy reports whether somebody of the user waits.
func (l *balanceQueue) busy(user string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines[user]) > 0
}

// freed tells that money of the user may be there.
func (l *balanceQueue) freed(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(user)
}

func (l *balanceQueue) tell(user string) {
	if line := l.lines[user]; len(line) > 0 {
		select {
		case line[0] <- struct{}{}:
		default:
		}
	}
}

// wait calls try in the user's turn, again and again, until it does not fail with
// a refusal that time may mend. After the wait it returns that refusal.
func (l *balanceQueue) wait(ctx context.Context, user string, wait time.Duration, try func() error) error {
	turn := l.join(user)
	defer l.leave(user, turn)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	again := time.NewTicker(askAnyway)
	defer again.Stop()
	var err error = &billing.Refusal{Reason: billing.ReasonBalance, Temporary: true}
	for {
		if l.first(user, turn) {
			if err = try(); !isHeld(err) {
				return err
			}
		}
		select {
		case <-turn:
		case <-again.C:
		case <-timer.C:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (l *balanceQueue) join(user string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines == nil {
		l.lines = make(map[string][]chan struct{})
	}
	turn := make(chan struct{}, 1)
	l.lines[user] = append(l.lines[user], turn)
	return turn
}

func (l *balanceQueue) first(user string, turn chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[user][0] == turn
}

// leave has the next in line ask.
func (l *balanceQueue) leave(user string, turn chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.lines[user]
	at := slices.Index(line, turn)
	line = slices.Delete(line, at, at+1)
	if len(line) == 0 {
		delete(l.lines, user)
		return
	}
	l.lines[user] = line
	l.tell(user)
}

// isHeld tells a refusal that is for the sake of money which others have set
// aside.
func isHeld(err error) bool {
	var refusal *billing.Refusal
	return errors.As(err, &refusal) && refusal.Temporary
}
