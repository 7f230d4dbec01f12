package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/oauth"
)

// newTokens makes the runtime's access tokens. They are read from the store, so
// it must be open before they are used.
func (rt *runtime) newTokens() *oauth.Tokens {
	return oauth.New(oauth.Config{
		Store:     tokenStore{&rt.store},
		Locker:    rt.state,
		Transport: rt.transports.For,
		Accounts:  rt.accounts,
		Refused:   rt.refused,
		Logger:    slog.New(&rt.logs),
	})
}

// keepTokensFresh starts the refresh in the background, once. The state must know
// the config's credentials by then: a refusal is about one of them.
func (rt *runtime) keepTokensFresh() {
	rt.refreshing.Do(func() { rt.background.Go(func() { rt.tokens.Run(rt.ctx) }) })
}

// watch has the accounts of a config that has started looked after, until
// unwatch.
func (rt *runtime) watch(g *gateway) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if !slices.Contains(rt.gateways, g) {
		rt.gateways = append(rt.gateways, g)
	}
}

func (rt *runtime) unwatch(g *gateway) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.gateways = slices.DeleteFunc(rt.gateways, func(other *gateway) bool { return other == g })
}

func (rt *runtime) watched() []*gateway {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return slices.Clone(rt.gateways)
}

// accounts are those of the configs in force that are not in error: a refresh
// token may be what was refused.
func (rt *runtime) accounts() (all []*upstream.Account) {
	for _, g := range rt.watched() {
		for _, account := range g.accounts {
			if standing := rt.state.Standing(scheduler.AccountPlace(account.Name)); standing.Error == "" {
				all = append(all, account)
			}
		}
	}
	return all
}

// refused puts an account whose refresh token was refused in error, unless its
// credential is no longer in any config.
func (rt *runtime) refused(account *upstream.Account, reason string) {
	for _, g := range rt.watched() {
		if !slices.ContainsFunc(g.accounts, func(a *upstream.Account) bool {
			return a.Name == account.Name && a.Fingerprint() == account.Fingerprint()
		}) {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		_, err := g.scheduler.Report(ctx, account.Name, scheduler.Outcome{Kind: scheduler.Unauthorized, Reason: reason})
		cancel()
		if err != nil {
			g.logger.Error("an account's state could not be kept", "account", account.Name, "error", err)
		}
		return
	}
}

var errNotOpen = errors.New("the store is not open")

// tokenStore keeps tokens as documents of the store, which is locked meanwhile:
// a change of the key seals them anew.
type tokenStore struct{ *store }

// Load implements oauth.Store.
func (s tokenStore) Load(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.documents == nil {
		return nil, errNotOpen
	}
	return s.documents.load(tokenDocuments, name)
}

// Save implements oauth.Store.
func (s tokenStore) Save(_ context.Context, name string, document []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.documents == nil {
		return errNotOpen
	}
	return s.documents.save(tokenDocuments, name, document)
}

// keepIdentities reads the accounts' identities from the store, and keeps them
// there from here on.
func (rt *runtime) keepIdentities(d *documents) error {
	names, err := d.names(identityDocuments)
	if err != nil {
		return err
	}
	logger := slog.New(&rt.logs)
	for _, name := range names {
		content, err := d.load(identityDocuments, name)
		if err == nil {
			err = rt.identities.Restore(name, content)
		}
		if err != nil {
			logger.Error("an account's identity can't be read; it gets another", "file", d.path(identityDocuments, name), "error", err)
		}
	}
	rt.identities.Keep(func(account string, identity []byte) {
		if err := d.save(identityDocuments, account, identity); err != nil {
			logger.Error("an account's identity could not be stored", "file", d.path(identityDocuments, account), "error", err)
		}
	})
	return nil
}

// standingKeeper keeps account standings as documents of the store.
type standingKeeper struct {
	*documents
	logger *slog.Logger
}

// Load implements memstate.Keeper. A document that can't be read is an account
// of which nothing is known.
func (k standingKeeper) Load() (map[string]scheduler.Standing, error) {
	names, err := k.names(standingDocuments)
	if err != nil {
		return nil, err
	}
	all := make(map[string]scheduler.Standing, len(names))
	for _, name := range names {
		var standing scheduler.Standing
		content, err := k.load(standingDocuments, name)
		if err == nil {
			err = json.Unmarshal(content, &standing)
		}
		if err != nil {
			k.logger.Error("an account's state can't be read; it begins anew", "file", k.path(standingDocuments, name), "error", err)
			continue
		}
		all[name] = standing
	}
	return all, nil
}

// Save implements memstate.Keeper.
func (k standingKeeper) Save(place string, standing scheduler.Standing) {
	content, err := json.Marshal(standing)
	if err == nil {
		err = k.save(standingDocuments, place, content)
	}
	if err != nil {
		k.logger.Error("an account's state could not be stored; it is lost if the process ends before its next change",
			"file", k.path(standingDocuments, place), "error", err)
	}
}
