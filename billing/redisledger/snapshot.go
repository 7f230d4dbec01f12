package redisledger

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// snapshot is what this process knows of users' money, their subscriptions and keys:
// what Redis told last, and what was settled here since. While Redis is down, hold requests
// are judged by it.
type snapshot struct {
	location *time.Location
	clock    func() time.Time
	seed     maphash.Seed

	mu            sync.Mutex
	users         map[string]user
	subscriptions map[budget]*subscription
	keys          map[budget]*limitedKey
	// unsettled are the records that Redis may not have, by a hash of their ids: an
	// outage may leave millions. spent is what they take from budgets.
	unsettled map[uint64]struct{}
	spent     map[budget]billing.USD
	// ahead is by how much Redis's clock is ahead of this process's.
	ahead time.Duration
}

func newSnapshot(location *time.Location, clock func() time.Time) *snapshot {
	return &snapshot{
		location: location, clock: clock, seed: maphash.MakeSeed(), users: make(map[string]user),
		subscriptions: make(map[budget]*subscription), keys: make(map[budget]*limitedKey),
		unsettled: make(map[uint64]struct{}), spent: make(map[budget]billing.USD),
	}
}

// now is the time by Redis's clock.
func (s *snapshot) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock().Add(s.ahead)
}

// learnTime takes in what Redis's clock showed a moment ago. Less than a second is the
// answer's way here.
func (s *snapshot) learnTime(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead = now.Sub(s.clock()).Truncate(time.Second)
}

// learnUser takes in what Redis told of a user, and returns his balance. Answers
// overtake each other: the version tells which is newer.
func (s *snapshot) learnUser(name string, u user) billing.Balance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(name, u)
}

// take is learnUser. mu is held.
func (s *snapshot) take(name string, u user) billing.Balance {
	if last, known := s.users[name]; !known || u.version >= last.version {
		s.users[name] = u
	}
	return s.balance(name)
}

// balance is the user's as last told, less what Redis may not know. mu is held.
func (s *snapshot) balance(name string) billing.Balance {
	b := s.users[name].Balance
	b.Amount = b.Amount.Plus(-s.spent[userBudget(name)])
	return b
}

// last is the user's balance as last told, less what Redis may not know.
func (s *snapshot) last(name string) (b billing.Balance, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known = s.users[name]
	return s.balance(name), known
}

// subscription is one as last told.
func (s *snapshot) subscription(user, group string) (known *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.subscriptions[subscriptionBudget(user, group)]; last != nil {
		copied := *last
		known = &copied
	}
	return known
}

// doubt has whatever Redis tells next of users be taken for the newest: it may have
// gone back in time.
func (s *snapshot) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, u := range s.users {
		u.version = -1
		s.users[name] = u
	}
}

// begin makes a user known who begins with a balance, until Redis tells of him.
func (s *snapshot) begin(u billing.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.users[u.Name]; !known {
		s.users[u.Name] = user{Balance: billing.Balance{Amount: u.Balance}, version: -1}
	}
}

// forgetUser forgets one whom Redis does not know.
func (s *snapshot) forgetUser(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users, name)
}

// forgetSubscription forgets one that has ended.
func (s *snapshot) forgetSubscription(user, group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subscriptions, subscriptionBudget(user, group))
}

// learn takes in what Redis told when it was asked to meet a hold request.
func (s *snapshot) learn(c *billing.HoldRequest, a *account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(c.User, a.user)
	if c.Terms != nil {
		name, now := subscriptionBudget(c.User, c.Terms.Group), a.subscription
		s.keepNewer(name, &now.windows)
		s.subscriptions[name] = &now
	}
	name := keyBudget(c.KeyID)
	if a.key == nil {
		delete(s.keys, name)
		return
	}
	now := *a.key
	s.keepNewer(name, &now.windows)
	s.keys[name] = &now
}

// keepNewer takes over what was counted here in the same windows as Redis has, since
// what is used only grows, or in later ones, of which it has not heard yet. mu is held.
func (s *snapshot) keepNewer(name budget, told *windows) {
	at, last := s.clock().Add(s.ahead), s.windows(name)
	if last == nil {
		if missed := s.spent[name]; missed > 0 {
			told.Windows = told.Moved(at, s.location)
			told.Add(at, missed, s.location)
		}
		return
	}
	for i, before := range last.Moved(at, s.location) {
		switch now := &told.Windows[i]; {
		case before.Start.After(now.Start):
			*now = before
		case before.Start.Equal(now.Start):
			now.Used = max(now.Used, before.Used)
		}
	}
}

// account is what is known of those who are to meet a hold request, without what is set aside.
// isKnown is false if the request can't be judged.
func (s *snapshot) account(c *billing.HoldRequest) (a account, isKnown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, isKnown := s.users[c.User]
	if !isKnown {
		return a, false
	}
	a.user = user{Balance: s.balance(c.User), number: u.number}
	a.user.Held = 0
	if k := s.keys[keyBudget(c.KeyID)]; k != nil {
		known := *k
		known.held = 0
		a.key = &known
	}
	if c.Terms == nil {
		return a, true
	}
	known := s.subscriptions[subscriptionBudget(c.User, c.Terms.Group)]
	if known != nil {
		a.subscription = *known
		a.subscription.held = 0
	}
	return a, known != nil || c.Terms.Declared
}

// unknown is what records that Redis may not have take from what meets a hold request.
func (s *snapshot) unknown(c *billing.HoldRequest) (u sums) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sumsOf(s.spent, c)
}

// sumsOf are the sums of what meets a hold request.
func sumsOf(all map[budget]billing.USD, c *billing.HoldRequest) (s sums) {
	if len(all) == 0 {
		return s
	}
	s.user, s.key = all[userBudget(c.User)], all[keyBudget(c.KeyID)]
	if c.Terms != nil {
		s.subscription = all[subscriptionBudget(c.User, c.Terms.Group)]
	}
	return s
}

// add adds to a sum.
func add(all map[budget]billing.USD, b budget, amount billing.USD) {
	if all[b] = all[b].Plus(amount); all[b] == 0 {
		delete(all, b)
	}
}

// spend counts a record in the windows that are known. mu is held.
func (s *snapshot) spend(r *billing.Record) {
	at := billing.CountedAt(r.Time, s.clock()).Add(s.ahead)
	for _, b := range limitedBudgets(r) {
		if known := s.windows(b); known != nil {
			known.Windows = known.Moved(at, s.location)
			known.Add(at, r.Spent(), s.location)
		}
	}
}

// windows are those that are known of a budget; nil for none. mu is held.
func (s *snapshot) windows(b budget) *windows {
	if known := s.subscriptions[b]; known != nil {
		return &known.windows
	}
	if known := s.keys[b]; known != nil {
		return &known.windows
	}
	return nil
}

// limitedBudgets are those in whose windows a record counts.
func limitedBudgets(r *billing.Record) (budgets []budget) {
	if r.Billing == billing.PaidFromSubscription {
		budgets = append(budgets, subscriptionBudget(r.User, r.Group))
	}
	if r.KeyID != "" {
		budgets = append(budgets, keyBudget(r.KeyID))
	}
	return budgets
}

// miss takes note of a record that Redis may not have.
func (s *snapshot) miss(r *billing.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := maphash.String(s.seed, r.ID)
	if _, twice := s.unsettled[id]; twice {
		return
	}
	s.unsettled[id] = struct{}{}
	s.spendUnknown(r, 1)
	s.spend(r)
}

// spendUnknown counts what Redis may not know, or now does. mu is held.
func (s *snapshot) spendUnknown(r *billing.Record, sign billing.USD) {
	if r.Billing == billing.PaidFromBalance {
		add(s.spent, userBudget(r.User), sign*r.Charged)
	}
	for _, b := range limitedBudgets(r) {
		add(s.spent, b, sign*r.Spent())
	}
}

// have takes note that Redis has a record, or refuses it for good.
func (s *snapshot) have(r *billing.Record) (wasMissed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found(r)
}

func (s *snapshot) found(r *billing.Record) (wasMissed bool) {
	if len(s.unsettled) == 0 {
		return false
	}
	id := maphash.String(s.seed, r.ID)
	if _, wasMissed = s.unsettled[id]; wasMissed {
		delete(s.unsettled, id)
		s.spendUnknown(r, -1)
	}
	return wasMissed
}

// learnSettled takes in that Redis has a record, and what it told of the user after
// that; isNew: it did not have it before.
func (s *snapshot) learnSettled(r *billing.Record, u user, known, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wasMissed := s.found(r); isNew && !wasMissed {
		s.spend(r)
	}
	if known {
		s.take(r.User, u)
	}
}

// waiting is how many records Redis may not have.
func (s *snapshot) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unsettled)
}
