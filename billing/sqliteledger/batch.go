package sqliteledger

import (
	"database/sql"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// settled is a record and what became of it when it was settled. One without an ID is
// no record: windows were moved, since the clock was ahead once.
type settled struct {
	billing.Record
	now, at int64 // by the clock, and when it counts, in nanoseconds
	// owner is who has its user's name and number; nil for nobody, and isGone if
	// somebody had.
	owner  *user
	isGone bool
	// subscription and key are those whose windows it is counted in; nil for none.
	subscription *subscription
	key          *key
	lastUsed     sql.NullInt64 // of the key, after it
}

// batch is what the records of one transaction change beside themselves, each row
// once.
type batch struct {
	days          dayCache
	charged       map[*user]billing.USD
	forgiven      map[formerUser]billing.USD
	subscriptions map[*subscription]*billing.Windows
	keys          map[*key]*keyUse
	usage         map[usageKey]*usageSums
}

type keyUse struct {
	windows  billing.Windows
	lastUsed sql.NullInt64
}

// formerUser is who had a name.
type formerUser struct {
	name   string
	number int64
}

func newBatch(days calendar) *batch {
	return &batch{
		days:          newDayCache(days),
		charged:       make(map[*user]billing.USD),
		forgiven:      make(map[formerUser]billing.USD),
		subscriptions: make(map[*subscription]*billing.Windows),
		keys:          make(map[*key]*keyUse),
		usage:         make(map[usageKey]*usageSums),
	}
}

// usageKey tells rows of the table usage apart.
type usageKey struct {
	userDay
	keyID, account, group, model string
}

// userDay tells rows of the table usage_by_user apart.
type userDay struct {
	day  int64
	user string
}

// usageSums are in the order of sumColumns.
type usageSums [8]billing.USD

func (s *usageSums) add(other *usageSums) {
	for i := range s {
		s[i] = s[i].Plus(other[i])
	}
}

func (s *usageSums) bind(args []driver.NamedValue) {
	for i, sum := range s {
		args[i].Value = int64(sum)
	}
}

// add counts a record that the database has just taken.
func (b *batch) add(r *settled, loc *time.Location) {
	switch {
	case r.Billing != billing.PaidFromBalance:
	case r.owner != nil:
		b.charged[r.owner] = b.charged[r.owner].Plus(r.Charged)
	default:
		of := formerUser{r.User, r.UserNumber}
		b.forgiven[of] = b.forgiven[of].Plus(r.Charged)
	}
	b.spend(r, loc)
	b.addUsage(&r.Record)
}

// spend does to the windows of the database what Ledger.spend has done to those in
// memory.
func (b *batch) spend(r *settled, loc *time.Location) {
	if s := r.subscription; s != nil {
		ws := b.subscriptions[s]
		if ws == nil {
			stored := s.stored
			ws = &stored
			b.subscriptions[s] = ws
		}
		r.countIn(ws, loc)
	}
	if k := r.key; k != nil {
		use := b.keys[k]
		if use == nil {
			use = &keyUse{windows: k.stored}
			b.keys[k] = use
		}
		if k.isLimited() {
			r.countIn(&use.windows, loc)
		}
		use.lastUsed = r.lastUsed
	}
}

// countIn counts the record in windows, or moves them.
func (r *settled) countIn(ws *billing.Windows, loc *time.Location) {
	*ws = ws.Moved(time.Unix(0, r.now), loc)
	if r.ID != "" {
		ws.Add(time.Unix(0, r.at), r.Spent(), loc)
	}
}

func (b *batch) addUsage(r *billing.Record) {
	of := usageKey{userDay{b.days.dayOf(r.Time.UnixNano()), r.User}, r.KeyID, r.Account, r.Group, r.Model}
	sums := b.usage[of]
	if sums == nil {
		sums = new(usageSums)
		b.usage[of] = sums
	}
	sums.add(&usageSums{
		1, billing.USD(r.Input), billing.USD(r.Output), billing.USD(r.CacheWrite5m), billing.USD(r.CacheWrite1h),
		billing.USD(r.CacheRead), r.Cost, r.Charged,
	})
}

// insertRecords writes the records that are not there, and what those change.
func (w *writer) insertRecords(records []*settled, days calendar, loc *time.Location, now time.Time) (*batch, error) {
	b := newBatch(days)
	for _, r := range records {
		if r.ID == "" {
			b.spend(r, loc)
			continue
		}
		values(w.insert.args, &r.Record)
		inserted, err := w.insert.changed()
		if err != nil {
			return nil, fmt.Errorf("record %q: %w", r.ID, err)
		}
		if inserted > 0 {
			b.add(r, loc)
		}
	}
	return b, w.apply(b, now)
}

func (w *writer) apply(b *batch, now time.Time) error {
	for u, amount := range b.charged {
		w.charge.bind(u.name, u.number, int64(-amount))
		if err := w.charge.run(); err != nil {
			return fmt.Errorf("charging %q: %w", u.name, err)
		}
	}
	for of, amount := range b.forgiven {
		w.forgive.bind(of.name, of.number, now.UnixNano(), int64(amount))
		if err := w.forgive.run(); err != nil {
			return fmt.Errorf("forgiving what %q was charged, who was removed: %w", of.name, err)
		}
	}
	for s, ws := range b.subscriptions {
		if err := w.writeWindows(kindSubscription, s.user, s.group, ws); err != nil {
			return fmt.Errorf("windows of user %q in group %q: %w", s.user, s.group, err)
		}
	}
	for k, use := range b.keys {
		last, _ := use.lastUsed.Value() // it has no errors
		w.useKey.bind(last, k.ID)
		err := w.useKey.run()
		if err == nil && k.isLimited() {
			err = w.writeWindows(kindKey, k.ID, "", &use.windows)
		}
		if err != nil {
			return fmt.Errorf("windows of key %s: %w", k.ID, err)
		}
	}
	return w.applyUsage(b.usage)
}

func (w *writer) applyUsage(usage map[usageKey]*usageSums) error {
	byUser := make(map[userDay]*usageSums)
	for of, sums := range usage {
		if all := byUser[of.userDay]; all != nil {
			all.add(sums)
		} else {
			first := *sums
			byUser[of.userDay] = &first
		}
		w.addUsage.bind(of.day, of.user, of.keyID, of.account, of.group, of.model)
		sums.bind(w.addUsage.args[6:])
		if err := w.addUsage.run(); err != nil {
			return fmt.Errorf("usage of %q on %s: %w", of.user, billing.DayText(of.day), err)
		}
	}
	for of, sums := range byUser {
		w.addUsageByUser.bind(of.day, of.user)
		sums.bind(w.addUsageByUser.args[2:])
		if err := w.addUsageByUser.run(); err != nil {
			return fmt.Errorf("usage of %q on %s: %w", of.user, billing.DayText(of.day), err)
		}
	}
	return nil
}

func (w *writer) writeWindows(kind, name, group string, ws *billing.Windows) error {
	args := [12]driver.Value{kind, name, group}
	for s, window := range ws {
		args[3+3*s], args[4+3*s], args[5+3*s] = window.Start.Unix(), window.End.Unix(), int64(window.Used)
	}
	w.setWindows.bind(args[:]...)
	return w.setWindows.run()
}

// stored has the budgets know what the database has of them now.
func (b *batch) stored() {
	for s, ws := range b.subscriptions {
		s.stored = *ws
	}
	for k, use := range b.keys {
		k.stored = use.windows
	}
}
