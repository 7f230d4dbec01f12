package ledgertest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// memory is a billing.Ledger as plain as can be: what others are compared with.
type memory struct {
	*memoryStore
	closed bool
}

// memoryStore is what stays when a memory is closed.
type memoryStore struct {
	mu      sync.Mutex
	loc     *time.Location
	clock   *Clock
	settled time.Time // of the last record, or what was exported last
	pruned  time.Time // when a day was deleted
	users   map[string]*memoryUser
	keys    map[string]*memoryKey // by ID
	records map[string]*billing.Record
	holds   map[string]memoryHold
}

// memoryUser is whoever has a name at present, or will have it next.
type memoryUser struct {
	billing.Profile
	number  int64
	known   bool // he was declared or added
	opened  bool // he was credited the opening balance
	credits map[string]bool
	groups  map[string]*billing.Subscription
}

type memoryKey struct {
	billing.Key
	windows billing.Windows
}

type memoryHold struct {
	billing.HoldRequest
	payer billing.Payer
	key   *memoryKey // nil if there was none when the hold was made
	by    *memory
}

func newMemoryStore(loc *time.Location, clock *Clock) *memoryStore {
	return &memoryStore{
		loc: loc, clock: clock, users: map[string]*memoryUser{}, keys: map[string]*memoryKey{}, records: map[string]*billing.Record{},
		holds: map[string]memoryHold{},
	}
}

func (s *memoryStore) open() *memory {
	return &memory{memoryStore: s}
}

// begin locks the ledger; the caller unlocks it, whatever it returns.
func (l *memory) begin() error {
	l.mu.Lock()
	if l.closed {
		return billing.ErrClosed
	}
	return nil
}

func (l *memory) Close() error {
	defer l.mu.Unlock()
	err := l.begin()
	l.closed = true
	maps.DeleteFunc(l.holds, func(_ string, h memoryHold) bool { return h.by == l })
	return err
}

// user is one who is known, or nil.
func (l *memory) user(name string) *memoryUser {
	if u := l.users[name]; u != nil && u.known {
		return u
	}
	return nil
}

func (u *memoryUser) subscription(group string) *billing.Subscription {
	if u.groups[group] == nil {
		u.groups[group] = &billing.Subscription{Group: group}
	}
	return u.groups[group]
}

func (l *memory) Hold(_ context.Context, req *billing.HoldRequest) (billing.Payer, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Payer{}, err
	}
	if l.user(req.User) == nil {
		return billing.Payer{}, billing.ErrUnknownUser
	}
	if before, isHeld := l.holds[req.ID]; isHeld {
		return before.payer, nil
	}
	payer, refusals := l.judge(req)
	if len(refusals) > 0 {
		return billing.Payer{}, refusals[0]
	}
	hold := memoryHold{HoldRequest: *req, payer: payer, key: l.keys[req.KeyID], by: l}
	if req.Terms != nil {
		terms := *req.Terms
		hold.Terms = &terms
	}
	l.holds[req.ID] = hold
	return payer, nil
}

// judge returns who pays for a hold request of somebody known, and all that speaks against
// it.
func (l *memory) judge(req *billing.HoldRequest) (payer billing.Payer, refusals []*billing.Refusal) {
	now := l.clock.Now()
	u := l.user(req.User)
	payer = billing.Payer{Billing: billing.PaidFromBalance, UserNumber: u.number}
	switch terms := req.Terms; {
	case terms != nil:
		payer.Billing = billing.PaidFromSubscription
		s := u.groups[terms.Group]
		if s == nil {
			s = &billing.Subscription{}
		}
		until, subscribed := terms.Until, terms.Declared
		if !terms.Declared {
			until, subscribed = s.Until, s.Subscribed
		}
		switch {
		case !subscribed:
			refusals = append(refusals, &billing.Refusal{Reason: billing.ReasonSubscription})
		case !until.IsZero() && !now.Before(until):
			refusals = append(refusals, &billing.Refusal{Reason: billing.ReasonExpired, Until: until})
		default:
			held := l.held(func(h memoryHold) bool {
				return h.payer == payer && h.User == req.User && h.Terms.Group == terms.Group
			})
			s.Windows = s.Windows.Moved(now, l.loc)
			if r := s.Windows.Refuse(billing.ReasonWindow, terms.Limits, now, held, req.MinAvailable); r != nil {
				refusals = append(refusals, r)
			}
		}
	case req.Unlimited:
		payer.Billing = billing.PaidByNobody
	default:
		left := u.Balance.Amount
		if req.MinAvailable > 0 && left-l.heldOnBalance(u) < req.MinAvailable {
			refusals = append(refusals, &billing.Refusal{Reason: billing.ReasonBalance, Left: left, Temporary: left >= req.MinAvailable})
		}
	}
	if k := l.keys[req.KeyID]; k != nil {
		held := l.held(func(h memoryHold) bool { return h.key == k })
		k.windows = k.windows.Moved(now, l.loc)
		if r := k.windows.Refuse(billing.ReasonKeyLimit, k.Limits, now, held, req.MinAvailable); r != nil {
			refusals = append(refusals, r)
		}
	}
	return payer, refusals
}

func (l *memory) held(on func(memoryHold) bool) (sum billing.USD) {
	for _, h := range l.holds {
		if on(h) {
			sum += h.Amount
		}
	}
	return sum
}

func (l *memory) heldOnBalance(u *memoryUser) billing.USD {
	payer := billing.Payer{Billing: billing.PaidFromBalance, UserNumber: u.number}
	return l.held(func(h memoryHold) bool { return h.payer == payer && h.User == u.Name })
}

func (l *memory) Release(_ context.Context, id string) {
	defer l.mu.Unlock()
	if l.begin() == nil {
		delete(l.holds, id)
	}
}

func (l *memory) Settle(ctx context.Context, r *billing.Record, _ roundtrip.Batch) error {
	defer l.mu.Unlock()
	if err := cmp.Or(l.begin(), ctx.Err(), r.Check()); err != nil {
		return err
	}
	u := l.users[r.User]
	switch {
	case l.records[r.ID] != nil:
		delete(l.holds, r.ID)
		return nil
	case u == nil && r.Billing == billing.PaidFromBalance:
		return billing.ErrUnknownUser
	case u == nil || u.known && (r.UserNumber == 0 || r.UserNumber == u.number):
		l.spend(u, r)
	}
	kept := *r
	kept.Time, kept.Settled = kept.Time.UTC().Round(0), l.settle(l.clock.Now())
	l.records[r.ID] = &kept
	delete(l.holds, r.ID)
	return nil
}

// spend takes what a record spent from who has its name, nil if nobody ever had.
func (l *memory) spend(u *memoryUser, r *billing.Record) {
	now := l.clock.Now()
	at := billing.CountedAt(r.Time, now)
	add := func(ws *billing.Windows) {
		*ws = ws.Moved(now, l.loc)
		ws.Add(at, r.Spent(), l.loc)
	}
	switch {
	case u == nil:
	case r.Billing == billing.PaidFromBalance:
		u.Balance.Amount -= r.Spent()
	case r.Billing == billing.PaidFromSubscription:
		add(&u.subscription(r.Group).Windows)
	}
	if k := l.keys[r.KeyID]; k != nil {
		add(&k.windows)
		if at.After(k.LastUsed) || k.LastUsed.After(now) {
			k.LastUsed = at
		}
	}
}

// settle is when a record is settled, or the end of an export, after all others.
func (l *memory) settle(at time.Time) time.Time {
	if next := l.settled.Add(1); next.After(at.Round(0)) {
		at = next
	}
	l.settled = at.Round(0)
	return l.settled
}

func (l *memory) Balance(_ context.Context, user string) (billing.Balance, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Balance{}, err
	}
	return l.balance(user)
}

func (l *memory) balance(user string) (billing.Balance, error) {
	u := l.user(user)
	if u == nil {
		return billing.Balance{}, billing.ErrUnknownUser
	}
	b := u.Balance
	b.Held = l.heldOnBalance(u)
	return b, nil
}

func (l *memory) Subscription(_ context.Context, user, group string) (billing.Subscription, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Subscription{}, err
	}
	if u := l.user(user); u != nil && u.groups[group] != nil {
		return l.shown(u.groups[group]), nil
	}
	return billing.Subscription{Group: group}, nil
}

// shown is a subscription as others see it: windows that have ended are zero, and
// those that the clock was ahead for begin today.
func (l *memory) shown(s *billing.Subscription) billing.Subscription {
	now, shown := l.clock.Now(), *s
	shown.Windows = s.Windows.Moved(now, l.loc).At(now)
	return shown
}

func (l *memory) Records(_ context.Context, filter billing.RecordFilter, yield func(*billing.Record) bool) error {
	l.mu.Lock()
	closed := l.closed
	if now := l.clock.Now(); !filter.SettledTo.IsZero() && !filter.SettledTo.After(now) && filter.SettledTo.After(l.settled) {
		l.settled = filter.SettledTo.Add(-1) // nothing is settled any more before the end of an export
	}
	records := l.matching(&filter)
	l.mu.Unlock()
	if closed {
		return billing.ErrClosed
	}
	for i, r := range records {
		if filter.Limit > 0 && i == filter.Limit {
			break
		}
		given := *r
		if !yield(&given) {
			break
		}
	}
	return nil
}

// newestFirst is the order of Records.
func newestFirst(a, b *billing.Record) int {
	return cmp.Or(b.Time.Compare(a.Time), strings.Compare(b.ID, a.ID))
}

func (l *memory) matching(f *billing.RecordFilter) []*billing.Record {
	records := slices.SortedFunc(maps.Values(l.records), newestFirst)
	return slices.DeleteFunc(records, func(r *billing.Record) bool {
		return !f.From.IsZero() && r.Time.Before(f.From) || !f.To.IsZero() && !r.Time.Before(f.To) ||
			!f.SettledFrom.IsZero() && r.Settled.Before(f.SettledFrom) || !f.SettledTo.IsZero() && !r.Settled.Before(f.SettledTo) ||
			f.User != "" && f.User != r.User || f.KeyID != "" && f.KeyID != r.KeyID ||
			f.Account != "" && f.Account != r.Account || f.Group != "" && f.Group != r.Group ||
			f.Model != "" && f.Model != r.Model || f.After != nil && newestFirst(r, f.After) <= 0
	})
}

func (l *memory) Record(_ context.Context, id string) (*billing.Record, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return nil, err
	}
	if l.records[id] == nil {
		return nil, billing.ErrUnknownRecord
	}
	given := *l.records[id]
	return &given, nil
}

func (l *memory) Usage(_ context.Context, filter billing.RecordFilter, by []billing.Dimension, yield func(*billing.UsageRow) bool) error {
	l.mu.Lock()
	closed := l.closed
	filter.After, filter.SettledFrom, filter.SettledTo = nil, time.Time{}, time.Time{}
	rows := sum(l.matching(&filter), by, l.loc)
	l.mu.Unlock()
	if closed {
		return billing.ErrClosed
	}
	for _, row := range rows {
		if !yield(row) {
			break
		}
	}
	return nil
}

func (l *memory) Prune(_ context.Context, before time.Time) (int, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return 0, err
	}
	now := l.clock.Now().Round(0)
	if now.Sub(l.pruned).Abs() < time.Hour {
		return 0, nil
	}
	count := l.pruneDay(before)
	if count > 0 {
		l.pruned = now
	}
	return count, nil
}

// pruneDay is Prune, however long ago the last one was.
func (l *memory) pruneDay(before time.Time) (count int) {
	if now := l.clock.Now().Round(0); before.After(now) {
		before = now
	}
	records := slices.SortedFunc(maps.Values(l.records), newestFirst)
	if len(records) == 0 {
		return 0
	}
	end := billing.WindowsFrom(records[len(records)-1].Time, l.loc)[billing.Daily].End
	if end.After(before) {
		return 0
	}
	for id, r := range l.records {
		if r.Time.Before(end) {
			delete(l.records, id)
			count++
		}
	}
	return count
}

var _ billing.Ledger = (*memory)(nil)
