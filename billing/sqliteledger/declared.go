package sqliteledger

import (
	"context"
	"fmt"

	"github.com/sub2api/caddy-sub2api/billing"
)

// declareLater has users wait for the database, and gives what each will be credited
// there: nobody else writes to it, so that this is known now.
func (l *Ledger) declareLater(ctx context.Context, users []billing.User) ([]billing.USD, error) {
	credited := make([]billing.USD, len(users))
	unwritten := l.unwritten[:len(l.unwritten):len(l.unwritten)]
	last, opened := make(map[string]billing.User), make(map[string]bool)
	for _, u := range unwritten {
		last[u.Name] = u
		opened[u.Name] = opened[u.Name] || !u.Unlimited
	}
	for i, u := range users {
		if err := checkUser(u); err != nil {
			return nil, fmt.Errorf("user %q: %w", u.Name, err)
		}
		number, isAdded := l.directory.next(u.Name)
		if isAdded {
			continue
		}
		if !u.Unlimited && !opened[u.Name] {
			var before int
			err := l.reader.QueryRowContext(ctx, "SELECT count(*) FROM credits WHERE user = ? AND number = ? AND kind = ?",
				u.Name, number, creditOpening).Scan(&before)
			if err != nil {
				return nil, fmt.Errorf("looking for the opening balance of user %q: %w", u.Name, err)
			}
			if before == 0 {
				credited[i] = u.Balance
			}
			opened[u.Name] = true
		}
		if before, isThere := last[u.Name]; !isThere || before != u {
			unwritten = append(unwritten, u)
			last[u.Name] = u
		}
	}
	l.unwritten = unwritten
	l.flushLater()
	return credited, nil
}

// writeDeclared writes the users who wait for that. For who holds writing.
func (l *Ledger) writeDeclared() error {
	if len(l.unwritten) == 0 {
		return nil
	}
	ctx := context.Background()
	err := l.writer.transaction(func() error {
		for _, u := range l.unwritten {
			if _, err := l.declare(ctx, u); err != nil {
				return fmt.Errorf("user %q: %w", u.Name, err)
			}
		}
		return nil
	})
	l.writer.took(err)
	if err != nil {
		return fmt.Errorf("declaring users to the ledger in %s: %w", l.dir, err)
	}
	l.unwritten = nil
	return nil
}
