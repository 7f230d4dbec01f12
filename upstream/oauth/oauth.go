// Package oauth keeps the access tokens of oauth accounts fresh.
//
// A refresh spends the refresh token and hands out a new one, so it must happen
// once, and what it brought must not be lost: one refresh at a time per account,
// over all processes of a store, on a goroutine that no client's departure
// ends, and the new tokens are in the store before anyone uses them.
package oauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// Store keeps one small document for each credential, by name: letters, digits
// and what account names are made of, in all at most 128 bytes.
type Store interface {
	// Load returns a document; nil, nil if there is none.
	Load(ctx context.Context, name string) ([]byte, error)
	// Save replaces a document. When it returns nil the document survives
	// whatever happens to the process.
	Save(ctx context.Context, name string, document []byte) error
}

// Locker excludes all others that share the Store. See scheduler.State.Lock.
type Locker interface {
	Lock(ctx context.Context, name string, ttl time.Duration) (unlock func(), err error)
}

// Config is what Tokens work with. All fields are required.
type Config struct {
	Store  Store
	Locker Locker
	// Transport carries an account's requests to its token endpoint.
	Transport func(*upstream.Account) http.RoundTripper
	// Accounts are those that Run looks after, asked again for every round.
	Accounts func() []*upstream.Account
	// Refused is told of a refresh token that the endpoint refused, for good, and
	// why. It must not call Tokens.
	Refused func(account *upstream.Account, reason string)
	Logger  *slog.Logger
}

const (
	// askTimeout bounds one request to a token endpoint.
	askTimeout = 30 * time.Second
	// refreshTimeout bounds a refresh, with its waiting for the lock.
	refreshTimeout = 45 * time.Second
	// saveTimeout bounds the saving of new tokens.
	saveTimeout = 10 * time.Second
	// lockTTL is more than a holder needs: askTimeout and saveTimeout.
	lockTTL = time.Minute
	// closeGrace is how long Close waits for refreshes under way: ending one that
	// was sent would lose the new tokens.
	closeGrace = 5 * time.Second
	// refusalLasts is how long the endpoint isn't asked again about a refresh
	// token that it refused: requests that were under way find out by the first.
	refusalLasts = 10 * time.Second
)

// ErrClosed is what Refresh fails with after Close.
var ErrClosed = errors.New("token refresh is closed")

// RefusedError says that the token endpoint refused the refresh token. Only the
// operator can mend that.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "the refresh token was refused: " + e.Reason }

// token is an access token and what refreshes it, as the Store keeps it.
type token struct {
	Access  string    `json:"access_token"`
	Refresh string    `json:"refresh_token"`
	Expires time.Time `json:"expires_at,omitzero"` // zero = not known
}

func (t *token) expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// key is a credential as a config has it. Accounts of different configs with
// one key share their tokens; another key starts from the config's own.
type key struct{ account, access, refresh string }

func keyOf(a *upstream.Account) key { return key{a.Name, a.Secret, a.Refresh.Token} }

// document names the key's tokens in the Store. Tokens of a credential that the
// config no longer has are not overwritten: the config may be rolled back.
func (k key) document() string { return k.account + "." + upstream.Digest(k.access, k.refresh)[:32] }

// entry is what is known of one credential.
type entry struct {
	// current is the token in force; nil = the Store was not asked yet.
	current atomic.Pointer[token]

	mu     sync.Mutex
	flight *flight // the refresh under way
	// unsaved is a new token that the Store did not take: the refresh token
	// before it is spent, so it must not be lost, nor used before it is stored.
	unsaved *token
	refused refusal
}

// refusal is what the endpoint said last of a refresh token that it refused. The
// zero refusal is none.
type refusal struct {
	refresh string
	at      time.Time
	err     error
}

// flight is a refresh under way. The result may be read once done is closed.
type flight struct {
	done   chan struct{}
	access string
	err    error
}

// Tokens are the access tokens of the accounts of one store. Make one with New.
type Tokens struct {
	config Config
	// ctx ends the refreshes that Close no longer waits for.
	ctx    context.Context
	cancel context.CancelFunc

	entries atomic.Pointer[map[key]*entry] // replaced, never changed
	mu      sync.Mutex                     // for replacing entries, and for closed
	closed  bool
	flights sync.WaitGroup
}

// New returns Tokens that must be closed.
func New(config Config) *Tokens {
	t := &Tokens{config: config}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.entries.Store(&map[key]*entry{})
	return t
}

// Close lets refreshes under way come to their end, for at most 5 s.
func (t *Tokens) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	timer := time.AfterFunc(closeGrace, t.cancel)
	defer timer.Stop()
	t.flights.Wait()
	t.cancel()
}

// Access returns the account's access token: the one in force, refreshed first
// where it is known to have expired. It does not wait while the token works.
func (t *Tokens) Access(ctx context.Context, account *upstream.Account) (string, error) {
	if account.Refresh == nil {
		return account.Secret, nil
	}
	current, err := t.current(ctx, account)
	switch {
	case err != nil:
		return "", err
	case current.expired(time.Now()):
		return t.Refresh(ctx, account, current.Access)
	}
	return current.Access, nil
}

// Refresh returns another access token than the one that was used and refused.
// If someone has refreshed it meanwhile it asks nobody. The account must have a
// Refresh. A *RefusedError is final; other errors say nothing of the account.
func (t *Tokens) Refresh(ctx context.Context, account *upstream.Account, used string) (string, error) {
	if _, err := t.current(ctx, account); err != nil { // the store's token is known from here on
		return "", err
	}
	e := t.entry(account)
	e.mu.Lock()
	current := e.current.Load()
	if current.Access != used {
		e.mu.Unlock()
		return current.Access, nil
	}
	if no := e.refused; no.refresh == current.Refresh && time.Since(no.at) < refusalLasts {
		e.mu.Unlock()
		return "", no.err
	}
	f := e.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		if !t.start(func() { t.fly(account, e, f, current) }) {
			e.mu.Unlock()
			return "", ErrClosed
		}
		e.flight = f
	}
	e.mu.Unlock()
	select {
	case <-f.done:
		return f.access, f.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// start runs f on a goroutine that Close waits for; false after Close.
func (t *Tokens) start(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.flights.Go(f)
	return true
}

func (t *Tokens) entry(account *upstream.Account) *entry {
	k := keyOf(account)
	if e := (*t.entries.Load())[k]; e != nil {
		return e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.entries.Load()
	if e := known[k]; e != nil {
		return e
	}
	e := new(entry)
	more := maps.Clone(known)
	more[k] = e
	t.entries.Store(&more)
	return e
}

// current is the token in force. The first time it comes from the Store, or
// where that has none, from the config.
func (t *Tokens) current(ctx context.Context, account *upstream.Account) (*token, error) {
	e := t.entry(account)
	if current := e.current.Load(); current != nil {
		return current, nil
	}
	stored, err := t.load(ctx, account)
	if err != nil {
		return nil, err
	}
	if stored == nil {
		stored = &token{Access: account.Secret, Refresh: account.Refresh.Token, Expires: account.Refresh.ExpiresAt}
	}
	// Whoever was first is right: a refresh may have come between.
	e.current.CompareAndSwap(nil, stored)
	return e.current.Load(), nil
}

// fly refreshes a token in the account's name. The result is in force before
// the flight counts as over, so that no second one starts for the same token.
func (t *Tokens) fly(account *upstream.Account, e *entry, f *flight, used *token) {
	fresh, err := t.refresh(account, e, used)
	var refused *RefusedError
	if errors.As(err, &refused) {
		t.config.Refused(account, refused.Error())
	}
	e.mu.Lock()
	if err == nil {
		e.current.Store(fresh)
		e.refused = refusal{}
		f.access = fresh.Access
	} else if refused != nil {
		e.refused = refusal{used.Refresh, time.Now(), err}
	}
	f.err = err
	e.flight = nil
	e.mu.Unlock()
	close(f.done)
}

func (t *Tokens) refresh(account *upstream.Account, e *entry, used *token) (*token, error) {
	ctx, cancel := context.WithTimeout(t.ctx, refreshTimeout)
	defer cancel()
	unlock, err := t.config.Locker.Lock(ctx, "oauth/"+account.Name, lockTTL)
	if err != nil {
		return nil, fmt.Errorf("waiting for the refresh of account %s elsewhere: %w", account.Name, err)
	}
	defer unlock()
	stored, err := t.load(ctx, account)
	if err != nil {
		return nil, err
	}
	if stored != nil && stored.Access != used.Access {
		return stored, nil // another process was first
	}
	// This goroutine alone touches unsaved: there is one flight at a time.
	if fresh := e.unsaved; fresh != nil {
		return fresh, t.save(account, e, fresh)
	}
	fresh, err := t.ask(ctx, account, used)
	var refused *RefusedError
	if errors.As(err, &refused) {
		// A lock that timed out lets two in: if the other one spent the token,
		// its result is in the store.
		if stored, loadErr := t.load(ctx, account); loadErr == nil && stored != nil && stored.Refresh != used.Refresh {
			return stored, nil
		}
	}
	if err != nil {
		return nil, err
	}
	t.config.Logger.Info("access token refreshed", "account", account.Name, "expires_at", fresh.Expires)
	return fresh, t.save(account, e, fresh)
}
