package redisledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// Hold implements billing.Ledger, in one round trip. While Redis fails, it answers
// from what this process knew last, less what it has settled and set aside itself;
// it fails if it never knew the user, or a subscription that no config declares,
// and with ErrUnwritable if there is no spool that could keep the record.
func (l *Ledger) Hold(ctx context.Context, claim *billing.Claim) (payer string, err error) {
	if l.closed.Load() {
		return "", billing.ErrClosed
	}
	if payer, err = l.hold(ctx, claim); err == nil {
		return payer, nil
	}
	var refusal *billing.Refusal
	if errors.As(err, &refusal) {
		return "", refusal
	}
	return "", fmt.Errorf("setting %s of %q aside: %w", claim.Amount, claim.User, err)
}

func (l *Ledger) hold(ctx context.Context, claim *billing.Claim) (payer string, err error) {
	if err := cmp.Or(ctx.Err(), checkClaim(claim)); err != nil {
		return "", err
	}
	if before := l.holds.find(claim.ID); before != nil {
		if !before.asked {
			return before.payer, nil
		}
		l.Release(ctx, claim.ID) // it was asked for, and nobody knows with what result
	}
	if l.down.Load() {
		return l.holdHere(claim, errDown, false)
	}
	for range mostAsks {
		if payer, err = l.askHold(ctx, claim); err != errOvertaken {
			return payer, err
		}
	}
	return "", errors.New("more is set aside than can be counted")
}

// mostAsks is how often Redis is asked about a claim when its answers are overtaken.
const mostAsks = 3

// errOvertaken: Redis refused a claim for the sake of records that it was told to
// wait in the spool, and which it had by then.
var errOvertaken = errors.New("records have left the spool meanwhile")

func (l *Ledger) askHold(ctx context.Context, claim *billing.Claim) (payer string, err error) {
	asked := l.cache.ask()
	h := l.holds.ask(claim)
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	keys, args := l.holdArguments(claim, h, redispipe.Guard{})
	reply, err := redispipe.Run(bounded, l.client, holdScript, keys, args...)
	return l.answerHold(ctx, claim, h, asked, reply, err)
}

func checkClaim(claim *billing.Claim) error {
	switch {
	case claim.ID == "":
		return errors.New("the claim has no id")
	case claim.Amount < 0 || claim.Amount > largestAmount || claim.Least > largestAmount:
		return fmt.Errorf("the claim is out of range, the limits are 0 and %s", largestAmount)
	}
	return nil
}

// HoldAhead puts a claim to Redis in somebody else's round trip: that of the next
// redispipe.Exec under the context that it returns. Where that names a guard,
// nothing is set aside unless the guard is there, so that a request which has to
// wait in line for its slot keeps no money from others meanwhile. The function
// gives what came of it, and must not be called before Exec has returned. If nobody
// took the claim along, or it came to nothing for another reason than money, it
// does what Hold does. If it is not called, what was set aside comes back by itself
// within a minute, or with Release.
func (l *Ledger) HoldAhead(ctx context.Context, claim *billing.Claim) (context.Context, func(context.Context) (payer string, err error)) {
	kept := *claim
	if claim.Terms != nil {
		terms := *claim.Terms
		kept.Terms = &terms
	}
	late := func(ctx context.Context) (string, error) { return l.Hold(ctx, &kept) }
	if l.closed.Load() || l.down.Load() || checkClaim(claim) != nil || l.holds.find(claim.ID) != nil {
		return ctx, late
	}
	var cmd *redis.Cmd
	var h *hold
	over := false // who asks again may do so under the context that carries this
	asked := l.cache.ask()
	carrying := redispipe.WithRider(ctx, func(pipe redis.Pipeliner, guard redispipe.Guard) {
		if over {
			return
		}
		h = l.holds.ask(&kept)
		keys, args := l.holdArguments(&kept, h, guard)
		cmd = holdScript.EvalSha(ctx, pipe, keys, args...)
	})
	return carrying, func(ctx context.Context) (string, error) {
		over = true
		if l.closed.Load() {
			return "", billing.ErrClosed
		}
		if cmd == nil {
			return late(ctx)
		}
		reply, err := cmd.Result()
		if answer, _ := reply.([]any); redis.HasErrorPrefix(err, "NOSCRIPT") || len(answer) > 0 && answer[0] == "later" {
			l.holds.end(kept.ID)
			return late(ctx)
		}
		if l.note(ctx, err) != nil {
			return late(ctx)
		}
		payer, err := l.answerHold(ctx, &kept, h, asked, reply, nil)
		if err == errOvertaken {
			return late(ctx)
		}
		var refusal *billing.Refusal
		if err != nil && !errors.As(err, &refusal) {
			err = fmt.Errorf("setting %s of %q aside: %w", kept.Amount, kept.User, err)
		}
		return payer, err
	}
}

// holdArguments are hold.lua's.
func (l *Ledger) holdArguments(c *billing.Claim, h *hold, guard redispipe.Guard) (keys []string, args []any) {
	user, key, subscription := userPurse(c.User), keyPurse(c.KeyID), subscriptionPurse(c.User, "")
	pays, limits := "balance", billing.Limits{}
	if terms := c.Terms; terms != nil {
		subscription, limits = subscriptionPurse(c.User, terms.Group), terms.Limits
		switch {
		case !terms.Declared:
			pays = "subscription"
		case isOver(terms.Until, c.Time):
			pays = "expired"
		default:
			pays = "declared"
		}
	}
	if guard.Field == "" {
		guard.Key = l.key(user) // which lies in the same slot
	}
	keys = []string{
		guard.Key, l.key(user), l.key(key), l.key(subscription), l.holdsKey(user), l.holdsKey(key), l.holdsKey(subscription),
	}
	args = []any{
		guard.Field, h.member(), int64(c.Amount), int64(max(c.Least, 0)), holdTTL.Milliseconds(), c.Time.Unix(),
		billing.UnixNano(c.Time), pays,
	}
	for _, limit := range limits {
		args = append(args, int64(max(limit, 0)))
	}
	w := l.cache.waits(c)
	return keys, append(args, int64(w.balance), int64(w.key), int64(w.subscription))
}

// answerHold takes in hold.lua's answer.
func (l *Ledger) answerHold(ctx context.Context, c *billing.Claim, h *hold, asked question, reply any, err error) (string, error) {
	if l.note(ctx, err) != nil {
		if ctx.Err() != nil || isRefusal(err) {
			l.Release(ctx, c.ID) // it may have been met
			return "", err
		}
		return l.holdHere(c, err, true)
	}
	answer, _ := reply.([]any)
	if len(answer) == 1 && answer[0] == "stranger" {
		l.holds.end(c.ID)
		l.cache.forgetUser(c.User)
		return "", billing.ErrUnknownUser
	}
	s, err := parseStanding(answer, c)
	if err != nil {
		l.Release(ctx, c.ID)
		return "", err
	}
	l.cache.learnStanding(c, asked, &s)
	if answer[0] == "held" {
		payer, _ := answer[1].(string)
		if purses := s.purses(c, payer); !l.holds.met(h, payer, purses) {
			_ = l.endHolds(context.WithoutCancel(ctx), []hold{{id: c.ID, amount: c.Amount, purses: purses}})
		}
		return payer, nil
	}
	l.holds.end(c.ID)
	s.lessen(l.cache.waits(c))
	if _, refusal := s.judge(c); refusal != nil {
		return "", refusal
	}
	return "", errOvertaken
}

// parseStanding reads what hold.lua gives of the user, the key and the
// subscription.
func parseStanding(answer []any, c *billing.Claim) (s standing, err error) {
	if len(answer) != 5 {
		return s, fmt.Errorf("an unknown answer of Redis for a claim: %v", answer)
	}
	if s.user, _, err = parseTold(answer[2]); err != nil {
		return s, err
	}
	if s.key, err = parseLimitedKey(answer[3]); err != nil {
		return s, err
	}
	if c.Terms != nil {
		s.subscription, err = parseSubscription(answer[4])
	}
	return s, err
}

// holdHere meets a claim, or does not, by what this process knows; why says why
// Redis does not do it, or is not known to: asked tells that it may have.
func (l *Ledger) holdHere(c *billing.Claim, why error, asked bool) (_ string, err error) {
	h := l.holds.end(c.ID)
	defer func() {
		if err != nil && asked && h != nil {
			l.holds.owe(*h) // Redis may have met what is refused here
		}
	}()
	if l.spool == nil {
		return "", fmt.Errorf("%w: asking Redis: %w, and there is no spool", billing.ErrUnwritable, why)
	}
	if err := l.spool.check(); err != nil {
		return "", fmt.Errorf("%w: asking Redis: %w; the spool %s: %w", billing.ErrUnwritable, why, l.spool.dir, err)
	}
	payer, refusal, isKnown := l.holds.meetHere(c, l.cache, asked)
	switch {
	case !isKnown:
		return "", fmt.Errorf("asking Redis: %w", why)
	case refusal != nil:
		return "", refusal
	}
	return payer, nil
}

// meetHere meets a claim by what is known, with what this process has set aside. A
// record goes to the spool before its hold ends, so that one of them counts.
func (hs *holds) meetHere(c *billing.Claim, known *cache, asked bool) (payer string, refusal *billing.Refusal, isKnown bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	s, isKnown := known.standing(c)
	if !isKnown {
		return "", nil, false
	}
	possible := possiblePurses(c)
	s.user.Held = hs.sums[userPurse(c.User)]
	s.subscription.held = hs.sums[possible[0]]
	if s.key != nil {
		s.key.held = hs.sums[possible[1]]
	}
	payer, refusal = s.judge(c)
	if refusal == nil {
		purses := s.purses(c, payer)
		if asked { // Redis may know of more
			purses = possible
		}
		hs.keep(&hold{id: c.ID, amount: c.Amount, shared: asked}, payer, purses)
	}
	return payer, refusal, true
}

// Release implements billing.Ledger, in one round trip, or none if nothing is set
// aside. Where Redis does not hear of it, it will, or it expires. The context's
// riders (package redispipe) travel along.
func (l *Ledger) Release(ctx context.Context, id string) {
	h := l.holds.end(id)
	if h == nil || l.closed.Load() || !h.shared && !h.asked {
		return
	}
	_ = l.endHolds(context.WithoutCancel(ctx), []hold{*h})
}
