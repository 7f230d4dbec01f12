package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Report applies what an attempt at an account came to, and returns whether that
// changed what is remembered of the account. An account with ErrorCodes ignores
// failures with a status that is not among them. A Success that changes nothing
// costs no round trip.
//
// What is said of a credential that is not the one of the config that started
// last is ignored: requests that began under an old config may still be under
// way.
//
// ctx should not be the client's: a client that has left does not undo what
// upstream said.
func (s *Scheduler) Report(ctx context.Context, account string, o Outcome) (changed bool, err error) {
	if !s.Counts(account, &o) {
		return false, nil
	}
	o.Reason = s.conceal(account, o.Reason)
	now := s.state.Now()
	if !o.Sent.IsZero() {
		o.Sent = now.Add(-time.Since(o.Sent)) // by the store's clock too
	}
	if o.Kind == Success {
		s.successes.add(o.Model, o.Fast, o.Endpoint, now)
	}
	if o.Kind == Success || o.Kind == Answered {
		before := s.state.AccountState(AccountPlace(account))
		after := before.Clone()
		if after.Apply(o, now, s.cooldowns()); after.Equal(&before) {
			return false, nil
		}
	}
	return s.change(ctx, account, func(st *AccountState) { st.Apply(o, now, s.cooldowns()) })
}

// conceal takes the account's secrets out of a reason, which may quote upstream.
func (s *Scheduler) conceal(account, reason string) string {
	if a := s.catalog.byPlace[AccountPlace(account)]; a != nil {
		return a.Conceal(reason)
	}
	return reason
}

// Counts reports whether an outcome may change the account's state at all.
func (s *Scheduler) Counts(account string, o *Outcome) bool {
	a := s.catalog.byPlace[AccountPlace(account)]
	return a == nil || len(a.ErrorCodes) == 0 || o.Kind == Success || o.Kind == Answered || o.Status == 0 ||
		slices.Contains(a.ErrorCodes, o.Status)
}

func (s *Scheduler) cooldowns() Cooldowns {
	return Cooldowns{
		RateLimit: s.settings.RateLimitCooldown, Overload: s.settings.OverloadCooldown, ErrorRetry: s.settings.ErrorRetry,
	}
}

// MayAsk claims the right to ask the account a question of the gateway's own,
// for all that share the State: every 30 s at most.
func (s *Scheduler) MayAsk(ctx context.Context, account string) (may bool, err error) {
	accountState := s.state.AccountState(AccountPlace(account))
	if !accountState.MayAsk(s.state.Now()) {
		return false, nil // which costs no round trip
	}
	_, err = s.change(ctx, account, func(st *AccountState) { may = st.MayAsk(s.state.Now()) })
	return may && err == nil, err
}

// Fail puts an account in error that gave the gateway's own question the answer
// that requests got; byRefresh: it was its token endpoint.
func (s *Scheduler) Fail(ctx context.Context, account, reason string, byRefresh bool) error {
	reason = s.conceal(account, reason)
	_, err := s.change(ctx, account, func(st *AccountState) { st.Fail(reason, byRefresh, s.state.Now(), s.cooldowns()) })
	return err
}

// Postpone sets when an account in error is asked again, whose answer to the
// gateway's own question says nothing of that.
func (s *Scheduler) Postpone(ctx context.Context, account string) error {
	_, err := s.change(ctx, account, func(st *AccountState) { st.Postpone(s.state.Now(), s.cooldowns()) })
	return err
}

// change changes the state of an account, unless it is about another
// credential than the config has.
func (s *Scheduler) change(ctx context.Context, account string, f func(*AccountState)) (changed bool, err error) {
	place := AccountPlace(account)
	a := s.catalog.byPlace[place]
	var before AccountState
	after, err := s.state.Change(ctx, place, func(st *AccountState) {
		before = st.Clone()
		if a != nil && st.Credential != "" && st.Credential != a.Fingerprint() {
			return
		}
		f(st)
	})
	if err != nil {
		return false, fmt.Errorf("recording the state of account %q: %w", account, err)
	}
	s.logChange(ctx, account, &before, &after, s.state.Now())
	return !after.Equal(&before), nil
}

// Start tells the state which credentials the config has, now that it is in
// force. An account whose credential has changed begins as one that nothing is
// known of. ctx bounds it.
func (s *Scheduler) Start(ctx context.Context) error {
	for place, account := range s.catalog.byPlace {
		fingerprint := account.Fingerprint()
		accountState := s.state.AccountState(place)
		if accountState.Credential == fingerprint {
			continue
		}
		var before AccountState
		after, err := s.state.Change(ctx, place, func(st *AccountState) {
			before = st.Clone()
			st.Adopt(fingerprint)
		})
		if err != nil {
			return fmt.Errorf("recording the credential of account %q: %w", account.Name, err)
		}
		s.logChange(ctx, account.Name, &before, &after, s.state.Now())
	}
	return nil
}

// logChange logs what the operator wants to know: an account that goes out, in
// whole or in part, or comes last, and one that is back.
func (s *Scheduler) logChange(ctx context.Context, account string, before, after *AccountState, now time.Time) {
	if before.Error == after.Error && samePause(before.Pause, after.Pause) && sameLimits(before, after) &&
		sameScopes(before, after) {
		return
	}
	word, until, why := after.Summary(now)
	if after.Clear(now) {
		s.logger.LogAttrs(ctx, slog.LevelInfo, "account is back", slog.String("account", account))
		return
	}
	attrs := []slog.Attr{slog.String("account", account), slog.String("state", word)}
	if why != "" {
		attrs = append(attrs, slog.String("reason", why))
	}
	if !until.IsZero() {
		attrs = append(attrs, slog.Time("until", until))
	}
	if marks := after.Marks(now); len(marks) > 0 {
		texts := make([]string, len(marks))
		for i, m := range marks {
			texts[i] = m.Scope + " until " + stamp(m.Until)
		}
		attrs = append(attrs, slog.Any("marks", texts))
	}
	s.logger.LogAttrs(ctx, slog.LevelWarn, "account state changed", attrs...)
}

// sameScopes reports whether the same parts of the account come last.
func sameScopes(s, t *AccountState) bool {
	return slices.EqualFunc(s.Demotions, t.Demotions, func(a, b Demotion) bool { return a.scope() == b.scope() })
}
