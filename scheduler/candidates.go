package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sub2api/caddy-sub2api/upstream"
)

const (
	accountPrefix = "account/"
	userPrefix    = "user/"

	// Models are the clients' words, so what is remembered of them is bounded.
	maxCachedSets = 1024
)

// AccountPlace is the place of an account in the State.
func AccountPlace(name string) string { return accountPrefix + name }

// UserPlace is the place of a user in the State.
func UserPlace(name string) string { return userPrefix + name }

// catalog knows which accounts may serve which requests, by config alone.
type catalog struct {
	accounts []*upstream.Account
	byPlace  map[string]*upstream.Account
	groups   map[string]*Group
	open     bool // groups choose the platform alone

	mu      sync.RWMutex
	byGroup map[membersKey]*members
	sets    map[setKey]*Candidates
	// interned holds the sets by their members: there are as many as the config
	// can tell apart, whatever models clients name.
	interned map[string]*Candidates
}

type membersKey struct {
	group string
	force upstream.Platform
}

type setKey struct {
	membersKey
	model string
}

// members are the candidates of a group, of any model.
type members struct {
	pool    string
	members []int // of catalog.accounts
	bearer  bool
	models  []string
}

func newCatalog(s *Settings) (*catalog, error) {
	c := &catalog{
		accounts: s.Accounts,
		byPlace:  make(map[string]*upstream.Account, len(s.Accounts)),
		groups:   make(map[string]*Group, len(s.Groups)),
		open:     s.GroupsDontLimit,
		byGroup:  map[membersKey]*members{},
		sets:     map[setKey]*Candidates{},
		interned: map[string]*Candidates{},
	}
	for _, a := range s.Accounts {
		place := AccountPlace(a.Name)
		if c.byPlace[place] != nil {
			return nil, fmt.Errorf("account %q is defined twice", a.Name)
		}
		c.byPlace[place] = a
	}
	for i := range s.Groups {
		g := &s.Groups[i]
		if g.Name == "" || c.groups[g.Name] != nil {
			return nil, fmt.Errorf("group %q is defined twice or has no name", g.Name)
		}
		for _, name := range g.Accounts {
			if c.byPlace[AccountPlace(name)] == nil {
				return nil, fmt.Errorf("group %q names account %q, which does not exist", g.Name, name)
			}
		}
		c.groups[g.Name] = g
	}
	return c, nil
}

// candidates returns the accounts that serve the model for the group; nil if
// there are none.
func (c *catalog) candidates(group string, force upstream.Platform, model string) *Candidates {
	key := setKey{membersKey{group, force}, model}
	c.mu.RLock()
	set, known := c.sets[key]
	c.mu.RUnlock()
	if known {
		return set
	}
	members := c.members(group, force)
	if members == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	set = c.intern(members, model)
	if len(model) <= maxModelName {
		if len(c.sets) >= maxCachedSets {
			clear(c.sets)
		}
		c.sets[key] = set
	}
	return set
}

// intern makes the set of the members that serve the model, or finds the
// same one.
func (c *catalog) intern(r *members, model string) *Candidates {
	bits := make([]byte, (len(c.accounts)+7)/8)
	n := 0
	for _, i := range r.members {
		if c.accounts[i].Serves(model) {
			bits[i/8] |= 1 << (i % 8)
			n++
		}
	}
	if n == 0 {
		return nil
	}
	id := r.pool + "\x00" + string(bits)
	if set := c.interned[id]; set != nil {
		return set
	}
	set := &Candidates{Pool: r.pool, Places: make([]Place, 0, n)}
	for _, i := range r.members {
		if bits[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		a := c.accounts[i]
		set.Places = append(set.Places, Place{
			Name:        AccountPlace(a.Name),
			Limit:       a.Concurrency,
			Priority:    a.Priority,
			UnusedFirst: a.Platform == upstream.Gemini && a.Kind == upstream.OAuth,
		})
	}
	c.interned[id] = set
	return set
}

// members returns a group's candidates, nil for a group that does not exist.
func (c *catalog) members(group string, force upstream.Platform) *members {
	key := membersKey{group, force}
	c.mu.RLock()
	r := c.byGroup[key]
	c.mu.RUnlock()
	if r != nil || group != "" && c.groups[group] == nil {
		return r
	}
	r = c.makeMembers(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byGroup[key] = r
	return r
}

func (c *catalog) makeMembers(key membersKey) *members {
	platform, only := c.terms(c.groups[key.group])
	if key.force != "" {
		platform = key.force
	}
	r := &members{
		pool:    "group/" + key.group + "/" + string(platform),
		members: c.list(platform, key.force != "", only),
	}
	if key.force != "" && !c.has(platform, only) {
		r.members = c.list(platform, true, nil)
	}
	models := map[string]bool{}
	for _, i := range r.members {
		a := c.accounts[i]
		r.bearer = r.bearer || a.Bearer()
		for _, name := range a.Models.Names() {
			models[name] = true
		}
	}
	r.models = slices.Sorted(maps.Keys(models))
	return r
}

// has reports whether any of the named accounts, or any at all where none is
// named, is of a platform, disabled ones included.
func (c *catalog) has(platform upstream.Platform, only []string) bool {
	return slices.ContainsFunc(c.accounts, func(a *upstream.Account) bool {
		return a.Platform == platform && (len(only) == 0 || slices.Contains(only, a.Name))
	})
}

// terms are a group's platform, and the accounts that it names, if any; nil is no
// group.
func (c *catalog) terms(g *Group) (platform upstream.Platform, only []string) {
	platform = upstream.Anthropic
	if g == nil {
		return platform, nil
	}
	if g.Platform != "" {
		platform = g.Platform
	}
	if !c.open {
		only = g.Accounts
	}
	return platform, only
}

// mayServe reports whether an account is of a platform, or serves it too. A forced
// platform admits no other's accounts.
func mayServe(a *upstream.Account, platform upstream.Platform, forced bool) bool {
	mixed := !forced && (platform == upstream.Anthropic || platform == upstream.Gemini) &&
		a.Platform == upstream.Antigravity && a.MixedScheduling
	return a.Platform == platform || mixed
}

// list returns the accounts that may serve a platform, of those named in only,
// if it names any.
func (c *catalog) list(platform upstream.Platform, forced bool, only []string) []int {
	named := map[string]bool{}
	for _, name := range only {
		named[name] = true
	}
	var members []int
	for i, a := range c.accounts {
		if !a.Disabled && mayServe(a, platform, forced) && (len(only) == 0 || named[a.Name]) {
			members = append(members, i)
		}
	}
	return members
}
