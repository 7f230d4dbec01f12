package redisledger

import (
	"hash/maphash"
	"sync"

	"github.com/sub2api/caddy-sub2api/billing"
)

// cache is what this process knows of users' money, and what records of its spool
// will take from it.
type cache struct {
	mu    sync.Mutex
	users map[string]*user
	// clock counts what Redis has told.
	clock question
	// waiting are the spooled records, by a hash of their ids: an outage may leave
	// millions. Two of one hash would make Balance forget a charge until Redis has
	// both.
	waiting map[uint64]struct{}
	seed    maphash.Seed
}

// user is what is known of one.
type user struct {
	told    told
	known   bool     // told is something
	toldAt  question // what is asked from then on is answered with nothing older
	waiting billing.USD
}

// told is a user as Redis has him. The version grows with each change.
type told struct {
	billing.Balance
	version int64
}

// question is the moment at which Redis was asked, by cache.clock.
type question uint64

func newCache() *cache {
	return &cache{users: make(map[string]*user), waiting: make(map[uint64]struct{}), seed: maphash.MakeSeed()}
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

// learnSettled takes in what Redis told of a record's user when it settled the
// record, which waits no more.
func (c *cache) learnSettled(r *billing.Record, asked question, now told) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(r)
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
	return billing.Balance{Amount: u.told.Amount.Plus(-u.waiting), Unlimited: u.told.Unlimited}
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

// wait takes note of a record that is in the spool.
func (c *cache) wait(r *billing.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := maphash.String(c.seed, r.ID)
	if _, twice := c.waiting[id]; twice {
		return
	}
	c.waiting[id] = struct{}{}
	if r.Billing == billing.PaidFromBalance {
		u := c.user(r.User)
		u.waiting = u.waiting.Plus(r.Charged)
	}
}

// arrived takes note that a record waits no more.
func (c *cache) arrived(r *billing.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(r)
}

func (c *cache) forget(r *billing.Record) {
	id := maphash.String(c.seed, r.ID)
	if _, waits := c.waiting[id]; !waits {
		return
	}
	delete(c.waiting, id)
	if r.Billing == billing.PaidFromBalance {
		u := c.user(r.User)
		u.waiting = u.waiting.Plus(-r.Charged)
	}
}

func (c *cache) count() int {
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
