package redisledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// TestRedisGoesBack: what the last minute brought is told again, each once, whoever finds
// it out.
func TestRedisGoesBack(t *testing.T) {
	for name, find := range map[string]func(l *node) error{
		"heartbeat": func(*node) error { return nil },
		"Settle":    func(l *node) error { return l.Settle(context.Background(), exampleOf("first"), nil) },
		"Credit": func(l *node) error {
			_, _, err := l.Credit(context.Background(), "alice", billing.Credit{ID: "known", Amount: 1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
				l, other := open(t, client), open(t, clientOf(t, mini))
				l.declareAlice(t)
				l.settle(t, "first")
				credit := func(user, id string, amount billing.USD) {
					t.Helper()
					if _, _, err := l.Credit(t.Context(), user, billing.Credit{ID: id, Amount: amount, Note: "a note"}); err != nil {
						t.Fatal(err)
					}
				}
				credit("alice", "known", 1)
				time.Sleep(2 * time.Second)
				useRedis := redistest.Copy(t, client)
				l.settle(t, "a", "b")
				other.settle(t, "c")
				credit("alice", "c", 500)
				must(t, l.AddUser(t.Context(), billing.User{Name: "bob", Balance: 70, Concurrency: 3}))
				credit("bob", "c", 5)
				of := exampleOf("of bob")
				of.User, of.UserNumber, of.Charged = "bob", 1, 7
				must(t, l.Settle(t.Context(), of, nil))
				l.wantMet(t, "held", 33)

				useRedis()
				must(t, find(l))
				time.Sleep(2 * time.Second)
				for _, n := range []*node{l, other} {
					if b, err := n.Balance(t.Context(), "alice"); err != nil || b.Amount != opening-4*charge+501 || b.Held != 33 {
						t.Errorf("alice has %+v, %v; want %s and 33 set aside", b, err, opening-4*charge+501)
					}
					if p, err := n.User(t.Context(), "bob"); err != nil || p.Balance.Amount != 68 || p.Concurrency != 3 || p.Source != billing.SourceAPI {
						t.Errorf("bob is %+v, %v", p, err)
					}
					n.logs.want(t, wentBack, 1)
				}
				if ids := recordsIn(t, l, billing.RecordFilter{}); len(ids) != 5 {
					t.Errorf("there are the records %v, want 5", ids)
				}
				wantIdentity(t, client, "alice")
				wantIdentity(t, client, "bob")
				time.Sleep(5 * time.Minute)
				l.logs.want(t, wentBack, 1)
			})
		})
	}
}

// TestRedisGoesBackAgainAndAgain before it had all.
func TestRedisGoesBackAgainAndAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.settle(t, "0")
		useRedis := redistest.Copy(t, client)
		var ids []string
		for i := range 5 {
			l.settle(t, fmt.Sprint("a", i), fmt.Sprint("b", i))
			ids = append(ids, fmt.Sprint("a", i), fmt.Sprint("b", i))
			useRedis()
			time.Sleep(time.Duration(i) * 500 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		checkKept(t, client, append(ids, "0"))
	})
}

// TestRedisLosesMoreThanAMinute: what is older than the spool keeps it is lost, and what
// is not comes back.
func TestRedisLosesMoreThanAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		useRedis := redistest.Copy(t, client)
		l.settle(t, "old")
		time.Sleep(5 * time.Minute)
		if n := sizeOf(l.spool, "0", "journal-0") + sizeOf(l.spool, "0", "journal-1"); n != 0 {
			t.Errorf("the spool still has %d bytes", n)
		}
		l.settle(t, "new")
		time.Sleep(59 * time.Second)
		l.settle(t, "newest")
		useRedis()
		time.Sleep(2 * time.Second)
		checkKept(t, client, []string{"new", "newest"})
	})
}

// TestRecordsTakenLateAreKeptForAMinute more, wherever the spool has them.
func TestRecordsTakenLateAreKeptForAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		options := redisledger.Options{Spool: t.TempDir()}
		l := openWith(t, client, options)
		l.declareAlice(t)
		useRedis := redistest.Copy(t, client)
		time.Sleep(30 * time.Second)
		l.settle(t, "a")
		time.Sleep(40 * time.Second) // now it is in the older of the two files
		l.settle(t, "b")
		must(t, l.close())

		mini.SetError(loading)
		l = openWith(t, client, options)
		l.settle(t, "c")
		time.Sleep(5*time.Minute + 30*time.Second)
		mini.SetError("")
		time.Sleep(55 * time.Second)
		useRedis()
		time.Sleep(2 * time.Second)
		checkKept(t, client, []string{"a", "b", "c"})
	})
}

// TestRefusedRecordsAreKeptForAMinute once Redis has taken them after all, long after it
// had refused them.
func TestRefusedRecordsAreKeptForAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l, other := open(t, client), open(t, clientOf(t, mini))
		mini.SetError(loading)
		l.settle(t, "a", "b") // of alice, whom nobody has declared
		mini.SetError("")
		time.Sleep(5 * time.Minute)
		if sizeOf(l.spool, "0", "refused") == 0 {
			t.Fatal("no refused record is kept")
		}
		other.declareAlice(t)
		useRedis := redistest.Copy(t, client)
		for range 20 * 60 {
			if time.Sleep(time.Second); sizeOf(l.spool, "0", "refused") == 0 {
				break
			}
		}
		other.wantSettled(t, 2)
		time.Sleep(30 * time.Second)
		useRedis()
		time.Sleep(2 * time.Second)
		l.wantWaiting(t, 0)
		checkKept(t, client, []string{"a", "b"})
	})
}

// TestCountIsGone as it is when a process was not heard of for a day.
func TestCountIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.settle(t, "a", "b")
		if _, _, err := l.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: charge}); err != nil {
			t.Fatal(err)
		}
		for _, key := range mini.Keys() {
			if len(key) > len("{n}:settled:day:00000") && key[:len("{n}:settled:")] == "{n}:settled:" {
				mini.Del(key)
			}
		}
		time.Sleep(2 * time.Second)
		l.settle(t, "d")
		l.wantSettled(t, 2)
		wantIdentity(t, client, "alice")
		l.logs.want(t, wentBack, 1)
	})
}

// TestCountEndsWithItsProcess a day later, and not before.
func TestCountEndsWithItsProcess(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.settle(t, "a")
		counts := func() (n int) {
			for _, key := range mini.Keys() {
				if len(key) == len("{n}:settled:")+len(newID()) {
					n++
				}
			}
			return n
		}
		for range 3 {
			time.Sleep(2 * time.Second)
			mini.FastForward(23 * time.Hour)
		}
		if n := counts(); n != 1 {
			t.Errorf("%d counts, want that of the process that lives", n)
		}
		must(t, l.close())
		mini.FastForward(24 * time.Hour)
		if n := counts(); n != 0 {
			t.Errorf("%d counts, want none", n)
		}
		l.logs.want(t, wentBack, 0)
	})
}

// TestNameHasAnotherOwner by the time that Redis is told again.
func TestNameHasAnotherOwner(t *testing.T) {
	for _, when := range []string{"before", "between", "after"} {
		t.Run(when, func(t *testing.T) {
			inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
				l := open(t, client)
				l.declareAlice(t)
				l.settle(t, "a", "b", "c", "d")
				ctx := t.Context()
				own := func(number, balance, credit, charged billing.USD) {
					must(t, l.AddUser(ctx, billing.User{Name: "bob", Balance: balance}))
					if _, _, err := l.Credit(ctx, "bob", billing.Credit{ID: "same", Amount: credit}); err != nil {
						t.Fatal(err)
					}
					r := exampleOf(fmt.Sprint("of bob ", number))
					r.User, r.UserNumber, r.Charged = "bob", int64(number), charged
					must(t, l.Settle(ctx, r, nil))
				}
				useRedis, first, second := redistest.Copy(t, client), billing.USD(10+5-3), billing.USD(200+50-30)
				own(1, 10, 5, 3)
				if when == "between" {
					useRedis = redistest.Copy(t, client)
				}
				must(t, l.RemoveUser(ctx, "bob"))
				own(2, 200, 50, 30)
				if when == "after" {
					useRedis = redistest.Copy(t, client)
					l.settle(t, "e")
				}
				useRedis()
				time.Sleep(2 * time.Second)
				want := first // what removed him was lost
				if when == "after" {
					want = second
				}
				if b, err := l.Balance(ctx, "bob"); err != nil || b.Amount != want {
					t.Errorf("bob has %s, %v; want %s", b.Amount, err, want)
				}
				wantIdentity(t, client, "bob")
				l.logs.want(t, wentBack, 1)
			})
		})
	}
}

// TestRedisGoesBackWhileNobodyRuns: who starts next tells it again of what the last
// minute of the one before brought.
func TestRedisGoesBackWhileNobodyRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		options := redisledger.Options{Spool: t.TempDir()}
		l := openWith(t, client, options)
		l.declareAlice(t)
		useRedis := redistest.Copy(t, client)
		l.settle(t, "a", "b")
		if _, _, err := l.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 2 * charge}); err != nil {
			t.Fatal(err)
		}
		must(t, l.close())
		useRedis()
		time.Sleep(time.Hour)
		l = openWith(t, client, options)
		if l.Waiting() != 0 {
			t.Errorf("%d records count as missing, which were taken", l.Waiting())
		}
		time.Sleep(time.Second)
		l.wantSettled(t, 0)
		if ids := recordsIn(t, l, billing.RecordFilter{}); len(ids) != 2 {
			t.Errorf("there are the records %v, want 2", ids)
		}
		wantIdentity(t, client, "alice")
	})
}

// TestMoneySetAsideComesBack soon, if Redis has lost it, whoever finds that out.
func TestMoneySetAsideComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l, other := open(t, client), open(t, clientOf(t, mini))
		l.declareAlice(t)
		l.settle(t, "known")
		useRedis := redistest.Copy(t, client)
		l.settle(t, "a")
		l.wantMet(t, "held", opening-2*charge)
		useRedis()
		l.settle(t, "b") // which finds out
		l.wantRefused(t, "more", charge, true)
		time.Sleep(2 * time.Second)
		other.wantRefused(t, "more", charge, true)
		other.wantHeld(t, opening-2*charge)
		other.wantBalance(t, opening-3*charge)
	})
}

// TestAnswersOfBefore come when it is known that Redis has gone back: they say nothing
// of what it has now.
func TestAnswersOfBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.settle(t, "first")
		useRedis := redistest.Copy(t, client)
		other := open(t, clientOf(t, mini))
		for i := range 5 { // changes that nobody tells again, which the version counts
			if _, _, err := other.Credit(t.Context(), "alice", billing.Credit{ID: fmt.Sprint(i), Amount: 0}); err != nil {
				t.Fatal(err)
			}
		}
		must(t, other.close())
		delayed := false
		client.AddHook(pipelineHook(func(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
			return func(ctx context.Context, cmds []redis.Cmder) error {
				isFirst := isScript(cmds) && !delayed
				delayed = delayed || isFirst
				err := next(ctx, cmds)
				if isFirst {
					useRedis()
					time.Sleep(900 * time.Millisecond)
					l.settle(t, "b") // which finds out
					time.Sleep(50 * time.Millisecond)
				}
				return err
			}
		}))
		l.settle(t, "a")
		time.Sleep(2 * time.Second)
		l.settle(t, "c")
		l.wantSettled(t, 4)
		checkKept(t, client, []string{"first", "a", "b", "c"})
		l.logs.want(t, wentBack, 1)
	})
}

// TestRedisGoesBackUnderLoad: with settles in flight, again and again, every record that
// was acknowledged is there, once, and there are no false alarms.
func TestRedisGoesBackUnderLoad(t *testing.T) {
	for name, start := range map[string]func(*testing.T) string{
		"miniredis":    func(t *testing.T) string { return miniredis.RunT(t).Addr() },
		"redis-server": func(t *testing.T) string { return redistest.Start(t).Addr },
	} {
		t.Run(name, func(t *testing.T) {
			address := start(t)
			client, admin := connect(t, &redis.Options{Addr: address}), connect(t, &redis.Options{Addr: address})
			nodes := []*node{open(t, client), open(t, client)}
			nodes[0].declareAlice(t)
			stop := make(chan struct{})
			var mu sync.Mutex
			var ids []string
			credited := billing.USD(0)
			var running sync.WaitGroup
			for i, l := range nodes {
				l.settle(t, fmt.Sprint("begin ", i))
				ids = append(ids, fmt.Sprint("begin ", i))
				if _, _, err := l.Credit(t.Context(), "alice", billing.Credit{ID: fmt.Sprint("begin ", i), Amount: 5}); err != nil {
					t.Fatal(err)
				}
				credited += 5
			}
			for _, l := range nodes {
				for range 4 {
					running.Go(func() {
						for {
							select {
							case <-stop:
								return
							case <-time.After(time.Millisecond):
							}
							id := newID()
							_ = l.setAside(id, charge)
							if err := l.Settle(context.Background(), exampleOf(id), nil); err != nil {
								t.Error(err)
							}
							amount := billing.USD(0)
							if rand.IntN(10) == 0 {
								amount = 5
								if _, credited, err := l.Credit(context.Background(), "alice", billing.Credit{ID: id, Amount: 5}); err != nil || !credited {
									t.Errorf("Credit: %v, %v", credited, err)
								}
							}
							mu.Lock()
							ids = append(ids, id)
							credited += amount
							mu.Unlock()
						}
					})
				}
			}
			end := sync.OnceFunc(func() { close(stop); running.Wait() })
			defer end()
			const times = 4
			for range times {
				time.Sleep(100 * time.Millisecond)
				useRedis := redistest.Copy(t, admin)
				time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
				useRedis()
				time.Sleep(300 * time.Millisecond)
			}
			end()
			time.Sleep(2500 * time.Millisecond) // for heartbeats
			for _, l := range nodes {
				l.wantBalance(t, opening-billing.USD(len(ids)*charge)+credited)
				if n := l.logs.count(wentBack); n == 0 || n > times {
					t.Errorf("the log says %d times that Redis went back, which it did %d times", n, times)
				}
			}
			kept := make(map[string]int)
			for _, id := range recordsIn(t, nodes[0], billing.RecordFilter{}) {
				kept[id]++
			}
			for _, id := range ids {
				if kept[id] != 1 {
					t.Errorf("record %s is there %d times", id, kept[id])
				}
			}
			if len(kept) != len(ids) {
				t.Errorf("%d records, want %d", len(kept), len(ids))
			}
			wantIdentity(t, client, "alice")
			t.Logf("%d records", len(ids))
		})
	}
}
