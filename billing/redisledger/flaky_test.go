package redisledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// flaky has round trips fail: before Redis hears of them, after, or so that Redis
// hears of them later, when the caller has given up.
type flaky struct {
	mu      sync.Mutex
	random  *rand.Rand
	healthy bool
	late    []func()
}

func (f *flaky) hook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return strings.HasPrefix(cmd.Name(), "eval") }) {
			return next(ctx, cmds) // a connection begins
		}
		f.mu.Lock()
		for _, run := range f.late { // Redis reads what came first first
			run()
		}
		f.late = nil
		fate, err := f.random.IntN(10), []error{os.ErrDeadlineExceeded, io.EOF}[f.random.IntN(2)]
		if f.healthy {
			fate = 9
		}
		again := copyOf(cmds)
		if fate == 0 {
			f.late = append(f.late, func() { _ = next(context.Background(), again) })
		}
		f.mu.Unlock()
		switch fate {
		case 0, 1: // Redis hears of it later, or never
		case 2:
			_ = next(context.Background(), again) // and its answer is lost
		default:
			return next(ctx, cmds)
		}
		return fail(cmds, err)
	}
}

// copyOf is the same commands, for Redis alone to hear of.
func copyOf(cmds []redis.Cmder) []redis.Cmder {
	copied := make([]redis.Cmder, len(cmds))
	for i, cmd := range cmds {
		copied[i] = redis.NewCmd(context.Background(), cmd.Args()...)
	}
	return copied
}

func fail(cmds []redis.Cmder, err error) error {
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
	return err
}

func (f *flaky) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.healthy = true
}

// promises are what a ledger has set aside for requests that go on.
type promises struct {
	promised, charged atomic.Int64
	most              int64
	terms             *billing.Terms // nil: the balance pays
}

// try is one request: it asks for money, and gives it back or settles it.
func (p *promises) try(t *testing.T, l *Ledger, random *rand.Rand, id string, between func()) {
	ctx := context.Background()
	c := claim(id, billing.USD(1+random.IntN(40)))
	c.KeyID, c.Terms = "k", p.terms
	pays := billing.PaidFromBalance
	if c.Terms != nil {
		pays = billing.PaidFromSubscription
	}
	var payer string
	var err error
	answered := false
	if random.IntN(2) == 0 {
		carrying, ahead := l.HoldAhead(ctx, c)
		redispipe.Exec(carrying, l.client, func(pipe redis.Pipeliner) { pipe.Get(ctx, "anything") })
		between()
		payer, answered, err = ahead()
	}
	before := p.charged.Load()
	if !answered {
		payer, err = l.Hold(ctx, c)
	}
	var refusal *billing.Refusal
	switch {
	case errors.As(err, &refusal):
		if !refusal.Held && before+int64(c.Least) <= p.most && p.charged.Load()+int64(c.Least) <= p.most {
			t.Errorf("%s was refused %s for good: %v; %d of %d are charged", id, c.Least, err, p.charged.Load(), p.most)
		}
		return
	case err != nil || payer != pays:
		t.Errorf("%s: %q, %v", id, payer, err)
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

// TestNothingIsPromisedTwice by one process, however its round trips fail; and a
// claim is refused for good only if there is not enough, whatever happens later. In
// the end, nothing is set aside any more. Windows have no versions by which answers
// that overtake each other could be told, so they are tried one request after the
// other.
func TestNothingIsPromisedTwice(t *testing.T) {
	const most, plenty = 300, 1_000_000
	for _, bound := range []string{"balance", "key", "subscription"} {
		for n := range 8 {
			workers := 1
			if bound == "balance" && n%2 == 0 {
				workers = 8
			}
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("%s, %d at once, %d", bound, workers, n), func(t *testing.T) {
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
				mini := miniredis.RunT(t)
				client := connect(t, &redis.Options{Addr: mini.Addr()})
				l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
				stopLoops(l)
				ctx := context.Background()
				must(t, l.Declare(ctx, []billing.User{{Name: "alice", Balance: balance}}))
				must(t, l.AddKey(ctx, billing.Key{ID: "k", User: "alice", Limits: billing.Limits{billing.Daily: limit}}))
				known := claim("known", 0)
				known.KeyID, known.Terms = "k", p.terms
				if _, err := l.Hold(ctx, known); err != nil {
					t.Fatal(err)
				}
				faults := &flaky{random: rand.New(rand.NewPCG(seed, 0))}
				client.AddHook(pipelineHook(faults.hook))
				var tending sync.Mutex
				tend := func() { // what the loops do, at any moment
					tending.Lock()
					defer tending.Unlock()
					switch faults.pick(4) {
					case 0:
						l.recovered(ctx)
					case 1:
						if !l.down.Load() {
							_ = l.renew(ctx)
						}
					case 2:
						if !l.down.Load() {
							_ = l.endHolds(ctx, l.holds.debts())
						}
					}
				}
				var all sync.WaitGroup
				for w := range workers {
					all.Go(func() {
						random := rand.New(rand.NewPCG(seed, uint64(w+1)))
						var nested func(depth int)
						count := 0
						nested = func(depth int) {
							count++
							p.try(t, l, random, fmt.Sprintf("%d-%d", w, count), func() {
								tend()
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
				if !l.recovered(ctx) {
					t.Fatal("Redis is not taken to be back")
				}
				must(t, l.renew(ctx))
				must(t, l.endHolds(ctx, l.holds.debts()))
				wantHeld(t, l, 0)
				wantNothingRemembered(t, l)
				spent := billing.USD(p.charged.Load())
				if b, err := l.Balance(ctx, "alice"); err != nil || p.terms == nil && b.Amount != balance-spent {
					t.Errorf("%s is left, %v; %s were charged of %s", b.Amount, err, spent, balance)
				}
				for _, purse := range []string{"key:k", "subscription:5:alice:g"} {
					if held := mini.HGet("{n}:"+purse, "held"); held != "0" && held != "" {
						t.Errorf("%s is set aside on %s", held, purse)
					}
				}
				if used := mini.HGet("{n}:key:k", "daily_used"); used != strconv.FormatInt(int64(spent), 10) {
					t.Errorf("%s is used of the key, %s were charged", used, spent)
				}
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			})
		}
	}
}

func (f *flaky) pick(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(n)
}
