package redisledger

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// cache is what this process knows of users' money, their subscriptions and keys,
// and what records of its spool will take from it.
type cache struct {
	mu    sync.Mutex
	users map[string]*user
	// subscriptions, and keys that have limits, are as Redis told last, and what was
	// settled here since.
	subscriptions map[purseName]*subscription
	keys          map[purseName]*limitedKey
	location      *time.Location
	// clock counts what Redis has told, and what was counted in windows.
	clock question
	// waiting are the spooled records, by a hash of their ids: an outage may leave
	// millions. Two of one hash would make Balance forget a charge until Redis has
	// both.
	waiting map[uint64]spooled
	seed    maphash.Seed
	// spent is what they take from the windows of subscriptions and keys; missing is
	// of those that are not counted there, or may be counted twice if they were.
	spent, missing map[purseName]billing.USD
}

// spooled is a record that waits.
type spooled struct {
	unsure    bool     // Redis may have it already
	countedAt question // when it was counted in the windows that were known, 0: never
}

// user is what is known of one.
type user struct {
	told   told
	known  bool     // told is something
	toldAt question // what is asked from then on is answered with nothing older
	// waiting is what spooled records take; unsure is of those that Redis may have.
	waiting, unsure billing.USD
}

// question is the moment at which Redis was asked, by cache.clock.
type question uint64

func newCache(location *time.Location) *cache {
	return &cache{
		users: make(map[string]*user), subscriptions: make(map[purseName]*subscription), keys: make(map[purseName]*limitedKey),
		location: location, waiting: make(map[uint64]spooled), seed: maphash.MakeSeed(),
		spent: make(map[purseName]billing.USD), missing: make(map[purseName]billing.USD),
	}
}

// ask is called before Redis is asked for a user.
func (c *cache) ask() question {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clock
}

// learn takes in what Redis told of a user, and gives his balance: that, or what is
// known to be newer, less what waits.
func (c *cache) learn(name string, asked question, now told) billing.Balance {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.take(name, asked, now)
}

// learnSettled takes in that Redis has a record, which waits no more, and what it
// told of the record's user; isNew: it had it not before.
func (c *cache) learnSettled(r *billing.Record, asked question, now told, isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if waited := c.forget(r, isNew); isNew && !waited {
		for _, p := range windowed(r) {
			c.count(p, r)
		}
	}
	c.take(r.User, asked, now)
}

// take is learn. Answers overtake each other: of two whose questions were under
// way at the same time, the version tells which is newer. It can't always tell,
// because Redis may have lost some.
func (c *cache) take(name string, asked question, now told) billing.Balance {
	u := c.user(name)
	if !u.known || asked >= u.toldAt || now.version >= u.told.version {
		c.clock++
		u.told, u.known, u.toldAt = now, true, c.clock
	}
	return u.balance()
}

func (u *user) balance() billing.Balance {
	return billing.Balance{Amount: u.told.Amount.Plus(-u.waiting), Held: u.told.Held, Unlimited: u.told.Unlimited}
}

// last is the user's balance as last told, less what waits.
func (c *cache) last(name string) (b billing.Balance, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[name]
	if u == nil || !u.known {
		return b, false
	}
	return u.balance(), true
}

// forgetUser forgets one whom Redis does not know.
func (c *cache) forgetUser(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.users[name]; u != nil {
		u.told, u.known = told{}, false
	}
}

// forgetSubscription forgets one that has ended.
func (c *cache) forgetSubscription(user, group string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.subscriptions, subscriptionPurse(user, group))
}

// learnStanding takes in what Redis told when it was asked to meet a claim.
func (c *cache) learnStanding(claim *billing.Claim, asked question, s *standing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(claim.User, asked, s.user)
	if claim.Terms != nil {
		now, p := s.subscription, subscriptionPurse(claim.User, claim.Terms.Group)
		c.takePurse(p, asked, &now.purse)
		c.subscriptions[p] = &now
	}
	p := keyPurse(claim.KeyID)
	if s.key == nil {
		delete(c.keys, p)
		return
	}
	now := *s.key
	c.takePurse(p, asked, &now.purse)
	c.keys[p] = &now
}

// takePurse makes what Redis told of windows what is known of them: that, or what is
// known to be newer. Of answers that overtook each other one may be taken that lacks a
// record; the next mends that. mu is held.
func (c *cache) takePurse(p purseName, asked question, now *purse) {
	if last := c.purse(p); last != nil && last.isNewer(asked, &now.windows) {
		*now = *last
		return
	}
	c.clock++
	now.toldAt = c.clock
	c.miss(p, c.spent[p])
}

// miss sets how much of what waits is not counted in a purse's windows. mu is held.
func (c *cache) miss(p purseName, amount billing.USD) {
	if amount > 0 {
		c.missing[p] = amount
	} else {
		delete(c.missing, p)
	}
}

// standing is what is known of those who are to meet a claim. What is held is what may
// have been taken already. isKnown is false if the claim can't be judged.
func (c *cache) standing(claim *billing.Claim) (s standing, isKnown bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.users[claim.User]
	if u == nil || !u.known {
		return s, false
	}
	s.user.Balance = u.balance()
	s.user.Amount, s.user.Held = s.user.Amount.Plus(u.unsure), u.unsure
	p := keyPurse(claim.KeyID)
	if k := c.keys[p]; k != nil {
		known := *k
		known.held = c.missing[p]
		s.key = &known
	}
	if claim.Terms != nil {
		p := subscriptionPurse(claim.User, claim.Terms.Group)
		known := c.subscriptions[p]
		if known != nil {
			s.subscription = *known
		}
		s.subscription.held = c.missing[p]
		return s, known != nil || claim.Terms.Declared
	}
	return s, true
}

// subscription is one as last told.
func (c *cache) subscription(user, group string) (s subscription, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.subscriptions[subscriptionPurse(user, group)]
	if last == nil {
		return s, false
	}
	return *last, true
}

// windowed are the purses of whose windows a record takes.
func windowed(r *billing.Record) (purses []purseName) {
	if r.Billing == billing.PaidFromSubscription {
		purses = append(purses, subscriptionPurse(r.User, r.Group))
	}
	if r.KeyID != "" {
		purses = append(purses, keyPurse(r.KeyID))
	}
	return purses
}

// count adds what the record spent to a purse's windows, if they are known. mu is
// held.
func (c *cache) count(p purseName, r *billing.Record) {
	if known := c.purse(p); known != nil {
		c.clock++
		known.windows.Add(r.Time, r.Spent(), c.location)
		known.countedAt = c.clock
	}
}

// purse is what is known of one that has windows; nil for nothing. mu is held.
func (c *cache) purse(p purseName) *purse {
	if s := c.subscriptions[p]; s != nil {
		return &s.purse
	}
	if k := c.keys[p]; k != nil {
		return &k.purse
	}
	return nil
}

// wait takes note of a record that is in the spool; isSure tells that Redis has not
// got it.
func (c *cache) wait(r *billing.Record, isSure bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := maphash.String(c.seed, r.ID)
	if _, twice := c.waiting[id]; twice {
		return
	}
	record := spooled{unsure: !isSure}
	if isSure {
		c.clock++
		record.countedAt = c.clock
	}
	c.waiting[id] = record
	if r.Billing == billing.PaidFromBalance {
		u := c.user(r.User)
		u.waiting = u.waiting.Plus(r.Charged)
		if !isSure {
			u.unsure = u.unsure.Plus(r.Charged)
		}
	}
	for _, p := range windowed(r) {
		c.spent[p] = c.spent[p].Plus(r.Spent())
		if isSure {
			c.count(p, r)
		} else {
			c.miss(p, c.missing[p].Plus(r.Spent()))
		}
	}
}

// doubt takes note that Redis is told of a record that waits, so that it may have it.
func (c *cache) doubt(r *billing.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := maphash.String(c.seed, r.ID)
	record, waiting := c.waiting[id]
	if !waiting || record.unsure {
		return
	}
	record.unsure = true
	c.waiting[id] = record
	if r.Billing == billing.PaidFromBalance {
		u := c.user(r.User)
		u.unsure = u.unsure.Plus(r.Charged)
	}
}

// waits is what records in the spool will take from what meets a claim.
func (c *cache) waits(claim *billing.Claim) (w waits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		return w
	}
	if u := c.users[claim.User]; u != nil {
		w.balance = u.waiting
	}
	w.key = c.spent[keyPurse(claim.KeyID)]
	if claim.Terms != nil {
		w.subscription = c.spent[subscriptionPurse(claim.User, claim.Terms.Group)]
	}
	return w
}

// arrived takes note that a record waits no more.
func (c *cache) arrived(r *billing.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(r, false)
}

// forget takes note that a record waits no more; isNew tells that Redis had it not
// before. Otherwise, whether the windows have it is known when Redis tells them again.
func (c *cache) forget(r *billing.Record, isNew bool) (waited bool) {
	id := maphash.String(c.seed, r.ID)
	record, waited := c.waiting[id]
	if !waited {
		return false
	}
	delete(c.waiting, id)
	if r.Billing == billing.PaidFromBalance {
		u := c.user(r.User)
		u.waiting = u.waiting.Plus(-r.Charged)
		if record.unsure {
			u.unsure = u.unsure.Plus(-r.Charged)
		}
	}
	for _, p := range windowed(r) {
		if known := c.purse(p); isNew && known != nil && record.countedAt <= known.toldAt {
			c.count(p, r)
			c.miss(p, c.missing[p].Plus(-r.Spent()))
		}
		if c.spent[p] = c.spent[p].Plus(-r.Spent()); c.spent[p] == 0 {
			delete(c.spent, p)
		}
	}
	return true
}

// waitingRecords is how many wait.
func (c *cache) waitingRecords() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

func (c *cache) user(name string) *user {
	u := c.users[name]
	if u == nil {
		u = new(user)
		c.users[name] = u
	}
	return u
}
