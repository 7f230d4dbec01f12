package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// farStorage is a store in Redis, but for its ledger.
type farStorage struct {
	*store.Redis
	told *toldLedger
}

func (s farStorage) Backend(logger *slog.Logger) store.Backend {
	return farBackend{s.Redis.Backend(logger), s.told}
}

type farBackend struct {
	store.Backend
	told *toldLedger
}

func (b farBackend) Open(ctx context.Context, key store.EncryptionKey) (billing.Ledger, store.Documents, error) {
	d, err := b.Documents(ctx, key)
	return b.told, d, err
}

// toldLedger is one that declares when it can.
type toldLedger struct {
	billing.Ledger
	mu     sync.Mutex
	asked  int   // how often it was told to declare
	refuse error // what it says to that
}

func (l *toldLedger) Declare(context.Context, []billing.User) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	return l.refuse
}

func (l *toldLedger) times() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func (l *toldLedger) Close() error { return nil }

// log is a log that may be read while it is written.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *log) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

// far is a gateway over a store that is out of reach.
type far struct {
	*Gateway
	server *miniredis.Miniredis
	told   *toldLedger
	log    *log
}

// redisAt is the config of a store at an address.
func redisAt(t *testing.T, address string) *store.Redis {
	return &store.Redis{
		Network: "tcp", Addresses: []string{address}, Namespace: "sub2api", Timeout: time.Second, Spool: t.TempDir(),
		Keeping: store.Keeping{Zone: time.UTC},
	}
}

func farGateway(t *testing.T, refuse bool) far {
	t.Helper()
	server := miniredis.RunT(t)
	address := server.Addr()
	server.Close()
	f := far{server: server, told: &toldLedger{}, log: &log{}}
	storage := farStorage{redisAt(t, address), f.told}
	storage.Timeout, storage.Refuse = 200*time.Millisecond, refuse
	rt := AdoptRuntime(storage.Key(), storage, Hooks{})
	t.Cleanup(func() { rt.close() })
	logger := slog.New(slog.NewTextHandler(f.log, nil))
	rt.Logs.Set(logger)
	account := &upstream.Account{Name: "main", Platform: upstream.Anthropic}
	sched, err := scheduler.New(scheduler.Settings{Accounts: []*upstream.Account{account}}, rt.leases, logger)
	if err != nil {
		t.Fatal(err)
	}
	f.Gateway = &Gateway{
		Config:  &Config{Storage: storage, Declared: []billing.User{{Name: "alice", Balance: 20}}},
		runtime: rt, Scheduler: sched, logger: logger,
	}
	return f
}

func (f far) restart(t *testing.T) {
	t.Helper()
	if err := f.server.Restart(); err != nil {
		t.Fatal(err)
	}
}

// soon waits until a condition holds.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: " + what)
		}
	}
}

func (f far) credentialInRedis() bool {
	return strings.Contains(f.server.HGet("{sub2api}:standings", scheduler.AccountPlace("main")), `"credential"`)
}

func TestServingBeforeTheStoreIsBack(t *testing.T) {
	f := farGateway(t, false)
	for range 10 {
		if ledger, err := f.Ledger(t.Context()); err != nil || ledger != f.told {
			t.Fatalf("ledger %v, error %v", ledger, err)
		}
	}
	if accountState := f.runtime.State.AccountState(scheduler.AccountPlace("main")); accountState.Credential == "" {
		t.Error("this node does not go by the config's credential")
	}
	began := time.Now()
	if _, err := (tokenStore{f.runtime.store}).Load(t.Context(), "main"); !errors.Is(err, scheduler.ErrUnavailable) || time.Since(began) > 100*time.Millisecond {
		t.Errorf("a token: %v, after %v", err, time.Since(began))
	}
	f.restart(t)
	soon(t, "the store is told", func() bool { return f.registration.ready.Load() != nil && f.runtime.store.Down() == nil })
	if !f.credentialInRedis() {
		t.Error("the store was not told of the credential")
	}
	if n := f.told.times(); n != 1 {
		t.Errorf("the ledger was told %d times", n)
	}
	for line, want := range map[string]int{"Redis is out of reach": 1, "Redis is back": 1, "level=WARN": 0, "level=ERROR": 1, "served with this node's share": 1} {
		if n := f.log.count(line); n != want {
			t.Errorf("%d lines have %q, want %d:\n%s", n, line, want, &f.log.text)
		}
	}
}

func TestRefusingUntilTheStoreIsBack(t *testing.T) {
	f := farGateway(t, true)
	began := time.Now()
	for range 100 {
		if _, err := f.Ledger(t.Context()); !errors.Is(err, scheduler.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
			t.Fatalf("error %v", err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("100 requests waited %v for the store", took)
	}
	f.restart(t)
	soon(t, "the store is told", func() bool { return f.registration.ready.Load() != nil })
	if _, err := f.Ledger(t.Context()); err != nil || !f.credentialInRedis() {
		t.Errorf("with the store back: %v", err)
	}
	for line, want := range map[string]int{"Redis is out of reach": 1, "level=ERROR": 1, "requests are refused until it answers": 1} {
		if n := f.log.count(line); n != want {
			t.Errorf("%d lines have %q, want %d:\n%s", n, line, want, &f.log.text)
		}
	}
}

func TestConfigThatIsOverTellsTheStoreNothing(t *testing.T) {
	f := farGateway(t, false)
	if _, err := f.Ledger(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.registration.giveUp()
	f.restart(t)
	soon(t, "Redis is back", func() bool { return f.runtime.store.Down() == nil })
	if f.registration.ready.Load() != nil {
		t.Error("the store was told of an old config")
	}
}

// TestWrongKeyOfAStoreThatIsBack is no reason to take it to be out of reach, but is
// logged, and where requests are refused in an outage they are refused still.
func TestWrongKeyOfAStoreThatIsBack(t *testing.T) {
	for mode, served := range map[string]bool{"serve": true, "refuse": false} {
		t.Run(mode, func(t *testing.T) {
			f := farGateway(t, mode == "refuse")
			f.Config.EncryptionKey = bytes.Repeat([]byte{2}, 32)
			if _, err := f.Ledger(t.Context()); (err == nil) != served {
				t.Fatalf("before it is back: %v", err)
			}
			f.restart(t)
			d, err := redisAt(t, f.server.Addr()).Backend(slog.New(slog.DiscardHandler)).Documents(t.Context(), bytes.Repeat([]byte{1}, 32))
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Save(t.Context(), store.TokenDocuments, "main", []byte("SECRET")); err != nil {
				t.Fatal(err)
			}
			soon(t, "Redis is back", func() bool { return f.runtime.store.Down() == nil })
			for range 10 {
				if _, err := f.Ledger(t.Context()); (err == nil) != served || !served && !errors.Is(err, store.ErrWrongKey) {
					t.Errorf("error %v", err)
				}
			}
			if n := f.log.count(store.ErrWrongKey.Error()); n != 1 {
				t.Errorf("%d lines say so:\n%s", n, &f.log.text)
			}
			f.server.Del("{sub2api}:documents:key") // the operator has put it right
			f.server.Del("{sub2api}:documents:tokens")
			soon(t, "the key is the store's", func() bool {
				_, err := f.Ledger(t.Context())
				return err == nil && f.registration.ready.Load() != nil
			})
		})
	}
}

// TestAStoreThatRefusesTheConfig is tried again by requests, and not by each.
func TestAStoreThatRefusesTheConfig(t *testing.T) {
	f := farGateway(t, false)
	f.told.refuse = errors.New("a newer program wrote it")
	for range 10 {
		if _, err := f.Ledger(t.Context()); !errors.Is(err, f.told.refuse) {
			t.Fatalf("error %v", err)
		}
	}
	if n := f.told.times(); n != 1 {
		t.Errorf("10 requests told the store %d times", n)
	}
	if n := f.log.count(f.told.refuse.Error()); n != 1 {
		t.Errorf("%d lines say so:\n%s", n, &f.log.text)
	}
}

func TestAnswerWhileTheStoreIsOutOfReach(t *testing.T) {
	f := farGateway(t, true)
	w := httptest.NewRecorder()
	x := newExchange(f.Gateway, w, httptest.NewRequest(http.MethodGet, "/v1/usage", nil), "/v1/usage", "")
	defer x.end()
	x.key = &Key{User: &User{Name: "alice"}}
	x.conclude(x.usage())
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("X-Should-Retry") != "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}
