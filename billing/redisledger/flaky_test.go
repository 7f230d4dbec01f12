package redisledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

// fate is what becomes of a round trip.
type fate int

const (
	well fate = iota
	heardUnanswered
	heardLate // by Redis, when the caller has given up
	unheardOf
)

// fates has round trips fail: as next says, then as random does, then not at all.
type fates struct {
	mu     sync.Mutex
	next   []fate
	random *rand.Rand
	late   []func()
}

func (f *fates) hook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !isScript(cmds) {
			return next(ctx, cmds) // a connection begins
		}
		f.deliver() // Redis reads what came first first
		f.mu.Lock()
		what, err := well, os.ErrDeadlineExceeded
		switch {
		case len(f.next) > 0:
			what, f.next = f.next[0], f.next[1:]
		case f.random != nil:
			what = []fate{heardUnanswered, heardLate, unheardOf, unheardOf, well, well, well, well, well, well}[f.random.IntN(10)]
			err = []error{os.ErrDeadlineExceeded, io.EOF}[f.random.IntN(2)]
		}
		again := copyOf(cmds)
		if what == heardLate {
			f.late = append(f.late, func() { _ = next(context.Background(), again) })
		}
		f.mu.Unlock()
		switch what {
		case well:
			return next(ctx, cmds)
		case heardUnanswered:
			_ = next(context.Background(), again)
		}
		return fail(cmds, err)
	}
}

// deliver has Redis hear what is late.
func (f *fates) deliver() {
	f.mu.Lock()
	late := f.late
	f.late = nil
	f.mu.Unlock()
	for _, run := range late {
		run()
	}
}

func (f *fates) heal() {
	f.mu.Lock()
	f.random = nil
	f.mu.Unlock()
	f.deliver()
}

// copyOf is the same commands, for Redis alone to hear of. Their bytes are the caller's
// again when he has given up.
func copyOf(cmds []redis.Cmder) []redis.Cmder {
	copied := make([]redis.Cmder, len(cmds))
	for i, cmd := range cmds {
		args := slices.Clone(cmd.Args())
		for j, arg := range args {
			if text, ok := arg.([]byte); ok {
				args[j] = bytes.Clone(text)
			}
		}
		copied[i] = redis.NewCmd(context.Background(), args...)
	}
	return copied
}

// promises are what a ledger has set aside for requests that go on.
type promises struct {
	promised, charged, refused atomic.Int64
	most                       int64
	terms                      *billing.Terms // nil: the balance pays
}

// try is one request: it asks for money, and gives it back or settles it.
func (p *promises) try(t *testing.T, l *node, random *rand.Rand, id string, between func()) {
	ctx := context.Background()
	c := req(id, billing.USD(1+random.IntN(40)))
	c.KeyID, c.Terms = "k", p.terms
	pays := billing.PaidFromBalance
	if c.Terms != nil {
		pays = billing.PaidFromSubscription
	}
	var payer billing.Payer
	var err error
	answered := false
	if random.IntN(2) == 0 {
		along, answer := l.HoldIn(c)
		l.travel(along, redislink.Guard{}, nil)
		between()
		payer, answered, err = answer()
	}
	if !answered {
		payer, err = l.Hold(ctx, c)
	}
	var refusal *billing.Refusal
	switch {
	case errors.As(err, &refusal):
		p.refused.Add(1)
		return
	case err != nil || payer.Billing != pays:
		t.Errorf("%s: %+v, %v", id, payer, err)
		return
	}
	if sum := p.promised.Add(int64(c.Amount)); sum > p.most {
		t.Errorf("%d are promised of %d", sum, p.most)
	}
	between()
	if random.IntN(3) == 0 {
		p.promised.Add(-int64(c.Amount))
		l.Release(ctx, id)
		return
	}
	r := exampleOf(id)
	r.Charged, r.KeyID = billing.USD(random.Int64N(int64(c.Amount)+1)), "k"
	if random.IntN(3) > 0 { // most cost little
		r.Charged = 0
	}
	r.Cost = r.Charged
	if r.Billing = pays; c.Terms != nil {
		r.Group = c.Terms.Group
	}
	p.charged.Add(int64(r.Charged))
	p.promised.Add(int64(r.Charged - c.Amount)) // what is charged stays spent
	if err := l.Settle(ctx, r, nil); err != nil {
		t.Error(err)
	}
}

// TestNothingIsPromisedTwice by one process, however its round trips fail: what is set
// aside and what was charged is never more than there is. In the end, what was charged
// is taken exactly, and a minute later nothing is set aside any more, and all that is
// left can be had. Windows have no versions by which answers that overtake each other
// could be told, so they are tried one request after the other.
func TestNothingIsPromisedTwice(t *testing.T) {
	const most, plenty = 300, 1_000_000
	for _, bound := range []string{"balance", "key", "subscription"} {
		for n := range 8 {
			workers := 1
			if bound == "balance" && n%2 == 0 {
				workers = 8
			}
			seed := rand.Uint64()
			name := fmt.Sprintf("%s, %d at once, %d", bound, workers, n)
			inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
				p := &promises{most: most}
				balance, limit := billing.USD(plenty), billing.USD(plenty)
				switch bound {
				case "balance":
					balance = most
				case "key":
					limit = most
				case "subscription":
					p.terms = &billing.Terms{Group: "g", Declared: true, Limits: billing.Limits{billing.Weekly: most}}
				}
				l := open(t, client)
				ctx := context.Background()
				must(t, l.Declare(ctx, []billing.User{{Name: "alice", Balance: balance}}))
				must(t, l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: limit}}))
				known := req("known", 0)
				known.KeyID, known.Terms = "k", p.terms
				if _, err := l.Hold(ctx, known); err != nil {
					t.Fatal(err)
				}
				faults := &fates{random: rand.New(rand.NewPCG(seed, 0))}
				client.AddHook(pipelineHook(faults.hook))
				var all sync.WaitGroup
				for w := range workers {
					all.Go(func() {
						random := rand.New(rand.NewPCG(seed, uint64(w+1)))
						var nested func(depth int)
						count := 0
						nested = func(depth int) {
							count++
							p.try(t, l, random, fmt.Sprintf("%d-%d", w, count), func() {
								if random.IntN(2) == 0 { // for the loops
									time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
								}
								if depth < 3 && random.IntN(2) == 0 {
									nested(depth + 1)
								}
							})
						}
						for range 60 / workers {
							nested(0)
						}
					})
				}
				all.Wait()
				faults.heal()
				time.Sleep(2 * holdTTL)
				l.wantHeld(t, 0)
				if l.Waiting() != 0 {
					t.Errorf("%d records wait", l.Waiting())
				}
				spent := billing.USD(p.charged.Load())
				if b, err := l.Balance(ctx, "alice"); err != nil || p.terms == nil && b.Amount != balance-spent {
					t.Errorf("%s is left, %v; %s were charged of %s", b.Amount, err, spent, balance)
				}
				if used := mini.HGet("{n}:key:k", "daily_used"); used != strconv.FormatInt(int64(spent), 10) {
					t.Errorf("%s is used of the key, %s were charged", used, spent)
				}
				rest := req("rest", most-spent)
				rest.KeyID, rest.Terms = "k", p.terms
				if _, err := l.Hold(ctx, rest); err != nil {
					t.Errorf("the rest of %d can't be had: %v", rest.Amount, err)
				}
				if p.charged.Load() == 0 {
					t.Error("nothing was charged")
				}
				if t.Failed() {
					t.Logf("%s: seed %d, %d refused", name, seed, p.refused.Load())
				}
			})
		}
	}
}
