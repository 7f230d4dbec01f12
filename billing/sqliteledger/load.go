package sqliteledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// load reads from the database who there is.
func (l *Ledger) load(ctx context.Context) error {
	l.directory = newDirectory()
	for _, part := range []struct {
		what, query string
		scan        func(*sql.Rows) error
	}{
		{"users", "SELECT name, number, balance, source, concurrency, disabled, removed FROM users", l.loadUser},
		{"keys", `SELECT id, digest, prefix, user, groups, models, daily_limit, weekly_limit, monthly_limit,
			expires, created, last_used FROM keys`, l.loadKey},
		{"subscriptions", `SELECT user, "group", until FROM subscriptions`, l.loadSubscription},
		{"windows", `SELECT kind, name, "group", daily_start, daily_end, daily_used, weekly_start, weekly_end, weekly_used,
			monthly_start, monthly_end, monthly_used FROM windows`, l.loadWindows},
	} {
		if err := l.loadAll(ctx, part.query, part.scan); err != nil {
			return fmt.Errorf("reading the table %s: %w", part.what, err)
		}
	}
	return nil
}

func (l *Ledger) loadAll(ctx context.Context, query string, scan func(*sql.Rows) error) error {
	rows, err := l.reader.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (l *Ledger) loadUser(rows *sql.Rows) error {
	u := new(user)
	err := rows.Scan(&u.name, &u.number, (*int64)(&u.amount), &u.source, &u.concurrency, &u.disabled, &u.isRemoved)
	l.directory.users[u.name] = u
	return err
}

func (l *Ledger) loadKey(rows *sql.Rows) error {
	k := new(key)
	var digest []byte
	var groups, models string
	var expires, created, lastUsed sql.NullInt64
	err := rows.Scan(&k.ID, &digest, &k.Prefix, &k.User, &groups, &models,
		(*int64)(&k.Limits[billing.Daily]), (*int64)(&k.Limits[billing.Weekly]), (*int64)(&k.Limits[billing.Monthly]),
		&expires, &created, &lastUsed)
	if err != nil {
		return err
	}
	for _, list := range []struct {
		text string
		into *[]string
	}{{groups, &k.Groups}, {models, &k.Models}} {
		if err := json.Unmarshal([]byte(list.text), list.into); err != nil {
			return fmt.Errorf("key %q: %q is not a list of names: %w", k.ID, list.text, err)
		}
	}
	copy(k.Digest[:], digest)
	k.Expires, k.Created, k.LastUsed = loadedTime(expires), loadedTime(created), loadedTime(lastUsed)
	l.directory.addKey(k)
	return nil
}

func (l *Ledger) loadSubscription(rows *sql.Rows) error {
	var of membership
	var until sql.NullInt64
	if err := rows.Scan(&of.user, &of.group, &until); err != nil {
		return err
	}
	u := l.directory.users[of.user]
	if u == nil {
		return fmt.Errorf("a subscription of %q, who is not there", of.user)
	}
	u.subscribe(l.directory.subscription(of), loadedTime(until))
	return nil
}

func (l *Ledger) loadWindows(rows *sql.Rows) error {
	var kind, name, group string
	var numbers [9]int64
	targets := []any{&kind, &name, &group}
	for i := range numbers {
		targets = append(targets, &numbers[i])
	}
	if err := rows.Scan(targets...); err != nil {
		return err
	}
	var of *budget
	switch k := l.directory.keys[name]; {
	case kind == kindSubscription:
		of = &l.directory.subscription(membership{name, group}).budget
	case k != nil:
		of = &k.budget
	default:
		return fmt.Errorf("windows of a %s %q that is not there", kind, name)
	}
	for s := range of.windows {
		n := numbers[3*s:]
		of.windows[s] = billing.Window{
			Start: time.Unix(n[0], 0).UTC(), End: time.Unix(n[1], 0).UTC(), Used: billing.USD(n[2]),
		}
	}
	of.stored = of.windows
	return nil
}

// storedTime is a time as the database has it: NULL for the zero one.
func storedTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return billing.UnixNano(t)
}

// keptTime is t as the database gives it back.
func keptTime(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.Unix(0, billing.UnixNano(t)).UTC()
}

// nanosOf is loadedTime's reverse.
func nanosOf(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: billing.UnixNano(t), Valid: !t.IsZero()}
}

func loadedTime(nanos sql.NullInt64) time.Time {
	if !nanos.Valid {
		return time.Time{}
	}
	return time.Unix(0, nanos.Int64).UTC()
}
