package sqliteledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/billing"
)

// The values of credits.kind, beside pruned.
const (
	creditOpening = "opening"
	creditAdded   = "added"
	creditGiven   = "credit"
	creditClosing = "closing"
)

// change runs f, which changes who there is, alone with the writer. Settles go on
// meanwhile: f locks mu for what it does in memory. ErrUnwritable where the database
// takes nothing, after lockWait at most if another program has locked it.
func (l *Ledger) change(f func() error) error {
	return l.alone(func() error {
		err := l.writeDeclared()
		if err == nil {
			err = f()
		}
		l.writer.took(err)
		return err
	})
}

// alone is change for what needs not come after the users who wait to be declared.
func (l *Ledger) alone(f func() error) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed.Load() {
		return billing.ErrClosed
	}
	return l.unwritable(l.explain(f()))
}

// see gives what f sees of users and keys.
func see[T any](l *Ledger, f func(*directory) T) T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f(&l.directory)
}

// Declare implements billing.Ledger. Where another program has locked the database,
// the users are known from now on all the same, and are written to it as soon as it
// takes them. If the process ends before that, the next one has a config as well.
func (l *Ledger) Declare(ctx context.Context, users []billing.User) error {
	return l.alone(func() error { return l.declareAll(ctx, users) })
}

func (l *Ledger) declareAll(ctx context.Context, users []billing.User) error {
	credited := make([]billing.USD, len(users))
	err := l.writeDeclared()
	if err == nil {
		err = l.writer.transaction(func() (err error) {
			for i, u := range users {
				if credited[i], err = l.declare(ctx, u); err != nil {
					return fmt.Errorf("user %q: %w", u.Name, err)
				}
			}
			return nil
		})
	}
	l.writer.took(err)
	if isLocked(err) {
		credited, err = l.declareLater(ctx, users)
	}
	if err != nil {
		return fmt.Errorf("declaring users to the ledger in %s: %w", l.dir, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, declared := range users {
		if l.directory.added(declared.Name) != nil {
			continue
		}
		u := l.directory.meet(declared.Name)
		u.source, u.isRemoved = billing.SourceConfig, false
		u.amount += credited[i]
	}
	return nil
}

// declare writes one user and gives what they are credited.
func (l *Ledger) declare(ctx context.Context, u billing.User) (billing.USD, error) {
	if err := checkUser(u); err != nil {
		return 0, err
	}
	number, isAdded := l.directory.next(u.Name)
	if isAdded {
		return 0, nil
	}
	_, err := l.writer.exec(ctx, `INSERT INTO users (name, number, balance, unlimited) VALUES (?, ?, 0, 0) ON CONFLICT (name)
		DO UPDATE SET source = 'config', concurrency = 0, disabled = 0, removed = 0`, u.Name, number)
	if err != nil || u.Unlimited {
		return 0, err
	}
	credited, err := l.writer.credit(ctx, u.Name, number, creditOpening, billing.Credit{Amount: u.Balance, Time: l.now()})
	if err != nil || !credited {
		return 0, err
	}
	return u.Balance, nil
}

func checkUser(u billing.User) error {
	switch {
	case u.Name == "":
		return errors.New("it has no name")
	case u.Balance > largestAmount/2 || u.Balance < -largestAmount/2:
		return fmt.Errorf("an opening balance of %s is out of range, the limit is %s", u.Balance, largestAmount/2)
	}
	return nil
}

// next is the number of who has a name, or will have it next, and whether he was added.
// Who holds Ledger.writing needs not hold mu: nobody comes or goes meanwhile.
func (p *directory) next(name string) (number int64, isAdded bool) {
	if u := p.users[name]; u != nil {
		return u.number, !u.isRemoved && u.source == billing.SourceAPI
	}
	return 1, false
}

// meet is the user of that name, who is made where he isn't there.
func (p *directory) meet(name string) *user {
	if p.users[name] == nil {
		p.users[name] = &user{name: name, number: 1}
	}
	return p.users[name]
}

// credit puts an amount on a user's balance, and reports whether it was not there
// before.
func (w *writer) credit(ctx context.Context, user string, number int64, kind string, c billing.Credit) (credited bool, err error) {
	row, err := w.exec(ctx, `INSERT INTO credits (user, number, kind, id, time, amount, note) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING RETURNING amount`, user, number, kind, c.ID, billing.UnixNano(c.Time), int64(c.Amount), c.Note)
	if err != nil || row[0] == nil {
		return false, err
	}
	_, err = w.exec(ctx, "UPDATE users SET balance = balance + ? WHERE name = ?", int64(c.Amount), user)
	return true, err
}

// AddUser implements billing.Ledger.
func (l *Ledger) AddUser(ctx context.Context, added billing.User) error {
	err := l.change(func() error { return l.addUser(ctx, added) })
	if err != nil {
		return fmt.Errorf("adding user %q: %w", added.Name, err)
	}
	return nil
}

func (l *Ledger) addUser(ctx context.Context, added billing.User) error {
	if err := checkUser(added); err != nil {
		return err
	}
	before, number := billing.USD(0), int64(1)
	isThere := see(l, func(p *directory) bool {
		if u := p.users[added.Name]; u != nil {
			before, number = u.amount, u.number
		}
		return p.added(added.Name) != nil
	})
	switch {
	case isThere:
		return billing.ErrUserExists
	case !inRange(before.Plus(added.Balance)):
		return errTooMuch
	}
	err := l.writer.transaction(func() error {
		_, err := l.writer.exec(ctx, `INSERT INTO users (name, number, balance, unlimited, source, concurrency)
			VALUES (?1, ?3, 0, 0, 'api', ?2) ON CONFLICT (name)
			DO UPDATE SET source = 'api', concurrency = ?2, disabled = 0, removed = 0`,
			added.Name, int64(added.Concurrency), number)
		if err != nil {
			return err
		}
		_, err = l.writer.credit(ctx, added.Name, number, creditAdded,
			billing.Credit{ID: uuid.NewString(), Amount: added.Balance, Time: l.now()})
		return err
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.directory.meet(added.Name)
	u.source, u.isRemoved = billing.SourceAPI, false
	u.concurrency, u.disabled = added.Concurrency, false
	u.amount += added.Balance
	return nil
}

var errTooMuch = fmt.Errorf("the balance would be out of range, the limit is %s", largestAmount/2)

// inRange reports whether a balance may be reached by a credit.
func inRange(amount billing.USD) bool { return amount <= largestAmount/2 && amount >= -largestAmount }

// ChangeUser implements billing.Ledger.
func (l *Ledger) ChangeUser(ctx context.Context, name string, change billing.UserChange) error {
	err := l.change(func() error {
		u := see(l, func(p *directory) *user { return p.added(name) })
		if u == nil {
			return billing.ErrUnknownUser
		}
		concurrency, disabled := u.concurrency, u.disabled
		if change.Concurrency != nil {
			concurrency = *change.Concurrency
		}
		if change.Disabled != nil {
			disabled = *change.Disabled
		}
		_, err := l.writer.exec(ctx, "UPDATE users SET concurrency = ?, disabled = ? WHERE name = ?",
			int64(concurrency), integer(disabled), name)
		if err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		u.concurrency, u.disabled = concurrency, disabled
		return nil
	})
	if err != nil {
		return fmt.Errorf("changing user %q: %w", name, err)
	}
	return nil
}

// RemoveUser implements billing.Ledger.
func (l *Ledger) RemoveUser(ctx context.Context, name string) error {
	err := l.exclusively(func() error { return l.removeUser(ctx, name) })
	if err != nil {
		return fmt.Errorf("removing user %q: %w", name, err)
	}
	return nil
}

func (l *Ledger) removeUser(ctx context.Context, name string) error {
	u := l.directory.added(name)
	if u == nil {
		return billing.ErrUnknownUser
	}
	err := l.writer.transaction(func() error {
		_, err := l.writer.credit(ctx, name, u.number, creditClosing,
			billing.Credit{ID: uuid.NewString(), Amount: -u.amount, Time: l.now()})
		if err != nil {
			return err
		}
		for _, statement := range []string{
			"DELETE FROM windows WHERE kind = 'subscription' AND name = ?",
			"DELETE FROM windows WHERE kind = 'key' AND name IN (SELECT id FROM keys WHERE user = ?)",
			"DELETE FROM keys WHERE user = ?",
			"DELETE FROM subscriptions WHERE user = ?",
			"UPDATE users SET removed = 1, number = number + 1, concurrency = 0, disabled = 0 WHERE name = ?",
		} {
			if _, err := l.writer.exec(ctx, statement, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What is held for him ends with what he was, which nobody finds any more.
	l.directory.users[name] = &user{name: name, source: u.source, number: u.number + 1, isRemoved: true}
	for of := range l.directory.subscriptions {
		if of.user == name {
			delete(l.directory.subscriptions, of)
		}
	}
	for _, k := range l.directory.keys {
		if k.User == name {
			l.directory.revokeKey(k)
		}
	}
	return nil
}

// User implements billing.Ledger.
func (l *Ledger) User(_ context.Context, name string) (billing.Profile, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return billing.Profile{}, billing.ErrClosed
	}
	u := l.directory.user(name)
	if u == nil {
		return billing.Profile{}, fmt.Errorf("user %q: %w", name, billing.ErrUnknownUser)
	}
	return u.profile(l.now(), l.location), nil
}

// Users implements billing.Ledger.
func (l *Ledger) Users(context.Context) ([]billing.Profile, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	profiles := see(l, func(p *directory) []billing.Profile {
		now := l.now()
		profiles := make([]billing.Profile, 0, len(p.users))
		for _, u := range p.users {
			if !u.isRemoved {
				profiles = append(profiles, u.profile(now, l.location))
			}
		}
		return profiles
	})
	slices.SortFunc(profiles, func(a, b billing.Profile) int { return strings.Compare(a.Name, b.Name) })
	return profiles, nil
}

// Credit implements billing.Ledger.
func (l *Ledger) Credit(ctx context.Context, name string, c billing.Credit) (billing.Balance, bool, error) {
	var balance billing.Balance
	var credited bool
	err := l.change(func() (err error) {
		balance, credited, err = l.credit(ctx, name, c)
		return err
	})
	if err != nil {
		return billing.Balance{}, false, fmt.Errorf("crediting %s to user %q: %w", c.Amount, name, err)
	}
	return balance, credited, nil
}

func (l *Ledger) credit(ctx context.Context, name string, c billing.Credit) (balance billing.Balance, credited bool, err error) {
	u := see(l, func(p *directory) *user { return p.user(name) })
	if u == nil {
		return balance, false, billing.ErrUnknownUser
	}
	err = l.writer.transaction(func() (err error) {
		credited, err = l.writer.credit(ctx, name, u.number, creditGiven, c)
		if err != nil || !credited {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if !inRange(u.amount.Plus(c.Amount)) {
			return errTooMuch
		}
		return nil
	})
	if err != nil {
		return balance, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if credited {
		u.amount += c.Amount
	}
	return u.balance(), credited, nil
}
