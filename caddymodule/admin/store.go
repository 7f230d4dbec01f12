package admin

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
)

// adminStore is a store and the configs in force that use it.
type adminStore struct {
	*gateway.Runtime
	ledger  billing.Ledger
	configs []*gateway.Gateway // the newest first; never empty
}

// choose finds the store that a call names, by its text or a part of it, or the
// only one.
func (a *API) choose(named string) (*gateway.Runtime, error) {
	all := a.Runtimes()
	pooled := len(all)
	all = slices.DeleteFunc(all, func(rt *gateway.Runtime) bool { return len(rt.Watched()) == 0 })
	begins := pooled > len(all) || a.Starting != nil && a.Starting()
	shared := map[string]int{}
	for _, rt := range all {
		shared[rt.Storage.String()]++
	}
	byText := map[string]*gateway.Runtime{}
	for _, rt := range all {
		text := rt.Storage.String()
		if shared[text] > 1 { // databases of one server
			text += " " + rt.Key
		}
		byText[text] = rt
	}
	if rt := byText[named]; rt != nil {
		return rt, nil
	}
	if begins { // which stores there are is not known yet
		return nil, refuse(http.StatusServiceUnavailable, "a config is being started, and its stores opened; try again in a moment")
	}
	if len(byText) == 0 {
		return nil, refuse(http.StatusNotFound, "the config that runs has no sub2api handler, so there are no accounts, users, keys and records")
	}
	texts := slices.Sorted(maps.Keys(byText))
	meant := slices.DeleteFunc(slices.Clone(texts), func(text string) bool { return !strings.Contains(text, named) })
	if len(meant) == 1 {
		return byText[meant[0]], nil
	}
	stores := strings.Join(texts, ", ")
	switch {
	case named == "":
		return nil, refuse(http.StatusBadRequest, "the config has several stores; name one as store, in full or in part: %s", stores)
	case len(meant) == 0:
		return nil, refuse(http.StatusBadRequest, "store: %.80q is none of the config's; there are: %s", named, stores)
	}
	return nil, refuse(http.StatusBadRequest, "store: %.80q is several of the config's; write more of one: %s", named, stores)
}

func openAdminStore(ctx context.Context, rt *gateway.Runtime) (*adminStore, error) {
	configs := rt.Watched()
	if len(configs) == 0 {
		return nil, refuse(http.StatusNotFound, "store %s: the config that runs has it no longer", rt.Storage)
	}
	slices.Reverse(configs)
	ledger, err := configs[0].Ledger(ctx)
	if err != nil {
		return nil, err
	}
	return &adminStore{rt, ledger, configs}, nil
}

// declared returns a user of the config, or nil.
func (s *adminStore) declared(name string) *gateway.User {
	for _, config := range s.configs {
		if u := config.Config.Users[name]; u != nil {
			return u
		}
	}
	return nil
}

// declaredSubscriptions are those that the config makes, by group.
func (s *adminStore) declaredSubscriptions(user string) map[string]time.Time {
	all := map[string]time.Time{}
	for _, config := range slices.Backward(s.configs) {
		if u := config.Config.Users[user]; u != nil {
			for group, until := range u.Subscriptions {
				all[group] = until
			}
		}
	}
	return all
}

// declaredKeys are the keys of a user of the config, or of all for "", in order
// of their ids.
func (s *adminStore) declaredKeys(user string) (all []*gateway.Key) {
	for _, config := range s.configs {
		for _, k := range config.Config.Keys {
			if user != "" && k.User.Name != user || slices.ContainsFunc(all, func(other *gateway.Key) bool { return other.ID == k.ID }) {
				continue
			}
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b *gateway.Key) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// group returns a group of the config, or nil.
func (s *adminStore) group(name string) *gateway.Group {
	for _, config := range s.configs {
		if g := config.Config.Groups[name]; g != nil {
			return g
		}
	}
	return nil
}

// groupList lists the groups that suit, for an error.
func (s *adminStore) groupList(suits func(*gateway.Group) bool) string {
	var names []string
	for _, config := range s.configs {
		for name, g := range config.Config.Groups {
			if suits(g) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return config.NameList(names, func(name string) string { return name })
}

// profile returns a user whom the config declares or an operator added.
func (s *adminStore) profile(ctx context.Context, name string) (billing.Profile, error) {
	profile, err := s.ledger.User(ctx, name)
	if errors.Is(err, billing.ErrUnknownUser) || err == nil && !s.lists(profile) {
		return billing.Profile{}, refuse(http.StatusNotFound, "there is no user %.80q", name)
	}
	return profile, err
}

// profiles returns all of them.
func (s *adminStore) profiles(ctx context.Context) ([]billing.Profile, error) {
	all, err := s.ledger.Users(ctx)
	return slices.DeleteFunc(all, func(p billing.Profile) bool { return !s.lists(p) }), err
}

// lists: a user whom some config declared is there as long as one does.
func (s *adminStore) lists(p billing.Profile) bool {
	return p.Source == billing.SourceAPI || s.declared(p.Name) != nil
}
