package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

func holdConcurrently(t *testing.T, open Open) {
	l := open(t)
	defer close1(t, l)
	holdAtOnce(t, l, l)
}

// holdAtOnce has many hold requests at once, all of which could be paid alone, of two
// ledgers over one store, or one.
func holdAtOnce(t *testing.T, ledgers ...billing.Ledger) {
	const goroutines, each, amount, opening = 16, 30, 10, 1000
	declare(t, ledgers[0], billing.User{Name: "alice", Balance: opening})
	held := make([][]string, len(ledgers))
	var mu sync.Mutex
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			l := ledgers[g%len(ledgers)]
			for i := range each {
				c := req(fmt.Sprintf("%d-%d", g, i), amount)
				_, err := l.Hold(context.Background(), c)
				var refusal *billing.Refusal
				switch {
				case err == nil && i%3 == 2:
					l.Release(context.Background(), c.ID)
				case err == nil:
					mu.Lock()
					held[g%len(ledgers)] = append(held[g%len(ledgers)], c.ID)
					mu.Unlock()
				case !errors.As(err, &refusal) || !refusal.Temporary || refusal.Left != opening:
					t.Errorf("Hold: %v; want it met, or refused for what others hold", err)
				}
				b, err := l.Balance(context.Background(), "alice")
				if err != nil || b.Amount != opening || b.Held > opening {
					t.Errorf("Balance: %+v, %v", b, err)
				}
			}
		})
	}
	all.Wait()
	total := 0
	for i, l := range ledgers {
		total += len(held[i])
		wantBalance(t, l, "alice", billing.Balance{Amount: opening, Held: opening})
	}
	if total != opening/amount {
		t.Errorf("%d claims hold %d each, of %d", total, amount, opening)
	}
	for i, l := range ledgers {
		for _, id := range held[i] {
			all.Go(func() {
				if err := l.Settle(context.Background(), record(id, amount-1), nil); err != nil {
					t.Errorf("Settle: %v", err)
				}
			})
		}
	}
	all.Wait()
	for _, l := range ledgers {
		wantBalance(t, l, "alice", billing.Balance{Amount: opening / amount})
	}
}

// turn lets requests wait until one of them has settled.
type turn struct {
	mu      sync.Mutex
	changed *sync.Cond
	settled int
	over    bool
}

// next waits until more than that many have settled; false if that takes too long.
func (q *turn) next(settled int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.settled == settled && !q.over {
		q.changed.Wait()
	}
	return !q.over
}

func (q *turn) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.settled
}

func (q *turn) change(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f()
	q.changed.Broadcast()
}

// holdInTurn has each request try again for as long as others hold what it needs.
func holdInTurn(t *testing.T, open Open) {
	const requests, price, opening = 200, 50, 1000
	l := open(t)
	defer close1(t, l)
	declare(t, l, billing.User{Name: "alice", Balance: opening})
	q := &turn{}
	q.changed = sync.NewCond(&q.mu)
	defer time.AfterFunc(30*time.Second, func() { q.change(func() { q.over = true }) }).Stop()
	try := func(c *billing.HoldRequest) (again bool) {
		before := q.count()
		_, err := l.Hold(context.Background(), c)
		var refusal *billing.Refusal
		switch {
		case errors.As(err, &refusal) && refusal.Temporary:
			if !q.next(before) {
				t.Errorf("refused for what others hold, but nobody does: %+v", refusal)
				return false
			}
			return true
		case refusal != nil && refusal.Left != 0:
			t.Errorf("refused although %d is left", refusal.Left)
		case refusal != nil:
		case err != nil:
			t.Errorf("Hold: %v", err)
		default:
			if err := l.Settle(context.Background(), record(c.ID, price), nil); err != nil {
				t.Errorf("Settle: %v", err)
			}
			q.change(func() { q.settled++ })
		}
		return false
	}
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			c := req(fmt.Sprint(i), 2*price, least(price)) // as a cautious estimate does
			for try(c) {
			}
		})
	}
	all.Wait()
	if q.settled != opening/price {
		t.Errorf("%d requests were let in, %d could be paid", q.settled, opening/price)
	}
	wantBalance(t, l, "alice", billing.Balance{})
}
