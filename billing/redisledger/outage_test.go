package redisledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/redisledger"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

// server is a Redis that a test can kill.
type server struct {
	address    string
	stop, back func()
}

// servers are a miniredis, and a redis-server that writes to disk before it answers, so
// that nothing is lost when it is killed.
var servers = map[string]func(*testing.T) server{
	"miniredis": func(t *testing.T) server {
		mini := miniredis.RunT(t)
		return server{mini.Addr(), mini.Close, func() { must(t, mini.Restart()) }}
	},
	"redis-server": func(t *testing.T) server {
		s := redistest.Start(t, redistest.AppendOnly(redistest.Always))
		return server{s.Addr, s.Kill, s.Restart}
	},
}

// TestRedisKilledDuringSettles: nothing that was acknowledged is lost, or charged twice.
func TestRedisKilledDuringSettles(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			const settlers = 8
			redisServer := start(t)
			client := connect(t, &redis.Options{Addr: redisServer.address})
			l := open(t, client)
			l.declareAlice(t)
			stop := make(chan struct{})
			var mu sync.Mutex
			var ids []string
			var running sync.WaitGroup
			for range settlers {
				running.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						id := newID()
						if err := l.setAside(id, 7*charge); err != nil && !strings.Contains(err.Error(), "nil pointer") { // as a miniredis says that ends
							t.Error(err)
						}
						if err := l.Settle(context.Background(), exampleOf(id), nil); err != nil {
							t.Error(err)
						}
						mu.Lock()
						ids = append(ids, id)
						mu.Unlock()
					}
				})
			}
			for range 2 {
				time.Sleep(200 * time.Millisecond)
				redisServer.stop()
				time.Sleep(200 * time.Millisecond)
				redisServer.back()
				eventually(t, "Redis is back", func() bool { return l.link.Down() == nil })
			}
			redisServer.stop()
			time.Sleep(100 * time.Millisecond)
			close(stop)
			running.Wait()
			if l.Waiting() == 0 {
				t.Error("nothing waits, although Redis is gone")
			}
			// Where an answer was lost, Redis may have a record that waits.
			most := opening - billing.USD(len(ids)*charge)
			least := most - billing.USD(l.Waiting()*charge)
			if known, err := l.Balance(t.Context(), "alice"); err != nil || known.Amount > most || known.Amount < least {
				t.Errorf("balance %s, %v while Redis is gone, want one from %s to %s", known.Amount, err, least, most)
			}
			redisServer.back()
			l.wantWaiting(t, 0)
			l.wantSettled(t, len(ids))
			for _, id := range ids[len(ids)-100:] {
				l.settle(t, id)
			}
			checkKept(t, client, ids)
			wantIdentity(t, client, "alice")
			l.logs.want(t, wentBack, 0)
			l.logs.want(t, "ERROR Redis is out of reach", l.logs.count("Redis is back"))
			t.Logf("%d records", len(ids))
		})
	}
}

// TestRedisRefusesRecords: errors that Redis answers with, rather than not at
// all, have records wait too.
func TestRedisRefusesRecords(t *testing.T) {
	for _, why := range []string{
		"LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
		"OOM command not allowed when used memory > 'maxmemory'.", "CLUSTERDOWN The cluster is down",
		"MISCONF Redis is configured to save RDB snapshots", "NOAUTH Authentication required.", "ERR something else",
	} {
		t.Run(strings.Fields(why)[0], func(t *testing.T) {
			inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
				l := openWith(t, client, redisledger.Options{Sync: true})
				l.declareAlice(t)
				l.settle(t, "a")
				mini.SetError(why)
				l.settle(t, "b", "c", "b")
				if l.Waiting() != 2 {
					t.Errorf("%d records wait, want 2", l.Waiting())
				}
				if isDown := l.link.Down() != nil; isDown != (why != "ERR something else") {
					t.Errorf("Redis is down: %v", isDown)
				} else if isDown {
					l.wantSettled(t, 3)
					for what, err := range map[string]error{
						"Records":    l.Records(t.Context(), billing.RecordFilter{}, func(*billing.Record) bool { return true }),
						"Declare":    l.Declare(t.Context(), []billing.User{{Name: "later", Balance: 5}}),
						"AddUser":    l.AddUser(t.Context(), billing.User{Name: "never"}),
						"RevokeKey":  l.RevokeKey(t.Context(), "k"),
						"RemoveUser": l.RemoveUser(t.Context(), "never"),
					} {
						if isDeclared := what == "Declare"; isDeclared != (err == nil) || !isDeclared && !errors.Is(err, billing.ErrUnavailable) {
							t.Errorf("%s: %v", what, err)
						}
					}
				}
				mini.SetError("")
				time.Sleep(2 * time.Second)
				l.wantWaiting(t, 0)
				l.wantSettled(t, 3)
				checkKept(t, client, []string{"a", "b", "c"})
			})
		})
	}
}

// TestDeclaredInAnOutage: users are known here at once, and to Redis when it is back.
func TestDeclaredInAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		outage := outageOf(client)
		outage.is.Store(true)
		l, other := open(t, client), open(t, clientOf(t, mini))
		if err := l.setAside("before", 1); !errors.Is(err, billing.ErrUnavailable) {
			t.Errorf("Hold before anybody was declared: %v, want ErrUnavailable", err)
		}
		must(t, l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: 1000}}))
		l.wantBalance(t, 1000)
		l.wantMet(t, "a", 600)
		l.wantRefused(t, "b", 401, true)
		r := exampleOf("r")
		r.Charged = 300
		must(t, l.Settle(t.Context(), r, nil))
		l.wantBalance(t, 700)
		outage.is.Store(false)
		time.Sleep(2 * time.Second)
		other.wantBalance(t, 700)
		other.wantHeld(t, 600)
		l.logs.want(t, "ERROR Redis is out of reach", 1)
		l.logs.want(t, "INFO Redis is back", 1)
	})
}

// TestRedisLosesItsDataWhileItIsUp: whoever is not known there is declared again, by
// whatever asks for him first.
func TestRedisLosesItsDataWhileItIsUp(t *testing.T) {
	for name, ask := range map[string]func(l *node) error{
		"Hold":    func(l *node) error { return l.setAside("a", 1) },
		"Settle":  func(l *node) error { return l.Settle(context.Background(), exampleOf("a"), nil) },
		"Balance": func(l *node) error { _, err := l.Balance(context.Background(), "alice"); return err },
		"Credit": func(l *node) error {
			_, _, err := l.Credit(context.Background(), "alice", billing.Credit{ID: "c", Amount: 1})
			return err
		},
	} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			l := open(t, client)
			must(t, l.Declare(t.Context(), []billing.User{{Name: "alice", Balance: opening}, {Name: "bob", Balance: 5}}))
			l.wantMet(t, "held", 7)
			mini.FlushAll()
			if err := ask(l); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if b, err := l.Balance(t.Context(), "bob"); err != nil || b.Amount != 5 {
				t.Errorf("%s: bob has %s, %v", name, b.Amount, err)
			}
			if b, err := l.Balance(t.Context(), "nobody"); !errors.Is(err, billing.ErrUnknownUser) {
				t.Errorf("%s: nobody has %s, %v", name, b.Amount, err)
			}
			l.logs.want(t, "Redis did not know a user of the config", 1)
			time.Sleep(renewEvery + 2*time.Second)
			held := billing.USD(7)
			if name == "Hold" {
				held++
			}
			l.wantHeld(t, held)
		})
	}
}

// TestRedisIsToldOfTheConfigOnce, when it has lost its data: who asks while it is told,
// and after, when it has lost them again, gets what he would have.
func TestRedisIsToldOfTheConfigOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		ask := func() {
			if _, _, err := l.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 1}); err != nil {
				t.Error(err)
			}
			if _, err := l.Balance(t.Context(), "alice"); err != nil {
				t.Error(err)
			}
			l.wantMet(t, "held", 1)
			l.settle(t, "a", "b")
		}
		mini.FlushAll()
		var calls atomic.Int32
		before(client, func(context.Context) error {
			if calls.Add(1) == 2 { // it is told
				time.Sleep(500 * time.Millisecond)
			}
			return nil
		})
		var all sync.WaitGroup
		for range 3 {
			all.Go(ask)
			time.Sleep(100 * time.Millisecond)
		}
		all.Wait()
		l.logs.want(t, "Redis did not know a user of the config", 1)
		time.Sleep(300 * time.Millisecond) // less than until a sign of life finds it
		mini.FlushAll()
		ask()
		time.Sleep(2 * time.Second)
		if balance, _, err := l.Credit(t.Context(), "alice", billing.Credit{ID: "back", Amount: -1}); err != nil || balance.Amount != opening-2*charge {
			t.Errorf("%+v, %v", balance, err)
		}
		checkKept(t, client, []string{"a", "b"})
	})
}

// TestRedisDoesNotTakeTheConfig: it loses what it is told, as one does that a failover is
// about to replace. Nobody hears that a user of the config is unknown.
func TestRedisDoesNotTakeTheConfig(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		before(client, func(context.Context) error {
			mini.FlushAll()
			return nil
		})
		for what, ask := range map[string]func() error{
			"Balance": func() error { _, err := l.Balance(t.Context(), "alice"); return err },
			"Hold":    func() error { _, err := l.Hold(t.Context(), req("a", 1)); return err },
			"User":    func() error { _, err := l.User(t.Context(), "alice"); return err },
			"Users":   func() error { _, err := l.Users(t.Context()); return err },
			"Credit": func() error {
				_, _, err := l.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 1})
				return err
			},
		} {
			if err := ask(); !errors.Is(err, billing.ErrUnavailable) || errors.Is(err, billing.ErrUnknownUser) {
				t.Errorf("%s: %v, want ErrUnavailable", what, err)
			}
		}
		if _, err := l.User(t.Context(), "nobody"); !errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("User of nobody: %v", err)
		}
	})
}

// TestUsersAreToldAgain: a Redis that has lost its data has the users of the config as soon
// as somebody asks for them.
func TestUsersAreToldAgain(t *testing.T) {
	for what, ask := range map[string]func(l *node) (billing.Profile, error){
		"User": func(l *node) (billing.Profile, error) { return l.User(context.Background(), "alice") },
		"Users": func(l *node) (billing.Profile, error) {
			all, err := l.Users(context.Background())
			return append(all, billing.Profile{})[0], err
		},
	} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			l := open(t, client)
			l.declareAlice(t)
			mini.FlushAll()
			if got, err := ask(l); got.Name != "alice" || err != nil {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
		})
	}
}

// TestLostAnswerOfAHoldRefusedHere: Redis has met the request, nobody heard, and by what
// this process knew it is refused. What Redis set aside is given back.
func TestLostAnswerOfAHoldRefusedHere(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l, other := open(t, client), open(t, clientOf(t, mini))
		must(t, l.Declare(t.Context(), []billing.User{{Name: "alice"}}))
		if _, _, err := other.Credit(t.Context(), "alice", billing.Credit{ID: "c", Amount: 100}); err != nil {
			t.Fatal(err)
		}
		other.wantMet(t, "b", 1) // from here on, Redis knows the script
		other.Release(t.Context(), "b")
		lost := new(loser)
		client.AddHook(pipelineHook(lost.hook))
		lost.next.Store(true)
		l.wantRefused(t, "a", 100, false)
		time.Sleep(holdTTL + time.Second)
		if b, err := other.Balance(t.Context(), "alice"); err != nil || b != (billing.Balance{Amount: 100}) {
			t.Errorf("balance %+v, %v", b, err)
		}
	})
}

// TestRefusedRecordBlocksNobody: a record whose user Redis doesn't know is put
// aside, and settled once the user was declared.
func TestRefusedRecordBlocksNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		options := redisledger.Options{Spool: t.TempDir()}
		l := openWith(t, client, options)
		l.declareAlice(t)
		mini.SetError(loading)
		stranger := exampleOf("s")
		stranger.User = "bob"
		l.settle(t, "a")
		must(t, l.Settle(t.Context(), stranger, nil))
		l.settle(t, "b")
		mini.SetError("")
		time.Sleep(2 * time.Second)
		l.wantWaiting(t, 0)
		l.wantSettled(t, 2)
		if sizeOf(options.Spool, "0", "refused") == 0 {
			t.Fatal("no refused record is kept")
		}
		must(t, l.close())

		l = openWith(t, client, options) // still refused
		time.Sleep(time.Second)
		must(t, l.Declare(t.Context(), []billing.User{{Name: "bob", Balance: opening}}))
		time.Sleep(time.Second)
		if n := sizeOf(options.Spool, "0", "refused"); n != 0 {
			t.Errorf("%d bytes of refused records are left", n)
		}
		if bob, err := l.Balance(t.Context(), "bob"); err != nil || bob.Amount != opening-charge {
			t.Errorf("bob's balance %s, %v; want %s", bob.Amount, err, opening-charge)
		}
	})
}

// TestRefusedRecordsOfAnotherNode: Redis comes back without its data, this process
// brings its records of users that another one has to add or declare.
func TestRefusedRecordsOfAnotherNode(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l, other := open(t, client), open(t, clientOf(t, mini))
		other.declareAlice(t)
		l.wantMet(t, "known", 0)
		outage := outageOf(client)
		outage.is.Store(true)
		l.settle(t, "a", "b")
		mini.FlushAll()
		outage.is.Store(false)
		time.Sleep(2 * time.Second)
		l.wantWaiting(t, 0)
		if mini.Exists("{n}:records:" + today.Format(time.DateOnly)) {
			t.Fatal("Redis has taken records of a user whom it did not know")
		}
		other.declareAlice(t)
		time.Sleep(10 * time.Minute)
		l.settle(t, "c") // which has the drain look
		mini.SetError(loading)
		l.settle(t, "d")
		mini.SetError("")
		time.Sleep(2 * time.Second)
		checkKept(t, client, []string{"a", "b", "c", "d"})
	})
}

func TestSettleWithoutRedisAndSpool(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		blocked := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(blocked, nil, 0o600))
		l := openWith(t, client, redisledger.Options{Spool: blocked})
		l.declareAlice(t)
		l.settle(t, "up") // while Redis takes it
		mini.SetError(loading)
		err := l.Settle(t.Context(), exampleOf("a"), nil)
		if !errors.Is(err, billing.ErrUnwritable) || !strings.Contains(err.Error(), blocked) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("Settle: %v, want an ErrUnwritable that names the record and %q", err, blocked)
		}
		l.wantSettled(t, 1)
		mini.SetError("")
		time.Sleep(time.Second)
		l.settle(t, "a")
		checkKept(t, client, []string{"up", "a"})
	})
}

// TestClosedWhileRecordsWait: Close says what waits, and the next ledger, under
// another working directory, settles it.
func TestClosedWhileRecordsWait(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	home := t.TempDir()
	t.Chdir(home)
	l := openWith(t, client, redisledger.Options{Spool: "spool"})
	l.declareAlice(t)
	spool := filepath.Join(home, "spool")
	t.Chdir(t.TempDir())
	mini.SetError(loading)
	l.settle(t, "a", "b")
	if err := l.close(); err == nil || !strings.Contains(err.Error(), "2 records wait") || !strings.Contains(err.Error(), spool) {
		t.Errorf("Close: %v, want an error that says that 2 records wait in %s", err, spool)
	}
	if err := l.Settle(t.Context(), exampleOf("c"), nil); !errors.Is(err, billing.ErrClosed) {
		t.Errorf("Settle: %v, want ErrClosed", err)
	}
	mini.SetError("")
	l = openWith(t, client, redisledger.Options{Spool: spool})
	l.declareAlice(t)
	eventually(t, "both are settled", func() bool { return len(recordsIn(t, l, billing.RecordFilter{})) == 2 })
	l.wantWaiting(t, 0)
	checkKept(t, client, []string{"a", "b"})
}

// TestServerForgetsItsScripts as a server does that was started again.
func TestServerForgetsItsScripts(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		forget := func() { must(t, client.ScriptFlush(t.Context()).Err()) }
		l.settle(t, "a")
		forget()
		l.settle(t, "b")
		if l.Waiting() != 0 {
			t.Errorf("%d records wait", l.Waiting())
		}
		mini.SetError("OOM command not allowed")
		ids := []string{"a", "b"}
		for i := range 400 { // several round trips
			id := fmt.Sprint(i)
			l.settle(t, id)
			ids = append(ids, id)
		}
		mini.SetError("")
		forget()
		time.Sleep(2 * time.Second)
		l.wantWaiting(t, 0)
		checkKept(t, client, ids)
	})
}

// TestManyNodesSettleTheSame: of several ledgers over one Redis, one charges.
func TestManyNodesSettleTheSame(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprintf("%03d", i))
	}
	var nodes sync.WaitGroup
	for range 3 {
		l := open(t, client)
		l.declareAlice(t)
		nodes.Go(func() {
			for _, id := range ids {
				if err := l.Settle(context.Background(), exampleOf(id), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	nodes.Wait()
	slices.Reverse(ids)
	checkKept(t, client, ids)
}
