package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/oauth"
)

// newTokens makes the runtime's access tokens. They are read from the store, so
// it must be open before they are used.
func (rt *Runtime) newTokens() *oauth.Tokens {
	return oauth.New(oauth.Config{
		Store:     tokenStore{rt.store},
		Locker:    rt.State,
		Transport: rt.transports.For,
		Accounts:  rt.accounts,
		Refused:   rt.refused,
		Logger:    slog.New(&rt.Logs),
	})
}

// workInBackground starts the refresh of tokens, the exchange of identities and
// the deletion of old records, once. The state must know the config's credentials
// by then: a refused token is about one of them.
func (rt *Runtime) workInBackground() {
	rt.looking.Do(func() {
		rt.background.Go(func() { rt.tokens.Run(rt.Context) })
		rt.background.Go(func() { rt.identities.Run(rt.Context) })
		rt.background.Go(func() { rt.forgetOldRecords(rt.Context) })
		rt.background.Go(func() { rt.questions.lookAfterErrors(rt.Context) })
	})
}

// watch has the accounts of a config that has started looked after, until
// unwatch.
func (rt *Runtime) watch(g *Gateway) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if !slices.Contains(rt.gateways, g) {
		rt.gateways = append(rt.gateways, g)
	}
}

func (rt *Runtime) unwatch(g *Gateway) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.gateways = slices.DeleteFunc(rt.gateways, func(other *Gateway) bool { return other == g })
}

func (rt *Runtime) Watched() []*Gateway {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return slices.Clone(rt.gateways)
}

// accounts are those of the configs in force that are not in error: a refresh
// token may be what was refused.
func (rt *Runtime) accounts() (all []*upstream.Account) {
	for _, g := range rt.Watched() {
		for _, account := range g.Config.Accounts {
			if accountState := rt.State.AccountState(scheduler.AccountPlace(account.Name)); accountState.Error == "" {
				all = append(all, account)
			}
		}
	}
	return all
}

// refused puts an account whose refresh token was refused in error, unless its
// credential is no longer in any config.
func (rt *Runtime) refused(account *upstream.Account, reason string) {
	for _, g := range rt.Watched() {
		if !slices.ContainsFunc(g.Config.Accounts, func(a *upstream.Account) bool {
			return a.Name == account.Name && a.Fingerprint() == account.Fingerprint()
		}) {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		err := g.Scheduler.Fail(ctx, account.Name, reason, true)
		cancel()
		if err != nil {
			g.logger.Error("an account's state could not be kept", "account", account.Name, "error", err)
		}
		return
	}
}

// errTokenStore says that it is not the account's fault that it has no token.
var errTokenStore = errors.New("the store of access tokens failed")

// tokenStore keeps tokens as documents of the store.
type tokenStore struct{ *store.Store }

// Load implements oauth.Store.
func (s tokenStore) Load(ctx context.Context, name string) (document []byte, err error) {
	err = s.Use(func(d store.Documents) (err error) {
		document, err = d.Load(ctx, store.TokenDocuments, name)
		return err
	})
	if err != nil {
		err = fmt.Errorf("%w: %w", errTokenStore, err)
	}
	return document, err
}

// Save implements oauth.Store.
func (s tokenStore) Save(ctx context.Context, name string, document []byte) error {
	err := s.Use(func(d store.Documents) error { return d.Save(ctx, store.TokenDocuments, name, document) })
	if err != nil {
		err = fmt.Errorf("%w: %w", errTokenStore, err)
	}
	return err
}

// identityStore keeps the accounts' identities as documents of the store.
type identityStore struct {
	*store.Store
	logger *slog.Logger
}

// Change implements anthropic.IdentityStore. It logs what fails.
func (s identityStore) Change(ctx context.Context, account string, f func([]byte) []byte) error {
	var where string
	err := s.Use(func(d store.Documents) error {
		where = d.Where(store.IdentityDocuments, account)
		return d.Change(ctx, store.IdentityDocuments, account, func(old []byte) []byte {
			if old != nil && !json.Valid(old) {
				s.logger.Error("an account's identity can't be read; it gets another", "document", where)
			}
			return f(old)
		})
	})
	if err != nil && !errors.Is(err, store.ErrNotOpen) {
		s.logger.Error("an account's identity could not be stored; it is tried again", "document", where, "error", err)
	}
	return err
}
