package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// purse is money that is set aside and given back.
type purse struct {
	mu    sync.Mutex
	left  int
	tried int
	order []string
}

func (p *purse) take(who string, amount int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried++
	if p.left < amount {
		return &billing.Refusal{Held: true}
	}
	p.left -= amount
	p.order = append(p.order, who)
	return nil
}

func (p *purse) put(amount int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += amount
}

func TestMoneyIsGivenInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var line moneyLine
		p := new(purse)
		var all sync.WaitGroup
		for i, amount := range []int{3, 1, 1} { // the first needs most, and is not passed
			all.Go(func() {
				if err := line.wait(t.Context(), "alice", time.Minute, func() error { return p.take(fmt.Sprint(i), amount) }); err != nil {
					t.Errorf("request %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		all.Go(func() { // another user's line
			if err := line.wait(t.Context(), "bob", time.Minute, func() error { return nil }); err != nil {
				t.Error(err)
			}
		})
		if !line.busy("alice") {
			t.Error("nobody waits")
		}
		for range 5 {
			p.put(1)
			line.freed("alice")
			synctest.Wait()
		}
		all.Wait()
		if !slices.Equal(p.order, []string{"0", "1", "2"}) {
			t.Errorf("served in the order %v", p.order)
		}
		if line.busy("alice") || line.busy("bob") || len(line.lines) != 0 {
			t.Error("somebody waits still")
		}
	})
}

func TestWaitingForMoney(t *testing.T) {
	refused := errors.New("refused")
	for name, test := range map[string]struct {
		meanwhile func(p *purse, leave func())
		try       func(p *purse) error
		took      time.Duration
		want      error // nil, refused, Canceled, or DeadlineExceeded for a refusal that time may mend
		tried     int   // at most
	}{
		"another process gives some back": {
			func(p *purse, _ func()) { time.Sleep(1100 * time.Millisecond); p.put(1) },
			func(p *purse) error { return p.take("", 1) }, 1500 * time.Millisecond, nil, 4,
		},
		"nobody does":           {nil, func(p *purse) error { return p.take("", 1) }, 30 * time.Second, context.DeadlineExceeded, 61},
		"it is a plain refusal": {nil, func(*purse) error { return refused }, 0, refused, 0},
		"the client leaves": {
			func(_ *purse, leave func()) { time.Sleep(time.Second); leave() },
			func(p *purse) error { return p.take("", 1) }, time.Second, context.Canceled, 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var line moneyLine
				p := new(purse)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				if test.meanwhile != nil {
					go test.meanwhile(p, leave)
				}
				began := time.Now()
				err := line.wait(ctx, "alice", 30*time.Second, func() error { return test.try(p) })
				if isHeld(err) {
					err = context.DeadlineExceeded
				}
				if !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %v", took)
				}
				if p.tried > test.tried {
					t.Errorf("it asked %d times", p.tried)
				}
				if len(line.lines) != 0 {
					t.Error("it left something behind")
				}
				synctest.Wait()
			})
		})
	}
}
