package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Report applies what an attempt at an account came to, and tells whether that
// changed what is remembered of the account. An account with ErrorCodes ignores
// failures with a status that is not among them. A Success that changes nothing
// costs no round trip.
//
// A refusal of a credential that is not the one of the config that started last
// is ignored: requests that began under an old config may still be under way.
//
// ctx should not be the client's: a client that has left does not undo what
// upstream said.
func (s *Scheduler) Report(ctx context.Context, account string, o Outcome) (changed bool, err error) {
	place := AccountPlace(account)
	a := s.catalog.byPlace[place]
	if a != nil && len(a.ErrorCodes) > 0 && o.Kind != Success && o.Status != 0 && !slices.Contains(a.ErrorCodes, o.Status) {
		return false, nil
	}
	cooldowns := Cooldowns{RateLimit: s.settings.RateLimitCooldown, Overload: s.settings.OverloadCooldown}
	now := time.Now()
	if o.Kind == Success {
		before := s.state.Standing(place)
		after := before.Clone()
		if after.Apply(o, now, cooldowns); after.Equal(&before) {
			return false, nil
		}
	}
	var before Standing
	after, err := s.state.Change(ctx, place, func(st *Standing) {
		before = st.Clone()
		if o.Kind == Unauthorized && a != nil && st.Credential != "" && st.Credential != a.Fingerprint() {
			return
		}
		st.Apply(o, now, cooldowns)
	})
	if err != nil {
		return false, fmt.Errorf("recording the state of account %q: %w", account, err)
	}
	s.logChange(ctx, account, &before, &after, now)
	return !after.Equal(&before), nil
}

// Start tells the state which credentials the config has, now that it is in
// force. Accounts in error whose credential has changed are back. ctx bounds it.
func (s *Scheduler) Start(ctx context.Context) error {
	for place, account := range s.catalog.byPlace {
		fingerprint := account.Fingerprint()
		standing := s.state.Standing(place)
		if standing.Credential == fingerprint {
			continue
		}
		var before Standing
		after, err := s.state.Change(ctx, place, func(st *Standing) {
			before = st.Clone()
			st.Adopt(fingerprint)
		})
		if err != nil {
			return fmt.Errorf("recording the credential of account %q: %w", account.Name, err)
		}
		s.logChange(ctx, account.Name, &before, &after, time.Now())
	}
	return nil
}

// logChange logs what the operator wants to know: an account that goes out, in
// whole or in part, and one that is back.
func (s *Scheduler) logChange(ctx context.Context, account string, before, after *Standing, now time.Time) {
	if before.Error == after.Error && sameLimits(before, after) {
		return
	}
	word, until, why := after.State(now)
	if after.Clear() {
		s.logger.LogAttrs(ctx, slog.LevelInfo, "account is back", slog.String("account", account))
		return
	}
	attrs := []slog.Attr{slog.String("account", account), slog.String("state", word), slog.String("reason", why)}
	if !until.IsZero() {
		attrs = append(attrs, slog.Time("until", until))
	}
	s.logger.LogAttrs(ctx, slog.LevelWarn, "account state changed", attrs...)
}
