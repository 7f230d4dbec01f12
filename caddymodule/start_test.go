package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/scheduler/memstate"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// farStorage is a store that may be out of reach.
type farStorage struct {
	refuse bool
	far    *farBackend
}

func (s farStorage) String() string                         { return "far" }
func (s farStorage) key() string                            { return "far" }
func (s farStorage) checkKey(context.Context, sealer) error { return nil }
func (s farStorage) clash(storage) error                    { return nil }
func (s farStorage) backend(*slog.Logger) backend           { return s.far }

func (s farStorage) outage() outage {
	if s.refuse {
		return outageRefuses
	}
	return outageServes
}

type farBackend struct {
	dir    string
	memory *memstate.State

	mu     sync.Mutex
	down   error
	users  map[string]billing.User
	asked  int // times that users were declared
	looked int // and that balances were looked at
	settle []string
}

func (b *farBackend) state() scheduler.State { return b.memory }
func (b *farBackend) take(storage)           {}
func (b *farBackend) close() error           { return nil }

func (b *farBackend) open(ctx context.Context, key sealer) (billing.Ledger, documents, error) {
	d, err := b.documents(ctx, key)
	return farLedger{farBackend: b}, d, err
}

func (b *farBackend) documents(ctx context.Context, key sealer) (documents, error) {
	return filePlace(b.dir).open(key)
}

func (b *farBackend) set(down error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

func (b *farBackend) counts() (asked, looked, settled int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked, b.looked, len(b.settle)
}

// farLedger keeps records while it is out of reach, of users that it knows.
type farLedger struct {
	billing.Ledger
	*farBackend
}

func (f *farBackend) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.users)
}

func (l farLedger) Declare(_ context.Context, users []billing.User) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if l.down != nil {
		return l.down
	}
	for _, user := range users {
		l.users[user.Name] = user
	}
	return nil
}

func (l farLedger) Balance(_ context.Context, user string) (billing.Balance, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looked++
	if _, ok := l.users[user]; !ok {
		return billing.Balance{}, billing.ErrUnknownUser
	}
	return billing.Balance{Amount: 1}, nil
}

func (l farLedger) Hold(_ context.Context, claim *billing.Claim) (billing.Payer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looked++
	if _, ok := l.users[claim.User]; !ok {
		return billing.Payer{}, billing.ErrUnknownUser
	}
	return billing.Payer{Billing: billing.PaidFromBalance}, nil
}

func (l farLedger) HoldAhead(ctx context.Context, claim *billing.Claim) (context.Context, heldAhead) {
	return ctx, func() (billing.Payer, bool, error) {
		payer, err := l.Hold(ctx, claim)
		return payer, true, err
	}
}

func (l farLedger) Settle(_ context.Context, r *billing.Record, _ roundtrip.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.users[r.User]; !ok && l.down == nil {
		return billing.ErrUnknownUser
	}
	l.settle = append(l.settle, r.ID)
	return nil
}

func (l farLedger) Close() error { return nil }

var errDown = errors.New("connection refused")

// farGateway is a gateway with one user over a store that is out of reach.
func farGateway(t *testing.T, refuse bool) (*gateway, *farBackend) {
	t.Helper()
	far := &farBackend{dir: t.TempDir(), memory: memstate.New(), down: errDown, users: map[string]billing.User{}}
	storage := farStorage{refuse, far}
	rt := adoptRuntime(storage.key(), storage)
	t.Cleanup(func() { rt.close() })
	account := &upstream.Account{Name: "main", Platform: upstream.Anthropic}
	sched, err := scheduler.New(scheduler.Settings{Accounts: []*upstream.Account{account}}, rt.leases, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &gateway{
		settings: &settings{storage: storage, declared: []billing.User{{Name: "alice", Balance: 20}, {Name: "bob", Unlimited: true}}},
		runtime:  rt, scheduler: sched, logger: slog.New(slog.DiscardHandler),
	}, far
}

func TestServingBeforeTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, far := farGateway(t, false)
		ledger, err := g.ledger(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for user, want := range map[string]billing.Balance{"alice": {Amount: 20}, "bob": {Unlimited: true}} {
			if got, err := ledger.Balance(t.Context(), user); got != want || err != nil {
				t.Errorf("%s has %+v, %v", user, got, err)
			}
		}
		if _, err := ledger.Balance(t.Context(), "eve"); !errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("a user whom nobody knows: %v", err)
		}
		for _, test := range []struct {
			claim billing.Claim
			want  string
			lack  billing.Lack
		}{
			{billing.Claim{User: "alice", Least: 20}, billing.PaidFromBalance, ""},
			{billing.Claim{User: "alice", Least: 21}, "", billing.LackBalance},
			{billing.Claim{User: "bob", Least: 21}, billing.PaidByNobody, ""},
			{billing.Claim{User: "bob", Terms: &billing.Terms{Declared: true}}, billing.PaidFromSubscription, ""},
			{billing.Claim{User: "bob", Terms: &billing.Terms{Declared: true, Until: time.Now()}, Time: time.Now()}, "", billing.LackTime},
			{billing.Claim{User: "bob", Terms: &billing.Terms{}}, "", billing.LackSubscription},
		} {
			payer, err := ledger.Hold(t.Context(), &test.claim)
			var refusal *billing.Refusal
			if errors.As(err, &refusal); payer.Billing != test.want || (refusal == nil) != (test.lack == "") || refusal != nil && refusal.Lack != test.lack {
				t.Errorf("%+v: paid by %v, %v", test.claim, payer, err)
			}
		}
		if _, err := ledger.Hold(t.Context(), &billing.Claim{User: "eve"}); !errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("a user whom nobody knows: %v", err)
		}
		_, looked, _ := far.counts()
		for range 10 {
			g.ledger(t.Context())
			ledger.Balance(t.Context(), "alice")
			ledger.Hold(t.Context(), &billing.Claim{User: "alice"})
		}
		if asked, now, _ := far.counts(); asked != 1 || now != looked {
			t.Errorf("requests asked the store %d and %d times", asked, now-looked)
		}
		far.set(nil)
		// A request that began before is settled before the next try.
		err = ledger.Settle(t.Context(), &billing.Record{ID: "r", User: "alice"}, nil)
		if _, _, settled := far.counts(); settled != 1 || err != nil {
			t.Errorf("settled %d records: %v", settled, err)
		}
		time.Sleep(2 * startRetry)
		synctest.Wait()
		if ledger, err = g.ledger(t.Context()); err != nil {
			t.Errorf("with the store back: %v", err)
		} else if _, ok := ledger.(*undeclared); ok {
			t.Error("with the store back its ledger is not asked")
		}
		if got, err := ledger.Balance(t.Context(), "alice"); got.Amount != 1 || err != nil {
			t.Errorf("alice has %+v, %v", got, err)
		}
		if standing := g.runtime.state.Standing(scheduler.AccountPlace("main")); standing.Credential == "" {
			t.Error("the state was not told of the credential")
		}
		asked, _, _ := far.counts()
		time.Sleep(time.Minute)
		if now, _, _ := far.counts(); now != asked {
			t.Error("the store is told again and again")
		}
	})
}

func TestRefusingUntilTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, far := farGateway(t, true)
		for range 3 {
			if _, err := g.ledger(t.Context()); !errors.Is(err, scheduler.ErrUnavailable) || !errors.Is(err, errDown) {
				t.Fatalf("error %v", err)
			}
		}
		if asked, _, _ := far.counts(); asked != 1 {
			t.Errorf("requests asked the store %d times", asked)
		}
		far.set(nil)
		time.Sleep(2 * startRetry)
		synctest.Wait()
		if _, err := g.ledger(t.Context()); err != nil {
			t.Errorf("with the store back: %v", err)
		}
	})
}

func TestConfigThatIsOverTellsTheStoreNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, far := farGateway(t, false)
		if _, err := g.ledger(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.start.giveUp()
		far.set(nil)
		time.Sleep(time.Minute)
		if asked, _, _ := far.counts(); asked != 1 {
			t.Error("the users of an old config were declared")
		}
	})
}

func TestWrongKeyOfAStoreThatIsBackIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, far := farGateway(t, true)
		mustOpen(t, filePlace(far.dir), keyOf(1))
		g.encryptionKey = keyOf(2)
		if _, err := g.ledger(t.Context()); !errors.Is(err, errWrongKey) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAnswerWhileTheStoreIsOutOfReach(t *testing.T) {
	g, _ := farGateway(t, true)
	w := httptest.NewRecorder()
	x := newExchange(g, w, httptest.NewRequest(http.MethodGet, "/v1/usage", nil), "/v1/usage", "")
	defer x.end()
	x.key = &key{user: &user{name: "alice"}}
	x.usage()
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("X-Should-Retry") != "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestAStoreThatForgotItsUsersIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, far := farGateway(t, false)
		far.set(nil)
		ledger, err := g.ledger(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for name, use := range map[string]func() error{
			"balance": func() error { _, err := ledger.Balance(t.Context(), "alice"); return err },
			"hold": func() error {
				_, err := ledger.Hold(t.Context(), &billing.Claim{ID: "r", User: "alice"})
				return err
			},
			"hold ahead": func() error {
				claim := &billing.Claim{ID: "r", User: "alice"}
				ctx, ahead := ledger.(aheadLedger).HoldAhead(t.Context(), claim)
				_, answered, err := ahead()
				if !answered {
					_, err = ledger.Hold(ctx, claim)
				}
				return err
			},
			"settle": func() error { return ledger.Settle(t.Context(), &billing.Record{ID: "r", User: "alice"}, nil) },
		} {
			time.Sleep(time.Minute)
			far.forget()
			before, _, _ := far.counts()
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					if err := use(); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			all.Wait()
			if asked, _, _ := far.counts(); asked != before+1 {
				t.Errorf("%s: the store was told %d times", name, asked-before)
			}
		}
		if _, err := ledger.Balance(t.Context(), "eve"); !errors.Is(err, billing.ErrUnknownUser) {
			t.Errorf("a user whom nobody knows: %v", err)
		}
	})
}
