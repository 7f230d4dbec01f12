package sqliteledger

import (
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// settled is a record with the subscription and the key whose windows it is
// counted in, as of when it was settled; nil for none.
type settled struct {
	billing.Record
	subscription *subscription
	key          *key
}

// batch is what the records of one transaction change beside themselves, each row
// once.
type batch struct {
	charged       map[string]billing.USD // by user
	subscriptions map[*subscription]*billing.Windows
	keys          map[*key]*keyUse
	usage         map[usageKey]*usageSums
}

type keyUse struct {
	windows  billing.Windows
	lastUsed time.Time
}

func newBatch() *batch {
	return &batch{
		charged:       make(map[string]billing.USD),
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
	if r.Billing == billing.PaidFromBalance {
		b.charged[r.User] = b.charged[r.User].Plus(r.Charged)
	}
	if s := r.subscription; s != nil {
		ws := b.subscriptions[s]
		if ws == nil {
			stored := s.stored
			ws = &stored
			b.subscriptions[s] = ws
		}
		ws.Add(r.Time, r.Spent(), loc)
	}
	if k := r.key; k != nil {
		use := b.keys[k]
		if use == nil {
			use = &keyUse{windows: k.stored, lastUsed: r.Time}
			b.keys[k] = use
		}
		if k.isLimited() {
			use.windows.Add(r.Time, r.Spent(), loc)
		}
		if r.Time.After(use.lastUsed) {
			use.lastUsed = r.Time
		}
	}
	b.addUsage(&r.Record)
}

func (b *batch) addUsage(r *billing.Record) {
	of := usageKey{userDay{dayOf(r.Time.UnixNano()), r.User}, r.KeyID, r.Account, r.Group, r.Model}
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
func (w *writer) insertRecords(records []*settled, loc *time.Location) (*batch, error) {
	b := newBatch()
	for _, r := range records {
		values(w.insert.args, &r.Record)
		inserted, err := w.insert.changed()
		if err != nil {
			return nil, fmt.Errorf("record %q: %w", r.ID, err)
		}
		if inserted > 0 {
			b.add(r, loc)
		}
	}
	return b, w.apply(b)
}

func (w *writer) apply(b *batch) error {
	for user, amount := range b.charged {
		w.charge.bind(user, int64(-amount))
		if err := w.charge.run(); err != nil {
			return fmt.Errorf("charging %q: %w", user, err)
		}
	}
	for s, ws := range b.subscriptions {
		if err := w.writeWindows(kindSubscription, s.user, s.group, ws); err != nil {
			return fmt.Errorf("windows of user %q in group %q: %w", s.user, s.group, err)
		}
	}
	for k, use := range b.keys {
		last := use.lastUsed.UnixNano()
		w.useKey.bind(last, last, k.ID)
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
			return fmt.Errorf("usage of %q on %s: %w", of.user, dayText(of.day), err)
		}
	}
	for of, sums := range byUser {
		w.addUsageByUser.bind(of.day, of.user)
		sums.bind(w.addUsageByUser.args[2:])
		if err := w.addUsageByUser.run(); err != nil {
			return fmt.Errorf("usage of %q on %s: %w", of.user, dayText(of.day), err)
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

// stored tells the purses what the database has of them now.
func (b *batch) stored() {
	for s, ws := range b.subscriptions {
		s.stored = *ws
	}
	for k, use := range b.keys {
		k.stored = use.windows
	}
}
