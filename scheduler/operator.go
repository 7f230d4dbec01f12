package scheduler

import (
	"context"
	"fmt"
	"slices"
)

// Pause keeps new requests from an account until Resume; those in flight go on.
// An account that is paused already stays so by whom and since when it is. by is
// shown to the operator.
//
// Errors of Pause, Resume and Reset are the State's.
func (s *Scheduler) Pause(ctx context.Context, account, by string) error {
	return s.operate(ctx, account, func(st *AccountState) {
		if st.Pause == nil {
			st.Pause = &Pause{By: by, At: plainTime(s.state.Now())}
		}
	})
}

// Resume ends a pause; of an account that is not paused it changes nothing.
func (s *Scheduler) Resume(ctx context.Context, account string) error {
	return s.operate(ctx, account, func(st *AccountState) { st.Pause = nil })
}

// Reset ends what keeps an account out or puts it last, but for a pause.
func (s *Scheduler) Reset(ctx context.Context, account string) error {
	return s.operate(ctx, account, (*AccountState).Reset)
}

// saver is a State whose changes are saved a moment after they are made.
type saver interface {
	// Saved waits until those made so far are saved, or could not be; its error is
	// context.Cause(ctx).
	Saved(ctx context.Context) error
}

// operate changes the state of an account as the operator demands, whatever
// credential it is about.
func (s *Scheduler) operate(ctx context.Context, account string, f func(*AccountState)) error {
	var before AccountState
	after, err := s.state.Change(ctx, AccountPlace(account), func(st *AccountState) {
		before = st.Clone()
		f(st)
	})
	if err == nil {
		s.logChange(ctx, account, &before, &after, s.state.Now())
		if state, ok := s.state.(saver); ok {
			err = state.Saved(ctx) // or a crash would undo what was promised
		}
	}
	if err != nil {
		return fmt.Errorf("changing the state of account %q: %w", account, err)
	}
	return nil
}

// Groups returns the names of the groups that each account serves by config, also
// those that the config disables, by account.
func (s *Scheduler) Groups() map[string][]string {
	served := map[string][]string{}
	for name, g := range s.catalog.groups {
		platform, only := s.catalog.terms(g)
		named := make(map[string]bool, len(only))
		for _, account := range only {
			named[account] = true
		}
		for _, a := range s.catalog.accounts {
			if mayServe(a, platform, false) && (len(only) == 0 || named[a.Name]) {
				served[a.Name] = append(served[a.Name], name)
			}
		}
	}
	for _, names := range served {
		slices.Sort(names)
	}
	return served
}
