package gateway

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// money is money that is set aside and given back.
type money struct {
	mu    sync.Mutex
	left  int
	tried int
	order []string
}

func (p *money) Take(who string, amount int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried++
	if p.left < amount {
		return &billing.Refusal{Temporary: true}
	}
	p.left -= amount
	p.order = append(p.order, who)
	return nil
}

func (p *money) put(amount int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += amount
}

func TestMoneyIsGivenInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var line balanceQueue
		p := new(money)
		var all sync.WaitGroup
		for i, amount := range []int{3, 1, 1} { // the first needs most, and is not passed
			all.Go(func() {
				if err := line.wait(t.Context(), "alice", time.Minute, func() error { return p.Take(fmt.Sprint(i), amount) }); err != nil {
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
		meanwhile func(p *money, leave func())
		try       func(p *money) error
		took      time.Duration
		want      error // nil, refused, Canceled, or DeadlineExceeded for a refusal that time may mend
		tried     int   // at most
	}{
		"another process gives some back": {
			func(p *money, _ func()) { time.Sleep(1100 * time.Millisecond); p.put(1) },
			func(p *money) error { return p.Take("", 1) }, 1500 * time.Millisecond, nil, 4,
		},
		"nobody does":           {nil, func(p *money) error { return p.Take("", 1) }, 30 * time.Second, context.DeadlineExceeded, 61},
		"it is a plain refusal": {nil, func(*money) error { return refused }, 0, refused, 0},
		"the client leaves": {
			func(_ *money, leave func()) { time.Sleep(time.Second); leave() },
			func(p *money) error { return p.Take("", 1) }, time.Second, context.Canceled, 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var line balanceQueue
				p := new(money)
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

// aheadTold is a ledger that has answered a hold request ahead, or has not.
type aheadTold struct {
	billing.Ledger
	payer    string
	answered bool
	err      error

	money
	released []string
}

func (l *aheadTold) ahead() (billing.Payer, bool, error) {
	return billing.Payer{Billing: l.payer}, l.answered, l.err
}

func (l *aheadTold) Hold(_ context.Context, c *billing.HoldRequest) (billing.Payer, error) {
	if err := l.Take(c.ID, 1); err != nil {
		return billing.Payer{}, err
	}
	return billing.Payer{Billing: billing.PaidFromBalance}, nil
}

func (l *aheadTold) Release(_ context.Context, id string) { l.released = append(l.released, id) }

var errHeld = &billing.Refusal{Reason: billing.ReasonBalance, Temporary: true}

// exchangeAhead is a request of alice whose request was put to the ledger with the
// ask for her slot.
func exchangeAhead(t *testing.T, l *aheadTold) *exchange {
	return &exchange{
		config: &Config{HoldWait: 30 * time.Second}, runtime: new(Runtime),
		ctx: t.Context(), id: "mine", key: &Key{User: &User{Name: "alice"}},
		ledger: l, ahead: l.ahead, holdRequest: &billing.HoldRequest{ID: "mine", User: "alice"},
	}
}

// TestMoneySetAsideAhead is the request's, even if others wait in line by then: they
// may wait for this money.
func TestMoneySetAsideAhead(t *testing.T) {
	lacks := &billing.Refusal{Reason: billing.ReasonBalance}
	for name, test := range map[string]struct {
		ledger *aheadTold
		others bool // wait in line, for a second
		want   error
		took   time.Duration
		asked  int // by this request
	}{
		"met":                        {&aheadTold{payer: billing.PaidFromBalance, answered: true}, false, nil, 0, 0},
		"met, and others wait":       {&aheadTold{payer: billing.PaidFromBalance, answered: true}, true, nil, 0, 0},
		"refused for good":           {&aheadTold{answered: true, err: lacks}, true, lacks, 0, 0},
		"refused for now":            {&aheadTold{answered: true, err: errHeld, money: money{left: 1}}, false, nil, 0, 1},
		"refused, and others wait":   {&aheadTold{answered: true, err: errHeld, money: money{left: 1}}, true, nil, time.Second, 1},
		"no answer":                  {&aheadTold{money: money{left: 1}}, false, nil, 0, 1},
		"no answer, and others wait": {&aheadTold{money: money{left: 1}}, true, nil, time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := exchangeAhead(t, test.ledger)
				if test.others {
					go x.runtime.money.wait(t.Context(), "alice", time.Second, func() error { return errHeld })
					synctest.Wait()
				}
				began := time.Now()
				payer, err := x.setAside()
				if !reflect.DeepEqual(err, test.want) || (err == nil) != (payer.Billing == billing.PaidFromBalance) {
					t.Errorf("%v, %v; want %v", payer, err, test.want)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				if test.ledger.tried != test.asked {
					t.Errorf("the ledger was asked %d times", test.ledger.tried)
				}
				time.Sleep(time.Second) // for those who wait
			})
		})
	}
}

// TestRequestEndsBeforeItsMoneyIsNeeded: its slot was refused, or nobody heard of it.
func TestRequestEndsBeforeItsMoneyIsNeeded(t *testing.T) {
	for name, test := range map[string]struct {
		ledger *aheadTold
		want   []string
	}{
		"met":     {&aheadTold{payer: billing.PaidFromBalance, answered: true}, []string{"mine"}},
		"refused": {&aheadTold{answered: true, err: errHeld}, nil},
		"neither": {&aheadTold{}, nil},
	} {
		x := exchangeAhead(t, test.ledger)
		x.letGo()
		if !slices.Equal(test.ledger.released, test.want) {
			t.Errorf("%s: released %q, want %q", name, test.ledger.released, test.want)
		}
	}
}
