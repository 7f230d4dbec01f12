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
	users   map[string]*memoryUser
	keys    map[string]*memoryKey // by ID
	records map[string]*billing.Record
	holds   map[string]memoryHold
}

type memoryUser struct {
	billing.Profile
	known   bool // neither a stranger, nor removed
	opened  bool // was credited the opening balance
	credits map[string]bool
	groups  map[string]*billing.Subscription
}

type memoryKey struct {
	billing.Key
	windows billing.Windows
}

type memoryHold struct {
	billing.Claim
	payer string
	key   *memoryKey // nil if there was none when the hold was made
	by    *memory
}

func newMemoryStore(loc *time.Location) *memoryStore {
	return &memoryStore{
		loc: loc, users: map[string]*memoryUser{}, keys: map[string]*memoryKey{}, records: map[string]*billing.Record{},
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

func (l *memory) Hold(_ context.Context, claim *billing.Claim) (billing.Payer, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Payer{}, err
	}
	if l.user(claim.User) == nil {
		return billing.Payer{}, billing.ErrUnknownUser
	}
	if before, isHeld := l.holds[claim.ID]; isHeld {
		return billing.Payer{Billing: before.payer, UserNumber: 1}, nil
	}
	payer, refusals := l.judge(claim)
	if len(refusals) > 0 {
		return billing.Payer{}, refusals[0]
	}
	hold := memoryHold{Claim: *claim, payer: payer, key: l.keys[claim.KeyID], by: l}
	if claim.Terms != nil {
		terms := *claim.Terms
		hold.Terms = &terms
	}
	l.holds[claim.ID] = hold
	return billing.Payer{Billing: payer, UserNumber: 1}, nil
}

// judge tells who pays for a claim of somebody known, and all that speaks against
// it.
func (l *memory) judge(claim *billing.Claim) (payer string, refusals []*billing.Refusal) {
	u := l.user(claim.User)
	switch terms := claim.Terms; {
	case terms != nil:
		payer = billing.PaidFromSubscription
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
			refusals = append(refusals, &billing.Refusal{Lack: billing.LackSubscription})
		case !until.IsZero() && !claim.Time.Before(until):
			refusals = append(refusals, &billing.Refusal{Lack: billing.LackTime, Until: until})
		default:
			held := l.held(func(h memoryHold) bool {
				return h.payer == payer && h.User == claim.User && h.Terms.Group == terms.Group
			})
			if r := s.Windows.Lacks(billing.LackWindow, terms.Limits, claim.Time, held, claim.Least); r != nil {
				refusals = append(refusals, r)
			}
		}
	case u.Balance.Unlimited:
		payer = billing.PaidByNobody
	default:
		payer = billing.PaidFromBalance
		left := u.Balance.Amount
		if claim.Least > 0 && left-l.heldOnBalance(claim.User) < claim.Least {
			refusals = append(refusals, &billing.Refusal{Lack: billing.LackBalance, Left: left, Held: left >= claim.Least})
		}
	}
	if k := l.keys[claim.KeyID]; k != nil {
		held := l.held(func(h memoryHold) bool { return h.key == k })
		if r := k.windows.Lacks(billing.LackKeyLimit, k.Limits, claim.Time, held, claim.Least); r != nil {
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

func (l *memory) heldOnBalance(user string) billing.USD {
	return l.held(func(h memoryHold) bool { return h.payer == billing.PaidFromBalance && h.User == user })
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
	case r.Billing == billing.PaidFromBalance:
		if u == nil {
			return billing.ErrUnknownUser
		}
		u.Balance.Amount -= r.Spent()
	case r.Billing == billing.PaidFromSubscription && u != nil:
		u.subscription(r.Group).Windows.Add(r.Time, r.Spent(), l.loc)
	}
	if k := l.keys[r.KeyID]; k != nil {
		k.windows.Add(r.Time, r.Spent(), l.loc)
		if r.Time.After(k.LastUsed) {
			k.LastUsed = r.Time.UTC()
		}
	}
	kept := *r
	kept.Time = kept.Time.UTC()
	l.records[r.ID] = &kept
	delete(l.holds, r.ID)
	return nil
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
	b.Held = l.heldOnBalance(user)
	return b, nil
}

func (l *memory) Subscription(_ context.Context, user, group string) (billing.Subscription, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Subscription{}, err
	}
	if u := l.user(user); u != nil && u.groups[group] != nil {
		s := *u.groups[group]
		s.Windows = s.Windows.At(time.Now())
		return s, nil
	}
	return billing.Subscription{Group: group}, nil
}

func (l *memory) Records(_ context.Context, filter billing.RecordFilter, yield func(*billing.Record) bool) error {
	l.mu.Lock()
	closed := l.closed
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
	filter.After = nil
	rows := sum(l.matching(&filter), by)
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

func (l *memory) Prune(_ context.Context, before time.Time) (count int, err error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return 0, err
	}
	midnight := before.UTC().Truncate(24 * time.Hour)
	for id, r := range l.records {
		if r.Time.Before(midnight) {
			delete(l.records, id)
			count++
		}
	}
	return count, nil
}

var _ billing.Ledger = (*memory)(nil)
