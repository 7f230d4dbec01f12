// Package admintest is a store in memory, and the admin API over it, for tests.
package admintest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// Ledger is a billing.Ledger in memory, as far as the admin API needs one. It
// is for one goroutine.
type Ledger struct {
	billing.Ledger
	UserMap    map[string]*billing.Profile
	credited   map[string]bool // by user and id
	WindowMap  map[string]billing.Windows
	KeyMap     []billing.Key
	RecordList []billing.Record
	Fail       error
}

func NewLedger() *Ledger {
	return &Ledger{UserMap: map[string]*billing.Profile{}, credited: map[string]bool{}, WindowMap: map[string]billing.Windows{}}
}

func (l *Ledger) Declare(_ context.Context, users []billing.User) error {
	for _, u := range users {
		if l.UserMap[u.Name] == nil {
			l.UserMap[u.Name] = &billing.Profile{Name: u.Name, Balance: billing.Balance{Amount: u.Balance}}
		}
		if l.UserMap[u.Name].Source == "" {
			l.UserMap[u.Name].Source = billing.SourceConfig
		}
	}
	return l.Fail
}

func (l *Ledger) AddUser(_ context.Context, user billing.User) error {
	if p := l.UserMap[user.Name]; p != nil && p.Source == billing.SourceAPI {
		return fmt.Errorf("adding %q: %w", user.Name, billing.ErrUserExists)
	}
	l.UserMap[user.Name] = &billing.Profile{
		Name: user.Name, Source: billing.SourceAPI, Balance: billing.Balance{Amount: user.Balance}, Concurrency: user.Concurrency,
	}
	return l.Fail
}

func (l *Ledger) known(name string) (*billing.Profile, error) {
	if p := l.UserMap[name]; p != nil {
		return p, l.Fail
	}
	return nil, fmt.Errorf("looking for %q: %w", name, billing.ErrUnknownUser)
}

func (l *Ledger) ChangeUser(_ context.Context, name string, change billing.UserChange) error {
	p, err := l.known(name)
	if err != nil {
		return err
	}
	if change.Concurrency != nil {
		p.Concurrency = *change.Concurrency
	}
	if change.Disabled != nil {
		p.Disabled = *change.Disabled
	}
	return nil
}

func (l *Ledger) RemoveUser(_ context.Context, name string) error {
	if _, err := l.known(name); err != nil {
		return err
	}
	delete(l.UserMap, name)
	l.KeyMap = slices.DeleteFunc(l.KeyMap, func(k billing.Key) bool { return k.User == name })
	return nil
}

func (l *Ledger) User(_ context.Context, name string) (billing.Profile, error) {
	p, err := l.known(name)
	if err != nil {
		return billing.Profile{}, err
	}
	return *p, nil
}

func (l *Ledger) Users(context.Context) ([]billing.Profile, error) {
	var all []billing.Profile
	for _, name := range slices.Sorted(maps.Keys(l.UserMap)) {
		all = append(all, *l.UserMap[name])
	}
	return all, l.Fail
}

func (l *Ledger) Credit(_ context.Context, user string, credit billing.Credit) (billing.Balance, bool, error) {
	p, err := l.known(user)
	if err != nil {
		return billing.Balance{}, false, err
	}
	id := user + " " + credit.ID
	if l.credited[id] || credit.ID == "" {
		return p.Balance, false, nil
	}
	l.credited[id] = true
	p.Balance.Amount += credit.Amount
	return p.Balance, true, nil
}

func (l *Ledger) AddKey(_ context.Context, key billing.Key) error {
	l.KeyMap = append(l.KeyMap, key)
	return l.Fail
}

func (l *Ledger) RevokeKey(_ context.Context, id string) error {
	n := len(l.KeyMap)
	if l.KeyMap = slices.DeleteFunc(l.KeyMap, func(k billing.Key) bool { return k.ID == id }); len(l.KeyMap) == n {
		return fmt.Errorf("revoking %q: %w", id, billing.ErrUnknownKey)
	}
	return nil
}

func (l *Ledger) Keys(_ context.Context, user string) (found []billing.Key, err error) {
	for _, k := range l.KeyMap {
		if user == "" || k.User == user {
			found = append(found, k)
		}
	}
	return found, l.Fail
}

func (l *Ledger) Subscription(_ context.Context, user, group string) (billing.Subscription, error) {
	s := billing.Subscription{Group: group}
	for _, made := range l.UserMap[user].Subscriptions {
		if made.Group == group {
			s = made
		}
	}
	s.Windows = l.WindowMap[user+" "+group]
	return s, l.Fail
}

func (l *Ledger) Subscribe(ctx context.Context, user, group string, until time.Time) error {
	_ = l.Unsubscribe(ctx, user, group)
	p := l.UserMap[user]
	p.Subscriptions = append(p.Subscriptions, billing.Subscription{Group: group, Subscribed: true, Until: until})
	return l.Fail
}

func (l *Ledger) Unsubscribe(_ context.Context, user, group string) error {
	p := l.UserMap[user]
	n := len(p.Subscriptions)
	p.Subscriptions = slices.DeleteFunc(p.Subscriptions, func(s billing.Subscription) bool { return s.Group == group })
	if len(p.Subscriptions) == n {
		return fmt.Errorf("unsubscribing: %w", billing.ErrNotSubscribed)
	}
	return nil
}

func (l *Ledger) Record(_ context.Context, id string) (*billing.Record, error) {
	for i := range l.RecordList {
		if l.RecordList[i].ID == id {
			return &l.RecordList[i], nil
		}
	}
	return nil, fmt.Errorf("looking for %q: %w", id, billing.ErrUnknownRecord)
}

func (l *Ledger) Records(ctx context.Context, filter billing.RecordFilter, yield func(*billing.Record) bool) error {
	n := 0
	for i := range l.RecordList {
		r := &l.RecordList[i]
		if filter.User != "" && r.User != filter.User || filter.After != nil && !r.Time.Before(filter.After.Time) ||
			!filter.SettledFrom.IsZero() && r.Settled.Before(filter.SettledFrom) || !filter.SettledTo.IsZero() && !r.Settled.Before(filter.SettledTo) ||
			!filter.From.IsZero() && r.Time.Before(filter.From) || !filter.To.IsZero() && !r.Time.Before(filter.To) {
			continue
		}
		if n++; filter.Limit > 0 && n > filter.Limit || !yield(r) {
			return nil
		}
	}
	return l.Fail
}

func (l *Ledger) Usage(_ context.Context, filter billing.RecordFilter, by []billing.Dimension, yield func(*billing.UsageRow) bool) error {
	// What the API asked for, as a row.
	row := billing.UsageRow{
		User: filter.User, KeyID: filter.KeyID, Account: filter.Account, Group: filter.Group, Model: filter.Model,
		Requests: int64(len(by)), Input: filter.From.Unix(), Output: filter.To.Unix(), Cost: 1, Charged: 2,
	}
	yield(&row)
	return l.Fail
}

// fakeStore is a store, but for its ledger. Its documents are in dir.
type fakeStore struct {
	store.Config
	ledger billing.Ledger
	dir    string
}

func (s fakeStore) Backend(logger *slog.Logger) store.Backend {
	return fakeBackend{store.Embedded{Dir: s.dir}.Backend(logger), s.ledger}
}

type fakeBackend struct {
	store.Backend
	ledger billing.Ledger
}

func (b fakeBackend) Open(ctx context.Context, key store.EncryptionKey) (billing.Ledger, store.Documents, error) {
	d, err := b.Documents(ctx, key)
	return b.ledger, d, err
}

func (l *Ledger) Close() error { return nil }

// Runtime is the runtime of a store whose config has started.
func Runtime(t *testing.T, named store.Config, ledger billing.Ledger, config *gateway.Config) *gateway.Runtime {
	t.Helper()
	rt, g := Gateway(t, named, ledger, config)
	g.Begin(t.Context())
	return rt
}

// Gateway has not started.
func Gateway(t *testing.T, named store.Config, ledger billing.Ledger, config *gateway.Config) (*gateway.Runtime, *gateway.Gateway) {
	t.Helper()
	rt := gateway.AdoptRuntime(named.Key(), fakeStore{named, ledger, t.TempDir()}, gateway.Hooks{Exiting: func() bool { return true }})
	t.Cleanup(func() {
		select {
		case <-rt.Closed(): // by the test
		default:
			_ = rt.Destruct()
		}
	})
	return rt, Join(t, rt, config)
}

// Join is another config's gateway over a runtime.
func Join(t *testing.T, rt *gateway.Runtime, config *gateway.Config) *gateway.Gateway {
	t.Helper()
	g, err := gateway.New(config, rt, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

const Dollar billing.USD = 1_000_000_000

// Config has a user with a key and a subscription, and one without a limit.
func Config() *gateway.Config {
	pro := &gateway.Group{Name: "pro", Subscription: true, Limits: billing.Limits{10 * Dollar, 0, 150 * Dollar}}
	plain := &gateway.Group{Name: "default"}
	alice := &gateway.User{Name: "alice", Concurrency: 3, Subscriptions: map[string]time.Time{"pro": time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}}
	zoe := &gateway.User{Name: "zoé@example.com", Unlimited: true}
	return &gateway.Config{
		Zone:     time.UTC,
		Groups:   map[string]*gateway.Group{"default": plain, "pro": pro, "team": {Name: "team", Subscription: true, Limits: billing.Limits{0, 50 * Dollar, 0}}},
		Users:    map[string]*gateway.User{alice.Name: alice, zoe.Name: zoe},
		Declared: []billing.User{{Name: alice.Name, Balance: 20 * Dollar}, {Name: zoe.Name, Unlimited: true}},
		Keys:     map[[sha256.Size]byte]*gateway.Key{{1}: {ID: "0100aabbccdd", User: alice, Groups: []*gateway.Group{plain, pro}, Models: []string{"claude-*"}}},
	}
}

// Call sends a request as Caddy's admin endpoint does, and returns status and
// body: that of an error is its message.
func Call(t *testing.T, api *admin.API, method, target, body string) (int, string, http.Header) {
	t.Helper()
	recorder := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	err := api.Serve(recorder, request)
	if err == nil {
		return recorder.Code, recorder.Body.String(), recorder.Header()
	}
	refusal, ok := err.(*admin.Error)
	if !ok {
		t.Fatalf("%s %s: the error is a %T, of which Caddy makes a 500: %v", method, target, err, err)
	}
	if recorder.Body.Len() > 0 {
		t.Errorf("%s %s: an error after %q was written", method, target, recorder.Body)
	}
	return refusal.Status, refusal.Error(), recorder.Header()
}

// AccountConfig has an account of each type, with secrets wherever one can be.
func AccountConfig() *gateway.Config {
	config := Config()
	proxy := &url.URL{Scheme: "socks5", Host: "proxy:1080", User: url.UserPassword("u", Hidden)}
	config.Accounts = []*upstream.Account{
		{
			Name: "main", Platform: upstream.Anthropic, Secret: Hidden, Priority: 10, Concurrency: 2, Proxy: proxy,
			BaseURL: &url.URL{Scheme: "https", Host: "main.example"}, Header: []upstream.HeaderField{{Name: "X", Value: Hidden}},
			Models: upstream.ModelMap{{Match: "claude-sonnet-4-5", Upstream: "glm-4.6"}, {Match: "claude-haiku-*"}},
		},
		{Name: "max", Platform: upstream.Anthropic, Kind: upstream.OAuth, Secret: Hidden, Priority: 50, AccountUUID: Hidden,
			Refresh: &upstream.Refresh{Token: Hidden, ClientSecret: Hidden, ClientID: Hidden, TokenURL: "https://" + Hidden}},
		{Name: "team", Platform: upstream.Anthropic, Kind: upstream.SetupToken, Secret: Hidden, Disabled: true},
		{Name: "gem", Platform: upstream.Gemini, Secret: Hidden},
	}
	config.Scheduler = scheduler.Settings{
		Accounts: config.Accounts,
		Groups:   []scheduler.Group{{Name: "pro", Accounts: []string{"main", "team"}}, {Name: "default"}},
	}
	return config
}

func AccountAPI(t *testing.T) (*admin.API, *gateway.Runtime) {
	t.Helper()
	rt := Runtime(t, store.Embedded{Dir: "/store"}, NewLedger(), AccountConfig())
	return &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}, rt
}

func Stand(t *testing.T, rt *gateway.Runtime, account string, f func(*scheduler.AccountState)) {
	t.Helper()
	if _, err := rt.State.Change(t.Context(), scheduler.AccountPlace(account), f); err != nil {
		t.Fatal(err)
	}
}

const Hidden = "HIDDEN" // is in every secret of accountConfig

// Serving is the admin API over a ledger.
func Serving(t *testing.T, ledger billing.Ledger) *admin.API {
	rt := Runtime(t, store.Embedded{Dir: "/store"}, ledger, Config())
	return &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
}

// NewestFirst makes records of one minute each, the newest now.
func NewestFirst(n int) []billing.Record {
	now := time.Date(2026, 11, 25, 12, 0, 0, 5000, time.UTC)
	records := make([]billing.Record, n)
	for i := range records {
		records[i] = *ledgertest.Example(fmt.Sprint("r", i))
		records[i].Time = now.Add(-time.Duration(i) * time.Minute)
	}
	return records
}

// Endless yields rows that are all the same, and then fails.
type Endless struct {
	*Ledger
	RowCount int
	Each     func(i int)
}

func (l *Endless) Records(_ context.Context, _ billing.RecordFilter, yield func(*billing.Record) bool) error {
	record := ledgertest.Example("r")
	for i := range l.RowCount {
		if l.Each != nil {
			l.Each(i)
		}
		if !yield(record) {
			return nil
		}
	}
	return l.Fail
}

func (l *Endless) Usage(ctx context.Context, _ billing.RecordFilter, _ []billing.Dimension, yield func(*billing.UsageRow) bool) error {
	return l.Records(ctx, billing.RecordFilter{}, func(r *billing.Record) bool {
		return yield(&billing.UsageRow{User: r.User, Model: r.Model, Requests: 1, Cost: r.Cost})
	})
}
