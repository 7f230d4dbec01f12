package sqliteledger

import (
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// directory is all who are known, with their money as of the last Settle. Guarded by
// Ledger.mu; who there is changes only while Ledger.writing is held as well.
type directory struct {
	users         map[string]*user
	subscriptions map[membership]*subscription
	keys          map[string]*key // by ID
	digests       map[[32]byte]*key
}

func newDirectory() directory {
	return directory{
		users:         make(map[string]*user),
		subscriptions: make(map[membership]*subscription),
		keys:          make(map[string]*key),
		digests:       make(map[[32]byte]*key),
	}
}

// user is somebody who was declared or added; with isRemoved, the number of who will
// have the name next, and nothing else.
type user struct {
	name, source        string
	number              int64
	amount, held        billing.USD
	concurrency         int
	disabled, isRemoved bool
	// subscriptions are those made with Subscribe, in order of group.
	subscriptions []*subscription
}

// budget is spending that is counted in windows.
type budget struct {
	windows billing.Windows
	held    billing.USD
	// stored are the windows that the database has. Guarded by Ledger.writing.
	stored billing.Windows
}

// isAhead reports whether a window begins after now: the clock was ahead.
func (p *budget) isAhead(now time.Time) bool {
	for s := range p.windows {
		if p.windows[s].Start.After(now) {
			return true
		}
	}
	return false
}

type membership struct{ user, group string }

// subscription is a user's use of a group, with or without a right to it that the
// ledger knows of.
type subscription struct {
	budget
	membership
	subscribed bool
	until      time.Time
}

// key is a gateway key. Its texts and slices never change.
type key struct {
	budget
	billing.Key
}

func (k *key) isLimited() bool { return k.Limits != billing.Limits{} }

// user is one who is known and not removed, or nil.
func (p *directory) user(name string) *user {
	if u := p.users[name]; u != nil && !u.isRemoved {
		return u
	}
	return nil
}

// added is a user who was added, or nil.
func (p *directory) added(name string) *user {
	if u := p.user(name); u != nil && u.source == billing.SourceAPI {
		return u
	}
	return nil
}

// subscription makes it where it isn't there.
func (p *directory) subscription(of membership) *subscription {
	s := p.subscriptions[of]
	if s == nil {
		s = &subscription{membership: of}
		p.subscriptions[of] = s
	}
	return s
}

// subscribe makes s one of u's subscriptions.
func (u *user) subscribe(s *subscription, until time.Time) {
	s.until = until
	if s.subscribed {
		return
	}
	s.subscribed = true
	at, _ := slices.BinarySearchFunc(u.subscriptions, s, byGroup)
	u.subscriptions = slices.Insert(u.subscriptions, at, s)
}

func byGroup(a, b *subscription) int { return strings.Compare(a.group, b.group) }

// unsubscribe forgets all of s but what is held.
func (u *user) unsubscribe(s *subscription) {
	u.subscriptions = slices.DeleteFunc(u.subscriptions, func(other *subscription) bool { return other == s })
	s.subscribed, s.until = false, time.Time{}
	s.windows, s.stored = billing.Windows{}, billing.Windows{}
}

func (p *directory) addKey(k *key) {
	p.keys[k.ID] = k
	p.digests[k.Digest] = k
}

func (p *directory) revokeKey(k *key) {
	delete(p.keys, k.ID)
	delete(p.digests, k.Digest)
}

// owner is who has the name and the number of a record's user, or the name where it has
// no number; nil for nobody, and isGone if somebody had.
func (p *directory) owner(r *billing.Record) (owner *user, isGone bool) {
	u := p.users[r.User]
	if u != nil && (u.isRemoved || r.UserNumber != 0 && r.UserNumber != u.number) {
		return nil, true
	}
	return u, false
}

// spendsFrom are the subscription and the key whose windows count a record; nil
// for none.
func (p *directory) spendsFrom(r *settled) (*subscription, *key) {
	if r.isGone {
		return nil, nil
	}
	var s *subscription
	if r.Billing == billing.PaidFromSubscription && r.owner != nil {
		s = p.subscription(membership{r.User, r.Group})
	}
	return s, p.keys[r.KeyID]
}

func (u *user) balance() billing.Balance { return billing.Balance{Amount: u.amount, Held: u.held} }

// profile is what others see of him, as of now, by days in loc.
func (u *user) profile(now time.Time, loc *time.Location) billing.Profile {
	p := billing.Profile{
		Name: u.name, Source: u.source, Balance: u.balance(), Concurrency: u.concurrency, Disabled: u.disabled,
	}
	for _, s := range u.subscriptions {
		p.Subscriptions = append(p.Subscriptions, s.at(now, loc))
	}
	return p
}

func (s *subscription) at(now time.Time, loc *time.Location) billing.Subscription {
	return billing.Subscription{
		Group: s.group, Subscribed: s.subscribed, Until: s.until, Windows: s.windows.Moved(now, loc).At(now),
	}
}
